//! What clients were told, held against what was committed.
//!
//! With one shard every reply carries the zxid of the state that it speaks of, so that nothing has
//! to be searched: the committed log is replayed through the model, and each reply must be the
//! model's at its zxid.
//!
//! - An acknowledged write is in the log once, with the model's result.
//! - A write with an unknown outcome is there once or not at all; a refused one is not.
//! - Nothing is there that nobody sent.
//! - Writes acknowledged before another was sent come before it.
//! - A read shows the model's state at its zxid; sync shows every write acknowledged before it.
//! - A refusal is what the model says at some state between the newest that the session had seen
//!   and the reply's.
//! - Ephemerals live as long as their session.

use std::collections::{BTreeMap, BTreeSet};

use pigeonhole_core::base::id::{SessionId, ShardId, Zxid};
use pigeonhole_core::entry::EntryKind;
use pigeonhole_core::txn::{ArchivedOperation, ArchivedTxn, Txn};

use crate::check::agreement::{Agreement, Committed};
use crate::check::txn::{
    comparable, describe, is_clients, is_models, is_read, is_refusal, is_same,
};
use crate::history::{Ask, History, Operation, Outcome};
use crate::model::{Context, Model};
use crate::sometimes::{Sometimes, State};

/// Checks a run with one shard.
pub fn check(history: &History, agreement: &Agreement, sometimes: &mut Sometimes) {
    let Some(log) = agreement.history(ShardId(0)) else {
        return;
    };
    let mut replay = Replay::new(history);
    for committed in &log.entries {
        replay.reads_before(committed.entry.zxid());
        if committed.entry.kind() == EntryKind::Txn {
            replay.on_txn(committed, sometimes);
        }
        replay.at = committed.entry.zxid();
        replay.judge_refusals();
    }
    replay.reads_before(Zxid(u64::MAX));
    replay.finish();
    real_time(history);
    syncs(history);
}

/// The replay of the log, and what is left to be explained.
struct Replay<'a> {
    history: &'a History,
    model: Model,
    at: Zxid,
    acknowledged: BTreeMap<Zxid, usize>,
    unknown: BTreeMap<SessionId, Vec<usize>>,
    reads: BTreeMap<Zxid, Vec<usize>>,
    /// Refused writes by the newest zxid that their session had seen.
    refused: BTreeMap<Zxid, Vec<usize>>,
    judging: Vec<usize>,
    live: BTreeSet<SessionId>,
    closing: BTreeSet<SessionId>,
}

impl<'a> Replay<'a> {
    fn new(history: &'a History) -> Self {
        let mut replay = Self {
            history,
            model: Model::new(),
            at: Zxid::ZERO,
            acknowledged: BTreeMap::new(),
            unknown: BTreeMap::new(),
            reads: BTreeMap::new(),
            refused: BTreeMap::new(),
            judging: Vec::new(),
            live: BTreeSet::new(),
            closing: BTreeSet::new(),
        };
        for (index, operation) in history.operations.iter().enumerate() {
            replay.sort(index, operation);
        }
        replay.judge_refusals();
        replay
    }

    fn sort(&mut self, index: usize, operation: &Operation) {
        let is_write = operation.ask.is_write();
        match &operation.outcome {
            Outcome::Unknown if is_write => {
                self.unknown.entry(operation.session).or_default().push(index);
            }
            Outcome::Done { zxid, result: Ok(answer) } if is_write && !is_refusal(answer) => {
                let other = self.acknowledged.insert(*zxid, index);
                assert!(other.is_none(), "two writes were acknowledged as {zxid}");
            }
            Outcome::Done { result, .. }
                if is_write && result.as_ref().map_or_else(|&code| is_models(code), |_| true) =>
            {
                self.refused.entry(operation.seen).or_default().push(index);
            }
            Outcome::Done { zxid, .. } if is_read(&operation.ask) => {
                self.reads.entry(*zxid).or_default().push(index);
            }
            _ => {}
        }
    }

    /// Answers every read of a state before `zxid` that has not been answered: nothing has changed
    /// since the last entry.
    fn reads_before(&mut self, zxid: Zxid) {
        let later = self.reads.split_off(&zxid);
        for (at, indexes) in std::mem::replace(&mut self.reads, later) {
            for index in indexes {
                let operation = &self.history.operations[index];
                let Outcome::Done { result, .. } = &operation.outcome else {
                    continue;
                };
                if result.as_ref().is_err_and(|&code| !is_models(code)) {
                    continue;
                }
                let Operation { ask, session, people, .. } = operation;
                let expected = self.model.read(ask, *session, *people);
                assert_eq!(*result, expected, "a read at {at} shows something else: {operation:?}");
                assert!(at >= operation.seen, "MonotonicRead: {operation:?}");
            }
        }
    }

    fn on_txn(&mut self, committed: &Committed, sometimes: &mut Sometimes) {
        let entry = &committed.entry;
        let txn = Txn::view(entry.payload()).expect("what is committed can be read");
        let session = SessionId(txn.session.to_native());
        for operation in txn.operations.iter() {
            self.on_session(operation, committed, sometimes);
        }
        if !txn.operations.iter().any(is_clients) {
            return;
        }
        let index = self.sender(entry.zxid(), session, txn, sometimes);
        assert!(
            self.live.contains(&session) && !self.closing.contains(&session),
            "S2: {} is written for {session}, which is over",
            entry.zxid()
        );
        let operation = &self.history.operations[index];
        let time_ms = txn.time_ms.to_native();
        let people = operation.people;
        let context = Context { session, people, zxid: entry.zxid(), time_ms };
        let expected = self.model.write(&operation.ask, context);
        let Ok(answer) = &expected else {
            panic!("{} is committed and should be {expected:?}: {operation:?}", entry.zxid());
        };
        assert!(!is_refusal(answer), "{} should fail: {operation:?}", entry.zxid());
        if let Outcome::Done { result, .. } = &operation.outcome {
            let told = result.as_ref().map(comparable);
            let should = expected.as_ref().map(comparable);
            assert_eq!(told, should, "a write was answered otherwise: {operation:?}");
        }
    }

    /// Who has sent what the log holds.
    fn sender(
        &mut self,
        zxid: Zxid,
        session: SessionId,
        txn: &ArchivedTxn,
        sometimes: &mut Sometimes,
    ) -> usize {
        if let Some(index) = self.acknowledged.remove(&zxid) {
            let operation = &self.history.operations[index];
            assert_eq!(operation.session, session, "{zxid} is another session's: {operation:?}");
            assert!(is_same(operation, txn), "{zxid} is another write: {operation:?}");
            return index;
        }
        let (history, model) = (self.history, &self.model);
        let candidates = self.unknown.entry(session).or_default();
        // Deletes of one path may differ in the version that they expect only.
        let fits = |&index: &usize| {
            let operation = &history.operations[index];
            let Operation { ask, people, .. } = operation;
            let context = Context { session, people: *people, zxid, time_ms: 0 };
            let accepted = || model.clone().write(ask, context).is_ok_and(|it| !is_refusal(&it));
            is_same(operation, txn) && accepted()
        };
        let place = candidates.iter().position(fits).unwrap_or_else(|| {
            panic!("{zxid} of {session} was sent by nobody, or twice: {}", describe(txn))
        });
        sometimes.hit(State::UnknownHappened);
        candidates.remove(place)
    }

    fn on_session(
        &mut self,
        operation: &ArchivedOperation,
        committed: &Committed,
        sometimes: &mut Sometimes,
    ) {
        let zxid = committed.entry.zxid();
        match operation {
            ArchivedOperation::SessionCreate { session, .. } => {
                let new = self.live.insert(SessionId(session.to_native()));
                assert!(new, "a session is created once");
            }
            ArchivedOperation::SessionClosing { session } => {
                let session = SessionId(session.to_native());
                self.closing.insert(session);
                self.on_closing(session, sometimes);
            }
            ArchivedOperation::SessionPurge { session, paths, .. } => {
                let session = SessionId(session.to_native());
                for path in paths.iter() {
                    assert!(self.closing.contains(&session), "S4: {path} goes before {session}");
                    assert_eq!(
                        self.model.owner(path),
                        Some(session),
                        "{path} goes with a session that it does not belong to"
                    );
                    self.model.purge(path, zxid);
                }
            }
            ArchivedOperation::SessionEnd { session } => {
                let session = SessionId(session.to_native());
                let left = self.model.ephemerals_of(session);
                assert!(left.is_empty(), "S3: {session} is over and leaves {left:?}");
                self.live.remove(&session);
            }
            _ => {}
        }
    }

    fn on_closing(&mut self, session: SessionId, sometimes: &mut Sometimes) {
        let mut lives = self.history.sessions.iter();
        let Some(life) = lives.find(|life| life.session == session) else {
            return;
        };
        if life.closing {
            return;
        }
        sometimes.hit(State::SessionExpired);
        if !self.model.ephemerals_of(session).is_empty() {
            sometimes.hit(State::ExpiredWithEphemerals);
        }
    }

    /// Holds refusals that may have been judged here against the model.
    fn judge_refusals(&mut self) {
        let later = self.refused.split_off(&Zxid(self.at.0 + 1));
        for (_, indexes) in std::mem::replace(&mut self.refused, later) {
            self.judging.extend(indexes);
        }
        let (history, model, at) = (self.history, &self.model, self.at);
        self.judging.retain(|&index| {
            let operation = &history.operations[index];
            let Outcome::Done { zxid, result } = &operation.outcome else {
                return false;
            };
            assert!(
                at <= *zxid,
                "a write was refused otherwise than at any state up to {zxid}: {operation:?}"
            );
            // The zxid does not matter for a refusal, nor the time.
            let Operation { session, people, .. } = *operation;
            let context = Context { session, people, zxid: at, time_ms: 0 };
            model.clone().write(&operation.ask, context) != *result
        });
    }

    fn finish(mut self) {
        if let Some((zxid, index)) = self.acknowledged.pop_first() {
            let operation = &self.history.operations[index];
            panic!("CommittedLogDurability: {zxid} was acknowledged and is lost: {operation:?}");
        }
        let left = self.judging.first().copied();
        let left = left.or_else(|| self.refused.into_values().flatten().next());
        if let Some(index) = left {
            let operation = &self.history.operations[index];
            panic!("a write was refused otherwise than at any state: {operation:?}");
        }
    }
}

/// Writes acknowledged before another was sent come before it.
fn real_time(history: &History) {
    let mut sent = Vec::new();
    let mut done = Vec::new();
    for operation in history.operations.iter().filter(|one| one.ask.is_write()) {
        if let Outcome::Done { zxid, result: Ok(answer) } = &operation.outcome
            && !is_refusal(answer)
        {
            sent.push((operation.invoked, *zxid));
            done.push((operation.done.expect("it is done"), *zxid));
        }
    }
    sent.sort();
    done.sort();
    let mut before = done.into_iter().peekable();
    let mut newest = Zxid::ZERO;
    for (invoked, zxid) in sent {
        while let Some(&(_, earlier)) = before.peek().filter(|(at, _)| *at < invoked) {
            newest = newest.max(earlier);
            before.next();
        }
        assert!(zxid > newest, "{zxid} was sent after {newest} had been acknowledged");
    }
}

/// What was acknowledged before a sync was sent is seen after it.
fn syncs(history: &History) {
    for sync in history.operations.iter().filter(|one| matches!(one.ask, Ask::Sync { .. })) {
        let Outcome::Done { zxid, result: Ok(_) } = sync.outcome else {
            continue;
        };
        for write in history.operations.iter().filter(|one| one.ask.is_write()) {
            if let Outcome::Done { zxid: written, result: Ok(answer) } = &write.outcome
                && !is_refusal(answer)
                && write.done.is_some_and(|done| done < sync.invoked)
            {
                assert!(zxid >= *written, "sync at {zxid} misses {written}: {sync:?}");
            }
        }
    }
}
