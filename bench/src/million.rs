//! A tree of a million znodes: filled through a client, loaded while its servers take snapshots,
//! killed everywhere at once, and compared when it is back.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::client;
use crate::cluster::{Cluster, ClusterOptions, System, WorkDirectory};
use crate::error::BenchError;
use crate::load::keys::Keys;
use crate::load::schedule::{Arrivals, Mix};
use crate::load::{self, LoadOptions, prepare};

/// How large a tree, and how long a load.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct MillionOptions {
    #[command(flatten)]
    cluster: ClusterOptions,
    /// Rounded up to a multiple of sixteen, the number of top-level znodes.
    #[arg(
        long,
        default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u32).range(16..=10_000_000),
    )]
    znodes: u32,
    /// How long to read and write, half of each, while snapshots are taken.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
}

/// What became of the tree.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MillionReport {
    znodes: u32,
    created_per_second: f64,
    load: load::report::Report,
    /// Taken during the load, by all servers together.
    snapshots: usize,
    /// Of all servers, during the load.
    turn_ms_max: f64,
    /// From the start of the first to the moment from which all serve.
    restart_seconds: f64,
    /// What each server has then.
    servers: Vec<Holding>,
}

/// The znodes of one server and the digests of its shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Holding {
    znodes: u64,
    digests: BTreeMap<String, String>,
}

/// Fills, loads, kills, restarts and compares.
pub(crate) fn run(options: &MillionOptions) -> Result<MillionReport, BenchError> {
    let directory = WorkDirectory::create(&options.cluster.work_dir, options.cluster.keep)?;
    let mut cluster = Cluster::start(System::Pigeonhole, SERVERS, &options.cluster, &directory)?;
    let servers = cluster.addresses();
    let keys_per_subtree = options.znodes.div_ceil(SUBTREES);
    let keys = Keys { subtrees: SUBTREES, keys_per_subtree };
    let begun = Instant::now();
    prepare::prepare(&servers, keys, VALUE_BYTES)?;
    let created_per_second = f64::from(keys.count()) / begun.elapsed().as_secs_f64();
    eprintln!("{} znodes created, {created_per_second:.0} a second", keys.count());

    for &server in &servers {
        client::four_letter_word(server, "srst", PATIENCE)?;
    }
    let before = snapshots_of(&servers)?;
    let load = load::run(&load_options(options, &servers, keys))?;
    let after = snapshots_of(&servers)?;
    let snapshots = after.iter().filter(|(place, zxid)| before.get(*place) != Some(*zxid)).count();
    let mut turn_ms_max: f64 = 0.0;
    for &server in &servers {
        let micros = figure(&figures(server)?, "zk_turn_micros_max")?;
        turn_ms_max = turn_ms_max.max(micros as f64 / 1000.0);
    }

    (0..servers.len()).for_each(|server| cluster.kill(server));
    let killed = Instant::now();
    cluster.start_all()?;
    let restart_seconds = killed.elapsed().as_secs_f64();
    let servers = servers.iter().map(|&server| settled(server)).collect::<Result<_, _>>()?;
    let znodes = keys.count();
    Ok(MillionReport {
        znodes,
        created_per_second,
        load,
        snapshots,
        turn_ms_max,
        restart_seconds,
        servers,
    })
}

fn load_options(options: &MillionOptions, servers: &[SocketAddr], keys: Keys) -> LoadOptions {
    LoadOptions {
        servers: servers.to_vec(),
        connections: 24,
        depth: 16,
        mix: Mix { read_percent: 50 },
        value_bytes: VALUE_BYTES,
        subtrees: keys.subtrees,
        keys_per_subtree: keys.keys_per_subtree,
        subtree_affine: false,
        seconds: options.seconds,
        warm_up_seconds: 1.0,
        rate: None,
        arrivals: Arrivals::Poisson,
        server_pids: Vec::new(),
        skip_set_up: true,
        seed: 1,
    }
}

/// The lines of `mntr`.
fn figures(server: SocketAddr) -> Result<BTreeMap<String, String>, BenchError> {
    let text = client::four_letter_word(server, "mntr", PATIENCE)?;
    let lines = text.lines().filter_map(|line| line.split_once('\t'));
    Ok(lines.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}

fn figure(figures: &BTreeMap<String, String>, key: &str) -> Result<u64, BenchError> {
    let value = figures.get(key).and_then(|value| value.parse().ok());
    value.ok_or_else(|| BenchError::Protocol(format!("mntr has no number {key}")))
}

/// The newest snapshot of each shard on each server.
fn snapshots_of(
    servers: &[SocketAddr],
) -> Result<BTreeMap<(SocketAddr, String), String>, BenchError> {
    let mut newest = BTreeMap::new();
    for &server in servers {
        let of_shards = figures(server)?.into_iter().filter(|(key, _)| key.ends_with(SNAPSHOT));
        newest.extend(of_shards.map(|(shard, zxid)| ((server, shard), zxid)));
    }
    Ok(newest)
}

/// What a server has behind a sync, which brings everything that was acknowledged.
fn settled(server: SocketAddr) -> Result<Holding, BenchError> {
    let mut client = client::Client::connect(server, PATIENCE)?;
    client.sync("/")?;
    client.close()?;
    let figures = figures(server)?;
    let znodes = figure(&figures, "zk_znode_count")?;
    let digests = figures.into_iter().filter(|(key, _)| key.ends_with(DIGEST)).collect();
    Ok(Holding { znodes, digests })
}

impl MillionReport {
    /// What is wrong with the result, if anything is.
    pub(crate) fn complaint(&self) -> Option<String> {
        let (first, others) = self.servers.split_first().expect("there are servers");
        if first.digests.is_empty() || others.iter().any(|other| other != first) {
            Some("the servers do not have the same tree".to_owned())
        } else if first.znodes < u64::from(self.znodes) {
            Some(format!("{} of {} znodes are left", first.znodes, self.znodes))
        } else {
            self.load.errors_explained.clone()
        }
    }
}

impl fmt::Display for MillionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} znodes, created at {:.0} a second", self.znodes, self.created_per_second)?;
        writeln!(
            f,
            "{:.0} requests a second, half of them writes, p99 {:.1} ms, while {} snapshots were \
             taken; the longest turn took {:.1} ms",
            self.load.requests_per_second,
            self.load.all.p99_us / 1000.0,
            self.snapshots,
            self.turn_ms_max
        )?;
        writeln!(f, "all servers killed; all serve after {:.1} s", self.restart_seconds)?;
        match self.complaint() {
            None => write!(f, "the same tree on all {}", self.servers.len()),
            Some(complaint) => write!(f, "WRONG: {complaint}"),
        }
    }
}

const SERVERS: u16 = 3;
const SUBTREES: u32 = 16;
const VALUE_BYTES: usize = 100;
const PATIENCE: Duration = Duration::from_secs(20);
const SNAPSHOT: &str = "_snapshot_zxid";
const DIGEST: &str = "_digest";
