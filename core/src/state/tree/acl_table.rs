//! ACL lists, each stored once: millions of znodes share a handful of them.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use xxhash_rust::xxh3::xxh3_128;

use super::page::Paged;
use crate::base::bytes::{Put, length_u32};
use crate::op::permission;
use crate::state::acl::AccessList;
use crate::txn::AclEntry;

/// The lists by number, shared with frozen views.
pub(super) type AclLists = Paged<AclList, LISTS_PER_PAGE>;

#[derive(Clone, Default)]
pub(super) struct AclList {
    pub(super) access: AccessList,
    /// What the digest of a znode takes for its ACL.
    pub(super) hash: u128,
}

/// Who uses which list; only the live tree needs to know.
pub(super) struct AclTable {
    /// Found by content and not by a hash of it: a client chooses the content, and two lists taken
    /// for one would open somebody's znodes.
    numbers: BTreeMap<Arc<[AclEntry]>, u32>,
    /// By number; 0 for a free one.
    references: Vec<u32>,
    free: Vec<u32>,
}

/// world:anyone with all permissions, which is never freed.
pub(super) const OPEN: u32 = 0;

impl AclTable {
    /// A table, and lists, that know `OPEN` only.
    pub(super) fn new() -> (Self, AclLists) {
        let mut table = Self { numbers: BTreeMap::new(), references: Vec::new(), free: Vec::new() };
        let mut lists = AclLists::new();
        let everyone =
            AclEntry { permissions: permission::ALL, scheme: "world".into(), id: "anyone".into() };
        let number = table.intern(&mut lists, &[everyone]);
        assert!(number == OPEN, "the first list has the first number");
        (table, lists)
    }

    /// The number of a list with this content, with one reference more.
    pub(super) fn intern(&mut self, lists: &mut AclLists, entries: &[AclEntry]) -> u32 {
        if lists.len() > 0 && **lists.item(OPEN as usize).access.entries() == *entries {
            self.retain(OPEN);
            return OPEN;
        }
        if let Some(&number) = self.numbers.get(entries) {
            self.retain(number);
            return number;
        }
        let list = AclList { access: AccessList::of(entries), hash: hash_of(entries) };
        let shared = list.access.entries().clone();
        let number = if let Some(number) = self.free.pop() {
            *lists.item_mut(number as usize) = list;
            self.references[number as usize] = 1;
            number
        } else {
            lists.push(list);
            self.references.push(1);
            length_u32(lists.len() - 1)
        };
        self.numbers.insert(shared, number);
        number
    }

    /// Adds a reference to a list that has some.
    pub(super) fn retain(&mut self, number: u32) {
        let references = &mut self.references[number as usize];
        assert!(*references > 0, "a free list has no users");
        *references = references.checked_add(1).expect("there are fewer znodes");
    }

    /// Takes a reference away, and the list with the last one.
    pub(super) fn release(&mut self, lists: &mut AclLists, number: u32) {
        let references = &mut self.references[number as usize];
        *references = references.checked_sub(1).expect("a free list has no users");
        if *references == 0 {
            assert!(number != OPEN, "the open list is never freed");
            let list = core::mem::take(lists.item_mut(number as usize));
            self.numbers.remove(list.access.entries());
            self.free.push(number);
        }
    }
}

fn hash_of(entries: &[AclEntry]) -> u128 {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.put_u32_le(entry.permissions);
        bytes.put_u32_le(length_u32(entry.scheme.len()));
        bytes.put(entry.scheme.as_bytes());
        bytes.put_u32_le(length_u32(entry.id.len()));
        bytes.put(entry.id.as_bytes());
    }
    xxh3_128(&bytes)
}

const LISTS_PER_PAGE: usize = 64;

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    fn digest_of(user: u32) -> [AclEntry; 1] {
        [AclEntry {
            permissions: permission::READ,
            scheme: "digest".into(),
            id: format!("user{user}"),
        }]
    }

    #[test]
    fn a_list_lives_as_long_as_its_last_user() {
        let (mut table, mut lists) = AclTable::new();
        let one = table.intern(&mut lists, &digest_of(1));
        assert_eq!(table.intern(&mut lists, &digest_of(1)), one);
        let frozen = lists.clone();
        table.release(&mut lists, one);
        table.release(&mut lists, one);
        let two = table.intern(&mut lists, &digest_of(2));
        assert_eq!(two, one, "the number is used again");
        assert_eq!(**lists.item(two as usize).access.entries(), digest_of(2));
        assert_eq!(**frozen.item(one as usize).access.entries(), digest_of(1));
        assert_eq!((table.numbers.len(), lists.len()), (2, 2));
    }
}
