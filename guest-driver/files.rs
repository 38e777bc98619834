// SPDX-License-Identifier: GPL-2.0
//! The module's files in debugfs: `virtio_tmem/<disk>/stats` and `get_latency`.

use crate::stats::Stats;
use kernel::{
    debugfs::{Dir, File},
    fmt,
    prelude::*,
    str::CString,
    sync::Arc,
};

kernel::sync::global_lock! {
    // SAFETY: initialised by `Root::new`, before any device is probed.
    unsafe(uninit) static ROOT: Mutex<Option<Dir>> = None;
}

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

/// The files of one device; they go when this is dropped.
pub(crate) struct Files {
    _stats: Pin<KBox<File<Arc<Stats>>>>,
    _latency: Pin<KBox<File<Arc<Stats>>>>,
    _dir: Dir,
}

impl Files {
    /// Makes the files of disk `vtmem<number>`.
    pub(crate) fn new(number: u32, stats: &Arc<Stats>) -> Result<Self> {
        let name = CString::try_from_fmt(fmt!("vtmem{}", number))?;
        let dir = match &*ROOT.lock() {
            Some(root) => root.subdir(&name),
            None => return Err(ENOENT),
        };
        let show_stats: &'static _ =
            &|stats: &Arc<Stats>, f: &mut fmt::Formatter<'_>| stats.show(f);
        let show_latency: &'static _ =
            &|stats: &Arc<Stats>, f: &mut fmt::Formatter<'_>| stats.get_latency.show(f);
        Ok(Self {
            _stats: KBox::pin_init(
                dir.read_callback_file(c"stats", stats.clone(), show_stats),
                GFP_KERNEL,
            )?,
            _latency: KBox::pin_init(
                dir.read_callback_file(c"get_latency", stats.clone(), show_latency),
                GFP_KERNEL,
            )?,
            _dir: dir,
        })
    }
}
