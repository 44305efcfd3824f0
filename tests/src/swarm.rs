//! A seed → what kind of world it is: sizes, times, faults and load, each drawn anew.
//!
//! Every class of faults is on in half of the worlds, and its rate is spread over powers of two, so
//! that rare and frequent faults meet in all combinations.

use pigeonhole_core::base::limits::COUNTER_HANDOVER;
use pigeonhole_core::base::time::{Duration, Periods};
use pigeonhole_core::zab::log::LogLimits;

use crate::disk::DiskOptions;
use crate::draw::Draw;
use crate::network::NetworkOptions;
use crate::node::LogOptions;

#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    pub servers: u8,
    /// The last so many of the servers neither vote nor count.
    pub observers: u8,
    /// A leader hands over when its counter has come so far.
    pub counter_handover: u32,
    /// The most cores that a node starts with; each start draws its own number.
    pub cores_max: u8,
    pub shards: u16,
    pub segment_bytes: u64,
    pub periods: Periods,
    pub network: NetworkOptions,
    pub disk: DiskOptions,
    pub log: LogOptions,
    pub faults: Faults,
    pub load: Load,
    /// How far the nodes' clocks run apart, in millionths.
    pub drift_ppm: i64,
    /// The longest time that a core takes before it looks at what it has heard.
    pub turn_delay_us: u64,
}

/// What the clients do.
#[derive(Clone, Debug)]
pub struct Load {
    pub clients: u32,
    /// Operations of all clients after which the world comes to its end.
    pub operations: u64,
    pub pipeline_max: usize,
    pub think_us: u64,
    pub keys: u64,
    pub session_timeout_ms: (u64, u64),
    pub weights: [u64; KINDS],
    pub data_bytes_max: u64,
    /// How many of a thousand reads leave a watch.
    pub watches: u64,
    /// How many of a million operations are followed by a long silence of the client's host.
    pub silences: u64,
}

/// Positions in [`Load::weights`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Kind {
    Create = 0,
    CreateEphemeral = 1,
    CreateSequential = 2,
    Set = 3,
    Delete = 4,
    Get = 5,
    Exists = 6,
    Children = 7,
    Sync = 8,
    Multi = 9,
    Close = 10,
    SetAcl = 11,
    GetAcl = 12,
    MultiRead = 13,
    CountBelow = 14,
    Ephemerals = 15,
    AddWatch = 16,
    RemoveWatches = 17,
    CheckWatches = 18,
}

pub const KINDS: usize = 19;
/// Stories depend on what is drawn for those before; these have a stream of draws of their own.
const FIRST_LATER_KIND: usize = Kind::SetAcl as usize;

/// Microseconds between two faults of a class, on average; `None` where the class is off.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub every: [Option<u64>; FAULTS],
    /// How long a node stays down and a partition lasts, on average.
    pub repair_us: u64,
}

/// Positions in [`Faults::every`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Fault {
    ResetLink = 0,
    ResetClient = 1,
    Partition = 2,
    Kill = 3,
    PowerCut = 4,
    PowerCutAll = 5,
    Pause = 6,
    SlowReader = 7,
    WallJump = 8,
    LoseDisk = 9,
    Rot = 10,
    FillDisk = 11,
    Stop = 12,
}

pub const FAULTS: usize = 13;

impl Options {
    pub fn draw(seed: u64) -> Self {
        let mut draw = Draw::new(seed, 1);
        let servers = *draw.pick(&[1, 3, 3, 3, 3, 5]);
        let cores_max = *draw.pick(&[1, 1, 2, 4]);
        let shards = *draw.pick(&[1, 1, 1, 2, 8]);
        let segment_bytes = 65536 << draw.below(3);
        let observers = if servers == 5 { *draw.pick(&[0, 1, 2]) } else { 0 };
        Self {
            seed,
            servers,
            observers,
            counter_handover: COUNTER_HANDOVER,
            cores_max,
            shards,
            segment_bytes,
            periods: periods(&mut draw),
            network: NetworkOptions {
                delay_min_us: draw.log_uniform(10, 2000),
                delay_tail_us: draw.log_uniform(5, 4000),
                split_rate: if draw.chance(1, 2) { draw.log_uniform(100, 300_000) } else { 0 },
                window_bytes: usize::try_from(draw.log_uniform(4096, 1 << 20)).expect("it fits"),
            },
            disk: DiskOptions {
                latency_min_us: draw.log_uniform(20, 1000),
                latency_tail_us: draw.log_uniform(10, 4000),
                spike_rate: if draw.chance(1, 2) { draw.log_uniform(10, 5000) } else { 0 },
                misstore_rate: *draw.pick(&[0, 0, 100_000]),
                low_bytes: LOW_SEGMENTS * segment_bytes,
            },
            log: draw_log(segment_bytes, &mut draw),
            faults: Faults::draw(&mut draw),
            load: Load::draw(seed, &mut draw),
            drift_ppm: *draw.pick(&[0, 0, 1000, 10_000]),
            turn_delay_us: draw.log_uniform(1, 200),
        }
    }

    /// A world in which nothing goes wrong: for stories, and for what must hold without faults.
    pub fn calm(seed: u64, servers: u8) -> Self {
        let mut options = Self::draw(seed);
        options.servers = servers;
        options.observers = 0;
        options.cores_max = 1;
        options.network = NetworkOptions {
            delay_min_us: 100,
            delay_tail_us: 0,
            split_rate: 0,
            window_bytes: 1 << 20,
        };
        options.disk = DiskOptions {
            latency_min_us: 100,
            latency_tail_us: 0,
            spike_rate: 0,
            misstore_rate: 0,
            low_bytes: LOW_SEGMENTS * options.segment_bytes,
        };
        let (limits, bytes_max) = (LogLimits::default(), u64::MAX);
        options.log = LogOptions { limits, bytes_max, snapshot_step_us: 0, turn_share: usize::MAX };
        options.faults = Faults::default();
        options.drift_ppm = 0;
        options.turn_delay_us = 1;
        options.periods = default_periods();
        options
    }
}

impl Faults {
    fn draw(draw: &mut Draw) -> Self {
        let mut every = [None; FAULTS];
        for (class, every) in every.iter_mut().enumerate() {
            // Whole nodes fail more rarely than links do.
            let low = if class >= Fault::Partition as usize { 400_000 } else { 50_000 };
            if draw.chance(1, 2) {
                *every = Some(draw.log_uniform(low, low * 64));
            }
        }
        Self { every, repair_us: draw.log_uniform(20_000, 3_000_000) }
    }
}

impl Load {
    fn draw(seed: u64, draw: &mut Draw) -> Self {
        let mut weights = [0; KINDS];
        let (first, later) = weights.split_at_mut(FIRST_LATER_KIND);
        let mut draw_later = Draw::new(seed, 4);
        for weight in later {
            let is_off = draw_later.chance(1, 3);
            *weight = if is_off { 0 } else { draw_later.log_uniform(1, 4) };
        }
        for weight in first {
            *weight = if draw.chance(1, 5) { 0 } else { draw.log_uniform(1, 16) };
        }
        weights[Kind::Create as usize] += 2;
        weights[Kind::Set as usize] += 1;
        weights[Kind::Close as usize] = weights[Kind::Close as usize].min(1);
        let timeout_low = draw.log_uniform(400, 2000);
        Self {
            clients: u32::try_from(draw.between(1, 6)).expect("it is small"),
            operations: draw.log_uniform(200, 1600),
            pipeline_max: usize::try_from(draw.between(1, 8)).expect("it is small"),
            think_us: draw.log_uniform(100, 60_000),
            keys: draw.log_uniform(2, 40),
            session_timeout_ms: (timeout_low, timeout_low + draw.below(3000)),
            weights,
            // Some states are longer than one chunk of an image.
            data_bytes_max: draw_bytes(draw),
            watches: draw.below(500),
            silences: if draw.chance(1, 2) { draw.log_uniform(100, 10_000) } else { 0 },
        }
    }
}

/// Snapshots come often in most worlds, and in some a learner is soon too far behind for a DIFF.
fn draw_log(segment_bytes: u64, draw: &mut Draw) -> LogOptions {
    let mut limits = LogLimits::default();
    if draw.chance(4, 5) {
        limits.snapshot_entries = draw.log_uniform(20, 500);
    }
    if draw.chance(3, 4) {
        limits.window_entries = usize::try_from(draw.log_uniform(2, 200)).expect("it fits");
    }
    if draw.chance(1, 4) {
        let bytes = draw.log_uniform(20_000, 1_000_000);
        limits.pinned_bytes_max = usize::try_from(bytes).expect("it fits");
    }
    if draw.chance(1, 2) {
        limits.in_flight_bytes = usize::try_from(draw.log_uniform(100, 100_000)).expect("it fits");
    }
    if draw.chance(1, 8) {
        limits.unwritten_bytes_max = draw.log_uniform(20_000, 1_000_000);
    }
    LogOptions {
        limits,
        bytes_max: segment_bytes * draw.log_uniform(3, 64),
        snapshot_step_us: draw.log_uniform(100, 100_000),
        turn_share: usize::try_from(draw.log_uniform(1, 300)).expect("it fits"),
    }
}

fn periods(draw: &mut Draw) -> Periods {
    let mut periods = default_periods();
    periods.heartbeat = Duration::from_ms(draw.between(20, 60));
    periods.silence = Duration(periods.heartbeat.0 * draw.between(6, 10));
    periods.tick = Duration::from_ms(*draw.pick(&[50, 100, 200]));
    periods
}

/// Near the product's, where it has no configuration; candidates take longer over their votes, and
/// ticks and session timeouts are short enough to see them pass. Stories depend on every one.
fn default_periods() -> Periods {
    Periods {
        heartbeat: Duration::from_ms(50),
        silence: Duration::from_ms(400),
        vote: Duration::from_ms(100),
        vote_settle: Duration::from_ms(200),
        init_limit: Duration::from_ms(10_000),
        sync_limit: Duration::from_ms(5_000),
        tick: Duration::from_ms(100),
        session_timeout_min: Duration::from_ms(200),
        session_timeout_max: Duration::from_ms(40_000),
    }
}

fn draw_bytes(draw: &mut Draw) -> u64 {
    let most = *draw.pick(&[2000, 2000, 2000, 2000, 2000, 20_000]);
    draw.log_uniform(16, most)
}

/// So many segments' worth of room is kept for what must go on when a disk is almost full.
const LOW_SEGMENTS: u64 = 24;
