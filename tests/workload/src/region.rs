// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An anonymous mapping, seen as pages: what the kernel swaps out.

use crate::pattern::{Page, WORDS, fill, first_difference};
use std::io::Error;
use std::ptr::NonNull;

const PAGE_BYTES: usize = WORDS * 8;
/// A mapping starts at a multiple of this, so that a huge page can lie at its start.
const HUGE_BYTES: usize = 2 << 20;
/// Differences that are told in full; the rest are counted.
const TOLD_MAX: u64 = 8;

/// Whether the kernel may back a mapping with huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Huge {
    /// As the system is set.
    Default,
    /// `MADV_HUGEPAGE`.
    On,
    /// `MADV_NOHUGEPAGE`.
    Off,
}

impl Huge {
    /// Reads the value of `--huge`.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, String> {
        match text {
            None => Ok(Self::Default),
            Some("on") => Ok(Self::On),
            Some("off") => Ok(Self::Off),
            Some(other) => Err(format!("--huge is on or off, not {other}")),
        }
    }
}

/// Private anonymous memory; it lives as long as the process, because no workload gives it back.
pub(crate) struct Region {
    start: NonNull<Page>,
    pages: usize,
}

impl Region {
    /// Maps `mib` MiB; nothing is resident yet.
    pub(crate) fn map(mib: usize, huge: Huge) -> Result<Self, String> {
        let bytes = mib
            .checked_mul(1 << 20)
            .filter(|&bytes| bytes > 0)
            .ok_or_else(|| format!("cannot map {mib} MiB"))?;
        // SAFETY: a new private anonymous mapping at an address of the kernel's choice touches no
        // memory that exists.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes + HUGE_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(format!("cannot map {mib} MiB: {}", Error::last_os_error()));
        }
        let skip = address.align_offset(HUGE_BYTES);
        let start = address.wrapping_byte_add(skip);
        if huge != Huge::Default {
            let advice = match huge {
                Huge::On => libc::MADV_HUGEPAGE,
                Huge::Default | Huge::Off => libc::MADV_NOHUGEPAGE,
            };
            // SAFETY: the range lies inside the mapping made above.
            if unsafe { libc::madvise(start, bytes, advice) } != 0 {
                return Err(format!(
                    "cannot advise huge pages {huge:?}: {}",
                    Error::last_os_error()
                ));
            }
        }
        let start = NonNull::new(start.cast::<Page>()).ok_or("the mapping lies at address 0")?;
        Ok(Self {
            start,
            pages: bytes / PAGE_BYTES,
        })
    }

    /// Number of pages.
    pub(crate) const fn pages(&self) -> usize {
        self.pages
    }

    /// Page `number`.
    pub(crate) fn page(&mut self, number: usize) -> &mut Page {
        assert!(number < self.pages, "page {number} is outside the region");
        // SAFETY: the mapping holds `pages` pages from `start` on, and `number` is below that.
        let at = unsafe { self.start.add(number) };
        // SAFETY: the memory is mapped, aligned, initialised by the kernel, and reached through
        // this exclusive borrow of its only owner alone.
        unsafe { &mut *at.as_ptr() }
    }

    /// Writes version `version` of page `number`.
    pub(crate) fn write(&mut self, number: usize, seed: u64, version: u32) {
        fill(self.page(number), seed, number as u64, version);
    }

    /// Asks the kernel to swap page `number` out. It may leave the page where it is.
    pub(crate) fn swap_out(&mut self, number: usize) -> Result<(), String> {
        let page: *mut Page = self.page(number);
        // SAFETY: the range is a page of the mapping, whose content the advice does not change.
        if unsafe { libc::madvise(page.cast(), PAGE_BYTES, libc::MADV_PAGEOUT) } == 0 {
            return Ok(());
        }
        Err(format!(
            "cannot ask for page {number} to be swapped out: {}",
            Error::last_os_error()
        ))
    }

    /// Checks page `number`; adds to `mismatches` and tells the first few on standard error.
    pub(crate) fn verify(&mut self, number: usize, seed: u64, version: u32, mismatches: &mut u64) {
        let difference = first_difference(self.page(number), seed, number as u64, version);
        if let Some((place, expected, found)) = difference {
            *mismatches += 1;
            if *mismatches <= TOLD_MAX {
                eprintln!(
                    "page {number} version {version} word {place}: expected {expected:#018x}, \
                     found {found:#018x}"
                );
            }
        }
    }
}
