// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Jitter: the part of a transfer's delay that differs from one to the next.
//!
//! Jitter is added to the latency and never taken from it, so the latency is the least that a
//! transfer takes. The n-th transfer since the link was set gets the n-th number of the seed's
//! stream, whatever else happens. A jitter never exceeds [`JITTER_MAX_NS`].

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::LinkError;
use super::random::{Stream, scale};
use super::text::{Decimal, Duration, decimal};

/// The longest jitter: 10 s. What a lognormal draws beyond is cut to it.
pub const JITTER_MAX_NS: u64 = 10_000_000_000;
/// The largest sigma of a lognormal: 3. One in a thousand is then 10,000 times the median.
pub const SIGMA_MAX_MILLI: u32 = 3_000;
/// Most values in a table of quantiles.
pub const QUANTILES_MAX: usize = 256;

/// How the delay of a transfer differs from the latency.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Jitter {
    /// Not at all.
    #[default]
    None,
    /// Always by the same.
    Constant {
        /// By how much.
        ns: u64,
    },
    /// Any whole number of nanoseconds from 0 to `spread_ns` with equal chance: half of it on average.
    Uniform {
        /// The most.
        spread_ns: u64,
    },
    /// `median * e^(sigma * z)`, z being standard normal: half of the transfers below the median, one
    /// in 44 above `median * e^(2 sigma)`; `median * e^(sigma^2 / 2)` on average.
    #[serde(rename = "lognormal")]
    LogNormal {
        /// Half are below.
        median_ns: u64,
        /// Sigma in thousandths: 500 is 0.5.
        sigma_milli: u32,
    },
    /// As measured: the values at equally spaced quantiles, from the least to the most, with straight
    /// lines between them. Three values are the minimum, the median and the maximum.
    Table {
        /// The values.
        quantiles: Quantiles,
    },
}

/// Values of a table: at least two, none below the one before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u64>", into = "Vec<u64>")]
pub struct Quantiles(Arc<[u64]>);

impl Quantiles {
    /// Takes `values`, in nanoseconds.
    ///
    /// # Errors
    /// When there are fewer than two or more than [`QUANTILES_MAX`], one is below the one before, or
    /// one exceeds [`JITTER_MAX_NS`].
    pub fn new(values: &[u64]) -> Result<Self, LinkError> {
        if values.len() < 2 || values.len() > QUANTILES_MAX {
            return Err(LinkError::OutOfRange {
                what: "jitter table",
                value: format!("{} values", values.len()),
                range: format!("2 to {QUANTILES_MAX}"),
            });
        }
        for pair in values.windows(2) {
            if let [from, to] = *pair
                && from > to
            {
                return Err(LinkError::FallingTable {
                    from: Duration(from),
                    to: Duration(to),
                });
            }
        }
        values.iter().try_for_each(|value| in_range(*value))?;
        Ok(Self(values.into()))
    }

    /// The values, in nanoseconds.
    #[must_use]
    pub fn values(&self) -> &[u64] {
        &self.0
    }

    /// The value at `random` of 2^64.
    fn at(&self, random: u64) -> u64 {
        let steps = u64::try_from(self.0.len() - 1).unwrap_or(1);
        let (step, part) = scale(random, steps);
        let step = usize::try_from(step).unwrap_or(usize::MAX);
        match self.0.get(step..).unwrap_or_default() {
            [from, to, ..] => from + scale(part, to - from).0,
            _ => 0,
        }
    }
}

impl TryFrom<Vec<u64>> for Quantiles {
    type Error = LinkError;

    fn try_from(values: Vec<u64>) -> Result<Self, LinkError> {
        Self::new(&values)
    }
}

impl From<Quantiles> for Vec<u64> {
    fn from(quantiles: Quantiles) -> Self {
        quantiles.0.to_vec()
    }
}

impl Jitter {
    /// The jitter of the transfer `n`, in nanoseconds.
    pub(crate) fn at(&self, stream: Stream, n: u64) -> u64 {
        match self {
            Self::None => 0,
            Self::Constant { ns } => *ns,
            Self::Uniform { spread_ns } => stream.below(n, spread_ns.saturating_add(1)),
            Self::LogNormal {
                median_ns,
                sigma_milli,
            } => log_normal(*median_ns, *sigma_milli, stream, n),
            Self::Table { quantiles } => quantiles.at(stream.at(n)),
        }
    }

    /// Whether it never adds anything.
    #[must_use]
    pub fn is_none(&self) -> bool {
        match self {
            Self::None => true,
            Self::Constant { ns } => *ns == 0,
            Self::Uniform { spread_ns } => *spread_ns == 0,
            Self::LogNormal { median_ns, .. } => *median_ns == 0,
            Self::Table { quantiles } => quantiles.values().iter().all(|value| *value == 0),
        }
    }

    /// Whether it is one that a link can have.
    ///
    /// # Errors
    /// When a value is beyond [`JITTER_MAX_NS`] or [`SIGMA_MAX_MILLI`].
    pub fn check(&self) -> Result<(), LinkError> {
        match self {
            Self::None | Self::Table { .. } => Ok(()),
            Self::Constant { ns } => in_range(*ns),
            Self::Uniform { spread_ns } => in_range(*spread_ns),
            Self::LogNormal {
                median_ns,
                sigma_milli,
            } => {
                if *sigma_milli > SIGMA_MAX_MILLI {
                    return Err(LinkError::OutOfRange {
                        what: "sigma",
                        value: milli(*sigma_milli).to_string(),
                        range: format!("0 to {}", milli(SIGMA_MAX_MILLI)),
                    });
                }
                in_range(*median_ns)
            }
        }
    }

    /// Reads the value of the word `word`.
    pub(crate) fn parse(word: &str, value: &str) -> Result<Self, LinkError> {
        let bad = || {
            LinkError::bad(
                word,
                "jitter=none, constant:2us, uniform:2us, lognormal:2us,0.5 (median, sigma) or \
                 table:0,1us,9us (values at equal steps from the least to the most)",
            )
        };
        let (kind, rest) = value.split_once(':').unwrap_or((value, ""));
        let time = |text: &str| text.parse::<Duration>().map(|time| time.0);
        let jitter = match kind {
            "none" if rest.is_empty() => Self::None,
            "constant" => Self::Constant { ns: time(rest)? },
            "uniform" => Self::Uniform {
                spread_ns: time(rest)?,
            },
            "lognormal" => {
                let (median, sigma) = rest.split_once(',').ok_or_else(bad)?;
                let sigma = decimal(sigma, 3).and_then(|sigma| u32::try_from(sigma).ok());
                Self::LogNormal {
                    median_ns: time(median)?,
                    sigma_milli: sigma.ok_or_else(bad)?,
                }
            }
            "table" => {
                // One more than there may be, so that too many are found without reading them all.
                let values = rest.split(',').take(QUANTILES_MAX + 1).map(time);
                Self::Table {
                    quantiles: Quantiles::new(&values.collect::<Result<Vec<_>, _>>()?)?,
                }
            }
            _ => return Err(bad()),
        };
        jitter.check()?;
        Ok(jitter)
    }
}

impl fmt::Display for Jitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Constant { ns } => write!(f, "constant:{}", Duration(*ns)),
            Self::Uniform { spread_ns } => write!(f, "uniform:{}", Duration(*spread_ns)),
            Self::LogNormal {
                median_ns,
                sigma_milli,
            } => write!(
                f,
                "lognormal:{},{}",
                Duration(*median_ns),
                milli(*sigma_milli)
            ),
            Self::Table { quantiles } => {
                f.write_str("table:")?;
                for (at, value) in quantiles.values().iter().enumerate() {
                    let comma = if at == 0 { "" } else { "," };
                    write!(f, "{comma}{}", Duration(*value))?;
                }
                Ok(())
            }
        }
    }
}

fn milli(value: u32) -> Decimal {
    Decimal {
        value: u64::from(value),
        digits: 3,
    }
}

fn in_range(ns: u64) -> Result<(), LinkError> {
    if ns > JITTER_MAX_NS {
        return Err(LinkError::OutOfRange {
            what: "jitter",
            value: Duration(ns).to_string(),
            range: format!("0 to {}", Duration(JITTER_MAX_NS)),
        });
    }
    Ok(())
}

fn log_normal(median_ns: u64, sigma_milli: u32, stream: Stream, n: u64) -> u64 {
    /// 2^-53: the numbers of a stream become fractions with as many bits as an `f64` has.
    const FRACTION: f64 = 1.0 / 9_007_199_254_740_992.0;
    #[expect(clippy::cast_precision_loss, reason = "53 bits are kept exactly")]
    let fraction = |stream: Stream| (stream.at(n) >> 11) as f64 * FRACTION;
    // Box and Muller's way; the radius wants a fraction above 0.
    let radius = (-2.0 * (1.0 - fraction(stream.branch(0))).ln()).sqrt();
    let angle = std::f64::consts::TAU * fraction(stream.branch(1));
    let normal = radius * angle.cos();
    #[expect(clippy::cast_precision_loss, reason = "at most 10 s, far below 2^53")]
    let (median, most) = (median_ns as f64, JITTER_MAX_NS as f64);
    let value = median * (f64::from(sigma_milli) / 1000.0 * normal).exp();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0 to 10 s before"
    )]
    let value = value.clamp(0.0, most).round() as u64;
    value
}
