// SPDX-License-Identifier: GPL-2.0
//! What the kernel wants of the balloon: pages back when it is out of memory, and single pages moved
//! when it needs the place.
//!
//! Neither waits for anything that the worker holds. Out of memory, pages are freed at once, the host
//! learns of it by the statistics that follow, and the balloon does not grow for a while, longer
//! each time. A page that is moved costs two requests; if somebody else has the queue, the kernel is
//! asked to come again.

use super::{
    ffi::{BalloonDevInfo, BLOCK_PAGES},
    pages::{self, Page, Store},
    Balloon,
};
use crate::{ffi, wire};
use core::ptr;
use kernel::{
    bindings, container_of,
    ffi::{c_int, c_ulong, c_void},
    prelude::*,
    sync::atomic::Relaxed,
};

/// Single pages that are given back at a time when the guest is out of memory; otherwise one block.
const OOM_PAGES: u64 = BLOCK_PAGES as u64;
/// For how long the balloon does not grow after that; doubled while it happens again soon.
const RELIEF_MS: u32 = 10_000;
const RELIEF_MAX_MS: u32 = 320_000;

impl Balloon {
    /// The guest is out of memory. Returns the number of pages given back.
    fn on_oom(&self) -> u64 {
        let mut pages = [ptr::null_mut::<bindings::page>(); 32];
        let mut freed = 0u64;
        while freed < OOM_PAGES {
            let taken = self.store.take_singles(&mut pages);
            if taken == 0 {
                break;
            }
            for &page in pages.iter().take(taken) {
                pages::free(page, false);
            }
            freed = freed.wrapping_add(taken as u64);
        }
        if freed == 0 {
            if let Some(block) = self.store.take_block() {
                pages::free(block, true);
                freed = u64::from(BLOCK_PAGES);
            }
        }
        if freed > 0 {
            self.figures.oom_deflated.add(freed);
            self.figures.deflated.add(freed);
            self.take_relief();
            self.tell.run_now();
        }
        freed
    }

    /// Grows no more for a while.
    fn take_relief(&self) {
        let now = ffi::now_ns();
        let until = self.relief_until.load(Relaxed);
        if until > now {
            // The same emergency.
            return;
        }
        let last = self.relief.load(Relaxed);
        // Calm for as long as the last one lasted: it is another one.
        let calm = now.wrapping_sub(until) > u64::from(last).wrapping_mul(1_000_000);
        let length = if last == 0 || calm {
            RELIEF_MS
        } else {
            last.saturating_mul(2).min(RELIEF_MAX_MS)
        };
        self.relief.store(length, Relaxed);
        self.relief_until.store(
            now.wrapping_add(u64::from(length).wrapping_mul(1_000_000)),
            Relaxed,
        );
        if ffi::may_log() {
            pr_notice!(
                "out of memory: the balloon gives pages back, and does not grow for {} s\n",
                length / 1000
            );
        }
    }

    /// For how many milliseconds the balloon must not grow.
    pub(super) fn relief_ms(&self) -> u32 {
        let left = self
            .relief_until
            .load(Relaxed)
            .saturating_sub(ffi::now_ns());
        u32::try_from(left.div_ceil(1_000_000)).unwrap_or(u32::MAX)
    }

    /// Moves the contents of the balloon, which are none, from page `old` to page `new`.
    fn move_page(&self, new: Page, old: Page) -> Result {
        let mut turn = self.line.try_turn().ok_or(EAGAIN)?;
        if !turn.add(pages::frame(old), 1) || turn.send(wire::balloon::DEFLATE).is_err() {
            return Err(EAGAIN);
        }
        self.figures.requests.add(2);
        let _ = turn.add(pages::frame(new), 1);
        match turn.send(wire::balloon::INFLATE) {
            // The device was reset in between. The page is in the balloon all the same; only the
            // host has not freed it.
            Err(_) => {}
            Ok(response)
                if response.status == wire::status::OK
                    && turn.result(0) == wire::balloon_result::OK => {}
            Ok(_) => {
                self.figures.refused.inc();
                self.figures.reason.set(u64::from(turn.result(0)));
                self.figures.deflated.inc();
                self.store.lost_one();
                return Err(ENOENT);
            }
        }
        self.figures.moved.inc();
        Ok(())
    }
}

/// # Safety
///
/// Called by the kernel with the notifier of a [`Balloon`], and a number to add to.
pub(super) unsafe extern "C" fn on_oom(
    block: *mut bindings::notifier_block,
    _action: c_ulong,
    freed: *mut c_void,
) -> c_int {
    // SAFETY: as for this function; the balloon lives until its notifier is unregistered.
    let balloon = unsafe {
        let notifier = kernel::types::Opaque::cast_from(block.cast_const());
        &*container_of!(notifier.cast_mut(), Balloon, oom)
    };
    let pages = balloon.on_oom();
    let freed = freed.cast::<c_ulong>();
    // SAFETY: as for this function.
    unsafe { *freed = (*freed).saturating_add(pages as c_ulong) };
    bindings::NOTIFY_OK as c_int
}

/// Moves a page. 0: done; `ENOENT`: `page` has left the balloon, `newpage` is not in it.
///
/// # Safety
///
/// Called by the kernel for a page of a [`Balloon`], which is isolated, and one to take its place.
#[no_mangle]
unsafe extern "C" fn vtmem_balloon_migrate(
    info: *mut BalloonDevInfo,
    newpage: Page,
    page: Page,
    mode: bindings::migrate_mode,
) -> c_int {
    if mode == bindings::migrate_mode_MIGRATE_ASYNC {
        // Whoever asks must not be kept waiting.
        return EAGAIN.to_errno();
    }
    // SAFETY: as for this function. A balloon is not freed before its last page is back.
    let balloon = unsafe {
        let store: *const Store = Store::of(info);
        &*container_of!(store.cast_mut(), Balloon, store)
    };
    match balloon.move_page(newpage, page) {
        Ok(()) => 0,
        Err(error) => error.to_errno(),
    }
}
