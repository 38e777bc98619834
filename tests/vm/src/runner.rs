// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs the suite: every test under every monitor that works here, once, and tells how it went.

use crate::artifacts::{Artifacts, Extras};
use crate::bench::{Bench, Plan};
use crate::debug;
use crate::suite::{DEBUG_TESTS, Figure, TESTS, Test};
use crate::vmm::{CloudHypervisor, Qemu, Vmm};
use anyhow::{Context, Result, bail};
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};
use vm_images::Flavour;

/// Environment variable with the seed of a run.
const SEED_VARIABLE: &str = "TMEM_SEED";
/// Environment variable with the number of kills of a run.
const KILLS_VARIABLE: &str = "TMEM_KILLS";
/// Kills, where nobody said how many.
const KILLS: u32 = 40;

/// Which tests to run, and with what.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only tests whose name holds this; all of them without it.
    pub filter: Option<String>,
    /// Decides all content and order; TMEM_SEED or the clock without it.
    pub seed: Option<u64>,
    /// How often a test kills the daemon's worker; TMEM_KILLS or 40 without it.
    pub kills: Option<u32>,
    /// The kernel of the guests.
    pub flavour: Flavour,
    /// For how long the fuzzer runs; ten minutes without it.
    pub fuzz: Option<Duration>,
}

/// How a run went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Tests that held.
    pub passed: usize,
    /// Tests that did not.
    pub failed: usize,
    /// Tests that could not run here; the reason was printed.
    pub skipped: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// Tests that run when `--filter` names them, and why not with the others.
const BY_NAME: &[(&str, &str)] = &[
    (
        "peaks_in_turn_end_sooner_with_self_ballooning_than_with_equal_shares",
        "it compares times, which a busy machine shifts, and takes five minutes",
    ),
    (
        "large_calls_of_programs_pay",
        "it compares times, which a busy machine shifts",
    ),
];

/// Tests that run under QEMU alone, and why.
const QEMU_ONLY: &[(&str, &str)] = &[(
    "device_is_reset_when_it_asks_for_it_and_given_up_if_too_often",
    "only QEMU's devices ask for a reset when a driver does something wrong",
)];

/// Builds what is needed, runs the tests that `options` choose, and prints a line for each and
/// the summary last.
///
/// # Errors
/// If what the tests need cannot be built; a test that fails is counted, not returned.
pub fn run_all(options: &Options) -> Result<Summary> {
    let plan = Plan {
        seed: options
            .seed
            .or(variable(SEED_VARIABLE)?)
            .map_or_else(clock_seed, Ok)?,
        kills: options.kills.or(variable(KILLS_VARIABLE)?).unwrap_or(KILLS),
        fuzz: options.fuzz.unwrap_or(debug::FUZZ),
    };
    let filter = options.filter.as_deref();
    let progress = vm_images::Progress::stderr();
    println!(
        "Guest tests: seed {seed}; run again with {SEED_VARIABLE}={seed}",
        seed = plan.seed
    );
    let mut summary = Summary::default();
    let mut tests = tests_of(options.flavour, &mut summary);
    if filter.is_none() {
        tests.retain(|test| !is_by_name(test, &mut summary));
    }
    for extras in Extras::ALL {
        let chosen: Vec<&Test> = tests
            .iter()
            .copied()
            .filter(|test| test.extras == extras)
            .filter(|test| filter.is_none_or(|part| test.name.contains(part)))
            .collect();
        if !chosen.is_empty() {
            let logs = match options.flavour {
                Flavour::Stock => "test",
                Flavour::Debug => "test-debug",
            };
            let artifacts = Artifacts::prepare(logs, extras, options.flavour, &progress)?;
            run_some(&artifacts, &chosen, plan, &mut summary)?;
        }
    }
    println!("{summary}");
    Ok(summary)
}

/// The tests for a kernel; those that are left out on it are named with the reason and counted.
fn tests_of(flavour: Flavour, summary: &mut Summary) -> Vec<&'static Test> {
    match flavour {
        Flavour::Stock => TESTS.iter().collect(),
        Flavour::Debug => {
            let runs = |test: &&Test| match debug::left_out(test.name) {
                None => true,
                Some(reason) => {
                    summary.skipped += 1;
                    println!("skip {} on the debug kernel: {reason}", test.name);
                    false
                }
            };
            TESTS.iter().filter(runs).chain(DEBUG_TESTS).collect()
        }
    }
}

/// Whether the test is one of those that run when `--filter` names them; it is named with the reason then,
/// and counted.
fn is_by_name(test: &Test, summary: &mut Summary) -> bool {
    let found = BY_NAME.iter().find(|(name, _)| *name == test.name);
    if let Some((name, reason)) = found {
        summary.skipped += 1;
        println!("skip {name}: {reason}; run it with --filter");
    }
    found.is_some()
}

/// Runs tests under every monitor that works here, with everything built.
fn run_some(
    artifacts: &Artifacts,
    chosen: &[&Test],
    plan: Plan,
    summary: &mut Summary,
) -> Result<()> {
    let (qemu, kvm_refusal) = Qemu::probe(&artifacts.qemu, &artifacts.kernel);
    if let Some(reason) = &kvm_refusal {
        println!("QEMU emulates the CPU (TCG), as KVM does not work here: {reason}");
    }
    let other = CloudHypervisor::find(&qemu, kvm_refusal.as_deref());
    let monitors = [Ok(Vmm::Qemu(qemu)), other.map(Vmm::CloudHypervisor)];
    for monitor in monitors {
        match monitor {
            Ok(vmm) => {
                for test in chosen {
                    let only = QEMU_ONLY.iter().find(|(name, _)| *name == test.name);
                    if let (Some((name, reason)), Vmm::CloudHypervisor(_)) = (only, &vmm) {
                        summary.skipped += 1;
                        println!("skip {name} under {}: {reason}", vmm.name());
                        continue;
                    }
                    run_one(artifacts, &vmm, test, plan, summary)?;
                }
            }
            Err(reason) => {
                summary.skipped += chosen.len();
                println!(
                    "skip {} tests under cloud-hypervisor: {reason}",
                    chosen.len()
                );
            }
        }
    }
    Ok(())
}

fn run_one(
    artifacts: &Artifacts,
    vmm: &Vmm,
    test: &Test,
    plan: Plan,
    summary: &mut Summary,
) -> Result<()> {
    let logs = artifacts.logs.join(vmm.name()).join(test.name);
    fresh_folder(&logs)?;
    let start = Instant::now();
    let outcome = Bench::new(artifacts, vmm, plan, &logs).and_then(|bench| (test.run)(&bench));
    let seconds = start.elapsed().as_secs_f64();
    match outcome {
        Ok(figures) => {
            summary.passed += 1;
            println!("ok   {} {} ({seconds:.1} s)", vmm.name(), test.name);
            print_figures(&figures);
        }
        Err(error) => {
            summary.failed += 1;
            println!("FAIL {} {} ({seconds:.1} s)", vmm.name(), test.name);
            println!("     {}", test.about);
            for (level, cause) in error.chain().enumerate() {
                let text = cause.to_string().replace('\n', "\n       ");
                println!("     {level}: {text}");
            }
            println!("     logs: {}", logs.display());
        }
    }
    Ok(())
}

fn print_figures(figures: &[Figure]) {
    for (name, value) in figures {
        println!("       {name:24} {value:>12}");
    }
}

/// An empty folder `path`.
fn fresh_folder(path: &Path) -> Result<()> {
    if path.exists() {
        std::fs::remove_dir_all(path)
            .with_context(|| format!("Cannot empty {}", path.display()))?;
    }
    std::fs::create_dir_all(path).with_context(|| format!("Cannot create {}", path.display()))
}

/// The number in the environment variable `name`, if it is set.
fn variable<T: FromStr>(name: &str) -> Result<Option<T>> {
    let Ok(text) = std::env::var(name) else {
        return Ok(None);
    };
    match text.parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => bail!("{name}={text} is no number in range"),
    }
}

/// A seed from the clock.
fn clock_seed() -> Result<u64> {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .context("The clock is before 1970")?;
    Ok(u64::from(now.subsec_nanos()) ^ now.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_is_one_plain_line() {
        let summary = Summary {
            passed: 9,
            failed: 1,
            skipped: 2,
        };
        assert_eq!(summary.to_string(), "9 passed, 1 failed, 2 skipped");
    }

    #[test]
    fn tests_that_are_named_are_tests() {
        for (name, _) in BY_NAME.iter().chain(QEMU_ONLY) {
            assert!(TESTS.iter().any(|test| test.name == *name), "{name}");
        }
    }

    #[test]
    fn names_of_tests_are_distinct() {
        let all = || TESTS.iter().chain(DEBUG_TESTS).map(|test| test.name);
        let mut names: Vec<&str> = all().collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().count());
    }
}
