//! Disks that take long, or stand still: who leads then.

mod ensemble;

use ensemble::Cluster;
use pigeonhole_core::base::time::Periods;
use pigeonhole_core::effect::Input;
use pigeonhole_core::zab::Event;

const TURN_END: Input<'static> = Input::TurnEnd { share: usize::MAX };

fn begun(count: usize) -> Cluster {
    let mut cluster = Cluster::new(count, 1, 1);
    (0..count).for_each(|node| cluster.start(node));
    cluster.connect_all();
    cluster
}

fn leader(cluster: &Cluster) -> Option<usize> {
    (0..cluster.nodes.len()).find(|&node| cluster.leads(node))
}

/// Everything arrives at once; what a disk has, it has after so long, if ever.
fn run(cluster: &mut Cluster, milliseconds: u64, sync_us: impl Fn(usize) -> Option<u64>) {
    let end = cluster.now.0 + milliseconds * 1000;
    let count = cluster.nodes.len();
    // When the write that is under way is through, and what it holds.
    let mut writes: Vec<Option<(u64, usize)>> = vec![None; count];
    while cluster.now.0 < end {
        cluster.advance(1000);
        for node in 0..count {
            (0..count).for_each(|from| while cluster.deliver(node, from) {});
            cluster.step(node, TURN_END);
            let now = cluster.now.0;
            if let Some((_, records)) = writes[node].take_if(|(at, _)| *at <= now) {
                cluster.sync(node, records);
                cluster.step(node, TURN_END);
            }
            let pending = cluster.pending(node);
            if pending > 0 && writes[node].is_none() {
                writes[node] = sync_us(node).map(|sync_us| (now + sync_us, pending));
            }
        }
    }
}

/// Its links live, so nobody would miss it.
#[test]
fn a_leader_whose_disk_stands_still_is_replaced() {
    let mut cluster = begun(3);
    cluster.run(300);
    let stalled = leader(&cluster).expect("somebody leads by now");
    let follower = (stalled + 1) % 3;
    let connection = ensemble::client(0);
    cluster.open_client(follower, connection, [7; 16]);
    let wish = ensemble::connect_request(40_000);
    cluster.step(follower, Input::ClientBytes { connection, bytes: &wish });
    // The session's creation is the first entry that this disk never gets.
    run(&mut cluster, Periods::default().sync_limit.as_ms() - 100, |node| {
        (node != stalled).then_some(100)
    });
    assert_eq!(leader(&cluster), Some(stalled), "a disk may be slow for so long");
    run(&mut cluster, 2000, |node| (node != stalled).then_some(100));
    let successor = leader(&cluster).expect("two are a majority");
    assert_ne!(successor, stalled);
    // When the disk goes on, its server follows.
    run(&mut cluster, 2000, |_| Some(100));
    assert_eq!(leader(&cluster), Some(successor));
    let synchronized = |(node, _, event): &(usize, _, Event)| {
        *node == stalled && matches!(event, Event::Synchronized { .. })
    };
    assert!(cluster.events.iter().any(synchronized));
}

/// An epoch takes two syncs in a row. On a busy volume those may take longer than silence may last.
#[test]
fn slow_disks_elect_a_leader_all_the_same() {
    for sync_ms in [10, 300, 500, 1000, 3000] {
        let mut cluster = begun(3);
        run(&mut cluster, 20 * sync_ms + 1000, |_| Some(sync_ms * 1000));
        assert!(leader(&cluster).is_some(), "syncs of {sync_ms} ms");
        let founding = |(_, _, event): &&(usize, _, Event)| {
            matches!(event, Event::EpochProposed { .. })
        };
        assert!(cluster.events.iter().filter(founding).count() < 8, "syncs of {sync_ms} ms");
    }
}
