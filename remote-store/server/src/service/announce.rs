// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The store's place in etcd's list, from when it is ready until it ends. Pages are served whether or
//! not etcd is there.

use std::collections::BTreeMap;

use tmem_etcd::{Client, ClientConfig, Registered, RegistrationConfig, StoreRecord, register};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Duration, timeout};

use super::error::ServiceError;
use crate::config::EtcdConfig;
use crate::store::Identity;

/// etcd has this long to hear of a clean end; after that the lease runs out by itself.
const FAREWELL: Duration = Duration::from_millis(500);

/// A store that is announced, or is going to be as soon as etcd answers.
pub(super) struct Announcement {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Announcement {
    /// Begins to announce the store, in a task of the current runtime.
    pub(super) fn begin(config: &EtcdConfig, identity: Identity) -> Result<Self, ServiceError> {
        let endpoints = config.urls.iter().map(|url| {
            url.parse().map_err(|source| ServiceError::EtcdUrl {
                url: url.clone(),
                source,
            })
        });
        let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
        let client = Client::new(ClientConfig::new(endpoints)).map_err(ServiceError::Etcd)?;
        let id = u128::from_be_bytes(identity.store_id);
        let record = StoreRecord {
            address: config.advertise.clone(),
            id: format!("{id:032x}"),
            labels: BTreeMap::new(),
        };
        let registration = RegistrationConfig::new(config.name.clone(), record);
        let (stop, stopped) = oneshot::channel::<()>();
        let name = config.name.clone();
        let task = tokio::spawn(async move {
            let until = async {
                // The sender is kept until it is used.
                let _ = stopped.await;
            };
            let told = |news| match news {
                Registered::Listed { revision } => {
                    tracing::info!(revision, "announced in etcd");
                }
                Registered::NameTaken { id } => {
                    tracing::error!(id, "another store has this name in etcd; trying on");
                }
                Registered::Trouble(error) => {
                    tracing::warn!(%error, "etcd does not hear of this store; trying on");
                }
            };
            if let Err(error) = register(client, registration, until, told).await {
                tracing::error!(name, %error, "the store is not announced");
            }
        });
        Ok(Self { stop, task })
    }

    /// Takes the store out of the list.
    pub(super) async fn end(self) {
        let _ = self.stop.send(());
        if timeout(FAREWELL, self.task).await.is_err() {
            tracing::warn!("etcd has not heard of the end; it will find out by itself");
        }
    }
}
