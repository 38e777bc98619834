// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where one test stands: its own daemon, its own guests, its own logs.

use crate::artifacts::Artifacts;
use crate::daemon::{Daemon, Programs, Setup};
use crate::debug;
use crate::guest::{Guest, Output};
use crate::vmm::{Lines, Machine, TmemDevice, Vmm};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tmem_admin_api::{Bucket, Histogram};
use vm_images::Flavour;

/// RAM of a guest in a test, in MiB.
pub const MEMORY_MIB: u32 = 256;
/// What a guest is promised on the host, in MiB.
pub const GRANT_MIB: u32 = 512;
/// Queue pairs of every device, one a virtual CPU.
const QUEUE_PAIRS: u16 = 2;
const CPUS: u32 = 2;
/// Time for a command that only looks or sets something.
pub const QUICK: Duration = Duration::from_secs(60);
/// Time for a workload on an emulated CPU of a busy machine.
pub const LONG: Duration = Duration::from_secs(240);
/// What a guest says when it has booted, before the time and the memory that programs may have.
const UP: &str = "guest: up after ";
/// Time for freed pages to be flushed.
const SETTLE: Duration = Duration::from_secs(30);
/// Page 0 of a swap area holds its header: it is on the host, but no part of what is swapped.
const HEADER_PAGES: u64 = 1;

/// What is the same for all tests of a run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Decides all content and order.
    pub seed: u64,
    /// Times that a test kills the daemon's worker, where it does.
    pub kills: u32,
    /// For how long the fuzzer runs, where it does.
    pub fuzz: Duration,
}

/// What a test has to work with.
#[derive(Debug)]
pub struct Bench<'a> {
    artifacts: &'a Artifacts,
    vmm: &'a Vmm,
    /// Decides all content and order.
    pub seed: u64,
    /// Times that a test kills the daemon's worker, where it does.
    pub kills: u32,
    /// For how long the fuzzer runs, where it does.
    pub fuzz: Duration,
    logs: PathBuf,
    sockets: tempfile::TempDir,
}

impl<'a> Bench<'a> {
    /// A bench whose logs go to `logs`, a folder that is there.
    ///
    /// # Errors
    /// If there is no room for its sockets.
    pub fn new(artifacts: &'a Artifacts, vmm: &'a Vmm, plan: Plan, logs: &Path) -> Result<Self> {
        let sockets = tempfile::Builder::new()
            .prefix("tmem-")
            .tempdir()
            .context("Cannot create a folder for sockets")?;
        Ok(Self {
            artifacts,
            vmm,
            seed: plan.seed,
            kills: plan.kills,
            fuzz: plan.fuzz,
            logs: logs.to_owned(),
            sockets,
        })
    }

    /// Starts a daemon that serves `guests`.
    ///
    /// # Errors
    /// If it does not start.
    pub fn daemon(&self, guests: &[&str]) -> Result<Daemon> {
        self.daemon_with(guests, "", false)
    }

    /// As [`daemon`](Self::daemon), with further `lines` in its table of the configuration, and
    /// perhaps under a service manager.
    ///
    /// # Errors
    /// If it does not start.
    pub fn daemon_with(&self, guests: &[&str], lines: &str, managed: bool) -> Result<Daemon> {
        let setup = Setup {
            guests,
            grant_mib: GRANT_MIB,
            queue_pairs: QUEUE_PAIRS,
            daemon: lines,
            managed,
        };
        let sockets = self.sockets.path();
        Ok(Daemon::start(
            &self.artifacts.programs,
            &setup,
            sockets,
            &self.logs,
        )?)
    }

    /// The programs of the host.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.artifacts.programs
    }

    /// Where this test's logs go.
    #[must_use]
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// Another file with the daemon's program, in a folder of its own.
    ///
    /// # Errors
    /// If it cannot be copied.
    pub fn copy_of_daemon(&self) -> Result<PathBuf> {
        let folder = self.sockets.path().join("versions");
        std::fs::create_dir(&folder)
            .with_context(|| format!("Cannot create {}", folder.display()))?;
        let (from, to) = (&self.artifacts.programs.daemon, folder.join("another"));
        std::fs::copy(from, &to)
            .with_context(|| format!("Cannot copy {} to {}", from.display(), to.display()))?;
        Ok(to)
    }

    /// Boots guest `name` of `daemon`.
    ///
    /// # Errors
    /// If it does not boot.
    pub fn boot(&self, daemon: &Daemon, name: &str, memory_mib: u32) -> Result<Guest> {
        self.boot_as(daemon, &[name], memory_mib)
    }

    /// Boots one machine with a device for each of the guests `names` of `daemon`, and the first
    /// one's name.
    ///
    /// # Errors
    /// If it does not boot.
    pub fn boot_as(&self, daemon: &Daemon, names: &[&str], memory_mib: u32) -> Result<Guest> {
        self.boot_machine(daemon, names, memory_mib, None)
    }

    /// Boots guest `name` of `daemon` with a disk of its own, `/dev/vda`, that has the bytes of the file
    /// `disk`.
    ///
    /// # Errors
    /// If it does not boot.
    pub fn boot_with_disk(
        &self,
        daemon: &Daemon,
        name: &str,
        memory_mib: u32,
        disk: &Path,
    ) -> Result<Guest> {
        self.boot_machine(daemon, &[name], memory_mib, Some(disk))
    }

    /// The memory of a guest that is booted with `memory_mib`, in MiB.
    #[must_use]
    pub fn memory_mib(&self, memory_mib: u32) -> u32 {
        match self.artifacts.flavour {
            Flavour::Stock => memory_mib,
            Flavour::Debug => debug::memory_mib(memory_mib),
        }
    }

    fn boot_machine(
        &self,
        daemon: &Daemon,
        names: &[&str],
        memory_mib: u32,
        disk: Option<&Path>,
    ) -> Result<Guest> {
        let name = names.first().context("A machine without a device")?;
        let (cmdline, patience) = match self.artifacts.flavour {
            Flavour::Stock => ("", 1),
            Flavour::Debug => (debug::CMDLINE, debug::PATIENCE),
        };
        let machine = Machine {
            memory_mib: self.memory_mib(memory_mib),
            cpus: CPUS,
            kernel: self.artifacts.kernel.clone(),
            initramfs: self.artifacts.initramfs.clone(),
            cmdline: cmdline.to_owned(),
            tmem: names
                .iter()
                .map(|name| TmemDevice {
                    socket: daemon.socket(name),
                    queue_pairs: QUEUE_PAIRS,
                })
                .collect(),
            disk: disk.map(Path::to_owned),
        };
        let lines = Lines::of(name, &self.logs, self.sockets.path());
        Ok(Guest::boot_patiently(self.vmm, &machine, lines, patience)?)
    }

    /// A daemon with one guest, `vm0`, that swaps to it.
    ///
    /// # Errors
    /// If any step fails.
    pub fn swapping(&self) -> Result<(Daemon, Guest)> {
        self.swapping_to(self.daemon(&["vm0"])?)
    }

    /// The guest `vm0` of `daemon`, which swaps to it.
    ///
    /// # Errors
    /// If any step fails.
    pub fn swapping_to(&self, daemon: Daemon) -> Result<(Daemon, Guest)> {
        let mut guest = self.boot(&daemon, "vm0", MEMORY_MIB)?;
        swap_on(&mut guest)?;
        Ok((daemon, guest))
    }
}

/// Loads the driver and swaps to its disk.
///
/// # Errors
/// If the guest cannot.
pub fn swap_on(guest: &mut Guest) -> Result<()> {
    guest.run("tmem-swap-on", QUICK)?.ok()?;
    Ok(())
}

/// What the guest's kernel and driver count.
#[derive(Clone, Debug)]
pub struct Figures(Value);

impl Figures {
    /// Asks `guest`.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn of(guest: &mut Guest) -> Result<Self> {
        Ok(Self(guest.run("tmem-figures", QUICK)?.ok()?.result()?))
    }

    /// A count of the kernel's.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn kernel(&self, name: &str) -> Result<u64> {
        number(&self.0, name)
    }

    /// A count of the driver's, from debugfs.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn driver(&self, name: &str) -> Result<u64> {
        number(&self.0["driver"], name)
    }

    /// Pages of the swap area that are in use.
    ///
    /// # Errors
    /// If the guest did not tell.
    pub fn swap_used_pages(&self) -> Result<u64> {
        Ok(self.kernel("swap_used_kib")? * 1024 / tmem_admin_api::PAGE_BYTES)
    }
}

/// `percent` of the memory that was free for programs when the guest had booted, in MiB. Later the kernel
/// may say less for a while: what it reports as free, it sets aside until the host has heard.
///
/// # Errors
/// If the guest did not tell.
pub fn available_mib(guest: &Guest, percent: u64) -> Result<u64> {
    let log = guest.log();
    let line = log.lines().rev().find(|line| line.contains(UP));
    let kib = line.and_then(|line| line.rsplit_once(", ")?.1.split(' ').next());
    let kib: u64 = kib
        .and_then(|kib| kib.parse().ok())
        .context("The guest did not say how much memory it has")?;
    Ok(kib * percent / 100 / 1024)
}

/// How long gets took so far, as the driver saw it: from debugfs, in its buckets.
///
/// # Errors
/// If the guest does not answer, or not in pairs of numbers.
pub fn get_latency(guest: &mut Guest) -> Result<Histogram> {
    let output = guest
        .run("cat /sys/kernel/debug/virtio_tmem/*/get_latency", QUICK)?
        .ok()?;
    let mut buckets = Vec::new();
    for line in &output.lines {
        let pair = line
            .split_once(' ')
            .with_context(|| format!("No bucket: {line}"))?;
        buckets.push(Bucket {
            upper_ns: pair.0.parse().with_context(|| format!("No edge: {line}"))?,
            count: pair
                .1
                .parse()
                .with_context(|| format!("No count: {line}"))?,
        });
    }
    // The driver keeps neither sum nor maximum.
    let max_ns = buckets.last().map_or(0, |bucket| bucket.upper_ns);
    Ok(Histogram::from_buckets(buckets, 0, max_ns))
}

/// The number `name` in `object`.
///
/// # Errors
/// If it is not there.
pub fn number(object: &Value, name: &str) -> Result<u64> {
    object[name]
        .as_u64()
        .with_context(|| format!("No count {name} in {object}"))
}

/// Runs a workload to its end and requires that all it read was right.
///
/// # Errors
/// If it fails, finds a difference, or takes longer than four minutes.
pub fn workload(guest: &mut Guest, arguments: &str) -> Result<Value> {
    let output = guest
        .run(&format!("tmem-workload {arguments}"), LONG)?
        .ok()?;
    clean_result(&output)
}

/// A workload's result, which must tell of no difference.
///
/// # Errors
/// If there is no result or there are differences.
pub fn clean_result(output: &Output) -> Result<Value> {
    let result = output.result()?;
    let mismatches = number(&result, "mismatches")?;
    ensure!(
        mismatches == 0,
        "{mismatches} mismatches: {}",
        output.text()
    );
    Ok(result)
}

/// Waits until the host holds as many pages of guest `name` as its swap area has in use.
///
/// Two kinds of slots count in the guest alone: those of pages that are all zero, which the kernel
/// never writes, and those of pages in the swap cache that it has not written yet. Returns the
/// pages that the host holds.
///
/// # Errors
/// If it does not come to that within 30 s: pages leaked, or are missing.
pub fn settled(daemon: &Daemon, guest: &mut Guest, name: &str) -> Result<u64> {
    let start = Instant::now();
    loop {
        let figures = Figures::of(guest)?;
        let pages = daemon.pages(name)?;
        let used = figures.swap_used_pages()?;
        let zero = figures.kernel("swpout_zero")?;
        let cached = figures.kernel("swap_cached_kib")? * 1024 / tmem_admin_api::PAGE_BYTES;
        let swapped = pages.saturating_sub(HEADER_PAGES);
        if swapped <= used && used <= swapped + zero + cached {
            return Ok(pages);
        }
        if start.elapsed() > guest.patiently(SETTLE) {
            bail!(
                "The host holds {pages} pages, where the guest's swap area has {used} in use \
                 (at most {zero} of them zero, {cached} in the swap cache)"
            );
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
