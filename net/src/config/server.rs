//! The configuration of one server: every setting as a typed field, and its default.

use std::path::{Path, PathBuf};

use pigeonhole_core::base::limits::CONNECTIONS_PER_ADDRESS_MAX;

use super::ensemble::{Role, Server};
use super::error::{ConfigError, Finding};
use super::file;
use super::value::{ClusterId, HostPort, Secret};

/// All that one server is told. Every field is checked, and every default is resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// This server's number, 1 to 254, from `<dataDir>/myid`. A standalone server without
    /// the file is number 1.
    pub id: u8,
    /// `server.N`: the ensemble in the order of the ids, this server included. Empty for a
    /// standalone server.
    pub servers: Vec<Server>,
    /// `clientPort` and `clientPortAddress`, or what `server.N` says after its semicolon. The
    /// host is `0.0.0.0` unless one is given.
    pub client_address: HostPort,
    /// `clientPortListenBacklog`: connections that may wait to be accepted; 1024 if nothing
    /// is said.
    pub client_listen_backlog: Option<u32>,
    /// `quorumListenOnAllIPs`: listen for peers on every address and not on the one of `server.N`.
    pub quorum_listen_on_all_ips: bool,
    /// `dataDir`: the data directory, which may not exist yet.
    pub data_dir: PathBuf,
    /// `dataLogDir`: the directory of the log; `dataDir` unless it is given.
    pub data_log_dir: PathBuf,
    /// `tickTime`, the unit of the limits that follow; 3000 unless given.
    pub tick_time_ms: u32,
    /// `initLimit`: how many ticks a learner may take to connect and to catch up.
    pub init_limit_ticks: u32,
    /// `syncLimit`: how many ticks a learner may lag behind its leader.
    pub sync_limit_ticks: u32,
    /// `minSessionTimeout`; two ticks unless given. Never above the maximum.
    pub session_timeout_ms_min: u32,
    /// `maxSessionTimeout`; twenty ticks unless given.
    pub session_timeout_ms_max: u32,
    /// `maxClientCnxns`: connections from one address; 60 unless given, none for no limit.
    pub connections_per_address_max: Option<u32>,
    /// `maxCnxns`: connections altogether; none, which is the default, for no limit.
    pub connections_max: Option<u32>,
    /// `globalOutstandingLimit`: requests that may wait in this server; 1000 unless given.
    pub outstanding_requests_max: u32,
    /// `jute.maxbuffer`: the longest request or reply; 0xfffff unless given.
    pub request_bytes_max: u32,
    /// `snapCount`: transactions between two snapshots of a shard; 100000 unless given.
    pub snapshot_transactions: u32,
    /// `4lw.commands.whitelist`: the four-letter words that are answered.
    pub four_letter_words: Whitelist,
    /// `DigestAuthenticationProvider.superDigest`: `user:base64(sha1(user:password))`, whose
    /// holder passes every access check. None means that there is no such user.
    pub super_digest: Option<Secret>,
    /// `skipACL`: access checks are off.
    pub skip_acl: bool,
    /// `standaloneEnabled`: a server that is listed alone is its own ensemble.
    pub standalone_enabled: bool,
    /// `pigeonhole.shards`: into how many shards the tree is cut, 1 to 1024. It is fixed when the
    /// data directory is formatted, and checked against it at every start.
    pub shards: u16,
    /// `pigeonhole.cores`: how many cores the engine uses.
    pub cores: u16,
    /// `pigeonhole.pin`: every engine thread stays on one CPU.
    pub pin: bool,
    /// `pigeonhole.logBytesMax`: how large the log grows before the shard that holds on to its
    /// oldest segment is snapshotted.
    pub log_bytes_max: u64,
    /// `pigeonhole.cluster`: the cluster that this server's data must belong to.
    pub cluster: Option<ClusterId>,
    /// `pigeonhole.directIO`: the log bypasses the page cache. Off, the syncs are the same.
    pub direct_io: bool,
    /// `pigeonhole.strictTail`: a log that ends in a torn batch is doubted and not just cut.
    pub strict_tail: bool,
    /// `pigeonhole.peerHeartbeatMs`: how often servers tell each other that they live.
    pub peer_heartbeat_ms: u32,
    /// `pigeonhole.peerSilenceMs`: after how much silence a server is suspected.
    pub peer_silence_ms: u32,
    /// What the user should be told at start, in the order of the file.
    pub warnings: Vec<Finding>,
}

/// Which four-letter words are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whitelist {
    /// Every word.
    All,
    /// These words; `srvr` is always among them, because scripts ask it whether a server runs.
    Only(Vec<String>),
}

impl ServerConfig {
    /// Reads and checks `file` and the `myid` beside the data; `overrides` come from `-D` and win.
    ///
    /// Creates nothing. The error names every problem, not just the first.
    pub fn load(file: &Path, overrides: &[(String, String)]) -> Result<Self, ConfigError> {
        let text = file::read(file)?;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self::from_text(&file.display().to_string(), &text, overrides, cpus)
    }

    /// Whether this server is its own ensemble.
    pub fn is_standalone(&self) -> bool {
        self.servers.is_empty() || (self.servers.len() == 1 && self.standalone_enabled)
    }

    /// This server's line, unless it is standalone.
    pub fn own_server(&self) -> Option<&Server> {
        self.servers.iter().find(|server| server.id == self.id && !self.is_standalone())
    }

    /// The ids that vote, ascending; a standalone server's own.
    pub fn voters(&self) -> Vec<u8> {
        if self.is_standalone() {
            return vec![self.id];
        }
        let voters = self.servers.iter().filter(|server| server.role == Role::Participant);
        voters.map(|server| server.id).collect()
    }

    /// The ids that follow without a vote, ascending.
    pub fn observers(&self) -> Vec<u8> {
        let observers = self.servers.iter().filter(|server| server.role == Role::Observer);
        observers.map(|server| server.id).collect()
    }

    /// A server about which nothing is said but this.
    pub(super) fn with_defaults(id: u8, data_dir: PathBuf, client_address: HostPort) -> Self {
        Self {
            id,
            servers: Vec::new(),
            client_address,
            client_listen_backlog: None,
            quorum_listen_on_all_ips: false,
            data_log_dir: data_dir.clone(),
            data_dir,
            tick_time_ms: 3000,
            init_limit_ticks: 10,
            sync_limit_ticks: 5,
            session_timeout_ms_min: 2 * 3000,
            session_timeout_ms_max: 20 * 3000,
            connections_per_address_max: Some(CONNECTIONS_PER_ADDRESS_MAX),
            connections_max: None,
            outstanding_requests_max: 1000,
            request_bytes_max: 0xf_ffff,
            snapshot_transactions: 100_000,
            four_letter_words: Whitelist::Only(vec!["srvr".to_owned()]),
            super_digest: None,
            skip_acl: false,
            standalone_enabled: true,
            shards: 1,
            cores: 1,
            pin: true,
            log_bytes_max: 1 << 30,
            cluster: None,
            direct_io: true,
            strict_tail: false,
            peer_heartbeat_ms: 50,
            peer_silence_ms: 400,
            warnings: Vec::new(),
        }
    }
}

impl Whitelist {
    /// Whether `word` is answered.
    pub fn allows(&self, word: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(words) => words.iter().any(|allowed| allowed == word),
        }
    }
}
