// SPDX-License-Identifier: GPL-2.0
//! Block I/O descriptors as owned values: a [`Bio`] is ended exactly once, by whoever holds it.

use crate::{disk, ffi, wire};
use core::ptr::{self, NonNull};
use kernel::bindings;

/// log2 of 512-byte sectors in a page.
pub(crate) const SECTORS_SHIFT: u32 = 3;

/// A bio that the block layer has handed to this driver.
#[must_use = "a bio has to be ended"]
#[repr(transparent)]
pub(crate) struct Bio(NonNull<bindings::bio>);

// SAFETY: a bio belongs to its holder, not to a task.
unsafe impl Send for Bio {}

impl Bio {
    /// # Safety
    ///
    /// `raw` is a bio that the caller owns and hands over.
    pub(crate) unsafe fn from_raw(raw: *mut bindings::bio) -> Option<Self> {
        NonNull::new(raw).map(Self)
    }

    pub(crate) fn raw(&self) -> *mut bindings::bio {
        self.0.as_ptr()
    }

    /// One of `ffi::REQ_OP_*`.
    pub(crate) fn op(&self) -> u32 {
        // SAFETY: the bio is ours and alive.
        unsafe { (*self.raw()).bi_opf & ffi::REQ_OP_MASK }
    }

    /// Whether a task sleeps until this bio ends.
    pub(crate) fn is_sync(&self) -> bool {
        // SAFETY: the bio is ours and alive.
        unsafe { (*self.raw()).bi_opf & ffi::REQ_SYNC != 0 }
    }

    /// Length in pages.
    pub(crate) fn pages(&self) -> u32 {
        // SAFETY: the bio is ours and alive.
        unsafe { (*self.raw()).bi_iter.bi_size >> wire::PAGE_SHIFT }
    }

    /// First page on the disk. The block layer has checked that the bio lies on the disk, whose size
    /// in pages fits 32 bits.
    pub(crate) fn index(&self) -> u32 {
        // SAFETY: the bio is ours and alive.
        unsafe { ((*self.raw()).bi_iter.bi_sector >> SECTORS_SHIFT) as u32 }
    }

    /// Which of its device's disks the bio is for.
    pub(crate) fn area(&self) -> u32 {
        // SAFETY: the bio is ours and alive, and so is its disk.
        unsafe { disk::area_of((*(*self.raw()).bi_bdev).bd_disk) }
    }

    /// The memory of a read or write, piece by piece.
    pub(crate) fn segments(&self) -> Segments<'_> {
        // SAFETY: the bio is ours and alive.
        let iter = unsafe { (*self.raw()).bi_iter };
        Segments {
            // SAFETY: `bi_idx` is within the vector, or one past its end when nothing remains.
            vec: unsafe { (*self.raw()).bi_io_vec.wrapping_add(iter.bi_idx as usize) },
            // SAFETY: the bio is ours and alive.
            skip: unsafe { ffi::vtmem_bio_skip(self.raw()) },
            remaining: iter.bi_size,
            _bio: core::marker::PhantomData,
        }
    }

    /// Fills page `nth` of a read with zeroes.
    pub(crate) fn zero_page(&self, nth: u32) {
        let mut at = (nth as u64) << wire::PAGE_SHIFT;
        for segment in self.segments() {
            if at < u64::from(segment.len) {
                // SAFETY: the page lies inside the segment: offsets into the bio and lengths of
                // segments are multiples of a page.
                unsafe {
                    ffi::vtmem_zero_page(segment.page, segment.offset.wrapping_add(at as u32));
                }
                return;
            }
            at = at.wrapping_sub(u64::from(segment.len));
        }
    }

    /// Hands the bio back with one of `ffi::BLK_STS_*`.
    pub(crate) fn end(self, status: u8) {
        // SAFETY: the bio is ours until `bio_endio`, and no more after it.
        unsafe {
            (*self.raw()).bi_status = status;
            bindings::bio_endio(self.raw());
        }
    }
}

/// Physically contiguous memory: `len` bytes from `offset` after the start of `page`.
pub(crate) struct Segment {
    pub(crate) page: *mut bindings::page,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// See [`Bio::segments`].
pub(crate) struct Segments<'a> {
    vec: *const bindings::bio_vec,
    skip: u32,
    remaining: u32,
    _bio: core::marker::PhantomData<&'a Bio>,
}

impl Iterator for Segments<'_> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        if self.remaining == 0 {
            return None;
        }
        // SAFETY: while bytes remain, the vector has an entry for them.
        let vec = unsafe { &*self.vec };
        let len = vec.bv_len.saturating_sub(self.skip).min(self.remaining);
        let segment = Segment {
            page: vec.bv_page,
            offset: vec.bv_offset.wrapping_add(self.skip),
            len,
        };
        self.vec = self.vec.wrapping_add(1);
        self.skip = 0;
        self.remaining = self.remaining.wrapping_sub(len);
        Some(segment)
    }
}

/// A queue of bios, linked through the bios themselves.
pub(crate) struct BioList {
    head: *mut bindings::bio,
    tail: *mut bindings::bio,
    count: u32,
    pages: u32,
}

// SAFETY: the list owns its bios.
unsafe impl Send for BioList {}

impl BioList {
    pub(crate) const fn new() -> Self {
        Self {
            head: ptr::null_mut(),
            tail: ptr::null_mut(),
            count: 0,
            pages: 0,
        }
    }

    pub(crate) fn one(bio: Bio) -> Self {
        let mut list = Self::new();
        list.push(bio);
        list
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_null()
    }

    /// Number of bios.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Sum of the bios' pages.
    pub(crate) fn pages(&self) -> u32 {
        self.pages
    }

    /// Whether each bio begins where the one before it ends.
    pub(crate) fn is_run(&self) -> bool {
        let mut run = true;
        let mut next = None;
        self.for_each(|bio| {
            run &= next.is_none_or(|next| next == bio.index());
            next = Some(bio.index().wrapping_add(bio.pages()));
        });
        run
    }

    /// Adds at the end.
    pub(crate) fn push(&mut self, bio: Bio) {
        self.count = self.count.wrapping_add(1);
        self.pages = self.pages.wrapping_add(bio.pages());
        let raw = bio.raw();
        // SAFETY: the bio is ours, and so is the tail.
        unsafe {
            (*raw).bi_next = ptr::null_mut();
            if self.tail.is_null() {
                self.head = raw;
            } else {
                (*self.tail).bi_next = raw;
            }
        }
        self.tail = raw;
    }

    /// Takes the first.
    pub(crate) fn pop(&mut self) -> Option<Bio> {
        let bio = Bio(NonNull::new(self.head)?);
        // SAFETY: the bio is ours; its `bi_next` was set by `push`.
        unsafe {
            self.head = (*bio.raw()).bi_next;
            (*bio.raw()).bi_next = ptr::null_mut();
        }
        if self.head.is_null() {
            self.tail = ptr::null_mut();
        }
        self.count = self.count.wrapping_sub(1);
        self.pages = self.pages.wrapping_sub(bio.pages());
        Some(bio)
    }

    /// Looks at the first.
    pub(crate) fn first(&self) -> Option<&Bio> {
        if self.head.is_null() {
            return None;
        }
        // SAFETY: `Bio` is one non-null pointer, as is `head` here; the list owns that bio.
        Some(unsafe { &*ptr::from_ref(&self.head).cast::<Bio>() })
    }

    /// Moves all of `other` to the end of this list.
    pub(crate) fn append(&mut self, other: Self) {
        if other.head.is_null() {
            return;
        }
        if self.tail.is_null() {
            self.head = other.head;
        } else {
            // SAFETY: the tail is ours.
            unsafe { (*self.tail).bi_next = other.head };
        }
        self.tail = other.tail;
        self.count = self.count.wrapping_add(other.count);
        self.pages = self.pages.wrapping_add(other.pages);
    }

    /// Takes all.
    pub(crate) fn take(&mut self) -> Self {
        core::mem::replace(self, Self::new())
    }

    /// Calls `each` for every bio, without taking it.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&Bio)) {
        let mut at = self.head;
        while let Some(raw) = NonNull::new(at) {
            let bio = Bio(raw);
            each(&bio);
            // SAFETY: the list owns the bio.
            at = unsafe { (*raw.as_ptr()).bi_next };
        }
    }

    /// Ends every bio with `status`.
    pub(crate) fn end_all(mut self, status: u8) {
        while let Some(bio) = self.pop() {
            bio.end(status);
        }
    }
}
