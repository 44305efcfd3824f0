//! What a shard's log says to those who watch: its changes, and who may hear of each.

use std::collections::BTreeMap;

use pigeonhole_core::base::id::{ShardId, Zxid};
use pigeonhole_core::entry::EntryKind;
use pigeonhole_core::op::{EventType, permission};
use pigeonhole_core::txn::{ArchivedAclEntry, ArchivedOperation, Txn};

use crate::check::agreement::Agreement;
use crate::history::{Watch, WatchOn};
use crate::people::{self, Entry, Principal, permits};
use crate::queue::Moment;

/// The changes of one shard, in its order.
#[derive(Default)]
pub struct Changes {
    all: Vec<Change>,
    /// When what is being read was proposed.
    proposed: Moment,
    /// Places in `all`, so that a watch need not look at what is not its own.
    of_path: BTreeMap<String, Vec<usize>>,
    /// The list of each path at the moment, while the log is read.
    lists: BTreeMap<String, Vec<Entry>>,
    /// Every list that ever kept somebody from reading a path.
    narrow: BTreeMap<String, Vec<Vec<Entry>>>,
}

#[derive(Debug)]
pub struct Change {
    pub zxid: Zxid,
    pub proposed: Moment,
    pub path: String,
    pub kind: EventType,
    /// The list that decides who hears of it.
    pub readers: Vec<Entry>,
}

impl Changes {
    pub fn of(agreement: &Agreement, shard: ShardId) -> Self {
        let mut changes = Self::default();
        let entries = agreement.history(shard).map_or(&[][..], |log| log.entries.as_slice());
        for committed in entries {
            let entry = &committed.entry;
            changes.proposed = committed.proposed;
            if entry.kind() != EntryKind::Txn {
                continue;
            }
            let txn = Txn::view(entry.payload()).expect("what is committed can be read");
            for operation in txn.operations.iter() {
                changes.on_operation(entry.zxid(), operation);
            }
        }
        changes
    }

    /// The first change after `since` that concerns a watch.
    pub fn first_after(&self, since: Zxid, watch: &Watch) -> Option<&Change> {
        let mut of_path = self.of_path(&watch.path);
        of_path.find(|change| change.zxid > since && concerns(watch.on, change.kind))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Change> {
        self.all.iter()
    }

    /// Whether there ever was a time at which the watch's client could not read its path.
    pub fn was_ever_hidden_from(&self, watch: &Watch) -> bool {
        let mut lists = self.narrow.get(&watch.path).into_iter().flatten();
        lists.any(|list| !permits(list, watch.people, permission::READ))
    }

    fn of_path(&self, path: &str) -> impl Iterator<Item = &Change> {
        self.of_path.get(path).into_iter().flatten().map(|&place| &self.all[place])
    }

    fn on_operation(&mut self, zxid: Zxid, operation: &ArchivedOperation) {
        match operation {
            ArchivedOperation::Create { path, acl, .. } => {
                self.set_list(path, acl);
                self.note(zxid, path, EventType::NodeCreated);
                self.note(zxid, parent(path), EventType::NodeChildrenChanged);
            }
            ArchivedOperation::Delete { path } => self.on_gone(zxid, path),
            ArchivedOperation::SetData { path, .. } => {
                self.note(zxid, path, EventType::NodeDataChanged);
            }
            ArchivedOperation::SetAcl { path, acl, .. } => self.set_list(path, acl),
            ArchivedOperation::SessionPurge { paths, .. } => {
                for path in paths.iter() {
                    self.on_gone(zxid, path);
                }
            }
            _ => {}
        }
    }

    fn on_gone(&mut self, zxid: Zxid, path: &str) {
        self.note(zxid, path, EventType::NodeDeleted);
        self.lists.remove(path);
        self.note(zxid, parent(path), EventType::NodeChildrenChanged);
    }

    fn note(&mut self, zxid: Zxid, path: &str, kind: EventType) {
        let readers = self.lists.get(path).cloned().unwrap_or_else(people::open);
        self.of_path.entry(path.to_owned()).or_default().push(self.all.len());
        let (path, proposed) = (path.to_owned(), self.proposed);
        self.all.push(Change { zxid, proposed, path, kind, readers });
    }

    fn set_list(&mut self, path: &str, acl: &[ArchivedAclEntry]) {
        let list: Vec<Entry> = acl.iter().map(entry).collect();
        let is_open = list.is_empty() || list == people::open();
        if is_open {
            self.lists.remove(path);
        } else {
            self.narrow.entry(path.to_owned()).or_default().push(list.clone());
            self.lists.insert(path.to_owned(), list);
        }
    }
}

pub(crate) fn concerns(on: WatchOn, kind: EventType) -> bool {
    match on {
        WatchOn::Data => matches!(kind, EventType::NodeDataChanged | EventType::NodeDeleted),
        WatchOn::Exist => kind == EventType::NodeCreated,
        WatchOn::Child => matches!(kind, EventType::NodeChildrenChanged | EventType::NodeDeleted),
    }
}

fn entry(logged: &ArchivedAclEntry) -> Entry {
    let known = [Principal::Anyone, Principal::Ann, Principal::Bob];
    let principal = known.into_iter().find(|it| it.id() == logged.id.as_str());
    let principal = principal.expect("lists name people who are known");
    Entry { permissions: logged.permissions.to_native(), principal }
}

pub(crate) fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => &path[..at],
    }
}
