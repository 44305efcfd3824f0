//! Sessions as a gateway sees them: established, kept alive, attached to shards, moved.

use alloc::vec::Vec;

use crate::base::error::ErrorCode;
use crate::base::id::{ConnectionId, Generation, SessionId, ShardId, Zxid};
use crate::base::limits::PROPOSE_BYTES_TARGET;
use crate::base::met::Limit;
use crate::base::time::{Duration, Instant};
use crate::gateway::connection::{Connection, Stage};
use crate::gateway::{Gateway, Parting, Purpose, Wish};
use crate::mail::{Outcome, Ticket, What, Writer};
use crate::peer::message::{SeenShard, Touched, WriteAsk};
use crate::wire::reply::{self, ConnectResponse, PASSWORD_BYTES};
use crate::wire::request::parse_connect;

impl Gateway {
    /// The home shard creates the session, or gives it to this connection.
    pub(super) fn on_connect_request(&mut self, now: Instant, id: ConnectionId, frame: &[u8]) {
        let Ok(request) = parse_connect(frame) else {
            self.close(id, Parting::NoConnectRequest);
            return;
        };
        if !self.catching_up.is_empty() {
            // The client goes on to another server.
            self.met.note(Limit::CatchingUp);
            self.close(id, Parting::CatchingUp);
            return;
        }
        let timeout = self.negotiate(request.timeout_ms);
        let is_new = request.session == SessionId(0);
        let session = if is_new { self.next_session() } else { request.session };
        let home = self.config.map.home_of(session);
        let Some(connection) = self.find(id) else {
            return;
        };
        let timeout_ms = u32::try_from(timeout.as_ms()).expect("timeouts are bounded");
        connection.session.id = session;
        connection.session.timeout = timeout;
        connection.begun_by = now + timeout;
        let last_zxid_seen = request.last_zxid_seen;
        connection.stage =
            Stage::Establishing { read_only: request.read_only, last_zxid_seen, is_new };
        let ask = if is_new {
            let password = connection.entropy;
            WriteAsk::SessionCreate { session: session.0, password, timeout_ms }
        } else {
            let password = request.password.to_vec();
            if let Some(known) = password.first_chunk::<PASSWORD_BYTES>() {
                connection.entropy = *known;
            }
            WriteAsk::SessionRenew { session: session.0, password }
        };
        let asker = Writer::system();
        self.ask_for(home, What::Write { asker, ask }, Purpose::Establish(id));
        self.deadlines.insert((now + timeout, id));
    }

    /// The client is gone, and its session is to end: what waited before that is not asked any
    /// more, and nobody hears of it.
    pub(super) fn close_session_of(&mut self, connection: &Connection) {
        let session = &connection.session;
        let home = self.config.map.home_of(session.id);
        let ask =
            WriteAsk::SessionClose { session: session.id.0, generation: session.generation.0 };
        let asker = Writer::system();
        self.ask_for(home, What::Write { asker, ask }, Purpose::Request(connection.id));
    }

    pub(super) fn on_established(
        &mut self,
        now: Instant,
        id: ConnectionId,
        zxid: Zxid,
        outcome: &Outcome,
    ) {
        let map = self.config.map;
        let Some(connection) = self.find(id) else {
            return;
        };
        let Stage::Establishing { read_only, last_zxid_seen, is_new } = connection.stage else {
            return;
        };
        let Outcome::Session { generation, timeout_ms, attached } = outcome else {
            let code = ErrorCode::SessionExpired;
            if !is_new && matches!(outcome, Outcome::Refused { code: it, .. } if *it == code) {
                // It is over, or the password is wrong: the client begins anew.
                reply::connect(&mut connection.output, &ConnectResponse::refused(read_only));
                self.wishes.push(Wish::Output { connection: id });
            }
            // Whatever else it is will not last: the client comes back.
            self.close(id, Parting::NoSession);
            return;
        };
        if map.count() == 1 && last_zxid_seen > zxid {
            // The client has seen a future that this ensemble does not have.
            self.close(id, Parting::FromTheFuture);
            return;
        }
        connection.stage = Stage::Attached;
        connection.zxid_sent = if map.count() == 1 { zxid } else { last_zxid_seen };
        let session = connection.session.id;
        let home = map.home_of(session);
        let timeout = Duration::from_ms(u64::from(*timeout_ms));
        let known = &mut connection.session;
        known.begin(now, *generation, timeout, is_new, attached, home);
        let response = ConnectResponse {
            protocol_version: 0,
            timeout_ms: i32::try_from(*timeout_ms).unwrap_or(i32::MAX),
            session,
            password: connection.entropy,
            read_only: read_only.map(|_| false),
        };
        reply::connect(&mut connection.output, &response);
        self.wishes.push(Wish::Output { connection: id });
        if let Some(before) = self.by_session.insert(session, id)
            && before != id
        {
            self.close(before, Parting::SessionMoved);
        }
        if map.count() > 1 && !is_new {
            self.ask_recall(id, home, last_zxid_seen);
        }
        // What the client sent ahead is looked at now, and what waits does so from now on.
        self.unfinished.insert(id);
        self.watch_waiting(now, id);
    }

    /// With several shards, the home's leader knows what the client's counter stood for.
    fn ask_recall(&mut self, id: ConnectionId, home: ShardId, last_zxid_seen: Zxid) {
        let Some(connection) = self.find(id) else {
            return;
        };
        connection.session.preparing += 1;
        let what = What::Recall {
            session: connection.session.id,
            generation: connection.session.generation,
            counter: last_zxid_seen.0,
        };
        self.ask_for(home, what, Purpose::Recall(id));
    }

    /// If nobody remembers, everything that ever changed counts as unseen.
    pub(super) fn on_recalled(&mut self, id: ConnectionId, outcome: Outcome) {
        let Some(connection) = self.find(id) else {
            return;
        };
        connection.session.preparing -= 1;
        connection.session.is_recalled = true;
        let Outcome::Seen(seen) = outcome else {
            return;
        };
        connection.seen_before = seen;
        let known = connection.seen_at(Zxid(u64::MAX));
        for (shard, zxid) in known {
            let seen = connection.seen.entry(shard).or_default();
            *seen = (*seen).max(zxid);
        }
    }

    /// The connection has ended: the home learns what its client may have seen to the last.
    pub(super) fn tell_last_seen(&mut self, connection: &Connection) {
        let session = &connection.session;
        if connection.stage == Stage::Connecting || !session.is_recalled {
            return;
        }
        let Some(seen) = connection.checkpoint() else {
            return;
        };
        let home = self.config.map.home_of(session.id);
        let last = Touched {
            session: session.id.0,
            generation: session.generation.0,
            is_alive: false,
            seen: Some(seen),
        };
        let sessions = [last].into();
        self.ask(home, What::Touch { sessions });
    }

    /// Something came from the client. Its home hears of it, though not of every packet; and says
    /// so in time. A busy client sends no pings, and would not notice that its session is over.
    pub(super) fn hear(&mut self, now: Instant, id: ConnectionId) {
        let Some(connection) = self.find(id) else {
            return;
        };
        if connection.stage != Stage::Attached {
            return;
        }
        let session = &mut connection.session;
        let is_due = now.since(session.touched).0 >= session.timeout.0 / TOUCHES_PER_TIMEOUT;
        if is_due && session.unconfirmed_since.is_none() {
            self.await_word(now, id);
        }
    }

    /// A ping is answered when the home leader is known to have heard of the session lately: an
    /// answer from a server that is cut off would keep a client from moving to a better one.
    pub(super) fn on_ping(&mut self, now: Instant, id: ConnectionId) {
        let Some(connection) = self.find(id) else {
            return;
        };
        let session = &mut connection.session;
        if now.since(session.confirmed).0 <= session.timeout.0 / TOUCHES_PER_TIMEOUT {
            let zxid = connection.zxid_sent;
            reply::header_only(&mut connection.output, reply::XID_PING, zxid, ErrorCode::Ok);
            return;
        }
        session.pings += 1;
        self.await_word(now, id);
    }

    /// Asks for the home leader's word. A leader may have fallen, and taken the last such question
    /// along: some more are asked within the patience.
    fn await_word(&mut self, now: Instant, id: ConnectionId) {
        let Some(connection) = self.find(id) else {
            return;
        };
        let session = &mut connection.session;
        session.unconfirmed_since.get_or_insert(now);
        let again = Duration(session.timeout.0 / 3 / QUESTIONS_MAX);
        if !session.is_touch_queued {
            session.is_touch_queued = true;
            self.touch_queue.push(id);
        }
        self.deadlines.insert((now + again, id));
    }

    /// One question to each home for all sessions that were heard from, or a few if those are very
    /// many.
    pub(super) fn send_touches(&mut self, now: Instant) {
        if self.touch_queue.is_empty() {
            return;
        }
        self.forget_touches(now);
        let map = self.config.map;
        let mut queue = core::mem::take(&mut self.touch_queue);
        let mut by_home: Vec<(ShardId, ConnectionId)> = Vec::with_capacity(queue.len());
        for id in queue.drain(..) {
            if let Some(connection) = self.find(id).filter(|it| it.stage == Stage::Attached) {
                by_home.push((map.home_of(connection.session.id), id));
            }
        }
        self.touch_queue = queue;
        by_home.sort_unstable_by_key(|(home, id)| (*home, id.slot, id.generation));
        for of_home in by_home.chunk_by(|one, other| one.0 == other.0) {
            let home = of_home[0].0;
            let mut sessions = Vec::new();
            let mut asked = Vec::new();
            let mut bytes = 0;
            for &(_, id) in of_home {
                let Some(connection) = self.find(id) else {
                    continue;
                };
                let session = &mut connection.session;
                session.is_touch_queued = false;
                session.touched = now;
                let (id_of_session, generation) = (session.id.0, session.generation.0);
                let is_recalled = session.is_recalled;
                // Before the answer, it would push out what is asked for.
                let seen = connection.checkpoint().filter(|_| is_recalled);
                let shards = seen.as_ref().map_or(0, |seen| seen.shards.len());
                bytes += size_of::<Touched>() + shards * size_of::<SeenShard>();
                sessions.push(Touched { session: id_of_session, generation, is_alive: true, seen });
                asked.push(id);
                // The question may have to go to another server, in one frame.
                if bytes >= PROPOSE_BYTES_TARGET {
                    self.touch(now, home, core::mem::take(&mut sessions), &mut asked);
                    bytes = 0;
                }
            }
            if !sessions.is_empty() {
                self.touch(now, home, sessions, &mut asked);
            }
        }
    }

    /// Of the questions that nobody answers only as many are kept as may still be answered in time.
    fn forget_touches(&mut self, now: Instant) {
        let longest = Duration(self.config.periods.session_timeout_max.0 / 3);
        let lifetime = longest.min(Duration::from_ms(TOUCH_LIFETIME_MS_MAX));
        while let Some(&(asked_at, ticket)) = self.touches.front() {
            if self.questions.contains_key(&ticket) {
                if now.since(asked_at) < lifetime {
                    return;
                }
                self.questions.remove(&ticket);
            }
            self.touches.pop_front();
        }
    }

    fn touch(
        &mut self,
        now: Instant,
        home: ShardId,
        sessions: Vec<Touched>,
        asked: &mut Vec<ConnectionId>,
    ) {
        let purpose = Purpose::Touch(now, core::mem::take(asked));
        let ticket = self.ask_for(home, What::Touch { sessions }, purpose);
        self.touches.push_back((now, ticket));
    }

    /// The home leader has heard of these sessions.
    pub(super) fn on_touched(&mut self, ticket: Ticket, expired: &[SessionId]) {
        let Some(Purpose::Touch(asked_at, asked)) = self.questions.remove(&ticket) else {
            return;
        };
        for id in asked {
            let Some(connection) = self.find(id) else {
                continue;
            };
            if connection.stage != Stage::Attached {
                continue;
            }
            if expired.contains(&connection.session.id) {
                self.close(id, Parting::SessionOver);
                continue;
            }
            let session = &mut connection.session;
            session.confirmed = session.confirmed.max(asked_at);
            session.unconfirmed_since.take_if(|since| *since <= asked_at);
            let pings = core::mem::take(&mut session.pings);
            let zxid = connection.zxid_sent;
            for _ in 0..pings {
                reply::header_only(&mut connection.output, reply::XID_PING, zxid, ErrorCode::Ok);
            }
            if pings > 0 {
                self.wishes.push(Wish::Output { connection: id });
                self.limit(id);
            }
        }
    }

    /// A request that waits for a shard without a leader must not wait forever: some deadline
    /// looks at the oldest one.
    pub(super) fn watch_waiting(&mut self, now: Instant, id: ConnectionId) {
        let Some(connection) = self.find(id) else {
            return;
        };
        if !connection.is_wait_watched && connection.stage == Stage::Attached {
            connection.is_wait_watched = true;
            let at = now + connection.session.timeout;
            self.deadlines.insert((at, id));
        }
    }

    pub(super) fn check_deadline(&mut self, now: Instant, id: ConnectionId) {
        let Some(connection) = self.find(id) else {
            return;
        };
        let late = match connection.stage {
            Stage::Connecting | Stage::Establishing { .. } if now < connection.begun_by => None,
            Stage::Establishing { .. } => Some(Parting::TooLate),
            Stage::Connecting => {
                self.met.note(Limit::ConnectTime);
                Some(Parting::TooLate)
            }
            Stage::Attached => {
                let session = &connection.session;
                let patience = session.timeout.0 / 3;
                let waits = session.unconfirmed_since.map(|since| now.since(since).0);
                let is_late = waits.is_some_and(|waits| waits >= patience);
                if waits.is_some() && !is_late {
                    self.await_word(now, id);
                }
                if is_late {
                    Some(Parting::Unconfirmed)
                } else {
                    (!self.is_answered_in_time(now, id)).then_some(Parting::Unanswered)
                }
            }
            Stage::Closing => None,
        };
        if let Some(why) = late {
            self.close(id, why);
        }
    }

    fn is_answered_in_time(&mut self, now: Instant, id: ConnectionId) -> bool {
        let Some(connection) = self.find(id) else {
            return true;
        };
        if !connection.is_wait_watched {
            return true;
        }
        let Some(oldest) = connection.queue.front() else {
            connection.is_wait_watched = false;
            return true;
        };
        let until = oldest.since + connection.session.timeout;
        if until <= now {
            return false;
        }
        self.deadlines.insert((until, id));
        true
    }

    /// Sees to it that the session may use these shards: attached before its first write there,
    /// and nothing of its former connection left. False if that takes a question first.
    pub(super) fn make_ready(
        &mut self,
        id: ConnectionId,
        shards: &[ShardId],
        writes: bool,
    ) -> bool {
        let map = self.config.map;
        let Some(connection) = self.find(id) else {
            return false;
        };
        let home = map.home_of(connection.session.id);
        if connection.session.is_renewed {
            let wanted = connection.session.unready(shards, writes);
            if !wanted.is_empty() {
                self.ask_ready(id, &wanted);
                return false;
            }
        }
        let Some(connection) = self.find(id) else {
            return false;
        };
        let attached = &connection.session.attached;
        let unattached = shards.iter().find(|shard| !attached.contains_key(shard));
        let Some(&shard) = unattached.filter(|_| writes) else {
            return true;
        };
        connection.session.preparing += 1;
        let session = connection.session.id.0;
        let generation = connection.session.generation.0;
        let ask = WriteAsk::SessionAttach { session, generation, shard: shard.0 };
        let asker = Writer::system();
        self.ask_for(home, What::Write { asker, ask }, Purpose::Attach(id, shard));
        false
    }

    /// Fences the former connection in shards that the session is attached to; in others a barrier
    /// is enough, so that nothing older than before is read.
    ///
    /// An attachment that no write has followed yet is opened by this, in the new generation: then
    /// a write of the former connection that is still on its way finds itself fenced too.
    fn ask_ready(&mut self, id: ConnectionId, shards: &[ShardId]) {
        for &shard in shards {
            let Some(connection) = self.find(id) else {
                return;
            };
            connection.session.preparing += 1;
            let session = connection.session.id.0;
            let generation = connection.session.generation.0;
            let attachment = connection.session.attached.get(&shard).copied();
            let what = match attachment.flatten() {
                Some(home_zxid) => What::Write {
                    asker: Writer::system(),
                    ask: WriteAsk::SessionOpen { session, generation, home_zxid: home_zxid.0 },
                },
                None => What::Barrier,
            };
            self.ask_for(shard, what, Purpose::Ready(id));
        }
    }

    pub(super) fn on_attached(
        &mut self,
        id: ConnectionId,
        shard: ShardId,
        zxid: Zxid,
        outcome: &Outcome,
    ) {
        let Some(connection) = self.find(id) else {
            return;
        };
        connection.session.preparing -= 1;
        if !matches!(outcome, Outcome::Reply { code: ErrorCode::Ok, .. }) {
            self.close(id, Parting::NoSession);
            return;
        }
        connection.session.attached.insert(shard, Some(zxid));
    }

    /// A write has been executed in the shard: the session is open there.
    pub(super) fn on_opened_in(&mut self, id: ConnectionId, shard: ShardId) {
        let attached = self.find(id).map(|it| &mut it.session.attached);
        if let Some(attachment) = attached.and_then(|it| it.get_mut(&shard)) {
            *attachment = None;
        }
    }

    pub(super) fn on_ready(&mut self, id: ConnectionId, shard: ShardId, outcome: &Outcome) {
        let Some(connection) = self.find(id) else {
            return;
        };
        connection.session.preparing -= 1;
        if matches!(outcome, Outcome::Reply { code: ErrorCode::Ok, .. }) {
            connection.session.ready.insert(shard);
            if let Some(attachment) = connection.session.attached.get_mut(&shard) {
                *attachment = None;
            }
        } else {
            self.close(id, Parting::NoSession);
        }
    }

    fn negotiate(&self, timeout_ms: i32) -> Duration {
        let asked = Duration::from_ms(u64::try_from(timeout_ms).unwrap_or(0));
        let periods = &self.config.periods;
        asked.clamp(periods.session_timeout_min, periods.session_timeout_max)
    }

    fn next_session(&mut self) -> SessionId {
        let session = SessionId(self.next_session);
        self.next_session += u64::from(self.config.cores);
        session
    }
}

impl Connection {
    /// Whether a first operation on the shard has to wait for a question.
    pub(super) fn needs_ready(&self, shard: ShardId) -> bool {
        self.session.is_renewed && !self.session.ready.contains(&shard)
    }
}

impl super::connection::Session {
    /// The home says that the session is this connection's.
    fn begin(
        &mut self,
        now: Instant,
        generation: Generation,
        timeout: Duration,
        is_new: bool,
        attached: &[(ShardId, Zxid)],
        home: ShardId,
    ) {
        self.generation = generation;
        self.timeout = timeout;
        self.confirmed = now;
        self.touched = now;
        self.is_renewed = !is_new;
        self.is_recalled = is_new;
        let attached = attached.iter().map(|&(shard, zxid)| (shard, Some(zxid)));
        self.attached = attached.collect();
        self.attached.insert(home, None);
        self.ready.insert(home);
    }

    /// Whether the home leader may have ended the session without anybody here having heard of it:
    /// it has not known for so long that its client lives. A server may have stood still.
    pub(super) fn may_be_over(&self, now: Instant) -> bool {
        now.since(self.confirmed) >= self.timeout
    }

    /// The shards to be made ready before an operation on `shards`: for a read those, for a write
    /// every shard that the session is attached to as well.
    fn unready(&self, shards: &[ShardId], writes: bool) -> Vec<ShardId> {
        let mut wanted = shards.to_vec();
        if writes {
            wanted.extend(self.attached.keys().copied());
        }
        wanted.sort_unstable();
        wanted.dedup();
        wanted.retain(|shard| !self.ready.contains(shard));
        wanted
    }
}

/// How many times within its timeout a busy session is reported to its home.
const TOUCHES_PER_TIMEOUT: u64 = 6;

/// A question about sessions is asked again long before.
const TOUCH_LIFETIME_MS_MAX: u64 = 60_000;

/// How often the home leader is asked for its word before it has been waited for too long.
const QUESTIONS_MAX: u64 = 4;
