//! The log's disk operations, carried out: writes on the core's ring, everything else by the
//! control thread.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pigeonhole_core::base::time::Instant;
use pigeonhole_storage::disk::{DiskDone, DiskOp, LogBuffer, SegmentId};

use crate::control::{Desk, LogDirectory};
use crate::exit;
use crate::mailbox::News;
use crate::ring::{self, LogFailure, Ring, SyncPrimitive, SyncProbe};
use crate::subject::Subject;
use crate::sync_choice::SyncChoice;

/// The files of one core's log.
pub(crate) struct LogFiles {
    directory: LogDirectory,
    desk: Desk,
    sync: SyncChoice,
    /// The segment that is being written, and the one after it.
    segments: Vec<Segment>,
    /// A write that waits until nobody zeroes its segment any more.
    held: Option<Write>,
    flight: Option<Flight>,
    /// What the last write took.
    pub(crate) sync_micros_last: u64,
}

struct Segment {
    id: SegmentId,
    file: File,
    /// Up to here nobody else writes.
    free_upto: u64,
    /// Up to here it is in use; whoever zeroes it stays ahead.
    used: Arc<AtomicU64>,
    stopping: bool,
}

struct Write {
    segment: SegmentId,
    offset: u64,
    length: u32,
    buffer: LogBuffer,
}

/// The write that the kernel has.
#[derive(Clone, Copy)]
struct Flight {
    segment: SegmentId,
    offset: u64,
    since: Instant,
}

impl LogFiles {
    pub(crate) fn new(directory: LogDirectory, desk: Desk, probe: Option<SyncProbe>) -> Self {
        Self {
            directory,
            desk,
            sync: SyncChoice::new(probe),
            segments: Vec::new(),
            held: None,
            flight: None,
            sync_micros_last: 0,
        }
    }

    /// Where its segments are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory.path
    }

    /// Begins an operation; [`Self::on_news`] or [`Self::on_written`] tell when it is done.
    pub(crate) fn begin(&mut self, operation: DiskOp, now: Instant, ring: &mut Ring) {
        match operation {
            DiskOp::Write { segment, offset, length, buffer } => {
                self.write(Write { segment, offset, length, buffer }, now, ring);
            }
            DiskOp::PrepareSegment { segment, bytes, recycle } => {
                self.desk.prepare(&self.directory, segment, bytes, recycle);
            }
            DiskOp::RetireSegment { segment } => self.desk.retire(&self.directory, segment),
        }
    }

    /// The kernel has finished the write. A failure ends the process.
    pub(crate) fn on_written(
        &mut self,
        buffer: ring::LogBuffer,
        result: Result<(), LogFailure>,
        now: Instant,
    ) -> DiskDone {
        let Flight { segment, offset, since } = self.flight.take().expect("a write is under way");
        if let Err(failure) = result {
            let path = self.path_of(segment);
            exit::fail(exit::DISK, &format!("{}: {failure}", path.display()));
        }
        self.sync_micros_last = now.since(since).0;
        self.sync.on_written(self.sync_micros_last);
        self.desk.note_sync(self.sync_micros_last);
        DiskDone::Write { segment, offset, buffer: from_ring(buffer) }
    }

    /// What the control thread says about a file. News of another kind are given back.
    pub(crate) fn on_news(
        &mut self,
        news: News,
        now: Instant,
        ring: &mut Ring,
    ) -> Result<Option<DiskDone>, News> {
        match news {
            News::Prepared { segment, file, zeroed, used } => {
                self.segments.push(Segment {
                    id: segment,
                    file,
                    free_upto: zeroed,
                    used,
                    stopping: false,
                });
                return Ok(Some(DiskDone::PrepareSegment { segment }));
            }
            News::Retired { segment } => return Ok(Some(DiskDone::RetireSegment { segment })),
            News::Zeroed { segment, upto } => self.free(segment, upto),
            News::ZeroingStopped { segment } => self.free(segment, u64::MAX),
            other => return Err(other),
        }
        if let Some(held) = self.held.take() {
            self.write(held, now, ring);
        }
        Ok(None)
    }

    /// Whether the kernel has a write of this log that only this processor can finish.
    pub(crate) fn wants_the_processor(&self) -> bool {
        self.flight.is_some() && self.sync.current() == SyncPrimitive::DataSyncWrite
    }

    fn write(&mut self, write: Write, now: Instant, ring: &mut Ring) {
        // Writes go to one segment after the other; what is behind is not written again.
        self.segments.retain(|segment| segment.id >= write.segment);
        let known = self.segments.iter_mut().find(|segment| segment.id == write.segment);
        let segment = known.expect("a segment is written once it is prepared");
        let end = write.offset + u64::from(write.length);
        segment.used.store(end, Ordering::Relaxed);
        if end > segment.free_upto {
            if !segment.stopping {
                segment.stopping = true;
                self.desk.stop_zeroing(&self.directory, write.segment);
            }
            assert!(self.held.is_none(), "the log writes one batch at a time");
            self.held = Some(write);
            return;
        }
        assert!(self.flight.is_none(), "the log writes one batch at a time");
        let Write { segment: id, offset, length, buffer } = write;
        self.flight = Some(Flight { segment: id, offset, since: now });
        let length = usize::try_from(length).expect("32 bits fit into usize");
        let token = Subject::Log.token(0);
        let file = segment.file.as_fd();
        ring.write_log(file, token, to_ring(buffer), offset, length, self.sync.current());
    }

    fn free(&mut self, id: SegmentId, upto: u64) {
        if let Some(segment) = self.segments.iter_mut().find(|segment| segment.id == id) {
            segment.free_upto = segment.free_upto.max(upto);
        }
    }

    fn path_of(&self, segment: SegmentId) -> PathBuf {
        self.directory.path_of(segment)
    }
}

/// Storage and the ring each have a type for lent memory, because neither knows the other.
pub(crate) fn from_ring(buffer: ring::LogBuffer) -> LogBuffer {
    LogBuffer { id: buffer.id, bytes: buffer.bytes }
}

fn to_ring(buffer: LogBuffer) -> ring::LogBuffer {
    ring::LogBuffer { id: buffer.id, bytes: buffer.bytes }
}
