//! The replicas of one core. A turn costs what has happened in it: a replica that nothing has
//! happened to since the last turn is not looked at, however many there are.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::ops::Bound;

use crate::base::error::ErrorCode;
use crate::base::id::ShardId;
use crate::base::limits::BALANCE_PERIOD_MS;
use crate::base::time::{Duration, Instant, Now};
use crate::gateway::{ReadStanding, Replicas};
use crate::mail::Reader;
use crate::op::Request;
use crate::replica::{Deed, Replica, Share};

/// The replicas of this core, with what they have asked for.
#[derive(Default)]
pub(super) struct Shards {
    replicas: BTreeMap<ShardId, Replica>,
    /// Those that something has happened to, or that the last turn had no share left for.
    stirred: BTreeSet<ShardId>,
    /// When something is due in the others, in both directions.
    due: BTreeSet<(Instant, ShardId)>,
    due_at: BTreeMap<ShardId, Instant>,
    /// Whose turn it is to go first.
    first: ShardId,
    /// Leaderships that were handed over, or were to be, and are here all the same.
    handed_over: BTreeMap<ShardId, HandedOver>,
    pub(super) deeds: Vec<(ShardId, Deed)>,
    pub(super) scratch: Vec<Deed>,
}

/// Nobody knows why the others do not want a leadership: perhaps their disks are full. They are
/// asked ever more seldom.
struct HandedOver {
    tries: u32,
    again_at: Instant,
}

impl Shards {
    pub(super) fn insert(&mut self, replica: Replica) {
        let shard = replica.shard();
        self.replicas.insert(shard, replica);
        self.stirred.insert(shard);
        self.collect(shard);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.values()
    }

    /// Lets a replica act, if it is here; tells whether it is.
    pub(super) fn with(
        &mut self,
        shard: ShardId,
        act: impl FnOnce(&mut Replica, &mut Vec<Deed>),
    ) -> bool {
        let Some(replica) = self.replicas.get_mut(&shard) else {
            return false;
        };
        act(replica, &mut self.scratch);
        self.collect(shard);
        self.stir(shard);
        true
    }

    /// Lets each of them act that somebody wants to.
    pub(super) fn each_where(
        &mut self,
        wanted: impl Fn(&Replica) -> bool,
        mut act: impl FnMut(&mut Replica, &mut Vec<Deed>),
    ) {
        let wanted: Vec<_> = self.iter().filter(|it| wanted(it)).map(Replica::shard).collect();
        for shard in wanted {
            self.with(shard, &mut act);
        }
    }

    pub(super) fn on_time(&mut self, now: Now) {
        let due = self.due.iter().take_while(|(at, _)| *at <= now.instant).map(|(_, shard)| *shard);
        let due: Vec<ShardId> = due.chain(self.stirred.iter().copied()).collect();
        for shard in due {
            self.with(shard, |replica, deeds| {
                if replica.deadline().is_some_and(|at| at <= now.instant) {
                    replica.on_time(now, deeds);
                }
            });
        }
    }

    /// Ends the turn of those that it has stirred.
    pub(super) fn on_turn_end(&mut self, now: Now, share: &mut Share) {
        let Self { replicas, stirred, first, deeds, scratch, .. } = self;
        for &shard in stirred.range(*first..).chain(stirred.range(..*first)) {
            let replica = replicas.get_mut(&shard).expect("what was stirred is here");
            replica.on_turn_end(now, share, scratch);
            deeds.extend(scratch.drain(..).map(|deed| (shard, deed)));
        }
    }

    /// The turn is over: whoever has nothing left to do is looked at again when something happens.
    pub(super) fn rest(&mut self) {
        let Self { replicas, stirred, due, due_at, .. } = self;
        stirred.retain(|shard| {
            let replica = &replicas[shard];
            let goes_on = replica.is_in_haste();
            if !goes_on && let Some(at) = replica.deadline() {
                due.insert((at, *shard));
                due_at.insert(*shard, at);
            }
            goes_on
        });
        debug_assert!(self.is_known_of_those_at_rest(), "only what stirs a replica changes it");
    }

    pub(super) fn is_in_haste(&self) -> bool {
        self.stirred().any(Replica::is_in_haste)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let stirred = self.stirred().filter_map(Replica::deadline).min();
        let others = self.due.first().map(|(at, _)| *at);
        stirred.into_iter().chain(others).min()
    }

    /// From now on another shard comes first, and is the last to find its share used up.
    pub(super) fn rotate(&mut self) {
        let after = (Bound::Excluded(self.first), Bound::Unbounded);
        let next = self.replicas.range(after).chain(&self.replicas).next();
        if let Some((&shard, _)) = next {
            self.first = shard;
        }
    }

    /// Hands one shard over, if this core leads more than its share of them and another server
    /// should lead one. Shard 0 stays where it is: its leader is the one that clients are told of.
    pub(super) fn balance(&mut self, now: Now, voters: usize) {
        let replicas = &self.replicas;
        self.handed_over.retain(|shard, _| replicas[shard].zab().is_established_leader());
        let led = replicas.values().filter(|it| it.zab().is_established_leader()).count();
        if led <= replicas.len().div_ceil(voters) {
            return;
        }
        let handed_over = &self.handed_over;
        let may_go = |shard: &ShardId| {
            handed_over.get(shard).is_none_or(|tried| tried.again_at <= now.instant)
        };
        let mut misplaced = replicas.iter().filter(|(shard, replica)| {
            **shard != ShardId(0) && may_go(shard) && replica.zab().should_be_led_by_another()
        });
        if let Some((&shard, _)) = misplaced.next() {
            let tries = self.handed_over.get(&shard).map_or(0, |tried| tried.tries);
            let rest = Duration::from_ms(BALANCE_PERIOD_MS << (tries + 1).min(RESTS_MAX));
            let tried = HandedOver { tries: tries + 1, again_at: now.instant + rest };
            self.handed_over.insert(shard, tried);
            self.with(shard, |replica, deeds| replica.on_hand_over(now, deeds));
        }
    }

    fn stirred(&self) -> impl Iterator<Item = &Replica> {
        self.stirred.iter().map(|shard| &self.replicas[shard])
    }

    fn is_known_of_those_at_rest(&self) -> bool {
        let mut at_rest = self.iter().filter(|it| !self.stirred.contains(&it.shard()));
        at_rest.all(|replica| {
            let due_at = self.due_at.get(&replica.shard()).copied();
            !replica.is_in_haste() && replica.deadline() == due_at
        })
    }

    fn stir(&mut self, shard: ShardId) {
        if self.stirred.insert(shard)
            && let Some(at) = self.due_at.remove(&shard)
        {
            self.due.remove(&(at, shard));
        }
    }

    fn collect(&mut self, shard: ShardId) {
        self.deeds.extend(self.scratch.drain(..).map(|deed| (shard, deed)));
    }
}

impl Replicas for Shards {
    fn read(
        &mut self,
        shard: ShardId,
        reader: &Reader,
        request: &Request<'_>,
        body: &mut Vec<u8>,
    ) -> Option<Result<(), ErrorCode>> {
        let replica = self.replicas.get_mut(&shard)?;
        let result = replica.read(reader, request, body, &mut self.scratch);
        self.deeds.extend(self.scratch.drain(..).map(|deed| (shard, deed)));
        Some(result)
    }

    fn standing(&self, shard: ShardId, now: Instant) -> ReadStanding {
        match self.replicas.get(&shard).filter(|replica| replica.is_current()) {
            None => ReadStanding::Away,
            Some(replica) if replica.is_too_old(now) => ReadStanding::TooOld,
            Some(replica) => ReadStanding::At(replica.applied()),
        }
    }
}

/// An hour, of minutes that double.
const RESTS_MAX: u32 = 6;
