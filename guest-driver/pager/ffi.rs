// SPDX-License-Identifier: GPL-2.0
//! Inline functions of the kernel that the pager needs, by way of `pager_shim.c`.

use kernel::{
    bindings,
    ffi::{c_uint, c_ulong},
};

/// `FOLL_WRITE`, asserted in the C half.
pub(super) const FOLL_WRITE: c_uint = 1;

// Kernel structs may hold zero-sized ones, of which the compiler warns.
#[allow(improper_ctypes)]
extern "C" {
    fn vtmem_pager_adjacent(pages: *const *mut bindings::page, count: c_uint) -> c_uint;
    fn vtmem_pager_killed() -> bool;
    fn vtmem_pager_signalled() -> bool;
    fn vtmem_pager_ram() -> c_ulong;
}

/// How many of `pages`, from the first on, lie side by side in memory: at least 1, unless there is none.
pub(super) fn adjacent(pages: &[*mut bindings::page]) -> usize {
    // SAFETY: the slice holds pages that its owner has pinned. It has at most `CALL_PAGES_MAX`.
    unsafe { vtmem_pager_adjacent(pages.as_ptr(), pages.len() as c_uint) as usize }
}

/// Whether the task that runs here has been killed.
pub(super) fn killed() -> bool {
    // SAFETY: no conditions.
    unsafe { vtmem_pager_killed() }
}

/// Whether a signal waits for the task that runs here.
pub(super) fn signalled() -> bool {
    // SAFETY: no conditions.
    unsafe { vtmem_pager_signalled() }
}

/// Pages of the guest's memory.
pub(super) fn ram_pages() -> u64 {
    // SAFETY: no conditions.
    unsafe { vtmem_pager_ram() as u64 }
}

/// Whether the task may exceed limits that hold for others.
pub(super) fn may_exceed() -> bool {
    // SAFETY: no conditions.
    unsafe { bindings::capable(bindings::CAP_SYS_RESOURCE as i32) }
}
