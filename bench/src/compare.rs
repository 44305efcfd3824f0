//! ZooKeeper, Pigeonhole and the machine's floor side by side: the same clients, in turns, in one
//! run.

mod summary;
mod table;
mod workload;

use std::fs;
use std::path::PathBuf;

use serde::Serialize;

use crate::cluster::{Cluster, ClusterOptions, System, WorkDirectory};
use crate::error::BenchError;
use crate::floor::disk;
use crate::load::recorder::Latency;
use crate::load::report::Report;
use crate::load::{self, prepare};
use crate::process;
use summary::Summary;
use workload::{WORKLOADS, Workload};

/// What to compare, how long and how often.
#[derive(Clone, Debug, clap::Args, Serialize)]
pub(crate) struct CompareOptions {
    #[command(flatten)]
    cluster: ClusterOptions,
    /// Measure only these systems.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<System>,
    /// Run only these workloads, by name.
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<String>,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long to measure each system under each workload in each round.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How long each run goes on before it is measured.
    #[arg(long = "warm-up", default_value_t = 1.0)]
    warm_up_seconds: f64,
    /// How long each system is exercised before the first round; a JVM compiles as it runs.
    #[arg(long, default_value_t = 20.0)]
    first_warm_up: f64,
    #[arg(long, default_value_t = 16)]
    subtrees: u32,
    #[arg(long, default_value_t = 1000)]
    keys_per_subtree: u32,
    #[arg(long, default_value_t = 100)]
    value_bytes: usize,
    /// Where to write the result as JSON.
    #[arg(long, default_value = "compare.json")]
    json: PathBuf,
}

/// A cluster under the name that the table gives it.
struct Contender {
    name: &'static str,
    system: System,
    cluster: Cluster,
}

/// One run of one workload against one contender.
#[derive(Serialize)]
struct Sample {
    workload: &'static str,
    system: &'static str,
    round: u32,
    report: Report,
}

#[derive(Serialize)]
struct Comparison<'a> {
    options: &'a CompareOptions,
    cpus: usize,
    kernel: String,
    stolen_percent: f64,
    disk_before: Latency,
    disk_after: Latency,
    summaries: &'a [Summary],
    samples: &'a [Sample],
}

/// Runs the comparison, prints the table and writes the JSON file.
pub(crate) fn run(options: &CompareOptions) -> Result<(), BenchError> {
    let workloads = workload::select(&options.workloads)?;
    let directory = WorkDirectory::create(&options.cluster.work_dir, options.cluster.keep)?;
    let disk_before = disk::measure(directory.path())?;
    let machine_before = process::machine_time()?;

    let mut contenders = start(options, &directory)?;
    for contender in &mut contenders {
        exercise(contender, options)?;
    }
    let mut samples = Vec::new();
    for round in 0..options.rounds {
        for workload in &workloads {
            for contender in &contenders {
                if contender.system == System::Floor && !workload.has_floor() {
                    continue;
                }
                samples.push(sample(contender, workload, round, options)?);
            }
        }
    }
    drop(contenders);

    let machine = process::machine_time()?;
    let stolen = (machine.stolen - machine_before.stolen).as_secs_f64();
    let summaries = summary::summarize(&samples, &workloads);
    let comparison = Comparison {
        options,
        cpus: std::thread::available_parallelism().map_or(0, usize::from),
        kernel: kernel_release(),
        stolen_percent: stolen * 100.0 / (machine.all - machine_before.all).as_secs_f64(),
        disk_before,
        disk_after: disk::measure(directory.path())?,
        summaries: &summaries,
        samples: &samples,
    };
    let json = serde_json::to_vec_pretty(&comparison).expect("all of it can be written as JSON");
    fs::write(&options.json, json)
        .map_err(BenchError::io(format!("write {}", options.json.display())))?;
    crate::print(&table::render(&comparison));
    if samples.iter().all(|sample| sample.report.valid) {
        Ok(())
    } else {
        Err(BenchError::Invalid("some runs had errors and must not be quoted".to_owned()))
    }
}

fn start(
    options: &CompareOptions,
    directory: &WorkDirectory,
) -> Result<Vec<Contender>, BenchError> {
    let mut contenders = Vec::new();
    for (name, system, count) in CONTENDERS {
        if options.only.is_empty() || options.only.contains(&system) {
            eprintln!("starting {name}");
            let cluster = Cluster::start(system, count, &options.cluster, directory)?;
            contenders.push(Contender { name, system, cluster });
        }
    }
    Ok(contenders)
}

/// Creates the znodes and runs reads and writes until compilers and caches have settled.
fn exercise(contender: &Contender, options: &CompareOptions) -> Result<(), BenchError> {
    let addresses = contender.cluster.addresses();
    let keys =
        load::keys::Keys { subtrees: options.subtrees, keys_per_subtree: options.keys_per_subtree };
    eprintln!("warming {} up", contender.name);
    if contender.system == System::Floor {
        // These servers know nothing of each other.
        for address in addresses {
            prepare::create(address, keys, options.value_bytes)?;
        }
        return Ok(());
    }
    prepare::prepare(&addresses, keys, options.value_bytes)?;
    for workload in WORKLOADS.iter().filter(|workload| workload.warms_up) {
        let mut load = workload.load(&contender.cluster, 0, options);
        load.seconds = (options.first_warm_up / 2.0).max(0.1);
        load::run(&load)?;
    }
    Ok(())
}

fn sample(
    contender: &Contender,
    workload: &Workload,
    round: u32,
    options: &CompareOptions,
) -> Result<Sample, BenchError> {
    let report = load::run(&workload.load(&contender.cluster, round, options))?;
    eprintln!(
        "round {} {:<12} {:<11} {:>9.0}/s p50 {:.0} p99 {:.0} µs{}",
        round + 1,
        workload.name,
        contender.name,
        report.requests_per_second,
        report.all.p50_us,
        report.all.p99_us,
        report.errors_explained.as_deref().map_or(String::new(), |why| format!(" INVALID: {why}")),
    );
    Ok(Sample { workload: workload.name, system: contender.name, round, report })
}

fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

const ZOOKEEPER: &str = "zookeeper";
const PIGEONHOLE: &str = "pigeonhole";
const FLOOR_1: &str = "floor-1";
const FLOOR_3: &str = "floor-3";
const CONTENDERS: [(&str, System, u16); 4] = [
    (ZOOKEEPER, System::ZooKeeper, 3),
    (PIGEONHOLE, System::Pigeonhole, 3),
    (FLOOR_1, System::Floor, 1),
    (FLOOR_3, System::Floor, 3),
];
