//! The product as a process: started, killed, restarted, refused.
//!
//! Every test has its own directory and its own ports, which it asks the kernel for.
#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pigeonhole_core::op::Request;
use pigeonhole_core::wire::client;
use pigeonhole_tests::caller::{self, Caller, PATIENCE};
use pigeonhole_tests::ports;

#[test]
fn what_was_acknowledged_outlives_a_kill() {
    let server = Server::new("kill", "");
    let mut first = server.start();
    let mut client = connect(server.port);
    client.create("/kept", b"before the kill");
    first.kill();
    assert_eq!(first.wait().code(), None, "it was killed by a signal");

    let mut second = server.start();
    let mut client = connect(server.port);
    assert_eq!(client.data("/kept"), b"before the kill");
    client.create("/kept/again", b"");
    assert_eq!(second.terminate().code(), Some(0));

    let _third = server.start();
    assert_eq!(connect(server.port).data("/kept/again"), b"");
}

#[test]
fn a_stop_in_good_order_takes_less_than_five_seconds_and_leaves_a_clean_log() {
    let server = Server::new("stop", "pigeonhole.cores=2\npigeonhole.shards=4\n");
    let mut process = server.start();
    let mut client = connect(server.port);
    for number in 0..20 {
        client.create(&format!("/node-{number}"), b"data");
    }
    let begun = Instant::now();
    assert_eq!(process.terminate().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(client.is_closed(), "the client is told that the server is gone");

    let (status, printed) = run(server.command(&["check", &server.data_text()]));
    assert_eq!(status.code(), Some(0), "{printed}");
    assert_eq!(printed.matches("ends clean").count(), 2, "{printed}");
    assert_eq!(printed.matches("whole").count(), 4, "{printed}");
}

#[test]
fn a_second_server_on_the_same_port_or_directory_is_refused() {
    let server = Server::new("twice", "");
    let _process = server.start();
    let (status, said) = run(server.command(&["serve", &server.config_text()]));
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("another server uses"), "{said}");

    let other = Server::on_port("twice-port", "", server.port);
    let (status, said) = run(other.command(&["serve", &other.config_text()]));
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("cannot listen on 127.0.0.1"), "{said}");
    assert!(said.contains("Address already in use"), "{said}");
    assert!(said.contains("choose another port with clientPort"), "{said}");
}

#[test]
fn a_directory_that_cannot_be_made_is_no_fault_of_the_disk() {
    let server = Server::new("no-directory", "");
    fs::create_dir_all(&server.data).unwrap();
    fs::write(server.data.join("log"), b"somebody's own").unwrap();
    let (status, said) = run(server.command(&["serve", &server.config_text()]));
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("choose another directory with dataDir"), "{said}");
}

#[test]
fn a_directory_with_other_data_is_refused() {
    let zookeeper = Server::new("foreign", "");
    fs::create_dir_all(zookeeper.data.join("version-2")).unwrap();
    let (status, said) = run(zookeeper.command(&["serve", &zookeeper.config_text()]));
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("the data of a ZooKeeper server"), "{said}");

    let damaged = Server::new("damaged", "");
    fs::create_dir_all(&damaged.data).unwrap();
    fs::write(damaged.data.join("meta"), b"something else").unwrap();
    let (status, said) = run(damaged.command(&["serve", &damaged.config_text()]));
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("meta"), "{said}");

    let moved = Server::new("moved", "");
    moved.start().terminate();
    fs::write(moved.data.join("myid"), b"7\n").unwrap();
    let (status, said) = run(moved.command(&["serve", &moved.config_text()]));
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("check myid"), "{said}");
}

#[test]
fn a_wrong_configuration_is_refused_with_its_line() {
    let server = Server::new("wrong", "tickTime=often\n");
    let (status, said) = run(server.command(&["serve", &server.config_text()]));
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("tickTime"), "{said}");
}

#[test]
fn an_ensemble_that_was_formatted_serves_without_forming() {
    let servers = Server::ensemble("format", 3);
    let (status, printed) = run(servers[0].command(&["format", &servers[0].config_text()]));
    assert_eq!(status.code(), Some(0), "{printed}");
    let cluster = printed.trim().to_owned();
    for server in &servers[1..] {
        let arguments = ["format", &server.config_text(), "--cluster", &cluster, "--founding"];
        let (status, printed) = run(server.command(&arguments));
        assert_eq!((status.code(), printed.trim()), (Some(0), cluster.as_str()));
    }
    let (status, said) = run(servers[2].command(&["format", &servers[2].config_text()]));
    assert_eq!(status.code(), Some(3), "{said}");

    let mut processes: Vec<_> = servers.iter().map(Server::start).collect();
    let mut client = connect(servers[0].port);
    client.create("/shared", b"by all");
    processes[2].kill();
    processes[2].wait();
    // A new connection, because the leader may have been the one that is gone.
    let mut client = connect(servers[1].port);
    client.create("/majority", b"two of three");
    let again = servers[2].start();
    drop(processes.remove(0));
    let mut client = connect(servers[2].port);
    client.sync();
    assert_eq!(client.data("/shared"), b"by all");
    assert_eq!(client.data("/majority"), b"two of three");
    drop(again);
}

#[test]
fn an_unprivileged_server_makes_do_with_little_lockable_memory() {
    // SAFETY: takes no memory.
    if unsafe { libc::geteuid() } != 0 {
        // Already unprivileged: every test of this file shows it, with the limit of the day.
        return;
    }
    let server = Server::new("unprivileged", "");
    fs::create_dir_all(&server.data).unwrap();
    std::os::unix::fs::chown(&server.data, Some(NOBODY), Some(NOBODY)).unwrap();
    for limit in [8 << 20, 64 << 10] {
        let mut command = server.command(&["serve", &server.config_text()]);
        command.uid(NOBODY).gid(NOBODY);
        lock_at_most(&mut command, limit);
        let mut process = server.start_as(command);
        let mut client = connect(server.port);
        client.create(&format!("/with-{limit}"), b"");
        assert_eq!(process.terminate().code(), Some(0), "with {limit} bytes");
    }
}

#[test]
fn words_are_answered_and_those_not_allowed_are_refused() {
    let server = Server::new("words", "4lw.commands.whitelist=ruok, srvr, mntr\n");
    let _process = server.start();
    assert_eq!(server.word("ruok"), "imok");
    let srvr = server.word("srvr");
    assert!(srvr.starts_with("Zookeeper version: 3.8.0"), "{srvr}");
    assert!(srvr.contains("\nMode: standalone\nNode count: 5\n"), "{srvr}");
    let mntr = server.word("mntr");
    assert!(mntr.contains("\nzk_znode_count\t5\n"), "{mntr}");
    assert!(mntr.contains("\nzk_shard_0_leader\t1\n"), "{mntr}");
    let refused = "conf is not executed because it is not in the whitelist.\n";
    assert_eq!(server.word("conf"), refused);
}

#[test]
fn clients_that_misbehave_disturb_nobody() {
    let server = Server::new("misbehave", "maxClientCnxns=0\npigeonhole.cores=2\n");
    let _process = server.start();
    let mut steady = connect(server.port);
    steady.create("/steady", b"data");
    for round in 0..200_u16 {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
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
    let mut stuck = connect(server.port).into_stream();
    stuck.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut request = Vec::new();
    client::put_request(&mut request, 1, &Request::GetData { path: "/steady", watch: false });
    let burst = request.repeat(1000);
    let outcome = (0..10_000).try_for_each(|_| stuck.write_all(&burst));
    assert!(outcome.is_err(), "the server reads on without end");
    assert_eq!(steady.data("/steady"), b"data");
}

#[test]
fn the_version_names_the_formats() {
    let (status, printed) = run(binary(&["--version"]));
    assert_eq!(status.code(), Some(0));
    assert!(printed.starts_with("pigeonhole "), "{printed}");
    assert!(printed.contains("formats: log 1, meta 2, peer protocol 1"), "{printed}");
}

#[test]
fn a_local_cluster_serves_within_a_second_and_keeps_its_data() {
    let place = Place::new("local");
    let port = ports::take(1);
    let data = place.0.join("data").display().to_string();
    let arguments = ["--data", &data, "--port", &port.to_string(), "--replicas", "3"];
    let begun = Instant::now();
    let mut process = Process(binary(&arguments).stdout(Stdio::null()).spawn().unwrap());
    let mut client = connect(port);
    client.create("/local", b"data");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(process.terminate().code(), Some(0));

    let _again = Process(binary(&arguments).stdout(Stdio::null()).spawn().unwrap());
    let mut client = connect(port);
    client.sync();
    assert_eq!(client.data("/local"), b"data");

    let fewer = ["--data", &data, "--port", &port.to_string(), "--replicas", "1"];
    let (status, said) = run(binary(&fewer));
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("--replicas"), "{said}");
}

/// A directory of one test.
struct Place(PathBuf);

/// One server's configuration and data.
struct Server {
    place: Place,
    data: PathBuf,
    port: u16,
}

/// A running server; it is killed with the test.
struct Process(Child);

impl Place {
    fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pigeonhole-{name}-{}-{number}", std::process::id());
        // Not in the memory that /tmp is on some machines: direct writes need a disk.
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Server {
    fn new(name: &str, settings: &str) -> Self {
        Self::on_port(name, settings, ports::take(1))
    }

    fn on_port(name: &str, settings: &str, port: u16) -> Self {
        let place = Place::new(name);
        let data = place.0.join("data");
        let text = format!(
            "dataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\n{settings}",
            data.display()
        );
        fs::write(place.0.join("zoo.cfg"), text).unwrap();
        Self { place, data, port }
    }

    fn ensemble(name: &str, count: usize) -> Vec<Self> {
        let first = ports::take(u16::try_from(2 * count).unwrap());
        let ports: Vec<u16> = (first..).take(2 * count).collect();
        let members: String = (1..)
            .zip(&ports[..count])
            .map(|(id, port)| format!("server.{id}=127.0.0.1:{port}:1{id}\n"))
            .collect();
        let settings = format!("initLimit=10\nsyncLimit=5\n{members}");
        let servers = (1..).zip(&ports[count..]).map(|(id, port)| {
            let server = Self::on_port(name, &settings, *port);
            fs::create_dir_all(&server.data).unwrap();
            fs::write(server.data.join("myid"), format!("{id}\n")).unwrap();
            server
        });
        servers.take(count).collect()
    }

    fn start(&self) -> Process {
        self.start_as(self.command(&["serve", &self.config_text()]))
    }

    fn start_as(&self, mut command: Command) -> Process {
        let mut process = Process(command.stdin(Stdio::null()).spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < deadline, "the server does not listen");
            if let Some(status) = process.0.try_wait().unwrap() {
                panic!("the server has ended with {status}");
            }
            std::thread::yield_now();
        }
        process
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = binary(arguments);
        command.current_dir(&self.place.0);
        command
    }

    fn config_text(&self) -> String {
        self.place.0.join("zoo.cfg").display().to_string()
    }

    fn data_text(&self) -> String {
        self.data.display().to_string()
    }

    /// Asks a four-letter word, until the server serves.
    fn word(&self, word: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = caller::word(self.port, word).unwrap();
            if !answer.contains("not currently serving") {
                return answer;
            }
            assert!(Instant::now() < deadline, "the server does not begin to serve");
        }
    }
}

impl Process {
    fn kill(&mut self) {
        self.0.kill().unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }

    fn terminate(&mut self) -> ExitStatus {
        let id = libc::pid_t::try_from(self.0.id()).unwrap();
        // SAFETY: takes no memory.
        assert_eq!(unsafe { libc::kill(id, libc::SIGTERM) }, 0);
        self.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Connects, until a server with a leader lets it have a session.
fn connect(port: u16) -> Caller {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Caller::connect(port) {
            Ok(caller) => return caller,
            Err(error) => assert!(Instant::now() < deadline, "no session: {error}"),
        }
    }
}

fn binary(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    command.args(arguments).env("RUST_LOG", "warn");
    command
}

/// Runs a command to its end; what it has printed and said.
fn run(mut command: Command) -> (ExitStatus, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status, String::from_utf8(text).unwrap())
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
