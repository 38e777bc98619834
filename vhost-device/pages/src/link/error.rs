// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is wrong with what an admin asked of a link, and what would be right.

use thiserror::Error;

use super::text::Duration;

/// Why a link is not changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LinkError {
    /// A word of the line cannot be read.
    #[error("Cannot read \"{word}\": write {want}")]
    BadWord {
        /// The word, shortened if it is long.
        word: String,
        /// What would be right.
        want: String,
    },
    /// Two words of the line name the same thing.
    #[error("\"{word}\" names {what} a second time: name it once")]
    Twice {
        /// The second word.
        word: String,
        /// What both name.
        what: &'static str,
    },
    /// A number is too large or too small.
    #[error("A {what} of {value} is out of range: choose {range}")]
    OutOfRange {
        /// What the number is of.
        what: &'static str,
        /// The number.
        value: String,
        /// What would be right.
        range: String,
    },
    /// A table of quantiles goes down.
    #[error("A jitter table that goes from {from} down to {to}: its values must not fall")]
    FallingTable {
        /// The larger value, before.
        from: Duration,
        /// The smaller value, after.
        to: Duration,
    },
    /// A latency that this machine cannot make.
    #[error(
        "A latency of {latency} is below the floor of this machine, {floor}: choose latency=0, which is no emulation, or at least {floor}"
    )]
    BelowFloor {
        /// What was asked for.
        latency: Duration,
        /// The shortest delay that calibration found to be kept.
        floor: Duration,
    },
    /// There is no such tier.
    #[error("No tier is named \"{tier}\": there is {known}")]
    UnknownTier {
        /// What was asked for.
        tier: String,
        /// The names there are.
        known: String,
    },
    /// Two tiers with one name.
    #[error("Two tiers are named \"{tier}\": give each its own name")]
    TierTwice {
        /// The name.
        tier: String,
    },
    /// A guest has no link of its own at this tier.
    #[error("Guest \"{guest}\" uses tier \"{tier}\"'s own link: set a link for the guest first")]
    NoOverride {
        /// The tier.
        tier: String,
        /// The guest.
        guest: String,
    },
    /// The queue of a tier's own link was to be chosen.
    #[error("\"queue\" is for a guest's link: name a guest, or leave it out")]
    QueueOfTier,
}

/// Longest part of a bad word that an error repeats.
const WORD_SHOWN: usize = 60;

impl LinkError {
    pub(crate) fn bad(word: &str, want: impl Into<String>) -> Self {
        Self::BadWord {
            word: shown(word),
            want: want.into(),
        }
    }

    pub(crate) fn twice(word: &str, what: &'static str) -> Self {
        Self::Twice {
            word: shown(word),
            what,
        }
    }
}

/// The word, cut and without control characters: it may come from anyone.
fn shown(word: &str) -> String {
    let mut text: String = (word.chars().take(WORD_SHOWN))
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if word.chars().nth(WORD_SHOWN).is_some() {
        text.push('…');
    }
    text
}
