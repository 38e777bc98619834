// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The end of a write: what was acknowledged is named in the table, or all of it is taken back.

use std::sync::atomic::Ordering;

use super::error::WriteError;
use super::write::{Part, Written};
use crate::control::MemberNo;
use crate::shared::{Flush, Held, Note, Shared};
use crate::table::Pinned;

/// A part whose puts are over.
pub(super) struct Commit<'a, C> {
    pub(super) shared: &'a Shared<C>,
    pub(super) part: &'a Part<'a>,
    /// The host holds the pages, and the driver makes the other copies.
    pub(super) late: bool,
}

impl<C> Commit<'_, C> {
    pub(super) fn run(self) -> Result<Written, WriteError> {
        let settings = &self.shared.settings;
        let fewest = self.part.acked.iter().map(|acked| acked.count_ones()).min();
        let fewest = u8::try_from(fewest.unwrap_or(0)).unwrap_or(u8::MAX);
        if fewest < settings.min_copies {
            return Err(self.too_few(fewest));
        }
        let mut copies = settings.replicas;
        let mut pinned: Option<Pinned<'_>> = None;
        for at in 0..self.part.pages.len() {
            let named = self.name(at, &mut pinned);
            let count = u8::try_from(named.count_ones()).unwrap_or(u8::MAX);
            if count < settings.min_copies {
                return Err(self.too_few(count));
            }
            copies = copies.min(count);
            self.settle(at, named);
        }
        Ok(Written { copies })
    }

    /// The table names the copies of a page, of those members that are trusted as they were.
    fn name<'s>(&'s self, at: usize, pinned: &mut Option<Pinned<'s>>) -> u64 {
        let part = self.part;
        let (Some((slot, header, _)), Some(acked)) = (part.pages.get(at), part.acked.get(at))
        else {
            return 0;
        };
        loop {
            let trusted = self.trusted(*acked);
            if trusted == 0 {
                return 0;
            }
            let set = match pinned.take() {
                Some(set) if set.mask() == trusted => set,
                _ => self.shared.table.pin_some(trusted),
            };
            if self.late {
                let held = Held {
                    generation: part.first + at as u64,
                    checksum: header.checksum,
                    page: part.page(at),
                };
                // Without room for it, a repair makes the other copies.
                let _ = self.shared.hold(*slot, held);
            }
            let named = set.mask();
            let still = || self.trusted(named) == named;
            let done = self.shared.table.set(*slot, &set, still);
            *pinned = Some(set);
            if done {
                return named;
            }
        }
    }

    fn trusted(&self, members: u64) -> u64 {
        let same = |member: &MemberNo| {
            let then = self.part.trust.get(member.index()).copied().unwrap_or(0);
            then != 0 && self.shared.trust(*member) == then
        };
        MemberNo::all_in(members)
            .filter(same)
            .fold(0, |mask, member| mask | member.bit())
    }

    /// What else lies about is flushed, and what is missing is told.
    fn settle(&self, at: usize, named: u64) {
        let Some((slot, ..)) = self.part.pages.get(at) else {
            return;
        };
        let (slot, generation) = (*slot, self.part.first + at as u64);
        let old = self.part.old.get(at).copied().unwrap_or(0);
        self.shared.flush_later([
            // One older than the page: a repair may bring that to the same store.
            Flush {
                slot,
                generation: generation - 1,
                members: old & !named,
            },
            Flush {
                slot,
                generation,
                members: self.part.tried & !named,
            },
        ]);
        if named.count_ones() >= u32::from(self.shared.settings.replicas) {
            return;
        }
        if self.late && self.shared.held(slot).is_some() {
            self.shared.note(Note::Late(slot));
        } else {
            self.shared.metrics.total.degraded_writes.one();
            self.shared.note(Note::Check(slot));
        }
    }

    fn too_few(&self, copies: u8) -> WriteError {
        self.shared.give_back(self.part);
        if let Some(epoch) = self.shared.fenced_by() {
            return WriteError::Fenced { epoch };
        }
        let why = self.part.why.clone();
        match copies {
            0 => WriteError::NoStore { why },
            _ => WriteError::TooFew {
                copies,
                wanted: self.shared.settings.min_copies,
                why,
            },
        }
    }
}

impl<C> Shared<C> {
    /// Nobody names what was put, nor what was there before.
    pub(super) fn give_back(&self, part: &Part<'_>) {
        for (at, ((slot, ..), generation)) in part.pages.iter().zip(part.first..).enumerate() {
            let old = part.old.get(at).copied().unwrap_or(0);
            let named = self.table.clear(*slot).unwrap_or(0);
            self.let_go(*slot, None);
            self.flush_later([Flush {
                slot: *slot,
                generation,
                members: old | named | part.tried,
            }]);
        }
    }

    /// These slots hold no page. What stores have of them is flushed some time.
    pub(crate) fn forget(&self, slots: impl Iterator<Item = u32>) {
        let generation = self.table.last_generation();
        let below = self.table.slots();
        let flushes: Vec<Flush> = slots
            .filter(|slot| *slot < below)
            .filter_map(|slot| {
                let members = self.table.clear(slot)?;
                self.let_go(slot, None);
                Some(Flush {
                    slot,
                    generation,
                    members,
                })
            })
            .collect();
        self.flush_later(flushes);
    }

    /// Pages that every store so far takes at once.
    pub(super) fn pages_max(&self) -> usize {
        self.pages_max.load(Ordering::Relaxed).max(1)
    }

    pub(super) fn lower_pages_max(&self, most: usize) {
        self.pages_max.fetch_min(most.max(1), Ordering::Relaxed);
    }
}
