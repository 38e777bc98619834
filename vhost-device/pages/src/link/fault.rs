// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Faults on schedule: what a plan says, and its text.
//!
//! A plan is words with a `=`: what goes wrong, and when, counted from the moment the plan is set.
//! `drop=0.001 corrupt=every:1000 stall=at:5s,for:200ms slow=at:10s,for:1s,by:4 seed=9`.
//!
//! | part | means |
//! | --- | --- |
//! | `0.001` | each transfer with this chance |
//! | `every:1000` | every thousandth transfer |
//! | `at:5s` | none before that; at once if it is left out |
//! | `for:200ms` | none after that much time from `at`; for ever if it is left out. Of a stall with a chance or `every`, how long each one is |
//! | `by:4` | slow: how many times as long sending and latency take |
//! | `rto:1ms` | drop: how long the sender waits before it sends again |
//!
//! A fault belongs to the transfer whose sending starts while the rule is in force. The same seed
//! and the same transfers give the same faults.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::LinkError;
use super::text::{Decimal, Duration, decimal, once, whole, words};

/// Most rules in a plan.
pub const FAULT_RULES_MAX: usize = 32;
/// The longest time in a plan: a day.
pub const FAULT_TIME_MAX_NS: u64 = 86_400_000_000_000;
/// How long a sender waits before it sends again what was lost, unless the rule says otherwise: 1 ms.
pub const RTO_DEFAULT_NS: u64 = 1_000_000;
/// The most times as long: 1000.
pub const SLOW_MAX_MILLI: u32 = 1_000_000;
/// How often one transfer can be lost by chance; the next try arrives.
pub const DROPS_MAX: u32 = 16;
/// A chance of 1, in the unit of [`Trigger::Chance`].
pub const CERTAIN: u32 = 1_000_000_000;

/// What goes wrong on a link, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FaultPlan {
    /// Where chances and flipped bits come from.
    pub seed: u64,
    /// What goes wrong; each rule by itself.
    pub rules: Vec<FaultRule>,
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultRule {
    /// What.
    pub kind: FaultKind,
    /// Which transfers, of those in the time.
    pub trigger: Trigger,
    /// From when on, in nanoseconds since the plan was set.
    pub from_ns: u64,
    /// For how long; for ever if nothing.
    pub for_ns: Option<u64>,
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The transfer is lost and sent again after `rto_ns`, as often as it is lost again. The second
    /// copy takes none of the link's time. In a time without a trigger all is lost that is sent in it.
    Drop {
        /// How long the sender waits.
        rto_ns: u64,
    },
    /// One bit of the page is another on arrival.
    Corrupt,
    /// The link stands still. What would start then starts after; what has started goes on.
    /// Without a trigger it does so once, for the rule's time.
    Stall {
        /// How long, with a trigger; the rule then has no end.
        each_ns: u64,
    },
    /// Sending and latency take longer; the jitter does not.
    Slow {
        /// How many times as long, in thousandths.
        by_milli: u32,
    },
}

/// Which transfers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// All.
    All,
    /// Each with a chance, in billionths.
    Chance(u32),
    /// Every n-th; 1 is all.
    Every(u64),
}

const WANT: &str = "drop=, corrupt=, stall= or slow=, such as drop=0.001, corrupt=every:1000, \
     stall=at:5s,for:200ms or slow=at:10s,for:1s,by:4, and seed=N";

impl FromStr for FaultPlan {
    type Err = LinkError;

    /// `none`, and a line without words, is a plan in which nothing goes wrong.
    fn from_str(line: &str) -> Result<Self, LinkError> {
        if line.trim() == "none" {
            return Ok(Self::default());
        }
        let mut seed = None;
        let mut rules = Vec::new();
        for word in words(line, WANT) {
            let (word, key, value) = word?;
            if key == "seed" {
                let number = whole(word, value, "seed=N, a whole number below 2^64")?;
                once(&mut seed, number, word, "the seed")?;
                continue;
            }
            if rules.len() == FAULT_RULES_MAX {
                return Err(LinkError::OutOfRange {
                    what: "number of faults",
                    value: "more".to_owned(),
                    range: format!("at most {FAULT_RULES_MAX}"),
                });
            }
            rules.push(rule(word, key, value)?);
        }
        Ok(Self {
            seed: seed.unwrap_or(0),
            rules,
        })
    }
}

/// The parts of a rule, as they stand.
#[derive(Default)]
struct Parts {
    trigger: Option<Trigger>,
    at: Option<u64>,
    lasts: Option<u64>,
    by: Option<u32>,
    rto: Option<u64>,
}

fn parts(word: &str, value: &str) -> Result<Parts, LinkError> {
    let mut parts = Parts::default();
    for part in value.split(',') {
        let Some((name, text)) = part.split_once(':') else {
            let chance = decimal(part, 9).and_then(|chance| u32::try_from(chance).ok());
            let chance = chance.filter(|chance| (1..=CERTAIN).contains(chance));
            let want = "a chance above 0 and up to 1, such as 0.001, or a part such as every:1000, \
                        at:5s, for:200ms, by:4, rto:1ms";
            let chance = chance.ok_or_else(|| LinkError::bad(part, want))?;
            once(
                &mut parts.trigger,
                Trigger::Chance(chance),
                word,
                "a chance",
            )?;
            continue;
        };
        match name {
            "every" => {
                let every = decimal(text, 0).filter(|every| *every > 0);
                let want = "every:N, a whole number of transfers, at least 1";
                let every = every.ok_or_else(|| LinkError::bad(part, want))?;
                once(&mut parts.trigger, Trigger::Every(every), word, "a chance")?;
            }
            "at" => once(&mut parts.at, time(text)?, word, "\"at\"")?,
            "for" => once(&mut parts.lasts, some_time(part, text)?, word, "\"for\"")?,
            "rto" => once(&mut parts.rto, some_time(part, text)?, word, "\"rto\"")?,
            "by" => {
                let by = decimal(text, 3).and_then(|by| u32::try_from(by).ok());
                let by = by.filter(|by| (1_000..=SLOW_MAX_MILLI).contains(by));
                let want = "by:N, from 1 to 1000, with at most 3 digits after the point";
                let by = by.ok_or_else(|| LinkError::bad(part, want))?;
                once(&mut parts.by, by, word, "\"by\"")?;
            }
            _ => {
                let want = "every:N, at:TIME, for:TIME, by:N or rto:TIME";
                return Err(LinkError::bad(part, want));
            }
        }
    }
    Ok(parts)
}

fn rule(word: &str, key: &str, value: &str) -> Result<FaultRule, LinkError> {
    // Whether the kind may have `by` and `rto`.
    let may = match key {
        "drop" => [false, true],
        "corrupt" | "stall" => [false, false],
        "slow" => [true, false],
        _ => return Err(LinkError::bad(word, WANT)),
    };
    let parts = parts(word, value)?;
    for (name, there, may) in [
        ("by", parts.by.is_some(), may[0]),
        ("rto", parts.rto.is_some(), may[1]),
    ] {
        if there && !may {
            let want = format!("it without \"{name}\", which {key} has not");
            return Err(LinkError::bad(word, want));
        }
    }
    let trigger = parts.trigger.unwrap_or(Trigger::All);
    let mut for_ns = parts.lasts;
    let kind = match key {
        "drop" => {
            if trigger == Trigger::All && for_ns.is_none() {
                let want = "a chance, every:N or for:TIME as well: all would be lost for ever";
                return Err(LinkError::bad(word, want));
            }
            FaultKind::Drop {
                rto_ns: parts.rto.unwrap_or(RTO_DEFAULT_NS),
            }
        }
        "corrupt" => FaultKind::Corrupt,
        "stall" => {
            let want = "for:TIME as well, how long the link stands still";
            let lasts = for_ns.ok_or_else(|| LinkError::bad(word, want))?;
            if trigger == Trigger::All {
                FaultKind::Stall { each_ns: 0 }
            } else {
                for_ns = None;
                FaultKind::Stall { each_ns: lasts }
            }
        }
        _ => {
            let want = "by:N as well, how many times as long a transfer takes";
            let by_milli = parts.by.ok_or_else(|| LinkError::bad(word, want))?;
            FaultKind::Slow { by_milli }
        }
    };
    Ok(FaultRule {
        kind,
        trigger,
        from_ns: parts.at.unwrap_or(0),
        for_ns,
    })
}

fn time(text: &str) -> Result<u64, LinkError> {
    let Duration(ns) = text.parse()?;
    if ns > FAULT_TIME_MAX_NS {
        return Err(LinkError::OutOfRange {
            what: "time",
            value: Duration(ns).to_string(),
            range: format!("0 to {}", Duration(FAULT_TIME_MAX_NS)),
        });
    }
    Ok(ns)
}

fn some_time(part: &str, text: &str) -> Result<u64, LinkError> {
    match time(text)? {
        0 => Err(LinkError::bad(part, "a time above 0")),
        ns => Ok(ns),
    }
}

impl fmt::Display for FaultPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rules.is_empty() {
            return f.pad("none");
        }
        for rule in &self.rules {
            write!(f, "{rule} ")?;
        }
        write!(f, "seed={}", self.seed)
    }
}

impl fmt::Display for FaultRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, lasts) = match self.kind {
            FaultKind::Drop { .. } => ("drop", self.for_ns),
            FaultKind::Corrupt => ("corrupt", self.for_ns),
            FaultKind::Stall { each_ns } => {
                let each = (self.trigger != Trigger::All).then_some(each_ns);
                ("stall", each.or(self.for_ns))
            }
            FaultKind::Slow { .. } => ("slow", self.for_ns),
        };
        let mut parts = Vec::new();
        match self.trigger {
            Trigger::Chance(chance) => {
                let chance = Decimal {
                    value: u64::from(chance),
                    digits: 9,
                };
                parts.push(chance.to_string());
            }
            Trigger::Every(every) => parts.push(format!("every:{every}")),
            Trigger::All => {}
        }
        if self.from_ns > 0 || parts.is_empty() {
            parts.push(format!("at:{}", Duration(self.from_ns)));
        }
        parts.extend(lasts.map(|ns| format!("for:{}", Duration(ns))));
        match self.kind {
            FaultKind::Drop { rto_ns } => parts.push(format!("rto:{}", Duration(rto_ns))),
            FaultKind::Slow { by_milli } => {
                let by = Decimal {
                    value: u64::from(by_milli),
                    digits: 3,
                };
                parts.push(format!("by:{by}"));
            }
            FaultKind::Corrupt | FaultKind::Stall { .. } => {}
        }
        write!(f, "{name}={}", parts.join(","))
    }
}

impl TryFrom<String> for FaultPlan {
    type Error = LinkError;

    fn try_from(line: String) -> Result<Self, LinkError> {
        line.parse()
    }
}

impl From<FaultPlan> for String {
    fn from(plan: FaultPlan) -> Self {
        plan.to_string()
    }
}
