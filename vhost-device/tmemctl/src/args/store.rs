// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line's part about the stores of the remote tier.

use clap::{Args, Subcommand};

use super::{TaskArgs, names};
use crate::store;

const ADD_EXAMPLES: &str = "\
The daemon's sandbox lets it connect to the TCP ports of the stores in its configuration and to
those that `ports` of the remote tier names there, and to Unix sockets in folders of stores in its
configuration. A name is looked up here, and once. What is added lasts until the daemon's end,
across restarts of its worker: write it into the configuration too.

Examples:
  tmemctl store add 10.0.0.4:7440 --label rack4
  tmemctl store add unix:/run/remote-store/second.sock";

const REMOVE_EXAMPLES: &str = "\
Only a store that no page needs is removed: drain it first. With --force it is forgotten at once, and
its pages are copied from other stores, if they have them.

Example:
  tmemctl store drain rack2 && tmemctl store remove rack2";

const DRAIN_EXAMPLES: &str = "\
Its pages are copied to the others in the background, as fast as `repair_bandwidth` allows; guests go
on. Interrupting tmemctl ends the wait and not the drain: `tmemctl store undrain` does that.

Example:
  tmemctl store drain rack2";

const REPAIR_EXAMPLES: &str = "\
Pages that lost a copy are copied anew by themselves when a store is dead. This looks at all pages now,
and waits until each has its number of copies.

Example:
  tmemctl store repair --timeout 600";

/// Verbs of `store`.
#[derive(Debug, Subcommand)]
pub enum StoreVerb {
    /// List stores, and tell how pages are kept on them; exit code 4 if something is wrong
    #[command(after_help = "Example:\n  tmemctl store list -o name,state,copies,heard")]
    List(StoreListArgs),
    /// Show a store; exit code 4 if something is wrong with it
    #[command(after_help = "Example:\n  tmemctl store show rack1")]
    Show {
        /// Its label or address
        name: String,
    },
    /// Keep pages on another store too
    #[command(after_help = ADD_EXAMPLES)]
    Add {
        /// Where it listens: HOST:PORT or unix:PATH
        address: String,
        /// What to call it [default: its address]
        #[arg(long, value_name = "NAME")]
        label: Option<String>,
        /// What fails together with it, such as a rack: no two copies of a page lie in one domain
        #[arg(long, value_name = "NAME")]
        domain: Option<String>,
    },
    /// Forget a store
    #[command(after_help = REMOVE_EXAMPLES)]
    Remove {
        /// Its label or address
        name: String,
        /// Also if pages lie on it that have too few other copies, or none
        #[arg(long)]
        force: bool,
    },
    /// Copy all pages of a store to others, and give it no new ones
    #[command(after_help = DRAIN_EXAMPLES)]
    Drain {
        /// Its label or address
        name: String,
        /// How to wait for the end
        #[command(flatten)]
        wait: TaskArgs,
    },
    /// Give a store pages again, drained or on the way there
    #[command(after_help = "Example:\n  tmemctl store undrain rack2")]
    Undrain {
        /// Its label or address
        name: String,
    },
    /// Give every page its number of copies
    #[command(after_help = REPAIR_EXAMPLES)]
    Repair {
        /// How to wait for the end
        #[command(flatten)]
        wait: TaskArgs,
    },
}

/// Of `store list`.
#[derive(Debug, Args)]
pub struct StoreListArgs {
    /// Leave out the line of headers
    #[arg(long)]
    pub no_headers: bool,
    /// Columns to show, in this order
    #[arg(short = 'o', long, value_name = "COLUMN,…", value_delimiter = ',',
          value_parser = names(store::COLUMNS))]
    pub columns: Vec<String>,
}
