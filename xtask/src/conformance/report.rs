// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What guests said: check by check, as a table, and as JSON.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::Summary;
use super::run::{Finished, Stage};
use super::vmm::{Accelerator, Vmm};

/// The guest's first line.
pub(super) const BANNER: &str = "virtio-tmem conformance guest";
/// How the line of a check that passed begins.
pub(super) const OK: &str = "ok ";
/// How the line of a check that failed begins.
pub(super) const FAIL: &str = "FAIL ";
/// How the guest's last line begins.
pub(super) const VERDICT: &str = "verdict:";
/// The form of the JSON.
const SCHEMA: u32 = 1;

/// A line of a guest's.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// When it came, after the monitor's start.
    pub(super) after: Duration,
    pub(super) text: String,
}

/// One check under one monitor.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Check {
    name: String,
    ok: bool,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// Time since the line before, in milliseconds.
    ms: f64,
}

/// One guest under one monitor, or why there was none.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Outcome {
    vmm: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    accelerator: Accelerator,
    /// Why it was not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
    /// Why it did not come to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<String>,
    boot_ms: Option<f64>,
    total_ms: Option<f64>,
    /// The folder with the guest's, the monitor's and the daemon's log.
    logs: Option<PathBuf>,
    checks: Vec<Check>,
}

impl Outcome {
    /// A monitor that was not run.
    pub(super) fn skipped(vmm: &'static str, accelerator: Accelerator, reason: String) -> Self {
        Self {
            vmm,
            version: None,
            accelerator,
            skipped: Some(reason),
            stopped: None,
            boot_ms: None,
            total_ms: None,
            logs: None,
            checks: Vec::new(),
        }
    }

    /// A monitor that was run.
    pub(super) fn of(vmm: &Vmm, finished: Finished, logs: &Path) -> Self {
        Self {
            vmm: vmm.name(),
            version: Some(vmm.version()),
            accelerator: vmm.accelerator(),
            skipped: None,
            stopped: match finished.stage {
                Stage::Done => None,
                Stage::NotBooted(why) => Some(format!("no guest boots: {why}")),
                Stage::Stopped(why) => Some(why),
            },
            boot_ms: finished.boot.map(milliseconds),
            total_ms: Some(milliseconds(finished.total)),
            logs: Some(logs.to_owned()),
            checks: checks(&finished.lines),
        }
    }

    fn passed(&self) -> usize {
        self.checks.iter().filter(|check| check.ok).count()
    }

    /// Checks that failed; a run that did not come to its end is one more.
    fn failed(&self) -> usize {
        self.checks.len() - self.passed() + usize::from(self.stopped.is_some())
    }

    /// The outcome in a few words.
    pub(super) fn in_words(&self) -> String {
        match &self.stopped {
            Some(why) => format!("{} passed, then stopped: {why}", self.passed()),
            None => format!("{} passed, {} failed", self.passed(), self.failed()),
        }
    }
}

/// All monitors.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    schema: u32,
    seed: u64,
    pub(super) runs: Vec<Outcome>,
}

impl Report {
    /// A report without runs.
    pub(super) const fn new(seed: u64) -> Self {
        Self {
            schema: SCHEMA,
            seed,
            runs: Vec::new(),
        }
    }

    /// The sums.
    pub(super) fn summary(&self) -> Summary {
        Summary {
            passed: self.runs.iter().map(Outcome::passed).sum(),
            failed: self.runs.iter().map(Outcome::failed).sum(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["VMM", "ACCEL", "PASSED", "FAILED", "BOOT ms", "ALL s"]);
        for run in &self.runs {
            let version = run.version.as_deref().unwrap_or_default();
            let name = format!("{} {version}", run.vmm);
            let figure = |value: Option<f64>, scale: f64, digits: usize| {
                value.map_or_else(
                    || "-".to_owned(),
                    |value| format!("{:.digits$}", value / scale),
                )
            };
            let counts = match &run.skipped {
                Some(_) => ["skipped".to_owned(), "-".to_owned()],
                None => [run.passed().to_string(), run.failed().to_string()],
            };
            table.add_row([
                name.trim().to_owned(),
                run.accelerator.to_string(),
                counts[0].clone(),
                counts[1].clone(),
                figure(run.boot_ms, 1.0, 0),
                figure(run.total_ms, 1000.0, 1),
            ]);
        }
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        write!(f, "{}", table.trim_fmt())?;
        for run in &self.runs {
            let name = format!("{}, {}", run.vmm, run.accelerator);
            if let Some(reason) = &run.skipped {
                write!(f, "\nskipped {name}: {reason}")?;
            }
            for check in run.checks.iter().filter(|check| !check.ok) {
                let why = check.why.as_deref().unwrap_or_default();
                write!(f, "\nFAIL {name}: {}: {why}", check.name)?;
            }
            if let Some(why) = &run.stopped {
                write!(f, "\nFAIL {name}: {why}")?;
            }
            if let (true, Some(logs)) = (run.failed() != 0, &run.logs) {
                write!(
                    f,
                    "\n  serial.log, vmm.log and daemon.log in {}",
                    logs.display()
                )?;
            }
        }
        Ok(())
    }
}

/// The verdicts among a guest's lines.
fn checks(lines: &[Line]) -> Vec<Check> {
    let mut before = Duration::ZERO;
    let mut checks = Vec::new();
    for line in lines {
        let ms = milliseconds(line.after.saturating_sub(before));
        before = line.after;
        if let Some(name) = line.text.strip_prefix(OK) {
            checks.push(Check {
                name: name.to_owned(),
                ok: true,
                why: None,
                ms,
            });
        } else if let Some(rest) = line.text.strip_prefix(FAIL) {
            let (name, why) = rest.split_once(": ").unwrap_or((rest, ""));
            checks.push(Check {
                name: name.to_owned(),
                ok: false,
                why: Some(why.to_owned()),
                ms,
            });
        }
    }
    checks
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(lines: &[&str], stopped: Option<&str>) -> Outcome {
        let lines: Vec<Line> = (1..)
            .zip(lines)
            .map(|(nth, text)| Line {
                after: Duration::from_millis(nth * 10),
                text: (*text).to_owned(),
            })
            .collect();
        Outcome {
            stopped: stopped.map(str::to_owned),
            skipped: None,
            checks: checks(&lines),
            ..Outcome::skipped("qemu", Accelerator::Tcg, String::new())
        }
    }

    #[test]
    fn verdict_lines_become_checks_and_other_lines_do_not() {
        let run = outcome(
            &[
                BANNER,
                "# seed 1",
                "ok a",
                "FAIL b/plain: x: 1, expected 2",
                "noise",
                "verdict: 1 ok, 1 failed",
            ],
            None,
        );
        assert_eq!(run.checks.len(), 2);
        assert_eq!((run.passed(), run.failed()), (1, 1));
        assert_eq!(run.checks[1].name, "b/plain");
        assert_eq!(run.checks[1].why.as_deref(), Some("x: 1, expected 2"));
        assert!((run.checks[0].ms - 10.0).abs() < 0.1);
    }

    #[test]
    fn run_without_a_verdict_counts_as_a_failure() {
        let mut report = Report::new(7);
        report
            .runs
            .push(outcome(&[BANNER, "ok a"], Some("the monitor ended")));
        report.runs.push(Outcome::skipped(
            "cloud-hypervisor",
            Accelerator::Kvm,
            "not there".to_owned(),
        ));
        let summary = report.summary();
        assert_eq!((summary.passed, summary.failed), (1, 1));
        let text = report.to_string();
        assert!(text.contains("FAIL qemu, tcg: the monitor ended"), "{text}");
        assert!(
            text.contains("skipped cloud-hypervisor, kvm: not there"),
            "{text}"
        );
    }
}
