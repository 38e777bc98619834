// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests of virtio-tmem in real guests.
//!
//! A test starts the real daemon, boots stock kernels with the real driver under a real monitor,
//! lets programs outgrow the guests' memory, and holds what the programs read, what the kernels
//! count and what the daemon says against each other. Every guest ends with its kernel's log
//! checked.
//!
//! ```text
//! runner ── suite ── bench ─┬─ daemon    vhost-device-tmem, asked by tmemctl
//!                           ├─ stores    remote-store, three times
//!                           ├─ guest ─┬─ vmm       QEMU or cloud-hypervisor
//!                           │         ├─ klog      what a kernel's log must not hold
//!                           │         └─ scenarios/ and tmem-workload, in the initial file system
//!                           └─ load ─── stall      programs that swap on and on; what they feel
//! artifacts                 made once a run, by vm-images and cargo
//! ```
//! Start reading at [`runner`], then [`suite`].

pub mod artifacts;
pub mod bench;
pub mod daemon;
pub mod debug;
pub mod guest;
pub mod klog;
pub mod load;
mod process;
pub mod runner;
pub mod stall;
pub mod stores;
pub mod suite;
pub mod vmm;

pub use runner::{Options, Summary, run_all};
