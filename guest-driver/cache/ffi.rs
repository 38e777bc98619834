// SPDX-License-Identifier: GPL-2.0
//! What the C half (`cache_shim.c`) offers, and the structures that both halves use.

use kernel::{
    bindings,
    ffi::{c_char, c_uint, c_void},
};

/// A read into pages of the driver's own, only ever seen through a pointer.
#[repr(C)]
pub(super) struct RawCopy {
    _opaque: [u8; 0],
}

/// `struct vtmem_cache_io`.
#[repr(C)]
pub(super) struct Io {
    pub(super) first: u32,
    pub(super) blocks: u32,
    pub(super) removed: u32,
    pub(super) reserved: u32,
}

/// `struct vtmem_cache_new`.
#[repr(C)]
pub(super) struct New {
    pub(super) mapped_major: u32,
    pub(super) mapped_minor: u32,
    pub(super) origin_major: u32,
    pub(super) origin_minor: u32,
    pub(super) sectors: u64,
    pub(super) words: *const *const c_char,
    pub(super) count: c_uint,
    pub(super) error: *const c_char,
}

/// `enum vtmem_cache_outcome`: the write has not failed, or has not been tried.
pub(super) const OUTCOME_REFUSED: c_uint = 1;

/// The bio reads ahead: nobody waits for it yet.
pub(super) const REQ_RAHEAD: c_uint = 1 << 19;

const _: () = assert!(super::decide::FILL_BLOCKS == 32);

// Kernel structs may hold zero-sized ones, of which the compiler warns.
#[allow(improper_ctypes)]
extern "C" {
    pub(super) fn vtmem_cache_register() -> i32;
    pub(super) fn vtmem_cache_unregister();
    pub(super) fn vtmem_cut_bio(bio: *mut bindings::bio, sectors: c_uint);
    pub(super) fn vtmem_bio_flags(bio: *const bindings::bio) -> c_uint;
    pub(super) fn vtmem_bio_sector(bio: *const bindings::bio) -> u64;
    pub(super) fn vtmem_bio_bytes(bio: *const bindings::bio) -> c_uint;
    pub(super) fn vtmem_resubmit(bio: *mut bindings::bio);
    pub(super) fn vtmem_no_plug() -> bool;
    pub(super) fn vtmem_copy_alloc() -> *mut RawCopy;
    pub(super) fn vtmem_copy_free(copy: *mut RawCopy);
    pub(super) fn vtmem_copy_page(copy: *mut RawCopy, nth: c_uint) -> *mut bindings::page;
    pub(super) fn vtmem_copy_start(
        copy: *mut RawCopy,
        reader: *mut bindings::bio,
        blocks: c_uint,
        owner: *mut c_void,
    );
    pub(super) fn vtmem_copy_deliver(copy: *mut RawCopy, reader: *mut bindings::bio, ok: bool);
}
