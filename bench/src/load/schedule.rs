//! When and what to ask: the arrivals of an open loop, the mix of operations, and their randomness.

use std::str::FromStr;
use std::time::Duration;

/// How much of a load is reads; the rest are writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mix {
    pub(crate) read_percent: u32,
}

/// How requests of an open loop are spread over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arrivals {
    /// At equal distances.
    Constant,
    /// Independent of each other, as from many callers.
    Poisson,
}

/// A small seeded generator, xorshift64*: two runs ask for the same keys.
pub(crate) struct Random(u64);

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read_percent = match text {
            "read" => 100,
            "write" => 0,
            _ => text
                .strip_prefix("mixed:")
                .and_then(|percent| percent.parse().ok())
                .filter(|percent| *percent <= 100)
                .ok_or("expected `read`, `write` or `mixed:<percent of reads>`")?,
        };
        Ok(Self { read_percent })
    }
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // The generator never leaves zero, and small seeds need mixing.
        Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `limit`.
    #[inline]
    pub(crate) fn below(&mut self, limit: u32) -> u32 {
        let scaled = (u64::from(self.half()) * u64::from(limit)) >> 32;
        u32::try_from(scaled).expect("below a 32-bit limit")
    }

    #[inline]
    fn half(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let mixed = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
        u32::try_from(mixed >> 32).expect("the upper half")
    }
}

/// Every arrival of a run, in nanoseconds since its start, made before the run begins.
pub(crate) fn arrivals(rate: u32, span: Duration, kind: Arrivals, random: &mut Random) -> Vec<u64> {
    let gap = Duration::from_secs(1).as_secs_f64() / f64::from(rate);
    let mut arrivals = Vec::new();
    let mut at = 0.0;
    while at < span.as_secs_f64() {
        arrivals.push(nanoseconds(Duration::from_secs_f64(at)));
        at += match kind {
            Arrivals::Constant => gap,
            Arrivals::Poisson => {
                let uniform = (f64::from(random.half()) + 1.0) / (f64::from(u32::MAX) + 2.0);
                -gap * uniform.ln()
            }
        };
    }
    arrivals
}

/// A time since the start of a run; these fit for five hundred years.
#[inline]
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    time.as_secs() * 1_000_000_000 + u64::from(time.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_arrivals_keep_the_rate_and_the_order() {
        let span = Duration::from_secs(10);
        for kind in [Arrivals::Constant, Arrivals::Poisson] {
            let arrivals = arrivals(2000, span, kind, &mut Random::new(1));
            assert!(arrivals.is_sorted());
            assert!((19_000..21_000).contains(&arrivals.len()), "{}", arrivals.len());
            assert!(*arrivals.last().unwrap() < nanoseconds(span));
        }
    }

    #[test]
    fn numbers_stay_below_their_limit_and_reach_all_of_it() {
        let mut random = Random::new(0);
        let mut seen = [0_u32; 10];
        for _ in 0..10_000 {
            seen[random.below(10) as usize] += 1;
        }
        assert!(seen.iter().all(|count| (800..1200).contains(count)), "{seen:?}");
    }

    #[test]
    fn a_mix_is_read_from_its_name() {
        assert_eq!("mixed:70".parse(), Ok(Mix { read_percent: 70 }));
        assert_eq!("write".parse(), Ok(Mix { read_percent: 0 }));
        assert!("mixed:101".parse::<Mix>().is_err());
        assert!("both".parse::<Mix>().is_err());
    }
}
