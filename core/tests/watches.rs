//! What fires for whom: ZooKeeper's watch semantics as tables.

mod leader;

use leader::{Client, Leader, OPEN, create, delete, ephemeral, plain, set, set_acl};
use pigeonhole_core::auth::Identities;
use pigeonhole_core::base::id::{ConnectionId, CoreId, SessionId, Zxid};
use pigeonhole_core::base::limits::WATCHES_PER_CONNECTION_MAX;
use pigeonhole_core::op::EventType::{
    self, NodeChildrenChanged, NodeCreated, NodeDataChanged, NodeDeleted,
};
use pigeonhole_core::op::{Acl, CreateMode, Request, SetWatches, WatcherType};
use pigeonhole_core::state::session_prep::SessionRequest;
use pigeonhole_core::state::watch::WatchKind::{Child, Data, Persistent, PersistentRecursive};
use pigeonhole_core::state::watch::{Firing, WatchKind, WatchTable};

type Event = (u32, EventType, &'static str);

fn connection(slot: u32) -> ConnectionId {
    ConnectionId { core: CoreId(0), slot, generation: 1 }
}

/// A leader with `/a`, `/a/b` and a watch table that hears of everything it applies.
struct Watched {
    leader: Leader,
    client: Client,
    table: WatchTable,
    firings: Vec<Firing>,
}

impl Watched {
    fn new() -> Self {
        let mut leader = Leader::new();
        let client = leader.client(1).with_auth("bob:secret");
        leader.run(&client, &plain("/a")).expect("it is new");
        leader.run(&client, &plain("/a/b")).expect("it is new");
        let mut table = WatchTable::new();
        for slot in 0..10 {
            table.identify(connection(slot), Identities::none());
        }
        Self { leader, client, table, firings: Vec::new() }
    }

    fn watch(&mut self, slot: u32, path: &str, kind: WatchKind) {
        self.table.add(connection(slot), path, kind).expect("there are few");
    }

    fn run(&mut self, request: &Request<'_>) {
        self.leader.write(&self.client, request).expect("the request is fine");
        self.hear();
    }

    fn hear(&mut self) {
        while self.leader.apply_one() {
            for change in self.leader.applied.changes() {
                self.table.fire(&change, &mut self.firings);
            }
        }
    }

    fn expect(&mut self, expected: &[Event], context: &str) {
        let fired: Vec<_> = self
            .firings
            .iter()
            .map(|firing| (firing.connection.slot, firing.event, &*firing.path))
            .collect();
        assert_eq!(fired, expected, "{context}");
        self.firings.clear();
    }
}

/// One watch, one change, and the same change once more: what comes, and what is left.
#[test]
fn every_kind_of_watch_and_every_change() {
    const D: EventType = NodeDataChanged;
    const K: EventType = NodeChildrenChanged;
    let table: Vec<(WatchKind, &str, Vec<Request<'static>>, Vec<Event>)> = vec![
        (Data, "/a", vec![set("/a", -1), set("/a", -1)], vec![(1, D, "/a")]),
        (Data, "/a", vec![plain("/a/c"), delete("/a/c", -1)], vec![]),
        (Data, "/a/b", vec![delete("/a/b", -1), plain("/a/b")], vec![(1, NodeDeleted, "/a/b")]),
        // An existence watch is a data watch where nothing is.
        (Data, "/x", vec![plain("/x"), delete("/x", -1)], vec![(1, NodeCreated, "/x")]),
        (Data, "/a", vec![set_acl("/a", &OPEN, -1)], vec![]),
        (Child, "/a", vec![plain("/a/c"), plain("/a/d")], vec![(1, K, "/a")]),
        (Child, "/a", vec![delete("/a/b", -1), plain("/a/b")], vec![(1, K, "/a")]),
        (Child, "/a", vec![set("/a", -1), set("/a/b", -1), plain("/a/b/c")], vec![]),
        (Child, "/a/b", vec![delete("/a/b", -1), plain("/a/b")], vec![(1, NodeDeleted, "/a/b")]),
        (Child, "/", vec![plain("/x"), plain("/y")], vec![(1, K, "/")]),
        (
            Persistent,
            "/a",
            vec![set("/a", -1), set("/a", -1), plain("/a/c"), set("/a/c", -1), plain("/a/d")],
            vec![(1, D, "/a"), (1, D, "/a"), (1, K, "/a"), (1, K, "/a")],
        ),
        (
            Persistent,
            "/a/b",
            vec![delete("/a/b", -1), plain("/a/b"), delete("/a/b", -1)],
            // Once although it stands in both tables.
            vec![(1, NodeDeleted, "/a/b"), (1, NodeCreated, "/a/b"), (1, NodeDeleted, "/a/b")],
        ),
        (
            PersistentRecursive,
            "/a",
            vec![
                set("/a", -1),
                plain("/a/b/c"),
                set("/a/b/c", -1),
                delete("/a/b/c", -1),
                plain("/ab"),
                set("/", -1),
            ],
            vec![
                (1, D, "/a"),
                (1, NodeCreated, "/a/b/c"),
                (1, D, "/a/b/c"),
                (1, NodeDeleted, "/a/b/c"),
            ],
        ),
        (
            PersistentRecursive,
            "/",
            vec![set("/", -1), plain("/x"), plain("/a/b/c")],
            vec![(1, D, "/"), (1, NodeCreated, "/x"), (1, NodeCreated, "/a/b/c")],
        ),
    ];
    for (kind, path, requests, expected) in table {
        let mut watched = Watched::new();
        watched.watch(1, path, kind);
        for request in &requests {
            watched.run(request);
        }
        watched.expect(&expected, &format!("{kind:?} on {path}, {requests:?}"));
        let is_left = match kind {
            Data | Child => expected.is_empty(),
            Persistent | PersistentRecursive => true,
        };
        assert_eq!(watched.table.count() > 0, is_left, "{kind:?} on {path}");
    }
}

#[test]
fn one_connection_hears_of_one_change_once() {
    let mut watched = Watched::new();
    for (path, kind) in [
        ("/a", Data),
        ("/a", Child),
        ("/a", Persistent),
        ("/a", PersistentRecursive),
        ("/", PersistentRecursive),
        ("/a/b", Data),
        ("/a/b", Child),
    ] {
        watched.watch(1, path, kind);
    }
    watched.run(&set("/a", -1));
    watched.expect(&[(1, NodeDataChanged, "/a")], "the data");
    watched.run(&delete("/a/b", -1));
    watched.expect(&[(1, NodeDeleted, "/a/b"), (1, NodeChildrenChanged, "/a")], "the child");
    watched.run(&delete("/a", -1));
    watched.expect(&[(1, NodeDeleted, "/a")], "the parent");
    assert!(!watched.table.contains(connection(1), "/a", WatcherType::Data));
    assert!(!watched.table.contains(connection(1), "/a", WatcherType::Children));
    assert!(watched.table.contains(connection(1), "/a", WatcherType::Persistent));
}

#[test]
fn firings_come_in_the_order_of_connections() {
    let mut watched = Watched::new();
    for slot in [5, 2, 9] {
        watched.watch(slot, "/a", Data);
    }
    watched.watch(7, "/", PersistentRecursive);
    watched.watch(1, "/", Child);
    watched.run(&set("/a", -1));
    let expected = [2, 5, 7, 9].map(|slot| (slot, NodeDataChanged, "/a"));
    watched.expect(&expected, "sorted, not by registration");
}

#[test]
fn every_operation_of_a_multi_fires_in_order() {
    let mut watched = Watched::new();
    watched.watch(1, "/", PersistentRecursive);
    watched.watch(2, "/x", Data);
    watched.watch(2, "/", Child);
    watched.run(&Request::Multi(vec![plain("/x"), set("/x", 0), delete("/x", 1)]));
    watched.expect(
        &[
            (1, NodeCreated, "/x"),
            (2, NodeCreated, "/x"),
            (2, NodeChildrenChanged, "/"),
            (1, NodeDataChanged, "/x"),
            (1, NodeDeleted, "/x"),
        ],
        "each of the second's watches once",
    );
}

#[test]
fn a_sessions_end_fires_for_its_ephemerals() {
    let mut watched = Watched::new();
    watched.run(&ephemeral("/a/e"));
    watched.watch(1, "/a/e", Data);
    watched.watch(1, "/a", Child);
    let close = SessionRequest::Close { session: watched.client.session, generation: None };
    watched.leader.session(&close).unwrap();
    watched.hear();
    watched.expect(&[(1, NodeDeleted, "/a/e"), (1, NodeChildrenChanged, "/a")], "close");
}

/// Who may not read the znode is not told, and its one-shot watch is used up (ZOOKEEPER-4799).
#[test]
fn events_are_delivered_to_readers_only() {
    let mut watched = Watched::new();
    watched.table.identify(connection(2), watched.client.identities.clone());
    let mine = [Acl { permissions: 31, scheme: "auth", id: "" }];
    for slot in [1, 2] {
        watched.watch(slot, "/", PersistentRecursive);
        watched.watch(slot, "/secret", Child);
        watched.watch(slot, "/secret/in", Data);
    }
    watched.run(&create("/secret", CreateMode::Persistent, &mine));
    watched.expect(&[(2, NodeCreated, "/secret")], "the new znode's list decides");
    // A readable child of an unreadable parent: the child is told, the parent's change is not.
    watched.run(&plain("/secret/in"));
    watched.expect(
        &[
            (1, NodeCreated, "/secret/in"),
            (2, NodeCreated, "/secret/in"),
            (2, NodeChildrenChanged, "/secret"),
        ],
        "each event by the list of its own znode",
    );
    watched.run(&set_acl("/secret", &OPEN, -1));
    watched.run(&plain("/secret/more"));
    watched.run(&delete("/secret/more", -1));
    let events = [NodeCreated, NodeDeleted];
    let expected = events.map(|event| [1, 2].map(|slot| (slot, event, "/secret/more")));
    watched.expect(&expected.concat(), "the first's child watch was used up unheard");
    // Authenticating later counts from then on; a deleted znode's last list decides.
    watched.run(&set_acl("/secret/in", &mine, -1));
    watched.table.identify(connection(1), watched.client.identities.clone());
    watched.table.identify(connection(2), Identities::none());
    watched.run(&delete("/secret/in", -1));
    watched.expect(&[(1, NodeDeleted, "/secret/in")], "identities of the moment");
    // Readers need READ, not just any permission.
    let write_only = [Acl { permissions: 2, scheme: "world", id: "anyone" }];
    watched.run(&create("/drop", CreateMode::Persistent, &write_only));
    watched.expect(&[], "nobody reads it");
}

#[test]
fn watches_are_checked_and_removed_by_type() {
    use WatcherType::{Any, Children, Data as DataType, Persistent as Kept};
    const RECURSIVE: WatcherType = WatcherType::PersistentRecursive;
    let types = [Children, DataType, Any, Kept, RECURSIVE];
    for (kind, found) in [
        (Data, [false, true, true, false, false]),
        (Child, [true, false, true, false, false]),
        (Persistent, [false, false, true, true, false]),
        (PersistentRecursive, [false, false, true, false, true]),
    ] {
        for (asked, found) in types.into_iter().zip(found) {
            let mut table = WatchTable::new();
            table.identify(connection(1), Identities::none());
            table.add(connection(1), "/a", kind).unwrap();
            assert_eq!(table.contains(connection(1), "/a", asked), found, "{kind:?} {asked:?}");
            assert!(!table.contains(connection(2), "/a", asked));
            assert!(!table.remove(connection(1), "/b", asked));
            assert_eq!(table.remove(connection(1), "/a", asked), found, "{kind:?} {asked:?}");
            assert_eq!(table.count() == 0, found);
            assert!(!found || !table.contains(connection(1), "/a", Any));
        }
    }
}

#[test]
fn removing_one_type_leaves_the_others() {
    let mut watched = Watched::new();
    for kind in [Data, Child, Persistent, PersistentRecursive] {
        watched.watch(1, "/a", kind);
    }
    assert_eq!(watched.table.count(), 2, "one in each table");
    assert!(watched.table.remove(connection(1), "/a", WatcherType::Persistent));
    assert!(watched.table.remove(connection(1), "/a", WatcherType::PersistentRecursive));
    watched.run(&set("/a", -1));
    watched.expect(&[(1, NodeDataChanged, "/a")], "the data watch is left");
    watched.run(&set("/a", -1));
    watched.expect(&[], "and fires once");
    watched.run(&plain("/a/c"));
    watched.expect(&[(1, NodeChildrenChanged, "/a")], "so does the child watch");
    assert_eq!(watched.table.count(), 0);
}

#[test]
fn a_closed_connection_leaves_nothing() {
    let mut watched = Watched::new();
    for slot in [1, 2] {
        watched.watch(slot, "/a", Persistent);
        watched.watch(slot, "/b", Data);
        watched.watch(slot, "/", PersistentRecursive);
    }
    watched.table.connection_closed(connection(1));
    assert_eq!((watched.table.count_of(connection(1)), watched.table.count()), (0, 4));
    watched.run(&plain("/b"));
    watched.expect(&[(2, NodeCreated, "/b")], "the second lives on");
    // A watch that arrives behind the end of its connection is ignored.
    watched.watch(1, "/a", Data);
    assert_eq!(watched.table.count_of(connection(1)), 0);
    watched.table.connection_closed(connection(2));
    watched.table.connection_closed(connection(2));
    assert_eq!(watched.table.by_connection().count(), 0);
    watched.run(&set("/a", -1));
    watched.expect(&[], "nobody watches");
}

#[test]
fn watches_are_counted_and_bounded() {
    let mut table = WatchTable::new();
    let one = connection(1);
    table.identify(one, Identities::none());
    for number in 0..WATCHES_PER_CONNECTION_MAX {
        table.add(one, &format!("/{number}"), Data).unwrap();
    }
    assert!(table.add(one, "/more", Data).is_err());
    assert!(table.add(one, "/0", Child).is_err(), "another table, another watch");
    table.add(one, "/0", Data).unwrap();
    table.add(one, "/0", PersistentRecursive).unwrap();
    assert!(table.remove(one, "/1", WatcherType::Data));
    table.add(one, "/more", Data).unwrap();
    assert_eq!(table.count_of(one), WATCHES_PER_CONNECTION_MAX);
    let refused = connection(2);
    table.identify(refused, Identities::none());
    table.add(refused, "/other", Data).unwrap();
}

#[test]
fn four_letter_words_list_everything_in_order() {
    let mut watched = Watched::new();
    watched.watch(2, "/a", Data);
    watched.watch(1, "/b", Child);
    watched.watch(1, "/a", Persistent);
    let by_connection = watched.table.by_connection().map(|(id, path)| (id.slot, path));
    assert_eq!(by_connection.collect::<Vec<_>>(), [(1, "/a"), (1, "/b"), (2, "/a")]);
    assert_eq!(watched.table.count(), 4, "the persistent one stands in both tables");
}

/// setWatches: what was missed fires at once, the rest waits again (`DataTree.setWatches`).
#[test]
fn watches_of_a_connection_that_was_elsewhere() {
    let mut watched = Watched::new();
    let seen = watched.leader.state.applied();
    watched.run(&set("/a", -1));
    watched.run(&plain("/a/b/c"));
    let request = SetWatches {
        relative_zxid: seen,
        data: vec!["/a", "/a/b", "/gone"],
        exist: vec!["/a/b/c", "/later"],
        child: vec!["/a", "/a/b", "/gone2"],
        persistent: vec!["/a"],
        persistent_recursive: vec!["/gone"],
    };
    let tree = watched.leader.state.tree();
    let firings = &mut watched.firings;
    watched.table.set_watches(connection(1), tree, &request, firings).unwrap();
    watched.expect(
        &[
            (1, NodeDataChanged, "/a"),
            (1, NodeDeleted, "/gone"),
            (1, NodeCreated, "/a/b/c"),
            (1, NodeChildrenChanged, "/a/b"),
            (1, NodeDeleted, "/gone2"),
        ],
        "what was missed",
    );
    let has = |path, kind| watched.table.contains(connection(1), path, kind);
    assert!(has("/a/b", WatcherType::Data) && has("/later", WatcherType::Data));
    assert!(has("/a", WatcherType::Children) && !has("/a/b", WatcherType::Children));
    assert!(!has("/a", WatcherType::Data) && has("/a", WatcherType::Persistent));
    assert!(has("/gone", WatcherType::PersistentRecursive));
    watched.run(&set("/a/b", -1));
    watched.expect(&[(1, NodeDataChanged, "/a/b")], "armed again");
}

/// Coming back must not tell what staying would not have told.
#[test]
fn set_watches_tells_readers_only() {
    let mut watched = Watched::new();
    let mine = [Acl { permissions: 31, scheme: "auth", id: "" }];
    watched.run(&create("/secret", CreateMode::Persistent, &mine));
    let request = SetWatches {
        relative_zxid: Zxid::ZERO,
        data: vec!["/secret"],
        exist: vec!["/secret"],
        child: vec!["/secret"],
        ..SetWatches::default()
    };
    watched.table.identify(connection(2), watched.client.identities.clone());
    for slot in [1, 2, 77] {
        let tree = watched.leader.state.tree();
        let firings = &mut watched.firings;
        watched.table.set_watches(connection(slot), tree, &request, firings).unwrap();
    }
    let events = [NodeDataChanged, NodeCreated, NodeChildrenChanged];
    watched.expect(&events.map(|event| (2, event, "/secret")), "the stranger is told nothing");
    assert_eq!(watched.table.count(), 0);
    assert_eq!(watched.client.session, SessionId(1 << 56 | 1));
}
