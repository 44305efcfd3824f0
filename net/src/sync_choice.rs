//! Which way of making a log write durable is the quicker one, under the load that there is.
//!
//! Both are timed at start, on an idle machine. That says little about a busy one: a data-sync
//! write to a disk without a flush of its own is finished by a kernel thread of the processor that
//! submitted it, and waits for a scheduler tick when that processor is busy; a linked sync is
//! finished by another thread anywhere. So the choice is looked at again when writes have become
//! much slower than the idle machine's.

use crate::ring::SyncPrimitive;

pub(crate) struct SyncChoice {
    current: SyncPrimitive,
    /// What a write took on the idle machine, in microseconds.
    idle_micros: [u64; 2],
    /// The mean of the last round of each, in microseconds.
    mean_micros: [u64; 2],
    round: Round,
    /// Rounds until the other may be tried again.
    patience: u32,
    /// The current one is being tried: the other is the one to beat.
    is_trial: bool,
}

#[derive(Default)]
struct Round {
    writes: u64,
    micros: u64,
}

impl SyncChoice {
    pub(crate) fn new(chosen: SyncPrimitive, data_sync_micros: u64, then_sync_micros: u64) -> Self {
        Self {
            current: chosen,
            idle_micros: [data_sync_micros, then_sync_micros],
            mean_micros: [0; 2],
            round: Round::default(),
            patience: 0,
            is_trial: false,
        }
    }

    pub(crate) fn current(&self) -> SyncPrimitive {
        self.current
    }

    /// A write with the current primitive took so long.
    pub(crate) fn on_written(&mut self, micros: u64) {
        self.round.writes += 1;
        self.round.micros += micros;
        let writes = if self.is_trial { TRIAL_WRITES } else { ROUND_WRITES };
        if self.round.writes < writes {
            return;
        }
        let mean = self.round.micros / self.round.writes;
        self.round = Round::default();
        self.mean_micros[index(self.current)] = mean;
        let other = other(self.current);
        if self.is_trial {
            self.is_trial = false;
            if mean > self.mean_micros[index(other)] {
                self.current = other;
            }
            return;
        }
        self.patience = self.patience.saturating_sub(1);
        let is_slow = mean > SLOWNESS * self.idle_micros[index(self.current)];
        if is_slow && self.patience == 0 {
            self.patience = PATIENCE_ROUNDS;
            self.is_trial = true;
            self.current = other;
        }
    }
}

fn other(primitive: SyncPrimitive) -> SyncPrimitive {
    match primitive {
        SyncPrimitive::DataSyncWrite => SyncPrimitive::WriteThenSync,
        SyncPrimitive::WriteThenSync => SyncPrimitive::DataSyncWrite,
    }
}

fn index(primitive: SyncPrimitive) -> usize {
    match primitive {
        SyncPrimitive::DataSyncWrite => 0,
        SyncPrimitive::WriteThenSync => 1,
    }
}

/// Writes over which a mean is taken.
const ROUND_WRITES: u64 = 256;
/// Writes for which the other one is tried.
const TRIAL_WRITES: u64 = 64;
/// How many times the idle machine's time is slow.
const SLOWNESS: u64 = 2;
/// Rounds between two trials, so that a trial of the worse one costs little.
const PATIENCE_ROUNDS: u32 = 32;

#[cfg(test)]
mod tests {
    use super::SyncChoice;
    use crate::ring::SyncPrimitive;

    fn run(choice: &mut SyncChoice, writes: usize, data_sync: u64, then_sync: u64) -> usize {
        let mut with_then_sync = 0;
        for _ in 0..writes {
            let micros = match choice.current() {
                SyncPrimitive::DataSyncWrite => data_sync,
                SyncPrimitive::WriteThenSync => {
                    with_then_sync += 1;
                    then_sync
                }
            };
            choice.on_written(micros);
        }
        with_then_sync
    }

    #[test]
    fn an_idle_machine_keeps_what_was_quicker_at_start() {
        let mut choice = SyncChoice::new(SyncPrimitive::DataSyncWrite, 100, 130);
        assert_eq!(run(&mut choice, 10_000, 110, 130), 0);
    }

    #[test]
    fn a_busy_one_changes_and_changes_back() {
        let mut choice = SyncChoice::new(SyncPrimitive::DataSyncWrite, 100, 130);
        assert!(run(&mut choice, 10_000, 4000, 300) > 9000);
        assert_eq!(choice.current(), SyncPrimitive::WriteThenSync);
        run(&mut choice, 20_000, 200, 300);
        assert_eq!(choice.current(), SyncPrimitive::DataSyncWrite);
    }

    #[test]
    fn a_disk_that_is_slow_either_way_is_rarely_tried() {
        let mut choice = SyncChoice::new(SyncPrimitive::DataSyncWrite, 100, 130);
        assert!(run(&mut choice, 100_000, 4000, 5000) < 1000);
    }
}
