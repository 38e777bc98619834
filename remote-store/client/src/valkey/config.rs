// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which cluster, under which name, and how long each thing may take.

use std::time::Duration;

use redis::{ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo};

use super::ValkeyError;
use super::map::Address;

/// Longest name of a namespace.
pub const NAMESPACE_MAX: usize = 64;
/// Most replicas that a write may wait for.
pub const REPLICAS_MAX: u32 = 5;

/// A tier on a Valkey Cluster. All durations must be more than zero.
#[derive(Clone, Debug)]
pub struct ValkeyConfig {
    /// The first part of all keys: one daemon's, and nobody else's. Letters, digits, `-` and `_`.
    pub namespace: String,
    /// Some nodes of the cluster, from which the others are learnt: `host:port`, or
    /// `redis://user:password@host:port`, whose name and password hold for all nodes.
    pub nodes: Vec<String>,
    /// Replicas that must have a page before its write returns: the n of `WAIT n`. At least 1.
    pub replicas: u32,
    /// How long they may take.
    pub wait: Duration,
    /// How long a connection may take.
    pub connect: Duration,
    /// How long an answer may take.
    pub response: Duration,
    /// When a call gives up, with all redirections, failovers and retries in it. One attempt that
    /// was begun before may still take `connect`, `response` and `wait`.
    pub deadline: Duration,
}

impl ValkeyConfig {
    /// One replica, and durations for a cluster whose `cluster-node-timeout` is 1 to 2 seconds.
    #[must_use]
    pub fn new(namespace: impl Into<String>, nodes: Vec<String>) -> Self {
        Self {
            namespace: namespace.into(),
            nodes,
            replicas: 1,
            wait: Duration::from_millis(200),
            connect: Duration::from_millis(300),
            response: Duration::from_millis(500),
            deadline: Duration::from_secs(5),
        }
    }

    /// What must hold before anything is connected.
    pub(super) fn check(&self) -> Result<(), ValkeyError> {
        let name = &self.namespace;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || name.len() > NAMESPACE_MAX || !name.bytes().all(allowed) {
            return Err(ValkeyError::Config {
                what: format!(
                    "the namespace is \"{}\": choose 1 to {NAMESPACE_MAX} letters, digits, '-' and '_'",
                    name.escape_debug()
                ),
            });
        }
        if !(1..=REPLICAS_MAX).contains(&self.replicas) {
            return Err(ValkeyError::Config {
                what: format!(
                    "writes are to wait for {} replicas: choose 1 to {REPLICAS_MAX}",
                    self.replicas
                ),
            });
        }
        for (name, duration) in [
            ("wait", self.wait),
            ("connect", self.connect),
            ("response", self.response),
            ("deadline", self.deadline),
        ] {
            // The system takes less than a microsecond for "for ever", and WAIT a millisecond.
            if duration < Duration::from_millis(1) {
                return Err(ValkeyError::Config {
                    what: format!("the duration \"{name}\" is below a millisecond"),
                });
            }
        }
        if self.nodes.is_empty() {
            return Err(ValkeyError::Config {
                what: "no node is named: give one or more as host:port".to_owned(),
            });
        }
        Ok(())
    }

    /// The nodes' addresses, and what to say to each of them first.
    pub(super) fn seeds(&self) -> Result<(Vec<Address>, RedisConnectionInfo), ValkeyError> {
        let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name();
        let mut seeds = Vec::new();
        for node in &self.nodes {
            if !node.contains("://") {
                seeds.push(Address::parse(node).ok_or_else(|| ValkeyError::Config {
                    what: format!("\"{}\" is not host:port", node.escape_debug()),
                })?);
                continue;
            }
            // A URL may hold a password: it is not repeated in an error.
            let refused = |why: &str| ValkeyError::Config {
                what: format!("the URL of a node is not usable: {why}"),
            };
            let info = (node.as_str().into_connection_info())
                .map_err(|error| refused(&error.to_string()))?;
            let ConnectionAddr::Tcp(host, port) = info.addr() else {
                return Err(refused("only redis://host:port is, without TLS"));
            };
            seeds.push(Address {
                host: host.clone(),
                port: *port,
            });
            if info.redis_settings().password().is_some() {
                settings = info.redis_settings().clone().set_skip_set_lib_name();
            }
        }
        Ok((seeds, settings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut ValkeyConfig)) -> Result<(), ValkeyError> {
        let mut config = ValkeyConfig::new("vm-1_a", vec!["localhost:7000".to_owned()]);
        change(&mut config);
        config.check()?;
        config.seeds().map(drop)
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        with(|_| ()).unwrap();
        with(|config| config.nodes = vec!["redis://u:p@h:1".to_owned(), "h:2".to_owned()]).unwrap();
        let cases: [fn(&mut ValkeyConfig); 8] = [
            |config| config.namespace = String::new(),
            |config| config.namespace = "a}b".to_owned(),
            |config| config.namespace = "a".repeat(65),
            |config| config.replicas = 0,
            |config| config.replicas = 6,
            |config| config.wait = Duration::from_micros(999),
            |config| config.nodes.clear(),
            |config| config.nodes = vec!["rediss://h:1".to_owned()],
        ];
        for (number, change) in cases.into_iter().enumerate() {
            assert!(with(change).is_err(), "case {number}");
        }
    }

    #[test]
    fn password_is_not_in_the_error() {
        let error = with(|config| config.nodes = vec!["redis://u:secret@:x".to_owned()]);
        assert!(!error.unwrap_err().to_string().contains("secret"));
    }
}
