// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sets of members, each named by one byte.
//!
//! Sets of one member have fixed names, so that a copy less is always possible. Others get a name when
//! they are first used, and lose it to another set once no slot has it. The word of a set is stored
//! before the first slot is marked with it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;
use thiserror::Error;

use crate::settings::MEMBERS_MAX;

/// The mark of a slot without a page.
pub(super) const NONE: u8 = 0;
/// The mark of a page without copies.
pub(super) const LOST: u8 = u8::MAX;
/// The first mark of a set that is named when it is used. Those below stand for one member each.
const FIRST: u8 = 65;
/// How many such marks there are.
pub(super) const INTERNED: usize = (LOST - FIRST) as usize;
const MARKS: usize = 256;

/// No name is free: every one is of a set that slots have.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("all {INTERNED} names of sets of stores are in use")]
pub struct SetsFull;

pub(super) struct Sets {
    masks: Box<[AtomicU64; MARKS]>,
    /// Slots with this mark, and pins.
    uses: Box<[AtomicU32; MARKS]>,
    by_mask: Mutex<BTreeMap<u64, u8>>,
}

impl fmt::Debug for Sets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sets").finish_non_exhaustive()
    }
}

/// A set that keeps its name as long as this lives.
#[derive(Debug)]
pub struct Pinned<'a> {
    sets: &'a Sets,
    mark: u8,
}

impl Pinned<'_> {
    pub(super) fn mark(&self) -> u8 {
        self.mark
    }

    /// The members.
    #[must_use]
    pub fn mask(&self) -> u64 {
        self.sets.mask(self.mark).unwrap_or(0)
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        self.sets.uses[usize::from(self.mark)].fetch_sub(1, Ordering::AcqRel);
    }
}

impl Sets {
    /// The sets whose words were kept.
    pub(super) fn new(word: impl Fn(usize) -> u64) -> Self {
        let mut by_mask = BTreeMap::new();
        let masks = std::array::from_fn(|at| AtomicU64::new(fixed(at).unwrap_or(0)));
        for (mark, interned) in (FIRST..LOST).zip(0..) {
            let mask = word(interned);
            masks[usize::from(mark)].store(mask, Ordering::Relaxed);
            if mask != 0 {
                by_mask.insert(mask, mark);
            }
        }
        Self {
            masks: Box::new(masks),
            uses: Box::new(std::array::from_fn(|_| AtomicU32::new(0))),
            by_mask: Mutex::new(by_mask),
        }
    }

    /// A slot has this mark, found at the start.
    pub(super) fn count(&self, mark: u8) {
        if mark != NONE {
            self.uses[usize::from(mark)].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What a mark stands for.
    pub(super) fn mask(&self, mark: u8) -> Option<u64> {
        (mark != NONE).then(|| self.masks[usize::from(mark)].load(Ordering::Acquire))
    }

    /// A slot went from one mark to another, which is pinned.
    pub(super) fn moved(&self, old: u8, new: u8) {
        self.count(new);
        if old != NONE {
            self.uses[usize::from(old)].fetch_sub(1, Ordering::AcqRel);
        }
    }

    pub(super) fn pin(
        &self,
        mask: u64,
        store: impl FnOnce(usize, u64),
    ) -> Result<Pinned<'_>, SetsFull> {
        if mask.count_ones() < 2 {
            return Ok(self.single(mask));
        }
        let mut by_mask = self.by_mask.lock();
        let mark = match by_mask.get(&mask) {
            Some(mark) => *mark,
            None => {
                // Under the lock no unused name becomes used.
                let unused = |mark: &u8| self.uses[usize::from(*mark)].load(Ordering::Acquire) == 0;
                let mark = (FIRST..LOST).find(unused).ok_or(SetsFull)?;
                let word = &self.masks[usize::from(mark)];
                let old = word.load(Ordering::Relaxed);
                if by_mask.get(&old) == Some(&mark) {
                    by_mask.remove(&old);
                }
                store(usize::from(mark - FIRST), mask);
                word.store(mask, Ordering::Release);
                by_mask.insert(mask, mark);
                mark
            }
        };
        Ok(self.hold(mark))
    }

    /// The set of the first of these members, or the empty one.
    pub(super) fn single(&self, mask: u64) -> Pinned<'_> {
        let first = u8::try_from(mask.trailing_zeros()).unwrap_or(u8::MAX);
        self.hold(if mask == 0 { LOST } else { first + 1 })
    }

    fn hold(&self, mark: u8) -> Pinned<'_> {
        self.uses[usize::from(mark)].fetch_add(1, Ordering::AcqRel);
        Pinned { sets: self, mark }
    }

    /// Calls `found` with each set that is in use, and by how many.
    pub(super) fn each_used(&self, mut found: impl FnMut(u64, u64)) {
        for mark in 1..=LOST {
            let uses = self.uses[usize::from(mark)].load(Ordering::Relaxed);
            if uses > 0
                && let Some(mask) = self.mask(mark)
            {
                found(mask, uses.into());
            }
        }
    }
}

/// The mask of a mark that always has the same.
fn fixed(mark: usize) -> Option<u64> {
    let member = mark.checked_sub(1)?;
    (member < MEMBERS_MAX).then(|| 1 << member)
}
