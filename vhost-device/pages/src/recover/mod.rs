// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a new process makes of the files that a dead one left.
//!
//! A process may end between any two instructions. All its stores up to there are seen, in the
//! order of the program, so only the compiler's order matters: a store that ends or begins something
//! is a release store, or lies behind the release of a lock. Each request changes what is recovered
//! by one such store, so that it is found done or not begun:
//!
//! | request | before | the store that counts | after it |
//! | --- | --- | --- | --- |
//! | put, dense | new frame filled and published; no word names it: free | the word | the old frame is named by no word: free |
//! | put, sparse | new frame filled, not published: free | the frame's state | two frames of one page until the old one is disowned: the higher ticket counts, then the generation |
//! | demotion | the page is in a slot, which is reserved: free | dense: the word. sparse: the slot is settled, then the frame disowned; the frame counts if both are there | |
//! | promotion, or a put or flush of a page below | – | dense: the word. sparse: the slot is reserved again | a slot that no word names, or that is reserved, is free |
//! | put, one byte | – | dense: the word; sparse and ephemeral: the old frame is disowned, and the new page vanishes | |
//! | flush, evict, exclusive get, dense | – | each page's word | the frame is named by no word: free |
//! | the same, sparse | – | each page's frame is disowned | its owner record may be another's |
//! | pool made | leaves are zero, no frame names the slot, owner record written | the record's state | |
//! | pool destroyed | – | the record's state: ending | leaves and frames are cleared, here if need be, before the slot is free |
//! | epoch | number written aside | the guest's serial, which no old pool has | pools are destroyed one by one |
//! | guest attached, detached | name and grant written | the record's state | pools are destroyed, the slot is free |
//! | exclusive get with a journal | see `journal.rs` | the caller's: the used ring | |
//!
//! A flush of many pages is one store a page: what it left at its end is flushed again when the
//! request is, and what it flushed was asked to go. Nothing here depends on what the dead process
//! held on its heap: locks, lists of free frames, pins, counts. They are made anew.
//!
//! Recovery changes the files by steps that may themselves be cut short and done again: words and
//! states that nothing names are cleared, and what was ending is let go last.

mod dense;
mod journals;
mod slots;
mod sparse;

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering;

use crate::frame_list::FrameList;
use crate::frames::{FrameNo, Frames};
use crate::handle::PageIndex;
use crate::index::{Index, IndexCounts, Slots};
use crate::limbo::Unresolved;
use crate::pool::{Layout, POOLS_MAX};
use crate::records::State;
use crate::sys::Mapping;
use crate::tier::{LOWER, LowerTier};
use journals::Journals;
use slots::Slotted;
pub(crate) use slots::import;

/// What was found in the files that an engine was opened with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// There was nothing; the rest is 0.
    pub fresh: bool,
    /// Guests, to be attached again or detached.
    pub guests: u64,
    /// Pools of these guests.
    pub pools: u64,
    /// Pages in these pools.
    pub pages: u64,
    /// Those among them that take no frame, the damaged ones included.
    pub same_filled: u64,
    /// Those among them that are below DRAM.
    pub stored: u64,
    /// Frames that the dead process had in use and that hold no page: replaced, flushed, or on
    /// their way.
    pub frames_freed: u64,
    /// Pages that cannot be told any more, because index and frame table disagree, or because a slot of
    /// a file that is taken over is damaged or cannot be read. Of the former, those of dense pools answer
    /// [`GetResult::Corrupt`](crate::GetResult::Corrupt) until they are put or flushed.
    pub damaged: u64,
    /// Requests that had taken pages and of which nobody here knows whether they were answered:
    /// see [`Guest::unresolved`](crate::Guest::unresolved).
    pub unresolved: u64,
}

/// A pool that was found.
#[derive(Debug)]
pub(crate) struct FoundPool {
    pub(crate) slot: u32,
    pub(crate) index: Index,
    pub(crate) counts: IndexCounts,
    ephemeral: bool,
}

/// All that was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) frames: Frames,
    /// Frames that are free.
    pub(crate) owned: FrameList,
    /// Slots of guests.
    pub(crate) guests: Vec<u32>,
    /// Pools by slot.
    pub(crate) pools: Vec<FoundPool>,
    pub(crate) unresolved: Vec<Unresolved>,
    pub(crate) report: Recovery,
}

/// The files of a new engine: nothing is in them, and nothing is read.
pub(crate) fn fresh(mapping: Mapping) -> Found {
    let mut frames = Frames::new(mapping);
    let (owned, _) = frames.settle(&[], None);
    Found {
        frames,
        owned,
        guests: Vec::new(),
        pools: Vec::new(),
        unresolved: Vec::new(),
        report: Recovery {
            fresh: true,
            ..Recovery::default()
        },
    }
}

/// Makes the files of a dead process whole, and says what is in them.
pub(crate) fn recover(mapping: Mapping, lower: &[Option<LowerTier>; LOWER]) -> io::Result<Found> {
    let mut frames = Frames::new(mapping);
    let (guests, mut pools) = live(&frames);
    clear_ended_leaves(&frames, &pools)?;
    let mut scan = Scan {
        used: vec![false; frames.mapping().frames_known()],
        journals: Journals::read(&frames, &pools),
        slots: Slotted::new(&frames, lower),
        lower,
        damaged: 0,
    };
    for pool in &mut pools {
        dense::read(&frames, pool, &mut scan)?;
    }
    let owners = sparse::read(&frames, &mut pools, &mut scan);
    scan.slots.settle(&frames, lower);
    let unresolved = scan.journals.settle(&frames);
    let (owned, frames_freed) = frames.settle(&scan.used, Some(owners));
    let_ended_go(&frames, &guests, &pools);
    let sum = |count: fn(&IndexCounts) -> u64| pools.iter().map(|pool| count(&pool.counts)).sum();
    let report = Recovery {
        fresh: false,
        guests: guests.len() as u64,
        pools: pools.len() as u64,
        pages: sum(|counts| counts.pages),
        same_filled: sum(|counts| counts.same_filled),
        stored: sum(|counts| counts.stored.iter().sum()),
        frames_freed,
        damaged: scan.damaged,
        unresolved: unresolved.len() as u64,
    };
    Ok(Found {
        frames,
        owned,
        guests,
        pools,
        unresolved,
        report,
    })
}

/// What is known while the files are read.
struct Scan<'a> {
    /// Frames that a page, or a taken page, is in.
    used: Vec<bool>,
    journals: Journals,
    slots: Slotted,
    lower: &'a [Option<LowerTier>; LOWER],
    damaged: u64,
}

/// Slots of the guests that are there, and their pools, with empty indices.
fn live(frames: &Frames) -> (Vec<u32>, Vec<FoundPool>) {
    let mapping = frames.mapping();
    let (mut guests, mut pools) = (Vec::new(), Vec::new());
    let mut names = BTreeSet::new();
    for (guest, records) in (0..).zip(mapping.pools().chunks_exact(POOLS_MAX)) {
        let record = &mapping.guests()[guest as usize];
        let mut named = || record.name().is_some_and(|name| names.insert(name));
        if record.state() != State::Live || !named() {
            continue;
        }
        guests.push(guest);
        let first = guest * tmem_abi::POOLS_MAX;
        for (slot, pool) in (first..).zip(records) {
            let spec = pool.spec();
            let fits = match spec.layout {
                Layout::Dense { pages } => {
                    (pages as usize).div_ceil(crate::index::LEAF_WORDS)
                        <= mapping.layout().region_leaves
                }
                Layout::Sparse => true,
            };
            if pool.state() == State::Live && pool.guest_serial() == record.serial() && fits {
                let slots = Slots { guest, pool: slot };
                pools.push(FoundPool {
                    slot,
                    index: Index::new(spec.layout, slots, frames),
                    counts: IndexCounts::default(),
                    ephemeral: spec.kind == crate::pool::PoolKind::Ephemeral,
                });
            }
        }
    }
    (guests, pools)
}

/// Slots of pools that have ended, but whose records are not free.
fn ended<'a>(frames: &'a Frames, pools: &'a [FoundPool]) -> impl Iterator<Item = u32> + 'a {
    let mut live = pools.iter().map(|pool| pool.slot).peekable();
    (0..)
        .zip(frames.mapping().pools())
        .filter_map(move |(slot, record)| {
            let is_live = live.next_if_eq(&slot).is_some();
            (!is_live && record.state() != State::Free).then_some(slot)
        })
}

/// Empties the leaves of pools that have ended.
fn clear_ended_leaves(frames: &Frames, pools: &[FoundPool]) -> io::Result<()> {
    let mapping = frames.mapping();
    let region = mapping.layout().region_leaves;
    for slot in ended(frames, pools) {
        let first = slot as usize * region;
        let leaves = first..first + region;
        if mapping.punch_leaves(leaves.clone()).is_ok() {
            continue;
        }
        // A file system that cannot give memory back can still be written.
        for leaf in mapping.leaves_in_memory(leaves)?.into_iter().flatten() {
            for word in &mapping.leaf(leaf).0 {
                word.store(0, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}

/// Frees the records of what has ended. Nothing of it is left.
fn let_ended_go(frames: &Frames, guests: &[u32], pools: &[FoundPool]) {
    let mapping = frames.mapping();
    for slot in ended(frames, pools) {
        mapping.pools()[slot as usize].clear();
    }
    for (guest, record) in (0..).zip(mapping.guests()) {
        if !guests.contains(&guest) && record.state() != State::Free {
            record.clear();
        }
    }
}

impl Scan<'_> {
    /// Marks the frame of a page as used, if the frame table says the same of it as the index.
    fn claim(
        &mut self,
        frames: &Frames,
        frame: FrameNo,
        (owner, index): (u32, PageIndex),
        ephemeral: bool,
    ) -> bool {
        let Some(used) = self.used.get_mut(frame.0 as usize) else {
            return false;
        };
        let entry = frames.mapping().entry(frame);
        let agrees = entry.is_indexed()
            && entry.is_ephemeral() == ephemeral
            && entry.owner.load(Ordering::Relaxed) == owner
            && entry.index.load(Ordering::Relaxed) == index.0;
        let claimed = agrees && !*used;
        *used |= claimed;
        claimed
    }
}

impl FoundPool {
    /// The pool is ephemeral.
    pub(crate) fn is_ephemeral(&self) -> bool {
        self.ephemeral
    }
}
