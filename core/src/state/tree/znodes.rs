//! The znodes without the index: what a snapshot needs, and all that reading by id needs.

use alloc::string::String;
use alloc::vec::Vec;

use super::acl_table::AclLists;
use super::page::Paged;
use super::znode::{Fields, NONE, PathHash, Slot, count_i32, length};
use crate::base::id::SessionId;
use crate::op::Stat;
use crate::state::acl::AccessList;
use crate::txn::AclEntry;

/// A znode's place in memory. It is the znode's for as long as the znode lives; afterwards another
/// one gets it, so an id is never kept across a change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub(super) u32);

/// All znodes of a shard at one moment. A clone shares everything and never changes.
#[derive(Clone)]
pub struct Znodes {
    pub(super) slots: Paged<Slot, SLOTS_PER_PAGE>,
    pub(super) acl_lists: AclLists,
    pub(super) len: usize,
    pub(super) approximate_bytes: u64,
    pub(super) digest: u128,
}

impl Znodes {
    /// The metadata as clients see it; `cversion` counts creations and deletions of children.
    pub fn stat(&self, node: NodeId) -> Stat {
        let slot = self.slot(node);
        let fields = slot.fields();
        let children_count = count_i32(slot.children_count());
        Stat {
            czxid: fields.czxid,
            mzxid: fields.mzxid,
            ctime_ms: fields.ctime_ms,
            mtime_ms: fields.mtime_ms,
            version: fields.version,
            cversion: fields.creations.wrapping_mul(2).wrapping_sub(children_count),
            aversion: fields.aversion,
            ephemeral_owner: fields.ephemeral_owner,
            data_length: count_i32(length(slot.data())),
            children_count,
            pzxid: fields.pzxid,
        }
    }

    /// The data; `None` if it is null.
    pub fn data(&self, node: NodeId) -> Option<&[u8]> {
        self.slot(node).data()
    }

    pub fn acl(&self, node: NodeId) -> &[AclEntry] {
        self.access(node).entries()
    }

    /// The same, prepared to be asked.
    pub fn access(&self, node: NodeId) -> &AccessList {
        &self.acl_lists.item(self.slot(node).acl as usize).access
    }

    /// How many children were ever created: sequence numbers come from it.
    pub fn creations(&self, node: NodeId) -> i32 {
        self.slot(node).rare().map_or(0, |rare| rare.creations)
    }

    /// The session that owns an ephemeral znode; 0 for a persistent one.
    pub fn ephemeral_owner(&self, node: NodeId) -> SessionId {
        let rare = self.slot(node).rare();
        rare.map_or(SessionId(0), |rare| rare.ephemeral_owner)
    }

    pub fn children_count(&self, node: NodeId) -> usize {
        self.slot(node).children_count()
    }

    /// How many znodes there are below it, at whatever depth.
    pub fn descendants_count(&self, node: NodeId) -> usize {
        self.slot(node).rare().map_or(0, |rare| rare.descendants as usize)
    }

    /// The children in no particular order.
    pub fn children(&self, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let rare = self.slot(node).rare().into_iter();
        rare.flat_map(|rare| rare.children.iter()).map(NodeId)
    }

    /// The last component of the path; empty for the root.
    pub fn name(&self, node: NodeId) -> &str {
        let name = core::str::from_utf8(self.slot(node).name());
        name.expect("names are cut from strings between slashes")
    }

    /// The parent; `None` for the root.
    pub fn parent(&self, node: NodeId) -> Option<NodeId> {
        let parent = self.slot(node).parent;
        (parent != NONE).then_some(NodeId(parent))
    }

    pub fn path(&self, node: NodeId) -> String {
        let mut path = Vec::new();
        self.write_path(node, &mut path);
        String::from_utf8(path).expect("names are cut from strings between slashes")
    }

    /// How many znodes there are, the root included.
    #[expect(
        clippy::len_without_is_empty,
        reason = "the root is always there, so it is never empty"
    )]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The bytes of all paths and all data: ZooKeeper's approximate data size.
    pub fn approximate_bytes(&self) -> u64 {
        self.approximate_bytes
    }

    /// Equal for equal content (paths, data, metadata, ACLs), by whatever history it came about.
    pub fn digest(&self) -> u128 {
        self.digest
    }

    /// The name's bytes, for comparisons.
    pub(crate) fn name_bytes(&self, node: NodeId) -> &[u8] {
        self.slot(node).name()
    }

    /// One child by its position in `children`, which only a change of the children alters.
    pub(crate) fn child(&self, node: NodeId, position: usize) -> NodeId {
        let rare = self.slot(node).rare().expect("a position below the count");
        NodeId(rare.children.child(position))
    }

    pub(crate) fn fields(&self, node: NodeId) -> Fields {
        self.slot(node).fields()
    }

    /// Equal for equal ACL lists; it says nothing beyond this view.
    pub(crate) fn acl_number(&self, node: NodeId) -> u32 {
        self.slot(node).acl
    }

    pub(super) fn slot(&self, node: NodeId) -> &Slot {
        let slot = self.slots.item(node.0 as usize);
        assert!(!slot.is_vacant(), "an id outlived its znode");
        slot
    }

    /// Whether `path` names this znode: compares the components from the last to the first.
    pub(super) fn is_at(&self, node: NodeId, path: &[u8]) -> bool {
        let mut slot = self.slot(node);
        let mut rest = path;
        while slot.parent != NONE {
            let above = rest.strip_suffix(slot.name());
            let Some(above) = above.and_then(|above| above.strip_suffix(b"/")) else {
                return false;
            };
            rest = above;
            slot = self.slots.item(slot.parent as usize);
        }
        rest.is_empty()
    }

    /// Replaces the content of `path` by the znode's path.
    pub(super) fn write_path(&self, node: NodeId, path: &mut Vec<u8>) {
        path.clear();
        let mut slot = self.slot(node);
        if slot.parent == NONE {
            path.push(b'/');
            return;
        }
        let mut length = 0;
        while slot.parent != NONE {
            length += 1 + slot.name().len();
            slot = self.slots.item(slot.parent as usize);
        }
        path.resize(length, b'/');
        slot = self.slot(node);
        let mut end = length;
        while slot.parent != NONE {
            let name = slot.name();
            path[end - name.len()..end].copy_from_slice(name);
            end -= name.len() + 1;
            slot = self.slots.item(slot.parent as usize);
        }
    }

    /// What the digest holds for the metadata of the znode at `path`.
    pub(super) fn fields_term(&self, node: NodeId, path: PathHash) -> u128 {
        let slot = self.slot(node);
        let acl_hash = self.acl_lists.item(slot.acl as usize).hash;
        slot.fields().digest_term(path, acl_hash)
    }
}

/// The first write to a page after a snapshot copies it, and counts a reference for the bytes of
/// every znode in it, each somewhere else in memory: few make that a matter of two microseconds.
pub(super) const SLOTS_PER_PAGE: usize = 16;
