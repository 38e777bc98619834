// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmemctl top`: what guests do now, a line for each, and what becomes of their memory.

use std::io::Write;

use tmem_admin_api::{Balloon, BalloonList, ErrorCode, GuestStats, Op, PageResult, Stats, path};

use crate::args::TopArgs;
use crate::changes::changes;
use crate::client::Client;
use crate::stats::{HEADER_EVERY, WATCH_WIDTH_MIN, count};
use crate::table::{self, Column, Layout, Text, View};
use crate::{Error, balloon};

/// A guest's line.
pub(crate) struct Row {
    stats: GuestStats,
    over_ns: u64,
    balloon: Option<Balloon>,
}

impl Row {
    fn pages(&self, op: Op, result: PageResult) -> Text {
        count(self.stats.pages_of(op, result), Some(self.over_ns))
    }

    fn size(&self, of: fn(&Balloon) -> u64, view: View) -> Text {
        let balloon = self.balloon.as_ref().filter(|balloon| balloon.enabled);
        balloon.map_or_else(|| Text::number("-"), |balloon| view.pages(of(balloon)))
    }
}

/// Columns of `top`.
pub(crate) const COLUMNS: &[Column<Row>] = &[
    Column {
        name: "guest",
        usual: true,
        help: "the guest's name",
        cell: |row, _| Text::word(&row.stats.guest),
    },
    Column {
        name: "put",
        usual: true,
        help: "pages put",
        cell: |row, _| row.pages(Op::Put, PageResult::Ok),
    },
    Column {
        name: "got",
        usual: true,
        help: "pages delivered",
        cell: |row, _| row.pages(Op::Get, PageResult::Ok),
    },
    Column {
        name: "get-p99",
        usual: true,
        help: "99 of 100 gets took no longer",
        cell: |row, view| match row.stats.latency.get.count {
            0 => Text::number("-"),
            _ => view.time(row.stats.latency.get.p99_ns),
        },
    },
    Column {
        name: "size",
        usual: true,
        help: "what the guest keeps of its memory",
        cell: |row, view| row.size(|balloon| balloon.size_pages, view),
    },
    Column {
        name: "held",
        usual: true,
        help: "what its balloon holds",
        cell: |row, view| row.size(|balloon| balloon.held_pages, view),
    },
    Column {
        name: "target",
        usual: true,
        help: "what the balloon shall hold",
        cell: |row, view| row.size(|balloon| balloon.target_pages, view),
    },
    Column {
        name: "balloon",
        usual: true,
        help: "who decides about it: fixed, auto",
        cell: |row, _| {
            let balloon = row.balloon.as_ref().filter(|balloon| balloon.enabled);
            Text::word(balloon.map_or("-", |balloon| balloon.mode.as_str()))
        },
    },
    Column {
        name: "why",
        usual: true,
        help: "the daemon's last reason, of a guest on auto",
        cell: |row, _| Text::word(row.balloon.as_ref().map_or("-", balloon::why)),
    },
    Column {
        name: "refetched",
        usual: true,
        help: "pages that it had to fetch again, of a guest on auto",
        cell: |row, _| {
            let decision = row.balloon.as_ref().and_then(|b| b.decision.as_ref());
            decision.map_or_else(|| Text::number("-"), |d| Text::count(d.faults_per_s))
        },
    },
];

/// Shows block after block, until interrupted or for so many.
pub(crate) fn run(
    client: &Client,
    args: &TopArgs,
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let layout = Layout::choose(COLUMNS, &args.columns).at_least(WATCH_WIDTH_MIN);
    let mut before = client.get::<Stats>(path::STATS)?.value;
    for round in 0..args.count.unwrap_or(u64::MAX) {
        std::thread::sleep(args.every);
        let now = client.get::<Stats>(path::STATS)?;
        let (balloons, text) = balloons(client)?;
        if view.json {
            // An answer of the daemon a line: counters, then balloons.
            table::print_json(&now.text, out)?;
            table::print_json(&text, out)?;
        } else {
            let (changed, over_ns) = changes(&now.value, &before);
            let rows: Vec<Row> = (changed.into_iter())
                .map(|stats| Row {
                    over_ns,
                    balloon: balloons.iter().find(|b| b.guest == stats.guest).cloned(),
                    stats,
                })
                .collect();
            let headers = !args.no_headers && (rows.len() > 1 || round % HEADER_EVERY == 0);
            if round > 0 && rows.len() > 1 {
                writeln!(out).map_err(Error::Output)?;
            }
            layout.print(&rows, headers, view, out)?;
            out.flush().map_err(Error::Output)?;
        }
        before = now.value;
    }
    Ok(())
}

/// All balloons; none of a daemon that has none.
fn balloons(client: &Client) -> Result<(Vec<Balloon>, String), Error> {
    match client.get::<BalloonList>(path::BALLOONS) {
        Ok(answer) => Ok((answer.value.balloons, answer.text)),
        Err(Error::Refused(answer)) if answer.code == ErrorCode::NotAvailable => {
            Ok((Vec::new(), "{}".into()))
        }
        Err(error) => Err(error),
    }
}
