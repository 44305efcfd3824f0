//! The logs of a few nodes, written by hand and shown to the checker of agreement record by record.

use std::collections::BTreeMap;

use pigeonhole_core::base::id::{ChainHash, Epoch, Sequence, ShardId, Zxid};
use pigeonhole_core::control::Control;
use pigeonhole_core::durable::{Append, LogMark, Record};
use pigeonhole_core::entry::{Entry, EntryKind};
use pigeonhole_core::txn::{Operation, Txn};
use pigeonhole_tests::check::agreement::Agreement;
use pigeonhole_tests::queue::Moment;
use pigeonhole_tests::sometimes::Sometimes;

pub(crate) struct Logs {
    pub(crate) agreement: Agreement,
    pub(crate) sometimes: Sometimes,
    pub(crate) now: Moment,
    next: BTreeMap<(u8, ShardId), Sequence>,
}

pub(crate) const NODES: u8 = 3;
pub(crate) const SHARD: ShardId = ShardId(0);

impl Logs {
    pub(crate) fn new() -> Self {
        Self {
            agreement: Agreement::new(NODES),
            sometimes: Sometimes::default(),
            now: Moment(0),
            next: BTreeMap::new(),
        }
    }

    /// Every node is in this epoch, and node 0 leads it.
    pub(crate) fn in_epoch(epoch: u32) -> Self {
        let mut logs = Self::new();
        for node in 0..NODES {
            logs.enter(node, epoch);
        }
        logs.establish(0, epoch);
        logs
    }

    pub(crate) fn enter(&mut self, node: u8, epoch: u32) {
        self.control(node, Control::AcceptedEpoch { epoch });
        self.control(node, Control::CurrentEpoch { epoch });
        self.sync(node, SHARD);
    }

    pub(crate) fn establish(&mut self, node: u8, epoch: u32) {
        self.agreement.on_established(node, SHARD, epoch, &mut self.sometimes);
    }

    pub(crate) fn control(&mut self, node: u8, control: Control) {
        self.append(node, SHARD, Record::Control(control));
    }

    pub(crate) fn entry(&mut self, node: u8, entry: &Entry) {
        self.append(node, entry.shard(), Record::Entry(entry.clone()));
    }

    pub(crate) fn append(&mut self, node: u8, shard: ShardId, record: Record) {
        let next = self.next.entry((node, shard)).or_default();
        let append = Append { shard, sequence: *next, record, riders: Vec::new() };
        *next = next.next();
        self.agreement.on_append(node, &append, self.now);
    }

    /// All that a node has appended to a shard is on its disk.
    pub(crate) fn sync(&mut self, node: u8, shard: ShardId) {
        let next = self.next[&(node, shard)];
        let mark = LogMark { shard, sequence: Sequence(next.0 - 1) };
        self.agreement.on_durable(node, mark);
    }

    pub(crate) fn commit(&mut self, node: u8, shard: ShardId, zxid: Zxid) {
        let (now, sometimes) = (self.now, &mut self.sometimes);
        self.agreement.on_committed(node, shard, zxid, now, sometimes);
    }

    /// The entry is on every disk, and every node knows that.
    pub(crate) fn replicate(&mut self, entry: &Entry) {
        for node in 0..NODES {
            self.entry(node, entry);
            self.sync(node, entry.shard());
        }
        for node in 0..NODES {
            self.commit(node, entry.shard(), entry.zxid());
        }
    }
}

pub(crate) fn zxid(epoch: u32, counter: u32) -> Zxid {
    Zxid::new(Epoch(epoch), counter)
}

/// The first entry of an epoch.
pub(crate) fn epoch_start(epoch: u32, previous: ChainHash) -> Entry {
    Entry::new(EntryKind::EpochStart, SHARD, zxid(epoch, 1), previous, &[])
}

/// An entry that deletes a znode: what it is does not matter to the log.
pub(crate) fn delete(at: Zxid, previous: ChainHash, path: &str) -> Entry {
    let operations = vec![Operation::Delete { path: path.to_owned() }];
    let txn = Txn { operations, ..Txn::default() };
    Entry::new(EntryKind::Txn, SHARD, at, previous, &txn.to_bytes())
}
