//! Appends and what comes back when they are durable.
//!
//! An acknowledgement has no other way out than as a [`Rider`] of an append: storage hands it over
//! after the sync of the batch that holds the append, and of everything before it.

use alloc::vec::Vec;

use crate::base::id::{LinkId, Sequence, ShardId};
use crate::control::Control;
use crate::entry::Entry;

/// One record of one shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    Entry(Entry),
    Control(Control),
}

/// A request to storage: put this record behind everything appended before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Append {
    pub shard: ShardId,
    /// One more than the shard's record before; storage asserts it.
    pub sequence: Sequence,
    pub record: Record,
    pub riders: Vec<Rider>,
}

/// A peer's frame that may leave when the append which carries it is durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rider {
    /// It is dropped if this link is gone by then.
    pub link: LinkId,
    /// A later rider of the same shard and link says all that this one says: an acknowledgement is
    /// cumulative, so a batch needs to keep the last one only.
    pub cumulative: bool,
    /// An encoded peer frame. It states the log at its own position, never the durable mark at the
    /// time of building.
    pub frame: Vec<u8>,
}

/// Proof that something is on this server's disk. Only storage makes it, from a completed sync.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Durable<T> {
    value: T,
}

/// Every record of `shard` up to and with `sequence`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogMark {
    pub shard: ShardId,
    pub sequence: Sequence,
}

impl<T: Copy> Durable<T> {
    /// Storage alone calls this (a test of the source holds it to that).
    pub fn attest(value: T) -> Self {
        Self { value }
    }

    pub fn value(&self) -> T {
        self.value
    }
}
