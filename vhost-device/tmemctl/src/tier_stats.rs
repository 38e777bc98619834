// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmemctl tier stats`: what each tier did for each guest.

use std::io::Write;

use tmem_admin_api::{
    GuestStats, Histogram, LinkDirection, TierCounts, TierName, TierOp, TierResult,
};

use crate::Error;
use crate::args::TierStatsArgs;
use crate::client::Client;
use crate::stats::{count, latency, watch};
use crate::table::{Column, Layout, Text, View};

/// The line of a guest and a tier.
pub(crate) struct Row {
    guest: String,
    tier: TierName,
    counts: TierCounts,
    time: Histogram,
    link_in: Histogram,
    link_out: Histogram,
    /// Counts are per this many nanoseconds; absent for totals.
    over_ns: Option<u64>,
}

/// A column of a count, by an expression over the row.
macro_rules! count {
    ($name:literal, $usual:literal, $help:literal, |$row:ident| $value:expr) => {
        Column {
            name: $name,
            usual: $usual,
            help: $help,
            cell: |$row, _| count($value, $row.over_ns),
        }
    };
}

/// A column of a time.
macro_rules! time {
    ($name:literal, $usual:literal, $help:literal, $histogram:ident.$field:ident) => {
        Column {
            name: $name,
            usual: $usual,
            help: $help,
            cell: |row, view| latency(&row.$histogram, row.$histogram.$field, view),
        }
    };
}

/// Columns of `tier stats`.
pub(crate) const COLUMNS: &[Column<Row>] = &[
    Column {
        name: "guest",
        usual: true,
        help: "the guest",
        cell: |row, _| Text::word(&row.guest),
    },
    Column {
        name: "tier",
        usual: true,
        help: "the tier",
        cell: |row, _| Text::word(row.tier.as_str()),
    },
    count!("took", true, "pages that it took", |row| row
        .counts
        .pages_of(TierOp::Put, TierResult::Ok)),
    count!("gave", true, "pages that it gave", |row| row
        .counts
        .pages_of(TierOp::Get, TierResult::Ok)),
    count!(
        "forgot",
        true,
        "pages that it forgot, as it was told",
        |row| row.counts.pages_of(TierOp::Flush, TierResult::Ok)
    ),
    count!("full", true, "pages that it had no room for", |row| row
        .counts
        .pages_with(TierResult::Full)),
    count!(
        "demoted",
        true,
        "pages that left it for a farther tier",
        |row| row.counts.demoted
    ),
    count!(
        "promoted",
        true,
        "pages that left it for a nearer tier",
        |row| row.counts.promoted
    ),
    count!(
        "evicted",
        true,
        "ephemeral pages that it gave up to make room",
        |row| row.counts.evicted
    ),
    Column {
        name: "corrupt",
        usual: true,
        help: "pages that failed their checksum in it",
        cell: |row, _| trouble(row, TierResult::Corrupt),
    },
    Column {
        name: "io-errors",
        usual: true,
        help: "pages that it failed to take, give or forget",
        cell: |row, _| trouble(row, TierResult::IoError),
    },
    time!(
        "time-p50",
        true,
        "half of the pages took it no longer, its link left out",
        time.p50_ns
    ),
    time!(
        "time-p99",
        true,
        "99 of 100 pages took it no longer",
        time.p99_ns
    ),
    time!(
        "time-max",
        false,
        "the longest that a page took it",
        time.max_ns
    ),
    time!(
        "in-p50",
        true,
        "half of the pages from it waited no longer for its link",
        link_in.p50_ns
    ),
    time!(
        "in-p99",
        true,
        "99 of 100 pages from it waited no longer for its link",
        link_in.p99_ns
    ),
    time!(
        "out-p50",
        false,
        "half of the pages to it waited no longer for its link",
        link_out.p50_ns
    ),
    time!(
        "out-p99",
        false,
        "99 of 100 pages to it waited no longer for its link",
        link_out.p99_ns
    ),
];

fn trouble(row: &Row, result: TierResult) -> Text {
    let pages = row.counts.pages_with(result);
    let text = count(pages, row.over_ns);
    if pages == 0 { text } else { text.bad() }
}

/// A row for each tier that did something for the guest or was measured.
fn rows(stats: &GuestStats, over_ns: Option<u64>) -> Vec<Row> {
    let link = |tier, way: LinkDirection| {
        let ways = stats.stages.links.get(&tier);
        let histogram = ways.and_then(|ways| ways.get(&way));
        histogram.cloned().unwrap_or_default()
    };
    let tiers = TierName::ALL
        .iter()
        .copied()
        .filter(|tier| stats.tiers.contains_key(tier) || stats.stages.tiers.contains_key(tier));
    let rows = tiers.map(|tier| Row {
        guest: stats.guest.clone(),
        tier,
        counts: stats.tiers.get(&tier).cloned().unwrap_or_default(),
        time: stats.stages.tiers.get(&tier).cloned().unwrap_or_default(),
        link_in: link(tier, LinkDirection::In),
        link_out: link(tier, LinkDirection::Out),
        over_ns,
    });
    rows.collect()
}

/// Shows what tiers did, once, or again and again.
pub(crate) fn show(
    client: &Client,
    args: &TierStatsArgs,
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let layout = Layout::choose(COLUMNS, &args.columns);
    watch(client, &args.watch, layout, rows, view, out)
}
