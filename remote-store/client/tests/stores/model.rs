// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random reads, writes and faults against the plainest model: what each slot's last page was.
//!
//! At most one store at a time is faulty, and each has recovered before the next one fails, so with two
//! copies no page may be lost and every read must succeed.

use std::collections::BTreeMap;
use std::time::Duration;

use tmem_remote_client::control::Random;
use tmem_remote_client::{Ack, ReadError, Settings};
use tokio::time::sleep;

use crate::bench::{Bench, run, settings};

const STORES: u8 = 4;
const ROUNDS: usize = 12;
const STEPS: usize = 150;
const SEEDS: u64 = 6;

/// The seeds of this run: `TMEM_SEED` alone, or some that differ from run to run.
fn seeds(test: &str) -> Vec<u64> {
    use std::hash::{BuildHasher, RandomState};
    let told = std::env::var("TMEM_SEED").ok();
    let told = told.map(|seed| seed.parse().expect("TMEM_SEED is a number"));
    let fresh = || (0..SEEDS).map(|n| RandomState::new().hash_one(n)).collect();
    let seeds: Vec<u64> = told.map_or_else(fresh, |seed| vec![seed]);
    for seed in &seeds {
        println!("replay: TMEM_SEED={seed} cargo test -p tmem-remote-client {test} -- --nocapture");
    }
    seeds
}

struct Model {
    bench: Bench,
    random: Random,
    pages: BTreeMap<u32, u32>,
    version: u32,
    /// So many slots are used.
    slots: u32,
}

impl Model {
    fn below(&mut self, limit: u32) -> u32 {
        u32::try_from(self.random.below(limit.into())).unwrap()
    }

    async fn step(&mut self) {
        let slot = self.below(self.slots);
        match self.below(20) {
            0..6 => {
                let count = self.below(8) + 1;
                self.version += 1;
                let version = self.version;
                let batch: Vec<(u32, u32)> = (0..count)
                    .map(|n| ((slot + n) % self.slots, version))
                    .collect();
                let written = self.bench.write_all(&batch).await;
                written.unwrap_or_else(|error| panic!("slot {slot}: {error}"));
                self.pages.extend(batch);
            }
            6..8 => {
                self.bench.client.invalidate_slots(&[slot]);
                self.pages.remove(&slot);
            }
            8 => {
                let expected: Vec<(u32, u32)> = (self.pages.range(slot..).take(10))
                    .map(|(slot, version)| {
                        let page = crate::bench::page(*slot, *version);
                        (*slot, tmem_remote_protocol::checksum(&page))
                    })
                    .collect();
                self.bench.session.will_read(&expected);
            }
            9 => sleep(Duration::from_millis(3)).await,
            _ => self.read(slot).await,
        }
    }

    async fn read(&mut self, slot: u32) {
        match self.pages.get(&slot) {
            Some(version) => self.bench.must_read(slot, *version).await,
            None => {
                let read = self.bench.read(slot, 0).await;
                assert_eq!(read, Err(ReadError::Nothing { slot }));
            }
        }
    }

    async fn round(&mut self) {
        let number = u8::try_from(self.below(STORES.into())).unwrap();
        let store = self.bench.store(number);
        let fault = self.below(8);
        let before = store.pages();
        match fault {
            0 => store.die(),
            1 => store.go_silent(true),
            2 => store.be_slow(Duration::from_millis(20)),
            3 => store.lie(true),
            4 => store.die_before_ack(5),
            5 => store.cut(),
            6 => store.set_capacity(store.count() as u64),
            _ => {}
        }
        let steps = usize::try_from(self.below(150)).unwrap();
        for _ in 0..STEPS.min(steps + 20) {
            self.step().await;
        }
        match fault {
            0 => match self.below(3) {
                0 => store.return_whole(),
                1 => store.return_empty(),
                _ => store.return_old(before),
            },
            1 => store.go_silent(false),
            2 => store.be_slow(Duration::ZERO),
            3 => store.lie(false),
            4 => {
                store.die_before_ack(u32::MAX);
                store.return_whole();
            }
            6 => store.set_capacity(1 << 20),
            _ => {}
        }
        for number in 0..STORES {
            self.bench.await_state(number, "up").await;
        }
        // Every page is read, so that copies that are not right are found; then all are copied.
        for _ in 0..4 {
            for slot in 0..self.slots {
                self.read(slot).await;
            }
        }
        self.bench.await_whole().await;
    }
}

async fn one(seed: u64, ack: Ack) {
    let settings = Settings {
        ack,
        seed,
        ..settings(2)
    };
    let mut model = Model {
        bench: Bench::with(STORES, settings, None).await,
        random: Random::new(seed),
        pages: BTreeMap::new(),
        version: 0,
        slots: 96,
    };
    for _ in 0..ROUNDS {
        model.round().await;
    }
    let counts = model.bench.client.counts();
    assert_eq!((counts.pages, counts.lost), (model.pages.len() as u64, 0));
    let slots = 0..model.slots;
    let pages = &model.pages;
    model
        .bench
        .await_that("nothing lies about that no slot has", || {
            slots
                .clone()
                .all(|slot| pages.contains_key(&slot) || model.bench.copies(slot) == 0)
        })
        .await;
}

#[test]
fn every_page_reads_as_it_was_last_written_whatever_one_store_does() {
    for seed in seeds("every_page_reads") {
        for ack in [Ack::All, Ack::First] {
            println!("{ack:?}");
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(run(one(seed, ack)));
        }
    }
}
