//! Depth first through a frozen tree, children by name, in steps of bounded work.
//!
//! A znode may have millions of children, and sorting them at once would hold up the caller. So
//! they are sorted in runs, one run a step, and merged while they are visited.

use alloc::vec::Vec;

use crate::state::tree::{NodeId, Tree, Znodes};

/// The way from the root to where the walk is: one directory for every open znode. It has no
/// recursion, because the depth is the clients' choice.
pub(super) struct Walk {
    open: Vec<Directory>,
    is_started: bool,
}

/// What a step led to.
pub(super) enum Step {
    Visit {
        node: NodeId,
        depth: usize,
    },
    /// So many children were sorted; the next znode is further steps away.
    Sorted(usize),
    End,
}

/// The children of one znode that are not visited yet.
struct Directory {
    parent: NodeId,
    /// In runs of `RUN_LENGTH`, each sorted.
    sorted: Vec<NodeId>,
    /// A heap by name of the runs' heads: positions in `sorted`. Filled when all runs are there.
    heads: Vec<usize>,
}

impl Walk {
    pub(super) fn new() -> Self {
        Self { open: Vec::new(), is_started: false }
    }

    pub(super) fn step(&mut self, znodes: &Znodes) -> Step {
        if !self.is_started {
            self.is_started = true;
            self.enter(Tree::ROOT, znodes);
            return Step::Visit { node: Tree::ROOT, depth: 0 };
        }
        while let Some(directory) = self.open.last_mut() {
            if directory.sorted.len() < znodes.children_count(directory.parent) {
                return Step::Sorted(directory.sort_run(znodes));
            }
            if let Some(node) = directory.next(znodes) {
                let depth = self.open.len();
                self.enter(node, znodes);
                return Step::Visit { node, depth };
            }
            self.open.pop();
        }
        Step::End
    }

    fn enter(&mut self, node: NodeId, znodes: &Znodes) {
        // A leaf needs no directory, but the depth is the number of directories: it is opened
        // without memory of its own and closed by the next step.
        let count = znodes.children_count(node);
        self.open.push(Directory {
            parent: node,
            sorted: Vec::with_capacity(count),
            heads: Vec::with_capacity(count.div_ceil(RUN_LENGTH)),
        });
    }
}

impl Directory {
    /// Sorts the next run and returns its length; after the last one the heads become a heap.
    fn sort_run(&mut self, znodes: &Znodes) -> usize {
        let start = self.sorted.len();
        let count = znodes.children_count(self.parent);
        let end = count.min(start + RUN_LENGTH);
        let run = (start..end).map(|position| znodes.child(self.parent, position));
        self.sorted.extend(run);
        self.sorted[start..].sort_unstable_by_key(|&child| znodes.name_bytes(child));
        if end == count {
            self.heads.extend((0..count).step_by(RUN_LENGTH));
            for parent in (0..self.heads.len() / 2).rev() {
                self.sift_down(parent, znodes);
            }
        }
        end - start
    }

    fn next(&mut self, znodes: &Znodes) -> Option<NodeId> {
        let &head = self.heads.first()?;
        let following = head + 1;
        if following.is_multiple_of(RUN_LENGTH) || following == self.sorted.len() {
            self.heads.swap_remove(0);
        } else {
            self.heads[0] = following;
        }
        self.sift_down(0, znodes);
        Some(self.sorted[head])
    }

    /// Restores the heap below a place whose head may have become too large.
    fn sift_down(&mut self, mut place: usize, znodes: &Znodes) {
        let name = |head: &usize| znodes.name_bytes(self.sorted[*head]);
        loop {
            let below = 2 * place + 1..(2 * place + 3).min(self.heads.len());
            let Some(least) = below.min_by_key(|&child| name(&self.heads[child])) else {
                return;
            };
            if name(&self.heads[place]) <= name(&self.heads[least]) {
                return;
            }
            self.heads.swap(place, least);
            place = least;
        }
    }
}

/// One step sorts so many: some hundred microseconds.
const RUN_LENGTH: usize = 4096;
