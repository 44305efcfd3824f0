//! One core's clients: connections, their sessions, and the order that each is promised.
//!
//! A gateway turns frames into questions to shards and answers into replies, in the order of the
//! requests. Reads of a shard that lives on the same core are executed at once; everything else is
//! mail.

mod connection;
mod gather;
mod issuing;
mod lines;
mod parting;
mod points;
mod receiving;
mod replying;
mod routing;
mod session;

pub use parting::Parting;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::net::IpAddr;
use core::ops::Bound;

use crate::auth::AuthSettings;
use crate::base::error::ErrorCode;
use crate::base::id::{ConnectionId, CoreId, ServerId, SessionId, ShardId, Zxid};
use crate::base::limits::{
    CONNECT_TIME_MS_MAX, INPUT_BYTES_PAUSE, INPUT_BYTES_RESUME, OUTPUT_BYTES_MAX,
    OUTPUT_BYTES_PAUSE, REQUESTS_PER_TURN_MAX, REQUESTS_PER_TURN_MIN, REQUESTS_PER_TURN_OF_ALL,
};
use crate::base::met::{Limit, LimitsMet};
use crate::base::time::{Duration, Instant, Periods};
use crate::gateway::connection::{Connection, Stage};
use crate::gateway::lines::Lines;
use crate::mail::{Ask, Mail, Reader, Ticket, What};
use crate::op::Request;
use crate::replica::Recipient;
use crate::shard::ShardMap;

/// What never changes while the process lives.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    pub server: ServerId,
    pub core: CoreId,
    pub cores: u8,
    pub map: ShardMap,
    pub periods: Periods,
    pub client: ClientLimits,
    pub auth: AuthSettings,
    /// Milliseconds that no earlier boot of this server has used; session ids begin there. The next
    /// boot's are [`SESSION_BASE_STEP_MS`](crate::base::limits::SESSION_BASE_STEP_MS) later.
    pub session_base_ms: u64,
}

/// How many clients a server has on all its cores when one more comes, that one included. No core
/// knows that by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Crowd {
    pub from_its_address: u32,
    pub in_all: usize,
}

/// Bounds on clients that are configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientLimits {
    /// `jute.maxbuffer` and what ZooKeeper adds to it.
    pub frame_bytes_max: usize,
    /// `maxClientCnxns`; 0 for no limit.
    pub connections_per_address_max: u32,
    /// `maxCnxns`.
    pub connections_max: usize,
    /// `globalOutstandingLimit`: of all connections of a core, to one shard. At least 1.
    pub writes_outstanding_max: usize,
}

impl ClientLimits {
    fn exceeded_by(&self, crowd: Crowd) -> Option<Limit> {
        let of_address = self.connections_per_address_max;
        if of_address != 0 && crowd.from_its_address > of_address {
            return Some(Limit::ConnectionsPerAddress);
        }
        (crowd.in_all > self.connections_max).then_some(Limit::Connections)
    }
}

/// What a gateway asks for.
#[derive(Debug)]
pub enum Wish {
    Mail { to: Recipient, mail: Mail },
    Output { connection: ConnectionId },
    Pause { connection: ConnectionId, paused: bool },
    Close { connection: ConnectionId, session: SessionId, why: Parting },
    Admin { connection: ConnectionId, word: [u8; 4] },
}

/// The replicas that live on the gateway's core.
pub trait Replicas {
    /// Reads from a local replica. `None` if the shard lives on another core.
    fn read(
        &mut self,
        shard: ShardId,
        reader: &Reader,
        request: &Request<'_>,
        body: &mut Vec<u8>,
    ) -> Option<Result<(), ErrorCode>>;

    /// What a read of the shard would find on this core.
    fn standing(&self, shard: ShardId, now: Instant) -> ReadStanding;
}

/// What a read of a replica would find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadStanding {
    /// The state at this zxid.
    At(Zxid),
    /// It has been without a leader for so long that nobody knows how old its state is.
    TooOld,
    /// It must be asked by mail: it lives on another core, or has just been started.
    Away,
}

pub struct Gateway {
    config: GatewayConfig,
    connections: Vec<Option<Connection>>,
    /// The connection of each session that is attached on this core.
    by_session: BTreeMap<SessionId, ConnectionId>,
    /// What the answer to each open question is for.
    questions: BTreeMap<Ticket, Purpose>,
    next_ticket: u64,
    next_session: u64,
    /// Connections whose sessions the home leaders should hear of.
    touch_queue: Vec<ConnectionId>,
    /// The questions that tell them, oldest first. No answer comes to what a leader took along.
    touches: VecDeque<(Instant, Ticket)>,
    lines: Lines,
    /// Connections with complete frames left over from the last turn.
    unfinished: BTreeSet<ConnectionId>,
    /// The one of them that went on last.
    finished_last: ConnectionId,
    /// Requests that may still be begun in this turn.
    turn_left: usize,
    /// So many of them at once by one connection.
    share: usize,
    /// The last turn was too short for some of the unfinished connections.
    is_behind: bool,
    /// Connections that have had an answer: what waited for it may be issued.
    answered: Vec<ConnectionId>,
    /// When to look at a connection: it must have connected, or its ping been confirmed.
    deadlines: BTreeSet<(Instant, ConnectionId)>,
    /// Shards that this node takes long to get. It takes no clients meanwhile.
    catching_up: BTreeSet<ShardId>,
    wishes: Vec<Wish>,
    met: LimitsMet,
}

/// Why a question was asked.
enum Purpose {
    /// A request of this connection.
    Request(ConnectionId),
    /// Likewise, and counted among the writes that are under way to the shard.
    Write(ConnectionId),
    /// Its session.
    Establish(ConnectionId),
    /// Its session's attachment to a shard.
    Attach(ConnectionId, ShardId),
    /// That a shard shows it nothing old and takes nothing from its predecessor.
    Ready(ConnectionId),
    /// What its session's client has seen through earlier connections.
    Recall(ConnectionId),
    /// The sessions of these connections are alive; asked then.
    Touch(Instant, Vec<ConnectionId>),
}

impl Gateway {
    pub fn new(config: GatewayConfig) -> Self {
        let first = (config.session_base_ms << 24) >> 8;
        let server = u64::from(config.server.0) << 56;
        // Cores take every so-many-th id, so that no two ever hand out the same.
        let next_session = (server | first) + u64::from(config.core.0);
        let shards = usize::from(config.map.count());
        let lines = Lines::new(shards, config.client.writes_outstanding_max);
        Self {
            config,
            connections: Vec::new(),
            by_session: BTreeMap::new(),
            questions: BTreeMap::new(),
            next_ticket: 1,
            next_session,
            touch_queue: Vec::new(),
            touches: VecDeque::new(),
            lines,
            unfinished: BTreeSet::new(),
            finished_last: ConnectionId { core: CoreId(0), slot: 0, generation: 0 },
            turn_left: REQUESTS_PER_TURN_OF_ALL,
            share: REQUESTS_PER_TURN_MAX,
            is_behind: false,
            answered: Vec::new(),
            deadlines: BTreeSet::new(),
            catching_up: BTreeSet::new(),
            wishes: Vec::new(),
            met: LimitsMet::default(),
        }
    }

    pub fn on_opened(
        &mut self,
        now: Instant,
        id: ConnectionId,
        address: IpAddr,
        crowd: Crowd,
        entropy: [u8; 16],
    ) {
        let slot = usize::try_from(id.slot).expect("a slot is an index");
        if self.connections.len() <= slot {
            self.connections.resize_with(slot + 1, || None);
        }
        assert!(self.connections[slot].is_none(), "a slot is free before it is used again");
        let frame_bytes_max = self.config.client.frame_bytes_max;
        let identities = self.config.auth.newcomer(address);
        let connection = Connection::new(id, address, identities, entropy, frame_bytes_max, now);
        self.connections[slot] = Some(connection);
        if let Some(limit) = self.config.client.exceeded_by(crowd) {
            self.met.note(limit);
            self.close(id, Parting::TooManyConnections);
            return;
        }
        self.deadlines.insert((now + Duration::from_ms(CONNECT_TIME_MS_MAX), id));
    }

    /// The connection is gone; nothing is known of it afterwards.
    pub fn on_closed(&mut self, id: ConnectionId) {
        let Some(slot) = self.slot_mut(id) else {
            return;
        };
        let mut connection = slot.take().expect("the slot was checked");
        if self.by_session.get(&connection.session.id) == Some(&id) {
            self.by_session.remove(&connection.session.id);
        }
        self.unfinished.remove(&id);
        if let Some(place) = connection.place_in_line {
            self.lines.leave(place);
        }
        self.tell_last_seen(&connection);
        if connection.has_asked_to_close() {
            self.close_session_of(&connection);
        }
        for shard in connection.watching {
            self.ask(shard, What::Forget { connection: id });
        }
    }

    /// What was sent has left: what was held back for a slow client may go on.
    pub fn on_sent(&mut self, now: Instant, id: ConnectionId, replicas: &mut impl Replicas) {
        self.limit(id);
        self.receive(now, id, &[], replicas);
    }

    pub fn on_time(&mut self, now: Instant, replicas: &mut impl Replicas) {
        let unfinished = self.unfinished_in_turn();
        let share = REQUESTS_PER_TURN_OF_ALL / unfinished.len().max(1);
        self.share = share.clamp(REQUESTS_PER_TURN_MIN, REQUESTS_PER_TURN_MAX);
        self.is_behind = false;
        for id in unfinished {
            if self.turn_left == 0 {
                break;
            }
            self.unfinished.remove(&id);
            self.finished_last = id;
            self.issue(now, id, replicas);
            self.receive(now, id, &[], replicas);
        }
        self.is_behind = self.turn_left < REQUESTS_PER_TURN_MIN && !self.unfinished.is_empty();
        self.share = REQUESTS_PER_TURN_MAX;
        while let Some(&(at, id)) = self.deadlines.first() {
            if at > now {
                break;
            }
            self.deadlines.pop_first();
            self.check_deadline(now, id);
        }
    }

    pub fn on_turn_end(&mut self, now: Instant) {
        self.turn_left = REQUESTS_PER_TURN_OF_ALL;
        self.send_touches(now);
    }

    /// One after the other: who came last in one turn is not the first in the next.
    fn unfinished_in_turn(&self) -> Vec<ConnectionId> {
        let last = self.finished_last;
        let behind = self.unfinished.range((Bound::Excluded(last), Bound::Unbounded));
        behind.chain(self.unfinished.range(..=last)).copied().collect()
    }

    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        if !self.unfinished.is_empty() {
            return Some(now);
        }
        self.deadlines.first().map(|&(at, _)| at)
    }

    /// Takes what has been wished for since the last time, in order.
    pub fn take_wishes(&mut self) -> Vec<Wish> {
        core::mem::take(&mut self.wishes)
    }

    /// Gives the list of wishes back, so that its memory is used again.
    pub fn give_wishes(&mut self, mut wishes: Vec<Wish>) {
        wishes.clear();
        if self.wishes.is_empty() {
            self.wishes = wishes;
        }
    }

    pub fn has_wishes(&self) -> bool {
        !self.wishes.is_empty()
    }

    pub fn output(&mut self, id: ConnectionId) -> Option<&mut Vec<u8>> {
        Some(&mut self.find(id)?.output)
    }

    /// How often clients met their limits.
    pub fn limits_met(&self) -> &LimitsMet {
        &self.met
    }

    /// Client requests that have been read and not replied to.
    pub fn outstanding(&self) -> usize {
        self.connections.iter().flatten().map(|connection| connection.queue.len()).sum()
    }

    /// Whether a request that has been read waits for its reply, or for its turn.
    pub fn owes_replies(&self) -> bool {
        !self.unfinished.is_empty() || self.outstanding() > 0
    }

    fn slot_mut(&mut self, id: ConnectionId) -> Option<&mut Option<Connection>> {
        let slot = self.connections.get_mut(usize::try_from(id.slot).ok()?)?;
        let known = slot.as_ref().is_some_and(|connection| connection.id == id);
        known.then_some(slot)
    }

    fn find(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.slot_mut(id)?.as_mut()
    }

    fn ticket(&mut self, purpose: Purpose) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.questions.insert(ticket, purpose);
        ticket
    }

    /// Asks a shard without expecting an answer.
    fn ask(&mut self, shard: ShardId, what: What) {
        self.ask_as(Ticket(0), shard, what);
    }

    fn ask_for(&mut self, shard: ShardId, what: What, purpose: Purpose) -> Ticket {
        let ticket = self.ticket(purpose);
        self.ask_as(ticket, shard, what);
        ticket
    }

    fn ask_as(&mut self, ticket: Ticket, shard: ShardId, what: What) {
        let ask = Ask { core: self.config.core, ticket, what };
        self.wishes
            .push(Wish::Mail { to: Recipient::Shard(shard), mail: Mail::Ask { shard, ask } });
    }

    fn close(&mut self, id: ConnectionId, why: Parting) {
        let Some(connection) = self.find(id) else {
            return;
        };
        if connection.stage == Stage::Closing {
            return;
        }
        connection.stage = Stage::Closing;
        connection.queue.clear();
        connection.queue_bytes = 0;
        let session = connection.session.id;
        self.unfinished.remove(&id);
        self.wishes.push(Wish::Close { connection: id, session, why });
    }

    /// A slow client delays only itself: beyond a bound nothing more is read from it, and beyond
    /// another it is closed.
    fn limit(&mut self, id: ConnectionId) {
        let Some(connection) = self.find(id) else {
            return;
        };
        if connection.stage == Stage::Closing {
            return;
        }
        let waiting = connection.output.len() + connection.held_bytes;
        if waiting > OUTPUT_BYTES_MAX {
            connection.output.clear();
            self.met.note(Limit::OutputBytes);
            self.close(id, Parting::SlowReader);
            return;
        }
        let input_max = if connection.is_paused { INPUT_BYTES_RESUME } else { INPUT_BYTES_PAUSE };
        let is_ahead = connection.received_bytes > input_max;
        let is_deep = connection.is_deep();
        let paused = is_ahead || is_deep || waiting > OUTPUT_BYTES_PAUSE;
        if paused != connection.is_paused {
            connection.is_paused = paused;
            if paused {
                self.met.note(match (is_deep, is_ahead) {
                    (true, _) => Limit::RequestsPerConnection,
                    (false, true) => Limit::InputPause,
                    (false, false) => Limit::OutputPause,
                });
            }
            self.wishes.push(Wish::Pause { connection: id, paused });
        }
    }
}
