//! A real client, kazoo, against real servers: one server, and a cluster of three replicas.
//!
//! The client lives in a Python environment that is made on first use. Without python3 the tests
//! say so and pass, unless CI is set: there nothing may be missing.
#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pigeonhole_tests::ports;
use pigeonhole_tests::servers::{Program, say_skipped};

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
        .env("PIGEONHOLE_BIN", PROGRAM.path)
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
    // The local cluster, as a newcomer starts it.
    let mut servers = PROGRAM.standalone(name, "");
    let (data, port) = (servers.data(1).display().to_string(), servers.port(1));
    let arguments = ["--data", &data, "--port", &port.to_string(), "--shards", &shards.to_string()];
    servers.start_as(1, servers.command(&arguments));
    // The last line that it prints says that it serves.
    servers.wait_until_said(1, "\nCtrl-C");
    let hosts: Vec<String> = (port..port + 3).map(|port| format!("127.0.0.1:{port}")).collect();
    let status = Command::new(clients().join("kazoo_subset.sh"))
        .arg(hosts.join(","))
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

fn has_python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok();
    if !found {
        assert!(std::env::var_os("CI").is_none(), "CI needs python3");
        say_skipped("python3 is not installed, so kazoo cannot be asked");
    }
    found
}

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

const PROGRAM: Program =
    Program { path: env!("CARGO_BIN_EXE_server"), directory: env!("CARGO_TARGET_TMPDIR") };
