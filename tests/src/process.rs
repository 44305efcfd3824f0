//! One run of a node's process: its cores, carried out as the product's engine carries them out.
//!
//! A core's turn feeds some of what it has heard to the worker, ends the turn, hands appends to the
//! log, and sends what is ready. How many inputs a turn takes is drawn, so that every cut between
//! turns happens somewhere.

mod out;
mod perform;
mod retain;
pub mod snapshots;
mod start;
mod stopping;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

use pigeonhole_core::base::id::{
    ChainHash, ConnectionId, CoreId, DiskId, LinkId, ServerId, ShardId, Zxid,
};
use pigeonhole_core::base::time::Now;
use pigeonhole_core::effect::{Crowd, Effects, Input};
use pigeonhole_core::mail::Mail;
use pigeonhole_core::report::Report;
use pigeonhole_core::state::State as ShardState;
use pigeonhole_core::worker::Worker;
use pigeonhole_core::zab::log::Restored;
use pigeonhole_storage::disk::{DiskDone, DiskOp, LogBuffer, SegmentId};
use pigeonhole_storage::recover::Recovered;
use pigeonhole_storage::segment::LiveSegment;
use pigeonhole_storage::wal::{Released, Wal};

use crate::clock::Clock;
use crate::disk::Disk;
use crate::draw::Draw;
use crate::links::{Links, Met};
use crate::network::{Arrival, Host, Port, Side, StreamId};
use crate::node::{Around, Cluster};
use crate::process::snapshots::Workshop;
use crate::queue::{self, Event, Moment};
use crate::sometimes::State;

pub struct ProcessConfig {
    pub index: u8,
    pub name: queue::Process,
    pub cores: u8,
    pub disk: DiskId,
    /// The disk was there when the cluster was formed.
    pub is_founder: bool,
    pub cluster: Cluster,
    pub incarnation: u64,
    pub session_base_ms: u64,
    pub seed: u64,
}

pub struct Process {
    config: ProcessConfig,
    cores: Vec<Core>,
    links: Links,
    clients: BTreeMap<StreamId, ConnectionId>,
    draw: Draw,
    operations: Vec<(CoreId, DiskOp)>,
    workshop: Workshop,
    boot: u64,
    /// What is left of the segments of earlier boots.
    older: Vec<LiveSegment>,
    /// How often something had changed when files were last let go.
    retained: u64,
    is_disk_low: bool,
    /// It is told to end, and does so by then.
    stop_by: Option<Moment>,
    pub paused: bool,
}

/// What each shard begins with.
pub type Beginnings = BTreeMap<ShardId, (ShardState, Restored)>;

/// One core: a worker, its log, and what is on its way to either.
struct Core {
    worker: Worker,
    wal: Wal,
    effects: Effects,
    released: Released,
    inbox: VecDeque<Heard>,
    turn_queued: bool,
    timer: Option<Moment>,
    /// How often each slot has been used; the free ones are listed.
    slots: Vec<u32>,
    free: Vec<u32>,
    clients: BTreeMap<ConnectionId, Socket>,
    links: BTreeMap<LinkId, Socket>,
    client_outputs: BTreeSet<ConnectionId>,
    link_outputs: BTreeSet<LinkId>,
}

struct Socket {
    stream: StreamId,
    side: Side,
    /// The last send waits for room.
    sending: bool,
    closing: bool,
}

/// What a core has heard and not looked at.
enum Heard {
    ClientOpened { connection: ConnectionId, address: IpAddr, entropy: [u8; 16] },
    ClientBytes { connection: ConnectionId, bytes: Vec<u8> },
    ClientSent { connection: ConnectionId },
    ClientClosed { connection: ConnectionId },
    LinkUp { link: LinkId, peer_cores: u8 },
    LinkBytes { link: LinkId, bytes: Vec<u8> },
    LinkDown { link: LinkId },
    Disk(DiskDone),
    NoRoom { segment: SegmentId },
    DiskSpace { is_low: bool },
    SnapshotTaken { shard: ShardId, zxid: Zxid, hash: ChainHash, digest: u128 },
    SnapshotAbandoned { shard: ShardId, zxid: Zxid, hash: ChainHash },
    SnapshotWanted { shard: ShardId },
    Mail { from: CoreId, mail: Mail },
    Stop,
}

impl Process {
    pub fn start(
        config: ProcessConfig,
        recovered: Recovered,
        mut beginnings: Beginnings,
        buffers: Vec<LogBuffer>,
        draw: Draw,
        clock: &Clock,
        around: &mut Around<'_>,
    ) -> Self {
        let links = Links::new(&config);
        let mut process = Self {
            config,
            cores: Vec::new(),
            links,
            clients: BTreeMap::new(),
            draw,
            operations: Vec::new(),
            workshop: Workshop::default(),
            boot: recovered.next_boot,
            older: recovered.segments.clone(),
            retained: 0,
            is_disk_low: false,
            stop_by: None,
            paused: false,
        };
        let now = clock.now(around.queue.now());
        let mut buffers = buffers.into_iter();
        for core in 0..process.config.cores {
            let pair = [buffers.next(), buffers.next()].map(|one| one.expect("two for each core"));
            let core =
                start::core(&process.config, CoreId(core), &recovered, &mut beginnings, pair, now);
            process.cores.push(core);
        }
        for (segment, bytes) in recovered.recyclable {
            process.cores[0].wal.release_segment(segment, bytes);
        }
        process.links.dial_all(around.queue);
        for core in process.core_ids() {
            process.drain(core, around);
            process.end_turn(core, clock, around);
        }
        process
    }

    pub fn name(&self) -> queue::Process {
        self.config.name
    }

    pub fn cores(&self) -> u8 {
        self.config.cores
    }

    pub fn take_operations(&mut self) -> Vec<(CoreId, DiskOp)> {
        std::mem::take(&mut self.operations)
    }

    pub fn into_buffers(self) -> Vec<LogBuffer> {
        let mut buffers = Vec::new();
        for core in self.cores {
            for heard in core.inbox {
                if let Heard::Disk(DiskDone::Write { buffer, .. }) = heard {
                    buffers.push(buffer);
                }
            }
            buffers.extend(core.wal.into_buffers());
        }
        for (_, operation) in self.operations {
            if let DiskOp::Write { buffer, .. } = operation {
                buffers.push(buffer);
            }
        }
        buffers
    }

    /// What the worker of each core says of itself.
    pub fn reports(&self) -> Vec<Report> {
        self.cores.iter().map(|core| core.worker.report()).collect()
    }

    /// One turn of one core.
    pub fn on_turn(&mut self, id: CoreId, clock: &Clock, disk: &Disk, around: &mut Around<'_>) {
        if self.paused {
            return;
        }
        self.core(id).turn_queued = false;
        let now = clock.now(around.queue.now());
        let waiting = self.core(id).inbox.len();
        let inputs = match waiting {
            0 | 1 => waiting,
            _ => 1 + self.draw.index(waiting),
        };
        for _ in 0..inputs {
            let heard = self.core(id).inbox.pop_front().expect("they were counted");
            self.hear(id, heard, now, around);
        }
        // As in the engine: who is late is judged when what has arrived has been heard.
        let deadline = self.core(id).worker.deadline(now.instant);
        if deadline.is_some_and(|deadline| deadline <= now.instant) {
            self.step(id, now, Input::Time, around);
        }
        let share = self.config.cluster.log.turn_share;
        self.step(id, now, Input::TurnEnd { share }, around);
        self.core(id).wal.turn_end(now.instant);
        self.flush(id, disk, around);
        self.end_turn(id, clock, around);
    }

    /// A core's timer has run out; it may have been set for something that is over.
    pub fn on_timer(&mut self, id: CoreId, around: &mut Around<'_>) {
        let now = around.queue.now();
        let core = self.core(id);
        if core.timer == Some(now) {
            core.timer = None;
            self.wake(id, around);
        }
    }

    pub fn on_disk(&mut self, id: CoreId, done: DiskDone, around: &mut Around<'_>) {
        self.hand_over(id, Heard::Disk(done), around);
    }

    /// There is no room for a segment.
    pub fn on_no_room(&mut self, id: CoreId, segment: SegmentId, around: &mut Around<'_>) {
        around.checks.sometimes.hit(State::DiskFull);
        self.hand_over(id, Heard::NoRoom { segment }, around);
    }

    /// How much room there is on the disk.
    pub fn on_disk_space(&mut self, is_low: bool, around: &mut Around<'_>) {
        if self.is_disk_low == is_low {
            return;
        }
        self.is_disk_low = is_low;
        for id in self.core_ids() {
            self.hand_over(id, Heard::DiskSpace { is_low }, around);
        }
    }

    /// The process goes on after it stood still.
    pub fn resume(&mut self, around: &mut Around<'_>) {
        self.paused = false;
        for id in self.core_ids() {
            self.core(id).turn_queued = false;
            self.wake(id, around);
        }
    }

    /// Somebody has connected.
    pub fn on_accepted(
        &mut self,
        port: Port,
        from: Host,
        stream: StreamId,
        around: &mut Around<'_>,
    ) {
        match (port, from) {
            (Port::Client, Host::Client(client)) => self.accept_client(client, stream, around),
            (Port::Peer, _) => self.links.on_accepted(stream),
            (Port::Client, Host::Node(_)) => unreachable!("nodes are not clients"),
        }
    }

    /// What has become of a connect to a peer.
    pub fn on_connected(
        &mut self,
        core: CoreId,
        peer: ServerId,
        peer_core: CoreId,
        stream: Option<StreamId>,
        around: &mut Around<'_>,
    ) {
        let delay = self.retry_delay();
        self.links.on_connected(core, peer, peer_core, stream, delay, around);
    }

    pub fn on_dial(
        &mut self,
        core: CoreId,
        peer: ServerId,
        peer_core: CoreId,
        around: &mut Around<'_>,
    ) {
        self.links.on_dial(core, peer, peer_core, around);
    }

    /// Something has arrived on a stream of this process.
    pub fn on_arrival(
        &mut self,
        stream: StreamId,
        side: Side,
        arrival: Arrival,
        around: &mut Around<'_>,
    ) {
        if let Some(&connection) = self.clients.get(&stream) {
            match arrival {
                Arrival::Bytes(_) if self.is_stopping() => {}
                Arrival::Bytes(bytes) => {
                    let heard = Heard::ClientBytes { connection, bytes };
                    self.hand_over(connection.core, heard, around);
                }
                Arrival::Closed => self.drop_client(connection, around),
            }
            return;
        }
        let delay = self.retry_delay();
        for met in self.links.on_arrival(stream, side, arrival, delay, around) {
            match met {
                Met::Up { core, link, peer_cores } => {
                    let socket = Socket { stream, side, sending: false, closing: false };
                    self.core(core).links.insert(link, socket);
                    self.hand_over(core, Heard::LinkUp { link, peer_cores }, around);
                }
                Met::Bytes { core, link, bytes } => {
                    self.hand_over(core, Heard::LinkBytes { link, bytes }, around);
                }
                Met::Down { core, link } => {
                    self.core(core).links.remove(&link);
                    self.hand_over(core, Heard::LinkDown { link }, around);
                }
            }
        }
    }

    /// There is room again behind a send.
    pub fn on_sent(&mut self, stream: StreamId, around: &mut Around<'_>) {
        if let Some(&connection) = self.clients.get(&stream) {
            let core = self.core(connection.core);
            if let Some(socket) = core.clients.get_mut(&connection) {
                socket.sending = false;
                core.client_outputs.insert(connection);
            }
            self.hand_over(connection.core, Heard::ClientSent { connection }, around);
        } else if let Some((core, link)) = self.links.link_of(stream) {
            let inner = self.core(core);
            if let Some(socket) = inner.links.get_mut(&link) {
                socket.sending = false;
                inner.link_outputs.insert(link);
            }
            self.wake(core, around);
        }
    }

    fn hear(&mut self, id: CoreId, heard: Heard, now: Now, around: &mut Around<'_>) {
        match heard {
            Heard::ClientOpened { connection, address, entropy } => {
                let crowd = Crowd { from_its_address: 1, in_all: self.clients.len() };
                let opened = Input::ClientOpened { connection, address, crowd, entropy };
                self.step(id, now, opened, around);
            }
            Heard::ClientBytes { connection, bytes } => {
                self.step(id, now, Input::ClientBytes { connection, bytes: &bytes }, around);
            }
            Heard::ClientSent { connection } => {
                let input = Input::ClientSent { connection };
                self.step(id, now, input, around);
            }
            Heard::ClientClosed { connection } => {
                self.step(id, now, Input::ClientClosed { connection }, around);
                self.core(id).free.push(connection.slot);
            }
            Heard::LinkUp { link, peer_cores } => {
                self.step(id, now, Input::LinkUp { link, peer_cores }, around);
            }
            Heard::LinkBytes { link, bytes } => {
                // What a worker has given up it hears nothing of any more.
                if self.core(id).links.contains_key(&link) || self.links.is_known(link) {
                    self.step(id, now, Input::LinkBytes { link, bytes: &bytes }, around);
                }
            }
            Heard::LinkDown { link } => self.step(id, now, Input::LinkDown { link }, around),
            Heard::NoRoom { segment } => self.core(id).wal.on_no_room(segment),
            Heard::DiskSpace { is_low } => {
                if !is_low {
                    self.core(id).wal.on_room();
                }
                self.step(id, now, Input::DiskSpace { is_low }, around);
            }
            Heard::SnapshotTaken { shard, zxid, hash, digest } => {
                let input = Input::SnapshotTaken { shard, zxid, hash, digest };
                self.step(id, now, input, around);
            }
            Heard::SnapshotAbandoned { shard, zxid, hash } => {
                self.step(id, now, Input::SnapshotAbandoned { shard, zxid, hash }, around);
            }
            Heard::SnapshotWanted { shard } => {
                self.step(id, now, Input::SnapshotWanted { shard }, around);
            }
            Heard::Mail { from, mail } => self.step(id, now, Input::Mail { from, mail }, around),
            Heard::Stop => self.step(id, now, Input::Stopping, around),
            Heard::Disk(done) => self.on_done(id, done, now, around),
        }
    }

    /// Bytes are durable: first everybody who watches learns it, then what was waiting leaves.
    fn on_done(&mut self, id: CoreId, done: DiskDone, now: Now, around: &mut Around<'_>) {
        let core = self.core(id);
        let mut released = std::mem::take(&mut core.released);
        core.wal.on_done(done, now.instant, &mut released);
        for mark in &released.marks {
            around.checks.agreement.on_durable(self.config.index, mark.value());
        }
        for (link, frame) in released.frames.drain(..) {
            let core = self.core(id);
            match core.worker.link_output(link) {
                Some(output) => {
                    output.extend_from_slice(&frame);
                    core.link_outputs.insert(link);
                }
                None => around.checks.sometimes.hit(State::RiderDropped),
            }
        }
        for mark in released.marks.drain(..) {
            self.step(id, now, Input::Durable(mark), around);
        }
        self.core(id).released = released;
    }

    fn step(&mut self, id: CoreId, now: Now, input: Input<'_>, around: &mut Around<'_>) {
        let core = &mut self.cores[usize::from(id.0)];
        core.worker.step(now, input, &mut core.effects);
        self.drain(id, around);
    }

    fn drain(&mut self, id: CoreId, around: &mut Around<'_>) {
        let mut effects = std::mem::take(&mut self.core(id).effects);
        for effect in effects.drain() {
            self.perform(id, effect, around);
        }
        self.core(id).effects = effects;
    }

    fn drop_client(&mut self, connection: ConnectionId, around: &mut Around<'_>) {
        let id = connection.core;
        if let Some(socket) = self.core(id).clients.remove(&connection) {
            self.clients.remove(&socket.stream);
            self.hand_over(id, Heard::ClientClosed { connection }, around);
        }
    }

    /// Takes up operations of the log, and sees to it that the core is woken in time.
    fn end_turn(&mut self, id: CoreId, clock: &Clock, around: &mut Around<'_>) {
        self.take_up_operations(id);
        let name = self.config.name;
        let core = &mut self.cores[usize::from(id.0)];
        let now = clock.now(around.queue.now()).instant;
        let deadlines = [core.worker.deadline(now), core.wal.deadline()];
        let next = deadlines.into_iter().flatten().map(|deadline| clock.moment(deadline));
        if let Some(next) = next.chain(self.stop_by).min() {
            let at = next.max(around.queue.now() + 1);
            if core.timer.is_none_or(|timer| timer > at || timer <= around.queue.now()) {
                core.timer = Some(at);
                around.queue.push(at, Event::Timer { process: name, core: id });
            }
        }
        if !core.inbox.is_empty() || core.worker.is_in_haste() {
            self.wake(id, around);
        }
    }

    fn take_up_operations(&mut self, id: CoreId) {
        let core = &mut self.cores[usize::from(id.0)];
        while let Some(operation) = core.wal.next_op() {
            self.operations.push((id, operation));
        }
    }

    fn accept_client(&mut self, client: u32, stream: StreamId, around: &mut Around<'_>) {
        let id = CoreId(u8::try_from(self.draw.below(u64::from(self.config.cores))).expect("few"));
        let entropy = self.draw.number();
        let core = self.core(id);
        let slot = core.free.pop().unwrap_or_else(|| {
            core.slots.push(0);
            u32::try_from(core.slots.len() - 1).expect("few connections")
        });
        let generation = &mut core.slots[slot as usize];
        *generation += 1;
        let connection = ConnectionId { core: id, slot, generation: *generation };
        let socket = Socket { stream, side: Side::Acceptor, sending: false, closing: false };
        core.clients.insert(connection, socket);
        self.clients.insert(stream, connection);
        let [_, _, high, low] = client.to_be_bytes();
        let address = IpAddr::V4(Ipv4Addr::new(10, 1, high, low));
        let entropy = (u128::from(entropy) << 64 | u128::from(client)).to_le_bytes();
        self.hand_over(id, Heard::ClientOpened { connection, address, entropy }, around);
    }

    fn hand_over(&mut self, id: CoreId, heard: Heard, around: &mut Around<'_>) {
        self.core(id).inbox.push_back(heard);
        self.wake(id, around);
    }

    fn wake(&mut self, id: CoreId, around: &mut Around<'_>) {
        if self.core(id).turn_queued {
            return;
        }
        self.core(id).turn_queued = true;
        let delay = self.draw.below(self.config.cluster.turn_delay_us + 1);
        let process = self.config.name;
        around.queue.push_in(delay, Event::Turn { process, core: id });
    }

    /// After so long a lost link is dialled again.
    fn retry_delay(&mut self) -> u64 {
        self.draw.between(RETRY_US_MIN, RETRY_US_MAX)
    }

    fn core(&mut self, id: CoreId) -> &mut Core {
        &mut self.cores[usize::from(id.0)]
    }

    fn core_ids(&self) -> Vec<CoreId> {
        (0..self.config.cores).map(CoreId).collect()
    }
}

const RETRY_US_MIN: u64 = 5_000;
const RETRY_US_MAX: u64 = 50_000;
