//! Access rules: what a list of a request becomes, and what a list allows.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use xxhash_rust::xxh3::xxh3_64;

use crate::auth::{Address, AddressRange, DIGEST, IP, Identities, is_valid_id};
use crate::base::limits::ACL_ENTRIES_MAX;
use crate::op::{Acl, permission};
use crate::txn::AclEntry;

/// The list of a request is empty, or names somebody who cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidAcl;

/// Who may hear of a change of one znode. The common case holds no memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Readers {
    Everyone,
    Listed(AccessList),
}

/// A list, prepared so that what it allows somebody is known without a look at every entry, for
/// each of somebody's identities: a small request may ask a thousand times. Cloning shares it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AccessList(Arc<Prepared>);

#[derive(PartialEq, Eq, Debug, Default)]
struct Prepared {
    entries: Arc<[AclEntry]>,
    of_everyone: u32,
    /// The entries of the scheme `digest`, by the hash of their ids.
    users: Vec<User>,
    /// Those of the scheme `ip`, and what they allow.
    ranges: Vec<(AddressRange, u32)>,
}

#[derive(PartialEq, Eq, Debug)]
struct User {
    hash: u64,
    permissions: u32,
    /// Among the entries.
    place: usize,
}

/// Everybody may do everything: what `/` starts with.
pub fn open() -> Vec<AclEntry> {
    vec![world(permission::ALL)]
}

/// Everybody may read, nobody but the superuser may write: what `/zookeeper/config` starts with.
pub fn read_only() -> Vec<AclEntry> {
    vec![world(permission::READ)]
}

/// The list that is stored for the list of a request (`PrepRequestProcessor.fixupACL`).
///
/// Duplicates go first, so that an `auth` entry whose identities are also named stays double, as in
/// ZooKeeper.
pub fn fixup(acl: &[Acl<'_>], identities: &Identities) -> Result<Vec<AclEntry>, InvalidAcl> {
    if acl.is_empty() || acl.len() > ACL_ENTRIES_MAX {
        return Err(InvalidAcl);
    }
    let mut fixed = Vec::with_capacity(acl.len());
    let mut seen = BTreeSet::new();
    for entry in acl {
        if !seen.insert((entry.permissions, entry.scheme, entry.id)) {
            continue;
        }
        if is_anyone(entry.scheme, entry.id) {
            fixed.push(stored(entry.permissions, entry.scheme, entry.id));
        } else if entry.scheme == "auth" {
            let count_before = fixed.len();
            for identity in identities.iter().filter(|known| known.is_authenticated()) {
                fixed.push(stored(entry.permissions, &identity.scheme, &identity.id));
            }
            if fixed.len() == count_before {
                return Err(InvalidAcl);
            }
        } else if is_valid_id(entry.scheme, entry.id) {
            fixed.push(stored(entry.permissions, entry.scheme, entry.id));
        } else {
            return Err(InvalidAcl);
        }
    }
    if fixed.len() > ACL_ENTRIES_MAX {
        return Err(InvalidAcl);
    }
    Ok(fixed)
}

/// The list as somebody without ADMIN may see it: who, but no digest of a password.
pub fn masked(acl: &[AclEntry]) -> Vec<AclEntry> {
    let mut masked = acl.to_vec();
    for entry in masked.iter_mut().filter(|entry| entry.scheme == DIGEST) {
        if let Some((user, _)) = entry.id.split_once(':') {
            entry.id = format!("{user}:x");
        }
    }
    masked
}

impl AccessList {
    pub fn of(entries: &[AclEntry]) -> Self {
        let (mut of_everyone, mut users, mut ranges) = (0, Vec::new(), Vec::new());
        for (place, entry) in entries.iter().enumerate() {
            let permissions = entry.permissions;
            match entry.scheme.as_str() {
                DIGEST => users.push(User { hash: hash_of(&entry.id), permissions, place }),
                IP => ranges.extend(AddressRange::parse(&entry.id).map(|it| (it, permissions))),
                scheme if is_anyone(scheme, &entry.id) => of_everyone |= permissions,
                _ => {}
            }
        }
        users.sort_unstable_by_key(|user| user.hash);
        Self(Arc::new(Prepared { entries: Arc::from(entries), of_everyone, users, ranges }))
    }

    /// The list itself, in the order in which it was given.
    pub fn entries(&self) -> &Arc<[AclEntry]> {
        &self.0.entries
    }

    /// Whether the list allows any of `permissions` to somebody with these identities
    /// (`ZooKeeperServer.checkACL`).
    pub fn permits(&self, identities: &Identities, permissions: u32) -> bool {
        self.permits_everyone(permissions)
            || identities.is_super()
            || identities.iter().any(|identity| match identity.scheme.as_str() {
                DIGEST => self.0.permits_user(&identity.id, permissions),
                IP => self.0.permits_address(&identity.id, permissions),
                _ => false,
            })
    }

    /// Whether it does so whoever asks.
    fn permits_everyone(&self, permissions: u32) -> bool {
        self.0.entries.is_empty() || self.0.of_everyone & permissions != 0
    }
}

impl Prepared {
    fn permits_user(&self, id: &str, permissions: u32) -> bool {
        let hash = hash_of(id);
        let first = self.users.partition_point(|user| user.hash < hash);
        let mut users = self.users[first..].iter().take_while(|user| user.hash == hash);
        // A client chooses what it calls itself: only the id itself says who it is.
        users.any(|user| user.permissions & permissions != 0 && self.entries[user.place].id == id)
    }

    fn permits_address(&self, id: &str, permissions: u32) -> bool {
        let Some(address) = Address::parse(id) else {
            return false;
        };
        let mut ranges = self.ranges.iter();
        ranges.any(|(range, of_it)| of_it & permissions != 0 && range.contains(address))
    }
}

impl Readers {
    /// Those to whom the list allows READ.
    pub fn of(acl: &AccessList) -> Self {
        let is_open = acl.permits_everyone(permission::READ);
        if is_open { Self::Everyone } else { Self::Listed(acl.clone()) }
    }

    pub fn include(&self, identities: &Identities) -> bool {
        match self {
            Self::Everyone => true,
            Self::Listed(acl) => acl.permits(identities, permission::READ),
        }
    }
}

fn world(permissions: u32) -> AclEntry {
    stored(permissions, "world", "anyone")
}

fn stored(permissions: u32, scheme: &str, id: &str) -> AclEntry {
    AclEntry { permissions, scheme: scheme.to_owned(), id: id.to_owned() }
}

fn is_anyone(scheme: &str, id: &str) -> bool {
    scheme == "world" && id == "anyone"
}

fn hash_of(id: &str) -> u64 {
    xxh3_64(id.as_bytes())
}
