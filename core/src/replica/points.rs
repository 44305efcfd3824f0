//! What shard 0 decides about a partition point, on its way to every other shard.
//!
//! Its data and its ACL are shard 0's; the others keep copies, because creating a child in any
//! shard is judged by the point's ACL. The client is told of its write when every shard has it.
//! Both the node that the client is connected to and shard 0's leader carry a change, and a new
//! leader carries what is there again: a shard that knows it already logs nothing.

use alloc::collections::BTreeSet;
use alloc::string::ToString;
use alloc::vec::Vec;

use crate::base::error::ErrorCode;
use crate::base::id::{CoreId, ShardId, Zxid};
use crate::mail::{Outcome, Ticket};
use crate::peer::message::WriteAsk;
use crate::replica::session::ShardQuestion;
use crate::replica::{Deed, Replica};
use crate::shard::PARTITION_POINTS;

/// One change that other shards are told of.
pub(super) struct Carry {
    /// By place among the partition points.
    waiting: BTreeSet<(ShardId, usize)>,
    /// To be given when nobody is waited for any more.
    answer: Option<(CoreId, Ticket, Outcome)>,
    zxid: Zxid,
}

impl Replica {
    /// The partition points that the transaction at `zxid` has changed; only shard 0 carries any.
    pub(super) fn points_changed_at(&self, zxid: Zxid) -> Vec<usize> {
        if self.shard() != ShardId(0) || self.config.map.count() == 1 {
            return Vec::new();
        }
        let changed = |point: &usize| self.state.point_zxid(PARTITION_POINTS[*point]) == zxid;
        (0..PARTITION_POINTS.len()).filter(changed).collect()
    }

    /// Tells every other shard what these points are now, and then whoever asked for the change.
    pub(super) fn carry(
        &mut self,
        points: &[usize],
        zxid: Zxid,
        answer: Option<(CoreId, Ticket, Outcome)>,
        deeds: &mut Vec<Deed>,
    ) {
        assert_eq!(self.shard(), ShardId(0), "shard 0 decides about points");
        let others = self.config.map.shards().filter(|shard| *shard != ShardId(0));
        let waiting: BTreeSet<(ShardId, usize)> =
            others.flat_map(|shard| points.iter().map(move |&point| (shard, point))).collect();
        let carry = self.next_carry;
        self.next_carry += 1;
        for &(shard, point) in &waiting {
            self.ask_point(carry, shard, point, deeds);
        }
        let begun = Carry { waiting, answer, zxid };
        self.carries.insert(carry, begun);
    }

    /// A new leader does not know how far its predecessor has come.
    pub(super) fn carry_all(&mut self, deeds: &mut Vec<Deed>) {
        if self.shard() != ShardId(0) || self.config.map.count() == 1 {
            return;
        }
        let was_changed = |point: &usize| {
            let changed_at = self.state.point_zxid(PARTITION_POINTS[*point]);
            changed_at > Zxid::ZERO
        };
        let points: Vec<usize> = (0..PARTITION_POINTS.len()).filter(was_changed).collect();
        if !points.is_empty() {
            self.carry(&points, self.state.applied(), None, deeds);
        }
    }

    /// Another shard has taken a point over, or nobody knows whether it has.
    pub(super) fn on_point_answer(
        &mut self,
        carry: u64,
        shard: ShardId,
        point: usize,
        outcome: &Outcome,
        deeds: &mut Vec<Deed>,
    ) {
        let Some(carried) = self.carries.get_mut(&carry) else {
            return;
        };
        let is_done = matches!(outcome, Outcome::Reply { code: ErrorCode::Ok, .. });
        if !is_done {
            // That shard's leader changed. Its replica here keeps the question until it has one.
            if carried.answer.is_some() || self.reign.is_some() {
                self.ask_point(carry, shard, point, deeds);
            } else {
                self.carries.remove(&carry);
            }
            return;
        }
        carried.waiting.remove(&(shard, point));
        if !carried.waiting.is_empty() {
            return;
        }
        let carried = self.carries.remove(&carry).expect("it was just found");
        if let Some((core, ticket, outcome)) = carried.answer {
            self.answer(core, ticket, carried.zxid, outcome, deeds);
        }
    }

    /// What is there now is at least as new as what is to be carried.
    fn ask_point(&mut self, carry: u64, shard: ShardId, point: usize, deeds: &mut Vec<Deed>) {
        let path = PARTITION_POINTS[point];
        let tree = self.state.tree();
        let node = tree.find(path).expect("points exist in every shard");
        let ask = WriteAsk::PointSet {
            path: path.to_string(),
            data: tree.data(node).map(<[u8]>::to_vec),
            acl: tree.acl(node).to_vec(),
            point_zxid: self.state.point_zxid(path).0,
        };
        let question = ShardQuestion::Point { carry, point };
        self.ask_shard(shard, question, ask, deeds);
    }
}
