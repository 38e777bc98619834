// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask test`: the tests of all crates, the stores' simulation, the conformance guest, then the
//! tests in guests.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tmem_vm_tests::{Options, run_all};
use vm_images::{Consent, Flavour, Prereqs, Progress};

use crate::programs::Programs;
use crate::{conformance, sim};

/// Seeds of the stores' simulation.
const SEEDS: u64 = 500;

/// Run all tests: those of the crates, the stores' simulation, the conformance guest's, then those in
/// real guests.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Leave out the tests in guests.
    #[arg(long, conflicts_with = "guests_only")]
    no_guests: bool,
    /// Run only the tests in guests.
    #[arg(long)]
    guests_only: bool,
    /// Of the tests in guests, only those whose name holds this, and no conformance guest.
    #[arg(long, value_name = "PART")]
    filter: Option<String>,
    /// Seed of the simulation and of the tests in guests; TMEM_SEED or the clock when left out.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// How often a test kills the daemon's worker; TMEM_KILLS or 40 when left out.
    #[arg(long, value_name = "NUMBER")]
    kills: Option<u32>,
    /// Run only the tests in guests, on the debug kernel: KASAN, lockdep and others are on, and any
    /// report of theirs is a failure. The kernel is built first when it is not there, which takes long.
    #[arg(long, conflicts_with = "no_guests")]
    debug_kernel: bool,
    /// With --debug-kernel, how many minutes the fuzzer of /dev/tmem runs; 10 when left out.
    #[arg(long, value_name = "MINUTES", requires = "debug_kernel")]
    fuzz_minutes: Option<u64>,
}

pub(crate) fn run(arguments: &Arguments, consent: Consent) -> Result<()> {
    let flavour = Flavour::debug_if(arguments.debug_kernel);
    if !arguments.guests_only && flavour == Flavour::Stock {
        crates(&Programs::ensure(consent)?)?;
        let progress = Progress::stderr();
        progress.line(&format!("cargo xtask sim --seeds {SEEDS}"));
        sim::run(&sim::Arguments {
            seeds: Some(SEEDS),
            seed: arguments.seed,
            ..sim::Arguments::default()
        })?;
    }
    if arguments.no_guests {
        return Ok(());
    }
    Prereqs::ensure(consent)?;
    let conformance = match (&arguments.filter, flavour) {
        // The conformance guest has no kernel.
        (Some(_), _) | (None, Flavour::Debug) => None,
        (None, Flavour::Stock) => Some(conformance::run_all(
            &conformance::Arguments::all(arguments.seed),
            consent,
        )?),
    };
    let summary = run_all(&Options {
        filter: arguments.filter.clone(),
        seed: arguments.seed,
        kills: arguments.kills,
        flavour,
        fuzz: arguments
            .fuzz_minutes
            .map(|minutes| Duration::from_secs(minutes.saturating_mul(60))),
    })?;
    let progress = Progress::stderr();
    if let Some(checks) = conformance {
        progress.line(&format!(
            "conformance checks: {} passed, {} failed",
            checks.passed, checks.failed
        ));
    }
    progress.line(&format!(
        "tests in guests: {} passed, {} failed",
        summary.passed, summary.failed
    ));
    let failed = conformance.map_or(0, |checks| checks.failed);
    ensure!(failed == 0, "Conformance checks failed: {failed}");
    ensure!(
        summary.failed == 0,
        "Tests in guests failed: {}",
        summary.failed
    );
    ensure!(summary.passed > 0, "No test in a guest ran");
    Ok(())
}

/// Unit and integration tests, by nextest where it is installed, then the docs' examples.
fn crates(programs: &Programs) -> Result<()> {
    let nextest = Command::new("cargo-nextest").arg("--version").output();
    let has_nextest = nextest.is_ok_and(|output| output.status.success());
    let runs: &[&[&str]] = if has_nextest {
        &[
            &["nextest", "run", "--workspace"],
            &["test", "--workspace", "--doc"],
        ]
    } else {
        &[&["test", "--workspace"]]
    };
    let progress = Progress::stderr();
    for run in runs {
        progress.line(&format!("cargo {}", run.join(" ")));
        let status = programs
            .tell(&mut tmem_programs::cargo())
            .args(*run)
            .status()
            .context("Cannot start cargo")?;
        ensure!(status.success(), "cargo {} failed: {status}", run.join(" "));
    }
    Ok(())
}
