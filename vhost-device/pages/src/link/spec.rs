// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a link is to be like, and the line of text that says so.
//!
//! The line is words with a `=`, in any order, each at most once: `latency=5us bandwidth=25Gbit/s
//! jitter=uniform:2us seed=7`. DiME's own words are read as well: `latency_ns=5000
//! bandwidth_bps=25000000000 local_npages=1000`. A line that changes a link ([`LinkChange`]) need not
//! name everything; a line that is a link ([`LinkSpec`]) takes the rest from one that adds nothing.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::LinkError;
use super::jitter::Jitter;
use super::text::{Duration, RATE_WANT, Rate, once, whole, words};

/// The longest latency: 10 s.
pub const LATENCY_MAX_NS: u64 = 10_000_000_000;
/// The lowest rate: 1 kbit/s, at which a page takes 33 s.
pub const BANDWIDTH_MIN_BPS: u64 = 1_000;
/// The highest rate that is not "unlimited": 10 Tbit/s, at which a page takes 3.3 ns.
pub const BANDWIDTH_MAX_BPS: u64 = 10_000_000_000_000;

/// One direction of a link. The default adds nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Fields")]
pub struct LinkSpec {
    /// What every transfer takes after its last bit was sent, in nanoseconds.
    pub latency_ns: u64,
    /// Bits that can be sent in a second; as many as there are if nothing.
    pub bandwidth_bps: Option<NonZeroU64>,
    /// What is added to the latency.
    pub jitter: Jitter,
    /// Where the jitter's numbers come from.
    pub seed: u64,
}

/// A [`LinkSpec`] that was not checked yet.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct Fields {
    latency_ns: u64,
    bandwidth_bps: Option<NonZeroU64>,
    jitter: Jitter,
    seed: u64,
}

impl TryFrom<Fields> for LinkSpec {
    type Error = LinkError;

    fn try_from(fields: Fields) -> Result<Self, LinkError> {
        let spec = Self {
            latency_ns: fields.latency_ns,
            bandwidth_bps: fields.bandwidth_bps,
            jitter: fields.jitter,
            seed: fields.seed,
        };
        spec.check()?;
        Ok(spec)
    }
}

impl LinkSpec {
    /// Whether a transfer ever takes time on this link.
    #[must_use]
    pub fn adds_delay(&self) -> bool {
        self.latency_ns > 0 || self.bandwidth_bps.is_some() || !self.jitter.is_none()
    }

    /// Whether each number is one that a link can have.
    ///
    /// # Errors
    /// When one is out of its range.
    pub fn check(&self) -> Result<(), LinkError> {
        if self.latency_ns > LATENCY_MAX_NS {
            return Err(LinkError::OutOfRange {
                what: "latency",
                value: Duration(self.latency_ns).to_string(),
                range: format!("0 to {}", Duration(LATENCY_MAX_NS)),
            });
        }
        if let Some(rate) = self.bandwidth_bps {
            check_rate(rate)?;
        }
        self.jitter.check()
    }
}

fn check_rate(rate: NonZeroU64) -> Result<(), LinkError> {
    if (BANDWIDTH_MIN_BPS..=BANDWIDTH_MAX_BPS).contains(&rate.get()) {
        return Ok(());
    }
    Err(LinkError::OutOfRange {
        what: "bandwidth",
        value: Rate(rate).to_string(),
        range: "1kbit/s to 10Tbit/s, or unlimited".to_owned(),
    })
}

impl FromStr for LinkSpec {
    type Err = LinkError;

    fn from_str(line: &str) -> Result<Self, LinkError> {
        let change: LinkChange = line.parse()?;
        if change.queue.is_some() {
            return Err(LinkError::QueueOfTier);
        }
        if change.local_npages.is_some() {
            return Err(LinkError::bad(
                "local_npages",
                "it where a guest's link is changed: it is the guest's share of DRAM",
            ));
        }
        Ok(change.apply(&Self::default()))
    }
}

impl fmt::Display for LinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            latency_ns,
            bandwidth_bps,
            jitter,
            seed,
        } = self;
        write!(f, "latency={}", Duration(*latency_ns))?;
        match bandwidth_bps {
            Some(rate) => write!(f, " bandwidth={}", Rate(*rate))?,
            None => f.write_str(" bandwidth=unlimited")?,
        }
        write!(f, " jitter={jitter} seed={seed}")
    }
}

/// On which wire a guest's own link sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Queue {
    /// On the tier's, behind the other guests' transfers and before them; the guest's latency and
    /// jitter are its own, and its bandwidth is a cap below the tier's.
    #[default]
    Shared,
    /// On one of its own: nobody else is in its way, and it is in nobody's.
    Own,
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Shared => "shared",
            Self::Own => "own",
        })
    }
}

/// What one line changes of a link; what it does not name stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// `latency=5us` or `latency_ns=5000`.
    pub latency_ns: Option<u64>,
    /// `bandwidth=25Gbit/s`, `bandwidth=unlimited` or `bandwidth_bps=25000000000`.
    pub bandwidth_bps: Option<Option<NonZeroU64>>,
    /// `jitter=uniform:2us` and its like.
    pub jitter: Option<Jitter>,
    /// `seed=7`.
    pub seed: Option<u64>,
    /// `queue=own` or `queue=shared`: of a guest's link only.
    pub queue: Option<Queue>,
    /// `local_npages=1000`: not of the link, but the guest's share of DRAM, for the caller to set.
    pub local_npages: Option<u64>,
}

impl LinkChange {
    /// Whether it changes nothing of the link itself.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self {
            latency_ns,
            bandwidth_bps,
            jitter,
            seed,
            queue,
            local_npages: _,
        } = self;
        latency_ns.is_none()
            && bandwidth_bps.is_none()
            && jitter.is_none()
            && seed.is_none()
            && queue.is_none()
    }

    /// The link that it makes of `spec`.
    #[must_use]
    pub fn apply(&self, spec: &LinkSpec) -> LinkSpec {
        LinkSpec {
            latency_ns: self.latency_ns.unwrap_or(spec.latency_ns),
            bandwidth_bps: self.bandwidth_bps.unwrap_or(spec.bandwidth_bps),
            jitter: (self.jitter.as_ref()).unwrap_or(&spec.jitter).clone(),
            seed: self.seed.unwrap_or(spec.seed),
        }
    }
}

/// What a line may say.
const WANT: &str = "latency=TIME, bandwidth=RATE, jitter=KIND, seed=N, queue=own|shared, or \
                    latency_ns=N, bandwidth_bps=N, local_npages=N";

impl FromStr for LinkChange {
    type Err = LinkError;

    fn from_str(line: &str) -> Result<Self, LinkError> {
        let mut change = Self::default();
        for word in words(line, WANT) {
            let (word, key, value) = word?;
            match key {
                "latency" | "latency_ns" => {
                    let ns = if key == "latency" {
                        value.parse::<Duration>()?.0
                    } else {
                        whole(word, value, "latency_ns=N, in whole nanoseconds")?
                    };
                    once(&mut change.latency_ns, ns, word, "the latency")?;
                }
                "bandwidth" | "bandwidth_bps" => {
                    let rate = if key == "bandwidth" {
                        rate(value)?
                    } else {
                        let want = "bandwidth_bps=N, in whole bits a second and not 0; \
                                    bandwidth=unlimited is no limit";
                        let rate = NonZeroU64::new(whole(word, value, want)?);
                        Some(rate.ok_or_else(|| LinkError::bad(word, want))?)
                    };
                    once(&mut change.bandwidth_bps, rate, word, "the bandwidth")?;
                }
                "jitter" => {
                    let jitter = Jitter::parse(word, value)?;
                    once(&mut change.jitter, jitter, word, "the jitter")?;
                }
                "seed" => {
                    let seed = whole(word, value, "seed=N, a whole number below 2^64")?;
                    once(&mut change.seed, seed, word, "the seed")?;
                }
                "queue" => {
                    let queue = match value {
                        "own" => Queue::Own,
                        "shared" => Queue::Shared,
                        _ => return Err(LinkError::bad(word, "queue=own or queue=shared")),
                    };
                    once(&mut change.queue, queue, word, "the queue")?;
                }
                "local_npages" => {
                    let pages = whole(word, value, "local_npages=N, in pages of 4 KiB")?;
                    once(&mut change.local_npages, pages, word, "the local pages")?;
                }
                _ => return Err(LinkError::bad(word, WANT)),
            }
        }
        change.apply(&LinkSpec::default()).check()?;
        Ok(change)
    }
}

fn rate(value: &str) -> Result<Option<NonZeroU64>, LinkError> {
    match value {
        "unlimited" => Ok(None),
        "" => Err(LinkError::bad(value, RATE_WANT)),
        _ => Ok(Some(value.parse::<Rate>()?.0)),
    }
}

impl fmt::Display for LinkChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            self.latency_ns
                .map(|ns| format!("latency={}", Duration(ns))),
            self.bandwidth_bps.map(|rate| match rate {
                Some(rate) => format!("bandwidth={}", Rate(rate)),
                None => "bandwidth=unlimited".to_owned(),
            }),
            self.jitter
                .as_ref()
                .map(|jitter| format!("jitter={jitter}")),
            self.seed.map(|seed| format!("seed={seed}")),
            self.queue.map(|queue| format!("queue={queue}")),
            self.local_npages
                .map(|pages| format!("local_npages={pages}")),
        ];
        let words: Vec<String> = words.into_iter().flatten().collect();
        f.write_str(&words.join(" "))
    }
}
