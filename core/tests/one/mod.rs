//! One server's protocol and nothing around it: a test is its peers, its clock and its disk.

use pigeonhole_core::base::id::{DiskId, Epoch, Sequence, ServerId, ShardId, Zxid};
use pigeonhole_core::base::time::{Duration, Instant, Periods};
use pigeonhole_core::durable::{Durable, LogMark};
use pigeonhole_core::entry::{Entry, EntryKind};
use pigeonhole_core::peer::message::{EpochEnd, PeerMessage, PeerState, Vote};
use pigeonhole_core::zab::admission::{Admitted, Identity};
use pigeonhole_core::zab::log::{LogLimits, Mark, Restored};
use pigeonhole_core::zab::{Action, Membership, Zab};

pub(crate) const SHARD: ShardId = ShardId(0);

/// A server whose disk is as fast as the test wants it.
pub(crate) struct One {
    pub(crate) zab: Zab,
    pub(crate) now: Instant,
    appended: Option<Sequence>,
}

/// What it said, to whom.
pub(crate) type Said = Vec<(ServerId, PeerMessage)>;

impl One {
    pub(crate) fn new(me: u8, voters: u8, entries: Vec<Entry>, committed: Zxid) -> Self {
        Self::restored(me, voters, restored(entries, committed))
    }

    pub(crate) fn restored(me: u8, voters: u8, restored: Restored) -> Self {
        let membership = Membership {
            me: ServerId(me),
            shard: SHARD,
            voters: (1..=voters).rev().map(ServerId).collect(),
            observers: vec![],
            identity: Identity { disk: DiskId(1), is_founder: true },
        };
        let now = Instant(1_000_000);
        let mut out = vec![];
        let zab = Zab::new(
            membership,
            Periods::default(),
            restored,
            LogLimits::default(),
            Admitted::new(),
            1,
            now,
            &mut out,
        );
        let mut one = Self { zab, now, appended: None };
        one.hear(out);
        for peer in (1..=voters).filter(|&peer| peer != me) {
            one.up(peer);
        }
        one
    }

    /// What the actions say; what is appended stays volatile.
    pub(crate) fn hear(&mut self, actions: Vec<Action>) -> Said {
        let mut said = vec![];
        for action in actions {
            match action {
                Action::Append { sequence, riders, .. } => {
                    self.appended = Some(sequence);
                    said.extend(riders);
                }
                Action::Send { to, message } => said.push((to, message)),
                Action::Broadcast { to, message } => {
                    said.extend(to.into_iter().map(|to| (to, message.clone())));
                }
                Action::Image { .. } => panic!("everything is in memory"),
                Action::Disconnect { .. } | Action::Event(_) => {}
            }
        }
        said
    }

    pub(crate) fn up(&mut self, peer: u8) -> Said {
        let mut out = vec![];
        self.zab.on_peer_up(self.now, ServerId(peer), &mut out);
        self.hear(out)
    }

    pub(crate) fn tell(&mut self, from: u8, message: PeerMessage) -> Said {
        let mut out = vec![];
        self.zab.on_message(self.now, ServerId(from), message, &mut out);
        self.hear(out)
    }

    /// Everything appended becomes durable, and what follows from it too.
    pub(crate) fn sync(&mut self) -> Said {
        let mut said = vec![];
        while let Some(sequence) = self.appended.take() {
            let mark = LogMark { shard: SHARD, sequence };
            let mut out = vec![];
            self.zab.on_durable(self.now, Durable::attest(mark), &mut out);
            said.extend(self.hear(out));
        }
        let mut out = vec![];
        self.zab.on_turn_end(self.now, &mut out);
        said.extend(self.hear(out));
        said
    }

    pub(crate) fn advance(&mut self, milliseconds: u64) -> Said {
        let end = self.now + Duration::from_ms(milliseconds);
        let mut said = vec![];
        while let Some(at) = self.zab.deadline().filter(|&at| at <= end) {
            self.now = at.max(self.now);
            let mut out = vec![];
            self.zab.on_time(self.now, &mut out);
            said.extend(self.hear(out));
            said.extend(self.sync());
        }
        self.now = end;
        said
    }

    /// Follows the highest id, which leads already; gives the attempt.
    pub(crate) fn follow(&mut self, leader: u8) -> u32 {
        let vote = Vote {
            round: 1,
            state: PeerState::Leading,
            leader,
            epoch: 9,
            zxid: 0,
            established: true,
            counts: true,
            is_willing: true,
        };
        let said = self.tell(leader, PeerMessage::Vote(vote));
        attempt_in(&said).expect("it asks to join")
    }

    /// Follows from the beginning of an epoch, with nothing in the log.
    pub(crate) fn serve_under(&mut self, leader: u8, epoch: u32) {
        let attempt = self.follow(leader);
        self.tell(leader, PeerMessage::LeaderInfo { attempt, epoch });
        self.sync();
        let tail = EpochEnd { zxid: 0, hash: 0 };
        self.tell(leader, PeerMessage::SyncDiff { attempt, epoch, tail });
        self.tell(leader, PeerMessage::NewLeader { epoch, tail });
        self.sync();
        self.tell(leader, PeerMessage::UpToDate { epoch, committed_zxid: 0 });
    }

    /// Is elected by the votes of all others.
    pub(crate) fn be_elected(&mut self) {
        let me = self.zab.membership().me;
        let others: Vec<ServerId> = self.zab.membership().voters.clone();
        for other in others.into_iter().filter(|&other| other != me) {
            self.tell(other.0, PeerMessage::Vote(looking(1, me.0)));
        }
        assert_eq!(self.zab.state(), PeerState::Leading);
    }

    /// Takes `learners` through discovery: they have accepted the epoch.
    pub(crate) fn be_accepted_by(&mut self, learners: &[u8]) {
        self.be_elected();
        for &learner in learners {
            self.tell(learner, follower_info(1, 0));
        }
        self.sync();
        for &learner in learners {
            self.tell(learner, ack_epoch(1, 1));
        }
        self.sync();
    }

    /// Takes `learners` through discovery and synchronization until the epoch is established.
    pub(crate) fn be_established(&mut self, learners: &[u8]) {
        self.be_accepted_by(learners);
        for &learner in learners {
            self.tell(learner, PeerMessage::AckLeader { epoch: 1, zxid: 0 });
        }
        self.sync();
        let zxid = Zxid::new(Epoch(1), 1).0;
        for &learner in learners {
            self.tell(learner, PeerMessage::Ack { epoch: 1, zxid });
        }
        self.sync();
        assert!(self.zab.is_established_leader());
    }
}

pub(crate) fn restored(entries: Vec<Entry>, committed: Zxid) -> Restored {
    let epoch = entries.last().map_or(Epoch(0), |it| it.zxid().epoch());
    Restored {
        shard: SHARD,
        next_sequence: Sequence(1),
        accepted_epoch: epoch,
        current_epoch: epoch,
        committed,
        base: Mark::default(),
        entries,
        snapshot: Zxid::ZERO,
        is_unknown: false,
    }
}

pub(crate) fn looking(round: u64, leader: u8) -> Vote {
    let state = PeerState::Looking;
    let (established, counts, is_willing) = (false, true, true);
    Vote { round, state, leader, epoch: 0, zxid: 0, established, counts, is_willing }
}

pub(crate) fn follower_info(attempt: u32, accepted_epoch: u32) -> PeerMessage {
    let (is_founder, is_whole) = (true, true);
    PeerMessage::FollowerInfo { attempt, accepted_epoch, disk: 0, is_founder, is_whole }
}

pub(crate) fn ack_epoch(attempt: u32, epoch: u32) -> PeerMessage {
    PeerMessage::AckEpoch {
        attempt,
        epoch,
        counted: true,
        current_epoch: 0,
        tail: EpochEnd { zxid: 0, hash: 0 },
        committed_zxid: 0,
        index: vec![],
    }
}

pub(crate) fn attempt_in(said: &Said) -> Option<u32> {
    said.iter().find_map(|(_, message)| match message {
        PeerMessage::FollowerInfo { attempt, .. } => Some(*attempt),
        _ => None,
    })
}

pub(crate) fn entry(epoch: u32, counter: u32, previous: Option<&Entry>) -> Entry {
    let zxid = Zxid::new(Epoch(epoch), counter);
    let hash = previous.map_or_else(Default::default, Entry::hash);
    let kind = if counter == 1 { EntryKind::EpochStart } else { EntryKind::Format };
    Entry::new(kind, SHARD, zxid, hash, &[])
}

pub(crate) fn mark(entry: &Entry) -> EpochEnd {
    EpochEnd { zxid: entry.zxid().0, hash: entry.hash().0 }
}
