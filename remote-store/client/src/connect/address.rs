// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Addresses of stores, as admins write them.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use super::AddressError;

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP port, and the name that its certificate must have if that is not the IP address.
    Tcp {
        /// Where.
        at: SocketAddr,
        /// The name to check.
        name: Option<String>,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let unreadable = || AddressError::Unreadable {
            address: text.into(),
        };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err(unreadable());
            }
            return Ok(Self::Unix(path.into()));
        }
        let rest = ["tcp://", "tcp:", "tls://", "tls:"]
            .into_iter()
            .find_map(|scheme| text.strip_prefix(scheme))
            .unwrap_or(text);
        let (name, at) = match rest.rsplit_once('@') {
            Some((name, at)) if !name.is_empty() => (Some(name.to_owned()), at),
            Some(_) => return Err(unreadable()),
            None => (None, rest),
        };
        let at = at.parse().map_err(|_| unreadable())?;
        Ok(Self::Tcp { at, name })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { at, name: None } => write!(f, "{at}"),
            Self::Tcp {
                at,
                name: Some(name),
            } => write!(f, "{name}@{at}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_written_again() {
        for (text, again) in [
            ("10.0.0.1:7400", "10.0.0.1:7400"),
            ("tcp:10.0.0.1:7400", "10.0.0.1:7400"),
            ("tcp://[::1]:7400", "[::1]:7400"),
            ("rack1@10.0.0.1:7400", "rack1@10.0.0.1:7400"),
            ("tls:rack1@10.0.0.1:7400", "rack1@10.0.0.1:7400"),
            ("unix:/run/store", "unix:/run/store"),
            ("unix:///run/store", "unix:/run/store"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), again);
            assert_eq!(again.parse(), Ok(address));
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "unix:",
            "10.0.0.1",
            "host:7400",
            "@10.0.0.1:1",
            "tcp:",
            "1.2.3.4:70000",
        ] {
            let read = text.parse::<Address>();
            assert!(
                matches!(read, Err(AddressError::Unreadable { .. })),
                "{text}"
            );
        }
    }
}
