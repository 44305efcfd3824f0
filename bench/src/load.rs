//! The load generator: many ZooKeeper connections on one thread, as a closed or an open loop.
//!
//! A closed loop keeps every connection's pipeline full and measures the throughput. An open loop
//! sends by a schedule made beforehand and counts latency from the intended start, so a server that
//! stalls is charged for everything that waited.

pub(crate) mod connection;
pub(crate) mod keys;
pub(crate) mod prepare;
pub(crate) mod recorder;
pub(crate) mod report;
mod run;
pub(crate) mod schedule;

use std::net::SocketAddr;
use std::time::Duration;

use crate::error::BenchError;
use keys::{KEYS_PER_SUBTREE_MAX, Keys, SUBTREES_MAX};
use report::Report;
use schedule::{Arrivals, Mix};

/// What to send, to whom, how fast and for how long.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LoadOptions {
    /// The servers, over which the connections are spread evenly.
    #[arg(long, value_delimiter = ',', required = true)]
    pub(crate) servers: Vec<SocketAddr>,
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) connections: u32,
    /// Requests outstanding on each connection; in an open loop, the most of them.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) depth: u32,
    /// `read`, `write` or `mixed:<percent of reads>`.
    #[arg(long = "op", default_value = "read")]
    pub(crate) mix: Mix,
    #[arg(long, default_value_t = 100)]
    pub(crate) value_bytes: usize,
    /// Top-level znodes, so that a sharded server has something to shard.
    #[arg(long, default_value_t = 16)]
    pub(crate) subtrees: u32,
    #[arg(long, default_value_t = 1000)]
    pub(crate) keys_per_subtree: u32,
    /// Each connection stays within one subtree.
    #[arg(long)]
    pub(crate) subtree_affine: bool,
    /// How long to measure.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// How long to run before measuring.
    #[arg(long = "warm-up", default_value_t = 1.0)]
    pub(crate) warm_up_seconds: f64,
    /// Requests per second of an open loop, over all connections.
    #[arg(long)]
    pub(crate) rate: Option<u32>,
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson)]
    pub(crate) arrivals: Arrivals,
    /// Processes of the servers, for their CPU and memory.
    #[arg(long, value_delimiter = ',')]
    pub(crate) server_pids: Vec<u32>,
    /// The znodes exist already, with values of this size.
    #[arg(long)]
    pub(crate) skip_set_up: bool,
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

impl LoadOptions {
    pub(crate) fn keys(&self) -> Keys {
        Keys { subtrees: self.subtrees, keys_per_subtree: self.keys_per_subtree }
    }

    fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.warm_up_seconds)
    }

    fn end(&self) -> Duration {
        self.warm_up() + Duration::from_secs_f64(self.seconds)
    }

    fn check(&self) -> Result<(), BenchError> {
        let problem = if !(1..=SUBTREES_MAX).contains(&self.subtrees) {
            format!("--subtrees must be between 1 and {SUBTREES_MAX}")
        } else if !(1..=KEYS_PER_SUBTREE_MAX).contains(&self.keys_per_subtree) {
            format!("--keys-per-subtree must be between 1 and {KEYS_PER_SUBTREE_MAX}")
        } else if self.value_bytes > VALUE_BYTES_MAX {
            format!("--value-bytes must not exceed {VALUE_BYTES_MAX}")
        } else if !(0.1..=SECONDS_MAX).contains(&self.seconds)
            || !(0.0..=SECONDS_MAX).contains(&self.warm_up_seconds)
        {
            format!("--seconds must be between 0.1 and {SECONDS_MAX}, --warm-up between 0 and that")
        } else if self.rate == Some(0) {
            "--rate must be positive".to_owned()
        } else {
            return Ok(());
        };
        Err(BenchError::Invalid(problem))
    }
}

/// Prepares the znodes, runs the load and reports. Refused requests do not fail the run: the
/// report says that it is invalid, and why.
pub(crate) fn run(options: &LoadOptions) -> Result<Report, BenchError> {
    options.check()?;
    if !options.skip_set_up {
        prepare::prepare(&options.servers, options.keys(), options.value_bytes)?;
    }
    run::Run::connect(options)?.measure()
}

/// A ZooKeeper server takes at most one megabyte less a little.
const VALUE_BYTES_MAX: usize = 1_000_000;
const SECONDS_MAX: f64 = 86_400.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::floor::server;

    fn options(extra: &[&str]) -> LoadOptions {
        #[derive(clap::Parser)]
        struct Arguments {
            #[command(flatten)]
            load: LoadOptions,
        }
        let listener = server::bind(0).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        // The server ends with the test's process.
        std::thread::spawn(move || server::serve(listener).expect("the floor serves"));
        let fixed = ["load", "--servers", &address, "--subtrees", "2", "--keys-per-subtree", "5"];
        let brief = ["--seconds", "0.3", "--warm-up", "0.1"];
        let arguments = fixed.iter().chain(&brief).chain(extra);
        <Arguments as clap::Parser>::parse_from(arguments).load
    }

    #[test]
    fn a_closed_loop_gets_right_answers_and_keeps_to_its_mix() {
        let report = run(&options(&["--op", "mixed:50", "--connections", "3"])).unwrap();
        assert!(report.valid, "{report}");
        assert!(report.requests > 1000, "{report}");
        let share = report.reads.count as f64 / report.requests as f64;
        assert!((0.4..0.6).contains(&share), "{report}");
    }

    #[test]
    fn an_open_loop_records_every_request_of_its_window() {
        let flags = ["--rate", "1000", "--arrivals", "constant"];
        let report = run(&options(&flags)).unwrap();
        assert!(report.valid, "{report}");
        assert!((299..=301).contains(&report.requests), "{report}");
    }

    #[test]
    fn a_run_on_missing_znodes_is_invalid() {
        let report = run(&options(&["--skip-set-up"])).unwrap();
        assert!(!report.valid);
        assert_eq!(report.requests, 0);
        assert!(report.errors_explained.unwrap().contains("-101"));
    }
}
