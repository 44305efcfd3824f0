//! Watches: one event for the first change after what the read showed, before newer data, and none
//! lost, across reconnects as well.
//!
//! - W1: a watch fires once, and no event comes without a watch (the client sees to that).
//! - W2: the event comes before any reply that shows the change.
//! - W3: a change on a live session's watch is told.
//! - W4: what happened between two connections is told when the watches are set again.

use pigeonhole_core::base::id::{ShardId, Zxid};
use pigeonhole_core::entry::EntryKind;
use pigeonhole_core::op::EventType;
use pigeonhole_core::txn::{ArchivedOperation, Txn};

use crate::check::agreement::Agreement;
use crate::history::{History, Watch, WatchOn};

/// Checks a run with one shard.
pub fn check(history: &History, agreement: &Agreement) {
    let changes = changes(agreement);
    for watch in &history.watches {
        check_one(watch, &changes);
    }
}

struct Change {
    zxid: Zxid,
    path: String,
    kind: EventType,
}

fn check_one(watch: &Watch, changes: &[Change]) {
    let start = changes.partition_point(|change| change.zxid <= watch.since);
    let expected = changes[start..].iter().find(|change| concerns(watch, change));
    match (&watch.fired, expected) {
        (None, None) => {}
        (None, Some(change)) => {
            // What came and went while nobody was connected leaves nothing to be told.
            let vanished = watch.renewed && watch.on == WatchOn::Exist;
            assert!(
                change.zxid > watch.seen || vanished,
                "W3: the change at {} was never told: {watch:?}",
                change.zxid
            );
        }
        (Some(fired), None) => panic!("W1: nothing has changed, and {fired:?} came: {watch:?}"),
        (Some(fired), Some(change)) if watch.renewed => {
            let is_early = fired.zxid.is_some_and(|zxid| zxid < change.zxid);
            assert!(!is_early, "W4: {fired:?} is too early: {watch:?}");
        }
        (Some(fired), Some(change)) => {
            assert_eq!(
                (fired.zxid.unwrap_or(change.zxid), fired.kind),
                (change.zxid, change.kind),
                "W2: another change was told: {watch:?}"
            );
            assert!(watch.seen < change.zxid, "W2: the change was seen before: {watch:?}");
        }
    }
}

fn concerns(watch: &Watch, change: &Change) -> bool {
    watch.path == change.path
        && match watch.on {
            WatchOn::Data => {
                matches!(change.kind, EventType::NodeDataChanged | EventType::NodeDeleted)
            }
            WatchOn::Exist => change.kind == EventType::NodeCreated,
            WatchOn::Child => {
                matches!(change.kind, EventType::NodeChildrenChanged | EventType::NodeDeleted)
            }
        }
}

fn changes(agreement: &Agreement) -> Vec<Change> {
    let mut changes = Vec::new();
    let Some(log) = agreement.history(ShardId(0)) else {
        return changes;
    };
    for entry in log.entries.iter().map(|committed| &committed.entry) {
        if entry.kind() != EntryKind::Txn {
            continue;
        }
        let txn = Txn::view(entry.payload()).expect("what is committed can be read");
        let mut note = |path: &str, kind| {
            changes.push(Change { zxid: entry.zxid(), path: path.to_owned(), kind });
        };
        for operation in txn.operations.iter() {
            match operation {
                ArchivedOperation::Create { path, .. } => {
                    note(path, EventType::NodeCreated);
                    note(parent(path), EventType::NodeChildrenChanged);
                }
                ArchivedOperation::Delete { path } => {
                    note(path, EventType::NodeDeleted);
                    note(parent(path), EventType::NodeChildrenChanged);
                }
                ArchivedOperation::SetData { path, .. } => note(path, EventType::NodeDataChanged),
                ArchivedOperation::SessionPurge { paths, .. } => {
                    for path in paths.iter() {
                        note(path, EventType::NodeDeleted);
                        note(parent(path), EventType::NodeChildrenChanged);
                    }
                }
                _ => {}
            }
        }
    }
    changes
}

fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => &path[..at],
    }
}
