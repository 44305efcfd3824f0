//! How one shard's state follows from its records.
//!
//! The live log steps through it to write checkpoints, and recovery steps through it to check them:
//! one function, so that the two can never disagree.

use pigeonhole_core::base::id::{Epoch, Sequence, Zxid};
use pigeonhole_core::control::{Checkpoint, Control, SnapshotReference};
use pigeonhole_core::durable::Record;
use pigeonhole_core::entry::Entry;

/// Where a shard's log stands, kept up to date record by record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardLog {
    checkpoint: Checkpoint,
}

/// Why a record cannot follow the ones before it. Live, it is a broken invariant; at recovery, a
/// log that no correct program has written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Misstep {
    /// Sequence numbers grow by one.
    Sequence { expected: Sequence, found: Sequence },
    /// Within an epoch the counter grows by one; a new epoch is higher and begins with its own
    /// entry.
    Zxid { tail: Zxid, found: Zxid },
    /// The entry names another predecessor than the tail.
    Chain,
    /// The entry belongs to another shard.
    Shard,
    /// An epoch went backwards, or the current one beyond the accepted one.
    Epoch,
    /// A truncation below what is known to be committed, or beyond the tail.
    Truncate,
    /// A snapshot older than the last one, or of a state beyond the tail.
    Snapshot,
    /// More is said to be committed than was logged.
    Commit,
    /// A segment begins with another state than the one that its stream has led to.
    Checkpoint,
    /// The shard has records in two streams of one boot.
    Stream,
}

impl ShardLog {
    pub fn new(checkpoint: Checkpoint) -> Self {
        Self { checkpoint }
    }

    /// Takes one more record into account. After an error nothing has changed.
    pub fn follow(&mut self, sequence: Sequence, record: &Record) -> Result<(), Misstep> {
        let expected = self.checkpoint.next_sequence();
        if sequence != expected {
            return Err(Misstep::Sequence { expected, found: sequence });
        }
        match record {
            Record::Entry(entry) => self.on_entry(entry)?,
            Record::Control(control) => self.on_control(control)?,
        }
        self.checkpoint.next_sequence = sequence.next().0;
        Ok(())
    }

    /// Everything up to `zxid` is known to be committed; earlier knowledge is never taken back.
    pub fn commit(&mut self, zxid: Zxid) -> Result<(), Misstep> {
        if zxid > self.checkpoint.tail_zxid() {
            return Err(Misstep::Commit);
        }
        self.checkpoint.committed_zxid = self.checkpoint.committed_zxid.max(zxid.0);
        Ok(())
    }

    /// Keeps a promise that was found where the records before it are missing.
    pub(crate) fn accept(&mut self, epoch: Epoch) {
        self.checkpoint.accepted_epoch = self.checkpoint.accepted_epoch.max(epoch.0);
    }

    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    fn on_entry(&mut self, entry: &Entry) -> Result<(), Misstep> {
        let tail = self.checkpoint.tail_zxid();
        let found = entry.zxid();
        if !entry.may_follow(tail) {
            return Err(Misstep::Zxid { tail, found });
        }
        if entry.shard() != self.checkpoint.shard() {
            return Err(Misstep::Shard);
        }
        if entry.previous() != self.checkpoint.tail_hash() {
            return Err(Misstep::Chain);
        }
        self.checkpoint.tail_zxid = found.0;
        self.checkpoint.tail_hash = entry.hash().0;
        Ok(())
    }

    fn on_control(&mut self, control: &Control) -> Result<(), Misstep> {
        let state = &mut self.checkpoint;
        match *control {
            Control::AcceptedEpoch { epoch } => {
                require(epoch >= state.accepted_epoch, Misstep::Epoch)?;
                state.accepted_epoch = epoch;
            }
            Control::CurrentEpoch { epoch } => {
                require(epoch >= state.current_epoch, Misstep::Epoch)?;
                require(epoch <= state.accepted_epoch, Misstep::Epoch)?;
                state.current_epoch = epoch;
                state.unknown = false;
            }
            Control::Truncate { zxid, hash } => {
                require(zxid >= state.committed_zxid, Misstep::Truncate)?;
                require(zxid <= state.tail_zxid, Misstep::Truncate)?;
                state.tail_zxid = zxid;
                state.tail_hash = hash;
            }
            Control::Install { zxid, hash, digest } => {
                // Nothing older lies on the chain that begins here, so that the installed state is
                // also the oldest from which replay can begin.
                let installed = SnapshotReference { zxid, hash, digest };
                state.tail_zxid = zxid;
                state.tail_hash = hash;
                state.committed_zxid = zxid;
                state.snapshot = installed;
                state.snapshot_before = installed;
            }
            Control::SnapshotTaken { zxid, hash, digest } => {
                require(zxid >= state.snapshot.zxid, Misstep::Snapshot)?;
                require(zxid <= state.tail_zxid, Misstep::Snapshot)?;
                // Taken again at the same point, it replaces itself and not its predecessor.
                if zxid > state.snapshot.zxid {
                    state.snapshot_before = state.snapshot;
                }
                state.snapshot = SnapshotReference { zxid, hash, digest };
                // Only committed state is ever in a snapshot.
                state.committed_zxid = state.committed_zxid.max(zxid);
            }
        }
        Ok(())
    }
}

fn require(holds: bool, otherwise: Misstep) -> Result<(), Misstep> {
    if holds { Ok(()) } else { Err(otherwise) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pigeonhole_core::base::id::{ChainHash, ShardId};
    use pigeonhole_core::entry::EntryKind;

    #[test]
    fn what_was_lost_is_settled_by_a_whole_history_and_not_by_a_snapshot() {
        let damaged = Checkpoint { unknown: true, ..Checkpoint::empty(ShardId(3)) };
        let mut log = ShardLog::new(damaged);
        let records = [
            (Control::Install { zxid: 9, hash: 8, digest: 7 }, true),
            (Control::AcceptedEpoch { epoch: 2 }, true),
            (Control::CurrentEpoch { epoch: 2 }, false),
        ];
        for (number, (control, is_unknown)) in (1..).zip(records) {
            log.follow(Sequence(number), &Record::Control(control)).expect("it follows");
            assert_eq!(log.checkpoint().unknown, is_unknown, "after record {number}");
        }
    }

    #[test]
    fn an_epoch_begins_with_its_own_entry_and_nothing_else_does() {
        let shard = ShardId(3);
        let (start, txn) = (EntryKind::EpochStart, EntryKind::Txn);
        let first = Entry::new(start, shard, Zxid::new(Epoch(2), 1), ChainHash::default(), b"");
        for (kind, epoch, counter, follows) in [
            (txn, 2, 2, true),
            (start, 3, 1, true),
            (start, 2, 2, false),
            (txn, 2, 3, false),
            (txn, 3, 1, false),
            (start, 3, 0, false),
            (start, 3, 2, false),
            (start, 1, 1, false),
        ] {
            let mut log = ShardLog::new(Checkpoint::empty(shard));
            log.follow(Sequence(1), &Record::Entry(first.clone())).expect("it begins the epoch");
            let zxid = Zxid::new(Epoch(epoch), counter);
            let second = Entry::new(kind, shard, zxid, first.hash(), b"");
            let followed = log.follow(Sequence(2), &Record::Entry(second));
            assert_eq!(followed.is_ok(), follows, "{kind:?} at {zxid}");
        }
        let last = Checkpoint { tail_zxid: u64::MAX, ..Checkpoint::empty(shard) };
        let second = Entry::new(txn, shard, Zxid(0), ChainHash::default(), b"");
        let followed = ShardLog::new(last).follow(Sequence(1), &Record::Entry(second));
        assert!(matches!(followed, Err(Misstep::Zxid { .. })), "nothing follows the last zxid");
    }
}
