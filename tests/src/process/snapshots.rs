//! Snapshot files, made beside the cores, one after the other, in steps that take their time.

use std::collections::VecDeque;

use pigeonhole_core::base::id::{ChainHash, ShardId, Zxid};
use pigeonhole_core::control::SnapshotReference;
use pigeonhole_core::effect::{Interest, SnapshotJob};
use pigeonhole_core::state::image::ImageWriter;
use pigeonhole_storage::snapshot::{
    PublishStep, SnapshotReader, SnapshotWriter, publish, temporary_file_name,
};

use crate::disk::Disk;
use crate::node::{Around, server_id};
use crate::process::{Heard, Process};
use crate::queue::Event;
use crate::sometimes::State;

/// The files that are to be made.
#[derive(Default)]
pub(super) struct Workshop {
    jobs: VecDeque<SnapshotJob>,
    making: Option<Making>,
}

/// The file that is being made.
struct Making {
    shard: ShardId,
    zxid: Zxid,
    hash: ChainHash,
    interest: Interest,
    image: ImageWriter,
    /// Taken when the content is complete.
    writer: Option<SnapshotWriter>,
    /// What the file begins with, until it is written.
    unwritten: Vec<u8>,
    steps: VecDeque<PublishStep>,
    digest: u128,
}

/// What one step has led to.
enum Progress {
    More,
    Taken,
    Abandoned(State),
}

impl Process {
    pub(super) fn make_snapshot(&mut self, job: SnapshotJob, around: &mut Around<'_>) {
        self.workshop.jobs.push_back(job);
        if self.workshop.making.is_none() && self.workshop.jobs.len() == 1 {
            self.next_step(around);
        }
    }

    /// The next step of the file that is being made, or of the next one.
    pub fn on_snapshot_step(&mut self, disk: &mut Disk, around: &mut Around<'_>) {
        if self.paused {
            self.next_step(around);
            return;
        }
        let making = self.workshop.making.take().filter(|making| {
            let goes_on = making.interest.is_alive();
            if !goes_on {
                around.checks.sometimes.hit(State::SnapshotUnwanted);
                disk.remove_file(&temporary_file_name(making.shard, making.zxid));
            }
            goes_on
        });
        let jobs = &mut self.workshop.jobs;
        let next = || Some(Making::begin(SnapshotJob::take_next(jobs, |job| job)?, disk));
        let Some(mut making) = making.or_else(next) else {
            return;
        };
        let progress = making.step(disk);
        let Making { shard, zxid, hash, digest, .. } = making;
        let heard = match progress {
            Progress::More => {
                self.workshop.making = Some(making);
                self.next_step(around);
                return;
            }
            Progress::Taken => {
                around.checks.sometimes.hit(State::SnapshotTaken);
                Heard::SnapshotTaken { shard, zxid, hash, digest }
            }
            Progress::Abandoned(why) => {
                around.checks.sometimes.hit(why);
                Heard::SnapshotAbandoned { shard, zxid, hash }
            }
        };
        let node = self.config.index;
        around.trace.line(around.queue.now(), || {
            let made = matches!(heard, Heard::SnapshotTaken { .. });
            let what = if made { "has a snapshot" } else { "gives up a snapshot" };
            format!("{:?} {what} of {shard:?} at {zxid}", server_id(node))
        });
        self.hand_over(self.core_of(shard), heard, around);
        if !self.workshop.jobs.is_empty() {
            self.next_step(around);
        }
    }

    fn next_step(&mut self, around: &mut Around<'_>) {
        let delay = 1 + self.draw.tail(self.config.cluster.log.snapshot_step_us);
        around.queue.push_in(delay, Event::Snapshot { process: self.config.name });
    }
}

impl Making {
    fn begin(job: SnapshotJob, disk: &mut Disk) -> Self {
        let (shard, zxid, hash) = (job.shard, job.zxid, job.hash);
        let mut unwritten = Vec::new();
        let writer = SnapshotWriter::new(shard, zxid, hash, &mut unwritten);
        disk.remove_file(&temporary_file_name(shard, zxid));
        disk.directory.create(&temporary_file_name(shard, zxid));
        let interest = job.interest.clone();
        let (image, writer, steps) = (job.into_image(), Some(writer), VecDeque::new());
        Self { shard, zxid, hash, interest, image, writer, unwritten, steps, digest: 0 }
    }

    fn step(&mut self, disk: &mut Disk) -> Progress {
        let name = temporary_file_name(self.shard, self.zxid);
        if self.writer.is_some() {
            self.next_bytes();
            let bytes = std::mem::take(&mut self.unwritten);
            if !disk.append_file(&name, &bytes) {
                disk.remove_file(&name);
                return Progress::Abandoned(State::SnapshotWithoutRoom);
            }
            return Progress::More;
        }
        let step = self.steps.pop_front().expect("the last step has ended it");
        match step {
            PublishStep::SyncFile { name } => disk.directory.sync_file(&name),
            PublishStep::ReadBack { name, expected } => {
                let bytes = disk.directory.read(&name).expect("it was just written");
                if verify(bytes, |_| {}) != Some((self.shard, expected)) {
                    disk.remove_file(&name);
                    return Progress::Abandoned(State::SnapshotUnreadable);
                }
            }
            PublishStep::Rename { from, to } => disk.directory.rename(&from, &to),
            PublishStep::SyncDirectory => {
                disk.directory.sync();
                return Progress::Taken;
            }
        }
        Progress::More
    }

    fn next_bytes(&mut self) {
        let writer = self.writer.as_mut().expect("the content is not complete");
        let mut chunk = Vec::new();
        let goes_on = self.image.next_chunk(&mut chunk);
        if !chunk.is_empty() {
            writer.chunk(&chunk, &mut self.unwritten);
        }
        if !goes_on {
            let writer = self.writer.take().expect("it was just used");
            let reference = writer.finish(&mut self.unwritten);
            self.digest = reference.digest;
            self.steps = publish(self.shard, &reference).into();
        }
    }
}

/// Reads a snapshot's file: whose it is, if it is sound.
pub fn verify(bytes: &[u8], mut take: impl FnMut(&[u8])) -> Option<(ShardId, SnapshotReference)> {
    let mut reader = SnapshotReader::default();
    for part in bytes.chunks(READ_BYTES) {
        reader.push(part);
        while let Some(chunk) = reader.next_chunk().ok()? {
            take(chunk);
        }
    }
    reader.finish().ok()
}

const READ_BYTES: usize = 10_000;
