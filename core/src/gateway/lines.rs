//! Who may write next: of one core's clients, so many writes may be under way to each shard, and
//! the others stand in a line (ZooKeeper's `globalOutstandingLimit`).
//!
//! Without a line, whoever sends much ahead fills every queue up to the leader's, and a client that
//! wants one thing waits behind all of it.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::base::id::{ConnectionId, ShardId};
use crate::base::limits::WRITES_PER_CALL;
use crate::base::met::Limit;
use crate::base::time::Instant;
use crate::gateway::{Gateway, Replicas};

/// One line for each shard.
pub(super) struct Lines {
    lines: Vec<Line>,
    writes_max: usize,
    next_number: u64,
    /// Connections that stand in lines.
    waiting: usize,
    /// Whose turn it is, and how many writes it may begin.
    called: Option<(ConnectionId, usize)>,
}

#[derive(Clone, Default)]
struct Line {
    /// Writes that have no answer yet.
    writes: usize,
    /// By the numbers that they have drawn.
    waiting: BTreeMap<u64, ConnectionId>,
}

/// Where a connection stands. It stands in one place only: what it waits with is its oldest
/// request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    shard: ShardId,
    number: u64,
}

impl Lines {
    pub(super) fn new(shards: usize, writes_max: usize) -> Self {
        assert!(writes_max > 0, "or nobody ever writes");
        let lines = alloc::vec![Line::default(); shards];
        Self { lines, writes_max, next_number: 0, waiting: 0, called: None }
    }

    pub(super) fn begin_write(&mut self, shard: ShardId) {
        self.line(shard).writes += 1;
    }

    pub(super) fn end_write(&mut self, shard: ShardId) {
        let line = self.line(shard);
        line.writes = line.writes.checked_sub(1).expect("a write ends once");
    }

    /// Whether the connection may write without standing in line.
    fn admits(&mut self, id: ConnectionId, shard: ShardId) -> bool {
        let is_full = self.line(shard).writes >= self.writes_max;
        let is_first = self.line(shard).waiting.is_empty();
        match &mut self.called {
            Some((called, left)) if *called == id && *left > 0 && !is_full => {
                *left -= 1;
                true
            }
            _ => is_first && !is_full,
        }
    }

    /// The first in a line that moves.
    fn call(&mut self) -> Option<ConnectionId> {
        if self.waiting == 0 {
            self.called = None;
            return None;
        }
        let writes_max = self.writes_max;
        let moving = self.lines.iter_mut().filter(|line| line.writes < writes_max);
        let next = moving.into_iter().find_map(|line| Some(line.waiting.pop_first()?.1));
        self.waiting -= usize::from(next.is_some());
        self.called = next.map(|id| (id, WRITES_PER_CALL));
        next
    }

    pub(super) fn is_called(&self, id: ConnectionId) -> bool {
        self.called.is_some_and(|(called, _)| called == id)
    }

    fn stand_in(&mut self, id: ConnectionId, shard: ShardId) -> Place {
        let number = self.next_number;
        self.next_number += 1;
        self.line(shard).waiting.insert(number, id);
        self.waiting += 1;
        Place { shard, number }
    }

    /// The connection is gone.
    pub(super) fn leave(&mut self, place: Place) {
        let left = self.line(place.shard).waiting.remove(&place.number);
        self.waiting -= usize::from(left.is_some());
    }

    fn line(&mut self, shard: ShardId) -> &mut Line {
        &mut self.lines[usize::from(shard.0)]
    }
}

impl Gateway {
    /// Whether this connection's oldest request may be asked of the shard now. Otherwise it is
    /// called when it is its turn.
    pub(super) fn may_write(&mut self, id: ConnectionId, shard: ShardId) -> bool {
        if self.lines.admits(id, shard) {
            return true;
        }
        if self.find(id).is_some_and(|connection| connection.place_in_line.is_none()) {
            let place = self.lines.stand_in(id, shard);
            self.met.note(Limit::WritesOutstanding);
            if let Some(connection) = self.find(id) {
                connection.place_in_line = Some(place);
            }
        }
        false
    }

    /// Lets those write whose turn it is.
    pub(super) fn call_writers(&mut self, now: Instant, replicas: &mut impl Replicas) {
        while let Some(id) = self.lines.call() {
            if let Some(connection) = self.find(id) {
                connection.place_in_line = None;
                self.issue(now, id, replicas);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::CoreId;

    #[test]
    fn a_line_moves_in_order_and_holds_nobody_who_is_gone() {
        let (first, other) = (ShardId(0), ShardId(1));
        let [one, two, three] =
            [1, 2, 3].map(|slot| ConnectionId { core: CoreId(0), slot, generation: 1 });
        let mut lines = Lines::new(2, 1);
        assert!(lines.admits(one, first));
        lines.begin_write(first);
        assert!(!lines.admits(two, first) && lines.admits(two, other));
        let place = lines.stand_in(two, first);
        lines.stand_in(three, first);
        assert_eq!(lines.call(), None, "the write has no answer yet");
        lines.end_write(first);
        assert!(!lines.admits(one, first), "others were here before");
        lines.leave(place);
        assert_eq!(lines.call(), Some(three));
        assert!(lines.admits(three, first));
        lines.begin_write(first);
        lines.end_write(first);
        assert_eq!(lines.call(), None);
        assert!(lines.admits(one, first));
    }
}
