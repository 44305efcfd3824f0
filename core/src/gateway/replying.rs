//! From answers to replies, in the order of the requests.

use alloc::string::String;
use alloc::vec::Vec;

use crate::base::error::ErrorCode;
use crate::base::id::{ConnectionId, SessionId, ShardId, Zxid};
use crate::base::time::Instant;
use crate::gateway::connection::{Done, Executed, Fired, Kind, Slot, SlotState, Stage};
use crate::gateway::points::Passage;
use crate::gateway::{Gateway, Parting, Purpose, Replicas, Wish};
use crate::mail::{Mail, Outcome, Ticket};
use crate::op::EventType;

impl Gateway {
    pub fn on_mail(&mut self, now: Instant, mail: Mail) {
        match mail {
            Mail::Answer { shard, ticket, zxid, outcome } => {
                self.on_answer(now, shard, ticket, zxid, outcome);
            }
            Mail::Event { shard, connection, zxid, is_last, event, path } => {
                self.on_event(shard, connection, zxid, is_last, event, path);
            }
            Mail::Moved { session, generation } => {
                if let Some(&id) = self.by_session.get(&session)
                    && self.find(id).is_some_and(|it| it.session.generation < generation)
                {
                    self.close(id, Parting::SessionMoved);
                }
            }
            Mail::Ended { session } => self.on_ended(session),
            Mail::Close { connection } => {
                self.close(connection, Parting::WatchesPassedOver);
            }
            Mail::CatchingUp { shard, is_catching_up: true } => {
                self.catching_up.insert(shard);
            }
            Mail::CatchingUp { shard, is_catching_up: false } => {
                self.catching_up.remove(&shard);
            }
            Mail::Touched { ticket, expired, .. } => self.on_touched(ticket, &expired),
            Mail::Ask { .. } => unreachable!("questions go to replicas"),
        }
    }

    fn on_answer(
        &mut self,
        now: Instant,
        shard: ShardId,
        ticket: Ticket,
        zxid: Zxid,
        outcome: Outcome,
    ) {
        let id = match self.questions.get(&ticket) {
            None | Some(Purpose::Touch(..)) => return,
            Some(
                Purpose::Request(id)
                | Purpose::Write(id)
                | Purpose::Establish(id)
                | Purpose::Attach(id, _)
                | Purpose::Ready(id)
                | Purpose::Recall(id),
            ) => *id,
        };
        if let Some(Purpose::Write(_)) = self.questions.get(&ticket) {
            self.lines.end_write(shard);
        }
        if let Some(Purpose::Recall(_)) = self.questions.get(&ticket) {
            self.questions.remove(&ticket);
            self.on_recalled(id, outcome);
            self.note_answered(id);
            return;
        }
        if outcome == Outcome::Unknown {
            let why = match self.questions.remove(&ticket) {
                Some(Purpose::Establish(_)) => Parting::NoSession,
                _ => Parting::OutcomeUnknown,
            };
            self.close(id, why);
            return;
        }
        if let Some(Purpose::Request(_) | Purpose::Write(_)) = self.questions.get(&ticket) {
            self.on_request_answer(id, shard, ticket, zxid, outcome);
            self.flush(id);
            self.note_answered(id);
            return;
        }
        match self.questions.remove(&ticket) {
            Some(Purpose::Establish(_)) => self.on_established(now, id, zxid, &outcome),
            Some(Purpose::Attach(_, shard)) => self.on_attached(id, shard, zxid, &outcome),
            Some(Purpose::Ready(_)) => self.on_ready(id, shard, &outcome),
            Some(
                Purpose::Request(_) | Purpose::Write(_) | Purpose::Recall(_) | Purpose::Touch(..),
            )
            | None => {}
        }
        self.note_answered(id);
    }

    /// Goes on with the requests of connections that have had answers; false if there are none.
    ///
    /// To be called when no mail is waiting: what an answered write fired must be in the output
    /// before a read behind it sees the change.
    pub fn go_on(&mut self, now: Instant, replicas: &mut impl Replicas) -> bool {
        let mut answered = core::mem::take(&mut self.answered);
        let some = !answered.is_empty();
        for id in answered.drain(..) {
            if let Some(connection) = self.find(id) {
                connection.is_answered = false;
                self.issue(now, id, replicas);
            }
        }
        if self.answered.is_empty() {
            self.answered = answered;
        }
        self.call_writers(now, replicas);
        some
    }

    fn note_answered(&mut self, id: ConnectionId) {
        if let Some(connection) = self.find(id)
            && !core::mem::replace(&mut connection.is_answered, true)
        {
            self.answered.push(id);
        }
    }

    /// One answer to a request has come; its reply is ready when the last has.
    pub(super) fn on_request_answer(
        &mut self,
        id: ConnectionId,
        shard: ShardId,
        ticket: Ticket,
        zxid: Zxid,
        outcome: Outcome,
    ) {
        let is_refused = matches!(outcome, Outcome::Refused { .. });
        let (code, body) = match outcome {
            Outcome::Reply { code, body } | Outcome::Refused { code, body } => (code, body),
            Outcome::Session { .. } | Outcome::Seen(_) | Outcome::Unknown => {
                (ErrorCode::SystemError, Vec::new())
            }
        };
        let slot = self.find(id).and_then(|it| it.slot_of(ticket));
        let Some(Slot { state: SlotState::Open { answers, kind, gather, echo, .. }, .. }) = slot
        else {
            self.questions.remove(&ticket);
            return;
        };
        *answers -= 1;
        let (is_last, kind) = (*answers == 0, *kind);
        if let Some(gather) = gather {
            let marks = gather.marks;
            gather.put(shard, zxid, code, body);
            if self.config.map.count() > 1 && code == ErrorCode::Ok {
                self.on_point_part(id, ticket, shard, marks);
            }
            if is_last {
                self.finish_gathering(id, ticket, zxid);
            }
        } else if is_last {
            let body = match kind {
                Kind::Barrier => core::mem::take(echo),
                Kind::Read | Kind::Write | Kind::Close => body,
            };
            let executed = match kind {
                Kind::Read => Executed::In(shard, zxid),
                // The events that a write causes come before its reply.
                Kind::Write if !is_refused => Executed::In(shard, zxid),
                Kind::Write | Kind::Barrier | Kind::Close => Executed::Nowhere,
            };
            if kind == Kind::Write && !is_refused {
                self.on_opened_in(id, shard);
            }
            self.finish_request(id, ticket, executed, zxid, kind, code, body);
        }
    }

    /// Every shard has answered its part.
    fn finish_gathering(&mut self, id: ConnectionId, ticket: Ticket, zxid: Zxid) {
        self.questions.remove(&ticket);
        let Some(connection) = self.find(id) else {
            return;
        };
        let (index, slot) = connection.open_slot(ticket);
        let SlotState::Open { kind, gather: Some(gather), .. } = &slot.state else {
            unreachable!("the slot gathers answers");
        };
        let (kind, marks) = (*kind, gather.marks);
        let (code, body) = gather.combine();
        let executed = Executed::Among(gather.seen());
        connection.on_answered(kind);
        self.done_in(id, index, executed, zxid, code, body, false);
        if code != ErrorCode::Ok {
            self.on_point_refused(id, ticket, marks);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a question, its answer, and where it came from")]
    fn finish_request(
        &mut self,
        id: ConnectionId,
        ticket: Ticket,
        executed: Executed,
        zxid: Zxid,
        kind: Kind,
        code: ErrorCode,
        body: Vec<u8>,
    ) {
        self.questions.remove(&ticket);
        let Some(connection) = self.find(id) else {
            return;
        };
        connection.on_answered(kind);
        let (index, _) = connection.open_slot(ticket);
        let expired = matches!(code, ErrorCode::SessionExpired | ErrorCode::SessionMoved);
        let closes = kind == Kind::Close || expired;
        self.done_in(id, index, executed, zxid, code, body, closes);
    }

    /// The reply at `index` is known without asking any shard.
    pub(super) fn done_at(
        &mut self,
        id: ConnectionId,
        index: usize,
        code: ErrorCode,
        body: &[u8],
        closes: bool,
    ) {
        let executed = Executed::Nowhere;
        let body = body.to_vec();
        self.done_in(id, index, executed, Zxid::ZERO, code, body, closes);
    }

    /// The reply at `index` is known.
    #[expect(clippy::too_many_arguments, reason = "a reply and where it comes from")]
    pub(super) fn done_in(
        &mut self,
        id: ConnectionId,
        index: usize,
        executed: Executed,
        zxid: Zxid,
        code: ErrorCode,
        body: Vec<u8>,
        closes: bool,
    ) {
        let Some(connection) = self.find(id) else {
            return;
        };
        let done = Done { executed, zxid, code, body, closes };
        connection.queue[index].state = SlotState::Done(done);
    }

    /// Sends what is next in order.
    pub(super) fn flush(&mut self, id: ConnectionId) {
        let map = self.config.map;
        let Some(connection) = self.find(id) else {
            return;
        };
        if connection.stage == Stage::Closing {
            return;
        }
        let before = connection.output.len();
        let closes = connection.flush(map);
        if connection.output.len() > before {
            self.wishes.push(Wish::Output { connection: id });
        }
        if closes {
            self.close(id, Parting::LastReply);
        } else {
            self.limit(id);
        }
    }

    /// A watch fired.
    fn on_event(
        &mut self,
        shard: ShardId,
        id: ConnectionId,
        zxid: Zxid,
        is_last: bool,
        event: EventType,
        path: String,
    ) {
        let map = self.config.map;
        let Some(connection) = self.find(id) else {
            return;
        };
        if connection.stage == Stage::Closing {
            return;
        }
        let passage = match map.count() {
            1 => Passage::Free,
            _ => self.passage(id, shard, event, &path),
        };
        let watch = match passage {
            Passage::Free => None,
            Passage::For(ticket) => Some(ticket),
            Passage::Swallowed => return,
        };
        let Some(connection) = self.find(id) else {
            return;
        };
        if connection.on_event(map, Fired { watch, shard, zxid, is_last, event, path }) {
            self.wishes.push(Wish::Output { connection: id });
        }
        self.limit(id);
    }

    fn on_ended(&mut self, session: SessionId) {
        let Some(&id) = self.by_session.get(&session) else {
            return;
        };
        self.close(id, Parting::SessionOver);
    }
}
