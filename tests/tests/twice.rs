//! A seed says everything: run twice, a world does the same, event by event.

use pigeonhole_tests::seeds::{replay, run_one};
use pigeonhole_tests::trace::Mode;

#[test]
fn a_seed_runs_twice_alike() {
    for seed in 0..SEEDS {
        let run = || run_one(seed, Mode::Silent).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        let (first, second) = (run(), run());
        assert_eq!(
            (first.hash, first.events, first.simulated, &first.sometimes),
            (second.hash, second.events, second.simulated, &second.sometimes),
            "two runs differ: {}",
            replay(seed)
        );
    }
}

#[test]
fn seeds_differ() {
    let run = |seed| run_one(seed, Mode::Silent).expect("the seeds pass alone");
    assert_ne!(run(1).hash, run(2).hash, "the hash says nothing");
}

const SEEDS: u64 = 12;
