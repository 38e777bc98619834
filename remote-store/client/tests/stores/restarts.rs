// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The client is killed; the next process has the table and the stores.

use tmem_remote_client::{Ack, ReadError, Settings};

use crate::bench::{Bench, run, settings};

#[tokio::test(start_paused = true)]
async fn next_process_reads_all_pages_and_writes_on() {
    run(async {
        let mut bench = Bench::new(3, 2).await;
        for slot in 0..100 {
            bench.write(slot, 1).await.unwrap();
        }
        bench.client.invalidate_slots(&[7]);
        for version in 2..4 {
            bench = bench.kill_and_restart(3).await;
            for slot in 0..100 {
                if slot == 7 {
                    assert_eq!(bench.read(7, 1).await, Err(ReadError::Nothing { slot: 7 }));
                } else {
                    bench.must_read(slot, version - 1).await;
                }
            }
            bench
                .await_status("all stores are up", |status| {
                    status
                        .stores
                        .iter()
                        .filter(|s| s.member.state.to_string() == "up")
                        .count()
                        == 3
                })
                .await;
            for slot in (0..100).filter(|slot| *slot != 7) {
                assert_eq!(bench.write(slot, version).await.unwrap().copies, 2);
            }
        }
        bench.await_whole().await;
        bench
            .await_that("the invalidated page is flushed", || bench.copies(7) == 0)
            .await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn next_process_finds_that_a_store_has_begun_anew_meanwhile() {
    run(async {
        let mut bench = Bench::new(3, 2).await;
        for slot in 0..100 {
            bench.write(slot, 1).await.unwrap();
        }
        bench.store(2).die();
        bench.store(2).return_empty();
        bench = bench.kill_and_restart(3).await;
        for slot in 0..100 {
            bench.must_read(slot, 1).await;
        }
        bench.await_state(2, "up").await;
        bench.await_whole().await;
        for slot in 0..100 {
            assert_eq!(bench.copies(slot), 2, "slot {slot}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn copies_that_were_left_for_later_are_made_by_the_next_process() {
    run(async {
        let ack = Ack::First;
        let mut bench = Bench::with(3, Settings { ack, ..settings(2) }, None).await;
        for slot in 0..100 {
            bench.write(slot, 1).await.unwrap();
        }
        // The host's own copies go with the process.
        bench = bench.kill_and_restart(3).await;
        for number in 0..3 {
            bench.await_state(number, "up").await;
        }
        bench.await_whole().await;
        for slot in 0..100 {
            bench.must_read(slot, 1).await;
            assert_eq!(bench.copies(slot), 2, "slot {slot}");
        }
    })
    .await;
}
