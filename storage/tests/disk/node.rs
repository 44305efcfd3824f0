//! A node whose cores write random histories, crash, recover and go on; and what must hold then.

use std::collections::{BTreeMap, BTreeSet};

use pigeonhole_core::base::id::{
    ChainHash, CoreId, Epoch, LinkId, Sequence, ServerId, ShardId, Zxid,
};
use pigeonhole_core::base::prng::Prng;
use pigeonhole_core::base::time::{Duration, Instant};
use pigeonhole_core::control::{Checkpoint, Control, SnapshotReference};
use pigeonhole_core::durable::{Append, Record, Rider};
use pigeonhole_core::entry::{Entry, EntryKind};
use pigeonhole_storage::disk::{DiskDone, DiskOp, LogBuffer};
use pigeonhole_storage::recover::{RecoverConfig, RecoverError, Recovered, recover};
use pigeonhole_storage::retain::{Holdings, retain};
use pigeonhole_storage::segment::LiveSegment;
use pigeonhole_storage::wal::{Released, Wal, WalConfig};

use super::Disk;

pub(crate) const SEGMENT_BYTES: u64 = 64 << 10;
pub(crate) const BUFFER_BYTES: usize = 24 << 10;

/// What a shard has been told to log, in order, and how much of that it was promised.
#[derive(Clone, Default)]
pub(crate) struct History {
    pub(crate) records: Vec<Record>,
    /// How many of them are durable, by marks or riders.
    pub(crate) promised: usize,
    pub(crate) noted: u64,
    /// Every entry ever, those that were cut off included.
    pub(crate) appended: BTreeSet<ChainHash>,
}

/// What a history amounts to, computed without the code under test.
#[derive(Default, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) accepted: u32,
    pub(crate) current: u32,
    pub(crate) entries: Vec<Entry>,
    pub(crate) snapshot: SnapshotReference,
    pub(crate) snapshot_before: SnapshotReference,
}

pub(crate) struct Node {
    pub(crate) disk: Disk,
    pub(crate) random: Prng,
    pub(crate) histories: BTreeMap<ShardId, History>,
    pub(crate) wals: Vec<Wal>,
    /// The core of each shard in this boot.
    pub(crate) places: BTreeMap<ShardId, usize>,
    /// Taken from a log and not yet carried out, per core.
    pending: Vec<Vec<DiskOp>>,
    boot: u64,
    /// Segments of older boots that have not been given up.
    older: Vec<LiveSegment>,
    now: Instant,
    memory: Vec<LogBuffer>,
    rider_order: BTreeMap<LinkId, u64>,
    riders: u64,
    pub(crate) counters: Counters,
}

/// Proof that the dangerous states were reached.
#[derive(Default, Debug, Clone, Copy)]
pub(crate) struct Counters {
    pub(crate) crashes: u64,
    pub(crate) rolled: u64,
    pub(crate) seals: u64,
    pub(crate) spilled: u64,
    pub(crate) recycled: u64,
    pub(crate) truncations: u64,
    pub(crate) released: u64,
    pub(crate) snapshots: u64,
}

impl History {
    pub(crate) fn outcome(&self, count: usize) -> Outcome {
        let mut outcome = Outcome::default();
        for record in &self.records[..count] {
            match record {
                Record::Entry(entry) => outcome.entries.push(entry.clone()),
                Record::Control(Control::AcceptedEpoch { epoch }) => outcome.accepted = *epoch,
                Record::Control(Control::CurrentEpoch { epoch }) => outcome.current = *epoch,
                Record::Control(Control::Truncate { zxid, .. }) => {
                    outcome.entries.retain(|entry| entry.zxid().0 <= *zxid);
                }
                Record::Control(Control::SnapshotTaken { zxid, hash, digest }) => {
                    outcome.snapshot_before = outcome.snapshot;
                    outcome.snapshot = reference(*zxid, *hash, *digest);
                }
                Record::Control(Control::Install { zxid, hash, digest }) => {
                    outcome.entries.clear();
                    outcome.snapshot = reference(*zxid, *hash, *digest);
                    outcome.snapshot_before = outcome.snapshot;
                }
            }
        }
        outcome
    }
}

fn reference(zxid: u64, hash: u128, digest: u128) -> SnapshotReference {
    SnapshotReference { zxid, hash, digest }
}

impl Outcome {
    /// Where the log stands: at the last entry, or at the snapshot before it.
    pub(crate) fn tail(&self) -> (Zxid, ChainHash) {
        let installed = (Zxid(self.snapshot.zxid), ChainHash(self.snapshot.hash));
        self.entries.last().map_or(installed, |entry| (entry.zxid(), entry.hash()))
    }

    /// What is left to replay on top of a snapshot.
    pub(crate) fn entries_after(&self, base: &SnapshotReference) -> Vec<Entry> {
        let later = self.entries.iter().filter(|entry| entry.zxid().0 > base.zxid);
        later.cloned().collect()
    }
}

impl Node {
    pub(crate) fn new(seed: u64, memory: Vec<LogBuffer>) -> Self {
        let mut random = Prng::new(seed);
        let shards = 1 + random.below(5);
        let shards = (0..u16::try_from(shards).unwrap()).map(ShardId);
        Self {
            disk: Disk::default(),
            random,
            histories: shards.map(|shard| (shard, History::default())).collect(),
            wals: Vec::new(),
            places: BTreeMap::new(),
            pending: Vec::new(),
            boot: 0,
            older: Vec::new(),
            now: Instant(0),
            memory,
            rider_order: BTreeMap::new(),
            riders: 0,
            counters: Counters::default(),
        }
    }

    pub(crate) fn recover(&self) -> Result<Recovered, RecoverError> {
        let shards: Vec<_> = self.histories.keys().copied().collect();
        recover(RecoverConfig::default(), &self.disk.segments(), &shards)
    }

    /// Starts with another number of cores and another placement.
    pub(crate) fn boot(&mut self, recovered: &Recovered) {
        let cores = 1 + usize::try_from(self.random.below(3)).unwrap();
        let config = WalConfig { segment_bytes: SEGMENT_BYTES, seal_delay: Duration::from_ms(5) };
        let mut checkpoints: Vec<Vec<Checkpoint>> = vec![Vec::new(); cores];
        self.places.clear();
        for (&shard, found) in &recovered.shards {
            let core = usize::try_from(self.random.below(cores as u64)).unwrap();
            checkpoints[core].push(found.checkpoint);
            self.places.insert(shard, core);
        }
        for (core, checkpoints) in checkpoints.into_iter().enumerate() {
            let secret = u128::from(self.random.next_u64());
            let core = CoreId(u8::try_from(core).unwrap());
            let seal = recovered.seal.clone();
            let mut wal = Wal::new(config, recovered.next_boot, core, secret, checkpoints, seal);
            // Memory must not draw: a seed has to do the same alone and behind others.
            for id in 0..2 {
                let buffer = self.memory.pop().unwrap_or_else(|| LogBuffer {
                    id,
                    bytes: Box::leak(vec![0xee; BUFFER_BYTES].into_boxed_slice()),
                });
                wal.lend(LogBuffer { id, ..buffer });
            }
            self.wals.push(wal);
        }
        for &(segment, bytes) in &recovered.recyclable {
            let core = usize::try_from(self.random.below(cores as u64)).unwrap();
            self.wals[core].release_segment(segment, bytes);
            self.counters.recycled += 1;
        }
        self.boot = recovered.next_boot;
        self.older.clone_from(&recovered.segments);
        self.pending = self.wals.iter().map(|_| Vec::new()).collect();
    }

    /// One of the things that can happen next, drawn.
    pub(crate) fn step(&mut self) {
        let core = usize::try_from(self.random.below(self.wals.len() as u64)).unwrap();
        match self.random.below(10) {
            0..4 => self.append(),
            4 if self.random.chance(1, 4) => self.release_unneeded(),
            // The seal of the older streams is durable with the first batch of any core.
            4 if self.random.chance(1, 8) && self.wals.iter().any(Wal::is_open) => self.disk.heal(),
            4 => self.note(),
            5..7 => {
                self.now = Instant(self.now.0 + self.random.below(3000));
                self.wals[core].turn_end(self.now);
            }
            _ => {
                self.disk_works(core);
            }
        }
    }

    /// Everything asked of the disk is done, and the idle seals as well.
    pub(crate) fn settle(&mut self) {
        for core in 0..self.wals.len() {
            loop {
                self.now = Instant(self.now.0 + 100);
                self.wals[core].turn_end(self.now);
                if !self.disk_works(core) {
                    match self.wals[core].deadline() {
                        Some(deadline) => {
                            self.counters.seals += 1;
                            self.now = deadline;
                        }
                        None => break,
                    }
                }
            }
            assert!(self.wals[core].is_idle(), "the disk has done everything");
        }
    }

    /// The power goes; the logs are gone, and their operations were done in part.
    pub(crate) fn crash(&mut self) {
        self.counters.crashes += 1;
        for (mut wal, mut pending) in
            std::mem::take(&mut self.wals).into_iter().zip(std::mem::take(&mut self.pending))
        {
            pending.extend(std::iter::from_fn(|| wal.next_op()));
            for operation in pending {
                self.memory.extend(self.disk.lose_power(operation, &mut self.random));
            }
            self.memory.extend(wal.into_buffers());
        }
        self.rider_order.clear();
    }

    pub(crate) fn into_memory(mut self) -> Vec<LogBuffer> {
        self.crash();
        self.memory
    }

    /// Takes one pending operation and carries it out; false if there is none.
    fn disk_works(&mut self, core: usize) -> bool {
        while let Some(operation) = self.wals[core].next_op() {
            self.pending[core].push(operation);
        }
        if self.pending[core].is_empty() {
            return false;
        }
        let place = usize::try_from(self.random.below(self.pending[core].len() as u64)).unwrap();
        let operation = self.pending[core].remove(place);
        if let DiskOp::Write { segment, offset: 0, .. } = &operation {
            self.counters.rolled += u64::from(segment.number > 1);
        }
        let done: DiskDone = self.disk.perform(operation);
        let mut released = Released::default();
        self.wals[core].on_done(done, self.now, &mut released);
        for mark in released.marks {
            let mark = mark.value();
            let count = usize::try_from(mark.sequence.0).unwrap();
            self.promise(mark.shard, count);
        }
        for (link, frame) in released.frames {
            let number = |at: usize| u64::from_le_bytes(frame[at..at + 8].try_into().unwrap());
            let shard = ShardId(u16::try_from(number(0)).unwrap());
            let order = self.rider_order.entry(link).or_default();
            assert!(number(16) > *order, "riders leave in append order");
            *order = number(16);
            self.promise(shard, usize::try_from(number(8)).unwrap());
        }
        true
    }

    /// Gives up every segment that nothing needs any more.
    fn release_unneeded(&mut self) {
        if !self.wals.iter().all(Wal::is_open) {
            return;
        }
        let checkpoints: Vec<_> =
            self.wals.iter().flat_map(Wal::durable_checkpoints).copied().collect();
        let current = self.wals.iter().flat_map(Wal::segments).cloned();
        let segments: Vec<_> = self.older.iter().cloned().chain(current).collect();
        let retention = retain(&Holdings {
            boot: self.boot,
            checkpoints: &checkpoints,
            segments: &segments,
            snapshots: &[],
            log_bytes_max: 0,
        });
        for (segment, bytes) in retention.segments {
            self.counters.released += 1;
            self.older.retain(|older| older.id != segment);
            let core = if segment.boot == self.boot {
                usize::from(segment.core.0)
            } else {
                usize::try_from(self.random.below(self.wals.len() as u64)).unwrap()
            };
            self.wals[core].release_segment(segment, bytes);
        }
    }

    fn promise(&mut self, shard: ShardId, count: usize) {
        let history = self.histories.get_mut(&shard).unwrap();
        assert!(count <= history.records.len(), "only what was appended is promised");
        history.promised = history.promised.max(count);
    }

    fn append(&mut self) {
        let shards = self.histories.len() as u64;
        let shard = ShardId(u16::try_from(self.random.below(shards)).unwrap());
        let record = self.draw_record(shard);
        let history = self.histories.get_mut(&shard).unwrap();
        self.counters.truncations +=
            u64::from(matches!(record, Record::Control(Control::Truncate { .. })));
        if let Record::Control(Control::Install { zxid, .. }) = record {
            history.noted = zxid;
        }
        if let Record::Entry(entry) = &record {
            history.appended.insert(entry.hash());
        }
        history.records.push(record.clone());
        let count = history.records.len() as u64;
        let mut riders = Vec::new();
        for _ in 0..self.random.below(3) {
            self.riders += 1;
            let mut frame = Vec::new();
            for number in [u64::from(shard.0), count, self.riders] {
                frame.extend(number.to_le_bytes());
            }
            let peer = ServerId(1 + u8::try_from(self.random.below(2)).unwrap());
            let core = self.places[&shard];
            let link = LinkId { peer, core: CoreId(u8::try_from(core).unwrap()), incarnation: 1 };
            let cumulative = self.random.chance(1, 2);
            riders.push(Rider { link, cumulative, frame });
        }
        let wal = &mut self.wals[self.places[&shard]];
        wal.append(Append { shard, sequence: Sequence(count), record, riders });
        self.counters.spilled += u64::from(wal.backlog_bytes() > 0);
    }

    fn draw_record(&mut self, shard: ShardId) -> Record {
        let history = &self.histories[&shard];
        let outcome = history.outcome(history.records.len());
        let (tail, hash) = outcome.tail();
        let choice = self.random.below(20);
        if choice == 0 || outcome.accepted == 0 {
            return Record::Control(Control::AcceptedEpoch { epoch: outcome.accepted + 1 });
        }
        if choice == 1 && outcome.current < outcome.accepted {
            return Record::Control(Control::CurrentEpoch { epoch: outcome.accepted });
        }
        if choice == 2 && !outcome.entries.is_empty() {
            let back = self.random.below(4).min(outcome.entries.len() as u64 - 1);
            let target =
                &outcome.entries[outcome.entries.len() - 1 - usize::try_from(back).unwrap()];
            if target.zxid().0 >= history.noted {
                return Record::Control(Control::Truncate {
                    zxid: target.zxid().0,
                    hash: target.hash().0,
                });
            }
        }
        if choice == 3 || choice == 4 {
            let committed = |entry: &&Entry| {
                entry.zxid().0 <= history.noted && entry.zxid().0 > outcome.snapshot.zxid
            };
            if let Some(point) = outcome.entries.iter().rev().find(committed) {
                self.counters.snapshots += 1;
                return Record::Control(Control::SnapshotTaken {
                    zxid: point.zxid().0,
                    hash: point.hash().0,
                    digest: u128::from(self.random.next_u64()),
                });
            }
        }
        if choice == 5 && self.random.chance(1, 4) && outcome.accepted > 0 {
            let from = tail.0.saturating_sub(self.random.below(5)).max(history.noted);
            let zxid = Zxid(from).max(Zxid::new(Epoch(outcome.accepted), 0));
            return Record::Control(Control::Install {
                zxid: zxid.0 + self.random.below(5),
                hash: u128::from(self.random.next_u64()),
                digest: u128::from(self.random.next_u64()),
            });
        }
        let length = match self.random.below(20) {
            0 => self.random.below(12_000),
            1..4 => self.random.below(2000),
            _ => self.random.below(100),
        };
        let fill = u8::try_from(self.random.below(256)).unwrap();
        let payload = vec![fill; usize::try_from(length).unwrap()];
        let begins = tail.epoch().0 < outcome.accepted;
        let (kind, zxid) = if begins {
            (EntryKind::EpochStart, Zxid::new(Epoch(outcome.accepted), 1))
        } else {
            (EntryKind::Txn, tail.next())
        };
        Record::Entry(Entry::new(kind, shard, zxid, hash, &payload))
    }

    fn note(&mut self) {
        let shards = self.histories.len() as u64;
        let shard = ShardId(u16::try_from(self.random.below(shards)).unwrap());
        let history = self.histories.get_mut(&shard).unwrap();
        let outcome = history.outcome(history.records.len());
        if outcome.entries.is_empty() {
            return;
        }
        let place = self.random.below(outcome.entries.len() as u64);
        let zxid = outcome.entries[usize::try_from(place).unwrap()].zxid();
        // A quorum elsewhere may have it although this disk has not: a truncation of it will not
        // come any more, but a crash may still cut it off here.
        history.noted = history.noted.max(zxid.0);
        self.wals[self.places[&shard]].note_committed(shard, zxid);
    }
}
