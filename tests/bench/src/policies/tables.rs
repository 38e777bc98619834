// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Hit ratios for people: a table for each trace instead of a row for each figure.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use super::{PERCENTS, Ratios};
use crate::Report;

/// The tables, and the rows of the report that are times.
pub(super) fn text(all: &[Ratios], report: &Report) -> String {
    let title = "Gets that hit, in %, by the cache's size in % of the trace's pages";
    let mut text = vec![title.to_owned()];
    for ratios in all {
        text.push(format!("\n{}\n{}", ratios.trace, table(ratios)));
        text.extend(ratios.remark.clone());
    }
    let times = report.results.iter().filter(|row| row.unit == "ns");
    let times = Report {
        results: times.cloned().collect(),
        ..report.clone()
    };
    text.push(format!("\n{times}"));
    text.join("\n")
}

fn table(ratios: &Ratios) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    let sizes = PERCENTS.map(|percent| format!("{percent} %"));
    table.set_header(std::iter::once("POLICY".to_owned()).chain(sizes));
    for (name, line) in &ratios.lines {
        let figures = line.map(|ratio| format!("{ratio:.1}"));
        table.add_row(std::iter::once(name.clone()).chain(figures));
    }
    for column in 1..=PERCENTS.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
