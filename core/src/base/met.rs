//! How often limits were met: from these counts an operator sees which one to raise, or whom to
//! stop.

/// A limit that somebody can meet while the server does as it should.
///
/// What a request's own form is refused for (a path too long, a multi too large) is told to the
/// client that sent it, and not counted here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Limit {
    /// `CONNECT_TIME_MS_MAX`: the connection was closed.
    ConnectTime,
    /// `CONNECTIONS_PER_ADDRESS_MAX`, or what is configured: closed.
    ConnectionsPerAddress,
    /// What is configured for all together (`maxCnxns`): closed.
    Connections,
    /// `FRAME_BYTES_MAX`, or what is configured: closed.
    FrameBytes,
    /// `INPUT_BYTES_PAUSE`: nothing more was read until some of it was looked at.
    InputPause,
    /// `OUTPUT_BYTES_PAUSE`: nothing more was read until the client read.
    OutputPause,
    /// `OUTPUT_BYTES_MAX`: closed.
    OutputBytes,
    /// `REQUESTS_PER_CONNECTION_MAX` and their bytes: nothing more was read until some were
    /// answered.
    RequestsPerConnection,
    /// `globalOutstandingLimit`: a connection's writes waited until others were answered.
    WritesOutstanding,
    /// `RESPONSE_BYTES_MAX`: refused.
    ResponseBytes,
    /// `WATCHES_PER_CONNECTION_MAX`: refused.
    WatchesPerConnection,
    /// `EPHEMERALS_PER_SESSION_MAX`: refused.
    EphemeralsPerSession,
    /// `PROPOSALS_OUTSTANDING_MAX` and their bytes: queued.
    ProposalsOutstanding,
    /// `FORWARDS_WAITING_MAX` and their bytes: the outcome was declared unknown.
    ForwardsWaiting,
    /// `LINK_OUTPUT_BYTES_MAX`: the link with a peer was dropped.
    LinkOutputBytes,
    /// `CATCHING_UP_MS_MAX`: a client was sent on to another server.
    CatchingUp,
}

impl Limit {
    /// Every limit, in the order of the counts.
    pub const ALL: [Self; COUNT] = [
        Self::ConnectTime,
        Self::ConnectionsPerAddress,
        Self::Connections,
        Self::FrameBytes,
        Self::InputPause,
        Self::OutputPause,
        Self::OutputBytes,
        Self::RequestsPerConnection,
        Self::WritesOutstanding,
        Self::ResponseBytes,
        Self::WatchesPerConnection,
        Self::EphemeralsPerSession,
        Self::ProposalsOutstanding,
        Self::ForwardsWaiting,
        Self::LinkOutputBytes,
        Self::CatchingUp,
    ];

    /// The name under which `mntr` shows the count.
    pub fn name(self) -> &'static str {
        match self {
            Self::ConnectTime => "connect_time",
            Self::ConnectionsPerAddress => "connections_per_address",
            Self::Connections => "connections",
            Self::FrameBytes => "frame_bytes",
            Self::InputPause => "input_pause",
            Self::OutputPause => "output_pause",
            Self::OutputBytes => "output_bytes",
            Self::RequestsPerConnection => "requests_per_connection",
            Self::WritesOutstanding => "writes_outstanding",
            Self::ResponseBytes => "response_bytes",
            Self::WatchesPerConnection => "watches_per_connection",
            Self::EphemeralsPerSession => "ephemerals_per_session",
            Self::ProposalsOutstanding => "proposals_outstanding",
            Self::ForwardsWaiting => "forwards_waiting",
            Self::LinkOutputBytes => "link_output_bytes",
            Self::CatchingUp => "catching_up",
        }
    }
}

/// How often each limit was met since the process began.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LimitsMet([u64; COUNT]);

impl LimitsMet {
    pub fn note(&mut self, limit: Limit) {
        self.0[limit as usize] += 1;
    }

    pub fn count(&self, limit: Limit) -> u64 {
        self.0[limit as usize]
    }

    pub fn absorb(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

const COUNT: usize = 16;
