// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmemctl status`.

use std::io::Write;

use tmem_admin_api::{DaemonState, Health, Status, path};

use crate::client::Client;
use crate::table::{self, Text, View};
use crate::{Error, daemon, exit, format, tier};

/// Shows the daemon as a whole. Returns [`exit::DEGRADED`] if it is that.
pub(crate) fn show(client: &Client, view: View, out: &mut dyn Write) -> Result<u8, Error> {
    let answer = client.get::<Status>(path::STATUS)?;
    if view.json {
        table::print_json(&answer.text, out)?;
    } else {
        print(&answer.value, view, out)?;
    }
    Ok(match answer.value.health {
        Health::Ok => exit::OK,
        Health::Degraded => exit::DEGRADED,
    })
}

fn print(status: &Status, view: View, out: &mut dyn Write) -> Result<(), Error> {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: Text| lines.push(vec![Text::word(name), value]);
    line("version", Text::word(&status.version));
    line("up", Text::word(format::uptime(status.uptime_seconds)));
    let health = Text::word(status.health.as_str());
    line(
        "health",
        match status.health {
            Health::Ok => health.good(),
            Health::Degraded => health.bad(),
        },
    );
    for reason in &status.reasons {
        line("", Text::word(reason));
    }
    // A daemon that has failed knows neither guests nor pages.
    let known = status.daemon.state != DaemonState::Failed;
    if known {
        let guests = format!("{}, {} connected", status.guests, status.connected);
        line("guests", Text::word(guests));
    }
    if let Some(promises) = status.promises.filter(|_| known) {
        let mut told = format!(
            "{} to guests; the tiers hold {}",
            view.pages(promises.promised_pages).plain(),
            view.pages(promises.capacity_pages).plain()
        );
        if promises.overcommit {
            told.push_str("; overcommit is allowed");
        }
        line("promised", Text::word(told));
    }
    if status.emulated {
        line(
            "emulated",
            Text::word("yes: no figure is the hardware's own"),
        );
    }
    table::print(None, lines, &[], view, out)?;

    let heading =
        |out: &mut dyn Write, text: &str| writeln!(out, "\n{text}").map_err(Error::Output);
    heading(out, "Daemon")?;
    let mut lines = daemon::summary(&status.daemon, view);
    for line in &mut lines {
        line[0].indent();
    }
    table::print(None, lines, &[], view, out)?;
    if !known {
        return Ok(());
    }

    heading(out, "Tiers")?;
    let tiers = status.tiers.iter().map(|tier| {
        vec![
            Text::word(format!("  {}", tier.name.as_str())),
            view.size(tier.used_bytes),
            Text::word("of"),
            view.size(tier.capacity_bytes),
            Text::word(tier.kind.as_str().replace('_', "-")),
            tier::state(tier),
            Text::word(if tier.emulated { "emulated" } else { "" }),
        ]
    });
    table::print(None, tiers.collect(), &[], view, out)?;

    heading(out, "Pages")?;
    let pages = &status.pages;
    let counted = |name: &str, count: u64, what: &str| {
        vec![
            Text::word(format!("  {name}")),
            Text::count(count),
            Text::word(what),
        ]
    };
    let lines = vec![
        counted("in frames", pages.frames, "4096 bytes each"),
        counted("in the PM file", pages.pm, ""),
        counted("remote", pages.remote, ""),
        counted("same-filled", pages.same_filled, "in the index alone"),
        counted("held", pages.held, ""),
    ];
    table::print(None, lines, &[], view, out)?;

    heading(out, "Memory")?;
    let memory = &status.memory;
    let sized = |name: &str, bytes: u64, what: &str| {
        vec![
            Text::word(format!("  {name}")),
            view.size(bytes),
            Text::word(what),
        ]
    };
    let lines = vec![
        sized(
            "frames",
            memory.frames_bytes,
            "hold pages, or copies of pages that are farther away",
        ),
        sized(
            "idle frames",
            memory.idle_frames_bytes,
            "used once, wait for the next put",
        ),
        sized("frame table", memory.frame_table_bytes, ""),
        sized("index", memory.index_bytes, ""),
        sized(
            "guest RAM",
            memory.guest_ram_bytes,
            "the guests' own, shared with the daemon",
        ),
        sized("other", memory.other_bytes, "program, stacks, buffers"),
        sized("resident", memory.resident_bytes, "the sum"),
        sized("peak", memory.peak_resident_bytes, "the most ever resident"),
    ];
    table::print(None, lines, &[], view, out)
}
