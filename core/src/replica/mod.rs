//! One shard on one node: joins the order of its entries (`zab`) with what they mean (`state`).
//!
//! It decides nothing itself: requests become transactions by `state`, transactions become entries
//! by `zab`, and what is committed and durable here is applied, live and at restart by the same
//! path.

mod admission;
mod answer;
mod applying;
mod asking;
mod catching_up;
mod digests;
mod floor;
pub mod hearing;
mod leading;
mod points;
mod questions;
mod reading;
mod session;
pub mod snapshot;
mod touching;
mod transfer;

pub use applying::Share;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use crate::base::id::{CoreId, Epoch, Generation, ServerId, SessionId, ShardId, Zxid};
use crate::base::met::LimitsMet;
use crate::base::time::{Duration, Instant, Now, Periods};
use crate::durable::{Durable, LogMark};
use crate::entry::Entry;
use crate::mail::{Ask, Mail, Outcome, Ticket, What};
use crate::op::WatcherType;
use crate::peer::message::{Forward, PeerMessage, PeerState};
use crate::replica::asking::{Asked, GivenUp};
use crate::replica::leading::Reign;
use crate::replica::points::Carry;
use crate::replica::questions::Questions;
use crate::replica::reading::{EarlyReads, Read};
use crate::replica::session::ShardQuestion;
use crate::replica::snapshot::{Awaited, Discarded, SnapshotJob};
use crate::replica::transfer::{Chunk, Incoming, Outgoing};
use crate::shard::ShardMap;
use crate::state::State;
use crate::state::apply::Applied;
use crate::state::watch::{Firing, WatchTable};
use crate::txn::Origin;
use crate::zab::log::{LogLimits, Restored};
use crate::zab::{Action, Membership, Zab};

/// What a replica asks for. `Zab` actions keep their order.
#[derive(Debug)]
pub enum Deed {
    Zab(Action),
    /// The commit watermark has moved.
    Committed(Zxid),
    Snapshot(SnapshotJob),
    Discard(Discarded),
    /// Nobody has heard of the session for its timeout; it is being closed.
    Expired(SessionId),
    /// The tree as of there is not that of a majority: the process must not go on.
    Diverged(Zxid),
    /// To a gateway, or to another shard's replica, of this node.
    Mail {
        to: Recipient,
        mail: Mail,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recipient {
    Core(CoreId),
    /// Every core of the node.
    Cores,
    /// The core that has this shard.
    Shard(ShardId),
}

/// What never changes while the process lives.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    pub membership: Membership,
    pub map: ShardMap,
    pub periods: Periods,
    /// The core that this replica lives on.
    pub core: CoreId,
    /// Drawn at random by each process; marks the origins that it knows.
    pub incarnation: u64,
    pub log: LogLimits,
    /// From this counter on, a leader hands over as soon as it is idle
    /// ([`COUNTER_HANDOVER`](crate::base::limits::COUNTER_HANDOVER)).
    pub counter_handover: u32,
    pub seed: u64,
}

pub struct Replica {
    config: ReplicaConfig,
    zab: Zab,
    state: State,
    watches: WatchTable,
    asked: Questions,
    /// Those that wait for a leader to be known, or to answer others, oldest first.
    unsent: VecDeque<(CoreId, Ticket)>,
    /// The leader has given back what it was asked: all the rest is for the next one.
    awaits_another: bool,
    /// Sessions of this node that will never know what became of a write.
    given_up: BTreeMap<SessionId, GivenUp>,
    /// Answers that wait until this replica has applied a zxid.
    after_apply: BTreeMap<Zxid, Vec<(CoreId, Ticket, Outcome)>>,
    /// Nothing but while the turn ends.
    share: Share,
    /// What reads by mail have taken of the turn since somebody looked.
    read_weight: usize,
    /// What belongs to leading; empty otherwise.
    reign: Option<Reign>,
    /// The leader that this replica served under when it last looked.
    served: Option<ServerId>,
    leaderless_since: Option<Instant>,
    /// Since then it has had a leader that it does not serve under yet. Without a leader nobody has
    /// more than this node, as far as it knows, and its other shards may be used.
    learns_since: Option<Instant>,
    /// As this node's cores have been told.
    is_catching_up: bool,
    /// There was a leader, and what it was asked may yet come to be known.
    may_know_more: bool,
    /// Among those that wait for a leader may be clients without a session.
    newcomers_wait: bool,
    /// It has served under a leader since its start, and has applied what that had committed: until
    /// then nobody knows how old its state is.
    is_current: bool,
    /// Reads that wait for that.
    early_reads: EarlyReads,
    committed_told: Zxid,
    /// This replica's own questions to other shards.
    shard_questions: BTreeMap<Ticket, ShardQuestion>,
    next_question: u64,
    /// The snapshot that this server is making a file of.
    snapshotting: Option<Awaited>,
    /// Entries applied after the last snapshot point.
    entries_since_point: u64,
    /// The state on its way to learners, and from a leader.
    outgoing: BTreeMap<ServerId, Outgoing>,
    incoming: Option<Incoming>,
    /// Changes of partition points that not every shard is known to have.
    carries: BTreeMap<u64, Carry>,
    next_carry: u64,
    applied: Applied,
    /// Entries about to be applied. Empty in between: it keeps its memory.
    group: Vec<Entry>,
    actions: Vec<Action>,
    firings: Vec<Firing>,
    met: LimitsMet,
}

impl Replica {
    /// Takes up what recovery found: the state at the base of the log, and the log after it.
    pub fn new(
        config: ReplicaConfig,
        state: State,
        restored: Restored,
        now: Now,
        deeds: &mut Vec<Deed>,
    ) -> Self {
        assert_eq!(state.applied(), restored.base.zxid, "replay begins where the state ends");
        let mut actions = Vec::new();
        let zab = Zab::new(
            config.membership.clone(),
            config.periods,
            restored,
            config.log,
            state.admitted().clone(),
            config.seed,
            now.instant,
            &mut actions,
        );
        let mut replica = Self {
            config,
            zab,
            state,
            watches: WatchTable::new(),
            asked: Questions::default(),
            unsent: VecDeque::new(),
            awaits_another: false,
            given_up: BTreeMap::new(),
            after_apply: BTreeMap::new(),
            // Nobody waits for anything yet.
            share: Share { proposals: 0, applies: usize::MAX },
            read_weight: 0,
            reign: None,
            served: None,
            leaderless_since: Some(now.instant),
            learns_since: None,
            is_catching_up: false,
            may_know_more: false,
            newcomers_wait: false,
            is_current: false,
            early_reads: EarlyReads::default(),
            committed_told: Zxid::ZERO,
            shard_questions: BTreeMap::new(),
            next_question: 0,
            snapshotting: None,
            entries_since_point: 0,
            outgoing: BTreeMap::new(),
            incoming: None,
            carries: BTreeMap::new(),
            next_carry: 0,
            applied: Applied::new(),
            group: Vec::new(),
            actions,
            firings: Vec::new(),
            met: LimitsMet::default(),
        };
        replica.settle(now, deeds);
        replica.share = Share::default();
        replica
    }

    pub fn on_peer_message(
        &mut self,
        now: Now,
        from: ServerId,
        message: PeerMessage,
        deeds: &mut Vec<Deed>,
    ) {
        match message {
            PeerMessage::Forward(forward) => self.on_forward(from, forward, deeds),
            PeerMessage::Refused(refused) => self.on_refused(&refused, deeds),
            PeerMessage::NotProposed { origin } => self.on_not_proposed(from, origin),
            PeerMessage::ReadIndex { origin } => self.on_read_index(from, origin, deeds),
            PeerMessage::ReadIndexAt { origin, zxid } => {
                self.on_read_index_at(origin, Zxid(zxid), deeds);
            }
            PeerMessage::Touch { origin, sessions } => {
                self.on_touch(now.instant, Some(from), origin, &sessions, deeds);
            }
            PeerMessage::TouchAck { origin, expired } => {
                self.on_touch_ack(origin, &expired, deeds);
            }
            PeerMessage::SnapshotChunk { epoch, index, last, bytes } => {
                let chunk = Chunk { epoch: Epoch(epoch), index, is_last: last, bytes: &bytes };
                self.on_snapshot_chunk(now, from, &chunk, deeds);
            }
            PeerMessage::SnapshotChunkAck { epoch, index } => {
                self.on_chunk_ack(now, from, Epoch(epoch), index, deeds);
            }
            PeerMessage::Recall { origin, session, generation, counter } => {
                let (session, generation) = (SessionId(session), Generation(generation));
                self.on_recall(Some(from), origin, session, generation, counter, deeds);
            }
            PeerMessage::Recalled { origin, seen } => self.on_recalled(origin, seen, deeds),
            PeerMessage::Digest { zxid, digest } => {
                self.on_digest(from, Zxid(zxid), digest, deeds);
            }
            PeerMessage::Diverged { zxid } => self.on_diverged(from, Zxid(zxid), deeds),
            PeerMessage::Error { text: _ } => {}
            protocol => self.zab.on_message(now.instant, from, protocol, &mut self.actions),
        }
        self.settle(now, deeds);
    }

    pub fn on_peer_up(&mut self, now: Now, peer: ServerId, deeds: &mut Vec<Deed>) {
        self.zab.on_peer_up(now.instant, peer, &mut self.actions);
        self.settle(now, deeds);
    }

    pub fn on_peer_down(&mut self, now: Now, peer: ServerId, deeds: &mut Vec<Deed>) {
        self.zab.on_peer_down(now.instant, peer, &mut self.actions);
        self.settle(now, deeds);
    }

    pub fn on_durable(&mut self, now: Now, mark: Durable<LogMark>, deeds: &mut Vec<Deed>) {
        self.zab.on_durable(now.instant, mark, &mut self.actions);
        self.settle(now, deeds);
    }

    pub fn on_time(&mut self, now: Now, deeds: &mut Vec<Deed>) {
        self.zab.on_time(now.instant, &mut self.actions);
        // Only who still leads may end sessions.
        self.settle(now, deeds);
        self.expire_sessions(now, deeds);
        self.go_on_sending(deeds);
        self.store_again(now.instant, deeds);
        if self.give_up_deadline().is_some_and(|at| at <= now.instant) {
            self.give_up_sent(deeds);
            self.turn_newcomers_away(deeds);
        }
        self.settle(now, deeds);
    }

    /// Proposals, commits and quorum rounds of this turn leave now. What is proposed and applied
    /// for them is taken off the share.
    pub fn on_turn_end(&mut self, now: Now, share: &mut Share, deeds: &mut Vec<Deed>) {
        self.share = *share;
        self.propose_backlog(now, deeds);
        self.zab.on_turn_end(now.instant, &mut self.actions);
        if self.reign.as_ref().is_some_and(Reign::is_settled)
            && let Some(why) = self.zab.reason_to_leave()
        {
            self.zab.step_down(now.instant, why, &mut self.actions);
        }
        if self.must_hand_over() {
            let why = "the counter of zxids is about to run out";
            self.zab.step_down(now.instant, why, &mut self.actions);
        }
        self.settle(now, deeds);
        *share = core::mem::take(&mut self.share);
    }

    /// The process is about to end.
    pub fn on_stopping(&mut self, now: Now, deeds: &mut Vec<Deed>) {
        self.zab.stop(now.instant);
        self.settle(now, deeds);
    }

    /// Another server should lead this shard, and can.
    pub fn on_hand_over(&mut self, now: Now, deeds: &mut Vec<Deed>) {
        self.zab.hand_over(now.instant, "another server should lead this shard");
        self.settle(now, deeds);
    }

    /// A question of this node, from a gateway or from another shard's replica.
    pub fn on_ask(&mut self, now: Now, ask: Ask, deeds: &mut Vec<Deed>) {
        let Ask { core, ticket, what } = ask;
        match what {
            What::Write { asker, ask } => {
                if let Some(outcome) = self.refuses(now.instant, ticket, &asker, &ask) {
                    self.answer(core, ticket, self.state.applied(), outcome, deeds);
                    return;
                }
                self.asked.insert((core, ticket), Asked::write(asker, ask));
                self.send_asked(core, ticket, deeds);
            }
            What::Barrier => {
                self.asked.insert((core, ticket), Asked::barrier());
                self.send_asked(core, ticket, deeds);
            }
            What::Read { reader, op_code, body } => {
                let read = Read { core, ticket, reader, op_code, body };
                self.on_read_asked(now, read, deeds);
            }
            What::Forget { connection } => {
                for read in self.early_reads.remove(connection) {
                    self.give_up_read(&read, deeds);
                }
                self.watches.connection_closed(connection);
            }
            What::Identify { reader } => {
                // A read that waits must not take back what has been proven since.
                let early = self.early_reads.readers();
                for waiting in early.filter(|it| it.connection == reader.connection) {
                    waiting.later = Some(reader.identities.clone());
                }
                self.watches.identify(reader.connection, reader.identities);
            }
            What::Unwatch { connection, path } => {
                let kind = WatcherType::Children;
                self.watches.remove(connection, &path, kind);
            }
            What::Touch { sessions } => {
                let origin = self.origin(core, ticket);
                self.on_touch(now.instant, None, origin, &sessions, deeds);
            }
            What::Recall { session, generation, counter } => {
                let asked = Asked::recall(session, generation, counter);
                self.asked.insert((core, ticket), asked);
                self.send_asked(core, ticket, deeds);
            }
            What::RaiseFloor { home, until, living } => {
                self.on_raise_floor(home, until, &living, deeds)
            }
        }
        self.settle(now, deeds);
    }

    /// What reads that came by mail have taken of the turn's share since this was last asked.
    pub fn take_read_weight(&mut self) -> usize {
        core::mem::take(&mut self.read_weight)
    }

    /// Whether the last turn's share has left something over.
    pub fn is_in_haste(&self) -> bool {
        self.state.applied() < self.zab.applicable() || self.can_propose()
    }

    pub fn deadline(&self) -> Option<Instant> {
        let expiry = self.reign.as_ref().and_then(Reign::deadline);
        let deadlines = [
            self.zab.deadline(),
            expiry,
            self.sending_deadline(),
            self.give_up_deadline(),
            self.catching_up_deadline(),
            self.storing_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    pub fn shard(&self) -> ShardId {
        self.config.membership.shard
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn zab(&self) -> &Zab {
        &self.zab
    }

    pub fn watches(&self) -> &WatchTable {
        &self.watches
    }

    /// Questions of this node that have no answer yet.
    pub fn asked_count(&self) -> usize {
        self.asked.len()
    }

    /// How often limits were met here.
    pub fn limits_met(&self) -> &LimitsMet {
        &self.met
    }

    /// The leader that it serves under; itself when leading.
    pub fn serves_under(&self) -> Option<ServerId> {
        self.served
    }

    /// How long this replica has had no leader to serve under.
    fn leaderless_for(&self, now: Instant) -> Duration {
        self.leaderless_since.map_or(Duration::ZERO, |since| now.since(since))
    }

    pub fn peer_state(&self) -> PeerState {
        self.zab.state()
    }

    /// Follows whatever changed: roles, the commit watermark, what can be applied and answered.
    fn settle(&mut self, now: Now, deeds: &mut Vec<Deed>) {
        loop {
            self.zab.check_standing(now.instant, &mut self.actions);
            self.notice_role(now, deeds);
            self.drop_stale_transfers();
            self.carry_out(now, deeds);
            // Whoever begins to lead is asked at once, and has little left to apply: what was
            // committed when it started is applied since then.
            let begins_to_lead = self.zab.is_established_leader() && self.reign.is_none();
            let most = if begins_to_lead { usize::MAX } else { self.share.applies };
            let applied = self.apply_committed(now, most, deeds);
            self.share.applies = self.share.applies.saturating_sub(applied);
            self.notice_role(now, deeds);
            self.answer_confirmed(deeds);
            self.begin_held_reads();
            self.propose_due_point();
            self.propose_due_admissions();
            self.send_unsent(deeds);
            if self.actions.is_empty() {
                break;
            }
        }
        self.notice_currency(now.instant, deeds);
        self.notice_catching_up(now.instant, deeds);
        if self.committed_told < self.zab.log().committed() {
            self.committed_told = self.zab.log().committed();
            deeds.push(Deed::Committed(self.committed_told));
        }
    }

    /// Hands on what the protocol asks for, but for what it asks of this replica.
    fn carry_out(&mut self, now: Now, deeds: &mut Vec<Deed>) {
        let mut actions = core::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            match action {
                Action::Image { learner, attempt } => {
                    self.begin_transfer(now, learner, attempt, deeds);
                }
                action => deeds.push(Deed::Zab(action)),
            }
        }
        assert!(self.actions.is_empty(), "images cause no further actions");
        self.actions = actions;
    }

    /// What belonged to the old role ends with it; what waited for a leader goes to the new one.
    fn notice_role(&mut self, now: Now, deeds: &mut Vec<Deed>) {
        let leads = self.zab.is_established_leader() && self.has_inherited();
        if let Some(reign) = self.reign.take_if(|_| !leads) {
            self.give_back(reign, deeds);
        }
        let serving = self.zab.serving_leader();
        let serving = serving.filter(|&leader| {
            if leader == self.config.membership.me { leads } else { self.may_follow(leader) }
        });
        if serving == self.served {
            return;
        }
        self.served = serving;
        self.awaits_another = false;
        self.leaderless_since = if serving.is_some() { None } else { Some(now.instant) };
        self.may_know_more = serving.is_none();
        if serving.is_some() {
            // What the old leader logged is settled by now, and what it did not it has given back,
            // if it still could. Of the rest, nobody here knows.
            self.take_back_barriers();
            self.give_up_sent(deeds);
        }
        if leads && self.reign.is_none() {
            self.begin_reign(now, deeds);
        }
        self.send_unsent(deeds);
    }

    /// What a follower lacked may be much, and is applied one share after the other: it serves when
    /// that is done.
    fn may_follow(&self, leader: ServerId) -> bool {
        self.served == Some(leader) || self.state.applied() == self.zab.applicable()
    }

    /// A leader judges by what it inherited: the first entry of its own epoch comes behind all
    /// that. When the epoch is established that entry can be applied, and is before anything else.
    fn has_inherited(&self) -> bool {
        self.state.applied().epoch() == self.zab.next_zxid().epoch()
    }

    fn origin(&self, core: CoreId, ticket: Ticket) -> Origin {
        Origin {
            server: self.config.membership.me.0,
            core: core.0,
            incarnation: self.config.incarnation,
            ticket: ticket.0,
        }
    }

    fn is_mine(&self, origin: Origin) -> bool {
        origin.server == self.config.membership.me.0
            && origin.incarnation == self.config.incarnation
    }

    fn send(&mut self, to: ServerId, message: PeerMessage, deeds: &mut Vec<Deed>) {
        deeds.push(Deed::Zab(Action::Send { to, message }));
    }

    fn answer(
        &self,
        core: CoreId,
        ticket: Ticket,
        zxid: Zxid,
        outcome: Outcome,
        deeds: &mut Vec<Deed>,
    ) {
        let mail = Mail::Answer { shard: self.shard(), ticket, zxid, outcome };
        deeds.push(Deed::Mail { to: Recipient::Core(core), mail });
    }

    fn tell_everybody(&self, mail: Mail, deeds: &mut Vec<Deed>) {
        deeds.push(Deed::Mail { to: Recipient::Cores, mail });
    }

    fn is_home_of(&self, session: SessionId) -> bool {
        self.config.map.home_of(session) == self.shard()
    }

    fn on_forward(&mut self, from: ServerId, forward: Forward, deeds: &mut Vec<Deed>) {
        if self.reign.is_none() || Epoch(forward.epoch) != self.zab.log().current_epoch() {
            let origin = forward.origin;
            self.send(from, PeerMessage::NotProposed { origin }, deeds);
            return;
        }
        self.lead(forward);
    }
}
