// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask test`: the tests of all crates, then the tests in guests.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use tmem_vm_tests::{Options, run_all};
use vm_images::{Consent, Prereqs, Progress};

use crate::workspace;

/// Run all tests: those of the crates, then those in real guests.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Leave out the tests in guests.
    #[arg(long, conflicts_with = "guests_only")]
    no_guests: bool,
    /// Run only the tests in guests.
    #[arg(long)]
    guests_only: bool,
    /// Of the tests in guests, only those whose name holds this.
    #[arg(long, value_name = "PART")]
    filter: Option<String>,
    /// Seed of the tests in guests; TMEM_SEED or the clock when left out.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
}

pub(crate) fn run(arguments: &Arguments, consent: Consent) -> Result<()> {
    if !arguments.guests_only {
        crates()?;
    }
    if arguments.no_guests {
        return Ok(());
    }
    Prereqs::ensure(consent)?;
    let summary = run_all(&Options {
        filter: arguments.filter.clone(),
        seed: arguments.seed,
    })?;
    ensure!(
        summary.failed == 0,
        "Tests in guests failed: {}",
        summary.failed
    );
    ensure!(summary.passed > 0, "No test in a guest ran");
    Ok(())
}

/// Unit and integration tests, by nextest where it is installed, then the docs' examples.
fn crates() -> Result<()> {
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
        let status = workspace::cargo()
            .args(*run)
            .status()
            .context("Cannot start cargo")?;
        ensure!(status.success(), "cargo {} failed: {status}", run.join(" "));
    }
    Ok(())
}
