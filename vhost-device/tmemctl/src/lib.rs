// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmemctl`: the host administrator's view of a virtio-tmem daemon.
//!
//! It speaks the admin API and knows nothing else of the daemon: [`tmem_admin_api`] is the only
//! crate of this project that it depends on.
//!
//! ```text
//! args (clap) ── run ── one module a noun ── client ── Unix socket ── daemon
//!                          status, daemon, guest, balloon, pool, tier, store, link, stats, …
//!                            │
//!                          table, format ── stdout          error ── stderr, exit code
//! ```
//!
//! Data goes to stdout, all else to stderr. [`run`] is given both, so that tests drive the whole
//! program in process. [`manual`] writes man pages and completions from the same definition that
//! parses the command line.

pub mod args;
mod balloon;
mod changes;
mod client;
mod daemon;
mod error;
mod format;
mod guest;
mod link;
pub mod manual;
mod operation;
mod pool;
mod quota;
mod stats;
mod status;
mod store;
mod table;
mod task;
mod tier;
mod tier_stats;
mod top;

use std::io::{self, Write};

use clap::CommandFactory;

use args::{Cli, DaemonVerb, GuestVerb, PoolVerb, StoreVerb, TierVerb, Verb};
use client::Client;
pub use error::{Error, exit};
use operation::Waiting;
use table::View;
use tmem_admin_api::DaemonOperation;

/// What the outputs are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terminal {
    /// Stdout is a terminal, and its user has nothing against colours.
    pub colours: bool,
    /// Stderr is a terminal, on which progress is drawn over.
    pub progress: bool,
}

/// Does what `cli` asks for, writing data to `out` and errors and progress to `err`.
///
/// Returns the exit code, one of [`exit`].
pub fn run(cli: &Cli, out: &mut dyn Write, err: &mut dyn Write, terminal: Terminal) -> u8 {
    let result = dispatch(cli, out, err, terminal).and_then(|code| {
        out.flush().map_err(Error::Output)?;
        Ok(code)
    });
    match result {
        Ok(code) => code,
        // Whoever read our output has seen enough, as in `tmemctl pool list | head`.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => exit::OK,
        Err(error) => {
            // With stderr gone too there is nobody left to tell.
            let _ = error.report(err, cli.json);
            error.exit_code()
        }
    }
}

fn dispatch(
    cli: &Cli,
    out: &mut dyn Write,
    err: &mut dyn Write,
    terminal: Terminal,
) -> Result<u8, Error> {
    let view = View {
        json: cli.json,
        bytes: cli.bytes,
        colours: terminal.colours,
        progress: terminal.progress,
    };
    let client = || Client::new(&cli.socket);
    match &cli.verb {
        Verb::Status => return status::show(&client()?, view, out),
        Verb::Daemon(verb) => return on_daemon(verb, &client()?, view, out, err),
        Verb::Guest(verb) => return on_guest(verb, &client()?, view, out, err),
        Verb::Tier(verb) => return on_tier(verb, &client()?, view, out, err),
        Verb::Store(verb) => return on_store(verb, &client()?, view, out, err),
        Verb::Balloon(verb) => return balloon::run(&client()?, verb, view, out, err),
        Verb::Top(args) => top::run(&client()?, args, view, out)?,
        Verb::Policy(verb) => quota::policy(&client()?, verb, view, out)?,
        Verb::Link(verb) => link::run(&client()?, verb, view, out)?,
        Verb::Trace(verb) => quota::trace(&client()?, verb, view, out)?,
        Verb::Pool(PoolVerb::List(list)) => pool::list(&client()?, list, view, out)?,
        Verb::Stats(stats) => stats::show(&client()?, stats, view, out)?,
        Verb::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "tmemctl", out);
        }
        Verb::Manual { directory } => {
            for path in manual::write(Cli::command(), directory)? {
                writeln!(out, "{}", path.display()).map_err(Error::Output)?;
            }
        }
    }
    Ok(exit::OK)
}

fn on_guest(
    verb: &GuestVerb,
    client: &Client,
    view: View,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<u8, Error> {
    match verb {
        GuestVerb::List(table) => guest::list(client, table, view, out)?,
        GuestVerb::Show { name } => guest::show(client, name, view, out)?,
        GuestVerb::Limit(limits) => quota::limit(client, limits, view, out)?,
        GuestVerb::Freeze { name } => quota::freeze(client, name, view, out)?,
        GuestVerb::Thaw { name } => quota::thaw(client, name, view, out)?,
        GuestVerb::Reclaim(args) => {
            let begun = quota::reclaim(client, args)?;
            return task::follow(client, begun, args.wait, view, out, err);
        }
    }
    Ok(exit::OK)
}

fn on_store(
    verb: &StoreVerb,
    client: &Client,
    view: View,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<u8, Error> {
    let (begun, wait) = match verb {
        StoreVerb::List(table) => return store::list(client, table, view, out),
        StoreVerb::Show { name } => return store::show(client, name, view, out),
        StoreVerb::Add {
            address,
            label,
            domain,
        } => {
            store::add(client, address, (label.clone(), domain.clone()), view, out)?;
            return Ok(exit::OK);
        }
        StoreVerb::Remove { name, force } => {
            store::remove(client, name, *force, view, out)?;
            return Ok(exit::OK);
        }
        StoreVerb::Undrain { name } => {
            store::undrain(client, name, view, out)?;
            return Ok(exit::OK);
        }
        StoreVerb::Drain { name, wait } => (store::drain(client, name)?, wait),
        StoreVerb::Repair { wait } => (store::repair(client)?, wait),
    };
    task::follow(client, begun, *wait, view, out, err)
}

fn on_tier(
    verb: &TierVerb,
    client: &Client,
    view: View,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<u8, Error> {
    let (begun, wait) = match verb {
        TierVerb::List(table) => {
            tier::list(client, table, view, out)?;
            return Ok(exit::OK);
        }
        TierVerb::Show { name } => {
            tier::show(client, *name, view, out)?;
            return Ok(exit::OK);
        }
        TierVerb::Stats(args) => {
            tier_stats::show(client, args, view, out)?;
            return Ok(exit::OK);
        }
        TierVerb::Undrain { name } => {
            tier::undrain(client, *name, view, out)?;
            return Ok(exit::OK);
        }
        TierVerb::Watermarks(marks) => {
            tier::watermarks(client, *marks, view, out)?;
            return Ok(exit::OK);
        }
        TierVerb::Resize { name, pages, wait } => (tier::resize(client, *name, *pages)?, wait),
        TierVerb::Drain { name, wait } => (tier::drain(client, *name)?, wait),
    };
    task::follow(client, begun, *wait, view, out, err)
}

fn on_daemon(
    verb: &DaemonVerb,
    client: &Client,
    view: View,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<u8, Error> {
    let (operation, wait) = match verb {
        DaemonVerb::Show => return daemon::show(client, view, out),
        DaemonVerb::Upgrade { binary, wait } => {
            let binary = binary.clone();
            (DaemonOperation::Upgrade { binary }, wait)
        }
        DaemonVerb::Restart { wait } => (DaemonOperation::Restart, wait),
    };
    Waiting::begin(client, &operation, *wait)?.end(view, out, err)
}
