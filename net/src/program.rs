//! The program: its commands, its log, its signals, its exit codes.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use pigeonhole_core::base::id::ClusterId;
use pigeonhole_core::peer::hello::{PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN};
use pigeonhole_storage::batch::LOG_FORMAT;
use pigeonhole_storage::meta::META_FORMAT;
use tracing_subscriber::EnvFilter;

use crate::boot::{Node, Process, STOP_TIME_MAX};
use crate::config::{Command, LocalCluster, ServerConfig};
use crate::exit::{self, Failure};
use crate::founding::{self, Outcome};
use crate::home::{self, Home, WhenEmpty};
use crate::{check, local, notify, os};

/// Runs the program as the command line says.
pub fn main() -> ExitCode {
    let command = match Command::parse(std::env::args_os(), &formats()) {
        Ok(command) => command,
        Err(error) => {
            // Help and version are no errors; everything else is a wrong command line.
            let _ = error.print();
            return if error.use_stderr() { exit::ENVIRONMENT.into() } else { ExitCode::SUCCESS };
        }
    };
    // A cluster at a terminal says in a few lines what matters; a server's log is its story.
    let level = if matches!(command, Command::Local(_)) { "warn" } else { "info" };
    start_log(level);
    end_with_any_thread();
    let outcome = match command {
        Command::Local(cluster) => run_local(&cluster),
        Command::Serve { file, overrides } => serve(&file, &overrides),
        Command::Format { file, overrides, cluster, founding } => {
            let cluster = cluster.map(|cluster| ClusterId(cluster.to_u128()));
            format(&file, &overrides, cluster, founding)
        }
        Command::Check { directory, log } => check::check(&directory, log.as_deref()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            exit::say(&failure.text);
            failure.code.into()
        }
    }
}

/// The formats that this program reads and writes, for `--version`.
fn formats() -> String {
    format!(
        "formats: log {LOG_FORMAT}, meta {META_FORMAT}, peer protocol {PROTOCOL_VERSION_MIN} to \
         {PROTOCOL_VERSION_MAX}"
    )
}

fn serve(file: &Path, overrides: &[(String, String)]) -> Result<(), Failure> {
    let config = ServerConfig::load(file, overrides).map_err(Failure::environment)?;
    os::hold_termination().map_err(Failure::environment)?;
    // Alone it cannot be mistaken about whether a cluster exists.
    let when_empty = if config.is_standalone() {
        let cluster = config.cluster.map_or_else(home::random, |cluster| Ok(cluster.to_u128()))?;
        WhenEmpty::Format(ClusterId(cluster.max(1)))
    } else {
        WhenEmpty::Form
    };
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let mut process = Process::prepare(1)?;
    let mut home = Home::open(&config, when_empty)?;
    let ports = if home.is_formed() {
        None
    } else {
        match founding::found(&config, &mut home)? {
            Outcome::Founded(ports) => Some(ports),
            Outcome::Stopped => return Ok(()),
        }
    };
    let signals = Signals::watch()?;
    let mut node = process.start(config, home, ports)?;
    node.wait_until_started()?;
    run(vec![node], signals)
}

fn run_local(cluster: &LocalCluster) -> Result<(), Failure> {
    os::hold_termination().map_err(Failure::environment)?;
    let signals = Signals::watch()?;
    let (_process, nodes) = local::start(cluster)?;
    run(nodes, signals)
}

/// Waits for a signal, then ends in good order.
fn run(nodes: Vec<Node>, signals: Signals) -> Result<(), Failure> {
    notify::ready();
    let signal = signals.wait();
    let deadline = Instant::now() + STOP_TIME_MAX;
    tracing::info!("signal {signal}: stopping");
    notify::stopping();
    nodes.iter().for_each(Node::begin_to_stop);
    for node in nodes {
        node.wait_until_stopped(deadline);
    }
    tracing::info!("stopped");
    Ok(())
}

/// The signals that ask the process to end.
struct Signals {
    first: Receiver<i32>,
    is_waited_for: Arc<AtomicBool>,
}

impl Signals {
    /// Until somebody waits for them, they end the process at once: a start may take long, and
    /// promises nothing to anybody.
    fn watch() -> Result<Self, Failure> {
        let is_waited_for = Arc::new(AtomicBool::new(false));
        let is_good_order = is_waited_for.clone();
        let (sender, first) = channel();
        let spawned = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let signal = os::wait_for_termination();
            let signal = signal.unwrap_or_else(|error| {
                exit::fail(exit::ENVIRONMENT, &format!("cannot wait for signals: {error}"))
            });
            if !is_good_order.load(Ordering::Acquire) {
                tracing::info!("signal {signal}: stopped, before anybody was served");
                std::process::exit(0);
            }
            // The receiver waits for it.
            let _ = sender.send(signal);
        });
        spawned.map_err(|error| {
            Failure::environment(format_args!("cannot start a thread: {error}"))
        })?;
        Ok(Self { first, is_waited_for })
    }

    fn wait(self) -> i32 {
        self.is_waited_for.store(true, Ordering::Release);
        self.first.recv().expect("the thread ends with a signal or with the process")
    }
}

fn format(
    file: &Path,
    overrides: &[(String, String)],
    cluster: Option<ClusterId>,
    founding: bool,
) -> Result<(), Failure> {
    let config = ServerConfig::load(file, overrides).map_err(Failure::environment)?;
    let configured = config.cluster.map(|cluster| ClusterId(cluster.to_u128()));
    let is_new = cluster.is_none() && configured.is_none();
    let cluster = match (cluster, configured) {
        (Some(given), Some(configured)) if given != configured => {
            return Err(Failure::environment(format_args!(
                "--cluster says {given}, and pigeonhole.cluster says {configured}"
            )));
        }
        (Some(cluster), _) | (None, Some(cluster)) => cluster,
        (None, None) => ClusterId(home::random()?.max(1)),
    };
    // Of a cluster with an id from elsewhere this disk may be a lost one's successor; a new id has
    // nobody who could have forgotten anything.
    Home::format(&config, cluster, founding || is_new)?;
    let printed = writeln!(std::io::stdout(), "{cluster}");
    printed.map_err(|error| Failure::environment(format_args!("standard output: {error}")))
}

fn start_log(level: &str) {
    let wanted = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let wanted = if wanted.trim().is_empty() { level } else { &wanted };
    let filter = EnvFilter::try_new(wanted).unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would be told on standard error, by a macro that panics: whoever reads the log may go
        // away, and its disk may be full, without any harm to the data.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_thread_names(true)
        .init();
}

/// A broken invariant in one thread ends the process: the others would go on with half a server.
fn end_with_any_thread() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}
