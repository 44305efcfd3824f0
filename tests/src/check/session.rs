//! Sessions, as their home shards' logs and their clients tell of them, with any number of shards.
//!
//! - S1: no session expires while its client's pings are answered.
//! - S3: when a session is over, none of its ephemerals is left in any shard.
//! - S5: no server goes on with a session that its home has ended: what a client asks after that is
//!   not answered as if nothing had happened, wherever it is connected. Locks depend on it.
//! - S6: nobody is told that a session is over before it is.

use std::collections::BTreeMap;

use pigeonhole_core::base::id::SessionId;
use pigeonhole_core::entry::EntryKind;
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::txn::{ArchivedOperation, Txn};

use crate::check::agreement::{Agreement, Committed};
use crate::check::txn::is_models;
use crate::history::{Ask, History, Outcome, SessionLife};
use crate::queue::Moment;

pub fn check(history: &History, agreement: &Agreement, map: ShardMap) {
    let homes = Homes::of(agreement, map);
    for life in &history.sessions {
        if let Some(&closing) = homes.closing.get(&life.session)
            && !life.closing
        {
            check_patience(life, closing);
        }
        if let Some(told) = life.expired {
            homes.check_over(life.session, told);
        }
    }
    let endings = expiries(history, &homes);
    for operation in &history.operations {
        let Outcome::Done { result, .. } = &operation.outcome else {
            continue;
        };
        if result.as_ref().is_err_and(|&code| !is_models(code)) {
            continue;
        }
        if operation.ask == Ask::Close {
            homes.check_over(operation.session, operation.done.expect("it is done"));
        }
        if let Some(&until) = endings.get(&operation.session) {
            assert!(
                operation.invoked <= until,
                "S5: {} was over by {until}, and this was answered: {operation:?}",
                operation.session
            );
        }
    }
}

/// What the home shards have logged of their sessions.
pub(crate) struct Homes {
    /// When each session's end was proposed to begin.
    closing: BTreeMap<SessionId, Moment>,
    /// When it was known to be complete.
    ended: BTreeMap<SessionId, Moment>,
}

impl Homes {
    pub(crate) fn of(agreement: &Agreement, map: ShardMap) -> Self {
        let mut homes = Self { closing: BTreeMap::new(), ended: BTreeMap::new() };
        for shard in map.shards() {
            let entries = agreement.history(shard).map_or(&[][..], |log| log.entries.as_slice());
            for committed in entries.iter().filter(|it| it.entry.kind() == EntryKind::Txn) {
                homes.on_txn(committed);
            }
        }
        homes
    }

    /// The sessions of which nothing may be left.
    pub(crate) fn ended(&self) -> impl Iterator<Item = SessionId> {
        self.ended.keys().copied()
    }

    fn on_txn(&mut self, committed: &Committed) {
        let txn = Txn::view(committed.entry.payload()).expect("what is committed can be read");
        for operation in txn.operations.iter() {
            match operation {
                ArchivedOperation::SessionClosing { session } => {
                    self.closing.insert(SessionId(session.to_native()), committed.proposed);
                }
                ArchivedOperation::SessionEnd { session } => {
                    self.ended.insert(SessionId(session.to_native()), committed.committed);
                }
                _ => {}
            }
        }
    }

    fn check_over(&self, session: SessionId, told: Moment) {
        let ended = self.ended.get(&session);
        assert!(
            ended.is_some_and(|&ended| ended <= told),
            "S6: {session} is said to be over at {told}, and ends at {ended:?}"
        );
    }
}

/// A server answers a ping only while the home leader has heard of the session within a third of
/// its timeout; clocks run apart by a little.
fn check_patience(life: &SessionLife, closing: Moment) {
    let (session, margin) = (life.session, life.timeout_us / 3 + life.timeout_us / 40);
    for &ping in life.pings_answered.iter().filter(|&&ping| ping <= closing) {
        assert!(
            closing >= ping + (life.timeout_us - margin),
            "S1: {session} expires at {closing}, and a ping of {ping} was answered"
        );
    }
}

/// Until when a request of each session that has expired may have been sent and answered.
fn expiries(history: &History, homes: &Homes) -> BTreeMap<SessionId, Moment> {
    let lives = history.sessions.iter().filter(|life| !life.closing);
    let until = lives.filter_map(|life| {
        // Clocks run apart by a little.
        let closing = homes.closing.get(&life.session)?;
        Some((life.session, Moment(closing.0 + life.timeout_us / 40)))
    });
    until.collect()
}
