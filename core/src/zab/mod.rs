//! ZAB for one shard on one server: election, discovery, synchronization, broadcast.
//!
//! This wing orders opaque entries; it knows no tree. Election only proposes a leader: all safety
//! lies in discovery (an accepted epoch shuts out lower ones) and synchronization (a new epoch
//! begins with a history that a quorum holds). One phase is one type in one file.

pub mod admission;
pub mod discovery;
pub mod election;
pub mod follow;
pub mod lead;
mod leaving;
pub mod log;
pub mod sync;
pub mod transfer;

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::base::id::{DiskId, Epoch, Sequence, ServerId, ShardId, Zxid};
use crate::base::prng::Prng;
use crate::base::time::{Instant, Periods};
use crate::durable::{Durable, LogMark, Record};
use crate::entry::EntryKind;
use crate::peer::message::{PeerMessage, PeerState, Vote};
use crate::zab::admission::{Admitted, Identity};
use crate::zab::election::Election;
use crate::zab::follow::Follower;
use crate::zab::lead::{Leader, Learner};
use crate::zab::leaving::Leaving;
use crate::zab::log::{Log, LogLimits, Restored};

/// One shard's place in the ensemble, as one server sees it.
#[derive(Clone, Debug)]
pub struct Membership {
    pub me: ServerId,
    pub shard: ShardId,
    /// In order of preference for leadership; the position is the rank in elections.
    pub voters: Vec<ServerId>,
    pub observers: Vec<ServerId>,
    pub identity: Identity,
}

/// What the protocol asks for. The order matters: riders speak of what was appended before them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    Append {
        sequence: Sequence,
        record: Record,
        riders: Vec<(ServerId, PeerMessage)>,
    },
    Send {
        to: ServerId,
        message: PeerMessage,
    },
    /// The same to several, encoded once.
    Broadcast {
        to: Vec<ServerId>,
        message: PeerMessage,
    },
    /// The peer broke the protocol or can no longer be trusted to be in step: drop its link.
    Disconnect {
        peer: ServerId,
        why: &'static str,
    },
    /// A learner needs the state itself: an image of what is applied here, with a
    /// [`Zab::begin_transfer`] before it.
    Image {
        learner: ServerId,
        attempt: u32,
    },
    Event(Event),
}

/// What an operator would want to read in a log, and a story in its transcript.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    Looking {
        round: u64,
        why: &'static str,
    },
    Elected {
        leader: ServerId,
        round: u64,
    },
    EpochProposed {
        epoch: Epoch,
    },
    Synchronized {
        leader: ServerId,
        epoch: Epoch,
    },
    Established {
        epoch: Epoch,
        at: Zxid,
    },
    Plan {
        learner: ServerId,
        plan: Plan,
        from: Zxid,
        to: Zxid,
    },
    Truncated {
        to: Zxid,
        from: Zxid,
    },
    /// A leader asked for a truncation below what is known to be committed.
    TruncationRefused {
        to: Zxid,
        committed: Zxid,
    },
    /// A leader offered a snapshot of a state before what is known to be committed.
    SnapshotRefused {
        at: Zxid,
        committed: Zxid,
    },
    /// A leader's snapshot has taken the history's place.
    Installed {
        at: Zxid,
    },
    /// Replicas have different trees at this point, and no majority is alike.
    DigestsDiffer {
        at: Zxid,
    },
    /// A learner knows of a longer history than the leader that it chose.
    LearnerAhead {
        learner: ServerId,
        epoch: Epoch,
        zxid: Zxid,
    },
}

/// How a learner's history becomes the leader's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plan {
    Diff,
    Truncate,
    Snapshot,
}

/// The four states of a server, with what belongs to each.
pub enum Phase {
    Looking(Election),
    Following(Follower),
    Leading(Leader),
}

pub struct Zab {
    membership: Membership,
    periods: Periods,
    log: Log,
    prng: Prng,
    /// The logical clock of elections; grows with each.
    round: u64,
    /// Elections since this server last had a leader to serve under.
    futile_elections: u32,
    /// Numbers this server's attempts to join a leader.
    attempt: u32,
    /// The disks that count, by the entries applied up to this zxid.
    admitted: Admitted,
    admitted_at: Zxid,
    /// There may be disks to admit.
    admission_due: bool,
    disk_low: bool,
    is_stopping: bool,
    /// The leadership is to be given up as soon as that costs nothing.
    leaving: Option<Leaving>,
    /// Until then it waits for another leader of what it has given up in order to stop.
    succession_by: Option<Instant>,
    /// Peers that can be talked to right now.
    linked: BTreeSet<ServerId>,
    phase: Phase,
}

impl Zab {
    /// Begins LOOKING, with the log that recovery found, and the disks that were admitted at its
    /// base.
    #[expect(clippy::too_many_arguments, reason = "all of it is what a server begins with")]
    pub fn new(
        membership: Membership,
        periods: Periods,
        restored: Restored,
        limits: LogLimits,
        admitted: Admitted,
        seed: u64,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> Self {
        assert_eq!(membership.shard, restored.shard);
        let admitted_at = restored.base.zxid;
        let mut zab = Self {
            membership,
            periods,
            log: Log::new(restored, limits),
            prng: Prng::new(seed),
            round: 0,
            futile_elections: 0,
            attempt: 0,
            admitted,
            admitted_at,
            admission_due: false,
            disk_low: false,
            is_stopping: false,
            leaving: None,
            succession_by: None,
            linked: BTreeSet::new(),
            phase: Phase::Looking(Election::waiting(None)),
        };
        zab.look(now, "start", out);
        zab
    }

    pub fn on_message(
        &mut self,
        now: Instant,
        from: ServerId,
        message: PeerMessage,
        out: &mut Vec<Action>,
    ) {
        if !self.is_member(from) {
            out.push(Action::Disconnect { peer: from, why: "not a member of the ensemble" });
            return;
        }
        match message {
            PeerMessage::Vote(vote) => self.on_vote(now, from, vote, out),
            PeerMessage::FollowerInfo { attempt, accepted_epoch, disk, is_founder, is_whole } => {
                let identity = Identity { disk: DiskId(disk), is_founder };
                let counts = is_whole && self.counts(from, identity);
                let mut learner = Learner::new(attempt, Epoch(accepted_epoch), identity);
                (learner.is_whole, learner.voter) = (is_whole, counts);
                self.on_follower_info(now, from, learner, out);
            }
            PeerMessage::AckEpoch { .. }
            | PeerMessage::AckLeader { .. }
            | PeerMessage::Ack { .. }
            | PeerMessage::ConfirmAck { .. } => self.on_learner_message(now, from, message, out),
            PeerMessage::LeaderInfo { .. }
            | PeerMessage::SyncDiff { .. }
            | PeerMessage::SyncTruncate { .. }
            | PeerMessage::SyncSnapshot { .. }
            | PeerMessage::NewLeader { .. }
            | PeerMessage::UpToDate { .. }
            | PeerMessage::Propose { .. }
            | PeerMessage::Commit { .. }
            | PeerMessage::CommitOnceDurable { .. }
            | PeerMessage::Confirm { .. } => self.on_leader_message(now, from, message, out),
            _ => out.push(Action::Disconnect { peer: from, why: "not a message of the protocol" }),
        }
    }

    /// A link to `peer` is up: whatever was said before is forgotten on both sides.
    pub fn on_peer_up(&mut self, now: Instant, peer: ServerId, out: &mut Vec<Action>) {
        self.linked.insert(peer);
        match &mut self.phase {
            Phase::Looking(_) => self.reply_vote(peer, out),
            Phase::Following(follower) if follower.leader() == peer => {
                self.ask_to_join(now, out);
            }
            Phase::Following(_) => {}
            Phase::Leading(leader) => {
                // The link may have replaced another whose end nobody has noticed.
                leader.forget(peer);
                self.check_quorum(now, out);
            }
        }
    }

    /// The link to `peer` is gone: it is suspected at once.
    pub fn on_peer_down(&mut self, now: Instant, peer: ServerId, out: &mut Vec<Action>) {
        self.linked.remove(&peer);
        match &mut self.phase {
            Phase::Looking(election) => {
                // Its vote still counts, but nobody waits for a candidate that cannot answer.
                if election.proposes(peer) {
                    self.look(now, "the link to the candidate is down", out);
                }
            }
            Phase::Following(follower) if follower.leader() == peer => {
                self.look(now, "the link to the leader is down", out);
            }
            Phase::Following(_) => {}
            Phase::Leading(leader) => {
                leader.forget(peer);
                self.check_quorum(now, out);
            }
        }
    }

    /// Records of this shard are durable here.
    pub fn on_durable(&mut self, now: Instant, mark: Durable<LogMark>, out: &mut Vec<Action>) {
        self.log.on_durable(mark);
        match self.phase {
            Phase::Looking(_) => self.start_voting_when_quiet(now, out),
            Phase::Following(_) => self.commit_what_is_durable(),
            Phase::Leading(_) => self.on_own_durable(now, out),
        }
    }

    pub fn on_time(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.on_leaving_time(now);
        match self.phase {
            Phase::Looking(_) => self.on_election_time(now, out),
            Phase::Following(_) => self.on_follower_time(now, out),
            Phase::Leading(_) => self.on_leader_time(now, out),
        }
    }

    /// Everything of this turn has been handled: proposals and commits leave now, in one frame for
    /// each follower.
    pub fn on_turn_end(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.let_proven_enter(now, out);
        if let Phase::Leading(leader) = &mut self.phase {
            leader.on_turn_end(now, &self.log, out);
            self.check_pace(now, out);
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        let of_phase = match &self.phase {
            Phase::Looking(election) => election.deadline(),
            Phase::Following(follower) => follower.deadline(),
            Phase::Leading(leader) => leader.deadline(self.periods.sync_limit),
        };
        [of_phase, self.leaving_deadline()].into_iter().flatten().min()
    }

    /// Logs and sends an entry; only an established leader may.
    pub fn propose(&mut self, kind: EntryKind, payload: &[u8], out: &mut Vec<Action>) -> Zxid {
        let Phase::Leading(leader) = &mut self.phase else { panic!("only a leader proposes") };
        assert!(leader.is_established(), "an epoch begins before it has proposals");
        leader.append(&mut self.log, kind, payload, out)
    }

    /// The number of a quorum round that begins after now; see [`Self::confirmed_round`].
    pub fn ask_confirmation(&mut self) -> u64 {
        let Phase::Leading(leader) = &mut self.phase else { panic!("only a leader is confirmed") };
        leader.ask_confirmation()
    }

    /// The newest quorum round in which a majority said that this epoch is still theirs.
    pub fn confirmed_round(&self) -> u64 {
        if let Phase::Leading(leader) = &self.phase { leader.confirmed_round() } else { 0 }
    }

    /// What any server may have acknowledged by now is at or before this zxid, as far as this
    /// epoch's leader has let it.
    pub fn acknowledged(&self) -> Zxid {
        let Phase::Leading(leader) = &self.phase else { panic!("only a leader knows") };
        self.log.committed().max(leader.completed_elsewhere())
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The zxid up to which entries may be applied here: committed, and durable on this disk.
    pub fn applicable(&self) -> Zxid {
        self.log.applicable()
    }

    pub fn state(&self) -> PeerState {
        match &self.phase {
            Phase::Looking(_) => PeerState::Looking,
            Phase::Following(_) if self.is_observer() => PeerState::Observing,
            Phase::Following(_) => PeerState::Following,
            Phase::Leading(_) => PeerState::Leading,
        }
    }

    /// The leader whose established epoch this server serves in; itself included.
    pub fn serving_leader(&self) -> Option<ServerId> {
        match &self.phase {
            Phase::Looking(_) => None,
            Phase::Following(follower) => follower.is_serving().then(|| follower.leader()),
            Phase::Leading(leader) => leader.is_established().then_some(self.membership.me),
        }
    }

    pub fn is_established_leader(&self) -> bool {
        matches!(&self.phase, Phase::Leading(leader) if leader.is_established())
    }

    /// The leader's view of its learners, for four-letter words.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// The zxid that the next proposal will get.
    pub fn next_zxid(&self) -> Zxid {
        self.log.tail().zxid.next()
    }

    /// Gives the leadership up, so that somebody else may have it.
    pub fn step_down(&mut self, now: Instant, why: &'static str, out: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Leading(_)) {
            self.look(now, why, out);
            self.await_successor(now);
        }
    }

    /// Leaves whatever phase this is for an election. Votes wait until every append of the old
    /// role is durable, so that what is said is what a crash would leave.
    fn look(&mut self, now: Instant, why: &'static str, out: &mut Vec<Action>) {
        // A peer may say that it has come to any round. Votes of the last one are all alike.
        self.round = self.round.saturating_add(1);
        // Whoever is elected although it would rather not is the best there is.
        self.leaving = None;
        let rests_until = self.rest(now);
        self.futile_elections = self.futile_elections.saturating_add(1);
        let led = matches!(self.phase, Phase::Leading(_));
        self.phase = Phase::Looking(Election::waiting(rests_until));
        out.push(Action::Event(Event::Looking { round: self.round, why }));
        self.start_voting_when_quiet(now, out);
        if led && self.is_mute() {
            // Its followers rely on their links. However long it takes until this server may vote,
            // they must not wait for it.
            self.broadcast_vote(out);
        }
    }

    fn is_observer(&self) -> bool {
        self.membership.observers.contains(&self.membership.me)
    }

    fn is_member(&self, server: ServerId) -> bool {
        self.is_voter(server) || self.membership.observers.contains(&server)
    }

    fn is_voter(&self, server: ServerId) -> bool {
        self.membership.voters.contains(&server)
    }

    fn majority(&self) -> usize {
        self.membership.voters.len() / 2 + 1
    }

    /// Votes prefer the server that stands first in the shard's order.
    fn rank(&self, server: ServerId) -> usize {
        let position = self.membership.voters.iter().position(|&voter| voter == server);
        self.membership.voters.len() - position.unwrap_or(self.membership.voters.len())
    }

    fn peers(&self) -> impl Iterator<Item = ServerId> + '_ {
        let me = self.membership.me;
        self.linked.iter().copied().filter(move |&peer| peer != me)
    }

    /// What this server answers to a vote when it is not looking itself.
    fn standing_vote(&self) -> Option<Vote> {
        let durable = self.log.durable();
        let (state, leader, established) = match &self.phase {
            Phase::Looking(_) => return None,
            Phase::Following(follower) => (PeerState::Following, follower.leader(), false),
            Phase::Leading(leader) => {
                (PeerState::Leading, self.membership.me, leader.is_established())
            }
        };
        Some(Vote {
            round: self.round,
            state,
            leader: leader.0,
            epoch: durable.current_epoch.0,
            zxid: durable.tail.zxid.0,
            established,
            counts: self.is_electable(),
            is_willing: self.is_willing(),
        })
    }
}
