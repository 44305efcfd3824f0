//! io_uring: sockets and log writes of one core through one queue pair.
//!
//! This is the only module that knows io_uring, and with `crate::os` the only one with `unsafe`.
//! The rules that make it sound:
//! - Memory given to the kernel belongs to the ring until the *terminal* completion: it lives in
//!   a slot (`slots`), in the receive pool (`receive`), or is never freed (`buffer`).
//! - Dropping a ring cancels and waits. What the kernel still holds after that is leaked.
//! - A ring stays on the thread that opened it.
//!
//! A turn is: handle [`Ring::next_completion`] until it is `None`, queue operations meanwhile,
//! then [`Ring::submit_and_wait`]. Descriptors are to be closed with [`Ring::close`]: an operation
//! may still be queued that knows the descriptor's number only.

mod buffer;
mod completion;
mod reap;
mod receive;
mod setup;
mod slots;
mod submit;
mod sync;
mod token;
mod wake;

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::time::{Duration, Instant};

use io_uring::squeue::Flags;
use io_uring::{IoUring, opcode, types};

pub use buffer::{LogBuffer, LogBuffers};
pub use completion::{Completion, ReceiveEnd};
pub use receive::ReceiveBuffers;
pub use setup::{RingConfig, RingError, RingReport};
pub use sync::{LogFailure, PROBE_BYTES, SyncPrimitive, SyncProbe};
pub use token::{Operation, Token};
pub use wake::{WAKER_VALUE, WakeTarget, Waker};

use crate::os::SocketAddress;
use receive::{GROUP, ReceivePool};
use slots::{Lane, Lanes, LogWriteState, SendState, Slots, State};
use submit::Submission;
use token::Kind;

/// One core's way to the kernel.
#[derive(Debug)]
pub struct Ring {
    io: IoDebug,
    /// `None` only while the ring is being dropped.
    pool: Option<ReceivePool>,
    slots: Slots,
    lanes: Lanes,
    /// Submissions that found the queue full and the kernel unwilling to take any.
    backlog: VecDeque<Submission>,
    /// A write with a sync linked behind it is queued and not yet taken by the kernel.
    link_queued: bool,
    /// Sends queued since the kernel was last waited for.
    sends_queued: u32,
    /// The kernel took only one half of such a pair.
    link_cut: bool,
    /// Nothing is repeated or resumed any more.
    closing: bool,
    /// Address and length of each registered log buffer, by id.
    registered: Vec<(usize, usize)>,
    waker: Option<Waker>,
    report: RingReport,
    /// The kernel accepts submissions only from the thread that opened the ring.
    _thread: PhantomData<*mut ()>,
}

/// Operations were still in flight when the time was up. Their memory has been leaked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Undrained {
    pub in_flight: usize,
}

impl Ring {
    /// Opens a ring for this thread.
    pub fn new(config: &RingConfig) -> Result<(Self, RingReport), RingError> {
        let parts = setup::open(config)?;
        let ring = Self {
            io: IoDebug(parts.io),
            pool: Some(parts.pool),
            slots: Slots::default(),
            lanes: Lanes::default(),
            backlog: VecDeque::new(),
            link_queued: false,
            sends_queued: 0,
            link_cut: false,
            closing: false,
            registered: Vec::new(),
            waker: None,
            report: parts.report,
            _thread: PhantomData,
        };
        Ok((ring, parts.report))
    }

    /// Registers the first `bytes` of each buffer, so that writes of up to that length need no
    /// pinning of pages. Ids must count from zero.
    ///
    /// On failure, usually for want of lockable memory, writes work all the same and cost more.
    pub fn register_log_buffers(&mut self, buffers: &[LogBuffer], bytes: usize) -> io::Result<()> {
        assert!(self.registered.is_empty(), "log buffers are registered once");
        let mut vectors = Vec::with_capacity(buffers.len());
        for (position, buffer) in buffers.iter().enumerate() {
            assert_eq!(usize::try_from(buffer.id), Ok(position), "ids count from zero");
            assert!(bytes <= buffer.bytes.len(), "only what a buffer has can be registered");
            let base = buffer.bytes.as_ptr().cast_mut().cast();
            vectors.push(libc::iovec { iov_base: base, iov_len: bytes });
        }
        // SAFETY: the vectors describe memory behind `&'static mut` references, which is never
        // unmapped. Registering only pins it.
        unsafe { self.io.0.submitter().register_buffers(&vectors)? };
        self.registered =
            buffers.iter().map(|buffer| (buffer.bytes.as_ptr().addr(), bytes)).collect();
        Ok(())
    }

    /// Accepts connections until cancelled; see `armed` in [`Completion::Accepted`].
    pub fn accept(&mut self, listener: BorrowedFd<'_>, token: Token) -> Operation {
        let descriptor = listener.as_raw_fd();
        self.lanes.assert_free(descriptor, Lane::Inbound);
        let operation = self.slots.insert(Kind::Accept, token, State::Accept { descriptor });
        self.lanes.occupy(descriptor, Lane::Inbound, operation);
        let entry = opcode::AcceptMulti::new(types::Fd(descriptor))
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(operation.user_data());
        self.queue(Submission::Single(entry));
        operation
    }

    /// Receives until the connection ends; see `armed` in [`Completion::Received`].
    pub fn receive(&mut self, stream: BorrowedFd<'_>, token: Token) -> Operation {
        let descriptor = stream.as_raw_fd();
        self.lanes.assert_free(descriptor, Lane::Inbound);
        let operation = self.slots.insert(Kind::Receive, token, State::Receive { descriptor });
        self.lanes.occupy(descriptor, Lane::Inbound, operation);
        let entry = opcode::RecvMulti::new(types::Fd(descriptor), GROUP)
            .build()
            .user_data(operation.user_data());
        self.queue(Submission::Single(entry));
        operation
    }

    /// Sends the whole buffer. One send may be in flight on a connection.
    ///
    /// The buffer is the ring's until [`Completion::Sent`] brings it back.
    pub fn send(&mut self, stream: BorrowedFd<'_>, token: Token, buffer: Vec<u8>) -> Operation {
        assert!(!buffer.is_empty(), "there is nothing to send");
        let descriptor = stream.as_raw_fd();
        self.lanes.assert_free(descriptor, Lane::Outbound);
        let state = SendState { descriptor, buffer, sent: 0, abandoned: false };
        self.sends_queued += 1;
        let entry = submit::send_entry(&state);
        let operation = self.slots.insert(Kind::Send, token, State::Send(state));
        self.lanes.occupy(descriptor, Lane::Outbound, operation);
        self.queue(Submission::Single(entry.user_data(operation.user_data())));
        operation
    }

    /// Connects a socket of [`crate::os::stream_socket`].
    pub fn connect(
        &mut self,
        socket: BorrowedFd<'_>,
        token: Token,
        address: SocketAddr,
    ) -> Operation {
        let descriptor = socket.as_raw_fd();
        self.lanes.assert_free(descriptor, Lane::Outbound);
        let address = Box::new(SocketAddress::from(address));
        let entry =
            opcode::Connect::new(types::Fd(descriptor), address.as_ptr(), address.length()).build();
        let state = State::Connect { descriptor, _address: address };
        let operation = self.slots.insert(Kind::Connect, token, state);
        self.lanes.occupy(descriptor, Lane::Outbound, operation);
        self.queue(Submission::Single(entry.user_data(operation.user_data())));
        operation
    }

    /// Writes the first `length` bytes of `buffer` at `offset` and makes them durable.
    ///
    /// The buffer is the ring's until [`Completion::LogWritten`] brings it back. Nothing is
    /// retried: after a failure the contents of the file are unknown.
    pub fn write_log(
        &mut self,
        file: BorrowedFd<'_>,
        token: Token,
        buffer: LogBuffer,
        offset: u64,
        length: usize,
        primitive: SyncPrimitive,
    ) -> Operation {
        assert!(0 < length && length <= buffer.bytes.len(), "{length} bytes of {}", buffer.id);
        let length = u32::try_from(length).expect("a log write is below 4 GiB");
        let descriptor = types::Fd(file.as_raw_fd());
        // Entered together with more than one send, the write would be held back by the kernel
        // until the last of them is through.
        self.submit_sends();
        let entry = self.write_entry(descriptor, &buffer, offset, length, primitive);
        let outstanding = match primitive {
            SyncPrimitive::DataSyncWrite => 1,
            SyncPrimitive::WriteThenSync => 2,
        };
        let state = LogWriteState { buffer, length, outstanding, failure: None };
        let operation = self.slots.insert(Kind::LogWrite, token, State::LogWrite(state));
        let entry = entry.user_data(operation.user_data());
        self.queue(match primitive {
            SyncPrimitive::DataSyncWrite => Submission::Single(entry),
            SyncPrimitive::WriteThenSync => {
                let sync = submit::data_sync_entry(descriptor)
                    .user_data(operation.as_kind(Kind::LogSync).user_data());
                Submission::Linked([entry.flags(Flags::IO_LINK), sync])
            }
        });
        operation
    }

    /// Asks for an operation to end early. Its terminal completion comes as always, and may still
    /// be a success. Without effect on an operation that is over.
    pub fn cancel(&mut self, operation: Operation) {
        let Some(slot) = self.slots.find(operation) else {
            return;
        };
        if let State::Send(send) = &mut slot.state {
            send.abandoned = true;
        }
        let entry = opcode::AsyncCancel::new(operation.user_data()).build();
        self.queue_detached(entry, Flags::SKIP_SUCCESS);
    }

    /// Cancels what is in flight on a descriptor, then closes it.
    ///
    /// The terminal completions of what was in flight come later, under their old tokens.
    pub fn close(&mut self, descriptor: OwnedFd) {
        let descriptor = descriptor.into_raw_fd();
        for operation in self.lanes.vacate(descriptor).into_iter().flatten() {
            self.cancel(operation);
        }
        let entry = opcode::Close::new(types::Fd(descriptor)).build();
        self.queue_detached(entry, Flags::SKIP_SUCCESS);
    }

    /// Cancels everything, waits at most `limit` for the kernel to let go of it, and drops the
    /// ring. Completions that arrive meanwhile are dropped, and with them what they carry.
    pub fn shutdown(mut self, limit: Duration) -> Result<(), Undrained> {
        self.drain(limit)
    }

    /// How many operations have not completed for good.
    pub fn in_flight(&self) -> usize {
        self.slots.in_flight()
    }

    /// What was obtained when the ring was opened.
    pub fn report(&self) -> &RingReport {
        &self.report
    }

    fn drain(&mut self, limit: Duration) -> Result<(), Undrained> {
        let deadline = Instant::now() + limit;
        self.closing = true;
        let mut cancel_at = Instant::now();
        loop {
            while self.next_completion().is_some() {}
            let now = Instant::now();
            let in_flight = self.slots.in_flight();
            let submitted = self.backlog.is_empty() && self.io.0.submission().is_empty();
            if in_flight == 0 && submitted {
                return Ok(());
            }
            if now >= deadline {
                return Err(Undrained { in_flight });
            }
            if in_flight > 0 && now >= cancel_at {
                // Again in every round: what was queued behind the last cancellation, or was
                // running where it could not be reached, may be reached now.
                let everything = types::CancelBuilder::any();
                let entry = opcode::AsyncCancel2::new(everything).build();
                self.queue_detached(entry, Flags::SKIP_SUCCESS);
                cancel_at = now + DRAIN_ROUND;
            }
            let round = (deadline - now).min(DRAIN_ROUND);
            if self.submit_and_wait(Some(round)).is_err() {
                return Err(Undrained { in_flight });
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // A shutdown that ran out of time has waited long enough.
        let drained =
            self.slots.in_flight() == 0 || (!self.closing && self.drain(DROP_LIMIT).is_ok());
        // An idle ring may still have a close or a wake queued.
        let _ = self.submit_and_wait(Some(Duration::ZERO));
        if !drained && let Some(pool) = self.pool.take() {
            // The kernel may still write to this memory, so it is never given back.
            pool.leak();
            std::mem::forget(std::mem::take(&mut self.slots));
        }
        // The fields are dropped in their order: the ring first, then what it was given.
    }
}

/// The binding's ring, which cannot print itself.
struct IoDebug(IoUring);

impl std::fmt::Debug for IoDebug {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "IoUring({})", self.0.as_raw_fd())
    }
}

/// How long dropping a ring waits for the kernel; [`Ring::shutdown`] lets the caller choose.
const DROP_LIMIT: Duration = Duration::from_secs(1);
/// How long draining waits before it cancels again.
const DRAIN_ROUND: Duration = Duration::from_millis(20);
