//! From the settings of a `zoo.cfg` to a checked `ServerConfig`: bounds, rules between settings.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use pigeonhole_core::base::limits::{CORES_MAX, FRAME_BYTES_MAX};

use super::ensemble::{self, ANY_ADDRESS, Role, Server};
use super::error::ConfigError;
use super::reader::{Number, Reader, Setting};
use super::server::{ServerConfig, Whitelist};
use super::value::{HostPort, Secret, quoted};

impl ServerConfig {
    /// As `load`, with the file's text and the number of CPUs given.
    pub(super) fn from_text(
        file: &str,
        text: &str,
        overrides: &[(String, String)],
        cpus: usize,
    ) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(file, text, overrides);
        let data_dir = take_data_dir(&mut reader);
        let servers = ensemble::take_servers(&mut reader);
        let standalone_enabled = reader.switch("standaloneEnabled", TRUE_FALSE, true);
        let (id, client_address) = match &servers {
            Some(servers) => {
                let data_dir = data_dir.as_deref();
                take_place_among(&mut reader, servers, data_dir, standalone_enabled)
            }
            None => skip_place_among(&mut reader),
        };

        // Where one of these is missing, the error is noted and the value goes nowhere.
        let data_dir = data_dir.unwrap_or_default();
        let client_address = client_address.unwrap_or(HostPort::new(ANY_ADDRESS, 2181));
        let mut config = Self::with_defaults(id, data_dir, client_address);
        let lists_are_right = servers.is_some();
        config.servers = servers.unwrap_or_default();
        config.standalone_enabled = standalone_enabled;
        config.take_directories(&mut reader);
        let of_ensemble = !lists_are_right || !config.is_standalone();
        config.take_times(&mut reader, of_ensemble);
        config.take_limits(&mut reader);
        config.take_access(&mut reader);
        config.take_own(&mut reader, cpus);
        check_what_is_fixed(&mut reader);
        reader.account_for_the_rest();
        config.warnings = reader.finish()?;
        Ok(config)
    }

    fn take_directories(&mut self, reader: &mut Reader) {
        if let Some(setting) = reader.take("dataLogDir") {
            if let Some(directory) = directory(reader, "dataLogDir", &setting) {
                self.data_log_dir = directory;
            }
        } else {
            self.data_log_dir = self.data_dir.clone();
        }
        let place = reader.place_of("datadir.autocreate");
        if reader.switch("datadir.autocreate", TRUE_FALSE, true) {
            return;
        }
        let missing = [&self.data_dir, &self.data_log_dir]
            .into_iter()
            .find(|directory| !directory.as_os_str().is_empty() && !directory.is_dir());
        if let Some(missing) = missing {
            let text = format!(
                "{} does not exist, and must not be created; mount or create it",
                missing.display()
            );
            reader.error(place, "datadir.autocreate", text);
        }
    }

    fn take_times(&mut self, reader: &mut Reader, of_ensemble: bool) {
        self.tick_time_ms = reader.number(&TICK_TIME, self.tick_time_ms);
        // An ensemble has to state both, because their defaults fit no network in particular.
        if of_ensemble {
            for limit in [&INIT_LIMIT, &SYNC_LIMIT] {
                if !reader.has(limit.key) {
                    reader.missing(limit.key, &format!("{}={}", limit.key, limit.example));
                }
            }
        }
        self.init_limit_ticks = reader.number(&INIT_LIMIT, self.init_limit_ticks);
        self.sync_limit_ticks = reader.number(&SYNC_LIMIT, self.sync_limit_ticks);
        let min_given = reader.has(MIN_SESSION_TIMEOUT.key);
        let key = if min_given { MIN_SESSION_TIMEOUT.key } else { MAX_SESSION_TIMEOUT.key };
        let place = reader.place_of(key);
        let min = reader.number_or_unset(&MIN_SESSION_TIMEOUT);
        let max = reader.number_or_unset(&MAX_SESSION_TIMEOUT);
        self.session_timeout_ms_min = min.unwrap_or(2 * self.tick_time_ms);
        self.session_timeout_ms_max = max.unwrap_or(20 * self.tick_time_ms);
        if self.session_timeout_ms_min > self.session_timeout_ms_max {
            let text = format!(
                "the shortest timeout, {} ms, is above the longest, {} ms; lower \
                 minSessionTimeout, or raise maxSessionTimeout",
                self.session_timeout_ms_min, self.session_timeout_ms_max
            );
            reader.error(place, key, text);
        }
    }

    fn take_limits(&mut self, reader: &mut Reader) {
        let default = self.connections_per_address_max;
        self.connections_per_address_max = reader.limit(&MAX_CLIENT_CNXNS, default);
        self.connections_max = reader.limit(&MAX_CNXNS, self.connections_max);
        self.client_listen_backlog = reader.number_or_unset(&LISTEN_BACKLOG);
        self.quorum_listen_on_all_ips = reader.switch("quorumListenOnAllIPs", TRUE_FALSE, false);
        self.outstanding_requests_max =
            reader.number(&OUTSTANDING_LIMIT, self.outstanding_requests_max);
        self.request_bytes_max = take_request_bytes(reader).unwrap_or(self.request_bytes_max);
        // ZooKeeper makes two of one as well.
        self.snapshot_transactions =
            reader.number(&SNAP_COUNT, self.snapshot_transactions).max(SNAP_COUNT_MIN);
    }

    fn take_access(&mut self, reader: &mut Reader) {
        self.four_letter_words = take_whitelist(reader);
        self.super_digest = take_super_digest(reader);
        let key = "DigestAuthenticationProvider.digestAlg";
        if let Some(setting) = reader.take(key)
            && !["SHA1", "SHA-1"].iter().any(|sha1| sha1.eq_ignore_ascii_case(&setting.value))
        {
            let text = format!("{} is not supported; write {key}=SHA1", quoted(&setting.value));
            reader.error(setting.place, key, text);
        }
        let place = reader.place_of("skipACL");
        self.skip_acl = reader.switch("skipACL", YES_NO, false);
        if self.skip_acl {
            let text = "access control lists are not checked: everybody is a superuser";
            reader.warn(place, "skipACL", text);
        }
    }

    fn take_own(&mut self, reader: &mut Reader, cpus: usize) {
        self.shards = reader.number(&SHARDS, self.shards);
        let place = reader.place_of(CORES.key);
        self.cores = reader.number(&CORES, default_cores(cpus));
        if usize::from(self.cores) > cpus {
            let text = format!("this process may use {cpus} CPUs; threads will share them");
            reader.warn(place, CORES.key, text);
        }
        self.pin = reader.switch("pigeonhole.pin", ["on", "off"], self.pin);
        self.log_bytes_max = reader.bytes(&LOG_BYTES_MAX, self.log_bytes_max);
        self.direct_io = reader.switch("pigeonhole.directIO", TRUE_FALSE, self.direct_io);
        self.strict_tail = reader.switch("pigeonhole.strictTail", TRUE_FALSE, self.strict_tail);
        if let Some(setting) = reader.take("pigeonhole.cluster") {
            match setting.value.parse() {
                Ok(cluster) => self.cluster = Some(cluster),
                Err(text) => reader.error(setting.place, "pigeonhole.cluster", text),
            }
        }
        let heartbeat = reader.place_of(PEER_HEARTBEAT.key);
        let silence = reader.has(PEER_SILENCE.key).then(|| reader.place_of(PEER_SILENCE.key));
        self.peer_heartbeat_ms = reader.number(&PEER_HEARTBEAT, self.peer_heartbeat_ms);
        self.peer_silence_ms = reader.number(&PEER_SILENCE, self.peer_silence_ms);
        let silence_ms_min = HEARTBEATS_PER_SILENCE_MIN * self.peer_heartbeat_ms;
        if self.peer_silence_ms < silence_ms_min {
            let text = format!(
                "{} ms is less than {HEARTBEATS_PER_SILENCE_MIN} heartbeats, and one late message \
                 would end a leadership; write at least {}={silence_ms_min}",
                self.peer_silence_ms, PEER_SILENCE.key
            );
            reader.error(silence.unwrap_or(heartbeat), PEER_SILENCE.key, text);
        }
    }
}

/// One core on a small machine, where clients need the others; half of a large one.
pub(super) fn default_cores(cpus: usize) -> u16 {
    let cores = if cpus <= 4 { 1 } else { cpus / 2 };
    u16::try_from(cores).unwrap_or(u16::MAX).min(CORES_MAX.into())
}

fn take_data_dir(reader: &mut Reader) -> Option<PathBuf> {
    let Some(setting) = reader.take("dataDir") else {
        reader.missing("dataDir", "dataDir=/var/lib/zookeeper");
        return None;
    };
    directory(reader, "dataDir", &setting)
}

/// Checks that a directory exists or could be created; the start creates it.
fn directory(reader: &mut Reader, key: &str, setting: &Setting) -> Option<PathBuf> {
    let place = setting.place.clone();
    if setting.value.is_empty() {
        reader.error(place, key, format!("names no directory; write {key}=/var/lib/zookeeper"));
        return None;
    }
    let path = PathBuf::from(&setting.value);
    let existing = path.ancestors().find(|ancestor| ancestor.exists());
    if let Some(existing) = existing.filter(|existing| !existing.is_dir()) {
        let text = format!("{} is not a directory; name another", existing.display());
        reader.error(place, key, text);
        return None;
    }
    if path.is_relative() {
        let text = "is relative to the directory in which the server is started";
        reader.warn(place, key, text);
    }
    Some(path)
}

/// Takes what depends on which of the servers this one is: its id and its client address.
fn take_place_among(
    reader: &mut Reader,
    servers: &[Server],
    data_dir: Option<&Path>,
    standalone_enabled: bool,
) -> (u8, Option<HostPort>) {
    ensemble::check_voters(reader, servers);
    let id = ensemble::own_id(reader, data_dir, servers, standalone_enabled);
    let own = servers.iter().find(|server| server.id == id);
    check_peer_type(reader, own);
    let place = reader.place_of(CLIENT_PORT.key);
    let client = take_client_address(reader, own);
    // Where both are in the server's line, they have been compared already.
    let own = own.filter(|own| servers.len() > 1 && own.client.is_none());
    if let (Some(own), Some(client)) = (own, &client)
        && own.peer.port == client.port
        && [ANY_ADDRESS, "::", &own.peer.host].contains(&client.host.as_str())
    {
        let text =
            format!("{} is the quorum port of server.{id}, too; choose another", client.port);
        reader.error(place, CLIENT_PORT.key, text);
    }
    (id, client)
}

/// Takes the same settings when the list of servers is wrong, and judges them only by themselves.
fn skip_place_among(reader: &mut Reader) -> (u8, Option<HostPort>) {
    reader.optional_number(&CLIENT_PORT);
    for key in ["clientPortAddress", "secureClientPort", "peerType"] {
        reader.take(key);
    }
    (ensemble::STANDALONE_ID, None)
}

/// Brings together `clientPort`, `clientPortAddress` and the semicolon of the own server line.
fn take_client_address(reader: &mut Reader, own: Option<&Server>) -> Option<HostPort> {
    let secure = reader.take("secureClientPort");
    let port_given = reader.has(CLIENT_PORT.key);
    let place = reader.place_of(CLIENT_PORT.key);
    let port = reader.optional_number(&CLIENT_PORT);
    let mut host = reader.take("clientPortAddress");
    if let Some(host) = &mut host {
        // As Java takes it.
        let inner = host.value.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        if let Some(address) = inner.filter(|inner| inner.parse::<Ipv6Addr>().is_ok()) {
            host.value = address.to_owned();
        }
    }
    let listed = own.and_then(|server| server.client.as_ref());
    if let Some(secure) = secure {
        if port_given || listed.is_some() {
            let text = "TLS is not supported; this port is not opened, clientPort is";
            reader.warn(secure.place, "secureClientPort", text);
        } else {
            let text = "TLS is not supported, and clients would talk in the clear; if they may, \
                        write clientPort=2181 in its place";
            reader.error(secure.place, "secureClientPort", text);
            return None;
        }
    }
    if let Some(host) = host.as_ref().filter(|host| !ensemble::is_host(&host.value)) {
        let text = format!(
            "{} is not a host name or address; write for example clientPortAddress=127.0.0.1",
            quoted(&host.value)
        );
        reader.error(host.place.clone(), "clientPortAddress", text);
        return None;
    }
    let differing = listed.filter(|listed| Some(listed.port) != port);
    if let (Some(port), Some(listed)) = (port, differing) {
        let text = format!("is {port}, but this server's own line says {}; keep one", listed.port);
        reader.error(place, CLIENT_PORT.key, text);
        return None;
    }
    let Some(port) = port.or(listed.map(|listed| listed.port)) else {
        if !port_given {
            reader.missing(CLIENT_PORT.key, "clientPort=2181");
        }
        return None;
    };
    let of_line = listed.map(|listed| listed.host.as_str()).filter(|&host| host != ANY_ADDRESS);
    match (host, of_line) {
        (Some(host), Some(of_line)) if host.value != of_line => {
            let text = format!("is {}, but this server's own line says {of_line}", host.value);
            reader.error(host.place, "clientPortAddress", text + "; keep one");
            None
        }
        (Some(host), _) => Some(HostPort::new(&host.value, port)),
        (None, of_line) => Some(HostPort::new(of_line.unwrap_or(ANY_ADDRESS), port)),
    }
}

/// The server list wins over `peerType`, as it does in ZooKeeper.
fn check_peer_type(reader: &mut Reader, own: Option<&Server>) {
    let Some(setting) = reader.take("peerType") else {
        return;
    };
    let role = match setting.value.to_ascii_lowercase().as_str() {
        "participant" => Role::Participant,
        "observer" => Role::Observer,
        _ => {
            let shown = quoted(&setting.value);
            let text = format!("{shown} is neither participant nor observer; remove the line");
            reader.error(setting.place, "peerType", text);
            return;
        }
    };
    match own {
        Some(own) if own.role == role => {}
        Some(own) => {
            let text = format!("has no effect: server.{} says otherwise, and counts", own.id);
            reader.warn(setting.place, "peerType", text);
        }
        None if role == Role::Observer => {
            let text = "a standalone server has nobody to observe; list the servers as server.N, \
                        or remove the line";
            reader.error(setting.place, "peerType", text);
        }
        None => {}
    }
}

/// Who has raised it has larger requests, and should know before the first of them is refused.
fn take_request_bytes(reader: &mut Reader) -> Option<u32> {
    let setting = reader.take(MAX_BUFFER.key)?;
    let bytes = reader.parse_number(&MAX_BUFFER, &setting)?;
    let most = u32::try_from(FRAME_BYTES_MAX).expect("about a megabyte");
    if bytes > most {
        let text = format!("longer requests than {most} bytes are refused all the same");
        reader.warn(setting.place, MAX_BUFFER.key, text);
    }
    Some(bytes.min(most))
}

fn take_whitelist(reader: &mut Reader) -> Whitelist {
    let key = "4lw.commands.whitelist";
    let mut words = vec!["srvr".to_owned()];
    let Some(setting) = reader.take(key) else {
        return Whitelist::Only(words);
    };
    for word in setting.value.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        if word == "*" {
            return Whitelist::All;
        }
        if !FOUR_LETTER_WORDS.contains(&word) {
            let text = format!("{} is not a four-letter word of ZooKeeper's", quoted(word));
            reader.warn(setting.place.clone(), key, text);
        } else if !words.iter().any(|known| known == word) {
            words.push(word.to_owned());
        }
    }
    Whitelist::Only(words)
}

/// The value is not shown, whatever is wrong with it.
fn take_super_digest(reader: &mut Reader) -> Option<Secret> {
    let key = "DigestAuthenticationProvider.superDigest";
    let setting = reader.take(key)?;
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    let (user, digest) = setting.value.split_once(':').unwrap_or_default();
    if user.is_empty() || digest.len() != SHA1_BASE64_BYTES || !digest.bytes().all(is_base64) {
        let text = "is not a user, a colon and the base64 of a SHA-1; write super: and the output \
                    of: printf super:PASSWORD | openssl sha1 -binary | base64";
        reader.error(setting.place, key, text);
        return None;
    }
    Some(Secret::new(setting.value))
}

/// Settings that are checked, because a user relies on them, and that choose nothing here.
fn check_what_is_fixed(reader: &mut Reader) {
    let place = reader.place_of("forceSync");
    if !reader.switch("forceSync", YES_NO, true) {
        let text = "durability is not optional: an acknowledged write is on disk; write \
                    forceSync=yes, or remove the line";
        reader.error(place, "forceSync", text);
    }
    if let Some(setting) = reader.take("electionAlg").filter(|setting| setting.value != "3") {
        let shown = quoted(&setting.value);
        let text = format!("{shown} is not supported; write electionAlg=3, or remove the line");
        reader.error(setting.place, "electionAlg", text);
    }
    let place = reader.place_of(PRE_ALLOC_SIZE.key);
    if reader.optional_number(&PRE_ALLOC_SIZE).is_some_and(|kib| kib != 64 << 10) {
        reader.warn(place, PRE_ALLOC_SIZE.key, "segments of the log are 64 MiB; it has no effect");
    }
    let place = reader.place_of(PURGE_INTERVAL.key);
    if reader.optional_number(&PURGE_INTERVAL) == Some(0) {
        let text = "old files are purged in any case; pigeonhole.logBytesMax bounds the log";
        reader.warn(place, PURGE_INTERVAL.key, text);
    }
    let place = reader.place_of(SNAP_RETAIN_COUNT.key);
    if reader.optional_number(&SNAP_RETAIN_COUNT).is_some() {
        let text = "two verified snapshots of each shard are kept; it has no effect";
        reader.warn(place, SNAP_RETAIN_COUNT.key, text);
    }
}

const TRUE_FALSE: [&str; 2] = ["true", "false"];
const YES_NO: [&str; 2] = ["yes", "no"];

const fn number<T>(
    key: &'static str,
    unit: &'static str,
    [least, greatest]: [T; 2],
    example: T,
) -> Number<T>
where
    T: Copy,
{
    Number { key, unit, range: least..=greatest, example }
}

const DAY_MS: u32 = 24 * 60 * 60 * 1000;
const TICK_TIME: Number<u32> = number("tickTime", "milliseconds", [1, 600_000], 2000);
const INIT_LIMIT: Number<u32> = number("initLimit", "ticks", [1, 1_000_000], 10);
const SYNC_LIMIT: Number<u32> = number("syncLimit", "ticks", [1, 1_000_000], 5);
const MIN_SESSION_TIMEOUT: Number<u32> =
    number("minSessionTimeout", "milliseconds", [1, DAY_MS], 4000);
const MAX_SESSION_TIMEOUT: Number<u32> =
    number("maxSessionTimeout", "milliseconds", [1, DAY_MS], 40_000);
const CLIENT_PORT: Number<u16> = number("clientPort", "", [1, u16::MAX], 2181);
const LISTEN_BACKLOG: Number<u32> =
    number("clientPortListenBacklog", "connections", [1, 65_535], 4096);
const MAX_CLIENT_CNXNS: Number<u32> =
    number("maxClientCnxns", "connections (0 for no limit)", [0, 10_000_000], 60);
const MAX_CNXNS: Number<u32> =
    number("maxCnxns", "connections (0 for no limit)", [0, 10_000_000], 10_000);
const OUTSTANDING_LIMIT: Number<u32> =
    number("globalOutstandingLimit", "requests", [1, 10_000_000], 1000);
const SNAP_COUNT: Number<u32> = number("snapCount", "transactions", [1, i32::MAX as u32], 100_000);
const SNAP_COUNT_MIN: u32 = 2;
const PRE_ALLOC_SIZE: Number<u32> = number("preAllocSize", "KiB", [1, i32::MAX as u32], 65_536);
const PURGE_INTERVAL: Number<u32> =
    number("autopurge.purgeInterval", "hours", [0, i32::MAX as u32], 1);
const SNAP_RETAIN_COUNT: Number<u32> =
    number("autopurge.snapRetainCount", "snapshots", [0, i32::MAX as u32], 3);
/// As far as anybody has set it for ZooKeeper.
const MAX_BUFFER: Number<u32> = number("jute.maxbuffer", "bytes", [1 << 10, 32 << 20], 0xf_ffff);
pub(super) const SHARDS: Number<u16> = number("pigeonhole.shards", "shards", [1, 1024], 8);
const CORES: Number<u16> = number("pigeonhole.cores", "cores", [1, CORES_MAX as u16], 1);
/// Below four segments, every shard would be snapshotted all the time.
const LOG_BYTES_MAX: Number<u64> =
    number("pigeonhole.logBytesMax", "bytes", [256 << 20, 16 << 40], 1 << 30);
const PEER_HEARTBEAT: Number<u32> =
    number("pigeonhole.peerHeartbeatMs", "milliseconds", [1, 10_000], 50);
const PEER_SILENCE: Number<u32> =
    number("pigeonhole.peerSilenceMs", "milliseconds", [1, 60_000], 400);
const HEARTBEATS_PER_SILENCE_MIN: u32 = 2;

/// Twenty bytes of SHA-1 in base64, padded.
const SHA1_BASE64_BYTES: usize = 28;

const FOUR_LETTER_WORDS: &[&str] = &[
    "conf", "cons", "crst", "dirs", "dump", "envi", "gtmk", "hash", "isro", "mntr", "ruok", "srst",
    "srvr", "stat", "stmk", "wchc", "wchp", "wchs",
];
