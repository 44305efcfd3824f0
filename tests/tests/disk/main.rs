//! What real servers keep on their disks: snapshots, a log that does not grow for ever, and what
//! becomes of a disk that is full, damaged, lost, or read by another number of cores.
#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod full;

use std::fs;

use pigeonhole_tests::servers::{Program, Servers, run};

#[test]
fn a_server_restarts_from_a_snapshot_and_its_log_stays_bounded() {
    let mut servers = PROGRAM.standalone("bounded", "snapCount=1000\n");
    servers.start(1);
    let mut client = servers.client(1);
    let path = |number: usize| format!("/node-{}", number % 200);
    client.create_all((0..200).map(path), b"");
    let mut written = 0;
    // Until the beginning of the log is gone: nothing else can say what was in it.
    while servers.files(1, "log", "-0000000000000001.log").len() == 1 {
        assert_eq!(client.set_all((0..1000).map(path), &[7; 40_000]), (1000, None));
        written += 1000;
        assert!(written < 20_000, "the log only grows: {:?}", servers.files(1, "log", ".log"));
    }
    let segments = servers.files(1, "log", ".log").len();
    assert!(segments <= 12, "{segments} segments");
    let before = servers.digests(1);
    servers.kill(1);
    servers.start(1);
    assert_eq!(servers.digests(1), before);
    let snapshot = servers.figure(1, "zk_shard_0_snapshot_zxid").unwrap();
    assert_ne!(snapshot, "0x0");
    assert!(servers.client(1).exists("/node-199"));
    assert_eq!(servers.terminate(1).code(), Some(0));
    let (status, printed) = servers.check(1);
    assert_eq!(status.code(), Some(0), "{printed}");
    assert_eq!(printed.matches("znodes, whole").count(), 2, "{printed}");
}

#[test]
fn a_kill_in_the_middle_of_a_snapshot_leaves_the_one_before() {
    let mut servers = PROGRAM.standalone("middle", "snapCount=1000\n");
    servers.start(1);
    let mut client = servers.client(1);
    let names = |prefix: &'static str| (0..1000).map(move |number| format!("/{prefix}-{number}"));
    client.create_all(names("first"), &[1; 100]);
    servers.wait_until(|it| !it.files(1, "snapshots", ".snapshot").is_empty());
    client.create_all(names("second"), &[2; 20_000]);
    client.create_all(["/last".to_owned()], b"");
    servers.wait_until(|it| {
        let files = it.files(1, "snapshots", ".partial");
        files.iter().any(|file| fs::metadata(file).is_ok_and(|it| it.len() > 0))
    });
    let before = servers.digests(1);
    servers.kill(1);
    assert_eq!(servers.files(1, "snapshots", ".snapshot").len(), 1);
    servers.start(1);
    assert_eq!(servers.digests(1), before);
    // The point is passed again, and the snapshot made anew.
    servers.wait_until(|it| it.files(1, "snapshots", ".snapshot").len() == 2);
    assert_eq!(servers.files(1, "snapshots", ".partial"), Vec::<std::path::PathBuf>::new());
    assert!(servers.client(1).exists("/last"));
}

#[test]
fn a_damaged_snapshot_is_named_and_the_older_one_used() {
    let mut servers = PROGRAM.standalone("damaged", "snapCount=1000\n");
    servers.start(1);
    let names = |prefix: &'static str| (0..1100).map(move |number| format!("/{prefix}-{number}"));
    for prefix in ["first", "second"] {
        let mut client = servers.client(1);
        let newest = |it: &Servers| it.figure(1, "zk_shard_0_snapshot_zxid").unwrap();
        let before = newest(&servers);
        client.create_all(names(prefix), b"data");
        servers.wait_until(|it| newest(it) != before);
    }
    let before = servers.digests(1);
    assert_eq!(servers.terminate(1).code(), Some(0));
    let newest = servers.files(1, "snapshots", ".snapshot").pop().unwrap();
    let name = newest.file_name().unwrap().to_str().unwrap().to_owned();
    let mut bytes = fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&newest, bytes).unwrap();
    let (status, printed) = servers.check(1);
    assert_eq!(status.code(), Some(3), "{printed}");
    assert!(printed.contains(&format!("NOT USABLE: {name}")), "{printed}");

    servers.start(1);
    assert_eq!(servers.digests(1), before);
    let said = servers.said(1);
    let warned = said.lines().any(|line| line.contains("WARN") && line.contains(&name));
    assert!(warned, "{said}");
    // Replay passes the point again: the file is made anew, and whole.
    servers.wait_until(|it| it.said(1).matches("snapshot of shard 0").count() == 3);
    assert_eq!(servers.terminate(1).code(), Some(0));
    let (status, printed) = servers.check(1);
    assert_eq!(status.code(), Some(0), "{printed}");
}

#[test]
fn a_server_that_fell_far_behind_is_sent_the_state() {
    let mut servers = PROGRAM.ensemble("behind", 3, "snapCount=5000\n");
    servers.start_all();
    servers.client(1).create_all(["/before".to_owned()], b"");
    servers.kill(1);
    let mut client = servers.client(2);
    // More than the leader keeps in memory.
    client.create_all((0..20_000).map(|number| format!("/node-{number}")), b"data");
    assert_ne!(servers.figure(2, "zk_shard_0_snapshot_zxid").unwrap(), "0x0");
    servers.start(1);
    let mut late = servers.client(1);
    late.sync();
    assert!(late.exists("/node-19999"));
    assert!(servers.said(1).contains("Installed"), "{}", servers.said(1));
    late.create_all(["/after".to_owned()], b"");
    for server in [2, 3] {
        servers.client(server).sync();
        assert_eq!(servers.digests(server), servers.digests(1), "server {server}");
    }
    for server in 1..=3 {
        assert_eq!(servers.terminate(server).code(), Some(0));
        let (status, printed) = servers.check(server);
        assert_eq!(status.code(), Some(0), "{printed}");
    }
}

#[test]
fn another_number_of_cores_reads_the_same_directory() {
    let settings = "snapCount=300\npigeonhole.shards=8\npigeonhole.pin=off\n";
    let mut servers = PROGRAM.standalone("cores", settings);
    let mut written = 0;
    let mut before: Option<Vec<String>> = None;
    for cores in [1, 3, 2, 1] {
        servers.configure(1, &format!("pigeonhole.cores={cores}\n"));
        servers.start(1);
        let mut client = servers.client(1);
        if let Some(before) = before {
            assert_eq!(servers.digests(1), before, "with {cores} cores");
        }
        let names = (written..written + 2000).map(|number| format!("/node-{number}"));
        client.create_all(names, b"data");
        written += 2000;
        before = Some(servers.digests(1));
        if cores == 2 {
            servers.kill(1);
        } else {
            assert_eq!(servers.terminate(1).code(), Some(0));
        }
        let (status, printed) = servers.check(1);
        assert_eq!(status.code(), Some(0), "{printed}");
    }
}

#[test]
fn a_lost_disk_is_replaced_and_counts_again() {
    let mut servers = PROGRAM.ensemble("lost", 3, "snapCount=1000\n");
    servers.start_all();
    let mut client = servers.client(3);
    client.create_all((0..3000).map(|number| format!("/node-{number}")), b"data");
    servers.lose_data(1);
    servers.start(1);
    let mut late = servers.client(1);
    late.sync();
    assert!(late.exists("/node-2999"));
    late.create_all(["/with-three".to_owned()], b"");
    // Without the second server, the third one needs the first one's new disk for everything.
    servers.kill(2);
    servers.client(3).create_all(["/with-the-new-disk".to_owned()], b"");
    // And the new disk may lead.
    servers.start(2);
    servers.client(2).sync();
    servers.kill(3);
    let mut client = servers.client(1);
    client.sync();
    assert!(client.exists("/with-the-new-disk"));
    client.create_all(["/without-the-third".to_owned()], b"");
}

/// A log on a disk of its own that is not mounted: to go on without would be to forget everything.
#[test]
fn a_log_that_is_not_there_is_missed() {
    let mut servers = PROGRAM.standalone("own-log", "");
    let log = servers.data(1).with_extension("log-dir");
    servers.configure(1, &format!("dataLogDir={}\n", log.display()));
    servers.start(1);
    servers.client(1).create("/kept", b"");
    assert_eq!(servers.terminate(1).code(), Some(0));
    let (data, shown) = (servers.data(1).display().to_string(), log.display().to_string());
    let check = |log: Option<&str>| {
        let more = log.map_or(vec![], |log| vec!["--log", log]);
        run(servers.command(&[vec!["check", &data], more].concat()))
    };
    let (status, said) = check(Some(&shown));
    assert_eq!(status.code(), Some(0), "{said}");
    let (status, said) = check(None);
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("check it with --log"), "{said}");

    let away = log.with_extension("away");
    fs::rename(&log, &away).unwrap();
    let (status, said) = servers.refusal(1);
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("mount it"), "it says what to do: {said}");

    // Somebody else's is no better.
    let mut other = PROGRAM.standalone("other-log", "");
    other.configure(1, &format!("dataLogDir={shown}\n"));
    fs::remove_dir_all(&log).unwrap();
    other.start(1);
    assert_eq!(other.terminate(1).code(), Some(0));
    let (status, said) = servers.refusal(1);
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("the log of another data directory"), "{said}");

    fs::remove_dir_all(&log).unwrap();
    fs::rename(&away, &log).unwrap();
    servers.start(1);
    assert!(servers.client(1).exists("/kept"));
    // A log from before there was such a file gets one.
    assert_eq!(servers.terminate(1).code(), Some(0));
    let owner = log.join("log/owner");
    let text = fs::read_to_string(&owner).unwrap();
    fs::remove_file(&owner).unwrap();
    servers.start(1);
    assert_eq!(fs::read_to_string(&owner).unwrap(), text);
    // Where it is damaged, nobody guesses.
    assert_eq!(servers.terminate(1).code(), Some(0));
    fs::write(&owner, [0xff; 16]).unwrap();
    let (status, said) = servers.refusal(1);
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("is damaged: remove that file"), "{said}");
}

const PROGRAM: Program =
    Program { path: env!("CARGO_BIN_EXE_server"), directory: env!("CARGO_TARGET_TMPDIR") };
