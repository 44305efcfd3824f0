//! What a majority of the voters holds, and whose disk alone is lacking for one.

use alloc::vec::Vec;

use crate::base::id::{ServerId, Zxid};
use crate::peer::message::PeerMessage;
use crate::zab::Action;
use crate::zab::lead::{Leader, Learner};

impl Leader {
    /// The newest zxid that a majority of the voters has on disk.
    pub(super) fn majority_acked(&self) -> Zxid {
        self.acked()[self.voters.len() / 2].0
    }

    /// Counts a quorum round as confirmed when a majority of the voters has.
    pub(super) fn count_confirmations(&mut self) {
        let confirmed = |learner: &Learner| learner.voter.then_some(learner.confirmed_round);
        let rounds = self.newest_first(self.begun_round, confirmed);
        self.confirmed_round = self.confirmed_round.max(rounds[self.voters.len() / 2].0);
    }

    /// Tells every learner that counts up to where its disk is all that a majority lacks: it then
    /// commits by itself. A commit of this leader would say no more.
    pub(super) fn tell_who_completes(&mut self, out: &mut Vec<Action>) {
        if !core::mem::take(&mut self.has_new_acks) {
            return;
        }
        let acked = self.acked();
        let lacking_one = self.voters.len() / 2;
        let mut news: Vec<(Zxid, Vec<ServerId>)> = Vec::new();
        for (&server, learner) in &mut self.learners {
            if !learner.counts_in_epoch() {
                continue;
            }
            let mut others = acked.iter().filter(|(_, voter)| *voter != server);
            let &(zxid, _) = others.nth(lacking_one - 1).expect("there is another voter");
            if zxid <= learner.completes || zxid.epoch() != self.epoch {
                continue;
            }
            learner.completes = zxid;
            match news.iter_mut().find(|(said, _)| *said == zxid) {
                Some((_, to)) => to.push(server),
                None => news.push((zxid, Vec::from([server]))),
            }
        }
        for (zxid, to) in news {
            self.completed_elsewhere = self.completed_elsewhere.max(zxid);
            let message = PeerMessage::CommitOnceDurable { epoch: self.epoch.0, zxid: zxid.0 };
            out.push(Action::Broadcast { to, message });
        }
    }

    /// What each voter has on disk, as far as it counts; the newest first.
    fn acked(&self) -> Vec<(Zxid, ServerId)> {
        let own = if self.own_entered { self.own_acked } else { Zxid::ZERO };
        self.newest_first(own, |learner| learner.counts_in_epoch().then_some(learner.acked))
    }

    /// What each voter has come to: what is at place `n` is held by `n + 1` of them.
    fn newest_first<T: Copy + Ord + Default>(
        &self,
        own: T,
        of: impl Fn(&Learner) -> Option<T>,
    ) -> Vec<(T, ServerId)> {
        let held = |voter: ServerId| {
            if voter == self.me {
                return own;
            }
            self.learners.get(&voter).and_then(&of).unwrap_or_default()
        };
        let mut all: Vec<_> = self.voters.iter().map(|&voter| (held(voter), voter)).collect();
        all.sort_unstable_by(|left, right| right.cmp(left));
        all
    }
}
