//! What a majority of the voters holds, and whose disk alone is lacking for one.

use alloc::vec::Vec;

use crate::base::id::{ServerId, Zxid};
use crate::peer::message::PeerMessage;
use crate::zab::Action;
use crate::zab::lead::Leader;

impl Leader {
    /// The newest zxid that a majority of the voters has on disk.
    pub(super) fn majority_acked(&self) -> Zxid {
        let mut acked: Vec<Zxid> = self.voters_acked().into_iter().map(|(_, it)| it).collect();
        held_by(self.voters.len() / 2 + 1, &mut acked)
    }

    /// What each voter has on disk, as far as it counts.
    fn voters_acked(&self) -> Vec<(ServerId, Zxid)> {
        let own = if self.own_entered { self.own_acked } else { Zxid::ZERO };
        let acked = |voter: ServerId| {
            if voter == self.me {
                return own;
            }
            let counted = self.learners.get(&voter).filter(|it| it.counts_in_epoch());
            counted.map_or(Zxid::ZERO, |it| it.acked)
        };
        self.voters.iter().map(|&voter| (voter, acked(voter))).collect()
    }

    /// Tells every learner that counts up to where its disk is all that a majority lacks: it then
    /// commits by itself. A commit of this leader would say no more.
    pub(super) fn tell_who_completes(&mut self, out: &mut Vec<Action>) {
        let acked = self.voters_acked();
        let mut news: Vec<(Zxid, Vec<ServerId>)> = Vec::new();
        for (&server, learner) in &mut self.learners {
            if !learner.counts_in_epoch() {
                continue;
            }
            let others = acked.iter().filter(|(voter, _)| *voter != server);
            let mut others: Vec<Zxid> = others.map(|&(_, zxid)| zxid).collect();
            let zxid = held_by(self.voters.len() / 2, &mut others);
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

    pub(super) fn count_confirmations(&mut self) {
        let mut rounds: Vec<u64> = self
            .voters
            .iter()
            .map(|&voter| {
                if voter == self.me {
                    return self.begun_round;
                }
                self.learners
                    .get(&voter)
                    .filter(|learner| learner.voter)
                    .map_or(0, |learner| learner.confirmed_round)
            })
            .collect();
        rounds.sort_unstable_by(|left, right| right.cmp(left));
        self.confirmed_round = self.confirmed_round.max(rounds[self.voters.len() / 2]);
    }
}

/// The newest zxid that so many hold; what is first in the history is held by all who hold more.
fn held_by(count: usize, held: &mut [Zxid]) -> Zxid {
    held.sort_unstable_by(|left, right| right.cmp(left));
    held[count - 1]
}
