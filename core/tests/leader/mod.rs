//! One shard with a leader and nobody else: prepares, logs, and applies when the test says so.

#![allow(dead_code, reason = "every test binary uses its own part")]

use std::collections::VecDeque;
use std::net::IpAddr;

use pigeonhole_core::auth::{AuthSettings, Identities, authenticate};
use pigeonhole_core::base::error::ErrorCode;
use pigeonhole_core::base::id::{Epoch, Generation, SessionId, ShardId, Zxid};
use pigeonhole_core::op::{Acl, CreateMode, Request, Stat};
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::state::State;
use pigeonhole_core::state::apply::{Applied, OperationResult, SessionChange};
use pigeonhole_core::state::overlay::Overlay;
use pigeonhole_core::state::prep::{Context, Refusal};
use pigeonhole_core::state::session_prep::{Prepared, SessionRequest};
use pigeonhole_core::txn::{AclEntry, Operation, Txn};

pub(crate) const OPEN: [Acl<'static>; 1] = [Acl { permissions: 31, scheme: "world", id: "anyone" }];

pub(crate) struct Leader {
    pub(crate) state: State,
    pub(crate) overlay: Overlay,
    pub(crate) applied: Applied,
    /// The zxid that the next transaction gets.
    pub(crate) zxid: Zxid,
    /// Logged and not yet applied.
    pub(crate) pending: VecDeque<(Zxid, Txn)>,
    /// What the clock shows; every transaction moves it by one.
    pub(crate) time_ms: i64,
}

/// A client with a session.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) session: SessionId,
    pub(crate) generation: Generation,
    pub(crate) identities: Identities,
    pub(crate) attachment: Option<Zxid>,
}

/// `OperationResult`, kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Created(String, Option<Stat>),
    Deleted,
    DataSet(Stat),
    AclSet(Stat),
    Checked,
}

impl Leader {
    pub(crate) fn new() -> Self {
        Self::of(ShardId(0), ShardMap::new(1))
    }

    pub(crate) fn of(shard: ShardId, map: ShardMap) -> Self {
        Self {
            state: State::new(shard, map),
            overlay: Overlay::new(),
            applied: Applied::new(),
            zxid: Zxid::new(Epoch(1), 1),
            pending: VecDeque::new(),
            time_ms: 1000,
        }
    }

    /// A client of a cluster of one shard, whose session exists and is applied.
    pub(crate) fn client(&mut self, number: u64) -> Client {
        let session = SessionId(1 << 56 | number);
        let request = SessionRequest::Create { session, password: [7; 16], timeout_ms: 4000 };
        self.session(&request).expect("the id is new");
        self.apply_all();
        Client::new(session)
    }

    /// Prepares and logs.
    pub(crate) fn write(
        &mut self,
        client: &Client,
        request: &Request<'_>,
    ) -> Result<Zxid, Refusal> {
        let context = Context {
            session: client.session,
            generation: client.generation,
            identities: &client.identities,
            attachment: client.attachment,
            zxid: self.zxid,
        };
        let operations = self.overlay.prepare(&self.state, &context, request)?;
        Ok(self.log(client.session, operations))
    }

    /// Prepares, logs, applies everything, and tells what became of this request.
    pub(crate) fn run(
        &mut self,
        client: &Client,
        request: &Request<'_>,
    ) -> Result<Vec<Outcome>, ErrorCode> {
        let result = self.write(client, request);
        self.apply_all();
        result.map(|_| self.outcomes()).map_err(|refusal| refusal.code)
    }

    pub(crate) fn session(&mut self, request: &SessionRequest<'_>) -> Result<Prepared, Refusal> {
        let prepared = self.overlay.prepare_session(&self.state, self.zxid, request)?;
        if !prepared.operations.is_empty() {
            self.log(SessionId(0), prepared.operations.clone());
        }
        Ok(prepared)
    }

    /// Logs whatever the test wants, judged by nobody.
    pub(crate) fn log(&mut self, session: SessionId, operations: Vec<Operation>) -> Zxid {
        let zxid = self.zxid;
        self.zxid = zxid.next();
        self.time_ms += 1;
        let txn = Txn { session: session.0, time_ms: self.time_ms, operations, ..Txn::default() };
        self.pending.push_back((zxid, txn));
        zxid
    }

    pub(crate) fn force(&mut self, operations: Vec<Operation>) {
        self.log(SessionId(0), operations);
        self.apply_all();
    }

    pub(crate) fn apply_one(&mut self) -> bool {
        let Some((zxid, txn)) = self.pending.pop_front() else {
            return false;
        };
        let bytes = txn.to_bytes();
        let txn = Txn::view(&bytes).expect("what was encoded can be read");
        self.state.apply(zxid, txn, &mut self.applied);
        self.overlay.applied(zxid);
        true
    }

    pub(crate) fn apply_all(&mut self) {
        while self.apply_one() {}
        assert!(self.overlay.is_empty(), "everything is applied");
    }

    /// What the last applied transaction brought.
    pub(crate) fn outcomes(&self) -> Vec<Outcome> {
        self.applied.results().map(Outcome::from).collect()
    }

    pub(crate) fn session_changes(&self) -> &[SessionChange] {
        self.applied.sessions()
    }

    pub(crate) fn stat(&self, path: &str) -> Stat {
        let tree = self.state.tree();
        tree.stat(tree.find(path).expect("the znode exists"))
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.state.tree().find(path).is_some()
    }

    pub(crate) fn children(&self, path: &str) -> Vec<String> {
        let tree = self.state.tree();
        let node = tree.find(path).expect("the znode exists");
        let mut names: Vec<_> =
            tree.children(node).map(|child| tree.name(child).to_string()).collect();
        names.sort();
        names
    }
}

impl Client {
    pub(crate) fn new(session: SessionId) -> Self {
        Self {
            session,
            generation: Generation(1),
            identities: AuthSettings::default().newcomer(address("10.0.0.7")),
            attachment: None,
        }
    }

    pub(crate) fn with_auth(mut self, credential: &str) -> Self {
        let settings = AuthSettings {
            super_digest: Some("super:xQJmxLMiHGwaqBvst5y6rkB6HQs=".to_string()),
            ..AuthSettings::default()
        };
        let proven = authenticate("digest", Some(credential.as_bytes()), address("::1"), &settings)
            .expect("any user and password will do");
        self.identities = self.identities.with(proven).expect("there are few");
        self
    }
}

impl From<OperationResult<'_>> for Outcome {
    fn from(result: OperationResult<'_>) -> Self {
        match result {
            OperationResult::Created { path, stat } => Self::Created(path.to_string(), stat),
            OperationResult::Deleted => Self::Deleted,
            OperationResult::DataSet(stat) => Self::DataSet(stat),
            OperationResult::AclSet(stat) => Self::AclSet(stat),
            OperationResult::Checked => Self::Checked,
        }
    }
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn entry(permissions: u32, scheme: &str, id: &str) -> AclEntry {
    AclEntry { permissions, scheme: scheme.to_string(), id: id.to_string() }
}

pub(crate) fn create<'a>(path: &'a str, mode: CreateMode, acl: &[Acl<'a>]) -> Request<'a> {
    Request::Create { path, data: Some(b"data"), acl: acl.to_vec(), mode, with_stat: false }
}

pub(crate) fn plain(path: &str) -> Request<'_> {
    create(path, CreateMode::Persistent, &OPEN)
}

pub(crate) fn ephemeral(path: &str) -> Request<'_> {
    create(path, CreateMode::Ephemeral, &OPEN)
}

pub(crate) fn sequential(path: &str) -> Request<'_> {
    create(path, CreateMode::PersistentSequential, &OPEN)
}

pub(crate) fn delete(path: &str, version: i32) -> Request<'_> {
    Request::Delete { path, version }
}

pub(crate) fn set(path: &str, version: i32) -> Request<'_> {
    Request::SetData { path, data: Some(b"new"), version }
}

pub(crate) fn set_acl<'a>(path: &'a str, acl: &[Acl<'a>], version: i32) -> Request<'a> {
    Request::SetAcl { path, acl: acl.to_vec(), version }
}

pub(crate) fn check(path: &str, version: i32) -> Request<'_> {
    Request::Check { path, version }
}
