// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Hit ratios as a picture: a chart for each trace, all in one SVG.

use std::fmt::Write as _;

use super::{OPTIMUM, PERCENTS, Ratios, peer};
use crate::Plot;

/// Charts beside each other.
const COLUMNS: usize = 3;
/// Size of a chart with its title and its axes.
const PANEL: [f64; 2] = [370.0, 290.0];
/// Where the lines are in it: left, top, width, height.
const PLOT: [f64; 4] = [48.0, 36.0, 300.0, 200.0];
/// Height of the legend, which is above the charts.
const LEGEND: f64 = 40.0;
/// Colours that can be told apart without seeing red or green (Okabe and Ito).
const COLOURS: [&str; 6] = [
    "#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#0072b2",
];

/// The picture.
pub(super) fn plot(all: &[Ratios]) -> Plot {
    Plot {
        name: "policies.svg",
        svg: picture(all),
    }
}

/// How the line of a policy looks.
fn style(name: &str, at: usize) -> String {
    match name {
        OPTIMUM => "stroke=\"#000000\" stroke-dasharray=\"6 3\"".to_owned(),
        peer::NAME => "stroke=\"#666666\" stroke-dasharray=\"2 3\"".to_owned(),
        _ => format!("stroke=\"{}\"", COLOURS[at % COLOURS.len()]),
    }
}

fn picture(all: &[Ratios]) -> String {
    let rows = all.len().div_ceil(COLUMNS);
    let [width, height] = [
        PANEL[0] * count(COLUMNS.min(all.len().max(1))),
        PANEL[1].mul_add(count(rows), LEGEND),
    ];
    let mut svg = format!(
        "<!-- SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause -->\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>Hit ratios of the replacement policies</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    svg.push_str(&legend(all));
    for (at, ratios) in all.iter().enumerate() {
        let x = PANEL[0] * count(at % COLUMNS);
        let y = PANEL[1].mul_add(count(at / COLUMNS), LEGEND);
        let _ = writeln!(svg, "<g transform=\"translate({x} {y})\">");
        svg.push_str(&chart(ratios));
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

fn legend(all: &[Ratios]) -> String {
    let mut svg = String::new();
    for (at, (name, _)) in all.first().iter().flat_map(|one| &one.lines).enumerate() {
        let x = 150.0f64.mul_add(count(at), PLOT[0]);
        let style = style(name, at);
        let _ = writeln!(
            svg,
            "<path d=\"M{x} 24h24\" {style} stroke-width=\"2\"/><text x=\"{}\" y=\"28\">{}</text>",
            x + 30.0,
            escaped(name)
        );
    }
    svg
}

fn chart(ratios: &Ratios) -> String {
    let [left, top, width, height] = PLOT;
    let (right, bottom) = (left + width, top + height);
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{}</text>",
        top - 12.0,
        escaped(&ratios.trace)
    );
    for percent in [0, 25, 50, 75, 100] {
        let y = y(f64::from(percent));
        let _ = writeln!(
            svg,
            "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#dddddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{percent}</text>",
            left - 6.0,
            y + 4.0
        );
    }
    for percent in PERCENTS {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{percent}</text>",
            x(percent),
            bottom + 16.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">memory, % of the pages</text>\
         <text transform=\"translate(14 {}) rotate(-90)\" text-anchor=\"middle\">hits, %</text>",
        width.mul_add(0.5, left),
        bottom + 34.0,
        height.mul_add(0.5, top)
    );
    for (at, (name, line)) in ratios.lines.iter().enumerate() {
        let mut path = String::new();
        for (percent, ratio) in PERCENTS.iter().zip(line) {
            let go = if path.is_empty() { 'M' } else { 'L' };
            let _ = write!(path, "{go}{:.1} {:.1}", x(*percent), y(*ratio));
        }
        let style = style(name, at);
        let _ = writeln!(
            svg,
            "<path d=\"{path}\" fill=\"none\" {style} stroke-width=\"2\"/>"
        );
    }
    svg
}

/// Sizes stand apart as their ratios do.
fn x(percent: u32) -> f64 {
    let [first, .., last] = PERCENTS.map(|percent| f64::from(percent).ln());
    let part = (f64::from(percent).ln() - first) / (last - first);
    PLOT[2].mul_add(part, PLOT[0])
}

fn y(ratio: f64) -> f64 {
    PLOT[3].mul_add(1.0 - ratio / 100.0, PLOT[1])
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(0.0, f64::from)
}

/// A recorded trace's name is its guest's and its file's: anything.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_a_chart_for_each_trace_and_a_line_for_each_policy() {
        let ratios = |trace: &str| Ratios {
            trace: trace.to_owned(),
            remark: None,
            lines: vec![
                ("lru".into(), [0.0, 10.0, 20.0, 30.0, 40.0, 100.0]),
                (OPTIMUM.into(), [50.0; PERCENTS.len()]),
            ],
        };
        let svg = plot(&[ratios("a<b"), ratios("b"), ratios("c"), ratios("d")]).svg;
        assert_eq!(svg.matches("<g ").count(), 4);
        assert_eq!(svg.matches("fill=\"none\"").count(), 8);
        assert!(svg.contains("a&lt;b") && svg.ends_with("</svg>\n"));
        // From the lower left to the upper right.
        assert!(svg.contains("M48.0 236.0L"));
        assert!(svg.contains("L348.0 36.0\""));
    }
}
