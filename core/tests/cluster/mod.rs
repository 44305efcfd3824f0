//! A few servers in one process: links and disks do what a test tells them, and time passes only
//! when nothing else is left to do.
//!
//! Whatever is seen on the way is held to what must always be true: two states at one zxid are the
//! same state, two snapshots of one zxid are the same bytes.
#![allow(dead_code, reason = "each file of tests uses a part of it")]
#![expect(clippy::unwrap_used, reason = "a test may panic wherever it finds something wrong")]

mod disk;

#[path = "../ordinary/mod.rs"]
mod ordinary;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

use pigeonhole_core::base::id::{ConnectionId, CoreId, DiskId, LinkId, ServerId, ShardId, Zxid};
use pigeonhole_core::base::limits::{FRAME_BYTES_MAX, TURN_SHARE};
use pigeonhole_core::base::time::{Duration, Instant, Now};
use pigeonhole_core::durable::{Append, Durable, LogMark};
use pigeonhole_core::effect::{Crowd, Effect, Effects, Input, SnapshotJob};
use pigeonhole_core::gateway::ClientLimits;
use pigeonhole_core::op::{Acl, ConnectRequest, CreateMode, Request, permission};
use pigeonhole_core::peer::codec::{self, Frame};
use pigeonhole_core::peer::message::{ArchivedPeerMessage, PeerMessage, PeerState};
use pigeonhole_core::report::ShardReport;
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::wire::client;
use pigeonhole_core::worker::{Worker, WorkerConfig};
use pigeonhole_core::zab::Event;
use pigeonhole_core::zab::admission::Identity;
use pigeonhole_core::zab::log::LogLimits;
use xxhash_rust::xxh3::xxh3_128;

pub(crate) use self::disk::{Disk, Image};

/// A snapshot is made beside so much else.
const STEPS_PER_JOB: u64 = 16;
/// Nothing that a test waits for takes longer, in milliseconds of the cluster's own time.
pub(crate) const PATIENCE_MS: u64 = 60_000;

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) now: Now,
    pub(crate) options: Options,
    /// Frames under way, by sender and receiver.
    pipes: BTreeMap<(usize, usize), Pipe>,
    links: BTreeMap<(usize, usize), u32>,
    cuts: BTreeSet<(usize, usize)>,
    links_made: u32,
    /// Every state that was seen, by shard and zxid.
    digests: BTreeMap<(ShardId, Zxid), u128>,
    /// Every snapshot that was made.
    pub(crate) images: BTreeMap<(ShardId, Zxid), Vec<u8>>,
    /// Chunks of snapshots that have arrived somewhere.
    pub(crate) chunks: usize,
    /// Servers whose trees are not what they should be, as they tell their leader.
    pub(crate) is_astray: BTreeSet<usize>,
    steps: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) servers: u8,
    pub(crate) shards: u16,
    pub(crate) limits: LogLimits,
    /// `jute.maxbuffer`.
    pub(crate) frame_bytes_max: usize,
}

/// Frames in their order, each meant for one link.
type Pipe = VecDeque<(LinkId, Vec<u8>)>;

/// One server, running or not.
pub(crate) struct Node {
    pub(crate) worker: Option<Worker>,
    pub(crate) disk: Disk,
    /// Files of snapshots are not made while this is set.
    pub(crate) holds_jobs: bool,
    pub(crate) jobs: VecDeque<SnapshotJob>,
    pub(crate) events: Vec<(ShardId, Event)>,
    /// The snapshot points at which this server has frozen its state, and what it was sent.
    pub(crate) frozen: Vec<Zxid>,
    /// Where its tree was found not to be a majority's.
    pub(crate) diverged: Option<Zxid>,
    /// Replaced states that it was asked to drop.
    pub(crate) discarded: usize,
    effects: Effects,
    unflushed: Vec<Append>,
    clients: BTreeMap<ConnectionId, Client>,
    closes: Vec<LinkId>,
    boots: u64,
    is_stirred: bool,
}

#[derive(Default)]
struct Client {
    received: Vec<u8>,
    xid: i32,
    is_closed: bool,
}

impl Default for Options {
    fn default() -> Self {
        let limits = LogLimits { snapshot_entries: 20, window_entries: 8, ..LogLimits::default() };
        Self { servers: 3, shards: 1, limits, frame_bytes_max: FRAME_BYTES_MAX }
    }
}

impl Cluster {
    pub(crate) fn new(options: Options) -> Self {
        let map = ShardMap::new(options.shards);
        let nodes = (0..options.servers).map(|at| {
            let identity = Identity { disk: DiskId(1000 + u128::from(at)), is_founder: true };
            Node::new(Disk::new(map, identity))
        });
        let mut cluster = Self {
            nodes: nodes.collect(),
            now: Now { instant: Instant(1_000_000), wall_ms: 1_700_000_000_000 },
            options,
            pipes: BTreeMap::new(),
            links: BTreeMap::new(),
            cuts: BTreeSet::new(),
            links_made: 0,
            digests: BTreeMap::new(),
            images: BTreeMap::new(),
            chunks: 0,
            is_astray: BTreeSet::new(),
            steps: 0,
        };
        for node in 0..cluster.nodes.len() {
            cluster.start(node);
        }
        cluster.await_leader();
        cluster
    }

    /// Boots a server with what its disk holds.
    pub(crate) fn start(&mut self, at: usize) {
        let restored = self.nodes[at].disk.restore();
        let node = &mut self.nodes[at];
        assert!(node.worker.is_none(), "it stands still");
        node.boots += 1;
        let config = config(&self.options, at, node);
        let worker = Worker::new(config, restored, self.now, &mut node.effects);
        node.worker = Some(worker);
        node.is_stirred = true;
        self.connect_peers();
    }

    /// Ends a process: what was not flushed is gone.
    pub(crate) fn crash(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.worker = None;
        node.effects = Effects::new();
        node.unflushed.clear();
        node.jobs.clear();
        node.clients.clear();
        node.closes.clear();
        for other in 0..self.nodes.len() {
            self.unlink(at, other);
        }
    }

    /// A new disk in a server that stands still: it knows the cluster, and nothing else. The old
    /// one comes back to the caller.
    pub(crate) fn replace_disk(&mut self, at: usize) -> Disk {
        let node = &mut self.nodes[at];
        assert!(node.worker.is_none(), "it stands still");
        let identity =
            Identity { disk: DiskId(node.disk.identity.disk.0 + 1_000), is_founder: false };
        let map = ShardMap::new(self.options.shards);
        core::mem::replace(&mut node.disk, Disk::new(map, identity))
    }

    /// Loses whatever is sent between a server and some others. They notice by the silence.
    pub(crate) fn mute(&mut self, at: usize, others: impl IntoIterator<Item = usize>) {
        let pairs = others.into_iter().map(|other| (at.min(other), at.max(other)));
        self.cuts.extend(pairs);
    }

    /// Cuts a server off from some others, and they notice at once.
    pub(crate) fn cut(&mut self, at: usize, others: impl IntoIterator<Item = usize>) {
        for other in others {
            self.cuts.insert((at.min(other), at.max(other)));
            self.unlink(at, other);
        }
    }

    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
        self.connect_peers();
    }

    /// Does the next thing that is to be done; false if there is none before `end`.
    pub(crate) fn step(&mut self, end: Instant) -> bool {
        if let Some(at) = self.nodes.iter().position(Node::is_due) {
            self.turn(at);
            return true;
        }
        self.steps += 1;
        let ready =
            |node: &Node| node.worker.is_some() && !node.holds_jobs && !node.jobs.is_empty();
        if self.steps.is_multiple_of(STEPS_PER_JOB)
            && let Some(at) = self.nodes.iter().rposition(ready)
        {
            self.finish_job(at);
            return true;
        }
        let busy = self.pipes.iter().find(|(_, frames)| !frames.is_empty());
        if let Some((&(from, to), _)) = busy {
            self.deliver(from, to);
            return true;
        }
        if let Some(at) = self.nodes.iter().position(ready) {
            self.finish_job(at);
            return true;
        }
        let now = self.now.instant;
        let deadlines = self.nodes.iter().filter_map(|it| it.worker.as_ref()?.deadline(now));
        let Some(next) = deadlines.min().filter(|&at| at <= end) else {
            self.now.instant = end;
            return false;
        };
        self.now.instant = next.max(now);
        for node in &mut self.nodes {
            let Some(worker) = &mut node.worker else {
                continue;
            };
            if worker.deadline(self.now.instant).is_some_and(|at| at <= self.now.instant) {
                worker.step(self.now, Input::Time, &mut node.effects);
                node.is_stirred = true;
            }
        }
        true
    }

    /// Bytes that one server has sent to another and that have not arrived.
    pub(crate) fn bytes_under_way(&self, from: usize, to: usize) -> usize {
        let pipe = self.pipes.get(&(from, to)).into_iter().flatten();
        pipe.map(|(_, frame)| frame.len()).sum()
    }

    /// Goes on until something is so; panics if it does not become so in time.
    pub(crate) fn until(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let end = self.now.instant + Duration::from_ms(PATIENCE_MS);
        while !is_so(self) {
            assert!(self.step(end), "in time: {what}\n{:#?}", self.shards(ShardId(0)));
        }
    }

    pub(crate) fn run(&mut self, milliseconds: u64) {
        let end = self.now.instant + Duration::from_ms(milliseconds);
        while self.step(end) {}
    }

    pub(crate) fn await_leader(&mut self) -> usize {
        let shards: Vec<ShardId> = ShardMap::new(self.options.shards).shards().collect();
        self.until("every shard has a leader", |cluster| {
            shards.iter().all(|&shard| cluster.leader_of(shard).is_some())
        });
        self.leader_of(ShardId(0)).unwrap()
    }

    /// The established leader with a majority behind it.
    pub(crate) fn leader_of(&self, shard: ShardId) -> Option<usize> {
        let reports = self.shards(shard);
        let leads = |it: &(usize, ShardReport)| {
            let followers = usize::try_from(it.1.synced_followers).unwrap();
            it.1.role == PeerState::Leading
                && it.1.established
                && followers + 1 > self.nodes.len() / 2
        };
        reports.into_iter().find(leads).map(|(at, _)| at)
    }

    /// What every running server says of a shard.
    pub(crate) fn shards(&self, shard: ShardId) -> Vec<(usize, ShardReport)> {
        let mut reports = Vec::new();
        for (at, node) in self.nodes.iter().enumerate() {
            if let Some(worker) = &node.worker {
                let shards = worker.report().shards;
                reports
                    .extend(shards.into_iter().filter(|it| it.shard == shard).map(|it| (at, it)));
            }
        }
        reports
    }

    pub(crate) fn report(&self, at: usize) -> ShardReport {
        let reports = self.shards(ShardId(0));
        reports.into_iter().find(|(it, _)| *it == at).unwrap().1
    }

    /// Waits until all running servers serve the same state.
    pub(crate) fn converge(&mut self) {
        let shards: Vec<ShardId> = ShardMap::new(self.options.shards).shards().collect();
        self.until("all servers agree", |cluster| {
            let is_done = |node: &Node| !node.is_due() && (node.holds_jobs || node.jobs.is_empty());
            cluster.nodes.iter().all(is_done)
                && shards.iter().all(|&shard| {
                    let reports = cluster.shards(shard);
                    let (_, first) = &reports[0];
                    reports.iter().all(|(_, it)| {
                        it.established
                            && it.zxid == first.zxid
                            && it.tail == first.tail
                            && it.zxid == it.tail
                    })
                })
        });
        for &shard in &shards {
            let reports = self.shards(shard);
            assert!(reports.iter().all(|(_, it)| it.digest == reports[0].1.digest));
        }
    }

    /// A client with a new session at a server; `None` if it is turned away.
    pub(crate) fn connect(&mut self, at: usize) -> Option<ConnectionId> {
        let node = &mut self.nodes[at];
        let connection = ConnectionId {
            core: CoreId(0),
            slot: u32::try_from(node.clients.len()).unwrap(),
            generation: 1,
        };
        node.clients.insert(connection, Client::default());
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let opened =
            Input::ClientOpened { connection, address, crowd: Crowd::default(), entropy: [7; 16] };
        self.input(at, opened);
        let request = ConnectRequest::for_new_session(40_000);
        let mut bytes = vec![];
        client::put_connect(&mut bytes, &request);
        self.input(at, Input::ClientBytes { connection, bytes: &bytes });
        let frame = self.next_frame(at, connection)?;
        client::parse_connect(&frame).unwrap();
        Some(connection)
    }

    /// The same, again and again while leaders change.
    pub(crate) fn client(&mut self, at: usize) -> ConnectionId {
        for _ in 0..20 {
            if let Some(connection) = self.connect(at) {
                return connection;
            }
            self.run(500);
        }
        panic!("nobody leads");
    }

    /// Sends a request without waiting for its reply.
    pub(crate) fn send(&mut self, at: usize, connection: ConnectionId, request: &Request<'_>) {
        let client = self.nodes[at].clients.get_mut(&connection).unwrap();
        client.xid += 1;
        let mut bytes = vec![];
        client::put_request(&mut bytes, client.xid, request);
        self.input(at, Input::ClientBytes { connection, bytes: &bytes });
    }

    /// A request and its reply: the error code and the body. `None` if the connection is closed.
    pub(crate) fn ask(
        &mut self,
        at: usize,
        connection: ConnectionId,
        request: &Request<'_>,
    ) -> Option<(i32, Vec<u8>)> {
        self.send(at, connection, request);
        self.reply(at, connection)
    }

    /// The next reply: the error code and the body. `None` if the connection is closed.
    pub(crate) fn reply(&mut self, at: usize, connection: ConnectionId) -> Option<(i32, Vec<u8>)> {
        let frame = self.next_frame(at, connection)?;
        let (header, body) = client::parse_header(&frame).unwrap();
        Some((header.error, body.to_vec()))
    }

    /// Creates znodes of so many bytes, which must succeed.
    pub(crate) fn write(
        &mut self,
        at: usize,
        connection: ConnectionId,
        names: &[&str],
        bytes: usize,
    ) {
        for name in names {
            let data: Vec<u8> = name.bytes().cycle().take(bytes).collect();
            let (error, _) =
                self.ask(at, connection, &create(name, &data)).expect("an open connection");
            assert_eq!(error, 0, "{name} is created");
        }
    }

    /// The same with names made of a prefix and a number.
    pub(crate) fn write_many(
        &mut self,
        at: usize,
        connection: ConnectionId,
        prefix: &str,
        count: usize,
    ) {
        for number in 0..count {
            self.write(at, connection, &[&format!("/{prefix}{number}")], 100);
        }
    }

    pub(crate) fn is_closed(&self, at: usize, connection: ConnectionId) -> bool {
        self.nodes[at].clients[&connection].is_closed
    }

    pub(crate) fn input(&mut self, at: usize, input: Input<'_>) {
        let node = &mut self.nodes[at];
        let worker = node.worker.as_mut().expect("it runs");
        worker.step(self.now, input, &mut node.effects);
        node.is_stirred = true;
    }

    /// Makes the file of the oldest job.
    pub(crate) fn finish_job(&mut self, at: usize) {
        let job = self.nodes[at].jobs.pop_front().expect("a job waits");
        let (shard, zxid, hash) = (job.shard, job.zxid, job.hash);
        let image = Image::write(job);
        let known = self.images.entry((shard, zxid)).or_insert_with(|| image.bytes());
        assert!(*known == image.bytes(), "all snapshots of {shard} at {zxid} are the same bytes");
        let digest = xxh3_128(known);
        self.nodes[at].disk.publish(shard, zxid, digest, image);
        self.input(at, Input::SnapshotTaken { shard, zxid, hash, digest });
    }

    pub(crate) fn has_event(&self, at: usize, wanted: impl Fn(&Event) -> bool) -> bool {
        self.nodes[at].events.iter().any(|(_, event)| wanted(event))
    }

    fn turn(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let worker = node.worker.as_mut().expect("it runs");
        worker.step(self.now, Input::TurnEnd { share: TURN_SHARE }, &mut node.effects);
        node.is_stirred = worker.is_in_haste();
        let mut sent = Vec::new();
        node.carry_out(self.now, &mut sent);
        for (link, frame) in sent {
            let to = usize::from(link.peer.0 - 1);
            self.pipes.entry((at, to)).or_default().push_back((link, frame));
        }
        for link in std::mem::take(&mut self.nodes[at].closes) {
            let other = usize::from(link.peer.0 - 1);
            let pair = (at.min(other), at.max(other));
            if self.links.get(&pair) == Some(&link.incarnation) {
                self.unlink(at, other);
                self.connect_peers();
            }
        }
        self.observe(at);
    }

    fn observe(&mut self, at: usize) {
        let worker = self.nodes[at].worker.as_ref().expect("it runs");
        for report in worker.report().shards {
            let seen = self.digests.entry((report.shard, report.zxid)).or_insert(report.digest);
            assert_eq!(*seen, report.digest, "one state at {} of {}", report.zxid, report.shard);
            assert!(report.zxid <= report.committed, "only what is committed is applied");
        }
    }

    fn deliver(&mut self, from: usize, to: usize) {
        let pipe = self.pipes.get_mut(&(from, to)).expect("something is under way");
        let (link, mut frame) = pipe.pop_front().expect("something is under way");
        let pair = (from.min(to), from.max(to));
        let is_lost = self.cuts.contains(&pair);
        if is_lost || self.links.get(&pair) != Some(&link.incarnation) {
            return;
        }
        if let Ok(Frame::Message { message, .. }) = codec::decode(&frame)
            && matches!(message, ArchivedPeerMessage::SnapshotChunk { .. })
        {
            self.chunks += 1;
        }
        if let Ok(Frame::Message { shard, message: ArchivedPeerMessage::Digest { zxid, digest } }) =
            codec::decode(&frame)
            && self.is_astray.contains(&from)
        {
            let (zxid, digest) = (zxid.to_native(), digest.to_native() ^ 1);
            frame.clear();
            codec::encode_message(shard, &PeerMessage::Digest { zxid, digest }, &mut frame);
        }
        let link = link_to(from, link.incarnation);
        self.input(to, Input::LinkBytes { link, bytes: &frame });
    }

    fn connect_peers(&mut self) {
        for one in 0..self.nodes.len() {
            for other in one + 1..self.nodes.len() {
                let pair = (one, other);
                let runs = self.nodes[one].worker.is_some() && self.nodes[other].worker.is_some();
                if !runs || self.cuts.contains(&pair) || self.links.contains_key(&pair) {
                    continue;
                }
                self.links_made += 1;
                self.links.insert(pair, self.links_made);
                for (at, peer) in [(one, other), (other, one)] {
                    let link = link_to(peer, self.links_made);
                    self.input(at, Input::LinkUp { link, peer_cores: 1 });
                }
            }
        }
    }

    fn unlink(&mut self, one: usize, other: usize) {
        let pair = (one.min(other), one.max(other));
        let Some(incarnation) = self.links.remove(&pair) else {
            return;
        };
        self.pipes.remove(&(one, other));
        self.pipes.remove(&(other, one));
        for (at, peer) in [(one, other), (other, one)] {
            if self.nodes[at].worker.is_some() {
                let link = link_to(peer, incarnation);
                self.input(at, Input::LinkDown { link });
            }
        }
    }

    fn next_frame(&mut self, at: usize, connection: ConnectionId) -> Option<Vec<u8>> {
        self.until("a reply", |cluster| {
            let client = &cluster.nodes[at].clients[&connection];
            client.is_closed || client.has_frame()
        });
        self.nodes[at].clients.get_mut(&connection).unwrap().take_frame()
    }
}

impl Node {
    fn new(disk: Disk) -> Self {
        Self {
            worker: None,
            disk,
            holds_jobs: false,
            jobs: VecDeque::new(),
            events: vec![],
            frozen: vec![],
            diverged: None,
            discarded: 0,
            effects: Effects::new(),
            unflushed: vec![],
            clients: BTreeMap::new(),
            closes: vec![],
            boots: 0,
            is_stirred: false,
        }
    }

    fn is_due(&self) -> bool {
        self.worker.is_some() && (self.is_stirred || !self.effects.is_empty())
    }

    /// Carries out what was asked for; frames that leave are put into `sent`.
    fn carry_out(&mut self, now: Now, sent: &mut Vec<(LinkId, Vec<u8>)>) {
        let worker = self.worker.as_mut().expect("it runs");
        let effects: Vec<Effect> = self.effects.drain().collect();
        for effect in effects {
            match effect {
                Effect::Append(append) => self.unflushed.push(append),
                Effect::Committed { shard, zxid } => self.disk.note_committed(shard, zxid),
                Effect::Discard(_) => self.discarded += 1,
                Effect::Snapshot(job) => {
                    self.frozen.push(job.zxid);
                    self.jobs.push_back(job);
                }
                Effect::ClientOutput { connection } => {
                    let output = worker.client_output(connection).map(std::mem::take);
                    let client = self.clients.get_mut(&connection).unwrap();
                    client.received.extend(output.unwrap_or_default());
                }
                Effect::ClientClose { connection, .. } => {
                    let output = worker.client_output(connection).map(std::mem::take);
                    let client = self.clients.get_mut(&connection).unwrap();
                    client.received.extend(output.unwrap_or_default());
                    client.is_closed = true;
                    let closed = Input::ClientClosed { connection };
                    worker.step(now, closed, &mut self.effects);
                    self.is_stirred = true;
                }
                Effect::LinkOutput { link } => take_frames(worker, link, sent),
                Effect::LinkClose { link, .. } => self.closes.push(link),
                Effect::Event { shard, event } => self.events.push((shard, event)),
                Effect::Diverged { zxid, .. } => self.diverged = Some(zxid),
                Effect::Mail { .. }
                | Effect::ClientPause { .. }
                | Effect::SessionExpired { .. }
                | Effect::Admin { .. } => {}
            }
        }
        for append in self.unflushed.drain(..) {
            let mark = LogMark { shard: append.shard, sequence: append.sequence };
            self.disk.append(append.shard, append.sequence, append.record);
            for rider in append.riders {
                if let Some(output) = worker.link_output(rider.link) {
                    output.extend_from_slice(&rider.frame);
                    take_frames(worker, rider.link, sent);
                }
            }
            let durable = Input::Durable(Durable::attest(mark));
            worker.step(now, durable, &mut self.effects);
            self.is_stirred = true;
        }
    }
}

impl Client {
    fn has_frame(&self) -> bool {
        !self.received.is_empty()
    }

    fn take_frame(&mut self) -> Option<Vec<u8>> {
        let (length, _) = self.received.split_first_chunk::<4>()?;
        let end = 4 + usize::try_from(u32::from_be_bytes(*length)).unwrap();
        let frame = self.received[4..end].to_vec();
        self.received.drain(..end);
        Some(frame)
    }
}

pub(crate) fn create<'a>(path: &'a str, data: &'a [u8]) -> Request<'a> {
    let acl = vec![Acl { permissions: permission::ALL, scheme: "world", id: "anyone" }];
    Request::Create { path, data: Some(data), acl, mode: CreateMode::Persistent, with_stat: false }
}

fn take_frames(worker: &mut Worker, link: LinkId, sent: &mut Vec<(LinkId, Vec<u8>)>) {
    let Some(output) = worker.link_output(link) else {
        return;
    };
    let bytes = std::mem::take(output);
    let mut rest = bytes.as_slice();
    while let Some(length) = codec::frame_bytes(rest).unwrap() {
        let (frame, behind) = rest.split_at(length);
        sent.push((link, frame.to_vec()));
        rest = behind;
    }
    assert!(rest.is_empty(), "outputs hold whole frames");
}

fn link_to(peer: usize, incarnation: u32) -> LinkId {
    LinkId { peer: server(peer), core: CoreId(0), incarnation }
}

pub(crate) fn server(at: usize) -> ServerId {
    ServerId(u8::try_from(at + 1).unwrap())
}

fn config(options: &Options, at: usize, node: &Node) -> WorkerConfig {
    let (boots, identity) = (node.boots, node.disk.identity);
    let voters = (0..usize::from(options.servers)).map(server);
    let usual = ordinary::config(server(at), voters, ShardMap::new(options.shards));
    let client = ClientLimits { frame_bytes_max: options.frame_bytes_max, ..usual.client };
    WorkerConfig {
        disk: identity.disk,
        is_founder: identity.is_founder,
        incarnation: boots << 8 | u64::try_from(at).unwrap(),
        session_base_ms: 1_700_000_000_000 + boots,
        log: options.limits,
        seed: boots,
        client,
        ..usual
    }
}
