//! How long turns take: whoever uses a core too long delays everything else on it.

use std::time::{Duration, Instant};

use pigeonhole_core::base::limits::{
    TURN_ENDING_MS_GOAL, TURN_SHARE_MAX, TURN_SHARE_MIN, TURN_TAKING_MS_MAX,
};

use crate::os::{self, Usage};

/// Watches the turns of one core.
pub(super) struct Pulse {
    begun: Option<Begun>,
    /// What each shard may propose and apply at the end of a turn.
    share: usize,
    /// What the turn had to do.
    pub(super) completions: u32,
    pub(super) appends: u32,
    pub(super) longest: Duration,
}

struct Begun {
    at: Instant,
    /// Only if somebody wants to know it, because it takes a system call.
    usage: Option<Usage>,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self {
            begun: None,
            share: TURN_SHARE_MIN,
            completions: 0,
            appends: 0,
            longest: Duration::ZERO,
        }
    }

    pub(super) fn share(&self) -> usize {
        self.share
    }

    /// What was proposed and applied took so long. It is as much next time as seems to fit, because
    /// nobody can tell what it costs here and now.
    pub(super) fn share_took(&mut self, time: Duration) {
        let goal = Duration::from_millis(TURN_ENDING_MS_GOAL);
        if time > goal {
            self.share = (self.share / 2).max(TURN_SHARE_MIN);
        } else if time < goal / 4 {
            self.share = (self.share * 2).min(TURN_SHARE_MAX);
        }
    }

    pub(super) fn turn_begins(&mut self) {
        let wanted = tracing::enabled!(tracing::Level::DEBUG);
        let usage = wanted.then(usage);
        (self.completions, self.appends) = (0, 0);
        self.begun = Some(Begun { at: Instant::now(), usage });
    }

    /// Whether there is time for another completion in this turn. What is left over is the next
    /// turn's: what has been done so far should not wait for it to be sent and logged.
    pub(super) fn takes_more(&self) -> bool {
        let begun = self.begun.as_ref().expect("it has begun");
        begun.at.elapsed() < Duration::from_millis(TURN_TAKING_MS_MAX)
    }

    pub(super) fn turn_ends(&mut self) {
        let Begun { at, usage: before } = self.begun.take().expect("it has begun");
        let took = at.elapsed();
        self.longest = self.longest.max(took);
        if took < SLOW {
            return;
        }
        let Self { completions, appends, .. } = self;
        match before {
            Some(before) => {
                let after = usage();
                tracing::debug!(
                    "a turn took {took:?}, {:?} of the processor and {:?} of it the kernel's, \
                     {} page faults, {} preemptions: {completions} completions, {appends} records \
                     for the log",
                    after.user + after.system - before.user - before.system,
                    after.system - before.system,
                    after.page_faults - before.page_faults,
                    after.preemptions - before.preemptions,
                );
            }
            None => tracing::info!(
                "a turn took {took:?}: {completions} completions, {appends} records for the log"
            ),
        }
    }
}

fn usage() -> Usage {
    os::thread_usage().unwrap_or_default()
}

/// Longer turns are worth a line.
const SLOW: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_follows_what_it_costs() {
        let mut pulse = Pulse::new();
        for _ in 0..10 {
            pulse.share_took(Duration::from_micros(50));
        }
        assert_eq!(pulse.share(), TURN_SHARE_MAX);
        pulse.share_took(Duration::from_millis(1));
        assert_eq!(pulse.share(), TURN_SHARE_MAX, "it fits");
        for _ in 0..10 {
            pulse.share_took(Duration::from_millis(5));
        }
        assert_eq!(pulse.share(), TURN_SHARE_MIN);
    }
}
