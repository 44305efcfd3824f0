//! How long turns take: whoever uses a core too long delays everything else on it.

use std::time::{Duration, Instant};

use crate::os;

/// Watches the turns of one core.
#[derive(Default)]
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
    processor_time: Option<Duration>,
}

impl Pulse {
    pub(super) fn turn_begins(&mut self) {
        let wanted = tracing::enabled!(tracing::Level::DEBUG);
        let processor_time = wanted.then(processor_time);
        (self.completions, self.appends) = (0, 0);
        self.begun = Some(Begun { at: Instant::now(), processor_time });
    }

    pub(super) fn turn_ends(&mut self) {
        let Begun { at, processor_time: before } = self.begun.take().expect("it has begun");
        let took = at.elapsed();
        self.longest = self.longest.max(took);
        if took < SLOW {
            return;
        }
        let Self { completions, appends, .. } = self;
        match before {
            Some(before) => {
                let used = processor_time().saturating_sub(before);
                tracing::debug!(
                    "a turn took {took:?}, {used:?} of the processor: {completions} completions, \
                     {appends} records for the log"
                );
            }
            None => tracing::info!(
                "a turn took {took:?}: {completions} completions, {appends} records for the log"
            ),
        }
    }
}

fn processor_time() -> Duration {
    os::thread_processor_time().unwrap_or_default()
}

/// Longer turns are worth a line.
const SLOW: Duration = Duration::from_millis(10);
