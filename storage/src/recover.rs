//! The files of all streams → the state and the history of every shard.
//!
//! Streams are read in the order of their boots; a shard lives in one stream per boot, so that this
//! is the order of its records. Nothing is written: what was found becomes the first batch of the
//! next boot, and until that is durable another recovery finds the same.
//!
//! Damage never reads as absence. A shard that may have had records in an unreadable place, and for
//! which nothing later proves the contrary, is *unknown* from there on, and stays so in the log of
//! the next boots until a leader has settled its history.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::fmt;

use pigeonhole_core::base::id::{ChainHash, CoreId, Sequence, ShardId, Zxid};
use pigeonhole_core::control::{Checkpoint, Seal, SnapshotReference, StreamEnd};
use pigeonhole_core::durable::Record;
use pigeonhole_core::entry::Entry;

use crate::batch::{Batch, BatchHeader, Content, LOG_FORMAT};
use crate::disk::SegmentId;
use crate::record::{RecordFault, Stored};
use crate::replay::{self, Replay};
pub use crate::replay::{RecoveredShard, Unknown};
use crate::scan::{Ending, Newer, Place, Scan, SegmentFile, Step, Unreadable};
use crate::segment::{LiveSegment, ShardSpan};
use crate::shard_log::Misstep;

/// What can be chosen about recovery.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RecoverConfig<'a> {
    /// Take a torn tail for corruption, too: its shards are unknown, although nothing in a torn
    /// batch can have been promised for longer than the seal's delay.
    pub strict_tail: bool,
    /// What of the files is not what they hold.
    pub unreadable: &'a [Unreadable],
}

/// What the log says.
#[derive(Debug)]
pub struct Recovered {
    /// The number of the boot that begins now.
    pub next_boot: u64,
    pub shards: BTreeMap<ShardId, RecoveredShard>,
    /// What every stream of the next boot begins with.
    pub seal: Seal,
    /// Segments that hold accepted batches, for retention.
    pub segments: Vec<LiveSegment>,
    /// Segments that hold nothing, with their sizes: they may be renamed at once.
    pub recyclable: Vec<(SegmentId, u64)>,
    pub streams: Vec<StreamReport>,
}

/// What has become of one stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamReport {
    /// The last accepted batch.
    pub end: StreamEnd,
    pub ending: Ending,
    /// What was not readable before that.
    pub damages: Vec<Place>,
}

/// Why nothing can be begun with this directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecoverError {
    NewerFormat {
        place: Place,
        found: u16,
        supported: u16,
    },
    /// Intact bytes that this program cannot read, or that no correct program writes.
    Unreadable {
        place: Place,
        fault: RecordFault,
    },
    /// Intact records that do not follow from each other.
    Inconsistent {
        place: Place,
        shard: ShardId,
        misstep: Misstep,
    },
    /// A stream is not the one that a later boot has sealed, or one file was given twice.
    Foreign {
        segment: SegmentId,
    },
}

/// Reads the whole log. `shards` are those that this node holds: each gets an answer even if the
/// log has nothing of it.
pub fn recover(
    config: RecoverConfig<'_>,
    files: &[(SegmentId, &[u8])],
    shards: &[ShardId],
) -> Result<Recovered, RecoverError> {
    let streams = sort(files)?;
    let sealed = Sealed::find(&streams)?;
    let mut recovery = Recovery {
        config,
        replays: BTreeMap::new(),
        boot: BootState::default(),
        lost_stream: false,
        segments: Vec::new(),
        recyclable: Vec::new(),
        reports: Vec::new(),
    };
    for (&(boot, core), files) in &streams {
        recovery.begin_boot(boot);
        recovery.read_stream(files, sealed.end_of(boot, core))?;
    }
    recovery.end_boot();
    let newest = files.iter().map(|(id, _)| id.boot).max().unwrap_or(0);
    Ok(recovery.finish(shards, newest + 1))
}

/// The files of each stream, by boot and core.
type Streams<'a> = BTreeMap<(u64, CoreId), Vec<SegmentFile<'a>>>;

/// What is known of the ends of older streams.
#[derive(Default)]
struct Sealed {
    /// The boot that has sealed every older one; 0 for none.
    by: u64,
    ends: BTreeMap<(u64, CoreId), StreamEnd>,
}

/// What goes on while the files are read.
struct Recovery<'a> {
    config: RecoverConfig<'a>,
    replays: BTreeMap<ShardId, Replay>,
    boot: BootState,
    /// A stream was lost before it was known which shards it had.
    lost_stream: bool,
    segments: Vec<LiveSegment>,
    recyclable: Vec<(SegmentId, u64)>,
    reports: Vec<StreamReport>,
}

/// What goes on while the streams of one boot are read.
#[derive(Default)]
struct BootState {
    boot: u64,
    /// The shards that were seen in the streams before this one.
    seen: BTreeSet<ShardId>,
    /// One of the streams was damaged, and no segment of it began readably.
    lost_stream: bool,
}

/// What goes on while one stream is read.
#[derive(Default)]
struct StreamState {
    shards: BTreeSet<ShardId>,
    /// Any segment's checkpoints were read, so that the shards are known.
    opened: bool,
    damages: Vec<Place>,
    live: BTreeMap<u64, LiveSegment>,
}

impl Sealed {
    /// Looks for the newest boot that got so far as to seal the older ones.
    ///
    /// A boot whose first segments have been recycled has outlived all older streams: what is left
    /// of those are files that wait to be used again.
    fn find(streams: &Streams<'_>) -> Result<Self, RecoverError> {
        let mut outlived = 0;
        for (&(boot, _), files) in streams.iter().rev() {
            if boot < outlived {
                break;
            }
            let first = files.first().expect("a stream has files");
            let Some(batch) = opening(first) else {
                continue;
            };
            if first.id.number > 1 {
                outlived = boot;
                continue;
            }
            let place = Place { segment: first.id, offset: 0 };
            let unreadable = |fault| RecoverError::Unreadable { place, fault };
            let content = batch.read().map_err(unreadable)?;
            if let Some(Stored::Seal(seal)) = content.records.into_iter().next() {
                let end = |end: StreamEnd| ((end.boot, CoreId(end.core)), end);
                return Ok(Self { by: boot, ends: seal.streams.into_iter().map(end).collect() });
            }
            return Err(unreadable(RecordFault::Malformed));
        }
        Ok(Self { by: outlived, ends: BTreeMap::new() })
    }

    /// Where a stream was accepted to end; `None` if no later boot has said.
    fn end_of(&self, boot: u64, core: CoreId) -> Option<StreamEnd> {
        let nothing = StreamEnd { boot, core: core.0, ..StreamEnd::default() };
        (boot < self.by).then(|| self.ends.get(&(boot, core)).copied().unwrap_or(nothing))
    }
}

impl Recovery<'_> {
    fn begin_boot(&mut self, boot: u64) {
        if boot != self.boot.boot {
            self.end_boot();
            self.boot.boot = boot;
        }
    }

    /// Every shard had a stream in this boot; if one of the streams is lost with the names of its
    /// shards, it may have been that of any shard that is in no other.
    fn end_boot(&mut self) {
        if self.boot.lost_stream {
            let seen = &self.boot.seen;
            let unseen = self.replays.iter_mut().filter(|(shard, _)| !seen.contains(shard));
            unseen.for_each(|(_, replay)| replay.on_damage());
            self.lost_stream = true;
        }
        self.boot = BootState::default();
    }

    fn read_stream(
        &mut self,
        files: &[SegmentFile<'_>],
        sealed: Option<StreamEnd>,
    ) -> Result<(), RecoverError> {
        let newer = |Newer { place, format }| RecoverError::NewerFormat {
            place,
            found: format,
            supported: LOG_FORMAT,
        };
        let mut scan =
            Scan::new(files, self.config.unreadable, sealed.map(|end| end.batch)).map_err(newer)?;
        let mut stream = StreamState::default();
        let ending = loop {
            match scan.next() {
                Step::Batch(batch) => self.on_batch(&mut stream, files, &batch)?,
                Step::Damage(place) => self.on_damage(&mut stream, place),
                Step::End(ending) => break ending,
            }
        };
        if let (Ending::Torn(place), true) = (ending, self.config.strict_tail) {
            self.on_damage(&mut stream, place);
        }
        let end = scan.last();
        let fork = sealed.is_some_and(|seal| seal.batch == end.batch && seal.hash != end.hash);
        if fork {
            let segment = scan.place().segment;
            return Err(RecoverError::Foreign { segment });
        }
        self.end_stream(stream, files, end, ending);
        Ok(())
    }

    fn on_batch(
        &mut self,
        stream: &mut StreamState,
        files: &[SegmentFile<'_>],
        batch: &Batch<'_>,
    ) -> Result<(), RecoverError> {
        let place =
            Place { segment: batch.header.place.segment, offset: batch.header.place.offset };
        let unreadable = |fault| RecoverError::Unreadable { place, fault };
        let Content { records, watermarks } = batch.read().map_err(unreadable)?;
        stream.on_segment(files, place.segment);
        stream.opened |= place.offset == 0;
        for stored in records {
            let inconsistent =
                |shard, misstep| RecoverError::Inconsistent { place, shard, misstep };
            match stored {
                Stored::Seal(_) => {}
                Stored::Checkpoint(found) => {
                    let shard = found.shard();
                    self.on_checkpoint(stream, &found).map_err(|why| inconsistent(shard, why))?;
                }
                Stored::Step { shard, sequence, record } => {
                    stream.cover(place.segment, shard, sequence, &record);
                    let replay = self.replay(stream, shard);
                    replay.on_record(sequence, record).map_err(|why| inconsistent(shard, why))?;
                }
            }
        }
        for (shard, zxid) in watermarks {
            let replay = self.replay(stream, shard);
            let misstep = replay.on_watermark(zxid);
            misstep.map_err(|misstep| RecoverError::Inconsistent { place, shard, misstep })?;
        }
        Ok(())
    }

    fn on_checkpoint(
        &mut self,
        stream: &mut StreamState,
        found: &Checkpoint,
    ) -> Result<(), Misstep> {
        let shard = found.shard();
        if self.boot.seen.contains(&shard) {
            return Err(Misstep::Stream);
        }
        let first = stream.shards.insert(shard);
        match self.replays.get_mut(&shard) {
            Some(replay) => replay.on_checkpoint(found, first),
            None => {
                self.replays.insert(shard, Replay::new(*found));
                Ok(())
            }
        }
    }

    fn on_damage(&mut self, stream: &mut StreamState, place: Place) {
        stream.damages.push(place);
        for shard in &stream.shards {
            let replay = self.replays.get_mut(shard).expect("a stream's shards are replayed");
            replay.on_damage();
        }
    }

    /// The replay of a shard that has a record in this stream. If its checkpoint here was damaged,
    /// nothing says what the record follows.
    fn replay(&mut self, stream: &mut StreamState, shard: ShardId) -> &mut Replay {
        let replay =
            self.replays.entry(shard).or_insert_with(|| Replay::new(Checkpoint::empty(shard)));
        if stream.shards.insert(shard) {
            replay.on_lost();
        }
        replay
    }

    fn end_stream(
        &mut self,
        mut stream: StreamState,
        files: &[SegmentFile<'_>],
        end: StreamEnd,
        ending: Ending,
    ) {
        self.boot.lost_stream |= !stream.opened && !stream.damages.is_empty();
        self.boot.seen.append(&mut stream.shards);
        for file in files {
            let bytes = file.bytes.len() as u64;
            match stream.live.remove(&file.id.number) {
                Some(live) => self.segments.push(live),
                // After damage a file is kept even if nothing in it was readable: until the next
                // boot has written down what is unknown, it is the only proof of it.
                None if matches!(ending, Ending::Lost(_)) || !stream.damages.is_empty() => {
                    self.segments.push(LiveSegment::new(file.id, bytes));
                }
                None => self.recyclable.push((file.id, bytes)),
            }
        }
        self.reports.push(StreamReport { end, ending, damages: stream.damages });
    }

    fn finish(self, shards: &[ShardId], next_boot: u64) -> Recovered {
        let mut recovered: BTreeMap<ShardId, RecoveredShard> =
            self.replays.into_iter().map(|(shard, replay)| (shard, replay.finish())).collect();
        for &shard in shards {
            let unknown = self.lost_stream;
            recovered.entry(shard).or_insert_with(|| replay::empty(shard, unknown));
        }
        let ends = self.reports.iter().map(|report| report.end);
        Recovered {
            next_boot,
            shards: recovered,
            seal: Seal { streams: ends.collect() },
            segments: self.segments,
            recyclable: self.recyclable,
            streams: self.reports,
        }
    }
}

impl StreamState {
    fn on_segment(&mut self, files: &[SegmentFile<'_>], segment: SegmentId) {
        let file = files.iter().find(|file| file.id == segment).expect("a batch is in a file");
        let bytes = file.bytes.len() as u64;
        let live = || LiveSegment::new(segment, bytes);
        self.live.entry(segment.number).or_insert_with(live);
    }

    fn cover(&mut self, segment: SegmentId, shard: ShardId, sequence: Sequence, record: &Record) {
        let live = self.live.get_mut(&segment.number).expect("the segment is known by now");
        live.cover(shard, &ShardSpan::of(sequence, record));
    }
}

impl RecoveredShard {
    /// Begins anew, because no snapshot that the entries follow could be read. The epochs are still
    /// promised, and the replica is unknown: what it held must come from its peers.
    pub fn forget_unreadable(&mut self) {
        let tail = (Zxid(self.checkpoint.tail_zxid), ChainHash(self.checkpoint.tail_hash));
        self.unknown = Some(Unknown { after: Zxid::ZERO, tail: Some(tail) });
        self.checkpoint = Checkpoint {
            next_sequence: self.checkpoint.next_sequence,
            accepted_epoch: self.checkpoint.accepted_epoch,
            current_epoch: self.checkpoint.current_epoch,
            unknown: true,
            ..Checkpoint::empty(self.checkpoint.shard())
        };
        self.base = SnapshotReference::default();
        self.fallback = None;
        self.entries.clear();
    }

    /// The entries to replay on top of one of the two snapshots.
    pub fn entries_after(&self, base: &SnapshotReference) -> &[Entry] {
        let first = self.entries.partition_point(|entry| entry.zxid().0 <= base.zxid);
        &self.entries[first..]
    }
}

impl fmt::Display for RecoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NewerFormat { place, found, supported } => write!(
                f,
                "{place} has log format {found}; this program reads formats up to {supported}"
            ),
            Self::Unreadable { place, fault } => write!(f, "{place} is not readable: {fault:?}"),
            Self::Inconsistent { place, shard, misstep } => {
                write!(f, "{place} does not follow in shard {shard}: {misstep:?}")
            }
            Self::Foreign { segment } => write!(f, "{segment} does not belong to this log"),
        }
    }
}

impl core::error::Error for RecoverError {}

/// Sorts the files into streams.
fn sort<'a>(files: &[(SegmentId, &'a [u8])]) -> Result<Streams<'a>, RecoverError> {
    let mut streams = Streams::new();
    for &(id, bytes) in files {
        // Boots and segments count from 1; the ends of the range would leave no room for the next.
        let counted = 1..u64::MAX;
        if !counted.contains(&id.boot) || !counted.contains(&id.number) {
            return Err(RecoverError::Foreign { segment: id });
        }
        let stream = streams.entry((id.boot, id.core)).or_default();
        stream.push(SegmentFile { id, bytes });
    }
    for files in streams.values_mut() {
        files.sort_by_key(|file| file.id);
        let twice = files.array_windows().find(|[one, other]| one.id == other.id);
        if let Some([file, _]) = twice {
            return Err(RecoverError::Foreign { segment: file.id });
        }
    }
    Ok(streams)
}

/// The batch with which a segment begins, if it is intact.
fn opening<'a>(file: &SegmentFile<'a>) -> Option<Batch<'a>> {
    let header = BatchHeader::read(file.bytes).ok()?;
    let own = header.place.segment == file.id && header.place.offset == 0;
    header.check(file.bytes).filter(|_| own)
}
