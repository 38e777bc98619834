// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask demo`: a stock guest runs programs that need three times its free memory, and every
//! byte is checked.
//!
//! Its cold pages are on two of three `remote-store` processes each, but for the few that a small cap
//! leaves in the host's DRAM. In the middle of the first program one of the stores is killed: gets go on
//! from the other copies, which are copied anew. Before the second program it comes back, empty.

mod report;
mod stores;
mod watch;
mod workloads;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tmem_vm_tests::artifacts::{Artifacts, Extras};
use tmem_vm_tests::bench::available_mib;
use tmem_vm_tests::daemon::{Daemon, Setup};
use tmem_vm_tests::guest::Guest;
use tmem_vm_tests::vmm::{Lines, Machine, Qemu, TmemDevice, Vmm};
use vm_images::{Consent, Flavour, Prereqs, Progress};

use report::Report;
use stores::Cast;

/// The guest's name at the daemon.
const GUEST: &str = "vm0";
const QUEUE_PAIRS: u16 = 2;
const CPUS: u32 = 2;
/// The grant, as a multiple of the guest's memory.
const GRANT_FACTOR: u32 = 4;
/// What the guest may have of the host's DRAM, in MiB.
const DRAM_CAP_MIB: u32 = 24;
/// What a workload needs, as a multiple of the memory that is free in the guest.
const NEED_FACTOR: u64 = 3;
/// The least memory that Debian's kernel and the initial file system leave room in.
const MEMORY_MIB_MIN: u32 = 192;
const QUICK: Duration = Duration::from_secs(60);

/// Show a guest that outgrows its memory: stress-ng and redis with their cold pages on three remote
/// stores, one of which is killed.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Write the figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The guest's memory, 192MiB or more
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = mebibytes)]
    memory: u32,
}

/// Reads a size such as `256MiB` or `1GiB`, in MiB.
fn mebibytes(text: &str) -> Result<u32, String> {
    let parsed = text
        .strip_suffix("MiB")
        .map(|number| (number, 1))
        .or_else(|| text.strip_suffix("GiB").map(|number| (number, 1024)))
        .and_then(|(number, unit)| number.parse::<u32>().ok()?.checked_mul(unit));
    match parsed {
        Some(mib) if mib >= MEMORY_MIB_MIN => Ok(mib),
        Some(mib) => Err(format!(
            "{mib} MiB is too little; take {MEMORY_MIB_MIN}MiB or more"
        )),
        None => Err("write a size such as 256MiB or 1GiB".to_owned()),
    }
}

pub(crate) fn run(arguments: &Arguments, consent: Consent) -> Result<()> {
    let started = Instant::now();
    Prereqs::ensure(consent)?;
    let progress = Progress::stderr();
    let artifacts = Artifacts::prepare("demo", Extras::Workloads, Flavour::Stock, &progress)?;
    let (qemu, kvm_refusal) = Qemu::probe(&artifacts.qemu, &artifacts.kernel);
    if let Some(reason) = &kvm_refusal {
        progress.line(&format!(
            "KVM does not work here ({reason}): QEMU emulates the CPU (TCG), so all times are \
             those of an emulated CPU, many times slower than a real one"
        ));
    }
    let stage = Stage::set(&artifacts, Vmm::Qemu(qemu), arguments.memory, &progress)?;
    let report = stage.play(started, &progress)?;
    print!("{}", report.text());
    if let Some(path) = &arguments.json {
        write_json(&report, path)?;
    }
    ensure!(
        report.mismatches() == 0,
        "{} pages or values came back other than they were written",
        report.mismatches()
    );
    ensure!(
        report.stores.lost_pages == 0,
        "{} pages were lost with a store, and each had a second copy",
        report.stores.lost_pages
    );
    ensure!(
        report.kernel_complaint.is_none(),
        "{}",
        report.kernel_complaint.unwrap_or_default()
    );
    Ok(())
}

fn write_json(report: &Report, path: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(&report.json())? + "\n";
    std::fs::write(path, text).with_context(|| format!("Cannot write {}", path.display()))?;
    println!("Figures are in {}", path.display());
    Ok(())
}

/// A daemon on three stores, and a guest that swaps to it.
struct Stage {
    daemon: Daemon,
    cast: Cast,
    guest: Guest,
    vmm: Vmm,
    memory_mib: u32,
    release: String,
    // Removed last.
    _sockets: tempfile::TempDir,
}

impl Stage {
    fn set(artifacts: &Artifacts, vmm: Vmm, memory_mib: u32, progress: &Progress) -> Result<Self> {
        let sockets = tempfile::Builder::new()
            .prefix("tmem-")
            .tempdir()
            .context("Cannot create a folder for sockets")?;
        let grant_mib = memory_mib * GRANT_FACTOR;
        let cast = Cast::start(&artifacts.programs, grant_mib, &artifacts.logs)?;
        let setup = Setup {
            guests: &[GUEST],
            grant_mib,
            queue_pairs: QUEUE_PAIRS,
            daemon: &cast.tables(),
            managed: false,
        };
        let daemon = Daemon::start(&artifacts.programs, &setup, sockets.path(), &artifacts.logs)?;
        let cap = format!("{DRAM_CAP_MIB}MiB");
        daemon.tell(&["guest", "limit", GUEST, "--dram-cap", &cap])?;
        progress.line(&format!(
            "Daemon: grants the guest {grant_mib} MiB, {DRAM_CAP_MIB} MiB of them in DRAM, the others \
             twice on three remote-stores"
        ));
        let step = progress.step("Guest");
        let machine = Machine {
            memory_mib,
            cpus: CPUS,
            kernel: artifacts.kernel.clone(),
            initramfs: artifacts.initramfs.clone(),
            cmdline: String::new(),
            tmem: vec![TmemDevice {
                socket: daemon.socket(GUEST),
                queue_pairs: QUEUE_PAIRS,
            }],
            disk: None,
        };
        let lines = Lines::of(GUEST, &artifacts.logs, sockets.path());
        let mut guest = Guest::boot(&vmm, &machine, lines)?;
        step.done(&format!("{memory_mib} MiB, kernel {}", artifacts.release));
        let step = progress.step("modprobe virtio_tmem; mkswap /dev/vtmem0; swapon /dev/vtmem0");
        guest
            .run("modprobe virtio_tmem && tmem-swap-on", QUICK)?
            .ok()?;
        step.done("swapping to the host");
        Ok(Self {
            daemon,
            cast,
            guest,
            vmm,
            memory_mib,
            release: artifacts.release.clone(),
            _sockets: sockets,
        })
    }

    fn play(mut self, started: Instant, progress: &Progress) -> Result<Report> {
        let free_mib = available_mib(&self.guest, 100)?;
        let need_mib = free_mib * NEED_FACTOR;
        progress.line(&format!(
            "{free_mib} MiB are free in the guest; each workload needs {need_mib} MiB"
        ));
        self.cast.falls_in(need_mib);
        let mut runs = Vec::new();
        for workload in workloads::ALL {
            runs.push(watch::run(
                workload,
                need_mib,
                (&self.daemon, &mut self.cast),
                &mut self.guest,
                progress,
            )?);
            self.cast.between(&self.daemon, progress)?;
        }
        let stores = self.cast.outcome(&self.daemon)?;
        // A complaint must not hide the figures: it is told after them.
        let kernel_complaint = self.guest.shut_down().err().map(|error| error.to_string());
        let memory = self.daemon.status()?.memory;
        self.daemon.shut_down()?;
        Ok(Report {
            emulated_cpu: self.vmm.is_emulated(),
            kernel: self.release,
            guest_memory_mib: self.memory_mib,
            guest_free_mib: free_mib,
            daemon_peak_resident_bytes: memory.peak_resident_bytes,
            seconds: started.elapsed().as_secs_f64(),
            runs,
            stores,
            kernel_complaint,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_small_ones_refused() {
        assert_eq!(mebibytes("256MiB"), Ok(256));
        assert_eq!(mebibytes("2GiB"), Ok(2048));
        assert!(mebibytes("64MiB").is_err());
        assert!(mebibytes("256").is_err());
        assert!(mebibytes("9999999GiB").is_err());
    }
}
