//! From answers to replies, in the order of the requests.

use crate::base::error::ErrorCode;
use crate::base::id::{ConnectionId, SessionId, ShardId, Zxid};
use crate::base::time::Instant;
use crate::gateway::connection::{Done, Kind, SlotState, Stage};
use crate::gateway::{Gateway, Purpose, Replicas, Wish};
use crate::mail::{Mail, Outcome, Ticket};
use crate::op::EventType;
use crate::wire::reply;

impl Gateway {
    pub fn on_mail(&mut self, now: Instant, mail: Mail) {
        match mail {
            Mail::Answer {
                shard,
                ticket,
                zxid,
                outcome,
            } => {
                self.on_answer(now, shard, ticket, zxid, &outcome);
            }
            Mail::Event {
                shard,
                connection,
                zxid,
                event,
                path,
            } => {
                self.on_event(shard, connection, zxid, event, &path);
            }
            Mail::Moved {
                session,
                generation,
            } => {
                if let Some(&id) = self.by_session.get(&session)
                    && self
                        .find(id)
                        .is_some_and(|it| it.session.generation < generation)
                {
                    self.close(id);
                }
            }
            Mail::Ended { session } => self.on_ended(session),
            Mail::Touched {
                ticket, expired, ..
            } => self.on_touched(ticket, &expired),
            Mail::Ask { .. } => unreachable!("questions go to replicas"),
        }
    }

    fn on_answer(
        &mut self,
        now: Instant,
        shard: ShardId,
        ticket: Ticket,
        zxid: Zxid,
        outcome: &Outcome,
    ) {
        let id = match self.questions.get(&ticket) {
            None | Some(Purpose::Touch(..)) => return,
            Some(
                Purpose::Request(id)
                | Purpose::Establish(id)
                | Purpose::Attach(id, _)
                | Purpose::Ready(id),
            ) => *id,
        };
        if *outcome == Outcome::Unknown {
            self.questions.remove(&ticket);
            self.close(id);
            return;
        }
        if let Some(Purpose::Request(_)) = self.questions.get(&ticket) {
            self.on_request_answer(id, shard, ticket, zxid, outcome);
            self.flush(id);
            self.answered.push(id);
            return;
        }
        match self.questions.remove(&ticket) {
            Some(Purpose::Establish(_)) => self.on_established(now, id, zxid, outcome),
            Some(Purpose::Attach(_, shard)) => self.on_attached(id, shard, zxid, outcome),
            Some(Purpose::Ready(_)) => self.on_ready(id, shard, outcome),
            Some(Purpose::Request(_) | Purpose::Touch(..)) | None => {}
        }
        self.answered.push(id);
    }

    /// Goes on with the requests of connections that have had answers; false if there are none.
    ///
    /// To be called when no mail is waiting: what an answered write fired must be in the output
    /// before a read behind it sees the change.
    pub fn go_on(&mut self, now: Instant, replicas: &mut impl Replicas) -> bool {
        let mut answered = core::mem::take(&mut self.answered);
        let some = !answered.is_empty();
        for id in answered.drain(..) {
            self.issue(now, id, replicas);
        }
        if self.answered.is_empty() {
            self.answered = answered;
        }
        some
    }

    /// One answer to a request has come; its reply is ready when the last has.
    fn on_request_answer(
        &mut self,
        id: ConnectionId,
        shard: ShardId,
        ticket: Ticket,
        zxid: Zxid,
        outcome: &Outcome,
    ) {
        let Some(connection) = self.find(id) else {
            self.questions.remove(&ticket);
            return;
        };
        let Some(slot) = connection.slot_of(ticket) else {
            self.questions.remove(&ticket);
            return;
        };
        let SlotState::Open {
            answers,
            kind,
            echo,
            ..
        } = &mut slot.state
        else {
            unreachable!("the slot was found by its question");
        };
        *answers -= 1;
        if *answers > 0 {
            return;
        }
        let (kind, echo) = (*kind, core::mem::take(echo));
        self.questions.remove(&ticket);
        let Some(connection) = self.find(id) else {
            return;
        };
        connection.on_answered(kind);
        if kind == Kind::Write
            && answered_ok(outcome)
            && let Some(attachment) = connection.session.attached.get_mut(&shard)
        {
            *attachment = None;
        }
        let index = connection
            .queue
            .iter()
            .position(
                |slot| matches!(slot.state, SlotState::Open { ticket: open, .. } if open == ticket),
            )
            .expect("the slot was just found");
        let (code, body): (ErrorCode, &[u8]) = match outcome {
            Outcome::Reply { code, .. } if kind == Kind::Barrier => (*code, &echo),
            Outcome::Reply { code, body } | Outcome::Refused { code, body } => (*code, body),
            Outcome::Session { .. } | Outcome::Unknown => (ErrorCode::SystemError, &[]),
        };
        let expired = matches!(code, ErrorCode::SessionExpired | ErrorCode::SessionMoved);
        let closes = kind == Kind::Close || expired;
        let by = (!matches!(outcome, Outcome::Refused { .. })).then_some(shard);
        self.done_at(id, index, by, zxid, code, body, closes);
    }

    /// The reply at `index` is known: what `shard` executed, if any did, or a refusal.
    #[expect(clippy::too_many_arguments, reason = "a reply and its place")]
    pub(super) fn done_at(
        &mut self,
        id: ConnectionId,
        index: usize,
        shard: Option<ShardId>,
        zxid: Zxid,
        code: ErrorCode,
        body: &[u8],
        closes: bool,
    ) {
        let Some(connection) = self.find(id) else {
            return;
        };
        let slot = &mut connection.queue[index];
        let done = Done {
            shard,
            zxid,
            code,
            body: body.to_vec(),
            closes,
        };
        slot.state = SlotState::Done(done);
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
            self.close(id);
        } else {
            self.limit(id);
        }
    }

    /// A watch fired. The event leaves behind the replies of what its shard executed before it for
    /// this connection, and so before anything newer.
    fn on_event(
        &mut self,
        shard: ShardId,
        id: ConnectionId,
        zxid: Zxid,
        event: EventType,
        path: &str,
    ) {
        let map = self.config.map;
        let Some(connection) = self.find(id) else {
            return;
        };
        if connection.stage == Stage::Closing {
            return;
        }
        if let Some(slot) = connection.last_done(shard) {
            slot.events.push((zxid, event, path.into()));
            return;
        }
        let zxid = connection.header_zxid(map, zxid);
        reply::event(&mut connection.output, zxid, event, path);
        self.wishes.push(Wish::Output { connection: id });
        self.limit(id);
    }

    fn on_ended(&mut self, session: SessionId) {
        let Some(&id) = self.by_session.get(&session) else {
            return;
        };
        self.close(id);
    }
}

fn answered_ok(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Reply {
            code: ErrorCode::Ok,
            ..
        }
    )
}
