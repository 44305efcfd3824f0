//! The whole boundary to the disk: operations as values, and what their completion says.
//!
//! There is no error here. After a failed write or sync nothing can be known about the bytes any
//! more, so the driver stops the process instead of reporting it.

use alloc::format;
use alloc::string::String;
use core::fmt;

use pigeonhole_core::base::id::CoreId;

/// Memory that the driver lends, aligned for direct writes. A [`DiskOp::Write`] moves it out, its
/// completion moves it back, so that nothing touches the bytes in between.
pub struct LogBuffer {
    /// What the driver calls it; handed back unchanged.
    pub id: u32,
    pub bytes: &'static mut [u8],
}

/// A segment file of the log: a stream is one core's log of one boot, and is never reopened.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId {
    pub boot: u64,
    pub core: CoreId,
    /// Numbered from 1 within the stream.
    pub number: u64,
}

/// What the log asks of the disk. At most one `Write` is under way at a time.
#[derive(Debug)]
pub enum DiskOp {
    /// Write the first `length` bytes of `buffer` at `offset`, and sync them before saying that it
    /// is done. Offset and length are multiples of `LOG_BLOCK_BYTES`.
    Write { segment: SegmentId, offset: u64, length: u32, buffer: LogBuffer },
    /// Make the file ready for writes of `bytes` bytes in all: by renaming `recycle`, whose content
    /// stays as it is, or by zeroing a new file. Done means that name and size outlive a power
    /// failure; the zeroing may still be ahead of the writes.
    PrepareSegment { segment: SegmentId, bytes: u64, recycle: Option<SegmentId> },
    /// Remove the file; done means that the name does not come back after a power failure.
    RetireSegment { segment: SegmentId },
}

/// An operation that has succeeded.
#[derive(Debug)]
pub enum DiskDone {
    Write { segment: SegmentId, offset: u64, buffer: LogBuffer },
    PrepareSegment { segment: SegmentId },
    RetireSegment { segment: SegmentId },
}

impl SegmentId {
    /// `<boot>-<core>-<number>.log` in hexadecimal of fixed width, so that names sort as ids do.
    pub fn file_name(&self) -> String {
        format!("{:016x}-{:02x}-{:016x}.log", self.boot, self.core.0, self.number)
    }

    /// The inverse of [`Self::file_name`]; `None` for every name that it never makes.
    pub fn from_file_name(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(".log")?.split('-');
        let boot = u64::from_str_radix(parts.next()?, 16).ok()?;
        let core = CoreId(u8::from_str_radix(parts.next()?, 16).ok()?);
        let number = u64::from_str_radix(parts.next()?, 16).ok()?;
        let id = Self { boot, core, number };
        (id.file_name() == name).then_some(id)
    }
}

impl fmt::Debug for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.boot, self.core.0, self.number)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file_name())
    }
}

impl fmt::Debug for LogBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogBuffer({}, {} bytes)", self.id, self.bytes.len())
    }
}
