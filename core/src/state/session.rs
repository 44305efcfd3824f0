//! The two tables of sessions in one shard: those whose home it is, and those attached to it.
//!
//! A session lives in its home shard, which keeps its password and the list of shards where it may
//! write; each of those shards keeps the generation that may write and the session's ephemerals.
//! The home shard is attached to itself from the session's creation, so nothing is special about a
//! cluster of one shard. How long a session has been silent is not state: see `expiry`.

mod encoding;

pub use encoding::SessionsEncoder;

use alloc::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::ops::Bound;

use crate::base::bytes::Truncated;
use crate::base::id::{Generation, SessionId, ShardId, Zxid};
use crate::shard::ShardMap;

/// The generation of a session's first connection.
pub const FIRST_GENERATION: Generation = Generation(1);

/// Everything that one shard knows about sessions. A clone shares all buckets.
#[derive(Clone)]
pub struct Sessions {
    shard: ShardId,
    homes: Table<HomeSession>,
    attached: Table<AttachedSession>,
    /// Sessions that are over here, with the home zxid of their attachment: a late open that was
    /// on its way while the session ended is refused.
    tombstones: Table<Zxid>,
    /// By home shard: no attachment below this zxid opens here any more.
    floors: Arc<BTreeMap<ShardId, Zxid>>,
    /// The last sessions that ended with this home, oldest first: their ids begin no session.
    ended: Arc<VecDeque<SessionId>>,
}

/// A session, as its home shard keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HomeSession {
    password: [u8; 16],
    pub timeout_ms: u32,
    pub generation: Generation,
    /// No shard is attached any more, and every attached one is asked to fence.
    pub is_closing: bool,
    /// Ascending by shard, each with the zxid here that attached it.
    attachments: Vec<(ShardId, Zxid)>,
}

/// A session, as a shard keeps it where the session may write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttachedSession {
    /// Only a connection of this generation may write.
    pub generation: Generation,
    /// The zxid of the attachment in the home shard.
    pub home_zxid: Zxid,
    /// Nobody may write any more; the ephemerals go.
    pub is_fenced: bool,
    ephemerals: Arc<BTreeSet<Arc<str>>>,
}

/// Bytes that do not hold what they should.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// Buckets behind `Arc`: after a clone, a change copies one bucket and not the table.
#[derive(Clone)]
struct Table<T> {
    buckets: Vec<Arc<BTreeMap<SessionId, T>>>,
    len: usize,
}

impl Sessions {
    pub fn new(shard: ShardId) -> Self {
        Self {
            shard,
            homes: Table::new(),
            attached: Table::new(),
            tombstones: Table::new(),
            floors: Arc::default(),
            ended: Arc::default(),
        }
    }

    /// The session, if this shard is its home and it has not ended.
    pub fn home(&self, session: SessionId) -> Option<&HomeSession> {
        self.homes.find(session)
    }

    /// Every session whose home this is, ascending by id.
    pub fn homes(&self) -> impl Iterator<Item = (SessionId, &HomeSession)> {
        self.homes.after(None)
    }

    pub fn homes_count(&self) -> usize {
        self.homes.len
    }

    /// The session, if it may write here or is being fenced here.
    pub fn attached(&self, session: SessionId) -> Option<&AttachedSession> {
        self.attached.find(session)
    }

    /// Every session that is attached here, ascending by id.
    pub fn all_attached(&self) -> impl Iterator<Item = (SessionId, &AttachedSession)> {
        self.attached.after(None)
    }

    pub fn attached_count(&self) -> usize {
        self.attached.len
    }

    /// Whether nothing is left here of a session whose home attached it at `home_zxid`, and nothing
    /// can come any more.
    pub fn is_over(&self, session: SessionId, home: ShardId, home_zxid: Zxid) -> bool {
        self.attached(session).is_none()
            && (home == self.shard
                || self.tombstones.find(session).is_some()
                || home_zxid < self.floor(home))
    }

    /// Whether this home remembers that the session ended.
    pub fn has_ended(&self, session: SessionId) -> bool {
        self.ended.contains(&session)
    }

    pub fn has_tombstone(&self, session: SessionId) -> bool {
        self.tombstones.find(session).is_some()
    }

    pub fn tombstones_count(&self) -> usize {
        self.tombstones.len
    }

    /// No session attached by `home` below this zxid opens here any more.
    pub fn floor(&self, home: ShardId) -> Zxid {
        self.floors.get(&home).copied().unwrap_or_default()
    }

    /// How many ephemeral znodes there are.
    pub fn ephemerals_count(&self) -> usize {
        let buckets = self.attached.buckets.iter();
        let sessions = buckets.flat_map(|bucket| bucket.values());
        sessions.map(|session| session.ephemerals.len()).sum()
    }

    /// Whether all that is kept here of homes belongs to such a cluster.
    pub(super) fn fit(&self, map: ShardMap) -> bool {
        let mut homes = self.homes.buckets.iter().flat_map(|bucket| bucket.iter());
        homes.all(|(&session, home)| {
            let last = home.attachments().last();
            map.home_of(session) == self.shard && last.is_none_or(|it| it.0.0 < map.count())
        })
    }

    pub(super) fn on_create(&mut self, session: SessionId, password: [u8; 16], timeout_ms: u32) {
        let begun = HomeSession::new(password, timeout_ms);
        let known = self.homes.insert(session, begun);
        assert!(known.is_none(), "{session} begins once");
    }

    pub(super) fn on_renew(&mut self, session: SessionId, generation: Generation) {
        self.home_mut(session).generation = generation;
    }

    pub(super) fn on_attach(&mut self, session: SessionId, shard: ShardId, zxid: Zxid) {
        self.home_mut(session).attach(shard, zxid);
    }

    pub(super) fn on_closing(&mut self, session: SessionId) {
        self.home_mut(session).is_closing = true;
    }

    pub(super) fn on_end(&mut self, session: SessionId) {
        assert!(self.attached(session).is_none(), "{session} ends when nothing of it is left");
        let known = self.homes.remove(session);
        assert!(known.is_some_and(|home| home.is_closing), "{session} ends after closing");
        let ended = Arc::make_mut(&mut self.ended);
        if ended.len() == ENDED_SESSIONS_KEPT {
            ended.pop_front();
        }
        ended.push_back(session);
    }

    pub(super) fn on_open(&mut self, session: SessionId, generation: Generation, home_zxid: Zxid) {
        assert!(!self.has_tombstone(session), "{session} does not rise again");
        let opened = AttachedSession::new(generation, home_zxid);
        let known = self.attached.insert(session, opened);
        assert!(known.is_none(), "{session} opens once");
    }

    pub(super) fn on_advance(&mut self, session: SessionId, generation: Generation) {
        self.attached_mut(session).generation = generation;
    }

    pub(super) fn on_fence(&mut self, session: SessionId) {
        self.attached_mut(session).is_fenced = true;
    }

    /// The last ephemeral is gone. The home needs no tombstone: it knows the session itself.
    pub(super) fn on_purged(&mut self, session: SessionId, home: ShardId) {
        let gone = self.attached.remove(session);
        let gone = gone.expect("a purged session was attached");
        assert!(
            gone.is_fenced && gone.ephemerals.is_empty(),
            "{session} is fenced and owns nothing when it goes"
        );
        if home != self.shard && gone.home_zxid >= self.floor(home) {
            self.tombstones.insert(session, gone.home_zxid);
        }
    }

    pub(super) fn on_floor(&mut self, home: ShardId, home_zxid: Zxid, map: ShardMap) {
        assert!(home_zxid > self.floor(home), "a floor only rises");
        Arc::make_mut(&mut self.floors).insert(home, home_zxid);
        self.tombstones.retain(|session, attached_at| {
            map.home_of(session) != home || attached_at >= home_zxid
        });
    }

    pub(super) fn on_ephemeral_created(&mut self, session: SessionId, path: &str) {
        let ephemerals = &mut self.attached_mut(session).ephemerals;
        let is_new = Arc::make_mut(ephemerals).insert(path.into());
        assert!(is_new, "{path} is created once");
    }

    pub(super) fn on_ephemeral_deleted(&mut self, session: SessionId, path: &str) {
        let ephemerals = &mut self.attached_mut(session).ephemerals;
        let was_known = Arc::make_mut(ephemerals).remove(path);
        assert!(was_known, "{path} was its session's");
    }

    fn home_mut(&mut self, session: SessionId) -> &mut HomeSession {
        let home = self.homes.find_mut(session);
        home.expect("the leader changes only sessions that exist")
    }

    fn attached_mut(&mut self, session: SessionId) -> &mut AttachedSession {
        let attached = self.attached.find_mut(session);
        attached.expect("the leader changes only sessions that are attached")
    }
}

impl HomeSession {
    pub(super) fn new(password: [u8; 16], timeout_ms: u32) -> Self {
        Self {
            password,
            timeout_ms,
            generation: FIRST_GENERATION,
            is_closing: false,
            attachments: Vec::new(),
        }
    }

    pub(super) fn attach(&mut self, shard: ShardId, zxid: Zxid) {
        let place = self.attachments.binary_search_by_key(&shard, |known| known.0);
        let place = place.expect_err("a shard is attached once");
        self.attachments.insert(place, (shard, zxid));
    }

    /// The shards where the session may write, ascending, each with the zxid of its attachment.
    pub fn attachments(&self) -> &[(ShardId, Zxid)] {
        &self.attachments
    }

    /// The zxid at which `shard` was attached.
    pub fn attachment(&self, shard: ShardId) -> Option<Zxid> {
        let place = self.attachments.binary_search_by_key(&shard, |known| known.0);
        place.ok().map(|place| self.attachments[place].1)
    }

    /// Whether the password is the session's. Takes the same time wherever they differ, so that
    /// nobody finds it byte by byte.
    pub fn has_password(&self, password: &[u8]) -> bool {
        let difference = self
            .password
            .iter()
            .zip(password)
            .fold(0, |difference, (ours, theirs)| difference | (ours ^ theirs));
        password.len() == self.password.len() && difference == 0
    }

    /// What a client needs to come back: it is told once, when the session begins.
    pub fn password(&self) -> [u8; 16] {
        self.password
    }
}

impl AttachedSession {
    fn new(generation: Generation, home_zxid: Zxid) -> Self {
        Self { generation, home_zxid, is_fenced: false, ephemerals: Arc::default() }
    }

    /// The paths of the session's ephemeral znodes, ascending.
    pub fn ephemerals(&self) -> impl Iterator<Item = &str> {
        self.ephemerals.iter().map(|path| &**path)
    }

    pub fn ephemerals_count(&self) -> usize {
        self.ephemerals.len()
    }
}

impl<T: Clone> Table<T> {
    fn new() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| Arc::default()).collect(), len: 0 }
    }

    fn find(&self, session: SessionId) -> Option<&T> {
        self.buckets[bucket_of(session)].get(&session)
    }

    fn find_mut(&mut self, session: SessionId) -> Option<&mut T> {
        Arc::make_mut(&mut self.buckets[bucket_of(session)]).get_mut(&session)
    }

    fn insert(&mut self, session: SessionId, value: T) -> Option<T> {
        let bucket = Arc::make_mut(&mut self.buckets[bucket_of(session)]);
        let previous = bucket.insert(session, value);
        self.len += usize::from(previous.is_none());
        previous
    }

    fn remove(&mut self, session: SessionId) -> Option<T> {
        let bucket = &mut self.buckets[bucket_of(session)];
        if !bucket.contains_key(&session) {
            return None;
        }
        self.len -= 1;
        Arc::make_mut(bucket).remove(&session)
    }

    fn retain(&mut self, mut keep: impl FnMut(SessionId, T) -> bool)
    where
        T: Copy,
    {
        for bucket in &mut self.buckets {
            if bucket.iter().all(|(session, value)| keep(*session, *value)) {
                continue;
            }
            let before = bucket.len();
            Arc::make_mut(bucket).retain(|session, value| keep(*session, *value));
            self.len -= before - bucket.len();
        }
    }

    /// Adds what a snapshot says: there, ids ascend and so are unique.
    fn append(&mut self, session: SessionId, value: T) -> Result<(), Malformed> {
        match self.insert(session, value) {
            None => Ok(()),
            Some(_) => Err(Malformed),
        }
    }

    /// Ascending by id, from the first one behind `last`. Each is looked for when it is asked for,
    /// so that whoever takes a few and comes back later pays for those few.
    fn after(&self, last: Option<SessionId>) -> impl Iterator<Item = (SessionId, &T)> {
        let from = (last.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let mut rests: Vec<_> = self.buckets.iter().map(|bucket| bucket.range(from)).collect();
        let mut heads: Vec<_> = rests.iter_mut().map(Iterator::next).collect();
        let ids = heads.iter().enumerate().filter_map(|(at, head)| Some((*head.as_ref()?.0, at)));
        let mut next: BinaryHeap<_> = ids.map(Reverse).collect();
        core::iter::from_fn(move || {
            let Reverse((session, at)) = next.pop()?;
            let following = rests[at].next();
            next.extend(following.iter().map(|(session, _)| Reverse((**session, at))));
            let (_, value) = core::mem::replace(&mut heads[at], following)?;
            Some((session, value))
        })
    }
}

impl From<Truncated> for Malformed {
    fn from(_: Truncated) -> Self {
        Self
    }
}

/// Ids count upwards, so their low bits spread sessions evenly.
fn bucket_of(session: SessionId) -> usize {
    usize::try_from(session.0 % BUCKETS).expect("a remainder by 64 fits")
}

const BUCKETS: u64 = 64;

/// A request to begin a session that arrives twice arrives soon after its first time; ids are never
/// given to another session, so a short memory is enough.
const ENDED_SESSIONS_KEPT: usize = 1024;
