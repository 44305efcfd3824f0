//! Peer messages, each about one shard. The archived form (rkyv) is the released format.
//!
//! Messages of one link arrive in order or not at all. Those that acknowledge,
//! [`AckEpoch`](PeerMessage::AckEpoch), [`AckLeader`](PeerMessage::AckLeader) and
//! [`Ack`](PeerMessage::Ack), leave as riders of the appends that they speak of. A
//! [`Vote`](PeerMessage::Vote) for oneself and a [`LeaderInfo`](PeerMessage::LeaderInfo) say what
//! storage has reported durable before. [`FollowerInfo`](PeerMessage::FollowerInfo) promises
//! nothing: what it says counts with the acknowledgement behind it.

use alloc::string::String;
use alloc::vec::Vec;

use rkyv::{Archive, Deserialize, Serialize};

use crate::txn::Origin;

/// What a server is doing in one shard (ZooKeeper's `ServerState`).
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerState {
    Looking,
    Following,
    Leading,
    Observing,
}

/// A vote, ordered by (current epoch, durable zxid, rank of the leader).
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vote {
    /// The logical clock of the election; votes of different rounds do not meet.
    pub round: u64,
    pub state: PeerState,
    /// Whom the sender would follow, or follows.
    pub leader: u8,
    /// That candidate's current epoch and the end of its durable log.
    pub epoch: u32,
    pub zxid: u64,
    /// The sender leads, and its epoch has begun.
    pub established: bool,
    /// The sender is a voter whose disk counts, as far as it knows itself.
    pub counts: bool,
    /// The candidate's disk is not almost full, and it is not about to stop.
    pub is_willing: bool,
}

/// The last entry that a log holds of one epoch.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochEnd {
    pub zxid: u64,
    pub hash: u128,
}

/// What a shard's leader can be asked to log.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum WriteAsk {
    /// A client's request: ZooKeeper's opcode, and the body as it was sent.
    Client {
        op_code: i32,
        body: Vec<u8>,
    },
    SessionCreate {
        session: u64,
        password: [u8; 16],
        timeout_ms: u32,
    },
    SessionRenew {
        session: u64,
        password: Vec<u8>,
    },
    SessionAttach {
        session: u64,
        generation: u32,
        shard: u16,
    },
    /// On behalf of the client, of this generation; of nobody's if it is 0.
    SessionClose {
        session: u64,
        generation: u32,
    },
    /// Only this generation may write from now on; opens the session where no write has yet. The
    /// zxid is that of the attachment in the home.
    SessionOpen {
        session: u64,
        generation: u32,
        home_zxid: u64,
    },
    SessionFence {
        session: u64,
        home_zxid: u64,
    },
    SessionPurge {
        session: u64,
    },
    SessionFloor {
        home: u16,
        home_zxid: u64,
    },
    PointSet {
        path: String,
        data: Option<Vec<u8>>,
        acl: Vec<crate::txn::AclEntry>,
        point_zxid: u64,
    },
    /// The log of some server has become too long: every replica should take a snapshot.
    SnapshotPoint,
}

/// A client's write on its way to the leader.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Forward {
    /// The epoch whose leader is asked. A later one's may be asked again, and must not be asked
    /// twice.
    pub epoch: u32,
    pub origin: Origin,
    pub session: u64,
    pub generation: u32,
    /// The zxid at which the home shard attached the session to this one; 0 once the session is
    /// known to be open here.
    pub attachment_zxid: u64,
    /// The connection's identities, encoded by `auth`.
    pub identities: Vec<u8>,
    pub ask: WriteAsk,
}

impl PeerMessage {
    /// Whether it claims what an append makes true. Such a message leaves as a rider of that
    /// append, and nothing else does: the worker's two ways out hold to it.
    pub fn is_rider(&self) -> bool {
        matches!(self, Self::AckEpoch { .. } | Self::AckLeader { .. } | Self::Ack { .. })
    }
}

impl WriteAsk {
    /// How large a client's request is; what servers ask of each other is small.
    pub fn body_bytes(&self) -> usize {
        if let Self::Client { body, .. } = self { body.len() } else { 0 }
    }
}

/// The leader's answer to a write that it did not log.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    pub origin: Origin,
    pub code: i32,
    /// What the refusal was judged against is committed here; the reply waits until the origin has
    /// applied it.
    pub zxid: u64,
    /// The results of a refused multi, one code an operation; otherwise empty.
    pub multi: Vec<i32>,
}

/// A session and its generation, as its gateway knows it.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Touched {
    pub session: u64,
    pub generation: u32,
    /// Heard from lately; false for the last word of a connection that has ended.
    pub is_alive: bool,
    /// Only in a cluster of several shards.
    pub seen: Option<Seen>,
}

/// What a client has seen once it has read a header with this counter: of each of these shards,
/// every event up to the zxid.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    pub counter: u64,
    pub shards: Vec<SeenShard>,
}

#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct SeenShard {
    pub shard: u16,
    pub zxid: u64,
}

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum PeerMessage {
    Vote(Vote),

    // Discovery.
    /// A learner asks to join the leader's epoch. `attempt` ties the answers to this asking.
    FollowerInfo {
        attempt: u32,
        accepted_epoch: u32,
        disk: u128,
        /// The disk was there when the cluster was formed.
        is_founder: bool,
        /// All of its log could be read.
        is_whole: bool,
    },
    /// The epoch that the leader proposes; its own acceptance of it is durable.
    LeaderInfo {
        attempt: u32,
        epoch: u32,
    },
    /// The learner's acceptance is durable, and so is the history that it describes.
    AckEpoch {
        attempt: u32,
        epoch: u32,
        /// False if the epoch was accepted before: such an acknowledgement does not count towards
        /// the quorum, because it may have been given to another leader.
        counted: bool,
        current_epoch: u32,
        tail: EpochEnd,
        committed_zxid: u64,
        /// The ends of the newest epochs in the log, ascending.
        index: Vec<EpochEnd>,
    },

    // Synchronization.
    /// The learner's history is a prefix of the leader's; what follows continues it.
    SyncDiff {
        attempt: u32,
        epoch: u32,
        tail: EpochEnd,
    },
    /// The learner's history leaves the leader's after `to`.
    SyncTruncate {
        attempt: u32,
        epoch: u32,
        to: EpochEnd,
    },
    /// The learner is too far behind: chunks of the state at `at` follow.
    SyncSnapshot {
        attempt: u32,
        epoch: u32,
        at: EpochEnd,
    },
    SnapshotChunk {
        epoch: u32,
        index: u32,
        last: bool,
        bytes: Vec<u8>,
    },
    SnapshotChunkAck {
        epoch: u32,
        index: u32,
    },
    /// Everything that the leader inherited has been sent: the learner's log now ends at `tail`.
    NewLeader {
        epoch: u32,
        tail: EpochEnd,
    },
    /// The learner has the inherited history and the new current epoch on disk.
    AckLeader {
        epoch: u32,
        zxid: u64,
    },
    /// The epoch is established; the learner may serve.
    UpToDate {
        epoch: u32,
        committed_zxid: u64,
    },

    // Broadcast.
    /// Consecutive entries, verbatim.
    Propose {
        epoch: u32,
        committed_zxid: u64,
        entries: Vec<u8>,
    },
    /// Everything up to `zxid` is durable.
    Ack {
        epoch: u32,
        zxid: u64,
    },
    Commit {
        epoch: u32,
        zxid: u64,
    },
    /// Is this still the epoch? Asked once a turn for everything that needs to know.
    Confirm {
        epoch: u32,
        round: u64,
    },
    ConfirmAck {
        epoch: u32,
        round: u64,
    },

    // Requests between a server with clients and the shard's leader.
    Forward(Forward),
    Refused(Refused),
    /// The receiver does not lead, and has not proposed this.
    NotProposed {
        origin: Origin,
    },
    /// After which zxid is everything acknowledged so far included? (`sync`, barriers)
    ReadIndex {
        origin: Origin,
    },
    ReadIndexAt {
        origin: Origin,
        zxid: u64,
    },
    /// Sessions of the home shard that were heard from; the ticket is the asker's.
    Touch {
        origin: Origin,
        sessions: Vec<Touched>,
    },
    /// The touches are recorded, except of those sessions, which are gone or have moved.
    TouchAck {
        origin: Origin,
        expired: Vec<u64>,
    },
    /// What has the session's client seen, up to this counter? What was said beyond it is void:
    /// the client has not read it, and its next connection counts on from here.
    Recall {
        origin: Origin,
        session: u64,
        generation: u32,
        counter: u64,
    },
    /// Ascending by counter.
    Recalled {
        origin: Origin,
        seen: Vec<Seen>,
    },

    /// A complaint for the other side's log before a link is closed. Nobody sends it, and whoever
    /// gets it passes it over; without it the archived form would number the others anew.
    Error {
        text: String,
    },

    // Broadcast, continued: what the archived form numbers stays where it is.
    /// With the receiver, a majority has everything up to `zxid` on disk: it is committed once the
    /// receiver has it on disk, too. Saves a follower the way of its acknowledgement to the leader
    /// and that of the commit back.
    CommitOnceDurable {
        epoch: u32,
        zxid: u64,
    },
    /// To the leader: what the sender's tree is once everything up to `zxid` is applied.
    Digest {
        zxid: u64,
        digest: u128,
    },
    /// From the leader: as of `zxid`, the receiver's tree is not that of a majority.
    Diverged {
        zxid: u64,
    },
}
