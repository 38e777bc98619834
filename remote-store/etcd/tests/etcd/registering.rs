// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A store in the list: while it runs, after it is gone, and whatever etcd does.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tmem_etcd::{Client, Registered, RegistrationConfig, STORES, StoreRecord, register};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::server::{Etcd, eventually};

pub(crate) fn record(id: &str) -> StoreRecord {
    StoreRecord {
        address: format!("10.0.0.1:{}", 7000 + id.len()),
        id: id.into(),
        labels: [("domain".into(), "rack1".into())].into(),
    }
}

pub(crate) struct Store {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    pub(crate) told: Arc<Mutex<Vec<String>>>,
}

impl Store {
    pub(crate) fn start(client: Client, name: &str, id: &str) -> Self {
        let (stop, stopped) = oneshot::channel();
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let mut config = RegistrationConfig::new(name.into(), record(id));
        config.ttl = Duration::from_secs(2);
        let task = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            let tell = |news| {
                let text = match news {
                    Registered::Listed { .. } => "listed".to_owned(),
                    Registered::NameTaken { id } => format!("taken by {id}"),
                    Registered::Trouble(_) => "trouble".to_owned(),
                };
                tell.lock().unwrap().push(text);
            };
            register(client, config, stopped, tell).await.unwrap();
        });
        Self {
            stop: Some(stop),
            task,
            told,
        }
    }

    pub(crate) async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        (&mut self.task).await.unwrap();
    }

    /// Gone without a word.
    pub(crate) fn kill(&self) {
        self.task.abort();
    }

    pub(crate) fn said(&self, what: &str) -> usize {
        let told = self.told.lock().unwrap();
        told.iter().filter(|text| *text == what).count()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) async fn is_listed(client: &Client, name: &str) -> bool {
    let key = format!("{STORES}{name}");
    client.get(&key).await.is_ok_and(|key| key.is_some())
}

#[tokio::test]
async fn a_store_is_listed_while_it_runs_and_gone_when_it_stops() {
    let etcd = Etcd::start().await;
    let client = etcd.client();
    let store = Store::start(client.clone(), "one", "a");
    eventually("the key", async || is_listed(&client, "one").await).await;
    let key = format!("{STORES}one");
    let value = client.get(&key).await.unwrap().unwrap().value;
    let written: StoreRecord = serde_json::from_slice(&value).unwrap();
    assert_eq!(written, record("a"));
    store.stop().await;
    assert!(
        !is_listed(&client, "one").await,
        "stopping revokes the lease"
    );
}

#[tokio::test]
async fn a_store_that_dies_leaves_the_list_when_its_lease_ends() {
    let etcd = Etcd::start().await;
    let client = etcd.client();
    let store = Store::start(client.clone(), "one", "a");
    eventually("the key", async || is_listed(&client, "one").await).await;
    store.kill();
    eventually("the end of the lease", async || {
        !is_listed(&client, "one").await
    })
    .await;
}

#[tokio::test]
async fn a_deleted_key_and_a_revoked_lease_come_back_while_the_store_runs() {
    let etcd = Etcd::start().await;
    let client = etcd.client();
    let store = Store::start(client.clone(), "one", "a");
    eventually("the key", async || is_listed(&client, "one").await).await;
    let key = format!("{STORES}one");
    assert!(client.delete(&key).await.unwrap());
    eventually("the key again", async || is_listed(&client, "one").await).await;
    let lease = client.get(&key).await.unwrap().unwrap().lease;
    client.lease_revoke(lease).await.unwrap();
    eventually("the key under another lease", async || {
        let found = client.get(&key).await.unwrap();
        found.is_some_and(|found| found.lease != lease)
    })
    .await;
    assert!(store.said("listed") >= 3);
}

#[tokio::test]
async fn a_restarted_etcd_finds_the_store_again() {
    let mut etcd = Etcd::start().await;
    let client = etcd.client();
    let store = Store::start(client.clone(), "one", "a");
    eventually("the key", async || is_listed(&client, "one").await).await;
    etcd.kill();
    eventually("that the store notices", async || store.said("trouble") > 0).await;
    etcd.run().await;
    let trouble = store.said("trouble");
    eventually("the key", async || is_listed(&client, "one").await).await;
    // Its lease is kept alive again: the key outlives what was left of it.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(is_listed(&client, "one").await);
    assert!(
        store.said("trouble") <= trouble + 1,
        "told once, not each time"
    );
}

#[tokio::test]
async fn a_name_is_not_taken_from_another_store_but_from_an_older_self() {
    let etcd = Etcd::start().await;
    let client = etcd.client();
    let first = Store::start(client.clone(), "one", "a");
    eventually("the key", async || is_listed(&client, "one").await).await;
    let other = Store::start(client.clone(), "one", "bb");
    eventually("that it is told", async || other.said("taken by a") > 0).await;
    // The same store after a crash: at once, not after the lease.
    first.kill();
    let again = Store::start(client.clone(), "one", "a");
    eventually("that it is listed", async || again.said("listed") > 0).await;
    assert_eq!(other.said("listed"), 0);
    again.stop().await;
    eventually("that the other has the name", async || {
        other.said("listed") > 0
    })
    .await;
}

#[tokio::test]
async fn a_name_that_would_break_a_key_is_refused() {
    let etcd = Etcd::start().await;
    let config = RegistrationConfig::new("a/b".into(), record("a"));
    let refused = register(etcd.client(), config, std::future::pending(), |_| ()).await;
    assert!(refused.unwrap_err().to_string().contains("no name"));
}
