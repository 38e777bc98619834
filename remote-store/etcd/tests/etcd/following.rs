// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The list of stores as a daemon follows it, while etcd comes and goes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tmem_etcd::{FollowConfig, Follower, STORES, StoreNews};
use tokio::task::JoinHandle;

use crate::registering::{Store, record};
use crate::server::{Etcd, client, eventually, nobody};

#[derive(Default)]
struct Seen {
    stores: BTreeMap<String, String>,
    gone: Vec<String>,
    complete: usize,
    trouble: usize,
}

struct Daemon {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Daemon {
    fn start(client: tmem_etcd::Client) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let told = Arc::clone(&seen);
        let config = FollowConfig {
            silence: Duration::from_millis(700),
            pause: Duration::from_millis(100),
            ..FollowConfig::default()
        };
        let mut follower = Follower::new(client, config);
        let task = tokio::spawn(async move {
            let tell = |news| {
                let mut seen = told.lock().unwrap();
                match news {
                    StoreNews::Listed { name, record } => {
                        seen.stores.insert(name, record.id);
                    }
                    StoreNews::Gone { name } => {
                        assert!(seen.stores.remove(&name).is_some(), "it was listed");
                        seen.gone.push(name);
                    }
                    StoreNews::Complete { .. } => seen.complete += 1,
                    StoreNews::Trouble(_) => seen.trouble += 1,
                }
            };
            follower.follow(tell).await;
        });
        Self { seen, task }
    }

    fn names(&self) -> Vec<String> {
        self.seen.lock().unwrap().stores.keys().cloned().collect()
    }

    async fn sees(&self, names: &[&str]) {
        eventually(&format!("the list {names:?}"), async || {
            self.names() == names
        })
        .await;
    }

    async fn is_troubled(&self) {
        let before = self.seen.lock().unwrap().trouble;
        eventually("trouble", async || {
            self.seen.lock().unwrap().trouble > before
        })
        .await;
    }
}

#[tokio::test]
async fn stores_come_and_go() {
    let etcd = Etcd::start().await;
    let one = Store::start(etcd.client(), "one", "a");
    let daemon = Daemon::start(etcd.client());
    daemon.sees(&["one"]).await;
    let two = Store::start(etcd.client(), "two", "b");
    daemon.sees(&["one", "two"]).await;
    one.stop().await;
    daemon.sees(&["two"]).await;
    // Without a word: by the end of its lease.
    two.kill();
    daemon.sees(&[]).await;
}

#[tokio::test]
async fn a_killed_etcd_removes_nobody_and_is_followed_again_when_it_is_back() {
    let mut etcd = Etcd::start().await;
    let one = Store::start(etcd.client(), "one", "a");
    let two = Store::start(etcd.client(), "two", "b");
    let daemon = Daemon::start(etcd.client());
    daemon.sees(&["one", "two"]).await;
    etcd.kill();
    daemon.is_troubled().await;
    // A store dies while nobody can say so.
    two.kill();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(daemon.names(), ["one", "two"], "longer than the lease");
    etcd.run().await;
    daemon.sees(&["one"]).await;
    assert_eq!(
        daemon.seen.lock().unwrap().gone,
        ["two"],
        "one was never off it"
    );
    let three = Store::start(etcd.client(), "three", "c");
    daemon.sees(&["one", "three"]).await;
    drop((one, three));
}

#[tokio::test]
async fn a_frozen_etcd_is_noticed_removes_nobody_and_is_followed_again() {
    let etcd = Etcd::start().await;
    let client = etcd.client();
    // Not under a lease: what is seen is the watch's doing alone.
    let value = serde_json::to_vec(&record("a")).unwrap();
    let key = |name: &str| format!("{STORES}{name}");
    client.put(&key("one"), &value, None).await.unwrap();
    let daemon = Daemon::start(etcd.client());
    daemon.sees(&["one"]).await;
    etcd.freeze(true);
    daemon.is_troubled().await;
    assert_eq!(daemon.names(), ["one"]);
    etcd.freeze(false);
    client.put(&key("two"), &value, None).await.unwrap();
    daemon.sees(&["one", "two"]).await;
    assert!(client.delete(&key("one")).await.unwrap());
    daemon.sees(&["two"]).await;
}

#[tokio::test]
async fn changes_that_were_compacted_away_are_found_by_a_list() {
    let mut etcd = Etcd::start().await;
    let client = etcd.client();
    let value = serde_json::to_vec(&record("a")).unwrap();
    let key = |name: &str| format!("{STORES}{name}");
    client.put(&key("one"), &value, None).await.unwrap();
    let daemon = Daemon::start(etcd.client());
    daemon.sees(&["one"]).await;
    etcd.kill();
    daemon.is_troubled().await;
    etcd.run().await;
    client.delete(&key("one")).await.unwrap();
    client.put(&key("two"), &value, None).await.unwrap();
    etcd.compact().await;
    daemon.sees(&["two"]).await;
    assert_eq!(daemon.seen.lock().unwrap().gone, ["one"]);
}

#[tokio::test]
async fn keys_that_describe_no_store_are_left_aside() {
    let etcd = Etcd::start().await;
    let client = etcd.client();
    let key = |name: &str| format!("{STORES}{name}");
    client.put(&key("bad"), b"nonsense", None).await.unwrap();
    let daemon = Daemon::start(etcd.client());
    eventually("a list", async || daemon.seen.lock().unwrap().complete > 0).await;
    client.put(&key("worse/still"), b"{}", None).await.unwrap();
    let value = serde_json::to_vec(&record("a")).unwrap();
    client.put(&key("good"), &value, None).await.unwrap();
    daemon.sees(&["good"]).await;
}

#[tokio::test]
async fn the_list_is_followed_at_whichever_endpoint_answers() {
    let etcd = Etcd::start().await;
    let store = Store::start(etcd.client(), "one", "a");
    let daemon = Daemon::start(client(vec![nobody(), etcd.endpoint(), nobody()]));
    daemon.sees(&["one"]).await;
    drop(store);
}
