// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmemctl stats`: totals, or with `--watch` what changes.

use std::io::Write;

use tmem_admin_api::{
    GuestStats, Histogram, HitTier, Op, PageResult, RefusalReason, Stats, TierCounts, path,
};

use crate::args::{StatsArgs, WatchArgs};
use crate::changes::changes;
use crate::client::{Client, of_guest};
use crate::table::{self, Column, Layout, Text, View};
use crate::{Error, format};

/// Intervals between two lines of headers.
pub(crate) const HEADER_EVERY: u64 = 20;
/// Characters a column while watching, so that intervals align: enough for `1234567` and `123.4 µs`.
pub(crate) const WATCH_WIDTH_MIN: u16 = 8;

/// A guest's line.
pub(crate) struct Row {
    stats: GuestStats,
    /// Counts are per this many nanoseconds; absent for totals.
    over_ns: Option<u64>,
}

/// A count, or how many a second.
pub(crate) fn count(count: u64, over_ns: Option<u64>) -> Text {
    match over_ns {
        Some(ns) => Text::number(format::per_second(count, ns)),
        None => Text::count(count),
    }
}

impl Row {
    fn count(&self, count: u64) -> Text {
        self::count(count, self.over_ns)
    }

    fn hits(&self, tier: HitTier) -> u64 {
        self.stats.hits.get(&tier).copied().unwrap_or(0)
    }

    fn refused(&self, reason: RefusalReason) -> u64 {
        self.stats.refused.get(&reason).copied().unwrap_or(0)
    }

    fn tiers(&self, of: fn(&TierCounts) -> u64) -> u64 {
        self.stats.tiers.values().map(of).sum()
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
pub(crate) fn latency(histogram: &Histogram, ns: u64, view: View) -> Text {
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

/// A column of a part of a count, by a method of the row.
macro_rules! part {
    ($name:literal, $method:ident($part:expr), $help:literal) => {
        Column {
            name: $name,
            usual: false,
            help: $help,
            cell: |row, _| row.count(row.$method($part)),
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
    part!(
        "from-index",
        hits(HitTier::SameFilled),
        "of the pages delivered, same-filled ones"
    ),
    part!(
        "from-dram",
        hits(HitTier::Dram),
        "of these, pages that were in DRAM"
    ),
    part!(
        "from-victim",
        hits(HitTier::Victim),
        "of these, pages of which DRAM still had a copy"
    ),
    part!(
        "from-pm",
        hits(HitTier::Pm),
        "of these, pages that were in the PM file"
    ),
    part!(
        "from-remote",
        hits(HitTier::Remote),
        "of these, pages that were in the remote tier"
    ),
    count!(
        "demoted",
        false,
        "pages that went to a farther tier",
        |row| row.tiers(|counts| counts.demoted)
    ),
    count!(
        "promoted",
        false,
        "pages that went to a nearer tier",
        |row| row.tiers(|counts| counts.promoted)
    ),
    count!(
        "evicted",
        false,
        "ephemeral pages that were given up to make room",
        |row| row.tiers(|counts| counts.evicted)
    ),
    part!(
        "over-grant",
        refused(RefusalReason::OverGrant),
        "puts refused, because they were beyond the grant"
    ),
    part!(
        "no-room",
        refused(RefusalReason::NoRoom),
        "puts refused, because no tier had room"
    ),
    part!(
        "frozen",
        refused(RefusalReason::Frozen),
        "puts refused, because the guest was frozen"
    ),
    part!(
        "tier-failed",
        refused(RefusalReason::TierFailed),
        "puts refused, because a tier failed"
    ),
    Column {
        name: "queue-p50",
        usual: false,
        help: "half of the requests waited no longer for a worker",
        cell: |row, view| {
            let waits = &row.stats.stages.queue_wait;
            latency(waits, waits.p50_ns, view)
        },
    },
    Column {
        name: "queue-p99",
        usual: false,
        help: "99 of 100 requests waited no longer for a worker",
        cell: |row, view| {
            let waits = &row.stats.stages.queue_wait;
            latency(waits, waits.p99_ns, view)
        },
    },
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
    let rows = |stats: &GuestStats, over_ns| {
        let stats = stats.clone();
        vec![Row { stats, over_ns }]
    };
    let layout = Layout::choose(COLUMNS, &args.columns);
    watch(client, &args.watch, layout, rows, view, out)
}

/// Shows what `rows` makes of each guest's counters, once, or again and again; then of what changed,
/// and in how many nanoseconds.
pub(crate) fn watch<T>(
    client: &Client,
    args: &WatchArgs,
    layout: Layout<T>,
    rows: impl Fn(&GuestStats, Option<u64>) -> Vec<T>,
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let path = of_guest(path::STATS, args.guest.as_deref());
    let all = |guests: &[GuestStats], over_ns| -> Vec<T> {
        let guests = guests.iter();
        guests.flat_map(|stats| rows(stats, over_ns)).collect()
    };
    let first = client.get::<Stats>(&path)?;
    let Some(interval) = args.watch else {
        if view.json {
            return table::print_json(&first.text, out);
        }
        let rows = all(&first.value.guests, None);
        return layout.print(&rows, !args.no_headers, view, out);
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
            let (changed, over_ns) = changes(&now.value, &before);
            layout.print(&all(&changed, Some(over_ns)), headers, view, out)?;
            out.flush().map_err(Error::Output)?;
        }
        before = now.value;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_has_a_name_of_its_own() {
        let mut names: Vec<_> = COLUMNS.iter().map(|column| column.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), COLUMNS.len());
    }
}
