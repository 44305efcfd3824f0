//! One client connection: what it sent, what it is owed, and in which order.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::auth::Identities;
use crate::base::error::ErrorCode;
use crate::base::id::{ConnectionId, Generation, SessionId, ShardId, Zxid};
use crate::base::time::{Duration, Instant};
use crate::mail::{Reader, Ticket};
use crate::op::EventType;
use crate::shard::ShardMap;
use crate::wire::frame::Deframer;
use crate::wire::reply;

pub(super) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) address: IpAddr,
    /// Becomes the password of a session that begins here.
    pub(super) entropy: [u8; 16],
    pub(super) stage: Stage,
    pub(super) deframer: Deframer,
    pub(super) identities: Identities,
    /// Replies and events, ready to be sent.
    pub(super) output: Vec<u8>,
    /// Taken from the output by the driver, and not sent yet.
    pub(super) unsent_bytes: usize,
    pub(super) is_paused: bool,
    /// Requests that have not been replied to, in the order of their arrival.
    pub(super) queue: VecDeque<Slot>,
    pub(super) open: Open,
    /// Shards in which this connection may have watches.
    pub(super) watching: BTreeSet<ShardId>,
    /// The newest zxid that a reply or an event has carried.
    pub(super) zxid_sent: Zxid,
    pub(super) session: Session,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Nothing, or a part of the ConnectRequest, has come.
    Connecting,
    /// The home shard is asked for the session.
    Establishing {
        read_only: Option<bool>,
        last_zxid_seen: Zxid,
        is_new: bool,
    },
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
    /// A question about readiness or attachment is open; requests wait behind it.
    pub(super) preparing: usize,
    /// When this connection last sent anything.
    pub(super) heard: Instant,
    /// The newest moment of which the home leader knows that the session was alive.
    pub(super) confirmed: Instant,
    pub(super) touched: Instant,
    pub(super) is_touch_queued: bool,
    /// Pings that wait for the home leader's word, and since when.
    pub(super) pings: u32,
    pub(super) pings_since: Instant,
}

/// One request and what has become of it.
pub(super) struct Slot {
    pub(super) xid: i32,
    pub(super) state: SlotState,
    /// Events that must not leave before this reply.
    pub(super) events: Vec<(Zxid, EventType, Box<str>)>,
}

pub(super) enum SlotState {
    /// Not issued: it waits for what came before it.
    Waiting { op_code: i32, body: Vec<u8> },
    /// Issued, with answers to come from so many shards.
    Open {
        ticket: Ticket,
        answers: u16,
        kind: Kind,
        /// What the reply repeats of the request: the path of a sync.
        echo: Vec<u8>,
    },
    /// The reply is ready, and waits for those before it.
    Done(Done),
}

/// A reply that is known and not yet sent.
pub(super) struct Done {
    /// The shard that gave it, and the shard's zxid.
    pub(super) shard: Option<ShardId>,
    pub(super) zxid: Zxid,
    pub(super) code: ErrorCode,
    pub(super) body: Vec<u8>,
    /// The connection ends behind it.
    pub(super) closes: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Read,
    Write,
    /// sync: in every shard.
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
        entropy: [u8; 16],
        frame_bytes_max: usize,
        now: Instant,
    ) -> Self {
        Self {
            id,
            address,
            entropy,
            stage: Stage::Connecting,
            deframer: Deframer::for_requests(frame_bytes_max),
            identities: Identities::initial(address),
            output: Vec::new(),
            unsent_bytes: 0,
            is_paused: false,
            queue: VecDeque::new(),
            open: Open::default(),
            watching: BTreeSet::new(),
            zxid_sent: Zxid::ZERO,
            session: Session::none(now),
        }
    }

    pub(super) fn reader(&self) -> Reader {
        Reader {
            connection: self.id,
            session: self.session.id,
            identities: self.identities.clone(),
        }
    }

    /// The place of the request that this question was asked for.
    pub(super) fn slot_of(&mut self, wanted: Ticket) -> Option<&mut Slot> {
        self.queue
            .iter_mut()
            .find(|slot| matches!(slot.state, SlotState::Open { ticket, .. } if ticket == wanted))
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

    pub(super) fn on_issued(&mut self, kind: Kind, shard: ShardId) {
        if self.open.is_empty() {
            self.open.shard = Some(shard);
        } else if self.open.shard != Some(shard) {
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

    /// Moves replies that are next in order to the output; tells whether the connection ends.
    pub(super) fn flush(&mut self, map: ShardMap) -> bool {
        while let Some(Slot {
            state: SlotState::Done(_),
            ..
        }) = self.queue.front()
        {
            let slot = self.queue.pop_front().expect("it was just looked at");
            let SlotState::Done(done) = slot.state else {
                unreachable!("it was just looked at")
            };
            let zxid = if done.closes && done.code == ErrorCode::Unimplemented {
                // ZooKeeper answers an unknown operation so, before it closes.
                reply::ZXID_NONE
            } else {
                self.header_zxid(map, done.zxid)
            };
            let mark = reply::begin(&mut self.output);
            self.output.extend_from_slice(&done.body);
            reply::finish(&mut self.output, mark, slot.xid, zxid, done.code);
            for (zxid, event, path) in slot.events {
                let zxid = self.header_zxid(map, zxid);
                reply::event(&mut self.output, zxid, event, &path);
            }
            if done.closes {
                return true;
            }
        }
        false
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

    /// The newest reply of this shard that still waits for others: events come behind it.
    ///
    /// Behind an open write there are refusals only. They leave no watch, and an event that waited
    /// for them would come after the reply to the write, which may show something newer.
    pub(super) fn last_done(&mut self, wanted: ShardId) -> Option<&mut Slot> {
        let open_write =
            |slot: &Slot| matches!(slot.state, SlotState::Open { kind, .. } if kind != Kind::Read);
        let end = self.queue.iter().position(open_write);
        let end = end.unwrap_or(self.queue.len());
        self.queue
            .range_mut(..end)
            .rev()
            .find(|slot| matches!(&slot.state, SlotState::Done(done) if done.shard == Some(wanted)))
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
            preparing: 0,
            heard: now,
            confirmed: now,
            touched: now,
            is_touch_queued: false,
            pings: 0,
            pings_since: now,
        }
    }
}
