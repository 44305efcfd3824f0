//! Power is lost after any operation of the disk: every promise stays true, and what was cut off
//! never comes back.
#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod disk;

use disk::node::{Counters, Node};
use pigeonhole_storage::recover::Recovered;
use pigeonhole_storage::scan::Ending;

/// What power failures have cut off.
#[derive(Default, Debug)]
struct Cuts {
    torn: u64,
    records: u64,
}

/// Compares what was recovered with what was logged, and makes it the truth from here on.
fn check(node: &mut Node, recovered: &Recovered, seed: u64, cuts: &mut Cuts) {
    for (shard, history) in &mut node.histories {
        let found = &recovered.shards[shard];
        assert_eq!(found.unknown, None, "seed {seed}: nothing was damaged");
        let count = usize::try_from(found.checkpoint.next_sequence - 1).unwrap();
        assert!(
            (history.promised..=history.records.len()).contains(&count),
            "seed {seed}: shard {shard} has {count} records, {} were promised, {} appended",
            history.promised,
            history.records.len(),
        );
        let outcome = history.outcome(count);
        assert_eq!(found.base, outcome.snapshot, "seed {seed}: shard {shard}");
        let base = found.fallback.unwrap_or(found.base);
        // An installed snapshot has no older one beside it; every other one has.
        let installed = outcome.snapshot == outcome.snapshot_before;
        assert_eq!(base, if installed { found.base } else { outcome.snapshot_before }, "{seed}");
        assert_eq!(found.entries, outcome.entries_after(&base), "seed {seed}: shard {shard}");
        let tail = (found.checkpoint.tail_zxid(), found.checkpoint.tail_hash());
        assert_eq!(tail, outcome.tail(), "seed {seed}: shard {shard}");
        assert_eq!(found.checkpoint.accepted_epoch, outcome.accepted, "seed {seed}");
        assert_eq!(found.checkpoint.current_epoch, outcome.current, "seed {seed}");
        assert!(found.checkpoint.committed_zxid <= history.noted, "seed {seed}");
        assert!(found.checkpoint.committed_zxid <= found.checkpoint.tail_zxid, "seed {seed}");
        cuts.records += (history.records.len() - count) as u64;
        history.records.truncate(count);
        // What was committed and is cut off here would come back from a leader, not be truncated.
        history.noted = found.checkpoint.committed_zxid;
    }
    let torn = recovered.streams.iter().filter(|report| matches!(report.ending, Ending::Torn(_)));
    cuts.torn += torn.count() as u64;
}

#[test]
fn every_promise_outlives_any_crash() {
    let mut total = Counters::default();
    let mut cuts = Cuts::default();
    let mut memory = Vec::new();
    for seed in 0..3000 {
        let mut node = Node::new(seed, memory);
        for _ in 0..1 + node.random.below(6) {
            let recovered = node.recover().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            check(&mut node, &recovered, seed, &mut cuts);
            node.boot(&recovered);
            let steps = match node.random.below(4) {
                0 => node.random.below(10),
                1 => node.random.below(50),
                _ => node.random.below(300),
            };
            for _ in 0..steps {
                node.step();
            }
            if node.random.chance(1, 4) {
                node.settle();
            }
            node.crash();
        }
        let recovered = node.recover().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        check(&mut node, &recovered, seed, &mut cuts);
        total = sum(total, node.counters);
        memory = node.into_memory();
    }
    // The dangerous states were reached.
    assert!(total.crashes > 3000 && cuts.torn > 100, "{total:?} {cuts:?}");
    assert!(cuts.records > 1000 && total.rolled > 100, "{total:?} {cuts:?}");
    assert!(total.seals > 100 && total.spilled > 100, "{total:?}");
    assert!(total.released > 100 && total.snapshots > 100, "{total:?}");
    assert!(total.recycled > 100 && total.truncations > 100, "{total:?}");
}

fn sum(one: Counters, other: Counters) -> Counters {
    Counters {
        crashes: one.crashes + other.crashes,
        rolled: one.rolled + other.rolled,
        seals: one.seals + other.seals,
        spilled: one.spilled + other.spilled,
        recycled: one.recycled + other.recycled,
        truncations: one.truncations + other.truncations,
        released: one.released + other.released,
        snapshots: one.snapshots + other.snapshots,
    }
}
