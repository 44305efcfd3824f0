//! Ensembles of real processes that found their cluster by themselves, and servers that may not.
#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs::{self, File};
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pigeonhole_core::base::id::ClusterId;
use pigeonhole_storage::meta::{Formation, Meta};
use pigeonhole_tests::caller::{self, Caller, PATIENCE};
use pigeonhole_tests::ports;

#[test]
fn servers_that_are_started_one_by_one_wait_for_the_last() {
    let mut ensemble = Ensemble::new("one-by-one", 3, 0);
    ensemble.start(1);
    ensemble.wait_for_word(1, "waiting for server 2 and server 3;");
    ensemble.start(2);
    ensemble.wait_for_word(2, "waiting for server 3;");
    for server in [1, 2] {
        assert_eq!(ensemble.ask(server, "srvr").unwrap(), NOT_SERVING);
        assert_eq!(ensemble.meta(server), None, "nothing is written yet");
        assert!(Caller::connect(ensemble.port(server)).is_err());
    }
    let begun = Instant::now();
    ensemble.start(3);
    ensemble.client(3).create("/first", b"");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    ensemble.check_one_cluster();
    assert_eq!(ensemble.terminate(2).code(), Some(0));
    ensemble.start(2);
    find(&mut ensemble.client(2), "/first");
}

#[test]
fn a_kill_while_they_form_changes_nothing() {
    // Each of them is killed as soon as the first trace of a cluster is on somebody's disk.
    for victim in 1..=3 {
        for watched in 1..=3 {
            let mut ensemble = Ensemble::new("kill", 3, 0);
            for server in 1..=3 {
                ensemble.start(server);
            }
            ensemble.wait_until(|ensemble| ensemble.meta(watched).is_some());
            ensemble.kill(victim);
            ensemble.start(victim);
            ensemble.client(victim).create("/first", b"");
            ensemble.check_one_cluster();
        }
    }
}

#[test]
fn a_server_whose_directory_is_gone_takes_everything_from_the_others() {
    let mut ensemble = Ensemble::new("gone", 3, 0);
    for server in 1..=3 {
        ensemble.start(server);
    }
    ensemble.client(1).create("/kept", b"");
    let before = ensemble.check_one_cluster();
    ensemble.lose_data(2);
    ensemble.start(2);
    find(&mut ensemble.client(2), "/kept");
    assert_eq!(ensemble.check_one_cluster(), before);
    assert!(!ensemble.meta(2).unwrap().is_founder, "others have to admit its new disk");
    // It counts again: with it, the third one is not needed.
    ensemble.client(1).create("/with-three", b"");
    ensemble.kill(3);
    ensemble.client(1).create("/without-the-third", b"");
    assert_eq!(ensemble.terminate(2).code(), Some(0));
}

#[test]
fn a_majority_of_lost_disks_is_no_new_cluster() {
    let mut ensemble = Ensemble::new("majority", 3, 0);
    for server in 1..=3 {
        ensemble.start(server);
    }
    ensemble.client(1).create("/kept", b"");
    let before = ensemble.check_one_cluster();
    for server in [1, 2] {
        ensemble.lose_data(server);
    }
    for server in [1, 2] {
        ensemble.start(server);
    }
    for server in [1, 2] {
        ensemble.wait_for_word(server, "this server does not take part");
        ensemble.wait_for_word(server, &format!("format <zoo.cfg> --cluster {before}"));
        assert_eq!(ensemble.ask(server, "srvr").unwrap(), NOT_SERVING);
    }
    assert_eq!((ensemble.meta(1), ensemble.meta(2)), (None, None));
    assert_eq!(ensemble.meta(3).unwrap().cluster, before);
    assert!(!ensemble.serves(3), "it leads nobody");
}

#[test]
fn an_observer_follows_whatever_the_voters_have_founded() {
    let mut ensemble = Ensemble::new("observer", 3, 1);
    ensemble.start(4);
    ensemble.wait_for_word(4, "waiting for server 1, server 2 and server 3;");
    for server in [3, 1, 2] {
        ensemble.start(server);
    }
    ensemble.client(2).create("/first", b"");
    find(&mut ensemble.client(4), "/first");
    ensemble.check_one_cluster();
}

#[test]
fn an_ensemble_of_one_and_one_of_five_form() {
    for voters in [1, 5] {
        let mut ensemble = Ensemble::new("size", voters, 0);
        for server in 1..=voters {
            ensemble.start(server);
        }
        for server in 1..=voters {
            ensemble.client(server).create(&format!("/by-{server}"), b"");
        }
        ensemble.check_one_cluster();
    }
}

#[test]
fn a_server_with_other_voters_is_told() {
    let mut ensemble = Ensemble::new("other", 3, 0);
    let config = fs::read_to_string(ensemble.config(2)).unwrap();
    let fewer = config.replace("server.3", "#server.3");
    fs::write(ensemble.config(2), fewer).unwrap();
    ensemble.start(1);
    ensemble.start(2);
    ensemble.wait_for_word(1, "server 2 has other voters in its configuration");
    assert_eq!((ensemble.meta(1), ensemble.meta(2)), (None, None));
}

#[test]
fn a_nonce_that_was_logged_but_not_formed_may_be_formatted_over() {
    let ensemble = Ensemble::new("format", 3, 0);
    let meta = Meta {
        cluster: ClusterId(7),
        state: Formation::Forming,
        server: pigeonhole_core::base::id::ServerId(1),
        disk: pigeonhole_core::base::id::DiskId(8),
        is_founder: true,
        shards: 1,
        session_base_ms: 0,
    };
    fs::write(ensemble.data(1).join("meta"), meta.encode()).unwrap();
    let format = |id| {
        let config = ensemble.config(1).display().to_string();
        let mut command = binary(&["format", &config, "--cluster", id]);
        command.output().unwrap().status.code()
    };
    let (one, other) = ("1".repeat(32), "2".repeat(32));
    assert_eq!(format(&one), Some(0));
    assert_eq!(format(&other), Some(3), "it is a member now");
    let formed = ensemble.meta(1).unwrap();
    assert_eq!(formed.cluster.to_string(), one);
}

struct Ensemble {
    place: PathBuf,
    servers: Vec<Server>,
    voters: u8,
}

struct Server {
    port: u16,
    process: Option<Child>,
}

impl Ensemble {
    fn new(name: &str, voters: u8, observers: u8) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pigeonhole-founding-{name}-{}-{number}", std::process::id());
        // Not in the memory that /tmp is on some machines: direct writes need a disk.
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let count = usize::from(voters + observers);
        let first = ports::take(u16::try_from(2 * count).unwrap());
        let ports: Vec<u16> = (first..).take(2 * count).collect();
        let mut members = String::new();
        for (id, port) in (1..=voters + observers).zip(&ports) {
            let role = if id > voters { ":observer" } else { "" };
            members += &format!("server.{id}=127.0.0.1:{port}:1{id}{role}\n");
        }
        let servers = ports[count..].iter().map(|&port| Server { port, process: None });
        let ensemble = Self { place, servers: servers.collect(), voters };
        for id in 1..=voters + observers {
            ensemble.write_id(id);
            let port = ensemble.port(id);
            let text = format!(
                "dataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\ninitLimit=10\n\
                 syncLimit=5\n{members}",
                ensemble.data(id).display()
            );
            fs::write(ensemble.config(id), text).unwrap();
        }
        ensemble
    }

    fn start(&mut self, server: u8) {
        let log = File::options().create(true).append(true).open(self.log(server));
        let config = self.config(server).display().to_string();
        let mut command = binary(&["serve", &config]);
        command.stdin(Stdio::null()).stderr(log.unwrap());
        let process = command.spawn().unwrap();
        self.servers[usize::from(server) - 1].process = Some(process);
        // It listens when it has its directory and its ports.
        let port = self.port(server);
        self.wait_until(|_| TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    fn kill(&mut self, server: u8) {
        let process = &mut self.servers[usize::from(server) - 1].process;
        let mut process = process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// The server ends, and its disk is empty when it comes back.
    fn lose_data(&mut self, server: u8) {
        self.kill(server);
        fs::remove_dir_all(self.data(server)).unwrap();
        self.write_id(server);
    }

    fn terminate(&mut self, server: u8) -> ExitStatus {
        let process = &mut self.servers[usize::from(server) - 1].process;
        let mut process = process.take().unwrap();
        let id = libc::pid_t::try_from(process.id()).unwrap();
        // SAFETY: takes no memory.
        assert_eq!(unsafe { libc::kill(id, libc::SIGTERM) }, 0);
        process.wait().unwrap()
    }

    /// Waits until the server has said something in its log.
    fn wait_for_word(&self, server: u8, word: &str) {
        self.wait_until(|ensemble| {
            let said = fs::read_to_string(ensemble.log(server)).unwrap();
            said.contains(word)
        });
    }

    /// Connects, until a server with a leader lets it have a session.
    fn client(&self, server: u8) -> Caller {
        self.wait_for(|ensemble| Caller::connect(ensemble.port(server)).ok())
    }

    fn wait_until(&self, condition: impl Fn(&Self) -> bool) {
        self.wait_for(|ensemble| condition(ensemble).then_some(()));
    }

    /// Waits until there is an answer; without one, the servers' logs tell why.
    fn wait_for<T>(&self, answer: impl Fn(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = answer(self) {
                return answer;
            }
            if Instant::now() >= deadline {
                for id in (1..).take(self.servers.len()) {
                    let said = fs::read_to_string(self.log(id)).unwrap_or_default();
                    eprintln!("server {id} on port {}:\n{said}", self.port(id));
                }
                panic!("it does not come about");
            }
            std::thread::yield_now();
        }
    }

    fn serves(&self, server: u8) -> bool {
        self.ask(server, "srvr").is_ok_and(|answer| answer.contains("\nMode: "))
    }

    fn ask(&self, server: u8, word: &str) -> io::Result<String> {
        caller::word(self.port(server), word)
    }

    /// All voters are members of one cluster: which one.
    fn check_one_cluster(&self) -> ClusterId {
        self.wait_until(|ensemble| {
            let formed = |id| {
                let meta = ensemble.meta(id);
                meta.is_some_and(|meta| meta.state == Formation::Formed)
            };
            (1..=ensemble.voters).all(formed)
        });
        let cluster = self.meta(1).unwrap().cluster;
        for id in (1..).take(self.servers.len()) {
            assert_eq!(self.meta(id).unwrap().cluster, cluster, "server {id}");
        }
        cluster
    }

    fn meta(&self, server: u8) -> Option<Meta> {
        let bytes = fs::read(self.data(server).join("meta")).ok()?;
        Some(Meta::decode(&bytes).unwrap())
    }

    fn write_id(&self, server: u8) {
        fs::create_dir_all(self.data(server)).unwrap();
        fs::write(self.data(server).join("myid"), format!("{server}\n")).unwrap();
    }

    fn port(&self, server: u8) -> u16 {
        self.servers[usize::from(server) - 1].port
    }

    fn data(&self, server: u8) -> PathBuf {
        self.place.join(format!("data-{server}"))
    }

    fn config(&self, server: u8) -> PathBuf {
        self.place.join(format!("{server}.cfg"))
    }

    fn log(&self, server: u8) -> PathBuf {
        self.place.join(format!("{server}.log"))
    }
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        for process in self.servers.iter_mut().filter_map(|it| it.process.as_mut()) {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_dir_all(&self.place);
    }
}

/// The server has whatever was written before.
fn find(caller: &mut Caller, path: &str) {
    caller.sync();
    assert!(caller.exists(path), "{path}");
}

fn binary(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    command.args(arguments).env("RUST_LOG", "info");
    command
}

const NOT_SERVING: &str = "This ZooKeeper instance is not currently serving requests\n";
