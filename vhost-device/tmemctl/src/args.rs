// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line: a noun, then a verb.

mod balloon;
mod store;
mod tiering;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, Parser, Subcommand, ValueHint};
use tmem_admin_api::DEFAULT_SOCKET;

use crate::table::Column;
use crate::{guest, pool, stats};
pub use balloon::{
    BalloonAutoArgs, BalloonSetArgs, BalloonShowArgs, BalloonVerb, Budget, Switch, TopArgs,
};
pub use store::{StoreListArgs, StoreVerb};
pub use tiering::{
    LimitArgs, LimitWhat, LinkEnds, LinkShowArgs, LinkVerb, MarksArgs, PolicyVerb, ReclaimArgs,
    TaskArgs, TierListArgs, TierStatsArgs, TierVerb, TraceVerb, Way,
};

const EXAMPLES: &str = "\
Examples:
  tmemctl status                       health, tiers, where the memory is
  tmemctl guest list                   all guests
  tmemctl guest limit web --dram-cap 2GiB
  tmemctl balloon set web 512MiB       have a guest give the rest of its memory back
  tmemctl balloon auto web             let the daemon decide how much that is
  tmemctl tier list                    dram, pm, remote: what is where
  tmemctl tier drain pm                empty a tier, while guests go on
  tmemctl store list                   the stores behind tier remote, and whether all copies are there
  tmemctl link set remote latency=5us bandwidth=25Gbit/s
  tmemctl pool list --guest web -o id,pages,misses
  tmemctl top                          what each guest does now, and what it keeps of its memory
  tmemctl stats --watch 5              what happens each second, every 5 seconds
  tmemctl daemon upgrade               run the newly installed version; guests wait a moment
  tmemctl --json stats | jq '.guests[].latency.get.p99_ns'

Exit codes:
  0 done   1 failed   2 wrong usage   3 daemon not reachable   4 daemon degraded
  (4 is given by status, daemon show, store list and store show)";

/// Looks into a virtio-tmem daemon and its guests, limits what they get, and moves what they keep
#[derive(Debug, Parser)]
#[command(name = "tmemctl", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub struct Cli {
    /// The daemon's admin socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "TMEM_ADMIN_SOCKET",
        default_value = DEFAULT_SOCKET,
        value_hint = ValueHint::FilePath
    )]
    pub socket: PathBuf,

    /// Print the daemon's answer as it came, as JSON; errors become JSON on stderr
    #[arg(long, global = true)]
    pub json: bool,

    /// Print sizes in bytes and times in nanoseconds, without units
    #[arg(short, long, global = true)]
    pub bytes: bool,

    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// Nouns, and verbs that need none.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show health, tiers, and where the daemon's memory is; exit code 4 if it is degraded
    Status,
    /// Look at the daemon's processes; restart or upgrade the one that serves guests
    #[command(subcommand)]
    Daemon(DaemonVerb),
    /// Look at guests; limit, freeze and thaw them, reclaim memory of them
    #[command(subcommand)]
    Guest(GuestVerb),
    /// Look at guests' balloons; say what guests keep of their memory, or let the daemon decide
    #[command(subcommand)]
    Balloon(BalloonVerb),
    /// Look at tiers; resize and drain them
    #[command(subcommand)]
    Tier(TierVerb),
    /// Look at the stores of the remote tier; add, drain and remove them, repair what lies on them
    #[command(subcommand)]
    Store(StoreVerb),
    /// Look at replacement policies; give a guest another one
    #[command(subcommand)]
    Policy(PolicyVerb),
    /// Look at emulated links; set what they cost and what goes wrong on them
    #[command(subcommand)]
    Link(LinkVerb),
    /// Record which pages a guest puts, gets and flushes
    #[command(subcommand)]
    Trace(TraceVerb),
    /// Look at pools
    #[command(subcommand)]
    Pool(PoolVerb),
    /// Show counters and latencies, in total or as they change
    Stats(StatsArgs),
    /// Show what guests do now, a line for each, again and again
    Top(TopArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  tmemctl completions bash > /etc/bash_completion.d/tmemctl")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write man pages and completion scripts to a directory
    #[command(hide = true)]
    Manual {
        /// The directory; made if need be
        #[arg(value_hint = ValueHint::DirPath)]
        directory: PathBuf,
    },
}

/// Verbs of `daemon`.
#[derive(Debug, Subcommand)]
pub enum DaemonVerb {
    /// Show the keeper and the worker, restarts, pauses and sandboxes; exit code 4 if no guest is
    /// served
    #[command(after_help = "Example:\n  tmemctl daemon show")]
    Show,
    /// Replace the worker by one of another version; guests wait a moment and lose nothing
    #[command(after_help = UPGRADE_EXAMPLES)]
    Upgrade {
        /// The new program; it must lie in the folder of the daemon's own, or in one that its
        /// configuration names [default: what now lies where the daemon was started from]
        #[arg(long, value_name = "PATH", value_parser = absolute, value_hint = ValueHint::ExecutablePath)]
        binary: Option<String>,
        /// How to wait for the end
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Replace the worker by a fresh one, also after the daemon has failed
    #[command(after_help = RESTART_EXAMPLES)]
    Restart {
        /// How to wait for the end
        #[command(flatten)]
        wait: WaitArgs,
    },
}

const UPGRADE_EXAMPLES: &str = "\
The new program is checked while the old one serves. If it cannot take over, or is not ready in
time, the old version serves again, and the exit code is 1.

Examples:
  apt-get install --only-upgrade vhost-device-tmem && tmemctl daemon upgrade
  tmemctl daemon upgrade --binary /usr/libexec/virtio-tmem/vhost-device-tmem-1.3.0";

const RESTART_EXAMPLES: &str = "\
When workers end again and again the daemon starts no more of them: `tmemctl status` says
`failed`, and guests wait. Restart it when the cause is mended, or upgrade to a version without it.

Example:
  tmemctl daemon restart";

/// Of the verbs that wait for an operation.
#[derive(Clone, Copy, Debug, Args)]
pub struct WaitArgs {
    /// The longest to wait for the end; what was begun goes on all the same
    #[arg(long, value_name = "SECS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

/// Verbs of `guest`.
#[derive(Debug, Subcommand)]
pub enum GuestVerb {
    /// List all guests
    #[command(after_help = "Example:\n  tmemctl guest list -o name,held,grant")]
    List(GuestListArgs),
    /// Show a guest, its limits and shares, and its pools
    #[command(after_help = "Example:\n  tmemctl guest show web")]
    Show {
        /// The guest's name
        name: String,
    },
    /// Set what a guest may have
    Limit(LimitArgs),
    /// Refuse a guest's puts; its gets and flushes work
    #[command(after_help = "Example:\n  tmemctl guest freeze web")]
    Freeze {
        /// The guest's name
        name: String,
    },
    /// Take a guest's puts again
    #[command(after_help = "Example:\n  tmemctl guest thaw web")]
    Thaw {
        /// The guest's name
        name: String,
    },
    /// Take memory from a guest, as far as it is freeable
    Reclaim(ReclaimArgs),
}

/// Verbs of `pool`.
#[derive(Debug, Subcommand)]
pub enum PoolVerb {
    /// List pools, of all guests or of one
    #[command(after_help = "Example:\n  tmemctl pool list --guest web -o id,kind,pages,size")]
    List(PoolListArgs),
}

/// Of `guest list`.
#[derive(Debug, Args)]
pub struct GuestListArgs {
    /// Leave out the line of headers
    #[arg(long)]
    pub no_headers: bool,
    /// Columns to show, in this order
    #[arg(short = 'o', long, value_name = "COLUMN,…", value_delimiter = ',',
          value_parser = names(guest::COLUMNS))]
    pub columns: Vec<String>,
}

/// Of `pool list`.
#[derive(Debug, Args)]
pub struct PoolListArgs {
    /// Only this guest's pools
    #[arg(long, value_name = "NAME")]
    pub guest: Option<String>,
    /// Leave out the line of headers
    #[arg(long)]
    pub no_headers: bool,
    /// Columns to show, in this order
    #[arg(short = 'o', long, value_name = "COLUMN,…", value_delimiter = ',',
          value_parser = names(pool::COLUMNS))]
    pub columns: Vec<String>,
}

/// Of `stats`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without --watch, counts are totals since the worker's start and latencies are over all of that time.
With it, counts are per second and latencies are those of the last interval; with --json as well,
each line is one answer of the daemon, in totals.

Examples:
  tmemctl stats --guest web
  tmemctl stats --watch 1 -o guest,put,got,get-p50,get-p99")]
pub struct StatsArgs {
    /// What to look at, and how often
    #[command(flatten)]
    pub watch: WatchArgs,
    /// Columns to show, in this order
    #[arg(short = 'o', long, value_name = "COLUMN,…", value_delimiter = ',',
          value_parser = names(stats::COLUMNS))]
    pub columns: Vec<String>,
}

/// Of `stats` and `tier stats`.
#[derive(Clone, Debug, Args)]
pub struct WatchArgs {
    /// Only this guest
    #[arg(long, value_name = "NAME")]
    pub guest: Option<String>,
    /// Show what changed, every SECS seconds (1 if not given), until interrupted
    #[arg(long, value_name = "SECS", num_args = 0..=1, default_missing_value = "1",
          value_parser = interval)]
    pub watch: Option<Duration>,
    /// Stop after this many intervals
    #[arg(long, value_name = "N", requires = "watch", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Leave out the line of headers
    #[arg(long)]
    pub no_headers: bool,
}

/// Accepts the names of `columns`; `--help` lists them with what they mean.
fn names<T>(columns: &'static [Column<T>]) -> PossibleValuesParser {
    columns
        .iter()
        .map(|column| PossibleValue::new(column.name).help(column.help))
        .into()
}

/// A number of seconds, whole or not, between a tenth and a day.
fn interval(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.1..=86_400.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "give a number of seconds from 0.1 to 86400".into())
}

/// A path, made absolute here, because the daemon has another working directory.
fn absolute(text: &str) -> Result<String, String> {
    let path = std::path::absolute(text).map_err(|error| error.to_string())?;
    let path = path.into_os_string().into_string();
    path.map_err(|path| format!("{} is not UTF-8", path.display()))
}
