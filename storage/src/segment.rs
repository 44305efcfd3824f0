//! Where the next batch goes: the segment files of one stream, prepared ahead and recycled.
//!
//! A segment has no header of its own. It begins with a batch that holds a checkpoint of every
//! shard of the stream, so that any older segment can go without a promise being lost. A file that
//! was prepared and never begun is an ordinary thing to find after a crash.

use alloc::collections::{BTreeMap, VecDeque};

use pigeonhole_core::base::id::{CoreId, Sequence, ShardId, Zxid};
use pigeonhole_core::base::limits::LOG_BLOCK_BYTES;
use pigeonhole_core::durable::Record;

use crate::disk::{DiskOp, SegmentId};

/// Which records of a shard a segment holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardSpan {
    pub first: Sequence,
    pub last: Sequence,
    /// The highest zxid of its entries, those that were truncated later included; 0 for none.
    pub zxid_max: Zxid,
}

/// A segment that holds batches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LiveSegment {
    pub id: SegmentId,
    /// The size of the file.
    pub bytes: u64,
    /// What it holds beside checkpoints.
    pub spans: BTreeMap<ShardId, ShardSpan>,
}

/// The segments of a stream that is being written.
pub(crate) struct SegmentLine {
    boot: u64,
    core: CoreId,
    segment_bytes: u64,
    /// Where the next batch goes in the newest of the live segments.
    offset: u64,
    live: VecDeque<LiveSegment>,
    next: Next,
    /// Files of the right size whose content is no longer needed, in the order of their release, so
    /// that a stream never loses a file from its middle.
    recyclable: VecDeque<SegmentId>,
}

/// The segment after the current one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    /// The current one is not yet durably begun.
    Unasked,
    Asked,
    /// The disk was too full for it.
    Refused,
    Ready,
}

impl SegmentLine {
    pub(crate) fn new(boot: u64, core: CoreId, segment_bytes: u64) -> Self {
        assert!(boot > 0, "boots are numbered from 1");
        assert!(segment_bytes.is_multiple_of(LOG_BLOCK_BYTES as u64), "a segment is whole blocks");
        Self {
            boot,
            core,
            segment_bytes,
            offset: 0,
            live: VecDeque::new(),
            next: Next::Unasked,
            recyclable: VecDeque::new(),
        }
    }

    /// The request for the next file, if it is not under way: one is always ready ahead. It is made
    /// when the current segment's first batch is durable, so that the file's name proves that
    /// batch.
    pub(crate) fn ask(&mut self) -> Option<DiskOp> {
        if self.next != Next::Unasked {
            return None;
        }
        Some(self.prepare())
    }

    /// The file that was asked for does not fit on the disk: the next one whose content is no
    /// longer needed will do.
    pub(crate) fn on_no_room(&mut self, segment: SegmentId) -> Option<DiskOp> {
        assert!(self.next == Next::Asked, "a segment is refused when it was asked for");
        assert_eq!(segment, self.next_id(), "the segment that was asked for is refused");
        self.next = Next::Refused;
        (!self.recyclable.is_empty()).then(|| self.prepare())
    }

    /// Whether nothing but room on the disk leads on.
    pub(crate) fn lacks_room(&self) -> bool {
        self.next == Next::Refused
    }

    /// The disk has room again.
    pub(crate) fn on_room(&mut self) -> Option<DiskOp> {
        (self.next == Next::Refused).then(|| self.prepare())
    }

    fn prepare(&mut self) -> DiskOp {
        self.next = Next::Asked;
        DiskOp::PrepareSegment {
            segment: self.next_id(),
            bytes: self.segment_bytes,
            recycle: self.recyclable.pop_front(),
        }
    }

    pub(crate) fn on_prepared(&mut self, segment: SegmentId) {
        assert!(self.next == Next::Asked, "a segment is prepared when it was asked for");
        assert_eq!(segment, self.next_id(), "the segment that was asked for is prepared");
        self.next = Next::Ready;
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.next == Next::Ready
    }

    /// Goes on to the prepared segment.
    pub(crate) fn begin(&mut self) {
        assert!(self.is_ready(), "a segment is begun when it is ready");
        self.live.push_back(LiveSegment::new(self.next_id(), self.segment_bytes));
        self.offset = 0;
        self.next = Next::Unasked;
    }

    /// Whether a batch of this length fits behind the last one.
    pub(crate) fn fits(&self, length: usize) -> bool {
        !self.live.is_empty() && self.offset + length as u64 <= self.segment_bytes
    }

    /// Where the next batch goes.
    pub(crate) fn place(&self) -> (SegmentId, u64) {
        let current = self.live.back().expect("a batch goes into a segment that was begun");
        (current.id, self.offset)
    }

    /// Takes the place for a batch with these records.
    pub(crate) fn occupy(&mut self, length: u32, spans: &BTreeMap<ShardId, ShardSpan>) {
        assert!((length as usize).is_multiple_of(LOG_BLOCK_BYTES), "a batch is whole blocks");
        assert!(self.fits(length as usize), "a batch does not cross the end of its segment");
        self.offset += u64::from(length);
        let current = self.live.back_mut().expect("it fits, so it was begun");
        for (shard, span) in spans {
            current.cover(*shard, span);
        }
    }

    /// Takes a file whose content is no longer needed. It is renamed into a coming segment, or
    /// removed if it has another size; if enough of them wait, the one that waits longest is.
    pub(crate) fn release(&mut self, segment: SegmentId, bytes: u64) -> Option<DiskOp> {
        if let Some(place) = self.live.iter().position(|live| live.id == segment) {
            assert_eq!(place, 0, "the segments of a stream go in order");
            assert!(self.live.len() > 1, "the current segment stays");
            self.live.pop_front();
        }
        if bytes != self.segment_bytes {
            return Some(DiskOp::RetireSegment { segment });
        }
        self.recyclable.push_back(segment);
        if self.next == Next::Refused {
            return Some(self.prepare());
        }
        let too_many = self.recyclable.len() > RECYCLABLE_MAX;
        let longest = if too_many { self.recyclable.pop_front() } else { None };
        longest.map(|segment| DiskOp::RetireSegment { segment })
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = &LiveSegment> {
        self.live.iter()
    }

    fn next_id(&self) -> SegmentId {
        SegmentId {
            boot: self.boot,
            core: self.core,
            number: self.live.back().map_or(1, |current| current.id.number + 1),
        }
    }
}

impl ShardSpan {
    pub(crate) fn of(sequence: Sequence, record: &Record) -> Self {
        let zxid_max = match record {
            Record::Entry(entry) => entry.zxid(),
            Record::Control(_) => Zxid::ZERO,
        };
        Self { first: sequence, last: sequence, zxid_max }
    }

    pub(crate) fn widen(&mut self, other: &Self) {
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.zxid_max = self.zxid_max.max(other.zxid_max);
    }
}

impl LiveSegment {
    pub(crate) fn new(id: SegmentId, bytes: u64) -> Self {
        Self { id, bytes, spans: BTreeMap::new() }
    }

    /// Widens what is known to be in the segment.
    pub(crate) fn cover(&mut self, shard: ShardId, span: &ShardSpan) {
        self.spans.entry(shard).or_insert(*span).widen(span);
    }
}

/// More spare files than this are only disk space that nobody else can use.
const RECYCLABLE_MAX: usize = 4;
