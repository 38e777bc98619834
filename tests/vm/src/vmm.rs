// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The virtual machine monitor as a parameter: what a machine is, and how each monitor is told.
//!
//! Every monitor gets the same two lines out of the guest: the kernel's log goes to a file, and a
//! serial port that carries commands and answers is a Unix socket.

mod cloud_hypervisor;
mod probe;
mod qemu;

pub use cloud_hypervisor::CloudHypervisor;
pub use qemu::{Accelerator, Qemu};

use std::path::{Path, PathBuf};
use std::process::Command;

/// Descriptors in every virtqueue.
const QUEUE_SIZE: u16 = 256;
const _: () = assert!(QUEUE_SIZE <= tmem_abi::QUEUE_SIZE_MAX);

/// A guest to be: sizes and files, whatever the monitor.
#[derive(Clone, Debug)]
pub struct Machine {
    /// RAM in MiB.
    pub memory_mib: u32,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Kernel image.
    pub kernel: PathBuf,
    /// Initial file system, an archive in the `newc` format.
    pub initramfs: PathBuf,
    /// More words for the kernel's command line.
    pub cmdline: String,
    /// Its virtio-tmem devices.
    pub tmem: Vec<TmemDevice>,
    /// A raw image that it has as a virtio-blk disk.
    pub disk: Option<PathBuf>,
}

/// A virtio-tmem device whose back-end listens on a socket.
#[derive(Clone, Debug)]
pub struct TmemDevice {
    /// The back-end's vhost-user socket.
    pub socket: PathBuf,
    /// Get/put queue pairs; at least 1.
    pub queue_pairs: u16,
}

impl TmemDevice {
    /// Virtqueues of the device.
    #[must_use]
    pub const fn queues(&self) -> u16 {
        tmem_abi::queue_count(self.queue_pairs)
    }
}

/// Where a running machine's two lines end on the host.
#[derive(Clone, Debug)]
pub struct Lines {
    /// File that receives the kernel's log.
    pub console: PathBuf,
    /// Unix socket of the command port; the monitor listens.
    pub control: PathBuf,
}

impl Lines {
    /// The lines of the guest `name`: its log in `logs`, its socket in `sockets`, whose path must
    /// be short.
    #[must_use]
    pub fn of(name: &str, logs: &Path, sockets: &Path) -> Self {
        Self {
            console: logs.join(format!("{name}.console.log")),
            control: sockets.join(format!("{name}.control.sock")),
        }
    }
}

/// A monitor that can run a [`Machine`] here.
#[derive(Clone, Debug)]
pub enum Vmm {
    /// QEMU, with KVM where that works and TCG otherwise.
    Qemu(Qemu),
    /// cloud-hypervisor, which needs a KVM that works.
    CloudHypervisor(CloudHypervisor),
}

impl Vmm {
    /// Its name, for people.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Qemu(_) => "qemu",
            Self::CloudHypervisor(_) => "cloud-hypervisor",
        }
    }

    /// Whether guests run on an emulated CPU, so that times say little about a real one.
    #[must_use]
    pub fn is_emulated(&self) -> bool {
        match self {
            Self::Qemu(qemu) => qemu.accelerator == Accelerator::Tcg,
            Self::CloudHypervisor(_) => false,
        }
    }

    /// The command that runs `machine` with its lines at `lines`.
    #[must_use]
    pub fn command(&self, machine: &Machine, lines: &Lines) -> Command {
        match self {
            Self::Qemu(qemu) => qemu.command(machine, lines),
            Self::CloudHypervisor(vmm) => vmm.command(machine, lines),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with all there is.
    pub(super) fn machine() -> Machine {
        Machine {
            memory_mib: 256,
            cpus: 2,
            kernel: "/k/vmlinuz".into(),
            initramfs: "/k/initramfs".into(),
            cmdline: "quiet".to_owned(),
            tmem: vec![TmemDevice {
                socket: "/run/vm0.sock".into(),
                queue_pairs: 2,
            }],
            disk: Some("/i/disk.raw".into()),
        }
    }

    /// The arguments of `command`, joined by spaces.
    pub(super) fn words(command: &Command) -> String {
        command
            .get_args()
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    }
}
