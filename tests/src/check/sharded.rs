//! What clients of several shards were told, held against what each shard has committed.
//!
//! Header zxids are a counter of the session then, so that replies are placed otherwise: a write's
//! stat names its zxid; a read or a refusal must be the model's at some state of its shard, in the
//! order of the session: never before what the session has seen or written there, and never before
//! what was acknowledged to anybody before the session's last sync.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pigeonhole_core::base::id::{SessionId, ShardId, Zxid};
use pigeonhole_core::entry::EntryKind;
use pigeonhole_core::op::CreateMode;
use pigeonhole_core::shard::{ShardMap, is_partition_point};
use pigeonhole_core::txn::{ArchivedOperation, ArchivedTxn, Txn};

use crate::check::agreement::{Agreement, Committed};
use crate::check::session::Homes;
use crate::check::txn::{comparable, describe, is_clients, is_models, is_refusal, is_same};
use crate::history::{Answer, Ask, History, Operation, Outcome, Part};
use crate::model::{Context, Model};
use crate::sometimes::{Sometimes, State};

pub fn check(history: &History, agreement: &Agreement, map: ShardMap, sometimes: &mut Sometimes) {
    let homes = Homes::of(agreement, map);
    for shard in map.shards() {
        let mut replay = Replay::new(history, map, shard);
        let entries = agreement.history(shard).map_or(&[][..], |log| log.entries.as_slice());
        replay.advance();
        for committed in entries {
            if committed.entry.kind() == EntryKind::Txn {
                replay.on_txn(committed, sometimes);
            }
            replay.at = committed.entry.zxid();
            replay.advance();
        }
        for session in homes.ended() {
            let left = replay.model.ephemerals_of(session);
            assert!(left.is_empty(), "S3: {session} is over and leaves {left:?}");
        }
        replay.finish();
        real_time(history, map, shard);
    }
}

/// The replay of one shard's log.
struct Replay<'a> {
    history: &'a History,
    shard: ShardId,
    model: Model,
    at: Zxid,
    acknowledged: BTreeMap<Zxid, usize>,
    /// Acknowledged writes whose replies name no zxid: deletes, and new access lists.
    unplaced: BTreeMap<SessionId, Vec<usize>>,
    unknown: BTreeMap<SessionId, Vec<usize>>,
    /// What each session was told of this shard, in its order, and not explained yet.
    told: BTreeMap<SessionId, VecDeque<Told>>,
    fenced: BTreeSet<SessionId>,
}

#[derive(Clone, Copy, Debug)]
enum Told {
    /// A write: explained by its entry.
    Write(usize),
    /// A read or a refusal: explained by a state.
    State(usize),
    /// A sync: nothing older than this afterwards.
    Floor(Zxid),
}

impl<'a> Replay<'a> {
    fn new(history: &'a History, map: ShardMap, shard: ShardId) -> Self {
        let mut replay = Self {
            history,
            shard,
            model: Model::new(),
            at: Zxid::ZERO,
            acknowledged: BTreeMap::new(),
            unplaced: BTreeMap::new(),
            unknown: BTreeMap::new(),
            told: BTreeMap::new(),
            fenced: BTreeSet::new(),
        };
        for (index, operation) in history.operations.iter().enumerate() {
            if let Ask::Sync { .. } = operation.ask {
                replay.sort_sync(map, operation);
            } else if shard_of(map, &operation.ask) == Some(shard) {
                replay.sort(index, operation);
            }
        }
        replay
    }

    fn sort(&mut self, index: usize, operation: &Operation) {
        let is_write = operation.ask.is_write();
        let told = match &operation.outcome {
            Outcome::Unknown if is_write => {
                self.unknown.entry(operation.session).or_default().push(index);
                return;
            }
            Outcome::Done { result: Ok(answer), .. } if is_write && !is_refusal(answer) => {
                if let Some(zxid) = written_at(&operation.ask, answer) {
                    let other = self.acknowledged.insert(zxid, index);
                    assert!(other.is_none(), "two writes were acknowledged as {zxid}");
                } else {
                    self.unplaced.entry(operation.session).or_default().push(index);
                }
                Told::Write(index)
            }
            Outcome::Done { result: Ok(_), .. } => Told::State(index),
            Outcome::Done { result: Err(code), .. } if is_models(*code) => Told::State(index),
            _ => return,
        };
        self.told.entry(operation.session).or_default().push_back(told);
    }

    fn sort_sync(&mut self, map: ShardMap, sync: &Operation) {
        let Outcome::Done { result: Ok(_), .. } = &sync.outcome else {
            return;
        };
        let writes = acknowledged(self.history, map, self.shard);
        let floor = writes.filter(|(write, _)| write.done.is_some_and(|done| done < sync.invoked));
        let floor = floor.map(|(_, zxid)| zxid).max().unwrap_or(Zxid::ZERO);
        self.told.entry(sync.session).or_default().push_back(Told::Floor(floor));
    }

    /// Explains as much of what sessions were told as this state explains.
    fn advance(&mut self) {
        for told in self.told.values_mut() {
            while let Some(&first) = told.front() {
                let explained = match first {
                    Told::Floor(floor) => self.at >= floor,
                    Told::State(index) => {
                        is_told(&self.model, self.at, &self.history.operations[index])
                    }
                    Told::Write(index) => {
                        let unplaced = self.unplaced.values().flatten();
                        !self.acknowledged.values().chain(unplaced).any(|&open| open == index)
                    }
                };
                if !explained {
                    break;
                }
                told.pop_front();
            }
        }
    }

    fn on_txn(&mut self, committed: &Committed, sometimes: &mut Sometimes) {
        let zxid = committed.entry.zxid();
        let txn = Txn::view(committed.entry.payload()).expect("what is committed can be read");
        let session = SessionId(txn.session.to_native());
        for operation in txn.operations.iter() {
            self.on_session(zxid, operation);
        }
        if !txn.operations.iter().any(is_clients) {
            return;
        }
        assert!(!self.fenced.contains(&session), "S2: {zxid} is written for {session}, fenced");
        let index = self.sender(committed, session, txn, sometimes);
        let operation = &self.history.operations[index];
        let (people, time_ms) = (operation.people, txn.time_ms.to_native());
        let context = Context { session, people, zxid, time_ms };
        let expected = self.model.write(&operation.ask, context);
        let refused = expected.as_ref().map_or(true, is_refusal);
        assert!(!refused, "{zxid} is committed and should be {expected:?}: {operation:?}");
        if let Outcome::Done { result, .. } = &operation.outcome {
            let (told, should) =
                (result.as_ref().map(comparable), expected.as_ref().map(comparable));
            assert_eq!(told, should, "a write was answered otherwise: {operation:?}");
        }
    }

    /// Who has sent what the log holds: whoever was told of this zxid, else a delete that was
    /// acknowledged, else something with an unknown outcome. Deletes of one path look alike, so
    /// that none is taken for one that was sent later, or answered before.
    fn sender(
        &mut self,
        committed: &Committed,
        session: SessionId,
        txn: &ArchivedTxn,
        sometimes: &mut Sometimes,
    ) -> usize {
        let (history, model) = (self.history, &self.model);
        let (zxid, proposed) = (committed.entry.zxid(), committed.proposed);
        let time_ms = txn.time_ms.to_native();
        let fits = |&index: &usize| {
            let operation = &history.operations[index];
            let Operation { ask, people, invoked, done, outcome, .. } = operation;
            let is_known = matches!(outcome, Outcome::Done { .. });
            if *invoked > proposed || (is_known && done.is_some_and(|done| done < proposed)) {
                return false;
            }
            let context = Context { session, people: *people, zxid, time_ms };
            let would = || model.clone().write(ask, context);
            let accepted = || match outcome {
                // Of several that look alike, the answer tells which it was.
                Outcome::Done { result, .. } => {
                    would().as_ref().map(comparable) == result.as_ref().map(comparable)
                }
                _ => would().is_ok_and(|it| !is_refusal(&it)),
            };
            is_same(operation, txn) && accepted()
        };
        if let Some(index) = self.acknowledged.remove(&zxid) {
            let operation = &history.operations[index];
            assert_eq!(operation.session, session, "{zxid} is another session's: {operation:?}");
            assert!(is_same(operation, txn), "{zxid} is another write: {operation:?}");
            return index;
        }
        let unplaced = self.unplaced.entry(session).or_default();
        if let Some(place) = unplaced.iter().position(fits) {
            return unplaced.remove(place);
        }
        let unknown = self.unknown.entry(session).or_default();
        let place = unknown.iter().position(fits).unwrap_or_else(|| {
            panic!("{zxid} of {session} was sent by nobody, or twice: {}", describe(txn))
        });
        sometimes.hit(State::UnknownHappened);
        unknown.remove(place)
    }

    fn on_session(&mut self, zxid: Zxid, operation: &ArchivedOperation) {
        match operation {
            ArchivedOperation::SessionFence { session } => {
                self.fenced.insert(SessionId(session.to_native()));
            }
            ArchivedOperation::SessionPurge { session, paths, last } => {
                let session = SessionId(session.to_native());
                for path in paths.iter() {
                    assert!(self.fenced.contains(&session), "S4: {path} goes before {session}");
                    let owner = self.model.owner(path);
                    assert_eq!(owner, Some(session), "{path} goes with another session");
                    self.model.purge(path, zxid);
                }
                let left = self.model.ephemerals_of(session);
                assert!(!*last || left.is_empty(), "S3: {session} is over and leaves {left:?}");
            }
            _ => {}
        }
    }

    fn finish(self) {
        let unplaced = self.unplaced.into_values().flatten();
        if let Some(index) = self.acknowledged.into_values().chain(unplaced).next() {
            let operation = &self.history.operations[index];
            panic!("CommittedLogDurability: an acknowledged write is lost: {operation:?}");
        }
        for (session, told) in self.told {
            if let Some(first) = told.front() {
                let what = match first {
                    Told::Write(index) | Told::State(index) => {
                        format!("{:?}", self.history.operations[*index])
                    }
                    Told::Floor(floor) => format!("a sync that shows {floor}"),
                };
                panic!("no state of shard {} in {session}'s order explains {what}", self.shard);
            }
        }
    }
}

/// Whether a read or a refusal is what the model says at this state.
fn is_told(model: &Model, at: Zxid, operation: &Operation) -> bool {
    let Outcome::Done { result, .. } = &operation.outcome else {
        return true;
    };
    let Operation { session, people, .. } = *operation;
    if operation.ask.is_write() {
        let context = Context { session, people, zxid: at, time_ms: 0 };
        model.clone().write(&operation.ask, context) == *result
    } else {
        model.read(&operation.ask, session, people) == *result
    }
}

fn real_time(history: &History, map: ShardMap, shard: ShardId) {
    let writes: Vec<(&Operation, Zxid)> = acknowledged(history, map, shard).collect();
    for (late, zxid) in &writes {
        let before = writes.iter().filter(|(it, _)| it.done.is_some_and(|at| at < late.invoked));
        let newest = before.map(|(_, zxid)| *zxid).max().unwrap_or(Zxid::ZERO);
        assert!(*zxid > newest, "{zxid} was sent after {newest} had been acknowledged");
    }
}

/// Acknowledged writes of a shard that name their zxid.
fn acknowledged(
    history: &History,
    map: ShardMap,
    shard: ShardId,
) -> impl Iterator<Item = (&Operation, Zxid)> {
    history.operations.iter().filter_map(move |operation| {
        let Outcome::Done { result: Ok(answer), .. } = &operation.outcome else {
            return None;
        };
        let is_write = operation.ask.is_write() && !is_refusal(answer);
        let here = is_write && shard_of(map, &operation.ask) == Some(shard);
        here.then(|| written_at(&operation.ask, answer)).flatten().map(|zxid| (operation, zxid))
    })
}

/// The zxid that a write's reply names.
fn written_at(ask: &Ask, answer: &Answer) -> Option<Zxid> {
    match answer {
        _ if matches!(ask, Ask::SetAcl { .. }) => None,
        Answer::Created { stat, .. } => Some(stat.czxid),
        Answer::Stat(stat) => Some(stat.mzxid),
        Answer::Multi(parts) => parts.iter().find_map(|part| match part {
            Part::Created { stat: Some(stat), .. } => Some(stat.czxid),
            Part::Set(stat) => Some(stat.mzxid),
            _ => None,
        }),
        _ => None,
    }
}

/// The shard that answers for a request; `None` if it takes more than one, or none.
fn shard_of(map: ShardMap, ask: &Ask) -> Option<ShardId> {
    match ask {
        Ask::Create { path, mode, .. }
            if *mode != CreateMode::Persistent && mode.is_sequential() =>
        {
            Some(map.shard_of_sequential(path))
        }
        Ask::Get { path, .. }
        | Ask::Exists { path, .. }
        | Ask::Children { path, .. }
        | Ask::GetAcl { path }
        | Ask::CountBelow { path }
            if is_partition_point(path) =>
        {
            None
        }
        Ask::Create { path, .. }
        | Ask::Set { path, .. }
        | Ask::Delete { path, .. }
        | Ask::Check { path, .. }
        | Ask::Get { path, .. }
        | Ask::Exists { path, .. }
        | Ask::Children { path, .. }
        | Ask::SetAcl { path, .. }
        | Ask::GetAcl { path }
        | Ask::CountBelow { path } => Some(map.shard_of(path)),
        Ask::Multi(asks) | Ask::MultiRead(asks) => {
            let mut shards = asks.iter().map(|ask| shard_of(map, ask));
            let first = shards.next()??;
            shards.all(|other| other == Some(first)).then_some(first)
        }
        Ask::Ephemerals { .. }
        | Ask::AddWatch { .. }
        | Ask::RemoveWatches { .. }
        | Ask::CheckWatches { .. }
        | Ask::Sync { .. }
        | Ask::Close => None,
    }
}
