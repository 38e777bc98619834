// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmemctl guest`.

use std::io::Write;

use tmem_admin_api::{Guest, GuestDetail, GuestList, path};

use crate::args::GuestListArgs;
use crate::client::{Client, guest_path};
use crate::table::{self, Column, Layout, Text, View};
use crate::{Error, pool};

/// Columns of `guest list`, and lines of `guest show`.
pub(crate) const COLUMNS: &[Column<Guest>] = &[
    Column {
        name: "name",
        usual: true,
        help: "the guest",
        cell: |g, _| Text::word(&g.name),
    },
    Column {
        name: "connected",
        usual: true,
        help: "whether a VMM is connected",
        cell: |g, _| {
            if g.connected {
                Text::word("yes").good()
            } else {
                Text::word("no")
            }
        },
    },
    Column {
        name: "held",
        usual: true,
        help: "size of the pages held for it",
        cell: |g, view| view.pages(g.held_pages),
    },
    Column {
        name: "grant",
        usual: true,
        help: "what it is promised room for, in persistent pools",
        cell: |g, view| view.pages(g.grant_pages),
    },
    Column {
        name: "frames",
        usual: true,
        help: "size of the held pages that lie in frames",
        cell: |g, view| view.pages(g.frame_pages),
    },
    Column {
        name: "same-filled",
        usual: true,
        help: "size of the held pages that take no frame",
        cell: |g, view| view.pages(g.same_filled_pages),
    },
    Column {
        name: "pools",
        usual: true,
        help: "number of its pools",
        cell: |g, _| Text::count(g.pools),
    },
    Column {
        name: "queue-pairs",
        usual: true,
        help: "get/put queue pairs offered to it",
        cell: |g, _| Text::count(g.queue_pairs),
    },
    Column {
        name: "polling",
        usual: true,
        help: "how long its queue workers poll before they sleep",
        cell: |g, view| {
            if g.polling() {
                view.time(u64::from(g.poll_us) * 1000)
            } else {
                Text::number("off")
            }
        },
    },
    Column {
        name: "epoch",
        usual: false,
        help: "boot epoch, drawn by its driver",
        cell: |g, _| Text::word(g.epoch.as_deref().unwrap_or("-")),
    },
    Column {
        name: "socket",
        usual: false,
        help: "its vhost-user socket",
        cell: |g, _| Text::word(g.socket.as_deref().unwrap_or("-")),
    },
];

/// All guests, a line each.
pub(crate) fn list(
    client: &Client,
    args: &GuestListArgs,
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let answer = client.get::<GuestList>(path::GUESTS)?;
    if view.json {
        return table::print_json(&answer.text, out);
    }
    let layout = Layout::choose(COLUMNS, &args.columns);
    layout.print(&answer.value.guests, !args.no_headers, view, out)
}

/// One guest, a property a line, and its pools.
pub(crate) fn show(
    client: &Client,
    name: &str,
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let answer = client.get::<GuestDetail>(&guest_path(name))?;
    if view.json {
        return table::print_json(&answer.text, out);
    }
    let GuestDetail { guest, pools, .. } = answer.value;
    // One value column for words and numbers alike: all to the left.
    let lines = COLUMNS.iter().map(|column| {
        vec![
            Text::word(column.name.replace('-', " ")),
            (column.cell)(&guest, view).left(),
        ]
    });
    table::print(None, lines.collect(), &[], view, out)?;
    if pools.is_empty() {
        return Ok(());
    }
    writeln!(out).map_err(Error::Output)?;
    let usual_but_guest: Vec<String> = pool::COLUMNS
        .iter()
        .filter(|column| column.usual && column.name != "guest")
        .map(|column| column.name.into())
        .collect();
    Layout::choose(pool::COLUMNS, &usual_but_guest).print(&pools, true, view, out)
}
