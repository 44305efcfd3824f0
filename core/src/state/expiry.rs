//! When sessions expire (ZooKeeper's `ExpiryQueue`): buckets of one tick, volatile, leader only.
//!
//! A session's end is rounded up to a tick, so that thousands of touches a second cost almost
//! nothing: most of them stay in their bucket. Nothing here is replicated. A new leader gives every
//! session its full timeout again.

use alloc::collections::{BTreeMap, BTreeSet};

use crate::base::id::SessionId;
use crate::base::time::{Duration, Instant};

/// The deadlines of every session whose home this is.
#[derive(Clone, Debug)]
pub struct ExpiryQueue {
    tick: Duration,
    /// By the end of the tick in which its sessions expire.
    buckets: BTreeMap<Instant, BTreeSet<SessionId>>,
    ends: BTreeMap<SessionId, Instant>,
}

impl ExpiryQueue {
    pub fn new(tick: Duration) -> Self {
        assert!(tick > Duration::ZERO, "time passes");
        Self { tick, buckets: BTreeMap::new(), ends: BTreeMap::new() }
    }

    /// The session was heard of: it lives for another timeout. Never shortens its life.
    pub fn touch(&mut self, session: SessionId, timeout: Duration, now: Instant) {
        let end = self.round_up(now + timeout);
        let known = self.ends.get(&session).copied();
        if known.is_some_and(|known| known >= end) {
            return;
        }
        if let Some(known) = known {
            self.leave_bucket(session, known);
        }
        self.ends.insert(session, end);
        let is_new = self.buckets.entry(end).or_default().insert(session);
        assert!(is_new, "a session is in one bucket");
    }

    /// The session is closing: nobody waits for its end any more.
    pub fn forget(&mut self, session: SessionId) {
        if let Some(end) = self.ends.remove(&session) {
            self.leave_bucket(session, end);
        }
    }

    /// Takes out the next session whose time is up, earliest tick first, then by id. Whoever cannot
    /// close it touches it again.
    pub fn pop_due(&mut self, now: Instant) -> Option<SessionId> {
        let mut bucket = self.buckets.first_entry().filter(|first| *first.key() <= now)?;
        let session = bucket.get_mut().pop_first().expect("no bucket is empty");
        if bucket.get().is_empty() {
            bucket.remove();
        }
        self.ends.remove(&session);
        Some(session)
    }

    /// A new leader knows nobody's last touch: everybody gets a full timeout.
    pub fn reset(
        &mut self,
        sessions: impl IntoIterator<Item = (SessionId, Duration)>,
        now: Instant,
    ) {
        self.buckets.clear();
        self.ends.clear();
        for (session, timeout) in sessions {
            self.touch(session, timeout, now);
        }
    }

    /// When [`Self::pop_due`] has something to say, if nobody is touched before.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.buckets.keys().next().copied()
    }

    /// When the session ends if nothing is heard of it.
    pub fn end_of(&self, session: SessionId) -> Option<Instant> {
        self.ends.get(&session).copied()
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The end of the tick that follows, as ZooKeeper rounds: never early, at most a tick late.
    fn round_up(&self, end: Instant) -> Instant {
        Instant((end.0 / self.tick.0 + 1) * self.tick.0)
    }

    fn leave_bucket(&mut self, session: SessionId, end: Instant) {
        let bucket = self.buckets.get_mut(&end);
        let bucket = bucket.expect("a session's bucket exists");
        assert!(bucket.remove(&session), "{session} was in its bucket");
        if bucket.is_empty() {
            self.buckets.remove(&end);
        }
    }
}
