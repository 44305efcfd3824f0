//! The people of a simulation: who clients prove to be, and the access lists that name them.
//!
//! The rules are ZooKeeper's, written down a second time: the digests are what ZooKeeper makes of
//! the passwords, and not computed here.

use pigeonhole_core::op::{Acl, permission};

/// Everybody that one client has proven to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct People {
    pub ann: bool,
    pub bob: bool,
}

/// Whom an entry of a list names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Principal {
    Anyone,
    Ann,
    Bob,
}

/// One entry of a stored list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub permissions: u32,
    pub principal: Principal,
}

/// A list that a client may ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessList {
    Open,
    /// Ann alone may do anything, and anybody may look.
    AnnsToRead,
    Anns,
    /// Bob's, with a part for Ann.
    Shared,
    /// Whoever asks (scheme `auth`): invalid for somebody who has proven nothing.
    Askers,
}

impl People {
    pub const NOBODY: Self = Self { ann: false, bob: false };

    /// What they say to prove it, in the order in which they say it.
    pub fn credentials(self) -> Vec<&'static str> {
        self.principals().map(Principal::credential).collect()
    }

    pub fn include(self, principal: Principal) -> bool {
        match principal {
            Principal::Anyone => true,
            Principal::Ann => self.ann,
            Principal::Bob => self.bob,
        }
    }

    fn principals(self) -> impl Iterator<Item = Principal> {
        [Principal::Ann, Principal::Bob].into_iter().filter(move |&it| self.include(it))
    }
}

impl AccessList {
    pub const ALL: [Self; 5] =
        [Self::Open, Self::AnnsToRead, Self::Anns, Self::Shared, Self::Askers];

    /// As it stands in a request.
    pub fn requested(self) -> Vec<Acl<'static>> {
        match self {
            Self::Askers => vec![Acl { permissions: permission::ALL, scheme: "auth", id: "" }],
            named => named.named().into_iter().map(Entry::to_acl).collect(),
        }
    }

    /// As it is stored for these people; `None` if nothing can be.
    pub fn stored(self, people: People) -> Option<Vec<Entry>> {
        if self != Self::Askers {
            return Some(self.named());
        }
        let all = |principal| Entry { permissions: permission::ALL, principal };
        let entries: Vec<Entry> = people.principals().map(all).collect();
        (!entries.is_empty()).then_some(entries)
    }

    fn named(self) -> Vec<Entry> {
        let entry = |permissions, principal| Entry { permissions, principal };
        let some = permission::READ | permission::WRITE | permission::CREATE;
        match self {
            Self::Open => vec![entry(permission::ALL, Principal::Anyone)],
            Self::AnnsToRead => vec![
                entry(permission::ALL, Principal::Ann),
                entry(permission::READ, Principal::Anyone),
            ],
            Self::Anns => vec![entry(permission::ALL, Principal::Ann)],
            Self::Shared => {
                vec![entry(permission::ALL, Principal::Bob), entry(some, Principal::Ann)]
            }
            Self::Askers => unreachable!("it names nobody"),
        }
    }
}

impl Principal {
    fn credential(self) -> &'static str {
        match self {
            Self::Anyone => unreachable!("nobody proves to be anyone"),
            Self::Ann => "ann:apple",
            Self::Bob => "bob:berry",
        }
    }

    pub fn scheme(self) -> &'static str {
        if self == Self::Anyone { "world" } else { "digest" }
    }

    pub fn id(self) -> &'static str {
        match self {
            Self::Anyone => "anyone",
            Self::Ann => "ann:6q+u+bEVJTdGGyG40XXuyaDlxCA=",
            Self::Bob => "bob:mrR6qjBZtUx4tq2fut24AGeVGbI=",
        }
    }

    /// As those see it who may not change the list.
    pub fn masked_id(self) -> &'static str {
        match self {
            Self::Anyone => "anyone",
            Self::Ann => "ann:x",
            Self::Bob => "bob:x",
        }
    }
}

impl Entry {
    fn to_acl(self) -> Acl<'static> {
        let Self { permissions, principal } = self;
        Acl { permissions, scheme: principal.scheme(), id: principal.id() }
    }
}

/// What a new znode has, if nobody says otherwise.
pub fn open() -> Vec<Entry> {
    AccessList::Open.named()
}

/// Whether the list gives any of the permissions to these people.
pub fn permits(list: &[Entry], people: People, permissions: u32) -> bool {
    list.iter().any(|it| it.permissions & permissions != 0 && people.include(it.principal))
}
