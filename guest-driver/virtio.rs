// SPDX-License-Identifier: GPL-2.0
//! The virtio bus: probe and removal of a device.
//!
//! Removal comes in an order that leaves no page in the device's hands and no user of what is
//! freed:
//!
//! 1. `dead` is set, so that new bios fail, and the block layer is told.
//! 2. The flush worker ends. The request queues are killed: nobody touches their virtqueues from
//!    here on, nobody sleeps for room.
//! 3. The pool is given back to the host, and the other queues are killed.
//! 4. The device is reset: it touches no memory any more.
//! 5. What was in flight fails; the virtqueues are deleted.
//! 6. The disk goes. If swap has it open, the [`Device`] stays until it is closed.

use crate::{
    device::Device,
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
        let root = unsafe { files::Root::new() };
        // SAFETY: the module unregisters the driver before it goes.
        to_result(unsafe { ffi::vtmem_register_driver(module.as_ptr()) })?;
        Ok(Self { _root: root })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: it was registered; all devices are removed by this.
        unsafe { ffi::vtmem_unregister_driver() };
    }
}

/// What the driver core's data of a device points to, from probe to removal.
struct Bound {
    device: Arc<Device>,
    disk: Option<Disk>,
    /// Removed before the device's last reference is.
    _files: Option<Files>,
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
    let bound = match unsafe { bind(&vqs, &config) } {
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
unsafe fn bind(vqs: &[*mut Virtqueue], config: &wire::Config) -> Result<KBox<Bound>> {
    // SAFETY: as for this function.
    let device = unsafe { setup::build(vqs, config) }?;
    let bound = Bound {
        device,
        disk: None,
        _files: None,
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
    let epoch = (EPOCH[0].load(Relaxed), EPOCH[1].load(Relaxed));
    let pages = device.begin(epoch, setup::disk_pages(config))?;
    // SAFETY: the device outlives the driver's hold on it.
    let disk = unsafe { Disk::add(device.clone(), ffi::vtmem_device(vdev), pages) }?;
    pr_info!(
        "vtmem{}: {} MiB, {} queue pairs, {} pages a request\n",
        disk.number(),
        pages >> (20 - wire::PAGE_SHIFT),
        device.pairs.len(),
        device.shared.limits.pages
    );
    let files = Files::new(disk.number(), &device.shared.stats)
        .inspect_err(|error| pr_warn!("no files in debugfs: {:?}\n", error))
        .ok();
    // SAFETY: as above.
    unsafe {
        (*bound).disk = Some(disk);
        (*bound)._files = files;
    }
    Ok(())
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
    // SAFETY: as above; nobody else has the disk.
    let (device, disk) = unsafe { ((*bound).device.clone(), (*bound).disk.take()) };

    device.dead.store(true, Relaxed);
    if let Some(disk) = &disk {
        disk.mark_dead();
    }
    device.worker.stop();
    device.kill_pairs();
    if disk.is_some() {
        device.finish();
    }
    device.kill_queues();
    // SAFETY: no queue is in use, so that no notification is under way.
    unsafe { ffi::virtio_reset_device(vdev) };
    // SAFETY: the queues were killed, the device has been reset, the virtqueues are still there.
    unsafe { device.drain_queues() };
    // SAFETY: the device is reset, the queues are dead. No interrupt comes any more, so that the
    // box has no other user.
    unsafe {
        ffi::vtmem_del_vqs(vdev);
        ffi::vtmem_set_private(vdev, ptr::null_mut());
        drop(KBox::from_raw(bound));
    }
    if let Some(disk) = disk {
        disk.remove();
    }
}

/// # Safety
///
/// Called by the virtio core before the system sleeps.
#[no_mangle]
unsafe extern "C" fn vtmem_freeze(_vdev: *mut ffi::VirtioDevice) -> c_int {
    pr_err!("cannot sleep: the swapped pages would be lost with the device's state\n");
    EBUSY.to_errno()
}

/// # Safety
///
/// Called by the virtio core in hard interrupt context for a virtqueue of this driver.
unsafe extern "C" fn interrupt(vq: *mut Virtqueue) {
    // SAFETY: the private data is null or a `Bound`, which lives until interrupts have ceased.
    let (bound, index) = unsafe {
        (
            ffi::vtmem_private(ffi::vtmem_vq_device(vq)).cast::<Bound>(),
            ffi::vtmem_vq_index(vq),
        )
    };
    if bound.is_null() {
        return;
    }
    // SAFETY: as above; `device` does not change.
    let device = unsafe { &(*bound).device };
    if let Ok(index) = u16::try_from(index) {
        device.interrupt(index);
    }
}
