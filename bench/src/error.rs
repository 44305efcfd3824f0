//! Why a measurement could not be made or must not be believed.

use std::{fmt, io};

/// The one error of this program; it ends in a sentence for the person who started it.
#[derive(Debug)]
pub(crate) enum BenchError {
    /// A system call failed while doing what the text says.
    Io { doing: String, source: io::Error },
    /// The link is gone, or no answer came in time, with the reason: the outcome is unknown.
    Disconnected(String),
    /// The server no longer knows the session.
    SessionExpired,
    /// The server answered with bytes that the protocol does not allow.
    Protocol(String),
    /// The server refused a request that had to succeed, with ZooKeeper's error code.
    Refused { request: &'static str, code: i32 },
    /// The run cannot be set up, or its result must not be used.
    Invalid(String),
}

impl BenchError {
    /// Names what was being done when the system call failed.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { doing, source } => write!(f, "{doing}: {source}"),
            Self::Disconnected(why) => write!(f, "disconnected: {why}"),
            Self::SessionExpired => write!(f, "the session has expired"),
            Self::Protocol(what) => write!(f, "the server broke the protocol: {what}"),
            Self::Refused { request, code } => write!(f, "{request} was refused with {code}"),
            Self::Invalid(why) => write!(f, "{why}"),
        }
    }
}

impl std::error::Error for BenchError {}
