//! The log of one core: appends in, disk operations out, promises released when they are durable.
//!
//! Group commit is clocked by the disk itself. An idle log writes what a turn has appended as soon
//! as the turn ends; while that write is under way, appends fill the next batch, and its completion
//! sends all of it. One write at a time, and no block is ever written twice: so a batch proves that
//! every batch before it was durable, and riders and marks of a batch can leave as one.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::mem;

use pigeonhole_core::base::id::{CoreId, LinkId, Sequence, ShardId, Zxid};
use pigeonhole_core::base::limits::{
    BATCH_BYTES_TARGET, LOG_BLOCK_BYTES, LOG_BUFFER_BYTES, SEAL_DELAY_MS, SEGMENT_BYTES, SHARDS_MAX,
};
use pigeonhole_core::base::time::{Duration, Instant};
use pigeonhole_core::control::{ArchivedCheckpoint, Checkpoint, Control, Seal};
use pigeonhole_core::durable::{Append, Durable, LogMark, Record};

use crate::batch::{BATCH_HEADER_BYTES, BatchPlace, ClosedBatch, OpenBatch, WATERMARK_BYTES};
use crate::disk::{DiskDone, DiskOp, LogBuffer, SegmentId};
use crate::record::{self, RecordKind};
use crate::segment::{LiveSegment, SegmentLine, ShardSpan};
use crate::shard_log::ShardLog;

/// What can be chosen about a log. A simulation chooses small segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalConfig {
    pub segment_bytes: u64,
    /// How long after the last write of a busy spell an empty batch proves it complete.
    pub seal_delay: Duration,
}

/// One core's log of one boot.
pub struct Wal {
    config: WalConfig,
    /// Drawn for this stream; it makes its batches unforgeable (see [`crate::batch`]).
    secret: u128,
    line: SegmentLine,
    shards: BTreeMap<ShardId, Shard>,
    /// Known to be committed and not yet written down.
    noted: BTreeMap<ShardId, Zxid>,
    /// The accepted ends of older streams, until the first batch takes them along.
    seal: Option<Seal>,
    buffers: Vec<LogBuffer>,
    open: Option<OpenBatch>,
    /// What did not fit into the open batch; the caller bounds it.
    queue: VecDeque<Append>,
    queue_bytes: usize,
    flight: Option<Flight>,
    /// The last batch that was sent.
    number: u64,
    hash: u128,
    opened: bool,
    /// When the last write was done, if no seal has proved it complete since.
    unsealed_since: Option<Instant>,
    retention_changes: u64,
    operations: VecDeque<DiskOp>,
}

/// What may happen now that bytes are durable. The caller empties and reuses it.
#[derive(Default, Debug)]
pub struct Released {
    /// How far the log of each shard of the batch is durable.
    pub marks: Vec<Durable<LogMark>>,
    /// Riders, in append order.
    pub frames: Vec<(LinkId, Vec<u8>)>,
}

/// One shard of the stream.
struct Shard {
    /// After the last record that was put into a batch.
    log: ShardLog,
    /// After the last durable batch. As only one write is under way at a time, this is also the
    /// state before the batch that will be sent next.
    durable: Checkpoint,
}

/// The write that is under way.
struct Flight {
    segment: SegmentId,
    offset: u64,
    buffer: u32,
    kind: BatchKind,
    marks: Vec<LogMark>,
    riders: Vec<(LinkId, Vec<u8>)>,
    /// The state of the shards at the end of the batch, where it has changed.
    states: Vec<Checkpoint>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum BatchKind {
    /// Checkpoints, at the beginning of a segment.
    Opening,
    Records,
    /// Empty: proves that the batch before it was durable.
    Seal,
}

impl Default for WalConfig {
    fn default() -> Self {
        Self { segment_bytes: SEGMENT_BYTES, seal_delay: Duration::from_ms(SEAL_DELAY_MS) }
    }
}

impl Wal {
    /// Begins a stream. `boot`, `checkpoints` and `seal` are what recovery has found, the
    /// checkpoints being those of the shards that live on this core; `secret` is random.
    ///
    /// Every core's stream carries its own copy of the seal in its first batch, so that no promise
    /// of this boot can become durable before the ends of the older streams are.
    pub fn new(
        config: WalConfig,
        boot: u64,
        core: CoreId,
        secret: u128,
        checkpoints: Vec<Checkpoint>,
        seal: Seal,
    ) -> Self {
        assert!(checkpoints.len() <= usize::from(SHARDS_MAX), "shards are bounded");
        let mut shards = BTreeMap::new();
        for checkpoint in checkpoints {
            let shard = Shard { log: ShardLog::new(checkpoint), durable: checkpoint };
            let earlier = shards.insert(checkpoint.shard(), shard);
            assert!(earlier.is_none(), "a shard has one checkpoint");
        }
        let line = SegmentLine::new(boot, core, config.segment_bytes);
        let wal = Self {
            config,
            secret,
            line,
            shards,
            noted: BTreeMap::new(),
            seal: Some(seal),
            buffers: Vec::new(),
            open: None,
            queue: VecDeque::new(),
            queue_bytes: 0,
            flight: None,
            number: 0,
            hash: 0,
            opened: false,
            unsealed_since: None,
            retention_changes: 0,
            operations: VecDeque::new(),
        };
        let first = wal.opening_bytes() + wal.seal_bytes();
        assert!(first as u64 <= config.segment_bytes, "a segment holds its first batch");
        assert!(wal.capacity() >= 2 * LOG_BLOCK_BYTES, "a segment holds more than its checkpoints");
        wal
    }

    /// Lends memory for batches: two buffers at least, one to fill while the other is written.
    pub fn lend(&mut self, buffer: LogBuffer) {
        assert!(buffer.bytes.len().is_multiple_of(LOG_BLOCK_BYTES), "a buffer is whole blocks");
        let first = self.opening_bytes() + self.seal_bytes();
        assert!(buffer.bytes.len() >= first, "a buffer holds the first batch");
        self.buffers.push(buffer);
        self.fill();
    }

    /// Puts a record behind everything appended before.
    pub fn append(&mut self, append: Append) {
        assert!(self.shards.contains_key(&append.shard), "the shard lives on this core");
        let fits = BATCH_HEADER_BYTES + self.stored_bytes(&append) <= self.capacity();
        assert!(fits, "a record fits into an empty batch");
        if let Record::Control(Control::Truncate { zxid, .. }) = append.record {
            let noted = self.noted.get(&append.shard).copied().unwrap_or_default();
            assert!(noted.0 <= zxid, "what is committed is never truncated");
        }
        if truncates(&append.record) {
            // Watermarks of what is voided must not be written behind what voids it.
            self.noted.remove(&append.shard);
        }
        self.queue_bytes += self.stored_bytes(&append);
        self.queue.push_back(append);
        self.fill();
    }

    /// Everything up to `zxid` is committed. It is written down with the next batch, and causes
    /// none: a leader tells it again anyway.
    pub fn note_committed(&mut self, shard: ShardId, zxid: Zxid) {
        let waits = |append: &Append| append.shard == shard && truncates(&append.record);
        if self.queue.iter().any(waits) {
            return;
        }
        let noted = self.noted.entry(shard).or_insert(zxid);
        *noted = zxid.max(*noted);
    }

    /// Sends what the turn has appended, if nothing is under way.
    pub fn turn_end(&mut self, now: Instant) {
        self.advance(now);
    }

    /// When `turn_end` should be called even if nothing else happens. A seal for which there is no
    /// place is written when a segment is prepared.
    pub fn deadline(&self) -> Option<Instant> {
        let since = self.unsealed_since.filter(|_| self.is_idle() && self.has_place_for_seal())?;
        Some(since + self.config.seal_delay)
    }

    /// The next operation to carry out; the caller asks until there is none.
    pub fn next_op(&mut self) -> Option<DiskOp> {
        if self.number == 0 {
            self.operations.extend(self.line.ask());
        }
        self.operations.pop_front()
    }

    /// An operation has succeeded: releases what was waiting for it.
    pub fn on_done(&mut self, done: DiskDone, now: Instant, released: &mut Released) {
        match done {
            DiskDone::Write { segment, offset, buffer } => {
                self.on_written(segment, offset, buffer, now, released)
            }
            DiskDone::PrepareSegment { segment } => self.line.on_prepared(segment),
            DiskDone::RetireSegment { .. } => {}
        }
        self.advance(now);
    }

    /// Gives up a file that retention has found unneeded: one of this stream's, the oldest first,
    /// or one of an older boot.
    pub fn release_segment(&mut self, segment: SegmentId, bytes: u64) {
        self.operations.extend(self.line.release(segment, bytes));
    }

    /// The file that was asked for does not fit on the disk. What is appended waits in memory when
    /// the current segment is full; a released file, or [`Self::on_room`], helps.
    pub fn on_no_room(&mut self, segment: SegmentId) {
        self.operations.extend(self.line.on_no_room(segment));
    }

    /// Whether the log cannot go on to another segment before the disk has room.
    pub fn lacks_room(&self) -> bool {
        self.line.lacks_room()
    }

    /// The disk has room again.
    pub fn on_room(&mut self) {
        self.operations.extend(self.line.on_room());
    }

    /// Ends the stream and hands back the memory that is not with the driver already.
    pub fn into_buffers(self) -> impl Iterator<Item = LogBuffer> {
        let written = |operation| match operation {
            DiskOp::Write { buffer, .. } => Some(buffer),
            DiskOp::PrepareSegment { .. } | DiskOp::RetireSegment { .. } => None,
        };
        let open = self.open.into_iter().map(OpenBatch::into_buffer);
        let unwritten = self.operations.into_iter().filter_map(written);
        self.buffers.into_iter().chain(open).chain(unwritten)
    }

    /// Whether the stream's first batch is durable.
    pub fn is_open(&self) -> bool {
        self.opened
    }

    /// Whether everything appended is durable: nothing waits and nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.flight.is_none() && self.open.is_none() && self.queue.is_empty()
    }

    /// Bytes that wait for a write beyond the batch that is being filled. They grow when the disk
    /// is slow or a segment is not ready, and it is the caller who then takes no more requests.
    pub fn backlog_bytes(&self) -> usize {
        self.queue_bytes
    }

    /// Where the shards stand on the disk: what retention may rely on.
    pub fn durable_checkpoints(&self) -> impl Iterator<Item = &Checkpoint> {
        self.shards.values().map(|shard| &shard.durable)
    }

    /// How often a segment was begun or a snapshot logged, durably: when it grows, retention may
    /// find something.
    pub fn retention_changes(&self) -> u64 {
        self.retention_changes
    }

    /// The segments of this stream that have not been released.
    pub fn segments(&self) -> impl Iterator<Item = &LiveSegment> {
        self.line.live()
    }

    fn on_written(
        &mut self,
        segment: SegmentId,
        offset: u64,
        buffer: LogBuffer,
        now: Instant,
        released: &mut Released,
    ) {
        let flight = self.flight.take().expect("a write is done once");
        assert_eq!(
            (flight.segment, flight.offset),
            (segment, offset),
            "the write under way is done"
        );
        assert_eq!(flight.buffer, buffer.id, "a write gives back its own buffer");
        self.buffers.push(buffer);
        for state in flight.states {
            let shard = self.shards.get_mut(&state.shard()).expect("shards do not leave a stream");
            assert!(state.next_sequence >= shard.durable.next_sequence, "the log only grows");
            self.retention_changes += u64::from(state.snapshot != shard.durable.snapshot);
            shard.durable = state;
        }
        self.retention_changes += u64::from(flight.kind == BatchKind::Opening);
        self.opened = true;
        self.operations.extend(self.line.ask());
        self.unsealed_since = (flight.kind != BatchKind::Seal).then_some(now);
        // The batch and, because writes never overlap, all before it are synced: this is the one
        // place where a promise becomes true.
        released.marks.extend(flight.marks.into_iter().map(Durable::attest));
        released.frames.extend(flight.riders);
    }

    /// Starts the next write if there is reason to and nothing is under way.
    fn advance(&mut self, now: Instant) {
        self.fill();
        if self.flight.is_some() {
            return;
        }
        if self.number == 0 {
            self.begin_segment();
        } else if let Some(open) = self.open.take() {
            let watermarks = self.watermarks();
            if self.line.fits(open.length(watermarks.len())) {
                self.send(open, BatchKind::Records, &watermarks);
                self.fill();
            } else {
                self.open = Some(open);
                self.begin_segment();
            }
        } else if self.unsealed_since.is_some_and(|since| now >= since + self.config.seal_delay) {
            self.seal_idle();
        }
    }

    /// Moves what waits into the open batch, as far as it should grow.
    fn fill(&mut self) {
        let target = BATCH_BYTES_TARGET.min(self.capacity() / 4);
        while let Some(append) = self.queue.front() {
            let body = body_bytes(&append.record);
            let stored = self.stored_bytes(append);
            let Some(mut open) = self.take_open() else {
                return;
            };
            let full = !open.is_empty() && open.content_bytes() >= target;
            if full || !open.fits(body, self.shards.len()) {
                assert!(!open.is_empty(), "every record fits into an empty batch");
                self.open = Some(open);
                return;
            }
            let append = self.queue.pop_front().expect("it was looked at just now");
            self.queue_bytes -= stored;
            let shard = self.shards.get_mut(&append.shard).expect("checked when it was appended");
            if let Err(misstep) = shard.log.follow(append.sequence, &append.record) {
                panic!("shard {} cannot log {:?}: {misstep:?}", append.shard, append.record);
            }
            open.push(append.shard, append.sequence, &append.record, append.riders);
            self.open = Some(open);
        }
    }

    /// The batch to fill: the open one, or a new one if there is memory for it.
    ///
    /// Beginning a segment takes a buffer, too; it is free then, because nothing is under way.
    fn take_open(&mut self) -> Option<OpenBatch> {
        let capacity = self.capacity();
        self.open
            .take()
            .or_else(|| self.buffers.pop().map(|buffer| OpenBatch::new(buffer, capacity)))
    }

    /// Writes the checkpoints with which a segment begins; the first one also takes the seal. If no
    /// segment is ready, everything waits in memory until one is.
    fn begin_segment(&mut self) {
        if !self.line.is_ready() {
            return;
        }
        let Some(buffer) = self.buffers.pop() else {
            return;
        };
        let mut batch = OpenBatch::new(buffer, LOG_BUFFER_BYTES);
        if let Some(seal) = self.seal.take() {
            batch.write(RecordKind::Seal, ShardId(0), Sequence(0), &seal.to_bytes());
        }
        for shard in self.shards.values() {
            let state = &shard.durable;
            let body = state.to_bytes();
            batch.write(RecordKind::Checkpoint, state.shard(), state.next_sequence(), &body);
        }
        self.line.begin();
        self.send(batch, BatchKind::Opening, &[]);
    }

    /// Nothing has followed the last batch for a while: an empty one proves that it was complete.
    fn seal_idle(&mut self) {
        assert!(self.queue.is_empty(), "what waits would have been sent");
        let watermarks = self.watermarks();
        if !self.line.fits(empty_batch_bytes(watermarks.len())) {
            self.begin_segment();
        } else if let Some(batch) = self.take_open() {
            self.send(batch, BatchKind::Seal, &watermarks);
        }
    }

    /// Whether an idle log can be sealed: behind the last batch, or in the next segment.
    fn has_place_for_seal(&self) -> bool {
        self.line.is_ready() || self.line.fits(empty_batch_bytes(self.watermarks().len()))
    }

    fn send(&mut self, batch: OpenBatch, kind: BatchKind, watermarks: &[(ShardId, Zxid)]) {
        assert!(self.flight.is_none(), "one write at a time");
        let (segment, offset) = self.line.place();
        let place = BatchPlace {
            secret: self.secret,
            segment,
            segment_bytes: self.config.segment_bytes,
            offset,
            number: self.number + 1,
            durable_upto: self.number,
            previous: self.hash,
        };
        let ClosedBatch { buffer, length, hash, spans, riders } = batch.close(place, watermarks);
        self.line.occupy(length, &spans);
        let states = self.commit(watermarks, spans.keys().copied());
        let mark = |(&shard, span): (&ShardId, &ShardSpan)| LogMark { shard, sequence: span.last };
        self.flight = Some(Flight {
            segment,
            offset,
            buffer: buffer.id,
            kind,
            marks: spans.iter().map(mark).collect(),
            riders,
            states,
        });
        self.number += 1;
        self.hash = hash;
        self.operations.push_back(DiskOp::Write { segment, offset, length, buffer });
    }

    /// What has become known to be committed since the last batch, as far as the batch to be sent
    /// reaches: a leader may hear from a quorum before its own disk has the entry.
    fn watermarks(&self) -> Vec<(ShardId, Zxid)> {
        let news = |(&shard, &noted): (&ShardId, &Zxid)| {
            let state = self.shards.get(&shard)?.log.checkpoint();
            let reached = noted.min(state.tail_zxid());
            (reached > state.committed_zxid()).then_some((shard, reached))
        };
        self.noted.iter().filter_map(news).collect()
    }

    /// Takes the watermarks of a batch into account, and returns the states at its end.
    fn commit(
        &mut self,
        watermarks: &[(ShardId, Zxid)],
        written: impl Iterator<Item = ShardId>,
    ) -> Vec<Checkpoint> {
        let mut changed: BTreeSet<ShardId> = written.collect();
        for &(shard, zxid) in watermarks {
            let log = &mut self.shards.get_mut(&shard).expect("a watermark's shard is here").log;
            log.commit(zxid).expect("watermarks end at the tail");
            changed.insert(shard);
        }
        let noted = mem::take(&mut self.noted);
        self.noted =
            noted.into_iter().filter(|(shard, zxid)| *zxid > self.committed(*shard)).collect();
        changed.iter().map(|shard| *self.shards[shard].log.checkpoint()).collect()
    }

    fn committed(&self, shard: ShardId) -> Zxid {
        self.shards
            .get(&shard)
            .map_or(Zxid(u64::MAX), |shard| shard.log.checkpoint().committed_zxid())
    }

    /// The longest batch of records: it fits behind the checkpoints of a new segment.
    fn capacity(&self) -> usize {
        let rest = self.config.segment_bytes.saturating_sub(self.opening_bytes() as u64);
        usize::try_from(rest).unwrap_or(LOG_BUFFER_BYTES).min(LOG_BUFFER_BYTES)
    }

    /// The length of the batch with which a segment begins.
    fn opening_bytes(&self) -> usize {
        let content = self.shards.len() * CHECKPOINT_RECORD_BYTES;
        (BATCH_HEADER_BYTES + content).next_multiple_of(LOG_BLOCK_BYTES)
    }

    /// What the seal adds to the first of them.
    fn seal_bytes(&self) -> usize {
        let bytes =
            self.seal.as_ref().map_or(0, |seal| record::stored_bytes(seal.to_bytes().len()));
        bytes.next_multiple_of(LOG_BLOCK_BYTES)
    }

    /// What a record takes in a batch, room for the watermarks included.
    fn stored_bytes(&self, append: &Append) -> usize {
        record::stored_bytes(body_bytes(&append.record)) + self.shards.len() * WATERMARK_BYTES
    }
}

/// Whether a record voids entries before it.
fn truncates(record: &Record) -> bool {
    matches!(record, Record::Control(Control::Truncate { .. } | Control::Install { .. }))
}

/// The length of a batch that holds nothing but so many watermarks.
fn empty_batch_bytes(watermarks: usize) -> usize {
    (BATCH_HEADER_BYTES + watermarks * WATERMARK_BYTES).next_multiple_of(LOG_BLOCK_BYTES)
}

fn body_bytes(record: &Record) -> usize {
    match record {
        Record::Entry(entry) => entry.bytes().len(),
        Record::Control(_) => CONTROL_BYTES,
    }
}

const CONTROL_BYTES: usize = size_of::<pigeonhole_core::control::ArchivedControl>();
const CHECKPOINT_RECORD_BYTES: usize =
    record::RECORD_HEADER_BYTES + size_of::<ArchivedCheckpoint>().next_multiple_of(8);

// A segment's first batch holds a checkpoint of every shard that can be; half is left for the seal.
const _: () = assert!(
    SHARDS_MAX as usize * CHECKPOINT_RECORD_BYTES + BATCH_HEADER_BYTES <= LOG_BUFFER_BYTES / 2
);
// The largest record fits into a batch of its own, behind a watermark for every shard.
const _: () = assert!(
    pigeonhole_core::base::limits::RECORD_BYTES_MAX
        + record::RECORD_HEADER_BYTES
        + BATCH_HEADER_BYTES
        + SHARDS_MAX as usize * WATERMARK_BYTES
        + LOG_BLOCK_BYTES
        <= LOG_BUFFER_BYTES
);
