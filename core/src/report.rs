//! Figures about a worker, for operators and for checkers.

use alloc::vec::Vec;

use crate::base::id::{Epoch, ServerId, ShardId, Zxid};
use crate::base::met::LimitsMet;
use crate::peer::message::PeerState;
use crate::replica::Replica;
use crate::shard::PARTITION_POINTS;
use crate::zab::Phase;
use crate::zab::lead::LearnerStage;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The replicas of this core, ascending.
    pub shards: Vec<ShardReport>,
    /// Client requests that were read on this core and are not answered yet.
    pub outstanding: usize,
    /// By clients, peers and replicas of this core.
    pub limits_met: LimitsMet,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardReport {
    pub shard: ShardId,
    pub role: PeerState,
    /// It serves: as a leader whose epoch has begun, or as a learner that is up to date.
    pub established: bool,
    /// It takes long to get what its leader has: the whole server takes no clients meanwhile.
    pub is_catching_up: bool,
    /// The leader that it serves under; itself when leading.
    pub leader: Option<ServerId>,
    pub accepted_epoch: Epoch,
    pub current_epoch: Epoch,
    /// The last entry applied, committed, durable, appended.
    pub zxid: Zxid,
    pub committed: Zxid,
    pub durable: Zxid,
    pub tail: Zxid,
    /// Shard 0 counts the partition points, the others do not.
    pub znodes: usize,
    pub ephemerals: usize,
    pub data_bytes: u64,
    pub watches: usize,
    /// Sessions whose home this shard is.
    pub sessions: usize,
    pub digest: u128,
    /// The following are a leader's, and zero otherwise.
    pub synced_followers: u32,
    pub synced_observers: u32,
    pub learners: u32,
    pub pending_syncs: u32,
}

impl ShardReport {
    pub fn of(replica: &Replica) -> Self {
        let zab = replica.zab();
        let log = zab.log();
        let tree = replica.state().tree();
        let shard = replica.shard();
        let points = if shard == ShardId(0) { 0 } else { PARTITION_POINTS.len() };
        let mut report = Self {
            shard,
            role: zab.state(),
            established: replica.serves_under().is_some(),
            is_catching_up: replica.is_catching_up(),
            leader: replica.serves_under(),
            accepted_epoch: log.accepted_epoch(),
            current_epoch: log.current_epoch(),
            zxid: replica.applied(),
            committed: log.committed(),
            durable: log.durable().tail.zxid,
            tail: log.tail().zxid,
            znodes: tree.len() - points,
            ephemerals: replica.state().sessions().ephemerals_count(),
            data_bytes: tree.approximate_bytes(),
            watches: replica.watches().count(),
            sessions: replica.state().sessions().homes_count(),
            digest: tree.digest(),
            synced_followers: 0,
            synced_observers: 0,
            learners: 0,
            pending_syncs: 0,
        };
        report.count_learners(replica);
        report
    }

    fn count_learners(&mut self, replica: &Replica) {
        let Phase::Leading(leader) = replica.zab().phase() else {
            return;
        };
        let voters = &replica.zab().membership().voters;
        for (server, learner) in leader.learners() {
            self.learners += 1;
            if learner.stage() < LearnerStage::Entered {
                self.pending_syncs += 1;
            } else if voters.contains(&server) {
                self.synced_followers += 1;
            } else {
                self.synced_observers += 1;
            }
        }
    }
}
