//! LOOKING: votes are exchanged until a quorum agrees on a leader (FastLeaderElection's order).
//!
//! The result is a hint. A wrong one costs time, never data: discovery refuses a leader that knows
//! less than a quorum does.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::base::id::{Epoch, ServerId, Zxid};
use crate::base::time::{Duration, Instant};
use crate::peer::message::{PeerMessage, PeerState, Vote};
use crate::zab::{Action, Event, Phase, Zab};

/// Whom a vote is for, and why: compared field by field.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Candidate {
    epoch: Epoch,
    zxid: Zxid,
    /// Of two that know the same, one whose disk has room, and that is not about to stop.
    is_willing: bool,
    rank: usize,
    leader: ServerId,
}

impl Candidate {
    /// Below every voter's candidate, so that the name of a server that does not count never
    /// travels.
    fn nobody(me: ServerId) -> Self {
        Self { epoch: Epoch(0), zxid: Zxid::ZERO, is_willing: false, rank: 0, leader: me }
    }
}

pub struct Election {
    /// `None` until everything appended is durable: before that, nothing can be claimed. And while
    /// this server rests.
    voting: Option<Voting>,
    rests_until: Option<Instant>,
}

struct Voting {
    proposal: Candidate,
    /// Votes of this round, the own one included.
    votes: BTreeMap<ServerId, Candidate>,
    /// A quorum agrees; better votes are waited for until then.
    settled_at: Option<Instant>,
    repeat_at: Instant,
}

impl Election {
    pub(super) fn waiting(rests_until: Option<Instant>) -> Self {
        Self { voting: None, rests_until }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let Some(voting) = &self.voting else {
            return self.rests_until;
        };
        Some(voting.settled_at.map_or(voting.repeat_at, |at| at.min(voting.repeat_at)))
    }

    pub(super) fn proposes(&self, server: ServerId) -> bool {
        self.voting.as_ref().is_some_and(|voting| voting.proposal.leader == server)
    }
}

impl Zab {
    /// Until when this server should rest before it votes again.
    pub(super) fn rest(&mut self, now: Instant) -> Option<Instant> {
        let doublings = self.futile_elections.checked_sub(QUICK_ELECTIONS)?;
        let shortest = self.periods.vote_settle.0;
        Some(now + self.half_as_long_again(Duration(shortest << doublings.min(REST_DOUBLINGS_MAX))))
    }

    pub(super) fn start_voting_when_quiet(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Phase::Looking(election) = &mut self.phase else {
            return;
        };
        election.rests_until.take_if(|at| *at <= now);
        if election.voting.is_some() || election.rests_until.is_some() || !self.log.is_quiet() {
            return;
        }
        let own = self.own_candidate();
        let votes = if self.is_electable() {
            BTreeMap::from([(self.membership.me, own)])
        } else {
            BTreeMap::new()
        };
        let repeat_at = now + self.periods.vote;
        let voting = Voting { proposal: own, votes, settled_at: None, repeat_at };
        self.phase = Phase::Looking(Election { voting: Some(voting), rests_until: None });
        self.broadcast_vote(out);
        self.count_votes(now, out);
    }

    pub(super) fn on_vote(
        &mut self,
        now: Instant,
        from: ServerId,
        vote: Vote,
        out: &mut Vec<Action>,
    ) {
        match vote.state {
            PeerState::Looking => self.on_looking_vote(now, from, vote, out),
            PeerState::Leading => self.on_leading_vote(now, from, vote, out),
            PeerState::Following | PeerState::Observing => {
                if let Phase::Following(follower) = &self.phase
                    && follower.leader() == from
                {
                    self.look(now, "the leader follows another", out);
                }
            }
        }
    }

    pub(super) fn on_election_time(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.start_voting_when_quiet(now, out);
        let Phase::Looking(Election { voting: Some(voting), .. }) = &mut self.phase else {
            return;
        };
        if voting.repeat_at <= now {
            voting.repeat_at = now + self.periods.vote;
            self.broadcast_vote(out);
        }
        self.count_votes(now, out);
    }

    fn on_looking_vote(&mut self, now: Instant, from: ServerId, vote: Vote, out: &mut Vec<Action>) {
        if let Phase::Following(follower) = &self.phase
            && follower.leader() == from
        {
            if follower.is_no_news(&vote) {
                self.agree_again(now, from, vote, out);
                return;
            }
            self.look(now, "the leader is looking for a leader itself", out);
        } else if let Phase::Leading(leader) = &mut self.phase {
            leader.forget(from);
            self.check_quorum(now, out);
        }
        if let Some(standing) = self.standing_vote() {
            out.push(Action::Send { to: from, message: PeerMessage::Vote(standing) });
            return;
        }
        if !self.is_voter(from) || !vote.counts {
            return;
        }
        let candidate = self.candidate(vote);
        let own = self.own_candidate();
        let is_electable = self.is_electable();
        if candidate.leader == self.membership.me && !is_electable {
            // Meant is this server as it was before it lost what it held. It must not lead: what
            // it has left of its epochs would hide from discovery how much others know.
            return;
        }
        let round = self.round;
        let Phase::Looking(Election { voting: Some(voting), .. }) = &mut self.phase else {
            return;
        };
        if vote.round < round {
            self.reply_vote(from, out);
            return;
        }
        let before = voting.proposal;
        if vote.round > round {
            self.round = vote.round;
            voting.votes.clear();
            voting.settled_at = None;
            voting.proposal = own;
        }
        voting.proposal = voting.proposal.max(candidate);
        let is_news = voting.votes.insert(from, candidate) != Some(candidate);
        if is_electable {
            voting.votes.insert(self.membership.me, voting.proposal);
        }
        if voting.proposal != before || vote.round > round {
            voting.settled_at = None;
            self.broadcast_vote(out);
        } else if is_news {
            // It may have been busy with something else when this server's vote came.
            self.reply_vote(from, out);
        }
        self.count_votes(now, out);
    }

    /// Somebody leads already, or is about to: join, if it can lead us.
    fn on_leading_vote(&mut self, now: Instant, from: ServerId, vote: Vote, out: &mut Vec<Action>) {
        let Phase::Looking(Election { voting: Some(_), .. }) = &self.phase else {
            return;
        };
        let own = self.own_candidate();
        let behind = (Epoch(vote.epoch), Zxid(vote.zxid)) < (own.epoch, own.zxid);
        if vote.leader != from.0 || !self.is_voter(from) || (behind && !vote.established) {
            return;
        }
        self.round = self.round.max(vote.round);
        self.follow(now, from, vote.round, out);
    }

    /// The leader had not counted yet when it said this. It may lack this server's vote for it.
    fn agree_again(&mut self, now: Instant, leader: ServerId, vote: Vote, out: &mut Vec<Action>) {
        if vote.leader == leader.0 {
            let vote = Vote { counts: self.is_electable(), ..vote };
            out.push(Action::Send { to: leader, message: PeerMessage::Vote(vote) });
            // If it has begun to lead meanwhile, it takes that for the word of one who looks.
            self.ask_again(now, out);
        }
    }

    fn count_votes(&mut self, now: Instant, out: &mut Vec<Action>) {
        let majority = self.majority();
        // Servers whose discovery failed together must not fail together again.
        let settle = self.periods.vote_settle;
        let settled_at = now + self.half_as_long_again(settle);
        let Phase::Looking(Election { voting: Some(voting), .. }) = &mut self.phase else {
            return;
        };
        let agreeing = voting.votes.values().filter(|&&vote| vote == voting.proposal).count();
        if agreeing < majority {
            voting.settled_at = None;
            return;
        }
        let everybody_spoke = voting.votes.len() == self.membership.voters.len();
        let settled_at = *voting.settled_at.get_or_insert(settled_at);
        if !everybody_spoke && now < settled_at {
            return;
        }
        let leader = voting.proposal.leader;
        out.push(Action::Event(Event::Elected { leader, round: self.round }));
        if leader == self.membership.me {
            self.lead(now, out);
        } else {
            self.follow(now, leader, self.round, out);
        }
    }

    /// What several servers wait for should not end for all in the same moment.
    fn half_as_long_again(&mut self, least: Duration) -> Duration {
        Duration(least.0 + self.prng.below(least.0 / 2 + 1))
    }

    pub(super) fn broadcast_vote(&self, out: &mut Vec<Action>) {
        for peer in self.peers() {
            self.reply_vote(peer, out);
        }
    }

    pub(super) fn reply_vote(&self, to: ServerId, out: &mut Vec<Action>) {
        if let Some(vote) = self.looking_vote() {
            out.push(Action::Send { to, message: PeerMessage::Vote(vote) });
        }
    }

    /// What this server says while it is looking. As long as it may not vote, it says no more than
    /// that: such a vote counts for nobody.
    pub(super) fn looking_vote(&self) -> Option<Vote> {
        let Phase::Looking(election) = &self.phase else {
            return None;
        };
        let proposal = election.voting.as_ref().map(|voting| voting.proposal);
        let counts = proposal.is_some() && self.is_electable();
        let proposal = proposal.unwrap_or(Candidate::nobody(self.membership.me));
        Some(Vote {
            round: self.round,
            state: PeerState::Looking,
            leader: proposal.leader.0,
            epoch: proposal.epoch.0,
            zxid: proposal.zxid.0,
            established: false,
            counts,
            is_willing: proposal.is_willing,
        })
    }

    /// It looks for a leader, and may not vote yet.
    pub(super) fn is_mute(&self) -> bool {
        matches!(&self.phase, Phase::Looking(Election { voting: None, .. }))
    }

    fn own_candidate(&self) -> Candidate {
        let durable = self.log.durable();
        let me = self.membership.me;
        if !self.is_electable() {
            return Candidate::nobody(me);
        }
        Candidate {
            epoch: durable.current_epoch,
            zxid: durable.tail.zxid,
            is_willing: self.is_willing(),
            rank: self.rank(me),
            leader: me,
        }
    }

    fn candidate(&self, vote: Vote) -> Candidate {
        let leader = ServerId(vote.leader);
        Candidate {
            epoch: Epoch(vote.epoch),
            zxid: Zxid(vote.zxid),
            is_willing: vote.is_willing,
            rank: self.rank(leader),
            leader,
        }
    }
}

/// So many elections in a row may come to nothing because somebody was late. After that somebody
/// does not reach whom the others elect (as in a star, whose hub hears all votes), and rests before
/// it votes again, twice as long each time.
const QUICK_ELECTIONS: u32 = 8;
/// Half a second to a second: as long as it takes to notice that a peer is gone.
const REST_DOUBLINGS_MAX: u32 = 5;
