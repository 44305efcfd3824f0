//! Whose promises count: a voter is a server *and its disk*.
//!
//! A server that lost its disk has forgotten what it promised. Counted as before, it would be the
//! second vote for a history without entries that it had once helped to commit. So each voter's
//! disk is named by an entry of the log, and another disk under the same id is a learner and no
//! more, until an entry that names it is committed by a majority of the voters without it: then
//! whatever was ever committed is on the disks that count, and on its own as well.
//!
//! In a new cluster there is no such entry yet. There, the disks that took part in its formation
//! count, because none of them can have forgotten anything from before. A disk that came later
//! knows that it did, whatever its log says: two servers that lost their data find the third one's
//! cluster, but never each other for a quorum. The first entry names every voter at once, so that
//! no part of a majority is left out by it.
//!
//! What counts is judged by the committed entries, and an entry that is only logged counts against
//! the disk that it replaces but not yet for the new one. A leader therefore never counts a disk
//! that has been replaced: every quorum with it contains somebody who has logged the replacement,
//! and a leader knows whatever anybody in its quorum does.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::base::id::{DiskId, ServerId, Zxid};
use crate::base::time::Instant;
use crate::entry::{Entry, EntryKind};
use crate::txn::Admissions;
use crate::zab::lead::{Leader, LearnerStage};
use crate::zab::{Action, Phase, Zab};

/// A server's disk, as it says itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    pub disk: DiskId,
    /// The disk was there when the cluster was formed.
    pub is_founder: bool,
}

/// The disks that are named by committed entries.
pub type Admitted = BTreeMap<ServerId, DiskId>;

impl Zab {
    /// Further entries that admit disks are committed.
    pub fn set_admitted(&mut self, admitted: &Admitted, at: Zxid, out: &mut Vec<Action>) {
        self.admitted.clone_from(admitted);
        self.admitted_at = at;
        self.admission_due = true;
        let Phase::Leading(leader) = &self.phase else {
            return;
        };
        let learners = leader.learners();
        let judged: Vec<(ServerId, bool)> = learners
            .map(|(server, it)| (server, it.is_whole && self.counts(server, it.identity)))
            .collect();
        let Phase::Leading(leader) = &mut self.phase else {
            unreachable!("it was just looked at");
        };
        for (server, counts) in judged {
            if let Some(learner) = leader.learner(server) {
                learner.voter = counts;
            }
        }
        self.advance_commit(out);
    }

    /// Leaves a leadership that has no ground any more, because other disks count than before.
    pub fn check_standing(&mut self, now: Instant, out: &mut Vec<Action>) {
        if !self.admission_due || !self.is_established_leader() {
            return;
        }
        if self.is_electable() {
            self.check_quorum(now, out);
        } else {
            self.look(now, "another disk of this server counts", out);
        }
    }

    /// Whether there may be disks to admit that were not there before.
    pub fn is_admission_due(&self) -> bool {
        self.admission_due && self.is_established_leader()
    }

    /// The disks that an established leader should have admitted, all in one entry.
    pub fn disks_to_admit(&mut self) -> Vec<(ServerId, DiskId)> {
        self.admission_due = false;
        let Phase::Leading(leader) = &self.phase else {
            return Vec::new();
        };
        let own = (self.membership.me, self.membership.identity);
        let learners = leader
            .learners()
            .filter(|(server, it)| self.is_voter(*server) && it.stage >= LearnerStage::Entered)
            .map(|(server, it)| (server, it.identity));
        let present: Vec<(ServerId, Identity)> = [own].into_iter().chain(learners).collect();
        let everybody = present.len() == self.membership.voters.len();
        let somebody_came_later = present.iter().any(|(_, it)| !it.is_founder);
        if self.admitted.is_empty() && !everybody && !somebody_came_later {
            return Vec::new();
        }
        let is_new = |(server, it): &(ServerId, Identity)| {
            self.admitted.get(server) != Some(&it.disk) && !self.is_replaced(*server, it.disk)
        };
        let disks = present.into_iter().filter(is_new);
        disks.map(|(server, it)| (server, it.disk)).collect()
    }

    /// Lets learners with damaged logs enter the epoch and count again, once that is proven to be
    /// safe ([`Leader::is_proven_to`]), and asks for the proof.
    pub(super) fn let_proven_enter(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Phase::Leading(leader) = &self.phase else {
            return;
        };
        let waiting = leader.learners().filter(|(_, it)| it.waits_for_proof);
        let judged: Vec<(ServerId, bool)> =
            waiting.map(|(server, it)| (server, self.counts(server, it.identity))).collect();
        for (server, counts) in judged {
            let Phase::Leading(leader) = &mut self.phase else {
                unreachable!("it was just looked at");
            };
            let is_proven = leader.is_proven_to(server);
            let next_round = leader.next_round();
            let learner = leader.learner(server).expect("it was just looked at");
            if is_proven {
                (learner.is_whole, learner.voter) = (true, counts);
                self.catch_up(now, server, out);
            } else if learner.proof_round.is_none() {
                learner.proof_round = Some(next_round);
                leader.ask_confirmation();
            }
        }
    }

    /// Whether this server's own vote counts.
    pub(super) fn is_electable(&self) -> bool {
        let is_whole = !self.log.is_unknown();
        is_whole && !self.is_observer() && self.counts(self.membership.me, self.membership.identity)
    }

    /// Whether the promises of a server with this disk count.
    pub(super) fn counts(&self, server: ServerId, identity: Identity) -> bool {
        if !self.is_voter(server) || self.is_replaced(server, identity.disk) {
            return false;
        }
        match self.admitted.get(&server) {
            Some(&disk) => disk == identity.disk,
            None => self.admitted.is_empty() && identity.is_founder,
        }
    }

    /// Whether a logged entry, committed or not, names another disk of the server.
    fn is_replaced(&self, server: ServerId, disk: DiskId) -> bool {
        let later = self.log.entries_after(self.admitted_at);
        let mut admissions = later.filter(|entry| entry.kind() == EntryKind::Admission);
        admissions
            .any(|entry| named(entry).iter().any(|&(id, other)| id == server && other != disk))
    }
}

impl Leader {
    /// Whether a learner with a damaged log may enter the epoch, and so forget that it was damaged.
    ///
    /// The epoch was established without it: its history holds whatever the learner may have helped
    /// to commit before. The learner may also have forgotten that it promised itself to a later
    /// epoch, so a majority of the others has said once more, after it came, that this one is still
    /// theirs.
    pub(super) fn is_proven_to(&self, server: ServerId) -> bool {
        let round =
            self.learners().find(|(it, _)| *it == server).and_then(|(_, it)| it.proof_round);
        self.is_established() && round.is_some_and(|round| round <= self.confirmed_round())
    }
}

/// The disks that an entry names.
pub fn named(entry: &Entry) -> Vec<(ServerId, DiskId)> {
    let admissions = Admissions::view(entry.payload());
    let admissions = admissions.expect("a hash-checked entry holds admissions");
    let voters = admissions.voters.iter();
    voters.map(|it| (ServerId(it.server), DiskId(it.disk.to_native()))).collect()
}
