// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Two pictures: the error of every cell, and how errors are spread.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use tmem_pages::link::Calibration;

use super::Rounds;
use super::grid::{Cell, DEPTHS, LATENCIES, Measured, RATES};
use crate::Plot;

const STYLE: &str = "font-family=\"sans-serif\" font-size=\"12\"";
const EMULATED: &str = "emulated; one pinned thread polls; medians over the rounds";

/// What every picture begins with: pictures are kept in the tree.
const HEAD: &str = "<!-- SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause -->\n\
                    <svg xmlns=\"http://www.w3.org/2000/svg\"";

/// A colour from green over yellow to red, for 0 to 1 and beyond.
fn colour(part: f64) -> String {
    const STOPS: [[f64; 3]; 3] = [
        [143.0, 209.0, 158.0],
        [247.0, 224.0, 138.0],
        [233.0, 139.0, 128.0],
    ];
    let part = 2.0 * part.clamp(0.0, 1.0);
    let (from, to, part) = if part < 1.0 {
        (STOPS[0], STOPS[1], part)
    } else {
        (STOPS[1], STOPS[2], part - 1.0)
    };
    let mixed = |at: usize| (to[at] - from[at]).mul_add(part, from[at]);
    format!("rgb({:.0},{:.0},{:.0})", mixed(0), mixed(1), mixed(2))
}

/// A heat map: what each cell's median and 99th percentile are of what they may be.
pub(super) fn errors(all: &[Measured]) -> Plot {
    let (left, top, width, height) = (150, 70, 92, 34);
    let columns = i32::try_from(LATENCIES.len()).unwrap_or(0);
    let lines = i32::try_from(RATES.len() * DEPTHS.len()).unwrap_or(0);
    let (wide, high) = (left + columns * width + 20, top + lines * height + 40);
    let mut svg = format!(
        "{HEAD} width=\"{wide}\" height=\"{high}\" {STYLE}>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{left}\" y=\"20\" font-size=\"15\">Error of emulated links in ns: median / p99</text>\n\
         <text x=\"{left}\" y=\"38\" fill=\"#555\">{EMULATED}</text>\n"
    );
    for (x, latency) in (0..).zip(LATENCIES) {
        let x = left + x * width + width / 2;
        let y = top - 8;
        let _ = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{latency} us</text>"
        );
    }
    let lines = RATES
        .into_iter()
        .flat_map(|rate| DEPTHS.map(|depth| (rate, depth)));
    for (line, (rate, depth)) in (0..).zip(lines) {
        let y = top + line * height;
        let rate_name = if rate == 0 {
            "unlimited".to_owned()
        } else {
            format!("{rate} Gbit/s")
        };
        let middle = y + height / 2 + 4;
        let _ = writeln!(
            svg,
            "<text x=\"8\" y=\"{middle}\">{rate_name}, depth {depth}</text>"
        );
        for (column, latency) in (0..).zip(LATENCIES) {
            let at = Cell {
                latency,
                depth,
                rate,
            };
            let Some(measured) = all.iter().find(|measured| measured.cell == at) else {
                continue;
            };
            let part = (measured.p50 / at.median_goal()).max(measured.p99 / at.p99_goal());
            let fill = if measured.work_bound {
                "#dddddd".to_owned()
            } else {
                colour(part)
            };
            let x = left + column * width;
            let (text_x, w, h) = (x + width / 2, width - 2, height - 2);
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" fill=\"{fill}\"/>\
                 <text x=\"{text_x}\" y=\"{middle}\" text-anchor=\"middle\">{:.0} / {:.0}</text>",
                measured.p50, measured.p99
            );
        }
    }
    let y = high - 14;
    let _ = writeln!(
        svg,
        "<text x=\"{left}\" y=\"{y}\" fill=\"#555\">green: none of what is allowed; red: all of it; \
         grey: the requests' own work takes the time</text>\n</svg>"
    );
    Plot {
        name: "links-error.svg",
        svg,
    }
}

/// Where the distribution is drawn.
struct Axes {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl Axes {
    /// Ten to the power of this many nanoseconds is the right end.
    const DECADES: f64 = 5.0;
    /// Nines at the top: 99.99 %.
    const NINES: f64 = 4.0;

    fn x(&self, ns: f64) -> f64 {
        let part = (ns.max(1.0).log10() / Self::DECADES).clamp(0.0, 1.0);
        part.mul_add(self.width, self.left)
    }

    /// Equal steps for 90 %, 99 %, 99.9 %: the tail is what matters.
    fn y(&self, quantile: f64) -> f64 {
        let nines = -(1.0 - quantile).max(1e-9).log10();
        let part = (nines / Self::NINES).clamp(0.0, 1.0);
        (1.0 - part).mul_add(self.height, self.top)
    }
}

/// Cumulative distributions of the errors, a line for each depth, all cells with a goal together.
pub(super) fn distribution(cells: &[Rounds], calibration: &Calibration) -> Plot {
    let axes = Axes {
        left: 70.0,
        top: 60.0,
        width: 620.0,
        height: 300.0,
    };
    let mut svg = format!(
        "{HEAD} width=\"720\" height=\"420\" {STYLE}>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"70\" y=\"20\" font-size=\"15\">How late completions are, latencies of 10 us and more</text>\n\
         <text x=\"70\" y=\"38\" fill=\"#555\">emulated; one pinned thread polls; all passes</text>\n"
    );
    let bottom = axes.top + axes.height;
    for (ns, name) in [
        (1.0, "1 ns"),
        (10.0, "10 ns"),
        (100.0, "100 ns"),
        (1e3, "1 us"),
        (1e4, "10 us"),
        (1e5, "100 us"),
    ] {
        let (x, label) = (axes.x(ns), bottom + 18.0);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.0}\" y1=\"{:.0}\" x2=\"{x:.0}\" y2=\"{bottom:.0}\" stroke=\"#ddd\"/>\
             <text x=\"{x:.0}\" y=\"{label:.0}\" text-anchor=\"middle\">{name}</text>",
            axes.top
        );
    }
    for (quantile, name) in [
        (0.0, "0"),
        (0.9, "90 %"),
        (0.99, "99 %"),
        (0.999, "99.9 %"),
        (0.9999, "99.99 %"),
    ] {
        let (y, right, label) = (axes.y(quantile), axes.left + axes.width, axes.left - 8.0);
        let _ = writeln!(
            svg,
            "<line x1=\"{:.0}\" y1=\"{y:.0}\" x2=\"{right:.0}\" y2=\"{y:.0}\" stroke=\"#ddd\"/>\
             <text x=\"{label:.0}\" y=\"{:.0}\" text-anchor=\"end\">{name}</text>",
            axes.left,
            y + 4.0
        );
    }
    for (number, (depth, colour)) in
        (0..).zip(DEPTHS.into_iter().zip(["#1b7837", "#2166ac", "#b2182b"]))
    {
        let y = 80 + 18 * number;
        let line = line(&axes, &together(cells, depth));
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{line}\"/>\
             <text x=\"600\" y=\"{y}\" fill=\"{colour}\">depth {depth}</text>"
        );
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let floor = axes.x(calibration.spin_late_p50_ns as f64);
    let _ = writeln!(
        svg,
        "<line x1=\"{floor:.0}\" y1=\"{:.0}\" x2=\"{floor:.0}\" y2=\"{bottom:.0}\" stroke=\"#555\" stroke-dasharray=\"4\"/>\
         <text x=\"{:.0}\" y=\"{:.0}\" fill=\"#555\">a spin alone, median</text>\n</svg>",
        axes.top,
        floor + 4.0,
        axes.top + 12.0
    );
    Plot {
        name: "links-distribution.svg",
        svg,
    }
}

/// All errors at one depth, of the latencies that no cell's work exceeds.
fn together(cells: &[Rounds], depth: u32) -> Histogram<u64> {
    let of_depth = |cell: &Cell| cell.depth == depth && cell.latency >= 10;
    let passes = cells.iter().filter(|(cell, _)| of_depth(cell));
    let mut all = passes.flat_map(|(_, rounds)| rounds.iter().map(|round| &round.sum.errors));
    let empty = || Histogram::new(3).expect("three digits");
    let mut sum = all.next().cloned().unwrap_or_else(empty);
    for errors in all {
        sum.add(errors).expect("all have the same range");
    }
    sum
}

fn line(axes: &Axes, errors: &Histogram<u64>) -> String {
    let mut points = String::new();
    for step in 0..=200 {
        let nines = f64::from(step) / 200.0 * Axes::NINES;
        let quantile = 1.0 - 10.0_f64.powf(-nines);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let ns = errors.value_at_quantile(quantile) as f64;
        let _ = write!(points, "{:.1},{:.1} ", axes.x(ns), axes.y(quantile));
    }
    points
}
