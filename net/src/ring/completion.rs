//! What the ring reports back: one value for each completion that concerns the caller.

use std::io;
use std::os::fd::OwnedFd;

use super::buffer::LogBuffer;
use super::sync::LogFailure;
use super::token::Token;

/// The outcome of an operation, or one of the many outcomes of a repeating one.
///
/// `armed` says that the operation goes on by itself. Where it is false, the operation is over
/// and the caller arms it again if it wants more.
#[derive(Debug)]
#[must_use = "it may carry a connection or a buffer"]
pub enum Completion<'ring> {
    Accepted {
        token: Token,
        stream: OwnedFd,
        armed: bool,
    },
    /// A connection could not be accepted, or accepting was cancelled.
    AcceptFailed {
        token: Token,
        error: io::Error,
        armed: bool,
    },
    /// Never empty. The bytes are the kernel's again when this value is dropped.
    Received {
        token: Token,
        bytes: &'ring [u8],
        armed: bool,
    },
    /// Nothing more will be received before the caller arms the connection again.
    ReceiveEnded {
        token: Token,
        end: ReceiveEnd,
    },
    /// Everything was sent, or an error says that some of it was not. The buffer comes back with
    /// its contents, to be cleared and filled again.
    Sent {
        token: Token,
        buffer: Vec<u8>,
        result: io::Result<()>,
    },
    Connected {
        token: Token,
        result: io::Result<()>,
    },
    /// The write is durable, or it failed for good.
    LogWritten {
        token: Token,
        buffer: LogBuffer,
        result: Result<(), LogFailure>,
    },
    /// Another ring sent `value`, or a [`super::Waker`] sent [`super::WAKER_VALUE`]. Several
    /// calls of a waker may be reported as one.
    Woken {
        value: u32,
    },
    /// The kernel refused to pass `value` on. Sending to a ring whose thread has ended is not
    /// always noticed.
    WakeFailed {
        value: u32,
        error: io::Error,
    },
}

/// Why a connection receives no more.
#[derive(Debug)]
pub enum ReceiveEnd {
    /// The peer has closed its side.
    Closed,
    /// All receive buffers were full. They are free again by now: arm the connection again.
    NoBuffers,
    /// It was cancelled here.
    Cancelled,
    Failed(io::Error),
}

impl ReceiveEnd {
    pub(super) fn from_errno(errno: i32) -> Self {
        match errno {
            libc::ENOBUFS => Self::NoBuffers,
            libc::ECANCELED => Self::Cancelled,
            _ => Self::Failed(io::Error::from_raw_os_error(errno)),
        }
    }
}
