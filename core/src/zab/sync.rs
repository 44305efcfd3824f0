//! Synchronization: a learner's history becomes the leader's, and a quorum enters the epoch.
//!
//! The leader compares hashes, not numbers: what two logs share is the longest chain that ends in
//! the same hash. What a learner lacks is sent in steps; from the last one on it gets every
//! proposal, in order.

use alloc::vec;
use alloc::vec::Vec;

use crate::base::id::{Epoch, ServerId, Zxid};
use crate::base::limits::PROPOSE_BYTES_TARGET;
use crate::base::time::Instant;
use crate::entry::EntryKind;
use crate::peer::message::PeerMessage;
use crate::zab::discovery::AckedEpoch;
use crate::zab::follow::Stage;
use crate::zab::lead::{LearnerStage, Reign};
use crate::zab::log::{Log, Mark};
use crate::zab::{Action, Event, Phase, Plan, Zab};

impl Zab {
    /// Cuts the plan for one learner, and begins to send what it lacks.
    pub(super) fn synchronize(&mut self, now: Instant, to: ServerId, out: &mut Vec<Action>) {
        let Phase::Leading(leader) = &mut self.phase else {
            return;
        };
        leader.flush_proposals(now, &self.log, out);
        let epoch = leader.epoch();
        let Some(learner) = leader.learner(to) else {
            return;
        };
        let history = learner.history.take().expect("a plan follows the learner's description");
        let attempt = history.attempt;
        let tail = self.log.tail();
        let Some(common) = common_point(&self.log, &history) else {
            learner.stage = LearnerStage::NeedsSnapshot;
            learner.pin = None;
            let from = history.tail.zxid;
            let plan = Plan::Snapshot;
            out.push(Action::Event(Event::Plan { learner: to, plan, from, to: tail.zxid }));
            let learner = to;
            out.push(Action::Image { learner, attempt });
            return;
        };
        let (plan, message) = if common == history.tail {
            let message = PeerMessage::SyncDiff { attempt, epoch: epoch.0, tail: common.into() };
            (Plan::Diff, message)
        } else {
            let message = PeerMessage::SyncTruncate { attempt, epoch: epoch.0, to: common.into() };
            (Plan::Truncate, message)
        };
        learner.stage = LearnerStage::CatchingUp;
        let from = common.zxid;
        learner.pin = Some(from);
        out.push(Action::Event(Event::Plan { learner: to, plan, from, to: tail.zxid }));
        out.push(Action::Send { to, message });
        self.catch_up(now, to, out);
    }

    pub(super) fn on_sync_diff(
        &mut self,
        attempt: u32,
        epoch: Epoch,
        tail: Mark,
    ) -> Result<(), &'static str> {
        let own = self.log.tail();
        let Some(stage) = self.planned_stage(attempt, epoch) else {
            return Ok(());
        };
        if own != tail {
            return Err("a DIFF that does not begin at this log's end");
        }
        *stage = Stage::Synchronizing { epoch };
        Ok(())
    }

    pub(super) fn on_sync_truncate(
        &mut self,
        now: Instant,
        attempt: u32,
        epoch: Epoch,
        to: Mark,
        out: &mut Vec<Action>,
    ) -> Result<(), &'static str> {
        let committed = self.log.committed();
        let known = self.log.find(to.zxid);
        let from = self.log.tail().zxid;
        let Some(stage) = self.planned_stage(attempt, epoch) else {
            return Ok(());
        };
        if to.zxid < committed {
            // Somewhere a quorum has lost what it promised. This server keeps its history.
            out.push(Action::Event(Event::TruncationRefused { to: to.zxid, committed }));
            self.look(now, "told to truncate what is committed", out);
            return Ok(());
        }
        if known != Some(to.hash) {
            return Err("a TRUNC to an entry that is not here");
        }
        *stage = Stage::Synchronizing { epoch };
        let (sequence, record) = self.log.truncate(to);
        out.push(Action::Event(Event::Truncated { to: to.zxid, from }));
        out.push(Action::Append { sequence, record, riders: Vec::new() });
        Ok(())
    }

    /// The inherited history is complete. The log comes first, then the epoch, then the
    /// acknowledgement, which rides on the epoch's record.
    pub(super) fn on_new_leader(
        &mut self,
        epoch: Epoch,
        tail: Mark,
        out: &mut Vec<Action>,
    ) -> Result<(), &'static str> {
        let Phase::Following(follower) = &mut self.phase else {
            return Ok(());
        };
        if follower.stage.epoch() != Some(epoch) {
            return Ok(());
        }
        let Stage::Synchronizing { .. } = follower.stage else {
            return Err("a NEWLEADER without a plan");
        };
        let own = self.log.tail();
        if own != tail {
            return Err("a history that does not end where the leader's does");
        }
        follower.stage = Stage::Synchronized { epoch };
        let leader = follower.leader;
        let (sequence, record) = self.log.enter_epoch(epoch);
        let message = PeerMessage::AckLeader { epoch: epoch.0, zxid: own.zxid.0 };
        out.push(Action::Append { sequence, record, riders: vec![(leader, message)] });
        Ok(())
    }

    /// A learner has entered the epoch. When a quorum has, the inherited history is committed and
    /// the epoch begins with an entry of its own.
    pub(super) fn on_ack_leader(
        &mut self,
        from: ServerId,
        epoch: Epoch,
        zxid: Zxid,
        out: &mut Vec<Action>,
    ) {
        let Phase::Leading(leader) = &mut self.phase else {
            return;
        };
        if leader.epoch() != epoch {
            return;
        }
        let committed = self.log.committed();
        let reign = leader.reign();
        let Some(learner) = leader.learner(from) else {
            return;
        };
        if learner.stage != LearnerStage::Synchronizing {
            return;
        }
        assert!(learner.is_whole, "nobody else is told to enter");
        if zxid > self.log.tail().zxid {
            let why = "an acknowledgement of what was never proposed";
            out.push(Action::Disconnect { peer: from, why });
            return;
        }
        learner.stage = LearnerStage::Entered;
        self.admission_due = true;
        learner.acked = learner.acked.max(zxid);
        leader.note_new_acks();
        match reign {
            Reign::Synchronizing => self.begin_epoch_when_quorum(out),
            Reign::Beginning => self.advance_commit(out),
            Reign::Established => {
                leader.bring_up_to_date(from, committed, out);
                self.advance_commit(out);
            }
            Reign::Gathering | Reign::Proposing { .. } => {
                unreachable!("nobody enters an epoch before it is sent")
            }
        }
    }

    pub(super) fn begin_epoch_when_quorum(&mut self, out: &mut Vec<Action>) {
        let majority = self.majority();
        let Phase::Leading(leader) = &mut self.phase else {
            return;
        };
        if leader.reign() != Reign::Synchronizing || leader.voters_entered() < majority {
            return;
        }
        self.log.commit(leader.inherited().zxid);
        leader.begin_epoch();
        leader.append(&mut self.log, EntryKind::EpochStart, &[], out);
        self.advance_commit(out);
    }

    /// The follower's stage, if it waits for just this plan.
    pub(super) fn planned_stage(&mut self, attempt: u32, epoch: Epoch) -> Option<&mut Stage> {
        let Phase::Following(follower) = &mut self.phase else {
            return None;
        };
        let expected = Stage::Accepted { attempt, epoch };
        (follower.stage == expected).then_some(&mut follower.stage)
    }
}

/// The last entry that both logs hold, if the leader's memory reaches back to it.
///
/// Entries of one epoch come from one leader in order, so two logs agree on an epoch up to the
/// shorter of their ends there; the hash proves it.
pub(super) fn common_point(log: &Log, history: &AckedEpoch) -> Option<Mark> {
    if log.find(history.tail.zxid) == Some(history.tail.hash) {
        return Some(history.tail);
    }
    for &end in history.index.iter().rev() {
        if log.find(end.zxid) == Some(end.hash) {
            return Some(end);
        }
        // The learner's epoch goes on beyond ours, or is unknown here: our last entry of that
        // epoch is in the learner's log if the epoch is the same.
        let Some(ours) = log.end_of_epoch(end.zxid.epoch()) else {
            break;
        };
        if ours.zxid.epoch() == end.zxid.epoch() && ours.zxid < end.zxid {
            return log.find(ours.zxid).is_some().then_some(ours);
        }
    }
    let origin = Mark::default();
    (log.base() == origin).then_some(origin)
}

/// Cuts the entries after `after` and up to `until` into proposals of about
/// [`PROPOSE_BYTES_TARGET`].
pub(super) fn for_each_frame(
    log: &Log,
    epoch: Epoch,
    after: Zxid,
    until: Zxid,
    mut send: impl FnMut(PeerMessage),
) {
    let committed_zxid = log.committed().0;
    let mut frame = |entries| {
        send(PeerMessage::Propose { epoch: epoch.0, committed_zxid, entries });
    };
    let due = || log.after(after).take_while(|it| it.zxid() <= until);
    let room = due().map(|it| it.bytes().len()).sum::<usize>().min(PROPOSE_BYTES_TARGET);
    let mut entries = Vec::with_capacity(room);
    for entry in due() {
        if !entries.is_empty() && entries.len() + entry.bytes().len() > PROPOSE_BYTES_TARGET {
            frame(core::mem::take(&mut entries));
        }
        entries.extend_from_slice(entry.bytes());
    }
    if !entries.is_empty() {
        frame(entries);
    }
}
