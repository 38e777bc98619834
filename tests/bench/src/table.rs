// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The report as a table for people.

use std::fmt;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};

use crate::{Report, Row};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(
            f,
            "{}, {} processors, {} GiB, Linux {}; medians over the rounds; ratio: larger is better; \
             quartiles: of the ratio",
            machine.processor,
            machine.processors,
            machine.memory >> 30,
            machine.kernel
        )?;
        // Rows with the same peer stand together.
        for rows in self.results.chunk_by(|a, b| a.peer_name == b.peer_name) {
            if let Some(peer) = &rows[0].peer_name {
                writeln!(f, "\nPeer: {peer}")?;
            }
            writeln!(f, "{}", table(rows))?;
        }
        Ok(())
    }
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header([
        "WHAT",
        "UNIT",
        "OURS",
        "PEER",
        "FLOOR",
        "RATIO",
        "QUARTILES",
        "GOAL",
        "REGIME",
    ]);
    for row in rows {
        let goal = match (row.goal, row.met) {
            (Some(goal), Some(true)) => format!(">= {goal} met"),
            (Some(goal), _) => format!(">= {goal} NOT met"),
            (None, _) => String::new(),
        };
        table.add_row([
            row.name.clone(),
            row.unit.to_owned(),
            figure(Some(row.ours)),
            figure(row.peer),
            figure(row.floor),
            row.ratio
                .map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            row.spread.map_or_else(String::new, |spread| {
                let [first, third] = spread.ratio;
                format!("{first:.2} to {third:.2}")
            }),
            goal,
            if row.emulated {
                format!("emulated; {}", row.regime)
            } else {
                row.regime.clone()
            },
        ]);
    }
    for column in 2..7 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A number with as many digits as it deserves.
fn figure(value: Option<f64>) -> String {
    match value {
        None => String::new(),
        Some(value) if value >= 1000.0 => format!("{value:.0}"),
        Some(value) => format!("{value:.2}"),
    }
}
