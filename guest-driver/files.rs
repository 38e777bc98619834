// SPDX-License-Identifier: GPL-2.0
//! The module's files in debugfs: `virtio_tmem/<disk>/stats`, `get_latency` and `reset`. The disks of a
//! device show the same figures, which are the device's.

use crate::{balloon::Figures, device::Device, stats::Stats};
use kernel::{
    debugfs::{Dir, File},
    fmt,
    prelude::*,
    str::CString,
    sync::{atomic::Relaxed, Arc},
    uaccess::UserSliceReader,
};

kernel::sync::global_lock! {
    // SAFETY: initialised by `Root::new`, before any device is probed.
    unsafe(uninit) static ROOT: Mutex<Option<Dir>> = None;
}

/// Written to `reset`: answers that are in the rings already are not looked at.
const REPLAY: &[u8; 6] = b"replay";

/// The directory `virtio_tmem`, as long as the module is loaded.
pub(crate) struct Root(());

impl Root {
    /// # Safety
    ///
    /// Called once, before anything else in this file.
    pub(crate) unsafe fn new() -> Self {
        // SAFETY: as for this function.
        unsafe { ROOT.init() };
        *ROOT.lock() = Some(Dir::new(c"virtio_tmem"));
        Self(())
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        *ROOT.lock() = None;
    }
}

/// A directory of another part of the module, next to those of the disks.
pub(crate) fn subdir(name: &CStr) -> Result<Dir> {
    match &*ROOT.lock() {
        Some(root) => Ok(root.subdir(name)),
        None => Err(ENOENT),
    }
}

/// The files of one device; they go when this is dropped.
pub(crate) struct Files {
    _stats: Pin<KBox<File<Arc<Stats>>>>,
    _latency: Pin<KBox<File<Arc<Stats>>>>,
    _reset: Pin<KBox<File<Arc<Device>>>>,
    _balloon: Option<Pin<KBox<File<Arc<Figures>>>>>,
    _dir: Dir,
}

impl Files {
    /// Makes the files of disk `vtmem<number>`.
    pub(crate) fn new(number: u32, device: &Arc<Device>) -> Result<Self> {
        let name = CString::try_from_fmt(fmt!("vtmem{}", number))?;
        let dir = match &*ROOT.lock() {
            Some(root) => root.subdir(&name),
            None => return Err(ENOENT),
        };
        let stats = &device.shared.stats;
        let show_stats: &'static _ =
            &|stats: &Arc<Stats>, f: &mut fmt::Formatter<'_>| stats.show(f);
        let show_latency: &'static _ =
            &|stats: &Arc<Stats>, f: &mut fmt::Formatter<'_>| stats.get_latency.show(f);
        let show_balloon: &'static _ =
            &|figures: &Arc<Figures>, f: &mut fmt::Formatter<'_>| figures.show(f);
        let balloon = match &device.balloon {
            Some(balloon) => Some(KBox::pin_init(
                dir.read_callback_file(c"balloon", balloon.figures().clone(), show_balloon),
                GFP_KERNEL,
            )?),
            None => None,
        };
        // Whatever is written: the device is reset and set up anew, as if it had asked for it.
        let reset: &'static _ = &|device: &Arc<Device>, text: &mut UserSliceReader| -> Result {
            let mut word = [0u8; REPLAY.len()];
            if text.len() >= word.len() {
                text.read_slice(&mut word)?;
            }
            device.overlook.store(word == *REPLAY, Relaxed);
            device.asked.store(true, Relaxed);
            device.recovery.run_in(0);
            Ok(())
        };
        Ok(Self {
            _stats: KBox::pin_init(
                dir.read_callback_file(c"stats", stats.clone(), show_stats),
                GFP_KERNEL,
            )?,
            _latency: KBox::pin_init(
                dir.read_callback_file(c"get_latency", stats.clone(), show_latency),
                GFP_KERNEL,
            )?,
            _reset: KBox::pin_init(
                dir.write_callback_file(c"reset", device.clone(), reset),
                GFP_KERNEL,
            )?,
            _balloon: balloon,
            _dir: dir,
        })
    }
}
