// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Numbers with units, as an admin writes them: durations, rates, decimals. Nothing is rounded: what
//! cannot be kept exactly is refused, and what is printed reads back as the same.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::LinkError;

/// Nanoseconds, written with a unit: `5us`, `1.5ms`, `0`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Duration(pub u64);

/// Units of time, each with its power of ten in nanoseconds; those that are printed, largest first.
const TIMES: [(&str, u32); 4] = [("s", 9), ("ms", 6), ("us", 3), ("ns", 0)];

impl FromStr for Duration {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        let want = "a time in whole nanoseconds, such as 800ns, 5us, 1.5ms or 2s";
        let bad = || LinkError::bad(text, want);
        if text == "0" {
            return Ok(Self(0));
        }
        let (number, unit) = split_unit(text).ok_or_else(bad)?;
        let unit = if unit == "µs" { "us" } else { unit };
        let (_, power) = *TIMES
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(bad)?;
        decimal(number, power).map(Self).ok_or_else(bad)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_unit(f, self.0, &TIMES)
    }
}

/// Bits a second, written with a unit: `25Gbit/s`, `3GB/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rate(pub(crate) NonZeroU64);

const RATES: [(&str, u32); 5] = [
    ("Tbit/s", 12),
    ("Gbit/s", 9),
    ("Mbit/s", 6),
    ("kbit/s", 3),
    ("bit/s", 0),
];

/// What a rate should look like.
pub(crate) const RATE_WANT: &str =
    "unlimited, or a rate in whole bits a second, such as 25Gbit/s, 800Mbit/s or 3GB/s";

impl FromStr for Rate {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        let bad = || LinkError::bad(text, RATE_WANT);
        let (number, unit) = split_unit(text).ok_or_else(bad)?;
        let bits = RATES.iter().find(|(name, _)| *name == unit);
        let (power, times) = match bits {
            Some((_, power)) => (*power, 1),
            None => match unit {
                "kB/s" => (3, 8),
                "MB/s" => (6, 8),
                "GB/s" => (9, 8),
                "TB/s" => (12, 8),
                _ => return Err(bad()),
            },
        };
        decimal(number, power)
            .and_then(|rate| rate.checked_mul(times))
            .and_then(NonZeroU64::new)
            .map(Self)
            .ok_or_else(bad)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_unit(f, self.0.get(), &RATES)
    }
}

/// Splits `5us` before its unit; nothing if either part is empty.
fn split_unit(text: &str) -> Option<(&str, &str)> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(at);
    (!number.is_empty()).then_some((number, unit))
}

/// Writes `value` in the largest unit of which it is a whole number.
fn with_unit(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u32)]) -> fmt::Result {
    if value == 0 {
        return f.pad("0");
    }
    for (name, power) in units {
        let unit = 10_u64.pow(*power);
        if value.is_multiple_of(unit) {
            return f.pad(&format!("{}{name}", value / unit));
        }
    }
    f.pad(&value.to_string())
}

/// Reads `12.5` as a multiple of 10^-`digits`; nothing if that is not exact or does not fit.
pub(crate) fn decimal(text: &str, digits: u32) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let number = |part: &str| {
        let plain = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| part.parse::<u64>().ok()).flatten()
    };
    number(fraction.get(..1)?)?;
    let trimmed = fraction.trim_end_matches('0');
    let places = u32::try_from(trimmed.len()).ok()?;
    let rest = 10_u64.checked_pow(digits.checked_sub(places)?)?;
    let fraction = if trimmed.is_empty() {
        0
    } else {
        number(trimmed)?.checked_mul(rest)?
    };
    number(whole)?
        .checked_mul(10_u64.checked_pow(digits)?)?
        .checked_add(fraction)
}

/// Prints what [`decimal`] reads.
pub(crate) struct Decimal {
    pub(crate) value: u64,
    pub(crate) digits: u32,
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = 10_u64.pow(self.digits);
        let (whole, fraction) = (self.value / one, self.value % one);
        if fraction == 0 {
            return write!(f, "{whole}");
        }
        let width = usize::try_from(self.digits).unwrap_or(0);
        let fraction = format!("{fraction:0width$}");
        write!(f, "{whole}.{}", fraction.trim_end_matches('0'))
    }
}

/// A whole number.
pub(crate) fn whole(word: &str, text: &str, want: &str) -> Result<u64, LinkError> {
    decimal(text, 0).ok_or_else(|| LinkError::bad(word, want))
}

/// The words of a line, each split at its first `=`.
pub(crate) fn words<'a>(
    line: &'a str,
    want: &'a str,
) -> impl Iterator<Item = Result<(&'a str, &'a str, &'a str), LinkError>> {
    line.split_whitespace().map(move |word| {
        let (key, value) = (word.split_once('=')).ok_or_else(|| LinkError::bad(word, want))?;
        Ok((word, key, value))
    })
}

/// Keeps `value` if nothing was there.
pub(crate) fn once<T>(
    place: &mut Option<T>,
    value: T,
    word: &str,
    what: &'static str,
) -> Result<(), LinkError> {
    if place.replace(value).is_some() {
        return Err(LinkError::twice(word, what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_written_and_print_in_the_largest_whole_unit() {
        for (text, ns, printed) in [
            ("0", 0, "0"),
            ("0ns", 0, "0"),
            ("800ns", 800, "800ns"),
            ("5us", 5_000, "5us"),
            ("5µs", 5_000, "5us"),
            ("1.5us", 1_500, "1500ns"),
            ("1.50ms", 1_500_000, "1500us"),
            ("2s", 2_000_000_000, "2s"),
            ("0.000000001s", 1, "1ns"),
        ] {
            let read: Duration = text.parse().unwrap();
            assert_eq!((read.0, read.to_string().as_str()), (ns, printed), "{text}");
            assert_eq!(printed.parse::<Duration>().unwrap(), read);
        }
    }

    #[test]
    fn durations_that_are_not_are_refused() {
        for text in [
            "",
            "5",
            "us",
            "-5us",
            "5 us",
            "5usec",
            "1.5ns",
            "0.0001us",
            ".5us",
            "5.us",
            "1e3us",
            "1..5us",
            "99999999999s",
            "5us5us",
            "+5us",
            "٥us",
        ] {
            let error = text.parse::<Duration>().unwrap_err();
            assert!(error.to_string().contains("5us"), "{text}: {error}");
        }
    }

    #[test]
    fn rates_read_bits_and_bytes() {
        for (text, bps, printed) in [
            ("25Gbit/s", 25_000_000_000, "25Gbit/s"),
            ("12.5Gbit/s", 12_500_000_000, "12500Mbit/s"),
            ("3GB/s", 24_000_000_000, "24Gbit/s"),
            ("1bit/s", 1, "1bit/s"),
        ] {
            let read: Rate = text.parse().unwrap();
            assert_eq!((read.0.get(), read.to_string().as_str()), (bps, printed));
        }
        for text in [
            "25", "25G", "0Gbit/s", "Gbit/s", "25gbit/s", "-1Gbit/s", "0.5bit/s",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn decimals_print_as_they_were_read() {
        for (text, digits, value) in [("0.5", 3, 500), ("4", 3, 4000), ("0.001", 9, 1_000_000)] {
            assert_eq!(decimal(text, digits), Some(value));
            assert_eq!(Decimal { value, digits }.to_string(), text);
        }
        for text in [
            "0.0001",
            "",
            ".",
            "1.",
            "-1",
            "18446744073709551616",
            "1.x",
            "1.0.0",
            "1.ß",
        ] {
            assert_eq!(decimal(text, 3), None, "{text}");
        }
    }
}
