// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where an etcd server is.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// etcd's port for clients.
const PORT: u16 = 2379;

/// An address such as `http://10.0.0.1:2379` or `https://etcd-1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Over TLS.
    pub tls: bool,
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Where the name leads, if that is known: a sandboxed process can look up no names.
    pub address: Option<SocketAddr>,
}

/// What is wrong with the text of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no endpoint: {why}")]
pub struct BadEndpoint {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Endpoint {
    /// Looks the name up, once, so that nobody has to later. Blocks.
    ///
    /// # Errors
    /// Those of the resolver, and of a name that leads nowhere.
    pub fn resolve(&mut self) -> io::Result<()> {
        let mut found = (self.host.as_str(), self.port).to_socket_addrs()?;
        let first = found.next().ok_or(io::ErrorKind::NotFound)?;
        self.address = Some(first);
        Ok(())
    }

    /// What the `Host` header says.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let bad = |why| BadEndpoint {
            text: text.to_owned(),
            why,
        };
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| bad("it begins with http:// or https://"))?;
        let tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(bad("it begins with http:// or https://")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest
                    .split_once(']')
                    .ok_or_else(|| bad("a bracket is not closed"))?;
                (host, port.strip_prefix(':'))
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:%".contains(c);
        if host.is_empty() || !host.chars().all(plain) {
            return Err(bad("there is no host in it"));
        }
        let port = port.map_or(Ok(PORT), str::parse);
        let port = port.map_err(|_| bad("the port is no number below 65536"))?;
        let address = host.parse::<IpAddr>().ok();
        Ok(Self {
            tls,
            host: host.to_owned(),
            port,
            address: address.map(|address| SocketAddr::new(address, port)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_endpoints_are_understood() {
        let plain: Endpoint = "http://10.0.0.1:2379".parse().unwrap();
        assert_eq!((plain.tls, plain.port), (false, 2379));
        assert_eq!(plain.address, Some("10.0.0.1:2379".parse().unwrap()));
        let named: Endpoint = "https://etcd-1.example/".parse().unwrap();
        assert_eq!(named.address, None);
        assert_eq!(named.to_string(), "https://etcd-1.example:2379");
        let six: Endpoint = "http://[::1]:1".parse().unwrap();
        assert_eq!(six.authority(), "[::1]:1");
        assert_eq!(six.address, Some("[::1]:1".parse().unwrap()));
    }

    #[test]
    fn others_are_refused_with_a_reason() {
        for text in [
            "",
            "10.0.0.1:2379",
            "ftp://a",
            "http://",
            "http://a:b",
            "http://[::1",
            "http://a b",
            "http://a:70000",
        ] {
            let refused = text.parse::<Endpoint>().unwrap_err();
            assert!(refused.to_string().contains("is no endpoint"), "{text}");
        }
    }
}
