//! Virtual time and the one queue of everything that will happen.

use std::collections::BTreeMap;
use std::ops::{Add, AddAssign, Sub};

use pigeonhole_core::base::id::CoreId;

use crate::network::{Port, Side, StreamId};

/// Microseconds since the world began; the nodes' own clocks differ from it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Moment(pub u64);

/// Names one run of one node's process; events meant for an earlier one are void.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Process {
    pub node: u8,
    pub run: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A core has something to do.
    Turn {
        process: Process,
        core: CoreId,
    },
    /// A deadline of a core may have come.
    Timer {
        process: Process,
        core: CoreId,
    },
    /// A disk operation is done.
    Disk {
        process: Process,
        core: CoreId,
        operation: u64,
    },
    /// The head of a stream's direction may be read.
    Arrive {
        stream: StreamId,
        side: Side,
    },
    /// The reader has made room; `side` may send again.
    Sent {
        stream: StreamId,
        side: Side,
    },
    /// A node tries to reach a peer's core.
    Dial {
        process: Process,
        core: CoreId,
        peer: u8,
        peer_core: CoreId,
    },
    /// A connect reaches its host.
    Connect {
        by: Dialer,
        port: Port,
        node: u8,
    },
    /// What has become of a connect.
    Connected {
        by: Dialer,
        node: u8,
        stream: Option<StreamId>,
    },
    /// A client has something to do.
    Client {
        client: u32,
        wake: u64,
    },
    /// A stopped process goes on.
    Resume {
        process: Process,
    },
    /// A node is started.
    Start {
        node: u8,
        down: u32,
    },
    /// A class of faults strikes.
    Fault {
        class: u8,
    },
    Heal {
        partition: u64,
    },
    /// A slow reader reads on.
    Read {
        stream: StreamId,
        side: Side,
    },
    /// The world looks at every node.
    Look,
}

/// Who connects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialer {
    Client { client: u32, attempt: u64 },
    Core { process: Process, core: CoreId, peer_core: CoreId },
}

#[derive(Default)]
pub struct Queue {
    now: Moment,
    events: BTreeMap<(Moment, u64), Event>,
    number: u64,
}

impl Queue {
    pub fn now(&self) -> Moment {
        self.now
    }

    /// Events of one moment happen in the order in which they were pushed.
    pub fn push(&mut self, at: Moment, event: Event) {
        assert!(at >= self.now, "nothing happens in the past");
        self.number += 1;
        self.events.insert((at, self.number), event);
    }

    pub fn push_in(&mut self, microseconds: u64, event: Event) {
        self.push(self.now + microseconds, event);
    }

    /// Goes to the next event.
    pub fn pop(&mut self) -> Option<Event> {
        let ((at, _), event) = self.events.pop_first()?;
        self.now = at;
        Some(event)
    }

    pub fn next_at(&self) -> Option<Moment> {
        self.events.first_key_value().map(|(&(at, _), _)| at)
    }

    /// Lets time pass up to a moment before which nothing happens.
    pub fn advance_to(&mut self, at: Moment) {
        assert!(self.next_at().is_none_or(|next| next >= at), "an event comes before");
        self.now = self.now.max(at);
    }
}

impl Moment {
    pub const fn from_ms(milliseconds: u64) -> Self {
        Self(milliseconds * 1000)
    }
}

impl Add<u64> for Moment {
    type Output = Self;

    fn add(self, microseconds: u64) -> Self {
        Self(self.0 + microseconds)
    }
}

impl AddAssign<u64> for Moment {
    fn add_assign(&mut self, microseconds: u64) {
        self.0 += microseconds;
    }
}

impl Sub<Self> for Moment {
    type Output = u64;

    fn sub(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}ms", self.0 / 1000, self.0 % 1000)
    }
}
