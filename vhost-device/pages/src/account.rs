// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a guest may hold and holds: the part of a guest that its pools know.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Grant and use in one word, so that one step compares and counts.
#[derive(Debug)]
struct Quota(AtomicU64);

const GRANT_SHIFT: u32 = 32;
const USED_MASK: u64 = (1 << GRANT_SHIFT) - 1;

impl Quota {
    fn grant(word: u64) -> u64 {
        word >> GRANT_SHIFT
    }

    fn used(word: u64) -> u64 {
        word & USED_MASK
    }
}

/// A guest's account.
#[derive(Debug)]
pub(crate) struct Account {
    /// The guest's slot, as it stands in owner records.
    pub(crate) slot: u32,
    quota: Quota,
    frozen: AtomicBool,
    ephemeral_frames: AtomicU64,
    ephemeral_same: AtomicU64,
    /// Same-filled ephemeral pages take no frame and are found by no clock, so their number has a
    /// bound of its own: the engine's frames.
    ephemeral_same_max: u64,
}

impl Account {
    /// An account of a guest that holds nothing.
    pub(crate) fn new(slot: u32, grant: u32, ephemeral_same_max: u64) -> Self {
        Self {
            slot,
            quota: Quota(AtomicU64::new(u64::from(grant) << GRANT_SHIFT)),
            frozen: AtomicBool::new(false),
            ephemeral_frames: AtomicU64::new(0),
            ephemeral_same: AtomicU64::new(0),
            ephemeral_same_max,
        }
    }

    /// Persistent pages that the guest may hold, and that it holds.
    pub(crate) fn grant_and_use(&self) -> (u64, u64) {
        let word = self.quota.0.load(Ordering::Relaxed);
        (Quota::grant(word), Quota::used(word))
    }

    /// Changes the grant, unless the guest holds more; then says how much it holds.
    pub(crate) fn set_grant(&self, grant: u32) -> Result<(), u64> {
        let set = |word| {
            let used = Quota::used(word);
            (used <= u64::from(grant)).then_some(used | (u64::from(grant) << GRANT_SHIFT))
        };
        match (self.quota.0).fetch_update(Ordering::Relaxed, Ordering::Relaxed, set) {
            Ok(_) => Ok(()),
            Err(word) => Err(Quota::used(word)),
        }
    }

    /// Changes the grant, whatever the guest holds.
    pub(crate) fn renew_grant(&self, grant: u32) {
        let set = |word| Some(Quota::used(word) | (u64::from(grant) << GRANT_SHIFT));
        let renewed = (self.quota.0).fetch_update(Ordering::Relaxed, Ordering::Relaxed, set);
        debug_assert!(renewed.is_ok());
    }

    /// Counts one more persistent page, if the grant allows it.
    #[inline]
    pub(crate) fn admit_persistent(&self) -> bool {
        let add = |word| (Quota::used(word) < Quota::grant(word)).then(|| word + 1);
        (self.quota.0)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .is_ok()
    }

    /// Counts a persistent page off.
    #[inline]
    pub(crate) fn leave_persistent(&self) {
        let before = self.quota.0.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(Quota::used(before) > 0);
    }

    /// Counts one more same-filled ephemeral page, if there may be one more.
    #[inline]
    pub(crate) fn admit_ephemeral_same(&self) -> bool {
        add_below(&self.ephemeral_same, self.ephemeral_same_max)
    }

    /// Counts persistent pages that are there, whatever the grant says.
    pub(crate) fn add_persistent(&self, pages: u64) {
        self.quota.0.fetch_add(pages, Ordering::Relaxed);
    }

    /// Counts ephemeral pages that are there.
    #[inline]
    pub(crate) fn add_ephemeral(&self, frames: u64, same: u64) {
        self.ephemeral_frames.fetch_add(frames, Ordering::Relaxed);
        self.ephemeral_same.fetch_add(same, Ordering::Relaxed);
    }

    /// Counts ephemeral pages off.
    #[inline]
    pub(crate) fn leave_ephemeral(&self, frames: u64, same: u64) {
        self.ephemeral_frames.fetch_sub(frames, Ordering::Relaxed);
        self.ephemeral_same.fetch_sub(same, Ordering::Relaxed);
    }

    /// Ephemeral pages in frames.
    pub(crate) fn ephemeral_frames(&self) -> u64 {
        self.ephemeral_frames.load(Ordering::Relaxed)
    }

    /// All ephemeral pages.
    pub(crate) fn ephemeral_pages(&self) -> u64 {
        self.ephemeral_frames() + self.ephemeral_same.load(Ordering::Relaxed)
    }

    /// Refuses or takes puts.
    pub(crate) fn set_frozen(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::Relaxed);
    }

    /// Puts are refused.
    #[inline]
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Relaxed)
    }
}

/// Adds one, unless the count has reached `limit`.
pub(crate) fn add_below(count: &AtomicU64, limit: u64) -> bool {
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
            (now < limit).then(|| now + 1)
        })
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grant_admits_as_many_pages_as_it_says() {
        let account = Account::new(0, 2, 1);
        assert!(account.admit_persistent() && account.admit_persistent());
        assert!(!account.admit_persistent());
        account.leave_persistent();
        assert!(account.admit_persistent());
        assert_eq!(account.grant_and_use(), (2, 2));
    }

    #[test]
    fn grant_is_not_lowered_below_what_is_held() {
        let account = Account::new(0, 2, 1);
        assert!(account.admit_persistent() && account.admit_persistent());
        assert_eq!(account.set_grant(1), Err(2));
        assert_eq!(account.set_grant(u32::MAX), Ok(()));
        assert_eq!(account.grant_and_use(), (u64::from(u32::MAX), 2));
    }

    #[test]
    fn same_filled_ephemeral_pages_have_a_bound() {
        let account = Account::new(0, 0, 1);
        assert!(account.admit_ephemeral_same());
        assert!(!account.admit_ephemeral_same());
        account.leave_ephemeral(0, 1);
        assert!(account.admit_ephemeral_same());
    }
}
