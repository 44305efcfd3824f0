//! One node: a disk that outlives everything, and a process that runs on it now and then.

use std::cell::RefCell;
use std::collections::BTreeMap;

use pigeonhole_core::base::id::{ChainHash, ClusterId, DiskId, ServerId, ShardId, Zxid};
use pigeonhole_core::base::time::Periods;
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::zab::log::{Mark, Restored};
use pigeonhole_storage::disk::{DiskOp, LogBuffer};
use pigeonhole_storage::recover::{RecoverConfig, Recovered, RecoveredShard, recover};
use pigeonhole_storage::scan::Ending;

use crate::check::Checks;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::draw::Draw;
use crate::network::{Host, Network};
use crate::process::{Process, ProcessConfig};
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
        let recovered = self.recover(around);
        let buffers = (0..2 * usize::from(cores)).map(|_| self.buffer()).collect();
        let config = ProcessConfig {
            index: self.index,
            name: queue::Process { node: self.index, run: self.runs },
            cores,
            disk: DiskId(u128::from(self.index) + 1),
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
        let process = Process::start(config, recovered, buffers, draw, &self.clock, around);
        self.process = Some(process);
        self.submit(around);
    }

    /// The process dies; the host stays.
    pub fn kill(&mut self, around: &mut Around<'_>) {
        let Some(process) = self.process.take() else {
            return;
        };
        around.checks.sometimes.hit(State::Killed);
        for (stream, side) in around.network.streams_of(Host::Node(self.index)) {
            around.network.break_off(stream, side, around.queue);
        }
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

    /// Hands the process's new disk operations to the disk.
    pub fn submit(&mut self, around: &mut Around<'_>) {
        let Some(process) = &mut self.process else {
            return;
        };
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

    fn recover(&mut self, around: &mut Around<'_>) -> Recovered {
        let shards: Vec<ShardId> = ShardMap::new(self.cluster.shards).shards().collect();
        let files = self.disk.boot();
        let recovered = recover(RecoverConfig::default(), &files, &shards)
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
        for (&shard, found) in &recovered.shards {
            let restored = restored(shard, found);
            around.checks.agreement.on_restart(self.index, &restored, &mut around.checks.sometimes);
        }
        recovered
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

/// What a worker is given of one shard.
pub fn restored(shard: ShardId, found: &RecoveredShard) -> Restored {
    let base = Mark { zxid: Zxid(found.base.zxid), hash: ChainHash(found.base.hash) };
    let checkpoint = &found.checkpoint;
    let after = found.entries.iter().filter(|entry| entry.zxid() > base.zxid);
    Restored {
        shard,
        next_sequence: checkpoint.next_sequence(),
        accepted_epoch: checkpoint.accepted_epoch(),
        current_epoch: checkpoint.current_epoch(),
        committed: checkpoint.committed_zxid().max(base.zxid),
        base,
        entries: after.cloned().collect(),
    }
}
