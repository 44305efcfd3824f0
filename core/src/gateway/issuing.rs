//! From bytes to questions: frames are parsed, and issued as soon as their order allows.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::auth::{AuthFailed, authenticate};
use crate::base::error::ErrorCode;
use crate::base::id::{ConnectionId, ShardId, Zxid};
use crate::base::limits::{OUTPUT_BYTES_PAUSE, REQUESTS_PER_TURN_MAX, TURN_SHARE_BYTES};
use crate::base::met::Limit;
use crate::base::time::Instant;
use crate::gateway::connection::{Executed, Kind, Slot, SlotState, Stage, TOO_LARGE};
use crate::gateway::gather::Gather;
use crate::gateway::routing::{Route, leaves_watch, route, split};
use crate::gateway::{Gateway, Parting, Purpose, Replicas, Wish};
use crate::mail::{Outcome, Reader, Ticket, What, Writer};
use crate::op::{OpCode, Request};
use crate::peer::message::WriteAsk;
use crate::wire::client;
use crate::wire::frame::{Deframer, FrameError};
use crate::wire::reply;
use crate::wire::request::{RequestError, parse_header, parse_request};

impl Gateway {
    /// Takes bytes from a connection and acts upon the complete frames, within the bounds on one
    /// connection in one turn.
    pub fn receive(
        &mut self,
        now: Instant,
        id: ConnectionId,
        bytes: &[u8],
        replicas: &mut impl Replicas,
    ) {
        let Some(connection) = self.find(id) else {
            return;
        };
        if connection.stage == Stage::Closing {
            return;
        }
        if connection.stage == Stage::Attached && connection.session.may_be_over(now) {
            self.close(id, Parting::Unconfirmed);
            return;
        }
        let output_before = connection.output.len();
        let unused = Deframer::for_requests(0);
        let mut deframer = core::mem::replace(&mut connection.deframer, unused);
        let mut frames = deframer.split(bytes);
        let mut taken = 0;
        // What comes anew does not overtake those for whom the turn before was too short.
        let taken_max = if self.is_behind { 0 } else { self.turn_left.min(self.share) };
        let mut is_cut = false;
        loop {
            if taken >= taken_max || !self.takes_more(id) {
                is_cut = true;
                break;
            }
            match frames.next() {
                None => break,
                Some(Ok(frame)) => taken += self.on_frame(now, id, frame, replicas),
                Some(Err(FrameError::Word(word))) => {
                    self.wishes.push(Wish::Admin { connection: id, word });
                    if let Some(connection) = self.find(id) {
                        connection.stage = Stage::Closing;
                    }
                    break;
                }
                Some(Err(error @ (FrameError::NoLength | FrameError::TooLong { .. }))) => {
                    if matches!(error, FrameError::TooLong { .. }) {
                        self.met.note(Limit::FrameBytes);
                    }
                    self.close(id, Parting::BadFrame);
                    break;
                }
            }
        }
        drop(frames);
        deframer.on_turn_end();
        let output = self.find(id).map_or(0, |connection| connection.output.len());
        let made_bytes = output.saturating_sub(output_before);
        self.take_of_turn(taken + made_bytes / TURN_SHARE_BYTES);
        self.finish_receiving(now, id, deframer, taken, is_cut);
    }

    /// What is begun in a turn is bounded for all connections together, too: they share the turn
    /// with the heartbeats.
    fn take_of_turn(&mut self, requests: usize) {
        self.turn_left = self.turn_left.saturating_sub(requests);
    }

    fn finish_receiving(
        &mut self,
        now: Instant,
        id: ConnectionId,
        deframer: Deframer,
        taken: usize,
        is_cut: bool,
    ) {
        let takes_more = self.takes_more(id);
        let Some(connection) = self.find(id) else {
            return;
        };
        connection.deframer = deframer;
        if connection.stage == Stage::Closing {
            return;
        }
        let is_unfinished = is_cut && takes_more && connection.deframer.carried_bytes() > 0;
        let has_output = !connection.output.is_empty();
        if is_unfinished {
            self.unfinished.insert(id);
        }
        if taken > 0 {
            self.hear(now, id);
            if has_output {
                self.wishes.push(Wish::Output { connection: id });
            }
        }
        self.limit(id);
    }

    fn takes_more(&mut self, id: ConnectionId) -> bool {
        self.find(id).is_some_and(|connection| {
            // Until a client has its session, what it sent ahead is not looked at.
            matches!(connection.stage, Stage::Connecting | Stage::Attached)
                && !connection.is_deep()
                && connection.output.len() <= OUTPUT_BYTES_PAUSE
        })
    }

    /// Takes in one frame; tells what it takes of the turn.
    fn on_frame(
        &mut self,
        now: Instant,
        id: ConnectionId,
        frame: &[u8],
        replicas: &mut impl Replicas,
    ) -> usize {
        let Some(connection) = self.find(id) else {
            return 1;
        };
        if connection.stage == Stage::Connecting {
            self.on_connect_request(now, id, frame);
            return 1;
        }
        let Ok((header, body)) = parse_header(frame) else {
            self.close(id, Parting::BadRequest);
            return 1;
        };
        if header.op_code == OpCode::Ping.wire() {
            self.on_ping(now, id);
        } else if header.op_code == OpCode::Auth.wire() {
            self.on_auth(id, header.xid, body);
        } else if connection.queue.is_empty()
            && connection.stage == Stage::Attached
            && let Some(code) =
                self.read_at_once(now, id, header.xid, header.op_code, body, replicas)
        {
            // The common case: nothing waits, and the shard is here.
            if code == TOO_LARGE {
                return REQUESTS_PER_TURN_MAX;
            }
        } else {
            let Some(connection) = self.find(id) else {
                return 1;
            };
            let state = SlotState::Waiting {
                op_code: header.op_code,
                body: body.to_vec(),
                identities: connection.identities.clone(),
            };
            connection.push(Slot {
                xid: header.xid,
                since: now,
                bytes: body.len(),
                state,
                events: Vec::new(),
            });
            self.watch_waiting(now, id);
            self.issue(now, id, replicas);
        }
        weight_of(header.op_code)
    }

    /// Executes a read of a shard on this core, if it is one, and tells how it went.
    fn read_at_once(
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
        let sync_limit = self.config.periods.sync_limit;
        let connection = self.find(id)?;
        if connection.needs_ready(shard) {
            return None;
        }
        let (zxid, leaderless) = replicas.standing(shard, now)?;
        if leaderless > sync_limit {
            return None;
        }
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
        let (mut taken, mut issued) = (0, 0);
        // Whoever is called from a line has waited, and may begin no more than that line lets it.
        let turn_left = if self.lines.is_called(id) { usize::MAX } else { self.turn_left };
        let taken_max = self.share.min(turn_left);
        loop {
            let Some(connection) = self.find(id) else {
                return;
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
            taken += weight_of(*op_code);
            let (op_code, body) = (*op_code, core::mem::take(body));
            if !self.issue_one(now, id, index, op_code, &body, replicas) {
                self.put_back(id, index, body);
                break;
            }
            issued += 1;
            let slot = self.find(id).and_then(|connection| connection.queue.get(index));
            taken += slot.map_or(0, Slot::reply_weight);
        }
        // That they came has been counted when they did.
        self.take_of_turn(taken.saturating_sub(issued));
        self.flush(id);
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

    /// Issues the request at `index` of the queue; false if it has to wait.
    fn issue_one(
        &mut self,
        now: Instant,
        id: ConnectionId,
        index: usize,
        op_code: i32,
        body: &[u8],
        replicas: &mut impl Replicas,
    ) -> bool {
        let map = self.config.map;
        let Some(connection) = self.find(id) else {
            return false;
        };
        let home = map.home_of(connection.session.id);
        let request = match parse_request(op_code, body) {
            Ok(request) => request,
            Err(error) => {
                self.refuse_at(id, index, error);
                return true;
            }
        };
        match route(map, &request, home) {
            Route::WhoAmI => {
                self.who_am_i(id, index);
                true
            }
            Route::Refused => {
                self.done_at(id, index, ErrorCode::BadArguments, &[], false);
                true
            }
            Route::Barrier => self.issue_barriers(id, index, body),
            Route::Gather => self.issue_gather(now, id, index, &request, replicas),
            Route::Read(shard) => {
                let is_due = connection.may_issue(Kind::Read, shard);
                if !is_due || !self.make_ready(id, &[shard], false) {
                    return false;
                }
                self.issue_read(now, id, index, shard, &request, op_code, body, replicas)
            }
            Route::Write(shard) => {
                let is_due = connection.may_issue(Kind::Write, shard);
                if !is_due || !self.may_write(id, shard) || !self.make_ready(id, &[shard], true) {
                    return false;
                }
                let ask = WriteAsk::Client { op_code, body: body.to_vec() };
                self.issue_write(id, index, shard, Kind::Write, ask);
                true
            }
            Route::Close(shard) => {
                if !connection.may_issue(Kind::Close, shard) {
                    return false;
                }
                let session = connection.session.id.0;
                let generation = connection.session.generation.0;
                let ask = WriteAsk::SessionClose { session, generation };
                self.issue_write(id, index, shard, Kind::Close, ask);
                true
            }
        }
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
        let sync_limit = self.config.periods.sync_limit;
        let Some(connection) = self.find(id) else {
            return false;
        };
        if leaves_watch(request) {
            connection.watching.insert(shard);
        }
        match replicas.standing(shard, now) {
            Some((_, leaderless)) if leaderless > sync_limit => {
                // Nobody knows how old this replica's state is by now.
                self.close(id, Parting::Leaderless);
                false
            }
            Some((zxid, _)) => {
                let reader = connection.reader_at(index);
                let mut reply_body = Vec::new();
                let result = replicas.read(shard, &reader, request, &mut reply_body);
                let code = result.expect("the shard was here").err().unwrap_or(ErrorCode::Ok);
                let executed = Executed::In(shard, zxid);
                self.done_in(id, index, executed, zxid, code, reply_body, false);
                true
            }
            None => {
                let reader = connection.reader_at(index);
                let what = What::Read { reader, op_code, body: body.to_vec() };
                let ticket = self.ask_for(shard, what, Purpose::Request(id));
                self.open_at(id, index, ticket, Some(shard), 1, Kind::Read, None);
                true
            }
        }
    }

    /// Asks several shards for the parts of one reply: those on this core at once, and all of them
    /// in the order of the connection's requests.
    fn issue_gather(
        &mut self,
        now: Instant,
        id: ConnectionId,
        index: usize,
        request: &Request<'_>,
        replicas: &mut impl Replicas,
    ) -> bool {
        let map = self.config.map;
        let sync_limit = self.config.periods.sync_limit;
        // The events that setWatches fires come by mail, and its reply behind them.
        let sets_watches = matches!(request, Request::SetWatches(_));
        let kind = if sets_watches { Kind::Barrier } else { Kind::Read };
        let Some(connection) = self.find(id) else {
            return false;
        };
        if !connection.may_issue(kind, ShardId(0)) {
            return false;
        }
        let split = split(map, request, |counter| connection.seen_at(counter));
        let shards: Vec<ShardId> = split.parts.iter().map(|(shard, _)| *shard).collect();
        if !self.make_ready(id, &shards, false) {
            return false;
        }
        let is_cut_off = shards.iter().any(|&shard| {
            let standing = replicas.standing(shard, now);
            standing.is_some_and(|(_, leaderless)| leaderless > sync_limit)
        });
        if is_cut_off {
            self.close(id, Parting::Leaderless);
            return false;
        }
        let ticket = self.ticket(Purpose::Request(id));
        let Some(connection) = self.find(id) else {
            return false;
        };
        if leaves_watch(request) {
            connection.watching.extend(shards.iter().copied());
        }
        let reader = connection.reader_at(index);
        let gather = Gather::new(split.plan, shards.iter().copied(), split.marks);
        let answers = shards.len();
        let gather = Some(gather.into());
        self.open_at(id, index, ticket, None, answers, kind, gather);
        for (shard, part) in &split.parts {
            let standing = replicas.standing(*shard, now).filter(|_| !sets_watches);
            match standing {
                Some((zxid, _)) => {
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
                None => self.ask_part(ticket, *shard, &reader, part),
            }
        }
        true
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
    fn issue_barriers(&mut self, id: ConnectionId, index: usize, body: &[u8]) -> bool {
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
            *echo = body.to_vec();
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

    /// addAuth is answered at once, ahead of what waits, as in ZooKeeper; what waits was asked
    /// without it. A wrong credential ends the connection.
    fn on_auth(&mut self, id: ConnectionId, xid: i32, body: &[u8]) {
        let settings = self.config.auth.clone();
        let request = parse_request(OpCode::Auth.wire(), body);
        if request == Err(RequestError::Malformed) {
            self.close(id, Parting::BadRequest);
            return;
        }
        let Some(connection) = self.find(id) else {
            return;
        };
        let added = match request {
            Ok(Request::Auth { scheme, credential }) => {
                authenticate(scheme, credential, connection.address, &settings)
                    .and_then(|added| connection.identities.with(added))
            }
            _ => Err(AuthFailed),
        };
        let Ok(identities) = added else {
            let code = ErrorCode::AuthFailed;
            reply::header_only(&mut connection.output, xid, Zxid::ZERO, code);
            self.wishes.push(Wish::Output { connection: id });
            self.close(id, Parting::BadCredential);
            return;
        };
        connection.identities = identities;
        reply::header_only(&mut connection.output, xid, Zxid::ZERO, ErrorCode::Ok);
        let reader = connection.reader();
        let watching: Vec<ShardId> = connection.watching.iter().copied().collect();
        for shard in watching {
            self.ask(shard, What::Identify { reader: reader.clone() });
        }
    }
}

/// What a request takes of a turn. Most cost what their replies weigh, which is bounded elsewhere;
/// of the others one in a turn is enough.
fn weight_of(op_code: i32) -> usize {
    let makes_much = OpCode::from_wire(op_code).is_some_and(OpCode::makes_much_of_little);
    if makes_much { REQUESTS_PER_TURN_MAX } else { 1 }
}
