//! Watches on partition points: one object for the client, registered in every shard.
//!
//! A watch on a point's children waits in all shards, and the first event uses it up everywhere:
//! what other shards tell of the same watch is swallowed, and they are told to forget it. Each
//! registration is named by the question that made it, so that an event of an older one is never
//! taken for an event of a newer one. Mail between a gateway and a shard keeps its order both ways,
//! and a registration counts in a shard from that shard's answer on.

use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec::Vec;

use crate::base::id::{ConnectionId, ShardId};
use crate::gateway::Gateway;
use crate::gateway::connection::{Connection, Fired, SlotState};
use crate::gateway::gather::PointMarks;
use crate::gateway::routing::bit;
use crate::mail::{Ticket, What};
use crate::op::EventType;
use crate::shard::PARTITION_POINTS;

/// The watches of one connection on partition points, by point (as a bit) and shard.
#[derive(Default)]
pub(super) struct PointWatches {
    known: BTreeMap<(u8, ShardId), PointWatch>,
}

/// What waits in one shard, as of the last mail that came from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct PointWatch {
    children: Children,
    is_persistent: bool,
}

/// What becomes of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Passage {
    Free,
    /// It is the one event of the watch that this question left.
    For(Ticket),
    Swallowed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Children {
    #[default]
    Unwatched,
    /// Left by the request of this question, and not used up.
    Waiting(Ticket),
    /// Left by this question, and used up by an event of another shard; this shard may not know
    /// it yet.
    UsedUp(Ticket),
}

impl Gateway {
    /// A shard has executed its part of the request that this question belongs to.
    pub(super) fn on_point_part(
        &mut self,
        id: ConnectionId,
        ticket: Ticket,
        shard: ShardId,
        marks: PointMarks,
    ) {
        let Some(connection) = self.find(id) else {
            return;
        };
        let watches = &mut connection.points;
        watches.each(marks.without_children, shard, |watch| {
            watch.children = Children::Unwatched;
        });
        watches.each(marks.without_persistent, shard, |watch| {
            watch.is_persistent = false;
        });
        watches.each(marks.persistent, shard, |watch| watch.is_persistent = true);
        watches.each(marks.children & !marks.fired, shard, |watch| {
            watch.children = Children::Waiting(ticket);
        });
        watches.each(marks.children & marks.fired, shard, |watch| {
            watch.children = Children::UsedUp(ticket);
        });
        self.unwatch(id, marks.children & marks.fired, &[shard]);
    }

    /// A request is answered with a refusal: the client has no watch, whatever shards have.
    pub(super) fn on_point_refused(&mut self, id: ConnectionId, ticket: Ticket, marks: PointMarks) {
        for point in bits(marks.children) {
            self.use_up(id, point, ticket);
        }
    }

    /// Whether an event reaches the client, if it is about a point.
    pub(super) fn passage(
        &mut self,
        id: ConnectionId,
        shard: ShardId,
        event: EventType,
        path: &str,
    ) -> Passage {
        let point = bit(path);
        if event != EventType::NodeChildrenChanged || point == 0 {
            return Passage::Free;
        }
        let Some(connection) = self.find(id) else {
            return Passage::Swallowed;
        };
        let watch = connection.points.known.entry((point, shard)).or_default();
        let is_persistent = watch.is_persistent;
        match core::mem::take(&mut watch.children) {
            Children::Waiting(ticket) => {
                self.use_up(id, point, ticket);
                Passage::For(ticket)
            }
            _ if is_persistent => Passage::Free,
            Children::UsedUp(ticket) if connection.overtakes(shard, ticket) => Passage::For(ticket),
            Children::Unwatched if self.fires_set_watches(id, shard, point) => Passage::Free,
            Children::UsedUp(_) | Children::Unwatched => Passage::Swallowed,
        }
    }

    /// setWatches fires in a shard before that shard answers: the first such event is the watch's.
    fn fires_set_watches(&mut self, id: ConnectionId, shard: ShardId, point: u8) -> bool {
        let Some(connection) = self.find(id) else {
            return false;
        };
        let setting = connection.queue.iter().find_map(|slot| match &slot.state {
            SlotState::Open { ticket, gather: Some(gather), .. }
                if gather.sets_watches()
                    && gather.waits_for(shard)
                    && gather.marks.children & point != 0
                    && gather.marks.fired & point == 0 =>
            {
                Some(*ticket)
            }
            _ => None,
        });
        let Some(ticket) = setting else {
            return false;
        };
        self.use_up(id, point, ticket);
        true
    }

    /// The watch that this question left is used up, in every shard.
    fn use_up(&mut self, id: ConnectionId, point: u8, ticket: Ticket) {
        let Some(connection) = self.find(id) else {
            return;
        };
        if let Some(slot) = connection.slot_of(ticket)
            && let SlotState::Open { gather: Some(gather), .. } = &mut slot.state
        {
            gather.marks.fired |= point;
        }
        let mut left = Vec::new();
        for ((of, shard), watch) in &mut connection.points.known {
            if *of == point && watch.children == Children::Waiting(ticket) {
                watch.children = Children::UsedUp(ticket);
                left.push(*shard);
            }
        }
        self.unwatch(id, point, &left);
    }

    /// Tells shards to forget watches on the children of points, unless another request that leaves
    /// such a watch is on its way there: then the watch is that request's.
    fn unwatch(&mut self, id: ConnectionId, points: u8, shards: &[ShardId]) {
        for point in bits(points) {
            for &shard in shards {
                let Some(connection) = self.find(id) else {
                    return;
                };
                if connection.registers(point, shard) {
                    continue;
                }
                let path = PARTITION_POINTS[index_of(point)].to_string();
                let connection = id;
                self.ask(shard, What::Unwatch { connection, path });
            }
        }
    }
}

impl Connection {
    /// The watch's one event may still be held behind the reply to a request that this shard has
    /// not executed yet. That reply will show this shard's change: then this event goes, ahead of
    /// it, and the one that is held does not.
    fn overtakes(&mut self, shard: ShardId, ticket: Ticket) -> bool {
        let executed = self.queue.iter().rposition(|slot| slot.state.was_executed_in(shard));
        let later = executed.map_or(0, |index| index + 1);
        for slot in self.queue.range_mut(later..) {
            let is_it = |held: &Fired| held.watch == Some(ticket);
            if let Some(place) = slot.events.iter().position(is_it) {
                self.held_bytes -= slot.events.remove(place).bytes();
                return true;
            }
        }
        false
    }

    /// Whether the shard has been asked to watch the point's children and has not answered.
    fn registers(&self, point: u8, shard: ShardId) -> bool {
        self.queue.iter().any(|slot| match &slot.state {
            SlotState::Open { gather: Some(gather), .. } => {
                gather.marks.children & point != 0 && gather.waits_for(shard)
            }
            _ => false,
        })
    }
}

impl PointWatches {
    fn each(&mut self, points: u8, shard: ShardId, change: impl Fn(&mut PointWatch)) {
        for point in bits(points) {
            change(self.known.entry((point, shard)).or_default());
        }
    }
}

fn bits(points: u8) -> impl Iterator<Item = u8> {
    (0..PARTITION_POINTS.len()).map(|index| 1 << index).filter(move |point| points & point != 0)
}

fn index_of(point: u8) -> usize {
    usize::try_from(point.trailing_zeros()).expect("there are eight bits")
}
