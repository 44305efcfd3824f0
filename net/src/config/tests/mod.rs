//! Whole files, and exactly what is said about them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::settings::default_cores;
use super::*;

mod examples;
mod said;

use examples::{DEBIAN, EVERY_SETTING, KAZOO, KAZOO_WARNINGS};
use said::{WARNINGS, WRONG_SERVERS, WRONG_VALUES};

/// A data directory of a test's own, removed with it.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pigeonhole-config-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self { path }
    }

    fn with_id(id: &str) -> Self {
        let scratch = Self::new();
        scratch.write("myid", id);
        scratch
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Reads a text in which `{data}` is this directory, on a machine of two CPUs.
    fn read(&self, text: &str, overrides: &[(&str, &str)]) -> Result<ServerConfig, ConfigError> {
        let overrides: Vec<(String, String)> =
            overrides.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        ServerConfig::from_text("zoo.cfg", &self.named(text), &overrides, 2)
    }

    fn named(&self, text: &str) -> String {
        text.replace("{data}", self.path.to_str().unwrap())
    }

    fn errors(&self, text: &str) -> String {
        let error = self.read(text, &[]).expect_err(text);
        error.to_string().replace(self.path.to_str().unwrap(), "{data}")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn warnings(config: &ServerConfig) -> Vec<String> {
    config.warnings.iter().map(Finding::to_string).collect()
}

const STANDALONE: &str = "dataDir={data}\nclientPort=2181\n";
const THREE: &str = "dataDir={data}\nclientPort=2181\ninitLimit=10\nsyncLimit=5\n\
    server.1=zk1:2888:3888\nserver.2=zk2:2888:3888\nserver.3=zk3:2888:3888\n";

#[test]
fn the_shortest_file_is_a_standalone_server_with_zookeepers_defaults() {
    let scratch = Scratch::new();
    let config = scratch.read(STANDALONE, &[]).unwrap();
    assert_eq!(
        config,
        ServerConfig {
            id: 1,
            servers: Vec::new(),
            client_address: HostPort::new("0.0.0.0", 2181),
            client_listen_backlog: None,
            quorum_listen_on_all_ips: false,
            data_dir: scratch.path.clone(),
            data_log_dir: scratch.path.clone(),
            tick_time_ms: 3000,
            init_limit_ticks: 10,
            sync_limit_ticks: 5,
            session_timeout_ms_min: 6000,
            session_timeout_ms_max: 60_000,
            connections_per_address_max: Some(60),
            connections_max: None,
            outstanding_requests_max: 1000,
            request_bytes_max: 1_048_575,
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
    );
    assert!(config.is_standalone());
    assert_eq!((config.voters(), config.observers()), (vec![1], vec![]));
    assert_eq!(Scratch::with_id("7\n").read(STANDALONE, &[]).unwrap().voters(), [7]);
}

fn server(id: u8, host: &str, role: Role, client: Option<HostPort>) -> Server {
    Server { id, peer: HostPort::new(host, 2888), election_port: 3888, role, client }
}

#[test]
fn every_setting_arrives() {
    let scratch = Scratch::with_id("2\n");
    let config = scratch.read(EVERY_SETTING, &[]).unwrap();
    assert_eq!(
        config,
        ServerConfig {
            id: 2,
            servers: vec![
                server(1, "::1", Role::Participant, Some(HostPort::new("::1", 2181))),
                server(2, "b.example", Role::Observer, Some(HostPort::new("0.0.0.0", 2182))),
                server(254, "c.example", Role::Participant, None),
            ],
            client_address: HostPort::new("127.0.0.1", 2182),
            client_listen_backlog: Some(128),
            quorum_listen_on_all_ips: true,
            data_dir: scratch.path.clone(),
            data_log_dir: scratch.path.join("log"),
            tick_time_ms: 2000,
            init_limit_ticks: 4,
            sync_limit_ticks: 2,
            session_timeout_ms_min: 1000,
            session_timeout_ms_max: 90_000,
            connections_per_address_max: None,
            connections_max: Some(500),
            outstanding_requests_max: 2000,
            request_bytes_max: 512 << 10,
            snapshot_transactions: 500,
            four_letter_words: Whitelist::Only(
                ["srvr", "mntr", "ruok"].map(str::to_owned).to_vec()
            ),
            super_digest: Some(Secret::new("super:D/InIHSb7yEEbrWz8b9l71RjZJU=".to_owned())),
            skip_acl: false,
            standalone_enabled: true,
            shards: 1024,
            cores: 2,
            pin: false,
            log_bytes_max: 512 << 20,
            cluster: ClusterId::new(0x00c0_ffee_0000_0000_0000_0000_0000_000a),
            direct_io: false,
            strict_tail: true,
            peer_heartbeat_ms: 20,
            peer_silence_ms: 200,
            warnings: vec![Finding::new(
                Place::file("zoo.cfg"),
                "2 participants outlive no more failures than 1 do; an odd number is usual",
            )],
        }
    );
    assert_eq!((config.voters(), config.observers()), (vec![1, 254], vec![2]));
    assert!(!format!("{config:?}").contains("InIHSb"), "the digest is shown");
}

#[test]
fn the_client_port_may_stand_behind_the_semicolon() {
    let scratch = Scratch::with_id("1");
    let table = [
        ("server.1=zk1:2888:3888;2181", "0.0.0.0:2181"),
        ("server.1=zk1:2888:3888;10.0.0.1:2181", "10.0.0.1:2181"),
        ("server.1=zk1:2888:3888;[fe80::1]:2181", "[fe80::1]:2181"),
        ("server.1=zk1:2888:3888 ; 2181", "0.0.0.0:2181"),
        ("server.1=zk1:2888:3888;2181\nclientPort=2181\nclientPortAddress=::1", "[::1]:2181"),
        ("server.1=zk1:2888:3888;2181\nclientPortAddress=[::1]", "[::1]:2181"),
    ];
    for (lines, expected) in table {
        let text = format!("dataDir={{data}}\ninitLimit=10\nsyncLimit=5\n{lines}\n");
        let config = scratch.read(&text, &[]).unwrap();
        assert_eq!(config.client_address.to_string(), expected, "{lines}");
    }
}

#[test]
fn debians_example_is_read_without_a_remark() {
    let scratch = Scratch::new();
    let config = scratch.read(DEBIAN, &[]).unwrap();
    assert_eq!(warnings(&config), [""; 0]);
    assert_eq!((config.tick_time_ms, config.init_limit_ticks), (2000, 10));
    assert_eq!((config.session_timeout_ms_min, config.session_timeout_ms_max), (4000, 40_000));

    let busy = DEBIAN
        .replace("#maxClientCnxns", "maxClientCnxns")
        .replace("#autopurge", "autopurge")
        .replace("#metricsProvider", "metricsProvider")
        .replace("dataDir={", "server.1=zookeeper1:2888:3888\ndataDir={");
    std::fs::write(scratch.path.join("myid"), "1\n").unwrap();
    let config = scratch.read(&busy, &[]).unwrap();
    let metrics = "metrics providers are not loaded; `mntr` has the metrics";
    assert_eq!(warnings(&config), [
        "zoo.cfg:26: autopurge.snapRetainCount: two verified snapshots of each shard are kept; \
         it has no effect"
            .to_owned(),
        format!("zoo.cfg:34: metricsProvider.className: {metrics}"),
        format!("zoo.cfg:35: metricsProvider.httpHost: {metrics}"),
        format!("zoo.cfg:36: metricsProvider.httpPort: {metrics}"),
        format!("zoo.cfg:37: metricsProvider.exportJvmInfo: {metrics}"),
    ]);
}

#[test]
fn kazoos_harness_starts_this_server() {
    let scratch = Scratch::with_id("2");
    let overrides = [
        ("file.encoding", "UTF-8"),
        ("readonlymode.enabled", "true"),
        ("zookeeper.log.dir", "/tmp/x/log"),
        ("zookeeper.root.logger", "INFO,CONSOLE"),
        ("log4j.configuration", "file:/tmp/x/log4j.properties"),
        ("java.awt.headless", "true"),
        ("java.security.auth.login.config", "/tmp/x/jaas.conf"),
        (
            "zookeeper.DigestAuthenticationProvider.superDigest",
            "super:D/InIHSb7yEEbrWz8b9l71RjZJU=",
        ),
    ];
    let config = scratch.read(KAZOO, &overrides).unwrap();
    assert_eq!(config.id, 2);
    assert_eq!(config.client_address, HostPort::new("0.0.0.0", 20010));
    assert_eq!(config.connections_per_address_max, None);
    assert_eq!(config.four_letter_words, Whitelist::All);
    assert_eq!(config.super_digest.unwrap().expose(), "super:D/InIHSb7yEEbrWz8b9l71RjZJU=");
    assert_eq!(config.servers.len(), 3);
    assert_eq!(config.servers[1].peer, HostPort::new("localhost", 20012));
    let said: Vec<String> = config.warnings.iter().map(Finding::to_string).collect();
    assert_eq!(said, KAZOO_WARNINGS);
}

#[test]
fn a_dynamic_file_lists_the_servers() {
    let scratch = Scratch::with_id("2");
    let text = "dataDir={data}\ninitLimit=10\nsyncLimit=5\nreconfigEnabled=false\n\
                dynamicConfigFile={data}/zoo.cfg.dynamic\n";
    let dynamic = "server.1=zk1:2888:3888:participant;0.0.0.0:2181\n\
                   server.2=zk2:2888:3888:participant;0.0.0.0:2182\n\
                   server.3=zk3:2888:3888:participant;0.0.0.0:2183\nversion=100000000\n";
    scratch.write("zoo.cfg.dynamic", dynamic);
    let config = scratch.read(text, &[]).unwrap();
    assert_eq!(config.voters(), [1, 2, 3]);
    assert_eq!(config.client_address, HostPort::new("0.0.0.0", 2182));
    assert_eq!(warnings(&config), [""; 0]);

    scratch.write("zoo.cfg.dynamic", format!("{dynamic}tickTime=5\nserver.3=zk3:x:1\n"));
    assert_eq!(
        scratch.errors(&format!("{text}server.4=zk4:2888:3888\nclientPort=2182")),
        "zoo.cfg:6: server.4: stands beside dynamicConfigFile; move it to \
         {data}/zoo.cfg.dynamic\n\
         {data}/zoo.cfg.dynamic:5: tickTime: does not belong in this file; move it to \
         zoo.cfg\n\
         {data}/zoo.cfg.dynamic:6: server.3: is already given at \
         {data}/zoo.cfg.dynamic:3; give each server its own\n\
         {data}/zoo.cfg.dynamic:6: server.3: \"x\" is no quorum port from 1 to 65535; write \
         for example server.3=host:2888:3888"
    );
    std::fs::remove_file(scratch.path.join("zoo.cfg.dynamic")).unwrap();
    assert_eq!(
        scratch.errors(&format!("{text}clientPort=2182")),
        "zoo.cfg:5: dynamicConfigFile: names no readable file with the servers; correct it, or \
         remove it\n\
         {data}/zoo.cfg.dynamic: there is no such file; check the path"
    );
}

/// As in ZooKeeper, for whom others write such files.
#[test]
fn a_server_that_is_listed_alone_is_standalone() {
    let scratch = Scratch::new();
    let text = "dataDir={data}\nclientPort=2181\nserver.4=localhost:2888:3888\n";
    let config = scratch.read(text, &[]).unwrap();
    assert!(config.is_standalone());
    assert_eq!((config.id, config.voters()), (4, vec![4]));
    let error = scratch.read(text, &[("standaloneEnabled", "false")]).unwrap_err().to_string();
    for key in ["initLimit", "syncLimit", "myid"] {
        assert!(error.contains(key), "{error}");
    }
}

#[test]
fn the_command_line_wins() {
    let scratch = Scratch::new();
    let overrides = [("tickTime", " 1000 "), ("zookeeper.pigeonhole.shards", "8"), ("x", "y")];
    let text = format!("{STANDALONE}tickTime=ten\nzookeeper.pigeonhole.cores=2\n");
    let config = scratch.read(&text, &overrides).unwrap();
    assert_eq!((config.tick_time_ms, config.shards, config.cores), (1000, 8, 2));
    assert_eq!(warnings(&config), ["command line: x: unknown key; it has no effect"]);
    let error = scratch.read(STANDALONE, &[("clientPort", "0")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "command line: clientPort: 0 is not from 1 to 65535; write for example clientPort=2181"
    );
}

#[test]
fn every_wrong_value_is_explained() {
    let scratch = Scratch::new();
    for (line, expected) in WRONG_VALUES {
        let expected: Vec<String> =
            expected.iter().map(|expected| format!("zoo.cfg:3: {expected}")).collect();
        assert_eq!(scratch.errors(&format!("{STANDALONE}{line}\n")), expected.join("\n"), "{line}");
    }
}

#[test]
fn every_wrong_server_line_is_explained() {
    let scratch = Scratch::with_id("1");
    for (line, expected) in WRONG_SERVERS {
        let text = format!("{THREE}{line}\n");
        assert_eq!(scratch.errors(&text), format!("zoo.cfg:8: {expected}"), "{line}");
    }
}

#[test]
fn every_warning_is_one_line() {
    let scratch = Scratch::with_id("1");
    for (line, expected) in WARNINGS {
        let config = scratch.read(&format!("{THREE}{line}\n"), &[]).expect(line);
        let expected: Vec<String> =
            expected.iter().map(|expected| format!("zoo.cfg:8: {expected}")).collect();
        assert_eq!(warnings(&config), expected, "{line}");
    }
}

#[test]
fn what_is_missing_is_named_with_the_line_to_add() {
    let scratch = Scratch::with_id("1");
    assert_eq!(
        scratch.errors(""),
        "zoo.cfg: dataDir: is missing; add a line such as dataDir=/var/lib/zookeeper\n\
         zoo.cfg: clientPort: is missing; add a line such as clientPort=2181"
    );
    assert_eq!(
        scratch.errors("dataDir={data}\nserver.1=zk1:2888:3888\nserver.2=zk2:2888:3888\n"),
        "zoo.cfg: clientPort: is missing; add a line such as clientPort=2181\n\
         zoo.cfg: initLimit: is missing; add a line such as initLimit=10\n\
         zoo.cfg: syncLimit: is missing; add a line such as syncLimit=5"
    );
    assert_eq!(
        scratch.errors("dataDir={data}\nclientPort=1\nsyncLimit=5\nserver.x=y\nfoo"),
        "zoo.cfg:4: server.x: \"x\" is not a server id; write a whole number from 1 to 254, as \
         in server.1=host:2888:3888\n\
         zoo.cfg: initLimit: is missing; add a line such as initLimit=10"
    );
    assert_eq!(
        scratch.errors("dataDir={data}\nclientPortAddress=::1\n"),
        "zoo.cfg: clientPort: is missing; add a line such as clientPort=2181"
    );
    assert_eq!(
        scratch.errors("dataDir={data}\nsecureClientPort=2281\n"),
        "zoo.cfg:2: secureClientPort: TLS is not supported, and clients would talk in the clear; \
         if they may, write clientPort=2181 in its place"
    );
}

#[test]
fn the_client_port_and_the_own_line_must_agree() {
    let scratch = Scratch::with_id("1");
    let text = "dataDir={data}\ninitLimit=10\nsyncLimit=5\nserver.1=zk1:2888:3888;[::1]:2181\n";
    assert_eq!(
        scratch.errors(&format!("{text}clientPort=2182")),
        "zoo.cfg:5: clientPort: is 2182, but this server's own line says 2181; keep one"
    );
    assert_eq!(
        scratch.errors(&format!("{text}clientPortAddress=::2")),
        "zoo.cfg:5: clientPortAddress: is ::2, but this server's own line says ::1; keep one"
    );
}

#[test]
fn the_client_port_is_no_port_for_peers() {
    let scratch = Scratch::with_id("1");
    let text = "dataDir={data}\ninitLimit=10\nsyncLimit=5\nserver.1=zk1:2888:3888\n\
                server.2=zk2:2888:3888\nserver.3=zk3:2888:3888\nclientPort=2888\n";
    assert_eq!(
        scratch.errors(text),
        "zoo.cfg:7: clientPort: 2888 is the quorum port of server.1, too; choose another"
    );
    let elsewhere = scratch.read(&format!("{text}clientPortAddress=10.0.0.1\n"), &[]).unwrap();
    assert_eq!(elsewhere.client_address.to_string(), "10.0.0.1:2888");
}

#[test]
fn observers_alone_are_no_ensemble() {
    let scratch = Scratch::with_id("1");
    let text = THREE.replace(":3888", ":3888:observer");
    assert_eq!(
        scratch.errors(&text),
        "zoo.cfg: server.N: every server is an observer, and nobody could lead; make at least one \
         a participant, as in server.1=host:2888:3888:participant"
    );
}

#[test]
fn all_problems_are_reported_in_the_order_of_the_file() {
    let scratch = Scratch::new();
    assert_eq!(
        scratch.errors(
            "tickTime=fast\n\
             maxSessionTimeout=-5\n\
             \n\
             initLimit=ten\n\
             a=\\u12\n\
             =x\n\
             sslQuorum=true\n\
             server.1=zk1:2888\n\
             pigeonhole.shard=4\n"
        ),
        "zoo.cfg:1: tickTime: \"fast\" is not a whole number of milliseconds; write for example \
         tickTime=2000\n\
         zoo.cfg:2: maxSessionTimeout: -5 is not from 1 to 86400000 milliseconds; write for \
         example maxSessionTimeout=40000\n\
         zoo.cfg:4: initLimit: \"ten\" is not a whole number of ticks; write for example \
         initLimit=10\n\
         zoo.cfg:5: \"\\\\u12\" is not a character; write \\u and the four hex digits of one, or \
         double the backslash\n\
         zoo.cfg:6: there is no key before the value; write key=value\n\
         zoo.cfg:7: sslQuorum: TLS between servers is not supported, and they would talk in the \
         clear; remove it, and keep the peer ports on a private network\n\
         zoo.cfg:8: server.1: \"zk1:2888\" has no election port; write for example \
         server.1=host:2888:3888\n\
         zoo.cfg:9: pigeonhole.shard: unknown key; did you mean pigeonhole.shards?\n\
         zoo.cfg: dataDir: is missing; add a line such as dataDir=/var/lib/zookeeper\n\
         zoo.cfg: syncLimit: is missing; add a line such as syncLimit=5"
    );
}

#[test]
fn myid_says_which_server_this_is() {
    let table = [
        ("", "\"\" is not a server id; write a whole number from 1 to 254, in the first line"),
        (
            "one",
            "\"one\" is not a server id; write a whole number from 1 to 254, in the first line",
        ),
        (
            "255\n",
            "\"255\" is not a server id; write a whole number from 1 to 254, in the first line",
        ),
        ("0\n", "\"0\" is not a server id; write a whole number from 1 to 254, in the first line"),
        (
            "4\n",
            "4 is not among the servers of zoo.cfg, which are 1, 2, 3; write one of these, or add \
             a line such as server.4=host:2888:3888",
        ),
    ];
    for (text, expected) in table {
        let scratch = Scratch::with_id(text);
        assert_eq!(scratch.errors(THREE), format!("{{data}}/myid: {expected}"));
    }
    for text in ["3", "3\n", " 3 \r\n", "3\na comment of somebody's\n"] {
        assert_eq!(Scratch::with_id(text).read(THREE, &[]).unwrap().id, 3, "{text:?}");
    }
    assert_eq!(
        Scratch::new().errors(THREE),
        "{data}/myid: there is no such file; write the number of this server into it, for \
         example with: echo 1 > {data}/myid"
    );
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path.join("myid")).unwrap();
    assert_eq!(
        scratch.errors(STANDALONE),
        "{data}/myid: cannot be read: Is a directory (os error 21)"
    );
}

#[test]
fn directories_may_be_missing_but_not_be_files() {
    let scratch = Scratch::new();
    scratch.write("file", "");
    let missing = "dataDir={data}/a/b\nclientPort=2181\n";
    let config = scratch.read(missing, &[]).unwrap();
    assert_eq!(config.data_dir, scratch.path.join("a/b"));
    assert!(!scratch.path.join("a").exists(), "reading a configuration creates nothing");
    assert_eq!(
        scratch.errors("dataDir={data}/file/b\nclientPort=2181\ndataLogDir={data}/file"),
        "zoo.cfg:1: dataDir: {data}/file is not a directory; name another\n\
         zoo.cfg:3: dataLogDir: {data}/file is not a directory; name another"
    );
    assert_eq!(
        scratch.errors(&format!("{missing}datadir.autocreate=false")),
        "zoo.cfg:3: datadir.autocreate: {data}/a/b does not exist, and must not be created; \
         mount or create it"
    );
    assert_eq!(
        scratch.errors("dataDir=\nclientPort=2181"),
        "zoo.cfg:1: dataDir: names no directory; write dataDir=/var/lib/zookeeper"
    );
}

#[test]
fn a_file_that_is_none_is_explained() {
    let scratch = Scratch::new();
    let huge = "#".repeat((1 << 20) + 1);
    let table: [(PathBuf, &str); 4] = [
        (
            scratch.path.join("absent.cfg"),
            "{data}/absent.cfg: there is no such file; check the path",
        ),
        (
            scratch.path.clone(),
            "{data}: is a directory; name the file in it, for example {data}/zoo.cfg",
        ),
        (
            scratch.write("latin1.cfg", b"tickTime=2000\n# caf\xe9\n"),
            "{data}/latin1.cfg:2: is not UTF-8; save the file as UTF-8, or write the character \
             as \\uXXXX",
        ),
        (
            scratch.write("huge.cfg", huge),
            "{data}/huge.cfg: is larger than 1024 KiB; name a zoo.cfg, which has some ten lines",
        ),
    ];
    for (path, expected) in table {
        let error = ServerConfig::load(&path, &[]).unwrap_err();
        assert_eq!(error.to_string(), scratch.named(expected));
    }
    let path = scratch.write("zoo.cfg", scratch.named(STANDALONE));
    assert_eq!(ServerConfig::load(Path::new(&path), &[]).unwrap().client_address.port, 2181);
}

#[test]
fn half_of_a_large_machine_is_used() {
    let table = [(1, 1), (2, 1), (4, 1), (5, 2), (8, 4), (128, 64), (1000, 64)];
    for (cpus, expected) in table {
        assert_eq!(default_cores(cpus), expected, "{cpus} CPUs");
    }
}

#[test]
fn words_are_allowed_as_listed() {
    let some = Whitelist::Only(vec!["srvr".to_owned(), "ruok".to_owned()]);
    assert!(some.allows("ruok") && !some.allows("mntr"));
    assert!(Whitelist::All.allows("mntr"));
}
