//! Which files may go. Nothing here touches a disk: it is arithmetic over what is durable.
//!
//! The log is kept back to the older of a shard's two snapshots, so that a damaged one costs
//! nothing. An entry at or before it is not needed; neither are checkpoints and epochs, because
//! every later segment begins with newer ones.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use pigeonhole_core::base::id::{CoreId, ShardId};
use pigeonhole_core::control::Checkpoint;

use crate::disk::SegmentId;
use crate::segment::LiveSegment;
use crate::snapshot::SnapshotName;

/// What there is. All of it must be durable, and the current boot's logs open: a file that goes
/// before its successor is safe is a promise lost.
#[derive(Clone, Copy, Debug)]
pub struct Holdings<'a> {
    /// The boot that is running.
    pub boot: u64,
    /// Of every shard on this node ([`crate::wal::Wal::durable_checkpoints`] of all cores).
    pub checkpoints: &'a [Checkpoint],
    /// The segments that have not been released, of this boot and of older ones.
    pub segments: &'a [LiveSegment],
    /// The published snapshot files.
    pub snapshots: &'a [SnapshotName],
    /// When the log is longer, something should be done about it.
    pub log_bytes_max: u64,
}

/// What follows from it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Retention {
    /// Segments that are not needed any more, with their sizes, the oldest first.
    pub segments: Vec<(SegmentId, u64)>,
    pub snapshots: Vec<SnapshotName>,
    /// If the log is too long: the shard that should be snapshotted, because it needs the oldest
    /// segment.
    pub pinned_by: Option<ShardId>,
}

/// Decides what may go.
pub fn retain(holdings: &Holdings<'_>) -> Retention {
    let checkpoints: BTreeMap<ShardId, &Checkpoint> =
        holdings.checkpoints.iter().map(|checkpoint| (checkpoint.shard(), checkpoint)).collect();
    let mut streams: BTreeMap<(u64, CoreId), Vec<&LiveSegment>> = BTreeMap::new();
    for segment in holdings.segments {
        assert!(segment.id.boot <= holdings.boot, "no segment is newer than the running boot");
        streams.entry((segment.id.boot, segment.id.core)).or_default().push(segment);
    }
    let older = holdings.segments.iter().any(|segment| segment.id.boot < holdings.boot);
    let mut retention = Retention::default();
    let mut oldest_needed: Option<&LiveSegment> = None;
    let mut kept_bytes = 0;
    for ((boot, _), mut segments) in streams {
        segments.sort_by_key(|segment| segment.id);
        let mut free = segments.iter().take_while(|segment| !is_needed(segment, &checkpoints));
        let mut count = free.by_ref().count();
        if boot == holdings.boot {
            // The last one is being written, and the first one holds the seal of the older streams.
            count = if older { 0 } else { count.min(segments.len() - 1) };
        }
        let (unneeded, kept) = segments.split_at(count);
        retention.segments.extend(unneeded.iter().map(|segment| (segment.id, segment.bytes)));
        kept_bytes += kept.iter().map(|segment| segment.bytes).sum::<u64>();
        let needed = kept.iter().copied().find(|segment| is_needed(segment, &checkpoints));
        oldest_needed =
            [oldest_needed, needed].into_iter().flatten().min_by_key(|segment| segment.id);
    }
    if kept_bytes > holdings.log_bytes_max {
        retention.pinned_by = oldest_needed.and_then(|segment| pinning(segment, &checkpoints));
    }
    let unneeded = |name: &&SnapshotName| !is_referenced(name, &checkpoints);
    retention.snapshots = holdings.snapshots.iter().filter(unneeded).copied().collect();
    retention
}

/// Whether a segment holds an entry that replay from the older snapshot would have to read.
fn is_needed(segment: &LiveSegment, checkpoints: &BTreeMap<ShardId, &Checkpoint>) -> bool {
    pinning(segment, checkpoints).is_some()
}

/// The shard that needs the segment and whose older snapshot is the oldest.
fn pinning(segment: &LiveSegment, checkpoints: &BTreeMap<ShardId, &Checkpoint>) -> Option<ShardId> {
    // Nothing is known of a shard without a checkpoint, so that all of its entries are needed.
    let oldest = |shard| checkpoints.get(&shard).map_or(0, |state| state.snapshot_before.zxid);
    let needing = segment.spans.iter().filter(|(shard, span)| span.zxid_max.0 > oldest(**shard));
    needing.map(|(shard, _)| *shard).min_by_key(|&shard| oldest(shard))
}

/// Whether a snapshot is one of the two that the log names, or may yet be named.
fn is_referenced(name: &SnapshotName, checkpoints: &BTreeMap<ShardId, &Checkpoint>) -> bool {
    checkpoints.get(&name.shard).is_none_or(|state| {
        let named = [state.snapshot, state.snapshot_before]
            .iter()
            .any(|reference| SnapshotName::new(name.shard, reference) == *name);
        named || name.zxid.0 > state.snapshot.zxid
    })
}
