//! Replicas whose trees differ: whoever is alone with its own is told to stop.

mod cluster;

use pigeonhole_core::zab::Event;

use cluster::{Cluster, Options};

/// Three servers, and those of them that were found astray once there was a point to compare.
fn found_astray(choose: impl Fn(usize) -> Vec<usize>) -> (usize, Vec<usize>) {
    let mut cluster = Cluster::new(Options::default());
    let leader = cluster.await_leader();
    cluster.converge();
    cluster.is_astray.extend(choose(leader));
    let client = cluster.client(leader);
    cluster.write_many(leader, client, "node-", 70);
    cluster.run(1000);
    let found = (0..3).filter(|&at| cluster.nodes[at].diverged.is_some());
    (leader, found.collect())
}

fn others(leader: usize) -> Vec<usize> {
    (0..3).filter(|&at| at != leader).collect()
}

#[test]
fn whoever_is_alone_with_its_tree_is_told_to_stop() {
    let (_, found) = found_astray(|_| vec![]);
    assert_eq!(found, [], "one history makes one tree");
    let (leader, found) = found_astray(|leader| others(leader)[..1].to_vec());
    assert_eq!(found, others(leader)[..1]);
    let (leader, found) = found_astray(others);
    assert_eq!(found, [leader], "the others agree, and it is the leader that is wrong");
}

#[test]
fn where_no_majority_agrees_an_operator_hears_so_and_nobody_stops() {
    let mut cluster = Cluster::new(Options::default());
    let leader = cluster.await_leader();
    let [down, astray] = others(leader)[..] else { unreachable!("there are three") };
    cluster.crash(down);
    cluster.is_astray.insert(astray);
    let client = cluster.client(leader);
    cluster.write_many(leader, client, "node-", 70);
    cluster.run(1000);
    assert!(cluster.has_event(leader, |event| matches!(event, Event::DigestsDiffer { .. })));
    assert!(cluster.nodes.iter().all(|node| node.diverged.is_none()));
}
