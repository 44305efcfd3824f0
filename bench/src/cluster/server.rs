//! One server process: its birth, its death, and the question whether it serves.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{self, Client};
use crate::error::BenchError;

/// A server that can be started any number of times on the same data.
pub(super) struct Server {
    name: String,
    address: SocketAddr,
    command: Command,
    home: PathBuf,
    child: Option<Child>,
}

impl Server {
    pub(super) fn new(
        name: String,
        address: SocketAddr,
        mut command: Command,
        home: PathBuf,
    ) -> Self {
        command.current_dir(&home).stdin(Stdio::null());
        // SAFETY: between fork and exec only this one system call is made.
        unsafe {
            command.pre_exec(|| {
                // A server must not outlive the run, however that ends.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        Self { name, address, command, home, child: None }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The role that the server says it has.
    pub(super) fn mode(&self) -> Result<String, BenchError> {
        client::mode(self.address, POLL_PATIENCE)
    }

    pub(super) fn spawn(&mut self) -> Result<(), BenchError> {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .map_err(BenchError::io(format!("open the log of {}", self.name)))?;
        let errors = log.try_clone().map_err(BenchError::io("duplicate a descriptor"))?;
        let child = self
            .command
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(BenchError::io(format!("start {:?}", self.command.get_program())))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until the server grants a session, which takes a quorum.
    pub(super) fn wait_until_serving(&mut self, patience: Duration) -> Result<(), BenchError> {
        let deadline = Instant::now() + patience;
        loop {
            if let Ok(client) = Client::connect(self.address, POLL_PATIENCE) {
                return client.close();
            }
            let child = self.child.as_mut().expect("only a started server is waited for");
            let exited = child.try_wait().map_err(BenchError::io("look after a server"))?;
            let problem = match exited {
                Some(status) => format!("ended with {status}"),
                None if Instant::now() > deadline => format!("does not serve after {patience:?}"),
                None => {
                    pause(POLL_INTERVAL);
                    continue;
                }
            };
            return Err(BenchError::Invalid(format!("{} {problem}; {}", self.name, self.log())));
        }
    }

    /// Kills the process with no chance to tidy up, and waits until it is gone.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only for a process that has ended, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn log_path(&self) -> PathBuf {
        self.home.join("log")
    }

    /// The end of the log, for an error message.
    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        format!("the end of its log:\n{}", last.join("\n"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Backs off before the next attempt at something that only another process can make succeed.
pub(crate) fn pause(interval: Duration) {
    thread::park_timeout(interval);
}

const POLL_PATIENCE: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const LOG_LINES_SHOWN: usize = 10;
