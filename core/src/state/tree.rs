//! The tree of znodes: found by path in one probe, changed in place, frozen in microseconds.
//!
//! Znodes lie in pages that frozen views share (`znodes`, `page`); a segmented hash of whole paths
//! leads to them (`index`). No path is stored: a hit is verified by comparing names up the parents.

mod acl_table;
mod ahead;
mod children;
mod index;
mod page;
mod znode;
mod znodes;

use alloc::vec::Vec;
use core::mem;
use core::ops::Deref;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use self::acl_table::{AclTable, OPEN};
pub(crate) use self::ahead::PATHS_AT_ONCE;
use self::index::Index;
use self::page::Paged;
pub(crate) use self::znode::Fields;
use self::znode::{NONE, PathHash, Slot, length, position_u32};
pub use self::znodes::{NodeId, Znodes};
use crate::base::id::{SessionId, Zxid};
use crate::path;
use crate::txn::AclEntry;

/// The live tree of one shard. What reads by id stands in [`Znodes`], which it dereferences to.
pub struct Tree {
    znodes: Znodes,
    index: Index,
    index_seed: u64,
    acls: AclTable,
    /// The first vacant slot; each names the next.
    vacant: u32,
    scratch: Vec<u8>,
}

/// What a create brings.
#[derive(Clone, Copy, Debug)]
pub struct NewNode<'a> {
    /// `None` for null, which clients tell from empty.
    pub data: Option<&'a [u8]>,
    pub acl: &'a [AclEntry],
    /// 0 for a persistent znode.
    pub ephemeral_owner: SessionId,
    /// The parent's count of creations after this one.
    pub parent_creations: i32,
    pub zxid: Zxid,
    pub time_ms: i64,
}

impl Tree {
    pub const ROOT: NodeId = NodeId(0);

    /// Only the root: a stat of zeros, no data, open to everyone.
    pub fn new() -> Self {
        Self::with_index_seed(0)
    }

    /// The same; the seed, which nobody outside should know, keeps clients from choosing paths that
    /// collide in the index. Nothing that can be observed depends on it.
    pub fn with_index_seed(index_seed: u64) -> Self {
        let (mut acls, acl_lists) = AclTable::new();
        let mut scratch = Vec::new();
        let mut root = Slot::new(NONE, 0, OPEN, &Fields::default());
        root.set_bytes(b"", Some(b""), &mut scratch);
        acls.retain(OPEN);
        let mut znodes =
            Znodes { slots: Paged::new(), acl_lists, len: 1, approximate_bytes: 1, digest: 0 };
        znodes.slots.push(root);
        let path = PathHash::of(b"/");
        znodes.digest =
            znodes.fields_term(Self::ROOT, path).wrapping_add(path.data_term(Some(b"")));
        Self { znodes, index: Index::new(), index_seed, acls, vacant: NONE, scratch }
    }

    /// Adds a znode under a parent that exists; the path does not.
    pub fn create(&mut self, path: &str, new: NewNode<'_>) -> NodeId {
        let parent_path = path::parent(path).expect("the root is always there");
        let parent = self.find(parent_path).expect("the parent of a new znode exists");
        assert!(self.find(path).is_none(), "a new znode did not exist before");
        let parent_hash = PathHash::of(parent_path.as_bytes());
        self.subtract(self.fields_term(parent, parent_hash));
        let rare = self.znodes.slots.item_mut(parent.0 as usize).rare_mut();
        rare.creations = new.parent_creations;
        rare.pzxid = rare.pzxid.max(new.zxid);
        self.add(self.fields_term(parent, parent_hash));
        let fields = Fields {
            czxid: new.zxid,
            mzxid: new.zxid,
            pzxid: new.zxid,
            ctime_ms: new.time_ms,
            mtime_ms: new.time_ms,
            ephemeral_owner: new.ephemeral_owner,
            ..Fields::default()
        };
        let acl = self.acls.intern(&mut self.znodes.acl_lists, new.acl);
        self.attach(parent, path, &fields, new.data, acl)
    }

    /// Removes a znode that has no children.
    pub fn delete(&mut self, node: NodeId, zxid: Zxid) {
        let parent = self.parent(node).expect("the root stays");
        assert!(self.children_count(node) == 0, "a deleted znode has no children");
        let path = self.take_path(node);
        let path_hash = PathHash::of(&path);
        let parent_hash = PathHash::of(parent_of(&path));
        let data_length = length(self.data(node));
        self.subtract(self.fields_term(node, path_hash));
        self.subtract(path_hash.data_term(self.data(node)));
        self.subtract(self.fields_term(parent, parent_hash));
        self.index.remove(self.hash(&path), node.0);
        let slot = mem::take(self.znodes.slots.item_mut(node.0 as usize));
        self.acls.release(&mut self.znodes.acl_lists, slot.acl);
        self.detach(parent, slot.position);
        let rare = self.znodes.slots.item_mut(parent.0 as usize).rare_mut();
        rare.pzxid = rare.pzxid.max(zxid);
        self.add(self.fields_term(parent, parent_hash));
        self.znodes.slots.item_mut(node.0 as usize).parent = self.vacant;
        self.vacant = node.0;
        self.znodes.len -= 1;
        self.znodes.approximate_bytes -= (path.len() + data_length) as u64;
        self.scratch = path;
    }

    /// Replaces the data; `version` is the new one.
    pub fn set_data(
        &mut self,
        node: NodeId,
        data: Option<&[u8]>,
        version: i32,
        zxid: Zxid,
        time_ms: i64,
    ) {
        let mut path = self.take_path(node);
        let path_hash = PathHash::of(&path);
        let data_length = length(self.data(node));
        self.subtract(self.fields_term(node, path_hash));
        self.subtract(path_hash.data_term(self.data(node)));
        let slot = self.znodes.slots.item_mut(node.0 as usize);
        slot.set_data(data, &mut path);
        slot.version = version;
        slot.mzxid = zxid;
        slot.mtime_ms = time_ms;
        self.add(self.fields_term(node, path_hash));
        self.add(path_hash.data_term(data));
        self.znodes.approximate_bytes += length(data) as u64;
        self.znodes.approximate_bytes -= data_length as u64;
        self.scratch = path;
    }

    /// Replaces the ACL list; `version` is the new one.
    pub fn set_acl(&mut self, node: NodeId, acl: &[AclEntry], version: i32) {
        let path = self.take_path(node);
        let path_hash = PathHash::of(&path);
        self.subtract(self.fields_term(node, path_hash));
        let number = self.acls.intern(&mut self.znodes.acl_lists, acl);
        let slot = self.znodes.slots.item_mut(node.0 as usize);
        let before = mem::replace(&mut slot.acl, number);
        slot.rare_mut().aversion = version;
        self.acls.release(&mut self.znodes.acl_lists, before);
        self.add(self.fields_term(node, path_hash));
        self.scratch = path;
    }

    pub fn find(&self, path: &str) -> Option<NodeId> {
        if path == "/" {
            return Some(Self::ROOT);
        }
        let path = path.as_bytes();
        let is_at_path = |slot| self.is_at(NodeId(slot), path);
        self.index.find(self.hash(path), is_at_path).map(NodeId)
    }

    /// The tree of this moment, for reading while this one goes on changing.
    ///
    /// It costs one reference count for some hundred znodes. The index stays behind: a snapshot is
    /// read from the root downwards.
    pub fn freeze(&self) -> Znodes {
        self.znodes.clone()
    }

    /// The number of an ACL list, with a reference that [`Tree::release_acl`] takes back.
    pub(crate) fn intern_acl(&mut self, acl: &[AclEntry]) -> u32 {
        self.acls.intern(&mut self.znodes.acl_lists, acl)
    }

    pub(crate) fn release_acl(&mut self, number: u32) {
        self.acls.release(&mut self.znodes.acl_lists, number);
    }

    /// Gives the root the content that an image has for it.
    pub(crate) fn restore_root(&mut self, fields: &Fields, data: Option<&[u8]>, acl: u32) {
        assert!(self.len() == 1, "an image begins with the root");
        self.acls.retain(acl);
        let before = mem::replace(self.znodes.slots.item_mut(0), Slot::new(NONE, 0, acl, fields));
        self.znodes.slots.item_mut(0).set_bytes(b"", data, &mut self.scratch);
        self.acls.release(&mut self.znodes.acl_lists, before.acl);
        let path = PathHash::of(b"/");
        self.znodes.digest = self.fields_term(Self::ROOT, path).wrapping_add(path.data_term(data));
        self.znodes.approximate_bytes = 1 + length(data) as u64;
    }

    /// Adds a znode with exactly these fields; those of the parent stay. The path is new.
    pub(crate) fn restore(
        &mut self,
        parent: NodeId,
        path: &str,
        fields: &Fields,
        data: Option<&[u8]>,
        acl: u32,
    ) -> NodeId {
        self.acls.retain(acl);
        self.attach(parent, path, fields, data, acl)
    }

    /// Puts a znode under its parent and into the index; a reference to the ACL list is its own.
    fn attach(
        &mut self,
        parent: NodeId,
        path: &str,
        fields: &Fields,
        data: Option<&[u8]>,
        acl: u32,
    ) -> NodeId {
        let position = position_u32(self.children_count(parent));
        let mut slot = Slot::new(parent.0, position, acl, fields);
        slot.set_bytes(path::name(path).as_bytes(), data, &mut self.scratch);
        let node = self.place(slot);
        let rare = self.znodes.slots.item_mut(parent.0 as usize).rare_mut();
        rare.children.push(node.0);
        self.recount(parent, |count| count + 1);
        self.index.insert(self.hash(path.as_bytes()), node.0);
        let path_hash = PathHash::of(path.as_bytes());
        self.add(self.fields_term(node, path_hash));
        self.add(path_hash.data_term(data));
        self.znodes.len += 1;
        self.znodes.approximate_bytes += (path.len() + length(data)) as u64;
        node
    }

    fn place(&mut self, slot: Slot) -> NodeId {
        let slots = &mut self.znodes.slots;
        if self.vacant == NONE {
            let number = position_u32(slots.len());
            assert!(number < NONE, "more znodes than numbers for them");
            slots.push(slot);
            return NodeId(number);
        }
        let number = self.vacant;
        let before = mem::replace(slots.item_mut(number as usize), slot);
        assert!(before.is_vacant(), "the chain of vacant slots holds no znode");
        self.vacant = before.parent;
        NodeId(number)
    }

    /// Takes a child out of its parent's list; the last child gets its position.
    fn detach(&mut self, parent: NodeId, position: u32) {
        let rare = self.znodes.slots.item_mut(parent.0 as usize).rare_mut();
        if let Some(moved) = rare.children.remove(position as usize) {
            self.znodes.slots.item_mut(moved as usize).position = position;
        }
        self.recount(parent, |count| count - 1);
    }

    /// The parent of a znode that comes or goes, and all above, have one more or less below them.
    fn recount(&mut self, parent: NodeId, change: impl Fn(u32) -> u32) {
        let mut above = parent.0;
        while above != NONE {
            let slot = self.znodes.slots.item_mut(above as usize);
            let rare = slot.rare_mut();
            rare.descendants = change(rare.descendants);
            above = slot.parent;
        }
    }

    /// The path, in the scratch buffer; whoever takes it puts the buffer back.
    fn take_path(&mut self, node: NodeId) -> Vec<u8> {
        let mut path = mem::take(&mut self.scratch);
        self.write_path(node, &mut path);
        path
    }

    fn hash(&self, path: &[u8]) -> u64 {
        xxh3_64_with_seed(path, self.index_seed)
    }

    fn add(&mut self, term: u128) {
        self.znodes.digest = self.znodes.digest.wrapping_add(term);
    }

    fn subtract(&mut self, term: u128) {
        self.znodes.digest = self.znodes.digest.wrapping_sub(term);
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for Tree {
    type Target = Znodes;

    fn deref(&self) -> &Znodes {
        &self.znodes
    }
}

fn parent_of(path: &[u8]) -> &[u8] {
    let cut = path.iter().rposition(|&byte| byte == b'/');
    let cut = cut.expect("a path begins with a slash");
    &path[..cut.max(1)]
}

#[cfg(test)]
mod tests {
    use crate::base::id::ShardId;
    use crate::shard::ShardMap;
    use crate::state::State;

    #[test]
    fn a_state_that_begins_empty_has_the_seed_that_it_is_given() {
        let state = State::with_index_seed(ShardId(0), ShardMap::new(1), 7);
        assert_eq!(state.tree().index_seed, 7, "nothing else shows which one it has");
    }
}
