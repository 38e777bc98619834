// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The daemon's processes: `tmemctl daemon show`, and the part of `tmemctl status` about them.

use std::io::Write;

use tmem_admin_api::{
    DaemonDetail, DaemonState, DaemonStatus, OperationStatus, ProcessStatus, SandboxLayer, path,
};

use crate::client::Client;
use crate::table::{self, Text, View};
use crate::{Error, exit, format};

/// A property and its value.
type Line = Vec<Text>;

/// Shows the processes in detail. Returns [`exit::DEGRADED`] if no guest is served.
pub(crate) fn show(client: &Client, view: View, out: &mut dyn Write) -> Result<u8, Error> {
    let answer = client.get::<DaemonDetail>(path::DAEMON)?;
    let daemon = &answer.value.daemon;
    if view.json {
        table::print_json(&answer.text, out)?;
    } else {
        print(daemon, view, out)?;
    }
    Ok(if daemon.reasons().is_empty() {
        exit::OK
    } else {
        exit::DEGRADED
    })
}

fn print(daemon: &DaemonStatus, view: View, out: &mut dyn Write) -> Result<(), Error> {
    let mut lines = state_lines(daemon, &daemon.reasons());
    lines.extend(history(daemon, view));
    if let Some(operation) = &daemon.operation {
        lines.push(line("operation", operation_in_words(operation)));
    }
    table::print(None, lines, &[], view, out)?;

    let processes: Vec<_> = processes(daemon).collect();
    if processes.is_empty() {
        return Ok(());
    }
    writeln!(out).map_err(Error::Output)?;
    let head = ["PROCESS", "PID", "VERSION", "UP"].map(Text::word);
    let rows = processes.iter().map(|&(role, process)| {
        vec![
            Text::word(role),
            Text::count(process.pid).left(),
            Text::word(&process.version),
            Text::word(age(daemon, process.started_unix_ms)),
        ]
    });
    table::print(Some(head.into()), rows.collect(), &[], view, out)?;

    let layers = processes.iter().flat_map(|&(role, process)| {
        if process.sandbox.is_empty() {
            return vec![line(role, "none")];
        }
        let layers = process.sandbox.iter();
        layers.map(|layer| layer_line(role, layer)).collect()
    });
    writeln!(out).map_err(Error::Output)?;
    let head = ["PROCESS", "SANDBOX", "IS", "BECAUSE"].map(Text::word);
    table::print(Some(head.into()), layers.collect(), &[], view, out)
}

/// What `tmemctl status` tells of the processes, a property a line. It gives the reasons elsewhere.
pub(crate) fn summary(daemon: &DaemonStatus, view: View) -> Vec<Line> {
    let mut lines = state_lines(daemon, &[]);
    for (role, process) in processes(daemon) {
        let up = age(daemon, process.started_unix_ms);
        let told = format!("pid {}, version {}, up {up}", process.pid, process.version);
        lines.push(line(role, told));
    }
    lines.extend(history(daemon, view));
    let mut name = "sandbox";
    for (role, process) in processes(daemon) {
        lines.push(line(
            name,
            format!("{role}: {}", layers_on(&process.sandbox)),
        ));
        name = "";
        for layer in process.sandbox.iter().filter(|layer| !layer.on) {
            let because = layer.reason.as_deref().unwrap_or("no reason is given");
            lines.push(line("", format!("{role}, {} off: {because}", layer.name)));
        }
    }
    lines
}

fn line(name: &str, value: impl Into<String>) -> Line {
    vec![Text::word(name), Text::word(value)]
}

/// Whether guests are served; and if not, for which reasons, and what to do.
fn state_lines(daemon: &DaemonStatus, reasons: &[String]) -> Vec<Line> {
    let word = Text::word(daemon.state.as_str());
    let word = match daemon.state {
        DaemonState::Running => word.good(),
        DaemonState::Recovering | DaemonState::Failed => word.bad(),
    };
    let mut lines = vec![vec![Text::word("state"), word]];
    lines.extend(reasons.iter().map(|reason| line("", reason)));
    if daemon.state == DaemonState::Failed {
        lines.push(line("next", DaemonStatus::FAILED_HINT));
    }
    if daemon.keeper.is_none() {
        lines.push(line("keeper", "none: the daemon runs as one process"));
    }
    lines
}

/// How one worker followed another. Nothing of a daemon that cannot replace its worker.
fn history(daemon: &DaemonStatus, view: View) -> Vec<Line> {
    if daemon.keeper.is_none() {
        return Vec::new();
    }
    let restarts = match daemon.restarts_total() {
        0 => "0".into(),
        total => {
            let causes = daemon.restarts.iter().filter(|&(_, &times)| times != 0);
            let causes: Vec<_> = causes
                .map(|(cause, times)| format!("{} {times}", cause.as_str()))
                .collect();
            format!("{total}: {}", causes.join(", "))
        }
    };
    let mut lines = vec![line("restarts", restarts)];
    if let Some(end) = &daemon.last_end {
        let told = format!(
            "{}, {} ago; pid {}, version {}",
            end.told(),
            age(daemon, end.at_unix_ms),
            end.pid,
            end.version
        );
        lines.push(line("last end", told));
    }
    if let Some(recovery) = daemon.last_recovery {
        let told = format!(
            "{} pages in {}",
            recovery.pages,
            milliseconds(recovery.took_ms, view)
        );
        lines.push(line("recovery", told));
    }
    lines.push(line("upgrades", daemon.upgrades.to_string()));
    if let Some(last) = daemon.last_pause_ms {
        let longest = daemon.longest_pause_ms.unwrap_or(last);
        let told = format!(
            "{} the last time, {} at most",
            milliseconds(last, view),
            milliseconds(longest, view)
        );
        lines.push(line("pause", told));
    }
    lines
}

fn processes(daemon: &DaemonStatus) -> impl Iterator<Item = (&'static str, &ProcessStatus)> {
    let keeper = daemon.keeper.iter().map(|process| ("keeper", process));
    let role = match daemon.state {
        DaemonState::Failed => "caretaker",
        DaemonState::Running | DaemonState::Recovering => "worker",
    };
    let worker = daemon.worker.iter().map(move |process| (role, process));
    keeper.chain(worker)
}

fn layer_line(role: &str, layer: &SandboxLayer) -> Line {
    let is = match (layer.on, &layer.reason) {
        (true, None) => Text::word("on").good(),
        (true, Some(_)) => Text::word("partly"),
        (false, _) => Text::word("off"),
    };
    let because = layer.reason.as_deref().unwrap_or_default();
    vec![
        Text::word(role),
        Text::word(&layer.name),
        is,
        Text::word(because),
    ]
}

/// `identity, landlock (partly), seccomp`.
fn layers_on(layers: &[SandboxLayer]) -> String {
    let on = layers.iter().filter(|layer| layer.on);
    let on = on.map(|layer| match layer.reason {
        Some(_) => format!("{} (partly)", layer.name),
        None => layer.name.clone(),
    });
    let on: Vec<_> = on.collect();
    if on.is_empty() {
        "none".into()
    } else {
        on.join(", ")
    }
}

fn operation_in_words(operation: &OperationStatus) -> String {
    let mut told = format!(
        "{} {} {}",
        operation.kind.as_str(),
        operation.id,
        operation.state.as_str().replace('_', " ")
    );
    if let (Some(old), Some(new)) = (&operation.old_version, &operation.new_version) {
        told.push_str(&format!(", {old} to {new}"));
    }
    if let Some(reason) = &operation.reason {
        told.push_str(&format!(": {reason}"));
    }
    told
}

/// From `then` to when the daemon answered.
fn age(daemon: &DaemonStatus, then_unix_ms: u64) -> String {
    format::uptime(daemon.now_unix_ms.saturating_sub(then_unix_ms) / 1000)
}

fn milliseconds(ms: u64, view: View) -> String {
    if view.bytes {
        ms.saturating_mul(1_000_000).to_string()
    } else {
        format!("{ms} ms")
    }
}
