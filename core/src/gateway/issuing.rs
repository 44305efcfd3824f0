//! From requests to questions: each is issued as soon as its order allows.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::base::error::ErrorCode;
use crate::base::id::{ConnectionId, ShardId};
use crate::base::limits::{REQUESTS_PER_TURN_MAX, REQUESTS_PER_TURN_OF_ALL};
use crate::base::time::Instant;
use crate::gateway::connection::{Executed, Kind, Slot, SlotState, Stage, TOO_LARGE};
use crate::gateway::gather::Gather;
use crate::gateway::routing::{Route, leaves_watch, route, split};
use crate::gateway::{Gateway, Parting, Purpose, ReadStanding, Replicas};
use crate::mail::{Outcome, Reader, Ticket, What, Writer};
use crate::op::{OpCode, Request};
use crate::peer::message::WriteAsk;
use crate::wire::client;
use crate::wire::reply;
use crate::wire::request::{RequestError, parse_request};

impl Gateway {
    /// Executes a read of a shard on this core, if it is one, and tells how it went.
    pub(super) fn read_at_once(
        &mut self,
        now: Instant,
        id: ConnectionId,
        xid: i32,
        op_code: i32,
        body: &[u8],
        replicas: &mut impl Replicas,
    ) -> Option<ErrorCode> {
        let Ok(request) = parse_request(op_code, body) else {
            return None;
        };
        let map = self.config.map;
        let Route::Read(shard) = route(map, &request, ShardId(0)) else {
            return None;
        };
        let connection = self.find(id)?;
        if connection.needs_ready(shard) {
            return None;
        }
        let ReadStanding::At(zxid) = replicas.standing(shard, now) else {
            return None;
        };
        if leaves_watch(&request) {
            connection.watching.insert(shard);
            connection.has_seen(map, shard, zxid);
        }
        let reader = connection.reader();
        let zxid = connection.header_zxid(map, zxid);
        let mark = reply::begin(&mut connection.output);
        let result = replicas.read(shard, &reader, &request, &mut connection.output);
        let code = result.expect("the shard was here").err().unwrap_or(ErrorCode::Ok);
        reply::finish(&mut connection.output, mark, xid, zxid, code);
        Some(code)
    }

    /// Issues waiting requests in order, as far as the connection's order allows.
    pub(super) fn issue(&mut self, now: Instant, id: ConnectionId, replicas: &mut impl Replicas) {
        let taken = self.issue_due(now, id, replicas);
        self.take_of_turn(taken);
    }

    /// The same; tells what that takes of the turn.
    pub(super) fn issue_due(
        &mut self,
        now: Instant,
        id: ConnectionId,
        replicas: &mut impl Replicas,
    ) -> usize {
        let mut taken = 0;
        // Whoever is called from a line has waited, and may begin no more than that line lets it.
        let turn_left = if self.lines.is_called(id) {
            usize::MAX
        } else if self.is_behind {
            // The rest is for those for whom the turn before was too short.
            self.turn_left.saturating_sub(REQUESTS_PER_TURN_OF_ALL / 2)
        } else {
            self.turn_left
        };
        let taken_max = self.share.min(turn_left);
        loop {
            let Some(connection) = self.find(id) else {
                return taken;
            };
            if connection.stage != Stage::Attached || connection.session.preparing > 0 {
                break;
            }
            // Requests are issued in order: behind the first that waits all do.
            let is_issued = |slot: &Slot| !matches!(slot.state, SlotState::Waiting { .. });
            let index = connection.queue.partition_point(is_issued);
            if index == connection.queue.len() {
                break;
            }
            let SlotState::Waiting { op_code, body, .. } = &mut connection.queue[index].state
            else {
                unreachable!("the slot was chosen for it");
            };
            if taken >= taken_max {
                self.unfinished.insert(id);
                break;
            }
            let (op_code, body) = (*op_code, core::mem::take(body));
            let Some(weight) = self.issue_one(now, id, index, op_code, &body, replicas) else {
                self.put_back(id, index, body);
                break;
            };
            let slot = self.find(id).and_then(|connection| connection.queue.get(index));
            // One was counted when it came.
            taken += weight - 1 + slot.map_or(0, Slot::reply_weight);
        }
        self.flush(id);
        taken
    }

    /// The request at `index` has to wait: it keeps its body.
    fn put_back(&mut self, id: ConnectionId, index: usize, waiting: Vec<u8>) {
        let Some(connection) = self.find(id) else {
            return;
        };
        if let Some(Slot { state: SlotState::Waiting { body, .. }, .. }) =
            connection.queue.get_mut(index)
        {
            *body = waiting;
        }
    }

    /// Issues the request at `index` of the queue, and tells what it takes of a turn; nothing if it
    /// has to wait.
    fn issue_one(
        &mut self,
        now: Instant,
        id: ConnectionId,
        index: usize,
        op_code: i32,
        body: &[u8],
        replicas: &mut impl Replicas,
    ) -> Option<usize> {
        let map = self.config.map;
        let connection = self.find(id)?;
        let home = map.home_of(connection.session.id);
        let request = match parse_request(op_code, body) {
            Ok(request) => request,
            Err(error) => {
                self.refuse_at(id, index, error);
                return Some(1);
            }
        };
        let is_issued = match route(map, &request, home) {
            Route::WhoAmI => {
                self.who_am_i(id, index);
                true
            }
            Route::Refused => {
                self.done_at(id, index, ErrorCode::BadArguments, &[], false);
                true
            }
            Route::Barrier => self.issue_barriers(id, index, echo_of(&request, body)),
            Route::Gather => return self.issue_gather(now, id, index, &request, replicas),
            Route::Read(shard) => {
                let is_due = connection.may_issue(Kind::Read, shard);
                if !is_due || !self.make_ready(id, &[shard], false) {
                    return None;
                }
                self.issue_read(now, id, index, shard, &request, op_code, body, replicas)
            }
            Route::Write(shard) => {
                let is_due = connection.may_issue(Kind::Write, shard);
                if !is_due || !self.may_write(id, shard) || !self.make_ready(id, &[shard], true) {
                    return None;
                }
                let ask = WriteAsk::Client { op_code, body: body.to_vec() };
                self.issue_write(id, index, shard, Kind::Write, ask);
                true
            }
            Route::Close(shard) => {
                if !connection.may_issue(Kind::Close, shard) {
                    return None;
                }
                let session = connection.session.id.0;
                let generation = connection.session.generation.0;
                let ask = WriteAsk::SessionClose { session, generation };
                self.issue_write(id, index, shard, Kind::Close, ask);
                true
            }
        };
        is_issued.then(|| weight_of(op_code))
    }

    #[expect(clippy::too_many_arguments, reason = "a request, its place and its surroundings")]
    fn issue_read(
        &mut self,
        now: Instant,
        id: ConnectionId,
        index: usize,
        shard: ShardId,
        request: &Request<'_>,
        op_code: i32,
        body: &[u8],
        replicas: &mut impl Replicas,
    ) -> bool {
        let Some(connection) = self.find(id) else {
            return false;
        };
        if leaves_watch(request) {
            connection.watching.insert(shard);
        }
        match replicas.standing(shard, now) {
            ReadStanding::TooOld => {
                self.close(id, Parting::Leaderless);
                false
            }
            ReadStanding::At(zxid) => {
                let reader = connection.reader_at(index);
                let mut reply_body = Vec::new();
                let result = replicas.read(shard, &reader, request, &mut reply_body);
                let code = result.expect("the shard was here").err().unwrap_or(ErrorCode::Ok);
                let executed = Executed::In(shard, zxid);
                self.done_in(id, index, executed, zxid, code, reply_body, false);
                true
            }
            ReadStanding::Away => {
                let reader = connection.reader_at(index);
                let what = What::Read { reader, op_code, body: body.to_vec() };
                let ticket = self.ask_for(shard, what, Purpose::Request(id));
                self.open_at(id, index, ticket, Some(shard), 1, Kind::Read, None);
                true
            }
        }
    }

    /// Asks several shards for the parts of one reply: those on this core at once, and all of them
    /// in the order of the connection's requests. Tells what that takes of a turn.
    fn issue_gather(
        &mut self,
        now: Instant,
        id: ConnectionId,
        index: usize,
        request: &Request<'_>,
        replicas: &mut impl Replicas,
    ) -> Option<usize> {
        let map = self.config.map;
        // The events that setWatches fires come by mail, and its reply behind them.
        let sets_watches = matches!(request, Request::SetWatches(_));
        let kind = if sets_watches { Kind::Barrier } else { Kind::Read };
        let connection = self.find(id)?;
        if !connection.may_issue(kind, ShardId(0)) {
            return None;
        }
        let split = split(map, request, |counter| connection.seen_at(counter));
        let shards: Vec<ShardId> = split.parts.iter().map(|(shard, _)| *shard).collect();
        if !self.make_ready(id, &shards, false) {
            return None;
        }
        if shards.iter().any(|&shard| replicas.standing(shard, now) == ReadStanding::TooOld) {
            self.close(id, Parting::Leaderless);
            return None;
        }
        let ticket = self.ticket(Purpose::Request(id));
        let connection = self.find(id)?;
        if leaves_watch(request) {
            connection.watching.extend(shards.iter().copied());
        }
        let reader = connection.reader_at(index);
        let gather = Gather::new(split.plan, shards.iter().copied(), split.marks);
        let answers = shards.len();
        let gather = Some(gather.into());
        self.open_at(id, index, ticket, None, answers, kind, gather);
        for (shard, part) in &split.parts {
            match replicas.standing(*shard, now) {
                ReadStanding::At(zxid) if !sets_watches => {
                    let mut body = Vec::new();
                    let slot = self.find(id).and_then(|connection| connection.queue.get(index));
                    let code = if slot.is_some_and(Slot::gathers_too_much) {
                        TOO_LARGE
                    } else {
                        let result = replicas.read(*shard, &reader, part, &mut body);
                        result.expect("the shard was here").err().unwrap_or(ErrorCode::Ok)
                    };
                    let outcome = Outcome::Reply { code, body };
                    self.on_request_answer(id, *shard, ticket, zxid, outcome);
                }
                _ => self.ask_part(ticket, *shard, &reader, part),
            }
        }
        Some(answers.max(weight_of(request.op_code().wire())))
    }

    fn ask_part(&mut self, ticket: Ticket, shard: ShardId, reader: &Reader, part: &Request<'_>) {
        let mut frame = Vec::new();
        client::put_request(&mut frame, 0, part);
        let what = What::Read {
            reader: reader.clone(),
            op_code: part.op_code().wire(),
            body: frame.split_off(client::REQUEST_PREFIX_BYTES),
        };
        self.ask_as(ticket, shard, what);
    }

    fn issue_write(
        &mut self,
        id: ConnectionId,
        index: usize,
        shard: ShardId,
        kind: Kind,
        ask: WriteAsk,
    ) {
        let Some(connection) = self.find(id) else {
            return;
        };
        let session = &connection.session;
        let asker = Writer {
            session: session.id,
            generation: session.generation,
            attachment: session.attached.get(&shard).copied().flatten(),
            identities: connection.identities_at(index).clone(),
        };
        let what = What::Write { asker, ask };
        let ticket = self.ask_for(shard, what, Purpose::Write(id));
        self.lines.begin_write(shard);
        self.open_at(id, index, ticket, Some(shard), 1, kind, None);
    }

    /// One barrier in every shard; the reply follows the last.
    fn issue_barriers(&mut self, id: ConnectionId, index: usize, echo_bytes: &[u8]) -> bool {
        let map = self.config.map;
        let Some(connection) = self.find(id) else {
            return false;
        };
        if !connection.open.is_empty() {
            return false;
        }
        let ticket = self.ticket(Purpose::Request(id));
        for shard in map.shards() {
            self.ask_as(ticket, shard, What::Barrier);
        }
        let answers = usize::from(map.count());
        self.open_at(id, index, ticket, None, answers, Kind::Barrier, None);
        if let Some(connection) = self.find(id)
            && let SlotState::Open { echo, .. } = &mut connection.queue[index].state
        {
            echo.extend_from_slice(echo_bytes);
        }
        true
    }

    #[expect(clippy::too_many_arguments, reason = "a request, its place, and what it waits for")]
    fn open_at(
        &mut self,
        id: ConnectionId,
        index: usize,
        ticket: Ticket,
        shard: Option<ShardId>,
        answers: usize,
        kind: Kind,
        gather: Option<Box<Gather>>,
    ) {
        let Some(connection) = self.find(id) else {
            return;
        };
        connection.on_issued(kind, shard);
        let open = SlotState::Open { ticket, answers, kind, gather, echo: Vec::new() };
        connection.queue[index].state = open;
    }

    fn refuse_at(&mut self, id: ConnectionId, index: usize, error: RequestError) {
        match error {
            RequestError::Code(code) => self.done_at(id, index, code, &[], false),
            RequestError::Final(code) => self.done_at(id, index, code, &[], true),
            RequestError::MultiOperation { index: failed, count, code } => {
                let mut body = Vec::new();
                reply::multi_failed(&mut body, failed, count, code);
                self.done_at(id, index, ErrorCode::Ok, &body, false);
            }
            RequestError::Malformed => self.close(id, Parting::BadRequest),
        }
    }

    fn who_am_i(&mut self, id: ConnectionId, index: usize) {
        let Some(connection) = self.find(id) else {
            return;
        };
        let mut body = Vec::new();
        let mut known = reply::begin_vector(&mut body);
        for identity in connection.identities_at(index).iter() {
            reply::push_identity(&mut body, &mut known, &identity.scheme, identity.user_name());
        }
        reply::finish_vector(&mut body, known);
        self.done_at(id, index, ErrorCode::Ok, &body, false);
    }
}

/// What a sync is answered with: its path as it came, which may be null, and not what comes behind.
fn echo_of<'a>(request: &Request<'_>, body: &'a [u8]) -> &'a [u8] {
    let Request::Sync { path } = request else {
        unreachable!("only a sync is a barrier");
    };
    &body[..size_of::<i32>() + path.len()]
}

/// What a request takes of a turn. Most cost what their replies weigh, which is bounded elsewhere;
/// of the others one in a turn is enough.
pub(super) fn weight_of(op_code: i32) -> usize {
    let makes_much = OpCode::from_wire(op_code).is_some_and(OpCode::makes_much_of_little);
    if makes_much { REQUESTS_PER_TURN_MAX } else { 1 }
}
