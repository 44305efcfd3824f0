//! A real client, kazoo, against real servers: one server, and a cluster of three replicas.
//!
//! The client lives in a Python environment that is made on first use. Without python3 the tests
//! say so and pass, unless CI is set: there nothing may be missing.
#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use pigeonhole_tests::ports;

#[test]
fn kazoo_finds_a_cluster_of_one_shard_to_be_zookeeper() {
    check_cluster("one", 1);
}

#[test]
fn kazoo_finds_a_cluster_of_eight_shards_to_be_zookeeper() {
    check_cluster("eight", 8);
}

#[test]
fn kazoo_finds_a_single_server_to_be_zookeeper() {
    if !has_python() {
        return;
    }
    let status = Command::new(clients().join("with_server.sh"))
        .arg(clients().join("kazoo_subset.sh"))
        .env("PIGEONHOLE_BIN", env!("CARGO_BIN_EXE_server"))
        .env("PIGEONHOLE_PORT", ports::take(1).to_string())
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

fn check_cluster(name: &str, shards: u16) {
    if !has_python() {
        return;
    }
    let cluster = Cluster::start(name, shards);
    let status = Command::new(clients().join("kazoo_subset.sh"))
        .arg(&cluster.hosts)
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

/// The local cluster, as a newcomer starts it.
struct Cluster {
    process: Child,
    hosts: String,
    data: PathBuf,
}

impl Cluster {
    fn start(name: &str, shards: u16) -> Self {
        let folder = format!("pigeonhole-client-{name}-{}", std::process::id());
        let data = std::env::temp_dir().join(folder);
        let port = ports::take(3);
        let mut process = Command::new(env!("CARGO_BIN_EXE_server"))
            .args(["--port", &port.to_string(), "--shards", &shards.to_string()])
            .arg("--data")
            .arg(&data)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The last line that it prints says that it serves.
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let said = lines.any(|line| line.unwrap().starts_with("Ctrl-C"));
        assert!(said, "the cluster did not start");
        let hosts: Vec<String> = (port..port + 3).map(|port| format!("127.0.0.1:{port}")).collect();
        Self { process, hosts: hosts.join(","), data }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A test that failed must not fail again here.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

fn has_python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok();
    if !found {
        assert!(std::env::var_os("CI").is_none(), "CI needs python3");
        eprintln!("SKIPPED: python3 is not installed, so kazoo cannot be asked");
    }
    found
}

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}
