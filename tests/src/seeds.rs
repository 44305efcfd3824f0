//! Many seeds, on a few threads: results, failures, and how to replay them.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sometimes::Sometimes;
use crate::trace::Mode;
use crate::world::{self, Outcome};

#[derive(Default, Debug)]
pub struct Summary {
    pub seeds: u64,
    pub events: u64,
    pub operations: u64,
    pub simulated_ms: u64,
    pub sometimes: Sometimes,
    /// What failed, and with which words.
    pub failures: Vec<(u64, String)>,
}

/// Runs one seed and catches what it has to say against the product.
pub fn run_one(seed: u64, mode: Mode) -> Result<Outcome, String> {
    catch_unwind(AssertUnwindSafe(|| world::run(seed, mode))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        text.unwrap_or_else(|| "it panicked without a word".to_owned())
    })
}

/// The same twice: a seed says everything, and so both do the same, event by event.
pub fn run_twice(seed: u64) -> Result<Outcome, String> {
    let run = || run_one(seed, Mode::Silent);
    let (first, second) = (run()?, run()?);
    let what = |it: &Outcome| (it.hash, it.events, it.simulated, it.sometimes.clone());
    if what(&first) == what(&second) { Ok(second) } else { Err("two runs differ".to_owned()) }
}

/// Runs all seeds of a range, each as it is told.
pub fn run_many(
    seeds: Range<u64>,
    threads: usize,
    run: impl Fn(u64) -> Result<Outcome, String> + Sync,
) -> Summary {
    let next = AtomicU64::new(seeds.start);
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = run(seed);
                    summary.lock().expect("nobody panics with it").take(seed, outcome);
                }
            });
        }
    });
    let mut summary = summary.into_inner().expect("nobody panics with it");
    summary.failures.sort();
    summary
}

/// The one command that runs a seed again.
pub fn replay(seed: u64) -> String {
    format!("cargo run --release -p pigeonhole-tests --bin sim -- --seed {seed} --trace")
}

impl Summary {
    fn take(&mut self, seed: u64, outcome: Result<Outcome, String>) {
        self.seeds += 1;
        match outcome {
            Ok(outcome) => {
                self.events += outcome.events;
                self.operations += outcome.operations as u64;
                self.simulated_ms += outcome.simulated.0 / 1000;
                self.sometimes.add(&outcome.sometimes);
            }
            Err(text) => self.failures.push((seed, text)),
        }
    }
}
