// SPDX-License-Identifier: GPL-2.0
//! A program's memory, held in place for the device.

use super::{account::Pinning, ffi};
use crate::wire;
use kernel::{bindings, prelude::*};

/// Memory for a call, page after page. Whoever drops it may sleep, and has made sure that the
/// device does not use it any more.
pub(super) struct Pins {
    pages: KVec<*mut bindings::page>,
    /// The device may have written to it.
    written: bool,
    _pinning: Pinning,
}

// SAFETY: pinned pages belong to no task.
unsafe impl Send for Pins {}
// SAFETY: the list does not change once it is made.
unsafe impl Sync for Pins {}

impl Pins {
    /// An empty list for the pages that `pinning` allows; `written`: the device will write to them.
    pub(super) fn new(pinning: Pinning, written: bool) -> Result<Self> {
        Ok(Self {
            pages: KVec::with_capacity(pinning.pages(), GFP_KERNEL)?,
            written,
            _pinning: pinning,
        })
    }

    /// Adds the memory of this task from `address` on, `count` pages of it. `EFAULT`: it is not all
    /// there, or not writable.
    pub(super) fn add(&mut self, address: usize, count: usize) -> Result {
        let flags = if self.written { ffi::FOLL_WRITE } else { 0 };
        let mut at = address;
        let mut left = count.min(self.pages.capacity().saturating_sub(self.pages.len()));
        if left != count {
            return Err(EINVAL);
        }
        while left > 0 {
            let room = self.pages.spare_capacity_mut();
            // SAFETY: there is room for `left` pages. The kernel checks the addresses.
            let got = unsafe {
                bindings::pin_user_pages_fast(
                    at,
                    left as i32,
                    flags,
                    room.as_mut_ptr().cast::<*mut bindings::page>(),
                )
            };
            let got = usize::try_from(got).unwrap_or(0).min(left);
            if got == 0 {
                return Err(EFAULT);
            }
            // SAFETY: so many more have been filled in.
            unsafe { self.pages.inc_len(got) };
            left = left.saturating_sub(got);
            at = at.wrapping_add(got << wire::PAGE_SHIFT);
        }
        Ok(())
    }

    /// All pages, in order.
    pub(super) fn pages(&self) -> &[*mut bindings::page] {
        &self.pages
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if self.pages.is_empty() {
            return;
        }
        // SAFETY: the pages were pinned by `add` and are let go once; the caller may sleep.
        unsafe {
            bindings::unpin_user_pages_dirty_lock(
                self.pages.as_mut_ptr(),
                self.pages.len(),
                self.written,
            );
        }
    }
}
