//! Everything that a run leaves to chance, drawn from its seed.

use pigeonhole_core::base::prng::Prng;

/// A stream of draws. Streams of one seed with different purposes are independent, so that more
/// draws for one purpose do not change what the others see.
#[derive(Clone, Debug)]
pub struct Draw {
    prng: Prng,
}

impl Draw {
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut prng = Prng::new(seed ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93));
        prng.next_u64();
        Self { prng }
    }

    pub fn number(&mut self) -> u64 {
        self.prng.next_u64()
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.prng.below(bound)
    }

    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.prng.below(length as u64)).expect("an index fits")
    }

    /// Both ends included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "a range has a low end and a high end");
        low + self.prng.below(high - low + 1)
    }

    pub fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        self.prng.chance(numerator, denominator)
    }

    pub fn per_million(&mut self, rate: u64) -> bool {
        self.prng.below(1_000_000) < rate
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.index(items.len())]
    }

    /// A length with this mean and a tail that halves with every multiple of it.
    pub fn tail(&mut self, mean: u64) -> u64 {
        if mean == 0 {
            return 0;
        }
        let whole = u64::from(self.number().trailing_zeros());
        mean * whole / 2 + self.below(mean)
    }

    /// Every power of two between `low` and `high` is as likely as the next.
    pub fn log_uniform(&mut self, low: u64, high: u64) -> u64 {
        assert!(0 < low && low <= high, "a logarithm needs positive ends");
        let doublings = (high / low).ilog2();
        let base = low << self.below(u64::from(doublings) + 1);
        self.between(base, (base * 2).min(high).max(base))
    }

    /// The index of one of the weights, each as likely as its share.
    pub fn weighted(&mut self, weights: &[u64]) -> usize {
        let total = weights.iter().sum::<u64>();
        let mut rest = self.below(total);
        for (index, &weight) in weights.iter().enumerate() {
            if rest < weight {
                return index;
            }
            rest -= weight;
        }
        unreachable!("the draw lies below the sum of the weights")
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        self.prng.shuffle(items);
    }
}
