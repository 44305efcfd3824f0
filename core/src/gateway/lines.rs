//! Who may write next: of one core's clients, so many writes may be under way to each shard, and
//! the others stand in a line (ZooKeeper's `globalOutstandingLimit`).
//!
//! Without a line, whoever sends much ahead fills every queue up to the leader's, and a client that
//! wants one thing waits behind all of it.

use alloc::collections::VecDeque;
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
    /// Whose turn it is, and how many writes it may begin.
    called: Option<(ConnectionId, usize)>,
}

#[derive(Clone, Default)]
struct Line {
    /// Writes that have no answer yet.
    writes: usize,
    /// No connection stands in it twice: what it waits with is its oldest request.
    waiting: VecDeque<ConnectionId>,
}

impl Lines {
    pub(super) fn new(shards: usize, writes_max: usize) -> Self {
        assert!(writes_max > 0, "or nobody ever writes");
        Self { lines: alloc::vec![Line::default(); shards], writes_max, called: None }
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
        let writes_max = self.writes_max;
        let moving = self.lines.iter_mut().filter(|line| line.writes < writes_max);
        let next = moving.into_iter().find_map(|line| line.waiting.pop_front());
        self.called = next.map(|id| (id, WRITES_PER_CALL));
        next
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
        if let Some(connection) = self.find(id)
            && !core::mem::replace(&mut connection.is_in_line, true)
        {
            self.lines.line(shard).waiting.push_back(id);
            self.met.note(Limit::WritesOutstanding);
        }
        false
    }

    /// Lets those write whose turn it is.
    pub(super) fn call_writers(&mut self, now: Instant, replicas: &mut impl Replicas) {
        while let Some(id) = self.lines.call() {
            if let Some(connection) = self.find(id) {
                connection.is_in_line = false;
                self.issue(now, id, replicas);
            }
        }
    }
}
