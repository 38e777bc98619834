// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stores that die, come back in all ways, join, and leave: what becomes of the pages on them.

use std::time::Duration;

use tmem_remote_client::control::{Command, Refused};
use tmem_remote_client::driver::{CommandError, Ended};
use tmem_remote_client::{ReadError, WriteError};
use tmem_remote_protocol::checksum;
use tokio::time::sleep;

use crate::bench::{Bench, page, run, timed};

const PAGES: u32 = 200;

async fn filled(stores: u8, replicas: u8) -> Bench {
    let mut bench = Bench::new(stores, replicas).await;
    let batch: Vec<(u32, u32)> = (0..PAGES).map(|slot| (slot, 1)).collect();
    for part in batch.chunks(16) {
        bench.write_all(part).await.unwrap();
    }
    bench
}

async fn must_read_all(bench: &mut Bench, version: u32) {
    for slot in 0..PAGES {
        bench.must_read(slot, version).await;
    }
}

#[tokio::test(start_paused = true)]
async fn dead_store_costs_no_read_and_its_pages_are_copied_elsewhere() {
    run(async {
        let mut bench = filled(3, 2).await;
        bench.store(0).die();
        for slot in 0..PAGES {
            let ((), took) = timed(bench.must_read(slot, 1)).await;
            assert!(
                took < Duration::from_millis(50),
                "slot {slot} took {took:?}"
            );
        }
        bench.await_state(0, "dead").await;
        bench.await_whole().await;
        for slot in 0..PAGES {
            let alive = [1, 2].into_iter().filter(|n| bench.store(*n).has(slot));
            assert_eq!(alive.count(), 2, "slot {slot}");
        }
        // The second death, after the repair, costs nothing either.
        bench.store(1).die();
        must_read_all(&mut bench, 1).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn store_that_comes_back_soon_is_used_again_without_copying() {
    run(async {
        let mut bench = filled(3, 2).await;
        bench.store(0).die();
        sleep(Duration::from_millis(150)).await;
        bench.store(0).return_whole();
        bench.await_state(0, "up").await;
        bench.await_whole().await;
        must_read_all(&mut bench, 1).await;
        let repaired: u64 = bench
            .client
            .metrics()
            .stores
            .iter()
            .map(|s| s.0.repairs)
            .sum();
        assert_eq!(repaired, 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn connection_to_an_earlier_life_of_a_store_fails_no_read() {
    run(async {
        // The only copies, asked for ahead, in two requests, over a connection of which nobody knows that
        // it is dead.
        let mut bench = Bench::new(1, 1).await;
        bench.store(0).take_at_once(2);
        for slot in 0..PAGES {
            bench.write(slot, 1).await.unwrap();
        }
        bench.store(0).die();
        sleep(Duration::from_millis(20)).await;
        bench.store(0).return_whole();
        bench.await_state(0, "up").await;
        let ahead: Vec<(u32, u32)> = (0..4)
            .map(|slot| (slot, checksum(&page(slot, 1))))
            .collect();
        bench.session.will_read(&ahead);
        must_read_all(&mut bench, 1).await;
        let status = bench.handle.status();
        assert_eq!(status.store("s0").unwrap().member.state.to_string(), "up");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn store_that_failed_a_moment_ago_is_asked_again_for_the_only_copy() {
    run(async {
        let mut bench = filled(1, 1).await;
        must_read_all(&mut bench, 1).await;
        bench.store(0).die();
        assert!(bench.read(0, 1).await.is_err());
        bench.store(0).return_whole();
        // Sooner than the next attempt is due, and than the driver knows.
        must_read_all(&mut bench, 1).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn store_that_comes_back_empty_is_filled_again() {
    run(async {
        let mut bench = filled(2, 2).await;
        bench.store(0).die();
        bench.await_state(0, "dead").await;
        bench.store(0).return_empty();
        bench.await_state(0, "up").await;
        bench.await_whole().await;
        assert_eq!(bench.store(0).count(), PAGES as usize);
        bench.store(1).die();
        must_read_all(&mut bench, 1).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn store_that_comes_back_with_old_pages_is_never_believed() {
    run(async {
        let mut bench = filled(3, 2).await;
        let old = bench.store(0).pages();
        bench.store(0).die();
        bench.await_state(0, "dead").await;
        for slot in 0..PAGES / 2 {
            bench.write(slot, 2).await.unwrap();
        }
        bench
            .client
            .invalidate_slots(&(150..PAGES).collect::<Vec<_>>());
        bench.store(0).return_old(old);
        bench.await_state(0, "up").await;
        for slot in 0..PAGES / 2 {
            bench.must_read(slot, 2).await;
        }
        for slot in PAGES / 2..150 {
            bench.must_read(slot, 1).await;
        }
        for slot in 150..PAGES {
            assert_eq!(bench.read(slot, 1).await, Err(ReadError::Nothing { slot }));
        }
        bench.await_whole().await;
        bench
            .await_that("what it had for nobody is flushed", || {
                (150..PAGES).all(|slot| bench.copies(slot) == 0)
            })
            .await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn all_stores_that_come_back_bring_their_pages_back() {
    run(async {
        let mut bench = filled(2, 2).await;
        for number in 0..2 {
            bench.store(number).die();
        }
        bench.await_state(0, "dead").await;
        bench.await_state(1, "dead").await;
        let unreachable = bench.read(1, 1).await;
        assert!(
            matches!(unreachable, Err(ReadError::Unreachable { .. })),
            "{unreachable:?}"
        );
        for number in 0..2 {
            bench.store(number).return_whole();
        }
        bench.await_state(0, "up").await;
        bench.await_state(1, "up").await;
        must_read_all(&mut bench, 1).await;
        assert_eq!(bench.client.counts().below, 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn drained_store_is_empty_and_may_leave() {
    run(async {
        let mut bench = filled(3, 2).await;
        let name = String::from("s0");
        let force = false;
        let refused = bench
            .handle
            .command(Command::Remove {
                name: name.clone(),
                force,
            })
            .await;
        let holds = matches!(
            refused,
            Err(CommandError::Refused(
                Refused::HoldsPages { .. } | Refused::NotDrained(_)
            ))
        );
        assert!(holds, "{refused:?}");
        bench
            .handle
            .command(Command::Drain { name: name.clone() })
            .await
            .unwrap();
        bench.await_state(0, "drained").await;
        assert_eq!(bench.client.counts().copies[0], 0);
        must_read_all(&mut bench, 1).await;
        bench
            .await_that("its pages are flushed", || bench.store(0).count() == 0)
            .await;
        bench
            .handle
            .command(Command::Remove { name, force })
            .await
            .unwrap();
        bench
            .await_status("it is gone", |status| status.store("s0").is_none())
            .await;
        must_read_all(&mut bench, 1).await;
        assert_eq!(bench.client.counts().below, 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pages_that_change_while_they_are_copied_stay_the_newest() {
    run(async {
        let mut bench = filled(4, 2).await;
        for number in 0..4 {
            bench.store(number).be_slow(Duration::from_millis(2));
        }
        bench.store(0).die();
        bench.await_state(0, "dead").await;
        for version in 2..5 {
            for slot in (0..PAGES).step_by(2) {
                bench.write(slot, version).await.unwrap();
            }
        }
        bench.await_whole().await;
        for slot in 0..PAGES {
            bench
                .must_read(slot, if slot % 2 == 0 { 4 } else { 1 })
                .await;
        }
        bench.store(1).die();
        for slot in 0..PAGES {
            bench
                .must_read(slot, if slot % 2 == 0 { 4 } else { 1 })
                .await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn silent_store_is_given_up_after_three_adverts() {
    run(async {
        let mut bench = filled(3, 2).await;
        bench.store(1).go_silent(true);
        let ((), took) = timed(bench.await_state(1, "dead")).await;
        assert!(took >= Duration::from_millis(290), "{took:?}");
        assert!(took <= Duration::from_millis(600), "{took:?}");
        must_read_all(&mut bench, 1).await;
        bench.await_whole().await;
        bench.store(1).go_silent(false);
        bench.await_state(1, "up").await;
        bench.await_whole().await;
        must_read_all(&mut bench, 1).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn later_process_of_the_namespace_ends_this_one() {
    run(async {
        let mut bench = filled(2, 2).await;
        bench.store(0).meet_epoch(5000);
        sleep(Duration::from_secs(1)).await;
        let refused = bench.write(1, 2).await;
        assert!(
            matches!(refused, Err(WriteError::Fenced { epoch: 5000 })),
            "{refused:?}"
        );
        assert_eq!(bench.ended().await, Ended::Fenced { epoch: 5000 });
    })
    .await;
}
