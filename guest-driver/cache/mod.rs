// SPDX-License-Identifier: GPL-2.0
//! The clean cache: a device-mapper target, `tmem-cache`, in front of a disk of the guest.
//!
//! ```sh
//! dmsetup create cached --table "0 $(blockdev --getsz /dev/vda) tmem-cache /dev/vda"
//! ```
//!
//! Blocks that are read from the disk are also given to the host, in an ephemeral pool of the target's;
//! once the guest's page cache has dropped them, they are read back from the host's memory
//! instead of the disk. The host may lose any page at any time; the disk always has everything.
//!
//! | file | holds |
//! | --- | --- |
//! | `decide/` | what may be read from the host, and when a bit of the filter is set: plain Rust, tested in `model/` |
//! | `filter.rs` | the filter's memory and locks |
//! | `read.rs` | reads; gets and what becomes of them |
//! | `copy.rs` | reads from the disk that are copied to the host |
//! | `forget.rs` | flushes of what was written |
//! | `link.rs` | the connection to a pool, and how it is left |
//! | `target.rs` | a target, its workers, and what device mapper asks of it |
//! | `options.rs`, `counts.rs` | table words; counters |
//! | `ffi.rs`, `cache_shim.c` | device mapper's table and bios |
//!
//! A **write** clears the filter's bits of its blocks, goes to the disk, and is noted as ended before
//! its sender hears of it (write-around). A **read** of blocks without bits goes to the disk at once,
//! without a message to the host; if it is worth it through pages of the driver's own (`copy.rs`), which are
//! put to the host afterwards. A read of blocks with bits is a get; whatever goes wrong with it,
//! the bio is read from the disk.
//!
//! Everything here runs in the submitter's context, in interrupts, or in one of two workers of a target.
//! Nothing but the workers sleeps, and a read never waits for memory: what cannot be had at once is done
//! without.
//!
//! Locks, none of which is held together with another of this folder: a stripe of the filter, the link,
//! the list of copies, of reads to be sent again, of ranges to be forgotten. The link's is held around
//! the workqueue's.

mod copy;
mod counts;
#[allow(unreachable_pub)]
mod decide;
mod ffi;
mod filter;
mod forget;
mod link;
mod options;
mod read;
mod target;

use kernel::{error::to_result, prelude::*};

/// The target type, known to device mapper from load to unload of the module.
pub(crate) struct Registration(());

impl Registration {
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: the type is static, and unregistered on drop.
        to_result(unsafe { ffi::vtmem_cache_register() })?;
        Ok(Self(()))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: it was registered; a table that uses it would hold the module.
        unsafe { ffi::vtmem_cache_unregister() };
    }
}
