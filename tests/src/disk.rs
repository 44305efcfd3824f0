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
//! - a snapshot's file that holds something else than was written, or turns to noise while the
//!   node is down;
//! - little room: a file that needs more waits until there is;
//! - the whole disk is lost.
//!
//! Never: an error of a completed, synced write. The product stops at the first failed operation,
//! so that for the cluster it is the same as a crash at that place.

pub mod directory;

use std::collections::{BTreeMap, BTreeSet};

use pigeonhole_storage::disk::{DiskDone, DiskOp, SegmentId};

use crate::disk::directory::Directory;
use crate::draw::Draw;

#[derive(Clone, Debug)]
pub struct DiskOptions {
    pub latency_min_us: u64,
    pub latency_tail_us: u64,
    /// How many of a million operations take up to a second.
    pub spike_rate: u64,
    /// How many of a million appends to a snapshot's file store something else.
    pub misstore_rate: u64,
    /// With less room than this, a disk is almost full.
    pub low_bytes: u64,
}

pub struct Disk {
    options: DiskOptions,
    draw: Draw,
    files: BTreeMap<SegmentId, File>,
    /// The snapshots' files.
    pub directory: Directory,
    in_flight: BTreeMap<u64, DiskOp>,
    /// Those of them that are done, because files are given up in order and a later one was done.
    renamed: BTreeSet<u64>,
    next: u64,
    /// Bytes that may still be allocated; `None` while there is plenty.
    room: Option<u64>,
    is_low: bool,
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
            directory: Directory::default(),
            in_flight: BTreeMap::new(),
            renamed: BTreeSet::new(),
            next: 0,
            room: None,
            is_low: false,
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

    /// A new segment needs room: without it, nothing happens, and this says for which.
    pub fn refuse(&mut self, number: u64) -> Option<SegmentId> {
        let room = self.room?;
        match *self.in_flight.get(&number)? {
            DiskOp::PrepareSegment { segment, bytes, recycle: None } if bytes > room => {
                self.in_flight.remove(&number);
                Some(segment)
            }
            _ => None,
        }
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
                self.change_names_before(number);
                if !self.renamed.remove(&number) {
                    self.prepare(segment, whole(bytes), recycle);
                }
                DiskDone::PrepareSegment { segment }
            }
            DiskOp::RetireSegment { segment } => {
                self.change_names_before(number);
                if !self.renamed.remove(&number) {
                    self.retire(segment);
                }
                DiskDone::RetireSegment { segment }
            }
        }
    }

    /// The process dies; the kernel and the device go on. The operations come back, because their
    /// buffers belong to somebody.
    pub fn kill(&mut self) -> Vec<DiskOp> {
        self.interrupt_all(false)
    }

    /// The host loses its power.
    pub fn cut_power(&mut self) -> Vec<DiskOp> {
        let operations = self.interrupt_all(true);
        for file in self.files.values_mut() {
            for (sector, bytes) in std::mem::take(&mut file.unsynced) {
                if self.draw.chance(1, 2) {
                    file.store(sector, &bytes);
                }
            }
        }
        self.directory.cut_power(&mut self.draw);
        operations
    }

    /// Appends to a snapshot's file, unless that would take the room that the log needs.
    pub fn append_file(&mut self, name: &str, bytes: &[u8]) -> bool {
        let needed = bytes.len() as u64;
        if self.room.is_some_and(|room| room < needed + self.options.low_bytes / 2) {
            return false;
        }
        self.take_room(bytes.len());
        self.directory.append(name, bytes);
        if self.draw.per_million(self.options.misstore_rate) {
            self.directory.damage(name, &mut self.draw);
        }
        true
    }

    pub fn remove_file(&mut self, name: &str) {
        let bytes = self.directory.read(name).map_or(0, <[u8]>::len);
        self.directory.remove(name);
        self.give_room(bytes);
    }

    /// A snapshot's file turns to noise.
    pub fn damage_file(&mut self, name: &str) {
        self.directory.damage(name, &mut self.draw);
    }

    /// From now on there is so much room, or plenty.
    pub fn limit_room(&mut self, room: Option<u64>) {
        self.room = room;
    }

    /// Whether the disk is almost full; it is not before there is half as much room again.
    pub fn is_low(&mut self) -> bool {
        let low = self.options.low_bytes;
        let enough = if self.is_low { low + low / 2 } else { low };
        self.is_low = self.room.is_some_and(|room| room < enough);
        self.is_low
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
        self.directory = Directory::default();
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
        self.options.misstore_rate = 0;
        self.room = None;
    }

    fn prepare(&mut self, segment: SegmentId, bytes: usize, recycle: Option<SegmentId>) {
        let file = match recycle {
            Some(old) => self.files.remove(&old).expect("a recycled file exists"),
            None => {
                self.take_room(bytes);
                File { durable: vec![0; bytes], ..File::default() }
            }
        };
        let before = self.files.insert(segment, file);
        assert!(before.is_none(), "a segment is prepared once");
    }

    fn retire(&mut self, segment: SegmentId) {
        let file = self.files.remove(&segment);
        self.give_room(file.map_or(0, |file| file.durable.len()));
    }

    /// Files that are given up go in their order, so that no stream ever lacks one in its middle.
    fn change_names_before(&mut self, number: u64) {
        let earlier = self.in_flight.range(..number);
        let earlier: Vec<u64> = earlier.filter(|(_, it)| gives_up(it)).map(|(&it, _)| it).collect();
        for number in earlier {
            if !self.renamed.insert(number) {
                continue;
            }
            match self.in_flight[&number] {
                DiskOp::PrepareSegment { segment, bytes, recycle } => {
                    self.prepare(segment, whole(bytes), recycle);
                }
                DiskOp::RetireSegment { segment } => self.retire(segment),
                DiskOp::Write { .. } => unreachable!("a write gives no file up"),
            }
        }
    }

    fn interrupt_all(&mut self, power: bool) -> Vec<DiskOp> {
        let renamed = std::mem::take(&mut self.renamed);
        let operations = std::mem::take(&mut self.in_flight);
        let given_up = |(number, it): &(&u64, &DiskOp)| gives_up(it) && !renamed.contains(number);
        let waiting = operations.iter().filter(given_up).count();
        let mut done = self.draw.index(waiting + 1);
        for (number, operation) in &operations {
            match operation {
                _ if renamed.contains(number) => {}
                _ if !gives_up(operation) => self.interrupt(operation, power),
                _ if done == 0 => {}
                DiskOp::PrepareSegment { segment, bytes, recycle } => {
                    done -= 1;
                    self.prepare(*segment, whole(*bytes), *recycle);
                }
                DiskOp::RetireSegment { segment } => {
                    done -= 1;
                    self.retire(*segment);
                }
                DiskOp::Write { .. } => unreachable!("a write gives no file up"),
            }
        }
        operations.into_values().collect()
    }

    /// What is left of a write, or of a new file, that was under way.
    fn interrupt(&mut self, operation: &DiskOp, power: bool) {
        match operation {
            DiskOp::Write { segment, offset, length, buffer } => {
                let bytes = &buffer.bytes[..*length as usize];
                self.tear(*segment, whole(*offset), bytes, power);
            }
            DiskOp::PrepareSegment { segment, bytes, recycle } => match self.draw.below(3) {
                0 => {}
                _ if self.room.is_some_and(|room| room < *bytes) => {}
                1 => {
                    let blocks = self.draw.below(bytes / BLOCK_BYTES as u64 + 1);
                    self.prepare(*segment, whole(blocks) * BLOCK_BYTES, None);
                }
                _ => self.prepare(*segment, whole(*bytes), *recycle),
            },
            DiskOp::RetireSegment { .. } => unreachable!("it gives a file up"),
        }
    }

    fn take_room(&mut self, bytes: usize) {
        if let Some(room) = &mut self.room {
            *room = room.saturating_sub(bytes as u64);
        }
    }

    fn give_room(&mut self, bytes: usize) {
        if let Some(room) = &mut self.room {
            *room += bytes as u64;
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

/// Whether an operation takes a file's name away.
fn gives_up(operation: &DiskOp) -> bool {
    let recycles = matches!(operation, DiskOp::PrepareSegment { recycle: Some(_), .. });
    recycles || matches!(operation, DiskOp::RetireSegment { .. })
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
