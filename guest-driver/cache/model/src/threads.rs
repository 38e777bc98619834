// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Readers and writers in threads of their own, on one filter with real locks.

use crate::cells::{Filter, Random};
use crate::decide::{Fill, Flush, Outcome, Plan, Write, plan};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

const BLOCKS: u32 = 256;
const ROUNDS: u32 = 20_000;

struct Stage {
    filter: Filter,
    disk: Vec<AtomicU64>,
    floors: Vec<AtomicU64>,
    /// One writer a block at a time.
    writing: Vec<Mutex<()>>,
    host: Mutex<HashMap<u32, u64>>,
    stamps: AtomicU64,
    hits: AtomicU64,
}

impl Stage {
    fn host<R>(&self, each: impl FnOnce(&mut HashMap<u32, u64>) -> R) -> R {
        each(&mut self.host.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, block: u32) {
        let at = block as usize;
        let _alone = self.writing[at].lock();
        let stamp = self.stamps.fetch_add(1, Ordering::SeqCst) + 1;
        let write = Write::begin(&self.filter, block, 1);
        self.disk[at].store(stamp, Ordering::SeqCst);
        write.end(&self.filter, Outcome::Certain);
        self.floors[at].fetch_max(stamp, Ordering::SeqCst);
    }

    fn read(&self, first: u32, blocks: u32) {
        let floor = |block: u32| self.floors[block as usize].load(Ordering::SeqCst);
        let floors: Vec<u64> = (first..first + blocks).map(floor).collect();
        let check = |nth: usize, stamp: u64| {
            let block = first as usize + nth;
            assert!(
                stamp >= floors[nth],
                "block {block}: {stamp} is older than {}",
                floors[nth]
            );
            self.floors[block].fetch_max(stamp, Ordering::SeqCst);
        };
        match plan(&self.filter, first, blocks, 256) {
            Plan::Get(get) => {
                let pages: Vec<Option<u64>> = (0..get.blocks)
                    .map(|nth| self.host(|host| host.get(&(first + nth)).copied()))
                    .collect();
                for (nth, page) in pages.iter().enumerate() {
                    if let Some(stamp) = page {
                        check(nth, *stamp);
                        self.hits.fetch_add(1, Ordering::Relaxed);
                    }
                }
                get.missed(&self.filter, |nth| pages[nth as usize].is_none());
            }
            Plan::Origin(length) => {
                let length = length.min(32);
                let fill = Fill::begin(&self.filter, first, length);
                let seen: Vec<u64> = (first..first + length)
                    .map(|block| self.disk[block as usize].load(Ordering::SeqCst))
                    .collect();
                for (nth, stamp) in seen.iter().enumerate() {
                    check(nth, *stamp);
                }
                let Some(put) = fill.and_then(|fill| fill.put(&self.filter)) else {
                    return;
                };
                let pages: Vec<(u32, u64)> = put
                    .numbers()
                    .map(|nth| (first + nth, seen[nth as usize]))
                    .collect();
                for (block, stamp) in pages {
                    self.host(|host| host.insert(block, stamp));
                }
                put.end(&self.filter, |_| true);
            }
        }
    }

    fn flush(&self, first: u32, blocks: u32) {
        for flush in Flush::begin(&self.filter, first, blocks) {
            for block in flush.indices() {
                self.host(|host| host.remove(&block));
            }
            flush.end(&self.filter);
        }
    }
}

#[test]
fn threads_never_read_what_was_overwritten() {
    let stage = Stage {
        filter: Filter::new(BLOCKS, 2),
        disk: (0..BLOCKS).map(|_| AtomicU64::new(0)).collect(),
        floors: (0..BLOCKS).map(|_| AtomicU64::new(0)).collect(),
        writing: (0..BLOCKS).map(|_| Mutex::new(())).collect(),
        host: Mutex::default(),
        stamps: AtomicU64::new(0),
        hits: AtomicU64::new(0),
    };
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let stage = &stage;
            scope.spawn(move || {
                let mut random = Random(thread);
                for _ in 0..ROUNDS {
                    let first = random.below(BLOCKS);
                    let blocks = 1 + random.below(8.min(BLOCKS - first));
                    match random.below(16) {
                        0 | 1 => stage.write(first),
                        2 => stage.flush(first, blocks),
                        3 => stage.host(|host| {
                            host.remove(&first);
                        }),
                        _ => stage.read(first, blocks),
                    }
                }
            });
        }
    });
    let hits = stage.hits.into_inner();
    assert!(
        hits > u64::from(ROUNDS),
        "only {hits} blocks came from the host"
    );
}
