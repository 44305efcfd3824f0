//! **The only function that changes the tree**: live, while catching up, and at restart.
//!
//! A leader has resolved everything before it logged, so that nothing here can be refused: what it
//! guarantees is asserted, and a replica that finds it untrue stops instead of diverging.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use crate::base::id::{Generation, SessionId, ShardId, Zxid};
use crate::op::{EventType, Stat};
use crate::shard::point_index;
use crate::state::State;
use crate::state::acl::Readers;
use crate::state::tree::NewNode;
use crate::txn::{AclEntry, ArchivedAclEntry, ArchivedOperation, ArchivedTxn};

/// What applying one transaction brought about. Reused: it keeps its memory.
#[derive(Default)]
pub struct Applied {
    results: Vec<ResultRecord>,
    changes: Vec<ChangeRecord>,
    sessions: Vec<SessionChange>,
    /// The paths of the above, one after the other.
    text: String,
    acl: Vec<AclEntry>,
}

/// What the reply to one operation of a client carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OperationResult<'a> {
    /// The stat is there for create2 only.
    Created {
        path: &'a str,
        stat: Option<Stat>,
    },
    Deleted,
    DataSet(Stat),
    AclSet(Stat),
    Checked,
}

/// A change that watches may wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change<'a> {
    /// Created, deleted, or data changed; the first two change the parent's children as well.
    pub event: EventType,
    pub path: &'a str,
    /// Who may hear of it: the readers of the znode.
    pub readers: &'a Readers,
    /// Who may hear that the parent's children changed: the parent's readers.
    pub parent_readers: &'a Readers,
}

/// What gateways, and the leader that drives sessions, must hear about sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionChange {
    Created {
        session: SessionId,
        timeout_ms: u32,
    },
    Renewed {
        session: SessionId,
        generation: Generation,
    },
    Attached {
        session: SessionId,
        shard: ShardId,
    },
    Closing {
        session: SessionId,
    },
    Ended {
        session: SessionId,
    },
    Opened {
        session: SessionId,
        generation: Generation,
    },
    Advanced {
        session: SessionId,
        generation: Generation,
    },
    Fenced {
        session: SessionId,
    },
    /// With `is_last`, nothing of the session is left in this shard.
    Purged {
        session: SessionId,
        is_last: bool,
    },
}

enum ResultRecord {
    Created { path: Range<usize>, stat: Option<Stat> },
    Deleted,
    DataSet(Stat),
    AclSet(Stat),
    Checked,
}

struct ChangeRecord {
    event: EventType,
    path: Range<usize>,
    readers: Readers,
    parent_readers: Readers,
}

impl Applied {
    pub fn new() -> Self {
        Self::default()
    }

    /// One for each operation that a client sent, in its order; what the system did for the
    /// session in the same transaction has none.
    pub fn results(&self) -> impl ExactSizeIterator<Item = OperationResult<'_>> {
        self.results.iter().map(|record| match record {
            ResultRecord::Created { path, stat } => {
                OperationResult::Created { path: &self.text[path.clone()], stat: *stat }
            }
            ResultRecord::Deleted => OperationResult::Deleted,
            ResultRecord::DataSet(stat) => OperationResult::DataSet(*stat),
            ResultRecord::AclSet(stat) => OperationResult::AclSet(*stat),
            ResultRecord::Checked => OperationResult::Checked,
        })
    }

    pub fn changes(&self) -> impl ExactSizeIterator<Item = Change<'_>> {
        self.changes.iter().map(|record| Change {
            event: record.event,
            path: &self.text[record.path.clone()],
            readers: &record.readers,
            parent_readers: &record.parent_readers,
        })
    }

    pub fn sessions(&self) -> &[SessionChange] {
        &self.sessions
    }

    fn clear(&mut self) {
        self.results.clear();
        self.changes.clear();
        self.sessions.clear();
        self.text.clear();
    }

    fn keep(&mut self, path: &str) -> Range<usize> {
        let start = self.text.len();
        self.text.push_str(path);
        start..self.text.len()
    }

    /// The archived list in memory that is used again and again.
    fn acl_of(&mut self, archived: &[ArchivedAclEntry]) -> &[AclEntry] {
        self.acl.truncate(archived.len());
        while self.acl.len() < archived.len() {
            self.acl.push(AclEntry { permissions: 0, scheme: String::new(), id: String::new() });
        }
        for (entry, archived) in self.acl.iter_mut().zip(archived) {
            entry.permissions = archived.permissions.to_native();
            entry.scheme.clear();
            entry.scheme.push_str(&archived.scheme);
            entry.id.clear();
            entry.id.push_str(&archived.id);
        }
        &self.acl
    }
}

impl State {
    /// Applies the transaction at `zxid` and tells in `applied` what came of it.
    ///
    /// # Panics
    /// If `zxid` is not newer than everything applied, or the transaction is not one that a leader
    /// with this state could have logged.
    pub fn apply(&mut self, zxid: Zxid, txn: &ArchivedTxn, applied: &mut Applied) {
        assert!(zxid > self.applied, "{zxid} after {}", self.applied);
        applied.clear();
        let time_ms = txn.time_ms.to_native();
        for operation in txn.operations.iter() {
            self.apply_operation(zxid, time_ms, operation, applied);
        }
        self.applied = zxid;
    }

    fn apply_operation(
        &mut self,
        zxid: Zxid,
        time_ms: i64,
        operation: &ArchivedOperation,
        applied: &mut Applied,
    ) {
        match operation {
            ArchivedOperation::Create { .. } => self.create(zxid, time_ms, operation, applied),
            ArchivedOperation::Delete { path } => {
                self.delete(zxid, path, applied);
                applied.results.push(ResultRecord::Deleted);
            }
            ArchivedOperation::SetData { path, data, version } => {
                let node = self.tree.find(path).expect("data is set where a znode is");
                let version = version.to_native();
                self.tree.set_data(node, data.as_deref(), version, zxid, time_ms);
                self.note_point(path, zxid);
                applied.results.push(ResultRecord::DataSet(self.tree.stat(node)));
                let readers = Readers::of(self.tree.access(node));
                let path = applied.keep(path);
                applied.changes.push(ChangeRecord {
                    event: EventType::NodeDataChanged,
                    path,
                    readers,
                    parent_readers: Readers::Everyone,
                });
            }
            ArchivedOperation::SetAcl { path, acl, version } => {
                let node = self.tree.find(path).expect("an ACL is set where a znode is");
                let acl = applied.acl_of(acl);
                self.tree.set_acl(node, acl, version.to_native());
                self.note_point(path, zxid);
                applied.results.push(ResultRecord::AclSet(self.tree.stat(node)));
            }
            ArchivedOperation::Check => applied.results.push(ResultRecord::Checked),
            ArchivedOperation::PointSet { path, data, acl, point_zxid } => {
                let acl = applied.acl_of(acl);
                let point_zxid = Zxid(point_zxid.to_native());
                self.set_point(zxid, time_ms, path, data.as_deref(), acl, point_zxid);
            }
            _ => self.apply_session_operation(zxid, operation, applied),
        }
    }

    fn create(
        &mut self,
        zxid: Zxid,
        time_ms: i64,
        operation: &ArchivedOperation,
        applied: &mut Applied,
    ) {
        let ArchivedOperation::Create {
            path,
            data,
            acl,
            ephemeral_owner,
            parent_cversion,
            with_stat,
        } = operation
        else {
            unreachable!("the caller has matched a create");
        };
        let owner = SessionId(ephemeral_owner.to_native());
        let new = NewNode {
            data: data.as_deref(),
            acl: applied.acl_of(acl),
            ephemeral_owner: owner,
            parent_creations: parent_cversion.to_native(),
            zxid,
            time_ms,
        };
        let node = self.tree.create(path, new);
        if owner != SessionId(0) {
            self.tables.sessions.on_ephemeral_created(owner, path);
        }
        let parent = self.tree.parent(node).expect("a created znode has a parent");
        let path = applied.keep(path);
        applied.results.push(ResultRecord::Created {
            path: path.clone(),
            stat: with_stat.then(|| self.tree.stat(node)),
        });
        applied.changes.push(ChangeRecord {
            event: EventType::NodeCreated,
            path,
            readers: Readers::of(self.tree.access(node)),
            parent_readers: Readers::of(self.tree.access(parent)),
        });
    }

    fn delete(&mut self, zxid: Zxid, path: &str, applied: &mut Applied) {
        let node = self.tree.find(path).expect("only what exists is deleted");
        let parent = self.tree.parent(node).expect("the root is never deleted");
        let owner = self.tree.ephemeral_owner(node);
        if owner != SessionId(0) {
            self.tables.sessions.on_ephemeral_deleted(owner, path);
        }
        let path = applied.keep(path);
        applied.changes.push(ChangeRecord {
            event: EventType::NodeDeleted,
            path,
            readers: Readers::of(self.tree.access(node)),
            parent_readers: Readers::of(self.tree.access(parent)),
        });
        self.tree.delete(node, zxid);
    }

    /// What shard 0 decided about a point. Nobody watches it here: its watches are shard 0's.
    fn set_point(
        &mut self,
        zxid: Zxid,
        time_ms: i64,
        path: &str,
        data: Option<&[u8]>,
        acl: &[AclEntry],
        point_zxid: Zxid,
    ) {
        let index = point_index(path).expect("only points are carried between shards");
        if point_zxid <= self.tables.points[index] {
            return;
        }
        self.tables.points[index] = point_zxid;
        let node = self.tree.find(path).expect("points exist in every shard");
        let stat = self.tree.stat(node);
        let version = stat.version.wrapping_add(1);
        self.tree.set_data(node, data, version, zxid, time_ms);
        self.tree.set_acl(node, acl, stat.aversion.wrapping_add(1));
    }

    fn apply_session_operation(
        &mut self,
        zxid: Zxid,
        operation: &ArchivedOperation,
        applied: &mut Applied,
    ) {
        let sessions = &mut self.tables.sessions;
        let change = match operation {
            ArchivedOperation::SessionCreate { session, password, timeout_ms } => {
                let session = SessionId(session.to_native());
                let timeout_ms = timeout_ms.to_native();
                sessions.on_create(session, *password, timeout_ms);
                SessionChange::Created { session, timeout_ms }
            }
            ArchivedOperation::SessionRenew { session, generation } => {
                let session = SessionId(session.to_native());
                let generation = Generation(generation.to_native());
                sessions.on_renew(session, generation);
                SessionChange::Renewed { session, generation }
            }
            ArchivedOperation::SessionAttach { session, shard } => {
                let session = SessionId(session.to_native());
                let shard = ShardId(shard.to_native());
                sessions.on_attach(session, shard, zxid);
                SessionChange::Attached { session, shard }
            }
            ArchivedOperation::SessionClosing { session } => {
                let session = SessionId(session.to_native());
                sessions.on_closing(session);
                SessionChange::Closing { session }
            }
            ArchivedOperation::SessionEnd { session } => {
                let session = SessionId(session.to_native());
                sessions.on_end(session);
                SessionChange::Ended { session }
            }
            _ => return self.apply_attached_operation(zxid, operation, applied),
        };
        applied.sessions.push(change);
    }

    fn apply_attached_operation(
        &mut self,
        zxid: Zxid,
        operation: &ArchivedOperation,
        applied: &mut Applied,
    ) {
        let sessions = &mut self.tables.sessions;
        let change = match operation {
            ArchivedOperation::SessionOpen { session, generation, home_zxid } => {
                let session = SessionId(session.to_native());
                let generation = Generation(generation.to_native());
                sessions.on_open(session, generation, Zxid(home_zxid.to_native()));
                SessionChange::Opened { session, generation }
            }
            ArchivedOperation::SessionAdvance { session, generation } => {
                let session = SessionId(session.to_native());
                let generation = Generation(generation.to_native());
                sessions.on_advance(session, generation);
                SessionChange::Advanced { session, generation }
            }
            ArchivedOperation::SessionFence { session } => {
                let session = SessionId(session.to_native());
                sessions.on_fence(session);
                SessionChange::Fenced { session }
            }
            ArchivedOperation::SessionPurge { session, paths, last } => {
                let session = SessionId(session.to_native());
                for path in paths.iter() {
                    self.delete(zxid, path, applied);
                }
                if *last {
                    self.tables.sessions.on_purged(session, self.map.home_of(session));
                }
                SessionChange::Purged { session, is_last: *last }
            }
            ArchivedOperation::SessionFloor { home, home_zxid } => {
                let home = ShardId(home.to_native());
                let home_zxid = Zxid(home_zxid.to_native());
                return sessions.on_floor(home, home_zxid, self.map);
            }
            _ => unreachable!("every other operation is applied by its caller"),
        };
        applied.sessions.push(change);
    }
}
