//! `pigeonhole-bench`: measures Pigeonhole beside ZooKeeper and beside the machine's floor.
//!
//! - `load` puts a load on running servers; `compare` starts clusters and loads them in turns;
//!   `failover` kills leaders.
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
mod process;
mod streams;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
            print(&to_json(&report));
            print(&report.to_string());
            match report.errors_explained {
                None => Ok(()),
                Some(why) => Err(BenchError::Invalid(format!("the run is invalid: {why}"))),
            }
        }
        Command::Compare(options) => compare::run(&options),
        Command::Failover(options) => {
            let report = failover::run(&options)?;
            print(&to_json(&report));
            print(&report.to_string());
            if report.is_sound() {
                Ok(())
            } else {
                Err(BenchError::Invalid("acknowledged writes were lost".to_owned()))
            }
        }
        Command::FloorServe { port } => floor::server::bind(port).and_then(floor::server::serve),
    }
}

fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("a report can be written as JSON")
}

#[expect(clippy::print_stdout, reason = "results are what standard output is for")]
fn print(text: &str) {
    println!("{text}");
}
