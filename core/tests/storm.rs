//! Clusters in bad weather: seeded runs with faults at every step, and what must hold all the same.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails; its numbers are small"
)]

mod ensemble;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pigeonhole_core::base::id::{ConnectionId, CoreId, SessionId, ShardId, Zxid};
use pigeonhole_core::base::prng::Prng;
use pigeonhole_core::effect::Input;
use pigeonhole_core::op::{Acl, ConnectRequest, CreateMode, Request, permission};
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::wire::client;

use ensemble::{Cluster, News};

#[derive(Clone, PartialEq, Eq, Debug)]
enum Wanted {
    Created(String),
    Ephemeral(String),
    Shared,
    NoNode,
    Synced,
    /// Acknowledged before, so it must be there.
    There(String),
    Closed,
}

struct Client {
    at: Option<(usize, ConnectionId)>,
    is_attached: bool,
    generation: u32,
    session: SessionId,
    password: [u8; 16],
    last_zxid_seen: Zxid,
    xid: i32,
    wanted: VecDeque<(i32, Wanted)>,
    received: Vec<u8>,
    /// Acknowledged to this session.
    own: Vec<String>,
    /// Until when the client leaves its requests unanswered before it complains.
    asked_at: u64,
}

struct Storm {
    cluster: Cluster,
    prng: Prng,
    map: ShardMap,
    clients: Vec<Client>,
    next_name: u64,
    acknowledged: Vec<String>,
    /// What each session asked for, in order.
    issued: BTreeMap<SessionId, Vec<String>>,
    shared_versions: BTreeSet<i32>,
    acks: u64,
    /// Queues that deliver nothing for now.
    blocked: BTreeSet<(usize, usize)>,
    /// How many steps of a thousand bring a fault.
    faults: u64,
}

impl Storm {
    fn new(nodes: usize, shards: u16, seed: u64) -> Self {
        let mut cluster = Cluster::new(nodes, shards, seed);
        for node in 0..nodes {
            cluster.start(node);
        }
        cluster.connect_all();
        let client = |_| Client {
            at: None,
            is_attached: false,
            generation: 0,
            session: SessionId(0),
            password: [0; 16],
            last_zxid_seen: Zxid::ZERO,
            xid: 0,
            wanted: VecDeque::new(),
            received: vec![],
            own: vec![],
            asked_at: 0,
        };
        Self {
            cluster,
            prng: Prng::new(seed ^ 0xc11e),
            map: ShardMap::new(shards),
            clients: (0..4).map(client).collect(),
            next_name: 0,
            acknowledged: vec![],
            issued: BTreeMap::new(),
            shared_versions: BTreeSet::new(),
            acks: 0,
            blocked: BTreeSet::new(),
            faults: [3, 6, 12, 30, 70][(seed % 5) as usize],
        }
    }

    fn pick(&mut self, bound: usize) -> usize {
        self.prng.below(bound as u64) as usize
    }

    /// One thing happens.
    fn step(&mut self) {
        // Calm seeds get far, and stormy ones seldom beyond an election.
        if self.prng.chance(self.faults, 1000) {
            self.fault();
        }
        let micros = self.prng.below(200);
        self.cluster.advance(micros);
        self.hear();
        let nodes = self.cluster.nodes.len();
        match self.prng.below(100) {
            0..55 => {
                let ready: Vec<(usize, usize)> = self
                    .cluster
                    .arrivals
                    .iter()
                    .filter(|(key, queue)| !queue.is_empty() && !self.blocked.contains(key))
                    .map(|(&key, _)| key)
                    .collect();
                if !ready.is_empty() {
                    let (node, from) = ready[self.pick(ready.len())];
                    self.cluster.deliver(node, from);
                    if self.prng.chance(1, 2) {
                        self.cluster.step(node, Input::TurnEnd { share: usize::MAX });
                    }
                }
            }
            55..70 => {
                let node = self.pick(nodes);
                let pending = self.cluster.pending(node);
                if self.cluster.is_up(node) && pending > 0 {
                    let count = 1 + self.pick(pending);
                    self.cluster.sync(node, count);
                }
            }
            70..84 => {
                let node = self.pick(nodes);
                if self.cluster.nodes[node].is_dirty {
                    self.cluster.step(node, Input::TurnEnd { share: usize::MAX });
                }
            }
            _ => {
                let client = self.pick(self.clients.len());
                self.act(client);
            }
        }
    }

    fn fault(&mut self) {
        let nodes = self.cluster.nodes.len();
        let (one, other) = (self.pick(nodes), self.pick(nodes));
        match self.prng.below(24) {
            0 => self.cluster.break_link(one, other),
            1 => {
                if self.cluster.is_up(one) {
                    self.crash(one);
                }
            }
            2..6 => {
                if !self.cluster.is_up(one) {
                    self.cluster.start(one);
                }
            }
            6..16 => self.cluster.connect(one, other),
            16 => {
                self.blocked.insert((one, other));
            }
            17 => {
                self.blocked.insert((one, other));
                self.blocked.insert((other, one));
            }
            18..21 => self.blocked.clear(),
            21 => {
                let client = self.pick(self.clients.len());
                self.hang_up(client);
            }
            22 => {
                for peer in 0..nodes {
                    self.blocked.insert((one, peer));
                    self.blocked.insert((peer, one));
                }
            }
            _ => {
                for node in 0..nodes {
                    if self.cluster.leads(node) {
                        self.crash(node);
                    }
                }
            }
        }
    }

    fn crash(&mut self, node: usize) {
        self.cluster.crash(node);
        for client in &mut self.clients {
            if client.at.is_some_and(|(at, _)| at == node) {
                client.forget();
            }
        }
    }

    fn hang_up(&mut self, client: usize) {
        if let Some((node, connection)) = self.clients[client].at {
            self.clients[client].forget();
            self.cluster.step(node, Input::ClientClosed { connection });
        }
    }

    /// A client connects, or asks for something.
    fn act(&mut self, index: usize) {
        if self.clients[index].at.is_none() {
            self.connect(index);
            return;
        }
        let client = &self.clients[index];
        if !client.is_attached || client.wanted.len() >= 4 {
            return;
        }
        let (node, connection) = client.at.unwrap();
        let mut bytes = vec![];
        for _ in 0..=self.prng.below(2) {
            self.ask(index, &mut bytes);
        }
        let bytes = bytes.as_slice();
        self.cluster.step(node, Input::ClientBytes { connection, bytes });
    }

    fn connect(&mut self, index: usize) {
        let node = self.pick(self.cluster.nodes.len());
        if !self.cluster.is_up(node) {
            return;
        }
        let client = &mut self.clients[index];
        client.generation += 1;
        let connection = ConnectionId {
            core: CoreId(0),
            slot: u32::try_from(index).unwrap(),
            generation: client.generation,
        };
        client.at = Some((node, connection));
        client.asked_at = self.cluster.now.0;
        let request = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: client.last_zxid_seen,
            timeout_ms: 4000,
            session: client.session,
            password: &client.password,
            read_only: Some(false),
        };
        let mut bytes = vec![];
        client::put_connect(&mut bytes, &request);
        self.cluster.open_client(node, connection, [client.generation as u8; 16]);
        let bytes = bytes.as_slice();
        self.cluster.step(node, Input::ClientBytes { connection, bytes });
    }

    fn ask(&mut self, index: usize, bytes: &mut Vec<u8>) {
        let name = self.next_name;
        let kind = self.prng.below(100);
        let known = (!self.acknowledged.is_empty())
            .then(|| self.prng.below(self.acknowledged.len() as u64) as usize);
        let client = &mut self.clients[index];
        client.asked_at = self.cluster.now.0;
        match kind {
            0..40 => {
                self.next_name += 1;
                let path = format!("/k{name}");
                let issued = self.issued.entry(client.session).or_default();
                issued.push(path.clone());
                let request = create(&path, CreateMode::Persistent);
                client.put(bytes, &request, Wanted::Created(path.clone()));
            }
            40..50 => {
                self.next_name += 1;
                let path = format!("/e{name}");
                let request = create(&path, CreateMode::Ephemeral);
                client.put(bytes, &request, Wanted::Ephemeral(path.clone()));
            }
            50..60 => {
                let request =
                    Request::SetData { path: "/zookeeper/quota", data: Some(b"x"), version: -1 };
                if self.map.count() == 1 {
                    client.put(bytes, &request, Wanted::Shared);
                }
            }
            60..70 => {
                let request = Request::Delete { path: "/none", version: -1 };
                client.put(bytes, &request, Wanted::NoNode);
            }
            70..85 => {
                let Some(known) = known else { return };
                let path = self.acknowledged[known].clone();
                client.put(bytes, &Request::Sync { path: "/" }, Wanted::Synced);
                let request = Request::Exists { path: &path, watch: false };
                client.put(bytes, &request, Wanted::There(path.clone()));
            }
            85..98 => {
                let Some(path) = client.own.last().cloned() else {
                    return;
                };
                let request = Request::Exists { path: &path, watch: true };
                client.put(bytes, &request, Wanted::There(path.clone()));
            }
            98 => {
                if self.prng.chance(1, 4) {
                    client.put(bytes, &Request::CloseSession, Wanted::Closed);
                }
            }
            _ => client::put_request(bytes, -2, &Request::Ping),
        }
    }

    fn hear(&mut self) {
        while let Some((node, news)) = self.cluster.news.pop_front() {
            let (connection, bytes) = match news {
                News::Output(connection, bytes) => (connection, Some(bytes)),
                News::Closed(connection) => (connection, None),
            };
            let index = connection.slot as usize;
            let client = &mut self.clients[index];
            if client.at != Some((node, connection)) {
                continue;
            }
            let Some(bytes) = bytes else {
                client.forget();
                continue;
            };
            client.received.extend(bytes);
            loop {
                let received = &self.clients[index].received;
                let Some((length, behind)) = received.split_first_chunk::<4>() else {
                    break;
                };
                let length = u32::from_be_bytes(*length) as usize;
                if behind.len() < length {
                    break;
                }
                let frame = behind[..length].to_vec();
                self.clients[index].received.drain(..4 + length);
                self.on_frame(index, &frame);
            }
        }
    }

    fn on_frame(&mut self, index: usize, frame: &[u8]) {
        let client = &mut self.clients[index];
        if !client.is_attached {
            let response = client::parse_connect(frame).unwrap();
            if response.session == SessionId(0) {
                client.session = SessionId(0);
                client.own.clear();
                return;
            }
            client.is_attached = true;
            client.session = response.session;
            client.password = response.password;
            return;
        }
        let (header, body) = client::parse_header(frame).unwrap();
        if self.map.count() == 1 && header.zxid.wire() > 0 {
            assert!(header.zxid >= client.last_zxid_seen, "zxids never fall");
        }
        if header.zxid.wire() > 0 {
            client.last_zxid_seen = header.zxid;
        }
        if header.xid < 0 {
            return;
        }
        let (xid, wanted) = client.wanted.pop_front().expect("something was asked for");
        assert_eq!(xid, header.xid, "replies come in the order of requests");
        client.asked_at = self.cluster.now.0;
        if matches!(header.error, -112 | -118) {
            client.session = SessionId(0);
            client.own.clear();
            return;
        }
        match wanted {
            Wanted::Created(path) => {
                assert_eq!(header.error, 0, "{path}");
                self.acks += 1;
                client.own.push(path.clone());
                self.acknowledged.push(path);
            }
            Wanted::Ephemeral(path) => assert_eq!(header.error, 0, "{path}"),
            Wanted::Shared => {
                assert_eq!(header.error, 0);
                let version = client::parse_stat(body).unwrap().version;
                assert!(self.shared_versions.insert(version), "version {version}");
            }
            Wanted::NoNode => assert_eq!(header.error, -101),
            Wanted::Synced => assert_eq!(header.error, 0),
            Wanted::There(path) => {
                assert_eq!(header.error, 0, "{path} was acknowledged");
            }
            Wanted::Closed => {
                assert_eq!(header.error, 0);
                client.session = SessionId(0);
                client.own.clear();
            }
        }
    }

    /// The weather clears up: everybody comes back, agrees, and nothing is missing.
    fn clear_up(&mut self) {
        self.blocked.clear();
        for node in 0..self.cluster.nodes.len() {
            if !self.cluster.is_up(node) {
                self.cluster.start(node);
            }
        }
        for _ in 0..30 {
            self.cluster.connect_all();
            self.cluster.run(100);
            self.hear();
        }
        for (index, client) in self.clients.iter().enumerate() {
            assert!(
                client.wanted.is_empty() && (client.at.is_none() || client.is_attached),
                "client {index} waits for {:?} since {}, now {}\n{}",
                client.wanted,
                client.asked_at,
                self.cluster.now.0,
                self.report()
            );
        }
        for client in 0..self.clients.len() {
            self.hang_up(client);
        }
        // Sessions without a client end.
        for _ in 0..100 {
            self.cluster.connect_all();
            self.cluster.run(100);
            self.hear();
        }
        let reports: Vec<_> =
            self.cluster.nodes.iter().map(|node| node.worker.as_ref().unwrap().report()).collect();
        for shard in 0..usize::from(self.map.count()) {
            let leaders =
                reports.iter().filter(|report| report.shards[shard].leader.is_some()).count();
            assert_eq!(leaders, reports.len(), "everybody serves: {}", self.report());
            for report in &reports {
                let (first, it) = (&reports[0].shards[shard], &report.shards[shard]);
                assert_eq!(first.zxid, it.zxid, "{}", self.report());
                assert_eq!(first.digest, it.digest);
                assert_eq!(it.sessions, 0, "sessions end: {}", self.report());
                assert_eq!(it.ephemerals, 0);
            }
        }
        for node in &self.cluster.nodes {
            for path in &self.acknowledged {
                assert!(czxid(node, self.map, path).is_some(), "{path} is lost");
            }
            for issued in self.issued.values() {
                let mut newest: BTreeMap<ShardId, Zxid> = BTreeMap::new();
                for path in issued {
                    let Some(at) = czxid(node, self.map, path) else {
                        continue;
                    };
                    let before = newest.insert(self.map.shard_of(path), at);
                    assert!(before < Some(at), "{path} overtook what was asked before");
                }
            }
        }
    }

    fn report(&self) -> String {
        let mut text = String::new();
        for node in &self.cluster.nodes {
            let Some(worker) = &node.worker else { continue };
            for shard in worker.report().shards {
                text.push_str(&format!(
                    "{:?} {:?} established {} leader {:?} accepted {:?} current {:?} applied {:?} \
                     committed {:?} durable {:?} tail {:?} sessions {} asked {}\n",
                    shard.shard,
                    shard.role,
                    shard.established,
                    shard.leader,
                    shard.accepted_epoch,
                    shard.current_epoch,
                    shard.zxid,
                    shard.committed,
                    shard.durable,
                    shard.tail,
                    shard.sessions,
                    worker
                        .replicas()
                        .map(pigeonhole_core::replica::Replica::asked_count)
                        .sum::<usize>(),
                ));
            }
        }
        for (node, shard, event) in self.cluster.events.iter().rev().take(30) {
            text.push_str(&format!("{} {shard:?} {event:?}\n", node + 1));
        }
        text
    }
}

impl Client {
    fn forget(&mut self) {
        self.at = None;
        self.is_attached = false;
        self.wanted.clear();
        self.received.clear();
    }

    fn put(&mut self, bytes: &mut Vec<u8>, request: &Request<'_>, wanted: Wanted) {
        self.xid += 1;
        client::put_request(bytes, self.xid, request);
        self.wanted.push_back((self.xid, wanted));
    }
}

fn create(path: &str, mode: CreateMode) -> Request<'_> {
    let acl = vec![Acl { permissions: permission::ALL, scheme: "world", id: "anyone" }];
    Request::Create { path, data: Some(b"data"), acl, mode, with_stat: false }
}

fn czxid(node: &ensemble::Node, map: ShardMap, path: &str) -> Option<Zxid> {
    let shard = map.shard_of(path);
    let worker = node.worker.as_ref()?;
    let replica = worker.replicas().find(|it| it.shard() == shard)?;
    let tree = replica.state().tree();
    tree.find(path).map(|found| tree.stat(found).czxid)
}

fn ride_out(nodes: usize, shards: u16, seed: u64, steps: u64) -> u64 {
    let mut storm = Storm::new(nodes, shards, seed);
    storm.cluster.run(300);
    for _ in 0..steps {
        storm.step();
    }
    storm.clear_up();
    storm.acks
}

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|it| it.parse().ok());
    if let Some(seed) = number("STORM_SEED") {
        return seed..seed + 1;
    }
    0..number("STORM_SEEDS").unwrap_or(10)
}

fn ride_out_all(nodes: usize, shards: u16, steps: u64) {
    let mut acks = 0;
    let mut failed = vec![];
    for seed in seeds() {
        let run = std::panic::AssertUnwindSafe(|| ride_out(nodes, shards, seed, steps));
        match std::panic::catch_unwind(run) {
            Ok(count) => acks += count,
            Err(_) => failed.push(seed),
        }
    }
    assert!(
        failed.is_empty(),
        "{nodes} servers, {shards} shards: replay with STORM_SEED={failed:?}"
    );
    assert!(acks > 0, "something was acknowledged");
}

#[test]
fn three_servers_keep_what_they_acknowledged() {
    ride_out_all(3, 1, 20_000);
}

#[test]
fn five_servers_keep_what_they_acknowledged() {
    ride_out_all(5, 1, 20_000);
}

#[test]
fn three_servers_with_four_shards_keep_what_they_acknowledged() {
    ride_out_all(3, 4, 20_000);
}
