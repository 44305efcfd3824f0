//! Starts and stops a cluster of either system behind the same configuration, on loopback.

mod configuration;
mod server;
mod work_directory;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::error::BenchError;
use server::Server;
pub(crate) use server::pause;
pub(crate) use work_directory::WorkDirectory;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum System {
    #[value(name = "zookeeper")]
    ZooKeeper,
    Pigeonhole,
    Floor,
}

/// Where the programs are, and how to run them.
#[derive(Clone, Debug, clap::Args, serde::Serialize)]
pub(crate) struct ClusterOptions {
    /// The directory for data and logs of the servers, on the disk to measure.
    #[arg(long, default_value = ".")]
    pub(crate) work_dir: PathBuf,
    /// Keep data and logs when done.
    #[arg(long)]
    pub(crate) keep: bool,
    /// The first of the two hundred ports from which the servers take theirs.
    #[arg(
        long,
        default_value_t = 22_000,
        value_parser = clap::value_parser!(u16).range(1024..=65_000),
    )]
    pub(crate) base_port: u16,
    /// The server binary of Pigeonhole.
    #[arg(long, default_value = "pigeonhole")]
    pub(crate) pigeonhole: PathBuf,
    /// Shards of Pigeonhole's tree.
    #[arg(long, default_value_t = 8)]
    pub(crate) shards: u32,
    /// More lines for Pigeonhole's zoo.cfg, `key=value`.
    #[arg(long)]
    pub(crate) pigeonhole_option: Vec<String>,
    /// More lines for ZooKeeper's zoo.cfg, `key=value`.
    #[arg(long)]
    pub(crate) zookeeper_option: Vec<String>,
    #[arg(long, default_value = "java")]
    pub(crate) java: PathBuf,
    /// Flags for ZooKeeper's JVM.
    #[arg(
        long,
        value_delimiter = ' ',
        default_value = "-Xms1g -Xmx1g",
        allow_hyphen_values = true
    )]
    pub(crate) java_flags: Vec<String>,
    /// ZooKeeper and what it needs, as a class path.
    #[arg(long, default_value = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar")]
    pub(crate) zookeeper_class_path: String,
}

/// Running servers; dropping it kills them.
pub(crate) struct Cluster {
    servers: Vec<Server>,
}

impl Cluster {
    /// Starts `count` empty servers and waits until every one of them serves.
    pub(crate) fn start(
        system: System,
        count: u16,
        options: &ClusterOptions,
        directory: &WorkDirectory,
    ) -> Result<Self, BenchError> {
        let servers = configuration::write(system, count, options, directory)?;
        let mut cluster = Self { servers };
        cluster.start_all()?;
        Ok(cluster)
    }

    /// Starts every server, each on what it has, and waits until every one serves.
    pub(crate) fn start_all(&mut self) -> Result<(), BenchError> {
        for server in &mut self.servers {
            server.spawn()?;
        }
        for server in &mut self.servers {
            server.wait_until_serving(START_PATIENCE)?;
        }
        Ok(())
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(Server::address).collect()
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.servers.iter().filter_map(Server::pid).collect()
    }

    /// The index of the server that leads (for Pigeonhole, that leads shard 0).
    pub(crate) fn leader(&self) -> Result<usize, BenchError> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            let leads = |server: &Server| server.mode().is_ok_and(|mode| mode == "leader");
            if let Some(index) = self.servers.iter().position(leads) {
                return Ok(index);
            }
            if Instant::now() > deadline {
                return Err(BenchError::Invalid("no server says that it leads".to_owned()));
            }
            pause(POLL_INTERVAL);
        }
    }

    /// Kills a server as a power cut would, and returns when it is dead.
    pub(crate) fn kill(&mut self, index: usize) {
        self.servers[index].kill();
    }

    /// Starts a killed server on what it left behind, and waits until it serves.
    pub(crate) fn restart(&mut self, index: usize) -> Result<(), BenchError> {
        self.servers[index].spawn()?;
        self.servers[index].wait_until_serving(START_PATIENCE)
    }
}

/// A JVM on a busy machine takes seconds; nothing healthy takes this long.
const START_PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
