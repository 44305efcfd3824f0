//! Links between nodes: who dials whom, and the hello on each new stream.
//!
//! There is one link for every pair of a core here and a core there. The server with the higher id
//! dials; it learns from the first hello how many cores the other side has, and dials the rest.

use std::collections::BTreeMap;

use pigeonhole_core::base::id::{ClusterId, CoreId, DiskId, LinkId, ServerId};
use pigeonhole_core::peer::codec::{self, Frame};
use pigeonhole_core::peer::hello::{Formation, Hello, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN};

use crate::network::{Arrival, Host, Port, Side, StreamId};
use crate::node::{Around, node_of, server_id};
use crate::process::ProcessConfig;
use crate::queue::{Dialer, Event, Process, Queue};

pub struct Links {
    me: ServerId,
    name: Process,
    cores: u8,
    servers: u8,
    shards: u16,
    cluster: ClusterId,
    disk: DiskId,
    incarnation: u64,
    streams: BTreeMap<StreamId, Stream>,
    dials: BTreeMap<Pair, Dial>,
    /// How many cores each peer had when it was last heard of.
    peer_cores: BTreeMap<ServerId, u8>,
    links: u32,
}

/// A core here, and one there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Pair {
    peer: ServerId,
    core: CoreId,
    peer_core: CoreId,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Dial {
    /// An event will dial.
    Waiting,
    Connecting,
    Connected,
}

enum Stream {
    /// The other side's hello has not come.
    Meeting {
        pair: Option<Pair>,
        carried: Vec<u8>,
    },
    Linked {
        pair: Pair,
        link: LinkId,
    },
}

/// What a stream's bytes mean for a core.
pub enum Met {
    Up { core: CoreId, link: LinkId, peer_cores: u8 },
    Bytes { core: CoreId, link: LinkId, bytes: Vec<u8> },
    Down { core: CoreId, link: LinkId },
}

impl Links {
    pub fn new(config: &ProcessConfig) -> Self {
        Self {
            me: server_id(config.index),
            name: config.name,
            cores: config.cores,
            servers: config.cluster.servers,
            shards: config.cluster.shards,
            cluster: config.cluster.cluster,
            disk: config.disk,
            incarnation: config.incarnation,
            streams: BTreeMap::new(),
            dials: BTreeMap::new(),
            peer_cores: BTreeMap::new(),
            links: 0,
        }
    }

    /// Dials one core of each server with a lower id, from every core.
    pub fn dial_all(&mut self, queue: &mut Queue) {
        let me = self.me;
        for peer in (0..self.servers).map(server_id).filter(|&peer| peer < me) {
            for core in (0..self.cores).map(CoreId) {
                self.dial(Pair { peer, core, peer_core: CoreId(0) }, 0, queue);
            }
        }
    }

    pub fn on_dial(
        &mut self,
        core: CoreId,
        peer: ServerId,
        peer_core: CoreId,
        around: &mut Around<'_>,
    ) {
        self.dials.insert(Pair { peer, core, peer_core }, Dial::Connecting);
        let delay = around.network.delay();
        let by = Dialer::Core { process: self.name, core, peer_core };
        let node = node_of(peer);
        around.queue.push_in(delay, Event::Connect { by, port: Port::Peer, node });
    }

    pub fn on_connected(
        &mut self,
        core: CoreId,
        peer: ServerId,
        peer_core: CoreId,
        stream: Option<StreamId>,
        retry_us: u64,
        around: &mut Around<'_>,
    ) {
        let pair = Pair { peer, core, peer_core };
        let Some(stream) = stream else {
            self.retry(pair, retry_us, around);
            return;
        };
        self.dials.insert(pair, Dial::Connected);
        self.streams.insert(stream, Stream::Meeting { pair: Some(pair), carried: Vec::new() });
        self.say_hello(pair, stream, Side::Dialer, around);
    }

    pub fn on_accepted(&mut self, stream: StreamId) {
        self.streams.insert(stream, Stream::Meeting { pair: None, carried: Vec::new() });
    }

    pub fn on_arrival(
        &mut self,
        stream: StreamId,
        side: Side,
        arrival: Arrival,
        retry_us: u64,
        around: &mut Around<'_>,
    ) -> Vec<Met> {
        let bytes = match arrival {
            Arrival::Bytes(bytes) => bytes,
            Arrival::Closed => return self.on_lost(stream, retry_us, around).into_iter().collect(),
        };
        match self.streams.get_mut(&stream) {
            None => Vec::new(),
            Some(Stream::Linked { pair, link }) => {
                vec![Met::Bytes { core: pair.core, link: *link, bytes }]
            }
            Some(Stream::Meeting { carried, .. }) => {
                carried.extend_from_slice(&bytes);
                self.meet(stream, side, retry_us, around)
            }
        }
    }

    /// A stream is over, whoever ended it; the dialer tries again.
    pub fn on_lost(
        &mut self,
        stream: StreamId,
        retry_us: u64,
        around: &mut Around<'_>,
    ) -> Option<Met> {
        let (pair, met) = match self.streams.remove(&stream)? {
            Stream::Meeting { pair, .. } => (pair, None),
            Stream::Linked { pair, link } => {
                (Some(pair), Some(Met::Down { core: pair.core, link }))
            }
        };
        if let Some(pair) = pair.filter(|pair| self.dials.contains_key(pair)) {
            self.retry(pair, retry_us, around);
        }
        met
    }

    pub fn link_of(&self, stream: StreamId) -> Option<(CoreId, LinkId)> {
        match self.streams.get(&stream)? {
            Stream::Meeting { .. } => None,
            Stream::Linked { pair, link } => Some((pair.core, *link)),
        }
    }

    /// Whether the two sides of a stream have met; bytes of others reach no core.
    pub fn is_known(&self, link: LinkId) -> bool {
        let mut streams = self.streams.values();
        streams.any(|stream| matches!(stream, Stream::Linked { link: known, .. } if *known == link))
    }

    fn dial(&mut self, pair: Pair, delay_us: u64, queue: &mut Queue) {
        self.dials.insert(pair, Dial::Waiting);
        let Pair { peer, core, peer_core } = pair;
        let event = Event::Dial { process: self.name, core, peer: node_of(peer), peer_core };
        queue.push_in(delay_us, event);
    }

    fn retry(&mut self, pair: Pair, retry_us: u64, around: &mut Around<'_>) {
        let known = self.peer_cores.get(&pair.peer).copied().unwrap_or(1);
        if pair.peer_core.0 < known {
            self.dial(pair, retry_us, around.queue);
        } else {
            self.dials.remove(&pair);
        }
    }

    fn say_hello(&self, pair: Pair, stream: StreamId, side: Side, around: &mut Around<'_>) {
        let hello = Hello {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION_MAX,
            from: self.me,
            to: pair.peer,
            from_core: pair.core,
            to_core: pair.peer_core,
            cores: self.cores,
            formation: Formation::Formed,
            shards: self.shards,
            cluster: self.cluster,
            disk: self.disk,
            incarnation: self.incarnation,
        };
        let mut bytes = Vec::new();
        codec::encode_hello(&hello, &mut bytes);
        around.network.send(stream, side, bytes, around.queue);
    }

    /// Reads the other side's hello, if it is complete; what follows it is for the link.
    fn meet(
        &mut self,
        stream: StreamId,
        side: Side,
        retry_us: u64,
        around: &mut Around<'_>,
    ) -> Vec<Met> {
        let Some(Stream::Meeting { pair, carried }) = self.streams.get_mut(&stream) else {
            return Vec::new();
        };
        let Some(length) = codec::frame_bytes(carried).expect("nodes send frames") else {
            return Vec::new();
        };
        if carried.len() < length {
            return Vec::new();
        }
        let rest = carried.split_off(length);
        let Ok(Frame::Hello(body)) = codec::decode(carried) else { panic!("hello comes first") };
        let hello = Hello::decode(body).expect("nodes speak one version");
        let dialed = *pair;
        let pair = Pair { peer: hello.from, core: hello.to_core, peer_core: hello.from_core };
        assert!(dialed.is_none_or(|dialed| dialed == pair), "the right core answers");
        self.peer_cores.insert(hello.from, hello.cores);
        if pair.core.0 >= self.cores {
            // The dialer remembers an earlier run of this process, which had more cores. It learns
            // of it by a hello to core 0.
            around.network.close(stream, side, around.queue);
            self.streams.remove(&stream);
            return Vec::new();
        }
        let mut met = self.supersede(pair, stream, retry_us, around);
        self.links += 1;
        let link = LinkId { peer: pair.peer, core: pair.peer_core, incarnation: self.links };
        self.streams.insert(stream, Stream::Linked { pair, link });
        match side {
            Side::Acceptor => self.say_hello(pair, stream, side, around),
            Side::Dialer => self.dial_rest(pair, hello.cores, around.queue),
        }
        met.push(Met::Up { core: pair.core, link, peer_cores: hello.cores });
        if !rest.is_empty() {
            met.push(Met::Bytes { core: pair.core, link, bytes: rest });
        }
        met
    }

    /// A new stream of a pair ends the one before, which this side may not know to be dead.
    fn supersede(
        &mut self,
        pair: Pair,
        stream: StreamId,
        retry_us: u64,
        around: &mut Around<'_>,
    ) -> Vec<Met> {
        let old = self.streams.iter().find_map(|(&id, known)| match known {
            Stream::Linked { pair: known, .. } if *known == pair && id != stream => Some(id),
            _ => None,
        });
        let Some(old) = old else { return Vec::new() };
        let side = if around.network.host(old, Side::Dialer) == Some(Host::Node(node_of(self.me))) {
            Side::Dialer
        } else {
            Side::Acceptor
        };
        around.network.close(old, side, around.queue);
        self.on_lost(old, retry_us, around).into_iter().collect()
    }

    fn dial_rest(&mut self, pair: Pair, peer_cores: u8, queue: &mut Queue) {
        for peer_core in (0..peer_cores).map(CoreId) {
            let other = Pair { peer_core, ..pair };
            if !self.dials.contains_key(&other) {
                self.dial(other, 0, queue);
            }
        }
    }
}
