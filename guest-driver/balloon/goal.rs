// SPDX-License-Identifier: GPL-2.0
//! How much the balloon should hold, and when not to try: numbers in, numbers out.

use crate::wire::{self, balloon_result};

/// Pages of a mebibyte.
pub(super) const MIB_PAGES: u64 = 1 << (20 - wire::PAGE_SHIFT);
/// Without a floor of the administrator's, the guest keeps this share of its memory,
const FLOOR_SHARE: u64 = 8;
/// but at least so much.
const FLOOR_MIN: u64 = 64 * MIB_PAGES;

/// The floor of a guest of `ram` pages: pages that stay with it whatever the host wants. `own` is the
/// administrator's in pages, 0 without one; `agent` is that of the guest's agent.
pub(super) fn floor(ram: u64, own: u64, agent: u64) -> u64 {
    let own = if own == 0 {
        (ram / FLOOR_SHARE).max(FLOOR_MIN)
    } else {
        own
    };
    own.max(agent).min(ram)
}

/// What the balloon works towards: the host's target as far as the floor allows.
pub(super) fn goal(target: u64, ram: u64, floor: u64) -> u64 {
    target.min(ram.saturating_sub(floor))
}

/// A wait that doubles each time that it was in vain.
pub(super) struct Backoff {
    first: u32,
    most: u32,
    next: u32,
}

impl Backoff {
    /// From `first` to `most`, in milliseconds.
    pub(super) const fn new(first: u32, most: u32) -> Self {
        Self {
            first,
            most,
            next: first,
        }
    }

    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }

    /// How long to wait this time.
    pub(super) fn step(&mut self) -> u32 {
        let wait = self.next;
        self.next = wait.saturating_mul(2).min(self.most);
        wait
    }
}

/// What may be tried, after what the host has said since its last wish.
pub(super) struct Ways {
    pub(super) blocks: bool,
    pub(super) singles: bool,
}

impl Ways {
    pub(super) const OPEN: Self = Self {
        blocks: true,
        singles: true,
    };
    pub(super) const CLOSED: Self = Self {
        blocks: false,
        singles: false,
    };

    /// Learns from a refusal of blocks or of single pages.
    pub(super) fn refused(&mut self, reason: u8, blocks: bool) {
        match reason {
            // Larger pages than ours: blocks may still do where single pages do not.
            balloon_result::HUGE if !blocks => self.singles = false,
            // No page will fare better before the host changes its mind.
            balloon_result::HUGE | balloon_result::NO_FILE | balloon_result::OVER => {
                *self = Self::CLOSED;
            }
            // Another page may fare better.
            _ => {}
        }
    }
}

/// A refusal in words.
pub(super) fn words(reason: u8) -> &'static str {
    match reason {
        balloon_result::OUTSIDE => "the pages are outside of the memory that it knows",
        balloon_result::NO_FILE => "the guest's memory is not a shared file",
        balloon_result::HUGE => "the guest's memory is made of huge pages",
        balloon_result::FAILED => "its file system would not",
        balloon_result::OVER => "it wants less",
        _ => "it does not say why",
    }
}
