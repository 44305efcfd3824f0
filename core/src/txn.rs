//! What is replicated: idempotent changes in which everything uncertain is already resolved.
//!
//! Time, names, sequence numbers, versions and passwords are decided by the leader before the
//! change is logged, so that applying it is the same everywhere and cannot fail. The archived form
//! (rkyv, little endian, unaligned) of these types is a released format: a change is a new entry
//! version, never an edit.

use alloc::string::String;
use alloc::vec::Vec;

use rkyv::rancor;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

use crate::entry::{Entry, EntryKind};

/// One atomic change of one shard.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct Txn {
    /// Who asked; the replica there answers the client when it applies the change.
    pub origin: Origin,
    /// The session on whose behalf it happens; 0 for the system's own changes.
    pub session: u64,
    /// The leader's wall clock, milliseconds since 1970.
    pub time_ms: i64,
    /// Applied in order, all at the entry's zxid.
    pub operations: Vec<Operation>,
}

/// The place where a reply is awaited. All zero: nowhere.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default,
)]
pub struct Origin {
    /// The server to which the client is connected.
    pub server: u8,
    /// The core there.
    pub core: u8,
    /// Drawn at random by each process, so that a restarted server knows no earlier ticket.
    pub incarnation: u64,
    /// The request's number at that core.
    pub ticket: u64,
}

/// One entry of an access control list.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct AclEntry {
    pub permissions: u32,
    pub scheme: String,
    pub id: String,
}

impl AclEntry {
    /// What a list takes of a record, at most: of each entry the permissions, and two strings with
    /// their references.
    pub fn record_bytes(list: &[Self]) -> usize {
        list.iter().map(|entry| 4 + 8 + entry.scheme.len() + 8 + entry.id.len()).sum()
    }
}

/// What an entry of its own kind says: the promises of these disks count from there on, those of
/// other disks of the same servers no more.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Admissions {
    pub voters: Vec<Admission>,
}

/// A voter and its disk, named by its uuid.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Admission {
    pub server: u8,
    pub disk: u128,
}

/// One step of a change. Versions are the resulting ones.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// A new znode. An empty ACL list cannot be: the leader has refused it. Data may be null.
    Create {
        path: String,
        data: Option<Vec<u8>>,
        acl: Vec<AclEntry>,
        /// The owning session, or 0.
        ephemeral_owner: u64,
        /// The parent's count of creations after this one.
        parent_cversion: i32,
        /// Whether the client asked for the stat as well (create2).
        with_stat: bool,
    },
    Delete {
        path: String,
    },
    SetData {
        path: String,
        data: Option<Vec<u8>>,
        version: i32,
    },
    SetAcl {
        path: String,
        acl: Vec<AclEntry>,
        version: i32,
    },
    /// A check inside a multi: holds its place among the results.
    Check,
    /// Home: a session begins.
    SessionCreate {
        session: u64,
        password: [u8; 16],
        timeout_ms: u32,
    },
    /// Home: the session moves to another connection.
    SessionRenew {
        session: u64,
        generation: u32,
    },
    /// Home: the session may write in `shard` from now on.
    SessionAttach {
        session: u64,
        shard: u16,
    },
    /// Home: nothing new may be attached; every attached shard is asked to fence.
    SessionClosing {
        session: u64,
    },
    /// Home: every attached shard is done.
    SessionEnd {
        session: u64,
    },
    /// Attached shard: writes of this session and generation are welcome.
    SessionOpen {
        session: u64,
        generation: u32,
        /// The zxid of the attachment in the home shard, against late opens.
        home_zxid: u64,
    },
    /// Attached shard: writes below this generation are refused from now on.
    SessionAdvance {
        session: u64,
        generation: u32,
    },
    /// Attached shard: every later write of the session is refused.
    SessionFence {
        session: u64,
    },
    /// Attached shard: deletes some of the session's ephemerals.
    SessionPurge {
        session: u64,
        paths: Vec<String>,
        /// Nothing of the session is left in this shard afterwards.
        last: bool,
    },
    /// Attached shard: no session opened by a home zxid below this will ever open here again.
    SessionFloor {
        home: u16,
        home_zxid: u64,
    },
    /// Every shard but 0: what shard 0 decided about a partition point.
    PointSet {
        path: String,
        data: Option<Vec<u8>>,
        acl: Vec<AclEntry>,
        /// The zxid in shard 0; a lower one than known is ignored.
        point_zxid: u64,
    },
}

/// Bytes that do not hold a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// Whether an entry holds what its kind says. Whoever takes an entry from a peer asks, so that
/// applying it never fails.
pub fn check(entry: &Entry) -> Result<(), Malformed> {
    match entry.kind() {
        EntryKind::Txn => Txn::view(entry.payload()).map(|_| ()),
        EntryKind::Admission => Admissions::view(entry.payload()).map(|_| ()),
        EntryKind::EpochStart | EntryKind::SnapshotPoint | EntryKind::Format => Ok(()),
    }
}

impl Txn {
    /// The archived form.
    pub fn to_bytes(&self) -> AlignedVec {
        let room = AlignedVec::with_capacity(TXN_BYTES_USUAL);
        rkyv::api::high::to_bytes_in::<_, rancor::Panic>(self, room)
            .expect("memory is the only way to fail")
    }

    /// Checks bytes and gives access to the transaction in place.
    pub fn view(bytes: &[u8]) -> Result<&ArchivedTxn, Malformed> {
        rkyv::access::<ArchivedTxn, rancor::Failure>(bytes).map_err(|_| Malformed)
    }
}

impl Admissions {
    pub fn to_bytes(&self) -> AlignedVec {
        rkyv::to_bytes::<rancor::Panic>(self).expect("memory is the only way to fail")
    }

    pub fn view(bytes: &[u8]) -> Result<&ArchivedAdmissions, Malformed> {
        rkyv::access::<ArchivedAdmissions, rancor::Failure>(bytes).map_err(|_| Malformed)
    }
}

impl ArchivedOperation {
    /// The znode that a client's operation changes.
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::Create { path, .. }
            | Self::Delete { path }
            | Self::SetData { path, .. }
            | Self::SetAcl { path, .. } => Some(path),
            _ => None,
        }
    }
}

impl ArchivedOrigin {
    pub fn to_native(&self) -> Origin {
        Origin {
            server: self.server,
            core: self.core,
            incarnation: self.incarnation.to_native(),
            ticket: self.ticket.to_native(),
        }
    }
}

/// Most transactions are shorter, and then their memory is asked for once.
const TXN_BYTES_USUAL: usize = 512;
