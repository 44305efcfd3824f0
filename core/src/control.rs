//! Control records: what one replica promises, kept in the same log as the transactions.
//!
//! Epochs, truncations and snapshot references stand in the log between the entries, so that no
//! second file can disagree with it. The archived forms (rkyv) are released formats.

use alloc::vec::Vec;

use rkyv::rancor;
use rkyv::{Archive, Deserialize, Serialize};

use crate::base::id::{ChainHash, Epoch, Sequence, ShardId, Zxid};
use crate::txn::Malformed;

/// A local record of one shard.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum Control {
    /// No proposal of a lower epoch will be accepted again.
    AcceptedEpoch { epoch: u32 },
    /// The history up to here is that of this epoch's leader.
    CurrentEpoch { epoch: u32 },
    /// Every entry after `zxid`, whose chain hash is `hash`, is void.
    Truncate { zxid: u64, hash: u128 },
    /// The history is void and begins anew with the state at `zxid`, which is the given snapshot.
    Install { zxid: u64, hash: u128, digest: u128 },
    /// A verified snapshot of the state at `zxid` is on this disk; replay may begin there.
    SnapshotTaken { zxid: u64, hash: u128, digest: u128 },
}

/// Where a shard's log stands: every segment begins with one for each of its shards, so that
/// recycling a segment never loses a promise.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checkpoint {
    pub shard: u16,
    /// The sequence number of the next record.
    pub next_sequence: u64,
    pub accepted_epoch: u32,
    pub current_epoch: u32,
    pub tail_zxid: u64,
    pub tail_hash: u128,
    /// Known to be committed.
    pub committed_zxid: u64,
    /// The newest verified snapshot on this disk; zxid 0 for none.
    pub snapshot: SnapshotReference,
    /// The one before it, kept until the newest has a successor.
    pub snapshot_before: SnapshotReference,
    /// Records after this point were lost to corruption: the replica must not be taken for one that
    /// never had them until a leader's history (CurrentEpoch) or snapshot (Install) has settled it.
    pub unknown: bool,
}

/// A snapshot file by its content.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SnapshotReference {
    pub zxid: u64,
    /// The chain hash of the entry at `zxid`.
    pub hash: u128,
    /// The hash of the file's chunks.
    pub digest: u128,
}

/// The accepted ends of all older streams, written by a boot before it promises anything.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct Seal {
    pub streams: Vec<StreamEnd>,
}

/// What was accepted of one older stream.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StreamEnd {
    pub boot: u64,
    pub core: u8,
    /// The number of the last accepted batch, and its hash; 0 for none.
    pub batch: u64,
    pub hash: u128,
}

macro_rules! archived_bytes {
    ($($name:ident $archived:ident),*) => {$(
        impl $name {
            /// The archived form.
            pub fn to_bytes(&self) -> rkyv::util::AlignedVec {
                rkyv::to_bytes::<rancor::Panic>(self).expect("memory is the only way to fail")
            }

            /// Checks bytes and copies the value out of them.
            pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
                let archived = rkyv::access::<$archived, rancor::Failure>(bytes)
                    .map_err(|_| Malformed)?;
                rkyv::deserialize::<Self, rancor::Failure>(archived).map_err(|_| Malformed)
            }
        }
    )*};
}
archived_bytes!(Control ArchivedControl, Checkpoint ArchivedCheckpoint, Seal ArchivedSeal);

impl Checkpoint {
    /// The state of a shard in which nothing has ever happened.
    pub fn empty(shard: ShardId) -> Self {
        Self { shard: shard.0, next_sequence: 1, ..Self::default() }
    }

    pub fn shard(&self) -> ShardId {
        ShardId(self.shard)
    }

    pub fn next_sequence(&self) -> Sequence {
        Sequence(self.next_sequence)
    }

    pub fn accepted_epoch(&self) -> Epoch {
        Epoch(self.accepted_epoch)
    }

    pub fn current_epoch(&self) -> Epoch {
        Epoch(self.current_epoch)
    }

    pub fn tail_zxid(&self) -> Zxid {
        Zxid(self.tail_zxid)
    }

    pub fn tail_hash(&self) -> ChainHash {
        ChainHash(self.tail_hash)
    }

    pub fn committed_zxid(&self) -> Zxid {
        Zxid(self.committed_zxid)
    }
}
