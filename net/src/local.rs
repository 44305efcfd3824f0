//! A whole cluster in this process, for a first look: real servers, real links, real disks.

use std::io::Write as _;

use pigeonhole_core::base::id::ClusterId;

use crate::boot::{Node, Process};
use crate::config::{LocalCluster, ServerConfig};
use crate::exit::Failure;
use crate::home::{self, Home, WhenEmpty, log_path, segments_in};

/// Starts every replica, and says where to connect.
pub(crate) fn start(cluster: &LocalCluster) -> Result<(Process, Vec<Node>), Failure> {
    let configs = cluster.servers().map_err(Failure::environment)?;
    let nonce = nonce_of(cluster, &configs)?;
    let mut process = Process::prepare(configs.len())?;
    let mut nodes = Vec::new();
    for config in configs.clone() {
        let home = Home::open(&config, WhenEmpty::Format(nonce))?;
        nodes.push(process.start(config, home, None)?);
    }
    for node in &mut nodes {
        node.wait_until_started()?;
    }
    greet(cluster, &configs);
    Ok((process, nodes))
}

/// The id that all replicas share. A replica without data is made a member only while nobody has
/// any: later it would be a server that has lost what it promised.
fn nonce_of(cluster: &LocalCluster, configs: &[ServerConfig]) -> Result<ClusterId, Failure> {
    let beyond = cluster.data.join(format!("replica-{}", usize::from(cluster.replicas) + 1));
    if home::read_meta(&beyond)?.is_some() {
        return Err(Failure::data(format_args!(
            "{} holds the data of more than {} replicas: give the number with --replicas, or \
             another directory with --data",
            cluster.data.display(),
            cluster.replicas
        )));
    }
    if home::read_meta(&cluster.data)?.is_some() {
        return Err(Failure::data(format_args!(
            "{} holds the data of a single server: run it with `pigeonhole serve`, or give another \
             directory with --data",
            cluster.data.display()
        )));
    }
    let mut known = None;
    let mut empty = None;
    let mut has_log = false;
    for config in configs {
        match home::read_meta(&config.data_dir)? {
            Some(meta) => known = Some(meta.cluster),
            None => empty = Some(&config.data_dir),
        }
        has_log |= !segments_in(&log_path(&config.data_log_dir))?.is_empty();
    }
    match (known, empty) {
        (Some(_), Some(empty)) if has_log => Err(Failure::data(format_args!(
            "{} is empty, and other replicas in {} have data: give their number with --replicas, \
             restore what is lost from a copy, or give another directory with --data",
            empty.display(),
            cluster.data.display()
        ))),
        (Some(cluster), _) => Ok(cluster),
        (None, _) => Ok(ClusterId(home::random()?.max(1))),
    }
}

fn greet(cluster: &LocalCluster, configs: &[ServerConfig]) {
    let addresses: Vec<String> =
        configs.iter().map(|config| config.client_address.to_string()).collect();
    let (first, all) = (&addresses[0], addresses.join(","));
    let text = format!(
        "Pigeonhole {}: {}, {}, data in {}\n\
         connect:  {all}\n\
         try:      zkCli.sh -server {all}\n\
         \u{20}         python3 -c 'from kazoo.client import KazooClient as K; k = K(\"{first}\"); \
         k.start(); print(k.create(\"/hello\", b\"world\", makepath=True))'\n\
         \u{20}         echo srvr | nc {}\n\
         Ctrl-C stops it; the data stays.\n",
        env!("CARGO_PKG_VERSION"),
        count(cluster.replicas.into(), "replica"),
        count(cluster.shards, "shard"),
        cluster.data.display(),
        first.replace(':', " "),
    );
    // A terminal that is gone is no reason to stop.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn count(number: u16, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
