//! Partition points: spread over all shards, and to a client like every other znode.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod nodes;

use nodes::{
    Ensemble, Handle, Heard, OPEN, SHARDS, brief, children, create, get_data, names, pick, plain,
    set_data, shapes,
};
use pigeonhole_core::base::prng::Prng;
use pigeonhole_core::op::{Acl, AddWatchMode, CreateMode, Request, Stat, WatcherType, permission};
use pigeonhole_core::shard::PARTITION_POINTS;
use pigeonhole_core::wire::client;

fn stat_of(body: &[u8]) -> Stat {
    client::parse_stat(&body[body.len() - 68..]).expect("a stat")
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
