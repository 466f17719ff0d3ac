//! The one source of chance of a simulation: SplitMix64 from the seed.

use protocol::time::Span;

/// A seeded generator. The same seed draws the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed ^ 0x5851_f42d_4c95_7f2d)
    }

    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `min` to `max`, both included.
    pub fn between(&mut self, min: u64, max: u64) -> u64 {
        min + self.draw() % (max.saturating_sub(min) + 1)
    }

    /// A span between two numbers of milliseconds, both included.
    pub fn millis(&mut self, min: u64, max: u64) -> Span {
        Span::from_millis(self.between(min, max))
    }

    /// True `percent` hundredths of `per_mille` times in a thousand.
    pub fn happens(&mut self, per_mille: u64, percent: u64) -> bool {
        self.happens_among(per_mille, percent, 1)
    }

    /// The same, in one of `of` cases.
    pub fn happens_among(&mut self, per_mille: u64, percent: u64, of: u64) -> bool {
        self.draw() % (100_000 * of.max(1)) < per_mille * percent
    }

    /// One of several.
    ///
    /// # Panics
    /// There are none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let last = u64::try_from(from.len()).unwrap_or(u64::MAX) - 1;
        &from[usize::try_from(self.between(0, last)).unwrap_or(0)]
    }
}
