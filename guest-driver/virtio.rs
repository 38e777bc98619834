// SPDX-License-Identifier: GPL-2.0
//! The virtio bus: probe and removal of a device.
//!
//! Removal comes in an order that leaves no page in the device's hands and no user of what is
//! freed:
//!
//! 1. `dead` is set, so that new bios and calls fail, and the block layer is told.
//! 2. The works end. The request queues are killed: nobody touches their virtqueues from here on,
//!    nobody sleeps for room.
//! 3. The pools are given back to the host, and the other queues are closed.
//! 4. The device is reset: it touches no memory any more.
//! 5. What was answered ends as it should, what was in flight fails; the virtqueues are deleted.
//! 6. The disks go. If swap has one open, the [`Device`] stays until it is closed.
//!
//! What happens in between is in [`crate::lifecycle`].

use crate::{
    device::Device,
    devices,
    disk::Disk,
    ffi::{self, Virtqueue},
    files::{self, Files},
    setup, wire,
};
use core::ptr;
use kernel::{
    bindings,
    error::{from_result, to_result},
    ffi::c_int,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};

/// Two halves of the number that names this boot to the host.
static EPOCH: [Atomic<u64>; 2] = [const { Atomic::new(0) }; 2];

/// The number that names this boot to the host.
pub(crate) fn epoch() -> (u64, u64) {
    (EPOCH[0].load(Relaxed), EPOCH[1].load(Relaxed))
}

/// The driver's registration with the virtio core, and what all devices share.
pub(crate) struct Registration {
    _root: files::Root,
}

impl Registration {
    /// Called once, when the module is loaded.
    pub(crate) fn new(module: &'static ThisModule) -> Result<Self> {
        for half in &EPOCH {
            let mut value = 0u64;
            // SAFETY: the buffer is of that size.
            unsafe { bindings::get_random_bytes((&raw mut value).cast(), size_of::<u64>()) };
            half.store(value, Relaxed);
        }
        // SAFETY: called once.
        let root = unsafe {
            devices::init();
            files::Root::new()
        };
        // SAFETY: the module unregisters the notifier and the driver before it goes.
        unsafe {
            to_result(ffi::vtmem_pm_register())?;
            to_result(ffi::vtmem_register_driver(module.as_ptr()))
                .inspect_err(|_| ffi::vtmem_pm_unregister())?;
        }
        Ok(Self { _root: root })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: both were registered; all devices are removed by this.
        unsafe {
            ffi::vtmem_unregister_driver();
            ffi::vtmem_pm_unregister();
        }
    }
}

/// What the driver core's data of a device points to, from probe to removal.
struct Bound {
    device: Arc<Device>,
    /// Removed before the device's last reference is.
    _files: KVec<Files>,
}

/// # Safety
///
/// Called by the virtio core for a device that this driver matches.
#[no_mangle]
unsafe extern "C" fn vtmem_probe(vdev: *mut ffi::VirtioDevice) -> c_int {
    from_result(|| {
        // SAFETY: as for this function.
        unsafe { probe(vdev) }?;
        Ok(0)
    })
}

/// # Safety
///
/// As for [`vtmem_probe`].
unsafe fn probe(vdev: *mut ffi::VirtioDevice) -> Result {
    let mut bytes = [0u8; wire::Config::SIZE];
    // SAFETY: the device is being probed, and the buffer is of that size.
    unsafe { ffi::vtmem_read_config(vdev, bytes.as_mut_ptr().cast(), wire::Config::SIZE as u32) };
    let config = wire::Config::from_bytes(&bytes);
    setup::check(&config)?;

    // SAFETY: the device is being probed.
    let vqs = unsafe { setup::find_queues(vdev, setup::wanted_pairs(&config), interrupt) }?;
    // SAFETY: the virtqueues are valid until they are deleted, which is done last.
    let bound = match unsafe { bind(vdev, &vqs, &config) } {
        Ok(bound) => bound,
        Err(error) => {
            // SAFETY: nobody uses the virtqueues.
            unsafe { ffi::vtmem_del_vqs(vdev) };
            return Err(error);
        }
    };
    // SAFETY: the device is being probed; interrupts find the device from here on.
    unsafe {
        ffi::vtmem_set_private(vdev, KBox::into_raw(bound).cast());
        ffi::vtmem_device_ready(vdev);
        open(vdev, &config).inspect_err(|_| abandon(vdev))
    }
}

/// # Safety
///
/// As for [`setup::build`].
unsafe fn bind(
    vdev: *mut ffi::VirtioDevice,
    vqs: &[*mut Virtqueue],
    config: &wire::Config,
) -> Result<KBox<Bound>> {
    // SAFETY: as for this function.
    let device = unsafe { setup::build(vdev, vqs, config) }?;
    let bound = Bound {
        device,
        _files: KVec::new(),
    };
    Ok(KBox::new(bound, GFP_KERNEL)?)
}

/// Starts the conversation with a device that is ready, and adds its disk.
///
/// # Safety
///
/// `vdev` is being probed, and its private data is a [`Bound`].
unsafe fn open(vdev: *mut ffi::VirtioDevice, config: &wire::Config) -> Result {
    // SAFETY: only this task changes it, and interrupts look at `device` alone.
    let bound = unsafe { ffi::vtmem_private(vdev).cast::<Bound>() };
    // SAFETY: as above.
    let device = unsafe { (*bound).device.clone() };
    if config.capabilities & wire::capability::EVENTS != 0 {
        device.events.post_all();
    }
    let pages = device.begin(epoch(), setup::Sizes::of(config).disk_pages)?;
    // SAFETY: the device outlives the driver's hold on it.
    let parent = unsafe { ffi::vtmem_device(vdev) };
    let mut disks = KVec::with_capacity(device.areas.len(), GFP_KERNEL)?;
    let mut files = KVec::with_capacity(device.areas.len(), GFP_KERNEL)?;
    for area in 0..device.areas.len() as u32 {
        // SAFETY: as above.
        let added = unsafe { Disk::add(device.clone(), area, parent, pages) };
        let disk = match added {
            Ok(disk) => disk,
            Err(error) => {
                remove_disks(disks);
                return Err(error);
            }
        };
        pr_info!(
            "vtmem{}: {} MiB, {} queue pairs, {} pages a request\n",
            disk.number(),
            pages >> (20 - wire::PAGE_SHIFT),
            device.pairs.len(),
            device.shared.limits.pages
        );
        match Files::new(disk.number(), &device) {
            Ok(made) => files.push(made, GFP_KERNEL)?,
            Err(error) => pr_warn!("no files in debugfs: {:?}\n", error),
        }
        disks.push(disk, GFP_KERNEL)?;
    }
    if let Err(disks) = devices::add(device.clone(), disks) {
        remove_disks(disks);
        return Err(ENOMEM);
    }
    if let Some(balloon) = &device.balloon {
        // SAFETY: `vdev` is the balloon's device, whose end is the balloon's.
        unsafe { balloon.begin(vdev) };
    }
    // SAFETY: as above.
    unsafe { (*bound)._files = files };
    Ok(())
}

fn remove_disks(disks: KVec<Disk>) {
    for disk in disks {
        disk.mark_dead();
        disk.remove();
    }
}

/// # Safety
///
/// Called by the virtio core for a device that was probed.
#[no_mangle]
unsafe extern "C" fn vtmem_remove(vdev: *mut ffi::VirtioDevice) {
    // SAFETY: as for this function.
    unsafe { abandon(vdev) };
}

/// Takes a device down, whether it has a disk or not.
///
/// # Safety
///
/// The private data of `vdev` is a [`Bound`]; it is gone afterwards.
unsafe fn abandon(vdev: *mut ffi::VirtioDevice) {
    // SAFETY: the pointer came from `KBox::into_raw`. Interrupts may still look at `device`, which
    // this box does not change until they have ceased.
    let bound = unsafe { ffi::vtmem_private(vdev).cast::<Bound>() };
    // SAFETY: as above.
    let device = unsafe { (*bound).device.clone() };

    device.dead.store(true, Relaxed);
    let disks = devices::take(&device);
    for disk in &disks {
        disk.mark_dead();
    }
    device.worker.stop();
    device.recovery.stop();
    // SAFETY: this is the device's end.
    unsafe { device.end() };
    // SAFETY: the device is reset, and its virtqueues are deleted. No interrupt comes any more, so that
    // the box has no other user.
    unsafe {
        ffi::vtmem_set_private(vdev, ptr::null_mut());
        drop(KBox::from_raw(bound));
    }
    for disk in disks {
        disk.remove();
    }
}

/// The device that `vdev` is, if it is bound to this driver.
///
/// # Safety
///
/// Called by the virtio core for `vdev`, and used no longer than that.
unsafe fn device_of<'a>(vdev: *mut ffi::VirtioDevice) -> Option<&'a Arc<Device>> {
    // SAFETY: the private data is null or a `Bound`, which lives until the core calls no more; its
    // field `device` does not change.
    unsafe {
        let bound = ffi::vtmem_private(vdev).cast::<Bound>();
        (!bound.is_null()).then(|| &(*bound).device)
    }
}

/// # Safety
///
/// Called by the virtio core, in any context, when the device's configuration or status changes.
#[no_mangle]
unsafe extern "C" fn vtmem_config_changed(vdev: *mut ffi::VirtioDevice) {
    // SAFETY: as for this function.
    if let Some(device) = unsafe { device_of(vdev) } {
        device.recovery.run_in(0);
    }
}

/// The virtio core's own way is to break the virtqueues and to reset the device, which looks like a
/// device that wants to be set up anew: the core would wait for the end of a reset while that goes on.
///
/// # Safety
///
/// Called by the virtio core before the machine goes off or another kernel takes over.
#[no_mangle]
unsafe extern "C" fn vtmem_shutdown(vdev: *mut ffi::VirtioDevice) {
    // SAFETY: as for this function.
    if let Some(device) = unsafe { device_of(vdev) } {
        // SAFETY: as above.
        unsafe { device.fall_asleep(false) };
    }
}

/// # Safety
///
/// Called by the virtio core before the machine sleeps.
#[no_mangle]
unsafe extern "C" fn vtmem_freeze(vdev: *mut ffi::VirtioDevice) -> c_int {
    // SAFETY: as for this function.
    if let Some(device) = unsafe { device_of(vdev) } {
        // SAFETY: as above.
        unsafe { device.fall_asleep(true) };
    }
    0
}

/// # Safety
///
/// Called by the virtio core before the bus resets the device.
#[no_mangle]
unsafe extern "C" fn vtmem_reset_prepare(vdev: *mut ffi::VirtioDevice) -> c_int {
    // SAFETY: as for this function.
    if let Some(device) = unsafe { device_of(vdev) } {
        // SAFETY: as above.
        unsafe { device.fall_asleep(false) };
    }
    0
}

/// # Safety
///
/// Called by the virtio core after the machine has slept or the bus has reset the device, with the
/// features negotiated anew.
#[no_mangle]
unsafe extern "C" fn vtmem_restore(vdev: *mut ffi::VirtioDevice) -> c_int {
    from_result(|| {
        // SAFETY: as for this function.
        if let Some(device) = unsafe { device_of(vdev) } {
            // SAFETY: as above.
            unsafe { device.wake_up() }?;
        }
        Ok(0)
    })
}

/// # Safety
///
/// Called by the virtio core in hard interrupt context for a virtqueue of this driver.
pub(crate) unsafe extern "C" fn interrupt(vq: *mut Virtqueue) {
    // SAFETY: the virtqueue is valid. Interrupts cease before the device is unbound.
    let (device, index) = unsafe { (device_of(ffi::vtmem_vq_device(vq)), ffi::vtmem_vq_index(vq)) };
    if let (Some(device), Ok(index)) = (device, u16::try_from(index)) {
        device.interrupt(index);
    }
}
