//! Several shards are one tree to a client: requests about many of them, pipelines, new leaders.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod nodes;

use std::collections::BTreeSet;

use nodes::{
    Ensemble, Heard, SHARDS, brief, children, ephemeral, get_data, names, pick, plain, set_data,
    shapes,
};
use pigeonhole_core::base::id::ShardId;
use pigeonhole_core::base::prng::Prng;
use pigeonhole_core::op::{EventType, Request};
use pigeonhole_core::replica::Replica;
use pigeonhole_core::wire::client;

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

/// Whoever hangs up may have asked for it twice, and both questions have an answer.
#[test]
fn a_session_that_is_closed_twice_leaves_no_question() {
    let names = names();
    for seed in 0..20 {
        let mut ensemble = Ensemble::new(3, 1, SHARDS, seed);
        let client = ensemble.connect(0, 0);
        for name in &names {
            ensemble.get(client, &ephemeral(name));
        }
        ensemble.ask(client, 1, &Request::CloseSession);
        ensemble.ask(client, 2, &Request::CloseSession);
        for _ in 0..seed {
            ensemble.run_one();
        }
        ensemble.cut(client);
        ensemble.run();
        assert_eq!(ensemble.ephemerals_count(0), 0, "seed {seed}");
        let asked: usize = ensemble.replicas().map(Replica::asked_count).sum();
        assert_eq!(asked, 0, "seed {seed}");
    }
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
