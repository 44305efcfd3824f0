//! One reply from the answers of several shards.
//!
//! What a partition point holds is spread over all shards: shard 0 has its data, its ACL and its
//! own numbers, and every shard has some of its children. The stat that a client sees is shard
//! 0's, with `numChildren` and `cversion` summed over the shards, so that every change of a child
//! moves `cversion`, and with the numerically newest `pzxid`, so that it never goes back.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;

use crate::base::bytes::Reader;
use crate::base::error::ErrorCode;
use crate::base::id::{ShardId, Zxid};
use crate::base::limits::RESPONSE_BYTES_MAX;
use crate::gateway::connection::TOO_LARGE;
use crate::op::{OpCode, Stat};
use crate::path;
use crate::shard::PARTITION_POINTS;
use crate::wire::client;
use crate::wire::jute::{JuteError, ReadJute};
use crate::wire::reply::{self, STAT_BYTES};

/// The answers to one request on their way to one reply.
pub(super) struct Gather {
    plan: Plan,
    parts: Vec<Part>,
    shards: BTreeMap<ShardId, Asked>,
    /// By the shards, for their answers.
    bytes_made: usize,
    pub(super) marks: PointMarks,
}

/// How answers become a reply.
pub(super) enum Plan {
    /// A read of what is in one place, or in every shard.
    Read(Place),
    /// getEphemerals: the lists of all shards.
    Ephemerals,
    /// checkWatches and removeWatches: some shard has such a watch.
    AnyWatch,
    /// setWatches and addWatch: done everywhere.
    Everywhere {
        op_code: OpCode,
    },
    MultiRead(Vec<OneRead>),
}

/// One read of a multiRead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OneRead {
    /// The next so many parts.
    Of(Place, usize),
    /// As the read with this index.
    As(usize),
}

/// What a read reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) op_code: OpCode,
    /// A partition point; `None` if one shard has the whole answer.
    pub(super) point: Option<&'static str>,
}

/// What a request does to the watches on partition points, one bit for each point.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct PointMarks {
    /// Leaves a watch on the children.
    pub(super) children: u8,
    /// Leaves a persistent watch.
    pub(super) persistent: u8,
    /// Takes the watch on the children away.
    pub(super) without_children: u8,
    /// Takes the persistent watch away.
    pub(super) without_persistent: u8,
    /// Of those on children: fired already, while answers are missing.
    pub(super) fired: u8,
}

struct Part {
    shard: ShardId,
    answer: Option<Answer>,
    /// The next part that the same shard is asked for.
    next: Option<usize>,
}

/// Where a shard is: it answers in order.
#[derive(Default)]
struct Asked {
    /// The part that its next answer is.
    open: Option<usize>,
    /// What it had applied when it answered last.
    zxid: Option<Zxid>,
}

struct Answer {
    code: ErrorCode,
    body: Vec<u8>,
}

impl Gather {
    pub(super) fn new(
        plan: Plan,
        shards: impl Iterator<Item = ShardId>,
        marks: PointMarks,
    ) -> Self {
        let part = |shard| Part { shard, answer: None, next: None };
        let mut parts: Vec<Part> = shards.map(part).collect();
        let mut shards: BTreeMap<ShardId, Asked> = BTreeMap::new();
        for (index, part) in parts.iter_mut().enumerate().rev() {
            part.next = shards.entry(part.shard).or_default().open.replace(index);
        }
        Self { plan, parts, shards, bytes_made: 0, marks }
    }

    /// The oldest open question to this shard is answered: a shard answers in order. What comes
    /// when there is too much for one reply is not kept.
    pub(super) fn put(&mut self, shard: ShardId, zxid: Zxid, code: ErrorCode, body: Vec<u8>) {
        // What a shard has thrown away, it has made all the same.
        let is_too_large = code == TOO_LARGE;
        self.bytes_made += if is_too_large { RESPONSE_BYTES_MAX + 1 } else { body.len() };
        let (code, body) = if self.is_full() { (TOO_LARGE, Vec::new()) } else { (code, body) };
        let asked = self.shards.get_mut(&shard).expect("a shard answers that was asked");
        let open = asked.open.expect("a shard answers as often as it is asked");
        let part = &mut self.parts[open];
        part.answer = Some(Answer { code, body });
        (asked.open, asked.zxid) = (part.next, Some(zxid));
    }

    /// What the shards have made, for their answers.
    pub(super) fn bytes_made(&self) -> usize {
        self.bytes_made
    }

    /// Whether it is too much for one reply: nothing more need be read.
    pub(super) fn is_full(&self) -> bool {
        self.bytes_made > RESPONSE_BYTES_MAX
    }

    /// Whether events may come before the answers that register their watches.
    pub(super) fn sets_watches(&self) -> bool {
        let op_code = OpCode::SetWatches;
        matches!(self.plan, Plan::Everywhere { op_code: of } if of == op_code)
    }

    pub(super) fn waits_for(&self, shard: ShardId) -> bool {
        self.shards.get(&shard).is_some_and(|asked| asked.open.is_some())
    }

    pub(super) fn has_heard_from(&self, shard: ShardId) -> bool {
        self.shards.get(&shard).is_some_and(|asked| asked.zxid.is_some())
    }

    /// What each shard had applied when it answered last.
    pub(super) fn seen(&self) -> Vec<(ShardId, Zxid)> {
        self.shards.iter().filter_map(|(shard, asked)| Some((*shard, asked.zxid?))).collect()
    }

    /// The reply, once every answer is there.
    pub(super) fn combine(&self) -> (ErrorCode, Vec<u8>) {
        let mut body = Vec::new();
        match self.combine_into(&mut body) {
            Ok(()) if body.len() > RESPONSE_BYTES_MAX => (ErrorCode::MarshallingError, Vec::new()),
            Ok(()) => (ErrorCode::Ok, body),
            Err(code) => (code, Vec::new()),
        }
    }

    fn combine_into(&self, body: &mut Vec<u8>) -> Result<(), ErrorCode> {
        match &self.plan {
            Plan::Read(place) => combine_read(*place, &self.parts, body),
            Plan::Ephemerals => {
                first_refusal(&self.parts)?;
                put_lists(body, &self.parts, |_, _| true)
            }
            Plan::AnyWatch => {
                let mut codes = self.parts.iter().map(|part| part.answer().code);
                let some = codes.any(|code| code == ErrorCode::Ok);
                some.then_some(()).ok_or(ErrorCode::NoWatcher)
            }
            Plan::Everywhere { op_code } => {
                first_refusal(&self.parts)?;
                if *op_code == OpCode::AddWatch {
                    reply::number(body, 0);
                }
                Ok(())
            }
            Plan::MultiRead(reads) => self.combine_reads(reads, body),
        }
    }
}

impl Gather {
    fn combine_reads(&self, reads: &[OneRead], body: &mut Vec<u8>) -> Result<(), ErrorCode> {
        let mut rest = self.parts.as_slice();
        let mut results: Vec<Range<usize>> = Vec::with_capacity(reads.len());
        for read in reads {
            let before = body.len();
            match *read {
                OneRead::As(index) => body.extend_from_within(results[index].clone()),
                OneRead::Of(place, count) => {
                    let (parts, behind) = rest.split_at(count);
                    rest = behind;
                    reply::multi_result(body, place.op_code);
                    if let Err(code) = combine_read(place, parts, body) {
                        body.truncate(before);
                        reply::multi_error(body, code);
                    }
                }
            }
            if body.len() > RESPONSE_BYTES_MAX {
                return Err(ErrorCode::MarshallingError);
            }
            results.push(before..body.len());
        }
        reply::multi_end(body);
        Ok(())
    }
}

impl Part {
    fn answer(&self) -> &Answer {
        self.answer.as_ref().expect("every answer is there")
    }
}

/// Appends the body of one read. A refusal of any shard is everybody's: the ACL of a point is the
/// same in all of them, but for the moment in which it changes.
fn combine_read(place: Place, parts: &[Part], body: &mut Vec<u8>) -> Result<(), ErrorCode> {
    first_refusal(parts)?;
    let Some(point) = place.point else {
        assert_eq!(parts.len(), 1, "one shard has the whole answer");
        body.extend_from_slice(&parts[0].answer().body);
        return Ok(());
    };
    match place.op_code {
        OpCode::GetChildren => put_names(body, point, parts),
        OpCode::GetChildren2 => {
            put_names(body, point, parts)?;
            reply::stat(body, &union_stat(point, parts)?);
            Ok(())
        }
        OpCode::GetAllChildrenNumber => {
            let mut sum: i32 = 0;
            for part in parts {
                let number = client::parse_number(&part.answer().body).map_err(foreign)?;
                sum = sum.saturating_add(number - part.counted_twice(points_below(point)));
            }
            reply::number(body, sum);
            Ok(())
        }
        _ => {
            let stat = union_stat(point, parts)?;
            let first = &parts[0].answer().body;
            let before_stat = first.len().checked_sub(STAT_BYTES);
            let before_stat = before_stat.ok_or(ErrorCode::SystemError)?;
            body.extend_from_slice(&first[..before_stat]);
            reply::stat(body, &stat);
            Ok(())
        }
    }
}

impl Part {
    /// Points are in every shard, and counted in shard 0 only.
    fn counted_twice(&self, points: i32) -> i32 {
        if self.shard == ShardId(0) { 0 } else { points }
    }
}

/// Every shard's body ends with its stat of the point.
fn union_stat(point: &str, parts: &[Part]) -> Result<Stat, ErrorCode> {
    let twice = points_under(point);
    let mut union: Option<Stat> = None;
    for part in parts {
        let bytes = part.answer().body.last_chunk::<STAT_BYTES>();
        let stat = client::parse_stat(bytes.ok_or(ErrorCode::SystemError)?).map_err(foreign)?;
        let Some(union) = union.as_mut() else {
            assert_eq!(part.shard, ShardId(0), "shard 0 comes first");
            union = Some(stat);
            continue;
        };
        // A shard begins with its points already there, as if created before it counted: its
        // cversion starts that much below zero.
        union.cversion = union.cversion.wrapping_add(stat.cversion).wrapping_add(twice);
        union.children_count = union.children_count.saturating_add(stat.children_count - twice);
        union.pzxid = union.pzxid.max(stat.pzxid);
    }
    union.ok_or(ErrorCode::SystemError)
}

fn put_names(body: &mut Vec<u8>, point: &str, parts: &[Part]) -> Result<(), ErrorCode> {
    let is_point = |name: &str| {
        let mut points = PARTITION_POINTS.iter();
        points.any(|other| path::parent(other) == Some(point) && path::name(other) == name)
    };
    put_lists(body, parts, |part, name| part.shard == ShardId(0) || !is_point(name))
}

/// The lists that the parts' bodies begin with, in one.
fn put_lists(
    body: &mut Vec<u8>,
    parts: &[Part],
    is_listed: impl Fn(&Part, &str) -> bool,
) -> Result<(), ErrorCode> {
    let mut list = reply::begin_vector(body);
    for part in parts {
        let mut reader = Reader::new(&part.answer().body);
        let count = reader.vector_count(TEXT_BYTES_MIN).map_err(foreign)?;
        for _ in 0..count {
            let text = reader.text().map_err(foreign)?;
            if is_listed(part, text) {
                reply::push_string(body, &mut list, text);
            }
        }
    }
    reply::finish_vector(body, list);
    Ok(())
}

fn first_refusal(parts: &[Part]) -> Result<(), ErrorCode> {
    let mut codes = parts.iter().map(|part| part.answer().code);
    match codes.find(|code| *code != ErrorCode::Ok) {
        Some(code) => Err(code),
        None => Ok(()),
    }
}

/// Points that are children of this one.
fn points_under(point: &str) -> i32 {
    count_points(|other| path::parent(other) == Some(point))
}

/// Points that are anywhere below this one.
fn points_below(point: &str) -> i32 {
    let prefix = point.strip_suffix('/').unwrap_or(point);
    count_points(|other| {
        other != point && other.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
    })
}

fn count_points(is_counted: impl Fn(&str) -> bool) -> i32 {
    let counted = PARTITION_POINTS.iter().filter(|point| is_counted(point));
    i32::try_from(counted.count()).expect("there are four points")
}

/// A shard's answer that no replica of this node gives.
fn foreign(_: JuteError) -> ErrorCode {
    ErrorCode::SystemError
}

/// A text's length.
const TEXT_BYTES_MIN: usize = 4;
