//! Giving a leadership up on purpose, at nobody's cost.
//!
//! A leader leaves when all that it has logged is committed and its followers hold all of it, so
//! that no outcome becomes unknown. It takes nothing new meanwhile, which makes that a matter of
//! milliseconds; if it takes longer, the leadership goes on.

use crate::base::limits::{HAND_OVER_MS_MAX, SUCCESSION_MS_MAX};
use crate::base::time::{Duration, Instant};
use crate::zab::lead::LearnerStage;
use crate::zab::{Phase, Zab};

/// A leadership that is to be given up.
pub(super) struct Leaving {
    why: &'static str,
    /// Until then nothing new is proposed. Without it, proposals go on, and the leadership ends
    /// when they pause.
    held_until: Option<Instant>,
}

impl Zab {
    /// Leaves, if this server leads and others vote.
    pub fn hand_over(&mut self, now: Instant, why: &'static str) {
        if self.is_established_leader() && self.membership.voters.len() > 1 {
            let until = now + Duration::from_ms(HAND_OVER_MS_MAX);
            self.leaving = Some(Leaving { why, held_until: Some(until) });
        }
    }

    /// The process is about to end: somebody else should lead, from now on.
    pub fn stop(&mut self, now: Instant) {
        self.is_stopping = true;
        self.hand_over(now, "this server stops");
    }

    /// While the disk is almost full, others are preferred as leaders.
    pub fn set_disk_low(&mut self, is_low: bool) {
        if is_low && !self.disk_low && self.leaving.is_none() {
            self.leaving = Some(Leaving { why: "the disk is almost full", held_until: None });
        }
        if !is_low {
            self.leaving.take_if(|leaving| leaving.held_until.is_none());
        }
        self.disk_low = is_low;
    }

    pub fn is_disk_low(&self) -> bool {
        self.disk_low
    }

    /// Of two servers that know the same, a willing one should lead.
    pub(super) fn is_willing(&self) -> bool {
        !self.disk_low && !self.is_stopping
    }

    /// Nothing may be proposed: what was is being settled.
    pub fn holds_proposals(&self) -> bool {
        let leaving = self.leaving.as_ref();
        self.is_established_leader() && leaving.is_some_and(|it| it.held_until.is_some())
    }

    /// Whether every voter is in step, and one that stands before this leader in the shard's order
    /// could lead instead.
    pub fn should_be_led_by_another(&self) -> bool {
        let Phase::Leading(leader) = &self.phase else {
            return false;
        };
        let in_step = |server| {
            leader.learners().any(|(learner, it)| {
                learner == server && it.voter && it.stage() == LearnerStage::UpToDate
            })
        };
        let me = self.membership.me;
        let voters = &self.membership.voters;
        self.is_established_leader()
            && voters[0] != me
            && voters.iter().all(|&voter| voter == me || in_step(voter))
    }

    /// Whether a leadership is to be handed over because this server stops, or has not arrived.
    pub fn is_handing_over(&self) -> bool {
        self.holds_proposals() || self.succession_by.is_some()
    }

    /// What was given up in order to stop is somebody's soon.
    pub(super) fn await_successor(&mut self, now: Instant) {
        if self.is_stopping {
            self.succession_by = Some(now + Duration::from_ms(SUCCESSION_MS_MAX));
        }
    }

    /// There is a leader again.
    pub(super) fn on_successor(&mut self) {
        self.succession_by = None;
        self.futile_elections = 0;
    }

    pub(super) fn leaving_deadline(&self) -> Option<Instant> {
        let held_until = self.leaving.as_ref().and_then(|leaving| leaving.held_until);
        [held_until, self.succession_by].into_iter().flatten().min()
    }

    /// What took too long is not waited for: a leadership goes on.
    pub(super) fn on_leaving_time(&mut self, now: Instant) {
        self.leaving.take_if(|leaving| leaving.held_until.is_some_and(|at| at <= now));
        self.succession_by.take_if(|at| *at <= now);
    }

    /// Why this leader may step down now: it wants to, and no entry of its log is in doubt.
    pub fn reason_to_leave(&self) -> Option<&'static str> {
        let (Phase::Leading(leader), Some(leaving)) = (&self.phase, &self.leaving) else {
            return None;
        };
        let is_settled = match leaving.held_until {
            // Followers answer their clients when they have applied an entry, and may ask nobody
            // about it after the leader has gone.
            Some(_) => leader.is_followed_by_all(&self.log),
            None => leader.can_be_followed(&self.log),
        };
        is_settled.then_some(leaving.why)
    }
}
