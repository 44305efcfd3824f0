//! Several shards are one tree to a client: partition points, watches on them, moved sessions.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod nodes;

use std::collections::BTreeSet;

use nodes::{Ensemble, Handle, Heard, OPEN, brief, children, create, ephemeral, plain};
use pigeonhole_core::base::id::{ShardId, Zxid};
use pigeonhole_core::base::prng::Prng;
use pigeonhole_core::op::{
    Acl, AddWatchMode, CreateMode, EventType, Request, SetWatches, Stat, WatcherType, permission,
};
use pigeonhole_core::shard::{PARTITION_POINTS, ShardMap};
use pigeonhole_core::wire::client;

const SHARDS: u16 = 8;

/// One name directly under `/` for each shard.
fn names() -> Vec<String> {
    let map = ShardMap::new(SHARDS);
    let of = |shard: ShardId| {
        let mut names = (0..).map(|number| format!("/n{number}"));
        names.find(|name| map.shard_of(name) == shard)
    };
    map.shards().map(|shard| of(shard).expect("names are plenty")).collect()
}

/// Nodes, cores and shards: the real thing, and what it must look like.
fn shapes() -> [Ensemble; 3] {
    [Ensemble::new(1, 1, 1, 1), Ensemble::new(1, 1, SHARDS, 1), Ensemble::new(1, 3, SHARDS, 1)]
}

fn stat_of(body: &[u8]) -> Stat {
    client::parse_stat(&body[body.len() - 68..]).expect("a stat")
}

fn get_data(path: &str, watch: bool) -> Request<'_> {
    Request::GetData { path, watch }
}

fn set_data<'a>(path: &'a str, data: &'a [u8]) -> Request<'a> {
    Request::SetData { path, data: Some(data), version: -1 }
}

fn pick(chance: &mut Prng, count: u64) -> usize {
    usize::try_from(chance.below(count)).expect("there are few")
}

fn counter(heard: &[Heard]) -> u64 {
    heard.iter().map(Heard::zxid).max().expect("it has heard something")
}

/// Everything that can be read of every point, but for zxids.
fn look(ensemble: &mut Ensemble, client: Handle, seen: &mut Vec<String>) {
    for point in PARTITION_POINTS {
        let body = ensemble.get(client, &children(point, false));
        let (mut list, stat) = client::parse_children2(&body).unwrap();
        list.sort_unstable();
        // Where a counter stands depends on who shares it.
        let named = list.iter().map(|name| name.trim_end_matches(char::is_numeric));
        let named: Vec<&str> = named.collect();
        seen.push(format!("{point} {named:?}"));
        let number = Request::GetAllChildrenNumber { path: point };
        let number = client::parse_number(&ensemble.get(client, &number)).unwrap();
        let data = ensemble.get(client, &get_data(point, false));
        let acl = ensemble.get(client, &Request::GetAcl { path: point });
        let exists = Request::Exists { path: point, watch: false };
        assert_eq!(stat_of(&data), stat);
        assert_eq!(stat_of(&acl), stat);
        assert_eq!(stat_of(&ensemble.get(client, &exists)), stat);
        let facts = (stat.children_count, stat.cversion, stat.version, number);
        seen.push(format!("{facts:?}, aversion {}", stat.aversion));
        assert_eq!(usize::try_from(stat.children_count), Ok(list.len()));
        assert!(stat.pzxid >= stat.czxid);
    }
}

#[test]
fn points_look_as_with_one_shard() {
    let names = names();
    let all_seen: Vec<Vec<String>> = shapes()
        .into_iter()
        .map(|mut ensemble| {
            let client = ensemble.connect(0, 0);
            let mut seen = vec![];
            look(&mut ensemble, client, &mut seen);
            for name in &names {
                ensemble.get(client, &plain(name));
                ensemble.get(client, &plain(&format!("{name}/below")));
                let quota = format!("/zookeeper/quota{name}");
                ensemble.get(client, &plain(&quota));
            }
            for _ in 0..3 {
                let sequential = create("/s-", CreateMode::PersistentSequential);
                ensemble.get(client, &sequential);
            }
            look(&mut ensemble, client, &mut seen);
            let path = format!("{}/below", names[3]);
            ensemble.get(client, &Request::Delete { path: &path, version: -1 });
            ensemble.get(client, &Request::Delete { path: &names[3], version: 0 });
            ensemble.get(client, &set_data("/", b"root"));
            look(&mut ensemble, client, &mut seen);
            let root = ensemble.get(client, &get_data("/", false));
            assert_eq!(client::parse_get_data(&root).unwrap().0, Some(b"root".as_slice()));
            for point in PARTITION_POINTS {
                let delete = Request::Delete { path: point, version: -1 };
                assert_eq!(ensemble.error_of(client, &delete), -8, "{point}");
                assert_eq!(ensemble.error_of(client, &plain(point)), -110, "{point}");
            }
            seen
        })
        .collect();
    assert_eq!(all_seen[0], all_seen[1]);
    assert_eq!(all_seen[0], all_seen[2]);
}

/// A watch on a point's children: one event for one registration, wherever the changes are.
#[test]
fn a_watch_on_a_point_is_one_object() {
    let names = names();
    for mut ensemble in shapes() {
        let watcher = ensemble.connect(0, 0);
        let writer = ensemble.connect(0, 0);
        for round in 0..3 {
            ensemble.get(watcher, &children("/", true));
            for name in &names {
                ensemble.get(writer, &plain(&format!("{name}x{round}")));
            }
            let heard = ensemble.heard(watcher);
            assert_eq!(brief(&heard), ["NodeChildrenChanged /"], "round {round}");
        }
        // Registered twice and never fired: still one.
        ensemble.get(watcher, &children("/", true));
        ensemble.get(watcher, &children("/", true));
        for name in &names {
            ensemble.get(writer, &plain(&format!("{name}y")));
        }
        assert_eq!(brief(&ensemble.heard(watcher)), ["NodeChildrenChanged /"]);
        let watches = |ensemble: &Ensemble| -> usize {
            ensemble.replicas().map(|replica| replica.watches().count()).sum()
        };
        assert_eq!(watches(&ensemble), 0, "nothing is left of it in any shard");
        // The data of a point is another watch.
        ensemble.get(watcher, &get_data("/", true));
        ensemble.get(writer, &plain("/z"));
        ensemble.get(writer, &set_data("/", b"1"));
        ensemble.get(writer, &set_data("/", b"2"));
        assert_eq!(brief(&ensemble.heard(watcher)), ["NodeDataChanged /"]);
        ensemble.cut(watcher);
        ensemble.run();
        assert_eq!(watches(&ensemble), 0);
    }
}

#[test]
fn persistent_and_recursive_watches_on_a_point_hear_of_all_shards() {
    let names = names();
    for mut ensemble in shapes() {
        let watcher = ensemble.connect(0, 0);
        let writer = ensemble.connect(0, 0);
        let add = |path, mode| Request::AddWatch { path, mode };
        ensemble.get(watcher, &add("/", AddWatchMode::Persistent));
        // The same event also uses up an ordinary watch, and comes once.
        ensemble.get(watcher, &children("/", true));
        let mut expected = vec![];
        for name in &names {
            ensemble.get(writer, &plain(name));
            ensemble.get(writer, &plain(&format!("{name}/below")));
            expected.push("NodeChildrenChanged /".to_string());
        }
        ensemble.get(writer, &set_data("/", b"1"));
        expected.push("NodeDataChanged /".to_string());
        assert_eq!(brief(&ensemble.heard(watcher)), expected);

        let check = |kind| Request::CheckWatches { path: "/", kind };
        let remove = |kind| Request::RemoveWatches { path: "/", kind };
        let codes = |ensemble: &mut Ensemble| {
            [WatcherType::Children, WatcherType::Data, WatcherType::Persistent, WatcherType::Any]
                .map(|kind| ensemble.error_of(watcher, &check(kind)))
        };
        assert_eq!(codes(&mut ensemble), [-121, -121, 0, 0]);
        ensemble.get(watcher, &children("/", true));
        ensemble.get(watcher, &get_data("/", true));
        assert_eq!(codes(&mut ensemble), [0, 0, 0, 0]);
        ensemble.get(watcher, &remove(WatcherType::Persistent));
        assert_eq!(codes(&mut ensemble), [0, 0, -121, 0]);
        ensemble.get(watcher, &remove(WatcherType::Children));
        assert_eq!(ensemble.error_of(watcher, &remove(WatcherType::Children)), -121);
        ensemble.get(watcher, &remove(WatcherType::Any));
        assert_eq!(codes(&mut ensemble), [-121, -121, -121, -121]);
        ensemble.get(writer, &plain("/unwatched"));
        ensemble.get(writer, &set_data("/", b"2"));
        assert_eq!(brief(&ensemble.heard(watcher)), [""; 0]);

        ensemble.get(watcher, &add("/", AddWatchMode::PersistentRecursive));
        let mut expected = vec![];
        for name in &names {
            ensemble.get(writer, &set_data(name, b"1"));
            ensemble.get(writer, &plain(&format!("{name}/more")));
            expected.push(format!("NodeDataChanged {name}"));
            expected.push(format!("NodeCreated {name}/more"));
        }
        assert_eq!(brief(&ensemble.heard(watcher)), expected);
    }
}

#[test]
fn the_acl_of_a_point_rules_in_every_shard_once_it_is_set() {
    let names = names();
    for mut ensemble in shapes() {
        let owner = ensemble.connect(0, 0);
        let other = ensemble.connect(0, 0);
        let credential = Request::Auth { scheme: "digest", credential: Some(b"bob:secret") };
        ensemble.get(owner, &credential);
        let creator = Acl { permissions: permission::ALL, scheme: "auth", id: "" };
        let reader = Acl { permissions: permission::READ, ..OPEN };
        let acl = vec![creator, reader];
        let set = Request::SetAcl { path: "/", acl, version: -1 };
        ensemble.ask(owner, 7, &set);
        // The moment the reply is there, no shard obeys the old list.
        let mut heard = vec![];
        while heard.is_empty() {
            assert!(ensemble.run_one());
            heard = ensemble.heard(owner);
        }
        assert_eq!(brief(&heard), ["7"]);
        for name in &names {
            assert_eq!(ensemble.error_of(other, &plain(name)), -102, "{name}");
        }
        for name in &names {
            ensemble.get(owner, &plain(name));
        }
        let body = ensemble.get(other, &Request::GetAcl { path: "/" });
        let (acl, stat) = client::parse_acl(&body).unwrap();
        assert_eq!((acl[0].scheme, acl[0].id, stat.aversion), ("digest", "bob:x", 1));
    }
}

#[test]
fn a_request_about_several_shards_is_answered_in_one() {
    let names = names();
    for mut ensemble in shapes() {
        let shards = ensemble.map.count();
        let client = ensemble.connect(0, 0);
        for name in &names {
            ensemble.get(client, &ephemeral(name));
            ensemble.get(client, &set_data(name, name.as_bytes()));
        }
        for (prefix, expected) in [("/", 8), ("/n", 8), (names[2].as_str(), 1), ("/x", 0)] {
            let body = ensemble.get(client, &Request::GetEphemerals { prefix });
            let paths = client::parse_strings(&body).unwrap();
            assert!(paths.len() >= expected, "{prefix} has {paths:?}");
            assert_eq!(paths.is_empty(), expected == 0);
        }

        let mut reads: Vec<Request<'_>> =
            vec![Request::GetChildren { path: "/", watch: false, with_stat: false }];
        let absent = ["/none", "", "none", "//none", "/none/", "/none/../n"];
        reads.extend(absent.map(|path| get_data(path, true)));
        reads.extend(names.iter().map(|name| get_data(name, false)));
        let body = ensemble.get(client, &Request::MultiRead(reads));
        let results = client::parse_multi(&body).unwrap();
        assert_eq!(results.len(), 1 + absent.len() + names.len());
        let client::MultiResult::GetChildren { children } = &results[0] else {
            panic!("{:?}", results[0])
        };
        let unique: BTreeSet<_> = children.iter().collect();
        assert_eq!((children.len(), unique.len()), (9, 9));
        let (of_absent, results) = results[1..].split_at(absent.len());
        assert!(of_absent.iter().all(|result| *result == client::MultiResult::Error(-101)));
        for (result, name) in results.iter().zip(&names) {
            let client::MultiResult::GetData { data, .. } = result else { panic!("{result:?}") };
            assert_eq!(*data, Some(name.as_bytes()));
        }

        let multis = [
            vec![plain("/m1/x"), set_data("/", b"")],
            vec![set_data(&names[1], b"changed"), set_data(&names[2], b"changed")],
            vec![set_data(&names[1], b"changed"), set_data("/", b"changed")],
        ];
        for multi in multis {
            let error = ensemble.error_of(client, &Request::Multi(multi));
            assert_eq!(error, if shards == 1 { 0 } else { -8 });
        }
        if shards > 1 {
            let body = ensemble.get(client, &get_data(&names[1], false));
            assert_eq!(client::parse_get_data(&body).unwrap().0, Some(names[1].as_bytes()));
        }
    }
}

/// The C client says goodbye and hangs up.
#[test]
fn a_close_that_still_waits_ends_the_session_of_a_client_that_is_gone() {
    let names = names();
    for mut ensemble in shapes() {
        let client = ensemble.connect(0, 0);
        ensemble.get(client, &ephemeral(&names[0]));
        for (xid, name) in (1..).zip(&names[1..]) {
            ensemble.ask(client, xid, &ephemeral(name));
        }
        ensemble.ask(client, 100, &Request::CloseSession);
        ensemble.cut(client);
        ensemble.run();
        assert_eq!(ensemble.ephemerals_count(0), 0, "no time has passed");
    }
}

/// What changed while the client was away fires, and nothing else does.
#[test]
fn watches_are_set_again_shard_by_shard() {
    let names = names();
    for mut ensemble in shapes() {
        let writer = ensemble.connect(0, 0);
        for name in &names {
            ensemble.get(writer, &plain(name));
        }
        let mut client = ensemble.connect(0, 0);
        let mut seen = 0;
        for round in 0..3 {
            for name in &names {
                let heard = ensemble.send(client, &[get_data(name, true)]);
                seen = seen.max(counter(&heard));
            }
            let heard = ensemble.send(client, &[children("/", true)]);
            assert!(counter(&heard) > seen || ensemble.map.count() == 1);
            seen = counter(&heard).max(seen);
            ensemble.cut(client);
            ensemble.run();
            let changed = &names[1 + round..4 + round];
            for name in changed {
                ensemble.get(writer, &set_data(name, b"new"));
            }
            let grows = round == 1;
            if grows {
                ensemble.get(writer, &plain("/grown"));
            }
            client = ensemble.reconnect(client, 0, 0, seen);
            let set = Request::SetWatches(SetWatches {
                relative_zxid: Zxid(seen),
                data: names.iter().map(String::as_str).collect(),
                child: vec!["/"],
                ..SetWatches::default()
            });
            let heard = ensemble.send(client, &[set]);
            let (last, events) = heard.split_last().unwrap();
            assert_eq!(last.brief(), "1", "events come before the reply");
            assert!(last.zxid() > seen || ensemble.map.count() == 1);
            let mut fired = brief(events);
            fired.sort_unstable();
            let mut expected: Vec<String> =
                changed.iter().map(|name| format!("NodeDataChanged {name}")).collect();
            if grows {
                expected.push("NodeChildrenChanged /".to_string());
            }
            expected.sort_unstable();
            assert_eq!(fired, expected, "round {round}");
            // What did not fire waits again, and fires once.
            ensemble.get(writer, &set_data(&names[0], b"later"));
            ensemble.get(writer, &plain(&format!("{}r{round}", names[5])));
            ensemble.get(writer, &plain(&format!("{}r{round}", names[6])));
            let heard = ensemble.heard(client);
            let mut expected = vec![format!("NodeDataChanged {}", names[0])];
            if !grows {
                expected.push("NodeChildrenChanged /".to_string());
            }
            assert_eq!(brief(&heard), expected);
            seen = seen.max(last.zxid()).max(heard.iter().map(Heard::zxid).max().unwrap());
        }
    }
}

/// A client that has not read all that was sent to it is told again of what it may have missed, and
/// a home that has forgotten everything tells of everything.
#[test]
fn what_cannot_be_proved_unchanged_fires() {
    let names = names();
    let mut ensemble = Ensemble::new(3, 2, SHARDS, 1);
    let writer = ensemble.connect(0, 0);
    for name in &names {
        ensemble.get(writer, &plain(name));
    }
    let client = ensemble.connect(0, 0);
    let read = ensemble.send(client, &[get_data(&names[0], true)]);
    ensemble.get(writer, &set_data(&names[0], b"new"));
    // The event was sent; it is not read.
    assert_eq!(brief(&ensemble.heard(client)), [format!("NodeDataChanged {}", names[0])]);
    ensemble.cut(client);
    ensemble.run();
    let seen = counter(&read);
    let client = ensemble.reconnect(client, 1, 1, seen);
    let again = |seen| {
        Request::SetWatches(SetWatches {
            relative_zxid: Zxid(seen),
            data: vec![&names[0], &names[1]],
            exist: vec!["/none"],
            ..SetWatches::default()
        })
    };
    let heard = ensemble.send(client, &[again(seen)]);
    let fired = brief(&heard);
    assert!(fired.contains(&format!("NodeDataChanged {}", names[0])), "{fired:?}");

    // A znode that never changed after its creation, read, and then the home's leader dies.
    let heard = ensemble.send(client, &[get_data(&names[2], true)]);
    let seen = counter(&heard);
    let home = ensemble.map.home_of(client.session);
    let leader = ensemble.leader(home);
    ensemble.cut(client);
    ensemble.run();
    ensemble.kill(leader);
    ensemble.advance(3000);
    let node = (leader + 1) % 3;
    let client = ensemble.reconnect(client, node, 0, seen);
    let set =
        SetWatches { relative_zxid: Zxid(seen), data: vec![&names[2]], ..SetWatches::default() };
    let heard = ensemble.send(client, &[Request::SetWatches(set)]);
    assert_eq!(brief(&heard), [format!("NodeDataChanged {}", names[2]), "1".to_string()]);
}

/// One change fires two watches, and the connection breaks between the two events: whoever takes
/// headers for what it has seen, as the C client does, is told of the second when it comes back.
#[test]
fn an_event_between_two_connections_is_not_lost() {
    let name = &names()[5];
    for mut ensemble in shapes() {
        let writer = ensemble.connect(0, 0);
        ensemble.get(writer, &plain(name));
        let client = ensemble.connect(0, 0);
        let heard = ensemble.send(client, &[children("/", true), get_data(name, true)]);
        let before = counter(&heard);
        ensemble.get(writer, &Request::Delete { path: name, version: -1 });
        let heard = ensemble.heard(client);
        let events = [format!("NodeDeleted {name}"), "NodeChildrenChanged /".to_string()];
        assert_eq!(brief(&heard), events);
        ensemble.cut(client);
        ensemble.run();
        let zxid_none = u64::MAX;
        let seen = if heard[0].zxid() == zxid_none { before } else { heard[0].zxid() };
        let client = ensemble.reconnect(client, 0, 0, seen);
        let set =
            SetWatches { relative_zxid: Zxid(seen), child: vec!["/"], ..SetWatches::default() };
        let heard = ensemble.send(client, &[Request::SetWatches(set)]);
        assert_eq!(brief(&heard), ["NodeChildrenChanged /", "1"]);
    }
}

/// The counter of a client's headers never repeats a number for something else.
#[test]
fn header_counters_rise_over_connections() {
    let mut ensemble = Ensemble::new(1, 2, SHARDS, 1);
    let mut client = ensemble.connect(0, 0);
    let mut seen = 0;
    for round in 0..4 {
        let heard = ensemble.send(client, &[children("/", true), plain(&format!("/r{round}"))]);
        for heard in &heard {
            assert_eq!(heard.zxid(), seen + 1);
            seen = heard.zxid();
        }
        ensemble.cut(client);
        client = ensemble.reconnect(client, 0, round % 2, seen);
    }
}

/// The home has attached a shard, and the write that would have opened it was refused: the session
/// can still move, write there and end.
#[test]
fn an_attachment_that_never_opened_moves_with_its_session() {
    let names = names();
    for (nodes, cores) in [(1, 1), (1, 3), (3, 1)] {
        let mut ensemble = Ensemble::new(nodes, cores, SHARDS, 1);
        let client = ensemble.connect(0, 0);
        for name in &names {
            let delete = Request::Delete { path: name, version: -1 };
            assert_eq!(ensemble.error_of(client, &delete), -101);
        }
        let moved = ensemble.reconnect(client, nodes - 1, 0, 50);
        ensemble.run();
        assert!(ensemble.is_closed(client), "the session has moved");
        for name in &names {
            ensemble.get(moved, &ephemeral(name));
        }
        let body = ensemble.get(moved, &Request::GetEphemerals { prefix: "/" });
        assert_eq!(client::parse_strings(&body).unwrap().len(), names.len());
        assert_eq!(brief(&ensemble.send(moved, &[Request::CloseSession])), ["1"]);
        assert_eq!(ensemble.ephemerals_count(0), 0);
    }
}

/// A write of a former connection that is still on its way never happens after a write of the next.
#[test]
fn a_former_connection_is_fenced_in_every_shard() {
    let names = names();
    for seed in 0..40 {
        let mut ensemble = Ensemble::new(1, 3, SHARDS, seed);
        let client = ensemble.connect(0, 0);
        for name in &names {
            ensemble.get(client, &plain(name));
        }
        for name in &names {
            ensemble.ask(client, 9, &set_data(name, b"old"));
        }
        for _ in 0..seed {
            ensemble.run_one();
        }
        let moved = ensemble.reconnect(client, 0, 1, 100);
        for name in &names {
            ensemble.get(moved, &set_data(name, b"new"));
        }
        ensemble.run();
        for name in &names {
            let body = ensemble.get(moved, &get_data(name, false));
            assert_eq!(
                client::parse_get_data(&body).unwrap().0,
                Some(b"new".as_slice()),
                "seed {seed}"
            );
        }
    }
}

/// The home's leader dies while it closes a session: the next one finishes it. Shard 0's leader
/// dies before every shard knows what it decided about a point: the next one tells them.
#[test]
fn new_leaders_take_up_what_was_begun() {
    let names = names();
    for steps in (0..60).step_by(4) {
        let mut ensemble = Ensemble::new(3, 1, SHARDS, steps);
        let client = ensemble.connect(0, 0);
        for name in &names {
            ensemble.get(client, &ephemeral(name));
        }
        let home = ensemble.leader(ensemble.map.home_of(client.session));
        ensemble.ask(client, 1, &Request::CloseSession);
        for _ in 0..steps {
            ensemble.run_one();
        }
        let asked = !ensemble.is_closed(client);
        ensemble.kill(home);
        ensemble.advance(60_000);
        let left = (home + 1) % 3;
        assert_eq!(ensemble.ephemerals_count(left), 0, "after {steps}, open: {asked}");

        let mut ensemble = Ensemble::new(3, 1, SHARDS, steps);
        let leader = ensemble.leader(ShardId(0));
        let client = ensemble.connect((leader + 1) % 3, 0);
        ensemble.get(client, &plain("/zookeeper/quota/x"));
        ensemble.ask(client, 1, &set_data("/", b"decided"));
        for _ in 0..steps {
            ensemble.run_one();
        }
        ensemble.kill(leader);
        ensemble.advance(5000);
        let left = (leader + 1) % 3;
        let decided = ensemble.replica(left, ShardId(0)).state();
        let decided = decided.tree().data(pigeonhole_core::state::tree::Tree::ROOT);
        for shard in ensemble.map.shards() {
            let state = ensemble.replica(left, shard).state();
            let known = state.tree().data(pigeonhole_core::state::tree::Tree::ROOT);
            assert_eq!(known, decided, "{shard} after {steps}");
        }
    }
}

#[test]
fn a_request_to_a_shard_without_a_leader_ends_with_its_connection() {
    let mut ensemble = Ensemble::new(3, 1, SHARDS, 1);
    let client = ensemble.connect(0, 0);
    ensemble.kill(1);
    ensemble.kill(2);
    ensemble.ask(client, 1, &plain("/a"));
    for _ in 0..4 {
        ensemble.advance(2000);
        assert!(!ensemble.is_closed(client), "leaders may come back");
    }
    ensemble.advance(4000);
    assert!(ensemble.is_closed(client));
}

#[test]
fn tombstones_do_not_pile_up() {
    let mut ensemble = Ensemble::new(1, 2, 2, 1);
    let staying = ensemble.connect(0, 0);
    ensemble.get(staying, &plain("/a"));
    ensemble.get(staying, &plain("/b"));
    ensemble.get(staying, &plain("/c"));
    let tombstones = |ensemble: &Ensemble| -> usize {
        let states = ensemble.replicas().map(|replica| replica.state().sessions());
        states.map(|sessions| sessions.tombstones_count()).sum()
    };
    let mut most = 0;
    for number in 0..1500_u32 {
        let client = ensemble.connect(0, u8::from(number % 2 == 0));
        for name in ["/a", "/b", "/c", "/d"] {
            let path = format!("{name}{number}");
            ensemble.get(client, &ephemeral(&path));
        }
        assert_eq!(brief(&ensemble.send(client, &[Request::CloseSession])), ["1"]);
        most = most.max(tombstones(&ensemble));
    }
    assert!((300..=600).contains(&most), "{most} tombstones at once");
    assert_eq!(ensemble.ephemerals_count(0), 0);
    ensemble.get(staying, &ephemeral("/a/still"));
}

/// Everything that one client does in a random pipeline over all shards: replies come in order,
/// reads see the own writes, and an event comes before any reply that shows its change.
#[test]
fn pipelines_over_all_shards_keep_their_order() {
    let names = names();
    for seed in 0..60 {
        let cores = 1 + (seed % 3) as u8;
        let mut ensemble = Ensemble::new(1, cores, SHARDS, seed);
        let mut chance = Prng::new(seed);
        let client = ensemble.connect(0, 0);
        let other = ensemble.connect(0, cores - 1);
        for name in &names {
            ensemble.get(client, &plain(name));
        }
        let values: Vec<String> = (0..200).map(|number| format!("{number}")).collect();
        let mut requests = vec![];
        for value in &values {
            let name = &names[pick(&mut chance, 8)];
            requests.push(match chance.below(6) {
                0 | 1 => set_data(name, value.as_bytes()),
                2 => children("/", true),
                3 => Request::Sync { path: "/" },
                _ => get_data(name, true),
            });
        }
        let mut bytes = vec![];
        for (xid, request) in (1..).zip(&requests) {
            client::put_request(&mut bytes, xid, request);
        }
        ensemble.post(client, &bytes);
        let mut made = 0;
        while ensemble.run_one() {
            if chance.below(8) == 0 && made < 20 {
                made += 1;
                let name = &names[pick(&mut chance, 8)];
                ensemble.ask(other, 1, &plain(&format!("{name}m{made}")));
            }
        }
        let heard = ensemble.heard(client);
        check_story(&requests, &heard, seed);
    }
}

fn check_story(requests: &[Request<'_>], heard: &[Heard], seed: u64) {
    let mut next = 1;
    let mut values: std::collections::BTreeMap<&str, Vec<u8>> = Default::default();
    let mut watched: BTreeSet<String> = BTreeSet::new();
    let mut root: Option<Vec<String>> = None;
    for heard in heard {
        match heard {
            Heard::Event { kind, path, .. } => {
                let what = format!("{kind:?} {path}");
                assert!(watched.remove(&what), "{what} unasked, seed {seed}");
                if *kind == EventType::NodeChildrenChanged {
                    root = None;
                }
            }
            Heard::Reply { xid, error, body, .. } => {
                assert_eq!((*xid, *error), (next, 0), "seed {seed}");
                match &requests[usize::try_from(next).unwrap() - 1] {
                    Request::SetData { path, data, .. } => {
                        values.insert(path, data.unwrap().to_vec());
                    }
                    Request::GetData { path, .. } => {
                        let (data, _) = client::parse_get_data(body).unwrap();
                        let data = data.unwrap();
                        let expected = values.entry(path).or_default();
                        assert_eq!(data, expected, "own write of {path}, seed {seed}");
                        watched.insert(format!("NodeDataChanged {path}"));
                    }
                    Request::GetChildren { .. } => {
                        let (list, _) = client::parse_children2(body).unwrap();
                        let mut list: Vec<String> = list.iter().map(ToString::to_string).collect();
                        list.sort_unstable();
                        if let Some(before) = root.replace(list.clone()) {
                            assert_eq!(before, list, "newer data before its event, seed {seed}");
                        }
                        watched.insert("NodeChildrenChanged /".to_string());
                    }
                    _ => {}
                }
                next += 1;
            }
        }
    }
    assert_eq!(usize::try_from(next).unwrap(), requests.len() + 1, "seed {seed}");
}

/// One client watches `/`, others change it in all shards at any moment: every registration gets at
/// most one event, and when all is quiet, either the last list is the newest or an event has come
/// behind it.
#[test]
fn no_event_of_a_point_is_lost_or_doubled() {
    let names = names();
    let mut fired_somewhere = 0;
    for seed in 0..300 {
        let cores = 1 + (seed % 3) as u8;
        let mut ensemble = Ensemble::new(1, cores, SHARDS, seed);
        let mut chance = Prng::new(seed + 1000);
        let watcher = ensemble.connect(0, 0);
        let writers: Vec<Handle> =
            (0..3).map(|number| ensemble.connect(0, number % cores)).collect();
        for made in 0..40 {
            if chance.below(3) == 0 {
                let watch = chance.below(4) != 0;
                ensemble.ask(watcher, if watch { 1 } else { 2 }, &children("/", watch));
            } else {
                let name = &names[pick(&mut chance, 8)];
                let writer = writers[pick(&mut chance, 3)];
                ensemble.ask(writer, 3, &plain(&format!("{name}w{made}")));
            }
            for _ in 0..chance.below(12) {
                ensemble.run_one();
            }
        }
        ensemble.run();
        let heard = ensemble.heard(watcher);
        let mut waits = false;
        let mut known: Vec<String> = vec![];
        for heard in &heard {
            match heard {
                Heard::Event { .. } => {
                    assert!(waits, "an event that nobody waits for, seed {seed}");
                    waits = false;
                    fired_somewhere += 1;
                }
                Heard::Reply { xid, body, .. } => {
                    let (list, _) = client::parse_children2(body).unwrap();
                    let mut list: Vec<String> = list.iter().map(ToString::to_string).collect();
                    list.sort_unstable();
                    assert!(!waits || list == known, "new data before its event, seed {seed}");
                    waits |= *xid == 1;
                    known = list;
                }
            }
        }
        if waits {
            let reader = ensemble.connect(0, 0);
            let body = ensemble.get(reader, &children("/", false));
            let (mut list, _) = client::parse_children2(&body).unwrap();
            list.sort_unstable();
            assert_eq!(list, known, "an event is lost, seed {seed}");
        }
    }
    assert!(fired_somewhere > 600, "only {fired_somewhere} events in all stories");
}
