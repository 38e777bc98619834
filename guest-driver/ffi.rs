// SPDX-License-Identifier: GPL-2.0
//! Functions and types of the kernel that `kernel::bindings` lacks: virtio, and what is a macro or
//! an inline function in C.
//!
//! The C half (`shim.c`) asserts that each type and constant here is the kernel's own.

use kernel::{
    bindings,
    ffi::{c_char, c_uint, c_ulong, c_void},
};

/// `struct virtio_device`, only ever seen through a pointer.
#[repr(C)]
pub(crate) struct VirtioDevice {
    _opaque: [u8; 0],
}

/// `struct virtqueue`, only ever seen through a pointer.
#[repr(C)]
pub(crate) struct Virtqueue {
    _opaque: [u8; 0],
}

/// `vq_callback_t`; called in hard interrupt context.
pub(crate) type Callback = unsafe extern "C" fn(*mut Virtqueue);

/// `struct virtqueue_info`.
#[repr(C)]
pub(crate) struct VirtqueueInfo {
    /// A queue without a name would not be set up, and would shift the numbers of those behind it.
    pub(crate) name: *const c_char,
    pub(crate) callback: Option<Callback>,
    pub(crate) ctx: bool,
}

// The driver's table in shim.c has the id as a number.
const _: () = assert!(crate::wire::VIRTIO_ID == 13);

/// Low bits of `bi_opf`: the operation.
pub(crate) const REQ_OP_MASK: u32 = 0xff;
pub(crate) const REQ_OP_READ: u32 = 0;
pub(crate) const REQ_OP_WRITE: u32 = 1;
pub(crate) const REQ_OP_FLUSH: u32 = 2;
pub(crate) const REQ_OP_DISCARD: u32 = 3;
/// A task waits for the bio.
pub(crate) const REQ_SYNC: u32 = 1 << 11;

pub(crate) const BLK_STS_OK: u8 = 0;
pub(crate) const BLK_STS_NOTSUPP: u8 = 1;
pub(crate) const BLK_STS_NOSPC: u8 = 3;
pub(crate) const BLK_STS_IOERR: u8 = 10;

pub(crate) const BLK_FEAT_SYNCHRONOUS: u32 = 1 << 6;
pub(crate) const GENHD_FL_NO_PART: i32 = 1 << 2;

// Kernel structs may hold zero-sized ones, of which the compiler warns.
#[allow(improper_ctypes)]
extern "C" {
    // Exported by the kernel.
    pub(crate) fn virtqueue_get_buf(vq: *mut Virtqueue, len: *mut c_uint) -> *mut c_void;
    pub(crate) fn virtqueue_detach_unused_buf(vq: *mut Virtqueue) -> *mut c_void;
    pub(crate) fn virtqueue_kick_prepare(vq: *mut Virtqueue) -> bool;
    pub(crate) fn virtqueue_notify(vq: *mut Virtqueue) -> bool;
    pub(crate) fn virtqueue_enable_cb(vq: *mut Virtqueue) -> bool;
    pub(crate) fn virtqueue_disable_cb(vq: *mut Virtqueue);
    pub(crate) fn virtqueue_get_vring_size(vq: *const Virtqueue) -> c_uint;
    pub(crate) fn virtio_reset_device(vdev: *mut VirtioDevice);

    // shim.c
    pub(crate) fn vtmem_register_driver(owner: *mut bindings::module) -> i32;
    pub(crate) fn vtmem_unregister_driver();
    pub(crate) fn vtmem_device(vdev: *mut VirtioDevice) -> *mut bindings::device;
    pub(crate) fn vtmem_private(vdev: *mut VirtioDevice) -> *mut c_void;
    pub(crate) fn vtmem_set_private(vdev: *mut VirtioDevice, data: *mut c_void);
    pub(crate) fn vtmem_read_config(vdev: *mut VirtioDevice, buf: *mut c_void, len: c_uint);
    pub(crate) fn vtmem_device_ready(vdev: *mut VirtioDevice);
    pub(crate) fn vtmem_find_vqs(
        vdev: *mut VirtioDevice,
        count: c_uint,
        vqs: *mut *mut Virtqueue,
        infos: *mut VirtqueueInfo,
    ) -> i32;
    pub(crate) fn vtmem_del_vqs(vdev: *mut VirtioDevice);
    pub(crate) fn vtmem_vq_device(vq: *mut Virtqueue) -> *mut VirtioDevice;
    pub(crate) fn vtmem_vq_index(vq: *mut Virtqueue) -> c_uint;
    pub(crate) fn vtmem_vq_add(
        vq: *mut Virtqueue,
        out: *mut bindings::scatterlist,
        input: *mut bindings::scatterlist,
        token: *mut c_void,
    ) -> i32;
    pub(crate) fn vtmem_sg_page(
        sg: *mut bindings::scatterlist,
        page: *mut bindings::page,
        offset: c_uint,
        len: c_uint,
    );
    pub(crate) fn vtmem_sg_buffer(sg: *mut bindings::scatterlist, buf: *mut c_void, len: c_uint);
    pub(crate) fn vtmem_sg_end(sg: *mut bindings::scatterlist);
    pub(crate) fn vtmem_zero_page(page: *mut bindings::page, offset: c_uint);
    pub(crate) fn vtmem_bio_skip(bio: *const bindings::bio) -> c_uint;
    pub(crate) fn vtmem_lock(lock: *mut bindings::spinlock_t) -> c_ulong;
    pub(crate) fn vtmem_unlock(lock: *mut bindings::spinlock_t, flags: c_ulong);
    pub(crate) fn vtmem_delayed_work_init(
        work: *mut bindings::delayed_work,
        run: unsafe extern "C" fn(*mut bindings::work_struct),
        class: *mut bindings::lock_class_key,
    );
    pub(crate) fn vtmem_disk_is_open(disk: *mut bindings::gendisk) -> bool;
    pub(crate) fn vtmem_negotiate(vdev: *mut VirtioDevice) -> i32;
    pub(crate) fn vtmem_status(vdev: *mut VirtioDevice) -> u8;
    pub(crate) fn vtmem_noio_save() -> c_uint;
    pub(crate) fn vtmem_noio_restore(flags: c_uint);
    pub(crate) fn vtmem_pm_register() -> i32;
    pub(crate) fn vtmem_pm_unregister();
    pub(crate) fn vtmem_ratelimit() -> bool;
    pub(crate) fn vtmem_cpu() -> c_uint;
    pub(crate) fn vtmem_cpus() -> c_uint;
    pub(crate) fn vtmem_cond_resched();
}

/// Whether another line about a failing request may go to the kernel log now.
pub(crate) fn may_log() -> bool {
    // SAFETY: no conditions.
    unsafe { vtmem_ratelimit() }
}

/// The processor that this code runs on, or ran on a moment ago.
pub(crate) fn this_cpu() -> usize {
    // SAFETY: no conditions.
    unsafe { vtmem_cpu() as usize }
}

/// Nanoseconds on the monotonic clock.
pub(crate) fn now_ns() -> u64 {
    // SAFETY: no conditions; may be called in any context.
    unsafe { bindings::ktime_get_mono_fast_ns() }
}
