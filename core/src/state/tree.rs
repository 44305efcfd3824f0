//! The tree of znodes: committed state only.

use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use xxhash_rust::xxh3::xxh3_128;

use crate::base::id::{SessionId, Zxid};
use crate::op::Stat;
use crate::path;
use crate::state::acl;
use crate::txn::AclEntry;

/// The place of a znode, for as long as it exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeId(u32);

/// Every znode of one shard.
#[derive(Clone)]
pub struct Tree {
    paths: BTreeMap<String, NodeId>,
    nodes: Vec<Option<Node>>,
}

/// What a new znode starts with.
pub struct NewNode<'a> {
    pub data: &'a [u8],
    pub acl: &'a [AclEntry],
    pub ephemeral_owner: SessionId,
    pub parent_creations: i32,
    pub zxid: Zxid,
    pub time_ms: i64,
}

#[derive(Clone)]
struct Node {
    path: String,
    data: Vec<u8>,
    acl: Vec<AclEntry>,
    stat: Stat,
    creations: i32,
    children: BTreeSet<String>,
}

impl Tree {
    pub const ROOT: NodeId = NodeId(0);

    pub fn new() -> Self {
        let root = Node {
            path: "/".to_owned(),
            data: Vec::new(),
            acl: acl::open(),
            stat: Stat::default(),
            creations: 0,
            children: BTreeSet::new(),
        };
        Self {
            paths: [("/".to_owned(), Self::ROOT)].into(),
            nodes: [Some(root)].into(),
        }
    }

    pub fn find(&self, path: &str) -> Option<NodeId> {
        self.paths.get(path).copied()
    }

    pub fn stat(&self, node: NodeId) -> Stat {
        let node = self.node(node);
        let children = i32::try_from(node.children.len()).expect("bounded");
        Stat {
            cversion: node.creations.wrapping_mul(2).wrapping_sub(children),
            data_length: i32::try_from(node.data.len()).expect("bounded"),
            children_count: children,
            ..node.stat
        }
    }

    pub fn data(&self, node: NodeId) -> &[u8] {
        &self.node(node).data
    }

    pub fn acl(&self, node: NodeId) -> &[AclEntry] {
        &self.node(node).acl
    }

    pub fn creations(&self, node: NodeId) -> i32 {
        self.node(node).creations
    }

    pub fn ephemeral_owner(&self, node: NodeId) -> SessionId {
        self.node(node).stat.ephemeral_owner
    }

    pub fn children_count(&self, node: NodeId) -> usize {
        self.node(node).children.len()
    }

    pub fn children(&self, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.node(node).children.iter().map(|path| self.paths[path])
    }

    pub fn name(&self, node: NodeId) -> &str {
        path::name(&self.node(node).path)
    }

    pub fn parent(&self, node: NodeId) -> Option<NodeId> {
        path::parent(&self.node(node).path).map(|parent| self.paths[parent])
    }

    pub fn path(&self, node: NodeId) -> String {
        self.node(node).path.clone()
    }

    pub fn create(&mut self, path: &str, new: NewNode<'_>) -> NodeId {
        let parent = self.paths[path::parent(path).expect("the root exists")];
        let parent = self.node_mut(parent);
        assert!(parent.children.insert(path.to_owned()), "{path} exists");
        parent.creations = new.parent_creations;
        parent.stat.pzxid = parent.stat.pzxid.max(new.zxid);
        let id = NodeId(u32::try_from(self.nodes.len()).expect("bounded"));
        self.nodes.push(Some(Node {
            path: path.to_owned(),
            data: new.data.to_vec(),
            acl: new.acl.to_vec(),
            stat: Stat {
                czxid: new.zxid,
                mzxid: new.zxid,
                pzxid: new.zxid,
                ctime_ms: new.time_ms,
                mtime_ms: new.time_ms,
                ephemeral_owner: new.ephemeral_owner,
                ..Stat::default()
            },
            creations: 0,
            children: BTreeSet::new(),
        }));
        self.paths.insert(path.to_owned(), id);
        id
    }

    pub fn delete(&mut self, node: NodeId, zxid: Zxid) {
        let parent = self.parent(node).expect("the root stays");
        let slot = usize::try_from(node.0).expect("an index fits");
        let gone = self.nodes[slot].take().expect("a node in use");
        assert!(gone.children.is_empty(), "only leaves go");
        self.paths.remove(&gone.path);
        let parent = self.node_mut(parent);
        parent.children.remove(&gone.path);
        parent.stat.pzxid = parent.stat.pzxid.max(zxid);
    }

    pub fn set_data(&mut self, node: NodeId, data: &[u8], version: i32, zxid: Zxid, time_ms: i64) {
        let node = self.node_mut(node);
        node.data = data.to_vec();
        node.stat.version = version;
        node.stat.mzxid = zxid;
        node.stat.mtime_ms = time_ms;
    }

    pub fn set_acl(&mut self, node: NodeId, acl: &[AclEntry], version: i32) {
        let node = self.node_mut(node);
        node.acl = acl.to_vec();
        node.stat.aversion = version;
    }

    pub fn len(&self) -> usize {
        self.paths.len()
    }

    pub fn is_empty(&self) -> bool {
        false
    }

    pub fn approximate_bytes(&self) -> u64 {
        let bytes: usize = self
            .nodes
            .iter()
            .flatten()
            .map(|node| node.path.len() + node.data.len())
            .sum();
        u64::try_from(bytes).expect("memory fits")
    }

    pub fn digest(&self) -> u128 {
        self.nodes
            .iter()
            .flatten()
            .map(|node| {
                let text = alloc::format!(
                    "{:?}",
                    (&node.path, &node.data, &node.acl, node.stat, node.creations)
                );
                xxh3_128(text.as_bytes())
            })
            .fold(0, |all, one| all ^ one)
    }

    fn node(&self, node: NodeId) -> &Node {
        let slot = usize::try_from(node.0).expect("an index fits");
        self.nodes[slot].as_ref().expect("a node in use")
    }

    fn node_mut(&mut self, node: NodeId) -> &mut Node {
        let slot = usize::try_from(node.0).expect("an index fits");
        self.nodes[slot].as_mut().expect("a node in use")
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}
