// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmemctl stats`: totals, or with `--watch` what changes.

use std::collections::BTreeMap;
use std::io::Write;

use tmem_admin_api::{GuestStats, Histogram, Latency, Op, PageResult, Stats, path};

use crate::args::StatsArgs;
use crate::client::{Client, of_guest};
use crate::table::{self, Column, Layout, Text, View};
use crate::{Error, format};

/// Intervals between two lines of headers.
const HEADER_EVERY: u64 = 20;
/// Characters a column while watching, so that intervals align: enough for `1234567` and `123.4 µs`.
const WATCH_WIDTH_MIN: u16 = 8;

/// A guest's line.
pub(crate) struct Row {
    stats: GuestStats,
    /// Counts are per this many nanoseconds; absent for totals.
    over_ns: Option<u64>,
}

impl Row {
    fn count(&self, count: u64) -> Text {
        match self.over_ns {
            Some(ns) => Text::number(format::per_second(count, ns)),
            None => Text::count(count),
        }
    }

    fn pages(&self, op: Op, results: &[PageResult]) -> u64 {
        results
            .iter()
            .map(|&result| self.stats.pages_of(op, result))
            .sum()
    }

    fn flushed(&self) -> u64 {
        let ops = [Op::Flush, Op::FlushObject, Op::FlushPool];
        ops.iter()
            .map(|&op| self.pages(op, &[PageResult::Ok]))
            .sum()
    }

    /// A count of what ought not to happen.
    fn trouble(&self, count: u64) -> Text {
        let text = self.count(count);
        if count == 0 { text } else { text.bad() }
    }
}

/// A latency, or a dash where nothing was measured.
fn latency(histogram: &Histogram, ns: u64, view: View) -> Text {
    if histogram.count == 0 {
        Text::number("-")
    } else {
        view.time(ns)
    }
}

/// A column of a count, by an expression over the row.
macro_rules! count {
    ($name:literal, $usual:literal, $help:literal, |$row:ident| $value:expr) => {
        Column {
            name: $name,
            usual: $usual,
            help: $help,
            cell: |$row, _| $row.count($value),
        }
    };
}

/// A column of a latency.
macro_rules! latency {
    ($name:literal, $usual:literal, $help:literal, $op:ident.$field:ident) => {
        Column {
            name: $name,
            usual: $usual,
            help: $help,
            cell: |row, view| {
                let histogram = &row.stats.latency.$op;
                latency(histogram, histogram.$field, view)
            },
        }
    };
}

/// Columns of `stats`.
pub(crate) const COLUMNS: &[Column<Row>] = &[
    Column {
        name: "guest",
        usual: true,
        help: "the guest",
        cell: |row, _| Text::word(&row.stats.guest),
    },
    count!("put", true, "pages stored", |row| row
        .pages(Op::Put, &[PageResult::Ok])),
    count!("got", true, "pages delivered", |row| row
        .pages(Op::Get, &[PageResult::Ok])),
    count!(
        "missed",
        true,
        "pages asked for that were not there",
        |row| row.pages(Op::Get, &[PageResult::Miss])
    ),
    count!("flushed", true, "pages flushed", |row| row.flushed()),
    count!("refused", true, "pages whose put was refused", |row| row
        .pages(
            Op::Put,
            &[PageResult::RefusedFull, PageResult::RefusedFrozen]
        )),
    count!(
        "stale",
        false,
        "pages left alone because theirs was the newer ticket",
        |row| row.pages(Op::Put, &[PageResult::Stale]) + row.pages(Op::Flush, &[PageResult::Stale])
    ),
    Column {
        name: "corrupt",
        usual: true,
        help: "pages that failed their checksum",
        cell: |row, _| row.trouble(row.pages(Op::Get, &[PageResult::Corrupt])),
    },
    Column {
        name: "malformed",
        usual: true,
        help: "chains and rings that broke the rules",
        cell: |row, _| row.trouble(row.stats.malformed_total()),
    },
    latency!(
        "get-p50",
        true,
        "half of the GET requests took no longer",
        get.p50_ns
    ),
    latency!(
        "get-p90",
        false,
        "9 of 10 GET requests took no longer",
        get.p90_ns
    ),
    latency!(
        "get-p99",
        true,
        "99 of 100 GET requests took no longer",
        get.p99_ns
    ),
    latency!(
        "get-p999",
        false,
        "999 of 1000 GET requests took no longer",
        get.p999_ns
    ),
    latency!("get-max", true, "the longest GET request", get.max_ns),
    latency!(
        "put-p50",
        true,
        "half of the PUT requests took no longer",
        put.p50_ns
    ),
    latency!(
        "put-p90",
        false,
        "9 of 10 PUT requests took no longer",
        put.p90_ns
    ),
    latency!(
        "put-p99",
        true,
        "99 of 100 PUT requests took no longer",
        put.p99_ns
    ),
    latency!(
        "put-p999",
        false,
        "999 of 1000 PUT requests took no longer",
        put.p999_ns
    ),
    latency!("put-max", true, "the longest PUT request", put.max_ns),
    count!("kicks", true, "kicks that woke a queue worker", |row| row
        .stats
        .kicks),
    count!("calls", true, "interrupts of the guest", |row| row
        .stats
        .calls),
    count!("polls", false, "rounds that queue workers polled", |row| {
        row.stats.polls
    }),
    count!(
        "poll-hits",
        false,
        "of these, rounds that found a request",
        |row| row.stats.poll_hits
    ),
    count!("connections", false, "times that a VMM connected", |row| {
        row.stats.connections
    }),
];

/// Shows counters once, or again and again.
pub(crate) fn show(
    client: &Client,
    args: &StatsArgs,
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let path = of_guest(path::STATS, args.guest.as_deref());
    let layout = Layout::choose(COLUMNS, &args.columns);
    let first = client.get::<Stats>(&path)?;
    let Some(interval) = args.watch else {
        if view.json {
            return table::print_json(&first.text, out);
        }
        let rows = first.value.guests.into_iter().map(|stats| Row {
            stats,
            over_ns: None,
        });
        return layout.print(&rows.collect::<Vec<_>>(), !args.no_headers, view, out);
    };

    let layout = layout.at_least(WATCH_WIDTH_MIN);
    let mut before = first.value;
    for round in 0..args.count.unwrap_or(u64::MAX) {
        std::thread::sleep(interval);
        let now = client.get::<Stats>(&path)?;
        if view.json {
            table::print_json(&now.text, out)?;
        } else {
            let headers = !args.no_headers && round % HEADER_EVERY == 0;
            layout.print(&changes(&now.value, &before), headers, view, out)?;
            out.flush().map_err(Error::Output)?;
        }
        before = now.value;
    }
    Ok(())
}

/// A row a guest of what happened between two answers.
fn changes(now: &Stats, before: &Stats) -> Vec<Row> {
    // A daemon that has been up for less long than before was restarted: it counts from zero.
    let restarted = now.uptime_ns < before.uptime_ns;
    let over_ns = now.uptime_ns - if restarted { 0 } else { before.uptime_ns };
    now.guests
        .iter()
        .map(|stats| {
            let earlier = before
                .guests
                .iter()
                .find(|b| b.guest == stats.guest && !restarted);
            let stats = earlier.map_or_else(|| stats.clone(), |earlier| since(stats, earlier));
            Row {
                stats,
                over_ns: Some(over_ns),
            }
        })
        .collect()
}

fn since(now: &GuestStats, before: &GuestStats) -> GuestStats {
    GuestStats {
        guest: now.guest.clone(),
        pages: nested(&now.pages, &before.pages),
        requests: nested(&now.requests, &before.requests),
        malformed: flat(&now.malformed, Some(&before.malformed)),
        kicks: now.kicks.saturating_sub(before.kicks),
        calls: now.calls.saturating_sub(before.calls),
        polls: now.polls.saturating_sub(before.polls),
        poll_hits: now.poll_hits.saturating_sub(before.poll_hits),
        connections: now.connections.saturating_sub(before.connections),
        latency: Latency {
            get: now.latency.get.since(&before.latency.get),
            put: now.latency.put.since(&before.latency.put),
        },
    }
}

type Counts<K> = BTreeMap<K, u64>;

fn flat<K: Ord + Clone>(now: &Counts<K>, before: Option<&Counts<K>>) -> Counts<K> {
    now.iter()
        .map(|(key, count)| {
            let earlier = before
                .and_then(|before| before.get(key))
                .copied()
                .unwrap_or(0);
            (key.clone(), count.saturating_sub(earlier))
        })
        .collect()
}

fn nested<A: Ord + Copy, B: Ord + Copy>(
    now: &BTreeMap<A, Counts<B>>,
    before: &BTreeMap<A, Counts<B>>,
) -> BTreeMap<A, Counts<B>> {
    now.iter()
        .map(|(&key, counts)| (key, flat(counts, before.get(&key))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(uptime_ns: u64, puts: u64) -> Stats {
        let pages = BTreeMap::from([(Op::Put, BTreeMap::from([(PageResult::Ok, puts)]))]);
        let guest = GuestStats {
            guest: "web".into(),
            pages,
            kicks: puts,
            ..Default::default()
        };
        Stats {
            uptime_ns,
            guests: vec![guest],
            ..Stats::default()
        }
    }

    fn puts(rows: &[Row]) -> (u64, Option<u64>) {
        (rows[0].pages(Op::Put, &[PageResult::Ok]), rows[0].over_ns)
    }

    #[test]
    fn changes_are_differences_over_the_daemons_own_time() {
        let rows = changes(&stats(5_000, 70), &stats(2_000, 50));
        assert_eq!(puts(&rows), (20, Some(3_000)));
        assert_eq!(rows[0].stats.kicks, 20);
    }

    #[test]
    fn a_restarted_daemon_counts_from_zero() {
        let rows = changes(&stats(1_000, 7), &stats(9_000, 50));
        assert_eq!(puts(&rows), (7, Some(1_000)));
    }

    #[test]
    fn a_guest_that_is_new_counts_from_zero() {
        let before = Stats {
            uptime_ns: 1_000,
            ..Stats::default()
        };
        assert_eq!(puts(&changes(&stats(2_000, 7), &before)), (7, Some(1_000)));
    }

    #[test]
    fn every_column_has_a_name_of_its_own() {
        let mut names: Vec<_> = COLUMNS.iter().map(|column| column.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), COLUMNS.len());
    }
}
