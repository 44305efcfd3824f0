//! The cluster that runs in one process on one machine, when no `zoo.cfg` is given.

use std::path::PathBuf;

use super::ensemble::{Role, Server};
use super::error::{ConfigError, Finding, Place};
use super::server::{ServerConfig, Whitelist};
use super::settings::SHARDS;
use super::value::HostPort;

/// A cluster of servers on the loopback address, for a first look, for tests and for measuring.
///
/// Replica `i`, counted from one, has the id `i`, keeps its data in `<data>/replica-<i>`, serves
/// clients on `base_port + i - 1` and peers 707 ports above that: 2181, 2182, … and 2888, 2889, …
/// as the examples of ZooKeeper's manual have it. The two ranges cannot meet, because there are
/// at most seven replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalCluster {
    /// The directory under which every replica has its own.
    pub data: PathBuf,
    /// The client port of the first replica.
    pub base_port: u16,
    /// How many replicas: 1 to 7.
    pub replicas: u8,
    /// Into how many shards the tree is cut: 1 to 1024.
    pub shards: u16,
}

impl LocalCluster {
    /// The configuration of each replica, in the order of the ids. A warning about the cluster as
    /// a whole stands with the first one.
    pub fn servers(&self) -> Result<Vec<ServerConfig>, ConfigError> {
        let problems = self.problems();
        if !problems.is_empty() {
            return Err(ConfigError::new(problems));
        }
        let servers: Vec<Server> = (1..=self.replicas).map(|id| self.server(id)).collect();
        let mut configs: Vec<ServerConfig> =
            (1..=self.replicas).map(|id| self.config(id, &servers)).collect();
        if self.replicas.is_multiple_of(2) {
            let text = format!(
                "{} replicas outlive no more failures than {} do; an odd number is usual",
                self.replicas,
                self.replicas - 1
            );
            configs[0].warnings.push(Finding::of_key(Place::CommandLine, "--replicas", text));
        }
        Ok(configs)
    }

    fn config(&self, id: u8, servers: &[Server]) -> ServerConfig {
        let data = self.data.join(format!("replica-{id}"));
        let tick_time_ms = 2000;
        ServerConfig {
            servers: servers.to_vec(),
            tick_time_ms,
            session_timeout_ms_min: 2 * tick_time_ms,
            session_timeout_ms_max: 20 * tick_time_ms,
            four_letter_words: Whitelist::All,
            shards: self.shards,
            pin: false,
            ..ServerConfig::with_defaults(id, data, HostPort::new(LOOPBACK, self.client_port(id)))
        }
    }

    fn server(&self, id: u8) -> Server {
        let client_port = self.client_port(id);
        Server {
            id,
            peer: HostPort::new(LOOPBACK, client_port + PEER_PORT_DISTANCE),
            election_port: client_port + ELECTION_PORT_DISTANCE,
            role: Role::Participant,
            client: Some(HostPort::new(LOOPBACK, client_port)),
        }
    }

    fn client_port(&self, id: u8) -> u16 {
        self.base_port + u16::from(id) - 1
    }

    fn problems(&self) -> Vec<Finding> {
        let mut problems = Vec::new();
        let mut refuse = |key: &str, text: String| {
            problems.push(Finding::of_key(Place::CommandLine, key, text));
        };
        if !(1..=REPLICAS_MAX).contains(&self.replicas) {
            refuse(
                "--replicas",
                format!(
                    "{} is not from 1 to {REPLICAS_MAX} replicas; write for example --replicas 3",
                    self.replicas
                ),
            );
        }
        if !SHARDS.range.contains(&self.shards) {
            refuse(
                "--shards",
                format!(
                    "{} is not from {} to {} shards; write for example --shards {}",
                    self.shards,
                    SHARDS.range.start(),
                    SHARDS.range.end(),
                    SHARDS.example
                ),
            );
        }
        if !(1..=BASE_PORT_MAX).contains(&self.base_port) {
            refuse(
                "--port",
                format!(
                    "{} is not from 1 to {BASE_PORT_MAX}, above which the peers' ports do not fit; \
                 write for example --port {BASE_PORT_DEFAULT}",
                    self.base_port
                ),
            );
        }
        let existing = self.data.ancestors().find(|ancestor| ancestor.exists());
        if self.data.as_os_str().is_empty() {
            refuse("--data", "names no directory; write for example --data data".to_owned());
        } else if let Some(existing) = existing.filter(|existing| !existing.is_dir()) {
            refuse("--data", format!("{} is not a directory; name another", existing.display()));
        }
        problems
    }
}

const LOOPBACK: &str = "127.0.0.1";

/// ZooKeeper's usual port.
pub(super) const BASE_PORT_DEFAULT: u16 = 2181;

/// From 2181 to 2888.
const PEER_PORT_DISTANCE: u16 = 707;

/// From 2181 to 3888. Nothing listens there; the configuration has the field.
const ELECTION_PORT_DISTANCE: u16 = 1707;

/// More replicas in one process show nothing that seven do not.
const REPLICAS_MAX: u8 = 7;

const BASE_PORT_MAX: u16 = u16::MAX - ELECTION_PORT_DISTANCE - (REPLICAS_MAX as u16 - 1);

const _: () = assert!(PEER_PORT_DISTANCE >= REPLICAS_MAX as u16, "client and peer ports meet");
const _: () = assert!(ELECTION_PORT_DISTANCE - PEER_PORT_DISTANCE >= REPLICAS_MAX as u16);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn cluster(base_port: u16, replicas: u8, shards: u16) -> LocalCluster {
        let data = std::env::temp_dir().join("pigeonhole-local-that-nobody-creates");
        LocalCluster { data, base_port, replicas, shards }
    }

    #[test]
    fn three_replicas_are_an_ensemble_on_the_loopback_address() {
        let cluster = cluster(2181, 3, 8);
        let configs = cluster.servers().unwrap();
        assert_eq!(configs.len(), 3);
        for (id, config) in (1..).zip(&configs) {
            assert_eq!(config.id, id);
            assert_eq!(config.voters(), [1, 2, 3]);
            assert_eq!(config.servers, configs[0].servers);
            assert_eq!(config.client_address, HostPort::new("127.0.0.1", 2180 + u16::from(id)));
            let own = config.own_server().unwrap();
            assert_eq!(own.client.as_ref(), Some(&config.client_address));
            assert_eq!(own.peer, HostPort::new("127.0.0.1", 2887 + u16::from(id)));
            assert_eq!(config.data_dir, cluster.data.join(format!("replica-{id}")));
            assert_eq!(config.data_log_dir, config.data_dir);
            assert_eq!((config.tick_time_ms, config.session_timeout_ms_min), (2000, 4000));
            assert_eq!((config.shards, config.cores, config.pin), (8, 1, false));
            assert_eq!(config.four_letter_words, Whitelist::All);
            assert_eq!(config.warnings, []);
        }
    }

    #[test]
    fn no_two_listeners_share_a_port() {
        for (base_port, replicas) in [(1, 7), (2181, 7), (BASE_PORT_MAX, 7), (2181, 1)] {
            let configs = cluster(base_port, replicas, 1).servers().unwrap();
            let listed = configs[0].servers.iter();
            let of_peers = listed.flat_map(|server| [server.peer.port, server.election_port]);
            let of_clients = configs.iter().map(|config| config.client_address.port);
            let ports: BTreeSet<u16> = of_peers.chain(of_clients).collect();
            assert_eq!(ports.len(), 3 * usize::from(replicas));
        }
    }

    #[test]
    fn an_even_number_is_warned_about_once() {
        let configs = cluster(2181, 4, 1).servers().unwrap();
        let warnings: Vec<String> =
            configs.iter().flat_map(|config| &config.warnings).map(Finding::to_string).collect();
        assert_eq!(
            warnings,
            ["command line: --replicas: 4 replicas outlive no more failures than 3 do; an odd \
             number is usual"]
        );
    }

    #[test]
    fn every_problem_is_named() {
        let mut cluster = cluster(0, 8, 0);
        cluster.data = std::env::current_exe().unwrap().join("below");
        let file = std::env::current_exe().unwrap();
        assert_eq!(
            cluster.servers().unwrap_err().to_string(),
            format!(
                "command line: --replicas: 8 is not from 1 to 7 replicas; write for example \
                 --replicas 3\n\
                 command line: --shards: 0 is not from 1 to 1024 shards; write for example \
                 --shards 8\n\
                 command line: --port: 0 is not from 1 to 63822, above which the peers' ports do \
                 not fit; write for example --port 2181\n\
                 command line: --data: {} is not a directory; name another",
                file.display()
            )
        );
    }
}
