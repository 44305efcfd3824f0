//! States that are dangerous and must be reached: a simulation that never sees them proves nothing.

use std::collections::BTreeMap;
use std::fmt;

macro_rules! states {
    ($($name:ident $text:literal),* $(,)?) => {
        /// One such state.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum State { $($name),* }

        impl State {
            pub const ALL: &[Self] = &[$(Self::$name),*];

            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

states! {
    Elected "a leader was established",
    LeaderChanged "an epoch followed another",
    PlanDiff "a learner was synchronized by DIFF",
    PlanTruncate "a learner was synchronized by TRUNC",
    Truncated "uncommitted entries were truncated",
    LearnerAhead "a learner was ahead of its leader",
    ProposalsLeftBehind "a leader changed with proposals pending",
    InheritedCommitted "a leader committed what an earlier epoch had proposed",
    AppendLost "a crash came between an append and its sync",
    TornWrite "a crash tore a write",
    TornTailCut "recovery cut a torn tail",
    SegmentRolled "a log went on to another segment",
    SegmentRecycled "a segment file was used again",
    SnapshotTaken "a snapshot was published",
    SnapshotUnreadable "a snapshot read back otherwise than it was written",
    SnapshotWithoutRoom "a snapshot was given up because there was no room",
    SnapshotUnwanted "a snapshot was given up because nobody waited for it any more",
    SnapshotRemoved "a snapshot was removed because nobody needed it",
    StartedFromSnapshot "a node started with a snapshot",
    StartedFromOlder "a node started with the older of two snapshots",
    StartedWithoutSnapshot "a node could read none of its snapshots",
    PlanSnapshot "a learner was sent the state",
    TransferInterrupted "a learner was sent the state again, because the first time had failed",
    Installed "a leader's state took a learner's place",
    LogShortened "a segment was let go because snapshots made it unneeded",
    LogTooLong "a log was too long, and a snapshot was asked for",
    DiskLow "a disk was almost full",
    DiskFull "a segment had to wait for room",
    RefusedForRoom "a write was refused because a disk was almost full",
    DiskLost "a node lost its disk",
    DiskAdmitted "a new disk was admitted in the lost one's place",
    Killed "a process was killed",
    Stopped "a process ended in good order",
    HandedOver "a leader that was to end gave up what it led",
    PowerCut "a node lost its power",
    PowerCutAll "all nodes lost their power at once",
    CoresChanged "a node started with another number of cores",
    Partitioned "the network was partitioned",
    Paused "a process stood still",
    PausedLong "a process stood still for seconds",
    LinkReset "a link broke",
    LinkDropped "a worker gave a link up",
    DigestTold "a follower told its leader the digest of its tree",
    RiderDropped "a link was gone when its rider was released",
    SessionCreated "a session was created",
    SessionMoved "a session was re-attached to another server",
    SessionExpired "a session expired",
    ExpiredWithEphemerals "a session expired and left ephemerals to delete",
    SessionClosed "a session was closed by its client",
    UnknownOutcome "a client never heard what became of a write",
    UnknownHappened "such a write had happened",
    WriteRefused "a write was refused with an error",
    Forbidden "a request was refused because of a znode's access list",
    EventWithheld "an event was withheld from somebody who may not read",
    WatchFired "a watch fired",
    PersistentWatchFired "a persistent watch fired",
    RecursiveWatchFired "a persistent watch on a subtree fired",
    WatchRemoved "a watch was taken away by its client",
    WatchFiredInShard "a watch fired in one of several shards, and in its place in order",
    WatchSetAgain "watches were set again on another connection",
    WatchCaughtUp "a watch fired for what happened between two connections",
    MultiFailed "a multi failed as a whole",
    SlowReader "a client stopped reading",
}

/// How often each of them was reached.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sometimes {
    counts: BTreeMap<State, u64>,
}

impl Sometimes {
    pub fn hit(&mut self, state: State) {
        *self.counts.entry(state).or_insert(0) += 1;
    }

    pub fn add(&mut self, other: &Self) {
        for (&state, count) in &other.counts {
            *self.counts.entry(state).or_insert(0) += count;
        }
    }

    pub fn count(&self, state: State) -> u64 {
        self.counts.get(&state).copied().unwrap_or(0)
    }

    pub fn never(&self) -> Vec<State> {
        State::ALL.iter().copied().filter(|&state| self.count(state) == 0).collect()
    }
}

impl fmt::Display for Sometimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &state in State::ALL {
            writeln!(f, "{:>10}  {}", self.count(state), state.text())?;
        }
        Ok(())
    }
}
