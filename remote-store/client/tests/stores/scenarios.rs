// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One fault at a time: what reads and writes make of it.

use std::time::Duration;

use tmem_pages::slots::SlotFile;
use tmem_remote_client::{Ack, Disk, Hedge, ReadError, Settings, WriteError};
use tokio::time::sleep;

use crate::bench::{Bench, page, run, settings, timed};

#[tokio::test(start_paused = true)]
async fn write_makes_its_copies_on_different_stores_and_read_gets_the_page() {
    run(async {
        let mut bench = Bench::new(3, 2).await;
        let batch: Vec<(u32, u32)> = (0..200).map(|slot| (slot, 1)).collect();
        let written = bench.write_all(&batch).await.unwrap();
        assert_eq!(written.copies, 2);
        for slot in 0..200 {
            assert_eq!(bench.copies(slot), 2);
            bench.must_read(slot, 1).await;
        }
        for slot in (0..200).step_by(3) {
            bench.write(slot, 2).await.unwrap();
            bench.must_read(slot, 2).await;
        }
        let counts = bench.client.counts();
        assert_eq!((counts.pages, counts.below, counts.lost), (200, 0, 0));
        for number in 0..3 {
            assert!(
                bench.store(number).count() > 0,
                "store {number} is used too"
            );
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn overwritten_and_invalidated_copies_are_flushed_in_the_background() {
    run(async {
        let mut bench = Bench::new(4, 2).await;
        for version in 1..6 {
            for slot in 0..32 {
                bench.write(slot, version).await.unwrap();
            }
        }
        let copies = |bench: &Bench| (0..32).map(|slot| bench.copies(slot)).sum::<usize>();
        bench
            .await_that("old copies are flushed", || copies(&bench) == 64)
            .await;
        for slot in 0..32 {
            bench.must_read(slot, 5).await;
        }
        bench.client.invalidate_slots(&(0..16).collect::<Vec<_>>());
        let nothing = bench.read(3, 5).await;
        assert_eq!(nothing, Err(ReadError::Nothing { slot: 3 }));
        bench
            .await_that("they are gone", || copies(&bench) == 32)
            .await;
        for slot in 16..32 {
            bench.must_read(slot, 5).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn store_that_dies_between_put_and_ack_is_replaced_in_the_same_write() {
    run(async {
        let mut bench = Bench::new(3, 2).await;
        for number in 0..3 {
            bench.write(number, 1).await.unwrap();
        }
        bench.store(1).die_before_ack(1);
        let mut replaced = 0;
        for slot in 10..20 {
            let written = bench.write(slot, 1).await.unwrap();
            assert_eq!(written.copies, 2, "slot {slot}");
            replaced = bench.client.metrics().total.replaced;
            bench.must_read(slot, 1).await;
        }
        assert_eq!(replaced, 1);
        for slot in 0..3 {
            bench.must_read(slot, 1).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn read_of_a_stalled_store_is_answered_by_another_one() {
    run(async {
        let hedge = Hedge::After(Duration::from_millis(2));
        let mut bench = Bench::with(
            2,
            Settings {
                hedge,
                ..settings(2)
            },
            None,
        )
        .await;
        for slot in 0..50 {
            bench.write(slot, 1).await.unwrap();
        }
        bench.store(0).go_silent(true);
        for slot in 0..50 {
            let ((), took) = timed(bench.must_read(slot, 1)).await;
            assert!(
                took <= Duration::from_millis(5),
                "slot {slot} took {took:?}"
            );
        }
        let won: u64 = bench
            .client
            .metrics()
            .stores
            .iter()
            .map(|s| s.0.hedges_won)
            .sum();
        assert!(won >= 1);
        bench.store(0).go_silent(false);
        bench.await_state(0, "up").await;
        sleep(Duration::from_secs(1)).await;
        let before = bench.store(0).gets();
        for slot in 0..50 {
            bench.must_read(slot, 1).await;
        }
        assert!(bench.store(0).gets() > before, "it is asked again");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn copy_that_is_not_what_was_written_is_replaced_by_a_good_one() {
    run(async {
        let mut bench = Bench::new(2, 2).await;
        for slot in 0..20 {
            bench.write(slot, 1).await.unwrap();
        }
        // Whole in itself, and yet not what was written.
        for slot in 0..20 {
            bench.store(0).replace(slot, page(slot, 99));
        }
        for _ in 0..3 {
            for slot in 0..20 {
                bench.must_read(slot, 1).await;
            }
        }
        bench.await_whole().await;
        let repaired = (0..20)
            .filter(|slot| bench.store(0).pages()[&(0, *slot)].page.as_ref() == &page(*slot, 1));
        assert!(
            repaired.count() >= 15,
            "reads met most of them, and each was repaired"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn page_that_the_caller_expects_wrongly_costs_no_copy() {
    run(async {
        let mut bench = Bench::new(2, 2).await;
        bench.write(1, 2).await.unwrap();
        let stale = bench.read(1, 1).await;
        assert!(matches!(stale, Err(ReadError::Damaged { .. })), "{stale:?}");
        assert_eq!(bench.client.counts().below, 0);
        bench.must_read(1, 2).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn store_that_lies_is_never_believed() {
    run(async {
        let mut bench = Bench::new(3, 2).await;
        for slot in 0..30 {
            bench.write(slot, 1).await.unwrap();
        }
        bench.store(2).lie(true);
        for slot in 0..30 {
            bench.must_read(slot, 1).await;
        }
        bench.store(0).die();
        for slot in 0..30 {
            // What is only with the liar is an error, never other bytes.
            let _ = bench.read(slot, 1).await;
        }
        bench.store(2).lie(false);
        bench.store(0).return_whole();
        bench.await_state(0, "up").await;
        for slot in 0..30 {
            bench.must_read(slot, 1).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn page_that_its_store_has_lost_is_copied_again() {
    run(async {
        let mut bench = Bench::new(2, 2).await;
        bench.write(5, 1).await.unwrap();
        bench.store(0).lose(5);
        for _ in 0..8 {
            bench.must_read(5, 1).await;
        }
        bench
            .await_that("the copy is back", || bench.copies(5) == 2)
            .await;
        bench.store(0).lose(5);
        bench.store(1).lose(5);
        assert!(bench.read(5, 1).await.is_err());
        let lost = bench.read(5, 1).await;
        assert_eq!(lost, Err(ReadError::Lost { slot: 5 }));
        assert_eq!(bench.client.counts().lost, 1);
        bench.write(5, 2).await.unwrap();
        bench.must_read(5, 2).await;
        assert_eq!(bench.client.counts().lost, 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn write_with_fewer_stores_than_copies_is_counted_or_refused_as_was_chosen() {
    run(async {
        let mut bench = Bench::new(1, 2).await;
        assert_eq!(bench.write(1, 1).await.unwrap().copies, 1);
        assert_eq!(bench.client.metrics().total.degraded_writes, 1);
        bench.must_read(1, 1).await;
        let min_copies = 2;
        let strict = Settings {
            min_copies,
            ..settings(2)
        };
        let mut bench = Bench::with(1, strict, None).await;
        let refused = bench.write(1, 1).await;
        assert!(matches!(
            refused,
            Err(WriteError::TooFew {
                copies: 1,
                wanted: 2,
                ..
            })
        ));
        assert_eq!(bench.read(1, 1).await, Err(ReadError::Nothing { slot: 1 }));
        bench
            .await_that("what was put is flushed", || bench.copies(1) == 0)
            .await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn write_without_stores_is_an_error_and_leaves_the_slot_empty() {
    run(async {
        let mut bench = Bench::new(2, 2).await;
        bench.write(1, 1).await.unwrap();
        bench.store(0).die();
        bench.store(1).die();
        let refused = bench.write(1, 2).await;
        assert!(
            matches!(refused, Err(WriteError::NoStore { .. })),
            "{refused:?}"
        );
        assert_eq!(bench.read(1, 1).await, Err(ReadError::Nothing { slot: 1 }));
        bench.await_state(0, "dead").await;
        bench.await_state(1, "dead").await;
        bench.store(0).return_whole();
        bench.store(1).return_whole();
        bench.await_state(0, "up").await;
        bench.await_state(1, "up").await;
        assert_eq!(
            bench.read(1, 1).await,
            Err(ReadError::Nothing { slot: 1 }),
            "never older"
        );
        bench.write(1, 3).await.unwrap();
        bench.must_read(1, 3).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn full_store_passes_its_pages_on_to_others() {
    run(async {
        let mut bench = Bench::new(3, 2).await;
        bench.store(0).set_capacity(10);
        let batch: Vec<(u32, u32)> = (0..100).map(|slot| (slot, 1)).collect();
        for part in batch.chunks(20) {
            assert_eq!(bench.write_all(part).await.unwrap().copies, 2);
        }
        assert!(bench.store(0).count() <= 10);
        for slot in 0..100 {
            bench.must_read(slot, 1).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn store_that_takes_few_pages_at_once_gets_few_at_once() {
    run(async {
        let mut bench = Bench::new(2, 2).await;
        bench.store(1).take_at_once(7);
        bench.store(1).cut();
        bench.session = bench.client.session(2);
        sleep(Duration::from_secs(1)).await;
        let batch: Vec<(u32, u32)> = (0..50).map(|slot| (slot, 1)).collect();
        assert_eq!(bench.write_all(&batch).await.unwrap().copies, 2);
        assert_eq!(bench.client.counts().below, 0);
        for slot in 0..50 {
            bench.must_read(slot, 1).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn first_acknowledgement_is_enough_and_the_host_sees_to_the_rest() {
    run(async {
        let ack = Ack::First;
        let mut bench = Bench::with(3, Settings { ack, ..settings(2) }, None).await;
        for slot in 0..100 {
            bench.write(slot, 1).await.unwrap();
        }
        bench
            .await_status("no page is held", |status| status.held_pages == 0)
            .await;
        for slot in 0..100 {
            assert_eq!(bench.copies(slot), 2, "slot {slot}");
            bench.must_read(slot, 1).await;
        }
        assert_eq!(bench.client.counts().below, 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn page_that_the_host_holds_survives_the_loss_of_its_only_store() {
    run(async {
        let ack = Ack::First;
        let mut bench = Bench::with(2, Settings { ack, ..settings(2) }, None).await;
        bench.write(0, 1).await.unwrap();
        bench.write(1, 1).await.unwrap();
        bench
            .await_status("no page is held", |status| status.held_pages == 0)
            .await;
        // Nobody can take the second copy.
        bench.store(1).die();
        bench.await_state(1, "dead").await;
        for slot in 10..20 {
            assert_eq!(bench.write(slot, 1).await.unwrap().copies, 1);
        }
        bench.store(0).die();
        for slot in 10..20 {
            bench.must_read(slot, 1).await;
        }
        assert!(bench.client.metrics().total.held_reads >= 10);
        bench.store(0).return_empty();
        bench.store(1).return_whole();
        bench
            .await_status("no page is held", |status| status.held_pages == 0)
            .await;
        for slot in 10..20 {
            bench.must_read(slot, 1).await;
            assert_eq!(bench.copies(slot), 2);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn disk_copy_is_read_when_no_store_answers() {
    run(async {
        let disk = Disk::new(SlotFile::memory(64).unwrap(), "disk".into());
        let mut bench = Bench::with(2, settings(2), Some(disk)).await;
        bench
            .await_status("the disk is up", |status| {
                status
                    .store("disk")
                    .is_some_and(|disk| disk.member.state.to_string() == "up")
            })
            .await;
        bench.store(1).die();
        bench.await_state(1, "dead").await;
        for slot in 0..40 {
            assert_eq!(
                bench.write(slot, 1).await.unwrap().copies,
                2,
                "one is on the disk"
            );
        }
        bench.must_read(3, 1).await;
        bench.store(0).die();
        for slot in 0..40 {
            bench.must_read(slot, 1).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pages_asked_for_in_advance_are_dropped_when_they_change() {
    run(async {
        let mut bench = Bench::new(2, 2).await;
        for slot in 0..20 {
            bench.write(slot, 1).await.unwrap();
            bench.must_read(slot, 1).await;
        }
        let expected = |version| -> Vec<(u32, u32)> {
            (0..20)
                .map(|slot| (slot, tmem_remote_protocol::checksum(&page(slot, version))))
                .collect()
        };
        bench.session.will_read(&expected(1));
        for slot in 0..10 {
            bench.must_read(slot, 1).await;
        }
        assert_eq!(bench.client.metrics().total.prefetched, 10);
        for slot in 10..15 {
            bench.write(slot, 2).await.unwrap();
        }
        bench.client.invalidate_slots(&[15]);
        for slot in 10..15 {
            bench.must_read(slot, 2).await;
        }
        assert_eq!(
            bench.read(15, 1).await,
            Err(ReadError::Nothing { slot: 15 })
        );
        for slot in 16..20 {
            bench.must_read(slot, 1).await;
        }
        assert_eq!(bench.client.metrics().total.prefetched, 14);
    })
    .await;
}
