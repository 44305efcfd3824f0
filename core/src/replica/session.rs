//! Sessions as their home shard's leader sees them: alive, expired, closing, ended.
//!
//! Closing takes two rounds, so that nothing of a session vanishes while it can still write: every
//! attached shard fences it, and only then each deletes its ephemerals. A home with no other shard
//! attached does both at once.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::base::error::ErrorCode;
use crate::base::id::{Generation, SessionId, ShardId};
use crate::base::limits::{PURGE_PATHS_MAX, SESSIONS_EXPIRED_PER_TURN};
use crate::base::time::{Duration, Instant, Now};
use crate::mail::{Ask, Mail, Outcome, Ticket, What, Writer};
use crate::peer::message::WriteAsk;
use crate::replica::{Deed, Recipient, Replica};
use crate::state::apply::SessionChange;
use crate::state::session_prep::SessionRequest;
use crate::txn::{Operation, Origin};

/// How far the end of one session has come; rebuilt by a new leader from what is logged.
#[derive(Default)]
pub(super) struct Closing {
    /// Whose closeSession this is; nobody's for an expiry. A client that hangs up may have asked
    /// twice.
    closers: Vec<Origin>,
    fenced: BTreeSet<ShardId>,
    over: BTreeSet<ShardId>,
    /// Attached shards that have been asked for the next step and have not answered.
    asked: BTreeSet<ShardId>,
    /// The own shard's purge or end is proposed and not yet applied.
    is_proposed: bool,
}

/// What a replica has asked another shard for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ShardQuestion {
    /// The next step towards the end of this session.
    Session(SessionId),
    /// To take over a partition point.
    Point { carry: u64, point: usize },
}

impl Replica {
    /// A client, or its silence, ends the session.
    pub(super) fn close_session(
        &mut self,
        now: Now,
        session: SessionId,
        generation: Option<Generation>,
        closer: Option<Origin>,
        deeds: &mut Vec<Deed>,
    ) {
        let zxid = self.zab.next_zxid();
        let reign = self.reign.as_mut().expect("only a leader closes sessions");
        let request = SessionRequest::Close { session, generation };
        let prepared = match reign.overlay.prepare_session(&self.state, zxid, &request) {
            Ok(prepared) => prepared,
            Err(refusal) => {
                self.refuse_as(closer.unwrap_or_default(), refusal);
                return;
            }
        };
        reign.expiry.forget(session);
        let ends = |operation: &Operation| matches!(operation, Operation::SessionEnd { .. });
        if prepared.operations.iter().any(ends) {
            let origin = closer.unwrap_or_default();
            self.log_or_confirm(now, origin, session, prepared.operations, prepared.done_at);
            return;
        }
        // Other shards are attached, or there are too many ephemerals for one entry: whoever
        // closes the session hears of it when it has ended.
        let closing = reign.closing.entry(session).or_default();
        closing.closers.extend(closer);
        let origin = Origin::default();
        self.log_or_confirm(now, origin, session, prepared.operations, prepared.done_at);
        self.drive_closing(now, session, deeds);
    }

    /// When this leader lets the session expire.
    pub fn end_of(&self, session: SessionId) -> Option<Instant> {
        self.reign.as_ref()?.expiry.end_of(session)
    }

    /// A new leader takes up what its predecessor was closing.
    pub(super) fn resume_closing(&mut self, now: Now, deeds: &mut Vec<Deed>) {
        let homes = self.state.sessions().homes();
        let closing: Vec<SessionId> =
            homes.filter(|(_, home)| home.is_closing).map(|(id, _)| id).collect();
        for session in closing {
            let reign = self.reign.as_mut().expect("a reign has just begun");
            reign.closing.entry(session).or_default();
            self.drive_closing(now, session, deeds);
        }
    }

    /// Those that are left are still due, and their turn is the next one.
    pub(super) fn expire_sessions(&mut self, now: Now, deeds: &mut Vec<Deed>) {
        let mut paths = 0;
        for _ in 0..SESSIONS_EXPIRED_PER_TURN {
            if paths >= PURGE_PATHS_MAX {
                return;
            }
            let due = self.reign.as_mut().and_then(|reign| reign.expiry.pop_due(now.instant));
            let Some(session) = due else {
                return;
            };
            deeds.push(Deed::Expired(session));
            let attached = self.state.sessions().attached(session);
            paths += attached.map_or(0, |attached| attached.ephemerals_count());
            self.close_session(now, session, None, None, deeds);
        }
    }

    /// Takes the next step that is possible towards the end of a closing session.
    fn drive_closing(&mut self, now: Now, session: SessionId, deeds: &mut Vec<Deed>) {
        let own = self.shard();
        let Some(home) = self.state.sessions().home(session) else {
            return;
        };
        if !home.is_closing {
            return;
        }
        let attached: Vec<ShardId> = home.attachments().iter().map(|&(shard, _)| shard).collect();
        let own_part = self.state.sessions().attached(session);
        let own_fenced = own_part.is_none_or(|part| part.is_fenced);
        let own_over = own_part.is_none();
        let home_zxid = self.state.applied();
        let Some(reign) = self.reign.as_mut() else {
            return;
        };
        let Some(closing) = reign.closing.get_mut(&session) else {
            return;
        };
        let others = || attached.iter().copied().filter(|&shard| shard != own);
        let all_fenced = own_fenced && others().all(|shard| closing.fenced.contains(&shard));
        let mut asks = Vec::new();
        for shard in others() {
            if closing.asked.contains(&shard) || closing.over.contains(&shard) {
                continue;
            }
            let ask = if !closing.fenced.contains(&shard) {
                WriteAsk::SessionFence { session: session.0, home_zxid: home_zxid.0 }
            } else if all_fenced {
                WriteAsk::SessionPurge { session: session.0 }
            } else {
                continue;
            };
            closing.asked.insert(shard);
            asks.push((shard, ask));
        }
        let all_over = all_fenced && others().all(|shard| closing.over.contains(&shard));
        if all_fenced && !closing.is_proposed && (!own_over || all_over) {
            let closer = closing.closers.first().copied().unwrap_or_default();
            let (origin, request) = if own_over {
                (closer, SessionRequest::End { session })
            } else {
                (Origin::default(), SessionRequest::Purge { session })
            };
            let logged = self.prepare_session(now, origin, &request);
            if let Some(closing) =
                self.reign.as_mut().and_then(|reign| reign.closing.get_mut(&session))
            {
                closing.is_proposed = logged;
            }
        }
        for (shard, ask) in asks {
            self.ask_shard(shard, ShardQuestion::Session(session), ask, deeds);
        }
    }

    /// Asks another shard; the answer comes to [`Self::on_shard_answer`].
    pub(super) fn ask_shard(
        &mut self,
        shard: ShardId,
        question: ShardQuestion,
        ask: WriteAsk,
        deeds: &mut Vec<Deed>,
    ) {
        let asker = Writer::system();
        let ticket = self.shard_ticket(question);
        let core = self.config.core;
        let what = What::Write { asker, ask };
        let mail = Mail::Ask { shard, ask: Ask { core, ticket, what } };
        deeds.push(Deed::Mail { to: Recipient::Shard(shard), mail });
    }

    /// Another shard has done, or not done, what this replica asked for.
    pub fn on_shard_answer(
        &mut self,
        now: Now,
        shard: ShardId,
        ticket: Ticket,
        outcome: &Outcome,
        deeds: &mut Vec<Deed>,
    ) {
        match self.shard_questions.remove(&ticket) {
            None => return,
            Some(ShardQuestion::Session(session)) => {
                self.on_closing_step(now, session, shard, outcome, deeds);
            }
            Some(ShardQuestion::Point { carry, point }) => {
                self.on_point_answer(carry, shard, point, outcome, deeds);
            }
        }
        self.settle(now, deeds);
    }

    fn on_closing_step(
        &mut self,
        now: Now,
        session: SessionId,
        shard: ShardId,
        outcome: &Outcome,
        deeds: &mut Vec<Deed>,
    ) {
        let Some(reign) = self.reign.as_mut() else {
            return;
        };
        let Some(closing) = reign.closing.get_mut(&session) else {
            return;
        };
        closing.asked.remove(&shard);
        if let Outcome::Reply { code: ErrorCode::Ok, body } = outcome {
            if closing.fenced.contains(&shard) {
                if body.first() == Some(&1) {
                    closing.over.insert(shard);
                }
            } else {
                closing.fenced.insert(shard);
            }
        }
        self.drive_closing(now, session, deeds);
    }

    fn shard_ticket(&mut self, question: ShardQuestion) -> Ticket {
        self.next_question += 1;
        let ticket = Ticket::of_replica(self.shard(), self.next_question);
        self.shard_questions.insert(ticket, question);
        ticket
    }

    pub(super) fn on_session_change(
        &mut self,
        now: Now,
        change: SessionChange,
        deeds: &mut Vec<Deed>,
    ) {
        match change {
            SessionChange::Created { session, timeout_ms } => {
                if let Some(reign) = self.reign.as_mut() {
                    let timeout = Duration::from_ms(u64::from(timeout_ms));
                    reign.expiry.touch(session, timeout, now.instant);
                }
            }
            SessionChange::Renewed { session, generation } => {
                self.touch_alive(session, now.instant);
                self.tell_everybody(Mail::Moved { session, generation }, deeds);
            }
            SessionChange::Closing { session }
            | SessionChange::Fenced { session }
            | SessionChange::Purged { session, .. } => {
                if self.is_home_of(session)
                    && let Some(reign) = self.reign.as_mut()
                {
                    reign.expiry.forget(session);
                    reign.closing.entry(session).or_default().is_proposed = false;
                    self.drive_closing(now, session, deeds);
                }
            }
            SessionChange::Ended { session } => {
                if let Some(reign) = self.reign.as_mut() {
                    reign.sightings.forget(session);
                    if let Some(closed) = reign.closing.remove(&session) {
                        self.count_ends(&closed.over, deeds);
                        let applied = self.state.applied();
                        for &closer in closed.closers.iter().skip(1) {
                            self.confirm_already(closer, applied);
                        }
                    }
                }
                self.tell_everybody(Mail::Ended { session }, deeds);
            }
            SessionChange::Attached { .. }
            | SessionChange::Opened { .. }
            | SessionChange::Advanced { .. } => {}
        }
    }
}
