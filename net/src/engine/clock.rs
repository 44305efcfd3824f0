//! The two clocks of a turn, read once.

use std::time::SystemTime;

use pigeonhole_core::base::time::{Instant, Now};

/// Where this process's monotonic clock begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { origin: std::time::Instant::now() }
    }

    pub(crate) fn now(&self) -> Now {
        let micros = self.origin.elapsed().as_micros();
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        // A clock before 1970 is wrong anyway, and only shows in znodes' times.
        let wall_ms = since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        let micros = u64::try_from(micros).expect("a process does not live for 500 000 years");
        Now { instant: Instant(micros), wall_ms }
    }
}
