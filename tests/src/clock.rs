//! One node's clocks: its own monotonic one, which runs apart from the world's, and its wall clock,
//! which jumps.

use pigeonhole_core::base::time::{Instant, Now};

use crate::draw::Draw;
use crate::queue::Moment;

#[derive(Clone, Debug)]
pub struct Clock {
    /// What the monotonic clock showed when the world began.
    offset_us: u64,
    drift_ppm: i64,
    wall_offset_ms: i64,
}

impl Clock {
    pub fn draw(drift_ppm: i64, draw: &mut Draw) -> Self {
        let spread = u64::try_from(2 * drift_ppm).expect("a drift is given by its size");
        let drift = i64::try_from(draw.below(spread + 1)).expect("it is small") - drift_ppm;
        Self {
            offset_us: draw.below(1 << 40),
            drift_ppm: drift,
            wall_offset_ms: WALL_MS_START + i64::try_from(draw.below(100)).expect("it is small"),
        }
    }

    pub fn now(&self, at: Moment) -> Now {
        let world_ms = i64::try_from(at.0 / 1000).expect("simulated time is short");
        Now { instant: self.instant(at), wall_ms: self.wall_offset_ms + world_ms }
    }

    /// The first moment at which this clock shows `deadline` or more.
    pub fn moment(&self, deadline: Instant) -> Moment {
        let shown = i128::from(deadline.0) - i128::from(self.offset_us);
        let rate = i128::from(MILLION + self.drift_ppm);
        let mut at = Moment(u64::try_from(shown.max(0) * i128::from(MILLION) / rate).unwrap_or(0));
        while self.instant(at) < deadline {
            at += 1;
        }
        at
    }

    /// Somebody sets the wall clock.
    pub fn jump(&mut self, milliseconds: i64) {
        self.wall_offset_ms += milliseconds;
    }

    fn instant(&self, at: Moment) -> Instant {
        let at = i128::from(at.0);
        let shown =
            i128::from(self.offset_us) + at + at * i128::from(self.drift_ppm) / i128::from(MILLION);
        Instant(u64::try_from(shown).expect("a clock does not run backwards"))
    }
}

const MILLION: i64 = 1_000_000;
/// The nodes believe to be in November 2026.
const WALL_MS_START: i64 = 1_795_000_000_000;
