// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Measurements as a table for people, and as JSON for programs.

use crate::loops::{Cell, Moved, Setup, Which};
use std::fmt::Write as _;

fn name(which: Which) -> &'static str {
    match which {
        Which::Alloc => "alloc",
        Which::Steal => "steal",
    }
}

/// Prints a line, after a head where another loop begins than that of `before`.
pub(crate) fn print(cell: &Cell, before: Option<&Cell>) {
    if before.is_none_or(|before| before.which != cell.which) {
        println!(
            "{:>5} {:>7} {:>5}  {:>10} {:>10} {:>10} {:>10}  {:>9} {:>9} {:>9}  {:>7} {:>7}",
            "loop",
            "threads",
            "batch",
            "all/s",
            "put/s",
            "get/s",
            "flush/s",
            "put us",
            "get us",
            "flush us",
            "kicks",
            "irqs"
        );
    }
    let micros = |moved: Moved| {
        if moved.calls == 0 {
            return "-".to_owned();
        }
        let tenths = moved.call_ns() / 100;
        format!("{}.{}", tenths / 10, tenths % 10)
    };
    let rate = |moved: Moved| match moved.rate() {
        0 => "-".to_owned(),
        rate => rate.to_string(),
    };
    let share = |value: Option<u64>| {
        value.map_or_else(
            || "-".to_owned(),
            |value| (value * 1000 / cell.pages().max(1)).to_string(),
        )
    };
    println!(
        "{:>5} {:>7} {:>5}  {:>10} {:>10} {:>10} {:>10}  {:>9} {:>9} {:>9}  {:>7} {:>7}",
        name(cell.which),
        cell.threads,
        cell.batch,
        cell.rate(),
        rate(cell.put),
        rate(cell.get),
        rate(cell.flush),
        micros(cell.put),
        micros(cell.get),
        micros(cell.flush),
        share(cell.counters.map(|counters| counters.kicks)),
        share(cell.counters.map(|counters| counters.interrupts)),
    );
}

/// All measurements as one line.
pub(crate) fn json(cells: &[Cell], setup: &Setup) -> String {
    let mut text = format!(
        "{{\"schema\": 1, \"layout\": \"{}\", \"shared\": {}, \"pages\": {}, \"seed\": {}, \"cells\": [",
        if setup.contiguous {
            "contiguous"
        } else {
            "scattered"
        },
        setup.shared,
        setup.pages,
        setup.seed
    );
    for (nth, cell) in cells.iter().enumerate() {
        let comma = if nth == 0 { "" } else { ", " };
        let _ = write!(
            text,
            "{comma}{{\"loop\": \"{}\", \"threads\": {}, \"batch\": {}, \"pages_per_second\": {}, \
             \"wall_ns\": {}, \"wrong\": {}",
            name(cell.which),
            cell.threads,
            cell.batch,
            cell.rate(),
            cell.wall_ns,
            cell.wrong
        );
        for (name, moved) in [("put", cell.put), ("get", cell.get), ("flush", cell.flush)] {
            let _ = write!(
                text,
                ", \"{name}_pages_per_second\": {}, \"{name}_calls\": {}, \"{name}_call_ns\": {}",
                moved.rate(),
                moved.calls,
                moved.call_ns()
            );
        }
        if let Some(counters) = cell.counters {
            let _ = write!(
                text,
                ", \"kicks\": {}, \"interrupts\": {}",
                counters.kicks, counters.interrupts
            );
        }
        text.push('}');
    }
    text.push_str("]}");
    text
}
