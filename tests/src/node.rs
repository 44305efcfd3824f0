//! One node: a disk that outlives everything, and a process that runs on it now and then.

use std::cell::RefCell;
use std::collections::BTreeMap;

use pigeonhole_core::base::id::{ClusterId, DiskId, ServerId, ShardId, Zxid};
use pigeonhole_core::base::time::Periods;
use pigeonhole_core::control::SnapshotReference;
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::state::State as ShardState;
use pigeonhole_core::state::image::ImageReader;
use pigeonhole_core::zab::log::{LogLimits, Restored};
use pigeonhole_storage::disk::{DiskOp, LogBuffer};
use pigeonhole_storage::recover::{RecoverConfig, Recovered, RecoveredShard, recover};
use pigeonhole_storage::scan::Ending;
use pigeonhole_storage::snapshot::SnapshotName;

use crate::check::Checks;
use crate::check::agreement::Agreement;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::draw::Draw;
use crate::network::{Host, Network};
use crate::process::snapshots::verify;
use crate::process::{Beginnings, Process, ProcessConfig};
use crate::queue::{self, Event, Queue};
use crate::sometimes::State;
use crate::trace::Trace;

/// What is around a node.
pub struct Around<'a> {
    pub queue: &'a mut Queue,
    pub network: &'a mut Network,
    pub checks: &'a mut Checks,
    pub trace: &'a mut Trace,
}

/// What all nodes of a world share.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Voters and observers together; the observers come last.
    pub servers: u8,
    pub observers: u8,
    pub counter_handover: u32,
    pub shards: u16,
    pub periods: Periods,
    pub segment_bytes: u64,
    pub turn_delay_us: u64,
    pub cluster: ClusterId,
    pub log: LogOptions,
}

/// How long logs become, and how snapshots keep them short.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    pub limits: LogLimits,
    pub bytes_max: u64,
    /// How long a step of making a snapshot's file takes, on average.
    pub snapshot_step_us: u64,
    /// What each shard may propose and apply in one turn.
    pub turn_share: usize,
}

pub struct Node {
    pub index: u8,
    pub clock: Clock,
    pub disk: Disk,
    pub process: Option<Process>,
    /// Whether the host answers at all; without power it does not.
    pub powered: bool,
    cluster: Cluster,
    draw: Draw,
    disk_id: DiskId,
    /// The disk was there when the cluster was formed.
    is_founder: bool,
    runs: u32,
    cores_before: u8,
    buffers: Vec<LogBuffer>,
    buffers_made: u32,
}

impl Node {
    pub fn new(index: u8, cluster: Cluster, clock: Clock, disk: Disk, draw: Draw) -> Self {
        Self {
            index,
            clock,
            disk,
            process: None,
            powered: true,
            cluster,
            draw,
            disk_id: DiskId(u128::from(index) + 1),
            is_founder: true,
            runs: 0,
            cores_before: 0,
            buffers: Vec::new(),
            buffers_made: 0,
        }
    }

    pub fn id(&self) -> ServerId {
        server_id(self.index)
    }

    /// How often it has been started.
    pub fn runs(&self) -> u32 {
        self.runs
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Whether somebody listens at its ports.
    pub fn accepts(&self) -> bool {
        self.process.as_ref().is_some_and(|process| !process.is_stopping())
    }

    /// Starts the process: recovers the log, and begins a new boot on so many cores.
    pub fn start(&mut self, cores: u8, around: &mut Around<'_>) {
        assert!(self.process.is_none(), "a node runs one process");
        if !self.powered {
            self.powered = true;
            around.network.reappear(Host::Node(self.index), around.queue);
        }
        self.runs += 1;
        if self.cores_before != 0 && self.cores_before != cores {
            around.checks.sometimes.hit(State::CoresChanged);
        }
        self.cores_before = cores;
        let (recovered, beginnings) = self.recover(around);
        let buffers = (0..2 * usize::from(cores)).map(|_| self.buffer()).collect();
        let config = ProcessConfig {
            index: self.index,
            name: queue::Process { node: self.index, run: self.runs },
            cores,
            disk: self.disk_id,
            is_founder: self.is_founder,
            cluster: self.cluster.clone(),
            incarnation: self.draw.number(),
            // Boots are far enough apart that no two hand out one session id.
            session_base_ms: u64::from(self.runs) * 1_000_000,
            seed: self.draw.number(),
        };
        around.trace.line(around.queue.now(), || {
            format!("{:?} starts boot {} on {cores} cores", self.id(), recovered.next_boot)
        });
        let draw = Draw::new(self.draw.number(), 1);
        let process =
            Process::start(config, recovered, beginnings, buffers, draw, &self.clock, around);
        self.process = Some(process);
        self.submit(around);
    }

    /// The process dies; the host stays.
    pub fn kill(&mut self, around: &mut Around<'_>) {
        if self.process.is_none() {
            return;
        }
        around.checks.sometimes.hit(State::Killed);
        for (stream, side) in around.network.streams_of(Host::Node(self.index)) {
            around.network.break_off(stream, side, around.queue);
        }
        self.bury(around);
    }

    /// The process ends in good order: what it has sent arrives.
    pub fn end(&mut self, around: &mut Around<'_>) {
        around.checks.sometimes.hit(State::Stopped);
        for (stream, side) in around.network.streams_of(Host::Node(self.index)) {
            around.network.close(stream, side, around.queue);
        }
        self.bury(around);
    }

    fn bury(&mut self, around: &mut Around<'_>) {
        let process = self.process.take().expect("it was running");
        let torn = self.disk.torn_writes();
        let operations = self.disk.kill();
        self.after_death(process, operations, torn, around);
    }

    /// The host loses its power.
    pub fn cut_power(&mut self, around: &mut Around<'_>) {
        if !self.powered {
            return;
        }
        self.powered = false;
        let torn = self.disk.torn_writes();
        let operations = self.disk.cut_power();
        around.checks.sometimes.hit(State::PowerCut);
        for (stream, side) in around.network.streams_of(Host::Node(self.index)) {
            around.network.vanish(stream, side);
        }
        if let Some(process) = self.process.take() {
            self.after_death(process, operations, torn, around);
        }
    }

    /// The disk is gone while nobody uses it, and an empty one is put in its place.
    pub fn lose_disk(&mut self, around: &mut Around<'_>) {
        assert!(self.process.is_none(), "a disk is replaced in a node that stands still");
        self.disk.lose();
        self.disk_id = DiskId(self.disk_id.0 + 1000);
        self.is_founder = false;
        around.checks.agreement.on_disk_lost(self.index);
        around.checks.sometimes.hit(State::DiskLost);
        around.trace.line(around.queue.now(), || format!("{:?} has lost its disk", self.id()));
    }

    /// Snapshots turn to noise while nobody uses the disk: some, or all of them.
    pub fn damage_snapshots(&mut self, all: bool) {
        let mut newest = BTreeMap::new();
        for name in self.disk.directory.names() {
            let Some(snapshot) = SnapshotName::from_file_name(&name) else {
                continue;
            };
            if all {
                self.disk.damage_file(&name);
            } else {
                newest.insert(snapshot.shard, name);
            }
        }
        for name in newest.values() {
            self.disk.damage_file(name);
        }
    }

    /// Before it is started: a snapshot after so many entries, and so many kept for learners.
    pub fn limit_log(&mut self, snapshot_entries: u64, window_entries: usize) {
        let limits = &mut self.cluster.log.limits;
        (limits.snapshot_entries, limits.window_entries) = (snapshot_entries, window_entries);
    }

    /// Whether it holds and promises as much as any other server does.
    pub fn is_whole(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_whole)
    }

    /// The entry in each shard by which a disk that replaced another counts; `None` as long as it
    /// does not. A founder's disk needs none.
    pub fn admissions(&self, agreement: &Agreement) -> Option<Vec<(ShardId, Zxid)>> {
        if self.is_founder {
            return Some(Vec::new());
        }
        let admission = |shard| Some((shard, agreement.admission(shard, self.id(), self.disk_id)?));
        ShardMap::new(self.cluster.shards).shards().map(admission).collect()
    }

    /// Whether a crash would leave it knowing that this is committed.
    pub fn remembers(&self, shard: ShardId, committed: Zxid) -> bool {
        self.process.as_ref().is_some_and(|process| process.remembers(shard, committed))
    }

    /// Hands the process's new disk operations to the disk.
    pub fn submit(&mut self, around: &mut Around<'_>) {
        let Some(process) = &mut self.process else {
            return;
        };
        process.retain(&mut self.disk, around);
        let is_low = self.disk.is_low();
        if is_low {
            around.checks.sometimes.hit(State::DiskLow);
        }
        process.on_disk_space(is_low, around);
        let name = process.name();
        for (core, operation) in process.take_operations() {
            if let DiskOp::PrepareSegment { segment, recycle, .. } = &operation {
                if segment.number > 2 {
                    around.checks.sometimes.hit(State::SegmentRolled);
                }
                if recycle.is_some() {
                    around.checks.sometimes.hit(State::SegmentRecycled);
                }
            }
            let (number, latency) = self.disk.submit(operation);
            around.queue.push_in(latency, Event::Disk { process: name, core, operation: number });
        }
    }

    fn after_death(
        &mut self,
        process: Process,
        operations: Vec<DiskOp>,
        torn_before: u64,
        around: &mut Around<'_>,
    ) {
        if self.disk.torn_writes() > torn_before {
            around.checks.sometimes.hit(State::TornWrite);
        }
        self.buffers.extend(process.into_buffers());
        for operation in operations {
            if let DiskOp::Write { buffer, .. } = operation {
                self.buffers.push(buffer);
            }
        }
        // Every buffer has an owner at any time, so none is ever lost.
        assert_eq!(self.buffers.len(), self.buffers_made as usize, "all buffers are back");
        around.trace.line(around.queue.now(), || format!("{:?} is down", self.id()));
    }

    fn recover(&mut self, around: &mut Around<'_>) -> (Recovered, Beginnings) {
        let shards: Vec<ShardId> = ShardMap::new(self.cluster.shards).shards().collect();
        let files = self.disk.boot();
        let mut recovered = recover(RecoverConfig::default(), &files, &shards)
            .unwrap_or_else(|why| panic!("n{} cannot start again: {why:?}", self.index));
        for stream in &recovered.streams {
            if matches!(stream.ending, Ending::Torn(_)) {
                around.checks.sometimes.hit(State::TornTailCut);
                around.trace.line(around.queue.now(), || {
                    format!("{:?} cuts off a batch that was written in part", self.id())
                });
            }
            assert!(
                stream.damages.is_empty(),
                "a crash reads as damage: {stream:?} on n{}",
                self.index
            );
        }
        around.checks.states.on_restart(self.index);
        for name in self.disk.directory.names() {
            if SnapshotName::from_file_name(&name).is_none() {
                self.disk.remove_file(&name);
            }
        }
        let mut beginnings = Beginnings::new();
        for (&shard, found) in &mut recovered.shards {
            let (state, base) = self.begin(shard, found, around);
            let entries = found.entries_after(&base).to_vec();
            let restored = Restored::new(&found.checkpoint, &base, entries);
            let checks = &mut *around.checks;
            checks.agreement.on_restart(self.index, &restored, &mut checks.sometimes);
            beginnings.insert(shard, (state, restored));
        }
        (recovered, beginnings)
    }

    /// The state of a shard in the newest snapshot that can be read, and which one that is.
    fn begin(
        &self,
        shard: ShardId,
        found: &mut RecoveredShard,
        around: &mut Around<'_>,
    ) -> (ShardState, SnapshotReference) {
        let sometimes = &mut around.checks.sometimes;
        let map = ShardMap::new(self.cluster.shards);
        for (place, base) in [Some(found.base), found.fallback].into_iter().flatten().enumerate() {
            let state = match base.zxid {
                0 => Some(self.begin_empty(shard, map)),
                _ => self.load(shard, &base, map),
            };
            if let Some(state) = state {
                if base.zxid > 0 {
                    sometimes.hit(State::StartedFromSnapshot);
                }
                if place > 0 {
                    sometimes.hit(State::StartedFromOlder);
                }
                return (state, base);
            }
        }
        sometimes.hit(State::StartedWithoutSnapshot);
        around.checks.agreement.on_shard_lost(self.index, shard);
        found.forget_unreadable();
        (self.begin_empty(shard, map), found.base)
    }

    fn begin_empty(&self, shard: ShardId, map: ShardMap) -> ShardState {
        ShardState::with_index_seed(shard, map, u64::from(self.index))
    }

    fn load(&self, shard: ShardId, base: &SnapshotReference, map: ShardMap) -> Option<ShardState> {
        let name = SnapshotName::new(shard, base).file_name();
        let mut image = ImageReader::new(u64::from(self.index));
        let mut is_image = true;
        let verified = verify(self.disk.directory.read(&name)?, |chunk| {
            is_image &= image.on_chunk(chunk).is_ok();
        })?;
        assert!(is_image, "what has the right hash was written by the product");
        (verified == (shard, *base)).then_some(())?;
        let image = image.finish().expect("a whole file holds a whole image");
        Some(ShardState::from_image(image, map).expect("a sound file holds a sound state"))
    }

    fn buffer(&mut self) -> LogBuffer {
        if let Some(buffer) = self.buffers.pop() {
            return buffer;
        }
        self.buffers_made += 1;
        let bytes = usize::try_from(self.cluster.segment_bytes).expect("a segment is small");
        LogBuffer { id: self.buffers_made, bytes: take_memory(bytes) }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            self.buffers.extend(process.into_buffers());
        }
        for operation in self.disk.kill() {
            if let DiskOp::Write { buffer, .. } = operation {
                self.buffers.push(buffer);
            }
        }
        POOL.with_borrow_mut(|pool| {
            for buffer in self.buffers.drain(..) {
                pool.entry(buffer.bytes.len()).or_default().push(buffer.bytes);
            }
        });
    }
}

thread_local! {
    /// The boundary to the disk speaks of memory that outlives the process, as registered buffers
    /// do. Worlds of one thread use the same again.
    static POOL: RefCell<BTreeMap<usize, Vec<&'static mut [u8]>>> =
        const { RefCell::new(BTreeMap::new()) };
}

fn take_memory(bytes: usize) -> &'static mut [u8] {
    let pooled = POOL.with_borrow_mut(|pool| pool.get_mut(&bytes).and_then(Vec::pop));
    match pooled {
        Some(memory) => {
            memory.fill(0);
            memory
        }
        None => vec![0; bytes].leak(),
    }
}

/// Nodes are numbered from 0, servers from 1.
pub fn server_id(node: u8) -> ServerId {
    ServerId(node + 1)
}

pub fn node_of(server: ServerId) -> u8 {
    server.0 - 1
}
