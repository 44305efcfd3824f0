//! What a server keeps on its disk: which segments and snapshots may go, and whether there is room.
//!
//! The cores say what they hold whenever that changes; only when every core has spoken is anything
//! given up. What may go is decided by [`retain`]; here it is carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pigeonhole_core::base::id::{CoreId, ShardId};
use pigeonhole_core::base::limits::SEGMENT_BYTES;
use pigeonhole_core::control::Checkpoint;
use pigeonhole_core::links::core_of;
use pigeonhole_storage::disk::SegmentId;
use pigeonhole_storage::retain::{Holdings, retain};
use pigeonhole_storage::segment::LiveSegment;
use pigeonhole_storage::snapshot::SnapshotName;

use super::{LogDirectory, News, remove_if_present};
use crate::exit::disk_failed;
use crate::mailbox::House;
use crate::os::{self, Room};
use crate::snapshots::SnapshotDirectory;

/// What a server begins with.
pub(crate) struct Keeping {
    pub(crate) boot: u64,
    pub(crate) log: LogDirectory,
    pub(crate) snapshots: SnapshotDirectory,
    /// The published ones.
    pub(crate) names: Vec<SnapshotName>,
    /// Segments of older boots that hold batches.
    pub(crate) segments: Vec<LiveSegment>,
    pub(crate) log_bytes_max: u64,
}

/// What one core has on the disk.
pub(crate) struct CoreHoldings {
    pub(crate) checkpoints: Vec<Checkpoint>,
    pub(crate) segments: Vec<LiveSegment>,
}

/// One server's disk space.
pub(super) struct Keeper {
    house: Arc<House>,
    keeping: Keeping,
    /// By core, what it has said last.
    cores: BTreeMap<CoreId, CoreHoldings>,
    /// By core, up to which number its own segments were given back to it.
    released: BTreeMap<CoreId, u64>,
    /// Cores that wait for a file.
    without_room: BTreeSet<CoreId>,
    is_low: bool,
    /// When a snapshot was asked for last.
    asked: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(house: Arc<House>, keeping: Keeping) -> Self {
        Self {
            house,
            keeping,
            cores: BTreeMap::new(),
            released: BTreeMap::new(),
            without_room: BTreeSet::new(),
            is_low: false,
            asked: None,
        }
    }

    pub(super) fn snapshots(&self) -> &SnapshotDirectory {
        &self.keeping.snapshots
    }

    /// A core has begun a segment, or logged a snapshot.
    pub(super) fn on_holdings(&mut self, core: CoreId, mut holdings: CoreHoldings) {
        // It may have said this before it heard of what it has been given back since.
        let released = self.released.get(&core).copied().unwrap_or(0);
        holdings.segments.retain(|segment| segment.id.number > released);
        self.cores.insert(core, holdings);
        self.retain();
    }

    pub(super) fn on_published(&mut self, name: SnapshotName) {
        if !self.keeping.names.contains(&name) {
            self.keeping.names.push(name);
        }
    }

    /// There was no room for a new segment: the disk is full, whatever the file system says.
    pub(super) fn on_no_room(&mut self, core: CoreId) {
        if self.without_room.insert(core) {
            tracing::warn!(
                "no room for another segment in {}: writes are refused until there is",
                self.keeping.log.path.display()
            );
        }
        self.set_low(true);
    }

    /// A core got a file that was there already.
    pub(super) fn on_recycled(&mut self, core: CoreId) {
        self.without_room.remove(&core);
    }

    /// Looks how much room there is.
    pub(super) fn watch(&mut self) {
        let log = room(&self.keeping.log.path);
        let snapshots = room(&self.keeping.snapshots.path);
        let has = |share: u64| [log, snapshots].iter().all(|room| room.free_bytes >= share);
        let reserve = reserve_bytes(log).max(reserve_bytes(snapshots));
        if !has(reserve) {
            if !self.is_low {
                tracing::warn!(
                    "{} bytes are free in {} and {} in {}, and {reserve} are kept in reserve: \
                     writes are refused until there is more",
                    log.free_bytes,
                    self.keeping.log.path.display(),
                    snapshots.free_bytes,
                    self.keeping.snapshots.path.display()
                );
            }
            self.set_low(true);
        } else if !self.is_low || !has(reserve + reserve / 2) {
            // Enough, or not yet so much that it would not be too little again at once.
        } else if self.without_room.is_empty() {
            tracing::info!("the disk has room again");
            self.set_low(false);
        } else if log.free_bytes >= reserve + SEGMENT_BYTES {
            for core in std::mem::take(&mut self.without_room) {
                self.house.tell(core, News::Room);
            }
        }
        if self.is_low && self.asked.is_none_or(|asked| asked.elapsed() >= PATIENCE) {
            self.retain();
        }
    }

    fn set_low(&mut self, is_low: bool) {
        if is_low == self.is_low {
            return;
        }
        self.is_low = is_low;
        for core in (0..self.house.cores()).map(CoreId) {
            self.house.tell(core, News::DiskSpace { is_low });
        }
    }

    /// Gives up what may go, and has the log shortened if it is too long.
    fn retain(&mut self) {
        if self.cores.len() < usize::from(self.house.cores()) {
            return;
        }
        let cores = self.cores.values();
        let checkpoints: Vec<Checkpoint> =
            cores.clone().flat_map(|core| &core.checkpoints).copied().collect();
        let current = cores.flat_map(|core| &core.segments);
        let segments: Vec<LiveSegment> =
            self.keeping.segments.iter().chain(current).cloned().collect();
        let retention = retain(&Holdings {
            boot: self.keeping.boot,
            checkpoints: &checkpoints,
            segments: &segments,
            snapshots: &self.keeping.names,
            log_bytes_max: self.log_bytes_max(),
        });
        for &(segment, bytes) in &retention.segments {
            self.release(segment, bytes);
        }
        for name in &retention.snapshots {
            // A name that comes back after a power failure is found to be unneeded again.
            remove_if_present(&self.keeping.snapshots.path_of(name));
        }
        self.keeping.names.retain(|name| !retention.snapshots.contains(name));
        let (segments, snapshots) = (retention.segments.len(), retention.snapshots.len());
        if segments + snapshots > 0 {
            tracing::info!("given up: {segments} segments of the log, {snapshots} snapshots");
        }
        if let Some(shard) = retention.pinned_by {
            self.ask_for_snapshot(shard);
        }
    }

    /// On a full disk the log is too long if it has anything to give up.
    fn log_bytes_max(&self) -> u64 {
        let least = 2 * SEGMENT_BYTES * u64::from(self.house.cores());
        if self.is_low { least } else { self.keeping.log_bytes_max }
    }

    fn release(&mut self, segment: SegmentId, bytes: u64) {
        let cores = self.house.cores();
        let core = if segment.boot == self.keeping.boot {
            let holdings = self.cores.get_mut(&segment.core).expect("it holds the segment");
            holdings.segments.retain(|live| live.id != segment);
            self.released.insert(segment.core, segment.number);
            segment.core
        } else {
            self.keeping.segments.retain(|live| live.id != segment);
            // All of a stream to one core, so that they go in order.
            CoreId(segment.core.0 % cores)
        };
        self.house.tell(core, News::Released { segment, bytes });
    }

    fn ask_for_snapshot(&mut self, shard: ShardId) {
        self.asked = Some(Instant::now());
        let core = core_of(shard, self.house.cores());
        tracing::debug!("the log is too long: shard {shard} needs the oldest of it");
        self.house.tell(core, News::SnapshotWanted { shard });
    }
}

/// Some room is left for what ends, moves or shrinks something.
fn reserve_bytes(room: Room) -> u64 {
    (room.bytes / RESERVE_SHARE).min(RESERVE_BYTES_MAX)
}

fn room(path: &Path) -> Room {
    os::room(path).unwrap_or_else(|error| disk_failed("statvfs", path, &error))
}

/// A snapshot is not asked for again while it may still be in the making.
const PATIENCE: Duration = Duration::from_secs(10);
const RESERVE_SHARE: u64 = 20;
const RESERVE_BYTES_MAX: u64 = 256 << 20;
