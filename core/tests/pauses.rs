//! Nodes that stood still for longer than anybody waits for them.

mod nodes;

use nodes::{Ensemble, TIMEOUT_MS, ephemeral, plain};
use pigeonhole_core::base::id::ShardId;

/// Its disk is too far behind for a leader, and it is late in ending sessions, which only a leader
/// may do.
#[test]
fn a_leader_that_stood_still_with_a_write_on_its_way_and_a_session_to_end_leads_no_more() {
    let mut ensemble = Ensemble::new(3, 1, 1, 1);
    let leader = ensemble.leader(ShardId(0));
    let idle = ensemble.connect(leader, 0);
    assert_eq!(ensemble.error_of(idle, &ephemeral("/idle")), 0);
    let writer = ensemble.connect(leader, 0);
    ensemble.ask(writer, 1, &plain("/on-its-way"));

    ensemble.pause(leader, 3 * u64::try_from(TIMEOUT_MS).expect("it is positive"));
    assert!(!ensemble.replica(leader, ShardId(0)).zab().is_established_leader());
}
