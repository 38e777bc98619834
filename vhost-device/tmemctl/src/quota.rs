// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is done to a guest: limits, freezing, reclaim, policy, page trace.

use std::io::Write;

use tmem_admin_api::{
    Guest, GuestDetail, LimitsRequest, PolicyList, PolicyRequest, ReclaimRequest, TraceDetail,
    TraceRequest, path,
};

use crate::args::{LimitArgs, PolicyVerb, ReclaimArgs, TraceVerb};
use crate::client::{Client, guest_path};
use crate::table::{self, Text, View};
use crate::{Error, task};

fn action(name: &str, action: &str) -> String {
    format!("{}/{action}", guest_path(name))
}

/// Posts `body`, and tells about the guest as it is then.
fn change(
    client: &Client,
    path: &str,
    body: &impl serde::Serialize,
    view: View,
    out: &mut dyn Write,
    told: impl FnOnce(&Guest) -> String,
) -> Result<(), Error> {
    let answer = client.change::<GuestDetail>(path, body)?;
    if view.json {
        return table::print_json(&answer.text, out);
    }
    writeln!(out, "{}", told(&answer.value.guest)).map_err(Error::Output)
}

/// Sets what a guest may have.
pub(crate) fn limit(
    client: &Client,
    args: &LimitArgs,
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let limits = LimitsRequest {
        grant_pages: args.what.grant,
        dram_cap_pages: args.what.dram_cap,
        weight: args.what.weight,
        floor_pages: args.what.floor,
    };
    let path = action(&args.name, "limits");
    change(client, &path, &limits, view, out, |guest| {
        let memory = guest.memory.clone().unwrap_or_default();
        let size = |pages| view.pages(pages).plain().to_owned();
        let cap = memory.dram_cap_pages.map_or_else(|| "none".into(), size);
        format!(
            "guest {}: grant {}, dram cap {cap}, weight {}, floor {}",
            guest.name,
            size(guest.grant_pages),
            memory.weight,
            size(memory.floor_pages),
        )
    })
}

/// Refuses a guest's puts.
pub(crate) fn freeze(
    client: &Client,
    name: &str,
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    change(client, &action(name, "freeze"), &(), view, out, |guest| {
        let name = &guest.name;
        format!("guest {name} is frozen: its puts are refused, its gets and flushes work")
    })
}

/// Takes a guest's puts again.
pub(crate) fn thaw(
    client: &Client,
    name: &str,
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    change(client, &action(name, "thaw"), &(), view, out, |guest| {
        format!("guest {} is thawed", guest.name)
    })
}

/// Begins a reclaim.
pub(crate) fn reclaim(client: &Client, args: &ReclaimArgs) -> Result<task::Begun, Error> {
    let body = ReclaimRequest { pages: args.pages };
    client.begin(&action(&args.name, "reclaim"), &body)
}

/// Lists policies, or gives a guest one.
pub(crate) fn policy(
    client: &Client,
    verb: &PolicyVerb,
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let (guest, policy, seed) = match verb {
        PolicyVerb::List => return policies(client, view, out),
        PolicyVerb::Set {
            guest,
            policy,
            seed,
        } => (guest, policy.clone(), *seed),
    };
    let body = PolicyRequest { policy, seed };
    change(
        client,
        &action(guest, "policy"),
        &body,
        view,
        out,
        |guest| {
            let memory = guest.memory.clone().unwrap_or_default();
            let seed = memory.policy_seed.map(|seed| format!(", seed {seed}"));
            let (name, policy) = (&guest.name, &memory.policy);
            format!(
                "guest {name} has policy {policy}{}",
                seed.unwrap_or_default()
            )
        },
    )
}

fn policies(client: &Client, view: View, out: &mut dyn Write) -> Result<(), Error> {
    let answer = client.get::<PolicyList>(path::POLICIES)?;
    if view.json {
        return table::print_json(&answer.text, out);
    }
    let head = ["POLICY", "GUESTS", "SEED", "ABOUT"].map(Text::word);
    let rows = answer.value.policies.iter().map(|policy| {
        let guests = match &*policy.guests {
            [] => "-".into(),
            guests => guests.join(", "),
        };
        vec![
            Text::word(&policy.name),
            Text::word(guests),
            Text::word(if policy.seeded { "takes one" } else { "-" }),
            Text::word(&policy.about),
        ]
    });
    table::print(Some(head.into()), rows.collect(), &[], view, out)
}

/// Begins or ends a trace.
pub(crate) fn trace(
    client: &Client,
    verb: &TraceVerb,
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let answer = match verb {
        TraceVerb::Start { guest, name } => {
            let name = name.clone();
            client.change::<TraceDetail>(&action(guest, "trace/start"), &TraceRequest { name })?
        }
        TraceVerb::Stop { guest } => client.change(&action(guest, "trace/stop"), &())?,
    };
    if view.json {
        return table::print_json(&answer.text, out);
    }
    let trace = &answer.value.trace;
    let (guest, path) = (&trace.guest, &trace.path);
    let told = match verb {
        TraceVerb::Start { .. } => format!("recording guest {guest} to {path}"),
        TraceVerb::Stop { .. } => {
            let size = view.size(trace.bytes);
            let lost = match trace.lost {
                0 => String::new(),
                lost => format!("; {lost} were lost, because the file could not keep up"),
            };
            let (records, size) = (trace.records, size.plain());
            format!("recorded guest {guest} to {path}: {records} records, {size}{lost}")
        }
    };
    writeln!(out, "{told}").map_err(Error::Output)
}
