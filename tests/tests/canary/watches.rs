//! Faults of watches, as they show in what was fired and when.

use pigeonhole_core::base::id::{SessionId, Zxid};
use pigeonhole_core::op::EventType;
use pigeonhole_tests::history::{Fired, Outcome, Watch, WatchOn};

use crate::cluster::{Cluster, create, get, path_in, set};
use crate::complains;

/// A znode, somebody who watches its data since a read, and the watch.
fn watched(shards: u16) -> (Cluster, SessionId, usize) {
    let mut cluster = Cluster::new(shards);
    let session = cluster.session();
    let path = path_in(cluster.map, shards - 1);
    cluster.ask(session, create(&path));
    let read = cluster.ask(session, get(&path));
    let Outcome::Done { zxid, .. } = cluster.history.operations[read].outcome else {
        panic!("it was answered");
    };
    cluster.history.watches.push(Watch {
        client: 0,
        path,
        on: WatchOn::Data,
        since: zxid,
        seen: zxid,
        renewed: false,
        fired: None,
    });
    (cluster, session, 0)
}

/// Somebody else changes the znode; the zxid of that.
fn change(cluster: &mut Cluster, watch: usize) -> Zxid {
    let other = cluster.session();
    let path = cluster.history.watches[watch].path.clone();
    cluster.ask(other, set(&path, "changed"));
    cluster.tail(cluster.map.shard_of(&path))
}

fn fire(cluster: &mut Cluster, watch: usize, kind: EventType, zxid: Zxid) {
    cluster.history.watches[watch].fired = Some(Fired { kind, zxid: Some(zxid) });
}

#[test]
fn a_watch_that_fires_as_it_should_passes() {
    let (mut cluster, _, watch) = watched(1);
    cluster.check();
    let zxid = change(&mut cluster, watch);
    fire(&mut cluster, watch, EventType::NodeDataChanged, zxid);
    change(&mut cluster, watch);
    cluster.check();
}

#[test]
fn a_watch_that_never_fires() {
    let (mut cluster, _, watch) = watched(1);
    let zxid = change(&mut cluster, watch);
    cluster.history.watches[watch].seen = zxid;
    complains("W3: the change at", || cluster.check());
}

#[test]
fn a_watch_that_fires_for_nothing() {
    let (mut cluster, _, watch) = watched(1);
    let zxid = cluster.history.watches[watch].since;
    fire(&mut cluster, watch, EventType::NodeDataChanged, zxid.next());
    complains("W1: nothing has changed", || cluster.check());
}

#[test]
fn a_watch_that_fires_for_a_later_change() {
    let (mut cluster, _, watch) = watched(1);
    change(&mut cluster, watch);
    let second = change(&mut cluster, watch);
    fire(&mut cluster, watch, EventType::NodeDataChanged, second);
    complains("W2: another change was told", || cluster.check());
}

#[test]
fn a_watch_that_fires_with_another_kind() {
    let (mut cluster, _, watch) = watched(1);
    let zxid = change(&mut cluster, watch);
    fire(&mut cluster, watch, EventType::NodeDeleted, zxid);
    complains("W2: another change was told", || cluster.check());
}

#[test]
fn an_event_behind_newer_data() {
    let (mut cluster, _, watch) = watched(1);
    let zxid = change(&mut cluster, watch);
    fire(&mut cluster, watch, EventType::NodeDataChanged, zxid);
    cluster.history.watches[watch].seen = zxid;
    complains("W2: the change was seen before", || cluster.check());
}

#[test]
fn a_watch_set_again_that_fires_too_early() {
    let (mut cluster, _, watch) = watched(1);
    let since = cluster.history.watches[watch].since;
    change(&mut cluster, watch);
    fire(&mut cluster, watch, EventType::NodeDataChanged, since);
    cluster.history.watches[watch].renewed = true;
    complains("W4: ", || cluster.check());
}
