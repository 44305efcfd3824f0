//! What clients say and hear, as values: parsed once at the edge, never re-read as bytes behind it.

use alloc::vec::Vec;

use crate::base::id::{SessionId, Zxid};

/// A request's number on the wire (`ZooDefs.OpCode`), only those that a client may send.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(i32)]
pub enum OpCode {
    Create = 1,
    Delete = 2,
    Exists = 3,
    GetData = 4,
    SetData = 5,
    GetAcl = 6,
    SetAcl = 7,
    GetChildren = 8,
    Sync = 9,
    Ping = 11,
    GetChildren2 = 12,
    Check = 13,
    Multi = 14,
    Create2 = 15,
    Reconfig = 16,
    CheckWatches = 17,
    RemoveWatches = 18,
    CreateContainer = 19,
    CreateTtl = 21,
    MultiRead = 22,
    Auth = 100,
    SetWatches = 101,
    Sasl = 102,
    GetEphemerals = 103,
    GetAllChildrenNumber = 104,
    SetWatches2 = 105,
    AddWatch = 106,
    WhoAmI = 107,
    CloseSession = -11,
}

/// How a znode comes into being (`CreateMode`); containers and TTLs are refused for now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CreateMode {
    Persistent,
    Ephemeral,
    PersistentSequential,
    EphemeralSequential,
}

/// One entry of an access control list, as it stands in a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Acl<'a> {
    pub permissions: u32,
    pub scheme: &'a str,
    pub id: &'a str,
}

/// `Watcher.WatcherType`: which watches a removal or a check means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatcherType {
    Children,
    Data,
    Any,
    Persistent,
    PersistentRecursive,
}

/// `AddWatchMode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddWatchMode {
    Persistent,
    PersistentRecursive,
}

/// A client's request. It borrows the receive buffer.
///
/// Paths are checked (`path::check`) while parsing, with the exceptions that ZooKeeper makes too:
/// the path of a sequential create may end in `/`, `/.` or `/..`, because a number follows; what
/// sync and getEphemerals carry is not a path that is looked up, and may be any text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request<'a> {
    /// `with_stat` for create2. An absent ACL list arrives as an empty one: both are InvalidACL.
    /// Data may be null, which is not the same as empty.
    Create {
        path: &'a str,
        data: Option<&'a [u8]>,
        acl: Vec<Acl<'a>>,
        mode: CreateMode,
        with_stat: bool,
    },
    /// `version` -1 means any.
    Delete {
        path: &'a str,
        version: i32,
    },
    Exists {
        path: &'a str,
        watch: bool,
    },
    GetData {
        path: &'a str,
        watch: bool,
    },
    SetData {
        path: &'a str,
        data: Option<&'a [u8]>,
        version: i32,
    },
    GetAcl {
        path: &'a str,
    },
    SetAcl {
        path: &'a str,
        acl: Vec<Acl<'a>>,
        version: i32,
    },
    GetChildren {
        path: &'a str,
        watch: bool,
        with_stat: bool,
    },
    Sync {
        path: &'a str,
    },
    Ping,
    /// Only inside a multi.
    Check {
        path: &'a str,
        version: i32,
    },
    /// Create, delete, setData and check, all or nothing.
    Multi(Vec<Self>),
    /// getData and getChildren, each with a result of its own.
    MultiRead(Vec<Self>),
    Auth {
        scheme: &'a str,
        credential: Option<&'a [u8]>,
    },
    SetWatches(SetWatches<'a>),
    AddWatch {
        path: &'a str,
        mode: AddWatchMode,
    },
    CheckWatches {
        path: &'a str,
        kind: WatcherType,
    },
    RemoveWatches {
        path: &'a str,
        kind: WatcherType,
    },
    GetEphemerals {
        prefix: &'a str,
    },
    GetAllChildrenNumber {
        path: &'a str,
    },
    WhoAmI,
    CloseSession,
}

/// The watches that a client held before it lost its connection.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SetWatches<'a> {
    /// The newest zxid that the client had seen: what changed after it fires at once.
    pub relative_zxid: Zxid,
    pub data: Vec<&'a str>,
    pub exist: Vec<&'a str>,
    pub child: Vec<&'a str>,
    pub persistent: Vec<&'a str>,
    pub persistent_recursive: Vec<&'a str>,
}

impl SetWatches<'_> {
    /// The paths in all its lists.
    pub fn count(&self) -> usize {
        let Self { data, exist, child, persistent, persistent_recursive, .. } = self;
        [data, exist, child, persistent, persistent_recursive].iter().map(|list| list.len()).sum()
    }
}

/// What a connection says first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectRequest<'a> {
    pub protocol_version: i32,
    pub last_zxid_seen: Zxid,
    pub timeout_ms: i32,
    /// Zero asks for a new session.
    pub session: SessionId,
    pub password: &'a [u8],
    /// Whether the client sent the trailing flag (clients since 3.4), and its value.
    pub read_only: Option<bool>,
}

impl ConnectRequest<'static> {
    /// What a client says that has no session yet.
    pub fn for_new_session(timeout_ms: i32) -> Self {
        Self {
            protocol_version: 0,
            last_zxid_seen: Zxid::ZERO,
            timeout_ms,
            session: SessionId(0),
            password: &[0; 16],
            read_only: Some(false),
        }
    }
}

/// A znode's metadata as clients see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stat {
    pub czxid: Zxid,
    pub mzxid: Zxid,
    pub ctime_ms: i64,
    pub mtime_ms: i64,
    pub version: i32,
    pub cversion: i32,
    pub aversion: i32,
    pub ephemeral_owner: SessionId,
    pub data_length: i32,
    pub children_count: i32,
    pub pzxid: Zxid,
}

/// `Watcher.Event.EventType`, those that travel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(i32)]
pub enum EventType {
    NodeCreated = 1,
    NodeDeleted = 2,
    NodeDataChanged = 3,
    NodeChildrenChanged = 4,
}

pub mod permission {
    //! `ZooDefs.Perms`.
    pub const READ: u32 = 1;
    pub const WRITE: u32 = 2;
    pub const CREATE: u32 = 4;
    pub const DELETE: u32 = 8;
    pub const ADMIN: u32 = 16;
    pub const ALL: u32 = 31;
}

impl OpCode {
    /// Whether a few bytes of it, in the request and in the reply, may stand for a lot of work.
    pub const fn makes_much_of_little(self) -> bool {
        matches!(self, Self::MultiRead | Self::GetEphemerals)
    }

    /// The code with this number, if a client may send it.
    pub const fn from_wire(number: i32) -> Option<Self> {
        Some(match number {
            1 => Self::Create,
            2 => Self::Delete,
            3 => Self::Exists,
            4 => Self::GetData,
            5 => Self::SetData,
            6 => Self::GetAcl,
            7 => Self::SetAcl,
            8 => Self::GetChildren,
            9 => Self::Sync,
            11 => Self::Ping,
            12 => Self::GetChildren2,
            13 => Self::Check,
            14 => Self::Multi,
            15 => Self::Create2,
            16 => Self::Reconfig,
            17 => Self::CheckWatches,
            18 => Self::RemoveWatches,
            19 => Self::CreateContainer,
            21 => Self::CreateTtl,
            22 => Self::MultiRead,
            100 => Self::Auth,
            101 => Self::SetWatches,
            102 => Self::Sasl,
            103 => Self::GetEphemerals,
            104 => Self::GetAllChildrenNumber,
            105 => Self::SetWatches2,
            106 => Self::AddWatch,
            107 => Self::WhoAmI,
            -11 => Self::CloseSession,
            _ => return None,
        })
    }

    pub const fn wire(self) -> i32 {
        self as i32
    }
}

impl WatcherType {
    pub const fn from_wire(number: i32) -> Option<Self> {
        Some(match number {
            1 => Self::Children,
            2 => Self::Data,
            3 => Self::Any,
            4 => Self::Persistent,
            5 => Self::PersistentRecursive,
            _ => return None,
        })
    }

    pub const fn wire(self) -> i32 {
        match self {
            Self::Children => 1,
            Self::Data => 2,
            Self::Any => 3,
            Self::Persistent => 4,
            Self::PersistentRecursive => 5,
        }
    }
}

impl AddWatchMode {
    pub const fn from_wire(number: i32) -> Option<Self> {
        Some(match number {
            0 => Self::Persistent,
            1 => Self::PersistentRecursive,
            _ => return None,
        })
    }

    pub const fn wire(self) -> i32 {
        match self {
            Self::Persistent => 0,
            Self::PersistentRecursive => 1,
        }
    }
}

impl EventType {
    pub const fn from_wire(number: i32) -> Option<Self> {
        Some(match number {
            1 => Self::NodeCreated,
            2 => Self::NodeDeleted,
            3 => Self::NodeDataChanged,
            4 => Self::NodeChildrenChanged,
            _ => return None,
        })
    }

    pub const fn wire(self) -> i32 {
        self as i32
    }
}

impl CreateMode {
    /// The mode with these `flags`, if it is one that this server knows.
    pub fn from_flags(flags: i32) -> Option<Self> {
        match flags {
            0 => Some(Self::Persistent),
            1 => Some(Self::Ephemeral),
            2 => Some(Self::PersistentSequential),
            3 => Some(Self::EphemeralSequential),
            _ => None,
        }
    }

    pub const fn flags(self) -> i32 {
        match self {
            Self::Persistent => 0,
            Self::Ephemeral => 1,
            Self::PersistentSequential => 2,
            Self::EphemeralSequential => 3,
        }
    }

    pub const fn is_ephemeral(self) -> bool {
        matches!(self, Self::Ephemeral | Self::EphemeralSequential)
    }

    pub const fn is_sequential(self) -> bool {
        matches!(self, Self::PersistentSequential | Self::EphemeralSequential)
    }
}

impl Request<'_> {
    /// The number under which the request travels.
    pub const fn op_code(&self) -> OpCode {
        match self {
            Self::Create { with_stat: false, .. } => OpCode::Create,
            Self::Create { .. } => OpCode::Create2,
            Self::Delete { .. } => OpCode::Delete,
            Self::Exists { .. } => OpCode::Exists,
            Self::GetData { .. } => OpCode::GetData,
            Self::SetData { .. } => OpCode::SetData,
            Self::GetAcl { .. } => OpCode::GetAcl,
            Self::SetAcl { .. } => OpCode::SetAcl,
            Self::GetChildren { with_stat: false, .. } => OpCode::GetChildren,
            Self::GetChildren { .. } => OpCode::GetChildren2,
            Self::Sync { .. } => OpCode::Sync,
            Self::Ping => OpCode::Ping,
            Self::Check { .. } => OpCode::Check,
            Self::Multi(_) => OpCode::Multi,
            Self::MultiRead(_) => OpCode::MultiRead,
            Self::Auth { .. } => OpCode::Auth,
            Self::SetWatches(watches) if watches.has_persistent() => OpCode::SetWatches2,
            Self::SetWatches(_) => OpCode::SetWatches,
            Self::AddWatch { .. } => OpCode::AddWatch,
            Self::CheckWatches { .. } => OpCode::CheckWatches,
            Self::RemoveWatches { .. } => OpCode::RemoveWatches,
            Self::GetEphemerals { .. } => OpCode::GetEphemerals,
            Self::GetAllChildrenNumber { .. } => OpCode::GetAllChildrenNumber,
            Self::WhoAmI => OpCode::WhoAmI,
            Self::CloseSession => OpCode::CloseSession,
        }
    }

    /// Whether the request changes the tree, and so must pass the shard's leader.
    pub const fn is_write(&self) -> bool {
        matches!(
            self,
            Self::Create { .. }
                | Self::Delete { .. }
                | Self::SetData { .. }
                | Self::SetAcl { .. }
                | Self::Multi(_)
        )
    }
}

impl SetWatches<'_> {
    /// Whether only setWatches2 can carry these watches.
    pub const fn has_persistent(&self) -> bool {
        !self.persistent.is_empty() || !self.persistent_recursive.is_empty()
    }
}
