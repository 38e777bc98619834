// SPDX-License-Identifier: GPL-2.0
//! The module's devices, by the numbers of their disks, for whoever wants to use one.

use crate::{device::Device, disk::Disk};
use kernel::{prelude::*, sync::Arc};

/// A device that is bound, and its disks.
struct Entry {
    device: Arc<Device>,
    disks: KVec<Disk>,
}

kernel::sync::global_lock! {
    // SAFETY: initialised by `init`, before any device is probed.
    unsafe(uninit) static DEVICES: Mutex<KVec<Entry>> = KVec::new();
}

/// # Safety
///
/// Called once, before anything else in this file.
pub(crate) unsafe fn init() {
    // SAFETY: as for this function.
    unsafe { DEVICES.init() };
}

/// Enters a device that can be used from now on.
pub(crate) fn add(device: Arc<Device>, disks: KVec<Disk>) -> Result<(), KVec<Disk>> {
    let mut devices = DEVICES.lock();
    if devices.reserve(1, GFP_KERNEL).is_err() {
        return Err(disks);
    }
    // There is room.
    let _ = devices.push(Entry { device, disks }, GFP_KERNEL);
    Ok(())
}

/// Takes a device out; its disks are the caller's again. Empty if it was never entered.
pub(crate) fn take(device: &Arc<Device>) -> KVec<Disk> {
    let mut devices = DEVICES.lock();
    let at = devices
        .iter()
        .position(|entry| Arc::ptr_eq(&entry.device, device));
    match at.map(|at| devices.remove(at)) {
        Some(Ok(entry)) => entry.disks,
        _ => KVec::new(),
    }
}

/// The device that disk `vtmem<number>` is of; None if there is no such disk.
pub(crate) fn by_number(number: u32) -> Option<Arc<Device>> {
    DEVICES
        .lock()
        .iter()
        .find(|entry| entry.disks.iter().any(|disk| disk.number() == number))
        .map(|entry| entry.device.clone())
}

/// The device of the disk with the lowest number.
pub(crate) fn first() -> Option<Arc<Device>> {
    let number = |entry: &Entry| entry.disks.iter().map(Disk::number).min();
    DEVICES
        .lock()
        .iter()
        .min_by_key(|entry| number(entry).unwrap_or(u32::MAX))
        .map(|entry| entry.device.clone())
}

/// Whether any device holds something that would be lost if the host forgot it: a disk that is open,
/// or a pool of another user.
pub(crate) fn in_use() -> bool {
    DEVICES
        .lock()
        .iter()
        .any(|entry| entry.device.has_users() || entry.disks.iter().any(Disk::is_open))
}
