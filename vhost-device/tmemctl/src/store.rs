// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmemctl store`.

use std::io::Write;
use std::net::{IpAddr, ToSocketAddrs};

use tmem_admin_api::{
    Replication, Store, StoreAddRequest, StoreDetail, StoreList, StoreRemoveRequest, StoreState,
    path,
};

use crate::args::StoreListArgs;
use crate::client::{Client, escape};
use crate::table::{self, Column, Layout, Text, View};
use crate::{Error, exit, task};

/// Columns of `store list`, and lines of `store show`.
pub(crate) const COLUMNS: &[Column<Store>] = &[
    Column {
        name: "name",
        usual: true,
        help: "what it goes by: its label, or else its address",
        cell: |s, _| Text::word(&s.name),
    },
    Column {
        name: "address",
        usual: true,
        help: "where it listens",
        cell: |s, _| Text::word(&s.address),
    },
    Column {
        name: "state",
        usual: true,
        help: "joining, up, suspect, dead, draining or drained",
        cell: |s, _| state(s),
    },
    Column {
        name: "copies",
        usual: true,
        help: "copies of this daemon's pages on it",
        cell: |s, _| Text::count(s.copies),
    },
    Column {
        name: "used",
        usual: true,
        help: "what this daemon has of it",
        cell: |s, view| view.pages(s.used_pages),
    },
    Column {
        name: "quota",
        usual: true,
        help: "what this daemon may have of it",
        cell: |s, view| view.pages(s.quota_pages),
    },
    Column {
        name: "free",
        usual: true,
        help: "what is free of it, for all of its clients",
        cell: |s, view| view.pages(s.free_pages),
    },
    Column {
        name: "heard",
        usual: true,
        help: "since when nothing was heard of it",
        cell: |s, view| match s.heard_ms {
            Some(ms) => view.time(ms.saturating_mul(1_000_000)),
            None => Text::number("-"),
        },
    },
    Column {
        name: "rtt-p50",
        usual: true,
        help: "median of the time that a request took, lately",
        cell: |s, view| view.time(s.rtt_p50_ns),
    },
    Column {
        name: "rtt-p99",
        usual: true,
        help: "99 of 100 requests took no longer",
        cell: |s, view| view.time(s.rtt_p99_ns),
    },
    Column {
        name: "errors",
        usual: true,
        help: "requests to it that failed",
        cell: |s, _| Text::trouble(s.errors),
    },
    Column {
        name: "kind",
        usual: false,
        help: "store: behind a socket; disk: a file of this host",
        cell: |s, _| Text::word(s.kind.as_str()),
    },
    Column {
        name: "origin",
        usual: false,
        help: "from where it is known: config, admin or etcd",
        cell: |s, _| Text::word(s.origin.as_str()),
    },
    Column {
        name: "capacity",
        usual: false,
        help: "what fits into it, for all of its clients",
        cell: |s, view| view.pages(s.capacity_pages),
    },
    Column {
        name: "connected",
        usual: false,
        help: "whether it is connected",
        cell: |s, _| Text::word(crate::tier::yes(s.connected)),
    },
    Column {
        name: "reads",
        usual: false,
        help: "pages read from it",
        cell: |s, _| Text::count(s.reads),
    },
    Column {
        name: "writes",
        usual: false,
        help: "pages written to it",
        cell: |s, _| Text::count(s.writes),
    },
    Column {
        name: "flushes",
        usual: false,
        help: "pages that it was told to forget",
        cell: |s, _| Text::count(s.flushes),
    },
    Column {
        name: "number",
        usual: false,
        help: "its number among this daemon's stores",
        cell: |s, _| Text::count(s.number),
    },
    Column {
        name: "id",
        usual: false,
        help: "the number that it gave itself",
        cell: |s, _| Text::word(s.id.as_deref().unwrap_or("-")),
    },
    Column {
        name: "last-error",
        usual: false,
        help: "what was last wrong with it",
        cell: |s, _| Text::word(s.error.as_deref().unwrap_or("-")),
    },
    Column {
        name: "task",
        usual: false,
        help: "the drain under way, or the last one",
        cell: |s, _| Text::word(task::in_words(s.task.as_ref())),
    },
];

fn state(store: &Store) -> Text {
    let word = Text::word(store.state.as_str());
    match store.state {
        StoreState::Up => word.good(),
        StoreState::Joining | StoreState::Draining | StoreState::Drained => word,
        StoreState::Suspect | StoreState::Dead => word.bad(),
    }
}

fn store_path(name: &str, action: &str) -> String {
    format!("{}/{}{action}", path::STORES, escape(name))
}

/// All stores, a line each, and how pages are kept on them. Returns [`exit::DEGRADED`] if anything is
/// wrong with either.
pub(crate) fn list(
    client: &Client,
    args: &StoreListArgs,
    view: View,
    out: &mut dyn Write,
) -> Result<u8, Error> {
    let answer = client.get::<StoreList>(path::STORES)?;
    let list = &answer.value;
    let mut reasons = list.replication.reasons();
    reasons.extend(list.stores.iter().filter_map(Store::reason));
    if view.json {
        table::print_json(&answer.text, out)?;
    } else {
        let layout = Layout::choose(COLUMNS, &args.columns);
        layout.print(&list.stores, !args.no_headers, view, out)?;
        if args.columns.is_empty() && !args.no_headers {
            writeln!(out, "\nPages").map_err(Error::Output)?;
            print_replication(&list.replication, &reasons, view, out)?;
        }
    }
    Ok(degraded(!reasons.is_empty()))
}

fn print_replication(
    replication: &Replication,
    reasons: &[String],
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: Text, what: String| {
        lines.push(vec![
            Text::word(format!("  {name}")),
            value,
            Text::word(what),
        ]);
    };
    let r = replication;
    line(
        "on stores",
        Text::count(r.pages),
        format!(
            "{} {} each, {} acknowledged",
            r.replicas,
            if r.replicas == 1 { "copy" } else { "copies" },
            r.ack.as_str(),
        ),
    );
    let fewer = format!("with fewer than {}", r.replicas);
    line("too few copies", Text::trouble(r.below_pages), fewer);
    let lost = "with no copy left".to_owned();
    line("lost", Text::trouble(r.lost_pages), lost);
    let held = "kept on this host until all copies are acknowledged".to_owned();
    line("held", Text::count(r.held_pages), held);
    let rate = |bytes| view.size(bytes);
    let now = format!(
        "copied anew; {}/s now, {}/s at most",
        rate(r.repair_bytes_per_second).plain(),
        rate(r.repair_limit_bytes_per_second).plain()
    );
    line("repaired", Text::count(r.repaired_pages), now);
    let failed = "read from another store because the first could not".to_owned();
    line("failed over", Text::count(r.failovers), failed);
    let late = "asked of another store because the first took long".to_owned();
    line("hedged", Text::count(r.hedged), late);
    let bad = "that were not what had been written".to_owned();
    line("bad copies", Text::trouble(r.bad_copies), bad);
    table::print(None, lines, &[], view, out)?;
    for reason in reasons {
        writeln!(out, "degraded: {reason}").map_err(Error::Output)?;
    }
    Ok(())
}

const fn degraded(is: bool) -> u8 {
    if is { exit::DEGRADED } else { exit::OK }
}

/// One store, a property a line. Returns [`exit::DEGRADED`] if anything is wrong with it.
pub(crate) fn show(
    client: &Client,
    name: &str,
    view: View,
    out: &mut dyn Write,
) -> Result<u8, Error> {
    let answer = client.get::<StoreDetail>(&store_path(name, ""))?;
    let store = &answer.value.store;
    if view.json {
        table::print_json(&answer.text, out)?;
    } else {
        table::print_properties(COLUMNS, store, view, out)?;
    }
    Ok(degraded(store.reason().is_some()))
}

/// Adds a store, with a label and a domain.
pub(crate) fn add(
    client: &Client,
    address: &str,
    (label, domain): (Option<String>, Option<String>),
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let request = StoreAddRequest {
        address: looked_up(address)?,
        label,
        domain,
    };
    let answer = client.change::<StoreDetail>(path::STORES, &request)?;
    if view.json {
        return table::print_json(&answer.text, out);
    }
    let name = &answer.value.store.name;
    writeln!(out, "store {name} is added; pages go there once it is up").map_err(Error::Output)
}

/// The daemon cannot look a name up, so that is done here; its certificate still has the name.
fn looked_up(address: &str) -> Result<String, Error> {
    if address.starts_with("unix:") || address.contains('@') {
        return Ok(address.to_owned());
    }
    let Some((host, port)) = address.rsplit_once(':') else {
        // The daemon says what is wrong with it.
        return Ok(address.to_owned());
    };
    if host.starts_with('[') || host.parse::<IpAddr>().is_ok() {
        return Ok(address.to_owned());
    }
    let unknown = |source| Error::Host {
        name: host.to_owned(),
        source,
    };
    let mut found = address.to_socket_addrs().map_err(unknown)?;
    let first = found.next().map(|found| found.ip());
    match first {
        Some(IpAddr::V4(ip)) => Ok(format!("{host}@{ip}:{port}")),
        Some(IpAddr::V6(ip)) => Ok(format!("{host}@[{ip}]:{port}")),
        None => Err(unknown(std::io::ErrorKind::NotFound.into())),
    }
}

/// Removes a store.
pub(crate) fn remove(
    client: &Client,
    name: &str,
    force: bool,
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let path = store_path(name, "/remove");
    let answer = client.change::<StoreDetail>(&path, &StoreRemoveRequest { force })?;
    if view.json {
        return table::print_json(&answer.text, out);
    }
    let name = &answer.value.store.name;
    writeln!(out, "store {name} is removed").map_err(Error::Output)
}

/// Begins a drain.
pub(crate) fn drain(client: &Client, name: &str) -> Result<task::Begun, Error> {
    client.begin(&store_path(name, "/drain"), &())
}

/// Uses a store again.
pub(crate) fn undrain(
    client: &Client,
    name: &str,
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let answer = client.change::<StoreDetail>(&store_path(name, "/undrain"), &())?;
    if view.json {
        return table::print_json(&answer.text, out);
    }
    let name = &answer.value.store.name;
    writeln!(out, "store {name} takes pages again").map_err(Error::Output)
}

/// Begins a repair.
pub(crate) fn repair(client: &Client) -> Result<task::Begun, Error> {
    client.begin(&format!("{}/repair", path::STORES), &())
}

#[cfg(test)]
mod tests {
    use super::looked_up;

    #[test]
    fn only_names_are_looked_up() {
        for address in [
            "10.0.0.1:7440",
            "[::1]:7440",
            "a@10.0.0.1:1",
            "unix:/s",
            "what",
        ] {
            assert_eq!(looked_up(address).unwrap(), address);
        }
        let here = looked_up("localhost:7").unwrap();
        assert!(
            here.starts_with("localhost@") && here.ends_with(":7"),
            "{here}"
        );
        assert!(looked_up("no-such-host.invalid:7").is_err());
    }
}
