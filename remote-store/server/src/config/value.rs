// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Single values: sizes, numbers, addresses.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::ConfigError;

/// Bytes in a page.
const PAGE: u64 = 4096;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Only this host reaches it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Reads an address.
pub(super) fn address(key: &'static str, text: &str) -> Result<Address, ConfigError> {
    if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
        return Ok(Address::Unix(path.into()));
    }
    let tcp = text.strip_prefix("tcp://").unwrap_or(text);
    let parsed = tcp.parse().map_err(|_| ConfigError::Address {
        key,
        value: text.to_owned(),
    });
    parsed.map(Address::Tcp)
}

/// Reads a size in whole pages, at least one.
pub(super) fn pages(key: &str, text: &str) -> Result<u64, ConfigError> {
    let wrong = || ConfigError::Size {
        key: key.to_owned(),
        value: text.to_owned(),
    };
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "KiB" | "K" => 10,
        "MiB" | "M" => 20,
        "GiB" | "G" => 30,
        "TiB" | "T" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let bytes = number.checked_mul(1 << shift).ok_or_else(wrong)?;
    if bytes == 0 || bytes % PAGE != 0 {
        return Err(wrong());
    }
    Ok(bytes / PAGE)
}

/// Checks a number.
pub(super) fn within<T: Copy + Into<u64> + PartialOrd>(
    key: &'static str,
    value: T,
    (min, max): (T, T),
) -> Result<T, ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    Err(ConfigError::Range {
        key,
        value: value.into(),
        min: min.into(),
        max: max.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_a_number_of_pages() {
        assert_eq!(pages("capacity", "4KiB").unwrap(), 1);
        assert_eq!(pages("capacity", "2 GiB").unwrap(), 1 << 19);
        for wrong in ["", "1", "1KiB", "0MiB", "1.5GiB", "99999999TiB", "MiB"] {
            assert!(pages("capacity", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn address_is_tcp_or_a_path() {
        let is_local = |text: &str| address("listen", text).unwrap().is_local();
        assert!(is_local("tcp://127.0.0.1:1") && is_local("[::1]:1") && is_local("unix:/x"));
        assert!(is_local("[::ffff:127.0.0.1]:1"));
        assert!(!is_local("0.0.0.0:1") && !is_local("tcp://[::]:0"));
        for wrong in ["", "unix:", "localhost:1", "10.0.0.1", "tcp://unix:/x"] {
            assert!(address("listen", wrong).is_err(), "{wrong}");
        }
    }
}
