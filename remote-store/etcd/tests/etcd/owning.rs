// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whose a namespace is, when two want it.

use std::time::Duration;

use tmem_etcd::{CLIENTS, Claim, ClaimError, Client, Owned, OwnerRecord, claim};

use crate::server::{Etcd, PATIENCE, eventually};

fn wanted(holder: &str, process: &str, force: bool) -> Claim {
    Claim {
        namespace: "host7".into(),
        owner: OwnerRecord {
            holder: holder.into(),
            process: process.into(),
        },
        ttl: Duration::from_secs(2),
        force,
    }
}

async fn take(client: &Client, holder: &str, process: &str) -> Result<Owned, ClaimError> {
    claim(client, wanted(holder, process, false)).await
}

#[tokio::test]
async fn of_two_that_claim_at_once_one_gets_it() {
    let etcd = Etcd::start().await;
    for round in 0..10 {
        let (one, other) = (etcd.client(), etcd.client());
        let (left, right) = tokio::join!(take(&one, "left", "1"), take(&other, "right", "1"));
        let won = [left.is_ok(), right.is_ok()];
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "round {round}");
        for result in [left, right] {
            match result {
                Ok(owned) => owned.release().await.unwrap(),
                Err(ClaimError::Held { holder, .. }) => {
                    assert!(holder == "left" || holder == "right");
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[tokio::test]
async fn each_claim_has_a_larger_epoch_than_all_before() {
    let etcd = Etcd::start().await;
    let client = etcd.client();
    let mut last = 0;
    for process in ["1", "2", "3"] {
        // The same host's next process has it at once, though the last did not give it back.
        let owned = take(&client, "host7", process).await.unwrap();
        assert!(owned.epoch() > last);
        last = owned.epoch();
    }
    let owned = claim(&client, wanted("other", "1", true)).await.unwrap();
    assert!(owned.epoch() > last);
}

#[tokio::test]
async fn what_is_not_kept_can_be_claimed_by_another_after_its_lease() {
    let etcd = Etcd::start().await;
    let client = etcd.client();
    let lost = take(&client, "left", "1").await.unwrap();
    let held = take(&client, "right", "1").await.unwrap_err();
    assert!(held.to_string().contains("belongs to left"));
    let mut won = None;
    eventually("the end of the lease", async || {
        won = take(&client, "right", "1").await.ok();
        won.is_some()
    })
    .await;
    assert!(won.unwrap().epoch() > lost.epoch());
}

#[tokio::test]
async fn what_is_kept_outlives_its_lease_and_a_taken_one_says_who_has_it() {
    let etcd = Etcd::start().await;
    let client = etcd.client();
    let mut owned = take(&client, "left", "1").await.unwrap();
    let kept = tokio::time::timeout(Duration::from_secs(5), owned.keep()).await;
    assert!(kept.is_err(), "nobody took it: {kept:?}");
    assert!(take(&client, "right", "1").await.is_err());
    let taker = claim(&client, wanted("right", "1", true)).await.unwrap();
    let taken = tokio::time::timeout(PATIENCE, owned.keep()).await.unwrap();
    assert_eq!(taken.holder, "right");
    assert!(taker.epoch() > owned.epoch());
}

#[tokio::test]
async fn an_older_process_of_the_same_host_does_not_take_it_back() {
    let etcd = Etcd::start().await;
    let client = etcd.client();
    let mut older = take(&client, "host7", "1").await.unwrap();
    let mut younger = take(&client, "host7", "2").await.unwrap();
    let taken = tokio::time::timeout(PATIENCE, older.keep()).await.unwrap();
    assert_eq!(taken.holder, "host7");
    let kept = tokio::time::timeout(Duration::from_secs(2), younger.keep()).await;
    assert!(kept.is_err());
}

#[tokio::test]
async fn a_dead_etcd_takes_nothing_away_and_a_lost_key_is_claimed_anew() {
    let mut etcd = Etcd::start().await;
    let client = etcd.client();
    let mut owned = take(&client, "left", "1").await.unwrap();
    let epoch = owned.epoch();
    etcd.kill();
    let kept = tokio::time::timeout(Duration::from_secs(4), owned.keep()).await;
    assert!(kept.is_err(), "longer than the lease: {kept:?}");
    etcd.run().await;
    let key = format!("{CLIENTS}host7");
    client.delete(&key).await.unwrap();
    let kept = tokio::time::timeout(Duration::from_secs(3), owned.keep()).await;
    assert!(kept.is_err());
    assert!(client.get(&key).await.unwrap().is_some());
    assert_eq!(
        owned.epoch(),
        epoch,
        "pages are still written under the first epoch"
    );
}
