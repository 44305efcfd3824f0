//! Bytes change on the disk: what is read is still a true prefix, and a shard that has lost
//! anything knows it.
#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod disk;

use disk::node::Node;
use pigeonhole_core::base::limits::LOG_BLOCK_BYTES;
use pigeonhole_core::base::prng::Prng;
use pigeonhole_core::control::Control;
use pigeonhole_core::durable::{Append, Record};
use pigeonhole_core::entry::Entry;
use pigeonhole_storage::recover::{RecoverError, Recovered};
use pigeonhole_storage::wal::Released;

/// What became of the corruptions, summed over the seeds.
#[derive(Default, Debug)]
struct Outcomes {
    harmless: u64,
    proven: u64,
    unknown: u64,
    refused: u64,
}

/// Writes some boots' worth of log and ends with everything durable and sealed.
fn written(seed: u64, node: &mut Node) {
    let boots = 1 + node.random.below(4);
    for boot in 0..boots {
        let recovered = node.recover().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        for (shard, history) in &mut node.histories {
            let found = &recovered.shards[shard];
            let count = usize::try_from(found.checkpoint.next_sequence - 1).unwrap();
            history.records.truncate(count);
            history.noted = found.checkpoint.committed_zxid;
        }
        node.boot(&recovered);
        for _ in 0..node.random.below(200) {
            node.step();
        }
        if boot + 1 == boots || node.random.chance(1, 2) {
            node.settle();
        }
        node.crash();
    }
}

/// Changes one place of one file.
fn corrupt(node: &mut Node) {
    let Node { disk, random, .. } = node;
    let files: Vec<_> = disk.files.keys().copied().collect();
    let id = files[draw(random, files.len())];
    let file = disk.files.get_mut(&id).unwrap();
    if file.is_empty() {
        return;
    }
    // Most of a file is usually empty; damage where there is something.
    let used = file.iter().rposition(|&byte| byte != 0).map_or(file.len(), |last| last + 1);
    let at = draw(random, used);
    let block = at / LOG_BLOCK_BYTES * LOG_BLOCK_BYTES;
    let end = (block + LOG_BLOCK_BYTES).min(file.len());
    match random.below(6) {
        0 => file[at] ^= 1 << random.below(8),
        1 => file[block..end].fill(0),
        2 => file[at..end].fill(0xff),
        3 => {
            let source = draw(random, used) / LOG_BLOCK_BYTES * LOG_BLOCK_BYTES;
            let length = (end - block).min(file.len() - source);
            file.copy_within(source..source + length, block);
        }
        4 => file.truncate(block),
        _ => {
            let header = block + draw(random, 144);
            if let Some(byte) = file.get_mut(header) {
                *byte = byte.wrapping_add(1);
            }
        }
    }
}

fn draw(random: &mut Prng, bound: usize) -> usize {
    usize::try_from(random.below(bound as u64)).unwrap()
}

/// Every recovered shard is a prefix of what was written, and says so unless it is all of it.
fn check(node: &Node, recovered: &Recovered, seed: u64, outcomes: &mut Outcomes) {
    for (shard, history) in &node.histories {
        let found = &recovered.shards[shard];
        let outcome = history.outcome(history.records.len());
        let base = found.fallback.unwrap_or(found.base);
        let tail = (found.checkpoint.tail_zxid(), found.checkpoint.tail_hash());
        if found.unknown.is_none() {
            assert_eq!(found.base, outcome.snapshot, "seed {seed}: shard {shard}");
            let entries = outcome.entries_after(&base);
            assert_eq!(found.entries, entries, "seed {seed}: shard {shard} differs");
            assert_eq!(found.checkpoint.accepted_epoch, outcome.accepted, "seed {seed}");
            assert_eq!(tail, outcome.tail(), "seed {seed}");
            outcomes.proven += 1;
            continue;
        }
        outcomes.unknown += 1;
        // If the seal is among what was lost, a cut tail that has become readable again may show:
        // entries that this shard did log, in a replica that knows not to vouch for them.
        let appended = |entry: &Entry| history.appended.contains(&entry.hash());
        assert!(found.checkpoint.unknown, "seed {seed}: it stays unknown in the next boots");
        assert!(found.entries.iter().all(appended), "seed {seed}: shard {shard} has other content");
    }
}

#[test]
fn one_corruption_is_noticed_or_harmless() {
    let mut outcomes = Outcomes::default();
    let mut memory = Vec::new();
    for seed in 0..3000 {
        let mut node = Node::new(seed, memory);
        written(seed, &mut node);
        let before = node.disk.files.clone();
        corrupt(&mut node);
        outcomes.harmless += u64::from(before == node.disk.files);
        match node.recover() {
            Ok(recovered) => check(&node, &recovered, seed, &mut outcomes),
            Err(error @ (RecoverError::Inconsistent { .. } | RecoverError::Unreadable { .. })) => {
                panic!("seed {seed}: a checked batch is what was written: {error}")
            }
            Err(RecoverError::NewerFormat { .. } | RecoverError::Foreign { .. }) => {
                outcomes.refused += 1;
            }
        }
        memory = node.into_memory();
    }
    assert!(outcomes.unknown > 500 && outcomes.proven > 1000, "{outcomes:?}");
    assert!(outcomes.refused < 300, "a corruption rarely stops a node: {outcomes:?}");
}

#[test]
fn many_corruptions_never_show_other_content() {
    let mut memory = Vec::new();
    for seed in 0..1000 {
        let mut node = Node::new(seed, memory);
        written(seed, &mut node);
        for _ in 0..1 + node.random.below(20) {
            corrupt(&mut node);
        }
        if let Ok(recovered) = node.recover() {
            for (shard, history) in &node.histories {
                let appended = |entry: &Entry| history.appended.contains(&entry.hash());
                assert!(recovered.shards[shard].entries.iter().all(appended), "seed {seed}");
            }
        }
        memory = node.into_memory();
    }
}

#[test]
fn noise_is_never_a_log() {
    let mut random = Prng::new(7);
    for _ in 0..200 {
        let mut node = Node::new(random.next_u64(), Vec::new());
        let shards = node.histories.len();
        for number in 1..4 {
            let id = pigeonhole_storage::disk::SegmentId {
                boot: 1,
                core: pigeonhole_core::base::id::CoreId(0),
                number,
            };
            let length = draw(&mut random, 40_000);
            let bytes = (0..length).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
            node.disk.files.insert(id, bytes);
        }
        let recovered = node.recover().unwrap();
        assert_eq!(recovered.shards.len(), shards);
        assert!(recovered.shards.values().all(|shard| shard.entries.is_empty()));
    }
}

/// A corrupted shard stays unknown over further boots, until a leader has settled it.
#[test]
fn unknown_outlives_restarts_until_it_is_settled() {
    let mut settled = 0;
    for seed in 0..300 {
        let mut node = Node::new(seed, Vec::new());
        written(seed, &mut node);
        corrupt(&mut node);
        let Ok(found) = node.recover() else { continue };
        let unknown: Vec<_> = found
            .shards
            .iter()
            .filter(|(_, found)| found.unknown.is_some())
            .map(|(&shard, found)| (shard, found.checkpoint))
            .collect();
        node.boot(&found);
        node.settle();
        node.crash();
        let again = node.recover().unwrap();
        for (shard, checkpoint) in &unknown {
            assert_eq!(again.shards[shard].checkpoint, *checkpoint, "seed {seed}");
            assert!(again.shards[shard].unknown.is_some(), "seed {seed}");
            assert_eq!(again.shards[shard].entries, found.shards[shard].entries, "seed {seed}");
        }
        node.boot(&again);
        for (shard, checkpoint) in &unknown {
            let wal = &mut node.wals[node.places[shard]];
            wal.append(Append {
                shard: *shard,
                sequence: checkpoint.next_sequence(),
                record: Record::Control(Control::CurrentEpoch { epoch: checkpoint.accepted_epoch }),
                riders: Vec::new(),
            });
        }
        for core in 0..node.wals.len() {
            while let Some(operation) = node.wals[core].next_op() {
                let done = node.disk.perform(operation);
                let now = pigeonhole_core::base::time::Instant(0);
                node.wals[core].on_done(done, now, &mut Released::default());
            }
        }
        node.crash();
        let settled_now = node.recover().unwrap();
        for (shard, _) in &unknown {
            assert_eq!(settled_now.shards[shard].unknown, None, "seed {seed}");
            settled += 1;
        }
    }
    assert!(settled > 50, "{settled} shards were settled");
}
