// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The report as a table for people.

use std::fmt;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};

use crate::Report;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(
            f,
            "{}, {} processors, {} GiB, Linux {}; medians over the rounds; ratio: larger is better",
            machine.processor,
            machine.processors,
            machine.memory >> 30,
            machine.kernel
        )?;
        let mut table = Table::new();
        table
            .load_style(NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header([
            "WHAT", "UNIT", "OURS", "PEER", "FLOOR", "RATIO", "GOAL", "REGIME",
        ]);
        for row in &self.results {
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
                goal,
                row.regime.clone(),
            ]);
        }
        for column in 2..6 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let peers: Vec<_> = self
            .results
            .iter()
            .filter_map(|row| row.peer_name.as_deref())
            .collect();
        if let Some(peer) = peers.first() {
            writeln!(f, "peer: {peer}")?;
        }
        write!(f, "{table}")
    }
}

/// A number with as many digits as it deserves.
fn figure(value: Option<f64>) -> String {
    match value {
        None => String::new(),
        Some(value) if value >= 1000.0 => format!("{value:.0}"),
        Some(value) => format!("{value:.2}"),
    }
}
