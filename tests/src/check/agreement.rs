//! What all nodes together must never contradict: one history per shard.
//!
//! The checker sees every append, every commit and every epoch of every node, and keeps a log of
//! its own for each. The first node to commit a zxid fixes its chain hash for ever.
//!
//! - *HashChain*, *NoHole*: an entry continues the log that it is appended to, without a gap.
//! - *EpochMonotone*: accepted and current epochs never fall, and accepted is never the lower one.
//! - *PrefixConsistency*: what two nodes commit under one zxid is the same entry.
//! - *CommittedLogDurability*: what is committed is on the disks of a majority of the voters, and
//!   is never truncated.
//! - *Leadership1*, *Leadership2*: an epoch is established by one server, ever.
//! - *LeaderLogCompleteness*: an established leader's log holds everything committed.
//! - *Integrity*: what is committed was appended by somebody before.
//! - *SnapshotCommitted*: a snapshot, taken or installed or begun with, is of a committed point.
//!
//! Other names of the literature follow from these. There is one committed history for all nodes,
//! chained from its first entry on, in the order of zxids: that is *Agreement*, *TotalOrder*,
//! *LocalPrimaryOrder*, *GlobalPrimaryOrder* and *CommitConsistency*. Whoever leads an epoch holds
//! all that was committed before: *PrimaryIntegrity* and *CommitCompleteness*. A follower's entry
//! names the hash of everything before it: *ProcessConsistency* and *HistoryConsistency*. A branch
//! that should never be taken (*ShouldNotBeTriggered*) panics, in the product or where its events
//! are noted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pigeonhole_core::base::id::{ChainHash, DiskId, Sequence, ServerId, ShardId, Zxid};
use pigeonhole_core::control::Control;
use pigeonhole_core::durable::{Append, LogMark, Record};
use pigeonhole_core::entry::{Entry, EntryKind};
use pigeonhole_core::zab::admission;
use pigeonhole_core::zab::log::Restored;

use crate::queue::Moment;
use crate::sometimes::{Sometimes, State};

pub struct Agreement {
    /// So many of the nodes, the first, are voters.
    voters: u8,
    shards: BTreeMap<ShardId, History>,
    mirrors: BTreeMap<(u8, ShardId), Mirror>,
    /// What a node's log said when its disk was lost: it may have acknowledged that just before.
    lost: BTreeMap<(u8, ShardId), Mirror>,
}

/// What is committed in one shard.
#[derive(Default)]
pub struct History {
    pub entries: Vec<Committed>,
    /// Who has established each epoch.
    leaders: BTreeMap<u32, u8>,
    /// When an entry of this zxid and hash was first appended anywhere.
    proposed: BTreeMap<(Zxid, ChainHash), Moment>,
}

#[derive(Clone)]
pub struct Committed {
    pub entry: Entry,
    /// When its leader logged it, and when the first node knew that it was committed.
    pub proposed: Moment,
    pub committed: Moment,
}

/// One node's log of one shard, as its appends say.
#[derive(Default)]
struct Mirror {
    /// Committed, and in a snapshot: what comes before the entries.
    base: (Zxid, ChainHash),
    entries: Vec<Entry>,
    committed: Zxid,
    next: Sequence,
    end: Place,
    durable: Place,
    /// The longest log that was ever durable here.
    durable_high: Zxid,
    in_flight: VecDeque<(Sequence, Place, bool)>,
}

/// What a log says at one of its records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    pub tail: Zxid,
    pub hash: ChainHash,
    pub accepted: u32,
    pub current: u32,
}

impl Agreement {
    pub fn new(voters: u8) -> Self {
        let (shards, mirrors, lost) = Default::default();
        Self { voters, shards, mirrors, lost }
    }

    pub fn on_append(&mut self, node: u8, append: &Append, now: Moment) {
        let mirror = self.mirrors.entry((node, append.shard)).or_default();
        assert_eq!(append.sequence, mirror.next, "NoHole: records of shard {}", append.shard);
        mirror.next = append.sequence.next();
        let truncates = match &append.record {
            Record::Entry(entry) => {
                mirror.push(node, entry);
                let history = self.shards.entry(append.shard).or_default();
                history.proposed.entry((entry.zxid(), entry.hash())).or_insert(now);
                false
            }
            Record::Control(control) => mirror.control(node, control),
        };
        mirror.in_flight.push_back((append.sequence, mirror.end, truncates));
        match append.record {
            Record::Control(Control::Truncate { zxid, .. }) => {
                self.check_truncation(node, append.shard, Zxid(zxid));
            }
            Record::Control(
                Control::Install { zxid, hash, .. } | Control::SnapshotTaken { zxid, hash, .. },
            ) => self.check_snapshot(node, append.shard, Zxid(zxid), ChainHash(hash)),
            Record::Control(_) | Record::Entry(_) => {}
        }
    }

    /// Storage says that a node's log is durable up to a record.
    pub fn on_durable(&mut self, node: u8, mark: LogMark) {
        let mirror = self.mirrors.get_mut(&(node, mark.shard)).expect("it was appended to");
        while let Some(&(sequence, place, _)) = mirror.in_flight.front() {
            if sequence > mark.sequence {
                break;
            }
            mirror.durable = place;
            mirror.durable_high = mirror.durable_high.max(place.tail);
            mirror.in_flight.pop_front();
        }
    }

    /// A node says that everything up to `zxid` is committed.
    pub fn on_committed(
        &mut self,
        node: u8,
        shard: ShardId,
        zxid: Zxid,
        now: Moment,
        sometimes: &mut Sometimes,
    ) {
        let mirror = self.mirrors.get_mut(&(node, shard)).expect("a node commits what it has");
        assert!(zxid <= mirror.end.tail, "n{node} commits {zxid}, which it does not have");
        let from = mirror.committed;
        mirror.committed = from.max(zxid);
        let start = mirror.entries.partition_point(|entry| entry.zxid() <= from);
        let end = mirror.entries.partition_point(|entry| entry.zxid() <= zxid);
        let entries: Vec<Entry> = mirror.entries.get(start..end).unwrap_or_default().to_vec();
        for entry in entries {
            self.commit(node, shard, &entry, now, sometimes);
        }
    }

    /// A server says that its epoch is established.
    pub fn on_established(
        &mut self,
        node: u8,
        shard: ShardId,
        epoch: u32,
        sometimes: &mut Sometimes,
    ) {
        let history = self.shards.entry(shard).or_default();
        let leader = *history.leaders.entry(epoch).or_insert(node);
        assert_eq!(leader, node, "Leadership2: shard {shard} has two leaders of epoch {epoch}");
        sometimes.hit(State::Elected);
        if history.leaders.len() > 1 {
            sometimes.hit(State::LeaderChanged);
        }
        let Some(last) = history.entries.last() else {
            return;
        };
        let mirror = &self.mirrors[&(node, shard)];
        assert!(
            mirror.holds(last.entry.zxid(), last.entry.hash()),
            "LeaderLogCompleteness: n{node} leads epoch {epoch} without {}",
            last.entry.zxid()
        );
    }

    /// A node has been started with what its disk held.
    pub fn on_restart(&mut self, node: u8, restored: &Restored, sometimes: &mut Sometimes) {
        let shard = restored.shard;
        self.check_snapshot(node, shard, restored.base.zxid, restored.base.hash);
        let fresh = Mirror::of(restored);
        let mirror = self.mirrors.entry((node, shard)).or_default();
        let (was, is) = (mirror.durable, fresh.end);
        assert!(
            is.accepted >= was.accepted && is.current >= was.current,
            "EpochMonotone: n{node} had {was:?} on its disk and starts with {is:?}"
        );
        if !mirror.in_flight.is_empty() && is.tail < mirror.end.tail {
            sometimes.hit(State::AppendLost);
        }
        let truncating = mirror.in_flight.iter().any(|&(_, _, truncates)| truncates);
        if !truncating {
            assert!(
                was.tail == Zxid::ZERO || fresh.holds(was.tail, was.hash),
                "MemoryEqualsDisk: n{node} had {was:?} on its disk and starts with {is:?}"
            );
        }
        let history = self.shards.entry(shard).or_default();
        let kept = history.entries.partition_point(|one| one.entry.zxid() <= was.tail);
        if let Some(last) = history.entries[..kept].last() {
            let (zxid, hash) = (last.entry.zxid(), last.entry.hash());
            assert!(
                !mirror.holds(zxid, hash) || fresh.holds(zxid, hash),
                "CommittedLogDurability: n{node} has lost {}",
                last.entry.zxid()
            );
        }
        let known = history.entries.last().map_or(Zxid::ZERO, |last| last.entry.zxid());
        assert!(
            restored.committed <= known,
            "n{node} starts with {} committed, and the cluster has {known}",
            restored.committed
        );
        self.mirrors.insert((node, shard), fresh);
    }

    /// A node's disk is gone: nothing of it counts any more.
    pub fn on_disk_lost(&mut self, node: u8) {
        let (lost, kept) =
            core::mem::take(&mut self.mirrors).into_iter().partition(|&((of, _), _)| of == node);
        self.mirrors = kept;
        self.lost.extend::<BTreeMap<_, _>>(lost);
    }

    /// A node could not read what its disk held of a shard, and knows that.
    pub fn on_shard_lost(&mut self, node: u8, shard: ShardId) {
        if let Some(mirror) = self.mirrors.remove(&(node, shard)) {
            self.lost.insert((node, shard), mirror);
        }
    }

    /// The newest committed entry that names a disk of the server, if it names this one.
    pub fn admission(&self, shard: ShardId, server: ServerId, disk: DiskId) -> Option<Zxid> {
        let entries = self.shards.get(&shard).map_or(&[][..], |history| &history.entries);
        let admissions = entries.iter().rev().map(|one| &one.entry);
        let mut admissions = admissions.filter(|it| it.kind() == EntryKind::Admission);
        let of_server = |entry: &Entry| {
            let mut named = admission::named(entry).into_iter();
            named.find(|&(named, _)| named == server).map(|(_, disk)| (entry.zxid(), disk))
        };
        let (zxid, named) = admissions.find_map(of_server)?;
        (named == disk).then_some(zxid)
    }

    /// What is durable on a node, and the longest log that ever was.
    pub fn durable(&self, node: u8, shard: ShardId) -> (Place, Zxid) {
        let mirror = self.mirrors.get(&(node, shard));
        mirror
            .map_or((Place::default(), Zxid::ZERO), |mirror| (mirror.durable, mirror.durable_high))
    }

    /// The end of a node's log, and whether anything of it is not committed there.
    pub fn has_pending(&self, node: u8, shard: ShardId) -> bool {
        self.mirrors.get(&(node, shard)).is_some_and(|mirror| mirror.committed < mirror.end.tail)
    }

    pub fn history(&self, shard: ShardId) -> Option<&History> {
        self.shards.get(&shard)
    }

    pub fn committed(&self, shard: ShardId) -> Zxid {
        let last = self.shards.get(&shard).and_then(|history| history.entries.last());
        last.map_or(Zxid::ZERO, |last| last.entry.zxid())
    }

    fn commit(
        &mut self,
        node: u8,
        shard: ShardId,
        entry: &Entry,
        now: Moment,
        sometimes: &mut Sometimes,
    ) {
        let history = self.shards.get_mut(&shard).expect("it was proposed");
        let place = history.entries.partition_point(|one| one.entry.zxid() < entry.zxid());
        if let Some(known) = history.entries.get(place) {
            assert_eq!(
                (known.entry.zxid(), known.entry.hash()),
                (entry.zxid(), entry.hash()),
                "PrefixConsistency: n{node} commits {entry:?} in shard {shard}"
            );
            return;
        }
        let last = history.entries.last();
        let hash = last.map_or(ChainHash::default(), |last| last.entry.hash());
        assert_eq!(entry.previous(), hash, "PrefixConsistency: {entry:?} follows something else");
        if entry.zxid().epoch().0 < self.mirrors[&(node, shard)].end.current {
            sometimes.hit(State::InheritedCommitted);
        }
        let proposed = history.proposed[&(entry.zxid(), entry.hash())];
        history.entries.push(Committed { entry: entry.clone(), proposed, committed: now });
        let mirrors = self.mirrors.iter().chain(&self.lost);
        let holders = mirrors.filter(|((node, of), mirror)| {
            *of == shard
                && *node < self.voters
                && mirror.durable.tail >= entry.zxid()
                && mirror.holds(entry.zxid(), entry.hash())
        });
        let holders: BTreeSet<u8> = holders.map(|((node, _), _)| *node).collect();
        assert!(
            holders.len() > usize::from(self.voters) / 2,
            "CommittedLogDurability: n{node} commits {entry:?}, durable on {holders:?} alone"
        );
    }

    fn check_snapshot(&self, node: u8, shard: ShardId, zxid: Zxid, hash: ChainHash) {
        let entries = self.shards.get(&shard).map_or(&[][..], |history| &history.entries);
        let place = entries.binary_search_by_key(&zxid, |one| one.entry.zxid());
        assert!(
            zxid == Zxid::ZERO || place.is_ok_and(|place| entries[place].entry.hash() == hash),
            "SnapshotCommitted: n{node} has one at {zxid} in shard {shard}"
        );
    }

    fn check_truncation(&self, node: u8, shard: ShardId, to: Zxid) {
        let committed = self.mirrors[&(node, shard)].committed;
        assert!(to >= committed, "n{node} truncates to {to}, below its own commit {committed}");
    }
}

impl Mirror {
    fn of(restored: &Restored) -> Self {
        let mut mirror = Self {
            base: (restored.base.zxid, restored.base.hash),
            committed: restored.committed,
            next: restored.next_sequence,
            end: Place {
                tail: restored.base.zxid,
                hash: restored.base.hash,
                accepted: restored.accepted_epoch.0,
                current: restored.current_epoch.0,
            },
            ..Self::default()
        };
        for entry in &restored.entries {
            mirror.push(0, entry);
        }
        mirror.durable = mirror.end;
        mirror.durable_high = mirror.end.tail;
        mirror
    }

    fn push(&mut self, node: u8, entry: &Entry) {
        let (tail, zxid) = (self.end.tail, entry.zxid());
        assert_eq!(entry.previous(), self.end.hash, "HashChain: n{node} appends {entry:?}");
        let continues = zxid.epoch() == tail.epoch() && zxid.counter() == tail.counter() + 1;
        let begins = zxid.epoch() > tail.epoch() && zxid.counter() == 1;
        assert!(continues || begins, "NoHole: n{node} appends {entry:?} behind {tail}");
        self.entries.push(entry.clone());
        self.end.tail = zxid;
        self.end.hash = entry.hash();
    }

    /// Returns whether the record voids entries.
    fn control(&mut self, node: u8, control: &Control) -> bool {
        match *control {
            Control::AcceptedEpoch { epoch } => {
                assert!(epoch >= self.end.accepted, "EpochMonotone: n{node} accepts {epoch}");
                self.end.accepted = epoch;
            }
            Control::CurrentEpoch { epoch } => {
                assert!(epoch >= self.end.current, "EpochMonotone: n{node} enters {epoch}");
                assert!(epoch <= self.end.accepted, "EpochMonotone: n{node} enters {epoch}");
                self.end.current = epoch;
            }
            Control::Truncate { zxid, hash } => {
                self.entries.retain(|entry| entry.zxid().0 <= zxid);
                self.end.tail = Zxid(zxid);
                self.end.hash = ChainHash(hash);
                return true;
            }
            Control::Install { zxid, hash, .. } => {
                assert!(zxid >= self.committed.0, "n{node} installs {zxid}, below its commit");
                self.base = (Zxid(zxid), ChainHash(hash));
                self.entries.clear();
                self.end.tail = Zxid(zxid);
                self.end.hash = ChainHash(hash);
                self.committed = self.committed.max(Zxid(zxid));
                return true;
            }
            Control::SnapshotTaken { .. } => {}
        }
        false
    }

    /// Whether an entry is in this log, or in the snapshot before it: that is of a committed point,
    /// so that it holds every committed entry before.
    fn holds(&self, zxid: Zxid, hash: ChainHash) -> bool {
        let (base, base_hash) = self.base;
        if zxid <= base {
            return zxid < base || hash == base_hash;
        }
        let found = self.entries.binary_search_by_key(&zxid, Entry::zxid);
        found.is_ok_and(|index| self.entries[index].hash() == hash)
    }
}
