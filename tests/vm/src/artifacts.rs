// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! All that a guest needs before it starts: kernel, initial file system, QEMU, programs.

use crate::daemon::Programs;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use vm_images::{
    Cache, FIO, Flavour, GuestFile, Initramfs, InitramfsSpec, Kernel, Module, Progress, REDIS,
    STRESS_NG, Toolchain,
};

/// Folder in the guest with what comes from this crate.
const FOLDER: &str = "/tmem";
/// Scripts that a guest runs by name.
const SCRIPTS: [&str; 3] = ["tmem-swap-on", "tmem-figures", "tmem-load"];
const PROGRAM_MODE: u32 = 0o755;

/// Programs from Debian's packages that a guest has beside the usual ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extras {
    /// None: every file of the initial file system lies in the guest's memory.
    None,
    /// stress-ng and redis.
    Workloads,
    /// The programs that page by themselves.
    Pager,
    /// What a guest with a disk needs.
    Disk,
    /// The same and fio, whose libraries are larger than all else.
    Fio,
}

impl Extras {
    /// All of them, the smallest first.
    pub const ALL: [Self; 5] = [
        Self::None,
        Self::Disk,
        Self::Pager,
        Self::Workloads,
        Self::Fio,
    ];
}

/// Files and programs, ready for use.
#[derive(Debug)]
pub struct Artifacts {
    /// Which kernel it is.
    pub flavour: Flavour,
    /// Kernel image.
    pub kernel: PathBuf,
    /// Kernel release, such as `7.2.12+deb13-cloud-amd64`.
    pub release: String,
    /// Initial file system with the module, the workloads and the scripts.
    pub initramfs: PathBuf,
    /// How QEMU is started.
    pub qemu: Command,
    /// Programs of the host.
    pub programs: Programs,
    /// Folder for logs.
    pub logs: PathBuf,
}

impl Artifacts {
    /// Builds whatever is not there: toolchain root, kernel tree, module, daemon, `tmemctl`, store,
    /// workload and initial file system. Logs will go to a folder `purpose`.
    ///
    /// # Errors
    /// If any of it cannot be built; the message says what is missing.
    pub fn prepare(
        purpose: &str,
        extras: Extras,
        flavour: Flavour,
        progress: &Progress,
    ) -> Result<Self> {
        let step = progress.step("Daemon, tmemctl, store, agent and workload");
        let [daemon, tmemctl, remote_store] =
            tmem_programs::host_programs(["vhost-device-tmem", "tmemctl", "remote-store"])?;
        let workload = tmem_programs::workload()?;
        let agent = tmem_programs::agent()?;
        step.done("built");

        let cache = Cache::open()?;
        let toolchain = Toolchain::ensure(&cache, progress)?;
        let kernel = Kernel::of(flavour, &toolchain, None)?;
        let module = Module::build(&kernel, &tmem_programs::workspace().join("guest-driver"))?;
        let spec = spec(&workload, &agent, extras)?;
        let initramfs = Initramfs::build(&toolchain, &kernel, &module, &spec)?;

        // Programs lie in TARGET/release; the logs go beside that.
        let target = daemon.ancestors().nth(2);
        let logs = target
            .unwrap_or_else(|| tmem_programs::workspace())
            .join("guests")
            .join(purpose);
        std::fs::create_dir_all(&logs)
            .with_context(|| format!("Cannot create {}", logs.display()))?;
        Ok(Self {
            flavour,
            kernel: kernel.vmlinuz().to_owned(),
            release: kernel.release().to_owned(),
            initramfs,
            qemu: toolchain.qemu(),
            programs: Programs {
                daemon,
                tmemctl,
                remote_store,
            },
            logs,
        })
    }
}

/// What goes into the initial file system beside kernel module and usual programs.
fn spec(workload: &Path, agent: &Path, extras: Extras) -> Result<InitramfsSpec> {
    let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let serve = scenarios.join("serve-commands");
    let scenario = std::fs::read_to_string(&serve)
        .with_context(|| format!("Cannot read {}", serve.display()))?;
    let file = |name: &str, source: PathBuf| GuestFile {
        path: format!("{FOLDER}/{name}"),
        source,
        mode: PROGRAM_MODE,
    };
    let mut files: Vec<GuestFile> = SCRIPTS
        .iter()
        .map(|name| file(name, scenarios.join(name)))
        .collect();
    files.push(file("tmem-workload", workload.to_owned()));
    files.push(file("tmem-agent", agent.to_owned()));
    let programs = match extras {
        Extras::None => Vec::new(),
        // The server takes its commands from the workload program, without redis-cli.
        Extras::Workloads => vec![STRESS_NG[0].to_owned(), REDIS[0].to_owned()],
        // To make a file system.
        Extras::Disk => vec!["usr/sbin/mke2fs".to_owned()],
        Extras::Fio => vec![FIO[0].to_owned()],
        Extras::Pager => {
            for (name, path) in tmem_programs::pager_programs()? {
                files.push(file(name, path));
            }
            Vec::new()
        }
    };
    let modules = match extras {
        Extras::Disk | Extras::Fio => vec!["virtio_blk".to_owned(), "dm_flakey".to_owned()],
        _ => Vec::new(),
    };
    Ok(InitramfsSpec {
        files,
        programs,
        modules,
        ..InitramfsSpec::new(&scenario)
    })
}
