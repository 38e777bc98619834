// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The slot table of a lower tier: which slots are in use, and the tickets of their pages.
//!
//! It lies in the map, 7 bytes a slot in three columns, so that a page below DRAM takes 15 bytes with
//! its index word. What a slot's page is called stands in the slot's own header; the truth about a dense
//! page is its index word, that about a sparse one this table:
//!
//! ```text
//!  FREE ──allocate──▶ RESERVED ──under the page's lock──▶ DENSE or SPARSE
//!    ▲                  │  ▲                                 │
//!    └──────free────────┘  └──────under the page's lock──────┘
//! ```
//! After a kill every reserved slot is free.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::handle::Ticket;
use crate::kept::{Kept8, Kept16, Kept32};

/// The most slots of a tier: 1 TiB.
pub(crate) const SLOTS_MAX: u32 = 1 << 28;
/// Bytes of the table for a slot.
pub(crate) const SLOT_BYTES: usize = 7;

const STATE_SHIFT: u32 = 4;
const FREE: u8 = 0;
const RESERVED: u8 = 1;
const DENSE: u8 = 2;
const SPARSE: u8 = 3;
const _: () = assert!(Ticket::LIMIT == 1 << 52);

/// What a slot is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotState {
    Free,
    /// Being filled, filled for a page that is in DRAM still, or being emptied.
    Reserved,
    /// It has a page of a dense pool, if an index word says so.
    Dense,
    /// It has the page of a sparse pool that its header names.
    Sparse,
}

/// The columns of one tier's table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotTable<'a> {
    pub(crate) low: &'a [Kept32],
    pub(crate) mid: &'a [Kept16],
    /// The ticket's highest 4 bits, and the state above them.
    pub(crate) top: &'a [Kept8],
}

impl SlotTable<'_> {
    pub(crate) fn state(&self, slot: u32) -> SlotState {
        match self.top[slot as usize].load(Ordering::Acquire) >> STATE_SHIFT {
            FREE => SlotState::Free,
            DENSE => SlotState::Dense,
            SPARSE => SlotState::Sparse,
            // What is none of ours can be freed.
            _ => SlotState::Reserved,
        }
    }

    /// The ticket of the slot's page. Sure only under the page's lock.
    #[inline]
    pub(crate) fn ticket(&self, slot: u32) -> u64 {
        let at = slot as usize;
        let top = self.top[at].load(Ordering::Acquire) & ((1 << STATE_SHIFT) - 1);
        u64::from(self.low[at].load(Ordering::Relaxed))
            | (u64::from(self.mid[at].load(Ordering::Relaxed)) << 32)
            | (u64::from(top) << 48)
    }

    /// Reserves a free slot below `end`, the next from `cursor` on: slots that are taken together are
    /// neighbours where there is room, and so one write.
    pub(crate) fn allocate(&self, cursor: &AtomicU32, end: u32) -> Option<u32> {
        let from = cursor.load(Ordering::Relaxed).min(end);
        let free = |slot: &u32| {
            let top = &self.top[*slot as usize];
            let reserved = RESERVED << STATE_SHIFT;
            top.load(Ordering::Relaxed) >> STATE_SHIFT == FREE
                && top
                    .compare_exchange(FREE, reserved, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
        };
        let slot = (from..end).find(free).or_else(|| (0..from).find(free))?;
        cursor.store(slot + 1, Ordering::Relaxed);
        Some(slot)
    }

    /// Says that a reserved slot has a page, under the page's lock.
    pub(crate) fn settle(&self, slot: u32, ticket: u64, dense: bool) {
        let at = slot as usize;
        let [a, b, c, d, e, f, top, _] = ticket.to_le_bytes();
        self.low[at].store(u32::from_le_bytes([a, b, c, d]), Ordering::Relaxed);
        self.mid[at].store(u16::from_le_bytes([e, f]), Ordering::Relaxed);
        let state = if dense { DENSE } else { SPARSE };
        self.top[at].store((state << STATE_SHIFT) | top, Ordering::Release);
    }

    /// Says that a slot's page has left it, under the page's lock. The slot is not free yet.
    pub(crate) fn leave(&self, slot: u32) {
        self.top[slot as usize].store(RESERVED << STATE_SHIFT, Ordering::Release);
    }

    /// Frees a slot that holds nothing.
    pub(crate) fn free(&self, slot: u32) {
        self.top[slot as usize].store(FREE, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_taken_in_turn_and_used_again() {
        let low: Vec<Kept32> = (0..4).map(|_| Kept32::default()).collect();
        let mid: Vec<Kept16> = (0..4).map(|_| Kept16::default()).collect();
        let top: Vec<Kept8> = (0..4).map(|_| Kept8::default()).collect();
        let table = SlotTable {
            low: &low,
            mid: &mid,
            top: &top,
        };
        let cursor = AtomicU32::new(0);
        let taken: Vec<_> = (0..3)
            .map(|_| table.allocate(&cursor, 3).unwrap())
            .collect();
        assert_eq!(taken, [0, 1, 2]);
        assert_eq!(table.allocate(&cursor, 3), None, "the limit holds");
        assert_eq!(table.allocate(&cursor, 4), Some(3));
        table.settle(1, Ticket::MAX.get(), true);
        assert_eq!(table.ticket(1), Ticket::MAX.get());
        assert_eq!(table.state(1), SlotState::Dense);
        table.settle(2, 0x000a_bcde_f123_4567 & (Ticket::LIMIT - 1), false);
        assert_eq!(table.ticket(2), 0x000a_bcde_f123_4567);
        assert_eq!(table.state(2), SlotState::Sparse);
        table.leave(1);
        assert_eq!(
            table.allocate(&cursor, 4),
            None,
            "a reserved slot is not free"
        );
        table.free(1);
        assert_eq!(table.allocate(&cursor, 4), Some(1));
    }
}
