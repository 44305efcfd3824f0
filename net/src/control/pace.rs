//! How fast the control thread may write, so that no log waits for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What the logs of this process feel of the disk.
#[derive(Default)]
pub(super) struct Pace {
    /// What a log write took lately, smoothed, and what it takes when nothing disturbs it.
    sync_micros: AtomicU64,
    usual_micros: AtomicU64,
}

impl Pace {
    /// A log write took so long.
    pub(super) fn note(&self, micros: u64) {
        let micros = micros.max(1);
        let smooth = |old: u64| {
            if old == 0 { micros } else { (old * 7 + micros) / 8 }
        };
        let recent = smooth(self.sync_micros.load(Ordering::Relaxed));
        self.sync_micros.store(recent, Ordering::Relaxed);
        // Drifts up slowly, so that one quick sync does not set the measure for good.
        let usual = self.usual_micros.load(Ordering::Relaxed);
        let usual = if usual == 0 { micros } else { micros.min(usual + usual / 64 + 1) };
        self.usual_micros.store(usual, Ordering::Relaxed);
    }

    /// How long to wait after so many bytes; at most so many times longer where the logs feel it.
    pub(super) fn pause(&self, bytes: usize, slower_max: u64) -> Duration {
        let recent = self.sync_micros.load(Ordering::Relaxed);
        let usual = self.usual_micros.load(Ordering::Relaxed).max(1);
        let slower = (recent / usual).clamp(1, slower_max);
        let micros = bytes as u64 * 1_000_000 / BYTES_PER_SECOND_MAX;
        Duration::from_micros(micros * slower)
    }
}

const BYTES_PER_SECOND_MAX: u64 = 64 << 20;
