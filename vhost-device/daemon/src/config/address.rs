// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where a store listens: `10.0.0.1:7440`, `[fd00::1]:7440`, `store1.example:7440`, or
//! `unix:/run/remote-store/sock`.
//!
//! A name is looked up once, by the keeper, before its sandbox: a worker can ask nobody. From then on it
//! is written with what it stands for, `store1.example@10.0.0.1:7440`, since the store's certificate has
//! the name.

use std::fmt;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a store listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum StoreAddress {
    /// By TCP.
    Tcp {
        /// The name that its certificate has, where that is not the host's.
        name: Option<String>,
        /// A number or a name, an IPv6 number without its brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// On a socket of this host.
    Unix(PathBuf),
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no address of a store: write HOST:PORT, such as \"10.0.0.1:7440\" or \"[fd00::1]:7440\", or \"unix:\" and an absolute path"
)]
pub struct AddressError {
    text: String,
}

const UNIX: &str = "unix:";

impl StoreAddress {
    /// Nothing that is sent there leaves this host.
    #[must_use]
    pub fn is_on_this_host(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { host, .. } => {
                host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
            }
        }
    }

    /// The same with a number in place of a name that only others can look up.
    ///
    /// # Errors
    /// What the system says of the name.
    pub fn looked_up(&self) -> io::Result<Self> {
        let Self::Tcp { host, port, .. } = self else {
            return Ok(self.clone());
        };
        if !self.is_a_name() {
            return Ok(self.clone());
        }
        let mut found = (host.as_str(), *port).to_socket_addrs()?;
        let found = found.next().ok_or(io::ErrorKind::NotFound)?;
        Ok(Self::Tcp {
            name: Some(host.clone()),
            host: found.ip().to_string(),
            port: *port,
        })
    }

    /// Somebody has to look it up.
    #[must_use]
    pub fn is_a_name(&self) -> bool {
        match self {
            Self::Tcp { host, .. } => host.parse::<IpAddr>().is_err(),
            Self::Unix(_) => false,
        }
    }
}

impl FromStr for StoreAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = || AddressError {
            text: text.to_owned(),
        };
        if let Some(path) = text.strip_prefix(UNIX) {
            let path = PathBuf::from(path);
            let plain = path.is_absolute() && path.file_name().is_some();
            return plain.then_some(Self::Unix(path)).ok_or_else(error);
        }
        let (name, place) = match text.split_once('@') {
            Some((name, place)) => (Some(name), place),
            None => (None, text),
        };
        let (host, port) = place.rsplit_once(':').ok_or_else(error)?;
        let port = port.parse().ok().filter(|port| *port != 0);
        let bare = host.strip_prefix('[').map(|host| host.strip_suffix(']'));
        let host = match bare {
            Some(bare) => bare.filter(|host| host.parse::<std::net::Ipv6Addr>().is_ok()),
            None => Some(host).filter(|host| is_host(host)),
        };
        let named = name.is_none_or(is_host);
        // What a name stands for is a number.
        let number = host.filter(|host| name.is_none() || host.parse::<IpAddr>().is_ok());
        match (number, port) {
            (Some(host), Some(port)) if named => Ok(Self::Tcp {
                name: name.map(str::to_owned),
                host: host.to_owned(),
                port,
            }),
            _ => Err(error()),
        }
    }
}

/// An IPv4 number or a name.
fn is_host(host: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !host.is_empty()
        && host.len() <= 253
        && host.chars().all(allowed)
        && host.starts_with(|c: char| c.is_ascii_alphanumeric())
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { name, host, port } => {
                if let Some(name) = name {
                    write!(f, "{name}@")?;
                }
                if host.contains(':') {
                    write!(f, "[{host}]:{port}")
                } else {
                    write!(f, "{host}:{port}")
                }
            }
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl TryFrom<String> for StoreAddress {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<StoreAddress> for String {
    fn from(address: StoreAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_as_it_was_written() {
        for text in [
            "10.0.0.1:7440",
            "[fd00::1]:7440",
            "store1.example:1",
            "store1.example@10.0.0.1:7440",
            "store1@[::1]:7440",
            "unix:/run/remote-store/sock",
        ] {
            let address: StoreAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            let json = serde_json::to_string(&address).unwrap();
            assert_eq!(
                serde_json::from_str::<StoreAddress>(&json).unwrap(),
                address
            );
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_an_example() {
        for text in [
            "",
            "10.0.0.1",
            "10.0.0.1:",
            "10.0.0.1:0",
            "10.0.0.1:65536",
            ":7440",
            "fd00::1:7440",
            "[10.0.0.1]:7440",
            "a b:7440",
            "a@b:7440",
            "@10.0.0.1:7440",
            "a@unix:/s",
            "unix:run/sock",
            "unix:/",
            "http://a:1",
        ] {
            let error = text.parse::<StoreAddress>().unwrap_err().to_string();
            assert!(error.contains("HOST:PORT"), "{text}: {error}");
        }
    }

    #[test]
    fn a_number_needs_no_looking_up_and_a_name_keeps_itself() {
        let looked_up = |text: &str| text.parse::<StoreAddress>().unwrap().looked_up();
        for text in ["10.0.0.1:1", "[::1]:1", "unix:/s", "a@10.0.0.1:1"] {
            assert_eq!(looked_up(text).unwrap().to_string(), text);
        }
        let here = looked_up("localhost:7").unwrap();
        assert!(here.to_string().starts_with("localhost@"), "{here}");
        assert!(here.is_on_this_host() && !here.is_a_name());
    }

    #[test]
    fn only_loopback_and_unix_sockets_are_on_this_host() {
        let here = |text: &str| text.parse::<StoreAddress>().unwrap().is_on_this_host();
        assert!(here("127.0.0.1:1") && here("[::1]:1") && here("unix:/s") && here("localhost:1"));
        assert!(!here("10.0.0.1:1") && !here("store:1") && !here("[fd00::1]:1"));
    }
}
