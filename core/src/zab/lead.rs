//! LEADING: from gathering a quorum to broadcasting an epoch's entries.

mod majority;
mod pace;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::base::id::{Epoch, ServerId, Zxid};
use crate::base::time::{Duration, Instant};
use crate::entry::{Entry, EntryKind};
use crate::peer::message::PeerMessage;
use crate::zab::admission::Identity;
use crate::zab::discovery::AckedEpoch;
use crate::zab::lead::pace::Pace;
use crate::zab::log::{Log, Mark};
use crate::zab::sync::for_each_frame;
use crate::zab::{Action, Event, Phase, Zab};

pub struct Leader {
    me: ServerId,
    voters: Vec<ServerId>,
    reign: Reign,
    /// The epoch proposed; zero while gathering.
    epoch: Epoch,
    /// What this server was elected for; a learner with more makes it step down.
    credentials: (Epoch, Zxid),
    /// The end of the history that the epoch begins with.
    inherited: Mark,
    /// The own log's durable end, once the epoch has been entered here.
    own_acked: Zxid,
    own_entered: bool,
    learners: BTreeMap<ServerId, Learner>,
    /// Everything up to here has been sent to the learners that are in step.
    sent: Zxid,
    /// The commit watermark that the learners have been told.
    told: Zxid,
    /// The newest zxid that a learner may have committed by itself.
    completed_elsewhere: Zxid,
    pace: Pace,
    /// Somebody has acknowledged something since the learners were told what they complete.
    has_new_acks: bool,
    /// Quorum rounds: asked for, begun, and confirmed by a majority.
    asked_round: u64,
    begun_round: u64,
    confirmed_round: u64,
    /// When founding the epoch has taken too long.
    pub(super) give_up_at: Option<Instant>,
}

/// How far a leader has come. Each step is taken once, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reign {
    /// Waiting for a quorum of FollowerInfo.
    Gathering,
    /// The epoch is proposed, and waits for a quorum of AckEpoch.
    Proposing {
        /// The own acceptance is durable, so that others may be told of it.
        durable: bool,
    },
    /// Learners are brought to the inherited history; waiting for a quorum of AckLeader.
    Synchronizing,
    /// The epoch's first entry waits for its quorum.
    Beginning,
    Established,
}

/// A server that learns from this one.
pub struct Learner {
    pub(super) attempt: u32,
    pub(super) accepted: Epoch,
    pub(super) identity: Identity,
    /// It has forgotten nothing that it promised, or holds all of this epoch by now.
    pub(super) is_whole: bool,
    /// It is a voter, and with a disk whose promises count.
    pub(super) voter: bool,
    pub(super) stage: LearnerStage,
    /// Its acceptance counts towards the quorum.
    pub(super) counted: bool,
    pub(super) history: Option<AckedEpoch>,
    /// Its log is durable up to here.
    pub(super) acked: Zxid,
    /// It has been told to commit up to here, once it has that on disk.
    completes: Zxid,
    /// What comes after this stays in memory for it, while it is far behind.
    pub(super) pin: Option<Zxid>,
    confirmed_round: u64,
    /// The quorum round that must be confirmed before a learner with a damaged log may enter the
    /// epoch, and counts.
    pub(super) proof_round: Option<u64>,
    /// It has been sent everything, but for the word that it may enter.
    pub(super) waits_for_proof: bool,
}

/// How far a learner has come, in the leader's eyes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LearnerStage {
    /// FollowerInfo has come.
    Asked,
    /// AckEpoch has come.
    Accepted,
    /// Its past is not in memory any more: the state itself must be sent.
    NeedsSnapshot,
    /// It gets what it lacks step by step: behind its own history, or behind the state that it has
    /// installed.
    CatchingUp,
    /// It has been sent everything; every proposal goes to it from here on.
    Synchronizing,
    /// AckLeader has come: its acknowledgements count.
    Entered,
    /// It has been told to serve.
    UpToDate,
}

impl Learner {
    pub(super) fn new(attempt: u32, accepted: Epoch, identity: Identity) -> Self {
        Self {
            attempt,
            accepted,
            identity,
            is_whole: false,
            voter: false,
            stage: LearnerStage::Asked,
            counted: false,
            history: None,
            acked: Zxid::ZERO,
            completes: Zxid::ZERO,
            pin: None,
            confirmed_round: 0,
            proof_round: None,
            waits_for_proof: false,
        }
    }

    pub fn stage(&self) -> LearnerStage {
        self.stage
    }

    /// Whether its acknowledgements count.
    fn counts_in_epoch(&self) -> bool {
        self.voter && self.stage >= LearnerStage::Entered
    }
}

impl Leader {
    pub(super) fn new(
        me: ServerId,
        voters: Vec<ServerId>,
        credentials: (Epoch, Zxid),
        acked: Zxid,
        give_up_at: Instant,
    ) -> Self {
        Self {
            me,
            voters,
            reign: Reign::Gathering,
            epoch: Epoch(0),
            credentials,
            inherited: Mark::default(),
            own_acked: acked,
            own_entered: false,
            learners: BTreeMap::new(),
            sent: Zxid::ZERO,
            told: Zxid::ZERO,
            completed_elsewhere: Zxid::ZERO,
            pace: Pace::default(),
            has_new_acks: false,
            asked_round: 0,
            begun_round: 0,
            confirmed_round: 0,
            give_up_at: Some(give_up_at),
        }
    }

    pub fn reign(&self) -> Reign {
        self.reign
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub fn is_established(&self) -> bool {
        self.reign == Reign::Established
    }

    pub fn learners(&self) -> impl Iterator<Item = (ServerId, &Learner)> {
        self.learners.iter().map(|(&server, learner)| (server, learner))
    }

    pub(super) fn credentials(&self) -> (Epoch, Zxid) {
        self.credentials
    }

    pub(super) fn inherited(&self) -> Mark {
        self.inherited
    }

    pub(super) fn deadline(&self, sync_limit: Duration) -> Option<Instant> {
        [self.give_up_at, self.pace_deadline(sync_limit)].into_iter().flatten().min()
    }

    pub(super) fn confirmed_round(&self) -> u64 {
        self.confirmed_round
    }

    pub(super) fn note_new_acks(&mut self) {
        self.has_new_acks = true;
    }

    pub(super) fn completed_elsewhere(&self) -> Zxid {
        self.completed_elsewhere
    }

    /// The number of the quorum round that has not begun yet.
    pub(super) fn next_round(&self) -> u64 {
        self.begun_round + 1
    }

    pub(super) fn ask_confirmation(&mut self) -> u64 {
        self.asked_round = self.next_round();
        self.asked_round
    }

    pub(super) fn admit(&mut self, server: ServerId, learner: Learner) {
        self.learners.insert(server, learner);
    }

    pub(super) fn forget(&mut self, server: ServerId) {
        self.learners.remove(&server);
    }

    pub(super) fn learner(&mut self, server: ServerId) -> Option<&mut Learner> {
        self.learners.get_mut(&server)
    }

    pub(super) fn learners_waiting_for_plan(&self) -> Vec<ServerId> {
        let waiting = self.learners.iter().filter(|(_, it)| it.stage == LearnerStage::Accepted);
        waiting.map(|(&server, _)| server).collect()
    }

    pub(super) fn highest_accepted(&self, own: Epoch) -> Epoch {
        self.learners.values().map(|learner| learner.accepted).fold(own, Epoch::max)
    }

    pub(super) fn voters_present(&self) -> usize {
        1 + self.learners.values().filter(|learner| learner.voter).count()
    }

    pub(super) fn voters_accepted(&self) -> usize {
        let counted = |it: &&Learner| it.voter && it.counted && it.stage >= LearnerStage::Accepted;
        1 + self.learners.values().filter(counted).count()
    }

    pub(super) fn voters_entered(&self) -> usize {
        let counted = self.learners.values().filter(|it| it.counts_in_epoch());
        usize::from(self.own_entered) + counted.count()
    }

    pub(super) fn begin_proposing(&mut self, epoch: Epoch, give_up_at: Instant) {
        assert_eq!(self.reign, Reign::Gathering);
        self.epoch = epoch;
        self.reign = Reign::Proposing { durable: false };
        self.give_up_at = Some(give_up_at);
    }

    pub(super) fn begin_synchronizing(&mut self, inherited: Mark, give_up_at: Instant) {
        assert_eq!(self.reign, Reign::Proposing { durable: true });
        self.inherited = inherited;
        self.sent = inherited.zxid;
        self.reign = Reign::Synchronizing;
        self.give_up_at = Some(give_up_at);
    }

    pub(super) fn begin_epoch(&mut self) {
        assert_eq!(self.reign, Reign::Synchronizing);
        self.reign = Reign::Beginning;
    }

    /// Puts an entry behind the log's tail; it is sent when the turn ends.
    pub(super) fn append(
        &mut self,
        log: &mut Log,
        kind: EntryKind,
        payload: &[u8],
        out: &mut Vec<Action>,
    ) -> Zxid {
        assert!(matches!(self.reign, Reign::Beginning | Reign::Established));
        let tail = log.tail();
        let zxid = if tail.zxid.epoch() == self.epoch {
            tail.zxid.next()
        } else {
            Zxid::new(self.epoch, 1)
        };
        let entry = Entry::new(kind, log.shard(), zxid, tail.hash, payload);
        self.pace.count(entry.bytes().len());
        let (sequence, record) = log.append(entry).expect("a leader continues its own log");
        out.push(Action::Append { sequence, record, riders: Vec::new() });
        zxid
    }

    pub(super) fn send_leader_info(&self, to: ServerId, out: &mut Vec<Action>) {
        let Some(learner) = self.learners.get(&to) else {
            return;
        };
        let message = PeerMessage::LeaderInfo { attempt: learner.attempt, epoch: self.epoch.0 };
        out.push(Action::Send { to, message });
    }

    pub(super) fn bring_up_to_date(
        &mut self,
        to: ServerId,
        committed: Zxid,
        out: &mut Vec<Action>,
    ) {
        let Some(learner) = self.learners.get_mut(&to) else {
            return;
        };
        assert_eq!(learner.stage, LearnerStage::Entered);
        learner.stage = LearnerStage::UpToDate;
        let message = PeerMessage::UpToDate { epoch: self.epoch.0, committed_zxid: committed.0 };
        out.push(Action::Send { to, message });
        if self.confirmed_round < self.begun_round {
            // The question may have been lost with its former link.
            let message = PeerMessage::Confirm { epoch: self.epoch.0, round: self.begun_round };
            out.push(Action::Send { to, message });
        }
    }

    /// Sends what was appended since the last time to every learner that is in step.
    pub(super) fn flush_proposals(&mut self, now: Instant, log: &Log, out: &mut Vec<Action>) {
        let tail = log.tail().zxid;
        if self.sent >= tail || self.reign == Reign::Gathering {
            return;
        }
        let to = self.learners_from(LearnerStage::Synchronizing);
        if !to.is_empty() {
            for_each_frame(log, self.epoch, self.sent, tail, |message| {
                out.push(Action::Broadcast { to: to.clone(), message });
            });
            self.told = log.committed();
        }
        self.mark_pace(now, tail);
        self.sent = tail;
    }

    pub(super) fn on_turn_end(&mut self, now: Instant, log: &Log, out: &mut Vec<Action>) {
        if !matches!(self.reign, Reign::Beginning | Reign::Established) {
            return;
        }
        self.flush_proposals(now, log, out);
        if self.is_established() {
            self.tell_who_completes(out);
        }
        let committed = log.committed();
        if self.told < committed {
            self.told = committed;
            let mut to = self.learners_from(LearnerStage::Entered);
            // The others know already, or will when it is on their disks.
            to.retain(|server| self.learners[server].completes < committed);
            if !to.is_empty() {
                let message = PeerMessage::Commit { epoch: self.epoch.0, zxid: committed.0 };
                out.push(Action::Broadcast { to, message });
            }
        }
        if self.asked_round > self.begun_round {
            self.begun_round = self.asked_round;
            let to = self.learners_from(LearnerStage::Synchronizing);
            if !to.is_empty() {
                let round = self.begun_round;
                let message = PeerMessage::Confirm { epoch: self.epoch.0, round };
                out.push(Action::Broadcast { to, message });
            }
            self.count_confirmations();
        }
    }

    /// Whether somebody who counts holds everything, and all of it is settled: then nothing is lost
    /// or left in doubt by another leader.
    pub(super) fn can_be_followed(&self, log: &Log) -> bool {
        let tail = log.tail().zxid;
        self.is_established()
            && log.committed() == tail
            && self.learners.values().any(|it| it.voter && it.acked == tail)
    }

    /// The same of everybody who is in step, and there is a voter among them.
    pub(super) fn is_followed_by_all(&self, log: &Log) -> bool {
        let tail = log.tail().zxid;
        let mut in_step = self.learners.values().filter(|it| it.stage >= LearnerStage::Entered);
        self.can_be_followed(log) && in_step.all(|it| it.acked == tail)
    }

    fn learners_from(&self, stage: LearnerStage) -> Vec<ServerId> {
        let in_step = self.learners.iter().filter(|(_, learner)| learner.stage >= stage);
        in_step.map(|(&server, _)| server).collect()
    }
}

impl Zab {
    pub(super) fn on_learner_message(
        &mut self,
        now: Instant,
        from: ServerId,
        message: PeerMessage,
        out: &mut Vec<Action>,
    ) {
        let Phase::Leading(leader) = &mut self.phase else {
            return;
        };
        let own_epoch = leader.epoch();
        match message {
            PeerMessage::AckEpoch {
                attempt, epoch, counted, current_epoch, tail, index, ..
            } if Epoch(epoch) == own_epoch => {
                let ack = AckedEpoch {
                    attempt,
                    counted,
                    current_epoch: Epoch(current_epoch),
                    tail: tail.into(),
                    index: index.into_iter().map(Mark::from).collect(),
                };
                self.on_ack_epoch(now, from, ack, out);
            }
            PeerMessage::AckLeader { epoch, zxid } => {
                self.on_ack_leader(from, Epoch(epoch), Zxid(zxid), out);
            }
            PeerMessage::Ack { epoch, zxid } if Epoch(epoch) == own_epoch => {
                self.on_ack(now, from, Zxid(zxid), out);
            }
            PeerMessage::ConfirmAck { epoch, round } if Epoch(epoch) == own_epoch => {
                let begun = leader.begun_round;
                if let Some(learner) = leader.learner(from).filter(|_| round <= begun) {
                    learner.confirmed_round = learner.confirmed_round.max(round);
                    leader.count_confirmations();
                    self.advance_commit(out);
                }
            }
            _ => {}
        }
    }

    /// Something of this leader's own log became durable.
    pub(super) fn on_own_durable(&mut self, now: Instant, out: &mut Vec<Action>) {
        let durable = self.log.durable();
        let Phase::Leading(leader) = &mut self.phase else {
            return;
        };
        match leader.reign {
            Reign::Gathering | Reign::Proposing { durable: true } => {}
            Reign::Proposing { durable: false } => {
                if durable.accepted_epoch == leader.epoch {
                    leader.reign = Reign::Proposing { durable: true };
                    for learner in leader.learners_from(LearnerStage::Asked) {
                        leader.send_leader_info(learner, out);
                    }
                    self.enter_epoch_when_quorum(now, out);
                }
            }
            Reign::Synchronizing | Reign::Beginning | Reign::Established => {
                leader.own_acked = durable.tail.zxid;
                leader.has_new_acks = true;
                leader.own_entered = durable.current_epoch == leader.epoch;
                if leader.reign == Reign::Synchronizing {
                    self.begin_epoch_when_quorum(out);
                } else {
                    self.advance_commit(out);
                }
            }
        }
    }

    fn on_ack(&mut self, now: Instant, from: ServerId, zxid: Zxid, out: &mut Vec<Action>) {
        let tail = self.log.tail().zxid;
        let Phase::Leading(leader) = &mut self.phase else {
            return;
        };
        let Some(learner) = leader.learner(from) else {
            return;
        };
        if zxid > tail {
            let why = "an acknowledgement of what was never proposed";
            out.push(Action::Disconnect { peer: from, why });
            return;
        }
        if learner.stage == LearnerStage::CatchingUp && learner.pin.is_some_and(|pin| pin <= zxid) {
            self.catch_up(now, from, out);
            return;
        }
        if learner.stage < LearnerStage::Entered {
            return;
        }
        learner.acked = learner.acked.max(zxid);
        leader.has_new_acks = true;
        self.advance_commit(out);
    }

    /// Commits in order what a majority has on disk, once that includes an entry of this epoch.
    pub(super) fn advance_commit(&mut self, out: &mut Vec<Action>) {
        let Phase::Leading(leader) = &mut self.phase else {
            return;
        };
        let acked = leader.majority_acked();
        if acked <= self.log.committed() || acked.epoch() != leader.epoch {
            return;
        }
        if leader.reign == Reign::Beginning && leader.own_acked.epoch() != leader.epoch {
            // It judges requests by what it has inherited: none may come before that is on its own
            // disk, and thus applied here.
            return;
        }
        self.log.commit(acked);
        if leader.reign == Reign::Beginning {
            leader.reign = Reign::Established;
            self.admission_due = true;
            leader.give_up_at = None;
            let (epoch, committed) = (leader.epoch, self.log.committed());
            out.push(Action::Event(Event::Established { epoch, at: committed }));
            for learner in leader.learners_from(LearnerStage::Entered) {
                leader.bring_up_to_date(learner, committed, out);
            }
            self.on_successor();
        }
    }

    pub(super) fn on_leader_time(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.check_pace(now, out);
        let Phase::Leading(leader) = &mut self.phase else {
            return;
        };
        if leader.give_up_at.is_some_and(|at| at <= now) {
            if leader.waits_for_snapshot() {
                // Its link says that it lives; how long its disk takes is nobody's fault.
                leader.give_up_at = Some(now + self.periods.init_limit);
                return;
            }
            self.look(now, "the epoch did not begin in time", out);
        }
    }

    /// A leader that has lost its quorum looks for a new one.
    pub(super) fn check_quorum(&mut self, now: Instant, out: &mut Vec<Action>) {
        let majority = self.majority();
        let Phase::Leading(leader) = &self.phase else {
            return;
        };
        let founding = matches!(leader.reign, Reign::Gathering | Reign::Proposing { .. });
        if !founding && leader.voters_present() < majority {
            self.look(now, "lost its quorum", out);
        }
    }
}
