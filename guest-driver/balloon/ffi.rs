// SPDX-License-Identifier: GPL-2.0
//! Functions and types of the kernel that the balloon needs and `kernel::bindings` lacks.
//!
//! The C half (`balloon_shim.c`) asserts that each type and constant here is the kernel's own.

use crate::ffi::{VirtioDevice, Virtqueue};
use kernel::{
    bindings,
    ffi::{c_int, c_uint, c_void},
};

/// Pages of a block: a huge page of x86-64. The order stands in balloon_shim.c.
pub(super) const BLOCK_PAGES: u32 = 512;

/// `struct balloon_dev_info`; the kernel's alone after `vtmem_balloon_init`.
#[repr(C)]
pub(super) struct BalloonDevInfo {
    isolated_pages: usize,
    pages: bindings::list_head,
    migratepage: *mut c_void,
    adjust_managed_page_count: bool,
}

// As asserted in balloon_shim.c.
const _: () = assert!(size_of::<BalloonDevInfo>() == 40);

/// `struct vtmem_balloon_memory`, in pages.
#[repr(C)]
#[derive(Default)]
pub(super) struct Memory {
    pub(super) total: u64,
    pub(super) available: u64,
    pub(super) free: u64,
    pub(super) swap_ins: u64,
    pub(super) swap_outs: u64,
    pub(super) refaults: u64,
    pub(super) major_faults: u64,
}

const _: () = assert!(size_of::<Memory>() == 56);

// Kernel structs may hold zero-sized ones, of which the compiler warns.
#[allow(improper_ctypes)]
extern "C" {
    // Exported by the kernel.
    pub(super) fn balloon_page_alloc() -> *mut bindings::page;
    pub(super) fn balloon_page_enqueue(info: *mut BalloonDevInfo, page: *mut bindings::page);
    pub(super) fn register_oom_notifier(block: *mut bindings::notifier_block) -> c_int;
    pub(super) fn unregister_oom_notifier(block: *mut bindings::notifier_block) -> c_int;

    // balloon_shim.c
    pub(super) fn vtmem_balloon_alloc_block() -> *mut bindings::page;
    pub(super) fn vtmem_balloon_free_block(page: *mut bindings::page);
    pub(super) fn vtmem_balloon_block_in(page: *mut bindings::page);
    pub(super) fn vtmem_balloon_block_out(page: *mut bindings::page);
    pub(super) fn vtmem_balloon_split(page: *mut bindings::page);
    pub(super) fn vtmem_balloon_next(page: *const bindings::page) -> *mut bindings::page;
    pub(super) fn vtmem_balloon_set_next(page: *mut bindings::page, next: *mut bindings::page);
    pub(super) fn vtmem_balloon_nth(page: *mut bindings::page, n: c_uint) -> *mut bindings::page;
    pub(super) fn vtmem_balloon_frame(page: *mut bindings::page) -> u64;
    pub(super) fn vtmem_balloon_put_page(page: *mut bindings::page);
    pub(super) fn vtmem_balloon_is_low(page: *mut bindings::page) -> bool;
    pub(super) fn vtmem_balloon_init(info: *mut BalloonDevInfo);
    pub(super) fn vtmem_balloon_take(
        info: *mut BalloonDevInfo,
        pages: *mut *mut bindings::page,
        n: c_uint,
    ) -> c_uint;
    pub(super) fn vtmem_balloon_look(memory: *mut Memory);
    pub(super) fn vtmem_balloon_ram() -> u64;
    pub(super) fn vtmem_balloon_vq_add(
        vq: *mut Virtqueue,
        out: *mut bindings::scatterlist,
        input: *mut bindings::scatterlist,
        token: *mut c_void,
    ) -> c_int;
    pub(super) fn vtmem_balloon_poisons() -> bool;
    pub(super) fn vtmem_balloon_beside(vdev: *mut VirtioDevice) -> bool;
    pub(super) fn vtmem_balloon_reporting_start(
        owner: *mut c_void,
        reporting: *mut *mut c_void,
    ) -> c_int;
    pub(super) fn vtmem_balloon_reporting_stop(reporting: *mut c_void);
    pub(super) fn vtmem_balloon_sg(sg: *mut bindings::scatterlist, pages: *mut u32) -> u64;
    pub(super) fn vtmem_balloon_sg_next(
        sg: *mut bindings::scatterlist,
    ) -> *mut bindings::scatterlist;
    pub(super) fn vtmem_balloon_agent_register() -> c_int;
    pub(super) fn vtmem_balloon_agent_unregister();
}
