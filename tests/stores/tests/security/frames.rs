// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What one says: frames again, frames of the past, frames that are none; and more than one may keep.

use std::time::Duration;

use tmem_remote_protocol::{Reason, Session, Status};
use tmem_store_tests::cluster::StoreOptions;
use tmem_store_tests::peer::{Answer, hello};
use tmem_store_tests::{Random, Stamp, seed};

use crate::stage::{Outcome, Stage, block_on, greet};

fn stamp(key: u32, version: u64) -> Stamp {
    Stamp {
        writer: 2,
        key,
        version,
    }
}

fn page_of(answer: &Answer) -> Option<Stamp> {
    match answer {
        Answer::Status(Status::Ok, Some(page)) => Stamp::of(page),
        _ => None,
    }
}

#[test]
fn replayed_put_leaves_a_newer_page_alone() {
    let stage = Stage::open(StoreOptions::new("64MiB"));
    let neighbour = stage.neighbour(Stage::plain());
    block_on(async {
        let hello = hello("mallory", 9, Session::Data).unwrap();
        let address = stage.store.address();
        let (mut peer, _) = greet(&Stage::plain(), &address, &hello).await.unwrap();
        let old = peer.put_frame(3, 1, &stamp(3, 1).page());
        peer.say(&old).await.unwrap();
        assert!(peer.answer().await.is_ok());
        assert!(peer.put(3, 2, &stamp(3, 2).page()).await.is_ok());
        // On the connection that it was said on, and on one that never heard of it.
        let (mut other, _) = greet(&Stage::plain(), &address, &hello).await.unwrap();
        for peer in [&mut peer, &mut other] {
            for _ in 0..5 {
                peer.say(&old).await.unwrap();
                assert_eq!(peer.answer().await, Answer::Status(Status::Stale, None));
                assert_eq!(page_of(&peer.get(3).await), Some(stamp(3, 2)));
            }
        }
        assert_eq!(peer.flush(3, 1).await, Answer::Status(Status::Stale, None));
        assert_eq!(page_of(&peer.get(3).await), Some(stamp(3, 2)));
    });
    neighbour.end();
}

#[test]
fn frames_of_an_epoch_that_is_over_are_refused() {
    let stage = Stage::open(StoreOptions::new("64MiB"));
    let neighbour = stage.neighbour(Stage::plain());
    block_on(async {
        let address = stage.store.address();
        let of_epoch = |epoch| hello("mallory", epoch, Session::Data).unwrap();
        let (mut old, _) = greet(&Stage::plain(), &address, &of_epoch(5))
            .await
            .unwrap();
        assert!(old.put(3, 1, &stamp(3, 1).page()).await.is_ok());
        let (mut new, _) = greet(&Stage::plain(), &address, &of_epoch(6))
            .await
            .unwrap();
        let late = old.put(3, 99, &stamp(3, 99).page()).await;
        assert!(!late.is_ok(), "{late:?}");
        assert_eq!(page_of(&new.get(3).await), Some(stamp(3, 1)));
        let again = greet(&Stage::plain(), &address, &of_epoch(5)).await;
        let fenced = matches!(&again, Err(Outcome::Refused(told)) if told.reason == Reason::Fenced);
        assert!(fenced, "{again:?}");
        // One namespace's epoch is nothing to another.
        assert!(new.ping().await.is_ok());
    });
    neighbour.end();
}

#[test]
fn page_that_is_not_what_its_checksum_says_is_refused() {
    let stage = Stage::open(StoreOptions::new("64MiB"));
    let neighbour = stage.neighbour(Stage::plain());
    block_on(async {
        let hello = hello("mallory", 9, Session::Data).unwrap();
        let address = stage.store.address();
        let (mut peer, _) = greet(&Stage::plain(), &address, &hello).await.unwrap();
        assert!(peer.put(3, 1, &stamp(3, 1).page()).await.is_ok());
        let mut frame = peer.put_frame(3, 2, &stamp(3, 2).page());
        let last = frame.len() - 1;
        frame[last] ^= 1;
        peer.say(&frame).await.unwrap();
        let refused = Answer::Status(Status::BadChecksum, None);
        assert_eq!(peer.answer().await, refused);
        assert_eq!(page_of(&peer.get(3).await), Some(stamp(3, 1)));
    });
    neighbour.end();
}

#[test]
fn garbage_ends_its_own_connection_alone() {
    let stage = Stage::open(StoreOptions::new("64MiB"));
    let neighbour = stage.neighbour(Stage::plain());
    let mut random = Random::new(seed("garbage_ends_its_own_connection_alone"), 1);
    block_on(async {
        let hello = hello("mallory", 9, Session::Data).unwrap();
        let address = stage.store.address();
        for _ in 0..200 {
            let (mut peer, _) = greet(&Stage::plain(), &address, &hello).await.unwrap();
            let mut frame = peer.put_frame(3, 1, &stamp(3, 1).page()).to_vec();
            let what = random.below(4);
            match what {
                // Somewhere in the header or the entry.
                0 => frame[random.below(52) as usize] ^= 1 << random.below(8),
                1 => frame
                    .iter_mut()
                    .for_each(|byte| *byte = random.draw().to_le_bytes()[0]),
                2 => frame[12..16].copy_from_slice(&u32::MAX.to_le_bytes()),
                _ => frame.rotate_left(1 + random.below(30) as usize),
            }
            // It may have closed before all of it was said.
            let _ = peer.say(&frame).await;
            let limit = Duration::from_secs(5);
            let answer = tokio::time::timeout(limit, peer.answer()).await;
            let answer = answer.expect("an end");
            let ended = matches!(answer, Answer::Goodbye(_) | Answer::Ended(_));
            assert!(ended, "kind {what}: {answer:?}");
        }
    });
    neighbour.end();
}

#[test]
fn client_over_its_quota_is_told_and_keeps_what_it_has() {
    let quota = StoreOptions::new("64MiB").with("--quota", "mallory=1MiB");
    let stage = Stage::open(quota);
    let neighbour = stage.neighbour(Stage::plain());
    block_on(async {
        let hello = hello("mallory", 9, Session::Data).unwrap();
        let address = stage.store.address();
        let (mut peer, _) = greet(&Stage::plain(), &address, &hello).await.unwrap();
        let mut kept = 0;
        for key in 0..2000 {
            let put = peer.put(key, 1, &stamp(key, 1).page()).await;
            if put.is_ok() {
                kept += 1;
            } else {
                assert_eq!(put, Answer::Status(Status::OverQuota, None), "page {key}");
            }
        }
        assert_eq!(kept, 256);
        for key in 0..256 {
            assert_eq!(page_of(&peer.get(key).await), Some(stamp(key, 1)));
        }
        // Whoever gives up a page may put another.
        assert!(peer.flush(0, 2).await.is_ok());
        assert!(peer.put(1000, 3, &stamp(1000, 3).page()).await.is_ok());
    });
    neighbour.end();
}
