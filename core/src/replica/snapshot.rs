//! Snapshots: every replica freezes its state at the points that are in the log, and at no others.
//!
//! So all of them make the same bytes, which can be compared and repaired piece by piece. Only
//! applied state is frozen, which is committed: no snapshot is ever ahead of a truncation.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use crate::base::id::{ChainHash, ShardId, Zxid};
use crate::base::time::Now;
use crate::entry::EntryKind;
use crate::peer::message::{Forward, PeerMessage, WriteAsk};
use crate::replica::{Deed, Replica};
use crate::state::State;
use crate::state::image::{self, Frozen, ImageWriter};
use crate::zab::log::Mark;

/// One shard's state at one point, to be made a file of. The driver writes it, reads it back,
/// publishes it by renaming, and only then says that it was taken.
pub struct SnapshotJob {
    pub shard: ShardId,
    pub zxid: Zxid,
    /// The chain hash of the entry at that point.
    pub hash: ChainHash,
    /// The replica serves nobody until the file is there: it goes before others.
    pub is_urgent: bool,
    /// Once that is over, the job need not be done, and nobody need hear of it.
    pub interest: Interest,
    /// Apart, because every deed has the size of the largest.
    frozen: Box<Frozen>,
}

/// Whether a replica still waits for a snapshot. It stops when another leader sends it another
/// state, for one: many large states could be under way to the disk otherwise, each for nothing.
#[derive(Clone, Debug)]
pub struct Interest(Weak<()>);

/// A snapshot that a replica waits for, for as long as it keeps this.
pub(super) struct Awaited {
    pub(super) at: Mark,
    _interest: Arc<()>,
}

impl Interest {
    pub fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl SnapshotJob {
    pub(super) fn new(
        shard: ShardId,
        at: Mark,
        frozen: Frozen,
        is_urgent: bool,
    ) -> (Awaited, Self) {
        let awaited = Awaited { at, _interest: Arc::new(()) };
        let interest = Interest(Arc::downgrade(&awaited._interest));
        let (zxid, hash, frozen) = (at.zxid, at.hash, frozen.into());
        (awaited, Self { shard, zxid, hash, is_urgent, interest, frozen })
    }

    /// Takes the job that is to be done next out of those that wait: what a replica serves nobody
    /// without goes first. Those that nobody waits for any more are dropped.
    pub fn take_next<T>(waiting: &mut VecDeque<T>, job_of: impl Fn(&T) -> &Self) -> Option<T> {
        waiting.retain(|it| job_of(it).interest.is_alive());
        let urgent = waiting.iter().position(|it| job_of(it).is_urgent);
        waiting.remove(urgent.unwrap_or(0))
    }

    /// The bytes, chunk by chunk. Where there are many sessions this takes a while: it belongs
    /// where the chunks are made, not into a turn.
    pub fn into_image(self) -> ImageWriter {
        self.frozen.into_image()
    }
}

/// A state that another has replaced, to be dropped beside everything else: a large one takes tens
/// of milliseconds.
pub struct Discarded(pub(super) Box<State>);

impl core::fmt::Debug for Discarded {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Discarded({})", self.0.applied())
    }
}

impl core::fmt::Debug for SnapshotJob {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SnapshotJob({}@{})", self.shard, self.zxid)
    }
}

impl Replica {
    /// The log should become shorter: asks the leader for a point.
    pub fn on_snapshot_wanted(&mut self, now: Now, deeds: &mut Vec<Deed>) {
        if self.snapshotting.is_some() {
            return;
        }
        if self.reign.is_some() {
            self.propose_point();
        } else if let Some(leader) = self.served {
            let forward = Forward {
                epoch: self.zab.log().current_epoch().0,
                origin: crate::txn::Origin::default(),
                session: 0,
                generation: 0,
                attachment_zxid: 0,
                identities: Vec::new(),
                ask: WriteAsk::SnapshotPoint,
            };
            self.send(leader, PeerMessage::Forward(forward), deeds);
        }
        self.settle(now, deeds);
    }

    /// A file with the state at this point is verified and durable on this disk.
    pub fn on_snapshot_taken(&mut self, now: Now, at: Mark, digest: u128, deeds: &mut Vec<Deed>) {
        if self.is_received(at) {
            self.install(now, digest, deeds);
        } else if self.is_snapshotting(at) {
            self.snapshotting = None;
            self.zab.snapshot_taken(at, digest, &mut self.actions);
        }
        // Otherwise it was overtaken by a leader's snapshot, or the leader is gone: the file is one
        // that nothing speaks of.
        self.settle(now, deeds);
    }

    /// The file could not be made, for want of room most likely. The next point is another chance;
    /// a state that was received is kept meanwhile, for its leader has no other to send.
    pub fn on_snapshot_abandoned(&mut self, now: Now, at: Mark, deeds: &mut Vec<Deed>) {
        if self.is_snapshotting(at) {
            self.snapshotting = None;
        }
        if self.is_received(at) {
            self.store_later(now.instant);
        }
        self.settle(now, deeds);
    }

    /// A point is applied. While an earlier snapshot is being made, it is passed by.
    pub(super) fn on_snapshot_point(&mut self, at: Mark, payload: &[u8], deeds: &mut Vec<Deed>) {
        self.entries_since_point = 0;
        if let Some(reign) = &mut self.reign {
            reign.is_point_proposed = false;
        }
        // During replay, points before the newest snapshot have been taken long ago.
        let is_new = at.zxid >= self.zab.log().snapshot();
        if self.snapshotting.is_some() || !is_new || payload != image::FORMAT.to_le_bytes() {
            return;
        }
        let (awaited, job) = SnapshotJob::new(self.shard(), at, self.state.freeze(), false);
        self.snapshotting = Some(awaited);
        deeds.push(Deed::Snapshot(job));
    }

    fn is_snapshotting(&self, at: Mark) -> bool {
        self.snapshotting.as_ref().is_some_and(|awaited| awaited.at == at)
    }

    /// Logs a point when it is time for one.
    pub(super) fn propose_due_point(&mut self) {
        if self.reign.is_some() && self.entries_since_point >= self.config.log.snapshot_entries {
            self.propose_point();
        }
    }

    /// One point at a time, and none while this server still works on the last one.
    pub(super) fn propose_point(&mut self) {
        let busy = self.snapshotting.is_some();
        let Some(reign) = &mut self.reign else {
            return;
        };
        if busy || reign.is_point_proposed {
            return;
        }
        reign.is_point_proposed = true;
        let payload = image::FORMAT.to_le_bytes();
        let kind = EntryKind::SnapshotPoint;
        self.zab.propose(kind, &payload, &mut self.actions);
    }
}
