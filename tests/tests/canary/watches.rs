//! Faults of watches, as they show in what was fired and when.

use pigeonhole_core::base::id::{SessionId, Zxid};
use pigeonhole_core::op::EventType;
use pigeonhole_core::txn::Operation as Step;
use pigeonhole_tests::check;
use pigeonhole_tests::history::{Answer, Ask, Fired, Outcome, Watch, WatchOn};
use pigeonhole_tests::people::{AccessList, People};
use pigeonhole_tests::sometimes::State;

use crate::cluster::{Cluster, create, delete, get, path_in, set};
use crate::complains;

/// A znode, somebody who watches its data since a read, and the watch.
fn watched(shards: u16) -> (Cluster, SessionId, usize) {
    let mut cluster = Cluster::new(shards);
    let session = cluster.session();
    let path = path_in(cluster.map, shards - 1);
    cluster.ask(session, create(&path));
    let read = cluster.ask(session, get(&path));
    let Outcome::Done { zxid, result: Ok(Answer::Data { stat, .. }) } =
        cluster.history.operations[read].outcome.clone()
    else {
        panic!("it was answered");
    };
    cluster.history.watches.push(Watch {
        client: 0,
        people: People::NOBODY,
        path,
        on: WatchOn::Data,
        since: zxid,
        shown: Some(stat),
        connection: 1,
        from: cluster.history.heard,
        until: u64::MAX,
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
    cluster.history.heard += 1;
    let number = cluster.history.heard;
    cluster.history.watches[watch].fired = Some(Fired { kind, zxid: Some(zxid), number });
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

/// Somebody else makes the znode Ann's alone.
fn hide(cluster: &mut Cluster, watch: usize) {
    let other = cluster.session();
    let path = cluster.history.watches[watch].path.clone();
    cluster.ask(other, Ask::SetAcl { path, list: AccessList::Anns, version: -1 });
}

/// Changes what only Ann may change, and does not ask.
fn change_hidden(cluster: &mut Cluster, watch: usize) -> Zxid {
    let shard = cluster.map.shard_of(&cluster.history.watches[watch].path);
    let path = cluster.history.watches[watch].path.clone();
    let session = cluster.session();
    let data = Some(b"hidden".to_vec());
    let zxid = cluster.commit(shard, session, vec![Step::SetData { path, data, version: 1 }]);
    cluster.history.watches[watch].seen = zxid;
    zxid
}

/// The watch alone is looked at: what is hidden is written by nobody who was asked.
fn check_watches(cluster: &mut Cluster) {
    let (history, agreement) = (&cluster.history, &cluster.logs.agreement);
    check::watch::check(history, agreement, &mut cluster.logs.sometimes);
}

#[test]
fn an_event_that_is_withheld_passes() {
    let (mut cluster, _, watch) = watched(1);
    hide(&mut cluster, watch);
    change_hidden(&mut cluster, watch);
    check_watches(&mut cluster);
    assert_eq!(cluster.logs.sometimes.count(State::EventWithheld), 1);
}

#[test]
fn an_event_about_what_may_not_be_read() {
    let (mut cluster, _, watch) = watched(1);
    hide(&mut cluster, watch);
    let zxid = change_hidden(&mut cluster, watch);
    fire(&mut cluster, watch, EventType::NodeDataChanged, zxid);
    complains("W5: ", || check_watches(&mut cluster));
}

#[test]
fn a_watch_in_one_of_several_shards_passes() {
    let (mut cluster, session, watch) = watched(2);
    let path = cluster.history.watches[watch].path.clone();
    cluster.ask(session, get(&path));
    let zxid = change(&mut cluster, watch);
    fire(&mut cluster, watch, EventType::NodeDataChanged, zxid);
    cluster.ask(session, get(&path));
    cluster.check();
    assert_eq!(cluster.logs.sometimes.count(State::WatchFiredInShard), 1);
}

#[test]
fn a_watch_in_a_shard_that_never_fires() {
    let (mut cluster, session, watch) = watched(2);
    let path = cluster.history.watches[watch].path.clone();
    change(&mut cluster, watch);
    cluster.check();
    cluster.ask(session, get(&path));
    complains("W3: a reply about", || cluster.check());
}

#[test]
fn a_watch_set_again_in_a_shard_that_never_fires() {
    let (mut cluster, session, watch) = watched(2);
    let path = cluster.history.watches[watch].path.clone();
    change(&mut cluster, watch);
    cluster.history.watches[watch].renewed = true;
    cluster.ask(session, get(&path));
    complains("W3: a reply about", || cluster.check());
}

#[test]
fn an_event_behind_newer_data_of_its_shard() {
    let (mut cluster, session, watch) = watched(2);
    let path = cluster.history.watches[watch].path.clone();
    let zxid = change(&mut cluster, watch);
    cluster.ask(session, get(&path));
    fire(&mut cluster, watch, EventType::NodeDataChanged, zxid);
    complains("W2: a reply about", || cluster.check());
}

#[test]
fn an_event_of_another_kind_in_a_shard() {
    let (mut cluster, _, watch) = watched(2);
    let path = cluster.history.watches[watch].path.clone();
    change(&mut cluster, watch);
    let other = cluster.session();
    cluster.ask(other, delete(&path));
    let zxid = cluster.tail(cluster.map.shard_of(&path));
    fire(&mut cluster, watch, EventType::NodeDeleted, zxid);
    complains("W2: another change was told", || cluster.check());
}

#[test]
fn an_event_for_nothing_in_a_shard() {
    let (mut cluster, _, watch) = watched(2);
    fire(&mut cluster, watch, EventType::NodeDataChanged, Zxid(1));
    complains("W1: nothing has changed", || cluster.check());
}

#[test]
fn an_event_before_the_reply_of_an_earlier_read() {
    let (mut cluster, session, watch) = watched(2);
    let path = cluster.history.watches[watch].path.clone();
    let read = cluster.invoke(session, get(&path));
    let (at, old) = cluster.carry_out(session, &get(&path));
    let zxid = change(&mut cluster, watch);
    fire(&mut cluster, watch, EventType::NodeDataChanged, zxid);
    cluster.answer(read, at, old);
    complains("W6: ", || cluster.check());
}
