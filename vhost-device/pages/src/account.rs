// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a guest may hold and holds: the part of a guest that its pools know.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use crate::policy::Hits;
use crate::tier::Victims;

/// No limit to the frames of a guest.
pub(crate) const NO_CAP: u64 = u64::MAX;
/// The weight of a guest of which nothing else was said.
pub(crate) const WEIGHT_DEFAULT: u64 = 100;

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
    /// Frames that the guest's pages take, of either kind.
    dram: AtomicU64,
    /// Frames that they may take; [`NO_CAP`] if there is no limit.
    cap: AtomicU64,
    /// Frames that are not taken from it for others.
    floor: AtomicU64,
    /// Its share of what is left, against others' weights.
    weight: AtomicU64,
    /// How often a put went beyond the cap, because no page could leave.
    over_cap: AtomicU64,
    /// What the guest's policy wants to hear of hits.
    hits: AtomicU8,
    pub(crate) victims: Victims,
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
            dram: AtomicU64::new(0),
            cap: AtomicU64::new(NO_CAP),
            floor: AtomicU64::new(0),
            weight: AtomicU64::new(WEIGHT_DEFAULT),
            over_cap: AtomicU64::new(0),
            hits: AtomicU8::new(0),
            victims: Victims::default(),
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

    /// Counts frames that pages of this guest take now.
    #[inline]
    pub(crate) fn enter_dram(&self, frames: u64) -> u64 {
        self.dram.fetch_add(frames, Ordering::Relaxed) + frames
    }

    /// Counts frames off.
    #[inline]
    pub(crate) fn leave_dram(&self, frames: u64) {
        self.dram.fetch_sub(frames, Ordering::Relaxed);
    }

    /// Frames that the guest's pages take.
    #[inline]
    pub(crate) fn dram(&self) -> u64 {
        self.dram.load(Ordering::Relaxed)
    }

    /// Frames that they may take, if there is a limit.
    #[inline]
    pub(crate) fn cap(&self) -> Option<u64> {
        let cap = self.cap.load(Ordering::Relaxed);
        (cap != NO_CAP).then_some(cap)
    }

    /// Frames that are not taken from the guest for others, and its weight.
    pub(crate) fn floor_and_weight(&self) -> (u64, u64) {
        (
            self.floor.load(Ordering::Relaxed),
            self.weight.load(Ordering::Relaxed),
        )
    }

    /// Changes what the guest may take of DRAM.
    pub(crate) fn set_dram(&self, cap: Option<u64>, floor: u64, weight: u64) {
        self.cap.store(cap.unwrap_or(NO_CAP), Ordering::Relaxed);
        self.floor.store(floor, Ordering::Relaxed);
        self.weight.store(weight.max(1), Ordering::Relaxed);
    }

    /// One more page would be within the cap.
    #[inline]
    pub(crate) fn has_dram_room(&self) -> bool {
        self.dram() < self.cap.load(Ordering::Relaxed)
    }

    /// Whether the guest takes more frames than it may.
    #[inline]
    pub(crate) fn is_over_cap(&self) -> bool {
        self.dram() > self.cap.load(Ordering::Relaxed)
    }

    /// Counts a put that went beyond the cap.
    pub(crate) fn count_over_cap(&self) {
        self.over_cap.fetch_add(1, Ordering::Relaxed);
    }

    /// Puts that went beyond the cap.
    pub(crate) fn over_cap(&self) -> u64 {
        self.over_cap.load(Ordering::Relaxed)
    }

    /// Frames above the floor that are not about to go.
    pub(crate) fn above_floor(&self) -> u64 {
        let (floor, _) = self.floor_and_weight();
        (self.dram()).saturating_sub(self.victims.len() + floor)
    }

    /// Frames above the floor for the guest's weight, in 2^-16 frames: who has most gives first.
    pub(crate) fn excess(&self) -> u64 {
        self.excess_of(self.dram())
    }

    /// The same without frames that are about to go.
    pub(crate) fn excess_without_victims(&self) -> u64 {
        self.excess_of(self.dram().saturating_sub(self.victims.len()))
    }

    fn excess_of(&self, frames: u64) -> u64 {
        let (floor, weight) = self.floor_and_weight();
        (frames.saturating_sub(floor) << 16) / weight
    }

    /// What the guest's policy wants to hear of hits.
    #[inline]
    pub(crate) fn hits(&self) -> Hits {
        match self.hits.load(Ordering::Relaxed) {
            0 => Hits::None,
            1 => Hits::Any,
            _ => Hits::Ordered,
        }
    }

    /// Changes what the policy wants to hear.
    pub(crate) fn set_hits(&self, hits: Hits) {
        let hits = match hits {
            Hits::None => 0,
            Hits::Any => 1,
            Hits::Ordered => 2,
        };
        self.hits.store(hits, Ordering::Relaxed);
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
