// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What clients ask for and get, over streams in memory: every message.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::time::Duration;

use bytes::BytesMut;
use common::served::{Served, run};
use common::{Client, Heard, hello, page};
use remote_store::{Access, Ended};
use tmem_remote_protocol::{
    PAGE_SIZE, PAGES_MAX, PageBytes, PutEntry, Reason, Session, Status, Wants, checksum,
};
use tokio::io::AsyncWriteExt;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

#[test]
fn pages_come_back_with_their_generations_until_they_are_flushed() {
    run(async {
        let served = Served::new(|_| {});
        let mut client = served.client("a", 1).await;
        let (one, two, same) = (page(1), page(2), [7; PAGE_SIZE]);
        let put = client
            .put(&[(0, 10, &one), (5, 11, &two), (9, 12, &same)])
            .await;
        assert_eq!(put, [Status::Ok; 3]);
        assert_eq!(
            client.get(&[5, 0, 1, 9]).await,
            [
                Ok((11, two)),
                Ok((10, one)),
                Err(Status::Missing),
                Ok((12, same))
            ]
        );
        assert_eq!(client.list(2).await, [(0, 10), (5, 11), (9, 12)]);
        let flushed = client.flush(&[(5, 11), (0, 9), (1, 99)]).await;
        assert_eq!(flushed, [Status::Ok, Status::Stale, Status::Missing]);
        assert_eq!(client.list(4096).await, [(0, 10), (9, 12)]);
        assert_eq!(client.flush_pool(0, 11).await, (Status::Ok, 1));
        assert_eq!(client.list(4096).await, [(9, 12)]);
        assert!(matches!(client.ping().await, Heard::Pong(_)));
        assert_eq!(served.store.peek("a", 0, 9), Some((12, same)));
        assert_eq!(served.store.pages("a"), [(9, 12)]);
    });
}

#[test]
fn latecomer_does_not_replace_a_newer_page() {
    run(async {
        let served = Served::new(|_| {});
        let mut client = served.client("a", 1).await;
        let (old, new) = (page(1), page(2));
        assert_eq!(client.put(&[(3, 20, &new)]).await, [Status::Ok]);
        assert_eq!(client.put(&[(3, 19, &old)]).await, [Status::Stale]);
        assert_eq!(
            client.put(&[(3, 20, &new)]).await,
            [Status::Ok],
            "a request may be replayed"
        );
        assert_eq!(client.get(&[3]).await, [Ok((20, new))]);
    });
}

#[test]
fn page_that_was_changed_on_its_way_is_not_kept() {
    run(async {
        let served = Served::new(|_| {});
        let mut client = served.client("a", 1).await;
        let (good, bad) = (page(1), page(2));
        client.put(&[(0, 1, &good)]).await;
        let mut out = BytesMut::new();
        let entries = [
            PutEntry::new(0, 0, 2, checksum(&good)),
            PutEntry::new(0, 1, 3, checksum(&bad)),
        ];
        client.encoder.put(&mut out, 50, &entries, &[&bad, &bad]);
        client.send(&out).await;
        let expected = vec![Status::BadChecksum, Status::Ok];
        assert_eq!(client.hear().await, Heard::Statuses(50, expected));
        assert_eq!(client.get(&[0]).await, [Ok((1, good))]);
        let served = served.store.stats().namespaces[0].served.clone();
        assert_eq!(served.bad_checksums, 1);
    });
}

#[test]
fn pool_or_index_that_is_not_there_is_said_so() {
    run(async {
        let served = Served::new(|_| {});
        let mut client = served.client("a", 1).await;
        let one = page(1);
        assert_eq!(
            client.put_in(2, &[(0, 1, &one)]).await,
            [Status::Unsupported]
        );
        assert_eq!(
            client.put(&[(1 << 28, 1, &one)]).await,
            [Status::OutOfRange]
        );
        assert_eq!(client.get(&[u32::MAX]).await, [Err(Status::OutOfRange)]);
        assert_eq!(client.get_in(9, &[0]).await, [Err(Status::Unsupported)]);
        assert_eq!(client.flush_pool(7, 1).await.0, Status::Unsupported);
        let (mut stream, _) = served.connect();
        let mut wants = hello("b", 1);
        wants.wants = Wants {
            persistent_indices: 1 << 28,
            ..Wants::default()
        };
        let mut client = Client::new(&mut stream);
        let refused = client.greet(&wants).await;
        assert!(matches!(refused, Heard::Refused(of) if of.reason == Reason::NoRoom));
    });
}

#[test]
fn pages_that_may_vanish_are_kept_while_there_is_room() {
    run(async {
        let served = Served::new(|config| config.capacity_pages = 64);
        let mut client = served.client("a", 1).await;
        for index in 0..200 {
            let put = client.put_in(1, &[(index, 1, &page(index.into()))]).await;
            assert_eq!(put, [Status::Ok]);
        }
        let mut there = 0;
        for index in 0..200 {
            match &client.get_in(1, &[index]).await[0] {
                Ok((generation, bytes)) => {
                    assert_eq!((*generation, *bytes), (1, page(index.into())));
                    there += 1;
                }
                Err(status) => assert_eq!(*status, Status::Missing),
            }
        }
        assert!((32..=64).contains(&there), "{there}");
        // They make way for those that were promised a place.
        for index in 0..64 {
            assert_eq!(
                client.put(&[(index, 2, &page(1))]).await,
                [Status::Ok],
                "{index}"
            );
        }
    });
}

#[test]
fn namespace_has_its_quota_and_leaves_the_rest_to_others() {
    run(async {
        let served = Served::new(|config| {
            config.capacity_pages = 256;
            config.quotas.insert("small".into(), 10);
        });
        let mut small = served.client("small", 1).await;
        let mut other = served.client("other", 1).await;
        let bytes = page(1);
        for index in 0..10 {
            assert_eq!(small.put(&[(index, 1, &bytes)]).await, [Status::Ok]);
        }
        assert_eq!(small.put(&[(10, 2, &bytes)]).await, [Status::OverQuota]);
        assert_eq!(
            small.put(&[(3, 3, &bytes)]).await,
            [Status::Ok],
            "one over another"
        );
        let mut index = 0;
        let full = loop {
            let put = other.put(&[(index, 1, &bytes)]).await[0];
            if put != Status::Ok {
                break put;
            }
            index += 1;
        };
        assert_eq!((full, index), (Status::Full, 246));
        // What one gives up, another can have.
        assert_eq!(other.flush(&[(0, 9), (1, 9)]).await, [Status::Ok; 2]);
        assert_eq!(small.flush(&[(0, 9)]).await, [Status::Ok]);
        assert_eq!(small.put(&[(0, 10, &bytes)]).await, [Status::Ok]);
        assert_eq!(
            other.put(&[(0, 10, &bytes), (1, 10, &bytes)]).await,
            [Status::Ok; 2]
        );
        assert_eq!(other.put(&[(300, 1, &bytes)]).await, [Status::Full]);
        assert_eq!(small.get(&[9]).await, [Ok((1, bytes))]);
        let stats = served.store.stats();
        assert_eq!(stats.free_pages, 0);
        assert_eq!(stats.namespaces[1].served.over_quota, 1);
    });
}

#[test]
fn quota_can_be_lowered_under_what_is_there() {
    run(async {
        let served = Served::new(|_| {});
        let mut client = served.client("a", 1).await;
        let bytes = page(1);
        for index in 0..8 {
            assert_eq!(client.put(&[(index, 1, &bytes)]).await, [Status::Ok]);
        }
        let quotas = [("a".to_owned(), 4)].into();
        served.store.set_quotas(quotas, None, false);
        assert_eq!(client.put(&[(8, 1, &bytes)]).await, [Status::OverQuota]);
        assert_eq!(client.get(&[7]).await, [Ok((1, bytes))]);
        let gone: Vec<_> = (0..5).map(|index| (index, 9)).collect();
        client.flush(&gone).await;
        assert_eq!(client.put(&[(8, 10, &bytes)]).await, [Status::Ok]);
        assert_eq!(client.put(&[(9, 10, &bytes)]).await, [Status::OverQuota]);
    });
}

#[test]
fn newer_client_fences_older_ones() {
    run(async {
        let served = Served::new(|_| {});
        let (stream, older) = served.connect();
        let (mut old, _) = Client::open(stream, &hello("a", 5)).await;
        let mut lane = served.client("a", 5).await;
        let bytes = page(1);
        assert_eq!(old.put(&[(0, 1, &bytes)]).await, [Status::Ok]);
        assert_eq!(lane.put(&[(1, 2, &bytes)]).await, [Status::Ok]);
        let mut new = served.client("a", 6).await;
        // Sent before the goodbye is read.
        let mut out = BytesMut::new();
        old.write_put(&mut out, 0, &[(0, 99, &page(9))]);
        old.send(&out).await;
        match old.hear().await {
            Heard::Goodbye(of) => assert_eq!((of.reason, of.detail), (Reason::Fenced, 6)),
            other => panic!("{other:?}"),
        }
        assert_eq!(old.hear().await, Heard::Closed);
        drop(old);
        assert!(matches!(
            older.await.unwrap(),
            Ended::Fenced {
                epoch: 5,
                newest: 6
            }
        ));
        assert!(
            matches!(lane.hear().await, Heard::Goodbye(_)),
            "an idle one is told too"
        );
        assert_eq!(new.get(&[0, 1]).await, [Ok((1, bytes)), Ok((2, bytes))]);
        let (stream, _) = served.connect();
        let refused = Client::new(stream).greet(&hello("a", 5)).await;
        assert!(
            matches!(refused, Heard::Refused(of) if of.reason == Reason::Fenced && of.detail == 6)
        );
        // Others are not touched.
        assert_eq!(
            served.client("b", 1).await.put(&[(0, 1, &bytes)]).await,
            [Status::Ok]
        );
    });
}

#[test]
fn namespaces_do_not_see_each_other() {
    run(async {
        let served = Served::new(|_| {});
        let (mut a, mut b) = (served.client("a", 1).await, served.client("b", 1).await);
        let bytes = page(1);
        a.put(&[(0, 1, &bytes)]).await;
        assert_eq!(b.get(&[0]).await, [Err(Status::Missing)]);
        assert_eq!(b.flush(&[(0, 9)]).await, [Status::Missing]);
        assert_eq!(b.flush_pool(0, 9).await, (Status::Ok, 0));
        assert_eq!(a.get(&[0]).await, [Ok((1, bytes))]);
    });
}

#[test]
fn certificate_for_another_namespace_is_refused() {
    run(async {
        let served = Served::new(|_| {});
        let access = || Access::Only(vec!["mine".into(), "also".into()]);
        let (stream, ended) = served.connect_by(access(), 1 << 16);
        let mut client = Client::new(stream);
        let refused = client.greet(&hello("yours", 1)).await;
        assert!(matches!(refused, Heard::Refused(of) if of.reason == Reason::Denied));
        drop(client);
        assert!(matches!(ended.await.unwrap(), Ended::Refused(_)));
        assert!(
            served.store.stats().namespaces.is_empty(),
            "nothing was made for it"
        );
        let (stream, _) = served.connect_by(access(), 1 << 16);
        Client::open(stream, &hello("also", 1)).await;
    });
}

#[test]
fn namespace_that_is_not_listed_is_refused() {
    run(async {
        let served = Served::new(|config| {
            config.quotas.insert("known".into(), 10);
            config.only_listed = true;
        });
        let (stream, _) = served.connect();
        let refused = Client::new(stream).greet(&hello("stranger", 1)).await;
        assert!(matches!(refused, Heard::Refused(of) if of.reason == Reason::Denied));
        served.client("known", 1).await;
    });
}

#[test]
fn adverts_come_in_their_period_and_tell_what_is_free() {
    run(async {
        let served = Served::new(|config| {
            config.capacity_pages = 100;
            config.default_quota = Some(40);
        });
        let (stream, _) = served.connect();
        let mut control = hello("a", 1);
        control.session = Session::Control;
        control.advert_period_ms = 100;
        let (mut client, welcome) = Client::open(stream, &control).await;
        assert_eq!(welcome.advert_period_ms, 100);
        assert_eq!((welcome.store_id, welcome.incarnation), ([9; 16], 77));
        let advert = welcome.advert;
        assert_eq!((advert.capacity_pages, advert.free_pages), (100, 100));
        assert_eq!((advert.quota_pages, advert.used_pages), (40, 0));
        client.put(&[(0, 1, &page(1)), (1, 2, &page(2))]).await;
        let begin = Instant::now();
        for seq in 1..=5 {
            match client.hear().await {
                Heard::Advert(advert) => {
                    assert_eq!(
                        (advert.seq, advert.free_pages, advert.used_pages),
                        (seq, 98, 2)
                    );
                }
                other => panic!("{other:?}"),
            }
        }
        let took = begin.elapsed();
        assert!((Duration::from_millis(400)..=Duration::from_millis(500)).contains(&took));
        // A data connection gets none.
        let mut data = hello("a", 1);
        data.advert_period_ms = 10;
        let (stream, _) = served.connect();
        let (mut lane, welcome) = Client::open(stream, &data).await;
        assert_eq!(welcome.advert_period_ms, 0);
        sleep(Duration::from_secs(1)).await;
        assert!(matches!(lane.ping().await, Heard::Pong(_)));
    });
}

#[test]
fn many_requests_at_once_are_answered_in_order() {
    run(async {
        let served = Served::new(|config| config.capacity_pages = 4096);
        let (stream, _) = served.connect_by(Access::Any, 3000);
        let (mut client, _) = Client::open(stream, &hello("a", 1)).await;
        let mut out = BytesMut::new();
        let mut expected = Vec::new();
        for index in 0..600_u32 {
            let bytes = page(index.into());
            expected.push((client.write_put(&mut out, 0, &[(index, 1, &bytes)]), None));
            expected.push((client.write_get(&mut out, 0, &[index]), Some(index)));
        }
        let (mut client, mut writing) = client.split();
        let sender = spawn_local(async move {
            writing.write_all(&out).await.unwrap();
            writing
        });
        for (request, index) in expected {
            match (client.hear().await, index) {
                (Heard::Statuses(answered, statuses), None) => {
                    assert_eq!((answered, statuses), (request, vec![Status::Ok]));
                }
                (Heard::Pages(answered, pages), Some(index)) => {
                    let bytes = page(index.into());
                    assert_eq!(answered, request);
                    assert_eq!(pages, [Ok((1, checksum(&bytes), bytes))]);
                }
                (other, _) => panic!("{other:?}"),
            }
        }
        sender.await.unwrap();
    });
}

#[test]
fn page_of_every_batch_size_comes_back() {
    run(async {
        let served = Served::new(|config| config.capacity_pages = 4096);
        // Less room than a page, so that frames come in parts.
        let (stream, _) = served.connect_by(Access::Any, 1000);
        let (mut client, welcome) = Client::open(stream, &hello("a", 1)).await;
        assert_eq!(welcome.max_pages, PAGES_MAX);
        for count in [1, 2, 63, 64, 65, 255, 256_u32] {
            let pages: Vec<PageBytes> = (0..count).map(|n| page(u64::from(n) << 16 | 5)).collect();
            let puts: Vec<_> = (0..count)
                .zip(&pages)
                .map(|(index, bytes)| (index, u64::from(count), bytes))
                .collect();
            assert_eq!(client.put(&puts).await, vec![Status::Ok; count as usize]);
            let indexes: Vec<u32> = (0..count).collect();
            for (got, put) in client.get(&indexes).await.into_iter().zip(&puts) {
                assert_eq!(got, Ok((put.1, *put.2)));
            }
        }
    });
}
