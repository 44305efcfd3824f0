//! The way into the kernel: queueing entries, entering, waiting.

use std::io;
use std::mem;
use std::time::{Duration, Instant};

use io_uring::squeue::{self, Flags};
use io_uring::types::{self, SubmitArgs, Timespec};
use io_uring::{EnterFlags, opcode};

use super::Ring;
use super::buffer::LogBuffer;
use super::slots::SendState;
use super::sync::SyncPrimitive;
use super::token::{Kind, Operation};

/// Entries that must reach the kernel together, or not at all.
#[derive(Clone, Debug)]
pub(super) enum Submission {
    Single(squeue::Entry),
    /// The second starts when the first has succeeded. A link does not reach across two entries
    /// into the kernel: the second half would start at once.
    Linked([squeue::Entry; 2]),
}

/// What ends a wait besides its timeout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Wait {
    completions: u32,
    timeout: Option<Duration>,
}

impl Ring {
    /// Submits what is queued and sleeps until a completion has arrived, the timeout has passed,
    /// or a signal was handled. `None` waits without end, zero does not wait.
    ///
    /// An error means that this ring cannot be used any more.
    pub fn submit_and_wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let sends = mem::take(&mut self.sends_queued);
        if timeout == Some(Duration::ZERO) || sends == 0 {
            let completions = u32::from(timeout != Some(Duration::ZERO));
            return self.submit_and_wait_for(Wait { completions, timeout });
        }
        // A send is complete as soon as the kernel has it, unless its socket is full: to wake up
        // for that alone would double the turns. What has not completed so is waited for only a
        // little, because its completion would take the place of one that counts.
        let bound = timeout.map_or(SEND_TIME_MAX, |timeout| timeout.min(SEND_TIME_MAX));
        self.submit_and_wait_for(Wait { completions: sends + 1, timeout: Some(bound) })
    }

    /// The same, but stays awake for a while: others may have the processor meanwhile, and nobody
    /// has to wake it.
    pub fn submit_and_linger(
        &mut self,
        timeout: Option<Duration>,
        awake_max: Duration,
    ) -> io::Result<()> {
        // Those complete as soon as the kernel has them, and are no news.
        let sends = usize::try_from(self.sends_queued).expect("they fit a queue");
        let end = Instant::now() + timeout.map_or(awake_max, |timeout| timeout.min(awake_max));
        loop {
            self.submit_and_wait_for(Wait { completions: 0, timeout: Some(Duration::ZERO) })?;
            if self.io.0.completion().len() > sends {
                self.sends_queued = 0;
                return Ok(());
            }
            if Instant::now() >= end {
                return self.submit_and_wait(timeout);
            }
            std::thread::yield_now();
        }
    }

    /// Lets the sends that are queued leave ahead of what is queued next.
    pub(super) fn submit_sends(&mut self) {
        if self.sends_queued > 0 {
            // An error shows again when the turn ends.
            let _ = self.submit_backlog();
            let _ = self.enter(Wait { completions: 0, timeout: None }, false);
        }
    }

    /// Queues entries, submitting in the middle if the queue is full. Nothing is ever lost.
    pub(super) fn queue(&mut self, submission: Submission) {
        if self.backlog.is_empty() && self.try_queue(&submission) {
            return;
        }
        self.backlog.push_back(submission);
        // An error shows again when the turn ends and the rest is submitted.
        let _ = self.submit_backlog();
    }

    /// Queues an entry whose success concerns nobody.
    pub(super) fn queue_detached(&mut self, entry: squeue::Entry, flags: Flags) {
        let operation = Operation::unowned(Kind::Detached, 0);
        self.queue(Submission::Single(entry.flags(flags).user_data(operation.user_data())));
    }

    pub(super) fn write_entry(
        &self,
        file: types::Fd,
        buffer: &LogBuffer,
        offset: u64,
        length: u32,
        primitive: SyncPrimitive,
    ) -> squeue::Entry {
        let flags = match primitive {
            SyncPrimitive::DataSyncWrite => libc::RWF_DSYNC,
            SyncPrimitive::WriteThenSync => 0,
        };
        let start = buffer.bytes.as_ptr();
        let registered = usize::try_from(buffer.id)
            .ok()
            .and_then(|id| self.registered.get(id))
            .is_some_and(|(address, bytes)| {
                *address == start.addr() && usize::try_from(length).is_ok_and(|it| it <= *bytes)
            });
        if registered {
            let index = u16::try_from(buffer.id).expect("the kernel registers at most 16384");
            opcode::WriteFixed::new(file, start, length, index)
                .offset(offset)
                .rw_flags(flags)
                .build()
        } else {
            opcode::Write::new(file, start, length).offset(offset).rw_flags(flags).build()
        }
    }

    fn try_queue(&mut self, submission: &Submission) -> bool {
        let mut queue = self.io.0.submission();
        // SAFETY: whatever an entry points to is owned by its slot, by the ring, or by nobody for
        // good, before the entry is queued and until its terminal completion.
        let queued = unsafe {
            match submission {
                Submission::Single(entry) => queue.push(entry),
                Submission::Linked(entries) => queue.push_multiple(entries),
            }
        };
        if queued.is_ok() && matches!(submission, Submission::Linked(_)) {
            self.link_queued = true;
        }
        queued.is_ok()
    }

    /// Moves the backlog into the kernel as far as the kernel takes it.
    fn submit_backlog(&mut self) -> io::Result<()> {
        while let Some(submission) = self.backlog.pop_front() {
            if self.try_queue(&submission) {
                continue;
            }
            self.backlog.push_front(submission);
            if !self.enter(Wait { completions: 0, timeout: None }, false)? {
                break;
            }
        }
        Ok(())
    }

    fn submit_and_wait_for(&mut self, wait: Wait) -> io::Result<()> {
        self.submit_backlog()?;
        let idle = {
            let queue = self.io.0.submission();
            queue.is_empty() && !queue.taskrun() && !queue.cq_overflow()
        };
        // Completions are made only inside an entry into the kernel, but the queue's flags tell
        // when there is nothing to be made.
        if !(idle && wait.completions == 0) {
            // With a backlog left the kernel is short of memory or of completion space: reaping
            // is what helps, not waiting.
            let wait = if self.backlog.is_empty() { wait } else { Wait { completions: 0, ..wait } };
            self.enter(wait, true)?;
        }
        if self.link_cut {
            return Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                "the kernel could not take a log write together with its sync",
            ));
        }
        Ok(())
    }

    /// Enters the kernel once; true if it took an entry.
    fn enter(&mut self, wait: Wait, reap: bool) -> io::Result<bool> {
        let queued = self.io.0.submission().len();
        let to_submit = u32::try_from(queued).expect("the queue has at most 32768 entries");
        let mut flags = EnterFlags::EXT_ARG;
        if reap {
            flags |= EnterFlags::GETEVENTS;
        }
        if self.report.idle_wait && wait.completions > 0 {
            flags |= EnterFlags::NO_IOWAIT;
        }
        let timespec = wait.timeout.map(Timespec::from);
        let mut arguments = SubmitArgs::new();
        if let Some(timespec) = &timespec {
            arguments = arguments.timespec(timespec);
        }
        let submitter = self.io.0.submitter();
        // SAFETY: the arguments, and the time they point to, outlive the call, and the flag says
        // that they are extended arguments; queued entries are sound, see `try_queue`.
        let entered =
            unsafe { submitter.enter(to_submit, wait.completions, flags.bits(), Some(&arguments)) };
        match entered {
            Ok(taken) => {
                if taken == queued {
                    self.link_queued = false;
                } else if self.link_queued {
                    // Which entry the kernel stopped at is not worth finding out: it happens
                    // only when there is no memory left for a request.
                    self.link_cut = true;
                }
                Ok(taken > 0)
            }
            Err(error) => match error.raw_os_error() {
                // A timeout, a signal, or a kernel that wants completions to be reaped first.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(false),
                _ => Err(error),
            },
        }
    }
}

/// What remains to be sent of a buffer.
pub(super) fn send_entry(send: &SendState) -> squeue::Entry {
    let rest = &send.buffer[send.sent..];
    let length = u32::try_from(rest.len()).unwrap_or(SEND_BYTES_MAX).min(SEND_BYTES_MAX);
    opcode::Send::new(types::Fd(send.descriptor), rest.as_ptr(), length)
        .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
        .build()
}

pub(super) fn data_sync_entry(file: types::Fd) -> squeue::Entry {
    opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build()
}

/// How long a wait that counts on sends may last before it is asked again.
const SEND_TIME_MAX: Duration = Duration::from_millis(1);
/// A single send carries its result in 31 bits; a longer buffer is sent in several.
const SEND_BYTES_MAX: u32 = 1 << 30;
