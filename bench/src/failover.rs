//! How long writes stop when the leader is killed, and whether an acknowledged one is ever lost.

mod writer;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use std::{fmt, thread};

use serde::Serialize;

use crate::client::{Client, wire};
use crate::cluster::{Cluster, ClusterOptions, System, WorkDirectory};
use crate::error::BenchError;
use crate::load::recorder::{Latency, histogram, latency};
use crate::load::schedule::nanoseconds;
use writer::{Ack, parent_path, path};

/// Whose leader to kill, and how often.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FailoverOptions {
    #[command(flatten)]
    cluster: ClusterOptions,
    #[arg(long, value_enum, default_value_t = System::Pigeonhole)]
    system: System,
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    kills: u32,
    /// Clients that write one znode after another, each in a subtree of its own: in a sharded tree,
    /// only some of them wait for a new leader.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    writers: u32,
}

/// What the kills did. Times are from just before the kill to the acknowledgement of a write that
/// was sent when the process was dead.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FailoverReport {
    system: System,
    kills: u32,
    writers: u32,
    /// Until some writer went on.
    first_writer: Latency,
    /// Until every writer went on.
    every_writer: Latency,
    acknowledged: usize,
    /// Acknowledged writes that some server does not have.
    lost: Vec<String>,
}

/// Kills leaders under load, then reads everything acknowledged back from every server.
pub(crate) fn run(options: &FailoverOptions) -> Result<FailoverReport, BenchError> {
    if options.system == System::Floor {
        return Err(BenchError::Invalid("the floor has no leader".to_owned()));
    }
    let directory = WorkDirectory::create(&options.cluster.work_dir, options.cluster.keep)?;
    let mut cluster = Cluster::start(options.system, 3, &options.cluster, &directory)?;
    let servers = cluster.addresses();
    let mut client = Client::connect(servers[0], PATIENCE)?;
    for writer in 0..options.writers {
        let code = client.create(&parent_path(writer), b"")?;
        if code != wire::OK {
            return Err(BenchError::Refused { request: "create of a writer's subtree", code });
        }
    }
    client.close()?;

    let stop = AtomicBool::new(false);
    let (sender, receiver) = channel();
    let mut observer = Observer::new(receiver, options.writers);
    let outcome = thread::scope(|scope| {
        for number in 0..options.writers {
            let (sender, servers, stop) = (sender.clone(), servers.as_slice(), &stop);
            scope.spawn(move || writer::write_until_stopped(number, servers, stop, &sender));
        }
        drop(sender);
        let outcome = kill_leaders(options, &mut cluster, &mut observer);
        stop.store(true, Ordering::Relaxed);
        observer.drain();
        outcome
    });
    let (first_writer, every_writer) = outcome?;

    let mut lost = BTreeSet::new();
    for server in servers {
        find_lost(server, &observer.acknowledged, &mut lost)?;
    }
    Ok(FailoverReport {
        system: options.system,
        kills: options.kills,
        writers: options.writers,
        first_writer,
        every_writer,
        acknowledged: observer.acknowledged.len(),
        lost: lost.into_iter().collect(),
    })
}

fn kill_leaders(
    options: &FailoverOptions,
    cluster: &mut Cluster,
    observer: &mut Observer,
) -> Result<(Latency, Latency), BenchError> {
    let (mut first, mut every) = (histogram(), histogram());
    for kill in 1..=options.kills {
        // All writers are at work, some way into a quiet period.
        observer.recovery_since(Instant::now() + STEADY)?;
        let leader = cluster.leader()?;
        let before = Instant::now();
        cluster.kill(leader);
        let acks = observer.recovery_since(Instant::now())?;
        let after = |ack: Option<&Instant>| {
            nanoseconds(ack.expect("there is a writer").duration_since(before))
        };
        let (earliest, latest) = (after(acks.iter().min()), after(acks.iter().max()));
        first.saturating_record(earliest);
        every.saturating_record(latest);
        eprintln!(
            "kill {kill}: server {} led; first writer after {:.1} ms, every writer after {:.1} ms",
            leader + 1,
            earliest as f64 / 1e6,
            latest as f64 / 1e6
        );
        cluster.restart(leader)?;
    }
    Ok((latency(&first), latency(&every)))
}

/// Adds what `server` lacks of `acknowledged`, behind a sync.
fn find_lost(
    server: std::net::SocketAddr,
    acknowledged: &[(u32, u32)],
    lost: &mut BTreeSet<String>,
) -> Result<(), BenchError> {
    let mut client = Client::connect(server, PATIENCE)?;
    client.sync("/")?;
    let mut refused = wire::OK;
    client.pipeline(
        acknowledged,
        |output, xid, &(writer, sequence)| wire::exists(output, xid, &path(writer, sequence)),
        |&(writer, sequence), code| match code {
            wire::OK => {}
            wire::NO_NODE => {
                lost.insert(format!("{} on {server}", path(writer, sequence)));
            }
            code => refused = code,
        },
    )?;
    client.close()?;
    match refused {
        wire::OK => Ok(()),
        code => Err(BenchError::Refused { request: "exists of an acknowledged znode", code }),
    }
}

/// Collects the acknowledgements of all writers.
struct Observer {
    receiver: Receiver<Ack>,
    writers: u32,
    acknowledged: Vec<(u32, u32)>,
}

impl Observer {
    fn new(receiver: Receiver<Ack>, writers: u32) -> Self {
        Self { receiver, writers, acknowledged: Vec::new() }
    }

    /// Waits until every writer has had a write acknowledged that it sent after `since`, and
    /// returns when each had its first one.
    fn recovery_since(&mut self, since: Instant) -> Result<Vec<Instant>, BenchError> {
        let writers = usize::try_from(self.writers).expect("a few writers");
        let deadline = since + RECOVERY_PATIENCE;
        let mut first: Vec<Option<Instant>> = vec![None; writers];
        while first.contains(&None) {
            let patience = deadline.saturating_duration_since(Instant::now());
            match self.receiver.recv_timeout(patience) {
                Ok(ack) => {
                    self.acknowledged.push((ack.writer, ack.sequence));
                    let writer = usize::try_from(ack.writer).expect("a few writers");
                    if ack.sent > since {
                        first[writer].get_or_insert(ack.received);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let why = format!("some writer got no answer for {RECOVERY_PATIENCE:?}");
                    return Err(BenchError::Invalid(why));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(BenchError::Invalid("the writers have given up".to_owned()));
                }
            }
        }
        Ok(first.into_iter().flatten().collect())
    }

    /// Takes what the writers have still sent, until all have ended.
    fn drain(&mut self) {
        self.acknowledged.extend(self.receiver.iter().map(|ack| (ack.writer, ack.sequence)));
    }
}

impl FailoverReport {
    /// What is wrong with the result, if anything is.
    pub(crate) fn complaint(&self) -> Option<String> {
        (!self.lost.is_empty()).then(|| "acknowledged writes were lost".to_owned())
    }
}

impl fmt::Display for FailoverReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { system, kills, writers, acknowledged, lost, .. } = self;
        writeln!(f, "{system:?}: {kills} leaders killed under {writers} writers")?;
        for (name, latency) in
            [("first writer", self.first_writer), ("every writer", self.every_writer)]
        {
            let milliseconds = |microseconds: f64| microseconds / 1000.0;
            writeln!(
                f,
                "{name} goes on after p50 {:.1}, p99 {:.1}, max {:.1} ms",
                milliseconds(latency.p50_us),
                milliseconds(latency.p99_us),
                milliseconds(latency.max_us)
            )?;
        }
        write!(f, "{acknowledged} writes acknowledged, {} lost", lost.len())?;
        for path in lost.iter().take(LOST_SHOWN) {
            write!(f, "\nLOST: {path}")?;
        }
        Ok(())
    }
}

const PATIENCE: Duration = Duration::from_secs(10);
/// How long everything has to run undisturbed between two kills.
const STEADY: Duration = Duration::from_secs(2);
const RECOVERY_PATIENCE: Duration = Duration::from_secs(60);
const LOST_SHOWN: usize = 20;
