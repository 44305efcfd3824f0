//! SNAP: a learner whose past is not in the leader's memory gets the state itself, then what
//! follows.
//!
//! This wing only says when an image is wanted and what surrounds it: the state, and its chunks,
//! are the replica's affair. The learner's old history stays as it is until the whole image is
//! verified and on its disk; one record then replaces it. So a learner that dies on the way votes
//! with all it had, which may be a copy of something committed.
//!
//! Entries after the image stay in the leader's memory until the learner holds them, and the plan's
//! tail is cut when the learner has come close. From then on it gets every proposal.

use alloc::vec::Vec;

use crate::base::id::{Epoch, ServerId, Zxid};
use crate::base::time::Instant;
use crate::peer::message::PeerMessage;
use crate::zab::follow::Stage;
use crate::zab::lead::{LearnerStage, Reign};
use crate::zab::log::Mark;
use crate::zab::sync::for_each_frame;
use crate::zab::{Action, Event, Phase, Zab};

/// The image that a learner waits for. Another attempt waits for another image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    pub leader: ServerId,
    pub attempt: u32,
    pub epoch: Epoch,
    pub at: Mark,
}

impl Zab {
    /// The image of the leader's state at `at` is about to be sent: what introduces it. From here
    /// on, everything after `at` stays in memory until the learner has it.
    pub fn begin_transfer(
        &mut self,
        now: Instant,
        to: ServerId,
        at: Mark,
        out: &mut Vec<Action>,
    ) -> Option<Epoch> {
        assert_eq!(
            self.log.find(at.zxid),
            Some(at.hash),
            "the image is of a point of this history"
        );
        let founding_until = now + self.periods.init_limit;
        let Phase::Leading(leader) = &mut self.phase else {
            return None;
        };
        let epoch = leader.epoch();
        let learner = leader.learner(to)?;
        if learner.stage != LearnerStage::NeedsSnapshot {
            return None;
        }
        learner.pin = Some(at.zxid);
        let message =
            PeerMessage::SyncSnapshot { attempt: learner.attempt, epoch: epoch.0, at: at.into() };
        out.push(Action::Send { to, message });
        leader.extend(founding_until);
        Some(epoch)
    }

    /// Whether the learner still waits for the image that this attempt of it was promised.
    pub fn is_transferring(&self, to: ServerId, attempt: u32) -> bool {
        let Phase::Leading(leader) = &self.phase else {
            return false;
        };
        leader.learners().any(|(server, learner)| {
            server == to
                && learner.attempt == attempt
                && learner.stage == LearnerStage::NeedsSnapshot
                && learner.pin.is_some()
        })
    }

    /// The learner has installed the image: its history goes on where the image ends.
    pub fn end_transfer(&mut self, now: Instant, to: ServerId, out: &mut Vec<Action>) {
        let Phase::Leading(leader) = &mut self.phase else {
            return;
        };
        let Some(learner) = leader.learner(to) else {
            return;
        };
        if learner.stage != LearnerStage::NeedsSnapshot || learner.pin.is_none() {
            return;
        }
        learner.stage = LearnerStage::CatchingUp;
        self.catch_up(now, to, out);
    }

    /// Sends the next entries to a learner that is behind; when those are the last ones, it is in
    /// step, and the inherited history is complete there. One with a damaged log forgets with its
    /// entry into the epoch that it was damaged, so it waits for [`Zab::let_proven_enter`].
    pub(super) fn catch_up(&mut self, now: Instant, to: ServerId, out: &mut Vec<Action>) {
        let founding_until = now + self.periods.init_limit;
        let Phase::Leading(leader) = &mut self.phase else {
            return;
        };
        leader.flush_proposals(now, &self.log, out);
        leader.extend(founding_until);
        let epoch = leader.epoch();
        let Some(learner) = leader.learner(to) else {
            return;
        };
        let from = learner.pin.expect("what it lacks is kept");
        let until = self.log.step_end(from);
        let tail = self.log.tail();
        for_each_frame(&self.log, epoch, from, until, |message| {
            out.push(Action::Send { to, message });
        });
        learner.waits_for_proof = until == tail.zxid && !learner.is_whole;
        if until < tail.zxid || learner.waits_for_proof {
            learner.pin = Some(until);
            return;
        }
        learner.pin = None;
        learner.stage = LearnerStage::Synchronizing;
        let message = PeerMessage::NewLeader { epoch: epoch.0, tail: tail.into() };
        out.push(Action::Send { to, message });
    }

    /// A snapshot is announced. Nothing is given up for it yet.
    pub(super) fn on_sync_snapshot(
        &mut self,
        now: Instant,
        attempt: u32,
        epoch: Epoch,
        at: Mark,
        out: &mut Vec<Action>,
    ) {
        let committed = self.log.committed();
        let give_up_at = now + self.periods.init_limit;
        let Some(stage) = self.planned_stage(attempt, epoch) else {
            return;
        };
        if at.zxid < committed {
            // It would take back what is known to be committed; the leader has lost something.
            let at = at.zxid;
            out.push(Action::Event(Event::SnapshotRefused { at, committed }));
            self.look(now, "offered a snapshot of what is long past", out);
            return;
        }
        *stage = Stage::Installing { attempt, epoch, at };
        self.expect_progress_until(give_up_at);
    }

    /// The image that this server waits for as a learner.
    pub fn wanted_snapshot(&self) -> Option<Wanted> {
        let Phase::Following(follower) = &self.phase else {
            return None;
        };
        let Stage::Installing { attempt, epoch, at } = follower.stage else {
            return None;
        };
        let leader = follower.leader();
        Some(Wanted { leader, attempt, epoch, at })
    }

    /// A part of the image has come.
    pub fn on_image_part(&mut self, now: Instant) {
        self.expect_progress_until(now + self.periods.init_limit);
    }

    /// The whole image has come. How long the disk takes is nobody's fault: while it is written,
    /// only the link says whether the leader is still there.
    pub fn on_image_complete(&mut self) {
        if let Phase::Following(follower) = &mut self.phase {
            follower.give_up_at = None;
        }
    }

    /// What came is not the image that was announced.
    pub fn refuse_image(&mut self, now: Instant, why: &'static str, out: &mut Vec<Action>) {
        let Some(Wanted { leader, .. }) = self.wanted_snapshot() else {
            return;
        };
        out.push(Action::Disconnect { peer: leader, why });
        self.look(now, why, out);
    }

    /// The image is verified and on this disk: one record replaces the history.
    pub fn install(&mut self, now: Instant, digest: u128, out: &mut Vec<Action>) {
        let Wanted { epoch, at, .. } =
            self.wanted_snapshot().expect("only what is waited for is installed");
        let Phase::Following(follower) = &mut self.phase else {
            unreachable!("only a learner waits for an image");
        };
        follower.stage = Stage::Synchronizing { epoch };
        let (sequence, record) = self.log.install(at, digest);
        out.push(Action::Event(Event::Installed { at: at.zxid }));
        out.push(Action::Append { sequence, record, riders: Vec::new() });
        self.expect_progress_until(now + self.periods.init_limit);
    }

    /// A verified snapshot of the state at `at` is on this disk.
    pub fn snapshot_taken(&mut self, at: Mark, digest: u128, out: &mut Vec<Action>) {
        let (sequence, record) = self.log.snapshot_taken(at, digest);
        out.push(Action::Append { sequence, record, riders: Vec::new() });
    }

    /// Drops applied entries that no learner needs any more. Learners that are being sent a
    /// snapshot need everything after it; if that becomes too much, they must begin again.
    pub fn trim(&mut self, applied: Zxid, out: &mut Vec<Action>) {
        // What is applied has told which disks it admits.
        self.admitted_at = self.admitted_at.max(applied);
        let Phase::Leading(leader) = &mut self.phase else {
            self.log.trim(applied);
            return;
        };
        let pinned = leader.pinned();
        self.log.trim(pinned.map_or(applied, |pin| applied.min(pin)));
        if pinned.is_some() && self.log.is_overfull() {
            for peer in leader.unpin() {
                let why = "too far behind to be waited for";
                out.push(Action::Disconnect { peer, why });
            }
            self.log.trim(applied);
        }
    }

    pub(super) fn expect_progress_until(&mut self, at: Instant) {
        if let Phase::Following(follower) = &mut self.phase {
            follower.give_up_at = Some(at);
        }
    }
}

impl crate::zab::lead::Leader {
    /// As long as a snapshot makes progress, founding the epoch may take longer.
    fn extend(&mut self, until: Instant) {
        if self.reign() == Reign::Synchronizing {
            self.give_up_at = Some(until);
        }
    }

    /// Whether the epoch may be waiting for a learner that is busy with a snapshot.
    pub(super) fn waits_for_snapshot(&self) -> bool {
        let busy = LearnerStage::NeedsSnapshot..=LearnerStage::CatchingUp;
        self.learners().any(|(_, learner)| learner.voter && busy.contains(&learner.stage))
    }

    /// What comes after this must stay in memory.
    fn pinned(&self) -> Option<Zxid> {
        self.learners().filter_map(|(_, learner)| learner.pin).min()
    }

    fn unpin(&mut self) -> Vec<ServerId> {
        let pinning = self.learners().filter(|(_, it)| it.pin.is_some());
        let pinning: Vec<ServerId> = pinning.map(|(server, _)| server).collect();
        for &server in &pinning {
            if let Some(learner) = self.learner(server) {
                learner.pin = None;
                learner.stage = LearnerStage::NeedsSnapshot;
            }
        }
        pinning
    }
}
