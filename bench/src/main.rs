//! `pigeonhole-bench`: measures Pigeonhole beside ZooKeeper and beside the machine's floor.
//!
//! - `load` puts a load on running servers; `compare` starts clusters and loads them in turns;
//!   `failover` kills leaders, `million` fills a large tree and kills all servers.
//! - `client` and `client/wire` speak ZooKeeper's protocol, `streams` drives many connections on
//!   one io_uring, `cluster` starts and stops servers, `floor` is what the machine could do at
//!   best, `process` asks the kernel for CPU and memory.

mod client;
mod cluster;
mod compare;
mod error;
mod failover;
mod floor;
mod load;
mod million;
mod process;
mod streams;

use std::fmt::Display;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde::Serialize;

use error::BenchError;

/// Measures Pigeonhole beside ZooKeeper and beside the machine's floor.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Put a load on running servers and report as JSON and as text.
    Load(load::LoadOptions),
    /// Start ZooKeeper, Pigeonhole and the floor, and measure them in turns.
    Compare(compare::CompareOptions),
    /// Kill leaders under load, measure the gap, and look for lost writes.
    Failover(failover::FailoverOptions),
    /// Fill a large tree, load it while snapshots are taken, kill all servers, and compare them.
    Million(million::MillionOptions),
    /// Serve as the floor; `compare` starts this.
    #[command(hide = true)]
    FloorServe {
        #[arg(long)]
        port: u16,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pigeonhole-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), BenchError> {
    match command {
        Command::Load(options) => {
            let report = load::run(&options)?;
            conclude(&report, report.errors_explained.clone())
        }
        Command::Compare(options) => compare::run(&options),
        Command::Failover(options) => {
            let report = failover::run(&options)?;
            conclude(&report, report.complaint())
        }
        Command::Million(options) => {
            let report = million::run(&options)?;
            conclude(&report, report.complaint())
        }
        Command::FloorServe { port } => floor::server::bind(port).and_then(floor::server::serve),
    }
}

/// Prints a report for machines and for people; the run fails if there is something to complain of.
fn conclude(
    report: &(impl Serialize + Display),
    complaint: Option<String>,
) -> Result<(), BenchError> {
    print(&to_json(report));
    print(&report.to_string());
    match complaint {
        None => Ok(()),
        Some(why) => Err(BenchError::Invalid(format!("the run is invalid: {why}"))),
    }
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("a report can be written as JSON")
}

#[expect(clippy::print_stdout, reason = "results are what standard output is for")]
fn print(text: &str) {
    println!("{text}");
}
