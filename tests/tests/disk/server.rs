//! Real servers with their directories, started and killed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use pigeonhole_tests::caller::{self, Caller, PATIENCE};
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
    pub(crate) fn client(&self, server: u8) -> Caller {
        self.wait_for(|servers| Caller::connect(servers.port(server)).ok())
    }

    /// One figure of `mntr`.
    pub(crate) fn figure(&self, server: u8, name: &str) -> Option<String> {
        let text = caller::word(self.port(server), "mntr").ok()?;
        let lines = text.lines().filter_map(|line| line.split_once('\t'));
        lines.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
    }

    /// Of every shard its digest, as soon as the server serves.
    pub(crate) fn digests(&self, server: u8) -> Vec<String> {
        self.wait_for(|servers| {
            let text = caller::word(servers.port(server), "mntr").ok()?;
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
