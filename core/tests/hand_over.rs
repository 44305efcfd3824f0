//! Leaders that give up what they lead on purpose: nobody's request gets lost on the way.

mod cluster;

use pigeonhole_core::base::id::{ConnectionId, ShardId};
use pigeonhole_core::effect::Input;
use pigeonhole_core::op::Request;
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::zab::Event;

use cluster::{Cluster, Options, create};

const SHARD: ShardId = ShardId(0);

/// The error codes of so many replies; it must not be closed before they are there.
fn replies(cluster: &mut Cluster, at: usize, connection: ConnectionId, count: usize) -> Vec<i32> {
    (0..count).map(|_| cluster.reply(at, connection).expect("an open connection").0).collect()
}

#[test]
fn a_server_that_stops_hands_over_what_it_leads_and_loses_no_request() {
    let mut cluster = Cluster::new(Options::default());
    cluster.converge();
    let leader = cluster.await_leader();
    let other = (leader + 1) % 3;
    let (near, far) = (cluster.client(leader), cluster.client(other));
    for number in 0..60 {
        // Some are proposed before the server is to stop, some are held, some come when it is gone.
        if number == 20 {
            cluster.input(leader, Input::Stopping);
        }
        for (at, connection) in [(leader, near), (other, far)] {
            let path = format!("/{at}-{number}");
            cluster.send(at, connection, &create(&path, b""));
        }
        cluster.run(1);
    }
    for (at, connection) in [(leader, near), (other, far)] {
        let codes = replies(&mut cluster, at, connection, 60);
        assert_eq!(codes, [0; 60], "server {at}");
    }
    let worker = cluster.nodes[leader].worker.as_ref().unwrap();
    assert!(!worker.is_finishing(), "the process may end");
    assert_ne!(cluster.await_leader(), leader, "as long as anybody else can");
    cluster.crash(leader);
    let now = cluster.await_leader();
    let connection = cluster.client(now);
    let look = Request::GetData { path: &format!("/{leader}-59"), watch: false };
    assert_eq!(cluster.ask(now, connection, &look).unwrap().0, 0);
}

#[test]
fn whoever_cannot_be_followed_leads_on() {
    let mut cluster = Cluster::new(Options::default());
    cluster.converge();
    let leader = cluster.await_leader();
    let connection = cluster.client(leader);
    // Nobody acknowledges anything any more, though the links live.
    for at in (0..3).filter(|&at| at != leader) {
        cluster.mute(at, [leader]);
    }
    cluster.send(leader, connection, &create("/held", b""));
    cluster.input(leader, Input::Stopping);
    assert!(cluster.nodes[leader].worker.as_ref().unwrap().is_finishing());
    cluster.heal();
    assert_eq!(replies(&mut cluster, leader, connection, 1), [0]);
}

#[test]
fn a_server_alone_has_nobody_to_hand_over_to() {
    let mut cluster = Cluster::new(Options { servers: 1, ..Options::default() });
    cluster.input(0, Input::Stopping);
    assert!(!cluster.nodes[0].worker.as_ref().unwrap().is_finishing());
    let connection = cluster.client(0);
    cluster.write_many(0, connection, "a", 3);
}

#[test]
fn shards_return_to_the_servers_that_should_lead_them() {
    let shards = ShardMap::new(8).shards().collect::<Vec<_>>();
    let mut cluster = Cluster::new(Options { shards: 8, ..Options::default() });
    cluster.converge();
    let placed = |cluster: &Cluster| shards.iter().map(|&it| cluster.leader_of(it)).collect();
    let before: Vec<Option<usize>> = placed(&cluster);
    // Whoever does not lead shard 0, which stays where it goes.
    let victim = (cluster.leader_of(SHARD).unwrap() + 1) % 3;
    let led = before.iter().filter(|&&leader| leader == Some(victim)).count();
    assert!(led > 0);
    cluster.crash(victim);
    cluster.await_leader();
    let client_at = (victim + 1) % 3;
    let connection = cluster.client(client_at);
    cluster.start(victim);
    cluster.converge();
    assert_eq!(cluster.leader_of(SHARD), before[0]);

    // Writes go on meanwhile, to every shard, and none of them is lost.
    for part in 0..18 {
        for top in 0..16 {
            let path = format!("/{part}-{top}");
            cluster.write(client_at, connection, &[&path], 10);
        }
        cluster.run(20_000);
    }
    cluster.await_leader();
    let after: Vec<Option<usize>> = placed(&cluster);
    for at in 0..3 {
        let count = after.iter().filter(|&&leader| leader == Some(at)).count();
        let should = before.iter().filter(|&&leader| leader == Some(at)).count();
        assert!(count <= should.max(3), "server {at} leads {count} of 8: {after:?}");
    }
}

/// A preferred server that does not want to lead is offered its shards ever more seldom, and the
/// others get theirs meanwhile.
#[test]
fn a_server_that_does_not_want_to_lead_is_not_asked_every_minute() {
    let shards = ShardMap::new(8).shards().collect::<Vec<_>>();
    let mut cluster = Cluster::new(Options { shards: 8, ..Options::default() });
    cluster.converge();
    let placed = |cluster: &Cluster| shards.iter().map(|&it| cluster.leader_of(it)).collect();
    let before: Vec<Option<usize>> = placed(&cluster);
    let unwilling = (cluster.leader_of(SHARD).unwrap() + 1) % 3;
    cluster.input(unwilling, Input::DiskSpace { is_low: true });
    cluster.converge();
    let after: Vec<Option<usize>> = placed(&cluster);
    assert!(after.iter().all(|&leader| leader != Some(unwilling)), "{before:?} {after:?}");
    for node in &mut cluster.nodes {
        node.events.clear();
    }
    cluster.run(3_600_000);
    let mut elections = 0;
    for node in &cluster.nodes {
        let leads = |(_, it): &&(ShardId, Event)| matches!(it, Event::EpochProposed { .. });
        elections += node.events.iter().filter(leads).count();
    }
    assert!((1..40).contains(&elections), "{elections} elections in an hour");
    cluster.input(unwilling, Input::DiskSpace { is_low: false });
    cluster.run(2 * 3_600_000);
    let at_last: Vec<Option<usize>> = placed(&cluster);
    assert!(at_last.contains(&Some(unwilling)), "{at_last:?}");
}
