// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line's part about tiers, guests' limits, policies, links and traces.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};
use tmem_admin_api::{DramCap, LinkDirections, PAGE_BYTES, TierName, WEIGHT_MAX, Watermarks};

use super::{WatchArgs, names};
use crate::{link, tier, tier_stats};

const DRAIN_EXAMPLES: &str = "\
A tier can be drained when the others hold what guests are promised. Its pages move in the
background; guests go on. Interrupting tmemctl ends the wait and not the drain: `tmemctl tier
undrain` does that.

Examples:
  tmemctl tier drain pm
  tmemctl tier drain pm --no-wait && tmemctl tier show pm";

const RESIZE_EXAMPLES: &str = "\
A tier that becomes smaller gives pages to the next one first. What guests are promised bounds how
small it can become, and `max` in the configuration how large. The size lasts until the daemon's
end, across restarts of its worker: write it into the configuration too.

Example:
  tmemctl tier resize dram 12GiB";

const LIMIT_EXAMPLES: &str = "\
What is not named stays as it is. Limits last until the daemon's end, across restarts of its
worker: write them into the configuration too.

Examples:
  tmemctl guest limit web --grant 2GiB --floor 256MiB
  tmemctl guest limit web --dram-cap 1GiB --weight 400
  tmemctl guest limit web --dram-cap none";

const RECLAIM_EXAMPLES: &str = "\
Ephemeral pages go first, then copies of pages that are farther away, then pages that a farther
tier has room for. If not so much is freeable, what was reclaimed and the reason are told.

Example:
  tmemctl guest reclaim web 512MiB";

const LINK_SET_EXAMPLES: &str = "\
Settings are words with a `=`, or DiME's one line; what is not named stays as it is. Without a
tier, a guest's own link to the farthest tier is meant. A latency below what can be emulated on
this host is refused, with the least that can.

Examples:
  tmemctl link set remote latency=5us bandwidth=25Gbit/s
  tmemctl link set remote jitter=uniform:2us seed=7
  tmemctl link set remote --guest web --direction in latency=20us
  tmemctl link set --guest web latency_ns=20000 bandwidth_bps=10000000000 local_npages=65536";

const LINK_FAULT_EXAMPLES: &str = "\
Faults are words with a `=`: what goes wrong, and when, counted from now. They take the place of
those that were set before.

Examples:
  tmemctl link fault remote drop=0.001 seed=7
  tmemctl link fault remote stall=at:5s,for:200ms slow=at:10s,for:1s,by:4
  tmemctl link fault remote --clear";

const TRACE_EXAMPLES: &str = "\
A trace says which pages were put, got and flushed, and when; never what is in them. The daemon
writes it to NAME.trace in the folder that `trace_dir` names in its configuration.

Examples:
  tmemctl trace start web --name web-monday
  tmemctl trace stop web";

/// Verbs of `tier`.
#[derive(Debug, Subcommand)]
pub enum TierVerb {
    /// List tiers, nearest first
    #[command(after_help = "Example:\n  tmemctl tier list -o tier,used,capacity,watermarks")]
    List(TierListArgs),
    /// Show a tier
    #[command(after_help = "Example:\n  tmemctl tier show pm")]
    Show {
        /// The tier
        #[arg(value_parser = tiers())]
        name: TierName,
    },
    /// Show what tiers did for guests, in total or as it changes
    #[command(after_help = "Example:\n  tmemctl tier stats --guest web --watch 1")]
    Stats(TierStatsArgs),
    /// Bring a tier to another size, up or down, while guests go on
    #[command(after_help = RESIZE_EXAMPLES)]
    Resize {
        /// The tier
        #[arg(value_parser = tiers())]
        name: TierName,
        /// Its size from now on, such as 12GiB
        #[arg(value_name = "SIZE", value_parser = pages)]
        pages: u64,
        /// How to wait for the end
        #[command(flatten)]
        wait: TaskArgs,
    },
    /// Move all pages out of a tier, which takes no more of them
    #[command(after_help = DRAIN_EXAMPLES)]
    Drain {
        /// The tier
        #[arg(value_parser = tiers())]
        name: TierName,
        /// How to wait for the end
        #[command(flatten)]
        wait: TaskArgs,
    },
    /// Let a tier take pages again, drained or on the way there
    #[command(after_help = "Example:\n  tmemctl tier undrain pm")]
    Undrain {
        /// The tier
        #[arg(value_parser = tiers())]
        name: TierName,
    },
    /// Show or set when pages leave a tier for the next one
    #[command(after_help = "Example:\n  tmemctl tier watermarks --low 5 --high 10")]
    Watermarks(MarksArgs),
}

/// Of `tier list`.
#[derive(Debug, Args)]
pub struct TierListArgs {
    /// Leave out the line of headers
    #[arg(long)]
    pub no_headers: bool,
    /// Columns to show, in this order
    #[arg(short = 'o', long, value_name = "COLUMN,…", value_delimiter = ',',
          value_parser = names(tier::COLUMNS))]
    pub columns: Vec<String>,
}

/// Of `tier stats`.
#[derive(Debug, Args)]
pub struct TierStatsArgs {
    /// What to look at, and how often
    #[command(flatten)]
    pub watch: WatchArgs,
    /// Columns to show, in this order
    #[arg(short = 'o', long, value_name = "COLUMN,…", value_delimiter = ',',
          value_parser = names(tier_stats::COLUMNS))]
    pub columns: Vec<String>,
}

/// Of `tier watermarks`.
#[derive(Clone, Copy, Debug, Args)]
pub struct MarksArgs {
    /// The tier
    #[arg(default_value = "dram", value_parser = tiers())]
    pub name: TierName,
    /// With less of it free, in percent, pages begin to leave it
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub low: Option<u8>,
    /// With so much of it free, in percent, they cease to
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub high: Option<u8>,
}

/// Of the verbs that begin a task.
#[derive(Clone, Copy, Debug, Args)]
pub struct TaskArgs {
    /// Don't wait for the end
    #[arg(long)]
    pub no_wait: bool,
    /// The longest to wait for the end; what was begun goes on all the same [default: no limit]
    #[arg(long, value_name = "SECS", conflicts_with = "no_wait",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: Option<u64>,
}

/// Of `guest limit`.
#[derive(Clone, Debug, Args)]
#[command(after_help = LIMIT_EXAMPLES)]
pub struct LimitArgs {
    /// The guest's name
    pub name: String,
    /// What it may have
    #[command(flatten)]
    pub what: LimitWhat,
}

/// Limits of a guest, at least one.
#[derive(Clone, Copy, Debug, Args)]
#[group(required = true, multiple = true)]
pub struct LimitWhat {
    /// Memory that its persistent pools are promised
    #[arg(long, value_name = "SIZE", value_parser = pages)]
    pub grant: Option<u64>,
    /// The most of its pages in DRAM, or `none`
    #[arg(long, value_name = "SIZE", value_parser = cap)]
    pub dram_cap: Option<DramCap>,
    /// Its part of the DRAM that several guests want, against their weights
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(WEIGHT_MAX)))]
    pub weight: Option<u32>,
    /// What it always has room for in DRAM
    #[arg(long, value_name = "SIZE", value_parser = pages_or_none)]
    pub floor: Option<u64>,
}

/// Of `guest reclaim`.
#[derive(Clone, Debug, Args)]
#[command(after_help = RECLAIM_EXAMPLES)]
pub struct ReclaimArgs {
    /// The guest's name
    pub name: String,
    /// How much of DRAM it shall give up, such as 512MiB
    #[arg(value_name = "SIZE", value_parser = pages)]
    pub pages: u64,
    /// How to wait for the end
    #[command(flatten)]
    pub wait: TaskArgs,
}

/// Verbs of `policy`.
#[derive(Debug, Subcommand)]
pub enum PolicyVerb {
    /// List replacement policies, and which guests have which
    #[command(after_help = "Example:\n  tmemctl policy list")]
    List,
    /// Give a guest another policy, while it goes on
    #[command(after_help = "Example:\n  tmemctl policy set web random --seed 7")]
    Set {
        /// The guest's name
        guest: String,
        /// The policy's name
        policy: String,
        /// For a policy that draws lots: the same seed draws the same lots [default: a new one]
        #[arg(long, value_name = "N")]
        seed: Option<u64>,
    },
}

/// Verbs of `link`.
#[derive(Debug, Subcommand)]
pub enum LinkVerb {
    /// Show links, what they are set to, and how well that is kept
    #[command(
        after_help = "Example:\n  tmemctl link show -o tier,guest,direction,settings,error-p99"
    )]
    Show(LinkShowArgs),
    /// Set what it costs to reach a tier
    #[command(after_help = LINK_SET_EXAMPLES)]
    Set {
        /// Which guest and direction
        #[command(flatten)]
        ends: LinkEnds,
        /// The tier, and what to set its link to
        #[arg(required = true, value_name = "[TIER] SETTING…")]
        words: Vec<String>,
    },
    /// End the emulation of links: of all, or of those named
    #[command(
        after_help = "Examples:\n  tmemctl link clear\n  tmemctl link clear remote --guest web"
    )]
    Clear {
        /// The tier [default: all]
        #[arg(value_parser = tiers())]
        tier: Option<TierName>,
        /// Which guest and direction
        #[command(flatten)]
        ends: LinkEnds,
    },
    /// Set what goes wrong on a link
    #[command(after_help = LINK_FAULT_EXAMPLES)]
    Fault {
        /// The tier
        #[arg(value_parser = tiers())]
        tier: TierName,
        /// Which guest and direction
        #[command(flatten)]
        ends: LinkEnds,
        /// What goes wrong, in the daemon's words
        #[arg(value_name = "FAULT…", required_unless_present = "clear")]
        words: Vec<String>,
        /// Nothing goes wrong from now on
        #[arg(long, conflicts_with = "words")]
        clear: bool,
    },
}

/// Of `link show`.
#[derive(Debug, Args)]
pub struct LinkShowArgs {
    /// Leave out the line of headers
    #[arg(long)]
    pub no_headers: bool,
    /// Columns to show, in this order
    #[arg(short = 'o', long, value_name = "COLUMN,…", value_delimiter = ',',
          value_parser = names(link::COLUMNS))]
    pub columns: Vec<String>,
}

/// Which links of a tier.
#[derive(Clone, Debug, Args)]
pub struct LinkEnds {
    /// One guest's own link, which it is given if it has none [default: that of all others]
    #[arg(long, value_name = "NAME")]
    pub guest: Option<String>,
    /// in: from the tier to DRAM; out: from DRAM to the tier
    #[arg(long, value_name = "WAY", value_enum, default_value_t = Way::Both)]
    pub direction: Way,
}

/// Directions of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// From the tier to DRAM.
    In,
    /// From DRAM to the tier.
    Out,
    /// Both.
    Both,
}

/// Verbs of `trace`.
#[derive(Debug, Subcommand)]
pub enum TraceVerb {
    /// Begin to record which pages a guest puts, gets and flushes
    #[command(after_help = TRACE_EXAMPLES)]
    Start {
        /// The guest's name
        guest: String,
        /// The file's name, without `.trace` [default: the guest's name]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// End a guest's trace, and tell what is in it
    #[command(after_help = TRACE_EXAMPLES)]
    Stop {
        /// The guest's name
        guest: String,
    },
}

impl From<Way> for LinkDirections {
    fn from(way: Way) -> Self {
        match way {
            Way::In => Self::In,
            Way::Out => Self::Out,
            Way::Both => Self::Both,
        }
    }
}

/// Accepts the names of tiers.
fn tiers() -> impl TypedValueParser<Value = TierName> {
    let words = TierName::ALL.iter().map(|tier| tier.as_str());
    PossibleValuesParser::new(words)
        .try_map(|word| TierName::from_word(&word).ok_or("no tier of this program"))
}

/// A size in whole pages, at least one.
pub(super) fn pages(text: &str) -> Result<u64, String> {
    match pages_or_none(text)? {
        0 => Err("give at least one page, 4KiB".into()),
        pages => Ok(pages),
    }
}

/// A size in whole pages.
pub(super) fn pages_or_none(text: &str) -> Result<u64, String> {
    let not_a_size =
        || "give a whole number and B, KiB, MiB, GiB or TiB, such as 512MiB".to_owned();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start() {
        "B" => 0,
        "KiB" | "K" => 10,
        "MiB" | "M" => 20,
        "GiB" | "G" => 30,
        "TiB" | "T" => 40,
        _ => return Err(not_a_size()),
    };
    let number: u64 = number.parse().map_err(|_| not_a_size())?;
    let bytes = number.checked_mul(1 << shift).ok_or_else(not_a_size)?;
    if bytes % PAGE_BYTES != 0 {
        return Err("give a multiple of the page's size, 4KiB".into());
    }
    Ok(bytes / PAGE_BYTES)
}

/// A size in whole pages, or `none`.
fn cap(text: &str) -> Result<DramCap, String> {
    if text == "none" {
        return Ok(DramCap::NONE);
    }
    pages_or_none(text).map(DramCap::Pages)
}

/// A whole number of percent, with the sign or without.
fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let percent = number.parse().ok();
    percent
        .filter(|&percent| percent <= Watermarks::PERCENT_MAX)
        .ok_or_else(|| {
            format!(
                "give a whole number of percent up to {}",
                Watermarks::PERCENT_MAX
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_pages() {
        assert_eq!(pages("12GiB"), Ok(3 << 20));
        assert_eq!(pages("8192 B"), Ok(2));
        assert_eq!(pages_or_none("0B"), Ok(0));
        for bad in [
            "",
            "12",
            "1.5GiB",
            "-4KiB",
            "4097B",
            "99999999TiB",
            "GiB",
            "4 parsec",
        ] {
            assert!(pages_or_none(bad).is_err(), "{bad}");
        }
        assert!(pages("0MiB").is_err());
    }

    #[test]
    fn a_cap_is_a_size_or_none() {
        assert_eq!(cap("none"), Ok(DramCap::NONE));
        assert_eq!(cap("4KiB"), Ok(DramCap::Pages(1)));
        assert!(cap("nothing").is_err());
    }

    #[test]
    fn percents_may_have_their_sign() {
        assert_eq!((percent("5"), percent("90%")), (Ok(5), Ok(90)));
        for bad in ["91", "-1", "5.5", "%", "300"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }
}
