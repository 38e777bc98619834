// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask image`: a bootable Debian disk with the guest driver.

use std::path::PathBuf;

use vm_images::{Cache, Consent, DiskImage, Kernel, Module, Prereqs, Progress, Toolchain};

use crate::workspace;

/// Build a bootable Debian disk with the module and the swap unit installed.
///
/// Root has no password and is logged in on the serial console; nothing listens on the network.
/// The commands to boot it with QEMU, cloud-hypervisor and libvirt are in vm-images/examples.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Kernel of the image: an upstream version (7.2.12) or a full release.
    #[arg(long, value_name = "VERSION")]
    kernel: Option<String>,
    /// Folder of the driver's sources.
    #[arg(long, value_name = "DIR", default_value_os_t = workspace::driver())]
    driver: PathBuf,
}

pub(crate) fn run(arguments: &Arguments, consent: Consent) -> anyhow::Result<()> {
    Prereqs::ensure_for_image(consent)?;
    let toolchain = Toolchain::ensure(&Cache::open()?, &Progress::stderr())?;
    let kernel = Kernel::ensure(&toolchain, arguments.kernel.as_deref())?;
    let module = Module::build(&kernel, &arguments.driver)?;
    let image = DiskImage::build(&toolchain, &kernel, &module)?;
    println!("disk:    {}", image.qcow2.display());
    println!("kernel:  {}", image.vmlinuz.display());
    println!("initrd:  {}", image.initrd.display());
    println!("append:  {}", image.append);
    Ok(())
}
