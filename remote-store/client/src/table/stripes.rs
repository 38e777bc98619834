// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Locks and versions of slots, shared by slots that are far from each other.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

/// A power of two. A change of one slot makes a repair of another in the same stripe start over, so
/// there are many more than pages under repair at one time.
const STRIPES: u32 = 8192;

#[derive(Debug, Default)]
struct Stripe {
    lock: Mutex<()>,
    version: AtomicU64,
}

/// Which stripe a slot is in.
pub(super) const fn number(slot: u32) -> usize {
    (slot & (STRIPES - 1)) as usize
}

/// All of them.
#[derive(Debug)]
pub(super) struct Stripes(Box<[Stripe]>);

impl Stripes {
    pub(super) fn new() -> Self {
        Self((0..STRIPES).map(|_| Stripe::default()).collect())
    }

    fn of(&self, slot: u32) -> &Stripe {
        // The mask keeps it below the length.
        &self.0[number(slot)]
    }

    pub(super) fn versions(&self) -> Vec<u64> {
        (self.0.iter())
            .map(|stripe| stripe.version.load(Ordering::Acquire))
            .collect()
    }

    pub(super) fn version(&self, slot: u32) -> u64 {
        self.of(slot).version.load(Ordering::Acquire)
    }

    pub(super) fn lock(&self, slot: u32) -> Locked<'_> {
        let stripe = self.of(slot);
        Locked {
            _guard: stripe.lock.lock(),
            version: &stripe.version,
        }
    }
}

/// A stripe whose slots nobody else changes.
pub(super) struct Locked<'a> {
    _guard: MutexGuard<'a, ()>,
    version: &'a AtomicU64,
}

impl Locked<'_> {
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// A slot was changed.
    pub(super) fn changed(self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }
}
