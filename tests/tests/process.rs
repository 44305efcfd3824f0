//! The product as a process: started, killed, restarted, refused.
//!
//! Every test has its own directory and its own ports, which it asks the kernel for.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use pigeonhole_core::op::Request;
use pigeonhole_core::wire::client;
use pigeonhole_tests::caller::{Caller, PATIENCE};
use pigeonhole_tests::servers::{Program, run, say_skipped};

#[test]
fn what_was_acknowledged_outlives_a_kill() {
    let mut servers = PROGRAM.standalone("kill", "");
    servers.start(1);
    servers.client(1).create("/kept", b"before the kill");
    assert_eq!(servers.kill(1).code(), None, "it was killed by a signal");

    servers.start(1);
    let mut client = servers.client(1);
    assert_eq!(client.data("/kept"), b"before the kill");
    client.create("/kept/again", b"");
    assert_eq!(servers.terminate(1).code(), Some(0));

    servers.start(1);
    assert_eq!(servers.client(1).data("/kept/again"), b"");
}

#[test]
fn a_stop_in_good_order_takes_less_than_five_seconds_and_leaves_a_clean_log() {
    let settings = "pigeonhole.cores=2\npigeonhole.shards=4\n";
    let mut servers = PROGRAM.standalone("stop", settings);
    servers.start(1);
    let mut client = servers.client(1);
    for number in 0..20 {
        client.create(&format!("/node-{number}"), b"data");
    }
    let begun = Instant::now();
    assert_eq!(servers.terminate(1).code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(client.is_closed(), "the client is told that the server is gone");

    let (status, printed) = servers.check(1);
    assert_eq!(status.code(), Some(0), "{printed}");
    assert_eq!(printed.matches("ends clean").count(), 2, "{printed}");
    assert_eq!(printed.matches("whole").count(), 4, "{printed}");
}

/// The disk of the log may be full, and whoever reads it may go away.
#[test]
fn a_log_that_nobody_takes_stops_nothing() {
    let mut servers = PROGRAM.standalone("unheard", "");
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" serve \"$1\" 2>/dev/full", PROGRAM.path]);
    command.arg(servers.config(1)).env("RUST_LOG", "info");
    servers.start_as(1, command);
    servers.client(1).create("/written", b"all the same");
    assert_eq!(servers.terminate(1).code(), Some(0));
}

/// A copy may be on a disk that nobody can write to.
#[test]
fn a_check_leaves_the_directory_as_it_is() {
    let mut servers = PROGRAM.standalone("check", "");
    servers.start(1);
    servers.client(1).create("/kept", b"");
    let (status, said) = servers.check(1);
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("another server uses"), "{said}");
    servers.terminate(1);
    let lock = servers.data(1).join("LOCK");
    fs::remove_file(&lock).unwrap();
    let (status, printed) = servers.check(1);
    assert_eq!(status.code(), Some(0), "{printed}");
    assert!(!lock.exists());
}

/// A start may take long, and nobody has been promised anything.
#[test]
fn a_start_can_be_stopped() {
    let mut servers = PROGRAM.standalone("early", "");
    servers.start(1);
    assert_eq!(servers.terminate(1).code(), Some(0));
    // It waits for its port, for up to five seconds.
    let _taken = TcpListener::bind(("127.0.0.1", servers.port(1))).unwrap();
    servers.start(1);
    servers.wait_until(|it| has_thread(it.process_id(1), "signals"));
    assert_eq!(servers.terminate(1).code(), Some(0));
    let said = servers.said(1);
    assert!(said.contains("stopped, before anybody was served"), "{said}");
}

fn has_thread(process: u32, name: &str) -> bool {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let mut names = threads.map(|thread| fs::read_to_string(thread.path().join("comm")));
    names.any(|it| it.is_ok_and(|it| it.trim() == name))
}

#[test]
fn what_was_asked_of_a_server_before_it_is_to_stop_is_answered() {
    // A machine that is busy with something else is no peer that has died.
    let patient = "pigeonhole.shards=8\npigeonhole.cores=2\npigeonhole.peerSilenceMs=5000\n";
    let mut servers = PROGRAM.ensemble("finish", 3, patient);
    servers.start_all();
    for stopping in servers.ids() {
        // Each in a subtree of its own: some are led by this server, and each waits for the one
        // before it.
        let paths = (0..40).map(|number| format!("/of-{stopping}-{number}"));
        let mut client = servers.client(stopping);
        client.begin_to_create(paths);
        assert_eq!(servers.terminate(stopping).code(), Some(0));
        assert_eq!(client.replies(), [0; 39], "server {stopping}");
        servers.start(stopping);
    }
}

#[test]
fn a_second_server_on_the_same_port_or_directory_is_refused() {
    let mut servers = PROGRAM.standalone("twice", "");
    servers.start(1);
    let (status, said) = servers.refusal(1);
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("another server uses"), "{said}");
    assert!(said.contains("stop it"), "it says what to do: {said}");

    let port = format!("clientPort={}\n", servers.port(1));
    let (status, said) = PROGRAM.standalone("twice-port", &port).refusal(1);
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("cannot listen on 127.0.0.1"), "{said}");
    assert!(said.contains("Address already in use"), "{said}");
    assert!(said.contains("choose another port with clientPort"), "{said}");
}

#[test]
fn a_directory_that_cannot_be_made_is_no_fault_of_the_disk() {
    let servers = PROGRAM.standalone("no-directory", "");
    fs::create_dir_all(servers.data(1)).unwrap();
    fs::write(servers.data(1).join("log"), b"somebody's own").unwrap();
    let (status, said) = servers.refusal(1);
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("something that is no directory has this name"), "{said}");
    assert!(said.contains("choose another directory with dataDir"), "{said}");
}

#[test]
fn a_directory_with_other_data_is_refused() {
    let zookeeper = PROGRAM.standalone("foreign", "");
    fs::create_dir_all(zookeeper.data(1).join("version-2")).unwrap();
    let (status, said) = zookeeper.refusal(1);
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("the data of a ZooKeeper server"), "{said}");

    let damaged = PROGRAM.standalone("damaged", "");
    fs::create_dir_all(damaged.data(1)).unwrap();
    fs::write(damaged.data(1).join("meta"), b"something else").unwrap();
    let (status, said) = damaged.refusal(1);
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("meta"), "{said}");

    let mut moved = PROGRAM.standalone("moved", "");
    moved.start(1);
    moved.terminate(1);
    fs::write(moved.data(1).join("myid"), b"7\n").unwrap();
    let (status, said) = moved.refusal(1);
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("check myid"), "{said}");
}

#[test]
fn a_wrong_configuration_is_refused_with_its_line() {
    let (status, said) = PROGRAM.standalone("wrong", "tickTime=often\n").refusal(1);
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("tickTime"), "{said}");
}

#[test]
fn an_ensemble_that_was_formatted_serves_without_forming() {
    let mut servers = PROGRAM.ensemble("format", 3, "");
    let (status, printed) = servers.format(1, &[]);
    assert_eq!(status.code(), Some(0), "{printed}");
    let cluster = printed.trim().to_owned();
    for server in [2, 3] {
        let (status, printed) = servers.format(server, &["--cluster", &cluster, "--founding"]);
        assert_eq!((status.code(), printed.trim()), (Some(0), cluster.as_str()));
    }
    let (status, said) = servers.format(3, &[]);
    assert_eq!(status.code(), Some(3), "{said}");

    servers.start_all();
    servers.client(1).create("/shared", b"by all");
    servers.kill(3);
    // A new connection, because the leader may have been the one that is gone.
    servers.client(2).create("/majority", b"two of three");
    servers.start(3);
    servers.kill(1);
    let mut client = servers.client(3);
    client.sync();
    assert_eq!(client.data("/shared"), b"by all");
    assert_eq!(client.data("/majority"), b"two of three");
}

#[test]
fn an_unprivileged_server_makes_do_with_little_lockable_memory() {
    // SAFETY: takes no memory.
    if unsafe { libc::geteuid() } != 0 {
        // Already unprivileged: every test of this file shows it, with the limit of the day.
        return;
    }
    let mut servers = PROGRAM.standalone("unprivileged", "");
    fs::create_dir_all(servers.data(1)).unwrap();
    std::os::unix::fs::chown(servers.data(1), Some(NOBODY), Some(NOBODY)).unwrap();
    for limit in [8 << 20, 64 << 10] {
        let mut command = servers.serve(1);
        command.uid(NOBODY).gid(NOBODY);
        lock_at_most(&mut command, limit);
        servers.start_as(1, command);
        servers.client(1).create(&format!("/with-{limit}"), b"");
        assert_eq!(servers.terminate(1).code(), Some(0), "with {limit} bytes");
    }
}

#[test]
fn a_running_server_takes_no_huge_pages() {
    let mut servers = PROGRAM.standalone("huge", "");
    servers.start(1);
    let path = format!("/proc/{}/status", servers.process_id(1));
    let status = fs::read_to_string(path).unwrap();
    let Some(enabled) = status.lines().find_map(|line| line.strip_prefix("THP_enabled:")) else {
        say_skipped("this kernel does not say whether a process may take huge pages");
        return;
    };
    assert_eq!(enabled, "\t0");
}

#[test]
fn words_are_answered_and_those_not_allowed_are_refused() {
    let mut servers = PROGRAM.standalone("words", "4lw.commands.whitelist=ruok, srvr, mntr\n");
    servers.start(1);
    servers.wait_until(|servers| servers.serves(1));
    let word = |word| servers.word(1, word).unwrap();
    assert_eq!(word("ruok"), "imok");
    let srvr = word("srvr");
    let (version, date) = (env!("CARGO_PKG_VERSION"), "2026-11-21 00:00 UTC");
    let first = format!("Zookeeper version: 3.8.0-pigeonhole-{version}, built on {date}\n");
    assert!(srvr.starts_with(&first), "{srvr}");
    assert!(srvr.contains("\nMode: standalone\nNode count: 5\n"), "{srvr}");
    let mntr = word("mntr");
    assert!(mntr.contains("\nzk_znode_count\t5\n"), "{mntr}");
    assert!(mntr.contains("\nzk_shard_0_leader\t1\n"), "{mntr}");
    let refused = "conf is not executed because it is not in the whitelist.\n";
    assert_eq!(word("conf"), refused);
}

#[test]
fn words_show_connections_watches_and_sessions_as_zookeeper_does() {
    let mut servers = PROGRAM.ensemble("figures", 3, "");
    servers.start_all();
    let mut clients: Vec<_> = servers.ids().map(|id| servers.client(id)).collect();
    assert!(clients.iter_mut().all(|it| it.exists("/zookeeper")));
    let answer = |id, word| servers.word(id, word).unwrap();
    let cons = answer(1, "cons");
    assert!(cons.contains(",lop=EXIS,"), "{cons}");
    assert!(cons.contains(",lcxid=0x1,lzxid=0x"), "{cons}");
    assert_eq!(answer(1, "crst"), "Connection stats reset.\n");
    let cons = answer(1, "cons");
    assert!(cons.contains(",lop=NA,"), "{cons}");
    let none = ",lzxid=0xffffffffffffffff,lresp=0,llat=0,minlat=0,avglat=0,maxlat=0)\n";
    assert!(cons.contains(none) && !cons.contains("lcxid"), "{cons}");
    for id in servers.ids() {
        // A server hears of the others' sessions a little later.
        servers.wait_until(|it| {
            let leads = it.figure(id, "zk_server_state").as_deref() == Some("leader");
            let sessions = if leads { "Session Sets (" } else { "Global Sessions(3):\n0x" };
            let dump = it.word(id, "dump").unwrap();
            dump.starts_with(&format!("SessionTracker dump:\n{sessions}"))
        });
    }
}

#[test]
fn clients_that_misbehave_disturb_nobody() {
    let mut servers = PROGRAM.standalone("misbehave", "maxClientCnxns=0\npigeonhole.cores=2\n");
    servers.start(1);
    let mut steady = servers.client(1);
    steady.create("/steady", b"data");
    for round in 0..200_u16 {
        let mut stream = TcpStream::connect(("127.0.0.1", servers.port(1))).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        match round % 4 {
            // Asks, and closes its side in the same moment.
            0 => {
                stream.write_all(b"srvr").unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                assert!(answer.contains("not in the whitelist") || answer.contains("Mode:"));
            }
            // Speaks no protocol.
            1 => stream.write_all(&[0xff; 64]).unwrap(),
            // Breaks off in the middle of a frame.
            2 => stream.write_all(&[0, 0, 0, 45, 0]).unwrap(),
            // Says nothing.
            _ => {}
        }
        drop(stream);
        assert_eq!(steady.data("/steady"), b"data");
    }
    // Asks for ever and never listens: it is not read any more, and all others are.
    let mut stuck = servers.client(1).into_stream();
    stuck.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut request = Vec::new();
    client::put_request(&mut request, 1, &Request::GetData { path: "/steady", watch: false });
    let burst = request.repeat(1000);
    let outcome = (0..10_000).try_for_each(|_| stuck.write_all(&burst));
    assert!(outcome.is_err(), "the server reads on without end");
    assert_eq!(steady.data("/steady"), b"data");
}

#[test]
fn an_address_has_as_many_connections_as_it_may_have_on_all_cores_together() {
    let settings = "maxClientCnxns=4\npigeonhole.shards=2\npigeonhole.cores=2\n";
    let mut servers = PROGRAM.standalone("crowd", settings);
    servers.start(1);
    let mut clients: Vec<_> = (0..4).map(|_| servers.client(1)).collect();
    assert!(Caller::connect(servers.port(1)).is_err(), "a fifth one is served");
    for (number, client) in clients.iter_mut().enumerate() {
        client.create(&format!("/node-{number}"), b"");
    }
    clients.pop();
    clients.push(servers.client(1));
    assert!(Caller::connect(servers.port(1)).is_err(), "a fifth one is served, after one has left");
    clients.clear();
    servers.wait_until(|servers| servers.serves(1));
    servers.client(1).create("/afterwards", b"");
}

#[test]
fn a_server_without_an_address_of_its_own_is_reached_by_both_families() {
    let mut servers = PROGRAM.standalone("both", "");
    servers.configure(1, "clientPortAddress=0.0.0.0\n");
    servers.start(1);
    servers.client(1).create("/by-four", b"");
    let has_six = TcpListener::bind("[::1]:0").is_ok();
    let by_six = TcpStream::connect((Ipv6Addr::LOCALHOST, servers.port(1)));
    assert_eq!(by_six.is_ok(), has_six, "{by_six:?}");
}

#[test]
fn the_version_names_the_formats() {
    let (status, printed) = run(PROGRAM.command(&["--version"]));
    assert_eq!(status.code(), Some(0));
    assert!(printed.starts_with("pigeonhole "), "{printed}");
    assert!(printed.contains("formats: log 1, meta 2, peer protocol 1"), "{printed}");
}

#[test]
fn a_local_cluster_serves_within_a_second_and_keeps_its_data() {
    let mut servers = PROGRAM.standalone("local", "");
    let (data, port) = (servers.data(1).display().to_string(), servers.port(1).to_string());
    let arguments = ["--data", &data, "--port", &port, "--replicas", "3"];
    let begun = Instant::now();
    servers.start_as(1, servers.command(&arguments));
    servers.client(1).create("/local", b"data");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(servers.terminate(1).code(), Some(0));

    servers.start_as(1, servers.command(&arguments));
    let mut client = servers.client(1);
    client.sync();
    assert_eq!(client.data("/local"), b"data");

    let one = format!("{data}/replica-1");
    let (status, said) = run(servers.command(&["--data", &one, "--port", &port]));
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("the data of a single server"), "{said}");

    let fewer = ["--data", &data, "--port", &port, "--replicas", "1"];
    let (status, said) = run(servers.command(&fewer));
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("--replicas"), "{said}");
}

/// Limits what the command may lock to so many bytes.
fn lock_at_most(command: &mut Command, bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: setting a limit is allowed between fork and exec, and allocates nothing.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

const NOBODY: u32 = 65534;
const PROGRAM: Program =
    Program { path: env!("CARGO_BIN_EXE_server"), directory: env!("CARGO_TARGET_TMPDIR") };
