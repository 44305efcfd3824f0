//! Committed entries become state, and whoever waits for them hears of it.

use alloc::vec::Vec;

use crate::base::id::Zxid;
use crate::base::limits::TURN_SHARE_BYTES;
use crate::base::time::Now;
use crate::entry::{Entry, EntryKind};
use crate::replica::{Deed, Replica};
use crate::state::tree::PATHS_AT_ONCE;
use crate::txn::{ArchivedOperation, ArchivedTxn, Txn};
use crate::zab::log::Mark;

/// What may still be done in this turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Share {
    pub proposals: usize,
    pub applies: usize,
}

/// What an entry says to the state.
#[derive(Clone, Copy)]
enum Content<'a> {
    Txn(&'a ArchivedTxn),
    SnapshotPoint,
    Admission,
    Nothing,
}

impl<'a> Content<'a> {
    fn of(entry: &'a Entry) -> Self {
        match entry.kind() {
            EntryKind::Txn => Self::Txn(
                Txn::view(entry.payload()).expect("a hash-checked entry holds a transaction"),
            ),
            EntryKind::SnapshotPoint => Self::SnapshotPoint,
            EntryKind::Admission => Self::Admission,
            EntryKind::EpochStart | EntryKind::Format => Self::Nothing,
        }
    }

    fn operations(&self) -> &'a [ArchivedOperation] {
        if let Self::Txn(txn) = self { &txn.operations } else { &[] }
    }
}

impl Share {
    /// What a request or an entry of so many bytes takes of a share. Each operation of a
    /// transaction costs about as much as a request.
    pub(super) fn weight(bytes: usize, operations: usize) -> usize {
        operations.max(1) + bytes / TURN_SHARE_BYTES
    }
}

impl Replica {
    /// Applies entries until they have taken so much of a share; says how much it was.
    pub(super) fn apply_committed(
        &mut self,
        now: Now,
        most: usize,
        deeds: &mut Vec<Deed>,
    ) -> usize {
        let mut group = core::mem::take(&mut self.group);
        let mut taken: usize = 0;
        loop {
            self.next_to_apply(most.saturating_sub(taken), &mut group);
            if group.is_empty() {
                break;
            }
            let mut contents = [Content::Nothing; PATHS_AT_ONCE];
            for (content, entry) in contents.iter_mut().zip(&group) {
                *content = Content::of(entry);
            }
            let operations = contents.iter().flat_map(Content::operations);
            self.state.tree().look_ahead(operations.filter_map(ArchivedOperation::path));
            for (entry, content) in group.iter().zip(contents) {
                if taken >= most {
                    break;
                }
                self.apply(now, entry, content, deeds);
                taken += Share::weight(entry.payload().len(), content.operations().len());
            }
        }
        self.group = group;
        self.zab.trim(self.state.applied(), &mut self.actions);
        taken
    }

    /// Replaces the content of `group` by some entries that may be applied: no more than `most`
    /// holds, as far as their bytes tell.
    fn next_to_apply(&self, most: usize, group: &mut Vec<Entry>) {
        group.clear();
        let (applied, until) = (self.state.applied(), self.zab.applicable());
        if applied < until {
            let entries = self.zab.log().entries_after(applied).take(PATHS_AT_ONCE);
            let mut left = most;
            let is_next = |entry: &&Entry| {
                let is_next = entry.zxid() <= until && left > 0;
                left = left.saturating_sub(Share::weight(entry.payload().len(), 1));
                is_next
            };
            group.extend(entries.take_while(is_next).cloned());
        }
    }

    fn apply(&mut self, now: Now, entry: &Entry, content: Content<'_>, deeds: &mut Vec<Deed>) {
        self.entries_since_point += 1;
        let zxid = entry.zxid();
        match content {
            Content::Txn(txn) => self.apply_txn(now, zxid, txn, deeds),
            Content::SnapshotPoint => {
                self.state.pass(zxid);
                let at = Mark { zxid, hash: entry.hash() };
                self.on_snapshot_point(at, entry.payload(), deeds);
            }
            Content::Admission => self.on_admission(entry),
            Content::Nothing => self.state.pass(zxid),
        }
        assert_eq!(self.state.applied(), zxid, "entries are applied in order");
        if let Some(reign) = &mut self.reign {
            reign.on_applied(zxid);
        }
        self.answer_applied(zxid, deeds);
        self.tell_digest(zxid, deeds);
    }

    fn apply_txn(&mut self, now: Now, zxid: Zxid, txn: &ArchivedTxn, deeds: &mut Vec<Deed>) {
        let mut applied = core::mem::take(&mut self.applied);
        self.state.apply(zxid, txn, &mut applied);
        // Events come before the reply of the change that causes them, as in ZooKeeper: a client
        // that has seen the reply's zxid is never told of older changes when it comes back.
        for change in applied.changes() {
            self.watches.fire(&change, &mut self.firings);
        }
        self.send_firings(zxid, deeds);
        self.answer_origin(zxid, txn.origin.to_native(), &applied, deeds);
        for &change in applied.sessions() {
            self.forget_given_up(change);
            self.on_session_change(now, change, deeds);
        }
        self.applied = applied;
    }
}
