//! What clients asked, what they were told, and when.

use pigeonhole_core::base::id::{SessionId, Zxid};
use pigeonhole_core::op::{CreateMode, EventType, Stat, WatcherType};

use crate::people::{AccessList, People};
use crate::queue::Moment;

/// A request that owns what it says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ask {
    Create {
        path: String,
        data: Option<Vec<u8>>,
        mode: CreateMode,
    },
    Set {
        path: String,
        data: Option<Vec<u8>>,
        version: i32,
    },
    Delete {
        path: String,
        version: i32,
    },
    Check {
        path: String,
        version: i32,
    },
    Multi(Vec<Self>),
    Get {
        path: String,
        watch: bool,
    },
    Exists {
        path: String,
        watch: bool,
    },
    Children {
        path: String,
        watch: bool,
    },
    SetAcl {
        path: String,
        list: AccessList,
        version: i32,
    },
    GetAcl {
        path: String,
    },
    /// Gets and children, each with a result of its own.
    MultiRead(Vec<Self>),
    /// How many znodes are below one.
    CountBelow {
        path: String,
    },
    /// The session's own ephemerals below a prefix.
    Ephemerals {
        prefix: String,
    },
    AddWatch {
        path: String,
        is_recursive: bool,
    },
    RemoveWatches {
        path: String,
        kind: WatcherType,
    },
    CheckWatches {
        path: String,
        kind: WatcherType,
    },
    Sync {
        path: String,
    },
    Close,
}

/// What a reply says, code `Ok`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Nothing,
    Created {
        path: String,
        stat: Stat,
    },
    Stat(Stat),
    Data {
        data: Option<Vec<u8>>,
        stat: Stat,
    },
    /// Sorted by name: the order of children is nobody's promise.
    Children {
        children: Vec<String>,
        stat: Stat,
    },
    /// Permissions, scheme and id of each entry.
    Acl {
        entries: Vec<(u32, String, String)>,
        stat: Stat,
    },
    Number(i32),
    /// Sorted.
    Paths(Vec<String>),
    Path(String),
    Multi(Vec<Part>),
}

/// One result of a multi or a multiRead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    Created { path: String, stat: Option<Stat> },
    Deleted,
    Set(Stat),
    Checked,
    Data { data: Option<Vec<u8>>, stat: Stat },
    Children(Vec<String>),
    Error(i32),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// No reply has come yet.
    Open,
    /// None will come: the connection was lost.
    Unknown,
    Done {
        zxid: Zxid,
        result: Result<Answer, i32>,
    },
}

#[derive(Clone, Debug)]
pub struct Operation {
    pub client: u32,
    /// Who it had proven to be.
    pub people: People,
    pub session: SessionId,
    /// Which of the client's connections it was sent on.
    pub connection: u64,
    pub ask: Ask,
    pub invoked: Moment,
    /// The newest zxid that the session had seen when it was sent.
    pub seen: Zxid,
    pub done: Option<Moment>,
    /// The place of its reply in what its client has heard.
    pub number: u64,
    pub outcome: Outcome,
}

/// A watch event as it came.
#[derive(Clone, Debug)]
pub struct Fired {
    pub kind: EventType,
    /// Of several events of one change, only the last names it.
    pub zxid: Option<Zxid>,
    /// Its place in what its client has heard.
    pub number: u64,
}

/// What a watch waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum WatchOn {
    Data,
    Exist,
    Child,
}

/// One watch, from the read that left it to its end.
#[derive(Clone, Debug)]
pub struct Watch {
    pub client: u32,
    pub people: People,
    pub path: String,
    pub on: WatchOn,
    /// What the read showed.
    pub since: Zxid,
    pub shown: Option<Stat>,
    /// The connection on which it stands, and what was heard there when it began to.
    pub connection: u64,
    pub from: u64,
    /// What was heard when it was taken away.
    pub until: u64,
    /// The newest zxid that the session saw while the watch stood on its server.
    pub seen: Zxid,
    /// It was set again on another connection.
    pub renewed: bool,
    pub fired: Option<Fired>,
}

/// An event, whatever watch it is of.
#[derive(Clone, Debug)]
pub struct Heard {
    pub client: u32,
    pub connection: u64,
    pub number: u64,
    pub kind: EventType,
    pub path: String,
    pub zxid: Option<Zxid>,
}

/// One persistent watch.
#[derive(Clone, Debug)]
pub struct Standing {
    pub client: u32,
    pub people: People,
    pub path: String,
    pub is_recursive: bool,
    pub spans: Vec<Span>,
}

/// A persistent watch on one connection, from the reply that left it there to its end.
#[derive(Clone, Debug)]
pub struct Span {
    pub connection: u64,
    pub since: Zxid,
    pub begun: Moment,
    /// What was heard on either end.
    pub from: u64,
    pub until: u64,
    /// The newest zxid that was seen meanwhile.
    pub seen: Zxid,
}

/// One session, from its first reply to its end.
#[derive(Clone, Debug)]
pub struct SessionLife {
    pub session: SessionId,
    pub client: u32,
    pub timeout_us: u64,
    pub created: Moment,
    /// The newest moment at which a reply reached the client.
    pub heard: Moment,
    /// When each ping was sent that was answered.
    pub pings_answered: Vec<Moment>,
    /// The client asked for the end.
    pub closing: bool,
    /// The client was told that it is over.
    pub expired: Option<Moment>,
}

#[derive(Default, Debug)]
pub struct History {
    pub operations: Vec<Operation>,
    pub watches: Vec<Watch>,
    pub standing: Vec<Standing>,
    pub events: Vec<Heard>,
    pub sessions: Vec<SessionLife>,
    /// Operations that are open: invoked, without an outcome.
    pub open: u64,
    /// How many replies and events have been heard.
    pub heard: u64,
}

impl Ask {
    pub fn is_write(&self) -> bool {
        matches!(
            self,
            Self::Create { .. }
                | Self::Set { .. }
                | Self::SetAcl { .. }
                | Self::Delete { .. }
                | Self::Multi(_)
        )
    }
}

impl Span {
    /// It begins with a reply that says this zxid.
    pub fn new(connection: u64, since: Zxid, begun: Moment, from: u64) -> Self {
        Self { connection, since, begun, from, until: u64::MAX, seen: since }
    }
}

impl Part {
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }
}

impl History {
    pub fn invoke(&mut self, operation: Operation) -> usize {
        self.open += 1;
        self.operations.push(operation);
        self.operations.len() - 1
    }

    pub fn settle(&mut self, index: usize, at: Moment, outcome: Outcome) {
        let operation = &mut self.operations[index];
        assert_eq!(operation.outcome, Outcome::Open, "an operation has one outcome");
        operation.outcome = outcome;
        operation.number = self.heard;
        operation.done = Some(at);
        self.open -= 1;
    }
}
