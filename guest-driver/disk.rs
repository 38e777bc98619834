// SPDX-License-Identifier: GPL-2.0
//! The disk that `mkswap` and `swapon` see: bios in, bios out.
//!
//! Writes, and reads ahead, come under a plug and are gathered until the plug is pulled, so that
//! many pages travel in one request. A read without a plug is a task that waits for its page: it is
//! sent at once and polled for. Since Linux 7.3 swap gathers pages of neighbouring slots into one bio
//! itself; pages from all over the disk still come as bios of their own.

use crate::{
    bio::{Bio, BioList, SECTORS_SHIFT},
    device::Device,
    ffi, wire,
};
use core::{mem::size_of, ptr};
use kernel::{
    bindings,
    error::{from_err_ptr, to_result},
    ffi::{c_ulong, c_void},
    prelude::*,
    static_lock_class,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};

/// So many bios under one plug are sent without waiting for its end.
const PLUG_BIOS: u32 = 32;
/// So many disks have a name at a time.
const NAMES: u32 = 64;

/// Bits of the names `vtmem0` to `vtmem63` that are taken.
static NAMES_TAKEN: Atomic<u64> = Atomic::new(0);

struct Operations(bindings::block_device_operations);

// SAFETY: the table is constant.
unsafe impl Sync for Operations {}

static OPERATIONS: Operations = Operations(bindings::block_device_operations {
    submit_bio: Some(submit_bio),
    free_disk: Some(free_disk),
    swap_slot_free_notify: Some(swap_slot_free_notify),
    // An open disk, hence swap, holds the module.
    owner: (&raw const bindings::__this_module).cast_mut(),
    ..pin_init::zeroed()
});

/// What a disk's `private_data` points to.
struct Data {
    device: Arc<Device>,
    /// Which of the device's disks it is.
    area: u32,
}

/// A disk that is registered; its owner calls [`Disk::remove`].
pub(crate) struct Disk {
    raw: *mut bindings::gendisk,
    name: u32,
}

// SAFETY: a disk may be removed by any task.
unsafe impl Send for Disk {}

impl Disk {
    /// Registers disk `area` of a device, of `pages` pages. It keeps `device` until nobody has it open.
    ///
    /// # Safety
    ///
    /// `parent` is a valid device until [`Disk::remove`] has returned.
    pub(crate) unsafe fn add(
        device: Arc<Device>,
        area: u32,
        parent: *mut bindings::device,
        pages: u32,
    ) -> Result<Self> {
        let name = take_name().ok_or(EBUSY)?;
        let data = Data { device, area };
        // SAFETY: as for this function.
        unsafe { Self::add_named(data, parent, pages, name) }.inspect_err(|_| free_name(name))
    }

    /// # Safety
    ///
    /// As for [`Disk::add`].
    unsafe fn add_named(
        data: Data,
        parent: *mut bindings::device,
        pages: u32,
        name: u32,
    ) -> Result<Self> {
        let data = KBox::new(data, GFP_KERNEL)?;
        let limits = &data.device.shared.limits;
        let mut queue = bindings::queue_limits {
            logical_block_size: wire::PAGE_SIZE as u32,
            physical_block_size: wire::PAGE_SIZE as u32,
            io_min: wire::PAGE_SIZE as u32,
            // A request is not larger than this; the block layer splits.
            max_hw_sectors: limits.pages << SECTORS_SHIFT,
            max_segments: limits.segments.min(usize::from(u16::MAX)) as u16,
            max_segment_size: u32::MAX,
            seg_boundary_mask: c_ulong::MAX,
            // A descriptor holds whole pages.
            dma_alignment: wire::PAGE_SIZE as u32 - 1,
            max_hw_discard_sectors: u32::MAX,
            discard_granularity: wire::PAGE_SIZE as u32,
            features: if data.device.synchronous {
                ffi::BLK_FEAT_SYNCHRONOUS
            } else {
                0
            },
            ..pin_init::zeroed()
        };
        // SAFETY: the limits are read, and filled in, by this call alone; the lock class is static.
        let raw = from_err_ptr(unsafe {
            bindings::__blk_alloc_disk(
                &mut queue,
                bindings::NUMA_NO_NODE,
                static_lock_class!().as_ptr(),
            )
        })?;
        let data = KBox::into_raw(data);
        // SAFETY: the disk is ours and not registered. `free_disk` takes the data back.
        unsafe {
            (*raw).fops = &raw const OPERATIONS.0;
            (*raw).private_data = data.cast();
            (*raw).flags |= ffi::GENHD_FL_NO_PART;
            write_name(&mut (*raw).disk_name, name);
            bindings::set_capacity(raw, u64::from(pages) << SECTORS_SHIFT);
        }
        // SAFETY: the disk is complete, and the parent valid.
        to_result(unsafe { bindings::device_add_disk(parent, raw, ptr::null_mut()) }).inspect_err(
            |_| {
                // SAFETY: the disk was not registered, so that `free_disk` is not called for it.
                unsafe {
                    bindings::put_disk(raw);
                    drop(KBox::from_raw(data));
                }
            },
        )?;
        Ok(Self { raw, name })
    }

    /// The number in the disk's name.
    pub(crate) fn number(&self) -> u32 {
        self.name
    }

    /// Whether anybody has the disk open, such as swap.
    pub(crate) fn is_open(&self) -> bool {
        // SAFETY: the disk is registered.
        unsafe { ffi::vtmem_disk_is_open(self.raw) }
    }

    /// From now on, the block layer sends no bios.
    pub(crate) fn mark_dead(&self) {
        // SAFETY: the disk is registered.
        unsafe { bindings::blk_mark_disk_dead(self.raw) };
    }

    /// Unregisters the disk. Whoever has it open keeps a disk that answers with errors.
    pub(crate) fn remove(self) {
        // SAFETY: the disk is registered, and this is its owner's reference.
        unsafe {
            bindings::del_gendisk(self.raw);
            bindings::put_disk(self.raw);
        }
        free_name(self.name);
    }
}

fn take_name() -> Option<u32> {
    loop {
        let taken = NAMES_TAKEN.load(Relaxed);
        let name = taken.trailing_ones();
        if name >= NAMES {
            return None;
        }
        if NAMES_TAKEN
            .cmpxchg(taken, taken | 1 << name, Relaxed)
            .is_ok()
        {
            return Some(name);
        }
    }
}

fn free_name(name: u32) {
    loop {
        let taken = NAMES_TAKEN.load(Relaxed);
        if NAMES_TAKEN
            .cmpxchg(taken, taken & !(1 << (name & 63)), Relaxed)
            .is_ok()
        {
            return;
        }
    }
}

/// Writes `vtmem` and a number below 100; the rest of `to` is zero already.
fn write_name(to: &mut [kernel::ffi::c_char], number: u32) {
    let digit = |value: u32| b'0' + (value % 10) as u8;
    let mut name = *b"vtmem\0\0";
    if number < 10 {
        name[5] = digit(number);
    } else {
        name[5] = digit(number / 10);
        name[6] = digit(number);
    }
    for (to, byte) in to.iter_mut().zip(name) {
        *to = byte;
    }
}

/// The bios of one task under one plug.
#[repr(C)]
struct Plug {
    cb: bindings::blk_plug_cb,
    /// Null in a plug that the block layer has just made.
    device: *const Device,
    reads: BioList,
    writes: BioList,
}

/// The plug of this task for `device`, if there is one.
///
/// # Safety
///
/// The plug is used only until the task gives up control to the block layer.
unsafe fn plug_of(device: &Device) -> Option<&mut Plug> {
    let data = ptr::from_ref(device);
    // SAFETY: the block layer makes the plug, of this size and full of zeroes, or returns the one
    // of an earlier call with the same arguments.
    let cb = unsafe {
        bindings::blk_check_plugged(
            Some(unplug),
            data.cast_mut().cast(),
            size_of::<Plug>() as i32,
        )
    };
    // SAFETY: `cb` is the first field of a `Plug`; zeroes are a valid one. It belongs to this task.
    let plug = unsafe { cb.cast::<Plug>().as_mut() }?;
    if plug.device.is_null() {
        // The plug may outlast the disk: it keeps the device.
        // SAFETY: `device` is in an `Arc`, of which somebody else has a reference now.
        let device = unsafe { kernel::sync::ArcBorrow::from_raw(data) };
        plug.device = Arc::into_raw(device.into());
        plug.reads = BioList::new();
        plug.writes = BioList::new();
    }
    Some(plug)
}

/// The end of a plug.
///
/// # Safety
///
/// Called by the block layer for the plug that [`plug_of`] made, once.
unsafe extern "C" fn unplug(cb: *mut bindings::blk_plug_cb, from_schedule: bool) {
    // SAFETY: `cb` is the first field of a `Plug`, which is ours now.
    let (device, reads, writes) = unsafe {
        let plug = &mut *cb.cast::<Plug>();
        (
            Arc::from_raw(plug.device),
            plug.reads.take(),
            plug.writes.take(),
        )
    };
    // SAFETY: the block layer made it with kzalloc() and leaves it to us.
    unsafe { bindings::kfree(cb.cast::<c_void>()) };
    // A task on its way to sleep must neither sleep here nor spin.
    let awake = !from_schedule;
    if !writes.is_empty() {
        device.write(writes, false, awake);
    }
    if !reads.is_empty() {
        device.read(reads, awake);
    }
}

/// # Safety
///
/// `disk` is one of [`Disk::add`].
unsafe fn data_of<'a>(disk: *mut bindings::gendisk) -> &'a Data {
    // SAFETY: `private_data` holds the disk's reference to its device, and lives as long as the disk.
    unsafe { &*(*disk).private_data.cast::<Data>().cast_const() }
}

/// Which of its device's disks `disk` is.
///
/// # Safety
///
/// `disk` is one of [`Disk::add`].
pub(crate) unsafe fn area_of(disk: *mut bindings::gendisk) -> u32 {
    // SAFETY: as for this function.
    unsafe { data_of(disk) }.area
}

/// # Safety
///
/// Called by the block layer with a bio for a disk of this driver.
unsafe extern "C" fn submit_bio(bio: *mut bindings::bio) {
    // SAFETY: the bio's disk stays while the bio is not ended.
    let device = &*unsafe { data_of((*(*bio).bi_bdev).bd_disk) }.device;
    // SAFETY: the bio is ours; what exceeds the limits is submitted anew by this call.
    let Some(bio) = (unsafe { Bio::from_raw(bindings::bio_split_to_limits(bio)) }) else {
        return;
    };
    let status = match bio.op() {
        _ if device.is_dead() => ffi::BLK_STS_IOERR,
        ffi::REQ_OP_READ if bio.pages() > 0 => return submit_read(device, bio),
        ffi::REQ_OP_WRITE if bio.pages() > 0 => return submit_write(device, bio),
        ffi::REQ_OP_DISCARD if bio.pages() > 0 => {
            return device.write(BioList::one(bio), false, true)
        }
        // There is no cache to write back.
        ffi::REQ_OP_READ | ffi::REQ_OP_WRITE | ffi::REQ_OP_FLUSH | ffi::REQ_OP_DISCARD => {
            ffi::BLK_STS_OK
        }
        _ => ffi::BLK_STS_NOTSUPP,
    };
    bio.end(status);
}

fn submit_read(device: &Device, bio: Bio) {
    // SAFETY: the plug is not used beyond this function.
    let Some(plug) = (unsafe { plug_of(device) }) else {
        return device.read(BioList::one(bio), true);
    };
    plug.reads.push(bio);
    if plug.reads.count() >= PLUG_BIOS || plug.reads.pages() >= device.shared.limits.pages {
        let reads = plug.reads.take();
        device.read(reads, false);
    }
}

fn submit_write(device: &Device, bio: Bio) {
    let wait = device.synchronous && bio.is_sync();
    let Some(bio) = device.admit(bio) else {
        return;
    };
    if wait {
        return device.write(BioList::one(bio), true, true);
    }
    // SAFETY: the plug is not used beyond this function.
    let Some(plug) = (unsafe { plug_of(device) }) else {
        return device.write(BioList::one(bio), false, true);
    };
    plug.writes.push(bio);
    if plug.writes.count() >= PLUG_BIOS || plug.writes.pages() >= device.shared.limits.pages {
        let writes = plug.writes.take();
        device.write(writes, false, true);
    }
}

/// # Safety
///
/// Called by the swap code with the disk of a swap area.
unsafe extern "C" fn swap_slot_free_notify(bdev: *mut bindings::block_device, offset: c_ulong) {
    // SAFETY: swap holds the disk open. Without partitions, an area is a whole disk, so that the
    // slot's number is the page's index.
    let data = unsafe { data_of((*bdev).bd_disk) };
    if let Ok(index) = u32::try_from(offset) {
        data.device.slot_freed(data.area, index);
    }
}

/// # Safety
///
/// Called by the block layer, once, when nobody uses the disk any more.
unsafe extern "C" fn free_disk(disk: *mut bindings::gendisk) {
    // SAFETY: this is what `add` gave to the disk.
    drop(unsafe { KBox::from_raw((*disk).private_data.cast::<Data>()) });
}
