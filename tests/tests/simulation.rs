//! Whole clusters under faults, one world a seed, every seed twice. A seed that fails prints how to
//! run it again.

use pigeonhole_tests::seeds::{replay, run_many, run_one, run_twice};
use pigeonhole_tests::sometimes::State;
use pigeonhole_tests::trace::Mode;

#[test]
fn seeds_keep_every_promise() {
    let summary = run_many(0..SEEDS, THREADS, run_twice);
    let failures: Vec<String> = summary
        .failures
        .iter()
        .map(|(seed, text)| format!("seed {seed}: {text}\n    {}", replay(*seed)))
        .collect();
    assert!(failures.is_empty(), "{} seeds fail:\n{}", failures.len(), failures.join("\n"));
    assert_eq!(summary.seeds, SEEDS, "every seed was run");
    let never: Vec<&str> = summary.sometimes.never().into_iter().map(State::text).collect();
    assert!(never.is_empty(), "never happened in {SEEDS} seeds: {never:?}\n{}", summary.sometimes);
}

#[test]
fn seeds_differ() {
    let run = |seed| run_one(seed, Mode::Silent).expect("the seeds pass alone");
    assert_ne!(run(1).hash, run(2).hash, "the hash says nothing");
}

const SEEDS: u64 = 300;
const THREADS: usize = 2;
