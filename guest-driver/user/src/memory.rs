// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory on page boundaries.

use crate::abi::PAGE_SIZE;
use crate::error::{Error, Result};
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A page, where a page can be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C, align(4096))]
pub struct Page(pub [u8; PAGE_SIZE]);

const _: () = assert!(size_of::<Page>() == PAGE_SIZE && align_of::<Page>() == PAGE_SIZE);

impl Page {
    /// A page of zeroes.
    pub const ZERO: Self = Self([0; PAGE_SIZE]);
}

impl Deref for Page {
    type Target = [u8; PAGE_SIZE];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Page {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

/// Pages of memory of their own, all zeroes at first and not there before they are touched.
///
/// The kernel is asked for huge pages: a run of pages that lie side by side in the guest's memory takes one
/// descriptor, however long it is.
#[derive(Debug)]
pub struct PageBuffer {
    start: NonNull<Page>,
    pages: usize,
}

// SAFETY: the mapping belongs to the buffer alone.
unsafe impl Send for PageBuffer {}
// SAFETY: shared references only read.
unsafe impl Sync for PageBuffer {}

impl PageBuffer {
    /// Maps `pages` pages.
    ///
    /// # Errors
    /// If the system has no room for them.
    pub fn new(pages: usize) -> Result<Self> {
        if pages == 0 {
            return Ok(Self {
                start: NonNull::dangling(),
                pages,
            });
        }
        let bytes = pages
            .checked_mul(PAGE_SIZE)
            .ok_or(Error::Invalid("more memory than there are addresses"))?;
        // SAFETY: a new private mapping touches no memory that is there.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        let start = (start != libc::MAP_FAILED)
            .then(|| NonNull::new(start.cast::<Page>()))
            .flatten()
            .ok_or_else(|| Error::System(io::Error::last_os_error()))?;
        // Only a wish: a kernel without huge pages refuses it.
        // SAFETY: the range is the mapping.
        let _ = unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        Ok(Self { start, pages })
    }
}

impl Deref for PageBuffer {
    type Target = [Page];

    fn deref(&self) -> &[Page] {
        // SAFETY: the mapping has so many pages; bytes are valid pages.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.pages) }
    }
}

impl DerefMut for PageBuffer {
    fn deref_mut(&mut self) -> &mut [Page] {
        // SAFETY: as in `deref`, and the buffer is borrowed for this use alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.pages) }
    }
}

impl Drop for PageBuffer {
    fn drop(&mut self) {
        if self.pages > 0 {
            // SAFETY: the mapping is the buffer's own, and nobody borrows it any more.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.pages * PAGE_SIZE) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffer_lies_on_page_boundaries_and_is_zero() {
        let mut buffer = PageBuffer::new(3).expect("memory");
        assert_eq!(buffer.as_ptr().addr() % PAGE_SIZE, 0);
        assert!(buffer.iter().all(|page| *page == Page::ZERO));
        buffer[2].fill(7);
        assert_eq!((buffer[1][4095], buffer[2][0]), (0, 7));
        assert!(PageBuffer::new(0).expect("nothing").is_empty());
    }
}
