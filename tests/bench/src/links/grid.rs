// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The cells of the grid, what each is to reach, and which of them one thread cannot.

use tmem_abi::PAGE_SIZE;
use tmem_pages::link::LinkSpec;

use super::run::{Pass, Passes};
use crate::report::median;

/// Latencies, in microseconds.
pub(super) const LATENCIES: [u32; 8] = [1, 2, 5, 10, 20, 50, 100, 500];
/// Requests in flight.
pub(super) const DEPTHS: [u32; 3] = [1, 4, 32];
/// Rates, in gigabits a second; 0 is unlimited.
pub(super) const RATES: [u32; 4] = [0, 10, 25, 100];

/// The bits of a page.
#[expect(clippy::cast_precision_loss, reason = "a small power of two")]
const PAGE_BITS: f64 = 8.0 * PAGE_SIZE as f64;

/// One combination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    /// Microseconds.
    pub(super) latency: u32,
    /// Requests in flight.
    pub(super) depth: u32,
    /// Gigabits a second; 0 is unlimited.
    pub(super) rate: u32,
}

impl Cell {
    /// All of them.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        RATES.into_iter().flat_map(|rate| {
            DEPTHS.into_iter().flat_map(move |depth| {
                LATENCIES.into_iter().map(move |latency| Self {
                    latency,
                    depth,
                    rate,
                })
            })
        })
    }

    pub(super) fn spec(self) -> LinkSpec {
        let mut line = format!("latency={}us", self.latency);
        if self.rate > 0 {
            line += &format!(" bandwidth={}Gbit/s", self.rate);
        }
        line.parse().expect("all cells are links that can be")
    }

    /// Nanoseconds that a page's bits take.
    fn sending(self) -> f64 {
        if self.rate == 0 {
            return 0.0;
        }
        PAGE_BITS / f64::from(self.rate)
    }

    fn latency_ns(self) -> f64 {
        f64::from(self.latency) * 1e3
    }

    /// Pages a second that the link carries at most: the line's rate; nothing without one.
    pub(super) fn line(self) -> Option<f64> {
        (self.rate > 0).then(|| 1e9 / self.sending())
    }

    /// Whether the requests in flight keep the line busy, with a fifth to spare.
    pub(super) fn fills_the_line(self) -> bool {
        let sending = self.sending();
        f64::from(self.depth) * sending > 1.2 * (self.latency_ns() + sending)
    }

    /// Nanoseconds from one completion to the next, if all are on time.
    pub(super) fn interval(self) -> f64 {
        let alone = (self.latency_ns() + self.sending()) / f64::from(self.depth);
        alone.max(self.sending())
    }

    /// Whether the real work of the requests in flight leaves one thread less than a third of its
    /// time: their completions then hinder each other, and lateness says nothing about the link.
    pub(super) fn is_work_bound(self, work_ns: f64) -> bool {
        work_ns * 1.5 > self.interval()
    }

    /// The largest median error that is right, in nanoseconds.
    pub(super) fn median_goal(self) -> f64 {
        (0.02 * self.latency_ns()).max(300.0)
    }

    /// The largest 99th percentile that is right, in nanoseconds.
    pub(super) fn p99_goal(self) -> f64 {
        (0.05 * self.latency_ns()).max(2_000.0)
    }

    pub(super) fn name(self) -> String {
        let rate = match self.rate {
            0 => "unlimited".to_owned(),
            rate => format!("{rate} Gbit/s"),
        };
        format!("latency {} us, depth {}, {rate}", self.latency, self.depth)
    }
}

/// What all rounds of a cell say: the medians over the rounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) cell: Cell,
    /// Errors, in nanoseconds.
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) mean: f64,
    /// Pages a second.
    pub(super) rate: f64,
    /// Throughput times mean time over depth: 1 by Little's law.
    pub(super) little: f64,
    /// Completions, of all rounds.
    pub(super) samples: u64,
    /// Completions before they were due, of all rounds.
    pub(super) early: u64,
    /// Requests whose real work was not done when they were due, of all rounds.
    pub(super) overruns: u64,
    /// Whether goals do not apply.
    pub(super) work_bound: bool,
}

impl Measured {
    pub(super) fn of(cell: Cell, rounds: &[Passes], work_ns: f64) -> Self {
        let of = |value: &dyn Fn(&Pass) -> f64| {
            let values: Vec<f64> = rounds.iter().map(|round| value(&round.sum)).collect();
            median(&values)
        };
        Self {
            cell,
            p50: of(&|pass| pass.quantile(0.5)),
            p99: of(&|pass| pass.quantile(0.99)),
            p999: of(&|pass| pass.quantile(0.999)),
            mean: of(&|pass| pass.errors.mean()),
            rate: of(&Pass::rate),
            little: of(&Pass::depth) / f64::from(cell.depth),
            samples: rounds.iter().map(|round| round.sum.errors.len()).sum(),
            early: rounds.iter().map(|round| round.early).sum(),
            overruns: rounds.iter().map(|round| round.sum.overruns).sum(),
            work_bound: cell.is_work_bound(work_ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_is_the_published_one() {
        let cells: Vec<_> = Cell::all().collect();
        assert_eq!(cells.len(), 96);
        for cell in &cells {
            assert!(cell.spec().adds_delay());
            assert_eq!(cell.line().is_some(), cell.spec().bandwidth_bps.is_some());
        }
    }

    #[test]
    fn goals_follow_the_latency_where_it_is_long() {
        let cell = |latency, depth, rate| Cell {
            latency,
            depth,
            rate,
        };
        assert!((cell(1, 1, 0).median_goal() - 300.0).abs() < 1e-9);
        assert!((cell(500, 1, 0).median_goal() - 10_000.0).abs() < 1e-9);
        assert!((cell(20, 1, 0).p99_goal() - 2_000.0).abs() < 1e-9);
        assert!((cell(500, 1, 0).p99_goal() - 25_000.0).abs() < 1e-9);
    }

    #[test]
    fn a_cell_is_bound_by_its_line_its_latency_or_the_work() {
        let cell = |latency, depth, rate| Cell {
            latency,
            depth,
            rate,
        };
        assert!(cell(5, 32, 25).fills_the_line());
        assert!(!cell(50, 32, 25).fills_the_line());
        assert!(!cell(5, 32, 0).fills_the_line());
        assert!((cell(5, 32, 25).interval() - 1310.72).abs() < 1e-9);
        assert!((cell(10, 4, 0).interval() - 2_500.0).abs() < 1e-9);
        assert!(cell(1, 32, 0).is_work_bound(200.0));
        assert!(!cell(10, 4, 0).is_work_bound(200.0));
    }
}
