//! Which shards a request concerns, and how it is cut for several.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;

use crate::base::id::{ShardId, Zxid};
use crate::base::limits::WATCHES_SET_AT_ONCE;
use crate::gateway::gather::{OneRead, Place, Plan, PointMarks};
use crate::op::{AddWatchMode, OpCode, Request, SetWatches, WatcherType};
use crate::shard::{PARTITION_POINTS, ShardMap, is_partition_point, point_index};

/// Where a request goes.
pub(super) enum Route {
    Read(ShardId),
    Write(ShardId),
    Close(ShardId),
    /// Several shards read, and their answers make one reply.
    Gather,
    /// To every shard: what was acknowledged before must be visible after.
    Barrier,
    /// Answered by the gateway itself.
    WhoAmI,
    /// A transaction over several shards: there is none.
    Refused,
}

/// A request cut for the shards that it concerns, in the order in which they are asked.
pub(super) struct Split<'a> {
    pub(super) plan: Plan,
    pub(super) parts: Vec<(ShardId, Request<'a>)>,
    pub(super) marks: PointMarks,
}

pub(super) fn route(map: ShardMap, request: &Request<'_>, home: ShardId) -> Route {
    if map.count() > 1 && is_gathered(map, request) {
        return Route::Gather;
    }
    match request {
        Request::GetData { path, .. }
        | Request::Exists { path, .. }
        | Request::GetChildren { path, .. }
        | Request::GetAcl { path }
        | Request::AddWatch { path, .. }
        | Request::CheckWatches { path, .. }
        | Request::RemoveWatches { path, .. }
        | Request::GetAllChildrenNumber { path } => Route::Read(map.shard_of(path)),
        Request::Create { path, mode, .. } if mode.is_sequential() => {
            Route::Write(map.shard_of_sequential(path))
        }
        Request::Create { path, .. }
        | Request::Delete { path, .. }
        | Request::SetData { path, .. }
        | Request::SetAcl { path, .. }
        | Request::Check { path, .. } => Route::Write(map.shard_of(path)),
        Request::Multi(parts) if spans_shards(map, parts) => Route::Refused,
        Request::Multi(parts) => Route::Write(first_shard(map, parts, home)),
        Request::MultiRead(parts) => Route::Read(first_shard(map, parts, home)),
        // Events that it fires come by mail, and so does its reply behind them.
        Request::SetWatches(_) => Route::Gather,
        Request::GetEphemerals { .. } => Route::Read(ShardId(0)),
        Request::Sync { .. } => Route::Barrier,
        Request::CloseSession => Route::Close(home),
        Request::WhoAmI | Request::Ping | Request::Auth { .. } => Route::WhoAmI,
    }
}

/// Whether the shard must be told when the connection closes.
pub(super) fn leaves_watch(request: &Request<'_>) -> bool {
    match request {
        Request::GetData { watch, .. }
        | Request::Exists { watch, .. }
        | Request::GetChildren { watch, .. } => *watch,
        Request::AddWatch { .. } | Request::SetWatches(_) => true,
        Request::MultiRead(parts) => parts.iter().any(leaves_watch),
        _ => false,
    }
}

/// Cuts a request whose route is [`Route::Gather`]. `seen` tells of each shard what the client has
/// surely seen of it, if it has seen the given zxid.
pub(super) fn split<'a>(
    map: ShardMap,
    request: &Request<'a>,
    seen: impl Fn(Zxid) -> BTreeMap<ShardId, Zxid>,
) -> Split<'a> {
    match request {
        Request::MultiRead(reads) => split_multi_read(map, reads),
        Request::SetWatches(set) => {
            let since = seen(set.relative_zxid);
            split_set_watches(map, set, &since)
        }
        Request::GetEphemerals { .. } => Split {
            plan: Plan::Ephemerals,
            parts: everywhere(map, request),
            marks: PointMarks::default(),
        },
        Request::AddWatch { path, mode } => Split {
            plan: Plan::Everywhere { op_code: OpCode::AddWatch },
            parts: everywhere(map, request),
            marks: PointMarks {
                persistent: bit_if(*mode == AddWatchMode::Persistent, path),
                ..PointMarks::default()
            },
        },
        Request::CheckWatches { .. } => Split {
            plan: Plan::AnyWatch,
            parts: everywhere(map, request),
            marks: PointMarks::default(),
        },
        Request::RemoveWatches { path, kind } => Split {
            plan: Plan::AnyWatch,
            parts: everywhere(map, request),
            marks: removal_marks(path, *kind),
        },
        read => {
            let mut split = Split {
                plan: Plan::Read(place_of(read)),
                parts: Vec::new(),
                marks: PointMarks::default(),
            };
            add_read(map, read, &mut split);
            split
        }
    }
}

fn is_gathered(map: ShardMap, request: &Request<'_>) -> bool {
    match request {
        Request::GetData { path, .. }
        | Request::Exists { path, .. }
        | Request::GetChildren { path, .. }
        | Request::GetAcl { path }
        | Request::AddWatch { path, .. }
        | Request::CheckWatches { path, .. }
        | Request::RemoveWatches { path, .. }
        | Request::GetAllChildrenNumber { path } => is_partition_point(path),
        Request::GetEphemerals { .. } => true,
        Request::MultiRead(parts) => {
            parts.iter().any(|part| is_gathered(map, part)) || spans_shards(map, parts)
        }
        _ => false,
    }
}

fn shard_of_part(map: ShardMap, part: &Request<'_>) -> Option<ShardId> {
    match route(map, part, ShardId(0)) {
        Route::Read(shard) | Route::Write(shard) => Some(shard),
        _ => None,
    }
}

fn first_shard(map: ShardMap, parts: &[Request<'_>], otherwise: ShardId) -> ShardId {
    parts.first().and_then(|part| shard_of_part(map, part)).unwrap_or(otherwise)
}

fn spans_shards(map: ShardMap, parts: &[Request<'_>]) -> bool {
    let mut shards = parts.iter().filter_map(|part| shard_of_part(map, part));
    let first = shards.next();
    shards.any(|shard| Some(shard) != first)
}

fn everywhere<'a>(map: ShardMap, request: &Request<'a>) -> Vec<(ShardId, Request<'a>)> {
    map.shards().map(|shard| (shard, request.clone())).collect()
}

fn split_multi_read<'a>(map: ShardMap, reads: &[Request<'a>]) -> Split<'a> {
    let mut split = Split {
        plan: Plan::Everywhere { op_code: OpCode::MultiRead },
        parts: Vec::new(),
        marks: PointMarks::default(),
    };
    let mut plan = Vec::with_capacity(reads.len());
    // Of points, for which every shard is asked: there are few different ones.
    let mut of_points: Vec<usize> = Vec::new();
    for (index, read) in reads.iter().enumerate() {
        if let Some(&same) = of_points.iter().find(|&&other| reads[other] == *read) {
            plan.push(OneRead::As(same));
            continue;
        }
        let before = split.parts.len();
        add_read(map, read, &mut split);
        let place = place_of(read);
        plan.push(OneRead::Of(place, split.parts.len() - before));
        if place.point.is_some() {
            of_points.push(index);
        }
    }
    split.plan = Plan::MultiRead(plan);
    split
}

/// The questions that one read comes to. Of a point every shard tells its children and its stat;
/// the data is shard 0's, and nobody else is asked to send its copy or to watch it.
fn add_read<'a>(map: ShardMap, read: &Request<'a>, split: &mut Split<'a>) {
    let Some(point) = place_of(read).point else {
        let shard = shard_of_part(map, read).expect("only reads of znodes are cut");
        split.parts.push((shard, read.clone()));
        return;
    };
    let others = match read {
        Request::GetData { .. } | Request::Exists { .. } => {
            Request::Exists { path: point, watch: false }
        }
        same => same.clone(),
    };
    for shard in map.shards() {
        let part = if shard == ShardId(0) { read } else { &others };
        split.parts.push((shard, part.clone()));
    }
    if let Request::GetChildren { watch: true, .. } = read {
        split.marks.children |= bit(point);
    }
}

fn place_of(read: &Request<'_>) -> Place {
    let path = match read {
        Request::GetData { path, .. }
        | Request::Exists { path, .. }
        | Request::GetChildren { path, .. }
        | Request::GetAcl { path }
        | Request::GetAllChildrenNumber { path } => point_index(path),
        _ => None,
    };
    Place { op_code: read.op_code(), point: path.map(|index| PARTITION_POINTS[index]) }
}

/// Every shard gets the paths that it holds, and is told up to where the client has seen it. What
/// nobody knows is zero: then everything that ever changed fires. Many paths are asked for in
/// pieces, so that they do not have to be looked at in one turn.
fn split_set_watches<'a>(
    map: ShardMap,
    set: &SetWatches<'a>,
    since: &BTreeMap<ShardId, Zxid>,
) -> Split<'a> {
    let mut pieces: BTreeMap<ShardId, Vec<SetWatches<'a>>> = BTreeMap::new();
    let mut marks = PointMarks::default();
    let mut known_points: BTreeSet<(u8, &str)> = BTreeSet::new();
    let mut add = |path: &'a str, number: u8, everywhere: bool, list: ListOf<'a>| {
        let shard = map.shard_of(path);
        if !is_partition_point(path) {
            let pieces = pieces.entry(shard).or_default();
            if pieces.last().is_none_or(|last| last.count() >= WATCHES_SET_AT_ONCE) {
                pieces.push(SetWatches::default());
            }
            list(pieces.last_mut().expect("there is one")).push(path);
            return;
        }
        // The marks speak of points, and hold from a shard's first answer on.
        if known_points.insert((number, path)) {
            for shard in map.shards().filter(|it| *it == shard || everywhere) {
                let pieces = pieces.entry(shard).or_default();
                if pieces.is_empty() {
                    pieces.push(SetWatches::default());
                }
                list(&mut pieces[0]).push(path);
            }
        }
    };
    for path in &set.data {
        add(path, 0, false, |set| &mut set.data);
    }
    for path in &set.exist {
        add(path, 1, false, |set| &mut set.exist);
    }
    for path in &set.child {
        add(path, 2, true, |set| &mut set.child);
        marks.children |= bit(path);
    }
    for path in &set.persistent {
        add(path, 3, true, |set| &mut set.persistent);
        marks.persistent |= bit(path);
    }
    for path in &set.persistent_recursive {
        add(path, 4, true, |set| &mut set.persistent_recursive);
    }
    if pieces.is_empty() {
        pieces.insert(ShardId(0), vec![SetWatches::default()]);
    }
    let mut parts = Vec::new();
    for (shard, pieces) in pieces {
        let relative_zxid = if map.count() == 1 {
            set.relative_zxid
        } else {
            since.get(&shard).copied().unwrap_or_default()
        };
        parts.extend(
            pieces
                .into_iter()
                .map(|piece| (shard, Request::SetWatches(SetWatches { relative_zxid, ..piece }))),
        );
    }
    Split { plan: Plan::Everywhere { op_code: OpCode::SetWatches }, parts, marks }
}

type ListOf<'a> = for<'s> fn(&'s mut SetWatches<'a>) -> &'s mut Vec<&'a str>;

fn removal_marks(path: &str, kind: WatcherType) -> PointMarks {
    let is_any = kind == WatcherType::Any;
    PointMarks {
        without_children: bit_if(is_any || kind == WatcherType::Children, path),
        without_persistent: bit_if(is_any || kind == WatcherType::Persistent, path),
        ..PointMarks::default()
    }
}

fn bit_if(condition: bool, path: &str) -> u8 {
    if condition { bit(path) } else { 0 }
}

/// The bit that stands for a point; none for any other path.
pub(super) fn bit(path: &str) -> u8 {
    point_index(path).map_or(0, |index| 1 << index)
}
