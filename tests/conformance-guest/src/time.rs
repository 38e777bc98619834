// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Patience. No check depends on how fast the device is; a deadline only turns an endless wait into
//! a failure.

use crate::intrinsics::ticks;

/// Ticks after which a device that has not answered does not answer: 4 s at the fastest clock, 20 s
/// at the slowest.
const PATIENCE: u64 = 20_000_000_000;
/// Ticks after which a queue that got a bad chain is taken for stopped, which it may be: 0.4 to 2 s.
const SHORT: u64 = 2_000_000_000;
/// Ticks for which a check watches something that need not happen: a few milliseconds.
const GLANCE: u64 = 20_000_000;

/// A moment after which waiting is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(u64);

impl Deadline {
    /// For an answer that must come.
    pub(crate) fn new() -> Self {
        Self(ticks().wrapping_add(PATIENCE))
    }

    /// For the answer to a bad chain.
    pub(crate) fn short() -> Self {
        Self(ticks().wrapping_add(SHORT))
    }

    /// For a write that should not come.
    pub(crate) fn glance() -> Self {
        Self(ticks().wrapping_add(GLANCE))
    }

    /// Whether it is over.
    pub(crate) fn is_over(self) -> bool {
        ticks() >= self.0
    }
}
