// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The list of stores, followed for ever.
//!
//! A list, then a watch from the revision after it, then another list when the watch broke, when
//! what it asked for is compacted away, or when it was silent for a while: a frozen etcd says nothing,
//! and a silent watch cannot be told from it. Each list replaces what is known. While etcd cannot be
//! asked, nothing changes: a store is taken off only by a delete that etcd reports, or by a list that
//! does not have it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::client::{Client, KeyValue};
use crate::error::EtcdError;
use crate::record::{STORES, StoreRecord, listed, name_in};
use crate::watch::Change;

/// How the stores are followed.
#[derive(Clone, Debug)]
pub struct FollowConfig {
    /// Where they are listed.
    pub prefix: String,
    /// A watch that is silent for so long is doubted.
    pub silence: Duration,
    /// The pause after etcd could not be asked.
    pub pause: Duration,
}

impl Default for FollowConfig {
    fn default() -> Self {
        Self {
            prefix: STORES.to_owned(),
            silence: Duration::from_secs(15),
            pause: Duration::from_secs(1),
        }
    }
}

/// What becomes of the list.
#[derive(Debug)]
pub enum StoreNews {
    /// A store is there, or says something else of itself.
    Listed {
        /// Its name.
        name: String,
        /// What it says.
        record: StoreRecord,
    },
    /// A store is off the list.
    Gone {
        /// Its name.
        name: String,
    },
    /// The list is complete, as of this revision: told after the first and after every later list.
    Complete {
        /// The revision.
        revision: i64,
    },
    /// etcd cannot be asked; what is known stays. Told once until it answers again.
    Trouble(EtcdError),
}

/// Follows the list.
#[derive(Debug)]
pub struct Follower {
    client: Client,
    config: FollowConfig,
    known: BTreeMap<String, StoreRecord>,
    troubled: bool,
}

impl Follower {
    /// Knows nothing yet.
    pub fn new(client: Client, config: FollowConfig) -> Self {
        Self {
            client,
            config,
            known: BTreeMap::new(),
            troubled: false,
        }
    }

    /// Follows the list for ever; `tell` is told what is new, in order. Stop it by dropping the future.
    pub async fn follow(&mut self, mut tell: impl FnMut(StoreNews)) {
        loop {
            if let Err(error) = self.list_and_watch(&mut tell).await {
                self.client.rotate();
                let compacted = matches!(error, EtcdError::Compacted(_));
                let ended = matches!(error, EtcdError::WatchEnded(_));
                if compacted || ended {
                    continue;
                }
                if !std::mem::replace(&mut self.troubled, true) {
                    tell(StoreNews::Trouble(error));
                }
                tokio::time::sleep(self.config.pause).await;
            }
        }
    }

    async fn list_and_watch(&mut self, tell: &mut impl FnMut(StoreNews)) -> Result<(), EtcdError> {
        let revision = self.list(tell).await?;
        let timeout = self.client.timeout();
        let mut watch = self.client.watch(&self.config.prefix, revision + 1).await?;
        let created = tokio::time::timeout(timeout, watch.created()).await;
        created.map_err(|_| EtcdError::WatchEnded("it was never confirmed".into()))??;
        loop {
            match tokio::time::timeout(self.config.silence, watch.next()).await {
                Ok(change) => self.apply(change?, tell),
                // Silence may be that of a frozen server. A list that holds news says so.
                Err(_) => {
                    let listing = self.client.list(&self.config.prefix).await?;
                    if self.take(&listing.keys, listing.revision, tell) {
                        return Err(EtcdError::WatchEnded("it missed a change".into()));
                    }
                }
            }
        }
    }

    async fn list(&mut self, tell: &mut impl FnMut(StoreNews)) -> Result<i64, EtcdError> {
        let listing = self.client.list(&self.config.prefix).await?;
        self.troubled = false;
        self.take(&listing.keys, listing.revision, tell);
        Ok(listing.revision)
    }

    /// A whole list: what is not in it is gone. True if it holds news.
    fn take(&mut self, keys: &[KeyValue], revision: i64, tell: &mut impl FnMut(StoreNews)) -> bool {
        let prefix = &self.config.prefix;
        let found: BTreeMap<String, StoreRecord> = keys
            .iter()
            .filter_map(|key| listed(key, prefix))
            .map(|store| (store.name, store.record))
            .collect();
        for name in self.known.keys() {
            if !found.contains_key(name) {
                tell(StoreNews::Gone { name: name.clone() });
            }
        }
        for (name, record) in &found {
            if self.known.get(name) != Some(record) {
                tell(StoreNews::Listed {
                    name: name.clone(),
                    record: record.clone(),
                });
            }
        }
        let news = self.known != found;
        self.known = found;
        tell(StoreNews::Complete { revision });
        news
    }

    fn apply(&mut self, change: Change, tell: &mut impl FnMut(StoreNews)) {
        match change {
            Change::Put(key) => {
                let Some(store) = listed(&key, &self.config.prefix) else {
                    tracing::warn!(key = key.key, "a key that describes no store is left aside");
                    return;
                };
                if self.known.get(&store.name) != Some(&store.record) {
                    self.known.insert(store.name.clone(), store.record.clone());
                    tell(StoreNews::Listed {
                        name: store.name,
                        record: store.record,
                    });
                }
            }
            Change::Delete { key, .. } => {
                let name = name_in(&key, &self.config.prefix);
                if let Some((name, _)) = name.and_then(|name| self.known.remove_entry(name)) {
                    tell(StoreNews::Gone { name });
                }
            }
        }
    }
}
