//! Time as the core sees it: two readings per turn, given by the driver, and the table of periods.

use core::fmt;
use core::ops::{Add, Sub};

/// Microseconds on this node's own monotonic clock; never compared with another node's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

/// A length of time in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Duration(pub u64);

/// The two clocks of one turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// Decides everything that has a deadline.
    pub instant: Instant,
    /// Milliseconds since 1970; only ever written into `ctime` and `mtime`, never compared.
    pub wall_ms: i64,
}

/// The protocol's periods. They come from the configuration and are fixed for a process's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Periods {
    /// How often a link between two servers shows that it lives (half as often while it carries
    /// nothing else), and how long a learner waits for an answer before it asks its leader again.
    pub heartbeat: Duration,
    /// A peer that has been silent for so long is suspected; a reset link is suspected at once.
    pub silence: Duration,
    /// How often a server that is LOOKING repeats its vote.
    pub vote: Duration,
    /// How long a candidate waits for better votes once a quorum agrees but not every voter spoke.
    pub vote_settle: Duration,
    /// `initLimit`: bounds discovery and synchronization of a new leader or learner.
    pub init_limit: Duration,
    /// `syncLimit`: a replica that has not heard its leader for so long serves no session's reads.
    pub sync_limit: Duration,
    /// ZooKeeper's tick: the grain of session expiry.
    pub tick: Duration,
    pub session_timeout_min: Duration,
    pub session_timeout_max: Duration,
}

impl Default for Periods {
    /// Ordinary ones, for whoever has no configuration: `tickTime` 2000, and limits of 5 ticks.
    fn default() -> Self {
        let tick = Duration::from_ms(2000);
        Self {
            heartbeat: Duration::from_ms(50),
            silence: Duration::from_ms(400),
            vote: Duration::from_ms(200),
            vote_settle: Duration::from_ms(20),
            init_limit: Duration(5 * tick.0),
            sync_limit: Duration(5 * tick.0),
            tick,
            session_timeout_min: Duration(2 * tick.0),
            session_timeout_max: Duration(20 * tick.0),
        }
    }
}

impl Duration {
    pub const ZERO: Self = Self(0);

    pub const fn from_ms(milliseconds: u64) -> Self {
        Self(milliseconds * 1000)
    }

    pub const fn as_ms(self) -> u64 {
        self.0 / 1000
    }
}

impl Instant {
    /// How long ago `earlier` was; zero if it has not happened yet.
    pub fn since(self, earlier: Self) -> Duration {
        Duration(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, length: Duration) -> Self {
        Self(self.0 + length.0)
    }
}

impl Sub<Self> for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}ms", self.0 / 1000, self.0 % 1000)
    }
}

impl fmt::Debug for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}ms", self.0 / 1000, self.0 % 1000)
    }
}
