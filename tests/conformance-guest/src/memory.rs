// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory as the checks use it: pieces with bounds, read and written as a device may change
//! them at any time. All of the program's dealings with bare addresses are here.

use core::marker::PhantomData;
use core::mem::size_of;

use crate::intrinsics::{copy, equal, fill};

/// Bytes that one processor writes at once.
pub(crate) trait Word: Copy {}
impl Word for u8 {}
impl Word for u16 {}
impl Word for u32 {}
impl Word for u64 {}

/// A piece of memory that this program owns, or of a device's registers. Copies are the same piece.
///
/// No Rust reference to it ever exists, so the device and other copies may change it at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    start: usize,
    bytes: usize,
}

impl Region {
    /// # Safety
    /// The bytes must be mapped and hold nothing that the Rust program itself keeps there.
    pub(crate) const unsafe fn new(start: usize, bytes: usize) -> Self {
        Self { start, bytes }
    }

    /// Its address: guest physical and virtual are the same.
    pub(crate) const fn address(self) -> u64 {
        self.start as u64
    }

    /// Its length in bytes.
    pub(crate) const fn bytes(self) -> usize {
        self.bytes
    }

    /// Its length as descriptors count.
    pub(crate) fn length(self) -> u32 {
        u32::try_from(self.bytes).unwrap_or(u32::MAX)
    }

    /// A part of it; a mistake of this program ends it.
    #[track_caller]
    pub(crate) fn part(self, offset: usize, bytes: usize) -> Self {
        assert!(
            offset <= self.bytes && bytes <= self.bytes - offset,
            "part {offset}+{bytes} of {}",
            self.bytes
        );
        Self {
            start: self.start + offset,
            bytes,
        }
    }

    /// The `n`th page of it.
    #[track_caller]
    pub(crate) fn page(self, n: usize) -> Self {
        self.part(n * 4096, 4096)
    }

    /// Pages `first .. first + count` of it.
    #[track_caller]
    pub(crate) fn pages(self, first: usize, count: usize) -> Self {
        self.part(first * 4096, count * 4096)
    }

    #[track_caller]
    fn at<T: Word>(self, offset: usize) -> *mut T {
        let part = self.part(offset, size_of::<T>());
        debug_assert!(part.start % size_of::<T>() == 0);
        core::ptr::with_exposed_provenance_mut(part.start)
    }

    /// Reads a word; the compiler never reads it twice or not at all.
    #[track_caller]
    pub(crate) fn read<T: Word>(self, offset: usize) -> T {
        // SAFETY: Inside this piece, aligned, and no reference to it exists.
        unsafe { self.at::<T>(offset).read_volatile() }
    }

    /// Writes a word.
    #[track_caller]
    pub(crate) fn write<T: Word>(self, offset: usize, value: T) {
        // SAFETY: Inside this piece, aligned, and no reference to it exists.
        unsafe { self.at::<T>(offset).write_volatile(value) };
    }

    /// Copies bytes in.
    #[track_caller]
    pub(crate) fn put(self, offset: usize, bytes: &[u8]) {
        let to = self.part(offset, bytes.len());
        // SAFETY: Both are of this length; the slice is the program's and no part of a region.
        unsafe { copy(to.start, bytes.as_ptr().addr(), to.bytes) };
    }

    /// Copies bytes out.
    #[track_caller]
    pub(crate) fn take(self, offset: usize, bytes: &mut [u8]) {
        let from = self.part(offset, bytes.len());
        // SAFETY: Both are of this length; the slice is the program's and no part of a region.
        unsafe { copy(bytes.as_mut_ptr().addr(), from.start, from.bytes) };
    }

    /// Copies another piece, of the same length, in.
    #[track_caller]
    pub(crate) fn copy_from(self, other: Self) {
        assert_eq!(self.bytes, other.bytes);
        // SAFETY: Both are pieces of this length, and no two that are copied overlap.
        unsafe { copy(self.start, other.start, self.bytes) };
    }

    /// Fills it with an eight-byte value.
    pub(crate) fn fill(self, value: u64) {
        // SAFETY: The whole of this piece and no more.
        unsafe { fill(self.start, value, self.bytes) };
    }

    /// Whether it holds the same whole words as another piece of its length.
    #[track_caller]
    pub(crate) fn equals(self, other: Self) -> bool {
        assert_eq!(self.bytes, other.bytes);
        // SAFETY: Both are pieces of this length.
        unsafe { equal(self.start, other.start, self.bytes / 8) }
    }

    /// Whether each of its words has this value.
    pub(crate) fn is_filled(self, value: u64) -> bool {
        // The first word is right, and each word equals the one before it.
        self.read::<u64>(0) == value
            && self
                .part(8, self.bytes - 8)
                .equals(self.part(0, self.bytes - 8))
    }
}

/// Hands out memory from the image's end on; nothing is ever given back.
#[derive(Debug)]
pub(crate) struct Arena {
    next: usize,
    end: usize,
    // Only one may exist.
    _single: PhantomData<*mut u8>,
}

/// Where the monitor's memory ends for this program: more than it needs, and below anything that a
/// monitor puts at the end of memory.
pub(crate) const ARENA_END: usize = 0x0200_0000;

impl Arena {
    /// # Safety
    /// May be called once, on a machine with memory up to [`ARENA_END`].
    pub(crate) unsafe fn new() -> Self {
        unsafe extern "C" {
            static image_end: u8;
        }
        Self {
            next: (&raw const image_end).expose_provenance(),
            end: ARENA_END,
            _single: PhantomData,
        }
    }

    /// Whole pages. What they hold is the monitor's choice, in general zeroes.
    pub(crate) fn pages(&mut self, count: usize) -> Region {
        let bytes = count * 4096;
        assert!(bytes <= self.end - self.next, "out of guest memory");
        // SAFETY: Behind the image, mapped by the boot code, and handed out only once.
        let region = unsafe { Region::new(self.next, bytes) };
        self.next += bytes;
        region
    }
}
