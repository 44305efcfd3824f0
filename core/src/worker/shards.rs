//! The replicas of one core.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::base::error::ErrorCode;
use crate::base::id::{ShardId, Zxid};
use crate::base::time::{Duration, Instant};
use crate::gateway::Replicas;
use crate::mail::Reader;
use crate::op::Request;
use crate::replica::{Deed, Replica};

/// The replicas of this core, with what they have asked for.
#[derive(Default)]
pub(super) struct Shards {
    pub(super) replicas: BTreeMap<ShardId, Replica>,
    pub(super) deeds: Vec<(ShardId, Deed)>,
    pub(super) scratch: Vec<Deed>,
}

impl Shards {
    /// Lets a replica act, if it is here; tells whether it is.
    pub(super) fn with(
        &mut self,
        shard: ShardId,
        act: impl FnOnce(&mut Replica, &mut Vec<Deed>),
    ) -> bool {
        let Some(replica) = self.replicas.get_mut(&shard) else {
            return false;
        };
        act(replica, &mut self.scratch);
        self.collect(shard);
        true
    }

    pub(super) fn each(&mut self, mut act: impl FnMut(&mut Replica, &mut Vec<Deed>)) {
        for (&shard, replica) in &mut self.replicas {
            act(replica, &mut self.scratch);
            self.deeds.extend(self.scratch.drain(..).map(|deed| (shard, deed)));
        }
    }

    pub(super) fn collect(&mut self, shard: ShardId) {
        self.deeds.extend(self.scratch.drain(..).map(|deed| (shard, deed)));
    }
}

impl Replicas for Shards {
    fn read(
        &mut self,
        shard: ShardId,
        reader: &Reader,
        request: &Request<'_>,
        body: &mut Vec<u8>,
    ) -> Option<Result<(), ErrorCode>> {
        let replica = self.replicas.get_mut(&shard)?;
        let result = replica.read(reader, request, body, &mut self.scratch);
        self.deeds.extend(self.scratch.drain(..).map(|deed| (shard, deed)));
        Some(result)
    }

    fn standing(&self, shard: ShardId, now: Instant) -> Option<(Zxid, Duration)> {
        let replica = self.replicas.get(&shard)?;
        Some((replica.applied(), replica.leaderless_for(now)))
    }
}
