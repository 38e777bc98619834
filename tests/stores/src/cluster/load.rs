// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Threads that write, read and flush through the real client, as the engine does, and record it.
//!
//! The engine knows of each slot whether it holds a page, and with which checksum; it reads no slot
//! that is being written, and looks again after a read. So does this: a read counts if the slot was
//! the same before and after. Then it must succeed, as long as there is a copy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tmem_pages::slots::SlotHeader;
use tmem_pages::{ObjectId, PAGE_SIZE, PageBytes, PageIndex, SlotStore, Ticket};
use tmem_remote_client::Replicated;
use tmem_remote_client::connect::Network;
use tmem_remote_protocol::checksum;

use crate::history::Recorder;
use crate::page::Stamp;
use crate::random::Random;

/// Operations on one key and round at most: the checker's work grows faster than their number.
const OPERATIONS_MAX: u32 = 150;

/// What a thread found wrong.
pub type Complaint = String;

/// What is done, and seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Writes that were acknowledged.
    pub writes: AtomicU64,
    /// Writes that failed.
    pub failed: AtomicU64,
    /// Reads that returned a page.
    pub reads: AtomicU64,
    /// The longest read, in microseconds.
    pub longest_read: AtomicU64,
    /// What is wrong.
    pub complaints: Mutex<Vec<Complaint>>,
}

#[derive(Debug)]
struct Key {
    operations: u32,
    versions: u64,
    /// The version that is there, if one certainly is.
    holds: Option<u64>,
}

/// Threads at work on one client.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    client: Arc<Replicated<Network>>,
    keys: Vec<Mutex<Key>>,
    recorder: Recorder,
    seen: Seen,
    stop: AtomicBool,
    /// A read of a page that is there must succeed.
    strict: bool,
}

impl Load {
    /// Starts `threads` threads on slots below `keys`, all of which must be empty.
    #[must_use]
    pub fn start(
        client: &Arc<Replicated<Network>>,
        keys: u32,
        (threads, seed): (u32, u64),
        strict: bool,
    ) -> Self {
        let key = |_| {
            Mutex::new(Key {
                operations: 0,
                versions: 0,
                holds: None,
            })
        };
        let shared = Arc::new(Shared {
            client: Arc::clone(client),
            keys: (0..keys).map(key).collect(),
            recorder: Recorder::default(),
            seen: Seen::default(),
            stop: AtomicBool::new(false),
            strict,
        });
        let spawn = |number| {
            let shared = Arc::clone(&shared);
            let random = Random::new(seed, 40 + u64::from(number));
            thread::spawn(move || shared.work(number, threads, random))
        };
        Self {
            threads: (0..threads).map(spawn).collect(),
            shared,
        }
    }

    /// Ends the work.
    pub fn rest(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.shared.complain("a thread panicked".into());
            }
        }
    }

    /// Reads every page that is there, now that all stores are well, and forgets it.
    pub fn read_and_flush_all(&self) {
        let shared = &self.shared;
        for slot in 0..shared.keys.len() {
            let slot = u32::try_from(slot).unwrap_or(0);
            shared.read(slot, true);
            let held = shared.key(slot).lock().holds;
            shared.flush(slot);
            let mut page = [0; PAGE_SIZE];
            let sum = held.map_or(0, |version| checksum(&stamp(slot, version).page()));
            if shared.client.read(slot, sum, &mut page).is_ok() {
                shared.complain(format!("slot {slot} was read after its flush"));
            }
        }
    }

    /// What was seen.
    #[must_use]
    pub fn seen(&self) -> &Seen {
        &self.shared.seen
    }

    /// The history.
    #[must_use]
    pub fn recorder(&self) -> &Recorder {
        &self.shared.recorder
    }
}

impl Shared {
    fn complain(&self, text: Complaint) {
        self.seen.complaints.lock().push(text);
    }

    fn work(&self, number: u32, threads: u32, mut random: Random) {
        let keys = u32::try_from(self.keys.len()).unwrap_or(0);
        while !self.stop.load(Ordering::Relaxed) {
            let own = random.below(keys / threads) * threads + number;
            match random.below(10) {
                0..=3 => self.write(own),
                4 => self.flush(own),
                _ => self.read(random.below(keys), self.strict),
            }
            if random.one_in(4) {
                thread::sleep(Duration::from_micros(u64::from(random.below(500))));
            }
        }
    }

    fn key(&self, slot: u32) -> &Mutex<Key> {
        &self.keys[slot as usize]
    }

    /// Begins a change, unless the key has had enough.
    fn begin(&self, slot: u32) -> Option<u64> {
        let mut key = self.key(slot).lock();
        if key.operations >= OPERATIONS_MAX {
            return None;
        }
        key.operations += 1;
        key.versions += 1;
        key.holds = None;
        Some(key.versions)
    }

    fn write(&self, slot: u32) {
        let Some(version) = self.begin(slot) else {
            return;
        };
        let page = stamp(slot, version).page();
        let header = SlotHeader {
            pool_slot: 0,
            pool_serial: 1,
            object: ObjectId::ZERO,
            index: PageIndex(slot),
            ticket: Ticket::new(version).unwrap_or(Ticket::MIN),
            checksum: checksum(&page),
            flags: 0,
        };
        let begun = self.recorder.begin_write(slot, version);
        let written = self.client.write(&[(slot, &header, &page)]);
        self.recorder.end_write(begun, written.is_ok());
        if written.is_ok() {
            self.key(slot).lock().holds = Some(version);
            self.seen.writes.fetch_add(1, Ordering::Relaxed);
        } else {
            self.seen.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self, slot: u32) {
        {
            let mut key = self.key(slot).lock();
            key.holds = None;
        }
        let begun = self.recorder.begin_write(slot, 0);
        let flushed = self.client.invalidate(&[slot]);
        self.recorder.end_write(begun, flushed.is_ok());
        if let Err(error) = flushed {
            self.complain(format!("slot {slot} was not flushed: {error}"));
        }
    }

    fn read(&self, slot: u32, strict: bool) {
        let holds = {
            let mut key = self.key(slot).lock();
            let Some(holds) = key
                .holds
                .filter(|_| strict || key.operations < OPERATIONS_MAX)
            else {
                return;
            };
            key.operations += 1;
            holds
        };
        let wanted = stamp(slot, holds);
        let mut page: PageBytes = [0; PAGE_SIZE];
        let begun = self.recorder.begin_read(slot);
        let start = Instant::now();
        let read = self.client.read(slot, checksum(&wanted.page()), &mut page);
        let took = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let unchanged = self.key(slot).lock().holds == Some(holds);
        let found = read.as_ref().ok().and_then(|()| Stamp::of(&page));
        let counts = found.filter(|found| unchanged && found.key == slot);
        self.recorder
            .end_read(begun, counts.map(|found| found.version));
        if !unchanged {
            return;
        }
        self.seen.longest_read.fetch_max(took, Ordering::Relaxed);
        match (read, found) {
            (Ok(()), Some(found)) if found == wanted => {
                self.seen.reads.fetch_add(1, Ordering::Relaxed);
            }
            (Ok(()), found) => self.complain(format!("{wanted:?} was read as {found:?}")),
            (Err(error), _) if strict => {
                self.complain(format!("{wanted:?} was not read in {took} us: {error}"));
            }
            (Err(_), _) => {}
        }
    }
}

fn stamp(slot: u32, version: u64) -> Stamp {
    Stamp {
        writer: 0,
        key: slot,
        version,
    }
}
