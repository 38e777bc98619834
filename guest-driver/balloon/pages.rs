// SPDX-License-Identifier: GPL-2.0
//! The pages in the balloon, and those on their way into it.
//!
//! Memory is taken in **blocks** of 512 pages as long as the kernel has such, because the host backs
//! guests with huge pages where it can, and a block costs one entry in one request. What is left is
//! taken as **single pages**. They are the kernel's balloon pages, which it may move when it needs
//! the place (`migrate.rs`); blocks stay where they are.
//!
//! A page is here only when the host has answered for it: until then it is in a [`Batch`], out of the
//! reach of whoever takes pages back. What is here may be taken at any time, by anybody.

use super::ffi::{self, BalloonDevInfo, BLOCK_PAGES};
use crate::{stats::Counter, sync::IrqLock, wire};
use core::ptr;
use kernel::{bindings, prelude::*, static_lock_class, types::Opaque};

/// A page of the kernel, or the first one of a block.
pub(super) type Page = *mut bindings::page;

/// A stack of blocks, linked through their first pages.
struct Blocks {
    top: Page,
}

// SAFETY: the blocks belong to whoever has the stack.
unsafe impl Send for Blocks {}

/// What the balloon holds.
#[pin_data]
pub(super) struct Store {
    blocks: IrqLock<Blocks>,
    #[pin]
    singles: Opaque<BalloonDevInfo>,
    held_blocks: Counter,
    held_singles: Counter,
}

// SAFETY: the kernel serialises the users of a `balloon_dev_info`; all else is under a lock.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

impl Store {
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            blocks: IrqLock::new(Blocks { top: ptr::null_mut() }, static_lock_class!()),
            singles <- Opaque::ffi_init(|slot: *mut BalloonDevInfo| {
                // SAFETY: `slot` is valid for writing, and pinned.
                unsafe { ffi::vtmem_balloon_init(slot) };
            }),
            held_blocks: Counter::new(),
            held_singles: Counter::new(),
        })
    }

    /// The store that a balloon page is in.
    ///
    /// # Safety
    ///
    /// `info` is the `singles` of a `Store`, which outlives `'a`.
    pub(super) unsafe fn of<'a>(info: *mut BalloonDevInfo) -> &'a Self {
        // SAFETY: as for this function.
        unsafe {
            let singles = Opaque::cast_from(info.cast_const());
            &*kernel::container_of!(singles.cast_mut(), Self, singles)
        }
    }

    /// Pages held.
    pub(super) fn held(&self) -> u64 {
        self.held_blocks()
            .wrapping_mul(u64::from(BLOCK_PAGES))
            .wrapping_add(self.held_singles.get())
    }

    pub(super) fn held_blocks(&self) -> u64 {
        self.held_blocks.get()
    }

    /// A single page has left without [`Store::take_singles`].
    pub(super) fn lost_one(&self) {
        self.held_singles.sub(1);
    }

    fn enter_block(&self, block: Page) {
        // SAFETY: the block is ours, and in nobody's use.
        unsafe { ffi::vtmem_balloon_block_in(block) };
        let mut blocks = self.blocks.lock();
        // SAFETY: as above.
        unsafe { ffi::vtmem_balloon_set_next(block, blocks.top) };
        blocks.top = block;
        self.held_blocks.inc();
    }

    fn enter_single(&self, page: Page) {
        self.held_singles.inc();
        // SAFETY: the page is ours, in nobody's use, and on no list.
        unsafe { ffi::balloon_page_enqueue(self.singles.get(), page) };
    }

    /// Takes single pages out, as many as there are and `pages` has room for.
    pub(super) fn take_singles(&self, pages: &mut [Page]) -> usize {
        let room = pages.len() as u32;
        // SAFETY: the array has that much room.
        let taken = unsafe {
            ffi::vtmem_balloon_take(self.singles.get(), pages.as_mut_ptr(), room).min(room)
        };
        self.held_singles.sub(u64::from(taken));
        taken as usize
    }

    /// Takes out the block that came last.
    pub(super) fn take_block(&self) -> Option<Page> {
        let block = {
            let mut blocks = self.blocks.lock();
            let block = blocks.top;
            if block.is_null() {
                return None;
            }
            // SAFETY: a block on the stack is ours.
            blocks.top = unsafe { ffi::vtmem_balloon_next(block) };
            block
        };
        self.held_blocks.sub(1);
        // SAFETY: the block is off the stack, and nobody else's.
        unsafe { ffi::vtmem_balloon_block_out(block) };
        Some(block)
    }

    /// Makes single pages of a block that was taken out: the first `free` of them go to the kernel,
    /// the others back into the store. Calls `each` with the frame of each that goes.
    pub(super) fn split(&self, block: Page, free: u32, mut each: impl FnMut(u64)) {
        // SAFETY: the block is ours; once it is split, so is each of its pages.
        unsafe {
            ffi::vtmem_balloon_split(block);
            for nth in 0..BLOCK_PAGES {
                let page = ffi::vtmem_balloon_nth(block, nth);
                if nth < free {
                    each(ffi::vtmem_balloon_frame(page));
                    ffi::vtmem_balloon_put_page(page);
                } else {
                    self.enter_single(page);
                }
            }
        }
    }
}

/// The guest-physical frame of a page that is ours.
pub(super) fn frame(page: Page) -> u64 {
    // SAFETY: the caller has the page.
    unsafe { ffi::vtmem_balloon_frame(page) }
}

/// Where a page came from, as far as it takes to see how much is left there.
pub(super) struct Place(Page);

// SAFETY: only the zone of the page is looked at, which never changes.
unsafe impl Send for Place {}

impl Place {
    pub(super) const NOWHERE: Self = Self(ptr::null_mut());

    /// Whether free memory is scarce there.
    pub(super) fn is_low(&self) -> bool {
        // SAFETY: a page that was allocated once has its structure and its zone for good.
        !self.0.is_null() && unsafe { ffi::vtmem_balloon_is_low(self.0) }
    }
}

/// Gives the kernel a single page, or a block, that is in nobody's use.
pub(super) fn free(page: Page, block: bool) {
    // SAFETY: the page is ours alone.
    unsafe {
        if block {
            ffi::vtmem_balloon_free_block(page);
        } else {
            ffi::vtmem_balloon_put_page(page);
        }
    }
}

/// Pages that follow each other.
#[derive(Clone, Copy)]
pub(super) struct Range {
    pub(super) first: u64,
    pub(super) pages: u32,
}

/// The ranges of a request, formed page by page. Neighbours in the order in which they come are
/// joined, so that the host has less to do.
pub(super) struct Ranges(KVec<Range>);

impl Ranges {
    pub(super) fn new() -> Result<Self> {
        Ok(Self(KVec::with_capacity(
            wire::BALLOON_RANGES_MAX as usize,
            GFP_KERNEL,
        )?))
    }

    pub(super) fn list(&self) -> &[Range] {
        &self.0
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds `pages` pages from frame `first`; false if there is no room.
    pub(super) fn add(&mut self, first: u64, pages: u32) -> bool {
        if let Some(last) = self.0.last_mut() {
            let joined = last.pages.checked_add(pages);
            if let Some(joined) = joined {
                if last.first.wrapping_add(u64::from(last.pages)) == first {
                    last.pages = joined;
                    return true;
                }
                if first.wrapping_add(u64::from(pages)) == last.first {
                    last.first = first;
                    last.pages = joined;
                    return true;
                }
            }
        }
        self.0.push_within_capacity(Range { first, pages }).is_ok()
    }
}

/// Pages that have left the guest's use and that the host has not answered for. Those that are in
/// it when it is dropped go back to the kernel.
pub(super) struct Batch {
    /// In the order of the ranges, the pages of each in any order.
    pages: KVec<Page>,
    pub(super) ranges: Ranges,
    /// Blocks, a range each; otherwise single pages.
    pub(super) blocks: bool,
}

// SAFETY: the pages belong to whoever has the batch.
unsafe impl Send for Batch {}

/// What the host has said of a batch.
#[derive(Default)]
pub(super) struct Verdict {
    /// Pages that are in the store now.
    pub(super) entered: u64,
    /// Pages that went back to the kernel.
    pub(super) refused: u64,
    /// Why the last of them did.
    pub(super) reason: u8,
}

impl Batch {
    /// For at most `pages` blocks or single pages at a time.
    pub(super) fn new(pages: usize) -> Result<Self> {
        Ok(Self {
            pages: KVec::with_capacity(pages, GFP_KERNEL)?,
            ranges: Ranges::new()?,
            blocks: false,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Where its last page came from.
    pub(super) fn place(&self) -> Place {
        self.pages
            .last()
            .map_or(Place::NOWHERE, |page| Place(*page))
    }

    /// Takes up to `count` blocks from the kernel, fewer when free memory gets scarce by it; false if
    /// it has no more.
    pub(super) fn fill_blocks(&mut self, count: u64) -> bool {
        self.blocks = true;
        for _ in 0..count {
            // SAFETY: the caller may sleep.
            let block = unsafe { ffi::vtmem_balloon_alloc_block() };
            if block.is_null() {
                return false;
            }
            // One range each, so that each has a result of its own.
            let range = Range {
                first: frame(block),
                pages: BLOCK_PAGES,
            };
            if self.ranges.0.push_within_capacity(range).is_err()
                || self.pages.push_within_capacity(block).is_err()
            {
                free(block, true);
                break;
            }
            if Place(block).is_low() {
                break;
            }
        }
        true
    }

    /// Takes up to `count` single pages from the kernel, no more than `few` when free memory is scarce or
    /// gets so; false if it has no more.
    pub(super) fn fill_singles(&mut self, count: u64, few: u64) -> bool {
        self.blocks = false;
        for taken in 0..count {
            if taken >= few && self.place().is_low() {
                break;
            }
            if self.pages.len() == self.pages.capacity() {
                break;
            }
            // SAFETY: the caller may sleep.
            let page = unsafe { ffi::balloon_page_alloc() };
            if page.is_null() {
                return false;
            }
            if !self.ranges.add(frame(page), 1) || self.pages.push_within_capacity(page).is_err() {
                free(page, false);
                break;
            }
        }
        true
    }

    /// Empties the batch: into `store`, or back to the kernel, as `result` says of each range.
    pub(super) fn settle(&mut self, store: &Store, result: impl Fn(usize) -> u8) -> Verdict {
        let mut verdict = Verdict::default();
        let mut pages = self.pages.iter();
        for (nth, range) in self.ranges.list().iter().enumerate() {
            let result = result(nth);
            let entries = if self.blocks { 1 } else { range.pages };
            for &page in pages.by_ref().take(entries as usize) {
                let size = if self.blocks { BLOCK_PAGES } else { 1 };
                if result == wire::balloon_result::OK {
                    verdict.entered = verdict.entered.wrapping_add(u64::from(size));
                    if self.blocks {
                        store.enter_block(page);
                    } else {
                        store.enter_single(page);
                    }
                } else {
                    verdict.refused = verdict.refused.wrapping_add(u64::from(size));
                    verdict.reason = result;
                    free(page, self.blocks);
                }
            }
        }
        self.pages.clear();
        self.ranges.clear();
        verdict
    }

    /// Gives all back to the kernel.
    pub(super) fn abandon(&mut self) {
        for &page in self.pages.iter() {
            free(page, self.blocks);
        }
        self.pages.clear();
        self.ranges.clear();
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.abandon();
    }
}
