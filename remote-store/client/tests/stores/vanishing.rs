// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pages that may vanish: what comes back is the newest, or nothing.

use tmem_remote_client::Settings;
use tokio::time::{Duration, sleep};

use crate::bench::{Bench, page, run, settings};

const INDICES: u32 = 100;

async fn bench(stores: u8) -> Bench {
    let ephemeral_indexes = INDICES;
    let settings = Settings {
        ephemeral_indexes,
        ..settings(2)
    };
    Bench::with(stores, settings, None).await
}

async fn put_all(bench: &mut Bench, version: u32) -> usize {
    let mut taken = 0;
    for index in 0..INDICES {
        taken += usize::from(
            bench
                .session
                .volatile_put(index, &page(index, version))
                .await,
        );
    }
    taken
}

/// How many come back; all of them as this version.
async fn hits(bench: &mut Bench, version: u32) -> usize {
    let mut hits = 0;
    for index in 0..INDICES {
        let mut got = [0; 4096];
        if bench.session.volatile_get(index, &mut got).await {
            assert_eq!(got, page(index, version), "index {index}");
            hits += 1;
        }
    }
    hits
}

#[tokio::test(start_paused = true)]
async fn page_that_was_put_comes_back_until_it_is_flushed() {
    run(async {
        let mut bench = bench(3).await;
        for version in 1..4 {
            assert_eq!(put_all(&mut bench, version).await, 100);
            assert_eq!(hits(&mut bench, version).await, 100);
        }
        let flushed: Vec<u32> = (0..50).collect();
        bench.session.volatile_flush(&flushed).await;
        assert_eq!(hits(&mut bench, 3).await, 50);
        let held: usize = bench.net.all().iter().map(|store| store.count()).sum();
        assert_eq!(held, 50, "one copy each");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn older_page_never_comes_back_with_a_store_that_was_away() {
    run(async {
        let mut bench = bench(3).await;
        put_all(&mut bench, 1).await;
        bench.store(0).die();
        bench.await_state(0, "dead").await;
        assert_eq!(put_all(&mut bench, 2).await, 100, "others take its pages");
        assert_eq!(hits(&mut bench, 2).await, 100);
        bench.store(0).return_whole();
        bench.await_state(0, "up").await;
        let left = hits(&mut bench, 2).await;
        assert!(
            (30..100).contains(&left),
            "{left}: those that belong elsewhere"
        );
        put_all(&mut bench, 3).await;
        bench.store(0).die();
        bench.await_state(0, "dead").await;
        assert!(
            hits(&mut bench, 3).await < 100,
            "what the others have of its pages is older"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn put_that_may_have_failed_leaves_nothing_older() {
    run(async {
        let mut bench = bench(1).await;
        put_all(&mut bench, 1).await;
        bench.store(0).be_slow(Duration::from_secs(2));
        let late = bench.session.volatile_put(5, &page(5, 2)).await;
        assert!(!late, "its answer takes too long");
        bench.session.volatile_flush(&[6]).await;
        bench.store(0).be_slow(Duration::ZERO);
        sleep(Duration::from_secs(10)).await;
        bench.await_state(0, "up").await;
        for (index, version) in [(5, 2), (6, 99)] {
            let mut got = [0; 4096];
            if bench.session.volatile_get(index, &mut got).await {
                assert_eq!(got, page(index, version), "index {index}");
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn next_process_gets_nothing_of_the_last_one() {
    run(async {
        let mut bench = bench(2).await;
        put_all(&mut bench, 1).await;
        bench = bench.kill_and_restart(2).await;
        bench.await_state(0, "up").await;
        bench.await_state(1, "up").await;
        assert_eq!(hits(&mut bench, 1).await, 0);
        assert_eq!(put_all(&mut bench, 2).await, 100);
        assert_eq!(hits(&mut bench, 2).await, 100);
    })
    .await;
}
