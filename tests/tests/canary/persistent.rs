//! Faults of persistent watches: what is lost, doubled, reordered, late, or told too long.

use pigeonhole_core::base::id::{SessionId, Zxid};
use pigeonhole_core::op::EventType;
use pigeonhole_tests::history::{Heard, Span, Standing};
use pigeonhole_tests::people::People;
use pigeonhole_tests::sometimes::State;

use crate::cluster::{Cluster, create, get, path_in};
use crate::complains;

/// A znode whose subtree a session watches for good, and its path.
fn watched(shards: u16) -> (Cluster, SessionId, String) {
    let mut cluster = Cluster::new(shards);
    let session = cluster.session();
    let path = path_in(cluster.map, shards - 1);
    cluster.ask(session, create(&path));
    cluster.pass();
    let since = cluster.tail(cluster.map.shard_of(&path));
    let span = Span::new(1, since, cluster.logs.now, cluster.history.heard);
    cluster.history.standing.push(Standing {
        client: 0,
        people: People::NOBODY,
        path: path.clone(),
        is_recursive: true,
        spans: vec![span],
    });
    (cluster, session, path)
}

/// Somebody else creates a child.
fn make(cluster: &mut Cluster, path: &str) -> Zxid {
    let other = cluster.session();
    cluster.ask(other, create(path));
    cluster.tail(cluster.map.shard_of(path))
}

fn hear(cluster: &mut Cluster, path: &str, zxid: Zxid) {
    cluster.history.heard += 1;
    cluster.history.events.push(Heard {
        client: 0,
        connection: 1,
        number: cluster.history.heard,
        kind: EventType::NodeCreated,
        path: path.to_owned(),
        zxid: (cluster.map.count() == 1).then_some(zxid),
    });
}

/// The session is shown all that there is.
fn look(cluster: &mut Cluster, session: SessionId, path: &str) {
    cluster.ask(session, get(path));
    let seen = cluster.tail(cluster.map.shard_of(path));
    cluster.history.standing[0].spans[0].seen = seen;
}

/// Two children are created, and the events come in this order of them before somebody looks.
fn told(shards: u16, order: &[usize]) -> Cluster {
    let (mut cluster, session, path) = watched(shards);
    let children = [format!("{path}/a"), format!("{path}/b")];
    let made = [make(&mut cluster, &children[0]), make(&mut cluster, &children[1])];
    for &place in order {
        hear(&mut cluster, &children[place], made[place]);
    }
    look(&mut cluster, session, &path);
    cluster
}

#[test]
fn a_watch_that_tells_everything_passes() {
    for shards in [1, 2] {
        let mut cluster = told(shards, &[0, 1]);
        cluster.check();
        assert_eq!(cluster.logs.sometimes.count(State::RecursiveWatchFired), 1);
    }
}

#[test]
fn a_watch_that_has_not_told_yet_passes() {
    for shards in [1, 2] {
        let (mut cluster, _, path) = watched(shards);
        make(&mut cluster, &format!("{path}/a"));
        cluster.check();
    }
}

#[test]
fn an_event_that_never_comes() {
    complains("W9: ", || told(1, &[]).check());
    complains("W9: ", || told(1, &[0]).check());
    complains("W8: ", || told(2, &[]).check());
    complains("W8: ", || told(2, &[0]).check());
}

#[test]
fn an_event_that_is_passed_over() {
    complains("W8: ", || told(1, &[1]).check());
    complains("W8: ", || told(2, &[1]).check());
}

#[test]
fn events_in_another_order() {
    complains("W8: ", || told(1, &[1, 0]).check());
    complains("W8: ", || told(2, &[1, 0]).check());
}

#[test]
fn an_event_that_comes_twice() {
    complains("W8: ", || told(1, &[0, 1, 1]).check());
    complains("W8: ", || told(2, &[0, 1, 1]).check());
}
