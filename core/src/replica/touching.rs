//! What a home shard's leader hears of living sessions, and keeps in memory only: when each was
//! last alive, and what its client has seen.
//!
//! A client of a cluster with several shards sees a counter instead of zxids. Its gateway reports
//! what the counter stands for; when the client comes back on another server, that server asks. A
//! new leader knows nothing, and then everything that ever changed counts as unseen.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use crate::base::id::{CoreId, Generation, ServerId, SessionId};
use crate::base::limits::SEEN_PER_SESSION_MAX;
use crate::base::time::{Duration, Instant};
use crate::mail::{Mail, Outcome, Ticket};
use crate::peer::message::{PeerMessage, Seen, Touched};
use crate::replica::{Deed, Recipient, Replica};
use crate::txn::Origin;

/// What the clients of sessions have seen, by the word of their gateways.
#[derive(Default)]
pub(super) struct Sightings {
    sessions: BTreeMap<SessionId, Sighting>,
}

struct Sighting {
    generation: Generation,
    /// Ascending by counter.
    seen: VecDeque<Seen>,
}

impl Sightings {
    /// The session's connection of this generation says what its client has seen.
    fn note(&mut self, session: SessionId, generation: Generation, seen: Seen) {
        let known = self
            .sessions
            .entry(session)
            .or_insert_with(|| Sighting { generation, seen: VecDeque::new() });
        if generation < known.generation {
            return;
        }
        if generation > known.generation {
            // Nobody told how far the new connection's client had read, so that the counters of the
            // old one may mean something else now.
            known.generation = generation;
            known.seen.clear();
        }
        if known.seen.back().is_some_and(|newest| newest.counter >= seen.counter) {
            known.seen.pop_back();
        }
        if known.seen.len() == SEEN_PER_SESSION_MAX {
            known.seen.pop_front();
        }
        known.seen.push_back(seen);
    }

    /// The session has a new connection, whose client has read headers up to `counter`.
    fn recall(&mut self, session: SessionId, generation: Generation, counter: u64) -> Vec<Seen> {
        let Some(known) = self.sessions.get_mut(&session) else {
            return Vec::new();
        };
        if generation < known.generation {
            return Vec::new();
        }
        known.generation = generation;
        known.seen.retain(|seen| seen.counter <= counter);
        known.seen.iter().cloned().collect()
    }

    pub(super) fn forget(&mut self, session: SessionId) {
        self.sessions.remove(&session);
    }
}

impl Replica {
    /// Gives the session another timeout, if this is its leader and nobody is ending it.
    pub(super) fn touch_alive(&mut self, session: SessionId, now: Instant) -> bool {
        let Some(reign) = &mut self.reign else {
            return false;
        };
        let home = reign.overlay.home(&self.state, session);
        let Some(home) = home.filter(|home| !home.is_closing) else {
            return false;
        };
        let timeout = Duration::from_ms(u64::from(home.timeout_ms));
        reign.expiry.touch(session, timeout, now);
        true
    }

    /// Sessions were heard from, by a gateway of this node or of another. They are judged like
    /// requests, as if what is pending had happened: while this leader's disk is slow, the others
    /// commit without it, and sessions begin there that are not applied here.
    pub(super) fn on_touch(
        &mut self,
        now: Instant,
        from: Option<ServerId>,
        origin: Origin,
        sessions: &[Touched],
        deeds: &mut Vec<Deed>,
    ) {
        if self.reign.is_none() {
            if from.is_none()
                && let Some(leader) = self.served
            {
                let sessions = sessions.to_vec();
                self.send(leader, PeerMessage::Touch { origin, sessions }, deeds);
            }
            return;
        }
        let mut expired = Vec::new();
        for touched in sessions {
            let session = SessionId(touched.session);
            let generation = Generation(touched.generation);
            let reign = self.reign.as_ref();
            let home = reign.and_then(|reign| reign.overlay.home(&self.state, session));
            let is_current = home.is_some_and(|home| home.generation <= generation);
            if !is_current || (touched.is_alive && !self.touch_alive(session, now)) {
                expired.push(touched.session);
                continue;
            }
            if let (Some(seen), Some(reign)) = (&touched.seen, &mut self.reign) {
                reign.sightings.note(session, generation, seen.clone());
            }
        }
        match from {
            Some(from) => self.send(from, PeerMessage::TouchAck { origin, expired }, deeds),
            None => self.on_touch_ack(origin, &expired, deeds),
        }
    }

    pub(super) fn on_touch_ack(&mut self, origin: Origin, expired: &[u64], deeds: &mut Vec<Deed>) {
        if !self.is_mine(origin) {
            return;
        }
        let mail = Mail::Touched {
            shard: self.shard(),
            ticket: Ticket(origin.ticket),
            expired: expired.iter().copied().map(SessionId).collect(),
        };
        deeds.push(Deed::Mail { to: Recipient::Core(CoreId(origin.core)), mail });
    }

    /// The leader's answer to a question that needs no log: it is a hint, and safe when it is old,
    /// because a new connection's server learned of the renewal from this leader or a later one.
    pub(super) fn on_recall(
        &mut self,
        from: Option<ServerId>,
        origin: Origin,
        session: SessionId,
        generation: Generation,
        counter: u64,
        deeds: &mut Vec<Deed>,
    ) {
        let Some(reign) = &mut self.reign else {
            if let Some(from) = from {
                self.send(from, PeerMessage::NotProposed { origin }, deeds);
            }
            return;
        };
        let seen = reign.sightings.recall(session, generation, counter);
        match from {
            Some(from) => self.send(from, PeerMessage::Recalled { origin, seen }, deeds),
            None => self.on_recalled(origin, seen, deeds),
        }
    }

    pub(super) fn on_recalled(&mut self, origin: Origin, seen: Vec<Seen>, deeds: &mut Vec<Deed>) {
        let key = (CoreId(origin.core), Ticket(origin.ticket));
        if !self.is_mine(origin) || self.asked.remove(&key).is_none() {
            return;
        }
        let applied = self.state.applied();
        self.answer(key.0, key.1, applied, Outcome::Seen(seen), deeds);
    }
}
