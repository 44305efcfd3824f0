//! Snapshots of shards: taken at the same points everywhere, sent to learners that are far behind,
//! and begun with after a restart.
#![expect(clippy::unwrap_used, reason = "a test may panic wherever it finds something wrong")]

mod cluster;

use pigeonhole_core::base::id::{ConnectionId, ShardId, Zxid};
use pigeonhole_core::base::limits::{STORE_AGAIN_MS, TURN_SHARE};
use pigeonhole_core::base::prng::Prng;
use pigeonhole_core::base::time::Duration;
use pigeonhole_core::effect::{Input, SnapshotJob};
use pigeonhole_core::op::Request;
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::wire::client;
use pigeonhole_core::zab::log::LogLimits;
use pigeonhole_core::zab::{Event, Plan};

use cluster::{Cluster, Node, Options, create};

const SHARD: ShardId = ShardId(0);

fn few() -> Cluster {
    Cluster::new(Options::default())
}

/// Starts a server that is sent the state, and keeps it from storing that.
fn receive_state(cluster: &mut Cluster, behind: usize) {
    cluster.nodes[behind].holds_jobs = true;
    cluster.start(behind);
    cluster.until("the state has arrived", |cluster| !cluster.nodes[behind].jobs.is_empty());
}

/// A cluster with a server that is too far behind for a DIFF, and still down; the leader, a client
/// there, and the server.
fn with_one_behind(bytes: usize) -> (Cluster, usize, ConnectionId, usize) {
    leave_one_behind(few(), bytes)
}

fn leave_one_behind(mut cluster: Cluster, bytes: usize) -> (Cluster, usize, ConnectionId, usize) {
    let leader = cluster.await_leader();
    let behind = (leader + 1) % 3;
    let connection = cluster.connect(leader).unwrap();
    cluster.write_many(leader, connection, "before", 3);
    cluster.converge();
    cluster.crash(behind);
    cluster.until("the leader stays", |cluster| cluster.leader_of(SHARD).is_some());
    assert_eq!(cluster.leader_of(SHARD), Some(leader));
    for number in 0..30 {
        let name = format!("/meanwhile{number}");
        cluster.write(leader, connection, &[&name], bytes);
    }
    (cluster, leader, connection, behind)
}

/// A cluster whose leader does not know yet that it is alone, and has writes that will be lost; and
/// that leader.
fn with_a_leader_alone() -> (Cluster, usize) {
    let mut cluster = few();
    let old = cluster.await_leader();
    let connection = cluster.connect(old).unwrap();
    cluster.write_many(old, connection, "a", 10);
    cluster.converge();
    cluster.mute(old, (0..3).filter(|&it| it != old));
    for number in 0..4 {
        let name = format!("/lost{number}");
        cluster.send(old, connection, &create(&name, b""));
    }
    (cluster, old)
}

fn was_sent_the_state(cluster: &Cluster, leader: usize) -> bool {
    cluster.has_event(leader, |event| matches!(event, Event::Plan { plan: Plan::Snapshot, .. }))
}

fn has_installed(cluster: &Cluster, at: usize) -> bool {
    cluster.has_event(at, |event| matches!(event, Event::Installed { .. }))
}

/// What it lacks of all shards together may be more than a link takes.
#[test]
fn what_a_learner_lacks_is_sent_in_steps() {
    const STEP_BYTES: usize = 20_000;
    const ENTRY_BYTES_MAX: usize = 1500;
    let shards = 4;
    let limits = LogLimits { in_flight_bytes: STEP_BYTES, ..LogLimits::default() };
    let mut cluster = Cluster::new(Options { shards, limits, ..Options::default() });
    cluster.converge();
    let behind = 2;
    cluster.crash(behind);
    cluster.converge();
    let connection = cluster.connect(0).unwrap();
    for number in 0..400 {
        let name = format!("/n{number}");
        cluster.write(0, connection, &[&name], 1000);
    }
    cluster.start(behind);
    let mut most = 0;
    cluster.until("the learner is in step", |cluster| {
        let under_way = |from| cluster.bytes_under_way(from, behind);
        most = most.max(under_way(0)).max(under_way(1));
        let is_in_step = |shard| cluster.shards(shard).iter().all(|(_, it)| it.established);
        (0..shards).map(ShardId).all(is_in_step)
    });
    let step_of_all = usize::from(shards) * (STEP_BYTES + ENTRY_BYTES_MAX);
    assert!(most > STEP_BYTES && most < step_of_all, "{most} bytes under way");
    cluster.converge();
    let is_diff = |event: &Event| matches!(event, Event::Plan { plan: Plan::Diff, .. });
    assert!(cluster.has_event(0, is_diff) || cluster.has_event(1, is_diff));
}

/// A server that has lost its disk is sent the state of every shard, and all of it over one link.
#[test]
fn states_of_many_shards_are_sent_in_small_parts() {
    const BYTES_OF_ONE: usize = 20_000;
    const FRAMES_BYTES_MAX: usize = 1000;
    let shards = 2;
    let limits =
        LogLimits { in_flight_bytes: BYTES_OF_ONE, window_entries: 8, ..LogLimits::default() };
    let mut cluster = Cluster::new(Options { shards, limits, ..Options::default() });
    cluster.converge();
    let connection = cluster.connect(0).unwrap();
    for number in 0..400 {
        let name = format!("/n{number}");
        cluster.write(0, connection, &[&name], 1000);
    }
    cluster.converge();
    let lost = 2;
    cluster.crash(lost);
    cluster.replace_disk(lost);
    cluster.start(lost);
    let mut most = 0;
    cluster.until("the state is there", |cluster| {
        let under_way = |from| cluster.bytes_under_way(from, lost);
        most = most.max(under_way(0)).max(under_way(1));
        let is_there = |shard| {
            let reports = cluster.shards(shard);
            reports.len() == 3 && reports.iter().all(|(_, it)| it.established)
        };
        (0..shards).map(ShardId).all(is_there)
    });
    let of_all = usize::from(shards) * (BYTES_OF_ONE + FRAMES_BYTES_MAX);
    assert!(most > BYTES_OF_ONE && most <= of_all, "{most} bytes under way");
    assert!(has_installed(&cluster, lost));
    cluster.converge();
}

#[test]
fn a_job_may_go_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<SnapshotJob>();
}

#[test]
fn every_server_takes_the_same_snapshots() {
    for shards in [1, 4] {
        let mut cluster = Cluster::new(Options { shards, ..Options::default() });
        cluster.converge();
        let connection = cluster.connect(0).unwrap();
        for round in 0..6 {
            cluster.write_many(0, connection, &format!("{round}a"), 30);
            cluster.converge();
        }
        // That the bytes are the same is asserted where they are made.
        assert!(cluster.nodes[0].frozen.len() >= 4);
        for node in &cluster.nodes {
            assert_eq!(node.frozen.len(), cluster.nodes[0].frozen.len());
            assert_eq!(node.disk.named(SHARD), cluster.nodes[0].disk.named(SHARD));
        }
        let [newest, older] = cluster.nodes[0].disk.named(SHARD);
        assert!(newest > older && older > Zxid::ZERO);
    }
}

#[test]
fn a_point_that_comes_while_a_snapshot_is_made_is_passed_by() {
    let mut cluster = few();
    let leader = cluster.await_leader();
    let slow = (leader + 1) % 3;
    cluster.nodes[slow].holds_jobs = true;
    let connection = cluster.connect(leader).unwrap();
    cluster.write_many(leader, connection, "a", 70);
    cluster.converge();
    assert_eq!(cluster.nodes[slow].frozen.len(), 1);
    assert_eq!(cluster.nodes[slow].jobs.len(), 1);
    assert!(cluster.nodes[leader].frozen.len() >= 3);
    assert_eq!(cluster.nodes[slow].disk.named(SHARD), [Zxid::ZERO; 2]);
    cluster.nodes[slow].holds_jobs = false;
    cluster.write_many(leader, connection, "b", 30);
    cluster.converge();
    assert_eq!(
        cluster.nodes[slow].disk.named(SHARD)[0],
        cluster.nodes[leader].disk.named(SHARD)[0]
    );
}

#[test]
fn a_server_whose_log_is_too_long_gets_a_point() {
    for asks_leader in [true, false] {
        let mut cluster = few();
        cluster.converge();
        let leader = cluster.await_leader();
        let asker = if asks_leader { leader } else { (leader + 1) % 3 };
        assert_eq!(cluster.nodes[asker].disk.named(SHARD), [Zxid::ZERO; 2]);
        for taken in 1..3 {
            // Twice, because the log is kept back to the older of two.
            cluster.input(asker, Input::SnapshotWanted { shard: SHARD });
            cluster.until("everybody has a snapshot", |cluster| {
                let made = |node: &Node| node.frozen.len() == taken && node.jobs.is_empty();
                cluster.nodes.iter().all(made)
            });
        }
        cluster.converge();
        let [newest, older] = cluster.nodes[asker].disk.named(SHARD);
        assert!(newest > older && older > Zxid::ZERO);
    }
}

#[test]
fn an_abandoned_snapshot_does_not_keep_the_next_from_being_made() {
    let mut cluster = few();
    let leader = cluster.await_leader();
    cluster.nodes[leader].holds_jobs = true;
    let connection = cluster.connect(leader).unwrap();
    cluster.write_many(leader, connection, "a", 30);
    let job = cluster.nodes[leader].jobs.pop_front().unwrap();
    cluster.input(
        leader,
        Input::SnapshotAbandoned { shard: job.shard, zxid: job.zxid, hash: job.hash },
    );
    cluster.nodes[leader].holds_jobs = false;
    cluster.write_many(leader, connection, "b", 30);
    cluster.converge();
    assert!(cluster.nodes[leader].disk.named(SHARD)[0] > job.zxid);
}

#[test]
fn a_learner_beyond_the_window_gets_the_state() {
    let (mut cluster, leader, connection, behind) = with_one_behind(40_000);
    cluster.start(behind);
    cluster.converge();
    assert!(was_sent_the_state(&cluster, leader));
    assert!(has_installed(&cluster, behind));
    assert_eq!(cluster.nodes[behind].discarded, 1, "its own is dropped where nobody waits");
    assert!(cluster.chunks >= 5, "{} chunks", cluster.chunks);
    cluster.write_many(leader, connection, "after", 5);
    cluster.converge();
    // What was installed outlives the process.
    let tail = cluster.nodes[behind].disk.tail(SHARD);
    cluster.crash(behind);
    cluster.start(behind);
    assert!(cluster.report(behind).tail == tail && cluster.report(behind).zxid > Zxid::ZERO);
    cluster.converge();
}

#[test]
fn what_the_window_holds_anyway_turns_no_learner_away() {
    let mut options = Options::default();
    options.limits.pinned_bytes_max = 1;
    let (mut cluster, leader, _, behind) = leave_one_behind(Cluster::new(options), 100);
    cluster.start(behind);
    cluster.converge();
    assert!(has_installed(&cluster, behind));
    let plans = cluster.nodes[leader].events.iter();
    let plans = plans.filter(|(_, it)| matches!(it, Event::Plan { plan: Plan::Snapshot, .. }));
    assert_eq!(plans.count(), 1);
}

#[test]
fn a_learner_that_pins_too_much_begins_again() {
    let mut options = Options::default();
    options.limits.pinned_bytes_max = 20_000;
    let (mut cluster, leader, connection, behind) = leave_one_behind(Cluster::new(options), 100);
    receive_state(&mut cluster, behind);
    for number in 0..30 {
        let name = format!("/large{number}");
        cluster.write(leader, connection, &[&name], 1000);
    }
    cluster.run(100);
    assert!(!has_installed(&cluster, behind));
    cluster.nodes[behind].holds_jobs = false;
    cluster.converge();
    let plans = cluster.nodes[leader].events.iter();
    let plans = plans.filter(|(_, it)| matches!(it, Event::Plan { plan: Plan::Snapshot, .. }));
    assert!(plans.count() >= 2);
}

#[test]
fn writes_go_on_while_the_state_is_sent() {
    let (mut cluster, leader, connection, behind) = with_one_behind(60_000);
    receive_state(&mut cluster, behind);
    // The disk takes longer than anything is waited for, and the log's window is exceeded twice.
    cluster.run(30_000);
    cluster.write_many(leader, connection, "during", 20);
    assert!(!has_installed(&cluster, behind));
    assert_eq!(cluster.leader_of(SHARD), Some(leader));
    cluster.nodes[behind].holds_jobs = false;
    cluster.converge();
    assert!(has_installed(&cluster, behind));
    let plans = cluster.nodes[leader].events.iter();
    let plans = plans.filter(|(_, event)| matches!(event, Event::Plan { .. }));
    assert_eq!(plans.count(), 3, "two at the beginning, and one attempt is enough");
}

/// Each would be a whole state in memory, on its way to the disk for nothing.
#[test]
fn a_state_from_a_leader_that_is_gone_need_not_be_stored() {
    let (mut cluster, leader, _, behind) = with_one_behind(60_000);
    receive_state(&mut cluster, behind);
    let interest = cluster.nodes[behind].jobs[0].interest.clone();
    assert!(cluster.nodes[behind].jobs[0].is_urgent && interest.is_alive());
    cluster.crash(leader);
    cluster.until("another leads", |cluster| cluster.nodes[behind].jobs.len() == 2);
    let jobs = &cluster.nodes[behind].jobs;
    assert!(!jobs[0].interest.is_alive() && jobs[1].interest.is_alive());
    cluster.nodes[behind].holds_jobs = false;
    cluster.start(leader);
    cluster.converge();
    assert!(has_installed(&cluster, behind));
}

/// It is not sent again: that would be all of it, once a second, for as long as the disk is full.
#[test]
fn a_state_that_could_not_be_stored_is_stored_later() {
    let (mut cluster, leader, _, behind) = with_one_behind(60_000);
    receive_state(&mut cluster, behind);
    for _ in 0..3 {
        let job = cluster.nodes[behind].jobs.pop_front().unwrap();
        let (shard, zxid, hash) = (job.shard, job.zxid, job.hash);
        cluster.input(behind, Input::SnapshotAbandoned { shard, zxid, hash });
        let begun = cluster.now.instant;
        cluster.until("it is tried again", |it| !it.nodes[behind].jobs.is_empty());
        assert!(cluster.now.instant.since(begun) >= Duration::from_ms(STORE_AGAIN_MS));
    }
    cluster.nodes[behind].holds_jobs = false;
    cluster.converge();
    assert!(has_installed(&cluster, behind));
    let plans = cluster.nodes[leader].events.iter();
    let plans = plans.filter(|(_, it)| matches!(it, Event::Plan { plan: Plan::Snapshot, .. }));
    assert_eq!(plans.count(), 1);
}

/// Its clients would wait here for what the other servers have.
#[test]
fn a_server_that_takes_long_to_get_the_state_takes_no_clients_meanwhile() {
    let mut cluster = Cluster::new(Options { shards: 2, ..Options::default() });
    let shard = ShardMap::new(2).shard_of("/of-one-shard");
    let leader = cluster.leader_of(shard).unwrap();
    let behind = (leader + 1) % 3;
    let connection = cluster.client(leader);
    cluster.write(leader, connection, &["/of-one-shard"], 0);
    cluster.converge();
    cluster.crash(behind);
    for number in 0..30 {
        let name = format!("/of-one-shard/{number}");
        cluster.write(leader, connection, &[&name], 60_000);
    }
    receive_state(&mut cluster, behind);
    cluster.run(2_000);
    // Sessions live in both shards, one of which has all that it needs.
    let taken = (0..10).filter(|_| cluster.connect(behind).is_some());
    assert_eq!(taken.count(), 0);
    let is_catching_up = |cluster: &Cluster| {
        cluster.shards(shard).iter().any(|(at, it)| *at == behind && it.is_catching_up)
    };
    assert!(is_catching_up(&cluster), "operators are told");
    cluster.nodes[behind].holds_jobs = false;
    cluster.converge();
    assert!(cluster.connect(behind).is_some() && !is_catching_up(&cluster));
}

/// Other shards of its core have clients meanwhile.
#[test]
fn what_a_learner_lacks_is_applied_share_by_share() {
    const COUNT: usize = 5 * TURN_SHARE;
    let limits = LogLimits { window_entries: 1000, ..LogLimits::default() };
    let mut cluster = Cluster::new(Options { limits, ..Options::default() });
    let leader = cluster.await_leader();
    let behind = (leader + 1) % 3;
    let connection = cluster.client(leader);
    cluster.converge();
    cluster.crash(behind);
    cluster.write_many(leader, connection, "a", COUNT);
    cluster.start(behind);
    let end = cluster.now.instant + Duration::from_ms(5_000);
    let mut applied = cluster.report(behind).zxid;
    let mut most = 0;
    while cluster.report(behind).leader.is_none() {
        assert!(cluster.step(end));
        let now = cluster.report(behind).zxid;
        if now.epoch() == applied.epoch() {
            most = most.max(now.counter() - applied.counter());
        }
        applied = now;
    }
    assert!(most as usize <= TURN_SHARE, "{most} entries in one turn");
    assert!(cluster.report(behind).znodes >= COUNT, "it serves when it has them all");
}

/// It takes long from when it has a leader to learn from: how long it had none says nothing.
#[test]
fn a_server_that_was_cut_off_for_long_takes_clients_as_soon_as_it_has_a_leader_again() {
    let mut cluster = Cluster::new(Options::default());
    let leader = cluster.await_leader();
    let behind = (leader + 1) % 3;
    let connection = cluster.client(leader);
    cluster.write(leader, connection, &["/a"], 0);
    cluster.converge();
    cluster.cut(behind, (0..3).filter(|other| *other != behind));
    cluster.run(5_000);
    for number in 0..30 {
        let name = format!("/a/{number}");
        cluster.write(leader, connection, &[&name], 60_000);
    }
    cluster.nodes[behind].holds_jobs = true;
    cluster.heal();
    cluster.until("the state has arrived", |cluster| !cluster.nodes[behind].jobs.is_empty());
    cluster.nodes[behind].holds_jobs = false;
    assert!(cluster.connect(behind).is_some());
}

#[test]
fn much_that_was_written_meanwhile_is_sent_step_by_step() {
    let (mut cluster, leader, connection, behind) = with_one_behind(1000);
    receive_state(&mut cluster, behind);
    for number in 0..30 {
        let name = format!("/large{number}");
        cluster.write(leader, connection, &[&name], 900_000);
    }
    cluster.nodes[behind].holds_jobs = false;
    cluster.converge();
    assert!(has_installed(&cluster, behind));
}

#[test]
fn what_is_interrupted_at_any_chunk_leaves_the_old_history_alone() {
    #[derive(Clone, Copy, Debug)]
    enum Interruption {
        Link,
        Learner,
        Leader,
    }
    for interruption in [Interruption::Link, Interruption::Learner, Interruption::Leader] {
        for chunk in 1..=5 {
            let (mut cluster, leader, _, behind) = with_one_behind(40_000);
            let tail = cluster.nodes[behind].disk.tail(SHARD);
            // The last chunk's file is not made before the interruption.
            cluster.nodes[behind].holds_jobs = true;
            cluster.start(behind);
            let before = cluster.report(behind);
            cluster.until("chunks arrive", |cluster| cluster.chunks >= chunk);
            assert_eq!(cluster.nodes[behind].disk.tail(SHARD), tail, "{interruption:?} {chunk}");
            assert_eq!(cluster.report(behind).digest, before.digest);
            match interruption {
                Interruption::Link => {
                    cluster.cut(behind, [leader]);
                    cluster.run(100);
                    cluster.heal();
                }
                Interruption::Learner => {
                    cluster.crash(behind);
                    cluster.start(behind);
                    assert_eq!(cluster.report(behind).zxid, before.zxid);
                    assert_eq!(cluster.report(behind).tail, tail);
                }
                Interruption::Leader => {
                    // The learner votes with its old history: with the third server it can elect,
                    // and the state comes from another leader.
                    cluster.crash(leader);
                    cluster.run(100);
                }
            }
            cluster.nodes[behind].holds_jobs = false;
            cluster.await_leader();
            cluster.converge();
            assert!(has_installed(&cluster, behind), "{interruption:?} {chunk}");
            if cluster.nodes[leader].worker.is_none() {
                cluster.start(leader);
                cluster.converge();
            }
        }
    }
}

#[test]
fn a_late_file_of_a_given_up_attempt_is_not_installed() {
    let (mut cluster, leader, _, behind) = with_one_behind(1000);
    receive_state(&mut cluster, behind);
    cluster.cut(behind, [leader]);
    cluster.finish_job(behind);
    cluster.run(50);
    assert!(!has_installed(&cluster, behind));
    cluster.nodes[behind].holds_jobs = false;
    cluster.heal();
    cluster.converge();
}

#[test]
fn a_new_epoch_is_founded_with_a_learner_that_needs_the_state() {
    let (mut cluster, leader, _, behind) = with_one_behind(40_000);
    let third = 3 - leader - behind;
    // Of those that hold everything only one is left: without the learner there is no quorum.
    cluster.crash(third);
    cluster.crash(leader);
    cluster.nodes[behind].holds_jobs = true;
    cluster.start(leader);
    cluster.start(behind);
    cluster.until("the state has arrived", |cluster| !cluster.nodes[behind].jobs.is_empty());
    cluster.run(25_000);
    assert!(cluster.leader_of(SHARD).is_none());
    cluster.nodes[behind].holds_jobs = false;
    assert_eq!(cluster.await_leader(), leader);
    cluster.start(third);
    cluster.converge();
    assert!(has_installed(&cluster, behind));
    let elections = cluster.nodes[leader].events.iter();
    let elections = elections.filter(|(_, event)| matches!(event, Event::Elected { .. }));
    assert!(elections.count() <= 3, "nobody gives up while the state is on its way");
}

#[test]
fn connections_with_watches_are_closed_when_the_state_is_replaced() {
    let mut cluster = few();
    let leader = cluster.await_leader();
    let behind = (leader + 1) % 3;
    let writer = cluster.connect(leader).unwrap();
    cluster.write(leader, writer, &["/a"], 10);
    cluster.converge();
    let watching = cluster.connect(behind).unwrap();
    let idle = cluster.connect(behind).unwrap();
    let look = Request::GetData { path: "/a", watch: true };
    assert_eq!(cluster.ask(behind, watching, &look).unwrap().0, 0);
    let others: Vec<usize> = (0..3).filter(|&it| it != behind).collect();
    cluster.cut(behind, others);
    cluster.write_many(leader, writer, "b", 30);
    assert!(!cluster.is_closed(behind, watching));
    cluster.heal();
    cluster.converge();
    assert!(has_installed(&cluster, behind));
    assert!(cluster.is_closed(behind, watching));
    assert!(!cluster.is_closed(behind, idle), "sessions outlive it");
    let look = Request::GetData { path: "/b29", watch: false };
    let (error, body) = cluster.ask(behind, idle, &look).unwrap();
    assert_eq!(error, 0);
    assert_eq!(client::parse_get_data(&body).unwrap().0.unwrap().len(), 100);
}

#[test]
fn a_damaged_snapshot_is_replaced_by_the_older_one_and_made_anew() {
    let mut cluster = few();
    let leader = cluster.await_leader();
    let connection = cluster.connect(leader).unwrap();
    cluster.write_many(leader, connection, "a", 75);
    cluster.converge();
    let damaged = (leader + 1) % 3;
    let [newest, older] = cluster.nodes[damaged].disk.named(SHARD);
    assert!(older > Zxid::ZERO);
    cluster.crash(damaged);
    cluster.nodes[damaged].disk.damage_newest(SHARD);
    cluster.nodes[damaged].frozen.clear();
    cluster.start(damaged);
    assert!(cluster.report(damaged).zxid >= newest, "the entries in between are there");
    cluster.converge();
    assert_eq!(cluster.nodes[damaged].frozen, [newest], "points before are not taken again");
    assert_eq!(cluster.nodes[damaged].disk.named(SHARD), [newest, older]);
    cluster.crash(damaged);
    cluster.start(damaged);
    assert!(cluster.report(damaged).zxid >= newest);
}

#[test]
fn a_point_that_is_truncated_leaves_no_snapshot() {
    let (mut cluster, old) = with_a_leader_alone();
    let before = cluster.nodes[old].frozen.clone();
    cluster.input(old, Input::SnapshotWanted { shard: SHARD });
    cluster.run(5000);
    let new = cluster.await_leader();
    assert_ne!(new, old);
    let writer = cluster.connect(new).unwrap();
    cluster.write_many(new, writer, "b", 3);
    cluster.heal();
    cluster.converge();
    assert!(cluster.has_event(old, |event| matches!(event, Event::Truncated { .. })));
    // That the log and the disk name no snapshot beyond a truncation is asserted in both.
    assert_eq!(cluster.nodes[old].frozen, before);
}

#[test]
fn a_diverged_learner_whose_last_common_entry_is_forgotten_gets_the_state() {
    let (mut cluster, old) = with_a_leader_alone();
    cluster.run(5000);
    let new = cluster.await_leader();
    let writer = cluster.connect(new).unwrap();
    cluster.write_many(new, writer, "b", 30);
    cluster.heal();
    cluster.converge();
    assert!(was_sent_the_state(&cluster, new));
    assert!(has_installed(&cluster, old));
    assert!(!cluster.has_event(old, |event| matches!(event, Event::Truncated { .. })));
}

#[test]
fn a_restart_at_any_point_leads_to_the_state_that_was() {
    let (mut installed, mut truncated, mut replayed) = (0, 0, 0);
    for seed in 0..30 {
        let mut random = Prng::new(seed);
        let mut cluster = few();
        for round in 0..6 {
            let leader = cluster.await_leader();
            let connection = cluster.client(leader);
            let prefix = format!("r{round}x");
            let count = usize::try_from(1 + random.below(25)).unwrap();
            cluster.write_many(leader, connection, &prefix, count);
            let victim = usize::try_from(random.below(3)).unwrap();
            for node in &mut cluster.nodes {
                node.holds_jobs = random.chance(1, 4);
            }
            if random.chance(1, 2) {
                cluster.mute(leader, (0..3).filter(|&it| it != leader));
            }
            for number in 0..random.below(4) {
                let name = format!("/{prefix}late{number}");
                cluster.send(leader, connection, &create(&name, b""));
            }
            for _ in 0..random.below(60) {
                let soon = cluster.now.instant;
                cluster.step(soon);
            }
            cluster.crash(victim);
            for node in &mut cluster.nodes {
                node.holds_jobs = false;
            }
            cluster.run(random.below(1500));
            // That the state which a boot arrives at is the one that was seen live at the same
            // zxid, on this server or another, is asserted whenever a server has done anything.
            cluster.start(victim);
            replayed += usize::from(cluster.nodes[victim].disk.named(SHARD)[0] > Zxid::ZERO);
            if random.chance(1, 2) {
                // A leader whose links are new takes so long to notice that nobody hears it.
                cluster.run(2500);
                let leader = cluster.await_leader();
                let connection = cluster.client(leader);
                cluster.write_many(leader, connection, &format!("s{round}x"), count);
            }
            cluster.heal();
        }
        cluster.converge();
        for at in 0..3 {
            installed += usize::from(has_installed(&cluster, at));
            let cut = |event: &Event| matches!(event, Event::Truncated { .. });
            truncated += usize::from(cluster.has_event(at, cut));
        }
    }
    assert!(installed > 0 && truncated > 0 && replayed > 0, "{installed} {truncated} {replayed}");
}
