//! An honest cluster by hand: what its clients ask is logged, answered and recorded as it should
//! be, by the model. Tests plant a fault in what it has written down.

use std::collections::BTreeMap;

use pigeonhole_core::base::id::{ChainHash, SessionId, ShardId, Zxid};
use pigeonhole_core::entry::{Entry, EntryKind};
use pigeonhole_core::op::CreateMode;
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::txn::{AclEntry, Operation as Step, Txn};
use pigeonhole_tests::check;
use pigeonhole_tests::history::{Answer, Ask, History, Operation, Outcome, Part, SessionLife};
use pigeonhole_tests::model::{Context, Model};
use pigeonhole_tests::people::{Entry as ListEntry, People};
use pigeonhole_tests::queue::Moment;

use crate::logs::{Logs, NODES};

pub(crate) struct Cluster {
    pub(crate) logs: Logs,
    pub(crate) history: History,
    pub(crate) map: ShardMap,
    models: BTreeMap<ShardId, Model>,
    tails: BTreeMap<ShardId, (Zxid, ChainHash)>,
    /// With several shards the headers' zxids count what a session hears.
    counters: BTreeMap<SessionId, Zxid>,
}

/// What happens takes a millisecond, and a moment passes between two things.
const STEP_US: u64 = 1000;
pub(crate) const TIMEOUT_US: u64 = 400_000;

impl Cluster {
    pub(crate) fn new(shards: u16) -> Self {
        let map = ShardMap::new(shards);
        let mut cluster = Self {
            logs: Logs::new(),
            history: History::default(),
            map,
            models: map.shards().map(|shard| (shard, Model::new())).collect(),
            tails: BTreeMap::new(),
            counters: BTreeMap::new(),
        };
        for shard in map.shards() {
            let start = Zxid(1 << 32 | 1);
            let entry = Entry::new(EntryKind::EpochStart, shard, start, ChainHash::default(), &[]);
            cluster.replicate(shard, &entry);
        }
        cluster
    }

    /// Looks at everything as the end of a simulation does.
    pub(crate) fn check(&mut self) {
        check::clients(&self.history, &self.logs.agreement, self.map, &mut self.logs.sometimes);
    }

    /// A new session of a client of its own.
    pub(crate) fn session(&mut self) -> SessionId {
        let number = self.history.sessions.len() as u64;
        let session = SessionId(1 << 56 | number);
        let create = Step::SessionCreate { session: session.0, password: [0; 16], timeout_ms: 400 };
        self.commit(self.map.home_of(session), SessionId(0), vec![create]);
        let now = self.logs.now;
        self.history.sessions.push(SessionLife {
            session,
            client: u32::try_from(number).unwrap(),
            timeout_us: TIMEOUT_US,
            created: now,
            heard: now,
            pings_answered: Vec::new(),
            closing: false,
            expired: None,
        });
        session
    }

    /// Asks, is answered, and records both; the place of the operation in the history.
    pub(crate) fn ask(&mut self, session: SessionId, ask: Ask) -> usize {
        let index = self.invoke(session, ask.clone());
        let (at, result) = self.carry_out(session, &ask);
        self.answer(index, at, result);
        index
    }

    /// A write whose reply never comes; it happens or not.
    pub(crate) fn ask_in_vain(&mut self, session: SessionId, ask: Ask, happens: bool) -> usize {
        let index = self.invoke(session, ask.clone());
        if happens {
            let _ = self.carry_out(session, &ask);
        }
        self.history.settle(index, self.logs.now, Outcome::Unknown);
        index
    }

    /// A write that is answered as it should be, and nowhere in the log.
    pub(crate) fn ask_unlogged(&mut self, session: SessionId, ask: Ask) -> usize {
        let index = self.invoke(session, ask.clone());
        let shard = self.shard_of(&ask);
        let (tail, _) = self.tails[&shard];
        let (zxid, people) = (tail.next(), People::NOBODY);
        let context = Context { session, people, zxid, time_ms: 0 };
        let result = self.models.get_mut(&shard).unwrap().clone().write(&ask, context);
        self.answer(index, tail.next(), result);
        index
    }

    pub(crate) fn invoke(&mut self, session: SessionId, ask: Ask) -> usize {
        self.pass();
        let seen = self.seen(session);
        let client = self.life(session).client;
        self.history.invoke(Operation {
            client,
            people: People::NOBODY,
            session,
            connection: 1,
            ask,
            invoked: self.logs.now,
            seen,
            done: None,
            number: 0,
            outcome: Outcome::Open,
        })
    }

    /// The reply to an operation arrives; `at` is the zxid of its shard's state.
    pub(crate) fn answer(&mut self, index: usize, at: Zxid, result: Result<Answer, i32>) {
        self.pass();
        self.history.heard += 1;
        let session = self.history.operations[index].session;
        let seen = self.counters.entry(session).or_default();
        *seen = if self.map.count() == 1 { at.max(*seen) } else { Zxid(seen.0 + 1) };
        let zxid = *seen;
        self.history.settle(index, self.logs.now, Outcome::Done { zxid, result });
    }

    /// What the log's transactions say of the end of a session, in the order of the steps.
    pub(crate) fn close(&mut self, session: SessionId) {
        let index = self.invoke(session, Ask::Close);
        self.life(session).closing = true;
        self.end(session);
        let (at, _) = self.tails[&self.map.home_of(session)];
        self.answer(index, at, Ok(Answer::Nothing));
    }

    pub(crate) fn end(&mut self, session: SessionId) {
        self.begin_end(session);
        for shard in self.map.shards() {
            self.purge(shard, session);
        }
        self.finish_end(session);
    }

    pub(crate) fn begin_end(&mut self, session: SessionId) {
        let closing = Step::SessionClosing { session: session.0 };
        self.commit(self.map.home_of(session), SessionId(0), vec![closing]);
        for shard in self.map.shards() {
            let fence = Step::SessionFence { session: session.0 };
            self.commit(shard, SessionId(0), vec![fence]);
        }
    }

    pub(crate) fn purge(&mut self, shard: ShardId, session: SessionId) {
        let model = &self.models[&shard];
        let paths: Vec<String> =
            model.ephemerals_of(session).into_iter().map(str::to_owned).collect();
        self.purge_paths(shard, session, paths);
    }

    pub(crate) fn purge_paths(&mut self, shard: ShardId, session: SessionId, paths: Vec<String>) {
        let step = Step::SessionPurge { session: session.0, paths: paths.clone(), last: true };
        let zxid = self.commit(shard, SessionId(0), vec![step]);
        for path in paths {
            self.models.get_mut(&shard).unwrap().purge(&path, zxid);
        }
    }

    pub(crate) fn finish_end(&mut self, session: SessionId) {
        let end = Step::SessionEnd { session: session.0 };
        self.commit(self.map.home_of(session), SessionId(0), vec![end]);
    }

    /// Logs a client's write, or answers a read, as the model says.
    pub(crate) fn carry_out(
        &mut self,
        session: SessionId,
        ask: &Ask,
    ) -> (Zxid, Result<Answer, i32>) {
        let shard = self.shard_of(ask);
        let (tail, _) = self.tails[&shard];
        let model = self.models.get_mut(&shard).unwrap();
        if !ask.is_write() {
            return (tail, model.read(ask, session, People::NOBODY));
        }
        let time_ms = i64::try_from(self.logs.now.0 / 1000).unwrap();
        let (zxid, people) = (tail.next(), People::NOBODY);
        let context = Context { session, people, zxid, time_ms };
        let result = model.write(ask, context);
        let failed = |answer: &Answer| match answer {
            Answer::Multi(parts) => parts.iter().any(Part::is_error),
            _ => false,
        };
        if result.as_ref().map_or(true, failed) {
            return (tail, result);
        }
        let asks = match ask {
            Ask::Multi(asks) => asks.as_slice(),
            one => std::slice::from_ref(one),
        };
        let steps = asks.iter().map(|ask| step(session, ask, &result)).collect();
        (self.commit(shard, session, steps), result)
    }

    /// Logs a transaction everywhere.
    pub(crate) fn commit(
        &mut self,
        shard: ShardId,
        session: SessionId,
        operations: Vec<Step>,
    ) -> Zxid {
        let (tail, hash) = self.tails[&shard];
        let time_ms = i64::try_from(self.logs.now.0 / 1000).unwrap();
        let txn = Txn { session: session.0, time_ms, operations, ..Txn::default() };
        let (zxid, kind) = (tail.next(), EntryKind::Txn);
        let entry = Entry::new(kind, shard, zxid, hash, &txn.to_bytes());
        self.replicate(shard, &entry);
        zxid
    }

    pub(crate) fn tail(&self, shard: ShardId) -> Zxid {
        self.tails[&shard].0
    }

    pub(crate) fn life(&mut self, session: SessionId) -> &mut SessionLife {
        self.history.sessions.iter_mut().find(|life| life.session == session).unwrap()
    }

    /// What an operation was answered, for tests to change.
    pub(crate) fn outcome(&mut self, index: usize) -> (&mut Zxid, &mut Result<Answer, i32>) {
        match &mut self.history.operations[index].outcome {
            Outcome::Done { zxid, result } => (zxid, result),
            other => panic!("it was not answered: {other:?}"),
        }
    }

    pub(crate) fn pass(&mut self) {
        self.logs.now = Moment(self.logs.now.0 + STEP_US);
    }

    fn seen(&self, session: SessionId) -> Zxid {
        self.counters.get(&session).copied().unwrap_or_default()
    }

    fn shard_of(&self, ask: &Ask) -> ShardId {
        match ask {
            Ask::Create { path, .. }
            | Ask::Set { path, .. }
            | Ask::Delete { path, .. }
            | Ask::Check { path, .. }
            | Ask::Get { path, .. }
            | Ask::Exists { path, .. }
            | Ask::Children { path, .. }
            | Ask::SetAcl { path, .. }
            | Ask::GetAcl { path }
            | Ask::CountBelow { path }
            | Ask::Ephemerals { prefix: path }
            | Ask::AddWatch { path, .. }
            | Ask::RemoveWatches { path, .. }
            | Ask::CheckWatches { path, .. }
            | Ask::Sync { path } => self.map.shard_of(path),
            Ask::Multi(asks) | Ask::MultiRead(asks) => self.shard_of(&asks[0]),
            Ask::Close => ShardId(0),
        }
    }

    fn replicate(&mut self, shard: ShardId, entry: &Entry) {
        self.pass();
        for node in 0..NODES {
            self.logs.entry(node, entry);
        }
        self.pass();
        for node in 0..NODES {
            self.logs.sync(node, shard);
        }
        self.logs.commit(0, shard, entry.zxid());
        self.tails.insert(shard, (entry.zxid(), entry.hash()));
    }
}

pub(crate) fn create(path: &str) -> Ask {
    made(path, CreateMode::Persistent)
}

pub(crate) fn ephemeral(path: &str) -> Ask {
    made(path, CreateMode::Ephemeral)
}

pub(crate) fn set(path: &str, data: &str) -> Ask {
    Ask::Set { path: path.to_owned(), data: Some(data.as_bytes().to_vec()), version: -1 }
}

pub(crate) fn delete(path: &str) -> Ask {
    Ask::Delete { path: path.to_owned(), version: -1 }
}

pub(crate) fn get(path: &str) -> Ask {
    Ask::Get { path: path.to_owned(), watch: false }
}

pub(crate) fn sync() -> Ask {
    Ask::Sync { path: "/".to_owned() }
}

/// A top-level path that this shard holds.
pub(crate) fn path_in(map: ShardMap, shard: u16) -> String {
    let mut paths = (0..).map(|number| format!("/k{number}"));
    paths.find(|path| map.shard_of(path) == ShardId(shard)).unwrap()
}

fn made(path: &str, mode: CreateMode) -> Ask {
    Ask::Create { path: path.to_owned(), data: Some(b"new".to_vec()), mode }
}

fn step(session: SessionId, ask: &Ask, result: &Result<Answer, i32>) -> Step {
    match (ask, result) {
        (Ask::Create { path, data, mode }, _) => Step::Create {
            path: match result {
                Ok(Answer::Created { path, .. }) => path.clone(),
                _ => path.clone(),
            },
            data: data.clone(),
            acl: Vec::new(),
            ephemeral_owner: if mode.is_ephemeral() { session.0 } else { 0 },
            parent_cversion: 0,
            with_stat: true,
        },
        (Ask::Set { path, data, .. }, _) => {
            Step::SetData { path: path.clone(), data: data.clone(), version: 0 }
        }
        (Ask::SetAcl { path, list, .. }, _) => Step::SetAcl {
            path: path.clone(),
            acl: list.stored(People::NOBODY).unwrap().iter().map(logged).collect(),
            version: 0,
        },
        (Ask::Delete { path, .. }, _) => Step::Delete { path: path.clone() },
        (Ask::Check { .. }, _) => Step::Check,
        (other, _) => panic!("{other:?} is no step of a transaction"),
    }
}

fn logged(entry: &ListEntry) -> AclEntry {
    let (scheme, id) = (entry.principal.scheme().to_owned(), entry.principal.id().to_owned());
    AclEntry { permissions: entry.permissions, scheme, id }
}
