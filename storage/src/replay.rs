//! One shard's history, put together from the streams in which it was written.
//!
//! A history is a list of *runs*: entries without a gap. As long as nothing is damaged there is
//! one. After a gap only a checkpoint says where the shard stands, and a new run begins there.

use alloc::vec::Vec;

use pigeonhole_core::base::id::{ChainHash, Epoch, Sequence, ShardId, Zxid};
use pigeonhole_core::control::{Checkpoint, Control, SnapshotReference};
use pigeonhole_core::durable::Record;
use pigeonhole_core::entry::Entry;

use crate::shard_log::{Misstep, ShardLog};

/// One shard as it can go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoveredShard {
    /// The shard's state at the end of what is known.
    pub checkpoint: Checkpoint,
    /// The newest snapshot from which `entries` lead to the tail; zxid 0 is the empty tree.
    pub base: SnapshotReference,
    /// An older one, in case that the newest turns out to be damaged.
    pub fallback: Option<SnapshotReference>,
    /// The entries after the older of the two, truncations done. They may be uncommitted.
    pub entries: Vec<Entry>,
    /// If records were lost, from where.
    pub unknown: Option<Unknown>,
}

/// The replica must not be taken for one that never had what follows `after`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unknown {
    pub after: Zxid,
    /// Where the history went on to, if a later checkpoint proves it.
    pub tail: Option<(Zxid, ChainHash)>,
}

/// What has been read of one shard so far.
pub(crate) struct Replay {
    log: ShardLog,
    runs: Vec<Run>,
    trust: Trust,
}

/// How the next record relates to what was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trust {
    /// Everything was read.
    Following,
    /// Something of the stream was not readable; it may or may not have concerned this shard.
    Doubtful,
    /// Records of this shard are missing.
    Lost,
}

/// Entries that follow each other.
struct Run {
    /// What the first entry follows.
    floor: (Zxid, ChainHash),
    entries: Vec<Entry>,
}

impl Replay {
    /// Begins with the first checkpoint that is left of the shard.
    pub(crate) fn new(checkpoint: Checkpoint) -> Self {
        Self {
            log: ShardLog::new(checkpoint),
            runs: Vec::from([Run::new(&checkpoint)]),
            trust: Trust::Following,
        }
    }

    /// A segment begins. Within a stream its checkpoint must say what was read, if all was read; a
    /// new boot's checkpoint is what that boot has found and gone on from.
    pub(crate) fn on_checkpoint(&mut self, found: &Checkpoint, boots: bool) -> Result<(), Misstep> {
        let state = *self.log.checkpoint();
        // A damaged batch may have held nothing of the shard but a watermark.
        let same = Checkpoint { committed_zxid: state.committed_zxid, ..*found } == state;
        if same && found.committed_zxid >= state.committed_zxid {
            self.log = ShardLog::new(*found);
            self.trust = Trust::Following;
            return Ok(());
        }
        if self.trust == Trust::Following && !boots {
            return Err(Misstep::Checkpoint);
        }
        self.log = ShardLog::new(*found);
        self.trust = Trust::Following;
        self.go_on_from(found.tail_zxid(), found.tail_hash());
        Ok(())
    }

    /// The next record of the shard that was readable.
    pub(crate) fn on_record(&mut self, sequence: Sequence, record: Record) -> Result<(), Misstep> {
        if self.trust == Trust::Doubtful {
            let contiguous = sequence == self.log.checkpoint().next_sequence();
            self.trust = if contiguous { Trust::Following } else { Trust::Lost };
        }
        if self.trust == Trust::Lost {
            if let Record::Control(Control::AcceptedEpoch { epoch }) = record {
                self.log.accept(Epoch(epoch));
            }
            return Ok(());
        }
        self.log.follow(sequence, &record)?;
        match record {
            Record::Entry(entry) => self.run().entries.push(entry),
            Record::Control(Control::Truncate { zxid, hash }) => {
                self.go_on_from(Zxid(zxid), ChainHash(hash));
            }
            Record::Control(Control::Install { .. }) => {
                self.runs = Vec::from([Run::new(self.log.checkpoint())]);
            }
            Record::Control(Control::SnapshotTaken { .. }) => self.forget_before_snapshots(),
            Record::Control(_) => {}
        }
        Ok(())
    }

    /// The shard is known to be committed so far.
    pub(crate) fn on_watermark(&mut self, zxid: Zxid) -> Result<(), Misstep> {
        match self.trust {
            Trust::Following => self.log.commit(zxid),
            // It may be a watermark of entries that were not readable.
            Trust::Doubtful | Trust::Lost => Ok(()),
        }
    }

    /// Something of the shard's stream was not readable.
    pub(crate) fn on_damage(&mut self) {
        if self.trust == Trust::Following {
            self.trust = Trust::Doubtful;
        }
    }

    /// A stream of an unknown set of shards goes on with this shard, and its beginning is missing.
    pub(crate) fn on_lost(&mut self) {
        self.trust = Trust::Lost;
    }

    /// What a replica can begin with.
    pub(crate) fn finish(mut self) -> RecoveredShard {
        let mut checkpoint = *self.log.checkpoint();
        let proven = (checkpoint.tail_zxid(), checkpoint.tail_hash());
        let complete = self.trust == Trust::Following;
        let (base, run) = self.base(&checkpoint);
        let tail = run.tail();
        let whole = tail == proven;
        let older = checkpoint.snapshot_before;
        let fallback = (older.zxid < base.zxid && run.holds(&older)).then_some(older);
        let first = fallback.unwrap_or(base);
        let mut entries = run.entries;
        entries.retain(|entry| entry.zxid().0 > first.zxid);
        (checkpoint.tail_zxid, checkpoint.tail_hash) = (tail.0.0, tail.1.0);
        checkpoint.committed_zxid = checkpoint.committed_zxid.min(tail.0.0);
        checkpoint.unknown |= !whole || !complete;
        let unknown = checkpoint
            .unknown
            .then_some(Unknown { after: tail.0, tail: (!whole).then_some(proven) });
        RecoveredShard { checkpoint, base, fallback, entries, unknown }
    }

    /// The history goes on behind a point: everything read behind it is void. If the point was not
    /// read, there is a gap, and a new run.
    fn go_on_from(&mut self, zxid: Zxid, hash: ChainHash) {
        let point = SnapshotReference { zxid: zxid.0, hash: hash.0, digest: 0 };
        match self.runs.iter().rposition(|run| run.holds(&point)) {
            Some(place) => {
                self.runs.truncate(place + 1);
                self.run().truncate(zxid);
            }
            None => self.runs.push(Run::after(&point)),
        }
    }

    /// Replay begins at one of the two snapshots, so that the entries before them need no memory.
    fn forget_before_snapshots(&mut self) {
        let oldest = self.log.checkpoint().snapshot_before;
        let run = self.run();
        if oldest.zxid > run.floor.0.0 && run.holds(&oldest) {
            run.entries.retain(|entry| entry.zxid().0 > oldest.zxid);
            run.floor = (Zxid(oldest.zxid), ChainHash(oldest.hash));
        }
    }

    /// Where replay begins: the newest snapshot that lies on what was read, and the run on which it
    /// lies.
    fn base(&mut self, checkpoint: &Checkpoint) -> (SnapshotReference, Run) {
        let newest = checkpoint.snapshot;
        let older = checkpoint.snapshot_before;
        if let Some(place) = self.runs.iter().rposition(|run| run.holds(&newest)) {
            return (newest, self.runs.swap_remove(place));
        }
        match self.runs.pop_if(|run| run.holds(&older)) {
            Some(run) => (older, run),
            // The state in the snapshot is all that is known.
            None => (newest, Run::after(&newest)),
        }
    }

    fn run(&mut self) -> &mut Run {
        self.runs.last_mut().expect("there is always a run")
    }
}

impl Run {
    fn new(checkpoint: &Checkpoint) -> Self {
        Self { floor: (checkpoint.tail_zxid(), checkpoint.tail_hash()), entries: Vec::new() }
    }

    fn after(point: &SnapshotReference) -> Self {
        Self { floor: (Zxid(point.zxid), ChainHash(point.hash)), entries: Vec::new() }
    }

    fn tail(&self) -> (Zxid, ChainHash) {
        self.entries.last().map_or(self.floor, |entry| (entry.zxid(), entry.hash()))
    }

    /// Whether the point lies on this run; its entries are in the order of their zxids.
    fn holds(&self, point: &SnapshotReference) -> bool {
        let wanted = (Zxid(point.zxid), ChainHash(point.hash));
        let found = self.entries.binary_search_by_key(&wanted.0, Entry::zxid);
        self.floor == wanted || found.is_ok_and(|place| self.entries[place].hash() == wanted.1)
    }

    fn truncate(&mut self, zxid: Zxid) {
        let keep = self.entries.partition_point(|entry| entry.zxid() <= zxid);
        self.entries.truncate(keep);
    }
}

/// A shard of which nothing is left in the log.
pub(crate) fn empty(shard: ShardId, unknown: bool) -> RecoveredShard {
    let mut replay = Replay::new(Checkpoint::empty(shard));
    if unknown {
        replay.on_damage();
    }
    replay.finish()
}
