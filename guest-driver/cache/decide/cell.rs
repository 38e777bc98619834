// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One word of the filter, 64 blocks, and what is going on around it. Everything that decides
//! about a race is in this file; the caller holds the stripe's lock for each call.

/// Blocks of one word.
pub(crate) const WORD_BLOCKS: u32 = 64;

/// What is going on at the words that share a lock. Words far apart may share one, which costs a
/// copy now and then, and nothing else: every rule here errs on the side of the disk.
#[derive(Debug, Default)]
pub(crate) struct Stripe {
    /// Counts the writes that have begun.
    writes: u32,
    /// Writes under way.
    writers: u32,
    /// Counts the times at which bits were cleared.
    removals: u32,
    /// Blocks with a put or a flush under way at the host, by their place in the word.
    busy: u64,
    /// Blocks of a write that failed, by their place in the word.
    tainted: u64,
}

/// How a write has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The disk has carried it out, or has not touched anything.
    Certain,
    /// It failed: the disk may hold old or new data, or change from one to the other later.
    Unknown,
}

/// What a copy has to have seen unchanged when it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Permit(u32);

/// What a get has to have seen unchanged for its miss to count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen(u32);

/// A word of the filter and its stripe, both under the stripe's lock.
#[derive(Debug)]
pub(crate) struct Cell<'a> {
    pub(crate) stripe: &'a mut Stripe,
    pub(crate) present: &'a mut u64,
}

impl Cell<'_> {
    /// The blocks that the host was given; ask it for no others.
    pub(crate) fn present(&self) -> u64 {
        *self.present
    }

    /// To be handed to [`Cell::missed`].
    pub(crate) fn seen(&self) -> Seen {
        Seen(self.stripe.removals)
    }

    fn remove(&mut self, mask: u64) -> u32 {
        let removed = (*self.present & mask).count_ones();
        if removed > 0 {
            *self.present &= !mask;
            self.stripe.removals = self.stripe.removals.wrapping_add(1);
        }
        removed
    }

    /// The host no longer has the blocks of `mask`, says a get that was sent when `seen` was taken.
    /// If a bit was cleared since, it may have been set since as well, for a page that the host
    /// does have: such a bit is left alone. Returns how many bits were cleared.
    pub(crate) fn missed(&mut self, mask: u64, seen: Seen) -> u32 {
        if self.stripe.removals == seen.0 {
            self.remove(mask)
        } else {
            0
        }
    }

    /// A write, discard or the like of `mask` is about to go to the disk. Returns how many of its
    /// blocks the host was known to hold.
    pub(crate) fn begin_write(&mut self, mask: u64) -> u32 {
        self.stripe.writes = self.stripe.writes.wrapping_add(1);
        self.stripe.writers = self.stripe.writers.saturating_add(1);
        self.remove(mask)
    }

    /// It has ended, and whoever sent it has not been told yet.
    pub(crate) fn end_write(&mut self, mask: u64, outcome: Outcome) {
        self.stripe.writers = self.stripe.writers.saturating_sub(1);
        if outcome == Outcome::Unknown {
            self.stripe.tainted |= mask;
        }
    }

    /// A read of `mask` is about to go to the disk. Says which blocks of it are worth a copy, and
    /// on which condition.
    pub(crate) fn begin_fill(&self, mask: u64) -> Option<(u64, Permit)> {
        let wanted = mask & !*self.present & !self.stripe.busy & !self.stripe.tainted;
        (self.stripe.writers == 0 && wanted != 0).then_some((wanted, Permit(self.stripe.writes)))
    }

    /// No write has begun since `permit` was given, when none was under way.
    fn is_current(&self, permit: Permit) -> bool {
        self.stripe.writes == permit.0
    }

    /// The disk has delivered. Says which blocks of `wanted` shall be put now; they are busy until
    /// [`Cell::end_put`].
    pub(crate) fn begin_put(&mut self, wanted: u64, permit: Permit) -> u64 {
        if !self.is_current(permit) {
            return 0;
        }
        let put = wanted & !*self.present & !self.stripe.busy & !self.stripe.tainted;
        self.stripe.busy |= put;
        put
    }

    /// The put of the blocks `put` has ended, or was never sent; the host has acknowledged those in `stored`.
    /// Returns the blocks that can be read from the host from now on.
    pub(crate) fn end_put(&mut self, put: u64, stored: u64, permit: Permit) -> u64 {
        self.stripe.busy &= !put;
        if !self.is_current(permit) {
            return 0;
        }
        let set = put & stored & !self.stripe.tainted;
        *self.present |= set;
        set
    }

    /// Says which blocks of `mask` the host should be told to forget; they are busy until
    /// [`Cell::end_flush`].
    pub(crate) fn begin_flush(&mut self, mask: u64) -> u64 {
        let gone = mask & !*self.present & !self.stripe.busy;
        self.stripe.busy |= gone;
        gone
    }

    /// The flush has ended, well or not.
    pub(crate) fn end_flush(&mut self, gone: u64) {
        self.stripe.busy &= !gone;
    }

    /// Forgets what the host holds. Copies under way end as if a write had passed.
    pub(crate) fn clear(&mut self) {
        self.remove(u64::MAX);
        self.stripe.writes = self.stripe.writes.wrapping_add(1);
    }

    /// The pool is a fresh one: nothing is under way in it. With `trust`, blocks of failed writes
    /// may be cached again.
    pub(crate) fn renew(&mut self, trust: bool) {
        self.clear();
        self.stripe.busy = 0;
        if trust {
            self.stripe.tainted = 0;
        }
    }
}
