//! Identities: no bare integer crosses a module.

use core::fmt;

/// A server of the ensemble: the number in `myid`, 1 to 254 as in ZooKeeper, because it is also the
/// high byte of the session ids that the server hands out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(pub u8);

/// A shard: a set of top-level subtrees with a leader of its own, numbered from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ShardId(pub u16);

/// The reign of one leader over one shard; the upper half of a zxid.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u32);

/// A transaction's place in its shard's order: epoch (32 bits) above counter (32 bits).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Zxid(pub u64);

/// A record's place in one shard's log, control records included; it grows by one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sequence(pub u64);

/// A client session, with the server id that created it in the high byte.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SessionId(pub u64);

/// How often a session has been attached to a connection; a higher generation fences the lower.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u32);

/// One core of this node, numbered from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CoreId(pub u8);

/// A client connection of this node: the core that owns it, its slot there, and how often the slot
/// was used before, so that news of a closed connection never reaches its successor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    pub core: CoreId,
    pub slot: u32,
    pub generation: u32,
}

/// A link between a core of this node and a core of a peer; `incarnation` differs for every
/// connection made, so that what was meant for one never leaves over the next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId {
    pub peer: ServerId,
    pub core: CoreId,
    pub incarnation: u32,
}

/// A chained hash of a shard's history (xxh3-128).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ChainHash(pub u128);

/// The nonce that all members of one cluster share; 0 stands for "not formed".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClusterId(pub u128);

/// The identity of one voter's disk: another uuid under the same server id is a lost disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DiskId(pub u128);

impl Zxid {
    pub const ZERO: Self = Self(0);

    pub const fn new(epoch: Epoch, counter: u32) -> Self {
        Self(((epoch.0 as u64) << 32) | counter as u64)
    }

    pub const fn epoch(self) -> Epoch {
        Epoch((self.0 >> 32) as u32)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the lower half is the counter")]
    pub const fn counter(self) -> u32 {
        self.0 as u32
    }

    /// The zxid that a leader gives to its next transaction in the same epoch.
    ///
    /// # Panics
    /// If the counter is exhausted: a leader hands over long before (see `limits`).
    pub fn next(self) -> Self {
        assert!(self.counter() < u32::MAX, "the counter of {self} is exhausted");
        Self(self.0 + 1)
    }

    /// The number as it appears on the client's wire.
    pub const fn wire(self) -> i64 {
        self.0.cast_signed()
    }
}

impl Sequence {
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Epoch {
    /// The last one that a leader may begin: the number behind it stands for no epoch.
    pub const LAST: Self = Self(u32::MAX - 1);

    #[must_use]
    pub fn next(self) -> Self {
        assert!(self.0 < u32::MAX, "the last epoch is used up");
        Self(self.0 + 1)
    }
}

impl SessionId {
    /// The number as it appears on the client's wire.
    pub const fn wire(self) -> i64 {
        self.0.cast_signed()
    }

    pub const fn from_wire(number: i64) -> Self {
        Self(number.cast_unsigned())
    }
}

impl Generation {
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Zxid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}:{:x}", self.epoch().0, self.counter())
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:x}", self.0)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", self.core.0, self.slot, self.generation)
    }
}

macro_rules! debug_as_display {
    ($($name:ident $prefix:literal),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self)
            }
        }
    )*};
}
debug_as_display!(ServerId "n", ShardId "s", Epoch "e", Zxid "", SessionId "", ClusterId "",
    ConnectionId "c");

macro_rules! debug_as_number {
    ($($name:ident $prefix:literal),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{:x}"), self.0)
            }
        }
    )*};
}
debug_as_number!(Sequence "#", Generation "g", CoreId "core", ChainHash "h", DiskId "disk");

impl fmt::Debug for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link({:?},{:?},{})", self.peer, self.core, self.incarnation)
    }
}
