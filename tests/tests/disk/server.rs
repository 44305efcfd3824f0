//! Real servers with their directories, started and killed, and a client that can pipeline.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pigeonhole_core::base::id::{SessionId, Zxid};
use pigeonhole_core::op::{Acl, ConnectRequest, CreateMode, Request};
use pigeonhole_core::wire::client;
use pigeonhole_tests::ports;

/// Servers that are configured alike; a single one is standalone.
pub(crate) struct Servers {
    place: PathBuf,
    servers: Vec<Server>,
    settings: String,
}

struct Server {
    port: u16,
    process: Option<Child>,
}

pub(crate) struct Client {
    stream: TcpStream,
    xid: i32,
}

impl Servers {
    pub(crate) fn new(name: &str, count: u8, settings: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pigeonhole-disk-{name}-{}-{number}", std::process::id());
        // Not in the memory that /tmp is on some machines: direct writes need a disk.
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let first = ports::take(2 * u16::from(count));
        let mut lines = format!("4lw.commands.whitelist=*\n{settings}");
        if count > 1 {
            lines += "initLimit=10\nsyncLimit=5\n";
            for (id, port) in (1..=count).zip(first + u16::from(count)..) {
                lines += &format!("server.{id}=127.0.0.1:{port}:1{id}\n");
            }
        }
        let servers = (first..).take(usize::from(count));
        let servers = servers.map(|port| Server { port, process: None }).collect();
        let ensemble = Self { place, servers, settings: lines };
        for id in 1..=count {
            ensemble.write_id(id);
            ensemble.configure(id, "");
        }
        ensemble
    }

    /// Writes the configuration anew, with further lines.
    pub(crate) fn configure(&self, server: u8, more: &str) {
        let text = format!(
            "dataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\n{}{more}",
            self.data(server).display(),
            self.port(server),
            self.settings
        );
        fs::write(self.config(server), text).unwrap();
    }

    pub(crate) fn write_id(&self, server: u8) {
        fs::create_dir_all(self.data(server)).unwrap();
        fs::write(self.data(server).join("myid"), format!("{server}\n")).unwrap();
    }

    pub(crate) fn start(&mut self, server: u8) {
        self.start_as(server, |_| {});
    }

    /// Starts a server whose process is changed before it runs.
    pub(crate) fn start_as(&mut self, server: u8, change: impl FnOnce(&mut Command)) {
        let log = File::options().create(true).append(true).open(self.log_path(server));
        let mut command = self.command(&["serve", &self.config(server).display().to_string()]);
        command.stdin(Stdio::null()).stderr(log.unwrap());
        change(&mut command);
        self.servers[usize::from(server) - 1].process = Some(command.spawn().unwrap());
    }

    pub(crate) fn kill(&mut self, server: u8) {
        let mut process = self.take_process(server);
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub(crate) fn terminate(&mut self, server: u8) -> ExitStatus {
        let mut process = self.take_process(server);
        let id = libc::pid_t::try_from(process.id()).unwrap();
        // SAFETY: takes no memory.
        assert_eq!(unsafe { libc::kill(id, libc::SIGTERM) }, 0);
        process.wait().unwrap()
    }

    pub(crate) fn process_id(&self, server: u8) -> u32 {
        self.servers[usize::from(server) - 1].process.as_ref().unwrap().id()
    }

    /// Runs the program to its end: its status, and all that it has said.
    pub(crate) fn run(&self, arguments: &[&str]) -> (ExitStatus, String) {
        let output = self.command(arguments).stdin(Stdio::null()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status, String::from_utf8(text).unwrap())
    }

    pub(crate) fn check(&self, server: u8) -> (ExitStatus, String) {
        self.run(&["check", &self.data(server).display().to_string()])
    }

    /// Connects, until a server with a leader lets it have a session.
    pub(crate) fn client(&self, server: u8) -> Client {
        self.wait_for(|servers| Client::connect(servers.port(server)).ok())
    }

    /// One figure of `mntr`.
    pub(crate) fn figure(&self, server: u8, name: &str) -> Option<String> {
        let text = self.word(server, "mntr").ok()?;
        let lines = text.lines().filter_map(|line| line.split_once('\t'));
        lines.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
    }

    /// Of every shard its digest, as soon as the server serves.
    pub(crate) fn digests(&self, server: u8) -> Vec<String> {
        self.wait_for(|servers| {
            let text = servers.word(server, "mntr").ok()?;
            let digests = text.lines().filter(|line| line.contains("_digest\t"));
            let digests: Vec<_> = digests.map(str::to_owned).collect();
            (!digests.is_empty()).then_some(digests)
        })
    }

    pub(crate) fn said(&self, server: u8) -> String {
        fs::read_to_string(self.log_path(server)).unwrap_or_default()
    }

    pub(crate) fn wait_until(&self, condition: impl Fn(&Self) -> bool) {
        self.wait_for(|servers| condition(servers).then_some(()));
    }

    /// Waits until there is an answer; without one, the servers' logs tell why.
    pub(crate) fn wait_for<T>(&self, answer: impl Fn(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = answer(self) {
                return answer;
            }
            if Instant::now() >= deadline {
                for id in (1..).take(self.servers.len()) {
                    eprintln!("server {id} on port {}:\n{}", self.port(id), self.said(id));
                }
                panic!("it does not come about");
            }
            std::thread::yield_now();
        }
    }

    /// The files of a kind in a server's directory, by their names.
    pub(crate) fn files(&self, server: u8, directory: &str, ending: &str) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.data(server).join(directory)) else {
            return Vec::new();
        };
        let paths = entries.map(|entry| entry.unwrap().path());
        let is_wanted = |path: &PathBuf| path.to_str().is_some_and(|it| it.ends_with(ending));
        let mut files: Vec<_> = paths.filter(is_wanted).collect();
        files.sort();
        files
    }

    pub(crate) fn data(&self, server: u8) -> PathBuf {
        self.place.join(format!("data-{server}"))
    }

    pub(crate) fn config(&self, server: u8) -> PathBuf {
        self.place.join(format!("{server}.cfg"))
    }

    fn word(&self, server: u8, word: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port(server)))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(word.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
        command.args(arguments).env("RUST_LOG", "info").current_dir(&self.place);
        command
    }

    fn take_process(&mut self, server: u8) -> Child {
        self.servers[usize::from(server) - 1].process.take().unwrap()
    }

    fn port(&self, server: u8) -> u16 {
        self.servers[usize::from(server) - 1].port
    }

    fn log_path(&self, server: u8) -> PathBuf {
        self.place.join(format!("{server}.log"))
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for process in self.servers.iter_mut().filter_map(|it| it.process.as_mut()) {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_dir_all(&self.place);
    }
}

impl Client {
    fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream, xid: 0 };
        let mut frame = Vec::new();
        let request = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: Zxid::ZERO,
            timeout_ms: 30_000,
            session: SessionId(0),
            password: &[0; 16],
            read_only: Some(false),
        };
        client::put_connect(&mut frame, &request);
        client.stream.write_all(&frame)?;
        let answer = client.frame()?;
        let response = client::parse_connect(&answer).expect("a connect response");
        assert_ne!(response.session, SessionId(0), "there is a session");
        Ok(client)
    }

    /// Creates znodes, many at a time; every one must come about.
    pub(crate) fn create_all(&mut self, paths: impl IntoIterator<Item = String>, data: &[u8]) {
        let paths: Vec<String> = paths.into_iter().collect();
        let acl = || vec![Acl { permissions: 31, scheme: "world", id: "anyone" }];
        let requests = paths.iter().map(|path| Request::Create {
            path,
            data: Some(data),
            acl: acl(),
            mode: CreateMode::Persistent,
            with_stat: false,
        });
        for code in self.ask_all(requests) {
            assert_eq!(code, 0);
        }
    }

    /// Sets data, many at a time: how often that succeeded, and with which code it did not.
    pub(crate) fn set_all(
        &mut self,
        paths: impl IntoIterator<Item = String>,
        data: &[u8],
    ) -> (usize, Option<i32>) {
        let paths: Vec<String> = paths.into_iter().collect();
        let set = |path| Request::SetData { path, data: Some(data), version: -1 };
        let codes = self.ask_all(paths.iter().map(|path| set(path)));
        let refused = codes.iter().find(|&&code| code != 0).copied();
        (codes.iter().filter(|&&code| code == 0).count(), refused)
    }

    pub(crate) fn sync(&mut self) {
        assert_eq!(self.ask_all([Request::Sync { path: "/" }]), [0]);
    }

    pub(crate) fn exists(&mut self, path: &str) -> bool {
        self.ask_all([Request::Exists { path, watch: false }]) == [0]
    }

    fn ask_all<'a>(&mut self, requests: impl IntoIterator<Item = Request<'a>>) -> Vec<i32> {
        let mut codes = Vec::new();
        let mut outstanding = 0;
        for request in requests {
            self.xid += 1;
            let mut frame = Vec::new();
            client::put_request(&mut frame, self.xid, &request);
            self.stream.write_all(&frame).unwrap();
            outstanding += 1;
            if outstanding == DEPTH {
                codes.push(self.code());
                outstanding -= 1;
            }
        }
        codes.extend((0..outstanding).map(|_| self.code()));
        codes
    }

    fn code(&mut self) -> i32 {
        let answer = self.frame().unwrap();
        i32::from_be_bytes(*answer[12..].first_chunk().unwrap())
    }

    fn frame(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap();
        let mut frame = vec![0; length];
        self.stream.read_exact(&mut frame)?;
        Ok(frame)
    }
}

const PATIENCE: Duration = Duration::from_secs(20);
const DEPTH: usize = 64;
