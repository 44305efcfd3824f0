//! How long turns take: whoever uses a core too long delays everything else on it.

use std::time::{Duration, Instant};

use pigeonhole_core::base::limits::TURN_TAKING_MS_MAX;

use crate::os::{self, Usage};

/// Watches the turns of one core.
pub(super) struct Pulse {
    begun: Option<Begun>,
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
        Self { begun: None, completions: 0, appends: 0, longest: Duration::ZERO }
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
