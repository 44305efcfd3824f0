//! A seed → a cluster, its clients, a network, disks, faults, and virtual time.
//!
//! There is one queue of events. A run ends when the clients have done their work: then everything
//! is healed and started, and within half a minute of simulated time the cluster must serve again,
//! all replicas be equal, and every answer agree with what was committed.

mod fault;

use pigeonhole_core::base::id::{ClusterId, CoreId, ShardId};
use pigeonhole_core::peer::message::PeerState;
use pigeonhole_core::shard::ShardMap;

use crate::check::{self, Checks};
use crate::client::Client;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::draw::Draw;
use crate::history::History;
use crate::network::{Host, Network, Port, Side, StreamId};
use crate::node::{Around, Cluster, Node, server_id};
use crate::queue::{Dialer, Event, Moment, Process, Queue};
use crate::sometimes::Sometimes;
use crate::swarm::{FAULTS, Options};
use crate::trace::{Mode, Trace};

pub struct World {
    pub options: Options,
    pub queue: Queue,
    pub network: Network,
    pub nodes: Vec<Node>,
    pub clients: Vec<Client>,
    pub history: History,
    pub checks: Checks,
    pub trace: Trace,
    draw: Draw,
    partition: u64,
    /// The node whose disk was lost or damaged, until it is as good as any other.
    ailing: Option<u8>,
    healing: bool,
    finished: bool,
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    pub hash: u64,
    pub events: u64,
    pub operations: usize,
    pub simulated: Moment,
    pub sometimes: Sometimes,
}

/// Runs a seed to its end. A violated rule panics, and so does a failed assertion of the product.
pub fn run(seed: u64, mode: Mode) -> Outcome {
    let mut world = World::new(Options::draw(seed), mode);
    world.start_all();
    world.schedule_faults();
    world.run_load();
    world.finish();
    world.outcome()
}

impl World {
    pub fn new(options: Options, mode: Mode) -> Self {
        let seed = options.seed;
        let cluster = Cluster {
            servers: options.servers,
            observers: options.observers,
            counter_handover: options.counter_handover,
            shards: options.shards,
            periods: options.periods,
            segment_bytes: options.segment_bytes,
            turn_delay_us: options.turn_delay_us,
            cluster: ClusterId(u128::from(seed) + 1),
            log: options.log,
        };
        let node = |index: u8| {
            let mut draw = Draw::new(seed, 100 + u64::from(index));
            let clock = Clock::draw(options.drift_ppm, &mut draw);
            let disk = Disk::new(options.disk.clone(), Draw::new(seed, 200 + u64::from(index)));
            Node::new(index, cluster.clone(), clock, disk, draw)
        };
        let client = |id| Client::new(id, options.servers, options.load.clone(), seed);
        Self {
            queue: Queue::default(),
            network: Network::new(options.network.clone(), Draw::new(seed, 2)),
            nodes: (0..options.servers).map(node).collect(),
            clients: (0..options.load.clients).map(client).collect(),
            history: History::default(),
            checks: Checks::new(options.servers - options.observers, CRASH_CHECK_EVERY),
            trace: Trace::new(mode),
            draw: Draw::new(seed, 3),
            partition: 0,
            ailing: None,
            healing: false,
            finished: false,
            options,
        }
    }

    /// Starts every node within a moment, and every client.
    pub fn start_all(&mut self) {
        for node in 0..self.options.servers {
            let delay = self.draw.below(START_US_SPREAD);
            self.queue.push_in(delay, Event::Start { node, down: 0 });
        }
        for client in 0..self.options.load.clients {
            let delay = self.draw.below(START_US_SPREAD);
            self.queue.push_in(delay, Event::Client { client, wake: 0 });
        }
        self.queue.push_in(LOOK_US, Event::Look);
    }

    /// Lets the first fault of each class that is on come in its time.
    pub fn schedule_faults(&mut self) {
        for class in 0..FAULTS {
            self.schedule_fault(class);
        }
    }

    /// Runs until the clients have asked enough. Where faults come faster than they are repaired
    /// that may never be: then what must hold afterwards is all the more to be seen.
    pub fn run_load(&mut self) {
        let end = Moment::from_ms(SIMULATED_MS_MAX);
        while (self.history.operations.len() as u64) < self.options.load.operations
            && self.queue.now() < end
        {
            self.step();
        }
    }

    /// Heals everything, and holds the cluster to what it must do then.
    pub fn finish(&mut self) {
        self.heal();
        let deadline = self.queue.now() + FINISH_US_MAX;
        let mut next_look = self.queue.now();
        loop {
            if self.queue.now() >= next_look {
                next_look = self.queue.now() + FINISH_LOOK_US;
                if self.is_whole() {
                    break;
                }
                assert!(
                    self.queue.now() < deadline,
                    "Liveness: 30 s after the last fault the cluster is {}",
                    self.condition()
                );
            }
            self.step();
        }
        self.look();
        self.finished = true;
        let (agreement, sometimes) = (&self.checks.agreement, &mut self.checks.sometimes);
        let map = ShardMap::new(self.options.shards);
        check::clients(&self.history, agreement, map, sometimes);
    }

    pub fn outcome(self) -> Outcome {
        Outcome {
            hash: self.trace.hash(),
            events: self.trace.events(),
            operations: self.history.operations.len(),
            simulated: self.queue.now(),
            sometimes: self.checks.sometimes,
        }
    }

    /// Takes the next event.
    pub fn step(&mut self) {
        let event = self.queue.pop().expect("a world with timers always goes on");
        self.trace.fold(self.queue.now().0, &event_bytes(&event));
        match event {
            Event::Turn { process, core } => self.on_turn(process, core),
            Event::Timer { process, core } => self.with_process(process, |_, process, around| {
                process.on_timer(core, around);
            }),
            Event::Disk { process, core, operation } => {
                self.with_process(process, |disk, running, around| match disk.refuse(operation) {
                    Some(segment) => running.on_no_room(core, segment, around),
                    None => running.on_disk(core, disk.complete(operation), around),
                });
            }
            Event::Snapshot { process } => self.with_process(process, |disk, process, around| {
                process.on_snapshot_step(disk, around);
            }),
            Event::Room { node } => self.make_room(node, None),
            Event::Arrive { stream, side } => self.on_arrive(stream, side),
            Event::Sent { stream, side } => self.on_sent(stream, side),
            Event::Dial { process, core, peer, peer_core } => {
                self.with_process(process, |_, process, around| {
                    process.on_dial(core, server_id(peer), peer_core, around);
                });
            }
            Event::Connect { by, port, node } => self.on_connect(by, port, node),
            Event::Connected { by, node, stream } => self.on_connected(by, node, stream),
            Event::Client { client, wake } => {
                self.with_client(client, |client, history, around| {
                    client.on_wake(wake, history, around);
                });
            }
            Event::Resume { process } => {
                self.with_process(process, |_, process, around| process.resume(around));
            }
            Event::Start { node, down } => {
                if !self.nodes[usize::from(node)].is_running()
                    && self.nodes[usize::from(node)].runs() == down
                {
                    let cores = 1 + self.draw.below(u64::from(self.options.cores_max));
                    self.start(node, u8::try_from(cores).expect("few cores"));
                }
            }
            Event::Fault { class } => self.on_fault(class),
            Event::Heal { partition } => {
                if partition == self.partition {
                    self.network.heal(&mut self.queue);
                }
            }
            Event::Read { stream, side } => {
                self.network.read_on(stream, side, &mut self.queue);
            }
            Event::Look => {
                self.look();
                self.queue.push_in(LOOK_US, Event::Look);
            }
        }
    }

    /// Runs everything up to a moment.
    pub fn run_until(&mut self, at: Moment) {
        while self.queue.next_at().is_some_and(|next| next <= at) {
            self.step();
        }
        self.queue.advance_to(at);
    }

    pub fn start(&mut self, node: u8, cores: u8) {
        let (nodes, mut around) = self.split();
        nodes[usize::from(node)].start(cores, &mut around);
    }

    pub fn kill(&mut self, node: u8) {
        let (nodes, mut around) = self.split();
        nodes[usize::from(node)].kill(&mut around);
    }

    /// A node's process is told to end.
    pub fn stop(&mut self, node: u8) {
        let (nodes, mut around) = self.split();
        if let Some(process) = &mut nodes[usize::from(node)].process {
            process.stop(&mut around);
        }
    }

    /// A node that stands still gets an empty disk.
    pub fn lose_disk(&mut self, node: u8) {
        let (nodes, mut around) = self.split();
        nodes[usize::from(node)].lose_disk(&mut around);
    }

    pub fn cut_power(&mut self, node: u8) {
        let (nodes, mut around) = self.split();
        nodes[usize::from(node)].cut_power(&mut around);
    }

    /// Lets a client do something.
    pub fn with_client(
        &mut self,
        client: u32,
        act: impl FnOnce(&mut Client, &mut History, &mut Around<'_>),
    ) {
        let mut around = Around {
            queue: &mut self.queue,
            network: &mut self.network,
            checks: &mut self.checks,
            trace: &mut self.trace,
        };
        act(&mut self.clients[client as usize], &mut self.history, &mut around);
    }

    /// Holds what every replica reports against all others.
    pub fn look(&mut self) {
        for node in &self.nodes {
            let Some(process) = &node.process else {
                continue;
            };
            for report in process.reports().into_iter().flat_map(|report| report.shards) {
                self.checks.states.on_report(node.index, report.shard, report.zxid, report.digest);
            }
        }
    }

    /// The server that leads a shard, if one says that it does.
    pub fn leader(&self, shard: ShardId) -> Option<u8> {
        let leads = |node: &&Node| {
            let reports = node.process.iter().flat_map(|process| process.reports());
            reports.flat_map(|report| report.shards).any(|report| {
                report.shard == shard && report.role == PeerState::Leading && report.established
            })
        };
        self.nodes.iter().find(leads).map(|node| node.index)
    }

    fn on_turn(&mut self, process: Process, core: CoreId) {
        let (nodes, mut around) = self.split();
        let node = &mut nodes[usize::from(process.node)];
        if let Some(running) = node.process.as_mut().filter(|running| running.name() == process) {
            running.on_turn(core, &node.clock, &node.disk, &mut around);
            let may_end = running.may_end(around.queue.now());
            node.submit(&mut around);
            if may_end {
                node.end(&mut around);
                self.on_ended(process.node);
            }
        }
    }

    fn on_arrive(&mut self, stream: StreamId, side: Side) {
        let Some(host) = self.network.host(stream, side) else {
            return;
        };
        let Some(arrival) = self.network.receive(stream, side, &mut self.queue) else {
            return;
        };
        match host {
            Host::Client(client) => self.with_client(client, |client, history, around| {
                use crate::network::Arrival;
                match arrival {
                    Arrival::Bytes(bytes) => client.on_bytes(stream, &bytes, history, around),
                    Arrival::Closed => client.on_closed(stream, history, around),
                }
            }),
            Host::Node(node) => {
                let (nodes, mut around) = self.split();
                if let Some(process) = &mut nodes[usize::from(node)].process {
                    process.on_arrival(stream, side, arrival, &mut around);
                }
            }
        }
    }

    fn on_sent(&mut self, stream: StreamId, side: Side) {
        let Some(Host::Node(node)) = self.network.host(stream, side) else {
            return;
        };
        let (nodes, mut around) = self.split();
        if let Some(process) = &mut nodes[usize::from(node)].process {
            process.on_sent(stream, &mut around);
        }
    }

    fn on_connect(&mut self, by: Dialer, port: Port, node: u8) {
        let from = match by {
            Dialer::Client { client, .. } => Host::Client(client),
            Dialer::Core { process, .. } => Host::Node(process.node),
        };
        let to = Host::Node(node);
        let target = &self.nodes[usize::from(node)];
        let cut = self.network.is_cut(from, to) || self.network.is_cut(to, from);
        if cut || !target.powered {
            let event = Event::Connected { by, node, stream: None };
            self.queue.push_in(CONNECT_US_MAX, event);
            return;
        }
        let delay = self.network.delay();
        if !target.accepts() {
            self.queue.push_in(delay, Event::Connected { by, node, stream: None });
            return;
        }
        let stream = self.network.open(port, from, to);
        let (nodes, mut around) = self.split();
        let process = nodes[usize::from(node)].process.as_mut().expect("it runs");
        process.on_accepted(port, from, stream, &mut around);
        self.queue.push_in(delay, Event::Connected { by, node, stream: Some(stream) });
    }

    fn on_connected(&mut self, by: Dialer, node: u8, stream: Option<StreamId>) {
        // The host may have been cut off from its own connect by now.
        let stream = stream.filter(|&stream| self.network.port(stream).is_some());
        match by {
            Dialer::Client { client, attempt } => {
                self.with_client(client, |client, history, around| {
                    client.on_connected(attempt, stream, history, around);
                });
            }
            Dialer::Core { process, core, peer_core } => {
                let alive = self.nodes[usize::from(process.node)]
                    .process
                    .as_ref()
                    .is_some_and(|running| running.name() == process);
                if let (Some(stream), false) = (stream, alive) {
                    self.network.break_off(stream, Side::Dialer, &mut self.queue);
                }
                self.with_process(process, |_, process, around| {
                    process.on_connected(core, server_id(node), peer_core, stream, around);
                });
            }
        }
    }

    /// From now on nothing fails, and everything that is down comes up.
    fn heal(&mut self) {
        self.healing = true;
        self.partition += 1;
        self.network.heal(&mut self.queue);
        for node in 0..self.options.servers {
            self.nodes[usize::from(node)].disk.heal();
            self.make_room(node, None);
            // One that never stood still and was never down has nothing to show: all start again.
            let process = self.nodes[usize::from(node)].process.as_ref();
            let is_stopping = process.is_some_and(crate::process::Process::is_stopping);
            if process.is_some() && (self.draw.chance(1, 2) || is_stopping) {
                self.kill(node);
            }
            if !self.nodes[usize::from(node)].is_running() {
                let cores = 1 + self.draw.below(u64::from(self.options.cores_max));
                self.start(node, u8::try_from(cores).expect("few cores"));
            }
            let (nodes, mut around) = self.split();
            let process = nodes[usize::from(node)].process.as_mut().expect("it was started");
            process.resume(&mut around);
        }
        for client in 0..self.options.load.clients {
            self.with_client(client, |client, history, around| {
                client.stop();
                client.end_silence();
                client.act(history, around);
            });
        }
    }

    /// Whether everything is as it should be once all faults are over.
    fn is_whole(&self) -> bool {
        self.history.open == 0 && self.unequal().is_none()
    }

    /// The first shard in which the replicas do not all serve the same.
    fn unequal(&self) -> Option<String> {
        for shard in (0..self.options.shards).map(ShardId) {
            let mut states = Vec::new();
            for node in &self.nodes {
                let process = node.process.as_ref().expect("every node was started");
                let reports = process.reports().into_iter().flat_map(|report| report.shards);
                let report = reports.into_iter().find(|report| report.shard == shard);
                let report = report.expect("every node holds every shard");
                if !report.established {
                    return Some(format!("without a leader on n{} ({report:?})", node.index));
                }
                states.push((report.zxid, report.digest, report.tail));
            }
            if states.windows(2).any(|pair| pair[0] != pair[1]) {
                return Some(format!("unequal in shard {shard}: {states:?}"));
            }
        }
        None
    }

    fn condition(&self) -> String {
        self.unequal().unwrap_or_else(|| {
            let open = |operation: &&crate::history::Operation| {
                operation.outcome == crate::history::Outcome::Open
            };
            let first = self.history.operations.iter().find(open);
            format!("not done with {} operations, as {first:?}", self.history.open)
        })
    }

    fn with_process(
        &mut self,
        process: Process,
        act: impl FnOnce(&mut Disk, &mut crate::process::Process, &mut Around<'_>),
    ) {
        let (nodes, mut around) = self.split();
        let node = &mut nodes[usize::from(process.node)];
        if let Some(running) = node.process.as_mut().filter(|running| running.name() == process) {
            act(&mut node.disk, running, &mut around);
        }
    }

    fn split(&mut self) -> (&mut Vec<Node>, Around<'_>) {
        let around = Around {
            queue: &mut self.queue,
            network: &mut self.network,
            checks: &mut self.checks,
            trace: &mut self.trace,
        };
        (&mut self.nodes, around)
    }
}

fn event_bytes(event: &Event) -> [u8; 4] {
    // The kind is enough: what an event does shows in what follows from it.
    let kind: u32 = match event {
        Event::Turn { process, core } => 1 | u32::from(process.node) << 8 | u32::from(core.0) << 16,
        Event::Timer { .. } => 2,
        Event::Disk { .. } => 3,
        Event::Arrive { .. } => 4,
        Event::Sent { .. } => 5,
        Event::Dial { .. } => 6,
        Event::Connect { .. } => 7,
        Event::Connected { .. } => 8,
        Event::Client { client, .. } => 9 | client << 8,
        Event::Resume { .. } => 10,
        Event::Start { .. } => 11,
        Event::Fault { .. } => 12,
        Event::Heal { .. } => 13,
        Event::Look => 14,
        Event::Snapshot { .. } => 16,
        Event::Room { node } => 17 | u32::from(*node) << 8,
        Event::Read { .. } => 15,
    };
    kind.to_le_bytes()
}

/// How often all replicas are compared.
const LOOK_US: u64 = 20_000;
const FINISH_LOOK_US: u64 = 50_000;
const FINISH_US_MAX: u64 = 30_000_000;
const START_US_SPREAD: u64 = 200_000;
/// A connect to a host that does not answer is given up after so long.
const CONNECT_US_MAX: u64 = 300_000;
/// Faults may hold the clients up for long, but not for ever.
const SIMULATED_MS_MAX: u64 = 120_000;
/// A recovery of the whole log costs as much as a few hundred events.
const CRASH_CHECK_EVERY: u64 = 61;
