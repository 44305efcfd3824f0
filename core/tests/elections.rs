//! Elections that nobody can win cost little while they last, and nothing afterwards.

mod cluster;

use cluster::{Cluster, Options};
use pigeonhole_core::base::time::Duration;
use pigeonhole_core::zab::Event;

const ELECTIONS_MAX: usize = 100;
const STEPS_MAX: usize = 200_000;

/// Whoever the hub elects reaches nobody else. The elected one does not know that it is, and the
/// hub learns it at once, again and again.
#[test]
fn a_hub_that_elects_who_reaches_only_the_hub_takes_its_time() {
    for hub in 0..5 {
        let mut cluster = Cluster::new(Options { servers: 5, ..Options::default() });
        cluster.converge();
        for at in (0..5).filter(|at| *at != hub) {
            cluster.cut(at, (0..5).filter(|other| ![at, hub].contains(other)));
        }
        for node in &mut cluster.nodes {
            node.events.clear();
        }
        let end = cluster.now.instant + Duration::from_ms(10_000);
        let mut steps = 0;
        while cluster.step(end) {
            steps += 1;
            assert!(steps < STEPS_MAX, "the hub {hub} is kept busy");
        }
        for node in &cluster.nodes {
            let elections =
                node.events.iter().filter(|(_, it)| matches!(it, Event::Elected { .. })).count();
            assert!(elections <= ELECTIONS_MAX, "{elections} elections in ten seconds");
        }
        cluster.heal();
        cluster.await_leader();
        cluster.converge();
    }
}

/// Late votes of an election do not undo it.
#[test]
fn servers_that_start_together_elect_once() {
    for servers in [3, 5] {
        let mut cluster = Cluster::new(Options { servers, shards: 8, ..Options::default() });
        cluster.converge();
        for (at, node) in cluster.nodes.iter().enumerate() {
            let again = node
                .events
                .iter()
                .filter(|(_, it)| matches!(it, Event::Looking { round: 2.., .. }));
            let again: Vec<_> = again.collect();
            assert!(again.is_empty(), "server {at} of {servers} looked again: {again:?}");
        }
    }
}
