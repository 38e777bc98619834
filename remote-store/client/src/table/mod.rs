// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where every page's copies are: one byte a slot, in memory that outlives the process.
//!
//! ```text
//!  slot ──▶ mark, 1 byte ──▶ mask, 64 bits: bit n = member n has a copy        sets.rs
//!             0: no page       1..=64: one member    65..=254: interned    255: a page that is lost
//!  slot ──▶ stripe: a lock, and a version that each change of a slot counts up  stripes.rs
//!  words: epoch, generations, masks of the interned sets, members' names        (below)
//! ```
//! Readers take no lock. Whoever changes a slot holds its stripe's lock and counts its version up, so
//! that work that looked at the slot before (a repair's copy, a store's list of pages, a page that was
//! asked for in advance) notices that it has changed, and does not count.
//!
//! A mark is set when copies are acknowledged and not before, so a kill between any two instructions
//! leaves a slot that names copies which are there. Copies that no mark names are found when the
//! store's list is compared with the table.

mod generations;
mod sets;
mod stripes;

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use thiserror::Error;
use tmem_pages::slots::{SlotError, SlotHeader, SlotMemory};

use crate::hash::hash;
use crate::settings::MEMBERS_MAX;
use generations::Generations;
pub use generations::NoGeneration;
use sets::Sets;
pub use sets::{Pinned, SetsFull};
use stripes::Stripes;

/// What the words mean. They are kept from one version of this program to the next.
mod words {
    /// [`super::FORM`].
    pub(super) const FORM: usize = 0;
    pub(super) const EPOCH: usize = 1;
    pub(super) const GENERATION: usize = 2;
    pub(super) const NAMESPACE: usize = 3;
    pub(super) const SLOTS: usize = 4;
    /// Two for each member: its name's hash, its store's incarnation.
    pub(super) const MEMBERS: usize = 16;
    /// One for each interned set.
    pub(super) const SETS: usize = MEMBERS + 2 * super::MEMBERS_MAX;
}
const _: () = assert!(words::SETS + sets::INTERNED <= tmem_pages::slots::SLOT_MEMORY_WORDS);

/// This meaning of words and marks.
const FORM: u64 = 0x7461_626c_6500_0001;

/// A table that cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TableError {
    /// It was made by another kind of tier, or by a later version.
    #[error(
        "Cannot use the table of copies: something else made it (form {form:#x}); remove it, and the pages it knows of"
    )]
    OtherForm {
        /// What its first word says.
        form: u64,
    },
    /// Its pages belong to another namespace.
    #[error(
        "Cannot use the table of copies for the namespace {namespace:?}: it was made for another; give that name, or remove the table, and the pages it knows of"
    )]
    OtherNamespace {
        /// The namespace that was asked for.
        namespace: String,
    },
    /// There are no generations or epochs left.
    #[error("Cannot number another page: all generations are used up")]
    NoGeneration(#[from] NoGeneration),
}

/// How many pages have how many copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Slots with a page.
    pub pages: u64,
    /// Of these, with fewer copies than there should be, the lost ones among them.
    pub below: u64,
    /// Of these, without any copy.
    pub lost: u64,
    /// Copies on each member.
    pub copies: [u64; MEMBERS_MAX],
}

/// What is remembered of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Its number.
    pub number: u8,
    /// The hash of its name. Never 0.
    pub name: u64,
    /// Which life of its store was compared with the table last; 0 for none.
    pub incarnation: u64,
}

/// See the module's head.
pub struct Table {
    memory: SlotMemory,
    slots: AtomicU32,
    epoch: u64,
    sets: Sets,
    stripes: Stripes,
    generations: Generations,
}

impl Table {
    /// Takes over what the last process of this namespace left, or begins.
    ///
    /// # Errors
    /// [`TableError`]; nothing is changed then.
    pub fn open(
        memory: SlotMemory,
        namespace: &str,
        slots: u32,
        epoch_floor: u64,
    ) -> Result<Self, TableError> {
        let name = hash(namespace.as_bytes());
        let fresh = match memory.word(words::FORM) {
            0 => true,
            FORM => false,
            form => return Err(TableError::OtherForm { form }),
        };
        if !fresh && memory.word(words::NAMESPACE) != name {
            let namespace = namespace.into();
            return Err(TableError::OtherNamespace { namespace });
        }
        let epoch = (memory.word(words::EPOCH).saturating_add(1)).max(epoch_floor);
        memory.set_word(words::EPOCH, epoch);
        if fresh {
            memory.set_word(words::NAMESPACE, name);
            memory.set_word(words::SLOTS, slots.into());
            memory.set_word(words::FORM, FORM);
        }
        // The engine knows slots up to the number there was.
        let slots = u32::try_from(memory.word(words::SLOTS)).unwrap_or(slots);
        let sets = Sets::new(|interned| memory.word(words::SETS + interned));
        if !fresh {
            (0..slots).for_each(|slot| sets.count(memory.mark(slot)));
        }
        let generations = Generations::new(memory.word(words::GENERATION))?;
        Ok(Self {
            memory,
            slots: AtomicU32::new(slots),
            epoch,
            sets,
            stripes: Stripes::new(),
            generations,
        })
    }

    /// A number drawn when the memory was made.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.memory.id()
    }

    /// Which session of this namespace this is: higher than all before.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Slots that there are.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots.load(Ordering::Acquire)
    }

    /// Changes their number. Those beyond must hold no page.
    pub fn set_slots(&self, slots: u32) {
        self.memory.set_word(words::SLOTS, slots.into());
        self.slots.store(slots, Ordering::Release);
    }

    /// Members with a copy of the slot's page; an empty mask if it is lost; nothing without a page.
    ///
    /// What it says may be over at once. Whoever acts on it compares [versions](Self::version).
    #[must_use]
    pub fn copies(&self, slot: u32) -> Option<u64> {
        if slot >= self.slots() {
            return None;
        }
        self.sets.mask(self.memory.mark(slot))
    }

    /// A number that is another one whenever the slot was changed.
    #[must_use]
    pub fn version(&self, slot: u32) -> u64 {
        self.stripes.version(slot)
    }

    /// The versions of all slots, to be asked with [`Self::was`].
    pub(crate) fn versions(&self) -> Vec<u64> {
        self.stripes.versions()
    }

    /// The version that a slot had then.
    pub(crate) fn was(&self, versions: &[u64], slot: u32) -> Option<u64> {
        versions.get(stripes::number(slot)).copied()
    }

    /// Holds a set of members, to be given to slots.
    ///
    /// # Errors
    /// [`SetsFull`] if too many different ones are in use. Sets of one member, and the empty one,
    /// never fail.
    pub fn pin(&self, mask: u64) -> Result<Pinned<'_>, SetsFull> {
        self.sets.pin(mask, |interned, mask| {
            self.memory.set_word(words::SETS + interned, mask);
        })
    }

    /// As [`Self::pin`], with fewer members if there are too many sets.
    #[must_use]
    pub fn pin_some(&self, mask: u64) -> Pinned<'_> {
        match self.pin(mask) {
            Ok(pinned) => pinned,
            // One member's set is always there.
            Err(SetsFull) => self.sets.single(mask),
        }
    }

    /// The slot has these copies, if `still` says so when nothing else can change it. False if not.
    pub fn set(&self, slot: u32, copies: &Pinned<'_>, still: impl FnOnce() -> bool) -> bool {
        let stripe = self.stripes.lock(slot);
        if !still() {
            return false;
        }
        self.put_mark(slot, copies.mark());
        stripe.changed();
        true
    }

    /// The slot holds no page. Returns who had copies.
    pub fn clear(&self, slot: u32) -> Option<u64> {
        let stripe = self.stripes.lock(slot);
        let old = self.sets.mask(self.memory.mark(slot));
        self.put_mark(slot, sets::NONE);
        stripe.changed();
        old
    }

    /// The slot has these copies, if it is as it was: of this version, with the copies `expected`.
    pub fn replace(&self, slot: u32, version: u64, expected: u64, copies: &Pinned<'_>) -> bool {
        self.replace_if(slot, version, expected, copies, || true)
    }

    /// As [`Self::replace`], if `still` says so too.
    pub fn replace_if(
        &self,
        slot: u32,
        version: u64,
        expected: u64,
        copies: &Pinned<'_>,
        still: impl FnOnce() -> bool,
    ) -> bool {
        let stripe = self.stripes.lock(slot);
        let same =
            stripe.version() == version && self.sets.mask(self.memory.mark(slot)) == Some(expected);
        if !same || !still() {
            return false;
        }
        self.put_mark(slot, copies.mark());
        stripe.changed();
        true
    }

    /// These members have no copy any more, if `still` (which is told the version) says so. Returns the
    /// copies that are left and whether that changed anything; nothing if there is no page.
    pub fn remove(
        &self,
        slot: u32,
        members: u64,
        still: impl Fn(u64) -> bool,
    ) -> Option<(u64, bool)> {
        loop {
            let version = self.version(slot);
            let mask = self.copies(slot)?;
            if mask & members == 0 || !still(version) {
                return Some((mask, false));
            }
            let left = self.pin_some(mask & !members);
            if self.replace(slot, version, mask, &left) {
                return Some((left.mask(), true));
            }
        }
    }

    fn put_mark(&self, slot: u32, mark: u8) {
        let old = self.memory.mark(slot);
        self.memory.set_mark(slot, mark);
        self.sets.moved(old, mark);
    }

    /// The next generations: this many, from the one that is returned.
    ///
    /// # Errors
    /// [`NoGeneration`] if all have been used.
    pub fn generations(&self, count: u32) -> Result<u64, NoGeneration> {
        self.generations.take(count, |high_water| {
            self.memory.set_word(words::GENERATION, high_water);
        })
    }

    /// The last generation that was given out: whatever was kept before has none above.
    #[must_use]
    pub fn last_generation(&self) -> u64 {
        self.generations.last()
    }

    /// Members that were remembered, by number.
    #[must_use]
    pub fn remembered(&self) -> Vec<Remembered> {
        (0_u8..)
            .zip(0..MEMBERS_MAX)
            .map(|(number, at)| Remembered {
                number,
                name: self.memory.word(words::MEMBERS + 2 * at),
                incarnation: self.memory.word(words::MEMBERS + 2 * at + 1),
            })
            .filter(|member| member.name != 0)
            .collect()
    }

    /// Remembers a member; with a name of 0, forgets it.
    pub fn remember(&self, member: Remembered) {
        let at = words::MEMBERS + 2 * usize::from(member.number).min(MEMBERS_MAX - 1);
        // Never a new name with an old store's life.
        self.memory.set_word(at + 1, 0);
        self.memory.set_word(at, member.name);
        self.memory.set_word(at + 1, member.incarnation);
    }

    /// Counts pages by the copies that they have and should have.
    #[must_use]
    pub fn counts(&self, replicas: u8) -> Counts {
        let mut counts = Counts {
            pages: 0,
            below: 0,
            lost: 0,
            copies: [0; MEMBERS_MAX],
        };
        self.sets.each_used(|mask, uses| {
            counts.pages += uses;
            if mask.count_ones() < u32::from(replicas) {
                counts.below += uses;
            }
            if mask == 0 {
                counts.lost += uses;
            }
            for (member, copies) in counts.copies.iter_mut().enumerate() {
                if mask & (1 << member) != 0 {
                    *copies += uses;
                }
            }
        });
        counts
    }

    /// Notes what a slot's page is. Only those that are found by nothing else are kept.
    ///
    /// # Errors
    /// [`SlotError`] if there is no memory.
    pub fn set_header(&self, slot: u32, header: &SlotHeader) -> Result<(), SlotError> {
        if header.flags & SlotHeader::BY_HEADER == 0 {
            return Ok(());
        }
        self.memory.set_header(slot, header)
    }

    /// What a slot's page is, if it has one and that was noted.
    ///
    /// # Errors
    /// [`SlotError`] if that cannot be read.
    pub fn header(&self, slot: u32) -> Result<Option<SlotHeader>, SlotError> {
        match self.copies(slot) {
            Some(_) => self.memory.header(slot),
            None => Ok(None),
        }
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("slots", &self.slots())
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
