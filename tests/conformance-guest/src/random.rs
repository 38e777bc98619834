// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random numbers from one seed (xorshift64*).

/// A generator; the same seed gives the same numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Begins with a seed; each is spread over all bits first.
    pub(crate) const fn new(seed: u64) -> Self {
        let mixed = (seed ^ 0x6a09_e667_f3bc_c908).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The generator stands still at 0.
        Self(if mixed == 0 { 1 } else { mixed })
    }

    /// 64 random bits.
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        let product = (self.next() >> 32) * u64::from(bound);
        u32::try_from(product >> 32).unwrap_or(0)
    }

    /// One of these.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        let length = u32::try_from(of.len()).unwrap_or(u32::MAX);
        of[self.below(length) as usize]
    }
}
