// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmemctl`: the host administrator's view of a virtio-tmem daemon.
//!
//! It speaks the admin API and knows nothing else of the daemon: [`tmem_admin_api`] is the only
//! crate of this project that it depends on.
//!
//! ```text
//! args (clap) ── run ── one module a noun ── client ── Unix socket ── daemon
//!                          status, daemon, guest, pool, stats
//!                            │
//!                          table, format ── stdout          error ── stderr, exit code
//! ```
//!
//! Data goes to stdout, all else to stderr. [`run`] is given both, so that tests drive the whole
//! program in process. [`manual`] writes man pages and completions from the same definition that
//! parses the command line.

pub mod args;
mod client;
mod daemon;
mod error;
mod format;
mod guest;
pub mod manual;
mod operation;
mod pool;
mod stats;
mod status;
mod table;

use std::io::{self, Write};

use clap::CommandFactory;

use args::{Cli, DaemonVerb, GuestVerb, PoolVerb, Verb};
use client::Client;
pub use error::{Error, exit};
use operation::Waiting;
use table::View;
use tmem_admin_api::DaemonOperation;

/// Does what `cli` asks for, writing data to `out` and errors to `err`. `terminal` says that `out`
/// is one and that its user has nothing against colours.
///
/// Returns the exit code, one of [`exit`].
pub fn run(cli: &Cli, out: &mut dyn Write, err: &mut dyn Write, terminal: bool) -> u8 {
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
    terminal: bool,
) -> Result<u8, Error> {
    let view = View {
        json: cli.json,
        bytes: cli.bytes,
        colours: terminal,
    };
    let client = || Client::new(&cli.socket);
    match &cli.verb {
        Verb::Status => return status::show(&client()?, view, out),
        Verb::Daemon(verb) => return on_daemon(verb, &client()?, view, out, err),
        Verb::Guest(GuestVerb::List(table)) => guest::list(&client()?, table, view, out)?,
        Verb::Guest(GuestVerb::Show { name }) => guest::show(&client()?, name, view, out)?,
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
