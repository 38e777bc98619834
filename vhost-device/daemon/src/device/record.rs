// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which requests of a ring are answered later than those after them, in memory that outlives the
//! worker.
//!
//! The used index says how many requests were answered. As long as they are answered in order it says
//! which, too, and nothing else need be known of a dead worker. A request that waits for an emulated
//! link lets others pass: its head is entered here first, and stays until it is answered.
//!
//! ```text
//! available ring   ┆ answered, or deferred ┆ taken or not, to be answered in order ┆
//!                                          └ at: used index + number of deferred heads
//! ```
//! Each change is one store, but for an answer: that changes the used index and takes a head away. What
//! is about to be answered is noted before, with the used index, which then tells whether it was.
//!
//! One file holds the records of all guests, found by their names. The keeper has it made, and never
//! looks into it.

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use crate::limits::QUEUE_PAIRS_MAX;

/// Guests that there is room for: as many as an engine has.
const GUESTS: usize = tmem_pages::GUESTS_MAX;
/// Requests of a ring that can be deferred at one time.
pub const DEFERRED_MAX: usize = 64;
/// A guest's head: its name's hash, and the connection that its rings are of.
const HEAD_BYTES: usize = 16;
/// A ring's record: where its used ring is, what is being answered, and the deferred heads.
const RING_BYTES: usize = 16 + 4 * DEFERRED_MAX;
const GUEST_BYTES: usize = RING_BYTES * QUEUE_PAIRS_MAX as usize;
/// Bytes of the file; only what is used takes memory.
const FILE_BYTES: usize = GUESTS * (HEAD_BYTES + GUEST_BYTES);

/// Set in what is being answered, so that head 0 at index 0 is something.
const ANSWERING: u64 = 1 << 63;

/// The records of all guests.
pub struct Records(MmapRegion);

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").finish_non_exhaustive()
    }
}

impl Records {
    /// Makes the file as long as it has to be.
    ///
    /// # Errors
    /// The kernel's.
    pub fn make(file: &OwnedFd) -> io::Result<()> {
        Ok(rustix::fs::ftruncate(file, FILE_BYTES as u64)?)
    }

    /// Goes on with what is in the file.
    ///
    /// # Errors
    /// The kernel's, or that the file is too short.
    pub fn open(file: OwnedFd) -> io::Result<Arc<Self>> {
        let file = FileOffset::new(File::from(file), 0);
        let map = MmapRegion::from_file(file, FILE_BYTES).map_err(io::Error::other)?;
        Ok(Arc::new(Self(map)))
    }

    /// The records of a guest's rings. If they are of another `connection`, they are emptied.
    #[must_use]
    pub fn of_guest(self: &Arc<Self>, name: &str, connection: u64) -> Option<GuestRecords> {
        let wanted = mark(name);
        let place = (0..GUESTS).find(|place| {
            let head = self.word(place * HEAD_BYTES);
            head.is_some_and(|head| [0, wanted].contains(&head.load(Ordering::Relaxed)))
        })?;
        let records = GuestRecords {
            records: Arc::clone(self),
            at: GUESTS * HEAD_BYTES + place * GUEST_BYTES,
        };
        self.word(place * HEAD_BYTES)?
            .store(wanted, Ordering::Relaxed);
        let of = self.word(place * HEAD_BYTES + 8)?;
        // A number of 0 would be that of nobody.
        if of.load(Ordering::Acquire) != connection + 1 {
            for pair in 0..usize::from(QUEUE_PAIRS_MAX) {
                records.ring(pair).clear();
            }
            of.store(connection + 1, Ordering::Release);
        }
        Some(records)
    }

    fn word(&self, at: usize) -> Option<&AtomicU64> {
        self.0.get_atomic_ref(at).ok()
    }
}

/// A guest's name, as it is found by: FNV-1a, and never 0.
fn mark(name: &str) -> u64 {
    let fnv = |sum: u64, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, fnv) | 1
}

/// The records of one guest.
#[derive(Clone, Debug)]
pub struct GuestRecords {
    records: Arc<Records>,
    at: usize,
}

impl GuestRecords {
    /// That of the get ring of a pair.
    #[must_use]
    pub fn ring(&self, pair: usize) -> RingRecord {
        let pair = pair.min(usize::from(QUEUE_PAIRS_MAX) - 1);
        RingRecord {
            records: Arc::clone(&self.records),
            at: self.at + pair * RING_BYTES,
        }
    }
}

/// The record of one ring. Changed under the ring's lock alone.
#[derive(Clone, Debug)]
pub struct RingRecord {
    records: Arc<Records>,
    at: usize,
}

impl RingRecord {
    fn ring(&self) -> Option<&AtomicU64> {
        self.records.word(self.at)
    }

    fn answering(&self) -> Option<&AtomicU64> {
        self.records.word(self.at + 8)
    }

    fn heads(&self) -> impl Iterator<Item = &AtomicU32> {
        (0..DEFERRED_MAX).filter_map(|nth| {
            let at = self.at + 16 + 4 * nth;
            self.records.0.get_atomic_ref(at).ok()
        })
    }

    /// What a dead worker left of the ring whose used ring is at `used_ring` and has `used` entries:
    /// the heads that are deferred. Nothing if the ring was another.
    #[must_use]
    pub fn recall(&self, used_ring: u64, used: u16) -> Vec<u16> {
        let of = self.ring().map(|ring| ring.load(Ordering::Acquire));
        if of != Some(used_ring) {
            self.clear();
            return Vec::new();
        }
        if let Some(answering) = self.answering() {
            let noted = answering.load(Ordering::Acquire);
            let half = |half: u64| u16::try_from(half & 0xffff).unwrap_or(0);
            let [head, index] = [noted >> 16, noted].map(half);
            if noted & ANSWERING != 0 && used == index.wrapping_add(1) {
                self.forget(head);
            }
            answering.store(0, Ordering::Release);
        }
        let mut heads: Vec<u16> = (self.heads())
            .filter_map(|head| u16::try_from(head.load(Ordering::Relaxed).checked_sub(1)?).ok())
            .collect();
        heads.sort_unstable();
        heads.dedup();
        heads
    }

    /// Enters a head, the oldest that is not answered of those not deferred. False if there is no room.
    #[must_use]
    pub fn defer(&self, used_ring: u64, head: u16) -> bool {
        if let Some(ring) = self.ring() {
            ring.store(used_ring, Ordering::Release);
        }
        let free = (self.heads()).find(|place| place.load(Ordering::Relaxed) == 0);
        let Some(place) = free else { return false };
        place.store(u32::from(head) + 1, Ordering::Release);
        true
    }

    /// A deferred head is about to be answered, as entry `used` of the used ring.
    pub fn answer(&self, head: u16, used: u16) {
        if let Some(answering) = self.answering() {
            let noted = ANSWERING | u64::from(head) << 16 | u64::from(used);
            answering.store(noted, Ordering::Release);
        }
    }

    /// It was.
    pub fn answered(&self, head: u16) {
        self.forget(head);
        if let Some(answering) = self.answering() {
            answering.store(0, Ordering::Release);
        }
    }

    fn forget(&self, head: u16) {
        let wanted = u32::from(head) + 1;
        for place in self.heads() {
            if place.load(Ordering::Relaxed) == wanted {
                place.store(0, Ordering::Release);
            }
        }
    }

    /// Nothing is deferred.
    pub fn clear(&self) {
        self.heads()
            .filter(|place| place.load(Ordering::Relaxed) != 0)
            .for_each(|place| place.store(0, Ordering::Release));
        for word in [self.answering(), self.ring()].into_iter().flatten() {
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Release);
            }
        }
    }
}

thread_local! {
    /// The crate makes a connection's rings, on the thread that asks for them, and tells them nothing:
    /// whose they are, and how many were made.
    static CRADLE: RefCell<Option<(GuestRecords, u16)>> = const { RefCell::new(None) };
}

/// Has the rings that `make` makes, all of one connection, note in `records` what they defer.
pub(crate) fn with_records<T>(records: Option<GuestRecords>, make: impl FnOnce() -> T) -> T {
    CRADLE.set(records.map(|records| (records, 0)));
    let made = make();
    CRADLE.set(None);
    made
}

/// The record of the ring that is made now, if it is one for gets.
pub(super) fn next_record() -> Option<RingRecord> {
    CRADLE.with_borrow_mut(|cradle| {
        let (records, next) = cradle.as_mut()?;
        let queue = *next;
        *next += 1;
        let of_pairs = queue.checked_sub(tmem_abi::QUEUE_REQUEST_FIRST)?;
        (of_pairs % 2 == 0).then(|| records.ring(usize::from(of_pairs / 2)))
    })
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    fn file() -> OwnedFd {
        let file = memfd_create("records", MemfdFlags::CLOEXEC).unwrap();
        Records::make(&file).unwrap();
        file
    }

    fn ring(file: &OwnedFd, connection: u64) -> RingRecord {
        let records = Records::open(file.try_clone().unwrap()).unwrap();
        records.of_guest("vm0", connection).unwrap().ring(3)
    }

    #[test]
    fn what_was_deferred_is_found_by_the_next_worker() {
        let file = file();
        let first = ring(&file, 5);
        assert!(first.defer(0x1000, 7) && first.defer(0x1000, 0) && first.defer(0x1000, 9));
        first.answer(0, 4);
        first.answered(0);
        assert_eq!(ring(&file, 5).recall(0x1000, 5), [7, 9]);
        assert!(ring(&file, 5).recall(0x2000, 5).is_empty(), "another ring");
        assert!(
            ring(&file, 5).recall(0x1000, 5).is_empty(),
            "it was emptied"
        );
    }

    #[test]
    fn a_worker_that_dies_while_it_answers_is_judged_by_the_used_index() {
        for (used, wanted) in [(4, vec![7, 9]), (5, vec![9])] {
            let file = file();
            let first = ring(&file, 5);
            assert!(first.defer(0x1000, 7) && first.defer(0x1000, 9));
            first.answer(7, 4);
            assert_eq!(ring(&file, 5).recall(0x1000, used), wanted);
        }
    }

    #[test]
    fn another_connection_has_nothing_deferred() {
        let file = file();
        assert!(ring(&file, 5).defer(0x1000, 7));
        assert!(ring(&file, 6).recall(0x1000, 0).is_empty());
    }

    #[test]
    fn there_is_room_for_so_many_and_no_more() {
        let file = file();
        let record = ring(&file, 1);
        for head in 0..64 {
            assert!(record.defer(1, head));
        }
        assert!(!record.defer(1, 64));
        record.answered(5);
        assert!(record.defer(1, 64));
        assert_eq!(record.recall(1, 0).len(), DEFERRED_MAX);
    }

    #[test]
    fn guests_have_records_of_their_own() {
        let file = file();
        let records = Records::open(file).unwrap();
        let [a, b] = ["a", "b"].map(|name| records.of_guest(name, 1).unwrap().ring(0));
        assert!(a.defer(1, 3));
        assert_eq!((a.recall(1, 0), b.recall(1, 0)), (vec![3], vec![]));
    }
}
