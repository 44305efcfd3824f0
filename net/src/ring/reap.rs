//! The way back: kernel completions become [`Completion`]s, and slots become free.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use io_uring::cqueue;

use super::completion::{Completion, ReceiveEnd};
use super::receive::ReceivedRange;
use super::slots::{Lane, LogWriteState, State};
use super::submit::{Submission, send_entry};
use super::sync::LogFailure;
use super::token::{Kind, Operation, Token};
use super::{ReceivePool, Ring};

/// One entry of the completion queue.
#[derive(Clone, Copy, Debug)]
struct Done {
    operation: Operation,
    result: i32,
    flags: u32,
}

/// A completion that does not borrow the receive pool yet.
enum Reaped {
    Received { token: Token, range: ReceivedRange, armed: bool },
    Other(Completion<'static>),
}

impl Ring {
    /// The next completion that has arrived, if any; never waits.
    ///
    /// Received bytes are borrowed from the ring: what follows from them is queued after the
    /// completion has been let go.
    pub fn next_completion(&mut self) -> Option<Completion<'_>> {
        self.pool_mut().give_back();
        let reaped = loop {
            let entry = self.io.0.completion().next()?;
            let done = Done {
                operation: Operation::from_user_data(entry.user_data()),
                result: entry.result(),
                flags: entry.flags(),
            };
            if let Some(reaped) = self.on_done(done) {
                break reaped;
            }
        };
        Some(match reaped {
            Reaped::Received { token, range, armed } => {
                let pool = self.pool.as_ref().expect(POOL_LIVES);
                Completion::Received { token, bytes: pool.bytes(range), armed }
            }
            Reaped::Other(completion) => completion,
        })
    }

    /// `None` if the completion is the ring's own business.
    fn on_done(&mut self, done: Done) -> Option<Reaped> {
        match done.operation.kind() {
            Kind::Accept => Some(Reaped::Other(self.on_accept(done))),
            Kind::Receive => self.on_receive(done),
            Kind::Send => self.on_send(done).map(Reaped::Other),
            Kind::Connect => Some(Reaped::Other(self.on_connect(done))),
            Kind::LogWrite | Kind::LogSync => self.on_log_write(done).map(Reaped::Other),
            Kind::Waker => self.on_waker(done.operation, done.result).map(Reaped::Other),
            Kind::Woken => {
                let value = done.result.cast_unsigned();
                Some(Reaped::Other(Completion::Woken { value }))
            }
            Kind::Wake => on_wake(done).map(Reaped::Other),
            // Cancelling what is over already, which is as good as cancelling it.
            Kind::Detached => None,
        }
    }

    fn on_accept(&mut self, done: Done) -> Completion<'static> {
        let armed = cqueue::more(done.flags);
        let token = self.token_or_end(done.operation, armed, Lane::Inbound);
        if done.result < 0 {
            return Completion::AcceptFailed { token, error: done.error(), armed };
        }
        // SAFETY: the kernel has just installed this descriptor for this completion, so nobody
        // else owns it.
        let stream = unsafe { OwnedFd::from_raw_fd(done.result) };
        Completion::Accepted { token, stream, armed }
    }

    fn on_receive(&mut self, done: Done) -> Option<Reaped> {
        let armed = cqueue::more(done.flags);
        // The buffer is accounted for in any case: an end may carry one.
        let range = self.pool_mut().take(done.result, done.flags);
        let token = self.token_or_end(done.operation, armed, Lane::Inbound);
        if done.result > 0 {
            let range = range.expect("received bytes are in a buffer");
            return Some(Reaped::Received { token, range, armed });
        }
        let end = match done.result {
            0 => ReceiveEnd::Closed,
            error => ReceiveEnd::from_errno(-error),
        };
        // An end that goes on is none: the terminal completion tells.
        (!armed).then_some(Reaped::Other(Completion::ReceiveEnded { token, end }))
    }

    fn on_send(&mut self, done: Done) -> Option<Completion<'static>> {
        let closing = self.closing;
        let slot = self.slots.slot(done.operation);
        let State::Send(send) = &mut slot.state else { panic!("a send has a send's state") };
        let interrupted = done.result == -libc::EINTR;
        if done.result > 0 {
            send.sent += usize::try_from(done.result).expect("checked to be positive");
            assert!(send.sent <= send.buffer.len(), "more was sent than there was");
        }
        let unfinished = send.sent < send.buffer.len();
        let stopped = closing || send.abandoned;
        if unfinished && !stopped && (done.result > 0 || interrupted) {
            let entry = send_entry(send).user_data(done.operation.user_data());
            self.queue(Submission::Single(entry));
            return None;
        }
        let result = if !unfinished {
            Ok(())
        } else if done.result < 0 {
            Err(done.error())
        } else if stopped {
            // The remainder must not go out: the descriptor may be another connection's by now.
            Err(io::Error::from_raw_os_error(libc::ECANCELED))
        } else {
            Err(io::Error::from(io::ErrorKind::WriteZero))
        };
        let (token, state) = self.slots.remove(done.operation);
        let State::Send(send) = state else { unreachable!("checked above") };
        self.lanes.release(send.descriptor, Lane::Outbound, done.operation);
        Some(Completion::Sent { token, buffer: send.buffer, result })
    }

    fn on_connect(&mut self, done: Done) -> Completion<'static> {
        let token = self.token_or_end(done.operation, false, Lane::Outbound);
        Completion::Connected { token, result: done.outcome() }
    }

    fn on_log_write(&mut self, done: Done) -> Option<Completion<'static>> {
        let slot = self.slots.slot(done.operation);
        let State::LogWrite(write) = &mut slot.state else { panic!("a write has its state") };
        note_log_result(write, done);
        assert!(write.outstanding > 0, "a log write completed once too often");
        write.outstanding -= 1;
        if write.outstanding > 0 {
            return None;
        }
        let (token, state) = self.slots.remove(done.operation);
        let State::LogWrite(write) = state else { unreachable!("checked above") };
        let result = write.failure.map_or(Ok(()), Err);
        Some(Completion::LogWritten { token, buffer: write.buffer, result })
    }

    /// The operation's token; ends the operation unless it goes on.
    fn token_or_end(&mut self, operation: Operation, armed: bool, lane: Lane) -> Token {
        if armed {
            return self.slots.slot(operation).token;
        }
        let (token, state) = self.slots.remove(operation);
        let (State::Accept { descriptor }
        | State::Receive { descriptor }
        | State::Connect { descriptor, .. }) = state
        else {
            panic!("{operation:?} has another operation's state")
        };
        self.lanes.release(descriptor, lane, operation);
        token
    }

    fn pool_mut(&mut self) -> &mut ReceivePool {
        self.pool.as_mut().expect(POOL_LIVES)
    }
}

impl Done {
    fn outcome(self) -> io::Result<()> {
        if self.result < 0 { Err(self.error()) } else { Ok(()) }
    }

    fn error(self) -> io::Error {
        assert!(self.result < 0, "a success is no error");
        io::Error::from_raw_os_error(-self.result)
    }
}

/// Keeps the first thing that went wrong: a failed write also cancels the sync behind it.
fn note_log_result(write: &mut LogWriteState, done: Done) {
    let failure = match (done.operation.kind(), u32::try_from(done.result)) {
        (Kind::LogSync, Ok(_)) => None,
        (Kind::LogSync, Err(_)) => Some(LogFailure::Sync(done.error())),
        (_, Ok(written)) if written == write.length => None,
        (_, Ok(written)) => Some(LogFailure::Short { written, length: write.length }),
        (_, Err(_)) => Some(LogFailure::Write(done.error())),
    };
    if let Some(failure) = failure
        && (write.failure.is_none() || done.operation.kind() == Kind::LogWrite)
    {
        write.failure = Some(failure);
    }
}

fn on_wake(done: Done) -> Option<Completion<'static>> {
    if done.result >= 0 {
        return None;
    }
    let value = u32::try_from(done.operation.generation()).expect("it was made from 32 bits");
    Some(Completion::WakeFailed { value, error: done.error() })
}

const POOL_LIVES: &str = "the pool is taken only while the ring is being dropped";

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::super::slots::{Lane, LogWriteState, SendState, State};
    use super::super::token::{Kind, Token};
    use super::super::{Completion, LogBuffers, LogFailure, Ring, RingConfig};
    use super::{Done, note_log_result};

    const TOKEN: Token = Token { slot: 1, generation: 2 };

    /// A send that is in flight as far as the ring knows, and that the test completes itself.
    fn sending(ring: &mut Ring, stream: &UnixStream, abandoned: bool) -> Done {
        let descriptor = stream.as_raw_fd();
        let buffer = b"hello world".to_vec();
        let state = State::Send(SendState { descriptor, buffer, sent: 0, abandoned });
        let operation = ring.slots.insert(Kind::Send, TOKEN, state);
        ring.lanes.occupy(descriptor, Lane::Outbound, operation);
        Done { operation, result: 6, flags: 0 }
    }

    #[test]
    fn a_short_send_is_continued_where_it_stopped() {
        let (mut ring, _) = Ring::new(&RingConfig::default()).unwrap();
        let (here, mut there) = UnixStream::pair().unwrap();
        let done = sending(&mut ring, &here, false);
        assert!(ring.on_done(done).is_none(), "the caller does not hear of half a send");
        ring.submit_and_wait(None).unwrap();
        match ring.next_completion().unwrap() {
            Completion::Sent { token, buffer, result: Ok(()) } => {
                assert_eq!((token, &buffer[..]), (TOKEN, &b"hello world"[..]));
            }
            other => panic!("{other:?}"),
        }
        drop(here);
        let mut rest = String::new();
        there.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "world");
    }

    #[test]
    fn a_short_send_on_a_closed_connection_is_not_continued() {
        let (mut ring, _) = Ring::new(&RingConfig::default()).unwrap();
        let (here, mut there) = UnixStream::pair().unwrap();
        let done = sending(&mut ring, &here, true);
        match ring.on_done(done) {
            Some(super::Reaped::Other(Completion::Sent { result: Err(error), .. })) => {
                assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
            }
            _ => panic!("the send ends here"),
        }
        drop((ring, here));
        let mut rest = String::new();
        there.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
    }

    #[test]
    fn only_a_failed_wake_is_reported_with_its_value() {
        let (mut ring, _) = Ring::new(&RingConfig::default()).unwrap();
        let operation = super::Operation::unowned(Kind::Wake, u32::MAX);
        assert!(ring.on_done(Done { operation, result: 0, flags: 0 }).is_none());
        match ring.on_done(Done { operation, result: -libc::EOVERFLOW, flags: 0 }) {
            Some(super::Reaped::Other(Completion::WakeFailed { value: u32::MAX, .. })) => {}
            _ => panic!("a failed wake is reported"),
        }
    }

    #[test]
    fn the_write_is_blamed_before_the_sync_that_it_cancelled() {
        let buffer = LogBuffers::allocate(1, 4096).unwrap().remove(0);
        let mut write = LogWriteState { buffer, length: 4096, outstanding: 2, failure: None };
        let operation = super::Operation::new(Kind::LogWrite, 0, 0);
        let sync = operation.as_kind(Kind::LogSync);
        note_log_result(&mut write, Done { operation: sync, result: -libc::ECANCELED, flags: 0 });
        note_log_result(&mut write, Done { operation, result: 512, flags: 0 });
        let failure = write.failure.take().unwrap();
        assert!(matches!(failure, LogFailure::Short { written: 512, length: 4096 }), "{failure}");
        note_log_result(&mut write, Done { operation, result: 4096, flags: 0 });
        note_log_result(&mut write, Done { operation: sync, result: -libc::EIO, flags: 0 });
        let failure = write.failure.take().unwrap();
        assert_eq!((failure.operation(), failure.errno()), ("fdatasync", Some(libc::EIO)));
    }
}
