//! Discovery: a quorum accepts a new epoch and says what it has.
//!
//! After it, no leader of a lower epoch can commit anything, because every quorum contains a
//! server that no longer listens to it.

use alloc::vec;
use alloc::vec::Vec;

use crate::base::id::{Epoch, ServerId};
use crate::base::limits::EPOCH_ENDS_MAX;
use crate::base::time::{Duration, Instant};
use crate::peer::message::{EpochEnd, PeerMessage};
use crate::zab::follow::Stage;
use crate::zab::lead::{Leader, Learner, LearnerStage, Reign};
use crate::zab::log::Mark;
use crate::zab::{Action, Event, Phase, Zab};

/// Far beyond every `initLimit`, which is the other bound.
const PATIENCE_DOUBLINGS_MAX: u32 = 16;

impl Zab {
    /// A follower asks its leader to let it join, from the beginning.
    pub(super) fn ask_to_join(&mut self, now: Instant, out: &mut Vec<Action>) {
        let patience = self.founding_patience();
        let Phase::Following(follower) = &mut self.phase else {
            return;
        };
        self.attempt += 1;
        follower.give_up_at = Some(now + patience);
        self.ask_again(now, out);
    }

    /// Repeats the question until it is answered. It stays the same attempt: on a slow link, the
    /// answer to the first arrives after the second has left.
    pub(super) fn ask_again(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Phase::Following(follower) = &mut self.phase else {
            return;
        };
        let attempt = self.attempt;
        follower.stage = Stage::Asking { attempt, repeat_at: now + self.periods.heartbeat };
        let leader = follower.leader;
        if self.linked.contains(&leader) {
            let message = PeerMessage::FollowerInfo {
                attempt,
                accepted_epoch: self.log.accepted_epoch().0,
                disk: self.membership.identity.disk.0,
                is_founder: self.membership.identity.is_founder,
                is_whole: !self.log.is_unknown(),
            };
            out.push(Action::Send { to: leader, message });
        }
    }

    /// The leader proposes an epoch: promise to listen to no lower one, and say what is here.
    pub(super) fn on_leader_info(
        &mut self,
        now: Instant,
        attempt: u32,
        epoch: Epoch,
        out: &mut Vec<Action>,
    ) {
        let Phase::Following(follower) = &mut self.phase else {
            return;
        };
        let Stage::Asking { attempt: asked, .. } = follower.stage else {
            return;
        };
        if asked != attempt {
            return;
        }
        let accepted = self.log.accepted_epoch();
        if epoch < accepted {
            self.look(now, "the leader's epoch is lower than the one promised", out);
            return;
        }
        let leader = follower.leader;
        follower.stage = Stage::Accepted { attempt, epoch };
        follower.give_up_at = Some(now + self.periods.init_limit);
        let (sequence, record) = self.log.accept_epoch(epoch);
        let ends = self.log.epoch_ends();
        let newest = ends.len().saturating_sub(EPOCH_ENDS_MAX);
        let message = PeerMessage::AckEpoch {
            attempt,
            epoch: epoch.0,
            counted: epoch > accepted,
            current_epoch: self.log.current_epoch().0,
            tail: self.log.tail().into(),
            committed_zxid: self.log.committed().0,
            index: ends[newest..].iter().map(|&end| EpochEnd::from(end)).collect(),
        };
        out.push(Action::Append { sequence, record, riders: vec![(leader, message)] });
    }

    /// How long the acceptance of an epoch may take, which is a sync of the leader's disk and then
    /// one of a quorum's. A disk that stands still should be noticed at once, and one that is slow
    /// must not keep everybody from having a leader: each election that comes to nothing doubles
    /// the patience.
    fn founding_patience(&self) -> Duration {
        let least = self.periods.silence.0 + self.periods.silence.0;
        let doublings = self.futile_elections.saturating_sub(1).min(PATIENCE_DOUBLINGS_MAX);
        Duration(least.max(self.periods.init_limit.0.min(least << doublings)))
    }

    /// Becomes the leader of an epoch that is still to be found.
    pub(super) fn lead(&mut self, now: Instant, out: &mut Vec<Action>) {
        let durable = self.log.durable();
        // A snapshot that was finished in between may still be on its way to the log.
        assert_eq!(durable, self.log.position(), "a leader is elected for what it has on disk");
        let give_up_at = now + self.periods.silence + self.periods.silence;
        let credentials = (durable.current_epoch, durable.tail.zxid);
        let acked = durable.tail.zxid;
        let voters = self.membership.voters.clone();
        let me = self.membership.me;
        self.phase = Phase::Leading(Leader::new(me, voters, credentials, acked, give_up_at));
        self.propose_epoch_when_quorum(now, out);
    }

    /// A server wants to learn from this one.
    pub(super) fn on_follower_info(
        &mut self,
        now: Instant,
        from: ServerId,
        learner: Learner,
        out: &mut Vec<Action>,
    ) {
        let accepted = learner.accepted;
        let Phase::Leading(leader) = &mut self.phase else {
            // It heard of a leadership that is over, or of one that has not begun: it asks again.
            if let Some(standing) = self.standing_vote() {
                out.push(Action::Send { to: from, message: PeerMessage::Vote(standing) });
            } else if self.is_mute() {
                // From one that may not even vote, it need not expect anything.
                self.reply_vote(from, out);
            }
            return;
        };
        leader.admit(from, learner);
        match leader.reign() {
            Reign::Gathering => self.propose_epoch_when_quorum(now, out),
            _ if accepted > leader.epoch() => {
                let why = "a learner has promised itself to a higher epoch";
                self.look(now, why, out);
            }
            // Told when the own acceptance is durable.
            Reign::Proposing { durable: false } => {}
            _ => leader.send_leader_info(from, out),
        }
    }

    /// A quorum is here: one above everything that any of them has accepted is the new epoch.
    fn propose_epoch_when_quorum(&mut self, now: Instant, out: &mut Vec<Action>) {
        let majority = self.majority();
        let own = self.log.accepted_epoch();
        let patience = self.founding_patience();
        let Phase::Leading(leader) = &mut self.phase else {
            return;
        };
        if leader.voters_present() < majority {
            return;
        }
        let highest = leader.highest_accepted(own);
        if highest >= Epoch::LAST {
            // There is nothing left to propose: it gives up in its time.
            return;
        }
        let epoch = highest.next();
        let (sequence, record) = self.log.accept_epoch(epoch);
        leader.begin_proposing(epoch, now + patience);
        out.push(Action::Event(Event::EpochProposed { epoch }));
        out.push(Action::Append { sequence, record, riders: Vec::new() });
    }

    /// A learner has accepted the epoch and described its log.
    pub(super) fn on_ack_epoch(
        &mut self,
        now: Instant,
        from: ServerId,
        ack: AckedEpoch,
        out: &mut Vec<Action>,
    ) {
        let Phase::Leading(leader) = &mut self.phase else {
            return;
        };
        let established = leader.is_established();
        let (own_epoch, credentials) = (leader.epoch(), leader.credentials());
        let Some(learner) = leader.learner(from) else {
            return;
        };
        if learner.attempt != ack.attempt || learner.stage != LearnerStage::Asked {
            return;
        }
        let theirs = (ack.current_epoch, ack.tail.zxid);
        // What has entered this very epoch has its history from here: its link was lost since.
        let is_ahead = theirs > credentials && ack.current_epoch != own_epoch;
        if !established && is_ahead && learner.voter {
            let (epoch, zxid) = theirs;
            out.push(Action::Event(Event::LearnerAhead { learner: from, epoch, zxid }));
            self.look(now, "a learner knows more than this leader", out);
            return;
        }
        learner.stage = LearnerStage::Accepted;
        learner.counted = ack.counted;
        learner.history = Some(ack);
        match leader.reign() {
            Reign::Proposing { durable: true } => self.enter_epoch_when_quorum(now, out),
            Reign::Gathering | Reign::Proposing { durable: false } => {}
            _ => self.synchronize(now, from, out),
        }
    }

    /// A quorum has accepted the epoch, this server included: it begins here.
    pub(super) fn enter_epoch_when_quorum(&mut self, now: Instant, out: &mut Vec<Action>) {
        let majority = self.majority();
        let Phase::Leading(leader) = &mut self.phase else {
            return;
        };
        assert_eq!(leader.reign(), Reign::Proposing { durable: true });
        if leader.voters_accepted() < majority {
            return;
        }
        let (sequence, record) = self.log.enter_epoch(leader.epoch());
        let inherited = self.log.tail();
        leader.begin_synchronizing(inherited, now + self.periods.init_limit);
        out.push(Action::Append { sequence, record, riders: Vec::new() });
        for learner in leader.learners_waiting_for_plan() {
            self.synchronize(now, learner, out);
        }
    }
}

/// What a learner said about its log when it accepted the epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AckedEpoch {
    pub attempt: u32,
    pub counted: bool,
    pub current_epoch: Epoch,
    pub tail: Mark,
    pub index: Vec<Mark>,
}
