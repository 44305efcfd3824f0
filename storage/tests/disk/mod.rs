//! A disk in memory that carries out operations one by one and loses power between any two.

pub(crate) mod node;

use std::collections::BTreeMap;

use pigeonhole_core::base::limits::LOG_BLOCK_BYTES;
use pigeonhole_core::base::prng::Prng;
use pigeonhole_storage::disk::{DiskDone, DiskOp, LogBuffer, SegmentId};

#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) files: BTreeMap<SegmentId, Vec<u8>>,
    /// Writes that a power failure has cut off, in case that they become readable after all.
    cut: Vec<(SegmentId, usize, Vec<u8>)>,
}

impl Disk {
    /// Carries out one operation wholly.
    pub(crate) fn perform(&mut self, operation: DiskOp) -> DiskDone {
        match operation {
            DiskOp::Write { segment, offset, length, buffer } => {
                let offset_bytes = usize::try_from(offset).unwrap();
                let length = usize::try_from(length).unwrap();
                assert!(offset_bytes.is_multiple_of(LOG_BLOCK_BYTES));
                assert!(length.is_multiple_of(LOG_BLOCK_BYTES) && length > 0);
                let file = self.files.get_mut(&segment).expect("a segment is prepared first");
                file[offset_bytes..offset_bytes + length].copy_from_slice(&buffer.bytes[..length]);
                DiskDone::Write { segment, offset, buffer }
            }
            DiskOp::PrepareSegment { segment, bytes, recycle } => {
                let bytes = usize::try_from(bytes).unwrap();
                let content = match recycle {
                    Some(old) => self.files.remove(&old).expect("a recycled file exists"),
                    None => vec![0; bytes],
                };
                assert_eq!(content.len(), bytes, "a recycled file has the size of a new one");
                let before = self.files.insert(segment, content);
                assert!(before.is_none(), "a segment is prepared once");
                DiskDone::PrepareSegment { segment }
            }
            DiskOp::RetireSegment { segment } => {
                self.files.remove(&segment).expect("a retired file exists");
                DiskDone::RetireSegment { segment }
            }
        }
    }

    /// The power goes while an operation is under way: what it leaves is drawn. Its memory survives
    /// for the next boot.
    pub(crate) fn lose_power(&mut self, operation: DiskOp, random: &mut Prng) -> Option<LogBuffer> {
        match operation {
            DiskOp::Write { segment, offset, length, buffer } => {
                let file = self.files.get_mut(&segment).expect("a segment is prepared first");
                let start = usize::try_from(offset).unwrap();
                let length = usize::try_from(length).unwrap();
                let sector = if random.chance(1, 2) { 512 } else { LOG_BLOCK_BYTES };
                let kept = random.below(5);
                for at in (0..length).step_by(sector) {
                    // All, nothing, or any part of it.
                    if kept == 4 || (kept > 0 && random.chance(kept, 4)) {
                        let target = &mut file[start + at..start + at + sector];
                        target.copy_from_slice(&buffer.bytes[at..at + sector]);
                    }
                }
                self.cut.push((segment, start, buffer.bytes[..length].to_vec()));
                Some(buffer)
            }
            DiskOp::PrepareSegment { segment, bytes, recycle: None } => {
                if random.chance(1, 2) {
                    let bytes = usize::try_from(random.below(bytes + 1)).unwrap();
                    self.files.insert(segment, vec![0; bytes]);
                }
                None
            }
            other => {
                if random.chance(1, 2) {
                    self.perform(other);
                }
                None
            }
        }
    }

    /// What was cut off by earlier power failures is whole again, where its file still exists.
    pub(crate) fn heal(&mut self) {
        for (segment, start, bytes) in self.cut.drain(..) {
            if let Some(file) = self.files.get_mut(&segment) {
                file[start..start + bytes.len()].copy_from_slice(&bytes);
            }
        }
    }

    pub(crate) fn segments(&self) -> Vec<(SegmentId, &[u8])> {
        self.files.iter().map(|(id, bytes)| (*id, bytes.as_slice())).collect()
    }
}
