// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmemctl link`.

use std::io::Write;

use tmem_admin_api::{
    FaultsRequest, Link, LinkClearRequest, LinkList, LinkRequest, TierName, path,
};

use crate::args::{LinkShowArgs, LinkVerb};
use crate::client::Client;
use crate::table::{self, Column, Layout, Text, View};
use crate::{Error, format};

/// Columns of `link show`.
pub(crate) const COLUMNS: &[Column<Link>] = &[
    Column {
        name: "tier",
        usual: true,
        help: "the tier at its far end",
        cell: |l, _| Text::word(l.tier.as_str()),
    },
    Column {
        name: "guest",
        usual: true,
        help: "the guest whose own it is; a dash: that of all others",
        cell: |l, _| Text::word(l.guest.as_deref().unwrap_or("-")),
    },
    Column {
        name: "direction",
        usual: true,
        help: "in: from the tier to DRAM; out: from DRAM to the tier",
        cell: |l, _| Text::word(l.direction.as_str()),
    },
    Column {
        name: "settings",
        usual: true,
        help: "what it is set to; a dash: nothing is emulated",
        cell: |l, _| words(&l.text),
    },
    Column {
        name: "faults",
        usual: true,
        help: "what goes wrong on it",
        cell: |l, _| words(&l.faults),
    },
    Column {
        name: "latency",
        usual: false,
        help: "the latency that it is set to",
        cell: |l, view| view.time(l.latency_ns),
    },
    Column {
        name: "bandwidth",
        usual: false,
        help: "the bandwidth that it is set to",
        cell: |l, view| match l.bandwidth_bps {
            Some(bps) if view.bytes => Text::count(bps),
            Some(bps) => Text::number(format::bits_per_second(bps)),
            None => Text::number("-"),
        },
    },
    Column {
        name: "wire",
        usual: false,
        help: "whose transfers wait for each other: shared by all guests, or its own",
        cell: |l, _| Text::word(l.queue.as_str()),
    },
    Column {
        name: "floor",
        usual: true,
        help: "the lowest latency that can be emulated here",
        cell: |l, view| {
            l.floor_ns
                .map_or_else(|| Text::number("-"), |ns| view.time(ns))
        },
    },
    Column {
        name: "transfers",
        usual: true,
        help: "transfers over it",
        cell: |l, _| Text::count(l.transfers),
    },
    Column {
        name: "bytes",
        usual: false,
        help: "what was transferred over it",
        cell: |l, view| view.size(l.bytes),
    },
    Column {
        name: "wait",
        usual: true,
        help: "time that a transfer spent on it, on average",
        cell: |l, view| match l.wait_ns.checked_div(l.transfers) {
            Some(ns) => view.time(ns),
            None => Text::number("-"),
        },
    },
    Column {
        name: "error-p50",
        usual: true,
        help: "half of the transfers were no later than this behind their time",
        cell: |l, view| error(l, l.error.p50_ns, view),
    },
    Column {
        name: "error-p99",
        usual: true,
        help: "99 of 100 were no later than this",
        cell: |l, view| error(l, l.error.p99_ns, view),
    },
    Column {
        name: "overruns",
        usual: true,
        help: "transfers that were late beyond the model's tolerance",
        cell: |l, _| Text::trouble(l.overruns),
    },
    Column {
        name: "early",
        usual: false,
        help: "transfers that ended too early",
        cell: |l, _| Text::trouble(l.early),
    },
    Column {
        name: "faulted",
        usual: true,
        help: "transfers that were made to go wrong",
        cell: |l, _| Text::count(l.faulted.values().sum::<u64>()),
    },
];

/// What a link is set to, or a dash.
fn words(text: &str) -> Text {
    Text::word(if text.is_empty() { "-" } else { text })
}

/// How late transfers were, or a dash where there was none.
fn error(link: &Link, ns: u64, view: View) -> Text {
    if link.error.count == 0 {
        Text::number("-")
    } else {
        view.time(ns)
    }
}

/// Does what `verb` says, and shows the links that it concerned.
pub(crate) fn run(
    client: &Client,
    verb: &LinkVerb,
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let usual = LinkShowArgs {
        no_headers: false,
        columns: ["tier", "guest", "direction", "settings", "faults"]
            .map(String::from)
            .into(),
    };
    let action = |action: &str| format!("{}/{action}", path::LINKS);
    let (answer, show) = match verb {
        LinkVerb::Show(args) => (client.get::<LinkList>(path::LINKS)?, args),
        LinkVerb::Set { ends, words } => {
            let (tier, text) = split(words)?;
            if tier.is_none() && ends.guest.is_none() {
                return Err(Error::Usage(
                    "name a tier before the settings, or a guest with --guest".into(),
                ));
            }
            let body = LinkRequest {
                tier,
                guest: ends.guest.clone(),
                direction: ends.direction.into(),
                text,
            };
            (client.change(&action("set"), &body)?, &usual)
        }
        LinkVerb::Clear { tier, ends } => {
            let body = LinkClearRequest {
                tier: *tier,
                guest: ends.guest.clone(),
                direction: ends.direction.into(),
            };
            (client.change(&action("clear"), &body)?, &usual)
        }
        LinkVerb::Fault {
            tier, ends, words, ..
        } => {
            let body = FaultsRequest {
                tier: *tier,
                guest: ends.guest.clone(),
                direction: ends.direction.into(),
                text: words.join(" "),
            };
            (client.change(&action("faults"), &body)?, &usual)
        }
    };
    if view.json {
        return table::print_json(&answer.text, out);
    }
    let layout = Layout::choose(COLUMNS, &show.columns);
    layout.print(&answer.value.links, !show.no_headers, view, out)
}

/// The tier, if the first word is one, and the settings.
fn split(words: &[String]) -> Result<(Option<TierName>, String), Error> {
    let (first, rest) = words.split_first().map_or(("", words), |(f, r)| (f, r));
    if first.contains('=') {
        return Ok((None, words.join(" ")));
    }
    let Some(tier) = TierName::from_word(first) else {
        let known: Vec<_> = TierName::ALL.iter().map(|tier| tier.as_str()).collect();
        let known = known.join(", ");
        return Err(Error::Usage(format!(
            "{first:?} is neither a tier ({known}) nor a setting, such as latency=5us"
        )));
    };
    if rest.is_empty() {
        let text = "what is the link to be set to? To end its emulation use `tmemctl link clear`";
        return Err(Error::Usage(text.into()));
    }
    Ok((Some(tier), rest.join(" ")))
}
