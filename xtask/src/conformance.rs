// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask conformance`: the bare-metal guest under every monitor that there is, against the
//! daemon. docs/conformance.md tells how to read it and how to add a check.
//!
//! ```text
//! build   the guest, with the toolchain root's compiler          vmm      which monitors there are
//! run     one guest under one monitor, bounded in time           report   its lines, the table, JSON
//! ```

mod build;
mod report;
mod run;
mod vmm;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use vm_images::{Cache, Consent, Prereqs, Progress, Toolchain};

use crate::workspace;
use report::{Outcome, Report};
use run::{Options, Stage};
use vmm::Vmm;

/// Names the daemon's program, which is built otherwise.
const DAEMON_VARIABLE: &str = "TMEM_DAEMON";
/// Names the seed, as for every other test.
const SEED_VARIABLE: &str = "TMEM_SEED";

/// Check the device from a bare-metal guest, under each monitor and accelerator that works here.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Arguments {
    /// Only this monitor's program, QEMU (10.2 or newer) or cloud-hypervisor (52 or newer).
    #[arg(long, value_name = "PATH")]
    vmm: Option<PathBuf>,
    /// Only this accelerator, which then must work.
    #[arg(long, value_enum)]
    accel: Option<vmm::Accelerator>,
    /// Only checks whose name holds this.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Seed of the random checks; TMEM_SEED or the clock when left out.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Write the results to this file as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Arguments {
    /// Everything that works here.
    pub(crate) fn all(seed: Option<u64>) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }
}

/// What a run of all monitors came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Checks that passed, under all monitors.
    pub(crate) passed: usize,
    /// Checks that failed, and runs that did not come to an end.
    pub(crate) failed: usize,
}

pub(crate) fn run(arguments: &Arguments, consent: Consent) -> Result<()> {
    let summary = run_all(arguments, consent)?;
    ensure!(
        summary.failed == 0,
        "Conformance checks failed: {}",
        summary.failed
    );
    ensure!(summary.passed > 0, "No conformance check ran");
    Ok(())
}

/// Builds guest and daemon, runs each monitor, prints the table.
///
/// # Errors
/// If something cannot be built or started. A check that fails is counted, not returned.
pub(crate) fn run_all(arguments: &Arguments, consent: Consent) -> Result<Summary> {
    Prereqs::ensure(consent)?;
    let progress = Progress::stderr();
    let toolchain = Toolchain::ensure(&Cache::open()?, &progress)?;
    let folder = target_folder().join("conformance");
    fs::create_dir_all(&folder).with_context(|| format!("Cannot create {}", folder.display()))?;
    let step = progress.step("Conformance guest");
    let guest = build::guest(&toolchain, &folder)?;
    step.done("built");
    let daemon = daemon(&progress)?;
    let seed = seed(arguments)?;
    let options = Options {
        guest: &guest,
        daemon: &daemon,
        only: arguments.only.as_deref(),
        seed,
    };
    let mut report = Report::new(seed);
    for candidate in vmm::candidates(&toolchain, arguments.vmm.as_deref(), arguments.accel)? {
        let outcome = match candidate.vmm {
            Ok(vmm) => one(&vmm, &options, &folder, arguments.accel, &progress)?,
            Err(reason) => Outcome::skipped(candidate.name, candidate.accelerator, reason),
        };
        report.runs.push(outcome);
    }
    println!("{report}");
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report)?;
        fs::write(path, text).with_context(|| format!("Cannot write {}", path.display()))?;
    }
    let summary = report.summary();
    if summary.failed != 0 {
        println!("Again: cargo xtask conformance --seed {seed} [--only NAME]");
    }
    Ok(summary)
}

/// Runs the guest under one monitor.
fn one(
    vmm: &Vmm,
    options: &Options<'_>,
    folder: &Path,
    wanted: Option<vmm::Accelerator>,
    progress: &Progress,
) -> Result<Outcome> {
    let mut step = progress.step(&vmm.to_string());
    let logs = folder.join(vmm.file_name());
    let done = run::run(vmm, options, &logs, |line| {
        if line.starts_with(report::FAIL) {
            progress.line(line);
        }
        step.update(line);
    })?;
    // A KVM that is there and runs no guest is this machine's affair, unless it was asked for.
    if let Stage::NotBooted(reason) = &done.stage
        && vmm.accelerator() == vmm::Accelerator::Kvm
        && wanted.is_none()
    {
        step.done("skipped");
        return Ok(Outcome::skipped(
            vmm.name(),
            vmm.accelerator(),
            format!("no guest boots: {reason}"),
        ));
    }
    let outcome = Outcome::of(vmm, done, &logs);
    step.done(&outcome.in_words());
    Ok(outcome)
}

/// The daemon's program: the one that was named, or the workspace's own.
fn daemon(progress: &Progress) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(DAEMON_VARIABLE) {
        return Ok(path.into());
    }
    let step = progress.step("Daemon");
    let [daemon] = tmem_programs::host_programs(["vhost-device-tmem"])?;
    step.done("built");
    Ok(daemon)
}

fn seed(arguments: &Arguments) -> Result<u64> {
    if let Some(seed) = arguments.seed {
        return Ok(seed);
    }
    if let Ok(text) = std::env::var(SEED_VARIABLE) {
        return text
            .parse()
            .with_context(|| format!("{SEED_VARIABLE}={text} is no number"));
    }
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    Ok(u64::from(since.subsec_nanos()))
}

/// Where cargo puts what it builds.
fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || workspace::root().join("target"),
        |folder| workspace::root().join(folder),
    )
}
