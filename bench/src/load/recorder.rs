//! What a run has seen: latencies of right replies within the measured window, and all errors.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::connection::Operation;
use crate::error::BenchError;

/// Counts replies. Times are nanoseconds since the start of the run.
pub(crate) struct Recorder {
    timed_by: TimedBy,
    window_begin: u64,
    window_end: u64,
    reads: Histogram<u64>,
    writes: Histogram<u64>,
    lateness: Histogram<u64>,
    refusals: BTreeMap<i32, u64>,
    wrong_answers: u64,
    unanswered: u64,
    first_failure: Option<String>,
}

/// Which moment of a request has to lie in the measured window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimedBy {
    /// A closed loop: throughput is what was answered within the window.
    Reply,
    /// An open loop: every request that the schedule puts into the window counts, however late.
    Start,
}

/// A distribution in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
}

impl Recorder {
    pub(crate) fn new(timed_by: TimedBy, window_begin: u64, window_end: u64) -> Self {
        Self {
            timed_by,
            window_begin,
            window_end,
            reads: histogram(),
            writes: histogram(),
            lateness: histogram(),
            refusals: BTreeMap::new(),
            wrong_answers: 0,
            unanswered: 0,
            first_failure: None,
        }
    }

    #[inline]
    pub(crate) fn on_success(&mut self, operation: Operation, started: u64, now: u64) {
        let moment = match self.timed_by {
            TimedBy::Reply => now,
            TimedBy::Start => started,
        };
        if !(self.window_begin..self.window_end).contains(&moment) {
            return;
        }
        let histogram = match operation {
            Operation::Read => &mut self.reads,
            Operation::Write => &mut self.writes,
        };
        histogram.saturating_record(now - started);
    }

    pub(crate) fn on_refusal(&mut self, code: i32) {
        *self.refusals.entry(code).or_default() += 1;
    }

    pub(crate) fn on_wrong_answer(&mut self) {
        self.wrong_answers += 1;
    }

    /// A request of an open loop left this much after its time: the generator's own share.
    pub(crate) fn on_departure(&mut self, lateness: u64) {
        self.lateness.saturating_record(lateness);
    }

    /// Requests that will get no reply, and why.
    pub(crate) fn on_unanswered(&mut self, count: usize, why: &BenchError) {
        self.unanswered += u64::try_from(count).expect("a count fits");
        self.first_failure.get_or_insert_with(|| why.to_string());
    }

    pub(crate) fn completed(&self) -> u64 {
        self.reads.len() + self.writes.len()
    }

    pub(crate) fn errors(&self) -> u64 {
        self.refusals.values().sum::<u64>()
            + self.wrong_answers
            + self.unanswered
            + u64::from(self.first_failure.is_some())
    }

    /// One line about the errors, or nothing.
    pub(crate) fn errors_explained(&self) -> Option<String> {
        if self.errors() == 0 {
            return None;
        }
        let mut parts: Vec<String> =
            self.refusals.iter().map(|(code, count)| format!("{count} × error {code}")).collect();
        parts.push(format!("{} wrong answers, {} unanswered", self.wrong_answers, self.unanswered));
        parts.extend(self.first_failure.clone());
        Some(parts.join("; "))
    }

    pub(crate) fn reads(&self) -> Latency {
        latency(&self.reads)
    }

    pub(crate) fn writes(&self) -> Latency {
        latency(&self.writes)
    }

    pub(crate) fn all(&self) -> Latency {
        let mut all = self.reads.clone();
        all.add(&self.writes).expect("both have the same bounds");
        latency(&all)
    }

    pub(crate) fn lateness(&self) -> Latency {
        latency(&self.lateness)
    }
}

/// From one nanosecond to a minute, at three significant digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order")
}

/// Sums a histogram of nanoseconds up.
pub(crate) fn latency(histogram: &Histogram<u64>) -> Latency {
    let microseconds = |nanoseconds: u64| nanoseconds as f64 / 1000.0;
    let at = |quantile| microseconds(histogram.value_at_quantile(quantile));
    Latency {
        count: histogram.len(),
        p50_us: at(0.5),
        p99_us: at(0.99),
        p999_us: at(0.999),
        max_us: microseconds(histogram.max()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_window_counts_for_latency_and_everything_counts_for_errors() {
        let mut recorder = Recorder::new(TimedBy::Reply, 100_000, 200_000);
        recorder.on_success(Operation::Read, 10_000, 99_999);
        recorder.on_success(Operation::Read, 90_000, 100_000);
        recorder.on_success(Operation::Write, 150_000, 199_999);
        recorder.on_success(Operation::Write, 150_000, 200_000);
        assert_eq!(recorder.completed(), 2);
        assert!((recorder.reads().p50_us - 10.0).abs() < 0.1);
        assert!((recorder.writes().max_us - 50.0).abs() < 0.1);
        assert_eq!(recorder.errors_explained(), None);
        recorder.on_refusal(-101);
        assert_eq!(recorder.errors(), 1);
        assert!(recorder.errors_explained().unwrap().contains("-101"));
    }
}
