//! Rings of ordinary users who may lock little memory.

use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::time::Duration;

use pigeonhole::ring::{Completion, LogBuffers, Ring, RingConfig, SyncPrimitive};

use super::sockets::{Echo, pattern, round_trip};
use super::{LOG, wait_for};

/// Runs one test of this file in another process, under another user and a memory limit.
fn run_limited(test: &str, kibibytes: u32, user: u32) {
    let identity = std::process::Command::new("id").arg("-u").output().unwrap();
    if identity.stdout != b"0\n" {
        println!("skipped: limiting another user's memory needs root");
        return;
    }
    let exe = std::env::current_exe().unwrap();
    let bytes = kibibytes * 1024;
    let output = std::process::Command::new("prlimit")
        .arg(format!("--memlock={bytes}:{bytes}"))
        .args(["setpriv", "--clear-groups", "--inh-caps=-all"])
        .arg(format!("--reuid={user}"))
        .arg(format!("--regid={user}"))
        .arg(exe)
        .args(["--exact", &format!("limits::{test}"), "--nocapture", "--ignored"])
        .env("PIGEONHOLE_TEST_MEMLOCK_KIB", kibibytes.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "with {kibibytes} KiB");
}

#[test]
fn an_ordinary_user_with_little_lockable_memory_gets_a_working_ring() {
    // A user of its own for each run: the kernel counts locked memory by user.
    let user = 1_000_000 + std::process::id() % 100_000 * 10;
    for (number, kibibytes) in (0..).zip([64, 96, 8192]) {
        run_limited("limited_child_works", kibibytes, user + number);
    }
}

#[test]
fn too_little_lockable_memory_is_refused_with_the_remedy() {
    let user = 1_000_000 + std::process::id() % 100_000 * 10 + 9;
    run_limited("limited_child_is_refused", 8, user);
}

#[test]
#[ignore = "runs in a process with limits, started by another test"]
fn limited_child_works() {
    let kibibytes: u64 = std::env::var("PIGEONHOLE_TEST_MEMLOCK_KIB").unwrap().parse().unwrap();
    let (mut ring, report) = Ring::new(&RingConfig::default()).unwrap();
    println!("{report}");
    assert_eq!(report.lockable_memory.hard, Some(kibibytes * 1024));
    let mut buffers = LogBuffers::allocate(2, 2304 << 10).unwrap();
    match ring.register_log_buffers(&buffers, 256 << 10) {
        Ok(()) => assert!(kibibytes > 512),
        Err(error) => {
            assert!(kibibytes < 1024);
            println!("log buffers are not registered: {error}");
        }
    }
    let path = std::env::temp_dir().join(format!("pigeonhole-ring-{}", std::process::id()));
    std::fs::write(&path, vec![0; 8192]).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    ring.write_log(file.as_fd(), LOG, buffers.remove(0), 0, 8192, SyncPrimitive::WriteThenSync);
    match wait_for(&mut ring) {
        Completion::LogWritten { result: Ok(()), .. } => {}
        other => panic!("{other:?}"),
    }
    std::fs::remove_file(path).unwrap();
    // The account must be free again before the server below opens a ring of its own.
    ring.shutdown(Duration::from_secs(5)).unwrap();
    let server = Echo::start(RingConfig::default(), None);
    round_trip(&mut server.connect(), &pattern(3, 1 << 20));
    server.stop();
}

#[test]
#[ignore = "runs in a process with limits, started by another test"]
fn limited_child_is_refused() {
    let refused = Ring::new(&RingConfig::default()).unwrap_err().to_string();
    println!("{refused}");
    assert!(refused.contains("RLIMIT_MEMLOCK") && refused.contains("LimitMEMLOCK="), "{refused}");
    assert!(refused.contains("8 KiB"), "{refused}");
}
