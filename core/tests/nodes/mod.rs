//! Nodes of several cores and shards on perfect disks, joined by queues that a seed interleaves.

#![allow(dead_code, reason = "every test binary uses its own part")]

#[path = "../ordinary/mod.rs"]
mod ordinary;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

use pigeonhole_core::base::id::{ConnectionId, CoreId, LinkId, ServerId, SessionId, ShardId, Zxid};
use pigeonhole_core::base::prng::Prng;
use pigeonhole_core::base::time::{Duration, Instant, Now};
use pigeonhole_core::durable::{Durable, LogMark, Rider};
use pigeonhole_core::effect::{Crowd, Effect, Effects, Input};
use pigeonhole_core::links::core_of;
use pigeonhole_core::mail::Mail;
use pigeonhole_core::op::{Acl, ConnectRequest, CreateMode, EventType, Request, permission};
use pigeonhole_core::replica::Replica;
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::state::State;
use pigeonhole_core::wire::client;
use pigeonhole_core::worker::{Worker, WorkerConfig};
use pigeonhole_core::zab::log::Restored;

/// One core of one node.
type Place = (usize, u8);

/// What is on its way from one core to another, or from a disk to its core.
enum Parcel {
    Link(LinkId, Vec<u8>),
    Mail(Mail),
    Durable(LogMark, Vec<Rider>),
}

pub(crate) struct Ensemble {
    pub(crate) map: ShardMap,
    pub(crate) now: Now,
    cores: u8,
    workers: BTreeMap<Place, Worker>,
    /// In order between any two places; a seed chooses which moves next.
    queues: BTreeMap<(Place, Place), VecDeque<Parcel>>,
    clients: BTreeMap<(usize, ConnectionId), Client>,
    effects: Effects,
    chance: Prng,
    next_slot: u32,
}

#[derive(Default)]
struct Client {
    received: Vec<u8>,
    is_closed: bool,
}

/// A client's end of its connection.
#[derive(Clone, Copy)]
pub(crate) struct Handle {
    pub(crate) node: usize,
    pub(crate) connection: ConnectionId,
    pub(crate) session: SessionId,
    pub(crate) password: [u8; 16],
}

/// What a client hears, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    Reply { xid: i32, zxid: u64, error: i32, body: Vec<u8> },
    Event { zxid: u64, kind: EventType, path: String },
}

pub(crate) const TIMEOUT_MS: i32 = 10_000;

/// Of [`shapes`] and [`names`].
pub(crate) const SHARDS: u16 = 8;

impl Ensemble {
    pub(crate) fn new(nodes: usize, cores: u8, shards: u16, seed: u64) -> Self {
        let mut ensemble = Self {
            map: ShardMap::new(shards),
            now: Now { instant: Instant(1_000_000), wall_ms: 1_700_000_000_000 },
            cores,
            workers: BTreeMap::new(),
            queues: BTreeMap::new(),
            clients: BTreeMap::new(),
            effects: Effects::new(),
            chance: Prng::new(seed),
            next_slot: 0,
        };
        let places: Vec<Place> =
            (0..nodes).flat_map(|node| (0..cores).map(move |core| (node, core))).collect();
        for &place in &places {
            let worker = ensemble.start(place, nodes);
            ensemble.workers.insert(place, worker);
            ensemble.perform(place);
        }
        for &from in &places {
            for &to in places.iter().filter(|to| to.0 != from.0) {
                let up = Input::LinkUp { link: link(to), peer_cores: cores };
                ensemble.step(from, up);
            }
        }
        ensemble.run();
        if nodes > 1 {
            ensemble.advance(3000);
        }
        ensemble
    }

    fn start(&mut self, (node, core): Place, nodes: usize) -> Worker {
        let voters = (0..nodes).map(server);
        let config = WorkerConfig {
            core: CoreId(core),
            cores: self.cores,
            ..ordinary::config(server(node), voters, self.map)
        };
        let here = self.map.shards().filter(|&shard| core_of(shard, self.cores) == CoreId(core));
        let restored = here.map(|shard| (State::new(shard, self.map), Restored::nothing(shard)));
        Worker::new(config, restored.collect(), self.now, &mut self.effects)
    }

    fn step(&mut self, place: Place, input: Input<'_>) {
        let Some(worker) = self.workers.get_mut(&place) else {
            return;
        };
        worker.step(self.now, input, &mut self.effects);
        worker.step(self.now, Input::TurnEnd { share: usize::MAX }, &mut self.effects);
        self.perform(place);
    }

    fn perform(&mut self, place: Place) {
        let effects: Vec<Effect> = self.effects.drain().collect();
        for effect in effects {
            match effect {
                Effect::Append(append) => {
                    let mark = LogMark { shard: append.shard, sequence: append.sequence };
                    self.put(place, place, Parcel::Durable(mark, append.riders));
                }
                Effect::Mail { to, mail } => {
                    self.put(place, (place.0, to.0), Parcel::Mail(mail));
                }
                Effect::ClientOutput { connection } => self.receive(place, connection),
                Effect::ClientClose { connection, .. } => {
                    self.receive(place, connection);
                    let client = self.clients.entry((place.0, connection)).or_default();
                    client.is_closed = true;
                    self.step(place, Input::ClientClosed { connection });
                }
                Effect::LinkOutput { link } => self.send_over(place, link),
                Effect::LinkClose { link: far, .. } => self.unlink(place, far),
                _ => {}
            }
        }
    }

    fn receive(&mut self, place: Place, connection: ConnectionId) {
        let worker = self.workers.get_mut(&place).expect("it has just spoken");
        if let Some(output) = worker.client_output(connection) {
            let client = self.clients.entry((place.0, connection)).or_default();
            client.received.append(output);
        }
    }

    fn send_over(&mut self, place: Place, out: LinkId) {
        let worker = self.workers.get_mut(&place).expect("it has just spoken");
        let Some(output) = worker.link_output(out) else {
            return;
        };
        let bytes = core::mem::take(output);
        let to = (usize::from(out.peer.0) - 1, out.core.0);
        if !bytes.is_empty() {
            self.put(place, to, Parcel::Link(link(place), bytes));
        }
    }

    fn put(&mut self, from: Place, to: Place, parcel: Parcel) {
        if self.workers.contains_key(&to) {
            self.queues.entry((from, to)).or_default().push_back(parcel);
        }
    }

    /// Lets one thing happen; false if nothing is left to happen.
    pub(crate) fn run_one(&mut self) -> bool {
        self.queues.retain(|_, queue| !queue.is_empty());
        if self.queues.is_empty() {
            return false;
        }
        let chosen = self.chance.below(self.queues.len() as u64);
        let chosen = usize::try_from(chosen).expect("it is below a count");
        let (&(_, to), queue) = self.queues.iter_mut().nth(chosen).expect("it was counted");
        match queue.pop_front().expect("empty ones are gone") {
            Parcel::Link(link, bytes) => {
                let bytes = &bytes;
                self.step(to, Input::LinkBytes { link, bytes });
            }
            Parcel::Mail(mail) => {
                let from = CoreId(0);
                self.step(to, Input::Mail { from, mail });
            }
            Parcel::Durable(mark, riders) => {
                for rider in riders {
                    let worker = self.workers.get_mut(&to).expect("its disk lives with it");
                    if let Some(output) = worker.link_output(rider.link) {
                        output.extend_from_slice(&rider.frame);
                        self.send_over(to, rider.link);
                    }
                }
                self.step(to, Input::Durable(Durable::attest(mark)));
            }
        }
        true
    }

    pub(crate) fn run(&mut self) {
        while self.run_one() {}
    }

    pub(crate) fn advance(&mut self, milliseconds: u64) {
        let end = self.now.instant + Duration::from_ms(milliseconds);
        loop {
            self.run();
            let now = self.now.instant;
            let due = |worker: &Worker| worker.deadline(now).filter(|&at| at <= end);
            let next = self
                .workers
                .iter()
                .filter_map(|(&place, worker)| Some((due(worker)?, place)))
                .min();
            let Some((at, place)) = next else {
                break;
            };
            self.now.instant = at.max(now);
            self.step(place, Input::Time);
        }
        self.now.instant = end;
    }

    /// A node stands still, and all that is on its way to it and from it with it. The first that it
    /// knows then is how late it is.
    pub(crate) fn pause(&mut self, node: usize, milliseconds: u64) {
        self.now.instant = self.now.instant + Duration::from_ms(milliseconds);
        for core in 0..self.cores {
            self.step((node, core), Input::Time);
        }
    }

    fn unlink(&mut self, near: Place, far: LinkId) {
        let other = (usize::from(far.peer.0) - 1, far.core.0);
        self.queues.retain(|ends, _| *ends != (near, other) && *ends != (other, near));
        self.step(near, Input::LinkDown { link: far });
        self.step(other, Input::LinkDown { link: link(near) });
    }

    /// The node stops, with everything that was on its way from it and to it.
    pub(crate) fn kill(&mut self, node: usize) {
        self.workers.retain(|place, _| place.0 != node);
        self.queues.retain(|(from, to), _| from.0 != node && to.0 != node);
        let left: Vec<Place> = self.workers.keys().copied().collect();
        for place in left {
            for core in 0..self.cores {
                let link = link((node, core));
                self.step(place, Input::LinkDown { link });
            }
        }
    }

    pub(crate) fn open(&mut self, node: usize, core: u8) -> Handle {
        let connection = ConnectionId { core: CoreId(core), slot: self.next_slot, generation: 1 };
        self.next_slot += 1;
        let mut entropy = [7; 16];
        entropy[..4].copy_from_slice(&connection.slot.to_le_bytes());
        let (address, crowd) = (IpAddr::V4(Ipv4Addr::LOCALHOST), Crowd::default());
        let opened = Input::ClientOpened { connection, address, crowd, entropy };
        self.step((node, core), opened);
        Handle { node, connection, session: SessionId(0), password: [0; 16] }
    }

    pub(crate) fn connect(&mut self, node: usize, core: u8) -> Handle {
        let begun = Handle { session: SessionId(0), ..self.open(node, core) };
        self.establish(begun, 0)
    }

    /// The client of `before` comes back after it has read headers up to `last_zxid_seen`.
    pub(crate) fn reconnect(
        &mut self,
        before: Handle,
        node: usize,
        core: u8,
        last_zxid_seen: u64,
    ) -> Handle {
        let begun =
            Handle { session: before.session, password: before.password, ..self.open(node, core) };
        self.establish(begun, last_zxid_seen)
    }

    fn establish(&mut self, mut handle: Handle, last_zxid_seen: u64) -> Handle {
        let request = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: Zxid(last_zxid_seen),
            timeout_ms: TIMEOUT_MS,
            session: handle.session,
            password: &handle.password,
            read_only: Some(false),
        };
        let mut bytes = vec![];
        client::put_connect(&mut bytes, &request);
        self.post(handle, &bytes);
        self.run();
        let frames = self.frames(handle);
        let response = client::parse_connect(&frames[0]).expect("a connect response");
        assert_eq!(response.timeout_ms, TIMEOUT_MS);
        handle.session = response.session;
        handle.password = response.password;
        handle
    }

    /// The connection breaks.
    pub(crate) fn cut(&mut self, handle: Handle) {
        let connection = handle.connection;
        let place = (handle.node, connection.core.0);
        self.step(place, Input::ClientClosed { connection });
    }

    /// Sends bytes and lets nothing else happen.
    pub(crate) fn post(&mut self, handle: Handle, bytes: &[u8]) {
        let connection = handle.connection;
        let place = (handle.node, connection.core.0);
        self.step(place, Input::ClientBytes { connection, bytes });
    }

    pub(crate) fn ask(&mut self, handle: Handle, xid: i32, request: &Request<'_>) {
        let mut bytes = vec![];
        client::put_request(&mut bytes, xid, request);
        self.post(handle, &bytes);
    }

    /// Sends requests with xids from 1 in one piece, and returns everything heard until all is
    /// quiet.
    pub(crate) fn send(&mut self, handle: Handle, requests: &[Request<'_>]) -> Vec<Heard> {
        let mut bytes = vec![];
        for (xid, request) in (1..).zip(requests) {
            client::put_request(&mut bytes, xid, request);
        }
        self.post(handle, &bytes);
        self.run();
        self.heard(handle)
    }

    /// One request and the body of its successful reply; events before it are dropped.
    pub(crate) fn get(&mut self, handle: Handle, request: &Request<'_>) -> Vec<u8> {
        let heard = self.send(handle, std::slice::from_ref(request));
        match heard.into_iter().find(|heard| heard.xid().is_some()) {
            Some(Heard::Reply { error: 0, body, .. }) => body,
            other => panic!("{request:?} gives {other:?}"),
        }
    }

    pub(crate) fn error_of(&mut self, handle: Handle, request: &Request<'_>) -> i32 {
        let heard = self.send(handle, std::slice::from_ref(request));
        let reply = heard.into_iter().find(|heard| heard.xid().is_some());
        let Some(Heard::Reply { error, .. }) = reply else { panic!("{request:?} has no reply") };
        error
    }

    pub(crate) fn heard(&mut self, handle: Handle) -> Vec<Heard> {
        self.frames(handle).iter().map(|frame| Heard::of(frame)).collect()
    }

    pub(crate) fn is_closed(&self, handle: Handle) -> bool {
        let client = self.clients.get(&(handle.node, handle.connection));
        client.is_some_and(|client| client.is_closed)
    }

    pub(crate) fn replicas(&self) -> impl Iterator<Item = &Replica> {
        self.workers.values().flat_map(Worker::replicas)
    }

    pub(crate) fn replica(&self, node: usize, shard: ShardId) -> &Replica {
        let place = (node, core_of(shard, self.cores).0);
        let worker = self.workers.get(&place).expect("the node lives");
        let mut replicas = worker.replicas();
        let found = replicas.find(|replica| replica.shard() == shard);
        found.expect("the core has the shard")
    }

    /// The node that leads the shard.
    pub(crate) fn leader(&self, shard: ShardId) -> usize {
        let mut places = self.workers.keys().map(|place| place.0);
        let leads = |&node: &usize| self.replica(node, shard).zab().is_established_leader();
        places.find(leads).expect("every shard has a leader")
    }

    pub(crate) fn ephemerals_count(&self, node: usize) -> usize {
        let shards = self.map.shards();
        shards
            .map(|shard| {
                let state = self.replica(node, shard).state();
                state.sessions().ephemerals_count()
            })
            .sum()
    }

    fn frames(&mut self, handle: Handle) -> Vec<Vec<u8>> {
        let client = self.clients.entry((handle.node, handle.connection)).or_default();
        let received = core::mem::take(&mut client.received);
        let mut frames = vec![];
        let mut rest = received.as_slice();
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let (frame, behind) = behind.split_at(u32::from_be_bytes(*length) as usize);
            frames.push(frame.to_vec());
            rest = behind;
        }
        frames
    }
}

impl Heard {
    fn of(frame: &[u8]) -> Self {
        let (header, body) = client::parse_header(frame).expect("a header");
        if header.xid == -1 {
            let event = client::parse_event(body).expect("an event");
            return Self::Event {
                zxid: header.zxid.0,
                kind: event.kind,
                path: event.path.to_string(),
            };
        }
        Self::Reply {
            xid: header.xid,
            zxid: header.zxid.0,
            error: header.error,
            body: body.to_vec(),
        }
    }

    pub(crate) fn xid(&self) -> Option<i32> {
        match self {
            Self::Reply { xid, .. } => Some(*xid),
            Self::Event { .. } => None,
        }
    }

    pub(crate) fn zxid(&self) -> u64 {
        match self {
            Self::Reply { zxid, .. } | Self::Event { zxid, .. } => *zxid,
        }
    }

    /// For tables: the xid of a reply, or the event.
    pub(crate) fn brief(&self) -> String {
        match self {
            Self::Reply { xid, error: 0, .. } => format!("{xid}"),
            Self::Reply { xid, error, .. } => format!("{xid}:{error}"),
            Self::Event { kind, path, .. } => format!("{kind:?} {path}"),
        }
    }
}

pub(crate) fn brief(heard: &[Heard]) -> Vec<String> {
    heard.iter().map(Heard::brief).collect()
}

/// One name directly under `/` for each shard.
pub(crate) fn names() -> Vec<String> {
    let map = ShardMap::new(SHARDS);
    let of = |shard: ShardId| {
        let mut names = (0..).map(|number| format!("/n{number}"));
        names.find(|name| map.shard_of(name) == shard)
    };
    map.shards().map(|shard| of(shard).expect("names are plenty")).collect()
}

/// Nodes, cores and shards: the real thing, and what it must look like.
pub(crate) fn shapes() -> [Ensemble; 3] {
    [Ensemble::new(1, 1, 1, 1), Ensemble::new(1, 1, SHARDS, 1), Ensemble::new(1, 3, SHARDS, 1)]
}

pub(crate) fn create<'a>(path: &'a str, mode: CreateMode) -> Request<'a> {
    Request::Create { path, data: Some(b""), acl: vec![OPEN], mode, with_stat: false }
}

pub(crate) fn plain(path: &str) -> Request<'_> {
    create(path, CreateMode::Persistent)
}

pub(crate) fn ephemeral(path: &str) -> Request<'_> {
    create(path, CreateMode::Ephemeral)
}

pub(crate) fn children(path: &str, watch: bool) -> Request<'_> {
    Request::GetChildren { path, watch, with_stat: true }
}

pub(crate) fn get_data(path: &str, watch: bool) -> Request<'_> {
    Request::GetData { path, watch }
}

pub(crate) fn set_data<'a>(path: &'a str, data: &'a [u8]) -> Request<'a> {
    Request::SetData { path, data: Some(data), version: -1 }
}

pub(crate) fn pick(chance: &mut Prng, count: u64) -> usize {
    usize::try_from(chance.below(count)).expect("there are few")
}

pub(crate) fn counter(heard: &[Heard]) -> u64 {
    heard.iter().map(Heard::zxid).max().expect("it has heard something")
}

pub(crate) const OPEN: Acl<'static> =
    Acl { permissions: permission::ALL, scheme: "world", id: "anyone" };

fn server(node: usize) -> ServerId {
    ServerId(u8::try_from(node + 1).expect("there are few nodes"))
}

/// How anybody names its link to a place.
fn link((node, core): Place) -> LinkId {
    LinkId { peer: server(node), core: CoreId(core), incarnation: 1 }
}
