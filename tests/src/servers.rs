//! Real servers, each with its configuration and its directory: started, killed, asked.
//!
//! They belong to one test, which calls them 1, 2, 3…, and they end with it. What they have printed
//! and said goes to a log each, and is shown if the test fails.
#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use crate::caller::{self, Caller, PATIENCE};
use crate::ports;

/// What is tested, and where its data may lie. Cargo tells both to a test that it builds, and to
/// nobody else.
#[derive(Clone, Copy)]
pub struct Program {
    pub path: &'static str,
    /// Not in the memory that /tmp is on some machines: direct writes need a disk.
    pub directory: &'static str,
}

/// Servers that are configured alike.
pub struct Servers {
    program: Program,
    place: PathBuf,
    servers: Vec<Server>,
    settings: String,
}

struct Server {
    port: u16,
    process: Option<Child>,
}

impl Program {
    /// One server, which makes its directory itself.
    pub fn standalone(self, name: &str, settings: &str) -> Servers {
        Servers::new(self, name, 1, settings.to_owned())
    }

    /// An ensemble of voters. Their directories have their ids, and nothing else.
    pub fn ensemble(self, name: &str, voters: u8, settings: &str) -> Servers {
        self.ensemble_with_observers(name, voters, 0, settings)
    }

    /// The observers' ids come after those of the voters.
    pub fn ensemble_with_observers(
        self,
        name: &str,
        voters: u8,
        observers: u8,
        settings: &str,
    ) -> Servers {
        let count = voters + observers;
        let mut settings = format!("initLimit=10\nsyncLimit=5\n{settings}");
        for (id, port) in (1..=count).zip(ports::take(count.into())..) {
            let role = if id > voters { ":observer" } else { "" };
            settings += &format!("server.{id}=127.0.0.1:{port}:1{id}{role}\n");
        }
        let servers = Servers::new(self, name, count, settings);
        servers.ids().for_each(|id| servers.write_id(id));
        servers
    }

    pub fn command(self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path);
        command.args(arguments).env("RUST_LOG", "info").stdin(Stdio::null());
        command
    }
}

impl Servers {
    fn new(program: Program, name: &str, count: u8, settings: String) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pigeonhole-{name}-{}-{number}", std::process::id());
        let place = Path::new(program.directory).join(name);
        fs::create_dir_all(&place).unwrap();
        let ports = (ports::take(count.into())..).take(count.into());
        let servers = ports.map(|port| Server { port, process: None }).collect();
        let servers = Self { program, place, servers, settings };
        servers.ids().for_each(|id| servers.configure(id, ""));
        servers
    }

    /// Writes the configuration anew, with further lines; of lines with the same key the last one
    /// counts.
    pub fn configure(&self, server: u8, more: &str) {
        let text = format!(
            "dataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\n4lw.commands.whitelist=*\n\
             {}{more}",
            self.data(server).display(),
            self.port(server),
            self.settings
        );
        fs::write(self.config(server), text).unwrap();
    }

    pub fn start(&mut self, server: u8) {
        self.start_as(server, self.serve(server));
    }

    pub fn start_all(&mut self) {
        self.ids().for_each(|id| self.start(id));
    }

    /// Starts a server by a command that is more than [`Servers::serve`].
    pub fn start_as(&mut self, server: u8, mut command: Command) {
        let log = File::options().create(true).append(true).open(self.log(server)).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.servers[index(server)].process = Some(command.spawn().unwrap());
        // It listens when it has its directory and its ports.
        let address = ("127.0.0.1", self.port(server));
        let process = self.servers[index(server)].process.as_mut().unwrap();
        patiently(|| {
            assert_eq!(process.try_wait().unwrap(), None, "server {server} has ended at once");
            TcpStream::connect(address).ok()
        });
    }

    pub fn kill(&mut self, server: u8) -> ExitStatus {
        let mut process = self.servers[index(server)].process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap()
    }

    /// Asks a server to end, and waits until it has.
    pub fn terminate(&mut self, server: u8) -> ExitStatus {
        let mut process = self.servers[index(server)].process.take().unwrap();
        // Every shell has this signal built in; this library could not send it without unsafe code.
        let signal = format!("kill -TERM {}", process.id());
        assert!(Command::new("sh").args(["-c", &signal]).status().unwrap().success());
        process.wait().unwrap()
    }

    /// The server ends, and its disk is empty when it comes back.
    pub fn lose_data(&mut self, server: u8) {
        self.kill(server);
        fs::remove_dir_all(self.data(server)).unwrap();
        self.write_id(server);
    }

    /// The command that serves, for [`Servers::start_as`].
    pub fn serve(&self, server: u8) -> Command {
        self.command(&["serve", &self.config(server).display().to_string()])
    }

    /// How a server ends that refuses to serve, and what it says.
    pub fn refusal(&self, server: u8) -> (ExitStatus, String) {
        run(self.serve(server))
    }

    pub fn format(&self, server: u8, options: &[&str]) -> (ExitStatus, String) {
        let mut command = self.command(&["format", &self.config(server).display().to_string()]);
        command.args(options);
        run(command)
    }

    pub fn check(&self, server: u8) -> (ExitStatus, String) {
        run(self.command(&["check", &self.data(server).display().to_string()]))
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program.command(arguments);
        command.current_dir(&self.place);
        command
    }

    /// Connects, until a server with a leader lets it have a session.
    pub fn client(&self, server: u8) -> Caller {
        self.wait_for(|servers| Caller::connect(servers.port(server)).ok())
    }

    pub fn serves(&self, server: u8) -> bool {
        self.word(server, "srvr").is_ok_and(|answer| answer.contains("\nMode: "))
    }

    /// What a server answers to a four-letter word.
    pub fn word(&self, server: u8, word: &str) -> io::Result<String> {
        caller::word(self.port(server), word)
    }

    /// One figure of `mntr`.
    pub fn figure(&self, server: u8, name: &str) -> Option<String> {
        let text = self.word(server, "mntr").ok()?;
        let mut figures = text.lines().filter_map(|line| line.split_once('\t'));
        figures.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
    }

    /// Of every shard its digest, as soon as the server serves.
    pub fn digests(&self, server: u8) -> Vec<String> {
        self.wait_for(|servers| {
            let text = servers.word(server, "mntr").ok()?;
            let digests = text.lines().filter(|line| line.contains("_digest\t"));
            let digests: Vec<_> = digests.map(str::to_owned).collect();
            (!digests.is_empty()).then_some(digests)
        })
    }

    /// What a server has printed and said, in all its runs.
    pub fn said(&self, server: u8) -> String {
        fs::read_to_string(self.log(server)).unwrap_or_default()
    }

    pub fn wait_until_said(&self, server: u8, words: &str) {
        self.wait_until(|servers| servers.said(server).contains(words));
    }

    pub fn wait_until(&self, condition: impl Fn(&Self) -> bool) {
        self.wait_for(|servers| condition(servers).then_some(()));
    }

    /// Waits until there is an answer.
    pub fn wait_for<T>(&self, answer: impl Fn(&Self) -> Option<T>) -> T {
        patiently(|| answer(self))
    }

    /// The files of a kind in a server's directory, by their names.
    pub fn files(&self, server: u8, directory: &str, ending: &str) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.data(server).join(directory)) else {
            return Vec::new();
        };
        let paths = entries.map(|entry| entry.unwrap().path());
        let is_wanted = |path: &PathBuf| path.to_str().is_some_and(|it| it.ends_with(ending));
        let mut files: Vec<_> = paths.filter(is_wanted).collect();
        files.sort();
        files
    }

    pub fn ids(&self) -> impl Iterator<Item = u8> + use<> {
        (1..).take(self.servers.len())
    }

    pub fn process_id(&self, server: u8) -> u32 {
        self.servers[index(server)].process.as_ref().unwrap().id()
    }

    pub fn port(&self, server: u8) -> u16 {
        self.servers[index(server)].port
    }

    pub fn data(&self, server: u8) -> PathBuf {
        self.place.join(format!("data-{server}"))
    }

    pub fn config(&self, server: u8) -> PathBuf {
        self.place.join(format!("{server}.cfg"))
    }

    fn log(&self, server: u8) -> PathBuf {
        self.place.join(format!("{server}.log"))
    }

    fn write_id(&self, server: u8) {
        fs::create_dir_all(self.data(server)).unwrap();
        fs::write(self.data(server).join("myid"), format!("{server}\n")).unwrap();
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for process in self.servers.iter_mut().filter_map(|it| it.process.as_mut()) {
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            for id in self.ids() {
                eprintln!("server {id} on port {}:\n{}", self.port(id), self.said(id));
            }
        }
        let _ = fs::remove_dir_all(&self.place);
    }
}

/// A test that passes says nothing by `eprintln`: cargo keeps that to itself.
pub fn say_skipped(why: &str) {
    // Without standard error nobody reads it.
    let _ = writeln!(io::stderr(), "SKIPPED: {why}");
}

/// Runs a command to its end: its status, and all that it has printed and said.
pub fn run(mut command: Command) -> (ExitStatus, String) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status, String::from_utf8(text).unwrap())
}

/// Asks until there is an answer; it must come within [`PATIENCE`].
fn patiently<T>(mut answer: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(Instant::now() < deadline, "it does not come about");
        std::thread::yield_now();
    }
}

fn index(server: u8) -> usize {
    usize::from(server) - 1
}
