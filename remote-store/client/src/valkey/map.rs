// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which node is the primary of which hash slot, as a node of the cluster told it.

use std::collections::BTreeSet;
use std::fmt;

use redis::Value;

/// Hash slots of a cluster.
pub(super) const HASH_SLOTS: usize = 16384;

/// Where a node listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Address {
    /// Reads `host:port`; a host may be an IPv6 address, in brackets or not.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.parse().ok().filter(|port| *port != 0)?;
        (!host.is_empty()).then(|| Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// One answer to CLUSTER SLOTS.
#[derive(Debug)]
pub(super) struct SlotMap {
    /// The primary's place in `primaries`, for each hash slot that has one.
    owner: Vec<Option<u16>>,
    primaries: Vec<Address>,
    replicas: BTreeSet<Address>,
}

impl SlotMap {
    /// Reads an answer of the node at `asked`; `None` if it is none, or names no primary.
    pub(super) fn parse(answer: &Value, asked: &Address) -> Option<Self> {
        let Value::Array(ranges) = answer else {
            return None;
        };
        let mut map = Self {
            owner: vec![None; HASH_SLOTS],
            primaries: Vec::new(),
            replicas: BTreeSet::new(),
        };
        for range in ranges {
            let Value::Array(fields) = range else {
                return None;
            };
            let [Value::Int(first), Value::Int(last), primary, replicas @ ..] = fields.as_slice()
            else {
                return None;
            };
            let first = usize::try_from(*first).ok()?;
            let last = usize::try_from(*last).ok()?;
            let primary = node(primary, asked)?;
            let number = match map.primaries.iter().position(|known| *known == primary) {
                Some(number) => number,
                None => {
                    map.primaries.push(primary);
                    map.primaries.len() - 1
                }
            };
            let number = u16::try_from(number).ok()?;
            map.owner.get_mut(first..=last)?.fill(Some(number));
            let replicas = replicas.iter().filter_map(|replica| node(replica, asked));
            map.replicas.extend(replicas);
        }
        (!map.primaries.is_empty()).then_some(map)
    }

    /// The primary of a key's hash slot.
    pub(super) fn primary(&self, key: &str) -> Option<&Address> {
        let number = (*self.owner.get(usize::from(hash_slot(key)))?)?;
        self.primaries.get(usize::from(number))
    }

    /// All primaries.
    pub(super) fn primaries(&self) -> &[Address] {
        &self.primaries
    }

    /// All nodes, primaries first.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Address> {
        self.primaries.iter().chain(&self.replicas)
    }

    /// Whether each hash slot has a primary.
    pub(super) fn is_whole(&self) -> bool {
        self.owner.iter().all(Option::is_some)
    }
}

/// A node of the answer. One that does not know its own address is the one that was asked.
fn node(value: &Value, asked: &Address) -> Option<Address> {
    let Value::Array(fields) = value else {
        return None;
    };
    let host = match fields.first()? {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?,
        Value::SimpleString(text) => text,
        Value::Nil => "",
        _ => return None,
    };
    let Value::Int(port) = fields.get(1)? else {
        return None;
    };
    let host = if host.is_empty() || host == "?" {
        asked.host.clone()
    } else {
        host.to_owned()
    };
    Some(Address {
        host,
        port: u16::try_from(*port).ok()?,
    })
}

/// The hash slot of a key: of what stands in its first pair of braces, if anything does.
pub(super) fn hash_slot(key: &str) -> u16 {
    let hashed = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map(|(tag, _)| tag)
        .filter(|tag| !tag.is_empty())
        .unwrap_or(key);
    // CRC-16/XMODEM.
    let crc = hashed.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            (crc << 1) ^ (0x1021 * (crc >> 15))
        })
    });
    crc % 16384
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn address(port: u16) -> Address {
        Address {
            host: "10.0.0.1".to_owned(),
            port,
        }
    }

    fn entry(host: Value, port: i64) -> Value {
        Value::Array(vec![
            host,
            Value::Int(port),
            text("id"),
            Value::Array(vec![]),
        ])
    }

    #[test]
    fn hash_slots_are_the_published_ones() {
        // From the specification of the cluster: CRC-16 of "123456789" is 0x31c3.
        assert_eq!(hash_slot("123456789"), 0x31c3);
        assert_eq!(hash_slot("foo"), 12182);
        assert_eq!(hash_slot("{user1000}.following"), hash_slot("user1000"));
        assert_eq!(hash_slot("foo{{bar}}zap"), hash_slot("{bar"));
    }

    #[test]
    fn answer_gives_each_hash_slot_its_primary() {
        let answer = Value::Array(vec![
            Value::Array(vec![
                Value::Int(0),
                Value::Int(12181),
                entry(text("10.0.0.1"), 7000),
                entry(text("10.0.0.1"), 7003),
            ]),
            Value::Array(vec![
                Value::Int(12182),
                Value::Int(16383),
                entry(Value::Nil, 7001),
            ]),
        ]);
        let map = SlotMap::parse(&answer, &address(7001)).unwrap();
        assert_eq!(map.primary("foo"), Some(&address(7001)));
        assert_eq!(map.primary("{user1000}"), Some(&address(7000)));
        let nodes: Vec<_> = map.nodes().collect();
        assert_eq!(nodes, [&address(7000), &address(7001), &address(7003)]);
        assert!(map.is_whole());
    }

    #[test]
    fn answer_that_cannot_be_is_refused() {
        let answers = [
            Value::Nil,
            Value::Array(vec![]),
            Value::Array(vec![Value::Array(vec![Value::Int(0)])]),
            Value::Array(vec![Value::Array(vec![
                Value::Int(16000),
                Value::Int(16384),
                entry(text("h"), 1),
            ])]),
            Value::Array(vec![Value::Array(vec![
                Value::Int(5),
                Value::Int(-1),
                entry(text("h"), 1),
            ])]),
            Value::Array(vec![Value::Array(vec![
                Value::Int(0),
                Value::Int(1),
                entry(text("h"), 70000),
            ])]),
        ];
        for answer in answers {
            assert!(SlotMap::parse(&answer, &address(1)).is_none(), "{answer:?}");
        }
    }

    #[test]
    fn addresses_are_read_and_shown() {
        for (text, host, port) in [
            ("a.example:7000", "a.example", 7000),
            ("[::1]:7000", "::1", 7000),
            ("::1:7000", "::1", 7000),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.host.as_str(), address.port), (host, port));
            assert_eq!(Address::parse(&address.to_string()), Some(address));
        }
        for text in ["", "a", ":1", "a:", "a:0", "a:65536"] {
            assert_eq!(Address::parse(text), None, "{text}");
        }
    }
}
