//! One client connection: what it sent, what it is owed, and in which order.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::auth::Identities;
use crate::base::error::ErrorCode;
use crate::base::id::{ConnectionId, Generation, SessionId, ShardId, Zxid};
use crate::base::limits::{
    CONNECT_TIME_MS_MAX, REQUEST_BYTES_PER_CONNECTION_MAX, REQUESTS_PER_CONNECTION_MAX,
    REQUESTS_PER_TURN_MAX, TURN_SHARE_BYTES,
};
use crate::base::time::{Duration, Instant};
use crate::gateway::gather::Gather;
use crate::gateway::lines::Place;
use crate::gateway::points::PointWatches;
use crate::mail::{Reader, Ticket};
use crate::op::{EventType, OpCode};
use crate::peer::message::{Seen, SeenShard};
use crate::shard::ShardMap;
use crate::wire::frame::Deframer;
use crate::wire::reply;
use crate::wire::request::parse_header;

pub(super) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) address: IpAddr,
    /// Becomes the password of a session that begins here.
    pub(super) entropy: [u8; 16],
    pub(super) stage: Stage,
    /// Until it is attached: by then it has to have connected, or to have its session.
    pub(super) begun_by: Instant,
    pub(super) deframer: Deframer,
    /// Of what has been received, not yet looked at, as of the last time anything was.
    pub(super) received_bytes: usize,
    pub(super) identities: Identities,
    /// Replies and events, ready to be sent.
    pub(super) output: Vec<u8>,
    pub(super) is_paused: bool,
    /// Requests that have not been replied to, in the order of their arrival.
    pub(super) queue: VecDeque<Slot>,
    /// What they had in them.
    pub(super) queue_bytes: usize,
    pub(super) open: Open,
    /// Its oldest request waits until fewer writes are under way.
    pub(super) place_in_line: Option<Place>,
    /// Shards in which this connection may have watches.
    pub(super) watching: BTreeSet<ShardId>,
    pub(super) points: PointWatches,
    /// Some deadline will look whether the oldest request has waited too long.
    pub(super) is_wait_watched: bool,
    /// It has had an answer: what waited for it may be issued.
    pub(super) is_answered: bool,
    /// Events that came while writes to their shard were open, in order. Each goes between those
    /// that were judged before its change and those that were judged after.
    held: VecDeque<Fired>,
    /// All events that wait for replies, these and those behind a reply.
    pub(super) held_bytes: usize,
    /// The newest zxid that a reply or an event has carried.
    pub(super) zxid_sent: Zxid,
    /// With several shards: of each, up to where every event for this client is among what it has
    /// been sent. Of a shard that is missing here, nothing is known.
    pub(super) seen: BTreeMap<ShardId, Zxid>,
    /// What earlier connections of the session had seen, ascending by counter.
    pub(super) seen_before: Vec<Seen>,
    pub(super) session: Session,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Nothing, or a part of the ConnectRequest, has come.
    Connecting,
    /// The home shard is asked for the session.
    Establishing { read_only: Option<bool>, last_zxid_seen: Zxid, is_new: bool },
    /// The session is this connection's.
    Attached,
    /// The driver is told to close it; nothing is read from it any more.
    Closing,
}

/// The session of a connection, as its gateway knows it.
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) generation: Generation,
    pub(super) timeout: Duration,
    /// Shards that the session is attached to, and the zxid of each attachment in the home while
    /// this gateway does not know that it is open there.
    pub(super) attached: BTreeMap<ShardId, Option<Zxid>>,
    /// After a re-attachment: shards in which nothing older than this connection can be read.
    pub(super) ready: BTreeSet<ShardId>,
    /// The session was here before this connection: shards must be made ready.
    pub(super) is_renewed: bool,
    /// What earlier connections had seen is known, as far as anybody remembers.
    pub(super) is_recalled: bool,
    /// A question about readiness or attachment is open; requests wait behind it.
    pub(super) preparing: usize,
    /// The newest moment of which the home leader knows that the session was alive.
    pub(super) confirmed: Instant,
    pub(super) touched: Instant,
    pub(super) is_touch_queued: bool,
    /// Since when the home leader's word has been waited for, and pings that wait for it.
    pub(super) unconfirmed_since: Option<Instant>,
    pub(super) pings: usize,
}

/// One request and what has become of it.
pub(super) struct Slot {
    pub(super) xid: i32,
    pub(super) since: Instant,
    /// Of the request.
    pub(super) bytes: usize,
    pub(super) state: SlotState,
    /// Events that must not leave before this reply.
    pub(super) events: Vec<Fired>,
}

/// An event for this client.
pub(super) struct Fired {
    /// The question that left the watch, if it is one on a point's children.
    pub(super) watch: Option<Ticket>,
    pub(super) shard: ShardId,
    pub(super) zxid: Zxid,
    pub(super) is_last: bool,
    pub(super) event: EventType,
    pub(super) path: String,
}

pub(super) enum SlotState {
    /// Not issued: it waits for what came before it.
    Waiting {
        op_code: i32,
        body: Vec<u8>,
        /// Those that the client had when it asked: what it proves later does not count.
        identities: Identities,
    },
    /// Issued, with answers to come from so many shards.
    Open {
        ticket: Ticket,
        answers: usize,
        kind: Kind,
        /// Where answers are collected, if more than the last one matters.
        gather: Option<Box<Gather>>,
        /// What the reply repeats of the request: the path of a sync.
        echo: Vec<u8>,
    },
    /// The reply is ready, and waits for those before it.
    Done(Done),
}

/// A reply that is known and not yet sent.
pub(super) struct Done {
    pub(super) executed: Executed,
    /// The zxid of the state that it speaks of.
    pub(super) zxid: Zxid,
    pub(super) code: ErrorCode,
    pub(super) body: Vec<u8>,
    /// The connection ends behind it.
    pub(super) closes: bool,
}

/// Where a request was executed, and up to where all events of that shard had come by then. What
/// was refused was executed nowhere.
pub(super) enum Executed {
    Nowhere,
    In(ShardId, Zxid),
    Among(Vec<(ShardId, Zxid)>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Read,
    Write,
    /// sync and setWatches: nothing overtakes them.
    Barrier,
    /// closeSession: the connection ends with its reply.
    Close,
}

/// What is issued and unanswered, as far as order between shards needs to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Open {
    pub(super) writes: usize,
    pub(super) reads: usize,
    /// The only shard of the open requests; `None` if they are of several.
    pub(super) shard: Option<ShardId>,
}

impl Connection {
    pub(super) fn new(
        id: ConnectionId,
        address: IpAddr,
        identities: Identities,
        entropy: [u8; 16],
        frame_bytes_max: usize,
        now: Instant,
    ) -> Self {
        Self {
            id,
            address,
            entropy,
            stage: Stage::Connecting,
            begun_by: now + Duration::from_ms(CONNECT_TIME_MS_MAX),
            deframer: Deframer::for_requests(frame_bytes_max),
            received_bytes: 0,
            identities,
            output: Vec::new(),
            is_paused: false,
            queue: VecDeque::new(),
            queue_bytes: 0,
            open: Open::default(),
            place_in_line: None,
            watching: BTreeSet::new(),
            points: PointWatches::default(),
            is_wait_watched: false,
            is_answered: false,
            held: VecDeque::new(),
            held_bytes: 0,
            zxid_sent: Zxid::ZERO,
            seen: BTreeMap::new(),
            seen_before: Vec::new(),
            session: Session::none(now),
        }
    }

    pub(super) fn reader(&self) -> Reader {
        Reader {
            connection: self.id,
            session: self.session.id,
            identities: self.identities.clone(),
            later: None,
        }
    }

    /// Who asks for the request at `index`, which has not been issued.
    pub(super) fn reader_at(&self, index: usize) -> Reader {
        let identities = self.identities_at(index).clone();
        let later = (identities != self.identities).then(|| self.identities.clone());
        Reader { identities, later, ..self.reader() }
    }

    /// Who the client had proven to be when it sent the request at `index`, which has not been
    /// issued.
    pub(super) fn identities_at(&self, index: usize) -> &Identities {
        match &self.queue[index].state {
            SlotState::Waiting { identities, .. } => identities,
            SlotState::Open { .. } | SlotState::Done(_) => unreachable!("it has not been issued"),
        }
    }

    /// The place of the request that this question was asked for.
    pub(super) fn slot_of(&mut self, wanted: Ticket) -> Option<&mut Slot> {
        self.queue
            .iter_mut()
            .find(|slot| matches!(slot.state, SlotState::Open { ticket, .. } if ticket == wanted))
    }

    /// The same, and its index; the question is open.
    pub(super) fn open_slot(&self, wanted: Ticket) -> (usize, &Slot) {
        let mut slots = self.queue.iter().enumerate();
        let found = slots.find(
            |(_, slot)| matches!(slot.state, SlotState::Open { ticket, .. } if ticket == wanted),
        );
        found.expect("the question is open")
    }

    /// Whether a request may be issued now, by the order that a connection is promised.
    ///
    /// A read waits for the connection's own writes. A write waits for writes and reads in other
    /// shards; within a shard it may follow them at once, because the shard keeps the order.
    pub(super) fn may_issue(&self, kind: Kind, shard: ShardId) -> bool {
        match kind {
            Kind::Read => self.open.writes == 0,
            Kind::Write => self.open.is_empty() || self.open.shard == Some(shard),
            // Nothing of the session may follow its end.
            Kind::Barrier | Kind::Close => self.open.is_empty(),
        }
    }

    /// `shard` is the only one that is asked, if there is only one.
    pub(super) fn on_issued(&mut self, kind: Kind, shard: Option<ShardId>) {
        if self.open.is_empty() {
            self.open.shard = shard;
        } else if self.open.shard != shard {
            self.open.shard = None;
        }
        match kind {
            Kind::Read => self.open.reads += 1,
            Kind::Write | Kind::Barrier | Kind::Close => self.open.writes += 1,
        }
    }

    pub(super) fn on_answered(&mut self, kind: Kind) {
        match kind {
            Kind::Read => self.open.reads -= 1,
            Kind::Write | Kind::Barrier | Kind::Close => self.open.writes -= 1,
        }
        if self.open.is_empty() {
            self.open.shard = None;
        }
    }

    pub(super) fn push(&mut self, slot: Slot) {
        self.queue_bytes += slot.bytes;
        self.queue.push_back(slot);
    }

    /// Whether it ends with a closeSession that has yet to be issued. Clients that say goodbye do
    /// not always wait for an answer.
    pub(super) fn has_asked_to_close(&mut self) -> bool {
        let close = OpCode::CloseSession.wire();
        let mut waiting = self.queue.iter().filter_map(|slot| match &slot.state {
            SlotState::Waiting { op_code, .. } => Some(*op_code),
            SlotState::Open { .. } | SlotState::Done(_) => None,
        });
        let waits = waiting.any(|op_code| op_code == close);
        self.stage == Stage::Attached && (waits || self.was_sent(close))
    }

    /// Whether there is such a request among what has been received and not looked at, which nobody
    /// looks at any more.
    fn was_sent(&mut self, op_code: i32) -> bool {
        while self.deframer.holds_frame() {
            let mut frames = self.deframer.split(&[]);
            while let Some(frame) = frames.next() {
                match frame.map(parse_header) {
                    Ok(Ok((header, _))) if header.op_code == op_code => return true,
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) | Err(_) => return false,
                }
            }
        }
        false
    }

    /// Whether so much waits that nothing more is read from the client.
    pub(super) fn is_deep(&self) -> bool {
        self.queue.len() + self.session.pings >= REQUESTS_PER_CONNECTION_MAX
            || self.queue_bytes >= REQUEST_BYTES_PER_CONNECTION_MAX
    }

    /// Moves replies that are next in order to the output; tells whether the connection ends.
    pub(super) fn flush(&mut self, map: ShardMap) -> bool {
        while let Some(Slot { state: SlotState::Done(_), .. }) = self.queue.front() {
            let slot = self.queue.pop_front().expect("it was just looked at");
            self.queue_bytes -= slot.bytes;
            let SlotState::Done(done) = slot.state else { unreachable!("it was just looked at") };
            self.put_held(map, done.zxid);
            let zxid = if done.closes && done.code == ErrorCode::Unimplemented {
                // ZooKeeper answers an unknown operation so, before it closes.
                reply::ZXID_NONE
            } else {
                self.header_zxid(map, done.zxid)
            };
            let mark = reply::begin(&mut self.output);
            self.output.extend_from_slice(&done.body);
            reply::finish(&mut self.output, mark, slot.xid, zxid, done.code);
            match done.executed {
                Executed::Nowhere => {}
                Executed::In(shard, zxid) => self.has_seen(map, shard, zxid),
                Executed::Among(shards) => {
                    for (shard, zxid) in shards {
                        self.has_seen(map, shard, zxid);
                    }
                }
            }
            for event in slot.events {
                self.held_bytes -= event.bytes();
                self.put_event(map, &event);
            }
            if done.closes {
                return true;
            }
        }
        if self.open.writes == 0 {
            self.put_held(map, Zxid(u64::MAX));
        }
        false
    }

    /// Takes in an event. It leaves behind the replies of what its shard executed before it for
    /// this connection, and so before anything newer; tells whether it has left.
    pub(super) fn on_event(&mut self, map: ShardMap, event: Fired) -> bool {
        let bytes = event.bytes();
        if self.holds_events_of(event.shard) {
            self.held.push_back(event);
        } else if let Some(slot) = self.last_executed(event.shard) {
            slot.events.push(event);
        } else {
            self.put_event(map, &event);
            return true;
        }
        self.held_bytes += bytes;
        false
    }

    /// Whether an event of this shard waits for the outcome of writes: what is refused is judged
    /// earlier than its refusal comes. Where reads are open it may not wait, because they may show
    /// its change; none is issued while writes are open.
    fn holds_events_of(&self, shard: ShardId) -> bool {
        let is_open = |slot: &&Slot| matches!(slot.state, SlotState::Open { .. });
        let oldest = self.queue.iter().find(is_open).map(|slot| &slot.state);
        self.open.reads == 0
            && self.open.shard == Some(shard)
            && matches!(oldest, Some(SlotState::Open { kind: Kind::Write, .. }))
    }

    /// Puts the events that were held, up to `zxid`, into the output.
    fn put_held(&mut self, map: ShardMap, zxid: Zxid) {
        while let Some(event) = self.held.pop_front_if(|held| held.zxid <= zxid) {
            self.held_bytes -= event.bytes();
            self.put_event(map, &event);
        }
    }

    /// The zxid of the next reply's or event's header.
    pub(super) fn header_zxid(&mut self, map: ShardMap, zxid: Zxid) -> Zxid {
        self.zxid_sent = if map.count() == 1 {
            self.zxid_sent.max(zxid)
        } else {
            // Zxids of different shards do not compare: clients see a counter of their own.
            Zxid(self.zxid_sent.0 + 1)
        };
        self.zxid_sent
    }

    /// An event joins what is sent.
    ///
    /// Some clients take a header's zxid for what they have seen. If the connection breaks between
    /// two events of one change, the second must still count as missed when the watches are set
    /// again: with one shard, only the last event of a change carries its zxid.
    fn put_event(&mut self, map: ShardMap, fired: &Fired) {
        let &Fired { shard, zxid, is_last, event, ref path, .. } = fired;
        let header =
            if is_last || map.count() > 1 { self.header_zxid(map, zxid) } else { reply::ZXID_NONE };
        reply::event(&mut self.output, header, event, path);
        // One change may fire many watches: this event may not be the last of its zxid.
        self.has_seen(map, shard, Zxid(zxid.0.saturating_sub(1)));
    }

    /// Every event of the shard up to `zxid` is among what has been put into the output.
    pub(super) fn has_seen(&mut self, map: ShardMap, shard: ShardId, zxid: Zxid) {
        if map.count() > 1 {
            let seen = self.seen.entry(shard).or_default();
            *seen = (*seen).max(zxid);
        }
    }

    /// What the client has seen when it has read everything that is in the output.
    pub(super) fn checkpoint(&self) -> Option<Seen> {
        let shards =
            self.seen.iter().map(|(shard, zxid)| SeenShard { shard: shard.0, zxid: zxid.0 });
        (!self.seen.is_empty())
            .then(|| Seen { counter: self.zxid_sent.0, shards: shards.collect() })
    }

    /// What a client that has read headers up to `counter` has surely seen.
    pub(super) fn seen_at(&self, counter: Zxid) -> BTreeMap<ShardId, Zxid> {
        let mut newest_first = self.seen_before.iter().rev();
        let known = newest_first.find(|seen| seen.counter <= counter.0);
        let shards = known.map_or(&[][..], |seen| &seen.shards);
        shards.iter().map(|seen| (ShardId(seen.shard), Zxid(seen.zxid))).collect()
    }

    /// The newest request that this shard has executed and whose reply still waits: events come
    /// behind it. What stands open before it is to be refused, or it would have been answered
    /// before.
    fn last_executed(&mut self, shard: ShardId) -> Option<&mut Slot> {
        self.queue.iter_mut().rev().find(|slot| slot.state.was_executed_in(shard))
    }
}

impl Fired {
    /// About what it takes in the output, and in memory.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.path.len()
    }
}

impl Slot {
    /// What the reply has taken of a turn so far, as requests: its bytes cost about as much.
    pub(super) fn reply_weight(&self) -> usize {
        match &self.state {
            SlotState::Done(done) if done.code == TOO_LARGE => REQUESTS_PER_TURN_MAX,
            SlotState::Done(done) => done.body.len() / TURN_SHARE_BYTES,
            SlotState::Open { gather: Some(gather), .. } => gather.bytes_made() / TURN_SHARE_BYTES,
            SlotState::Waiting { .. } | SlotState::Open { .. } => 0,
        }
    }

    /// Whether the answers that have come are too much for one reply.
    pub(super) fn gathers_too_much(&self) -> bool {
        matches!(&self.state, SlotState::Open { gather: Some(gather), .. } if gather.is_full())
    }
}

impl SlotState {
    pub(super) fn was_executed_in(&self, wanted: ShardId) -> bool {
        match self {
            Self::Waiting { .. } => false,
            Self::Open { gather, .. } => {
                gather.as_ref().is_some_and(|gather| gather.has_heard_from(wanted))
            }
            Self::Done(done) => match &done.executed {
                Executed::Nowhere => false,
                Executed::In(shard, _) => *shard == wanted,
                Executed::Among(shards) => shards.iter().any(|(shard, _)| *shard == wanted),
            },
        }
    }
}

impl Open {
    pub(super) fn is_empty(&self) -> bool {
        self.writes == 0 && self.reads == 0
    }
}

impl Session {
    fn none(now: Instant) -> Self {
        Self {
            id: SessionId(0),
            generation: Generation(0),
            timeout: Duration::ZERO,
            attached: BTreeMap::new(),
            ready: BTreeSet::new(),
            is_renewed: false,
            is_recalled: false,
            preparing: 0,
            confirmed: now,
            touched: now,
            is_touch_queued: false,
            unconfirmed_since: None,
            pings: 0,
        }
    }
}

/// The code of a reply that turned out to be too large. It was made all the same, and takes all
/// that a turn has for a connection. So does a request that nobody can read: the code is the same.
pub(super) const TOO_LARGE: ErrorCode = ErrorCode::MarshallingError;
