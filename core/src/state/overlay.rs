//! What a leader has logged and not yet applied (ZooKeeper's `outstandingChanges`): later requests
//! are judged as if it had happened. Dropped with the role.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::borrow::Borrow;

use crate::base::id::{Generation, SessionId, ShardId, Zxid};
use crate::state::State;
use crate::state::acl::AccessList;
use crate::state::session::HomeSession;
use crate::state::tree::NodeId;

/// Every pending change of one shard, each with the zxid that makes it.
#[derive(Default)]
pub struct Overlay {
    pub(super) nodes: Layer<Arc<str>, Option<NodeView>>,
    pub(super) homes: Layer<SessionId, Option<HomeSession>>,
    pub(super) attached: Layer<SessionId, AttachedView>,
    pub(super) floors: Layer<ShardId, Zxid>,
    /// By place among the partition points: the zxid in shard 0.
    pub(super) points: Layer<usize, Zxid>,
}

/// A znode as it will be, with all that requests are judged by. The ACL is part of it: a request
/// behind a pending setACL must meet the new list.
#[derive(Clone, Debug)]
pub(super) struct NodeView {
    pub(super) version: i32,
    pub(super) aversion: i32,
    /// ZooKeeper's internal cversion.
    pub(super) creations: i32,
    pub(super) children: usize,
    pub(super) ephemeral_owner: SessionId,
    pub(super) acl: AclView,
}

#[derive(Clone, Debug)]
pub(super) enum AclView {
    /// No pending change touches the list. The znode stays where it is: while a deletion is
    /// pending, there is no view of it.
    Tree(NodeId),
    Pending(AccessList),
}

/// What a session may do in this shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct AttachedView {
    pub(super) phase: AttachedPhase,
    pub(super) generation: Generation,
    pub(super) home_zxid: Zxid,
    pub(super) ephemerals: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AttachedPhase {
    /// Never seen, or so long over that nothing is remembered.
    Absent,
    Open,
    Fenced,
    /// Nothing is left but a tombstone.
    Over,
}

/// One kind of pending change, by what it changes.
///
/// A preparation that fails takes back what it put here; one that succeeds settles it.
pub(super) struct Layer<K, V> {
    latest: BTreeMap<K, (Zxid, V)>,
    /// In the order of zxids: what may be dropped when a zxid is applied.
    queue: VecDeque<(Zxid, K)>,
    /// What the preparation at hand replaced.
    undo: Vec<(K, Option<(Zxid, V)>)>,
}

impl Overlay {
    pub fn new() -> Self {
        Self::default()
    }

    /// The session as it will be when all that is pending has happened, if this shard is its home.
    pub fn home<'a>(&'a self, state: &'a State, session: SessionId) -> Option<&'a HomeSession> {
        match self.homes.find(&session) {
            Some((_, pending)) => pending.as_ref(),
            None => state.sessions().home(session),
        }
    }

    /// Everything up to `zxid` is in the state now.
    pub fn applied(&mut self, zxid: Zxid) {
        self.nodes.applied(zxid);
        self.homes.applied(zxid);
        self.attached.applied(zxid);
        self.floors.applied(zxid);
        self.points.applied(zxid);
    }

    /// The role is over: what is pending may never happen.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
            && self.homes.is_empty()
            && self.attached.is_empty()
            && self.floors.is_empty()
            && self.points.is_empty()
    }

    pub(super) fn settle(&mut self) {
        self.nodes.settle();
        self.homes.settle();
        self.attached.settle();
        self.floors.settle();
        self.points.settle();
    }

    pub(super) fn roll_back(&mut self) {
        self.nodes.roll_back();
        self.homes.roll_back();
        self.attached.roll_back();
        self.floors.roll_back();
        self.points.roll_back();
    }
}

impl NodeView {
    /// The znode as the tree has it.
    pub(super) fn of(state: &State, path: &str) -> Option<Self> {
        let tree = state.tree();
        let node = tree.find(path)?;
        let stat = tree.stat(node);
        Some(Self {
            version: stat.version,
            aversion: stat.aversion,
            creations: tree.creations(node),
            children: tree.children_count(node),
            ephemeral_owner: stat.ephemeral_owner,
            acl: AclView::Tree(node),
        })
    }

    pub(super) fn access<'a>(&'a self, state: &'a State) -> &'a AccessList {
        match &self.acl {
            AclView::Tree(node) => state.tree().access(*node),
            AclView::Pending(acl) => acl,
        }
    }
}

impl AttachedView {
    /// The session as the state has it.
    pub(super) fn of(state: &State, session: SessionId) -> Self {
        let sessions = state.sessions();
        let Some(attached) = sessions.attached(session) else {
            let phase = if sessions.has_tombstone(session) {
                AttachedPhase::Over
            } else {
                AttachedPhase::Absent
            };
            return Self {
                phase,
                generation: Generation::default(),
                home_zxid: Zxid::ZERO,
                ephemerals: 0,
            };
        };
        Self {
            phase: if attached.is_fenced { AttachedPhase::Fenced } else { AttachedPhase::Open },
            generation: attached.generation,
            home_zxid: attached.home_zxid,
            ephemerals: attached.ephemerals_count(),
        }
    }
}

impl<K: Ord + Clone, V> Layer<K, V> {
    /// What is pending for `key`, and since which zxid.
    pub(super) fn find<Q>(&self, key: &Q) -> Option<&(Zxid, V)>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.latest.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.latest.iter().map(|(key, (_, value))| (key, value))
    }

    pub(super) fn put(&mut self, zxid: Zxid, key: K, value: V) {
        assert!(
            self.queue.back().is_none_or(|(last, _)| *last <= zxid),
            "changes are prepared in the order of their zxids"
        );
        let previous = self.latest.insert(key.clone(), (zxid, value));
        self.queue.push_back((zxid, key.clone()));
        self.undo.push((key, previous));
    }

    fn is_empty(&self) -> bool {
        self.latest.is_empty() && self.queue.is_empty()
    }

    fn settle(&mut self) {
        self.undo.clear();
    }

    fn roll_back(&mut self) {
        while let Some((key, previous)) = self.undo.pop() {
            self.queue.pop_back();
            match previous {
                Some(previous) => self.latest.insert(key, previous),
                None => self.latest.remove(&key),
            };
        }
    }

    fn applied(&mut self, zxid: Zxid) {
        assert!(self.undo.is_empty(), "no preparation is at hand");
        while let Some((_, key)) = self.queue.pop_front_if(|(pending, _)| *pending <= zxid) {
            if self.latest.get(&key).is_some_and(|(latest, _)| *latest <= zxid) {
                self.latest.remove(&key);
            }
        }
    }
}

impl<K, V> Default for Layer<K, V> {
    fn default() -> Self {
        Self { latest: BTreeMap::new(), queue: VecDeque::new(), undo: Vec::new() }
    }
}
