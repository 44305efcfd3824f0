//! Watches with several shards, as far as order is promised there: between the events and the
//! replies of one shard on one connection.
//!
//! Headers count what a session hears then, so that the stats in the replies tell what was seen of
//! a shard. What a read showed is named by its stat: the next change of the znode's data, or of its
//! children, is the one that its watch must tell.
//!
//! - W1, W2, W3, W5: as with one shard; W4: a change between two connections is told at the latest
//!   before something newer of its shard.
//! - W6: no event leaves before the reply of an operation that its shard executed earlier: behind
//!   an event, nothing older is shown of its znode.
//!
//! Watches on partition points, which are of every shard, are not looked at here.

use std::collections::BTreeMap;

use pigeonhole_core::base::id::{ShardId, Zxid};
use pigeonhole_core::op::{EventType, Stat, permission};
use pigeonhole_core::shard::{ShardMap, is_partition_point};

use crate::check::agreement::Agreement;
use crate::check::changes::{Change, Changes};
use crate::history::{Answer, Ask, History, Operation, Outcome, Watch, WatchOn};
use crate::people::permits;
use crate::sometimes::{Sometimes, State};

pub fn check(history: &History, agreement: &Agreement, map: ShardMap, sometimes: &mut Sometimes) {
    let changes: Vec<Changes> = map.shards().map(|shard| Changes::of(agreement, shard)).collect();
    let shown = shown(history, map);
    for watch in &history.watches {
        let (Some(since), false) = (since(watch), is_partition_point(&watch.path)) else {
            continue;
        };
        let shard = map.shard_of(&watch.path);
        let changes = &changes[usize::from(shard.0)];
        let change = changes.first_after(since, watch);
        let replies = shown.get(&(watch.client, watch.connection, shard));
        let replies = replies.map_or(&[][..], Vec::as_slice);
        check_one(watch, change, changes, replies, sometimes);
    }
}

/// A reply, and what it shows of its shard.
pub(crate) struct Shown<'a> {
    pub(crate) number: u64,
    path: &'a str,
    stat: Stat,
    pub(crate) newest: Zxid,
    is_write: bool,
}

pub(crate) type ShownOn<'a> = BTreeMap<(u32, u64, ShardId), Vec<Shown<'a>>>;

fn check_one(
    watch: &Watch,
    change: Option<&Change>,
    changes: &Changes,
    replies: &[Shown<'_>],
    sometimes: &mut Sometimes,
) {
    let Some(change) = change else {
        // What nobody can prove unchanged fires when it is set again.
        let is_mistaken = watch.fired.is_some() && !watch.renewed;
        assert!(!is_mistaken, "W1: nothing has changed, and it fired: {watch:?}");
        return;
    };
    if !permits(&change.readers, watch.people, permission::READ)
        || (watch.renewed && changes.was_ever_hidden_from(watch))
    {
        return;
    }
    let until = watch.fired.as_ref().map_or(watch.until, |fired| fired.number);
    let stood = replies.iter().filter(|it| watch.from < it.number && it.number < until);
    for reply in stood {
        let rule = if watch.fired.is_some() { "W2" } else { "W3" };
        assert!(
            reply.newest < change.zxid,
            "{rule}: a reply about {} showed {} before {change:?} was told: {watch:?}",
            reply.path,
            reply.newest
        );
    }
    let Some(fired) = &watch.fired else {
        return;
    };
    sometimes.hit(State::WatchFiredInShard);
    if watch.renewed {
        return;
    }
    assert_eq!(fired.kind, change.kind, "W2: another change was told: {watch:?}");
    let later = replies.iter().filter(|it| it.number > fired.number && it.path == watch.path);
    for reply in later.filter(|reply| !reply.is_write) {
        let newest = match (fired.kind, watch.on) {
            (EventType::NodeDeleted, _) => reply.stat.czxid,
            (_, WatchOn::Child) => reply.stat.pzxid.max(reply.stat.czxid),
            _ => reply.stat.mzxid,
        };
        assert!(newest >= change.zxid, "W6: {newest} was shown behind {change:?}: {watch:?}");
    }
}

/// Up to where the read that left the watch has seen what is watched. What does not exist has
/// nothing that tells.
fn since(watch: &Watch) -> Option<Zxid> {
    let stat = watch.shown?;
    match watch.on {
        WatchOn::Data => Some(stat.mzxid),
        WatchOn::Child => Some(stat.pzxid),
        WatchOn::Exist => None,
    }
}

/// What was shown of each shard on each connection, in the order in which it was heard.
pub(crate) fn shown(history: &History, map: ShardMap) -> ShownOn<'_> {
    let mut shown = ShownOn::new();
    for operation in &history.operations {
        let Operation { client, connection, ask, outcome, number, .. } = operation;
        let Outcome::Done { result: Ok(answer), .. } = outcome else {
            continue;
        };
        let (Some(path), Some(stat)) = (path(ask), stat(answer)) else {
            continue;
        };
        let path = match answer {
            Answer::Created { path, .. } => path.as_str(),
            _ => path,
        };
        if is_partition_point(path) {
            continue;
        }
        let newest = stat.mzxid.max(stat.pzxid).max(stat.czxid);
        let is_write = ask.is_write();
        // What a write itself fires may come behind its reply.
        let newest = Zxid(newest.0 - u64::from(is_write && newest != Zxid::ZERO));
        let reply = Shown { number: *number, path, stat, newest, is_write };
        shown.entry((*client, *connection, map.shard_of(path))).or_default().push(reply);
    }
    shown
}

fn path(ask: &Ask) -> Option<&str> {
    match ask {
        Ask::Create { path, .. }
        | Ask::Set { path, .. }
        | Ask::SetAcl { path, .. }
        | Ask::Get { path, .. }
        | Ask::Exists { path, .. }
        | Ask::Children { path, .. }
        | Ask::GetAcl { path } => Some(path),
        _ => None,
    }
}

fn stat(answer: &Answer) -> Option<Stat> {
    match answer {
        Answer::Created { stat, .. }
        | Answer::Stat(stat)
        | Answer::Data { stat, .. }
        | Answer::Children { stat, .. }
        | Answer::Acl { stat, .. } => Some(*stat),
        _ => None,
    }
}
