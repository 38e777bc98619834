// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmemctl guest`.

use std::io::Write;

use tmem_admin_api::{Guest, GuestDetail, GuestList, GuestMemory, path};

use crate::args::GuestListArgs;
use crate::client::{Client, guest_path};
use crate::table::{self, Column, Layout, Text, View};
use crate::tier::yes;
use crate::{Error, pool, task};

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
        name: "pm",
        usual: true,
        help: "size of the held pages that lie in the PM file",
        cell: |g, view| view.pages(g.pm_pages),
    },
    Column {
        name: "remote",
        usual: true,
        help: "size of the held pages that are in the remote tier alone",
        cell: |g, view| view.pages(g.remote_pages),
    },
    Column {
        name: "frozen",
        usual: false,
        help: "whether its puts are refused",
        cell: |g, _| match &g.memory {
            Some(memory) if memory.frozen => Text::word("yes").bad(),
            Some(_) => Text::word("no"),
            None => Text::word("-"),
        },
    },
    Column {
        name: "policy",
        usual: true,
        help: "its replacement policy, and the seed if it draws lots",
        cell: |g, _| {
            Text::word(g.memory.as_ref().map_or_else(
                || "-".to_owned(),
                |memory| match memory.policy_seed {
                    Some(seed) => format!("{} {seed}", memory.policy),
                    None => memory.policy.clone(),
                },
            ))
        },
    },
    Column {
        name: "weight",
        usual: false,
        help: "its part of the DRAM that several guests want",
        cell: |g, _| told(g, |memory| Text::count(memory.weight)),
    },
    Column {
        name: "dram-cap",
        usual: false,
        help: "the most of its pages in DRAM",
        cell: |g, view| {
            told(g, |memory| match memory.dram_cap_pages {
                Some(cap) => view.pages(cap),
                None => Text::number("none"),
            })
        },
    },
    Column {
        name: "floor",
        usual: false,
        help: "what it always has room for in DRAM",
        cell: |g, view| told(g, |memory| view.pages(memory.floor_pages)),
    },
    Column {
        name: "share",
        usual: false,
        help: "what it has of DRAM, copies left out",
        cell: |g, view| told(g, |memory| view.pages(memory.dram_pages)),
    },
    Column {
        name: "entitled",
        usual: false,
        help: "what weights, floors and caps entitle it to now",
        cell: |g, view| told(g, |memory| view.pages(memory.entitled_pages)),
    },
    Column {
        name: "freeable",
        usual: false,
        help: "what of DRAM it could be made to give up: the sum of the next three",
        cell: |g, view| told(g, |memory| view.pages(memory.freeable.total())),
    },
    Column {
        name: "ephemeral",
        usual: false,
        help: "of this, ephemeral pages",
        cell: |g, view| told(g, |memory| view.pages(memory.freeable.ephemeral_pages)),
    },
    Column {
        name: "victims",
        usual: false,
        help: "of this, copies of pages that are farther away already",
        cell: |g, view| told(g, |memory| view.pages(memory.freeable.victim_pages)),
    },
    Column {
        name: "demotable",
        usual: false,
        help: "of this, pages that a farther tier has room for",
        cell: |g, view| told(g, |memory| view.pages(memory.freeable.demotable_pages)),
    },
    Column {
        name: "emulated",
        usual: false,
        help: "whether a link of it is emulated",
        cell: |g, _| told(g, |memory| Text::word(yes(memory.emulated))),
    },
    Column {
        name: "trace",
        usual: false,
        help: "where its page trace is being recorded",
        cell: |g, _| {
            let trace = g.memory.as_ref().and_then(|memory| memory.trace.as_ref());
            Text::word(trace.map_or("-", |trace| &trace.path))
        },
    },
    Column {
        name: "task",
        usual: false,
        help: "the reclaim under way, or the last one",
        cell: |g, _| {
            let memory = g.memory.as_ref();
            Text::word(task::in_words(
                memory.and_then(|memory| memory.task.as_ref()),
            ))
        },
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

/// What is told of a guest's part of the tiers, or a dash where the daemon does not tell.
fn told(guest: &Guest, cell: impl FnOnce(&GuestMemory) -> Text) -> Text {
    guest
        .memory
        .as_ref()
        .map_or_else(|| Text::number("-"), cell)
}

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
    table::print_properties(COLUMNS, &guest, view, out)?;
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
