//! Which way of making a log write durable is the better one, under the load that there is.
//!
//! Both are timed at start. That says little about later: a data-sync write to a disk without a
//! flush of its own is finished by a kernel thread of the processor that submitted it, and may wait
//! for a scheduler tick when that processor is busy; a linked sync is finished by another thread
//! anywhere. So the other one is tried now and then. They are not judged alike, because a linked
//! sync takes five switches between threads instead of two, which everybody else on the machine
//! pays for: it has to be twice as quick.

use crate::ring::{SyncPrimitive, SyncProbe};

pub(crate) struct SyncChoice {
    current: SyncPrimitive,
    /// Of the running round.
    writes: u64,
    micros: u64,
    /// The mean of the last round, in microseconds.
    mean_micros: u64,
    /// Rounds until the other one is tried.
    rounds_left: u32,
    /// How many there are after a trial that was lost. The last one of a row is the longest.
    patience_rounds: u32,
    /// The current one is being tried, against the mean of the other.
    is_trial: bool,
}

impl SyncChoice {
    /// Without a probe the first trials find out.
    pub(crate) fn new(probe: Option<SyncProbe>) -> Self {
        let linked = SyncPrimitive::WriteThenSync;
        let is_worth_it = probe.is_some_and(|probe| {
            let allowed = probe.data_sync_write_micros * percent_allowed(linked) / 100;
            probe.write_then_sync_micros <= allowed
        });
        Self {
            current: if is_worth_it { linked } else { other(linked) },
            writes: 0,
            micros: 0,
            mean_micros: 0,
            rounds_left: PATIENCE_ROUNDS_MIN,
            patience_rounds: PATIENCE_ROUNDS_MIN,
            is_trial: false,
        }
    }

    pub(crate) fn current(&self) -> SyncPrimitive {
        self.current
    }

    /// A write with the current primitive took so long.
    pub(crate) fn on_written(&mut self, micros: u64) {
        self.writes += 1;
        self.micros += micros;
        if self.is_trial {
            self.judge();
        } else if self.writes == ROUND_WRITES {
            self.end_round();
        }
    }

    fn end_round(&mut self) {
        let mean = self.micros / self.writes;
        let has_changed = mean.abs_diff(self.mean_micros) > self.mean_micros;
        self.mean_micros = mean;
        (self.writes, self.micros) = (0, 0);
        if has_changed {
            // Another load: what the last trials have shown is no longer worth much.
            self.patience_rounds = PATIENCE_ROUNDS_MIN;
            self.rounds_left = self.rounds_left.min(PATIENCE_ROUNDS_MIN);
        }
        self.rounds_left -= 1;
        if self.rounds_left == 0 {
            self.is_trial = true;
            self.current = other(self.current);
        }
    }

    /// A trial is lost as soon as it has taken longer than all of its writes should have: it costs
    /// little even where the other way is many times slower.
    fn judge(&mut self) {
        let allowed = TRIAL_WRITES * self.mean_micros * percent_allowed(self.current) / 100;
        let is_lost = self.micros > allowed;
        if !is_lost && self.writes < TRIAL_WRITES {
            return;
        }
        (self.writes, self.micros) = (0, 0);
        self.is_trial = false;
        if is_lost {
            self.current = other(self.current);
            self.patience_rounds = (2 * self.patience_rounds).min(PATIENCE_ROUNDS_MAX);
        } else {
            self.patience_rounds = PATIENCE_ROUNDS_MIN;
        }
        self.rounds_left = self.patience_rounds;
    }
}

/// How long a write may take with the one that is tried, of what it takes with the one in use. The
/// two do not meet, so that noise does not change the choice back and forth.
fn percent_allowed(tried: SyncPrimitive) -> u64 {
    match tried {
        SyncPrimitive::WriteThenSync => 50,
        SyncPrimitive::DataSyncWrite => 150,
    }
}

fn other(primitive: SyncPrimitive) -> SyncPrimitive {
    match primitive {
        SyncPrimitive::DataSyncWrite => SyncPrimitive::WriteThenSync,
        SyncPrimitive::WriteThenSync => SyncPrimitive::DataSyncWrite,
    }
}

/// Writes over which a mean is taken.
const ROUND_WRITES: u64 = 256;
/// Writes for which the other one is tried.
const TRIAL_WRITES: u64 = 64;
/// Rounds before a trial: the first ones come soon, because a start is no quiet time.
const PATIENCE_ROUNDS_MIN: u32 = 4;
/// Rounds before a trial of what has lost many times: some minutes of a busy log.
const PATIENCE_ROUNDS_MAX: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::SyncChoice;
    use crate::ring::{SyncPrimitive, SyncProbe};

    /// How many of so many writes went the linked way, and what all took, in microseconds.
    fn run(choice: &mut SyncChoice, writes: u64, data_sync: u64, then_sync: u64) -> (u64, u64) {
        let (mut with_then_sync, mut total) = (0, 0);
        for _ in 0..writes {
            let micros = match choice.current() {
                SyncPrimitive::DataSyncWrite => data_sync,
                SyncPrimitive::WriteThenSync => {
                    with_then_sync += 1;
                    then_sync
                }
            };
            total += micros;
            choice.on_written(micros);
        }
        (with_then_sync, total)
    }

    /// As a disk would have it that takes so long for each.
    fn begun(data_sync_write_micros: u64, write_then_sync_micros: u64) -> SyncChoice {
        SyncChoice::new(Some(SyncProbe { data_sync_write_micros, write_then_sync_micros }))
    }

    #[test]
    fn a_linked_sync_has_to_be_twice_as_quick() {
        for (probed, data_sync, then_sync) in [
            ((110, 130), 110, 130),
            ((400, 300), 400, 300),
            // A wrong choice at a noisy start does not last.
            ((400, 100), 400, 300),
            ((400, 100), 110, 160),
        ] {
            let mut choice = begun(probed.0, probed.1);
            let (with_then_sync, _) = run(&mut choice, 100_000, data_sync, then_sync);
            assert!(with_then_sync < 2000, "{with_then_sync}");
            assert_eq!(choice.current(), SyncPrimitive::DataSyncWrite);
        }
    }

    #[test]
    fn a_busy_machine_changes_it_and_a_quiet_one_changes_it_back() {
        let mut choice = begun(110, 160);
        run(&mut choice, 10_000, 110, 160);
        assert_eq!(choice.current(), SyncPrimitive::DataSyncWrite);
        let (with_then_sync, _) = run(&mut choice, 10_000, 4000, 300);
        assert!(with_then_sync > 8000, "{with_then_sync}");
        run(&mut choice, 10_000, 110, 160);
        assert_eq!(choice.current(), SyncPrimitive::DataSyncWrite);
    }

    #[test]
    fn trials_of_what_is_many_times_slower_cost_little() {
        let mut choice = begun(4000, 160);
        let (_, total) = run(&mut choice, 100_000, 4000, 160);
        assert!(total < 100_000 * 160 * 102 / 100, "{total}");
    }
}
