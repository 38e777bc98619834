// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Arguments of `balloon` and `top`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use tmem_admin_api::WEIGHT_MAX;

use super::tiering::{pages, pages_or_none};
use super::{interval, names};
use crate::{balloon, top};

const SET_EXAMPLES: &str = "\
SIZE is what the guest keeps of its memory; `max` ends the balloon. The guest's driver gives memory back
as fast as the guest can part with it: cold pages go to swap first, which is best a disk of this device.
With --wait the command ends when the balloon is as large as it shall be, and tells how far it is; it fails
if the guest's own floor or a refusal of the host keeps it from getting there.

Examples:
  tmemctl balloon set web 512MiB --wait
  tmemctl balloon set web max";

const AUTO_EXAMPLES: &str = "\
The daemon looks at each guest once a second: idle ones are squeezed slowly, busy ones get memory back
fast, and all together keep within the budget. `off` leaves the balloon as it is.

Examples:
  tmemctl balloon auto web
  tmemctl balloon auto web --floor 256MiB --weight 200
  tmemctl balloon auto web off
  tmemctl balloon budget 4GiB";

/// Verbs of `balloon`.
#[derive(Debug, Subcommand)]
pub enum BalloonVerb {
    /// Show what guests give back of their memory, all of them or one in detail
    #[command(after_help = "Examples:\n  tmemctl balloon show\n  tmemctl balloon show web")]
    Show(BalloonShowArgs),
    /// Say how much of its memory a guest keeps; the rest goes back to the host
    #[command(after_help = SET_EXAMPLES)]
    Set(BalloonSetArgs),
    /// Let the daemon decide how much a guest keeps, within bounds
    #[command(after_help = AUTO_EXAMPLES)]
    Auto(BalloonAutoArgs),
    /// Say what all guests on auto may keep together
    #[command(
        after_help = "Examples:\n  tmemctl balloon budget 4GiB\n  tmemctl balloon budget none"
    )]
    Budget {
        /// A size, such as 4GiB, or `none`
        #[arg(value_name = "SIZE", value_parser = budget)]
        pages: Budget,
    },
}

/// Of `balloon show`.
#[derive(Debug, Args)]
pub struct BalloonShowArgs {
    /// Only this guest's, in detail
    pub guest: Option<String>,
    /// Leave out the line of headers
    #[arg(long)]
    pub no_headers: bool,
    /// Columns to show, in this order
    #[arg(short = 'o', long, value_name = "COLUMN,…", value_delimiter = ',',
          value_parser = names(balloon::COLUMNS))]
    pub columns: Vec<String>,
}

/// Of `balloon set`.
#[derive(Debug, Args)]
pub struct BalloonSetArgs {
    /// The guest's name
    pub guest: String,
    /// What it keeps, such as 512MiB, or `max`
    #[arg(value_name = "SIZE", value_parser = size)]
    pub pages: u64,
    /// Wait until the balloon is as large as it shall be
    #[arg(long)]
    pub wait: bool,
    /// The longest to wait; the guest goes on all the same
    #[arg(long, value_name = "SECS", default_value_t = 300, requires = "wait",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

/// Of `balloon auto`.
#[derive(Debug, Args)]
pub struct BalloonAutoArgs {
    /// The guest's name
    pub guest: String,
    /// Whether the daemon decides
    #[arg(value_enum)]
    pub switch: Option<Switch>,
    /// The least that the guest keeps, whoever decides
    #[arg(long, value_name = "SIZE", value_parser = pages_or_none)]
    pub floor: Option<u64>,
    /// The most that the daemon lets it keep; 0B: all of its memory
    #[arg(long, value_name = "SIZE", value_parser = pages_or_none)]
    pub ceiling: Option<u64>,
    /// Its part of what guests on auto want, against their weights
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(WEIGHT_MAX)))]
    pub weight: Option<u32>,
}

/// A switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// From now on
    On,
    /// No more
    Off,
}

/// A budget, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget(pub Option<u64>);

/// Of `top`.
#[derive(Debug, Args)]
#[command(after_help = "\
Each block is what happened in the last interval, a line for each guest. Counts are per second.

Examples:
  tmemctl top
  tmemctl top --every 5 -o guest,size,target,why,got,put")]
pub struct TopArgs {
    /// Seconds between two blocks
    #[arg(long, value_name = "SECS", default_value = "1", value_parser = interval)]
    pub every: Duration,
    /// Stop after so many blocks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Leave out the line of headers
    #[arg(long)]
    pub no_headers: bool,
    /// Columns to show, in this order
    #[arg(short = 'o', long, value_name = "COLUMN,…", value_delimiter = ',',
          value_parser = names(top::COLUMNS))]
    pub columns: Vec<String>,
}

/// What a guest keeps; the word for all of it is more than any guest has.
fn size(text: &str) -> Result<u64, String> {
    if text == "max" {
        return Ok(u64::MAX);
    }
    pages(text).map_err(|error| format!("{error}, or `max`"))
}

fn budget(text: &str) -> Result<Budget, String> {
    if text == "none" {
        return Ok(Budget(None));
    }
    let pages = pages(text).map_err(|error| format!("{error}, or `none`"))?;
    Ok(Budget(Some(pages)))
}
