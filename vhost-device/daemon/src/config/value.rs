// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Single values: sizes, percentages, names, and what they may be.

use tmem_abi::PAGE_SIZE;
use tmem_admin_api::Watermarks;

use super::ConfigError;
use crate::limits::NAME_BYTES_MAX;

/// Reads a size in bytes: a whole number and a unit of 1024s.
pub(super) fn size(key: &str, text: &str) -> Result<u64, ConfigError> {
    let error = || ConfigError::Size {
        key: key.to_owned(),
        value: text.to_owned(),
    };
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "B" => 0,
        "KiB" | "K" => 10,
        "MiB" | "M" => 20,
        "GiB" | "G" => 30,
        "TiB" | "T" => 40,
        _ => return Err(error()),
    };
    let number: u64 = number.parse().map_err(|_| error())?;
    number.checked_mul(1 << shift).ok_or_else(error)
}

/// Reads a size in whole pages, at least one.
pub(super) fn pages(key: &str, text: &str) -> Result<u64, ConfigError> {
    let pages = pages_or_none(key, text)?;
    if pages == 0 {
        return Err(ConfigError::SizeRange {
            key: key.to_owned(),
            value: text.to_owned(),
        });
    }
    Ok(pages)
}

/// Reads a size in whole pages, which may be 0.
pub(super) fn pages_or_none(key: &str, text: &str) -> Result<u64, ConfigError> {
    let bytes = size(key, text)?;
    let page = PAGE_SIZE as u64;
    if bytes % page != 0 || bytes > 15 << 40 {
        return Err(ConfigError::SizeRange {
            key: key.to_owned(),
            value: text.to_owned(),
        });
    }
    Ok(bytes / page)
}

/// Reads a size in frames.
pub(super) fn frames(key: &str, text: &str) -> Result<u32, ConfigError> {
    let pages = pages(key, text)?;
    u32::try_from(pages).map_err(|_| ConfigError::SizeRange {
        key: key.to_owned(),
        value: text.to_owned(),
    })
}

pub(super) fn range<T: Into<u64> + Copy>(
    key: &str,
    value: T,
    min: T,
    max: T,
) -> Result<(), ConfigError> {
    let (value, min, max) = (value.into(), min.into(), max.into());
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::Range {
        key: key.to_owned(),
        value,
        min,
        max,
    })
}

/// Whether it can be a guest's name, or a file's that is made from one.
pub(crate) fn is_name(name: &str) -> bool {
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let goes_on = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    starts && name.chars().all(goes_on) && name.len() <= NAME_BYTES_MAX
}

pub(super) fn name(key: &str, name: &str) -> Result<(), ConfigError> {
    if is_name(name) {
        return Ok(());
    }
    Err(ConfigError::Name {
        key: key.to_owned(),
        value: name.to_owned(),
    })
}

/// Reads a whole number of percent.
pub(super) fn percent(key: &str, text: &str) -> Result<u8, ConfigError> {
    let number = text.strip_suffix('%').map(str::trim_end);
    let number = number.and_then(|number| number.parse().ok());
    let possible = number.filter(|&percent| percent <= Watermarks::PERCENT_MAX);
    possible.ok_or_else(|| ConfigError::Percent {
        key: key.to_owned(),
        value: text.to_owned(),
    })
}
