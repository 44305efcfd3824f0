//! This node's questions on their way: to the leader, here or elsewhere, and back.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::base::error::ErrorCode;
use crate::base::id::{CoreId, Generation, ServerId, SessionId, Zxid};
use crate::base::limits::{FORWARDS_WAITING_BYTES_OF_ALL, FORWARDS_WAITING_MAX, RECORD_BYTES_MAX};
use crate::base::met::Limit;
use crate::base::time::Instant;
use crate::mail::{Outcome, Ticket, Writer};
use crate::peer::message::{Forward, PeerMessage, WriteAsk};
use crate::replica::{Deed, Replica};
use crate::state::apply::SessionChange;
use crate::txn::Origin;

/// A question whose outcome is open.
pub(super) struct Asked {
    pub(super) question: Question,
    /// It has been given to a leader, which may have logged it.
    pub(super) is_sent: bool,
    /// What was sent of it to another server.
    pub(super) forwarded_bytes: usize,
}

pub(super) enum Question {
    Write { asker: Writer, ask: WriteAsk },
    Barrier,
    Recall { session: SessionId, generation: Generation, counter: u64 },
}

/// Up to which connection a session is given up, in one shard.
pub(super) struct GivenUp {
    generation: Generation,
    /// Where the home has attached the session to the shard; nothing if it was open there.
    attachment: Option<Zxid>,
}

impl Question {
    pub(super) fn bytes(&self) -> usize {
        if let Self::Write { ask, .. } = self { ask.body_bytes() } else { 0 }
    }
}

impl Asked {
    fn new(question: Question) -> Self {
        Self { question, is_sent: false, forwarded_bytes: 0 }
    }

    pub(super) fn write(asker: Writer, ask: WriteAsk) -> Self {
        Self::new(Question::Write { asker, ask })
    }

    /// The client session that wrote.
    fn session(&self) -> Option<SessionId> {
        self.writer().map(|asker| asker.session)
    }

    fn writer(&self) -> Option<&Writer> {
        match &self.question {
            Question::Write { asker, .. } if asker.session != SessionId(0) => Some(asker),
            Question::Write { .. } | Question::Barrier | Question::Recall { .. } => None,
        }
    }

    pub(super) fn barrier() -> Self {
        Self::new(Question::Barrier)
    }

    pub(super) fn recall(session: SessionId, generation: Generation, counter: u64) -> Self {
        Self::new(Question::Recall { session, generation, counter })
    }
}

impl Replica {
    /// What a write is answered that is not even asked.
    pub(super) fn refuses(
        &mut self,
        now: Instant,
        ticket: Ticket,
        asker: &Writer,
        ask: &WriteAsk,
    ) -> Option<Outcome> {
        let given_up = self.given_up.get(&asker.session);
        if given_up.is_some_and(|it| asker.generation <= it.generation) {
            return Some(Outcome::Unknown);
        }
        if let WriteAsk::Client { body, .. } = ask
            && body.len() > RECORD_BYTES_MAX
        {
            // Nothing so large can be logged, nor sent to a leader.
            return Some(Outcome::refused(ErrorCode::BadArguments));
        }
        if begins(ask) {
            if self.has_no_leader() && self.leaderless_for(now) >= self.config.periods.silence {
                return Some(Outcome::Unknown);
            }
            self.newcomers_wait |= self.served.is_none();
        }
        // What another shard asks is bounded by its sessions, and would be asked again at once.
        let is_full = ticket.replica().is_none() && self.has_enough_waiting();
        if is_full {
            self.met.note(Limit::ForwardsWaiting);
            self.give_up_behind(asker);
        }
        is_full.then_some(Outcome::Unknown)
    }

    /// Whether no more should wait for a leader to be known or to answer others.
    fn has_enough_waiting(&self) -> bool {
        self.unsent.len() >= FORWARDS_WAITING_MAX
            || self.asked.waiting_bytes() >= self.waiting_bytes_max()
    }

    /// This shard's share of what may wait.
    pub(super) fn waiting_bytes_max(&self) -> usize {
        FORWARDS_WAITING_BYTES_OF_ALL / usize::from(self.config.map.count())
    }

    /// What a session has sent behind a write that is given up may be on its way from the core of
    /// its connection, which has not heard of that yet: it would happen without what came before.
    /// The session's next connection writes in a higher generation.
    fn give_up_behind(&mut self, asker: &Writer) {
        if asker.session != SessionId(0) {
            // Several connections of the session may lose writes at once, in the order of cores.
            let Writer { generation, attachment, .. } = *asker;
            let given_up = self.given_up.entry(asker.session);
            let given_up = given_up.or_insert(GivenUp { generation, attachment });
            given_up.generation = generation.max(given_up.generation);
            given_up.attachment = attachment.and(given_up.attachment);
        }
    }

    /// The state has become another: of the sessions that are over in it, nothing is to come.
    pub(super) fn forget_given_up_of_the_past(&mut self) {
        let (map, sessions) = (self.config.map, self.state.sessions());
        self.given_up.retain(|&session, it| {
            let home = map.home_of(session);
            let may_open = it.attachment.is_some_and(|at| !sessions.is_over(session, home, at));
            let attached = sessions.attached(session);
            attached.map_or(may_open, |known| known.generation <= it.generation)
        });
    }

    /// The session is open here for another connection, or over: nothing of the former one is on
    /// its way any more.
    pub(super) fn forget_given_up(&mut self, change: SessionChange) {
        match change {
            SessionChange::Opened { session, generation }
            | SessionChange::Advanced { session, generation }
                if self.given_up.get(&session).is_some_and(|it| it.generation < generation) =>
            {
                self.given_up.remove(&session);
            }
            SessionChange::Fenced { session } | SessionChange::Purged { session, .. } => {
                self.given_up.remove(&session);
            }
            _ => {}
        }
    }

    /// Gives a question to the leader, or puts it behind those that wait: nothing overtakes them.
    pub(super) fn send_asked(&mut self, core: CoreId, ticket: Ticket, deeds: &mut Vec<Deed>) {
        self.unsent.push_back((core, ticket));
        self.send_unsent(deeds);
    }

    /// Gives the leader as many of the questions that wait as it should have.
    pub(super) fn send_unsent(&mut self, deeds: &mut Vec<Deed>) {
        let bytes_max = self.config.log.in_flight_bytes;
        let leader = self.served.filter(|_| !self.awaits_another);
        while let (Some(leader), Some(key)) = (leader, self.unsent.front()) {
            if self.reign.is_none() && !self.asked.fits(key, bytes_max) {
                return;
            }
            let (core, ticket) = self.unsent.pop_front().expect("it was just looked at");
            self.send_now(leader, core, ticket, deeds);
        }
    }

    fn send_now(&mut self, leader: ServerId, core: CoreId, ticket: Ticket, deeds: &mut Vec<Deed>) {
        let origin = self.origin(core, ticket);
        let leads = self.reign.is_some();
        let Some(asked) = self.asked.send(&(core, ticket), leads) else {
            return;
        };
        match &asked.question {
            Question::Barrier if leads => self.begin_read_index(None, origin),
            Question::Barrier => self.send(leader, PeerMessage::ReadIndex { origin }, deeds),
            &Question::Recall { session, generation, counter } if leads => {
                self.on_recall(None, origin, session, generation, counter, deeds)
            }
            Question::Recall { session, generation, counter } => {
                let message = PeerMessage::Recall {
                    origin,
                    session: session.0,
                    generation: generation.0,
                    counter: *counter,
                };
                self.send(leader, message, deeds);
            }
            Question::Write { asker, ask } => {
                let mut identities = Vec::new();
                asker.identities.encode(&mut identities);
                let forward = Forward {
                    epoch: self.zab.log().current_epoch().0,
                    origin,
                    session: asker.session.0,
                    generation: asker.generation.0,
                    attachment_zxid: asker.attachment.unwrap_or(Zxid::ZERO).0,
                    identities,
                    ask: ask.clone(),
                };
                if leads {
                    self.lead(forward);
                } else {
                    self.send(leader, PeerMessage::Forward(forward), deeds);
                }
            }
        }
    }

    /// The old leader says that it did not log this: it may be asked again, in its old place. What
    /// another leader has been asked since is not the old one's any more.
    pub(super) fn on_not_proposed(&mut self, from: ServerId, origin: Origin) {
        if !self.is_mine(origin) || self.served.is_some_and(|leader| leader != from) {
            return;
        }
        let key = (CoreId(origin.core), Ticket(origin.ticket));
        if self.asked.take_back(&key) {
            self.awaits_another = true;
            // Only the order of one core's questions means anything.
            let is_before = |waiting: &(CoreId, Ticket)| waiting.0 == key.0 && waiting.1 < key.1;
            let behind = self.unsent.iter().rposition(is_before);
            self.unsent.insert(behind.map_or(0, |last| last + 1), key);
        }
    }

    /// When there has been no leader for so long that a client should rather ask another server.
    pub(super) fn give_up_deadline(&self) -> Option<Instant> {
        let newcomers_wait = self.newcomers_wait && self.has_no_leader();
        let since = self.leaderless_since.filter(|_| self.may_know_more || newcomers_wait)?;
        Some(since + self.config.periods.silence)
    }

    /// Not even one to learn from.
    fn has_no_leader(&self) -> bool {
        self.served.is_none() && self.learns_since.is_none()
    }

    /// Whoever wants a session and waits for a leader tries another server, as with ZooKeeper. What
    /// it asked for here must not be done behind its back.
    pub(super) fn turn_newcomers_away(&mut self, deeds: &mut Vec<Deed>) {
        if !self.has_no_leader() {
            return;
        }
        self.newcomers_wait = false;
        let mut newcomers = Vec::new();
        let asked = &self.asked;
        self.unsent.retain(|key| {
            let question = asked.get(key).map(|asked| &asked.question);
            let is_one = matches!(question, Some(Question::Write { ask, .. }) if begins(ask));
            if is_one {
                newcomers.push(*key);
            }
            !is_one
        });
        for (core, ticket) in newcomers {
            self.asked.remove(&(core, ticket));
            self.answer(core, ticket, self.state.applied(), Outcome::Unknown, deeds);
        }
    }

    /// What changes nothing is asked of the next leader.
    pub(super) fn take_back_barriers(&mut self) {
        let changes_nothing = |asked: &Asked| !matches!(asked.question, Question::Write { .. });
        let sent = self.asked.sent().filter(|(_, asked)| changes_nothing(asked));
        let mut keys: Vec<_> = sent.map(|(key, _)| key).collect();
        keys.reverse();
        for key in keys {
            self.asked.take_back(&key);
            self.unsent.push_front(key);
        }
    }

    /// Outcomes that only the old leader could tell are unknown now.
    pub(super) fn give_up_sent(&mut self, deeds: &mut Vec<Deed>) {
        self.may_know_more = false;
        let mut lost: Vec<_> = self.asked.sent().map(|(key, _)| key).collect();
        let mut given_up = BTreeSet::new();
        for key in &lost {
            if let Some(asker) = self.asked.get(key).and_then(Asked::writer).cloned() {
                given_up.insert(asker.session);
                self.give_up_behind(&asker);
            }
        }
        // What such a session asked before and is to be asked again would overtake what is given
        // up, if that was logged.
        let asked = &self.asked;
        self.unsent.retain(|key| {
            let session = asked.get(key).and_then(Asked::session);
            let is_lost = session.is_some_and(|session| given_up.contains(&session));
            if is_lost {
                lost.push(*key);
            }
            !is_lost
        });
        for (core, ticket) in lost {
            self.asked.remove(&(core, ticket));
            let applied = self.state.applied();
            self.answer(core, ticket, applied, Outcome::Unknown, deeds);
        }
    }

    pub(super) fn on_read_index_at(&mut self, origin: Origin, zxid: Zxid, deeds: &mut Vec<Deed>) {
        let key = (CoreId(origin.core), Ticket(origin.ticket));
        if !self.is_mine(origin) || self.asked.remove(&key).is_none() {
            return;
        }
        let outcome = Outcome::Reply { code: ErrorCode::Ok, body: Vec::new() };
        self.answer_after(zxid, key.0, key.1, outcome, deeds);
    }

    /// Answers as soon as everything up to `zxid` is applied here.
    pub(super) fn answer_after(
        &mut self,
        zxid: Zxid,
        core: CoreId,
        ticket: Ticket,
        outcome: Outcome,
        deeds: &mut Vec<Deed>,
    ) {
        if zxid <= self.state.applied() {
            self.answer(core, ticket, zxid, outcome, deeds);
        } else {
            self.after_apply.entry(zxid).or_default().push((core, ticket, outcome));
        }
    }

    pub(super) fn answer_applied(&mut self, applied: Zxid, deeds: &mut Vec<Deed>) {
        while let Some(first) = self.after_apply.first_entry() {
            if *first.key() > applied {
                return;
            }
            let zxid = *first.key();
            for (core, ticket, outcome) in first.remove() {
                self.answer(core, ticket, zxid, outcome, deeds);
            }
        }
    }
}

/// Whether a client without a session asks for one, or for its own.
fn begins(ask: &WriteAsk) -> bool {
    matches!(ask, WriteAsk::SessionCreate { .. } | WriteAsk::SessionRenew { .. })
}
