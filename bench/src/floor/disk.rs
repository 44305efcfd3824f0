//! What one durable write costs: 4 KiB past the page cache, then `fdatasync`, on zeroed blocks.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

use crate::error::BenchError;
use crate::load::recorder::{Latency, histogram, latency};
use crate::load::schedule::nanoseconds;

/// Times durable writes in `directory`, one at a time.
pub(crate) fn measure(directory: &Path) -> Result<Latency, BenchError> {
    let path = directory.join("disk-floor");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path)
        .map_err(BenchError::io(format!("open {} past the page cache", path.display())))?;
    let measured = write_and_time(&file).map_err(BenchError::io("write to the disk floor's file"));
    let removed = fs::remove_file(&path).map_err(BenchError::io("remove the disk floor's file"));
    measured.and_then(|latency| removed.map(|()| latency))
}

fn write_and_time(file: &File) -> std::io::Result<Latency> {
    let mut block = Box::new(Block([0; BLOCK_BYTES]));
    // Zeroed first: a sync of blocks that were never written has to log their allocation too.
    for number in 0..BLOCKS {
        file.write_all_at(&block.0, number * BLOCK_BYTES as u64)?;
    }
    file.sync_all()?;
    block.0.fill(0x5A);
    let mut histogram = histogram();
    for number in 0..BLOCKS {
        let started = Instant::now();
        file.write_all_at(&block.0, number * BLOCK_BYTES as u64)?;
        file.sync_data()?;
        histogram.saturating_record(nanoseconds(started.elapsed()));
    }
    Ok(latency(&histogram))
}

/// Direct I/O wants memory as aligned as the disk.
#[repr(align(4096))]
struct Block([u8; BLOCK_BYTES]);

const BLOCK_BYTES: usize = 4096;
const BLOCKS: u64 = 1000;
