//! Faults of nodes among each other: what their logs, commits and epochs must not say.

use pigeonhole_core::base::id::{ChainHash, Epoch, Sequence, ShardId};
use pigeonhole_core::control::Control;
use pigeonhole_core::durable::{Append, Record};
use pigeonhole_core::entry::Entry;
use pigeonhole_core::zab::log::Restored;
use pigeonhole_tests::check::state::States;

use crate::logs::{Logs, NODES, SHARD, delete, epoch_start, zxid};

/// An epoch with three entries that everybody has committed, and the last of them.
fn agreed() -> (Logs, Vec<Entry>) {
    let mut logs = Logs::in_epoch(1);
    let first = epoch_start(1, ChainHash::default());
    let second = delete(zxid(1, 2), first.hash(), "/a");
    let third = delete(zxid(1, 3), second.hash(), "/b");
    let entries = vec![first, second, third];
    for entry in &entries {
        logs.replicate(entry);
    }
    (logs, entries)
}

fn last(entries: &[Entry]) -> &Entry {
    entries.last().unwrap()
}

/// What a node finds that has lost nothing.
fn restored(entries: &[Entry]) -> Restored {
    Restored {
        next_sequence: Sequence(5),
        accepted_epoch: Epoch(1),
        current_epoch: Epoch(1),
        committed: last(entries).zxid(),
        entries: entries.to_vec(),
        ..Restored::nothing(SHARD)
    }
}

fn restart(logs: &mut Logs, node: u8, restored: &Restored) {
    logs.agreement.on_restart(node, restored, &mut logs.sometimes);
}

#[test]
fn what_is_agreed_upon_passes() {
    let (mut logs, entries) = agreed();
    restart(&mut logs, 1, &restored(&entries));
    let next = delete(zxid(1, 4), last(&entries).hash(), "/c");
    logs.entry(0, &next);
    // An uncommitted entry is cut off, and the next leader goes on from what is committed.
    let (to, hash) = (last(&entries).zxid().0, last(&entries).hash().0);
    logs.control(0, Control::Truncate { zxid: to, hash });
    logs.control(0, Control::SnapshotTaken { zxid: to, hash, digest: 0 });
    logs.enter(0, 2);
    logs.establish(0, 2);
    assert_eq!(logs.agreement.committed(SHARD), last(&entries).zxid());
}

#[test]
#[should_panic(expected = "Leadership2: shard 0 has two leaders of epoch 1")]
fn two_leaders_of_an_epoch() {
    let (mut logs, _) = agreed();
    logs.establish(1, 1);
}

#[test]
#[should_panic(expected = "LeaderLogCompleteness: n2 leads epoch 2 without")]
fn a_leader_without_a_committed_entry() {
    let (mut logs, entries) = agreed();
    let next = delete(zxid(1, 4), last(&entries).hash(), "/c");
    for node in [0, 1] {
        logs.entry(node, &next);
        logs.sync(node, SHARD);
    }
    logs.commit(0, SHARD, next.zxid());
    logs.enter(2, 2);
    logs.establish(2, 2);
}

#[test]
#[should_panic(expected = "PrefixConsistency: n2 commits")]
fn divergent_commits() {
    let (mut logs, entries) = agreed();
    let hash = last(&entries).hash();
    let (one, other) = (delete(zxid(1, 4), hash, "/one"), delete(zxid(1, 4), hash, "/other"));
    for node in [0, 1] {
        logs.entry(node, &one);
        logs.sync(node, SHARD);
    }
    logs.commit(0, SHARD, one.zxid());
    logs.entry(2, &other);
    logs.sync(2, SHARD);
    logs.commit(2, SHARD, other.zxid());
}

#[test]
#[should_panic(expected = "CommittedLogDurability: n0 commits")]
fn a_commit_on_one_disk_alone() {
    let (mut logs, entries) = agreed();
    let next = delete(zxid(1, 4), last(&entries).hash(), "/c");
    for node in 0..NODES {
        logs.entry(node, &next);
    }
    logs.sync(0, SHARD);
    logs.commit(0, SHARD, next.zxid());
}

#[test]
#[should_panic(expected = "which it does not have")]
fn a_commit_of_what_a_node_does_not_have() {
    let (mut logs, _) = agreed();
    logs.commit(1, SHARD, zxid(1, 4));
}

#[test]
#[should_panic(expected = "HashChain: n0 appends")]
fn an_entry_that_follows_another_history() {
    let (mut logs, _) = agreed();
    logs.entry(0, &delete(zxid(1, 4), ChainHash(1), "/c"));
}

#[test]
#[should_panic(expected = "NoHole: n0 appends")]
fn a_gap_between_entries() {
    let (mut logs, entries) = agreed();
    logs.entry(0, &delete(zxid(1, 5), last(&entries).hash(), "/c"));
}

#[test]
#[should_panic(expected = "NoHole: records of shard 0")]
fn a_gap_between_records() {
    let (mut logs, _) = agreed();
    let record = Record::Control(Control::AcceptedEpoch { epoch: 2 });
    let append = Append { shard: SHARD, sequence: Sequence(9), record, riders: Vec::new() };
    logs.agreement.on_append(0, &append, logs.now);
}

#[test]
#[should_panic(expected = "EpochMonotone: n0 accepts 1")]
fn an_accepted_epoch_that_falls() {
    let (mut logs, _) = agreed();
    logs.control(0, Control::AcceptedEpoch { epoch: 3 });
    logs.control(0, Control::AcceptedEpoch { epoch: 1 });
}

#[test]
#[should_panic(expected = "EpochMonotone: n0 enters 2")]
fn an_epoch_that_was_not_accepted() {
    let (mut logs, _) = agreed();
    logs.control(0, Control::CurrentEpoch { epoch: 2 });
}

#[test]
#[should_panic(expected = "EpochMonotone: n1 had")]
fn a_promise_that_a_restart_forgets() {
    let (mut logs, entries) = agreed();
    logs.control(1, Control::AcceptedEpoch { epoch: 2 });
    logs.sync(1, SHARD);
    restart(&mut logs, 1, &restored(&entries));
}

#[test]
#[should_panic(expected = "MemoryEqualsDisk: n1 had")]
fn a_synced_entry_that_a_restart_forgets() {
    let (mut logs, entries) = agreed();
    let next = delete(zxid(1, 4), last(&entries).hash(), "/c");
    logs.entry(1, &next);
    logs.sync(1, SHARD);
    restart(&mut logs, 1, &restored(&entries));
}

#[test]
#[should_panic(expected = "CommittedLogDurability: n1 has lost")]
fn a_committed_entry_that_a_restart_forgets() {
    let (mut logs, entries) = agreed();
    // While a truncation is under way, the end of the log may be either; what is committed stays.
    let next = delete(zxid(1, 4), last(&entries).hash(), "/c");
    logs.entry(1, &next);
    let (to, hash) = (last(&entries).zxid().0, last(&entries).hash().0);
    logs.control(1, Control::Truncate { zxid: to, hash });
    restart(&mut logs, 1, &restored(&entries[..2]));
}

#[test]
#[should_panic(expected = "and the cluster has")]
fn a_restart_that_knows_too_much() {
    let (mut logs, entries) = agreed();
    let mut found = restored(&entries);
    found.committed = zxid(1, 4);
    restart(&mut logs, 1, &found);
}

#[test]
#[should_panic(expected = "SnapshotCommitted: n0 has one at")]
fn a_snapshot_of_what_is_not_committed() {
    let (mut logs, entries) = agreed();
    let next = delete(zxid(1, 4), last(&entries).hash(), "/c");
    logs.entry(0, &next);
    let (zxid, hash) = (next.zxid().0, next.hash().0);
    logs.control(0, Control::SnapshotTaken { zxid, hash, digest: 0 });
}

#[test]
#[should_panic(expected = "below its own commit")]
fn a_truncation_of_what_is_committed() {
    let (mut logs, entries) = agreed();
    let (zxid, hash) = (entries[1].zxid().0, entries[1].hash().0);
    logs.control(0, Control::Truncate { zxid, hash });
}

#[test]
#[should_panic(expected = "below its commit")]
fn a_state_installed_from_the_past() {
    let (mut logs, entries) = agreed();
    let (zxid, hash) = (entries[1].zxid().0, entries[1].hash().0);
    logs.control(0, Control::Install { zxid, hash, digest: 0 });
}

#[test]
fn equal_states_pass() {
    let mut states = States::default();
    states.on_report(0, SHARD, zxid(1, 2), 7);
    states.on_report(1, SHARD, zxid(1, 2), 7);
    states.on_report(1, ShardId(1), zxid(1, 2), 8);
    states.on_restart(1);
    states.on_report(1, SHARD, zxid(1, 1), 6);
}

#[test]
#[should_panic(expected = "StateDigest: n0 and n1 differ")]
fn trees_that_differ() {
    let mut states = States::default();
    states.on_report(0, SHARD, zxid(1, 2), 7);
    states.on_report(1, SHARD, zxid(1, 2), 8);
}

#[test]
#[should_panic(expected = "MonotonicRead: n0 had applied")]
fn a_state_that_goes_back() {
    let mut states = States::default();
    states.on_report(0, SHARD, zxid(1, 2), 7);
    states.on_report(0, SHARD, zxid(1, 1), 6);
}
