// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask module`: builds the guest driver.

use std::path::PathBuf;

use vm_images::{Cache, Consent, Flavour, Kernel, Module, Prereqs, Progress, Toolchain};

use crate::workspace;

/// Build virtio_tmem.ko for a stock Debian kernel.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Kernel to build for: an upstream version (7.2.12) or a full release; the newest that fits
    /// when left out.
    #[arg(long, value_name = "VERSION")]
    kernel: Option<String>,
    /// Build for the debug kernel of that version, which is built first when it is not there.
    #[arg(long)]
    debug_kernel: bool,
    /// Folder of the driver's sources.
    #[arg(long, value_name = "DIR", default_value_os_t = workspace::driver())]
    driver: PathBuf,
}

pub(crate) fn run(arguments: &Arguments, consent: Consent) -> anyhow::Result<()> {
    Prereqs::ensure(consent)?;
    let toolchain = Toolchain::ensure(&Cache::open()?, &Progress::stderr())?;
    let flavour = Flavour::debug_if(arguments.debug_kernel);
    let kernel = Kernel::of(flavour, &toolchain, arguments.kernel.as_deref())?;
    let module = Module::build(&kernel, &arguments.driver)?;
    print!("{}", module.modinfo);
    println!("kernel:         {}", kernel.release());
    println!("tree:           {}", kernel.tree().display());
    println!("module:         {}", module.ko.display());
    println!("with debug:     {}", module.debug_ko.display());
    Ok(())
}
