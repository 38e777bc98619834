// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The log of emptied slots: one small write where as many pages of headers would have to be.
//!
//! Slots that are emptied together lie anywhere, each with its header in another page. Where a fence
//! waits for every page that was stored to, they are named in a log instead, and their headers stay as
//! they are until there is time. It is a ring of pages in the file, numbered without end; each is there
//! twice, for no flipped bit may bring an old page back.
//!
//! # What a record says
//! Each header has a *stamp*: the newest page of the log that was safe when the header was written. A
//! record in page *n* says that all headers of its slot with stamps below *n* are void. So a slot is
//! written again without a look at the log, and a record does no harm for as long as it stays.
//!
//! A new header goes over a void one, and after a crash its line may be a mixture of the two. With the
//! new commit word the CRC tells; with the old one, the record knows it.
//!
//! # What is settled
//! A header that was written together with its page is *fresh*: after a crash of the host, the page's
//! checksum tells whether it arrived. Each batch of pages comes with a page of the log, under the same
//! fence, which says which earlier ones need no such look: *all headers with stamps below n are safe*,
//! where no batch with an older stamp is under way. So nothing has to be stored to a header again.
//!
//! What an earlier process has left may be settled once a scan has looked at it, and emptied what is not
//! whole; or at once, if the host has not rebooted since the newest page. For that, pages have the
//! number of the boot, as soon as all that is older is settled.
//!
//! # How room is made
//! Before a page of the ring is written over, its records must have been *applied*: headers that are
//! still void are emptied, and a fence has passed. Half of the ring at a time, when nobody waits if
//! possible, and never beside a write: a header that is stored, but not yet safe, still needs the
//! record of the one below it. A page whose fence has not passed is *under way*; an eighth of the ring
//! may be, so that what was safe last is never written over.
//!
//! Once anything fails, it is known no longer which headers are safe. Then the log rests until the file
//! is opened again: its records stay, and slots are emptied by their headers. What is written then must
//! not be void by a page of which nobody knows whether it is safe, so these pages are made safe first.

mod open;
mod page;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::commit::Protocol;
use super::header::{COMMIT_AT, EMPTY, HEADER_BYTES, Line, Parsed, parse};
use super::layout::Geometry;
use super::recover::Setup;
use super::{Medium, SlotError, SlotFile};
use crate::handle::PAGE_SIZE;
use page::{LogPage, RECORDS, Record};

/// Slots that are looked at while writers wait.
const APPLY_SLOTS: usize = 256;

/// The newest record of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Void {
    sequence: u64,
    crc: u32,
}

/// What is known of the log without reading it.
#[derive(Debug)]
pub(super) struct VoidLog {
    ring: Mutex<Ring>,
    /// Records that may not have been applied.
    voids: RwLock<BTreeMap<u32, Void>>,
    /// The newest page that is safe.
    safe: AtomicU64,
    /// Headers with stamps below this are safe.
    settled: AtomicU64,
    /// The number of this boot, and the newest page when the file was opened.
    boot: [u8; 16],
    opened: u64,
    rests: AtomicBool,
    /// The medium's mark when the file was opened: another one says that a fence has failed.
    mark: u64,
    applying: Mutex<()>,
    /// Held by who writes slots, against who applies records.
    pub(super) writing: RwLock<()>,
}

#[derive(Clone, Debug)]
struct Ring {
    /// The newest page.
    last: u64,
    /// Pages up to this one may be written over.
    applied: u64,
    /// Stamps of batches that are under way, with how many have each.
    batches: BTreeMap<u64, u32>,
    /// The number of this boot, once all that is older is settled.
    boot: Option<[u8; 16]>,
}

/// Pages that were stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Appended {
    /// For headers that are written under the fence that makes the pages safe.
    pub(super) stamp: u64,
    last: u64,
}

impl VoidLog {
    /// Reads the log of a file, all of which is safe. Also says how many twins were repaired.
    pub(super) fn open(
        medium: &dyn Medium,
        geometry: Geometry,
        id: &[u8; 16],
        slots: u32,
        setup: &Setup<'_>,
    ) -> Result<(Self, u32), SlotError> {
        let found = open::read(medium, geometry, id);
        let found = found.map_err(setup.failed("read the log of"))?;
        if found.is_damaged {
            return Err(SlotError::Damaged {
                path: setup.path.into(),
                what: "both copies of a page of its log are damaged",
            });
        }
        let last = found.pages.last().map_or(0, |page| page.sequence);
        // Where the boot cannot be told, it is another one.
        let boot = (setup.boot)().unwrap_or_default();
        let newest = found.pages.last().map(|page| page.boot);
        let is_settled = slots == 0 || (newest == Some(boot) && boot != [0; 16]);
        let log = Self {
            ring: Mutex::new(Ring {
                last,
                applied: last.saturating_sub(u64::from(geometry.log_pages)),
                batches: BTreeMap::new(),
                boot: is_settled.then_some(boot),
            }),
            voids: RwLock::default(),
            safe: AtomicU64::new(last),
            settled: AtomicU64::new(found.settled()),
            boot,
            opened: last,
            rests: AtomicBool::new(false),
            mark: medium.mark(),
            applying: Mutex::default(),
            writing: RwLock::default(),
        };
        for mut page in found.pages {
            page.records.retain(|record| record.slot < slots);
            log.note(&page);
        }
        Ok((log, found.repaired))
    }

    fn note(&self, page: &LogPage) {
        let sequence = page.sequence;
        let mut voids = self.voids.write();
        for Record { slot, crc } in page.records.iter().copied() {
            voids.insert(slot, Void { sequence, crc });
        }
    }

    /// The stamp of headers that are written now.
    pub(super) fn stamp(&self) -> u64 {
        self.safe.load(Ordering::Acquire)
    }

    /// Whether a header that is fresh needs no look at its page.
    pub(super) fn has_settled(&self, stamp: u64) -> bool {
        stamp < self.settled.load(Ordering::Acquire)
    }

    /// All that was there when the file was opened is whole, or empty.
    pub(super) fn settle_opened(&self) {
        self.ring.lock().boot = Some(self.boot);
    }

    /// Something failed: see the module.
    pub(super) fn rest(&self) {
        self.rests.store(true, Ordering::Release);
    }

    /// Whether this slot's line is void.
    pub(super) fn has_void(&self, slot: u32, line: &Line, parsed: &Parsed) -> bool {
        let Some(void) = self.voids.read().get(&slot).copied() else {
            return false;
        };
        match parsed {
            Parsed::Empty => false,
            Parsed::Page { stamp, .. } => *stamp < void.sequence,
            Parsed::Unfinished | Parsed::Damaged => {
                u32::from_le_bytes([0, 1, 2, 3].map(|byte| line[COMMIT_AT + byte])) == void.crc
            }
        }
    }

    /// Slots from this one on that have records.
    pub(super) fn slots_from(&self, slot: u32) -> Vec<u32> {
        let voids = self.voids.read();
        voids.range(slot..).map(|(slot, _)| *slot).collect()
    }

    /// Slots from this one on are empty by their headers, durably.
    pub(super) fn forget_from(&self, slot: u32) {
        self.voids.write().retain(|of, _| *of < slot);
    }
}

impl SlotFile {
    /// Whether slots are emptied by the log. A fence that fails ends that at once, before whoever waited
    /// for it can say so.
    fn has_log(&self) -> bool {
        self.protocol == Protocol::OneFence
            && !self.log.rests.load(Ordering::Acquire)
            && self.medium.mark() == self.log.mark
    }

    /// Empties slots by naming them. False if that is not for the log: it is to be done by their headers.
    pub(super) fn log_empty(&self, slots: &[u32]) -> io::Result<bool> {
        // Many together share pages of headers, and would take all of the log.
        let wanted = slots.len().div_ceil(RECORDS) as u64;
        if !self.has_log() || wanted > self.geometry.log_under_way() {
            return Ok(false);
        }
        let mut records = Vec::with_capacity(slots.len());
        for slot in slots.iter().copied() {
            let mut crc = [0; 4];
            let at = self.geometry.header_at(slot) + COMMIT_AT as u64;
            if self.medium.load(at, &mut crc).is_err() {
                return Ok(false);
            }
            let crc = u32::from_le_bytes(crc);
            records.push(Record { slot, crc });
        }
        let since = self.medium.mark();
        let Some(appended) = self.append(&records, false)? else {
            return Ok(false);
        };
        self.medium.fence(since)?;
        Ok(self.publish(appended.last))
    }

    /// A batch of pages begins, if there is a log. Its page of the log is safe with the batch.
    pub(super) fn begin_batch(&self) -> io::Result<Option<Appended>> {
        self.append(&[], true)
    }

    /// All of a batch is safe. One that failed is under way for ever.
    pub(super) fn end_batch(&self, batch: Appended) {
        let mut ring = self.log.ring.lock();
        if let Some(count) = ring.batches.get_mut(&batch.stamp) {
            *count -= 1;
            if *count == 0 {
                ring.batches.remove(&batch.stamp);
            }
        }
        drop(ring);
        self.publish(batch.last);
    }

    /// Says of all batches that they are settled, for the next one who opens the file.
    pub(super) fn end_log(&self) -> io::Result<()> {
        let last = self.log.ring.lock().last;
        if last > self.log.opened {
            self.log_empty(&[])?;
        }
        Ok(())
    }

    /// Stores records in pages of their own, or none in one. Nothing if the log rests.
    fn append(&self, records: &[Record], is_batch: bool) -> io::Result<Option<Appended>> {
        let wanted = records.len().div_ceil(RECORDS).max(1) as u64;
        loop {
            let since = self.medium.mark();
            let (last, applied) = {
                let ring = self.log.ring.lock();
                (ring.last, ring.applied)
            };
            if !self.has_log() {
                return Ok(None);
            }
            let appended = self.append_now(records, is_batch)?;
            if appended.is_some() {
                return Ok(appended);
            }
            if last + wanted > applied + u64::from(self.geometry.log_pages) {
                self.apply_log()?;
            } else {
                // Too much is under way.
                self.medium.fence(since)?;
                self.publish(last);
            }
        }
    }

    /// A fence has passed behind this page. That makes it safe, with all before it, unless another
    /// fence or a store has failed.
    fn publish(&self, last: u64) -> bool {
        let holds = self.has_log();
        if holds {
            self.log.safe.fetch_max(last, Ordering::AcqRel);
        }
        holds
    }

    /// Stores records in pages of their own, and says which is the last. Nothing if there is no room, or
    /// if the log rests.
    fn append_now(&self, records: &[Record], is_batch: bool) -> io::Result<Option<Appended>> {
        let pages = u64::from(self.geometry.log_pages);
        let wanted = records.len().div_ceil(RECORDS).max(1) as u64;
        let mut ring = self.log.ring.lock();
        if !self.has_log() {
            return Ok(None);
        }
        let safe = self.log.stamp();
        let room = (ring.applied + pages).min(safe + self.geometry.log_under_way());
        if ring.last + wanted > room {
            return Ok(None);
        }
        if is_batch {
            *ring.batches.entry(safe).or_default() += 1;
        }
        if ring.boot.is_some() {
            let oldest = ring.batches.keys().next().copied();
            let settled = oldest.unwrap_or(safe);
            self.log.settled.fetch_max(settled, Ordering::AcqRel);
        }
        let mut chunks = records.chunks(RECORDS);
        for _ in 0..wanted {
            ring.last += 1;
            let page = LogPage {
                sequence: ring.last,
                safe,
                settled: self.log.settled.load(Ordering::Acquire),
                boot: ring.boot.unwrap_or_default(),
                records: chunks.next().unwrap_or_default().to_vec(),
            };
            let at = self.geometry.log_at(page.sequence % pages, 0);
            let twins = [page.bytes(&self.id); 2];
            let stored = self.medium.store(at, twins.as_flattened());
            let stored = stored.and_then(|()| self.medium.flush(at, 2 * PAGE_SIZE as u64));
            // Before the ring is anyone else's: this page can never be safe.
            stored.inspect_err(|_| self.log.rest())?;
            self.log.note(&page);
        }
        Ok(Some(Appended {
            stamp: safe,
            last: ring.last,
        }))
    }

    /// Makes all pages of a log that rests safe, so that their records are older than what is written now.
    pub(super) fn heal_log(&self) -> io::Result<()> {
        if self.has_log() {
            return Ok(());
        }
        let since = self.medium.mark();
        let ring = self.log.ring.lock();
        let safe = self.log.stamp();
        for sequence in safe + 1..=ring.last {
            let pages = u64::from(self.geometry.log_pages);
            let at = self.geometry.log_at(sequence % pages, 0);
            // Someone may yet find it safe; if it could not be stored, nobody will.
            let mut bytes = [0; PAGE_SIZE];
            self.medium.load(at, &mut bytes)?;
            let stored = LogPage::parse(&bytes, &self.id);
            let page = stored.filter(|page| page.sequence == sequence);
            let page = page.unwrap_or_else(|| LogPage {
                sequence,
                safe,
                settled: self.log.settled.load(Ordering::Acquire),
                boot: [0; 16],
                records: Vec::new(),
            });
            let twins = [page.bytes(&self.id); 2];
            self.medium.store(at, twins.as_flattened())?;
            self.medium.flush(at, 2 * PAGE_SIZE as u64)?;
        }
        if ring.last > safe {
            self.medium.fence(since)?;
            self.log.safe.fetch_max(ring.last, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Whether it is time to make room, if nobody waits.
    pub(super) fn log_fills(&self) -> bool {
        let ring = self.log.ring.lock();
        let half = u64::from(self.geometry.log_pages) / 2;
        self.has_log() && ring.last >= ring.applied + half
    }

    /// Makes room in the log for half of its pages. The log rests after an error.
    pub(super) fn apply_log(&self) -> io::Result<()> {
        // Who finds a header empty must know that the one who emptied it did not fail.
        let _alone = self.log.applying.lock();
        self.apply_half().inspect_err(|_| self.log.rest())
    }

    fn apply_half(&self) -> io::Result<()> {
        let half = u64::from(self.geometry.log_pages).div_ceil(2);
        let upto = {
            let ring = self.log.ring.lock();
            ring.last.min(ring.applied + half)
        };
        let old: Vec<_> = {
            let voids = self.log.voids.read();
            let old = voids.iter().filter(|(_, void)| void.sequence <= upto);
            old.map(|(slot, void)| (*slot, *void)).collect()
        };
        let since = self.medium.mark();
        for chunk in old.chunks(APPLY_SLOTS) {
            let _nobody_writes = self.log.writing.write();
            // A write that failed may have left anything: no record may go now.
            if !self.has_log() {
                return Ok(());
            }
            for (slot, _) in chunk {
                self.empty_void(*slot)?;
            }
        }
        self.medium.fence(since)?;
        if !self.has_log() {
            return Ok(());
        }
        {
            let mut voids = self.log.voids.write();
            for (slot, void) in old {
                if voids.get(&slot) == Some(&void) {
                    voids.remove(&slot);
                }
            }
        }
        self.log.ring.lock().applied = upto;
        Ok(())
    }

    /// Empties the header of a slot, if it is void.
    fn empty_void(&self, slot: u32) -> io::Result<()> {
        let at = self.geometry.header_at(slot);
        let mut line = [0; HEADER_BYTES];
        self.medium.load(at, &mut line)?;
        let parsed = parse(&line, &self.id, slot);
        if self.log.has_void(slot, &line, &parsed) {
            let at = at + COMMIT_AT as u64;
            self.medium.store(at, &EMPTY)?;
            self.medium.flush(at, EMPTY.len() as u64)?;
        }
        Ok(())
    }
}
