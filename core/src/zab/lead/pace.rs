//! How far the disks of a reign are behind what they have been given.
//!
//! A learner whose disk stands still would go on serving what is long past, and keep in its memory
//! all that it is sent. It is let go (ZooKeeper's `SyncLimitCheck`), and comes back as one that is
//! behind: those are sent only as much as they have written.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::base::id::{ServerId, Zxid};
use crate::base::time::{Duration, Instant};
use crate::zab::lead::{Leader, LearnerStage, Reign};
use crate::zab::{Action, Phase, Zab};

/// Points of the history, with when they were proposed and how many bytes had been by then.
#[derive(Default)]
pub(super) struct Pace {
    marks: VecDeque<Mark>,
    bytes: u64,
}

struct Mark {
    zxid: Zxid,
    at: Instant,
    bytes: u64,
}

impl Pace {
    pub(super) fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Everything up to `tail` is proposed. What comes soon after each other has one mark: it is
    /// enough to know roughly since when a proposal waits.
    fn mark(&mut self, now: Instant, tail: Zxid) {
        let bytes = self.bytes;
        match self.marks.back_mut().filter(|last| now.since(last.at) < MARK_PERIOD) {
            Some(last) => (last.zxid, last.bytes) = (tail, bytes),
            None => self.marks.push_back(Mark { zxid: tail, at: now, bytes }),
        }
    }

    /// What everybody holds needs no mark.
    fn forget(&mut self, held_by_all: Zxid) {
        while self.marks.front().is_some_and(|mark| mark.zxid <= held_by_all) {
            self.marks.pop_front();
        }
    }

    /// The oldest point that a disk with everything up to `held` lacks.
    fn oldest_lacked(&self, held: Zxid) -> Option<&Mark> {
        self.marks.iter().find(|mark| mark.zxid > held)
    }

    fn is_late(&self, held: Zxid, now: Instant, limit: Duration, bytes_max: u64) -> bool {
        self.oldest_lacked(held)
            .is_some_and(|mark| now.since(mark.at) >= limit || self.bytes - mark.bytes > bytes_max)
    }
}

impl Leader {
    /// Everything up to `tail` is proposed. Where no disk can be let go, nobody would forget marks.
    pub(super) fn mark_pace(&mut self, now: Instant, tail: Zxid) {
        if self.has_other_voters() {
            self.pace.mark(now, tail);
        }
    }

    /// When the first disk that is behind has been so for too long.
    pub(super) fn pace_deadline(&self, limit: Duration) -> Option<Instant> {
        let oldest = self.pace.oldest_lacked(self.slowest()?)?;
        Some(oldest.at + limit)
    }

    /// What every disk of this reign holds; nothing of a server that has nobody to leave it to.
    fn slowest(&self) -> Option<Zxid> {
        let learners = self.learners.values().filter(|it| it.stage >= LearnerStage::Entered);
        let held = learners.map(|learner| learner.acked);
        let matters = self.reign == Reign::Established && self.has_other_voters();
        matters.then(|| held.fold(self.own_acked, Zxid::min))
    }

    fn has_other_voters(&self) -> bool {
        self.voters.len() > 1
    }
}

impl Zab {
    /// Lets go of those whose disks are too far behind. A leader that is so itself leads no more.
    pub(in crate::zab) fn check_pace(&mut self, now: Instant, out: &mut Vec<Action>) {
        let limit = self.periods.sync_limit;
        let bytes_max = self.log.unwritten_bytes_max();
        let Phase::Leading(leader) = &mut self.phase else {
            return;
        };
        let Some(slowest) = leader.slowest() else {
            return;
        };
        leader.pace.forget(slowest);
        let is_late = |held| leader.pace.is_late(held, now, limit, bytes_max);
        let in_step = leader.learners.iter().filter(|(_, it)| it.stage >= LearnerStage::Entered);
        let late: Vec<ServerId> =
            in_step.filter(|(_, it)| is_late(it.acked)).map(|(&server, _)| server).collect();
        let own_is_late = is_late(leader.own_acked);
        for &peer in &late {
            leader.forget(peer);
            out.push(Action::Disconnect { peer, why: "its disk is too far behind" });
        }
        if own_is_late {
            self.look(now, "this server's disk is too far behind", out);
        } else if !late.is_empty() {
            self.check_quorum(now, out);
        }
    }
}

/// What one mark stands for.
const MARK_PERIOD: Duration = Duration::from_ms(50);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{Epoch, ShardId};
    use crate::entry::EntryKind;
    use crate::zab::log::{Log, LogLimits, Restored};

    /// The marks of a leader that proposes for some seconds, without any acknowledgement.
    fn marks_of_leader(voters: &[ServerId]) -> usize {
        let mut log = Log::new(Restored::nothing(ShardId(0)), LogLimits::default());
        let credentials = (Epoch(0), Zxid::ZERO);
        let mut now = Instant(0);
        let mut leader = Leader::new(voters[0], voters.to_vec(), credentials, Zxid::ZERO, now);
        (leader.epoch, leader.reign) = (Epoch(1), Reign::Established);
        let mut out = Vec::new();
        leader.append(&mut log, EntryKind::EpochStart, &[], &mut out);
        for _ in 0..100 {
            leader.append(&mut log, EntryKind::Txn, &[], &mut out);
            leader.flush_proposals(now, &log, &mut out);
            now = now + MARK_PERIOD;
        }
        leader.pace.marks.len()
    }

    #[test]
    fn a_server_alone_keeps_no_marks() {
        assert_eq!(marks_of_leader(&[ServerId(1)]), 0);
        assert_eq!(marks_of_leader(&[ServerId(1), ServerId(2)]), 100);
    }
}
