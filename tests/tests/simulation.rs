//! Whole clusters under faults, one world a seed. A seed that fails prints how to run it again.

use pigeonhole_tests::seeds::{replay, run_many};
use pigeonhole_tests::sometimes::State;

#[test]
fn seeds_keep_every_promise() {
    let summary = run_many(0..SEEDS, THREADS);
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

const SEEDS: u64 = 300;
const THREADS: usize = 2;
