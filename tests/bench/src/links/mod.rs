// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Area `links`: how exactly emulated latency and bandwidth are kept.
//!
//! One pinned thread does what a queue worker does ([`run`]), over a grid of latencies, queue depths
//! and rates. The error of a completion is the time at which it could be seen, less the time at which
//! it was due; so the real work, a copy of the page, is inside the emulated time, and the error is
//! what the emulation adds.
//!
//! A cell is measured in rounds through the whole grid, in each by some short passes; its figures are
//! the medians over the rounds. A pass in which the kernel gave the thread's processor to somebody
//! else says how busy the machine is, not how exact the link is: it is set aside and made again, and
//! the report says how many were. What the host of a virtual machine takes cannot be told apart and
//! stays in.
//!
//! The floor of the 99th percentile is measured in the same rounds ([`stalls`]): how late a random due
//! time is met by a thread that only reads the clock. Where that alone exceeds a goal, there is none.
//!
//! With many requests in flight and a short latency the work of the requests is longer than the
//! latency. No emulation can be exact there; such cells are shown, and have no goal.
//!
//! Not in the figures: virtqueues and wake-ups, which area `device` measures.

mod grid;
mod plot;
mod rows;
mod run;
mod stalls;

use std::fs;
use std::time::Duration;

use grid::{Cell, DEPTHS, Measured};
use rows::Floors;
use run::{Passes, Worker};
use stalls::Stalls;
use tmem_pages::link::Pacer;

use crate::pin::{self, Processors};
use crate::report::{Machine, SCHEMA, median};
use crate::{Figures, Report, Result};

/// Sizes that follow from `quick`.
#[derive(Clone, Copy, Debug)]
struct Scale {
    rounds: usize,
    /// Passes of a cell in each round.
    passes: usize,
    /// Of each pass: shorter than a slice of a processor's time.
    time: Duration,
}

impl Scale {
    const fn new(quick: bool) -> Self {
        let (rounds, passes) = if quick { (5, 3) } else { (11, 14) };
        Self {
            rounds,
            passes,
            time: Duration::from_micros(2_500),
        }
    }
}

/// Measures the grid.
///
/// # Errors
/// When the machine has fewer than two processors: one is for whoever else runs.
pub fn links(quick: bool) -> Result<Figures> {
    let scale = Scale::new(quick);
    let processors = Processors::choose()?;
    let (floors, all, errors) = pin::on(processors.server, || measure(scale))?;
    let mut results = rows::floors(&floors);
    results.extend(rows::whole(&all));
    results.extend(
        all.iter()
            .flat_map(|measured| rows::cell(measured, &floors)),
    );
    let text = rows::text(&floors, &all) + &rows::goals(&results);
    Ok(Figures {
        text,
        plots: vec![
            plot::errors(&all),
            plot::distribution(&errors, &floors.calibration),
        ],
        report: Report {
            schema: SCHEMA,
            machine: Machine::here(),
            results,
        },
    })
}

/// A cell with what it gave in each round.
type Rounds = (Cell, Vec<Passes>);

fn measure(scale: Scale) -> (Floors, Vec<Measured>, Vec<Rounds>) {
    let pacer = Pacer::calibrated();
    let depth_max = DEPTHS.into_iter().max().unwrap_or(1);
    let mut worker = Worker::new(depth_max);
    let copy = worker.copy_floor(scale.rounds * scale.passes);
    // One nanosecond: the whole way through the model, and no wait.
    let at_once = "latency=1ns".parse().expect("a link");
    let work = worker.passes(&at_once, depth_max, 2 * scale.passes, scale.time);
    let work = 1e9 / work.sum.rate();
    let before = Stolen::now();
    let mut cells: Vec<Rounds> = Cell::all().map(|cell| (cell, Vec::new())).collect();
    let mut stalls = Vec::new();
    for _ in 0..scale.rounds {
        stalls.push(Stalls::measure(4 * scale.passes, scale.time));
        for (cell, rounds) in &mut cells {
            let spec = cell.spec();
            rounds.push(worker.passes(&spec, cell.depth, scale.passes, scale.time));
        }
    }
    let all = || cells.iter().flat_map(|(_, rounds)| rounds);
    let floors = Floors {
        calibration: *pacer.calibration(),
        copy,
        work,
        late_p99: of_rounds(&stalls, 0.99),
        late_p999: of_rounds(&stalls, 0.999),
        stolen: Stolen::now().since(before),
        tried: all().map(|passes| passes.tried).sum(),
        kept: all().map(|passes| passes.kept).sum(),
    };
    let measured = cells
        .iter()
        .map(|(cell, rounds)| Measured::of(*cell, rounds, work))
        .collect();
    (floors, measured, cells)
}

/// The median over the rounds of what a part of random due times is not late by.
fn of_rounds(stalls: &[Stalls], part: f64) -> f64 {
    let values: Vec<f64> = stalls.iter().map(|round| round.quantile(part)).collect();
    median(&values)
}

/// Ticks of the processors, stolen and all, since the machine's start.
#[derive(Clone, Copy, Debug)]
struct Stolen {
    stolen: f64,
    all: f64,
}

impl Stolen {
    fn now() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        let ticks: Vec<f64> = (line.split_whitespace().skip(1))
            .filter_map(|word| word.parse().ok())
            .collect();
        Self {
            stolen: ticks.get(7).copied().unwrap_or(0.0),
            // The guest's time, at the end, is in the user's time already.
            all: ticks.iter().take(8).sum(),
        }
    }

    /// Parts of 100.
    fn since(self, before: Self) -> f64 {
        100.0 * (self.stolen - before.stolen) / (self.all - before.all).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_run_gives_every_row_and_both_plots() {
        let scale = Scale {
            rounds: 1,
            passes: 1,
            time: Duration::from_micros(500),
        };
        let (floors, all, cells) = measure(scale);
        assert_eq!((all.len(), cells.len()), (96, 96));
        assert!(all.iter().all(|measured| measured.early == 0));
        let rows = rows::cell(&all[0], &floors);
        assert!(rows.iter().all(|row| row.emulated));
        assert!(rows::floors(&floors).iter().all(|row| !row.emulated));
        assert_eq!(rows::whole(&all)[0].met, Some(true));
        let text = rows::text(&floors, &all);
        assert!(
            text.contains("100 Gbit/s") && text.contains("500 us"),
            "{text}"
        );
        for plot in [
            plot::errors(&all),
            plot::distribution(&cells, &floors.calibration),
        ] {
            assert!(plot.svg.contains("\n<svg") && plot.svg.trim_end().ends_with("</svg>"));
        }
    }
}
