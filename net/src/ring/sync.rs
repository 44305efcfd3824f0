//! How a log write becomes durable, and what the ways to it cost on this disk.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::{Completion, LogBuffer, Ring, Token};

/// The two ways to know that written bytes have reached the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncPrimitive {
    /// One write that completes when its data is durable (`RWF_DSYNC`).
    DataSyncWrite,
    /// A write with an `fdatasync` linked behind it.
    WriteThenSync,
}

/// What both ways cost on one file: medians.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SyncProbe {
    pub data_sync_write_micros: u64,
    pub write_then_sync_micros: u64,
}

/// Why a log write is not durable. There is no retry: what the disk holds is unknown.
#[derive(Debug)]
pub enum LogFailure {
    Write(io::Error),
    /// The disk took less than it was given, which leaves a torn batch behind.
    Short {
        written: u32,
        length: u32,
    },
    Sync(io::Error),
}

impl LogFailure {
    /// The operation that failed, as an operator knows it.
    pub fn operation(&self) -> &'static str {
        match self {
            Self::Write(_) | Self::Short { .. } => "write",
            Self::Sync(_) => "fdatasync",
        }
    }

    /// The kernel's error number; a short write has none.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Write(error) | Self::Sync(error) => error.raw_os_error(),
            Self::Short { .. } => None,
        }
    }
}

impl fmt::Display for LogFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(error) => write!(formatter, "log write failed: {error}"),
            Self::Short { written, length } => {
                write!(formatter, "log write failed: {written} of {length} bytes written")
            }
            Self::Sync(error) => write!(formatter, "log fdatasync failed: {error}"),
        }
    }
}

impl std::error::Error for LogFailure {}

impl fmt::Display for SyncProbe {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "data-sync write {} us, write then fdatasync {} us",
            self.data_sync_write_micros, self.write_then_sync_micros
        )
    }
}

impl Ring {
    /// Times both primitives on a scratch range of `file`, writing 4 KiB at a time.
    ///
    /// The range `offset .. offset + PROBE_BYTES` is overwritten; it should have been written
    /// before, because a first write to a block costs far more than any later one. Call it before
    /// anything else uses the ring: it reaps every completion itself, waiting asleep, as the
    /// engine does while its log is being written.
    pub fn probe_sync_primitive(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        mut buffer: LogBuffer,
    ) -> Result<(LogBuffer, SyncProbe), LogFailure> {
        assert_eq!(self.in_flight(), 0, "the probe needs the ring for itself");
        assert!(buffer.bytes.len() >= SAMPLE_BYTES, "a sample is {SAMPLE_BYTES} bytes");
        let mut data_sync_writes = Vec::with_capacity(SAMPLES);
        let mut writes_then_sync = Vec::with_capacity(SAMPLES);
        // The first round warms up; alternating spreads the disk's moods evenly.
        for round in 0..=SAMPLES {
            for (primitive, times) in [
                (SyncPrimitive::DataSyncWrite, &mut data_sync_writes),
                (SyncPrimitive::WriteThenSync, &mut writes_then_sync),
            ] {
                let at = u64::try_from(round % SAMPLES * SAMPLE_BYTES).expect("a few KiB");
                let (back, time) = self.timed_write(file, offset + at, buffer, primitive)?;
                buffer = back;
                if round > 0 {
                    times.push(time);
                }
            }
        }
        let probe = SyncProbe {
            data_sync_write_micros: median_micros(&mut data_sync_writes),
            write_then_sync_micros: median_micros(&mut writes_then_sync),
        };
        Ok((buffer, probe))
    }

    fn timed_write(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        buffer: LogBuffer,
        primitive: SyncPrimitive,
    ) -> Result<(LogBuffer, Duration), LogFailure> {
        let start = Instant::now();
        self.write_log(file, Token::default(), buffer, offset, SAMPLE_BYTES, primitive);
        loop {
            self.submit_and_wait(None).map_err(LogFailure::Write)?;
            while let Some(completion) = self.next_completion() {
                if let Completion::LogWritten { buffer, result, .. } = completion {
                    return result.map(|()| (buffer, start.elapsed()));
                }
            }
        }
    }
}

/// How much of the file a probe overwrites.
pub const PROBE_BYTES: u64 = 16 * 4096;
const SAMPLES: usize = 16;
const SAMPLE_BYTES: usize = 4096;

const _: () = assert!(SAMPLES * SAMPLE_BYTES == 16 * 4096, "PROBE_BYTES covers all samples");

fn median_micros(times: &mut [Duration]) -> u64 {
    times.sort_unstable();
    u64::try_from(times[times.len() / 2].as_micros()).unwrap_or(u64::MAX)
}
