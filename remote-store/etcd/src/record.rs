// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What stands in etcd: where, and in which words.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::client::KeyValue;

/// Under this key and a name each store says where it is.
pub const STORES: &str = "/virtio-tmem/stores/";

/// Under this key and a namespace each client says that the namespace is its own.
pub const CLIENTS: &str = "/virtio-tmem/clients/";

/// The longest name: it goes into keys, logs, and tables of members.
pub const NAME_MAX: usize = 64;

/// What a store says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRecord {
    /// Where it is, in the words of the client's configuration.
    pub address: String,
    /// Which store it is, so that two of one name are told apart.
    pub id: String,
    /// What else may matter: `domain` is the failure domain.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Who has a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerRecord {
    /// For people: a host's name, say.
    pub holder: String,
    /// Which one of the holder's processes; no two have the same.
    pub process: String,
}

/// A store as a watch or a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedStore {
    /// Its name.
    pub name: String,
    /// What it says.
    pub record: StoreRecord,
}

/// A name may be part of a key: letters, digits, `-`, `_`, `.`, at most [`NAME_MAX`] of them.
pub fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=NAME_MAX).contains(&name.len()) && name.chars().all(plain)
}

/// The name in a key below `prefix`.
pub(crate) fn name_in<'a>(key: &'a str, prefix: &str) -> Option<&'a str> {
    key.strip_prefix(prefix).filter(|name| is_name(name))
}

/// The store that a key describes; None if it describes none, which anybody may have written.
pub(crate) fn listed(key: &KeyValue, prefix: &str) -> Option<ListedStore> {
    let record: StoreRecord = serde_json::from_slice(&key.value).ok()?;
    let name = name_in(&key.key, prefix)?.to_owned();
    (!record.address.is_empty()).then_some(ListedStore { name, record })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(key: &str, value: &str) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: value.into(),
            create_revision: 1,
            mod_revision: 1,
            lease: 0,
        }
    }

    #[test]
    fn a_record_is_read_and_what_is_none_is_left_out() {
        let good = r#"{"address":"10.0.0.1:7400","id":"a","labels":{"domain":"r1"}}"#;
        let store = listed(&key("/virtio-tmem/stores/one", good), STORES).unwrap();
        assert_eq!(store.name, "one");
        assert_eq!(store.record.labels["domain"], "r1");
        for (name, value) in [
            ("/virtio-tmem/stores/one", "{}"),
            ("/virtio-tmem/stores/one", "nonsense"),
            ("/virtio-tmem/stores/", good),
            ("/virtio-tmem/stores/a/b", good),
            ("/elsewhere/one", good),
        ] {
            assert_eq!(listed(&key(name, value), STORES), None, "{name} {value}");
        }
    }
}
