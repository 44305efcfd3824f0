//! Access rules: what a list of a request becomes, and what a list allows.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use crate::auth::{Identities, is_valid_id, matches};
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
    Listed(Vec<AclEntry>),
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

/// Whether the list allows any of `permissions` to somebody with these identities
/// (`ZooKeeperServer.checkACL`).
pub fn permits(acl: &[AclEntry], identities: &Identities, permissions: u32) -> bool {
    if acl.is_empty() || identities.is_super() {
        return true;
    }
    acl.iter().any(|entry| {
        entry.permissions & permissions != 0
            && (is_anyone(&entry.scheme, &entry.id)
                || identities.iter().any(|identity| {
                    identity.scheme == entry.scheme
                        && matches(&entry.scheme, &identity.id, &entry.id)
                }))
    })
}

/// The list as somebody without ADMIN may see it: who, but no digest of a password.
pub fn masked(acl: &[AclEntry]) -> Vec<AclEntry> {
    let mut masked = acl.to_vec();
    for entry in masked.iter_mut().filter(|entry| entry.scheme == "digest") {
        if let Some((user, _)) = entry.id.split_once(':') {
            entry.id = format!("{user}:x");
        }
    }
    masked
}

impl Readers {
    /// Those to whom the list allows READ.
    pub fn of(acl: &[AclEntry]) -> Self {
        let is_open = acl.is_empty()
            || acl.iter().any(|entry| {
                entry.permissions & permission::READ != 0 && is_anyone(&entry.scheme, &entry.id)
            });
        if is_open { Self::Everyone } else { Self::Listed(acl.to_vec()) }
    }

    pub fn include(&self, identities: &Identities) -> bool {
        match self {
            Self::Everyone => true,
            Self::Listed(acl) => permits(acl, identities, permission::READ),
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
