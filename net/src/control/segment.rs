//! Segments of the log: made, zeroed ahead, renamed, removed.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pigeonhole_core::base::limits::{LOG_BLOCK_BYTES, SEGMENT_BYTES_READY};
use pigeonhole_storage::disk::SegmentId;
use tokio_uring::buf::BoundedBuf as _;

use super::pace::Pace;
use super::{LogDirectory, News, Sender, remove_if_present};
use crate::exit::disk_failed;
use crate::os::{self, is_no_room};

/// What all segments that are being made have in common.
#[derive(Clone)]
pub(super) struct Workshop {
    pub(super) pace: Arc<Pace>,
    /// Which files are being zeroed, and whether they should not be any more.
    zeroing: Rc<RefCell<HashMap<PathBuf, Rc<Cell<bool>>>>>,
    /// When the next chunk may be zeroed: all files share one pace.
    next_chunk: Rc<Cell<Option<tokio::time::Instant>>>,
}

/// A file that a log wants.
pub(super) struct Preparation {
    pub(super) sender: Sender,
    pub(super) directory: LogDirectory,
    pub(super) segment: SegmentId,
    pub(super) bytes: u64,
}

impl Workshop {
    pub(super) fn new(pace: Arc<Pace>) -> Self {
        Self { pace, zeroing: Rc::default(), next_chunk: Rc::default() }
    }

    pub(super) fn stop_zeroing(&self, path: &Path) {
        if let Some(stop) = self.zeroing.borrow().get(path) {
            stop.set(true);
        }
    }
}

/// Gives a file that is no longer needed another name. What it holds needs no zeroing.
///
/// Here and in [`retire`] the caller waits, so that files go in the order in which they are given
/// up, and a stream never loses one from its middle.
pub(super) fn rename(job: Preparation, recycle: SegmentId) {
    let path = job.directory.path_of(job.segment);
    let from = job.directory.path_of(recycle);
    fs::rename(&from, &path).unwrap_or_else(|error| disk_failed("rename", &from, &error));
    job.directory.sync();
    let file = job.directory.open_for_writes(&path);
    job.sender.tell(News::Prepared {
        segment: job.segment,
        file,
        zeroed: job.bytes,
        used: Arc::default(),
    });
}

/// Removes a file that is no longer needed.
pub(super) fn retire(sender: &Sender, directory: &LogDirectory, segment: SegmentId) {
    let path = directory.path_of(segment);
    fs::remove_file(&path).unwrap_or_else(|error| disk_failed("unlink", &path, &error));
    directory.sync();
    sender.tell(News::Retired { segment });
}

/// Makes a new file, and zeroes it ahead of the log. False if there is no room for it.
pub(super) async fn create(job: Preparation, workshop: Workshop) -> bool {
    let path = job.directory.path_of(job.segment);
    let ready = SEGMENT_BYTES_READY.min(job.bytes);
    let mut zeroes = match begin(&path, &job, ready).await {
        Ok(zeroes) => zeroes,
        Err((_, error)) if is_no_room(&error) => {
            // There may have been no room for its name even.
            remove_if_present(&path);
            job.sender.tell(News::NoRoom { segment: job.segment });
            return false;
        }
        Err((operation, error)) => disk_failed(operation, &path, &error),
    };
    job.directory.sync();
    let used = Arc::<AtomicU64>::default();
    let stop = Rc::new(Cell::new(false));
    workshop.zeroing.borrow_mut().insert(path.clone(), stop.clone());
    let writable = job.directory.open_for_writes(&path);
    job.sender.tell(News::Prepared {
        segment: job.segment,
        file: writable,
        zeroed: ready,
        used: used.clone(),
    });
    let mut done = ready;
    while done < job.bytes && !stop.get() {
        // A log that comes close would have to write where nothing was written before, which
        // costs every sync far more than zeroes that come quickly.
        let in_use = used.load(Ordering::Relaxed);
        if in_use == 0 || done.saturating_sub(in_use) > ZERO_AHEAD_BYTES {
            wait_for_turn(&workshop).await;
        }
        if stop.get() {
            break;
        }
        let upto = (done + ZERO_CHUNK_BYTES as u64).min(job.bytes);
        match zeroes.write(done, upto).await {
            Ok(()) => {}
            // The log writes over what is left as it is.
            Err((_, error)) if is_no_room(&error) => break,
            Err((operation, error)) => disk_failed(operation, &path, &error),
        }
        done = upto;
        job.sender.tell(News::Zeroed { segment: job.segment, upto });
    }
    workshop.zeroing.borrow_mut().remove(&path);
    job.sender.tell(News::ZeroingStopped { segment: job.segment });
    true
}

async fn wait_for_turn(workshop: &Workshop) {
    let now = tokio::time::Instant::now();
    let next = workshop.next_chunk.get().map_or(now, |next| next.max(now));
    let turn = next + workshop.pace.pause(ZERO_CHUNK_BYTES, SLOWER_MAX);
    workshop.next_chunk.set(Some(turn));
    tokio::time::sleep_until(turn).await;
}

/// The operation that has failed, and why.
type Failed = (&'static str, io::Error);

/// Creates the file with all its room, and zeroes its beginning.
async fn begin(path: &Path, job: &Preparation, ready: u64) -> Result<Zeroes, Failed> {
    // A file of this name is what a full disk has left of an attempt.
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path);
    let file = file.map_err(|error| ("create", error))?;
    os::allocate(&file, job.bytes).map_err(|error| ("fallocate", error))?;
    let mut zeroes = Zeroes::new(job.directory.open_for_writes(path));
    zeroes.write(0, ready).await?;
    zeroes.file.sync_all().await.map_err(|error| ("fsync", error))?;
    Ok(zeroes)
}

/// A file that is being filled with zeroes, past the page cache if the log is: to copy a chunk into
/// it, page by page, would keep a processor from the log for longer than all the rest.
struct Zeroes {
    file: tokio_uring::fs::File,
    /// Used again and again, from the first address that direct writes allow.
    piece: Vec<u8>,
    start: usize,
}

impl Zeroes {
    fn new(file: File) -> Self {
        let piece = vec![0; ZERO_PIECE_BYTES + LOG_BLOCK_BYTES];
        let start = piece.as_ptr().align_offset(LOG_BLOCK_BYTES);
        Self { file: tokio_uring::fs::File::from_std(file), piece, start }
    }

    /// Zeroes a part of the file for good.
    async fn write(&mut self, from: u64, upto: u64) -> Result<(), Failed> {
        let mut at = from;
        while at < upto {
            let rest = usize::try_from(upto - at).unwrap_or(usize::MAX);
            let length = rest.min(ZERO_PIECE_BYTES);
            let piece = std::mem::take(&mut self.piece).slice(self.start..self.start + length);
            let (written, piece) = self.file.write_all_at(piece, at).await;
            self.piece = piece.into_inner();
            written.map_err(|error| ("write", error))?;
            at += length as u64;
        }
        self.file.sync_data().await.map_err(|error| ("fdatasync", error))
    }
}

impl LogDirectory {
    pub(crate) fn path_of(&self, segment: SegmentId) -> PathBuf {
        self.path.join(segment.file_name())
    }

    /// Makes names in the directory outlive a power failure.
    pub(crate) fn sync(&self) {
        let synced = File::open(&self.path).and_then(|directory| directory.sync_all());
        synced.unwrap_or_else(|error| disk_failed("fsync", &self.path, &error));
    }

    fn open_for_writes(&self, path: &Path) -> File {
        let opened = if self.direct {
            os::open_direct(path)
        } else {
            OpenOptions::new().read(true).write(true).open(path)
        };
        opened.unwrap_or_else(|error| disk_failed("open", path, &error))
    }
}

/// How much longer the pauses are while the logs feel it. Nobody waits for zeroes; however slow the
/// syncs are, a segment is ready within half a minute.
const SLOWER_MAX: u64 = 32;
/// How far zeroing stays ahead of a log, at whatever pace.
const ZERO_AHEAD_BYTES: u64 = 8 << 20;
/// What is zeroed between two pauses, and synced as one before anybody else may write there.
const ZERO_CHUNK_BYTES: usize = 1 << 20;
/// What is written at a time: a write of the log gets in between.
const ZERO_PIECE_BYTES: usize = 128 << 10;
