//! No server goes on with a session that its home has ended: what a client asks after that is not
//! answered as if nothing had happened, wherever it is connected. Locks depend on it.

use std::collections::BTreeMap;

use pigeonhole_core::base::id::SessionId;
use pigeonhole_core::entry::EntryKind;
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::txn::{ArchivedOperation, Txn};

use crate::check::agreement::Agreement;
use crate::check::txn::is_models;
use crate::history::{History, Outcome};
use crate::queue::Moment;

pub fn check(history: &History, agreement: &Agreement, map: ShardMap) {
    let endings = expiries(history, agreement, map);
    for operation in &history.operations {
        let Outcome::Done { result, .. } = &operation.outcome else {
            continue;
        };
        if result.as_ref().is_err_and(|&code| !is_models(code)) {
            continue;
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

/// Until when a request of each session that has expired may have been sent and answered.
fn expiries(
    history: &History,
    agreement: &Agreement,
    map: ShardMap,
) -> BTreeMap<SessionId, Moment> {
    let lives = history.sessions.iter().filter(|life| !life.closing);
    let timeouts: BTreeMap<_, _> = lives.map(|life| (life.session, life.timeout_us)).collect();
    let mut endings = BTreeMap::new();
    for shard in map.shards() {
        let entries = agreement.history(shard).map_or(&[][..], |log| log.entries.as_slice());
        for committed in entries.iter().filter(|it| it.entry.kind() == EntryKind::Txn) {
            let txn = Txn::view(committed.entry.payload()).expect("what is committed can be read");
            for operation in txn.operations.iter() {
                let ArchivedOperation::SessionClosing { session } = operation else {
                    continue;
                };
                let session = SessionId(session.to_native());
                if let Some(timeout_us) = timeouts.get(&session) {
                    // Clocks run apart by a little.
                    let until = Moment(committed.proposed.0 + timeout_us / 40);
                    endings.insert(session, until);
                }
            }
        }
    }
    endings
}
