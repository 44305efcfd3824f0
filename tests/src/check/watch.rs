//! Watches: one event for the first change after what the read showed, before newer data, and none
//! lost, across reconnects as well.
//!
//! - W1: a watch fires once, and no event comes without a watch (the client sees to that).
//! - W2: the event comes before any reply that shows the change.
//! - W3: a change on a live session's watch is told.
//! - W4: what happened between two connections is told when the watches are set again.
//! - W5: nobody hears of what he may not read: such an event uses a watch up without a word.

use pigeonhole_core::base::id::ShardId;
use pigeonhole_core::op::{EventType, permission};

use crate::check::agreement::Agreement;
use crate::check::changes::{Change, Changes};
use crate::history::{History, Watch, WatchOn};
use crate::people::permits;
use crate::sometimes::{Sometimes, State};

/// Checks a run with one shard.
pub fn check(history: &History, agreement: &Agreement, sometimes: &mut Sometimes) {
    let changes = Changes::of(agreement, ShardId(0));
    for watch in &history.watches {
        check_one(watch, &changes, sometimes);
    }
}

fn check_one(watch: &Watch, changes: &Changes, sometimes: &mut Sometimes) {
    let expected = changes.first_after(watch.since, watch);
    if let Some(change) = expected
        && !permits(&change.readers, watch.people, permission::READ)
    {
        check_withheld(watch, change, sometimes);
        return;
    }
    match (&watch.fired, expected) {
        (None, None) => {}
        (None, Some(change)) => {
            // What came and went while nobody was connected leaves nothing to be told, and nor does
            // what may not be read by the time at which somebody is.
            let is_silent = watch.on == WatchOn::Exist || changes.was_ever_hidden_from(watch);
            assert!(
                change.zxid > watch.seen || (watch.renewed && is_silent),
                "W3: the change at {} was never told: {watch:?}",
                change.zxid
            );
        }
        (Some(fired), None) => panic!("W1: nothing has changed, and {fired:?} came: {watch:?}"),
        (Some(fired), Some(change)) if watch.renewed => {
            // A data watch on the same path whose event was withheld is told when it is set
            // again, and clients take the event for both.
            let is_of_another = watch.on == WatchOn::Exist
                && fired.kind == EventType::NodeDeleted
                && changes.was_ever_hidden_from(watch);
            let is_early = fired.zxid.is_some_and(|zxid| zxid < change.zxid);
            assert!(!is_early || is_of_another, "W4: {fired:?} is too early: {watch:?}");
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

/// The watch is used up, whether its client knows that or not.
pub(crate) fn check_withheld(watch: &Watch, change: &Change, sometimes: &mut Sometimes) {
    if watch.seen >= change.zxid {
        sometimes.hit(State::EventWithheld);
    }
    if let Some(fired) = &watch.fired {
        let is_told = fired.zxid == Some(change.zxid) && fired.kind == change.kind;
        assert!(!is_told, "W5: {fired:?} speaks of what may not be read: {watch:?}");
    }
}
