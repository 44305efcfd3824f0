//! Persistent watches: while one stands on a connection, every change is told once, in order, and
//! before anything newer is shown.
//!
//! - W8: what is heard on a connection is what has changed, from the reply that left the watch on,
//!   without a gap.
//! - W9: it comes before any reply that shows more.
//!
//! That nothing is told of what is not watched, nor after a removal, the client sees to. With
//! several shards the events name no change of a shard; they must be a run of its changes all the
//! same, which begins no later than what was proposed when the watch stood already.

use pigeonhole_core::base::id::{ShardId, Zxid};
use pigeonhole_core::op::permission;
use pigeonhole_core::shard::{ShardMap, is_partition_point};

use crate::check::agreement::Agreement;
use crate::check::changes::{Change, Changes};
use crate::check::watch_sharded::{ShownOn, shown};
use crate::client::covers;
use crate::history::{Heard, History, Span, Standing};
use crate::people::permits;
use crate::sometimes::{Sometimes, State};

pub fn check(history: &History, agreement: &Agreement, map: ShardMap, sometimes: &mut Sometimes) {
    let shown = if map.count() == 1 { ShownOn::new() } else { shown(history, map) };
    for shard in map.shards() {
        let changes = Changes::of(agreement, shard);
        for standing in &history.standing {
            let is_whole = map.count() == 1;
            let is_here =
                |path: &str| is_whole || (!is_partition_point(path) && map.shard_of(path) == shard);
            let expected = expected(standing, &changes, is_here);
            for span in &standing.spans {
                let heard = heard(history, standing, span, is_here);
                if is_whole {
                    check_exactly(span, &heard, &expected, standing);
                } else {
                    let seen = Seen::of(&shown, standing, span, shard);
                    check_run(span, &seen, &heard, &expected, standing);
                }
                if !heard.is_empty() {
                    sometimes.hit(if standing.is_recursive {
                        State::RecursiveWatchFired
                    } else {
                        State::PersistentWatchFired
                    });
                }
            }
        }
    }
}

/// What replies showed of a shard before and while a watch stood.
struct Seen {
    before: Zxid,
    meanwhile: Zxid,
}

impl Seen {
    fn of(shown: &ShownOn<'_>, standing: &Standing, span: &Span, shard: ShardId) -> Self {
        let replies = shown.get(&(standing.client, span.connection, shard));
        let replies = replies.map_or(&[][..], Vec::as_slice);
        let newest = |from: u64, until: u64| {
            let within = replies.iter().filter(|it| from < it.number && it.number < until);
            within.map(|it| it.newest).max().unwrap_or_default()
        };
        Self { before: newest(0, span.from), meanwhile: newest(span.from, span.until) }
    }
}

/// What a watch would tell if it had always stood.
fn expected<'a>(
    standing: &Standing,
    changes: &'a Changes,
    is_here: impl Fn(&str) -> bool,
) -> Vec<&'a Change> {
    let of_it = changes.iter().filter(|change| {
        covers(standing.is_recursive, &standing.path, change.kind, &change.path)
            && is_here(&change.path)
            && permits(&change.readers, standing.people, permission::READ)
    });
    of_it.collect()
}

fn heard<'a>(
    history: &'a History,
    standing: &Standing,
    span: &Span,
    is_here: impl Fn(&str) -> bool,
) -> Vec<&'a Heard> {
    let of_it = history.events.iter().filter(|event| {
        event.client == standing.client
            && event.connection == span.connection
            && span.from < event.number
            && event.number <= span.until
            && covers(standing.is_recursive, &standing.path, event.kind, &event.path)
            && is_here(&event.path)
    });
    of_it.collect()
}

fn check_exactly(span: &Span, heard: &[&Heard], expected: &[&Change], standing: &Standing) {
    let start = expected.partition_point(|change| change.zxid <= span.since);
    let mut expected = expected[start..].iter();
    for event in heard {
        let change = expected.next();
        let is_it = change.is_some_and(|change| is_of(event, change));
        assert!(is_it, "W8: {event:?} came instead of {change:?}: {standing:?}");
    }
    if let Some(change) = expected.next() {
        assert!(
            change.zxid > span.seen,
            "W9: {} was seen before {change:?} was told: {standing:?}",
            span.seen
        );
    }
}

/// Some run of the changes explains what was heard, and what was shown beside it.
fn check_run(
    span: &Span,
    seen: &Seen,
    heard: &[&Heard],
    expected: &[&Change],
    standing: &Standing,
) {
    let low = expected.partition_point(|change| change.zxid <= seen.before);
    let is_behind = |change: &&Change| change.proposed >= span.begun;
    let high = expected.iter().position(is_behind).unwrap_or(expected.len()).max(low);
    let is_run = |from: usize| {
        let told = expected.get(from..from + heard.len())?;
        let is_same = heard.iter().zip(told).all(|(event, change)| is_like(event, change));
        let next = expected.get(from + heard.len());
        let is_next = next.is_none_or(|change| change.zxid > seen.meanwhile);
        (is_same && is_next).then_some(())
    };
    let explained = (low..=high).find_map(is_run);
    assert!(
        explained.is_some(),
        "W8: no run of changes behind {} and before {} explains {heard:?}: {standing:?}",
        seen.before,
        seen.meanwhile
    );
}

fn is_of(event: &Heard, change: &Change) -> bool {
    is_like(event, change) && event.zxid.is_none_or(|zxid| zxid == change.zxid)
}

fn is_like(event: &Heard, change: &Change) -> bool {
    event.kind == change.kind && event.path == change.path
}
