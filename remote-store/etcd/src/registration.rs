// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A store's place in the list: a key under a lease, for as long as the store runs.
//!
//! The key is not taken from another store of the same name, unless that one is this very store
//! before its restart. Whatever etcd does meanwhile, is frozen, restarts, loses the lease, or has
//! the key deleted by somebody, the key is there again soon after etcd answers.

use std::time::Duration;

use crate::client::{Client, Conditional, Lease, When};
use crate::error::EtcdError;
use crate::record::{STORES, StoreRecord, is_name};

/// What is registered.
#[derive(Clone, Debug)]
pub struct RegistrationConfig {
    /// The store's name.
    pub name: String,
    /// What it says of itself.
    pub record: StoreRecord,
    /// How long the key outlives the store. Whole seconds; etcd has a least of its own.
    pub ttl: Duration,
    /// Where stores are listed.
    pub prefix: String,
}

impl RegistrationConfig {
    /// With a lease of 10 seconds, at the usual place.
    pub fn new(name: String, record: StoreRecord) -> Self {
        Self {
            name,
            record,
            ttl: Duration::from_secs(10),
            prefix: STORES.to_owned(),
        }
    }
}

/// What becomes of a registration, for the log.
#[derive(Debug)]
pub enum Registered {
    /// The store is in the list.
    Listed {
        /// By which revision.
        revision: i64,
    },
    /// Another store has the name; its id. Tried again.
    NameTaken {
        /// Whose it is.
        id: String,
    },
    /// etcd cannot be asked. Tried again.
    Trouble(EtcdError),
}

/// A name that can be no part of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name: 1 to 64 letters, digits, '-', '_' and '.'")]
pub struct BadName(pub String);

/// Keeps the store in the list until `stop` is ready, and takes it out then. `tell` is told what
/// happens, each thing once until it changes.
///
/// # Errors
/// The name cannot be one. Trouble with etcd is no error: it is told, and waited out.
pub async fn register(
    client: Client,
    config: RegistrationConfig,
    stop: impl Future<Output = ()>,
    mut tell: impl FnMut(Registered),
) -> Result<(), BadName> {
    if !is_name(&config.name) {
        return Err(BadName(config.name));
    }
    let mut keeper = Keeper {
        key: format!("{}{}", config.prefix, config.name),
        client,
        config,
        lease: None,
        trouble: None,
    };
    let keep = async {
        loop {
            let pause = keeper.round(&mut tell).await;
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        () = keep => {}
        () = stop => {}
    }
    if let Some(lease) = keeper.lease {
        // If nobody hears it, the lease runs out by itself.
        let _ = keeper.client.lease_revoke(lease.id).await;
    }
    Ok(())
}

#[derive(Debug)]
struct Keeper {
    client: Client,
    config: RegistrationConfig,
    key: String,
    lease: Option<Lease>,
    /// What was told last, if it was not that all is well.
    trouble: Option<String>,
}

impl Keeper {
    /// Does what is due, and says how long to wait.
    async fn round(&mut self, tell: &mut impl FnMut(Registered)) -> Duration {
        let beat = self.config.ttl.max(Duration::from_secs(1)) / 3;
        let news = match self.ensure().await {
            Ok(news) => news,
            Err(error) => Some(Registered::Trouble(error)),
        };
        let well = matches!(news, None | Some(Registered::Listed { .. }));
        if let Some(news) = news {
            let text = format!("{news:?}");
            if well || self.trouble.as_ref() != Some(&text) {
                self.trouble = (!well).then_some(text);
                tell(news);
            }
        } else {
            self.trouble = None;
        }
        if well {
            beat
        } else {
            beat.min(Duration::from_secs(1))
        }
    }

    /// Makes sure of the lease and then of the key. Says what is new.
    async fn ensure(&mut self) -> Result<Option<Registered>, EtcdError> {
        if let Some(lease) = self.lease
            && !self.client.lease_keep_alive(lease.id).await?
        {
            self.lease = None;
        }
        let lease = match self.lease {
            Some(lease) => lease,
            None => *self
                .lease
                .insert(self.client.lease_grant(self.config.ttl).await?),
        };
        let value = serde_json::to_vec(&self.config.record);
        let value = value.map_err(|error| EtcdError::Answer(error.to_string()))?;
        let mut when = When::Absent;
        // Twice: once to see who has the key, and once to replace our own older self.
        for _ in 0..2 {
            let put = self
                .client
                .put_when(when, &self.key, &value, Some(lease.id));
            match put.await? {
                Conditional::Done { revision } => {
                    return Ok(Some(Registered::Listed { revision }));
                }
                Conditional::Refused { found: None } => when = When::Absent,
                Conditional::Refused { found: Some(found) } => {
                    if found.lease == lease.id && found.value == value {
                        return Ok(None);
                    }
                    let other = serde_json::from_slice::<StoreRecord>(&found.value);
                    match other {
                        Ok(other) if other.id != self.config.record.id => {
                            return Ok(Some(Registered::NameTaken { id: other.id }));
                        }
                        _ => when = When::UnchangedSince(found.mod_revision),
                    }
                }
            }
        }
        Ok(None)
    }
}
