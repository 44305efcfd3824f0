//! The replicas of one core.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Bound;

use crate::base::error::ErrorCode;
use crate::base::id::{ShardId, Zxid};
use crate::base::time::{Duration, Instant, Now};
use crate::gateway::Replicas;
use crate::mail::Reader;
use crate::op::Request;
use crate::replica::{Deed, Replica};

/// The replicas of this core, with what they have asked for.
#[derive(Default)]
pub(super) struct Shards {
    pub(super) replicas: BTreeMap<ShardId, Replica>,
    /// Whose turn it is to go first.
    first: ShardId,
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
        let mut act = |(&shard, replica): (&ShardId, &mut Replica)| {
            act(replica, &mut self.scratch);
            self.deeds.extend(self.scratch.drain(..).map(|deed| (shard, deed)));
        };
        self.replicas.range_mut(self.first..).for_each(&mut act);
        self.replicas.range_mut(..self.first).for_each(&mut act);
    }

    /// From now on another shard comes first, and is the last to find its share used up.
    pub(super) fn rotate(&mut self) {
        let after = (Bound::Excluded(self.first), Bound::Unbounded);
        let next = self.replicas.range(after).chain(&self.replicas).next();
        if let Some((&shard, _)) = next {
            self.first = shard;
        }
    }

    /// Hands one shard over, if this core leads more than its share of them and another server
    /// should lead one. Shard 0 stays where it is: its leader is the one that clients are told of.
    pub(super) fn balance(&mut self, now: Now, voters: usize) {
        let led = self.replicas.values().filter(|it| it.zab().is_established_leader()).count();
        if led <= self.replicas.len().div_ceil(voters) {
            return;
        }
        let others = self.replicas.iter().filter(|(shard, _)| **shard != ShardId(0));
        let mut misplaced = others.filter(|(_, it)| it.zab().should_be_led_by_another());
        if let Some((&shard, _)) = misplaced.next() {
            self.with(shard, |replica, deeds| replica.on_hand_over(now, deeds));
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
        let replica = self.replicas.get(&shard).filter(|replica| replica.is_current())?;
        Some((replica.applied(), replica.leaderless_for(now)))
    }
}
