// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask guest`: the test guest on this terminal, for a look around or one scenario.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, bail};
use vm_images::{
    Cache, Consent, Flavour, Initramfs, InitramfsSpec, Kernel, Module, Prereqs, Progress, Toolchain,
};

use crate::workspace;

/// What the guest runs when no scenario is given.
const SHELL: &str = "#!/bin/sh\necho 'Leave with: exit'\nexec setsid -c bash -i\n";

/// Two processors have two pairs of request queues, after control, event, balloon and report queue.
const DEVICE: &str = "vhost-user-test-device-pci,chardev=tmem0,virtio-id=13,num_vqs=8,\
                      vq_size=256,config_size=64";

/// Boot the test guest on this terminal, with a shell or a scenario of your own.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Kernel to boot: an upstream version (7.2.12) or a full release.
    #[arg(long, value_name = "VERSION")]
    kernel: Option<String>,
    /// Boot the debug kernel of that version, which is built first when it is not there.
    #[arg(long)]
    debug_kernel: bool,
    /// Folder of the driver's sources.
    #[arg(long, value_name = "DIR", default_value_os_t = workspace::driver())]
    driver: PathBuf,
    /// Script to run in the guest instead of a shell; the guest is switched off when it ends.
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Stock kernel modules that modprobe shall find in the guest.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    modules: Vec<String>,
    /// The guest's memory in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    memory: u32,
    /// Socket of a running vhost-device-tmem: gives the guest its device.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The accelerator, as QEMU names it.
    #[arg(long, default_value = "tcg,thread=multi")]
    accel: String,
    /// More arguments for QEMU.
    #[arg(last = true)]
    qemu: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments, consent: Consent) -> anyhow::Result<()> {
    Prereqs::ensure(consent)?;
    let toolchain = Toolchain::ensure(&Cache::open()?, &Progress::stderr())?;
    let flavour = Flavour::debug_if(arguments.debug_kernel);
    let kernel = Kernel::of(flavour, &toolchain, arguments.kernel.as_deref())?;
    let module = Module::build(&kernel, &arguments.driver)?;
    let scenario = match &arguments.scenario {
        Some(path) => fs::read_to_string(path)
            .with_context(|| format!("Cannot read the scenario {}", path.display()))?,
        None => SHELL.to_owned(),
    };
    let mut spec = InitramfsSpec::new(&scenario);
    spec.modules.clone_from(&arguments.modules);
    let initramfs = Initramfs::build(&toolchain, &kernel, &module, &spec)?;

    let memory = arguments.memory;
    let mut qemu = toolchain.qemu();
    qemu.args([
        "-nodefaults",
        "-no-reboot",
        "-display",
        "none",
        "-serial",
        "mon:stdio",
    ])
    .args([
        "-machine",
        "q35,memory-backend=mem0",
        "-smp",
        "2",
        "-cpu",
        "max",
    ])
    .args(["-accel", &arguments.accel, "-m", &format!("{memory}M")])
    .arg("-object")
    .arg(format!(
        "memory-backend-memfd,id=mem0,size={memory}M,share=on"
    ))
    .arg("-kernel")
    .arg(kernel.vmlinuz())
    .arg("-initrd")
    .arg(&initramfs)
    .args(["-append", "console=ttyS0 panic=-1 quiet no_timer_check"]);
    if let Some(socket) = &arguments.socket {
        qemu.arg("-chardev")
            .arg(format!("socket,id=tmem0,path={}", socket.display()))
            .args(["-device", DEVICE]);
    }
    qemu.args(&arguments.qemu);
    let status = qemu.status().context("Cannot start QEMU")?;
    if !status.success() {
        bail!("QEMU ended with {status}");
    }
    Ok(())
}
