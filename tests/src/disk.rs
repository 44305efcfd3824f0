//! One node's simulated disk: segment files made of sectors.
//!
//! Every sector has up to three images: what is *durable*, what is *unsynced* (in the device's
//! cache: readable, and gone with the power or not), and what an operation *in flight* is writing.
//! A write of the log is synced before it is done, so unsynced sectors come from one thing only: a
//! process that was killed while its write was under way. Whoever boots syncs the files before it
//! believes them, as the product does.
//!
//! Faults:
//! - killed process: each sector of a write in flight has reached the cache or not; a file being
//!   prepared is there, in part there, or not there; a retired file is there or not;
//! - power cut: each unsynced sector and each sector in flight is lost, kept, or (in flight only)
//!   garbage; a prepared file may have any length;
//! - latency with a tail, and spikes of up to a second;
//! - damage at rest: sectors of an older batch turn to noise while the node is down.
//!
//! Never: an error of a completed, synced write. The product stops at the first failed operation,
//! so that for the cluster it is the same as a crash at that place.

use std::collections::{BTreeMap, BTreeSet};

use pigeonhole_storage::disk::{DiskDone, DiskOp, SegmentId};

use crate::draw::Draw;

#[derive(Clone, Debug)]
pub struct DiskOptions {
    pub latency_min_us: u64,
    pub latency_tail_us: u64,
    /// How many of a million operations take up to a second.
    pub spike_rate: u64,
}

pub struct Disk {
    options: DiskOptions,
    draw: Draw,
    files: BTreeMap<SegmentId, File>,
    in_flight: BTreeMap<u64, DiskOp>,
    next: u64,
    /// Sectors of in-flight writes that survived a crash only in part: for the counters.
    torn_writes: u64,
}

#[derive(Clone, Default)]
struct File {
    durable: Vec<u8>,
    /// Sectors that are readable and not yet durable.
    unsynced: BTreeMap<usize, Vec<u8>>,
}

impl Disk {
    pub fn new(options: DiskOptions, draw: Draw) -> Self {
        Self {
            options,
            draw,
            files: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            next: 0,
            torn_writes: 0,
        }
    }

    /// Begins an operation: its number, and how many microseconds it takes.
    pub fn submit(&mut self, operation: DiskOp) -> (u64, u64) {
        self.next += 1;
        let mut latency =
            self.options.latency_min_us + self.draw.tail(self.options.latency_tail_us);
        if let DiskOp::PrepareSegment { recycle: None, .. } = operation {
            latency *= ZEROING_FACTOR;
        }
        if self.draw.per_million(self.options.spike_rate) {
            latency += self.draw.below(SPIKE_US_MAX);
        }
        self.in_flight.insert(self.next, operation);
        (self.next, latency)
    }

    /// The operation has succeeded: what it wrote is durable.
    pub fn complete(&mut self, number: u64) -> DiskDone {
        let operation = self.in_flight.remove(&number).expect("it was submitted");
        match operation {
            DiskOp::Write { segment, offset, length, buffer } => {
                let file = self.files.get_mut(&segment).expect("a segment is prepared first");
                let (offset_bytes, length) = (whole(offset), length as usize);
                let end = offset_bytes + length;
                assert!(end <= file.durable.len(), "a write stays inside its segment");
                file.durable[offset_bytes..end].copy_from_slice(&buffer.bytes[..length]);
                DiskDone::Write { segment, offset, buffer }
            }
            DiskOp::PrepareSegment { segment, bytes, recycle } => {
                self.prepare(segment, whole(bytes), recycle);
                DiskDone::PrepareSegment { segment }
            }
            DiskOp::RetireSegment { segment } => {
                self.files.remove(&segment);
                DiskDone::RetireSegment { segment }
            }
        }
    }

    /// The process dies; the kernel and the device go on. The operations come back, because their
    /// buffers belong to somebody.
    pub fn kill(&mut self) -> Vec<DiskOp> {
        let operations: Vec<DiskOp> = std::mem::take(&mut self.in_flight).into_values().collect();
        for operation in &operations {
            self.interrupt(operation, false);
        }
        operations
    }

    /// The host loses its power.
    pub fn cut_power(&mut self) -> Vec<DiskOp> {
        let operations: Vec<DiskOp> = std::mem::take(&mut self.in_flight).into_values().collect();
        for operation in &operations {
            self.interrupt(operation, true);
        }
        for file in self.files.values_mut() {
            for (sector, bytes) in std::mem::take(&mut file.unsynced) {
                if self.draw.chance(1, 2) {
                    file.store(sector, &bytes);
                }
            }
        }
        operations
    }

    /// What a process finds that starts now. Reading syncs: what was read stays.
    pub fn boot(&mut self) -> Vec<(SegmentId, &[u8])> {
        for file in self.files.values_mut() {
            for (sector, bytes) in std::mem::take(&mut file.unsynced) {
                file.store(sector, &bytes);
            }
        }
        self.files.iter().map(|(&id, file)| (id, file.durable.as_slice())).collect()
    }

    /// What would be left if everything not durable were lost right now.
    pub fn crash_now(&self) -> Vec<(SegmentId, &[u8])> {
        self.files.iter().map(|(&id, file)| (id, file.durable.as_slice())).collect()
    }

    /// Everything on this disk is gone.
    pub fn lose(&mut self) {
        assert!(self.in_flight.is_empty(), "nobody uses a disk that is lost");
        self.files.clear();
    }

    pub fn torn_writes(&self) -> u64 {
        self.torn_writes
    }

    pub fn writes_in_flight(&self) -> usize {
        let write = |operation: &&DiskOp| matches!(operation, DiskOp::Write { .. });
        self.in_flight.values().filter(write).count()
    }

    /// From now on every operation takes so long.
    pub fn slow(&mut self, microseconds: u64) {
        self.options.latency_min_us = microseconds;
    }

    pub fn heal(&mut self) {
        self.options.spike_rate = 0;
    }

    fn prepare(&mut self, segment: SegmentId, bytes: usize, recycle: Option<SegmentId>) {
        let file = match recycle {
            Some(old) => self.files.remove(&old).expect("a recycled file exists"),
            None => File { durable: vec![0; bytes], ..File::default() },
        };
        let before = self.files.insert(segment, file);
        assert!(before.is_none(), "a segment is prepared once");
    }

    /// What is left of an operation that was under way.
    fn interrupt(&mut self, operation: &DiskOp, power: bool) {
        match operation {
            DiskOp::Write { segment, offset, length, buffer } => {
                let bytes = &buffer.bytes[..*length as usize];
                self.tear(*segment, whole(*offset), bytes, power);
            }
            DiskOp::PrepareSegment { segment, bytes, recycle } => match self.draw.below(3) {
                0 => {}
                1 if recycle.is_none() => {
                    let blocks = self.draw.below(bytes / BLOCK_BYTES as u64 + 1);
                    self.prepare(*segment, whole(blocks) * BLOCK_BYTES, None);
                }
                _ => self.prepare(*segment, whole(*bytes), *recycle),
            },
            DiskOp::RetireSegment { segment } => {
                if self.draw.chance(1, 2) {
                    self.files.remove(segment);
                }
            }
        }
    }

    fn tear(&mut self, segment: SegmentId, offset: usize, bytes: &[u8], power: bool) {
        let file = self.files.get_mut(&segment).expect("a segment is prepared first");
        // All and nothing are as likely as everything between them.
        let share = *self.draw.pick(&[0, 0, 20, 50, 80, 100, 100]);
        let mut fates = BTreeSet::new();
        for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
            let place = offset / SECTOR_BYTES + index;
            let kept = self.draw.below(100) < share;
            fates.insert(kept);
            if power && !kept && share > 0 && self.draw.chance(1, 100) {
                let garbage: Vec<u8> = sector.iter().map(|byte| byte ^ 0x5a).collect();
                file.store(place, &garbage);
            } else if kept && power {
                file.store(place, sector);
            } else if kept {
                file.unsynced.insert(place, sector.to_vec());
            }
        }
        self.torn_writes += u64::from(fates.len() == 2);
    }
}

impl File {
    fn store(&mut self, sector: usize, bytes: &[u8]) {
        let start = sector * SECTOR_BYTES;
        self.durable[start..start + bytes.len()].copy_from_slice(bytes);
    }
}

fn whole(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a simulated file fits into memory")
}

/// What a device writes as a whole.
const SECTOR_BYTES: usize = 512;
const BLOCK_BYTES: usize = 4096;
/// Zeroing a whole file takes longer than one write.
const ZEROING_FACTOR: u64 = 20;
const SPIKE_US_MAX: u64 = 1_000_000;
