//! Waking a ring that sleeps: from another ring with a message, from any thread with an eventfd.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::squeue::Flags;
use io_uring::{opcode, types};

use super::Ring;
use super::completion::Completion;
use super::slots::State;
use super::submit::Submission;
use super::token::{Kind, Operation, Token};

/// A ring as other rings see it: something to send a small number to.
#[derive(Clone, Debug)]
pub struct WakeTarget {
    descriptor: Arc<OwnedFd>,
}

/// Wakes a ring from a thread that has none.
#[derive(Clone, Debug)]
pub struct Waker {
    event: Arc<File>,
}

impl Waker {
    /// Makes the ring report [`Completion::Woken`], at once if it sleeps. Cheap to repeat.
    pub fn wake(&self) -> io::Result<()> {
        (&*self.event).write_all(&1_u64.to_ne_bytes())
    }
}

impl Ring {
    /// What other rings need in order to wake this one.
    pub fn wake_target(&self) -> io::Result<WakeTarget> {
        // SAFETY: the ring owns this descriptor and outlives the borrow.
        let descriptor = unsafe { BorrowedFd::borrow_raw(self.io.0.as_raw_fd()) };
        Ok(WakeTarget { descriptor: Arc::new(descriptor.try_clone_to_owned()?) })
    }

    /// Queues a message that makes another ring report [`Completion::Woken`] with `value`.
    ///
    /// The target has to stay open until the message has been submitted.
    pub fn wake(&mut self, target: &WakeTarget, value: u32) {
        let entry = opcode::MsgRingData::new(
            types::Fd(target.descriptor.as_fd().as_raw_fd()),
            value.cast_signed(),
            Operation::woken().user_data(),
            None,
        )
        .build()
        .flags(Flags::SKIP_SUCCESS)
        .user_data(Operation::unowned(Kind::Wake, value).user_data());
        self.queue(Submission::Single(entry));
    }

    /// What threads without a ring need in order to wake this one.
    pub fn waker(&mut self) -> io::Result<Waker> {
        if let Some(waker) = &self.waker {
            return Ok(waker.clone());
        }
        // Blocking, because the ring answers "try again" at once for a non-blocking eventfd.
        // SAFETY: takes no memory.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call just returned this descriptor, and nobody else knows it.
        let event = Arc::new(unsafe { File::from_raw_fd(descriptor) });
        let waker = Waker { event };
        self.waker = Some(waker.clone());
        self.arm_waker(Box::new([0; 8]));
        Ok(waker)
    }

    pub(super) fn on_waker(&mut self, done: Operation, result: i32) -> Option<Completion<'static>> {
        let (_, state) = self.slots.remove(done);
        let State::Waker { count } = state else { panic!("a waker has a waker's state") };
        if self.closing {
            return None;
        }
        self.arm_waker(count);
        // Anything but a full read is an interruption, after which the count is still there.
        (result == 8).then_some(Completion::Woken { value: WAKER_VALUE })
    }

    fn arm_waker(&mut self, mut count: Box<[u8; 8]>) {
        let waker = self.waker.as_ref().expect("armed only once it exists");
        let descriptor = types::Fd(waker.event.as_raw_fd());
        let entry = opcode::Read::new(descriptor, count.as_mut_ptr(), 8).build();
        let state = State::Waker { count };
        let operation = self.slots.insert(Kind::Waker, Token::default(), state);
        self.queue(Submission::Single(entry.user_data(operation.user_data())));
    }
}

/// What [`Completion::Woken`] carries when a [`Waker`] was used.
pub const WAKER_VALUE: u32 = 0;
