//! What a worker hears and what it asks for: the whole boundary between deciding and doing.

use alloc::vec::Vec;
use core::net::IpAddr;

use crate::base::id::{ChainHash, ConnectionId, CoreId, LinkId, SessionId, ShardId, Zxid};
use crate::durable::{Append, Durable, LogMark};
pub use crate::gateway::Crowd;
use crate::gateway::Parting;
use crate::mail::Mail;
pub use crate::replica::snapshot::{Discarded, Interest, SnapshotJob};
use crate::zab;

/// Everything that can happen to a worker.
#[derive(Debug)]
pub enum Input<'a> {
    /// A client has connected. `entropy` comes from the system's random source and becomes the
    /// password of a session that begins on this connection.
    ClientOpened {
        connection: ConnectionId,
        address: IpAddr,
        crowd: Crowd,
        entropy: [u8; 16],
    },
    ClientBytes {
        connection: ConnectionId,
        bytes: &'a [u8],
    },
    /// What was taken from the output has left.
    ClientSent {
        connection: ConnectionId,
    },
    /// The connection is gone: by the client, by an error, or because it was asked for.
    ClientClosed {
        connection: ConnectionId,
    },
    /// Both hellos have been exchanged and accepted.
    LinkUp {
        link: LinkId,
        peer_cores: u8,
    },
    LinkBytes {
        link: LinkId,
        bytes: &'a [u8],
    },
    LinkDown {
        link: LinkId,
    },
    Durable(Durable<LogMark>),
    /// The snapshot that was asked for is published: written, synced, read back and renamed.
    SnapshotTaken {
        shard: ShardId,
        zxid: Zxid,
        hash: ChainHash,
        digest: u128,
    },
    /// It could not be made, and there is no such file.
    SnapshotAbandoned {
        shard: ShardId,
        zxid: Zxid,
        hash: ChainHash,
    },
    /// The disk is so full that only the reserve is left, or it has room again.
    DiskSpace {
        is_low: bool,
    },
    /// The process is about to end: others should lead. [`Worker::is_finishing`] tells until when.
    ///
    /// [`Worker::is_finishing`]: crate::worker::Worker::is_finishing
    Stopping,
    /// The log is too long, and it is this shard that needs the oldest part of it.
    SnapshotWanted {
        shard: ShardId,
    },
    Mail {
        from: CoreId,
        mail: Mail,
    },
    /// The deadline has come.
    Time,
    /// Every input of the turn has been handed over. Now the shards may together propose so many
    /// requests, and apply so many entries; what is left over puts the worker in haste. A driver
    /// that has time for it ends the turn once more.
    TurnEnd {
        share: usize,
    },
}

/// Everything that a worker can ask for; to be carried out in order.
#[derive(Debug)]
pub enum Effect {
    Append(Append),
    /// Everything up to `zxid` is committed; the next batch's header says so.
    Committed {
        shard: ShardId,
        zxid: Zxid,
    },
    /// Make a file of this, beside everything else, and feed [`Input::SnapshotTaken`].
    Snapshot(SnapshotJob),
    /// Drop this where nobody waits.
    Discard(Discarded),
    Mail {
        to: CoreId,
        mail: Mail,
    },
    /// The connection's output holds bytes.
    ClientOutput {
        connection: ConnectionId,
    },
    /// Stop or resume reading from the connection.
    ClientPause {
        connection: ConnectionId,
        paused: bool,
    },
    /// Send what is in its output, then close.
    ClientClose {
        connection: ConnectionId,
        /// 0 if it never had one.
        session: SessionId,
        why: Parting,
    },
    /// Answer a four-letter word into the connection's output, then close.
    Admin {
        connection: ConnectionId,
        word: [u8; 4],
    },
    /// The link's output holds bytes.
    LinkOutput {
        link: LinkId,
    },
    LinkClose {
        link: LinkId,
        why: &'static str,
    },
    /// For the log: the leader of the session's home closes it.
    SessionExpired {
        shard: ShardId,
        session: SessionId,
    },
    /// The shard's tree as of `zxid` is not that of a majority of the servers: whatever this
    /// process says from here on may be wrong. It ends.
    Diverged {
        shard: ShardId,
        zxid: Zxid,
    },
    Event {
        shard: ShardId,
        event: zab::Event,
    },
}

/// A list that is filled, drained and filled again without giving its memory back.
#[derive(Default, Debug)]
pub struct Effects {
    list: Vec<Effect>,
}

impl Effects {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    /// Takes everything, in order.
    pub fn drain(&mut self) -> impl Iterator<Item = Effect> + '_ {
        self.list.drain(..)
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}
