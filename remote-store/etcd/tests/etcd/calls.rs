// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Each call, and what each error looks like.

use std::time::Duration;

use tmem_etcd::{Change, Conditional, EtcdError, When};

use crate::server::{Etcd, PATIENCE, client, eventually, nobody};

#[tokio::test]
async fn keys_are_put_listed_read_and_deleted() {
    let etcd = Etcd::start().await;
    let client = etcd.client();
    let odd = [0, 1, 2, 255, 254];
    let first = client.put("/a/1", &odd, None).await.unwrap();
    let second = client.put("/a/2", b"two", None).await.unwrap();
    assert!(second > first);
    client.put("/b", b"", None).await.unwrap();
    let listing = client.list("/a/").await.unwrap();
    let keys: Vec<&str> = listing.keys.iter().map(|key| key.key.as_str()).collect();
    assert_eq!(keys, ["/a/1", "/a/2"]);
    assert_eq!(listing.keys[0].value, odd);
    assert_eq!(listing.keys[0].mod_revision, first);
    assert!(listing.revision > second);
    let one = client.get("/a/2").await.unwrap().unwrap();
    assert_eq!((one.value.as_slice(), one.lease), (&b"two"[..], 0));
    assert!(client.delete("/a/1").await.unwrap());
    assert!(!client.delete("/a/1").await.unwrap());
    assert_eq!(client.get("/a/1").await.unwrap(), None);
}

#[tokio::test]
async fn a_conditional_put_is_done_once() {
    let etcd = Etcd::start().await;
    let client = etcd.client();
    let put = |when, value: &'static [u8]| {
        let client = client.clone();
        async move { client.put_when(when, "/k", value, None).await.unwrap() }
    };
    let Conditional::Done { revision } = put(When::Absent, b"1").await else {
        panic!("the key is new");
    };
    let Conditional::Refused { found: Some(found) } = put(When::Absent, b"2").await else {
        panic!("the key is there");
    };
    assert_eq!(
        (found.value.as_slice(), found.mod_revision),
        (&b"1"[..], revision)
    );
    let since = When::UnchangedSince(revision);
    assert!(matches!(put(since, b"3").await, Conditional::Done { .. }));
    assert!(matches!(
        put(since, b"4").await,
        Conditional::Refused { .. }
    ));
    let stale = client.delete_when(since, "/k").await.unwrap();
    assert!(matches!(stale, Conditional::Refused { found: Some(_) }));
}

#[tokio::test]
async fn a_lease_takes_its_keys_with_it() {
    let etcd = Etcd::start().await;
    let client = etcd.client();
    let lease = client.lease_grant(Duration::from_secs(60)).await.unwrap();
    client.put("/l", b"x", Some(lease.id)).await.unwrap();
    assert!(client.lease_keep_alive(lease.id).await.unwrap());
    client.lease_revoke(lease.id).await.unwrap();
    assert_eq!(client.get("/l").await.unwrap(), None);
    assert!(!client.lease_keep_alive(lease.id).await.unwrap());
    client.lease_revoke(lease.id).await.unwrap();
    let refused = client.put("/l", b"x", Some(lease.id)).await.unwrap_err();
    assert!(refused.is_not_found(), "{refused}");
}

#[tokio::test]
async fn a_watch_shows_what_happened_since_a_revision_and_what_happens() {
    let etcd = Etcd::start().await;
    let client = etcd.client();
    let first = client.put("/w/1", b"1", None).await.unwrap();
    client.put("/w/1", b"2", None).await.unwrap();
    let mut watch = client.watch("/w/", first).await.unwrap();
    watch.created().await.unwrap();
    client.put("/elsewhere", b"", None).await.unwrap();
    let gone = client.delete("/w/1").await.unwrap();
    assert!(gone);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let next = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
        seen.push(match next.unwrap() {
            Change::Put(key) => String::from_utf8(key.value).unwrap(),
            Change::Delete { key, .. } => key,
        });
    }
    assert_eq!(seen, ["1", "2", "/w/1"]);
}

#[tokio::test]
async fn a_watch_from_a_forgotten_revision_says_so() {
    let etcd = Etcd::start().await;
    let client = etcd.client();
    for _ in 0..5 {
        client.put("/w/1", b"1", None).await.unwrap();
    }
    etcd.compact().await;
    let mut watch = client.watch("/w/", 2).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
    assert!(matches!(ended, Err(EtcdError::Compacted(_))), "{ended:?}");
}

#[tokio::test]
async fn another_endpoint_is_asked_when_one_does_not_answer() {
    let etcd = Etcd::start().await;
    let two = client(vec![nobody(), etcd.endpoint()]);
    two.put("/x", b"y", None).await.unwrap();
    let alone = client(vec![nobody()]);
    let error = alone.get("/x").await.unwrap_err();
    assert!(matches!(error, EtcdError::Connect { .. }), "{error:?}");
    assert!(error.is_passing());
}

#[tokio::test]
async fn a_frozen_server_is_given_up_after_the_timeout() {
    let etcd = Etcd::start().await;
    etcd.freeze(true);
    let error = etcd.client().get("/x").await.unwrap_err();
    assert!(matches!(error, EtcdError::Timeout { .. }), "{error:?}");
    etcd.freeze(false);
    let client = etcd.client();
    eventually("an answer", async || client.get("/x").await.is_ok()).await;
}
