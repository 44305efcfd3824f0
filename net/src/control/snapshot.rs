//! Snapshot files: a frozen state is encoded, written, read back, and given its name.
//!
//! One after the other, and each in small pieces with pauses in between: encoding takes at most
//! half of a processor, and no sync of the log waits behind more than a piece. What nobody waits
//! for any more is left.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use pigeonhole_core::base::id::{ChainHash, ShardId, Zxid};
use pigeonhole_core::base::limits::SNAPSHOT_CHUNK_BYTES;
use pigeonhole_core::control::SnapshotReference;
use pigeonhole_core::effect::{Interest, SnapshotJob};
use pigeonhole_storage::snapshot::{
    PublishStep, SnapshotName, SnapshotReader, SnapshotWriter, publish, temporary_file_name,
};

use super::pace::Pace;
use super::{Sender, remove_if_present};
use crate::exit::disk_failed;
use crate::os::{self, is_no_room};
use crate::snapshots::{SnapshotDirectory, Unusable};

/// What is to be made, one after the other: also for several servers in this process, which share
/// processors.
#[derive(Clone, Default)]
pub(super) struct Queue(Rc<RefCell<Waiting>>);

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<(Sender, SnapshotJob)>,
    is_worked_on: bool,
}

/// What a job is about, also after it is used up.
#[derive(Clone)]
pub(super) struct Subject {
    pub(super) shard: ShardId,
    pub(super) zxid: Zxid,
    pub(super) hash: ChainHash,
    pub(super) interest: Interest,
}

/// A snapshot that was published.
pub(super) struct Taken {
    pub(super) name: SnapshotName,
    pub(super) digest: u128,
}

/// Why there is no snapshot; the disk is as it was before.
enum Abandoned {
    /// An operation of the file system has failed, on this file.
    Io(&'static str, PathBuf, io::Error),
    /// What was read back is not what was written.
    ReadBack(PathBuf, Unusable),
    Unwanted,
}

impl Queue {
    /// Adds a job; true if somebody has to begin to work on them.
    pub(super) fn add(&self, sender: Sender, job: SnapshotJob) -> bool {
        let mut waiting = self.0.borrow_mut();
        // Each holds on to a whole state.
        waiting.jobs.retain(|(_, job)| job.interest.is_alive());
        waiting.jobs.push_back((sender, job));
        !std::mem::replace(&mut waiting.is_worked_on, true)
    }

    /// The next job. After the last, nobody works on them any more.
    pub(super) fn next(&self) -> Option<(Sender, SnapshotJob)> {
        let mut waiting = self.0.borrow_mut();
        let next = SnapshotJob::take_next(&mut waiting.jobs, |(_, job)| job);
        waiting.is_worked_on = next.is_some();
        next
    }
}

impl Subject {
    pub(super) fn of(job: &SnapshotJob) -> Self {
        let interest = job.interest.clone();
        Self { shard: job.shard, zxid: job.zxid, hash: job.hash, interest }
    }

    fn check_wanted(&self) -> Result<(), Abandoned> {
        if self.interest.is_alive() { Ok(()) } else { Err(Abandoned::Unwanted) }
    }
}

/// Makes the file. `None` if it could not be made, which the log says; a disk that fails otherwise
/// than by being full ends the process.
pub(super) async fn make(
    job: SnapshotJob,
    directory: &SnapshotDirectory,
    pace: &Pace,
) -> Option<Taken> {
    let subject = Subject::of(&job);
    let Subject { shard, zxid, .. } = subject;
    let begun = Instant::now();
    tracing::debug!("snapshot of shard {shard} at {zxid} begun");
    let made = async {
        let written = write(job, directory, pace).await?;
        finish(&subject, &written.0, directory).await?;
        Ok(written)
    };
    match made.await {
        Ok((reference, bytes)) => {
            let ms = begun.elapsed().as_millis();
            tracing::info!("snapshot of shard {shard} at {zxid} taken: {bytes} bytes in {ms} ms");
            let name = SnapshotName::new(shard, &reference);
            Some(Taken { name, digest: reference.digest })
        }
        Err(abandoned) => {
            abandon(&subject, directory, abandoned);
            None
        }
    }
}

/// Writes the temporary file; what the log will know it by, and its length.
async fn write(
    job: SnapshotJob,
    directory: &SnapshotDirectory,
    pace: &Pace,
) -> Result<(SnapshotReference, u64), Abandoned> {
    let subject = Subject::of(&job);
    let Subject { shard, zxid, hash, .. } = subject;
    let is_urgent = job.is_urgent;
    let path = directory.path.join(temporary_file_name(shard, zxid));
    let failed = |operation, error| Abandoned::Io(operation, path.clone(), error);
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path);
    let file = file.map_err(|error| failed("create", error))?;
    let file = tokio_uring::fs::File::from_std(file);
    let mut out = Vec::with_capacity(PIECE_BYTES + 2 * SNAPSHOT_CHUNK_BYTES);
    let mut writer = SnapshotWriter::new(shard, zxid, hash, &mut out);
    let mut chunk = Vec::with_capacity(SNAPSHOT_CHUNK_BYTES);
    let (mut at, mut unsynced) = (0, 0);
    let mut encoding = Instant::now();
    let mut image = job.into_image();
    loop {
        subject.check_wanted()?;
        chunk.clear();
        let goes_on = image.next_chunk(&mut chunk);
        if !chunk.is_empty() {
            writer.chunk(&chunk, &mut out);
        }
        if !goes_on {
            break;
        }
        let took = encoding.elapsed();
        if out.len() >= PIECE_BYTES {
            unsynced += out.len();
            (at, out) = put(&file, at, out).await.map_err(|error| failed("write", error))?;
            if unsynced >= UNSYNCED_BYTES_MAX {
                let synced = file.sync_data().await;
                synced.map_err(|error| failed("fdatasync", error))?;
                let slower_max = if is_urgent { 1 } else { SLOWER_MAX };
                tokio::time::sleep(pace.pause(unsynced, slower_max)).await;
                unsynced = 0;
            }
        }
        // The engines may have to share a processor with this thread.
        tokio::time::sleep(took.max(BREATH)).await;
        encoding = Instant::now();
    }
    let reference = writer.finish(&mut out);
    let (length, _) = put(&file, at, out).await.map_err(|error| failed("write", error))?;
    Ok((reference, length))
}

/// Writes everything and hands the memory back, empty.
async fn put(file: &tokio_uring::fs::File, at: u64, out: Vec<u8>) -> io::Result<(u64, Vec<u8>)> {
    let (written, mut out) = file.write_all_at(out, at).await;
    written?;
    let end = at + out.len() as u64;
    out.clear();
    Ok((end, out))
}

/// Makes a snapshot of a complete temporary file.
async fn finish(
    subject: &Subject,
    reference: &SnapshotReference,
    directory: &SnapshotDirectory,
) -> Result<(), Abandoned> {
    for step in publish(subject.shard, reference) {
        match step {
            PublishStep::SyncFile { name } => {
                let path = directory.path.join(name);
                let file = tokio_uring::fs::File::open(&path).await;
                let file = file.map_err(|error| Abandoned::Io("open", path.clone(), error))?;
                let synced = file.sync_all().await;
                synced.map_err(|error| Abandoned::Io("fsync", path, error))?;
            }
            PublishStep::ReadBack { name, expected } => {
                read_back(directory.path.join(name), subject, expected).await?;
            }
            PublishStep::Rename { from, to } => {
                let from = directory.path.join(from);
                let renamed = fs::rename(&from, directory.path.join(to));
                renamed.map_err(|error| Abandoned::Io("rename", from, error))?;
            }
            PublishStep::SyncDirectory => {
                let path = directory.path.to_path_buf();
                let synced = File::open(&path).and_then(|directory| directory.sync_all());
                synced.map_err(|error| Abandoned::Io("fsync", path, error))?;
            }
        }
    }
    Ok(())
}

/// Reads the file from the disk and not from memory, and checks every byte of it.
async fn read_back(
    path: PathBuf,
    subject: &Subject,
    expected: SnapshotReference,
) -> Result<(), Abandoned> {
    let failed = |operation, error| Abandoned::Io(operation, path.clone(), error);
    let file = File::open(&path).map_err(|error| failed("open", error))?;
    os::forget_cached(&file).map_err(|error| failed("fadvise", error))?;
    let source = file.try_clone().map_err(|error| failed("open", error))?;
    let source = tokio_uring::fs::File::from_std(source);
    let mut reader = SnapshotReader::default();
    let mut bytes = Vec::with_capacity(READ_BYTES);
    let mut at = 0;
    let found = loop {
        subject.check_wanted()?;
        bytes.clear();
        let (read, filled) = source.read_at(bytes, at).await;
        let length = read.map_err(|error| failed("read", error))?;
        bytes = filled;
        if length == 0 {
            break reader.finish();
        }
        at += length as u64;
        let since = Instant::now();
        reader.push(&bytes[..length]);
        let checked = loop {
            match reader.next_chunk() {
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = checked {
            break Err(error);
        }
        tokio::time::sleep(since.elapsed().max(BREATH)).await;
    };
    // Nobody reads it again before the next start.
    os::forget_cached(&file).map_err(|error| failed("fadvise", error))?;
    match found {
        Ok(found) if found == (subject.shard, expected) => Ok(()),
        Ok(_) => Err(Abandoned::ReadBack(path, Unusable::Another)),
        Err(error) => Err(Abandoned::ReadBack(path, Unusable::Framing(error))),
    }
}

fn abandon(subject: &Subject, directory: &SnapshotDirectory, abandoned: Abandoned) {
    let Subject { shard, zxid, .. } = *subject;
    match abandoned {
        Abandoned::Io(operation, path, error) if is_no_room(&error) => {
            let path = path.display();
            tracing::warn!("no snapshot of shard {shard} at {zxid}: {operation} {path}: {error}");
        }
        Abandoned::Io(operation, path, error) => disk_failed(operation, &path, &error),
        Abandoned::ReadBack(path, unusable) => tracing::error!(
            "no snapshot of shard {shard} at {zxid}: {} was written, and read back: {unusable}: \
             the disk cannot be relied on",
            path.display()
        ),
        Abandoned::Unwanted => {
            tracing::debug!("snapshot of shard {shard} at {zxid}: nobody waits for it any more");
        }
    }
    let path = directory.path.join(temporary_file_name(shard, zxid));
    remove_if_present(&path);
}

/// So much is written at once.
const PIECE_BYTES: usize = 512 << 10;
/// A sync of the log waits behind no more than this.
const UNSYNCED_BYTES_MAX: usize = 1 << 20;
const READ_BYTES: usize = 512 << 10;
/// How much longer the pauses are while the logs feel it: a snapshot is what shortens the log, so
/// that it has to go on however busy the log is.
const SLOWER_MAX: u64 = 4;
/// The shortest rest between two pieces of work.
const BREATH: Duration = Duration::from_millis(1);
