//! Why a client's connection is closed from this side.

use core::fmt;

/// In an operator's words: what clients do wrong, and what is wrong here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parting {
    TooManyConnections,
    /// It has not asked for a session in time, or the session's home has not answered.
    TooLate,
    NoConnectRequest,
    BadFrame,
    BadRequest,
    BadCredential,
    /// It does not read what it has asked for.
    SlowReader,
    /// The last reply was the end: of its session, or of what can be understood of it.
    LastReply,
    /// The session is refused, or could not be had now.
    NoSession,
    SessionOver,
    SessionMoved,
    /// It has seen a zxid that this ensemble has not come to.
    FromTheFuture,
    /// The session's home has not confirmed for a third of its timeout that it lives.
    Unconfirmed,
    /// A request has waited for as long as the session may be silent.
    Unanswered,
    /// What became of a request is not known, after a change of leaders.
    OutcomeUnknown,
    /// This server has had no leader in a shard for too long.
    Leaderless,
    CatchingUp,
    /// A leader's snapshot has passed over what its watches wait for.
    WatchesPassedOver,
}

impl fmt::Display for Parting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooManyConnections => "too many connections, in all or from its address",
            Self::TooLate => "it had no session in time",
            Self::NoConnectRequest => "it did not begin with a connect request",
            Self::BadFrame => "it sent a frame that is none, or is too long",
            Self::BadRequest => "it sent a request that cannot be understood",
            Self::BadCredential => "its credential is refused",
            Self::SlowReader => "it does not read its replies",
            Self::LastReply => "it has had its last reply",
            Self::NoSession => "the session is over, or cannot be had now",
            Self::SessionOver => "the session is over",
            Self::SessionMoved => "the session has moved to another connection",
            Self::FromTheFuture => "it has seen a zxid that this ensemble has not come to",
            Self::Unconfirmed => "the session's leader has not confirmed it in time",
            Self::Unanswered => "a request of it was not answered in time",
            Self::OutcomeUnknown => "the leader has changed, and a request may be lost or done",
            Self::Leaderless => "this server has had no leader in its shard for too long",
            Self::CatchingUp => "this server has yet to catch up",
            Self::WatchesPassedOver => "a snapshot has passed over what its watches wait for",
        })
    }
}
