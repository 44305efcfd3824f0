//! Several workers in memory: links that delay and break, disks that lag and forget, crashes.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails; its numbers are small"
)]

#[path = "../ordinary/mod.rs"]
mod ordinary;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

use pigeonhole_core::base::id::{
    ConnectionId, CoreId, Epoch, LinkId, Sequence, ServerId, ShardId, Zxid,
};
use pigeonhole_core::base::prng::Prng;
use pigeonhole_core::base::time::{Instant, Now};
use pigeonhole_core::control::Control;
use pigeonhole_core::durable::{Append, Durable, LogMark, Record};
use pigeonhole_core::effect::{Crowd, Effect, Effects, Input};
use pigeonhole_core::entry::Entry;
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::state::State;
use pigeonhole_core::worker::{Worker, WorkerConfig};
use pigeonhole_core::zab::Event;
use pigeonhole_core::zab::log::Restored;

pub(crate) const WALL_MS: i64 = 1_700_000_000_000;

/// What a node's log holds, in order.
enum Item {
    Append(Append),
    Committed(ShardId, Zxid),
}

/// Something on its way to a node, in order for each peer.
pub(crate) enum Arrival {
    Up(LinkId),
    Bytes(LinkId, Vec<u8>),
    Down(LinkId),
}

pub(crate) struct Node {
    pub(crate) worker: Option<Worker>,
    effects: Effects,
    items: Vec<Item>,
    durable: usize,
    boot: u64,
    /// A turn has begun and not ended.
    pub(crate) is_dirty: bool,
}

/// What the cluster has to say to whoever plays the clients.
pub(crate) enum News {
    Output(ConnectionId, Vec<u8>),
    Closed(ConnectionId),
}

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) now: Instant,
    pub(crate) prng: Prng,
    map: ShardMap,
    /// By receiver and sender.
    pub(crate) arrivals: BTreeMap<(usize, usize), VecDeque<Arrival>>,
    /// The open link of each node to each peer, as that node names it.
    links: BTreeMap<(usize, usize), LinkId>,
    incarnation: u32,
    pub(crate) news: VecDeque<(usize, News)>,
    /// The node whose disk stands still while everything runs.
    pub(crate) stalled: Option<usize>,
    pub(crate) events: Vec<(usize, ShardId, Event)>,
    digests: BTreeMap<(ShardId, Zxid), u128>,
    leaders: BTreeMap<(ShardId, Epoch), usize>,
    /// What each replica had applied when its disk was last looked at.
    checked: BTreeMap<(usize, ShardId), Zxid>,
}

pub(crate) fn server(node: usize) -> ServerId {
    ServerId(u8::try_from(node + 1).unwrap())
}

fn node_of(server: ServerId) -> usize {
    usize::from(server.0) - 1
}

impl Cluster {
    pub(crate) fn new(count: usize, shards: u16, seed: u64) -> Self {
        let mut cluster = Self {
            nodes: vec![],
            now: Instant(1_000_000),
            prng: Prng::new(seed),
            map: ShardMap::new(shards),
            arrivals: BTreeMap::new(),
            links: BTreeMap::new(),
            incarnation: 0,
            news: VecDeque::new(),
            stalled: None,
            events: vec![],
            digests: BTreeMap::new(),
            leaders: BTreeMap::new(),
            checked: BTreeMap::new(),
        };
        for _ in 0..count {
            cluster.nodes.push(Node {
                worker: None,
                effects: Effects::new(),
                items: vec![],
                durable: 0,
                boot: 0,
                is_dirty: false,
            });
        }
        cluster
    }

    pub(crate) fn start(&mut self, node: usize) {
        let count = self.nodes.len();
        let it = &mut self.nodes[node];
        assert!(it.worker.is_none());
        it.boot += 1;
        let voters = (0..count).map(server);
        let config = WorkerConfig {
            incarnation: it.boot * 1000 + node as u64,
            session_base_ms: 1_700_000_000_000 + it.boot * 1_000_000,
            seed: self.prng.next_u64(),
            ..ordinary::config(server(node), voters, self.map)
        };
        let map = self.map;
        let restored =
            map.shards().map(|shard| (State::new(shard, map), restore(shard, &it.items))).collect();
        it.durable = it.items.len();
        let now = wall(self.now);
        let worker = Worker::new(config, restored, now, &mut it.effects);
        it.worker = Some(worker);
        self.settle(node);
    }

    /// The process dies; of what was not durable some prefix may have reached the disk.
    pub(crate) fn crash(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        it.worker = None;
        it.effects = Effects::new();
        let pending = it.items.len() - it.durable;
        let kept = if self.prng.chance(1, 2) {
            0
        } else {
            usize::try_from(self.prng.below(u64::try_from(pending).unwrap() + 1)).unwrap()
        };
        it.items.truncate(it.durable + kept);
        for peer in 0..self.nodes.len() {
            self.break_link(node, peer);
            self.arrivals.remove(&(node, peer));
        }
    }

    pub(crate) fn is_up(&self, node: usize) -> bool {
        self.nodes[node].worker.is_some()
    }

    /// Whether the node leads some shard.
    pub(crate) fn leads(&self, node: usize) -> bool {
        let worker = self.nodes[node].worker.as_ref();
        worker.is_some_and(|worker| worker.replicas().any(|it| it.zab().is_established_leader()))
    }

    pub(crate) fn is_linked(&self, one: usize, other: usize) -> bool {
        self.links.contains_key(&(one, other))
    }

    pub(crate) fn connect(&mut self, one: usize, other: usize) {
        if one == other || !self.is_up(one) || !self.is_up(other) || self.is_linked(one, other) {
            return;
        }
        for (here, there) in [(one, other), (other, one)] {
            self.incarnation += 1;
            let link =
                LinkId { peer: server(there), core: CoreId(0), incarnation: self.incarnation };
            self.links.insert((here, there), link);
            let queue = self.arrivals.entry((here, there)).or_default();
            // A server may accept a new link before it notices that the old one is dead.
            let before = matches!(queue.back(), Some(Arrival::Down(_))) && self.prng.chance(1, 2);
            let at = queue.len() - usize::from(before);
            queue.insert(at, Arrival::Up(link));
        }
    }

    pub(crate) fn connect_all(&mut self) {
        for one in 0..self.nodes.len() {
            for other in 0..one {
                self.connect(one, other);
            }
        }
    }

    /// Resets the link; some of what is on its way is lost.
    pub(crate) fn break_link(&mut self, one: usize, other: usize) {
        for (here, there) in [(one, other), (other, one)] {
            let Some(link) = self.links.remove(&(here, there)) else {
                continue;
            };
            if !self.is_up(here) {
                continue;
            }
            let queue = self.arrivals.entry((here, there)).or_default();
            while matches!(queue.back(), Some(Arrival::Bytes(..))) && self.prng.chance(3, 4) {
                queue.pop_back();
            }
            queue.push_back(Arrival::Down(link));
        }
    }

    /// Hands over what has come first from this peer.
    pub(crate) fn deliver(&mut self, node: usize, from: usize) -> bool {
        let Some(arrival) = self.arrivals.get_mut(&(node, from)).and_then(VecDeque::pop_front)
        else {
            return false;
        };
        match arrival {
            Arrival::Up(link) => {
                let peer_cores = 1;
                self.step(node, Input::LinkUp { link, peer_cores });
            }
            Arrival::Bytes(link, mut bytes) => {
                if self.prng.chance(1, 4) {
                    let at = self.prng.below(bytes.len() as u64) as usize;
                    let rest = Arrival::Bytes(link, bytes.split_off(at));
                    self.arrivals.entry((node, from)).or_default().push_front(rest);
                }
                let bytes = bytes.as_slice();
                self.step(node, Input::LinkBytes { link, bytes });
            }
            Arrival::Down(link) => self.step(node, Input::LinkDown { link }),
        }
        true
    }

    /// Completes a sync that covers `count` of what is waiting for one.
    pub(crate) fn sync(&mut self, node: usize, count: usize) {
        let it = &mut self.nodes[node];
        let end = (it.durable + count).min(it.items.len());
        let mut marks: BTreeMap<ShardId, Sequence> = BTreeMap::new();
        let mut riders = vec![];
        for item in &it.items[it.durable..end] {
            if let Item::Append(append) = item {
                marks.insert(append.shard, append.sequence);
                for rider in &append.riders {
                    if rider.cumulative {
                        riders.retain(|&(shard, link, cumulative, _)| {
                            !(cumulative && shard == append.shard && link == rider.link)
                        });
                    }
                    let frame = rider.frame.clone();
                    riders.push((append.shard, rider.link, rider.cumulative, frame));
                }
            }
        }
        it.durable = end;
        let worker = it.worker.as_mut().expect("only a process that lives syncs");
        for (_, link, _, frame) in riders {
            if let Some(output) = worker.link_output(link) {
                output.extend_from_slice(&frame);
                it.effects.push(Effect::LinkOutput { link });
            }
        }
        for (shard, sequence) in marks {
            let mark = Durable::attest(LogMark { shard, sequence });
            self.step(node, Input::Durable(mark));
        }
        self.settle(node);
    }

    pub(crate) fn pending(&self, node: usize) -> usize {
        self.nodes[node].items.len() - self.nodes[node].durable
    }

    pub(crate) fn step(&mut self, node: usize, input: Input<'_>) {
        let it = &mut self.nodes[node];
        let Some(worker) = it.worker.as_mut() else {
            return;
        };
        it.is_dirty = !matches!(input, Input::TurnEnd { .. });
        worker.step(wall(self.now), input, &mut it.effects);
        self.settle(node);
    }

    /// Lets time pass, and those act whose deadline has come.
    pub(crate) fn advance(&mut self, micros: u64) {
        self.now.0 += micros;
        for node in 0..self.nodes.len() {
            let due = self.nodes[node].worker.as_ref().and_then(|worker| worker.deadline(self.now));
            if due.is_some_and(|at| at <= self.now) {
                self.step(node, Input::Time);
                self.step(node, Input::TurnEnd { share: usize::MAX });
            }
        }
    }

    /// Carries out what a worker asked for.
    fn settle(&mut self, node: usize) {
        loop {
            let effects: Vec<Effect> = self.nodes[node].effects.drain().collect();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                self.carry_out(node, effect);
            }
        }
        self.check(node);
    }

    fn carry_out(&mut self, node: usize, effect: Effect) {
        let it = &mut self.nodes[node];
        match effect {
            Effect::Append(append) => it.items.push(Item::Append(append)),
            Effect::Diverged { shard, zxid } => panic!("{shard} has diverged at {zxid}"),
            Effect::Committed { shard, zxid } => it.items.push(Item::Committed(shard, zxid)),
            Effect::LinkOutput { link } => {
                let output = it
                    .worker
                    .as_mut()
                    .and_then(|worker| worker.link_output(link))
                    .map(std::mem::take)
                    .unwrap_or_default();
                let peer = node_of(link.peer);
                if output.is_empty() || self.links.get(&(node, peer)) != Some(&link) {
                    return;
                }
                let there = self.links[&(peer, node)];
                let queue = self.arrivals.entry((peer, node)).or_default();
                queue.push_back(Arrival::Bytes(there, output));
            }
            Effect::LinkClose { link, .. } => {
                let peer = node_of(link.peer);
                if self.links.get(&(node, peer)) == Some(&link) {
                    self.break_link(node, peer);
                }
            }
            Effect::ClientOutput { connection } => self.take_output(node, connection),
            Effect::ClientClose { connection, .. } => {
                self.take_output(node, connection);
                self.news.push_back((node, News::Closed(connection)));
                self.step(node, Input::ClientClosed { connection });
            }
            Effect::Event { shard, event } => {
                if let Event::Established { epoch, .. } = event {
                    let before = self.leaders.insert((shard, epoch), node);
                    assert!(before.is_none(), "Leadership2: {epoch:?} of {shard:?}");
                }
                self.events.push((node, shard, event));
            }
            Effect::Snapshot(_) | Effect::Discard(_) => panic!("nobody writes so much"),
            Effect::Mail { .. }
            | Effect::ClientPause { .. }
            | Effect::SessionExpired { .. }
            | Effect::Admin { .. } => {}
        }
    }

    fn take_output(&mut self, node: usize, connection: ConnectionId) {
        let it = &mut self.nodes[node];
        let output = it
            .worker
            .as_mut()
            .and_then(|worker| worker.client_output(connection))
            .map(std::mem::take)
            .unwrap_or_default();
        if output.is_empty() {
            return;
        }
        self.news.push_back((node, News::Output(connection, output)));
        self.step(node, Input::ClientSent { connection });
    }

    /// StateDigest: whoever has applied the same has the same.
    fn check(&mut self, node: usize) {
        let Some(worker) = &self.nodes[node].worker else {
            return;
        };
        for replica in worker.replicas() {
            let state = replica.state();
            let digest = state.tree().digest();
            let known = self.digests.entry((replica.shard(), state.applied())).or_insert(digest);
            assert_eq!(
                *known,
                digest,
                "StateDigest: node {node} {:?} at {:?}",
                replica.shard(),
                state.applied()
            );
            let applied = state.applied();
            let checked = self.checked.entry((node, replica.shard())).or_default();
            if *checked != applied {
                *checked = applied;
                let it = &self.nodes[node];
                let disk = restore(replica.shard(), &it.items[..it.durable]);
                assert!(
                    disk.entries.iter().any(|entry| entry.zxid() == applied),
                    "node {node} has applied {applied:?}, which is not on its disk"
                );
            }
        }
    }

    pub(crate) fn open_client(&mut self, node: usize, connection: ConnectionId, entropy: [u8; 16]) {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        self.step(
            node,
            Input::ClientOpened { connection, address, crowd: Crowd::default(), entropy },
        );
    }

    /// Runs without faults and in a fair order for so long.
    pub(crate) fn run(&mut self, milliseconds: u64) {
        let end = self.now.0 + milliseconds * 1000;
        while self.now.0 < end {
            self.advance(200);
            for node in 0..self.nodes.len() {
                for from in 0..self.nodes.len() {
                    while self.deliver(node, from) {}
                }
                if !self.is_up(node) {
                    continue;
                }
                self.step(node, Input::TurnEnd { share: usize::MAX });
                let pending = self.pending(node);
                if pending > 0 && self.stalled != Some(node) {
                    self.sync(node, pending);
                    self.step(node, Input::TurnEnd { share: usize::MAX });
                }
            }
        }
    }
}

fn wall(now: Instant) -> Now {
    Now { instant: now, wall_ms: WALL_MS + i64::try_from(now.0 / 1000).unwrap() }
}

/// What recovery would make of the log.
fn restore(shard: ShardId, items: &[Item]) -> Restored {
    let mut restored = Restored::nothing(shard);
    let mut entries: Vec<Entry> = vec![];
    for item in items {
        match item {
            Item::Committed(of, zxid) if *of == shard => restored.committed = *zxid,
            Item::Append(append) if append.shard == shard => {
                assert_eq!(append.sequence, restored.next_sequence);
                restored.next_sequence = append.sequence.next();
                match &append.record {
                    Record::Entry(entry) => entries.push(entry.clone()),
                    Record::Control(Control::AcceptedEpoch { epoch }) => {
                        restored.accepted_epoch = Epoch(*epoch);
                    }
                    Record::Control(Control::CurrentEpoch { epoch }) => {
                        restored.current_epoch = Epoch(*epoch);
                    }
                    Record::Control(Control::Truncate { zxid, .. }) => {
                        entries.retain(|entry| entry.zxid() <= Zxid(*zxid));
                    }
                    Record::Control(_) => {}
                }
            }
            _ => {}
        }
    }
    let tail = entries.last().map_or(Zxid::ZERO, Entry::zxid);
    assert!(restored.committed <= tail, "what is known to be committed was in the log before");
    restored.entries = entries;
    restored
}
