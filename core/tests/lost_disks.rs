//! Servers that come back without their data, and servers that have no room for more.
#![expect(clippy::unwrap_used, reason = "a test may panic wherever it finds something wrong")]

mod cluster;

use pigeonhole_core::base::id::{ShardId, Zxid};
use pigeonhole_core::effect::Input;
use pigeonhole_core::op::Request;

use cluster::{Cluster, Options, create, server};

const SHARD: ShardId = ShardId(0);
const LONG_MS: u64 = 30_000;

fn written(options: Options) -> Cluster {
    let mut cluster = Cluster::new(options);
    cluster.converge();
    write(&mut cluster, "a", 12);
    cluster.converge();
    cluster
}

/// A cluster of three founders, the third of which was never there, so that nobody is admitted; and
/// the leader.
fn founded_by_two() -> (Cluster, usize) {
    let mut cluster = Cluster::new(Options::default());
    for at in 0..3 {
        cluster.crash(at);
        cluster.replace_disk(at);
        cluster.nodes[at].disk.identity.is_founder = true;
    }
    cluster.start(0);
    cluster.start(1);
    let leader = write(&mut cluster, "b", 12);
    cluster.converge();
    (cluster, leader)
}

/// Writes through whoever leads: who that is.
fn write(cluster: &mut Cluster, prefix: &str, count: usize) -> usize {
    let leader = cluster.await_leader();
    let connection = cluster.client(leader);
    cluster.write_many(leader, connection, prefix, count);
    leader
}

/// Whoever leads has the znode.
fn find(cluster: &mut Cluster, path: &str) {
    let leader = cluster.await_leader();
    let connection = cluster.client(leader);
    let look = Request::GetData { path, watch: false };
    assert_eq!(cluster.ask(leader, connection, &look).unwrap().0, 0);
}

/// Waits until every server counts the disk that this one has now.
fn await_admission(cluster: &mut Cluster, lost: usize) {
    let disk = cluster.nodes[lost].disk.identity.disk.0;
    cluster.until("it is admitted", |cluster| {
        (0..3).all(|at| admitted(cluster, at).contains(&(server(lost).0, disk)))
    });
}

fn admitted(cluster: &Cluster, at: usize) -> Vec<(u8, u128)> {
    let worker = cluster.nodes[at].worker.as_ref().unwrap();
    let replica = worker.replicas().next().unwrap();
    let disks = replica.state().admitted().iter();
    disks.map(|(server, disk)| (server.0, disk.0)).collect()
}

fn never_leads(cluster: &mut Cluster) {
    let end = cluster.now.instant.0 + LONG_MS * 1000;
    while cluster.now.instant.0 < end {
        cluster.run(100);
        assert!(cluster.leader_of(SHARD).is_none());
    }
}

#[test]
fn a_new_cluster_admits_every_disk_in_one_entry() {
    for servers in [1, 3, 5] {
        let cluster = written(Options { servers, ..Options::default() });
        let all: Vec<(u8, u128)> = (0..servers).map(|at| (at + 1, 1000 + u128::from(at))).collect();
        for at in 0..usize::from(servers) {
            assert_eq!(admitted(&cluster, at), all);
        }
    }
}

#[test]
fn a_cluster_that_is_not_complete_works_and_admits_nobody() {
    let (mut cluster, leader) = founded_by_two();
    assert!(admitted(&cluster, leader).is_empty());
    // The leader fails before everybody was there at once: the third one is a founder as well.
    cluster.crash(leader);
    cluster.start(2);
    write(&mut cluster, "c", 12);
}

#[test]
fn one_lost_disk_is_filled_and_admitted_again() {
    for shards in [1, 3] {
        let mut cluster = written(Options { shards, ..Options::default() });
        let leader = cluster.await_leader();
        let lost = (leader + 1) % 3;
        let third = 3 - leader - lost;
        cluster.crash(lost);
        cluster.replace_disk(lost);
        cluster.start(lost);
        cluster.converge();
        await_admission(&mut cluster, lost);
        cluster.converge();
        // From now on it is as good as any other.
        cluster.crash(third);
        write(&mut cluster, "b", 3);
        // And its own log says so.
        cluster.crash(lost);
        cluster.start(lost);
        cluster.await_leader();
    }
}

#[test]
fn a_lost_disk_is_no_part_of_a_quorum_before_it_is_admitted() {
    let mut cluster = written(Options::default());
    let intact = cluster.await_leader();
    let lost = (intact + 1) % 3;
    let down = 3 - intact - lost;
    cluster.crash(down);
    cluster.crash(lost);
    cluster.replace_disk(lost);
    cluster.start(lost);
    never_leads(&mut cluster);
    cluster.start(down);
    cluster.converge();
    find(&mut cluster, "/a11");
}

#[test]
fn two_lost_disks_found_nothing_with_each_other() {
    let mut cluster = written(Options::default());
    let intact = cluster.await_leader();
    let lost = [(intact + 1) % 3, (intact + 2) % 3];
    for at in lost {
        cluster.crash(at);
        cluster.replace_disk(at);
    }
    cluster.cut(intact, lost);
    for at in lost {
        cluster.start(at);
    }
    never_leads(&mut cluster);
    for at in lost {
        assert_eq!(cluster.nodes[at].disk.tail(SHARD), Zxid::ZERO);
    }
    // Nor with the one that is left: it cannot tell what it alone may have missed.
    cluster.heal();
    never_leads(&mut cluster);
    assert!(cluster.report(intact).tail > Zxid::ZERO);
}

#[test]
fn two_of_five_lost_disks_are_admitted_by_the_other_three() {
    let mut cluster = written(Options { servers: 5, ..Options::default() });
    for at in [1, 3] {
        cluster.crash(at);
        cluster.replace_disk(at);
    }
    cluster.start(1);
    cluster.start(3);
    cluster.converge();
    cluster.until("both are admitted", |cluster| {
        [1_usize, 3].iter().all(|&at| {
            let disk = cluster.nodes[at].disk.identity.disk.0;
            admitted(cluster, 0).contains(&(server(at).0, disk))
        })
    });
    cluster.crash(0);
    cluster.crash(2);
    write(&mut cluster, "b", 3);
}

#[test]
fn a_disk_that_was_replaced_does_not_count_when_it_is_found_again() {
    let mut cluster = written(Options::default());
    let leader = cluster.await_leader();
    let lost = (leader + 1) % 3;
    let third = 3 - leader - lost;
    cluster.crash(lost);
    let found = cluster.replace_disk(lost);
    cluster.start(lost);
    await_admission(&mut cluster, lost);
    cluster.crash(lost);
    cluster.crash(third);
    cluster.nodes[lost].disk = found;
    cluster.start(lost);
    never_leads(&mut cluster);
    cluster.start(third);
    cluster.converge();
}

#[test]
fn a_disk_lost_before_anybody_was_admitted_does_not_count_either() {
    let (mut cluster, _) = founded_by_two();
    cluster.crash(0);
    cluster.crash(1);
    cluster.replace_disk(1);
    // Only the first server knows what was written: without it there must be nothing.
    cluster.start(1);
    cluster.start(2);
    never_leads(&mut cluster);
    cluster.start(0);
    cluster.converge();
    find(&mut cluster, "/b11");
    cluster.until("everybody present is admitted", |cluster| {
        (0..3).all(|at| admitted(cluster, at).len() == 3)
    });
}

#[test]
fn a_damaged_log_is_not_taken_for_a_short_one() {
    let mut cluster = written(Options::default());
    let intact = cluster.await_leader();
    let damaged = (intact + 1) % 3;
    let behind = 3 - intact - damaged;
    cluster.crash(behind);
    write(&mut cluster, "b", 5);
    cluster.converge();
    cluster.crash(damaged);
    cluster.crash(intact);
    cluster.nodes[damaged].disk.damage_tail(9);
    // What was written last is on the server that is down, and was on the damaged one.
    cluster.start(damaged);
    cluster.start(behind);
    never_leads(&mut cluster);
    cluster.start(intact);
    cluster.converge();
    find(&mut cluster, "/b4");
    // Settled, it counts again, and remembers that over a restart.
    cluster.crash(behind);
    cluster.crash(damaged);
    cluster.start(damaged);
    write(&mut cluster, "c", 3);
}

#[test]
fn a_leader_without_room_hands_over_and_serves_reads() {
    let mut cluster = written(Options::default());
    let full = cluster.await_leader();
    let connection = cluster.client(full);
    cluster.input(full, Input::DiskSpace { is_low: true });
    cluster.until("somebody else leads", |cluster| {
        cluster.leader_of(SHARD).is_some_and(|leader| leader != full)
    });
    // Writes go to a leader that has room, through the server that has none.
    cluster.run(1000);
    let connection =
        if cluster.is_closed(full, connection) { cluster.client(full) } else { connection };
    cluster.write_many(full, connection, "b", 3);
    let look = Request::GetData { path: "/b2", watch: false };
    assert_eq!(cluster.ask(full, connection, &look).unwrap().0, 0);
}

#[test]
fn without_room_anywhere_reads_are_served_and_writes_refused_until_there_is_room() {
    let mut cluster = written(Options::default());
    let before = cluster.await_leader();
    let connection = cluster.client(before);
    for at in 0..3 {
        cluster.input(at, Input::DiskSpace { is_low: true });
    }
    cluster.run(5000);
    let leader = cluster.await_leader();
    let connection = if cluster.is_closed(before, connection) {
        assert!(cluster.connect(leader).is_none(), "a new session would be a write");
        None
    } else {
        Some(connection)
    };
    let elections = cluster.nodes[leader].events.len();
    cluster.run(LONG_MS / 2);
    assert_eq!(cluster.nodes[leader].events.len(), elections, "the leadership does not wander");
    if let Some(connection) = connection {
        let (error, _) = cluster.ask(before, connection, &create("/c", b"")).unwrap();
        assert_eq!(error, -1);
        let look = Request::GetData { path: "/a1", watch: false };
        assert_eq!(cluster.ask(before, connection, &look).unwrap().0, 0);
    }
    for at in 0..3 {
        cluster.input(at, Input::DiskSpace { is_low: false });
    }
    let connection = cluster.client(leader);
    cluster.write_many(leader, connection, "d", 3);
}
