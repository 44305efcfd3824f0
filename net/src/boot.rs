//! From a configuration to running cores: recover, bind, start; and back to rest.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pigeonhole_core::auth::AuthSettings;
use pigeonhole_core::base::id::{CoreId, ServerId, ShardId};
use pigeonhole_core::base::limits::{COUNTER_HANDOVER, FRAME_BYTES_MAX};
use pigeonhole_core::base::time::{self, Periods};
use pigeonhole_core::control::Seal;
use pigeonhole_core::gateway::ClientLimits;
use pigeonhole_core::peer::hello::Formation;
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::state::State;
use pigeonhole_core::worker::WorkerConfig;
use pigeonhole_core::zab::log::{LogLimits, Restored};
use pigeonhole_storage::disk::SegmentId;
use pigeonhole_storage::recover::{Recovered, RecoveredShard};
use pigeonhole_storage::segment::LiveSegment;
use pigeonhole_storage::wal::{Wal, WalConfig};

use crate::client::admin::Facts;
use crate::config::{HostPort, ServerConfig};
use crate::control::{Control, Keeping, LogDirectory};
use crate::engine::clock::Clock;
use crate::engine::place::{self, Place};
use crate::engine::{self, Milestone, Seed};
use crate::exit::{self, Failure};
use crate::home::{self, Home};
use crate::mailbox::{House, News};
use crate::os;
use crate::peer::greeting::Identity;
use crate::ports::Ports;
use crate::recovery;
use crate::ring::{self, LogBuffers, PROBE_BYTES, Ring, RingConfig, RingReport, SyncProbe};

/// What all nodes of a process share.
pub(crate) struct Process {
    control: Control,
    clock: Clock,
    processors: Vec<usize>,
    open_files_max: u64,
    /// Log writes were timed on these devices, as far as there was room for it.
    probes: BTreeMap<u64, Option<SyncProbe>>,
    /// How many nodes this process is going to have, and has.
    nodes: usize,
    started: usize,
}

/// One server of a cluster, running.
pub(crate) struct Node {
    house: Arc<House>,
    threads: Vec<JoinHandle<()>>,
    milestones: Receiver<Milestone>,
    summary: String,
    /// Its locks are held as long as the node runs.
    _home: Home,
}

impl Process {
    pub(crate) fn prepare(nodes: usize) -> Result<Self, Failure> {
        let processors = os::allowed_processors().map_err(Failure::environment)?;
        let open_files = os::raise_open_files().map_err(Failure::environment)?;
        if let Err(error) = os::avoid_huge_pages() {
            tracing::warn!("huge pages may make turns long: prctl(PR_SET_THP_DISABLE): {error}");
        }
        let control = Control::start()?;
        Ok(Self {
            control,
            clock: Clock::start(),
            processors,
            open_files_max: open_files.soft.unwrap_or(u64::MAX),
            probes: BTreeMap::new(),
            nodes,
            started: 0,
        })
    }

    /// Recovers a member's data and starts its cores. The ports are bound unless they are given.
    pub(crate) fn start(
        &mut self,
        config: ServerConfig,
        mut home: Home,
        ports: Option<Ports>,
    ) -> Result<Node, Failure> {
        let session_base_ms = home.take_session_base(self.clock.now().wall_ms)?;
        let recovered = recovery::read_log(&home, &config)?;
        let probe = self.probe(&home)?;
        // Whoever comes before there is somebody to answer is better refused than kept waiting.
        let ports = ports.map_or_else(|| Ports::bind(&config), Ok)?;
        let timed = probe.map_or("no room to time writes".to_owned(), |probe| probe.to_string());
        let summary = format!(
            "server {} of cluster {} serves clients on {}: {timed}, cores {}, open files {}",
            config.id, home.meta.cluster, config.client_address, config.cores, self.open_files_max
        );
        let plan = Plan::new(config, &home, session_base_ms, recovered)?;
        plan.start(self, home, probe, ports, summary)
    }

    /// Times the ways to make a write durable, once for each device. A full disk leaves it open.
    fn probe(&mut self, home: &Home) -> Result<Option<SyncProbe>, Failure> {
        let directory = &home.log.path;
        let device = std::fs::metadata(directory)
            .map_err(|error| Failure::disk("stat", directory, &error))?
            .dev();
        if let Some(probe) = self.probes.get(&device) {
            return Ok(*probe);
        }
        let probe = probe_directory(home)?;
        self.probes.insert(device, probe);
        Ok(probe)
    }
}

impl Node {
    /// Waits until every core keeps its promises, and says what it got from the kernel.
    pub(crate) fn wait_until_started(&mut self) -> Result<(), Failure> {
        let mut reports: Vec<(CoreId, RingReport, bool)> = Vec::new();
        while reports.len() < self.threads.len() {
            match self.milestones.recv() {
                Ok(Milestone::Started { core, ring, registered }) => {
                    reports.push((core, ring, registered));
                }
                Ok(Milestone::Failed(failure)) => return Err(failure),
                Ok(Milestone::Stopped) | Err(_) => {
                    return Err(Failure::environment("a core has ended while it was starting"));
                }
            }
        }
        reports.sort_by_key(|(core, _, _)| *core);
        let (_, ring, registered) = reports.first().expect("a node has a core");
        let pinned = if *registered { "registered" } else { "unregistered" };
        tracing::info!("{}; {ring}, {pinned} log buffers", self.summary);
        Ok(())
    }

    /// Tells all cores to end.
    pub(crate) fn begin_to_stop(&self) {
        for core in (0..self.house.cores()).map(CoreId) {
            self.house.tell(core, News::Stop);
        }
    }

    /// Waits until all have ended, or `deadline` has come.
    pub(crate) fn wait_until_stopped(self, deadline: Instant) {
        for _ in 0..self.threads.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.milestones.recv_timeout(left) {
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    tracing::warn!("a core did not end in time");
                    return;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        for thread in self.threads {
            // It has said its last word; a panic would have ended the process.
            let _ = thread.join();
        }
    }
}

/// What the cores of one node are going to be.
struct Plan {
    config: ServerConfig,
    log: LogDirectory,
    map: ShardMap,
    identity: Identity,
    worker: WorkerConfig,
    next_boot: u64,
    seal: Seal,
    shards: BTreeMap<ShardId, RecoveredShard>,
    restored: BTreeMap<ShardId, (State, Restored)>,
    /// Segments of older boots that hold batches, and those that hold nothing.
    segments: Vec<LiveSegment>,
    recyclable: Vec<(SegmentId, u64)>,
}

impl Plan {
    fn new(
        config: ServerConfig,
        home: &Home,
        session_base_ms: u64,
        mut recovered: Recovered,
    ) -> Result<Self, Failure> {
        let restored = recovery::restore(&mut recovered.shards, home, &config)?;
        let cores = u8::try_from(config.cores).expect("the configuration bounds the cores");
        let map = ShardMap::new(home.meta.shards);
        let ids = |ids: Vec<u8>| ids.into_iter().map(ServerId).collect::<Vec<_>>();
        let (voters, observers) = (ids(config.voters()), ids(config.observers()));
        let seed = home::random()?;
        let incarnation = u64::try_from(seed & u128::from(u64::MAX)).expect("64 bits");
        let identity = Identity {
            server: home.meta.server,
            cores,
            shards: home.meta.shards,
            cluster: home.meta.cluster,
            disk: home.meta.disk,
            incarnation,
            formation: Formation::Formed,
            members: voters.iter().chain(&observers).copied().collect(),
        };
        let worker = WorkerConfig {
            server: home.meta.server,
            core: CoreId(0),
            cores,
            shards: map,
            voters,
            observers,
            disk: home.meta.disk,
            is_founder: home.meta.is_founder,
            incarnation,
            periods: periods(&config),
            session_base_ms,
            client: client_limits(&config),
            auth: AuthSettings {
                super_digest: config.super_digest.as_ref().map(|it| it.expose().to_owned()),
                skip_acl: config.skip_acl,
            },
            log: LogLimits {
                snapshot_entries: u64::from(config.snapshot_transactions),
                ..LogLimits::of_one_in(home.meta.shards)
            },
            counter_handover: COUNTER_HANDOVER,
            seed: u64::try_from(seed >> 64).expect("64 bits"),
        };
        Ok(Self {
            config,
            log: home.log.clone(),
            map,
            identity,
            worker,
            next_boot: recovered.next_boot,
            seal: recovered.seal,
            shards: recovered.shards,
            restored,
            segments: recovered.segments,
            recyclable: recovered.recyclable,
        })
    }

    fn start(
        mut self,
        process: &mut Process,
        home: Home,
        probe: Option<SyncProbe>,
        ports: Ports,
        summary: String,
    ) -> Result<Node, Failure> {
        let cores = self.identity.cores;
        let house = House::new(cores);
        let node = process.started;
        process.started += 1;
        let keeping = self.keeping(&home)?;
        process.control.desk(node, house.clone(), CoreId(0)).keep(keeping);
        let (sender, milestones) = channel();
        let facts = Arc::new(Facts {
            config: self.config.clone(),
            open_files_max: process.open_files_max,
            started: process.clock.now().instant,
        });
        let (mut client_port, mut peer_port) = (Some(ports.client), ports.peer);
        let mut threads = Vec::new();
        for core in (0..cores).map(CoreId) {
            let seed = Seed {
                core,
                place: self.place(core, process),
                clock: process.clock,
                house: house.clone(),
                desk: process.control.desk(node, house.clone(), core),
                directory: self.log.clone(),
                sync_probe: probe,
                worker: WorkerConfig { core, ..self.worker.clone() },
                restored: self.restored(core),
                wal: self.wal(core)?,
                recyclable: self.recyclable_of(core),
                identity: self.identity.clone(),
                peers: self.peers(),
                client_port: client_port.take(),
                peer_port: peer_port.take(),
                connections_max: self.connections_max(process),
                facts: facts.clone(),
                milestones: sender.clone(),
            };
            let name = format!("core-{}/{}", self.config.id, core.0);
            let thread = std::thread::Builder::new().name(name).spawn(move || engine::run(seed));
            threads.push(thread.map_err(|error| {
                Failure::environment(format_args!("cannot start a thread: {error}"))
            })?);
        }
        Ok(Node { house, threads, milestones, summary, _home: home })
    }

    /// The shards of a core as recovery found them, ready to be led or followed.
    fn restored(&mut self, core: CoreId) -> Vec<(State, Restored)> {
        let shards = place::shards_of(core, self.identity.cores, self.map);
        shards.map(|shard| self.restored.remove(&shard).expect("a shard has one core")).collect()
    }

    /// Empty segments are dealt out: on a full disk every core needs one to begin with.
    fn recyclable_of(&self, core: CoreId) -> Vec<(SegmentId, u64)> {
        let (first, cores) = (usize::from(core.0), usize::from(self.identity.cores));
        self.recyclable.iter().skip(first).step_by(cores).copied().collect()
    }

    fn wal(&self, core: CoreId) -> Result<Wal, Failure> {
        let shards = place::shards_of(core, self.identity.cores, self.map);
        let checkpoints = shards.map(|shard| self.shards[&shard].checkpoint).collect();
        let secret = home::random()?;
        let (config, seal) = (WalConfig::default(), self.seal.clone());
        Ok(Wal::new(config, self.next_boot, core, secret, checkpoints, seal))
    }

    /// What the control thread looks after.
    fn keeping(&mut self, home: &Home) -> Result<Keeping, Failure> {
        Ok(Keeping {
            boot: self.next_boot,
            log: home.log.clone(),
            snapshots: home.snapshots.clone(),
            names: home.snapshots.names()?,
            segments: std::mem::take(&mut self.segments),
            log_bytes_max: self.config.log_bytes_max,
        })
    }

    fn peers(&self) -> Vec<(ServerId, HostPort)> {
        let others = self.config.servers.iter().filter(|server| server.id != self.config.id);
        others.map(|server| (ServerId(server.id), server.peer.clone())).collect()
    }

    fn place(&self, core: CoreId, process: &Process) -> Place {
        let pinned = self.config.pin && process.nodes == 1;
        let (server, cores) = (ServerId(self.config.id), self.config.cores);
        let processor =
            pinned.then(|| place::processor_of(server, core, cores, &process.processors)).flatten();
        let own = self.config.servers.iter().find(|it| it.id == self.config.id);
        let is_beside_a_peer = own.is_some_and(|own| {
            self.peers().iter().any(|(_, it)| place::share_a_machine(&own.peer.host, &it.host))
        });
        Place { processor, takes_turns: processor.is_none() || is_beside_a_peer }
    }

    /// Descriptors are left for the log, the peers and the control thread.
    fn connections_max(&self, process: &Process) -> usize {
        let files = usize::try_from(process.open_files_max).unwrap_or(usize::MAX);
        files.saturating_sub(RESERVED_FILES) / process.nodes
    }
}

/// Nothing if there is no room for it.
fn probe_directory(home: &Home) -> Result<Option<SyncProbe>, Failure> {
    let path = home.log.path.join("probe");
    let zeroes = vec![0; usize::try_from(PROBE_BYTES).expect("a few KiB")];
    let written =
        std::fs::write(&path, &zeroes).and_then(|()| std::fs::File::open(&path)?.sync_all());
    match written {
        Err(error) if os::is_no_room(&error) => {
            // It may have a name by now.
            let _ = std::fs::remove_file(&path);
            return Ok(None);
        }
        written => written.map_err(|error| Failure::disk("write", &path, &error))?,
    }
    let file = if home.log.direct {
        os::open_direct(&path)
    } else {
        std::fs::OpenOptions::new().write(true).open(&path)
    };
    // The name goes at once, so that nothing is left behind, whatever comes.
    std::fs::remove_file(&path).map_err(|error| Failure::disk("unlink", &path, &error))?;
    let file = file.map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => Failure::environment(format_args!(
            "the file system of {} has no direct input and output (O_DIRECT): write \
             pigeonhole.directIO=false, or choose a directory on another one with dataDir (of a \
             local cluster: --data)",
            home.log.path.display()
        )),
        _ => Failure::disk("open", &path, &error),
    })?;
    if !home.log.direct {
        tracing::warn!(
            "pigeonhole.directIO=false: the log goes through the page cache; every write is \
             synced before it is acknowledged, as ever, and takes longer"
        );
    }
    let (mut ring, _) = Ring::new(&PROBE_RING).map_err(Failure::environment)?;
    let buffer = LogBuffers::allocate(1, PROBE_BUFFER_BYTES).map_err(Failure::environment)?;
    let buffer = buffer.into_iter().next().expect("one was allocated");
    let probed = ring.probe_sync_primitive(file.as_fd(), 0, buffer);
    let (_, probe) = probed.map_err(|failure| Failure {
        code: exit::DISK,
        text: format!("{}: {failure}", path.display()),
    })?;
    Ok(Some(probe))
}

fn periods(config: &ServerConfig) -> Periods {
    let ticks =
        |count: u32| time::Duration::from_ms(u64::from(config.tick_time_ms) * u64::from(count));
    let ms = |count: u32| time::Duration::from_ms(u64::from(count));
    Periods {
        heartbeat: ms(config.peer_heartbeat_ms),
        silence: ms(config.peer_silence_ms),
        vote: ms(config.peer_heartbeat_ms),
        vote_settle: VOTE_SETTLE,
        init_limit: ticks(config.init_limit_ticks),
        sync_limit: ticks(config.sync_limit_ticks),
        tick: ticks(1),
        session_timeout_min: ms(config.session_timeout_ms_min),
        session_timeout_max: ms(config.session_timeout_ms_max),
    }
}

fn client_limits(config: &ServerConfig) -> ClientLimits {
    let frame_bytes = usize::try_from(config.request_bytes_max).unwrap_or(usize::MAX);
    let connections = config.connections_max.map(|max| usize::try_from(max).unwrap_or(usize::MAX));
    ClientLimits {
        frame_bytes_max: frame_bytes.min(FRAME_BYTES_MAX),
        connections_per_address_max: config.connections_per_address_max.unwrap_or(0),
        connections_max: connections.unwrap_or(usize::MAX),
        writes_outstanding_max: usize::try_from(config.outstanding_requests_max)
            .unwrap_or(usize::MAX),
    }
}

/// A few round trips in a data centre.
const VOTE_SETTLE: time::Duration = time::Duration::from_ms(20);
/// Segments, sockets of peers, standard streams, and what libraries open for a moment.
const RESERVED_FILES: usize = 128;
const PROBE_BUFFER_BYTES: usize = 4096;
const PROBE_RING: RingConfig = RingConfig {
    submission_entries: 4,
    completion_entries: 8,
    incremental: None,
    whole: ring::ReceiveBuffers { count: 1, bytes: 4096 },
};
/// From the signal to the end of the process.
pub(crate) const STOP_TIME_MAX: Duration = Duration::from_millis(4800);
