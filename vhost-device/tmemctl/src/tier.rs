// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmemctl tier`.

use std::io::Write;

use tmem_admin_api::{
    ResizeRequest, Tier, TierDetail, TierList, TierName, TierState, WatermarksRequest, path,
};

use crate::args::{MarksArgs, TierListArgs};
use crate::client::Client;
use crate::table::{self, Column, Layout, Text, View};
use crate::{Error, task};

/// Columns of `tier list`, and lines of `tier show`.
pub(crate) const COLUMNS: &[Column<Tier>] = &[
    Column {
        name: "tier",
        usual: true,
        help: "which tier",
        cell: |t, _| Text::word(t.name.as_str()),
    },
    Column {
        name: "kind",
        usual: true,
        help: "what it is made of: memory, dax, file, stand-in (memory in place of stores), stores, valkey",
        cell: |t, _| Text::word(t.kind.as_str().replace('_', "-")),
    },
    Column {
        name: "state",
        usual: true,
        help: "ok, resizing, draining, drained or failed",
        cell: |t, _| state(t),
    },
    Column {
        name: "capacity",
        usual: true,
        help: "what fits into it",
        cell: |t, view| view.size(t.capacity_bytes),
    },
    Column {
        name: "used",
        usual: true,
        help: "what pages take of it, copies included",
        cell: |t, view| view.size(t.used_bytes),
    },
    Column {
        name: "free",
        usual: true,
        help: "what pages could still take of it",
        cell: |t, view| view.size(t.free_bytes),
    },
    Column {
        name: "persistent",
        usual: true,
        help: "pages of persistent pools in it",
        cell: |t, _| Text::count(t.persistent_pages),
    },
    Column {
        name: "ephemeral",
        usual: true,
        help: "pages of ephemeral pools in it",
        cell: |t, _| Text::count(t.ephemeral_pages),
    },
    Column {
        name: "victims",
        usual: true,
        help: "copies of pages that are farther away already",
        cell: |t, _| Text::count(t.victim_pages),
    },
    Column {
        name: "promised",
        usual: true,
        help: "what guests are promised of it",
        cell: |t, view| view.pages(t.promised_pages),
    },
    Column {
        name: "watermarks",
        usual: true,
        help: "free part at which pages begin and cease to leave it",
        cell: |t, _| {
            Text::number(t.watermarks.map_or_else(
                || "-".to_owned(),
                |marks| format!("{}% {}%", marks.low_percent, marks.high_percent),
            ))
        },
    },
    Column {
        name: "durability",
        usual: true,
        help: "what a page in it outlives: process or host",
        cell: |t, _| Text::word(t.durability.as_str()),
    },
    Column {
        name: "emulated",
        usual: true,
        help: "whether its latency or bandwidth is emulated",
        cell: |t, _| Text::word(yes(t.emulated)),
    },
    Column {
        name: "errors",
        usual: true,
        help: "its failures: I/O errors, pages that failed their checksum",
        cell: |t, _| Text::trouble(t.errors),
    },
    Column {
        name: "max",
        usual: false,
        help: "the most that it can be resized to without a restart",
        cell: |t, view| view.size(t.max_bytes.max(t.capacity_bytes)),
    },
    Column {
        name: "reboot",
        usual: false,
        help: "whether its pages are found again after a reboot of the host",
        cell: |t, _| Text::word(yes(t.keep_over_reboot)),
    },
    Column {
        name: "path",
        usual: false,
        help: "the file that it lies in",
        cell: |t, _| Text::word(t.path.as_deref().unwrap_or("-")),
    },
    Column {
        name: "last-error",
        usual: false,
        help: "the last of its failures",
        cell: |t, _| Text::word(t.error.as_deref().unwrap_or("-")),
    },
    Column {
        name: "task",
        usual: false,
        help: "the resize or drain under way, or the last one",
        cell: |t, _| Text::word(task::in_words(t.task.as_ref())),
    },
];

/// `yes` or `no`.
pub(crate) const fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

/// What goes on with a tier.
pub(crate) fn state(tier: &Tier) -> Text {
    let word = Text::word(tier.state.as_str());
    match tier.state {
        TierState::Ok => word.good(),
        TierState::Resizing => word,
        TierState::Draining | TierState::Drained | TierState::Failed => word.bad(),
    }
}

/// Path of a tier, or of what is done to it.
pub(crate) fn tier_path(name: TierName, action: &str) -> String {
    format!("{}/{}{action}", path::TIERS, name.as_str())
}

/// All tiers, a line each.
pub(crate) fn list(
    client: &Client,
    args: &TierListArgs,
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let answer = client.get::<TierList>(path::TIERS)?;
    if view.json {
        return table::print_json(&answer.text, out);
    }
    let layout = Layout::choose(COLUMNS, &args.columns);
    layout.print(&answer.value.tiers, !args.no_headers, view, out)
}

/// One tier, a property a line.
pub(crate) fn show(
    client: &Client,
    name: TierName,
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let answer = client.get::<TierDetail>(&tier_path(name, ""))?;
    if view.json {
        return table::print_json(&answer.text, out);
    }
    table::print_properties(COLUMNS, &answer.value.tier, view, out)
}

/// Begins a resize.
pub(crate) fn resize(client: &Client, name: TierName, pages: u64) -> Result<task::Begun, Error> {
    client.begin(&tier_path(name, "/resize"), &ResizeRequest { pages })
}

/// Begins a drain.
pub(crate) fn drain(client: &Client, name: TierName) -> Result<task::Begun, Error> {
    client.begin(&tier_path(name, "/drain"), &())
}

/// Uses a tier again.
pub(crate) fn undrain(
    client: &Client,
    name: TierName,
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let answer = client.change::<TierDetail>(&tier_path(name, "/undrain"), &())?;
    if view.json {
        return table::print_json(&answer.text, out);
    }
    let name = name.as_str();
    writeln!(out, "tier {name} takes pages again").map_err(Error::Output)
}

/// Shows watermarks, after setting those that are given.
pub(crate) fn watermarks(
    client: &Client,
    args: MarksArgs,
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let marks = WatermarksRequest {
        low_percent: args.low,
        high_percent: args.high,
    };
    let answer = if marks == WatermarksRequest::default() {
        client.get::<TierDetail>(&tier_path(args.name, ""))?
    } else {
        client.change(&tier_path(args.name, "/watermarks"), &marks)?
    };
    if view.json {
        return table::print_json(&answer.text, out);
    }
    let name = args.name.as_str();
    let told = match answer.value.tier.watermarks {
        Some(marks) => format!(
            "pages leave tier {name} when less than {} % of it is free, until {} % is",
            marks.low_percent, marks.high_percent
        ),
        None => format!("pages do not leave tier {name}: it has no watermarks"),
    };
    writeln!(out, "{told}").map_err(Error::Output)
}
