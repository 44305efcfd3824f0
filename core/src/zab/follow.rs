//! FOLLOWING: a learner's side, from asking to join until it is told to look for another leader.

use alloc::vec;
use alloc::vec::Vec;

use crate::base::id::{Epoch, ServerId, Zxid};
use crate::base::time::Instant;
use crate::entry::Entries;
use crate::peer::message::{PeerMessage, Vote};
use crate::txn;
use crate::zab::log::Mark;
use crate::zab::{Action, Event, Phase, Zab};

pub struct Follower {
    pub(super) leader: ServerId,
    /// The leader's, when it was chosen: what it said in this round and before is no news of it.
    pub(super) round: u64,
    pub(super) stage: Stage,
    /// When this stage has taken too long; a serving follower relies on its link instead.
    pub(super) give_up_at: Option<Instant>,
    /// Up to here, this server's disk is all that a majority lacks.
    completes: Zxid,
}

/// How far a learner has come. Each step is taken once, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// FollowerInfo is sent, and repeated until the leader has an epoch to propose.
    Asking { attempt: u32, repeat_at: Instant },
    /// The epoch is accepted; the acknowledgement rides on that record.
    Accepted { attempt: u32, epoch: Epoch },
    /// The state at `at` is on its way; the own history stays as it is until all of it is there.
    Installing { attempt: u32, epoch: Epoch, at: Mark },
    /// The plan has arrived, and entries follow it.
    Synchronizing { epoch: Epoch },
    /// The inherited history is complete; the acknowledgement rides on the epoch's record.
    Synchronized { epoch: Epoch },
    /// Up to date.
    Serving { epoch: Epoch },
}

impl Follower {
    pub fn leader(&self) -> ServerId {
        self.leader
    }

    pub fn is_serving(&self) -> bool {
        matches!(self.stage, Stage::Serving { .. })
    }

    /// Whether the leader may have said so before it could lead: in an earlier round than that in
    /// which it was chosen, or in that round, for itself.
    pub(super) fn is_no_news(&self, vote: &Vote) -> bool {
        let is_asking = matches!(self.stage, Stage::Asking { .. });
        let is_late =
            vote.round < self.round || (vote.round == self.round && vote.leader == self.leader.0);
        is_asking && is_late && vote.counts
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Asking { repeat_at, .. } => {
                Some(self.give_up_at.map_or(repeat_at, |at| at.min(repeat_at)))
            }
            _ => self.give_up_at,
        }
    }
}

impl Zab {
    pub(super) fn follow(
        &mut self,
        now: Instant,
        leader: ServerId,
        round: u64,
        out: &mut Vec<Action>,
    ) {
        assert_ne!(leader, self.membership.me, "nobody follows itself");
        self.phase = Phase::Following(Follower {
            leader,
            round,
            stage: Stage::Asking { attempt: self.attempt, repeat_at: now },
            give_up_at: None,
            completes: Zxid::ZERO,
        });
        self.ask_to_join(now, out);
    }

    pub(super) fn on_follower_time(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Phase::Following(follower) = &self.phase else {
            return;
        };
        if follower.give_up_at.is_some_and(|at| at <= now) {
            self.look(now, "the leader did not bring this server up to date in time", out);
            return;
        }
        if let Stage::Asking { repeat_at, .. } = follower.stage
            && repeat_at <= now
        {
            self.ask_again(now, out);
        }
    }

    pub(super) fn on_leader_message(
        &mut self,
        now: Instant,
        from: ServerId,
        message: PeerMessage,
        out: &mut Vec<Action>,
    ) {
        let Phase::Following(follower) = &self.phase else {
            return;
        };
        if follower.leader != from {
            return;
        }
        let stage = follower.stage;
        let verdict = match message {
            PeerMessage::LeaderInfo { attempt, epoch } => {
                self.on_leader_info(now, attempt, Epoch(epoch), out);
                Ok(())
            }
            PeerMessage::SyncDiff { attempt, epoch, tail } => {
                self.on_sync_diff(attempt, Epoch(epoch), tail.into())
            }
            PeerMessage::SyncTruncate { attempt, epoch, to } => {
                self.on_sync_truncate(now, attempt, Epoch(epoch), to.into(), out)
            }
            PeerMessage::SyncSnapshot { attempt, epoch, at } => {
                self.on_sync_snapshot(now, attempt, Epoch(epoch), at.into(), out);
                Ok(())
            }
            PeerMessage::NewLeader { epoch, tail } => {
                self.on_new_leader(Epoch(epoch), tail.into(), out)
            }
            PeerMessage::UpToDate { epoch, committed_zxid } => {
                self.on_up_to_date(Epoch(epoch), Zxid(committed_zxid), out)
            }
            PeerMessage::Propose { epoch, committed_zxid, entries } => {
                self.on_propose(now, Epoch(epoch), Zxid(committed_zxid), &entries, out)
            }
            PeerMessage::Commit { epoch, zxid } => {
                self.on_commit(Epoch(epoch), Zxid(zxid));
                Ok(())
            }
            PeerMessage::CommitOnceDurable { epoch, zxid } => {
                self.on_commit_once_durable(Epoch(epoch), Zxid(zxid));
                Ok(())
            }
            PeerMessage::Confirm { epoch, round } => {
                if stage.epoch() == Some(Epoch(epoch)) {
                    let message = PeerMessage::ConfirmAck { epoch, round };
                    out.push(Action::Send { to: from, message });
                }
                Ok(())
            }
            _ => Err("a message that no leader sends"),
        };
        if let Err(why) = verdict {
            out.push(Action::Disconnect { peer: from, why });
            self.look(now, why, out);
        }
    }

    /// Entries arrive: into the log, with one acknowledgement riding on the last of them. Until the
    /// inherited history is complete it says how far this learner has come, and counts for nothing.
    fn on_propose(
        &mut self,
        now: Instant,
        epoch: Epoch,
        committed: Zxid,
        entries: &[u8],
        out: &mut Vec<Action>,
    ) -> Result<(), &'static str> {
        let Phase::Following(follower) = &self.phase else {
            return Ok(());
        };
        let (leader, stage) = (follower.leader, follower.stage);
        if stage.epoch() != Some(epoch) || matches!(stage, Stage::Accepted { .. }) {
            return Ok(());
        }
        if matches!(stage, Stage::Installing { .. }) {
            return Err("a proposal before the state that it follows");
        }
        let is_in_step = !matches!(stage, Stage::Synchronizing { .. });
        if !is_in_step {
            self.expect_progress_until(now + self.periods.init_limit);
        }
        let mut entries = Entries::new(entries);
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|_| "a proposal that is no entry")?;
            txn::check(&entry).map_err(|_| "a proposal whose payload is malformed")?;
            let zxid = entry.zxid();
            if is_in_step && zxid.epoch() != epoch {
                return Err("a proposal of another epoch");
            }
            if zxid.epoch() > epoch {
                // A log that ends beyond the epochs that were promised could begin none of them.
                return Err("a proposal of a later epoch than its leader's");
            }
            let (sequence, record) =
                self.log.append(entry).map_err(|_| "a proposal that does not continue the log")?;
            let mut riders = Vec::new();
            if entries.is_empty() {
                riders = vec![(leader, PeerMessage::Ack { epoch: epoch.0, zxid: zxid.0 })];
            }
            out.push(Action::Append { sequence, record, riders });
        }
        self.learn_commit(committed);
        Ok(())
    }

    fn on_commit(&mut self, epoch: Epoch, zxid: Zxid) {
        let Phase::Following(follower) = &self.phase else {
            return;
        };
        if follower.stage.epoch() == Some(epoch) {
            self.learn_commit(zxid);
        }
    }

    fn on_commit_once_durable(&mut self, epoch: Epoch, zxid: Zxid) {
        if let Phase::Following(follower) = &mut self.phase
            && follower.stage.epoch() == Some(epoch)
        {
            follower.completes = follower.completes.max(zxid);
            self.commit_what_is_durable();
        }
    }

    /// What this server's disk completes a majority for is committed once it is there, in the epoch
    /// in which the others have it.
    pub(super) fn commit_what_is_durable(&mut self) {
        let Phase::Following(follower) = &self.phase else {
            return;
        };
        // The same leader may have come back with another epoch: what it said of the last one does
        // not count in this one, which may have yet to be established.
        let epoch = follower.completes.epoch();
        if follower.stage.epoch() == Some(epoch) && self.log.durable().current_epoch == epoch {
            self.learn_commit(follower.completes.min(self.log.durable_zxid()));
        }
    }

    /// What the leader has committed is committed here as far as the log reaches. While the
    /// history is not yet the leader's, its watermark says nothing about this log's tail.
    pub(super) fn learn_commit(&mut self, zxid: Zxid) {
        let Phase::Following(follower) = &self.phase else {
            return;
        };
        if matches!(follower.stage, Stage::Synchronized { .. } | Stage::Serving { .. }) {
            self.log.commit(zxid.min(self.log.tail().zxid));
        }
    }

    fn on_up_to_date(
        &mut self,
        epoch: Epoch,
        committed: Zxid,
        out: &mut Vec<Action>,
    ) -> Result<(), &'static str> {
        let Phase::Following(follower) = &mut self.phase else {
            return Ok(());
        };
        if follower.stage.epoch() != Some(epoch) {
            return Ok(());
        }
        if !matches!(follower.stage, Stage::Synchronized { .. }) {
            return Err("told to serve before being synchronized");
        }
        follower.stage = Stage::Serving { epoch };
        follower.give_up_at = None;
        let leader = follower.leader;
        self.learn_commit(committed);
        self.on_successor();
        out.push(Action::Event(Event::Synchronized { leader, epoch }));
        Ok(())
    }
}

impl Stage {
    pub(super) fn epoch(self) -> Option<Epoch> {
        match self {
            Self::Asking { .. } => None,
            Self::Accepted { epoch, .. }
            | Self::Installing { epoch, .. }
            | Self::Synchronizing { epoch }
            | Self::Synchronized { epoch }
            | Self::Serving { epoch } => Some(epoch),
        }
    }
}

impl From<crate::peer::message::EpochEnd> for Mark {
    fn from(end: crate::peer::message::EpochEnd) -> Self {
        Self { zxid: Zxid(end.zxid), hash: crate::base::id::ChainHash(end.hash) }
    }
}

impl From<Mark> for crate::peer::message::EpochEnd {
    fn from(mark: Mark) -> Self {
        Self { zxid: mark.zxid.0, hash: mark.hash.0 }
    }
}
