//! One core of a node: a thread, a ring, a worker, a log.
//!
//! | module | one line |
//! |---|---|
//! | `turn` | the loop: reap, step, perform, submit, sleep |
//! | `perform` | completions → inputs, effects → log, links, connections |
//! | `pulse` | how long turns take |
//! | `stopping` | the end of a core, in good order |
//! | `place` | which shard lives on which core |
//! | `clock` | the two clocks of a turn |

pub(crate) mod clock;
mod perform;
pub(crate) mod place;
mod pulse;
mod stopping;
mod turn;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use pigeonhole_core::base::id::{ConnectionId, CoreId, LinkId, ServerId};
use pigeonhole_core::base::limits::{BATCH_BYTES_TARGET, LOG_BUFFER_BYTES};
use pigeonhole_core::base::time::Now;
use pigeonhole_core::durable::{Durable, LogMark};
use pigeonhole_core::effect::{Effect, Effects};
use pigeonhole_core::state::State;
use pigeonhole_core::worker::{Worker, WorkerConfig};
use pigeonhole_core::zab::log::Restored;
use pigeonhole_storage::disk::{DiskDone, SegmentId};
use pigeonhole_storage::wal::{Released, Wal};

use crate::client::admin::{Admin, Facts};
use crate::client::connection::Clients;
use crate::client::listener::Listener;
use crate::client::traffic::Sizes;
use crate::config::HostPort;
use crate::control::{Desk, LogDirectory};
use crate::engine::clock::Clock;
use crate::engine::place::Place;
use crate::engine::pulse::Pulse;
use crate::engine::stopping::Stopping;
use crate::exit::Failure;
use crate::file::{LogFiles, from_ring};
use crate::mailbox::{House, Post};
use crate::os;
use crate::peer::greeting::Identity;
use crate::peer::link::{LinkNews, Links};
use crate::ring::{LogBuffers, ReceiveEnd, Ring, RingConfig, RingReport, SyncProbe, Token};
use crate::subject::Subject;

/// Everything that a core begins with. It is made on another thread than it is used on.
pub(crate) struct Seed {
    pub(crate) core: CoreId,
    pub(crate) place: Place,
    pub(crate) clock: Clock,
    pub(crate) house: Arc<House>,
    pub(crate) desk: Desk,
    pub(crate) directory: LogDirectory,
    pub(crate) sync_probe: Option<SyncProbe>,
    pub(crate) worker: WorkerConfig,
    pub(crate) restored: Vec<(State, Restored)>,
    pub(crate) wal: Wal,
    /// Files of older boots that hold nothing, with their sizes.
    pub(crate) recyclable: Vec<(SegmentId, u64)>,
    pub(crate) identity: Identity,
    /// The other members, with the addresses at which they are dialed.
    pub(crate) peers: Vec<(ServerId, HostPort)>,
    /// The ports, on the core that accepts.
    pub(crate) client_port: Option<OwnedFd>,
    pub(crate) peer_port: Option<OwnedFd>,
    /// Clients of the whole process beyond which none is taken.
    pub(crate) connections_max: usize,
    pub(crate) facts: Arc<Facts>,
    pub(crate) milestones: Sender<Milestone>,
}

/// What the thread that started a core hears of it.
pub(crate) enum Milestone {
    /// The log is open, and clients are served.
    Started {
        core: CoreId,
        ring: RingReport,
        registered: bool,
    },
    /// It could not be opened.
    Failed(Failure),
    Stopped,
}

/// One core.
struct Engine {
    ring: Ring,
    hands: Hands,
}

/// Everything of a core but its ring, so that it can be used while received bytes, which are the
/// ring's, are looked at.
struct Hands {
    core: CoreId,
    clock: Clock,
    now: Now,
    worker: Worker,
    effects: Effects,
    /// Taken out while effects are carried out.
    performing: Vec<Effect>,
    /// What the worker has yet to hear, in order.
    due: VecDeque<Due>,
    wal: Wal,
    log: LogFiles,
    log_done: Vec<DiskDone>,
    released: Released,
    clients: Clients,
    closed: Vec<ConnectionId>,
    /// Connections from which nothing more is received, until the turn's inputs are carried out.
    ended: Vec<(u32, Token, ReceiveEnd)>,
    links: Links,
    link_news: Vec<LinkNews>,
    post: Post,
    admin: Admin,
    listeners: Vec<Listener>,
    connections_max: usize,
    proposals: Sizes,
    desk: Desk,
    milestones: Sender<Milestone>,
    ring_report: RingReport,
    registered: bool,
    started: bool,
    /// Of the log, what the control thread knows.
    told_changes: u64,
    pulse: Pulse,
    /// The last turn, too, ended with a log write under way.
    was_writing: bool,
    /// Set when the process is to end: not later than this.
    stopping: Option<Stopping>,
}

/// Inputs that are values of their own.
enum Due {
    ClientClosed(ConnectionId),
    LinkDown(LinkId),
    Durable(Durable<LogMark>),
}

/// Runs a core until it is told to stop. This is a thread's whole life.
pub(crate) fn run(seed: Seed) {
    let milestones = seed.milestones.clone();
    let milestone = match Engine::open(seed) {
        Ok(engine) => {
            engine.live();
            Milestone::Stopped
        }
        Err(failure) => Milestone::Failed(failure),
    };
    // Without a listener there is nobody left who waits for this core.
    let _ = milestones.send(milestone);
}

fn take_place(core: CoreId, place: Place) {
    if let Some(processor) = place.processor
        && let Err(error) = os::pin_thread(processor)
    {
        tracing::warn!("cannot pin core {} to processor {processor}: {error}", core.0);
    }
    if place.takes_turns
        && let Err(error) = os::schedule_as_batch()
    {
        tracing::warn!("core {} is scheduled as any other thread: {error}", core.0);
    }
}

impl Engine {
    fn open(seed: Seed) -> Result<Self, Failure> {
        take_place(seed.core, seed.place);
        let (mut ring, ring_report) =
            Ring::new(&RingConfig::default()).map_err(Failure::environment)?;
        let mut wal = seed.wal;
        let registered = lend_buffers(&mut ring, &mut wal)?;
        for (segment, bytes) in seed.recyclable {
            wal.release_segment(segment, bytes);
        }
        let post = Post::open(seed.core, seed.house, &mut ring)
            .map_err(|error| Failure::environment(format_args!("cannot wake a core: {error}")))?;
        let ports =
            [(seed.client_port, Subject::ClientListener), (seed.peer_port, Subject::PeerListener)];
        let listeners = ports
            .into_iter()
            .filter_map(|(port, subject)| Some(Listener::new(port?, subject)))
            .collect();
        let now = seed.clock.now();
        let mut effects = Effects::new();
        let hands = Hands {
            core: seed.core,
            clock: seed.clock,
            now,
            worker: Worker::new(seed.worker, seed.restored, now, &mut effects),
            effects,
            performing: Vec::new(),
            due: VecDeque::new(),
            wal,
            log: LogFiles::new(seed.directory, seed.desk.clone(), seed.sync_probe),
            log_done: Vec::new(),
            released: Released::default(),
            clients: Clients::new(seed.core),
            closed: Vec::new(),
            ended: Vec::new(),
            links: Links::new(seed.core, seed.identity, &seed.peers, now.instant),
            link_news: Vec::new(),
            post,
            admin: Admin::new(seed.facts),
            listeners,
            connections_max: seed.connections_max,
            proposals: Sizes::default(),
            desk: seed.desk,
            milestones: seed.milestones,
            ring_report,
            registered,
            started: false,
            told_changes: 0,
            pulse: Pulse::new(),
            was_writing: false,
            stopping: None,
        };
        Ok(Self { ring, hands })
    }
}

/// Lends the log two buffers: one is filled while the other is written. Says whether the kernel
/// has pinned them for good, which saves work but needs lockable memory.
fn lend_buffers(ring: &mut Ring, wal: &mut Wal) -> Result<bool, Failure> {
    let buffers = LogBuffers::allocate(LOG_BUFFERS, LOG_BUFFER_BYTES).map_err(|error| {
        Failure::environment(format_args!("no memory for the log's buffers: {error}"))
    })?;
    let registered = ring.register_log_buffers(&buffers, BATCH_BYTES_TARGET).is_ok();
    for buffer in buffers {
        wal.lend(from_ring(buffer));
    }
    Ok(registered)
}

const LOG_BUFFERS: u32 = 2;
