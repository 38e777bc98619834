// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmemctl pool`.

use std::io::Write;

use tmem_admin_api::{HitTier, Pool, PoolLayout, PoolList, path};

use crate::Error;
use crate::args::PoolListArgs;
use crate::client::{Client, of_guest};
use crate::table::{self, Column, Layout, Text, View};

/// A usual column of a plain count.
macro_rules! count {
    ($name:literal, $field:ident, $help:literal) => {
        Column {
            name: $name,
            usual: true,
            help: $help,
            cell: |p, _| Text::count(p.$field),
        }
    };
}

/// A column of pages delivered, by where they were.
macro_rules! hits {
    ($name:literal, $tier:ident, $help:literal) => {
        Column {
            name: $name,
            usual: false,
            help: $help,
            cell: |p, _| Text::count(p.hits.get(&HitTier::$tier).copied().unwrap_or(0)),
        }
    };
}

/// A column of pages that went from one tier to another.
macro_rules! moved {
    ($name:literal, $field:ident, $help:literal) => {
        Column {
            name: $name,
            usual: false,
            help: $help,
            cell: |p, _| Text::count(p.tiers.values().map(|tier| tier.$field).sum::<u64>()),
        }
    };
}

/// Columns of `pool list`.
pub(crate) const COLUMNS: &[Column<Pool>] = &[
    Column {
        name: "guest",
        usual: true,
        help: "the guest that it belongs to",
        cell: |p, _| Text::word(&p.guest),
    },
    Column {
        name: "id",
        usual: true,
        help: "number that the guest gave it",
        cell: |p, _| Text::count(p.id),
    },
    Column {
        name: "kind",
        usual: true,
        help: "persistent or ephemeral",
        cell: |p, _| Text::word(p.kind.as_str()),
    },
    Column {
        name: "layout",
        usual: true,
        help: "dense or sparse",
        cell: |p, _| Text::word(p.layout.as_str()),
    },
    Column {
        name: "span",
        usual: false,
        help: "size of the range of indices of a dense pool",
        cell: |p, view| match p.layout {
            PoolLayout::Dense => view.pages(p.object_pages.into()),
            PoolLayout::Sparse => Text::number("-"),
        },
    },
    count!("pages", pages, "pages held"),
    count!(
        "same-filled",
        same_filled,
        "of these, pages that take no frame"
    ),
    Column {
        name: "frames",
        usual: false,
        help: "of these, pages in frames",
        cell: |p, _| Text::count(p.frames),
    },
    count!("pm", pm, "of these, pages in the PM file"),
    count!("remote", remote, "of these, pages in the remote tier alone"),
    Column {
        name: "size",
        usual: true,
        help: "size of its frames",
        cell: |p, view| view.pages(p.frames),
    },
    count!("puts", puts, "pages stored so far"),
    count!("gets", gets, "pages delivered so far"),
    count!("misses", misses, "pages asked for that were not there"),
    count!("flushes", flushes, "pages flushed so far"),
    count!("refused", refused, "pages whose put was refused"),
    count!(
        "evicted",
        evicted,
        "pages of an ephemeral pool given up to make room"
    ),
    Column {
        name: "stale",
        usual: false,
        help: "pages left alone because theirs was the newer ticket",
        cell: |p, _| Text::count(p.stale),
    },
    hits!(
        "from-index",
        SameFilled,
        "of the pages delivered, same-filled ones"
    ),
    hits!("from-dram", Dram, "of these, pages that were in DRAM"),
    hits!(
        "from-victim",
        Victim,
        "of these, pages of which DRAM still had a copy"
    ),
    hits!("from-pm", Pm, "of these, pages that were in the PM file"),
    hits!(
        "from-remote",
        Remote,
        "of these, pages that were in the remote tier"
    ),
    moved!("demoted", demoted, "pages that went to a farther tier"),
    moved!("promoted", promoted, "pages that went to a nearer tier"),
    Column {
        name: "corrupt",
        usual: true,
        help: "pages that failed their checksum",
        cell: |p, _| Text::trouble(p.corrupt),
    },
];

/// Pools, a line each.
pub(crate) fn list(
    client: &Client,
    args: &PoolListArgs,
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let answer = client.get::<PoolList>(&of_guest(path::POOLS, args.guest.as_deref()))?;
    if view.json {
        return table::print_json(&answer.text, out);
    }
    let layout = Layout::choose(COLUMNS, &args.columns);
    layout.print(&answer.value.pools, !args.no_headers, view, out)
}
