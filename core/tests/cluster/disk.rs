//! A server's disk: its records in order, its snapshot files, and what a boot makes of them.

use std::collections::BTreeMap;

use pigeonhole_core::base::id::{ChainHash, Epoch, Sequence, ShardId, Zxid};
use pigeonhole_core::control::{Control, SnapshotReference};
use pigeonhole_core::durable::Record;
use pigeonhole_core::effect::SnapshotJob;
use pigeonhole_core::entry::Entry;
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::state::State;
use pigeonhole_core::state::image::ImageReader;
use pigeonhole_core::zab::admission::Identity;
use pigeonhole_core::zab::log::{Mark, Restored};

pub(crate) struct Disk {
    pub(crate) identity: Identity,
    map: ShardMap,
    shards: BTreeMap<ShardId, ShardDisk>,
    files: BTreeMap<(ShardId, Zxid, u128), Image>,
}

/// One snapshot file.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) chunks: Vec<Vec<u8>>,
}

#[derive(Default)]
struct ShardDisk {
    records: Vec<(Sequence, Record)>,
    /// As of the last record; newer knowledge is in memory only.
    committed: Zxid,
    noted: Zxid,
    tail: Zxid,
    /// What came behind so many records was lost.
    damaged_at: Option<usize>,
}

/// What the records of a shard lead to.
#[derive(Default)]
struct Replay {
    accepted: Epoch,
    current: Epoch,
    newest: SnapshotReference,
    older: SnapshotReference,
    entries: Vec<Entry>,
}

impl Image {
    pub(crate) fn write(job: SnapshotJob) -> Self {
        let mut writer = job.into_image();
        let mut chunks = vec![];
        loop {
            let mut chunk = vec![];
            let goes_on = writer.next_chunk(&mut chunk);
            if !chunk.is_empty() {
                chunks.push(chunk);
            }
            if !goes_on {
                return Self { chunks };
            }
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.chunks.concat()
    }

    fn read(&self, map: ShardMap) -> Option<State> {
        let mut reader = ImageReader::new(3);
        for chunk in &self.chunks {
            reader.on_chunk(chunk).ok()?;
        }
        State::from_image(reader.finish().ok()?, map).ok()
    }
}

impl Disk {
    pub(crate) fn new(map: ShardMap, identity: Identity) -> Self {
        let shards = map.shards().map(|shard| (shard, ShardDisk::default()));
        Self { identity, map, shards: shards.collect(), files: BTreeMap::new() }
    }

    pub(crate) fn append(&mut self, shard: ShardId, sequence: Sequence, record: Record) {
        let disk = self.shards.get_mut(&shard).expect("a shard of the cluster");
        let expected = disk.records.last().map_or(Sequence(1), |(last, _)| last.next());
        assert_eq!(sequence, expected, "records are numbered without a gap");
        if let Record::Control(Control::Truncate { zxid, .. } | Control::Install { zxid, .. }) =
            record
        {
            assert!(disk.committed.0 <= zxid, "what is committed is never voided");
            disk.noted = Zxid::ZERO;
        }
        disk.tail = match &record {
            Record::Entry(entry) => entry.zxid(),
            Record::Control(Control::Truncate { zxid, .. } | Control::Install { zxid, .. }) => {
                Zxid(*zxid)
            }
            Record::Control(_) => disk.tail,
        };
        disk.records.push((sequence, record));
        disk.committed = disk.committed.max(disk.noted.min(disk.tail));
    }

    pub(crate) fn note_committed(&mut self, shard: ShardId, zxid: Zxid) {
        let disk = self.shards.get_mut(&shard).expect("a shard of the cluster");
        disk.noted = disk.noted.max(zxid);
    }

    pub(crate) fn publish(&mut self, shard: ShardId, zxid: Zxid, digest: u128, image: Image) {
        self.files.insert((shard, zxid, digest), image);
    }

    /// The zxids of the snapshots that the log names, the newest first.
    pub(crate) fn named(&self, shard: ShardId) -> [Zxid; 2] {
        let replay = self.shards[&shard].replay();
        [Zxid(replay.newest.zxid), Zxid(replay.older.zxid)]
    }

    /// Where the log of a shard ends.
    pub(crate) fn tail(&self, shard: ShardId) -> Zxid {
        self.shards[&shard].tail
    }

    /// Turns a byte of a shard's newest snapshot over.
    pub(crate) fn damage_newest(&mut self, shard: ShardId) {
        let newest = self.shards[&shard].replay().newest;
        let key = (shard, Zxid(newest.zxid), newest.digest);
        let image = self.files.get_mut(&key).expect("there is a snapshot");
        // In the header's digest, where the reader must notice; files have checksums besides.
        image.chunks[0][40] ^= 1;
    }

    /// The last records of every shard become unreadable.
    pub(crate) fn damage_tail(&mut self, records: usize) {
        for disk in self.shards.values_mut() {
            let left = disk.records.len() - records;
            disk.records.truncate(left);
            disk.damaged_at = Some(left);
            disk.committed = Zxid::ZERO;
        }
    }

    /// What a boot begins with.
    pub(crate) fn restore(&mut self) -> Vec<(State, Restored)> {
        let mut restored = vec![];
        for (&shard, disk) in &mut self.shards {
            disk.noted = Zxid::ZERO;
            let replay = disk.replay();
            let references = [replay.newest, replay.older];
            let intact = references.into_iter().find_map(|reference| {
                if reference.zxid == 0 {
                    return Some((State::new(shard, self.map), reference));
                }
                let key = (shard, Zxid(reference.zxid), reference.digest);
                let state = self.files.get(&key)?.read(self.map)?;
                Some((state, reference))
            });
            let (state, base) = intact.expect("one of two snapshots is intact");
            restored.push((state, replay.restored(shard, disk, base)));
        }
        restored
    }
}

impl ShardDisk {
    /// Until a leader has settled the history.
    fn is_unknown(&self) -> bool {
        let settles = |record: &Record| {
            matches!(
                record,
                Record::Control(Control::CurrentEpoch { .. } | Control::Install { .. })
            )
        };
        let later = self.damaged_at.map(|at| &self.records[at..]);
        later.is_some_and(|later| !later.iter().any(|(_, record)| settles(record)))
    }

    fn replay(&self) -> Replay {
        let mut replay = Replay::default();
        for (_, record) in &self.records {
            match record {
                Record::Entry(entry) => replay.entries.push(entry.clone()),
                Record::Control(control) => replay.on_control(control),
            }
        }
        replay
    }
}

impl Replay {
    fn on_control(&mut self, control: &Control) {
        match *control {
            Control::AcceptedEpoch { epoch } => self.accepted = Epoch(epoch),
            Control::CurrentEpoch { epoch } => self.current = Epoch(epoch),
            Control::Truncate { zxid, .. } => {
                assert!(self.newest.zxid <= zxid, "no snapshot lies beyond a truncation");
                self.entries.retain(|entry| entry.zxid().0 <= zxid);
            }
            Control::Install { zxid, hash, digest } => {
                self.entries.clear();
                self.newest = SnapshotReference { zxid, hash, digest };
                self.older = self.newest;
            }
            Control::SnapshotTaken { zxid, hash, digest } => {
                assert!(zxid >= self.newest.zxid, "snapshots are taken in order");
                if zxid > self.newest.zxid {
                    self.older = self.newest;
                }
                self.newest = SnapshotReference { zxid, hash, digest };
                // What is before the older one is recycled.
                let older = self.older.zxid;
                self.entries.retain(|entry| entry.zxid().0 > older);
            }
        }
    }

    fn restored(self, shard: ShardId, disk: &ShardDisk, base: SnapshotReference) -> Restored {
        let next_sequence = disk.records.last().map_or(Sequence(1), |(last, _)| last.next());
        let entries = self.entries.into_iter().filter(|entry| entry.zxid().0 > base.zxid);
        Restored {
            shard,
            next_sequence,
            accepted_epoch: self.accepted,
            current_epoch: self.current,
            committed: disk.committed.max(Zxid(self.newest.zxid)),
            base: Mark { zxid: Zxid(base.zxid), hash: ChainHash(base.hash) },
            entries: entries.collect(),
            snapshot: Zxid(self.newest.zxid),
            is_unknown: disk.is_unknown(),
        }
    }
}
