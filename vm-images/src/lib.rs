// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Everything that a guest needs, made from Debian packages and kept in a cache.
//!
//! ```text
//!  host's apt ── apt ──► Toolchain (root of unpacked packages: compilers, QEMU, guest programs)
//!                │            │
//!                └──► Kernel (stock image + prepared source tree of the same version,
//!                             │      or one built of that source with the kernel's checkers on)
//!                             │
//!     driver's folder ──► Module (virtio_tmem.ko)
//!                             │
//!                 Initramfs (tests, demo)      DiskImage (a bootable Debian)
//! ```
//!
//! Each artefact lies in a folder of the [`Cache`] whose name ends in a hash of its inputs, so a
//! change of the package versions, of the driver or of a recipe makes a new one, and the same
//! inputs find it done. Nothing is installed on the host but by [`Prereqs`], which asks.
//!
//! This crate knows nothing of the daemon or of tests; callers hand in files and a scenario.
//! Start reading at `toolchain.rs`, then `kernel.rs`, `module.rs`, `initramfs.rs`, `disk.rs`.

mod apt;
mod cache;
mod chroot;
mod cpio;
mod disk;
mod error;
mod initramfs;
mod kernel;
mod key;
mod mirror;
mod module;
mod prereqs;
mod progress;
mod qemu;
mod run;
mod toolchain;

pub use cache::Cache;
pub use disk::DiskImage;
pub use error::{Error, Result};
pub use initramfs::{FIO, GuestFile, Initramfs, InitramfsSpec, REDIS, STRESS_NG};
pub use kernel::{Flavour, Kernel};
pub use module::Module;
pub use prereqs::{Consent, Prereqs};
pub use progress::{Progress, Step};
pub use toolchain::Toolchain;
