//! *StateDigest* and *MonotonicRead*: replicas that have applied the same have the same tree, also
//! after a restart (*MemoryEqualsDisk* of what is applied), and what is applied only grows. That
//! nothing is applied twice (*OneApply*) the product asserts itself.

use std::collections::BTreeMap;

use pigeonhole_core::base::id::{ShardId, Zxid};

#[derive(Default)]
pub struct States {
    digests: BTreeMap<(ShardId, Zxid), (u128, u8)>,
    applied: BTreeMap<(u8, ShardId), Zxid>,
}

impl States {
    /// What a node reports of one shard.
    pub fn on_report(&mut self, node: u8, shard: ShardId, applied: Zxid, digest: u128) {
        let before = self.applied.insert((node, shard), applied).unwrap_or_default();
        assert!(
            applied >= before,
            "MonotonicRead: n{node} had applied {before}, and now {applied}, in shard {shard}"
        );
        let (known, by) = *self.digests.entry((shard, applied)).or_insert((digest, node));
        assert_eq!(
            known, digest,
            "StateDigest: n{by} and n{node} differ at {applied} in shard {shard}"
        );
    }

    /// A node has started again: it applies from its snapshot on.
    pub fn on_restart(&mut self, node: u8) {
        self.applied.retain(|&(of, _), _| of != node);
    }
}
