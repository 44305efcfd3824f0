//! Clients that come back on another connection while there are several shards: what they missed
//! fires, and what was on its way from before does nothing.

mod nodes;

use nodes::{
    Ensemble, Heard, SHARDS, brief, children, counter, ephemeral, get_data, names, plain, set_data,
    shapes,
};
use pigeonhole_core::base::id::Zxid;
use pigeonhole_core::op::{Request, SetWatches};
use pigeonhole_core::wire::client;

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
