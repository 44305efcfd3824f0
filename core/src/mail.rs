//! What the gateways and the replicas of one node tell each other, within a core or across cores.
//!
//! Mail of one core to another arrives in order. Everything here is a value of its own, because it
//! may outlive the turn that made it.

use alloc::string::String;
use alloc::vec::Vec;

use crate::auth::Identities;
use crate::base::error::ErrorCode;
use crate::base::id::{ConnectionId, CoreId, Generation, SessionId, ShardId, Zxid};
use crate::op::{EventType, OpCode};
use crate::peer::message::{Seen, Touched, WriteAsk};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mail {
    /// To the core that has the shard's replica.
    Ask { shard: ShardId, ask: Ask },
    /// To the core that asked.
    Answer { shard: ShardId, ticket: Ticket, zxid: Zxid, outcome: Outcome },
    /// To the connection's core: a watch fired. One change may fire several of a connection.
    Event {
        shard: ShardId,
        connection: ConnectionId,
        zxid: Zxid,
        is_last: bool,
        event: EventType,
        path: String,
    },
    /// To every core: a connection of this session with a lower generation is no longer its.
    Moved { session: SessionId, generation: Generation },
    /// To every core: the session is over.
    Ended { session: SessionId },
    /// To every core: whether a replica of this node takes long to get what its leader has.
    CatchingUp { shard: ShardId, is_catching_up: bool },
    /// To the connection's core: events for it were lost, and it must come back.
    Close { connection: ConnectionId },
    /// To the core that touched: its sessions of that home are known to be alive, except these.
    Touched { shard: ShardId, ticket: Ticket, expired: Vec<SessionId> },
}

impl Mail {
    /// Whether it waits behind the reads of other cores, as long as they use up what is theirs of
    /// the turn. What is asked for clients does, in its order; not what keeps their sessions alive,
    /// nor what answers this core.
    pub fn takes_its_turn(&self) -> bool {
        match self {
            Self::Ask { ask, .. } => !matches!(ask.what, What::Touch { .. } | What::Recall { .. }),
            _ => false,
        }
    }

    /// Whether it takes its turn even on its own core: clients come back with watches by the ten
    /// thousands.
    pub fn sets_watches(&self) -> bool {
        let set_watches = OpCode::SetWatches.wire();
        match self {
            Self::Ask { ask: Ask { what: What::Read { op_code, .. }, .. }, .. } => {
                *op_code == set_watches
            }
            _ => false,
        }
    }
}

/// Names a question on the core that asked it; never used twice by a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

impl Ticket {
    const OF_REPLICA: u64 = 1 << 63;
    const SHARD_SHIFT: u32 = 44;

    /// The `number`th question of a replica; those of gateways count from 1 without the mark.
    pub fn of_replica(shard: ShardId, number: u64) -> Self {
        assert!(number < 1 << Self::SHARD_SHIFT, "questions are numbered for thousands of years");
        Self(Self::OF_REPLICA | u64::from(shard.0) << Self::SHARD_SHIFT | number)
    }

    /// The replica that asked; `None` for a gateway's question.
    pub fn replica(self) -> Option<ShardId> {
        let shard = (self.0 & !Self::OF_REPLICA) >> Self::SHARD_SHIFT;
        (self.0 & Self::OF_REPLICA != 0)
            .then(|| ShardId(u16::try_from(shard).expect("a shard was put there")))
    }
}

/// A question to one shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ask {
    /// Where the answer goes.
    pub core: CoreId,
    pub ticket: Ticket,
    pub what: What,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// To be logged by the shard's leader, and answered when it is applied here.
    Write { asker: Writer, ask: WriteAsk },
    /// To be executed by this node's replica.
    Read { reader: Reader, op_code: i32, body: Vec<u8> },
    /// To be answered when this replica has applied everything acknowledged before now (`sync`,
    /// and the barrier of a session that has moved).
    Barrier,
    /// The connection is closed: its watches go.
    Forget { connection: ConnectionId },
    /// The connection has more identities than before.
    Identify { reader: Reader },
    /// The children of a partition point have changed in another shard: the connection's watch on
    /// them, which is one, is used up here too.
    Unwatch { connection: ConnectionId, path: String },
    /// Sessions that were heard from.
    Touch { sessions: Vec<Touched> },
    /// What has the client of this session seen? See [`crate::peer::message::PeerMessage::Recall`].
    Recall { session: SessionId, generation: Generation, counter: u64 },
    /// From a home: no session that it attached here before `until` can open here any more, unless
    /// it is one of these living ones, each with the zxid of its attachment.
    RaiseFloor { home: ShardId, until: Zxid, living: Vec<(SessionId, Zxid)> },
}

/// On whose behalf something is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Writer {
    pub session: SessionId,
    pub generation: Generation,
    /// The zxid at which the home attached the session to the shard, while the asker does not know
    /// that it is open there.
    pub attachment: Option<Zxid>,
    pub identities: Identities,
}

impl Writer {
    /// The server itself, which may do everything.
    pub fn system() -> Self {
        Self {
            session: SessionId(0),
            generation: Generation(0),
            attachment: None,
            identities: Identities::none(),
        }
    }
}

/// On whose behalf something is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reader {
    pub connection: ConnectionId,
    pub session: SessionId,
    pub identities: Identities,
    /// Those of the connection by now, if it has had more since it asked.
    pub later: Option<Identities>,
}

impl Reader {
    /// Whom the events go to of a watch that the read leaves: a connection hears what it may hear
    /// when something happens, whatever it could prove when it began to watch.
    pub fn watcher(&self) -> &Identities {
        self.later.as_ref().unwrap_or(&self.identities)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// A reply's code and body, the body only with `Ok`.
    Reply { code: ErrorCode, body: Vec<u8> },
    /// Nothing was logged: the leader's refusal. A refused multi has the code `Ok` and a body that
    /// says what was wrong with each operation.
    Refused { code: ErrorCode, body: Vec<u8> },
    /// The session is this connection's, in this generation.
    Session {
        generation: Generation,
        timeout_ms: u32,
        /// The shards that it is attached to, and the zxid of each attachment in its home.
        attached: Vec<(ShardId, Zxid)>,
    },
    /// What the session's client has seen, ascending by counter.
    Seen(Vec<Seen>),
    /// Nobody here knows whether it happened, or nobody can answer in time.
    Unknown,
}

impl Outcome {
    pub fn refused(code: ErrorCode) -> Self {
        Self::Refused { code, body: Vec::new() }
    }
}
