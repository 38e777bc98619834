// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Primaries killed and frozen under load: no stale read is ever returned, every loss is reported.
//!
//! Each thread owns some slots and knows what it last wrote to each, like the engine does. A read is
//! the very page or an error; a write that fails leaves the slot empty, and the thread still has the
//! page, like the engine has it in DRAM. `TMEM_VALKEY_ROUNDS` gives the number of faults, `TMEM_SEED`
//! the order of everything that is not up to the processes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tmem_pages::{PageBytes, SlotStore};
use tmem_remote_client::valkey::{ValkeyError, ValkeyStore};

use crate::pages::{Random, bound, config, header, memory, page, read};
use crate::servers::{Servers, wait};

const THREADS: u32 = 3;
const SLOTS_EACH: u32 = 700;
const BATCH_MAX: u64 = 24;

/// What a thread knows of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// No page.
    Empty,
    /// The page with this tag was acknowledged.
    Kept(u64),
}

#[derive(Debug, Default)]
struct Tally {
    acknowledged: AtomicU64,
    kept_by_the_host: AtomicU64,
    right: AtomicU64,
    lost: AtomicU64,
    unanswered: AtomicU64,
    flushed: AtomicU64,
    longest_us: AtomicU64,
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// One thread's slots.
struct Load<'a> {
    store: &'a ValkeyStore,
    tally: &'a Tally,
    first: u32,
    known: Vec<Known>,
    random: Random,
    tag: u64,
}

impl Load<'_> {
    fn step(&mut self) {
        match self.random.below(10) {
            0..4 => self.write(),
            4 => self.flush(),
            _ => {
                let at = self.random.below(u64::from(SLOTS_EACH));
                self.read(usize::try_from(at).unwrap());
            }
        }
    }

    fn slot(&self, at: usize) -> u32 {
        self.first + u32::try_from(at).unwrap()
    }

    /// Time of a call counts towards the longest.
    fn timed<T>(&self, call: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = call();
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap();
        self.tally.longest_us.fetch_max(micros, Ordering::Relaxed);
        done
    }

    fn write(&mut self) {
        let count = 1 + self.random.below(BATCH_MAX);
        let first = self.random.below(u64::from(SLOTS_EACH) - count);
        let places: Vec<usize> = (first..first + count)
            .map(|at| usize::try_from(at).unwrap())
            .collect();
        let tags: Vec<u64> = places.iter().map(|_| self.next_tag()).collect();
        let pages: Vec<PageBytes> = tags.iter().map(|tag| page(*tag)).collect();
        let headers: Vec<_> = pages.iter().map(header).collect();
        let batch: Vec<_> = places
            .iter()
            .zip(headers.iter().zip(&pages))
            .map(|(at, (header, page))| (self.slot(*at), header, page))
            .collect();
        let written = self.timed(|| self.store.write(&batch));
        match &written {
            Ok(()) => add(&self.tally.acknowledged, count),
            Err(_) => add(&self.tally.kept_by_the_host, count),
        }
        for (at, tag) in places.into_iter().zip(tags) {
            self.known[at] = match written {
                Ok(()) => Known::Kept(tag),
                Err(_) => Known::Empty,
            };
        }
    }

    fn next_tag(&mut self) -> u64 {
        self.tag += 1;
        self.tag
    }

    fn flush(&mut self) {
        let at = self.random.below(u64::from(SLOTS_EACH));
        let at = usize::try_from(at).unwrap();
        let slot = self.slot(at);
        self.timed(|| self.store.invalidate(&[slot])).unwrap();
        self.known[at] = Known::Empty;
        add(&self.tally.flushed, 1);
    }

    fn read(&mut self, at: usize) {
        let slot = self.slot(at);
        match self.known[at] {
            Known::Kept(tag) => {
                let expected = page(tag);
                // Other bytes than these fail the test in there.
                let got = self.timed(|| read(self.store, slot, &expected));
                if got.is_ok() {
                    add(&self.tally.right, 1);
                    return;
                }
                match got.unwrap_err() {
                    ValkeyError::Lost { .. } => {
                        add(&self.tally.lost, 1);
                        // The engine reports it to the guest, and the slot is free.
                        self.store.invalidate(&[slot]).unwrap();
                        self.known[at] = Known::Empty;
                    }
                    ValkeyError::NoPage { .. } => panic!("slot {slot} holds a page"),
                    _ => add(&self.tally.unanswered, 1),
                }
            }
            Known::Empty => {
                let got = read(self.store, slot, &page(0)).unwrap_err();
                assert!(matches!(got, ValkeyError::NoPage { .. }), "{got}");
            }
        }
    }
}

/// One fault, chosen by chance, and what it was.
fn fault(servers: &mut Servers, random: &mut Random) -> String {
    let primaries = servers.primaries();
    let pick = usize::try_from(random.below(primaries.len() as u64)).unwrap();
    let victim = primaries[pick];
    let replaced = |servers: &Servers| {
        wait("a replica to take over", || {
            let now = servers.primaries();
            now.iter().filter(|number| **number != victim).count() == 3
        });
    };
    match random.below(5) {
        0 => {
            // Back before it is missed, and empty: it still is the primary, and its replica follows it.
            // The one fault here that loses pages for certain, all of which must be reported.
            servers.kill(victim);
            servers.restart(victim);
            format!("killed {victim} and started it again at once")
        }
        1 | 2 => {
            servers.kill(victim);
            replaced(servers);
            servers.restart(victim);
            format!("killed {victim} and waited for its replica to take over")
        }
        3 => {
            servers.freeze(victim);
            replaced(servers);
            servers.thaw(victim);
            format!("froze {victim} until it was replaced")
        }
        _ => {
            servers.freeze(victim);
            thread::sleep(Duration::from_millis(300 + random.below(600)));
            servers.thaw(victim);
            format!("froze {victim} for a moment")
        }
    }
}

#[test]
fn failovers_under_load_lose_no_page_in_silence() {
    let number = |name: &str| -> Option<u64> { std::env::var(name).ok()?.parse().ok() };
    let rounds = number("TMEM_VALKEY_ROUNDS").unwrap_or(4);
    let clock = || u64::from(std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos());
    let seed = number("TMEM_SEED").unwrap_or_else(clock);
    println!(
        "replay: TMEM_SEED={seed} TMEM_VALKEY_ROUNDS={rounds} cargo test -p tmem-remote-client --test \
         valkey failovers -- --nocapture"
    );
    let Some(mut servers) = Servers::cluster(&[]) else {
        return;
    };
    let config = config(&servers);
    let store = ValkeyStore::open(&config, memory(), THREADS * SLOTS_EACH).unwrap();
    let (tally, stop) = (Tally::default(), AtomicBool::new(false));
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|number| {
                let mut load = Load {
                    store: &store,
                    tally: &tally,
                    first: number * SLOTS_EACH,
                    known: vec![Known::Empty; SLOTS_EACH as usize],
                    random: Random(seed ^ (u64::from(number) << 32)),
                    tag: u64::from(number + 1) << 40,
                };
                let stop = &stop;
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        load.step();
                    }
                    load
                })
            })
            .collect();
        let mut random = Random(seed);
        let faults = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 1..=rounds {
                thread::sleep(Duration::from_millis(500));
                println!("round {round}: {}", fault(&mut servers, &mut random));
                servers.wait_whole();
            }
        }));
        stop.store(true, Ordering::Relaxed);
        let mut loads: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        if let Err(panic) = faults {
            std::panic::resume_unwind(panic);
        }
        // All is well again: whatever does not come back now was lost, and is said to be.
        for load in &mut loads {
            let unanswered = tally.unanswered.load(Ordering::Relaxed);
            for at in 0..load.known.len() {
                load.read(at);
            }
            assert_eq!(tally.unanswered.load(Ordering::Relaxed), unanswered);
        }
    });
    println!("{tally:?}\n{:?}", store.stats());
    assert_eq!(store.stats().lost(), tally.lost.load(Ordering::Relaxed));
    assert!(tally.acknowledged.load(Ordering::Relaxed) > 0);
    assert!(tally.right.load(Ordering::Relaxed) > 0);
    let longest = Duration::from_micros(tally.longest_us.load(Ordering::Relaxed));
    assert!(longest < bound(&config), "a call took {longest:?}");
}
