//! What no honest peer says: every message is held against it before anything is done with it.
//!
//! A peer that says such a thing loses its link. What an honest one may say too late, twice, or to
//! a leader of another time passes here; it is refused or ignored where it is judged.

use alloc::vec::Vec;

use crate::base::id::{Epoch, ServerId, SessionId, ShardId, Zxid};
use crate::base::limits::RECORD_BYTES_MAX;
use crate::peer::message::{Forward, PeerMessage, Seen, WriteAsk};
use crate::shard::{ShardMap, is_partition_point};
use crate::txn::{AclEntry, Origin};

/// Where a message has come to, and from whom.
#[derive(Clone, Copy, Debug)]
pub struct Hearing {
    pub me: ServerId,
    pub cores: u8,
    /// This process's own.
    pub incarnation: u64,
    pub map: ShardMap,
    pub shard: ShardId,
    pub from: ServerId,
}

impl PeerMessage {
    /// Why no honest peer says this, if none does.
    pub fn check(&self, hearing: &Hearing) -> Result<(), &'static str> {
        match self {
            Self::Forward(forward) => forward.check(hearing),
            Self::ReadIndex { origin } | Self::Recall { origin, .. } => hearing.asks(*origin),
            Self::Touch { origin, sessions } => {
                hearing.asks(*origin)?;
                let seen = sessions.iter().filter_map(|touched| touched.seen.as_ref());
                hearing.knows_shards_of(seen)
            }
            Self::NotProposed { origin }
            | Self::ReadIndexAt { origin, .. }
            | Self::TouchAck { origin, .. } => hearing.answers(*origin),
            Self::Refused(refused) => hearing.answers(refused.origin),
            Self::Recalled { origin, seen } => {
                hearing.answers(*origin)?;
                hearing.knows_shards_of(seen)
            }
            // The leader proposes one above it.
            Self::FollowerInfo { accepted_epoch, .. } => {
                require(Epoch(*accepted_epoch) < Epoch::LAST, "a promise to the last epoch")
            }
            Self::LeaderInfo { epoch, .. } => {
                let is_possible = (Epoch(1)..=Epoch::LAST).contains(&Epoch(*epoch));
                require(is_possible, "an epoch that nobody begins")
            }
            Self::SyncSnapshot { epoch, at, .. } => {
                let is_past = Zxid(at.zxid).epoch() <= Epoch(*epoch);
                require(is_past, "a state from a later epoch than its leader's")
            }
            _ => Ok(()),
        }
    }
}

impl Forward {
    fn check(&self, hearing: &Hearing) -> Result<(), &'static str> {
        // A wish for a snapshot is answered by the snapshot.
        if self.ask != WriteAsk::SnapshotPoint || self.origin != Origin::default() {
            hearing.asks(self.origin)?;
        }
        let home = hearing.map.home_of(SessionId(self.session));
        let is_attachment_sound = self.attachment_zxid == 0 || home != hearing.shard;
        require(is_attachment_sound, "a session that has yet to be opened in its home")?;
        self.ask.check(hearing.map, hearing.shard)
    }
}

impl WriteAsk {
    /// Why no honest server asks this shard for it, if none does.
    pub fn check(&self, map: ShardMap, shard: ShardId) -> Result<(), &'static str> {
        let is_home = |session: u64| map.home_of(SessionId(session)) == shard;
        match self {
            Self::Client { .. } | Self::SnapshotPoint => Ok(()),
            Self::SessionCreate { session, .. }
            | Self::SessionRenew { session, .. }
            | Self::SessionClose { session, .. } => {
                require(is_home(*session), "a session of another home")
            }
            Self::SessionAttach { session, shard: to, .. } => {
                require(is_home(*session), "a session of another home")?;
                require(*to < map.count(), "an attachment to a shard that is not")
            }
            Self::SessionOpen { session, .. }
            | Self::SessionFence { session, .. }
            | Self::SessionPurge { session } => {
                require(!is_home(*session), "what only other shards than the home are asked for")
            }
            Self::SessionFloor { home, .. } => {
                let is_other = ShardId(*home) != shard && *home < map.count();
                require(is_other, "the floor of a shard that is no other home")
            }
            Self::PointSet { path, data, acl, .. } => {
                let is_carried = is_partition_point(path) && shard != ShardId(0);
                require(is_carried, "a partition point that is none, or is decided here")?;
                let bytes = POINT_BYTES_MAX
                    + data.as_ref().map_or(0, Vec::len)
                    + AclEntry::record_bytes(acl);
                require(bytes <= RECORD_BYTES_MAX, "a partition point too large to be logged")
            }
        }
    }
}

impl Hearing {
    /// Whoever asks is answered itself: the origin is the sender's.
    fn asks(&self, origin: Origin) -> Result<(), &'static str> {
        require(ServerId(origin.server) == self.from, "a question in another server's name")
    }

    /// An answer goes to whoever asked. What a former process of this server asked is answered late
    /// at times, and what nobody waits for is given back without a name.
    fn answers(&self, origin: Origin) -> Result<(), &'static str> {
        let is_nobodys = origin == Origin::default();
        let is_here = ServerId(origin.server) == self.me;
        require(is_nobodys || is_here, "an answer to another server")?;
        let is_former = origin.incarnation != self.incarnation;
        require(is_former || origin.core < self.cores, "an answer to a core that is not")
    }

    fn knows_shards_of<'a>(
        &self,
        seen: impl IntoIterator<Item = &'a Seen>,
    ) -> Result<(), &'static str> {
        let mut shards = seen.into_iter().flat_map(|seen| &seen.shards);
        let are_known = shards.all(|seen| seen.shard < self.map.count());
        require(are_known, "what was seen of a shard that is not")
    }
}

fn require(holds: bool, otherwise: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(otherwise) }
}

/// What a record holds besides a point's data and its list.
const POINT_BYTES_MAX: usize = 512;
