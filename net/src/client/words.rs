//! The texts of the four-letter words, as ZooKeeper 3.8 writes them and as tools parse them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use pigeonhole_core::base::id::{ConnectionId, ShardId};
use pigeonhole_core::base::met::Limit;
use pigeonhole_core::base::time::{Instant, Now};
use pigeonhole_core::peer::message::PeerState;
use pigeonhole_core::report::ShardReport;

use crate::client::admin::{Facts, Figures};
use crate::client::connection::ConnectionLine;
use crate::client::java::{Brief, JavaAddress, LatencyMs, Sets};
use crate::config::{Role, Whitelist};

/// The words that this server knows; what it does not know is closed without a word.
const KNOWN: [&[u8; 4]; 15] = [
    b"ruok", b"srvr", b"stat", b"mntr", b"isro", b"conf", b"cons", b"crst", b"srst", b"dump",
    b"envi", b"wchs", b"wchp", b"wchc", b"dirs",
];

/// Clients look at the version to know what they may send, so it begins as ZooKeeper's. Tools want
/// a date behind it: that of the release, whenever and wherever it is built.
pub(crate) const VERSION: &str =
    concat!("3.8.0-pigeonhole-", env!("CARGO_PKG_VERSION"), ", built on 2026-11-21 00:00 UTC");

/// What a server answers to nearly everything while it has no cluster or no leader.
pub(crate) const NOT_SERVING: &str = "This ZooKeeper instance is not currently serving requests\n";

/// Whether a word shows connections, sessions or watches one by one.
pub(crate) fn is_detailed(word: &[u8; 4]) -> bool {
    [b"stat", b"cons", b"dump", b"wchs", b"wchp", b"wchc"].contains(&word)
}

/// The answer to a word that needs no figures, because it shows none or may not be asked.
pub(crate) fn without_figures(word: &[u8; 4], allowed: &Whitelist) -> Option<String> {
    let text = String::from_utf8_lossy(word);
    if !KNOWN.contains(&word) {
        return Some(String::new());
    }
    if !allowed.allows(&text) {
        return Some(format!("{text} is not executed because it is not in the whitelist.\n"));
    }
    match word {
        b"ruok" => Some("imok".to_owned()),
        b"envi" => Some(envi()),
        _ => None,
    }
}

/// Whether the server serves, as far as the core knows whose figures these are.
pub(crate) fn serves(facts: &Facts, figures: &Figures, now: Now) -> bool {
    Scene { facts, figures, now }.serves()
}

/// The answer to a word that shows figures.
pub(crate) fn answer(word: &[u8; 4], facts: &Facts, figures: &Figures, now: Now) -> String {
    let scene = Scene { facts, figures, now };
    if word == b"isro" {
        return if scene.serves() { "rw" } else { "null" }.to_owned();
    }
    if !scene.serves() {
        return NOT_SERVING.to_owned();
    }
    let mut out = String::new();
    let written = match word {
        b"srvr" => scene.srvr(&mut out, false),
        b"stat" => scene.srvr(&mut out, true),
        b"mntr" => scene.mntr(&mut out),
        b"conf" => scene.conf(&mut out),
        b"cons" => scene.cons(&mut out),
        b"dump" => scene.dump(&mut out),
        b"wchs" => scene.wchs(&mut out),
        b"wchp" => scene.wchp(&mut out),
        b"wchc" => scene.wchc(&mut out),
        b"dirs" => scene.dirs(&mut out),
        other => panic!("{other:?} has no figures to show"),
    };
    written.expect("writing to a string cannot fail");
    out
}

/// As Java names it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        other => other,
    }
}

fn envi() -> String {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let directory = std::env::current_dir().unwrap_or_default();
    let lines = [
        ("zookeeper.version", VERSION.to_owned()),
        ("pigeonhole.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("host.name", read("/proc/sys/kernel/hostname")),
        ("os.name", "Linux".to_owned()),
        ("os.arch", architecture().to_owned()),
        ("os.version", read("/proc/sys/kernel/osrelease")),
        ("user.name", variable("USER")),
        ("user.home", variable("HOME")),
        ("user.dir", directory.display().to_string()),
    ];
    let lines = lines.map(|(key, value)| format!("{key}={value}\n"));
    format!("Environment:\n{}", lines.concat())
}

struct Scene<'a> {
    facts: &'a Facts,
    figures: &'a Figures,
    now: Now,
}

type Written = std::fmt::Result;

impl Scene<'_> {
    fn srvr(&self, out: &mut String, with_clients: bool) -> Written {
        writeln!(out, "Zookeeper version: {VERSION}")?;
        if with_clients {
            writeln!(out, "Clients:")?;
            for line in &self.figures.connections {
                writeln!(out, " {})", Brief(line))?;
            }
            writeln!(out)?;
        }
        let traffic = &self.figures.traffic;
        let latency = LatencyMs::from(&traffic.latency);
        writeln!(out, "Latency min/avg/max: {}/{}/{}", latency.min, latency.avg, latency.max)?;
        writeln!(out, "Received: {}", traffic.received)?;
        writeln!(out, "Sent: {}", traffic.sent)?;
        writeln!(out, "Connections: {}", self.figures.connections_count)?;
        writeln!(out, "Outstanding: {}", self.figures.outstanding)?;
        writeln!(out, "Zxid: 0x{:x}", self.first_shard().map_or(0, |shard| shard.zxid.0))?;
        writeln!(out, "Mode: {}", self.mode())?;
        writeln!(out, "Node count: {}", self.sum(|shard| shard.znodes))?;
        if self.mode() == "leader" {
            let sizes = self.figures.proposals;
            let (last, min, max) = (sizes.last, sizes.min, sizes.max);
            writeln!(out, "Proposal sizes last/min/max: {last}/{min}/{max}")?;
        }
        Ok(())
    }

    fn mntr(&self, out: &mut String) -> Written {
        let mut put = |key: &str, value: &dyn std::fmt::Display| writeln!(out, "zk_{key}\t{value}");
        let figures = self.figures;
        let traffic = &figures.traffic;
        let latency = LatencyMs::from(&traffic.latency);
        put("version", &VERSION)?;
        put("server_state", &self.mode())?;
        if !self.facts.config.is_standalone() {
            put("peer_state", &self.peer_state())?;
        }
        put("ephemerals_count", &self.sum(|shard| shard.ephemerals))?;
        put("num_alive_connections", &figures.connections_count)?;
        put("avg_latency", &latency.avg)?;
        put("min_latency", &latency.min)?;
        put("max_latency", &latency.max)?;
        put("outstanding_requests", &figures.outstanding)?;
        put("znode_count", &self.sum(|shard| shard.znodes))?;
        put("watch_count", &self.sum(|shard| shard.watches))?;
        put("global_sessions", &self.sum(|shard| shard.sessions))?;
        put("local_sessions", &0)?;
        let bytes: u64 = figures.shards.iter().map(|shard| shard.data_bytes).sum();
        put("approximate_data_size", &bytes)?;
        put("packets_received", &traffic.received)?;
        put("packets_sent", &traffic.sent)?;
        put("last_client_response_size", &traffic.response.last)?;
        put("min_client_response_size", &traffic.response.min)?;
        put("max_client_response_size", &traffic.response.max)?;
        put("open_file_descriptor_count", &open_files_count())?;
        put("max_file_descriptor_count", &self.facts.open_files_max)?;
        put("uptime", &self.now.instant.since(self.facts.started).as_ms())?;
        put("connection_drop_probability", &"0.0")?;
        if !self.facts.config.is_standalone() {
            put("quorum_size", &self.facts.config.voters().len())?;
        }
        if self.mode() == "leader" {
            self.put_leader(&mut put)?;
        }
        put("log_sync_micros_last", &figures.log.sync_micros_last)?;
        put("log_backlog_bytes", &figures.log.backlog_bytes)?;
        put("turn_micros_max", &figures.log.turn_micros_max)?;
        for (shard, zxid) in &figures.log.snapshots {
            put(&format!("shard_{shard}_snapshot_zxid"), &format_args!("0x{:x}", zxid.0))?;
        }
        for limit in Limit::ALL {
            put(&format!("limit_{}_met", limit.name()), &figures.limits_met.count(limit))?;
        }
        figures.shards.iter().try_for_each(|shard| put_shard(shard, &mut put))
    }

    fn put_leader(&self, put: &mut impl FnMut(&str, &dyn std::fmt::Display) -> Written) -> Written {
        let Some(shard) = self.first_shard() else {
            return Ok(());
        };
        let sizes = self.figures.proposals;
        put("learners", &shard.learners)?;
        put("synced_followers", &shard.synced_followers)?;
        put("synced_non_voting_followers", &0)?;
        put("synced_observers", &shard.synced_observers)?;
        put("pending_syncs", &shard.pending_syncs)?;
        put("last_proposal_size", &sizes.last)?;
        put("min_proposal_size", &sizes.min)?;
        put("max_proposal_size", &sizes.max)
    }

    fn conf(&self, out: &mut String) -> Written {
        let config = &self.facts.config;
        let limit = |limit: Option<u32>| limit.unwrap_or(0);
        writeln!(out, "clientPort={}", config.client_address.port)?;
        writeln!(out, "secureClientPort=-1")?;
        writeln!(out, "dataDir={}", config.data_dir.display())?;
        writeln!(out, "dataDirSize={}", size_of_tree(&config.data_dir))?;
        writeln!(out, "dataLogDir={}", config.data_log_dir.display())?;
        writeln!(out, "dataLogSize={}", size_of_tree(&config.data_log_dir))?;
        writeln!(out, "tickTime={}", config.tick_time_ms)?;
        writeln!(out, "maxClientCnxns={}", limit(config.connections_per_address_max))?;
        writeln!(out, "minSessionTimeout={}", config.session_timeout_ms_min)?;
        writeln!(out, "maxSessionTimeout={}", config.session_timeout_ms_max)?;
        let backlog = config.client_listen_backlog.map_or(-1, i64::from);
        writeln!(out, "clientPortListenBacklog={backlog}")?;
        writeln!(out, "serverId={}", config.id)?;
        let Some(own) = config.own_server() else {
            return Ok(());
        };
        writeln!(out, "initLimit={}", config.init_limit_ticks)?;
        writeln!(out, "syncLimit={}", config.sync_limit_ticks)?;
        writeln!(out, "electionAlg=3")?;
        writeln!(out, "electionPort={}", own.election_port)?;
        writeln!(out, "quorumPort={}", own.peer.port)?;
        writeln!(out, "peerType={}", u8::from(own.role == Role::Observer))?;
        writeln!(out, "membership: ")?;
        for server in &config.servers {
            let role = match server.role {
                Role::Participant => "participant",
                Role::Observer => "observer",
            };
            let (peer, election) = (&server.peer, server.election_port);
            write!(out, "server.{}={peer}:{election}:{role}", server.id)?;
            match &server.client {
                Some(client) => writeln!(out, ";{client}")?,
                None => writeln!(out)?,
            }
        }
        write!(out, "version=0")
    }

    fn cons(&self, out: &mut String) -> Written {
        for line in &self.figures.connections {
            write!(out, " {}", Brief(line))?;
            let figures = &line.figures;
            if figures.session != 0 {
                let last = figures.last;
                let latency = LatencyMs::from(&figures.latency);
                write!(out, ",sid=0x{:x}", figures.session)?;
                write!(out, ",lop={}", last.map_or("NA", |last| operation_name(last.operation)))?;
                write!(out, ",est={},to={}", line.since_wall_ms, figures.timeout_ms)?;
                if let Some(xid) = figures.xid {
                    write!(out, ",lcxid=0x{xid:x}")?;
                }
                write!(out, ",lzxid=0x{:x}", last.map_or(-1, |last| last.zxid))?;
                write!(out, ",lresp={}", last.map_or(0, |last| last.at.0 / 1000))?;
                write!(out, ",llat={}", last.map_or(0, |last| last.latency_us / 1000))?;
                let average = latency.average.trunc();
                write!(out, ",minlat={},avglat={average},maxlat={}", latency.min, latency.max)?;
            }
            writeln!(out, ")")?;
        }
        writeln!(out)
    }

    fn dump(&self, out: &mut String) -> Written {
        let figures = self.figures;
        writeln!(out, "SessionTracker dump:")?;
        match self.mode() {
            "leader" | "standalone" => self.expiring_sessions(out)?,
            _ => self.global_sessions(out)?,
        }
        let mut ephemerals: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
        for (session, path) in &figures.ephemerals {
            ephemerals.entry(session.0).or_default().push(path);
        }
        writeln!(out, "ephemeral nodes dump:")?;
        writeln!(out, "Sessions with Ephemerals ({}):", ephemerals.len())?;
        for (session, paths) in ephemerals {
            writeln!(out, "0x{session:x}:")?;
            paths.iter().try_for_each(|path| writeln!(out, "\t{path}"))?;
        }
        let lines = figures.connections.iter();
        let until = |line: &ConnectionLine| {
            let heard = line.figures.last.map_or(self.now.instant, |last| last.at);
            self.silent_until(heard, u64::try_from(line.figures.timeout_ms).unwrap_or(0))
        };
        let sets = Sets::of(lines.map(|line| (until(line), line)), self.now);
        writeln!(out, "Connections dump:")?;
        writeln!(out, "Connections Sets ({})/({}):", sets.len(), sets.count)?;
        sets.write(out, |out, line| {
            let session = line.figures.session;
            writeln!(out, "\tip: {} sessionId: 0x{session:x}", JavaAddress(line.address))
        })
    }

    /// As who leads has them, which decides when they end.
    fn expiring_sessions(&self, out: &mut String) -> Written {
        let until = |timeout_ms| self.silent_until(self.now.instant, u64::from(timeout_ms));
        let expiring = self
            .figures
            .sessions
            .iter()
            .map(|line| (line.end.unwrap_or_else(|| until(line.timeout_ms)), line.session));
        let sets = Sets::of(expiring, self.now);
        writeln!(out, "Session Sets ({})/({}):", sets.len(), sets.count)?;
        sets.write(out, |out, session| writeln!(out, "\t0x{:x}", session.0))
    }

    /// As everybody else has them.
    fn global_sessions(&self, out: &mut String) -> Written {
        let sessions = self.figures.sessions.iter();
        let sessions: BTreeMap<u64, u32> =
            sessions.map(|line| (line.session.0, line.timeout_ms)).collect();
        writeln!(out, "Global Sessions({}):", sessions.len())?;
        sessions
            .iter()
            .try_for_each(|(session, timeout_ms)| writeln!(out, "0x{session:x}\t{timeout_ms}ms"))
    }

    fn wchs(&self, out: &mut String) -> Written {
        let watches = &self.figures.watches;
        let connections: BTreeSet<_> = watches.iter().map(|(id, _)| key_of(*id)).collect();
        let paths: BTreeSet<_> = watches.iter().map(|(_, path)| path).collect();
        writeln!(out, "{} connections watching {} paths", connections.len(), paths.len())?;
        writeln!(out, "Total watches:{}", watches.len())
    }

    fn wchp(&self, out: &mut String) -> Written {
        let sessions = self.sessions_of_connections();
        let mut by_path: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
        for (connection, path) in &self.figures.watches {
            let session = sessions.get(&key_of(*connection)).copied().unwrap_or(0);
            by_path.entry(path).or_default().insert(session);
        }
        for (path, sessions) in by_path {
            writeln!(out, "{path}")?;
            sessions.iter().try_for_each(|session| writeln!(out, "\t0x{session:x}"))?;
        }
        writeln!(out)
    }

    fn wchc(&self, out: &mut String) -> Written {
        let sessions = self.sessions_of_connections();
        let mut by_session: BTreeMap<i64, BTreeSet<&str>> = BTreeMap::new();
        for (connection, path) in &self.figures.watches {
            let session = sessions.get(&key_of(*connection)).copied().unwrap_or(0);
            by_session.entry(session).or_default().insert(path);
        }
        for (session, paths) in by_session {
            writeln!(out, "0x{session:x}")?;
            paths.iter().try_for_each(|path| writeln!(out, "\t{path}"))?;
        }
        writeln!(out)
    }

    fn dirs(&self, out: &mut String) -> Written {
        let config = &self.facts.config;
        writeln!(out, "datadir_size: {}", size_of_tree(&config.data_dir))?;
        writeln!(out, "logdir_size: {}", size_of_tree(&config.data_log_dir))
    }

    /// A server serves when its part of shard 0 does, because tools know one role for a server; and
    /// not while it takes no clients.
    fn serves(&self) -> bool {
        let takes_clients = !self.figures.shards.iter().any(|shard| shard.is_catching_up);
        takes_clients && self.first_shard().is_some_and(|shard| shard.established)
    }

    fn mode(&self) -> &'static str {
        if self.facts.config.is_standalone() {
            return "standalone";
        }
        match self.first_shard().map(|shard| shard.role) {
            Some(PeerState::Leading) => "leader",
            Some(PeerState::Following) => "follower",
            Some(PeerState::Observing) => "observer",
            Some(PeerState::Looking) | None => "looking",
        }
    }

    fn peer_state(&self) -> &'static str {
        match self.first_shard().map(|shard| shard.role) {
            Some(PeerState::Leading) => "leading - broadcast",
            Some(PeerState::Following) => "following - broadcast",
            Some(PeerState::Observing) => "observing - broadcast",
            Some(PeerState::Looking) | None => "looking - election",
        }
    }

    fn first_shard(&self) -> Option<&ShardReport> {
        self.figures.shards.iter().find(|shard| shard.shard == ShardId(0))
    }

    fn sum(&self, figure: impl Fn(&ShardReport) -> usize) -> usize {
        self.figures.shards.iter().map(figure).sum()
    }

    fn sessions_of_connections(&self) -> BTreeMap<(u8, u32, u32), i64> {
        let lines = self.figures.connections.iter();
        lines.map(|line| (key_of(line.connection), line.figures.session)).collect()
    }

    /// When something that says nothing more is given up: ZooKeeper rounds up to a tick.
    fn silent_until(&self, heard: Instant, timeout_ms: u64) -> Instant {
        let tick_us = u64::from(self.facts.config.tick_time_ms) * 1000;
        Instant(((heard.0 + timeout_ms * 1000) / tick_us + 1) * tick_us)
    }
}

fn put_shard(
    shard: &ShardReport,
    put: &mut impl FnMut(&str, &dyn std::fmt::Display) -> Written,
) -> Written {
    let number = shard.shard;
    let role = match shard.role {
        PeerState::Looking => "looking",
        PeerState::Following => "following",
        PeerState::Leading => "leading",
        PeerState::Observing => "observing",
    };
    put(&format!("shard_{number}_state"), &role)?;
    put(&format!("shard_{number}_leader"), &shard.leader.map_or(0, |leader| leader.0))?;
    put(&format!("shard_{number}_epoch"), &shard.current_epoch)?;
    put(&format!("shard_{number}_zxid"), &format_args!("0x{:x}", shard.zxid.0))?;
    put(&format!("shard_{number}_znode_count"), &shard.znodes)?;
    put(&format!("shard_{number}_digest"), &format_args!("{:032x}", shard.digest))
}

/// Four letters for a request's number.
fn operation_name(operation: i32) -> &'static str {
    match operation {
        -10 => "SESS",
        -11 => "CLOS",
        1 | 15 | 19 | 21 => "CREA",
        2 => "DELE",
        3 => "EXIS",
        4 => "GETD",
        5 => "SETD",
        6 => "GETA",
        7 => "SETA",
        8 | 12 => "GETC",
        9 => "SYNC",
        11 => "PING",
        13 => "CHEC",
        14 => "MULT",
        16 => "RECO",
        17 => "CHKW",
        18 => "REMW",
        22 => "MLTR",
        101 => "SETW",
        103 => "GETE",
        104 => "GETACN",
        105 => "STW2",
        106 => "ADDW",
        107 => "HOMI",
        _ => "NA",
    }
}

fn key_of(connection: ConnectionId) -> (u8, u32, u32) {
    (connection.core.0, connection.slot, connection.generation)
}

/// The kernel has the count at hand since 6.2; before, files are counted one by one.
fn open_files_count() -> u64 {
    let files = "/proc/self/fd";
    match std::fs::metadata(files).map_or(0, |data| data.len()) {
        0 => std::fs::read_dir(files).map_or(0, |entries| entries.count() as u64),
        count => count,
    }
}

/// The bytes of all files below a directory, and nothing for what cannot be looked at.
fn size_of_tree(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => size_of_tree(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(size).sum()
}
