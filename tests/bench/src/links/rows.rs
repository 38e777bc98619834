// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The grid as rows for programs and as tables for people.

use std::fmt::Write as _;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use tmem_pages::link::Calibration;

use super::grid::{Cell, DEPTHS, LATENCIES, Measured, RATES};
use crate::Row;
use crate::row::Area;

const AREA: Area = Area("links");
/// Mean error of DiME at 20 us, as its authors published it, in microseconds.
const DIME_ADDED: f64 = 2.87;
/// What ours is to be below.
const ADDED_GOAL: f64 = 0.5;

/// What the machine allows, in nanoseconds, and what it did to the run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Floors {
    pub(super) calibration: Calibration,
    /// A copy of a page.
    pub(super) copy: f64,
    /// All that the loop does for a request.
    pub(super) work: f64,
    /// What 99 of 100 random due times are not late by for a thread that only reads the clock.
    pub(super) late_p99: f64,
    /// And 999 of 1000.
    pub(super) late_p999: f64,
    /// Parts of 100 of the processors' time that the host gave to others.
    pub(super) stolen: f64,
    /// Passes made.
    pub(super) tried: usize,
    /// Passes in which the thread kept its processor.
    pub(super) kept: usize,
}

const REGIME: &str = "one pinned thread polls";

fn row(name: String, unit: &'static str, ours: f64, emulated: bool) -> Row {
    Row {
        emulated,
        ..AREA.note(name, unit, ours, REGIME)
    }
}

/// Rows of the floors.
#[expect(clippy::cast_precision_loss, reason = "all are far below 2^53")]
pub(super) fn floors(floors: &Floors) -> Vec<Row> {
    let calibration = &floors.calibration;
    let ns = |value: u64| value as f64;
    let aside = floors.tried.saturating_sub(floors.kept) as f64;
    let aside = 100.0 * aside / floors.tried.max(1) as f64;
    [
        (
            "floor: reading the clock",
            "ns",
            ns(calibration.clock_read_ns),
        ),
        ("floor: shortest wait, p99", "ns", ns(calibration.floor_ns)),
        (
            "floor: a spin's lateness, median",
            "ns",
            ns(calibration.spin_late_p50_ns),
        ),
        (
            "floor: a spin's lateness, p99.9",
            "ns",
            ns(calibration.spin_late_p999_ns),
        ),
        (
            "floor: a sleep's lateness, median",
            "ns",
            ns(calibration.sleep_late_p50_ns),
        ),
        (
            "floor: a sleep's lateness, p99.9",
            "ns",
            ns(calibration.sleep_guard_ns),
        ),
        (
            "floor: lateness of a random due time, p99",
            "ns",
            floors.late_p99,
        ),
        (
            "floor: lateness of a random due time, p99.9",
            "ns",
            floors.late_p999,
        ),
        (
            "floor: memcpy of a page, random over 64 MiB",
            "ns",
            floors.copy,
        ),
        ("floor: the loop's work for a request", "ns", floors.work),
        ("time stolen by the host during the run", "%", floors.stolen),
        (
            "passes set aside, since the thread lost its processor",
            "%",
            aside,
        ),
    ]
    .into_iter()
    .map(|(name, unit, value)| Row {
        floor: Some(value),
        ..row(name.to_owned(), unit, value, false)
    })
    .collect()
}

/// Why a row has no goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Excuse {
    None,
    /// The requests' own work takes the time.
    Work,
    /// The machine alone is later than that.
    Machine,
}

impl Excuse {
    fn text(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Work => "; its work takes the time, not the link",
            Self::Machine => "; the machine alone is later than the goal",
        }
    }
}

/// A row of which the smaller is the better, up to `limit`.
fn at_most(name: String, ours: f64, limit: f64, floor: f64, excuse: Excuse) -> Row {
    let us = |ns: f64| ns / 1e3;
    // A clock does not tell less than a nanosecond.
    let ratio = limit / ours.max(1.0);
    let excuse = if excuse == Excuse::None && floor > limit {
        Excuse::Machine
    } else {
        excuse
    };
    let goal = excuse == Excuse::None;
    let row = row(name, "us", us(ours), true);
    Row {
        floor: Some(us(floor)),
        ratio: Some(ratio),
        goal: goal.then_some(1.0),
        met: goal.then_some(ours <= limit),
        regime: row.regime + excuse.text(),
        ..row
    }
}

/// A row of which the ratio is to be 1, give or take `off`.
fn as_expected(
    name: String,
    unit: &'static str,
    ours: f64,
    expected: f64,
    off: Option<f64>,
) -> Row {
    let ratio = ours / expected;
    Row {
        floor: Some(expected),
        ratio: Some(ratio),
        goal: off.map(|off| 1.0 - off),
        met: off.map(|off| (ratio - 1.0).abs() <= off),
        ..row(name, unit, ours, true)
    }
}

/// Rows of one cell.
pub(super) fn cell(measured: &Measured, floors: &Floors) -> Vec<Row> {
    let (cell, bound) = (measured.cell, measured.work_bound);
    let name = |what: &str| format!("{}: {what}", cell.name());
    let excuse = if bound { Excuse::Work } else { Excuse::None };
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let spin = floors.calibration.spin_late_p50_ns as f64;
    let p99 = (measured.p99, cell.p99_goal());
    let mut rows = vec![
        at_most(
            name("median error"),
            measured.p50,
            cell.median_goal(),
            spin,
            excuse,
        ),
        at_most(name("p99 error"), p99.0, p99.1, floors.late_p99, excuse),
        as_expected(
            name("Little's law"),
            "of depth",
            measured.little,
            1.0,
            Some(0.03),
        ),
    ];
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let overruns = 100.0 * measured.overruns as f64 / (measured.samples as f64).max(1.0);
    rows.push(Row {
        floor: Some(floors.late_p999 / 1e3),
        ..row(name("p99.9 error"), "us", measured.p999 / 1e3, true)
    });
    rows.push(row(name("overruns"), "%", overruns, true));
    if let Some(line) = cell.line() {
        let off = (cell.fills_the_line() && !bound).then_some(0.02);
        rows.push(as_expected(
            name("mean rate"),
            "pages/s",
            measured.rate,
            line,
            off,
        ));
    }
    rows
}

/// Rows about all cells.
pub(super) fn whole(all: &[Measured]) -> Vec<Row> {
    let early: u64 = all.iter().map(|measured| measured.early).sum();
    let samples: u64 = all.iter().map(|measured| measured.samples).sum();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let [early_f, samples] = [early as f64, samples as f64];
    let mut rows = vec![Row {
        ratio: Some(1.0 - early_f / samples.max(1.0)),
        goal: Some(1.0),
        met: Some(early == 0),
        ..row(
            format!("completions before they were due, of {samples:.0}"),
            "times",
            early_f,
            true,
        )
    }];
    let at = Cell {
        latency: 20,
        depth: 1,
        rate: 0,
    };
    if let Some(measured) = all.iter().find(|measured| measured.cell == at) {
        let added = measured.mean / 1e3;
        rows.push(Row {
            peer: Some(DIME_ADDED),
            peer_name: Some("DiME as published, on other hardware".to_owned()),
            ratio: Some(DIME_ADDED / added.max(0.001)),
            goal: Some(DIME_ADDED / ADDED_GOAL),
            met: Some(added < ADDED_GOAL),
            ..row("mean time added to 20 us".to_owned(), "us", added, true)
        });
    }
    rows
}

/// The grid, for people.
pub(super) fn text(floors: &Floors, all: &[Measured]) -> String {
    let mut text = String::new();
    let calibration = &floors.calibration;
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "Emulated links, {REGIME}: medians over the rounds.\n\
         Floors: clock {} ns; spin late {} ns, p99.9 {} ns; sleep late {} ns, p99.9 {} ns;\n\
         a random due time late by p99 {:.0} ns, p99.9 {:.0} ns, to a thread that only reads the clock; memcpy {:.0} ns; \
         work of a request {:.0} ns\n\
         During the run {:.1} % of the processors' time was stolen by the host, and {} of {} passes are set aside,\n\
         since the thread lost its processor in them.\n\n\
         Error of the completion in ns, median / p99. In brackets: the requests' own work takes the time, no goal.",
        calibration.clock_read_ns,
        calibration.spin_late_p50_ns,
        calibration.spin_late_p999_ns,
        calibration.sleep_late_p50_ns,
        calibration.sleep_guard_ns,
        floors.late_p99,
        floors.late_p999,
        floors.copy,
        floors.work,
        floors.stolen,
        floors.tried - floors.kept,
        floors.tried,
    );
    let _ = writeln!(text, "{}", errors(all));
    let rates = all.iter().filter(|measured| measured.cell.fills_the_line());
    let worst_rate = rates.clone().filter(|measured| !measured.work_bound);
    let off = |value: f64| (value - 1.0).abs() * 100.0;
    let worst = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0_f64, f64::max);
    let rate_off = worst(&mut worst_rate.map(|measured| {
        let line = measured.cell.line().unwrap_or(measured.rate);
        off(measured.rate / line)
    }));
    let little_off = worst(&mut all.iter().map(|measured| off(measured.little)));
    let _ = writeln!(
        text,
        "\nMean rate, where the requests fill the line: at most {rate_off:.2} % off. Little's law: at most {little_off:.2} % off.",
    );
    text
}

/// How many goals were met, and why some rows have none.
pub(super) fn goals(rows: &[Row]) -> String {
    let count = |wanted: &dyn Fn(&Row) -> bool| rows.iter().filter(|row| wanted(row)).count();
    let excused = |excuse: Excuse| count(&|row: &Row| row.regime.ends_with(excuse.text()));
    format!(
        "{} of {} goals met. Without a goal: {} errors where the work takes the time, {} where the machine \
         alone is later than the goal.",
        count(&|row: &Row| row.met == Some(true)),
        count(&|row: &Row| row.met.is_some()),
        excused(Excuse::Work),
        excused(Excuse::Machine),
    )
}

fn errors(all: &[Measured]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    let mut header = vec!["RATE".to_owned(), "DEPTH".to_owned()];
    header.extend(LATENCIES.map(|latency| format!("{latency} us")));
    table.set_header(header);
    for rate in RATES {
        for depth in DEPTHS {
            let mut line = vec![
                if rate == 0 {
                    "unlimited".to_owned()
                } else {
                    format!("{rate} Gbit/s")
                },
                depth.to_string(),
            ];
            for latency in LATENCIES {
                let at = Cell {
                    latency,
                    depth,
                    rate,
                };
                let measured = all.iter().find(|measured| measured.cell == at);
                line.push(measured.map_or_else(String::new, |measured| {
                    let figures = format!("{:.0} / {:.0}", measured.p50, measured.p99);
                    if measured.work_bound {
                        format!("({figures})")
                    } else {
                        figures
                    }
                }));
            }
            table.add_row(line);
        }
    }
    for column in 1..=LATENCIES.len() + 1 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
