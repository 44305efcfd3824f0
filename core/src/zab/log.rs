//! The history of one shard on one server: appended, durable, committed.
//!
//! The log knows entries by zxid and hash only; what they mean is the state's business. It keeps
//! every entry that is not yet applied and a window of those before, so that a learner that is a
//! little behind gets a DIFF from memory.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::base::id::{ChainHash, Epoch, Sequence, ShardId, Zxid};
use crate::base::limits::{
    EPOCH_ENDS_MAX, HISTORY_BYTES, HISTORY_ENTRIES, IN_FLIGHT_BYTES, IN_FLIGHT_BYTES_OF_ALL,
    PINNED_BYTES_MAX, SNAPSHOT_ENTRIES, UNWRITTEN_BYTES_OF_ALL,
};
use crate::control::{Checkpoint, Control, SnapshotReference};
use crate::durable::{Durable, LogMark, Record};
use crate::entry::Entry;

/// A place in the history: an entry's zxid and its chain hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mark {
    pub zxid: Zxid,
    pub hash: ChainHash,
}

/// What storage found at start: the durable past of one shard.
#[derive(Clone, Debug)]
pub struct Restored {
    pub shard: ShardId,
    pub next_sequence: Sequence,
    pub accepted_epoch: Epoch,
    pub current_epoch: Epoch,
    /// Known to be committed; at or after `base`.
    pub committed: Zxid,
    /// What comes before the first entry: a snapshot, or nothing at all.
    pub base: Mark,
    pub entries: Vec<Entry>,
    /// The newest snapshot that the log speaks of. It is after `base` if it turned out to be
    /// damaged: replay passes its point again, and makes it anew.
    pub snapshot: Zxid,
    /// Some of the past could not be read: what is not here may have been here.
    pub is_unknown: bool,
}

impl Restored {
    /// A shard in which nothing has happened.
    pub fn nothing(shard: ShardId) -> Self {
        let nothing = Checkpoint::empty(shard);
        Self::new(&nothing, &nothing.snapshot, Vec::new())
    }

    /// The past on top of one of the snapshots that the checkpoint speaks of.
    pub fn new(checkpoint: &Checkpoint, base: &SnapshotReference, entries: Vec<Entry>) -> Self {
        let base = Mark { zxid: Zxid(base.zxid), hash: ChainHash(base.hash) };
        Self {
            shard: checkpoint.shard(),
            next_sequence: checkpoint.next_sequence(),
            accepted_epoch: checkpoint.accepted_epoch(),
            current_epoch: checkpoint.current_epoch(),
            committed: checkpoint.committed_zxid().max(base.zxid),
            base,
            entries,
            snapshot: Zxid(checkpoint.snapshot.zxid),
            is_unknown: checkpoint.unknown,
        }
    }
}

/// How much of a shard's history stays where. A simulation chooses small numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogLimits {
    /// A snapshot point is logged after so many entries.
    pub snapshot_entries: u64,
    /// Entries kept in memory behind the applied ones, so that a learner gets a DIFF.
    pub window_entries: usize,
    /// Bytes of them.
    pub window_bytes: usize,
    /// Bytes kept while learners are behind, because they need what comes next.
    pub pinned_bytes_max: usize,
    /// Bytes sent to such a learner before it has said that it holds those before; and requests to
    /// a leader before it has answered those before.
    pub in_flight_bytes: usize,
    /// Bytes of proposals that a disk may be behind.
    pub unwritten_bytes_max: u64,
}

/// Why an entry does not continue this log. The peer that sent it has broken the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gap {
    /// The entry's previous hash is not the hash of the tail.
    Hash {
        tail: Zxid,
        entry: Zxid,
    },
    /// The entry's zxid does not follow the tail's, or an epoch does not begin with its own entry.
    Zxid {
        tail: Zxid,
        entry: Zxid,
    },
    OtherShard,
}

pub struct Log {
    shard: ShardId,
    limits: LogLimits,
    base: Mark,
    entries: VecDeque<Entry>,
    entry_bytes: usize,
    accepted_epoch: Epoch,
    current_epoch: Epoch,
    /// Never moves back; at most the tail.
    committed: Zxid,
    next_sequence: Sequence,
    /// Where the log stands after each record that is not yet durable, oldest first.
    in_flight: VecDeque<(Sequence, Position)>,
    durable: Position,
    /// The truncation or installation that is not durable yet, and where it ends: what the disk
    /// holds beyond is void, and says nothing about the entries that replace it.
    cut: Option<(Sequence, Zxid)>,
    /// The last entry of each epoch, ascending, the tail's included; and of some that are no longer
    /// kept.
    epoch_ends: Vec<Mark>,
    /// The newest snapshot that this log speaks of. It never lies beyond the commit watermark, so
    /// that no truncation can void it.
    snapshot: Zxid,
    /// Entries or promises may be missing, until a leader's history has taken their place.
    is_unknown: bool,
}

/// What a server may claim at some point of its log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    pub tail: Mark,
    pub accepted_epoch: Epoch,
    pub current_epoch: Epoch,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            snapshot_entries: SNAPSHOT_ENTRIES,
            window_entries: HISTORY_ENTRIES,
            window_bytes: HISTORY_BYTES,
            pinned_bytes_max: PINNED_BYTES_MAX,
            in_flight_bytes: IN_FLIGHT_BYTES,
            unwritten_bytes_max: UNWRITTEN_BYTES_OF_ALL,
        }
    }
}

impl LogLimits {
    /// What the shards of one link may send together without being told to go on.
    pub fn of_one_in(shards: u16) -> Self {
        let share = IN_FLIGHT_BYTES_OF_ALL / usize::from(shards);
        Self {
            in_flight_bytes: share.min(IN_FLIGHT_BYTES),
            unwritten_bytes_max: UNWRITTEN_BYTES_OF_ALL / u64::from(shards),
            ..Self::default()
        }
    }
}

impl Log {
    pub fn new(restored: Restored, limits: LogLimits) -> Self {
        let mut log = Self {
            shard: restored.shard,
            limits,
            base: restored.base,
            entries: VecDeque::new(),
            entry_bytes: 0,
            accepted_epoch: restored.accepted_epoch,
            current_epoch: restored.current_epoch,
            committed: restored.committed.max(restored.base.zxid),
            next_sequence: restored.next_sequence,
            in_flight: VecDeque::new(),
            durable: Position::default(),
            cut: None,
            epoch_ends: Vec::new(),
            snapshot: restored.snapshot.max(restored.base.zxid),
            is_unknown: restored.is_unknown,
        };
        if restored.base.zxid != Zxid::ZERO {
            log.epoch_ends.push(restored.base);
        }
        for entry in restored.entries {
            log.follows(&entry).expect("recovery hands over an unbroken chain");
            log.push(entry);
        }
        log.durable = log.position();
        assert!(log.committed <= log.tail().zxid, "the committed past is in the log");
        assert!(log.snapshot <= log.committed, "only committed state is in a snapshot");
        assert!(log.accepted_epoch >= log.current_epoch, "EpochMonotone");
        log
    }

    /// Appends an entry in memory; the caller hands the record to storage.
    pub fn append(&mut self, entry: Entry) -> Result<(Sequence, Record), Gap> {
        self.follows(&entry)?;
        self.push(entry.clone());
        Ok((self.take_sequence(), Record::Entry(entry)))
    }

    /// Accepts an epoch: no lower one will be listened to again.
    pub fn accept_epoch(&mut self, epoch: Epoch) -> (Sequence, Record) {
        assert!(epoch >= self.accepted_epoch, "EpochMonotone: accepted epochs never fall");
        self.accepted_epoch = epoch;
        (self.take_sequence(), Record::Control(Control::AcceptedEpoch { epoch: epoch.0 }))
    }

    /// Enters an epoch: the history is that of its leader.
    pub fn enter_epoch(&mut self, epoch: Epoch) -> (Sequence, Record) {
        assert!(epoch == self.accepted_epoch, "an epoch is accepted before it is entered");
        assert!(epoch >= self.current_epoch, "EpochMonotone: current epochs never fall");
        self.current_epoch = epoch;
        self.is_unknown = false;
        (self.take_sequence(), Record::Control(Control::CurrentEpoch { epoch: epoch.0 }))
    }

    /// Drops every entry after `to`, which must be in the log and not below the commit watermark.
    pub fn truncate(&mut self, to: Mark) -> (Sequence, Record) {
        assert!(to.zxid >= self.committed, "a committed entry is never truncated");
        assert!(to.zxid >= self.snapshot, "no snapshot lies beyond a truncation");
        assert_eq!(self.find(to.zxid), Some(to.hash), "a truncation ends at a common entry");
        while let Some(dropped) = self.entries.pop_back_if(|entry| entry.zxid() > to.zxid) {
            self.entry_bytes -= dropped.bytes().len();
        }
        let last = self.entries.back().map_or(self.base.zxid, Entry::zxid);
        assert_eq!(last, to.zxid, "the target is in the log");
        self.epoch_ends.retain(|end| end.zxid < to.zxid);
        if to.zxid != Zxid::ZERO {
            self.epoch_ends.retain(|end| end.zxid.epoch() != to.zxid.epoch());
            self.epoch_ends.push(to);
        }
        assert_eq!(self.tail(), to);
        let control = Control::Truncate { zxid: to.zxid.0, hash: to.hash.0 };
        let sequence = self.take_sequence();
        let end = self.cut.map_or(to.zxid, |(_, end)| end.min(to.zxid));
        self.cut = Some((sequence, end));
        (sequence, Record::Control(control))
    }

    /// Replaces the whole history by the snapshot at `at`.
    pub fn install(&mut self, at: Mark, digest: u128) -> (Sequence, Record) {
        assert!(at.zxid >= self.committed, "a snapshot never takes a committed entry away");
        self.entries.clear();
        self.entry_bytes = 0;
        self.base = at;
        self.epoch_ends.clear();
        self.epoch_ends.push(at);
        self.committed = at.zxid;
        self.snapshot = at.zxid;
        let control = Control::Install { zxid: at.zxid.0, hash: at.hash.0, digest };
        let sequence = self.take_sequence();
        let end = self.cut.map_or(at.zxid, |(_, end)| end.min(at.zxid));
        self.cut = Some((sequence, end));
        (sequence, Record::Control(control))
    }

    /// Records that a verified snapshot of the state at `at` is on this disk.
    pub fn snapshot_taken(&mut self, at: Mark, digest: u128) -> (Sequence, Record) {
        assert!(at.zxid <= self.committed, "only committed state is in a snapshot");
        assert!(at.zxid >= self.snapshot, "snapshots are taken in order");
        self.snapshot = at.zxid;
        let control = Control::SnapshotTaken { zxid: at.zxid.0, hash: at.hash.0, digest };
        (self.take_sequence(), Record::Control(control))
    }

    pub fn on_durable(&mut self, mark: Durable<LogMark>) {
        let LogMark { shard, sequence } = mark.value();
        assert_eq!(shard, self.shard);
        assert!(sequence < self.next_sequence, "nothing is durable before it is appended");
        while let Some(&(oldest, position)) = self.in_flight.front() {
            if oldest > sequence {
                break;
            }
            self.durable = position;
            self.in_flight.pop_front();
        }
        if self.cut.is_some_and(|(cut, _)| cut <= sequence) {
            self.cut = None;
        }
    }

    /// Moves the commit watermark; never back, and never beyond the tail.
    pub fn commit(&mut self, zxid: Zxid) {
        assert!(zxid <= self.tail().zxid, "only what is in the log can be committed");
        self.committed = self.committed.max(zxid);
    }

    /// Drops entries that nobody needs any more: those up to `until`, which are applied, beyond the
    /// window.
    pub fn trim(&mut self, until: Zxid) {
        let until = until.min(self.applicable());
        // They are looked at before any is dropped: memory that is in no cache any more comes for
        // all of them at once.
        let mut dropped = 0;
        for oldest in &self.entries {
            if !self.exceeds_window(dropped) || oldest.zxid() > until {
                break;
            }
            self.entry_bytes -= oldest.bytes().len();
            dropped += 1;
        }
        if let Some(newest) = self.entries.drain(..dropped).next_back() {
            self.base = Mark { zxid: newest.zxid(), hash: newest.hash() };
            let unneeded = self.epoch_ends.partition_point(|end| end.zxid < self.base.zxid);
            let beyond = self.epoch_ends.len().saturating_sub(EPOCH_ENDS_MAX);
            self.epoch_ends.drain(..unneeded.min(beyond));
        }
    }

    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Asked for very often: it is the end of the newest epoch, so that no entry is looked at.
    pub fn tail(&self) -> Mark {
        self.epoch_ends.last().copied().unwrap_or_default()
    }

    pub fn base(&self) -> Mark {
        self.base
    }

    pub fn committed(&self) -> Zxid {
        self.committed
    }

    /// The zxid up to which entries may be applied: committed, and durable on this disk.
    pub fn applicable(&self) -> Zxid {
        self.committed.min(self.durable_zxid())
    }

    /// Whether more is kept in memory than is good for this server, and more than it would keep for
    /// itself.
    pub fn is_overfull(&self) -> bool {
        self.exceeds_window(0) && self.entry_bytes > self.limits.pinned_bytes_max
    }

    /// Whether this server may have forgotten something that it promised.
    pub fn is_unknown(&self) -> bool {
        self.is_unknown
    }

    /// The newest snapshot that this log speaks of.
    pub fn snapshot(&self) -> Zxid {
        self.snapshot
    }

    /// The end of what a crash of this process would leave.
    pub fn durable(&self) -> Position {
        self.durable
    }

    /// Where the log ends in memory, what is not durable included.
    pub fn position(&self) -> Position {
        Position {
            tail: self.tail(),
            accepted_epoch: self.accepted_epoch,
            current_epoch: self.current_epoch,
        }
    }

    /// The last entry of this log that is durable.
    pub fn durable_zxid(&self) -> Zxid {
        let durable = self.durable.tail.zxid;
        self.cut.map_or(durable, |(_, end)| durable.min(end))
    }

    /// Whether everything appended is durable.
    pub fn is_quiet(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub fn accepted_epoch(&self) -> Epoch {
        self.accepted_epoch
    }

    pub fn current_epoch(&self) -> Epoch {
        self.current_epoch
    }

    /// The hash of the entry at `zxid`, or of the base.
    pub fn find(&self, zxid: Zxid) -> Option<ChainHash> {
        if zxid == self.base.zxid {
            return Some(self.base.hash);
        }
        let index = self.index_of(zxid)?;
        Some(self.entries[index].hash())
    }

    /// The entries after `zxid`, which is in the log or its base.
    pub fn after(&self, zxid: Zxid) -> impl Iterator<Item = &Entry> {
        let start = if zxid == self.base.zxid {
            0
        } else {
            self.index_of(zxid).map_or(self.entries.len(), |index| index + 1)
        };
        self.entries.iter().skip(start)
    }

    /// The entries that are kept with a higher zxid, whether that is in the log or not.
    pub fn entries_after(&self, zxid: Zxid) -> impl Iterator<Item = &Entry> {
        self.entries.iter().skip(self.place_after(zxid))
    }

    /// Where the entries after `zxid` begin.
    fn place_after(&self, zxid: Zxid) -> usize {
        // Counters of an epoch have no gaps, so that most places are known without a search through
        // what the processor has long forgotten.
        let tail = self.tail().zxid;
        if tail.epoch() == zxid.epoch() && zxid <= tail {
            let behind = usize::try_from(tail.counter() - zxid.counter()).expect("32 bits fit");
            return self.entries.len().saturating_sub(behind);
        }
        self.entries.partition_point(|entry| entry.zxid() <= zxid)
    }

    /// The last entry of each epoch in the log, ascending; and of some before.
    pub fn epoch_ends(&self) -> &[Mark] {
        &self.epoch_ends
    }

    /// The last entry of this log whose epoch is `epoch`, or of the newest epoch before it.
    pub fn end_of_epoch(&self, epoch: Epoch) -> Option<Mark> {
        self.epoch_ends.iter().rev().find(|end| end.zxid.epoch() <= epoch).copied()
    }

    pub(super) fn unwritten_bytes_max(&self) -> u64 {
        self.limits.unwritten_bytes_max
    }

    /// How far the next step of a learner goes that holds everything up to `from`.
    pub(super) fn step_end(&self, from: Zxid) -> Zxid {
        let mut bytes = 0;
        let mut end = from;
        for entry in self.after(from) {
            if bytes > self.limits.in_flight_bytes {
                break;
            }
            bytes += entry.bytes().len();
            end = entry.zxid();
        }
        end
    }

    /// Whether more is kept than the limits say, were the oldest `dropped` entries gone. Their
    /// bytes are not counted any more.
    fn exceeds_window(&self, dropped: usize) -> bool {
        let LogLimits { window_entries, window_bytes, .. } = self.limits;
        self.entries.len() - dropped > window_entries || self.entry_bytes > window_bytes
    }

    fn index_of(&self, zxid: Zxid) -> Option<usize> {
        let place = self.place_after(zxid).checked_sub(1)?;
        (self.entries[place].zxid() == zxid).then_some(place)
    }

    fn follows(&self, entry: &Entry) -> Result<(), Gap> {
        let tail = self.tail();
        if entry.shard() != self.shard {
            return Err(Gap::OtherShard);
        }
        if entry.previous() != tail.hash {
            return Err(Gap::Hash { tail: tail.zxid, entry: entry.zxid() });
        }
        if entry.may_follow(tail.zxid) {
            Ok(())
        } else {
            Err(Gap::Zxid { tail: tail.zxid, entry: entry.zxid() })
        }
    }

    fn push(&mut self, entry: Entry) {
        let mark = Mark { zxid: entry.zxid(), hash: entry.hash() };
        match self.epoch_ends.last_mut() {
            Some(last) if last.zxid.epoch() == mark.zxid.epoch() => *last = mark,
            _ => self.epoch_ends.push(mark),
        }
        self.entry_bytes += entry.bytes().len();
        self.entries.push_back(entry);
    }

    fn take_sequence(&mut self) -> Sequence {
        let sequence = self.next_sequence;
        self.next_sequence = sequence.next();
        self.in_flight.push_back((sequence, self.position()));
        sequence
    }
}
