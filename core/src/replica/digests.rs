//! Whether the replicas have the same tree: at fixed points of the history each tells its leader
//! the digest of its own.
//!
//! One history applied by one function makes one tree, unless a processor, a memory or this program
//! has a fault. Whoever differs from a majority stops, before it tells clients any more of what
//! nobody else holds. Where no majority agrees nobody knows who is right, and an operator hears so.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::base::id::{ServerId, Zxid};
use crate::peer::message::PeerMessage;
use crate::replica::{Deed, Replica};
use crate::zab::{Action, Event};

/// What a leader has been told, of the newest points.
#[derive(Default)]
pub(super) struct Digests {
    points: BTreeMap<Zxid, Vec<(ServerId, u128)>>,
}

/// What the replicas of one point say, together.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Verdict {
    /// Nobody differs from anybody, as far as is known.
    Alike,
    /// These differ from a majority of the voters.
    Diverged(Vec<ServerId>),
    /// Some differ, and no majority is alike.
    Unclear,
}

impl Digests {
    /// A server has told its digest. What it may have told of the point before is void.
    fn put(&mut self, zxid: Zxid, server: ServerId, digest: u128, voters: &[ServerId]) -> Verdict {
        let told = self.points.entry(zxid).or_default();
        told.retain(|(known, _)| *known != server);
        told.push((server, digest));
        let verdict = judge(told, voters);
        while self.points.len() > POINTS_MAX {
            self.points.pop_first();
        }
        verdict
    }
}

fn judge(told: &[(ServerId, u128)], voters: &[ServerId]) -> Verdict {
    let votes = |digest: u128| {
        told.iter().filter(|(server, said)| *said == digest && voters.contains(server)).count()
    };
    let Some(&(_, first)) = told.first() else {
        return Verdict::Alike;
    };
    if told.iter().all(|&(_, digest)| digest == first) {
        return Verdict::Alike;
    }
    let of_majority = told.iter().find(|&&(_, digest)| votes(digest) > voters.len() / 2);
    match of_majority {
        Some(&(_, right)) => {
            let diverged = told.iter().filter(|(_, digest)| *digest != right);
            Verdict::Diverged(diverged.map(|(server, _)| *server).collect())
        }
        None => Verdict::Unclear,
    }
}

impl Replica {
    /// Everything up to `zxid` is applied: at a point, the leader hears what that has come to.
    pub(super) fn tell_digest(&mut self, zxid: Zxid, deeds: &mut Vec<Deed>) {
        let Some(leader) = self.served else {
            return;
        };
        if !zxid.counter().is_multiple_of(ENTRIES_PER_POINT) {
            return;
        }
        let (me, digest) = (self.config.membership.me, self.state.tree().digest());
        if leader == me {
            self.on_digest(me, zxid, digest, deeds);
        } else {
            self.send(leader, PeerMessage::Digest { zxid: zxid.0, digest }, deeds);
        }
    }

    /// A server of this reign, this one included, tells of its tree.
    pub(super) fn on_digest(
        &mut self,
        from: ServerId,
        zxid: Zxid,
        digest: u128,
        deeds: &mut Vec<Deed>,
    ) {
        let me = self.config.membership.me;
        let voters = &self.config.membership.voters;
        let Some(reign) = self.reign.as_mut().filter(|_| voters.len() > 1) else {
            return;
        };
        match reign.digests.put(zxid, from, digest, voters) {
            Verdict::Alike => {}
            Verdict::Unclear => {
                deeds.push(Deed::Zab(Action::Event(Event::DigestsDiffer { at: zxid })));
            }
            Verdict::Diverged(servers) => {
                for server in servers {
                    if server == me {
                        deeds.push(Deed::Diverged(zxid));
                    } else {
                        self.send(server, PeerMessage::Diverged { zxid: zxid.0 }, deeds);
                    }
                }
            }
        }
    }

    /// The leader says that this server's tree is not that of a majority.
    pub(super) fn on_diverged(&mut self, from: ServerId, zxid: Zxid, deeds: &mut Vec<Deed>) {
        if self.served == Some(from) {
            deeds.push(Deed::Diverged(zxid));
        }
    }
}

/// How far the points of an epoch are apart: often enough to notice a fault within seconds of any
/// load, and not worth counting in what a write costs.
const ENTRIES_PER_POINT: u32 = 64;
/// Points of which a leader remembers what it was told. A learner that is further behind is
/// compared with nobody.
const POINTS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const VOTERS: [ServerId; 3] = [ServerId(3), ServerId(2), ServerId(1)];

    fn verdicts(told: &[(u8, u128)]) -> Vec<Verdict> {
        let mut digests = Digests::default();
        let put = |&(server, digest)| digests.put(Zxid(64), ServerId(server), digest, &VOTERS);
        told.iter().map(put).collect()
    }

    #[test]
    fn whoever_differs_from_a_majority_has_diverged() {
        let diverged = |server| Verdict::Diverged(Vec::from([ServerId(server)]));
        let (alike, unclear) = (Verdict::Alike, Verdict::Unclear);
        assert_eq!(
            verdicts(&[(3, 7), (1, 7), (2, 7)]),
            [alike.clone(), alike.clone(), alike.clone()]
        );
        assert_eq!(verdicts(&[(3, 7), (1, 7), (2, 8)])[2], diverged(2));
        // The last one settles it, the leader's own tree or not.
        assert_eq!(
            verdicts(&[(3, 8), (1, 7), (2, 7)]),
            [alike.clone(), unclear.clone(), diverged(3)]
        );
        assert_eq!(verdicts(&[(3, 7), (1, 8), (2, 9)]), [alike, unclear.clone(), unclear]);
        // An observer is compared, and does not count.
        assert_eq!(verdicts(&[(3, 7), (9, 8), (1, 7)])[2], diverged(9));
        assert_eq!(verdicts(&[(9, 8), (3, 7), (8, 8)])[2], Verdict::Unclear);
    }

    #[test]
    fn old_points_are_forgotten() {
        let mut digests = Digests::default();
        for point in 0..1000 {
            digests.put(Zxid(point), ServerId(3), 7, &VOTERS);
        }
        assert_eq!(digests.points.len(), POINTS_MAX);
        assert!(digests.points.contains_key(&Zxid(999)));
    }
}
