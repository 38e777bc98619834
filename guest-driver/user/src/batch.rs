// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What one call moves: entries, the memory that they borrow, and the results.
//!
//! A batch can be used again and again: [`Puts::clear`] keeps its memory. One with more entries than a
//! call takes is sent in several calls.

use crate::abi::{self, Entry, result};
use crate::memory::Page;
use std::marker::PhantomData;

/// What became of a page.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct PageResult(u8);

impl PageResult {
    /// Stored, delivered, or gone.
    #[must_use]
    pub const fn is_ok(self) -> bool {
        self.0 == result::OK
    }

    /// A get of a page that is not there.
    #[must_use]
    pub const fn is_miss(self) -> bool {
        self.0 == result::MISS
    }

    /// A put that the host refused; the pool does not have the page any more.
    #[must_use]
    pub const fn is_refused(self) -> bool {
        matches!(self.0, result::REFUSED_FULL | result::REFUSED_FROZEN)
    }

    /// One of [`abi::result`].
    #[must_use]
    pub const fn code(self) -> u8 {
        self.0
    }
}

impl std::fmt::Debug for PageResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.0 {
            result::OK => "Ok",
            result::MISS => "Miss",
            result::REFUSED_FULL => "RefusedFull",
            result::REFUSED_FROZEN => "RefusedFrozen",
            result::CORRUPT => "Corrupt",
            result::IO_ERROR => "IoError",
            result::LOST => "Lost",
            code => return write!(f, "PageResult({code})"),
        };
        f.write_str(name)
    }
}

/// Entries and results of any kind of call.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) entries: Vec<Entry>,
    pub(crate) results: Vec<u8>,
}

impl Batch {
    fn add(&mut self, index: u32, pages: usize, address: usize) {
        self.entries.push(Entry {
            index,
            // More pages than that are refused by the driver as they are.
            pages: u32::try_from(pages).unwrap_or(u32::MAX),
            address: address as u64,
        });
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.results.clear();
    }

    fn results(&self) -> &[PageResult] {
        let results = self.results.as_slice();
        // SAFETY: a `PageResult` is a byte and has its layout.
        unsafe { &*(std::ptr::from_ref(results) as *const [PageResult]) }
    }

    /// Entries, each part within what one call takes. An entry that alone is too long is a part of its
    /// own, for the driver to refuse.
    pub(crate) fn calls(&self, memory: bool) -> impl Iterator<Item = &[Entry]> {
        let mut rest = self.entries.as_slice();
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let mut pages = 0u32;
            let fitting = rest
                .iter()
                .take(abi::ENTRIES_MAX as usize)
                .take_while(|entry| {
                    pages = pages.saturating_add(entry.pages);
                    !memory || pages <= abi::CALL_PAGES_MAX
                })
                .count();
            let (call, later) = rest.split_at(fitting.max(1));
            rest = later;
            Some(call)
        })
    }
}

/// What batches of all kinds tell; `$of` says what there is a result for.
macro_rules! tells {
    ($of:literal) => {
        /// Number of runs.
        #[must_use]
        pub fn len(&self) -> usize {
            self.batch.entries.len()
        }

        /// Whether there is no run.
        #[must_use]
        pub fn is_empty(&self) -> bool {
            self.batch.entries.is_empty()
        }

        #[doc = concat!("A result for each ", $of, ", in the order in which they were added; empty before the call.")]
        #[must_use]
        pub fn results(&self) -> &[PageResult] {
            self.batch.results()
        }
    };
}

/// Pages to put. Their memory is borrowed until the batch is dropped or cleared.
#[derive(Debug, Default)]
pub struct Puts<'m> {
    pub(crate) batch: Batch,
    memory: PhantomData<&'m [Page]>,
}

impl<'m> Puts<'m> {
    tells!("page");

    /// No pages.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a run: `pages` go to `index` and the indices that follow.
    pub fn add(&mut self, index: u32, pages: &'m [Page]) -> &mut Self {
        let address = pages.as_ptr().expose_provenance();
        self.batch.add(index, pages.len(), address);
        self
    }

    /// An empty batch in the memory of this one.
    #[must_use]
    pub fn clear<'n>(mut self) -> Puts<'n> {
        self.batch.clear();
        Puts {
            batch: self.batch,
            memory: PhantomData,
        }
    }
}

/// Pages to get. Their memory is borrowed until the batch is dropped or cleared; that of a page whose
/// result is not ok is as it was before.
#[derive(Debug, Default)]
pub struct Gets<'m> {
    pub(crate) batch: Batch,
    memory: PhantomData<&'m mut [Page]>,
}

impl<'m> Gets<'m> {
    tells!("page");

    /// No pages.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a run: `index` and the indices that follow come into `pages`.
    pub fn add(&mut self, index: u32, pages: &'m mut [Page]) -> &mut Self {
        // The kernel writes through this address, so its provenance is made known.
        let address = pages.as_mut_ptr().expose_provenance();
        self.batch.add(index, pages.len(), address);
        self
    }

    /// An empty batch in the memory of this one.
    #[must_use]
    pub fn clear<'n>(mut self) -> Gets<'n> {
        self.batch.clear();
        Gets {
            batch: self.batch,
            memory: PhantomData,
        }
    }
}

/// Pages to flush.
#[derive(Debug, Default)]
pub struct Flushes {
    pub(crate) batch: Batch,
}

impl Flushes {
    tells!("run");

    /// No pages.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the run of `pages` pages from `index` on.
    pub fn add(&mut self, index: u32, pages: u32) -> &mut Self {
        self.batch.add(index, pages as usize, 0);
        self
    }

    /// Makes the batch empty.
    pub fn clear(&mut self) {
        self.batch.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(runs: &[u32], memory: bool) -> Vec<usize> {
        let mut batch = Batch::default();
        for run in runs {
            batch.add(0, *run as usize, 0);
        }
        batch.calls(memory).map(<[Entry]>::len).collect()
    }

    #[test]
    fn long_batch_is_cut_into_calls() {
        assert_eq!(lengths(&[1; 512], true), [512]);
        assert_eq!(lengths(&[1; 1030], true), [512, 512, 6]);
        assert_eq!(lengths(&[4000, 96, 1, 4096], true), [2, 1, 1]);
        assert_eq!(lengths(&[4000, 96, 1, 4096], false), [4]);
        assert_eq!(lengths(&[], true), [0usize; 0]);
    }

    #[test]
    fn run_that_no_call_takes_is_left_for_the_driver_to_refuse() {
        assert_eq!(lengths(&[1, 5000, 1], true), [1, 1, 1]);
    }
}
