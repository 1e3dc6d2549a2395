//! Where the choices come from: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
//! generators", 2014).

#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// One of `0..n`; 0 if `n` is 0. Slightly uneven for huge `n`, which does no harm here.
    pub(super) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % (n as u64).max(1)).unwrap_or(0)
    }

    pub(super) fn coin(&mut self) -> bool {
        self.next() >> 63 == 1
    }

    /// A bias for a row of choices, from never to always.
    pub(super) fn bias(&mut self) -> Bias {
        Bias(self.below(Bias::STEPS + 1))
    }
}

/// How likely "yes" is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bias(usize);

impl Bias {
    const STEPS: usize = 8;

    pub(super) fn yes(self, rng: &mut Rng) -> bool {
        rng.below(Self::STEPS) < self.0
    }
}
