//! Reading ahead: what a group of lookups will need from memory, all of it at once.
//!
//! A znode of a large tree is in no cache. To find it is to wait for memory four or five times,
//! each time for an address that only the last one told. Other znodes have nothing to do with that:
//! when one step is made for many of them before the next, a processor waits for all of them
//! together.

use core::hint::black_box;

use super::{NodeId, Tree};

impl Tree {
    /// Reads what finding and changing the znodes at these paths will read. Nothing comes of it but
    /// time: for the first [`PATHS_AT_ONCE`] of them, the rest is left alone.
    pub fn look_ahead<'a>(&self, paths: impl Iterator<Item = &'a str>) {
        let mut hashes = [0; PATHS_AT_ONCE];
        let mut count = 0;
        for (hash, path) in hashes.iter_mut().zip(paths) {
            *hash = self.hash(path.as_bytes());
            count += 1;
        }
        let hashes = &hashes[..count];
        // Loads whose values go nowhere would be left out.
        black_box(hashes.iter().fold(0, |all, &hash| all ^ self.index.home_of(hash)));
        let mut nodes = [Self::ROOT; PATHS_AT_ONCE];
        for (node, &hash) in nodes.iter_mut().zip(hashes) {
            *node = self.index.find(hash, |_| true).map_or(Self::ROOT, NodeId);
        }
        let nodes = &nodes[..count];
        let slots = &self.znodes.slots;
        black_box(nodes.iter().fold(0, |all, node| all ^ slots.counts(node.0 as usize)));
        black_box(nodes.iter().fold(0, |all, &node| all ^ self.slot(node).look_ahead()));
    }
}

/// About as many loads as a processor has under way at a time.
pub(crate) const PATHS_AT_ONCE: usize = 16;
