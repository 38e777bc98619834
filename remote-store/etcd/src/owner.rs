// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whose a namespace is.
//!
//! This is no lock. A client that was cut off may believe for a while that it owns what another has
//! claimed since; no lease prevents that. What does is the epoch that a claim gives, the revision of
//! its transaction: whoever claims later has a larger one, every request to a store carries it, and
//! a store that has seen a larger one serves the smaller no more.

use std::time::Duration;

use crate::client::{Client, Conditional, KeyValue, Lease, When};
use crate::error::EtcdError;
use crate::record::{CLIENTS, OwnerRecord, is_name};
use crate::registration::BadName;

/// What is claimed, and by whom.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The namespace.
    pub namespace: String,
    /// Who claims it. The same holder's claim replaces an earlier process of its own at once.
    pub owner: OwnerRecord,
    /// How long the claim outlives its holder.
    pub ttl: Duration,
    /// Takes it from another holder, alive or not, which the stores then fence off.
    pub force: bool,
}

/// Why a namespace could not be claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// A name that cannot be one.
    #[error(transparent)]
    Name(#[from] BadName),
    /// Somebody else has it.
    #[error("Namespace {namespace} belongs to {holder}")]
    Held {
        /// The namespace.
        namespace: String,
        /// Who.
        holder: String,
    },
    /// etcd did not say.
    #[error("Cannot claim namespace {namespace}")]
    Etcd {
        /// The namespace.
        namespace: String,
        /// Why not.
        source: EtcdError,
    },
}

/// A namespace that is ours.
#[derive(Debug)]
pub struct Owned {
    client: Client,
    claim: Claim,
    key: String,
    lease: Lease,
    epoch: u64,
}

/// A namespace that is ours no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// By whom.
    pub holder: String,
}

/// Claims a namespace.
///
/// # Errors
/// See [`ClaimError`].
pub async fn claim(client: &Client, claim: Claim) -> Result<Owned, ClaimError> {
    if !is_name(&claim.namespace) {
        return Err(BadName(claim.namespace).into());
    }
    let namespace = claim.namespace.clone();
    let etcd = |source| ClaimError::Etcd { namespace, source };
    let lease = client.lease_grant(claim.ttl).await;
    let lease = lease.map_err(etcd.clone())?;
    let mut owned = Owned {
        client: client.clone(),
        key: format!("{CLIENTS}{}", claim.namespace),
        claim,
        lease,
        epoch: 0,
    };
    let attempt = owned.attempt().await;
    match attempt {
        Ok(None) => Ok(owned),
        Ok(Some(taken)) => {
            // The lease holds nothing; it may as well end now as later.
            let _ = owned.client.lease_revoke(owned.lease.id).await;
            Err(ClaimError::Held {
                namespace: owned.claim.namespace,
                holder: taken.holder,
            })
        }
        Err(error) => Err(etcd(error)),
    }
}

impl Owned {
    /// Larger than that of every earlier claim.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Keeps the claim until somebody else has it. etcd may be down for as long as it likes: only
    /// what it says when it is there counts. Dropping the future loses nothing; it may be called again.
    pub async fn keep(&mut self) -> Taken {
        let beat = self.claim.ttl.max(Duration::from_secs(1)) / 3;
        loop {
            match self.beat().await {
                Ok(None) => tokio::time::sleep(beat).await,
                Ok(Some(taken)) => return taken,
                Err(error) => {
                    tracing::debug!(%error, "the claim could not be renewed");
                    tokio::time::sleep(beat.min(Duration::from_secs(1))).await;
                }
            }
        }
    }

    /// Gives the namespace back.
    ///
    /// # Errors
    /// etcd did not answer: the lease will run out by itself.
    pub async fn release(self) -> Result<(), EtcdError> {
        self.client.lease_revoke(self.lease.id).await
    }

    async fn beat(&mut self) -> Result<Option<Taken>, EtcdError> {
        if !self.client.lease_keep_alive(self.lease.id).await? {
            self.lease = self.client.lease_grant(self.claim.ttl).await?;
        }
        match self.client.get(&self.key).await? {
            Some(found) if self.is_ours(&found) && found.lease == self.lease.id => Ok(None),
            Some(found) if !self.is_ours(&found) => Ok(Some(taken(&found))),
            // Gone with its lease, or still under an older one: it is claimed anew. Whoever had it
            // between has been given a larger epoch, and the stores know.
            _ => {
                let epoch = self.epoch;
                let attempt = self.attempt().await;
                self.epoch = epoch;
                attempt
            }
        }
    }

    fn is_ours(&self, found: &KeyValue) -> bool {
        let record = serde_json::from_slice::<OwnerRecord>(&found.value);
        record.is_ok_and(|record| record == self.claim.owner)
    }

    /// One attempt to have the key. Some if another has it.
    async fn attempt(&mut self) -> Result<Option<Taken>, EtcdError> {
        let value = serde_json::to_vec(&self.claim.owner);
        let value = value.map_err(|error| EtcdError::Answer(error.to_string()))?;
        let mut when = When::Absent;
        loop {
            let put = self
                .client
                .put_when(when, &self.key, &value, Some(self.lease.id));
            let found = match put.await? {
                Conditional::Done { revision } => {
                    self.epoch = u64::try_from(revision).unwrap_or(0);
                    return Ok(None);
                }
                Conditional::Refused { found } => found,
            };
            let Some(found) = found else {
                when = When::Absent;
                continue;
            };
            if self.is_ours(&found) && found.lease == self.lease.id {
                // An earlier attempt arrived, and its answer did not.
                self.epoch = u64::try_from(found.mod_revision).unwrap_or(0);
                return Ok(None);
            }
            let record = serde_json::from_slice::<OwnerRecord>(&found.value).ok();
            let same = record.is_none_or(|other| other.holder == self.claim.owner.holder);
            // A later process of the same holder is not replaced by an earlier one that lives on.
            let first = self.epoch == 0;
            if !(first && (same || self.claim.force) || self.is_ours(&found)) {
                return Ok(Some(taken(&found)));
            }
            when = When::UnchangedSince(found.mod_revision);
        }
    }
}

fn taken(found: &KeyValue) -> Taken {
    let record = serde_json::from_slice::<OwnerRecord>(&found.value);
    Taken {
        holder: record.map_or_else(|_| "somebody".into(), |record| record.holder),
    }
}
