// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Programs in a guest that go on for as long as a test wants: some outgrow the memory and swap all
//! the time, with a probe beside them; or one that holds its pages still.

use crate::bench::{Figures, LONG, QUICK, available_mib, clean_result, number};
use crate::guest::Guest;
use crate::stall::Slow;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;

/// stress-ng ends only after it has verified what it filled.
const END: Duration = Duration::from_secs(400);
/// Time for the programs to fill their memory.
const FILL: Duration = Duration::from_secs(120);
/// Shares of the memory that is free for programs, in percent.
const STRESS_PERCENT: u64 = 60;
const PAGES_PERCENT: u64 = 110;
const PROBE_MIB: u64 = 12;
/// Pages that must have been put before the load counts as swapping.
const PUT_MIN: u64 = 4000;
const HEAD: &str = "TMEM-LOAD ";

/// What the programs did and found, none of them a difference.
#[derive(Debug)]
pub struct Report {
    /// Times that stress-ng filled and verified all of its memory.
    pub stress_passes: u64,
    /// Pages that the second program checked and rewrote at random.
    pub pages_rewritten: u64,
    /// Steps of the probe.
    pub probe_steps: u64,
    /// Faults of the probe that waited for the host.
    pub probe_faults: u64,
    /// The median of the probe's steps.
    pub probe_p50_us: u64,
    /// The probe's slow steps.
    pub slow: Vec<Slow>,
}

/// Starts the programs and waits until they swap.
///
/// # Errors
/// If they do not within two minutes.
pub fn start(guest: &mut Guest, seed: u64) -> Result<()> {
    let (stress, pages) = (
        available_mib(guest, STRESS_PERCENT)?,
        available_mib(guest, PAGES_PERCENT)?,
    );
    // The guest's shell counts with signed numbers.
    let seed = seed >> 2;
    let command = format!("tmem-load start {stress} {pages} {PROBE_MIB} {seed}");
    guest.run(&command, QUICK)?.ok()?;
    let started = std::time::Instant::now();
    loop {
        let put = Figures::of(guest)?.driver("pages_put")?;
        if put >= PUT_MIN {
            return Ok(());
        }
        ensure!(
            started.elapsed() < guest.patiently(FILL),
            "The load has put only {put} pages within {} s",
            FILL.as_secs()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Tells the programs to end, and reads what they found.
///
/// # Errors
/// If one of them failed, found a difference or does not end, or did nothing at all.
pub fn end(guest: &mut Guest) -> Result<Report> {
    let output = guest.run("tmem-load end", END)?.ok()?;
    let stress = result_of(&output.lines, "stress")?;
    let pages = result_of(&output.lines, "pages")?;
    let probe = result_of(&output.lines, "probe")?;
    let report = Report {
        stress_passes: number(&stress, "passes")?,
        pages_rewritten: number(&pages, "rewritten")?,
        probe_steps: number(&probe, "steps")?,
        probe_faults: number(&probe, "major_faults")?,
        probe_p50_us: number(&probe, "p50_us")?,
        slow: Slow::all_of(&output.lines)?,
    };
    ensure!(
        report.stress_passes > 0 && report.pages_rewritten > 0 && report.probe_faults > 0,
        "The load did too little to mean anything: {report:?}"
    );
    Ok(report)
}

/// The result of program `name` among the lines, which must tell of no difference.
fn result_of(lines: &[String], name: &str) -> Result<Value> {
    let mut of_program = lines
        .iter()
        .skip_while(|line| line.strip_prefix(HEAD) != Some(name))
        .skip(1)
        .take_while(|line| !line.starts_with(HEAD));
    let json = of_program
        .find_map(|line| line.strip_prefix("TMEM-RESULT "))
        .with_context(|| format!("The program {name} printed no result"))?;
    let result: Value = serde_json::from_str(json)
        .with_context(|| format!("Cannot read the result of {name}: {json}"))?;
    let mismatches = number(&result, "mismatches")?;
    ensure!(
        mismatches == 0,
        "The program {name} found {mismatches} mismatches"
    );
    Ok(result)
}

/// Starts a program that fills `mib` MiB with what follows from `seed` and then waits.
///
/// # Errors
/// If the guest does not answer.
pub fn start_holding(guest: &mut Guest, mib: u64, seed: u64) -> Result<()> {
    guest.run(
        &format!(
            "tmem-workload pages --mib {mib} --seed {seed} --passes 0 --wait-for /run/check \
             >/run/held 2>&1 &"
        ),
        QUICK,
    )?;
    Ok(())
}

/// Waits until the program has filled its pages.
///
/// # Errors
/// If it does not get there.
pub fn wait_until_held(guest: &mut Guest) -> Result<()> {
    let command = "until grep -q TMEM-HOLDING /run/held; do sleep 0.1; done";
    guest.run(command, LONG)?.ok()?;
    Ok(())
}

/// Lets the waiting program check its pages, and gives its result, which tells of no difference.
///
/// # Errors
/// If it found one, or has failed.
pub fn check_held(guest: &mut Guest) -> Result<Value> {
    let command = "touch /run/check; while pidof tmem-workload >/dev/null; do sleep 0.1; done; \
                   cat /run/held";
    clean_result(&guest.run(command, LONG)?.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(of_pages: &str) -> Vec<String> {
        [
            "TMEM-LOAD stress",
            "TMEM-LOAD pages",
            of_pages,
            "TMEM-LOAD probe",
            "TMEM-RESULT {}",
        ]
        .map(str::to_owned)
        .into()
    }

    #[test]
    fn each_program_has_a_result_of_its_own() {
        let lines = lines(r#"TMEM-RESULT {"mismatches": 0, "rewritten": 7}"#);
        let pages = result_of(&lines, "pages").expect("it is there");
        assert_eq!(number(&pages, "rewritten").expect("a count"), 7);
        assert!(result_of(&lines, "stress").is_err());
        assert!(result_of(&lines, "probe").is_err());
    }

    #[test]
    fn a_difference_is_an_error() {
        let lines = lines(r#"TMEM-RESULT {"mismatches": 1}"#);
        let error = result_of(&lines, "pages").expect_err("a mismatch");
        assert!(error.to_string().contains("1 mismatches"));
    }
}
