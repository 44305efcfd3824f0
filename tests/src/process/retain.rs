//! What a process does with files that nobody needs any more.

use pigeonhole_core::base::id::{CoreId, ShardId, Zxid};
use pigeonhole_core::control::Checkpoint;
use pigeonhole_storage::retain::{Holdings, Retention, retain};
use pigeonhole_storage::segment::LiveSegment;
use pigeonhole_storage::snapshot::SnapshotName;

use crate::disk::Disk;
use crate::node::Around;
use crate::process::{Heard, Process};
use crate::sometimes::State;

impl Process {
    /// Lets go of files whenever there are other snapshots or other segments than before.
    pub fn retain(&mut self, disk: &mut Disk, around: &mut Around<'_>) {
        if !self.cores.iter().all(|core| core.wal.is_open()) {
            return;
        }
        let changes = self.cores.iter().map(|core| core.wal.retention_changes()).sum();
        if self.retained == changes {
            return;
        }
        self.retained = changes;
        let checkpoints: Vec<Checkpoint> = self.checkpoints().copied().collect();
        let ours = self.cores.iter().flat_map(|core| core.wal.segments());
        let segments: Vec<LiveSegment> = self.older.iter().chain(ours).cloned().collect();
        let names = disk.directory.names();
        let snapshots: Vec<SnapshotName> =
            names.iter().filter_map(|name| SnapshotName::from_file_name(name)).collect();
        let retention = retain(&Holdings {
            boot: self.boot,
            checkpoints: &checkpoints,
            segments: &segments,
            snapshots: &snapshots,
            log_bytes_max: self.config.cluster.log.bytes_max,
        });
        self.let_go(retention, disk, around);
    }

    /// Whether nothing of this process's log is known to be missing.
    pub fn is_whole(&self) -> bool {
        self.cores.iter().all(|core| core.wal.is_open()) && self.checkpoints().all(|it| !it.unknown)
    }

    pub fn remembers(&self, shard: ShardId, committed: Zxid) -> bool {
        self.checkpoints().any(|it| it.shard() == shard && it.committed_zxid() >= committed)
    }

    fn let_go(&mut self, retention: Retention, disk: &mut Disk, around: &mut Around<'_>) {
        for (segment, bytes) in retention.segments {
            around.checks.sometimes.hit(State::LogShortened);
            let owner = if segment.boot == self.boot { segment.core } else { CoreId(0) };
            self.older.retain(|older| older.id != segment);
            self.core(owner).wal.release_segment(segment, bytes);
        }
        for name in retention.snapshots {
            around.checks.sometimes.hit(State::SnapshotRemoved);
            disk.remove_file(&name.file_name());
        }
        if let Some(shard) = retention.pinned_by {
            around.checks.sometimes.hit(State::LogTooLong);
            self.hand_over(self.core_of(shard), Heard::SnapshotWanted { shard }, around);
        }
        for id in self.core_ids() {
            self.take_up_operations(id);
        }
    }

    fn checkpoints(&self) -> impl Iterator<Item = &Checkpoint> {
        self.cores.iter().flat_map(|core| core.wal.durable_checkpoints())
    }

    pub(super) fn core_of(&self, shard: ShardId) -> CoreId {
        CoreId(u8::try_from(shard.0 % u16::from(self.config.cores)).expect("few cores"))
    }
}
