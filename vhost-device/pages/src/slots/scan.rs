// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is in the slots, for who does not know: all of them after a reboot of the host, some of them
//! after a kill.
//!
//! A header that is settled is believed. One that is fresh was written together with its page, so the
//! page is read and its checksum verified: if it fails, the page was never acknowledged, or it was in
//! the last batch before a crash and has been damaged since, which cannot be told apart.

use super::header::{HEADER_BYTES, Line, Parsed, State, parse, repaired};
use super::{SlotError, SlotFile, SlotHeader};
use crate::checksum;
use crate::handle::PAGE_SIZE;

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanReport {
    /// Committed pages of the directory's pools.
    pub pages: u64,
    /// Committed pages of no pool in the directory: what dropped pools have left.
    pub orphans: u64,
    /// Pages that were never acknowledged and are not all there.
    pub unfinished: u64,
    /// Pages of which it cannot be told whether they were acknowledged, as they cannot be read.
    pub unread: u64,
    /// Slots that held a page, with a header that is damaged.
    pub damaged: Vec<u32>,
    /// Slots whose header cannot be read.
    pub unreadable: Vec<u32>,
}

/// Headers that a scan reads at a time.
const SCAN_HEADERS: u32 = 4096;

impl SlotFile {
    /// Reads all headers, and says which pages there are: all that were committed, of the pools in the
    /// directory, and no others. Reads pages only where it must to know that. `progress` is told how
    /// many slots of how many are done. Nobody may write or invalidate meanwhile.
    ///
    /// # Errors
    /// [`SlotError::Io`] if no header at all can be read; what concerns single slots is in the report.
    pub fn scan(
        &self,
        progress: &mut dyn FnMut(u32, u32),
        found: &mut dyn FnMut(u32, SlotHeader),
    ) -> Result<ScanReport, SlotError> {
        let mut report = ScanReport::default();
        let slots = self.slots();
        let segment = self.geometry.segment_slots;
        let mut lines = vec![[0; HEADER_BYTES]; SCAN_HEADERS as usize];
        let mut failure = None;
        let mut unfinished = Vec::new();
        let mut first = 0;
        while first < slots {
            let left = (slots - first).min(segment - first % segment);
            let count = left.min(SCAN_HEADERS);
            let chunk = lines.get_mut(..count as usize).unwrap_or_default();
            let at = self.geometry.header_at(first);
            let whole = self.medium.load(at, chunk.as_flattened_mut());
            for (slot, line) in (first..).zip(chunk) {
                // One bad place does not hide its neighbours.
                let read = match whole {
                    Ok(()) => Ok(()),
                    Err(_) => self.medium.load(self.geometry.header_at(slot), line),
                };
                match read {
                    Ok(()) => match self.judge(slot, line) {
                        Judged::Unfinished => unfinished.push(slot),
                        judged => self.count(slot, judged, &mut report, found),
                    },
                    Err(error) => {
                        report.unreadable.push(slot);
                        failure = Some(error);
                    }
                }
            }
            first += count;
            progress(first, slots);
        }
        match failure {
            Some(error) if report.unreadable.len() == slots as usize => {
                return Err(self.failed("scan", error));
            }
            // Whatever cannot be read now might be had later.
            Some(_) => {}
            None if report.unread == 0 => self.settle_scanned(&unfinished),
            None => {}
        }
        report.unfinished = unfinished.len() as u64;
        Ok(report)
    }

    /// All that is fresh is whole but for these slots: once they are empty, nobody needs to look again. It
    /// does no harm if that cannot be had.
    fn settle_scanned(&self, unfinished: &[u32]) {
        if self.invalidate(unfinished).is_ok() {
            self.log.settle_opened();
        }
    }

    fn count(
        &self,
        slot: u32,
        judged: Judged,
        report: &mut ScanReport,
        found: &mut dyn FnMut(u32, SlotHeader),
    ) {
        match judged {
            Judged::Empty | Judged::Unfinished => {}
            Judged::Unread => report.unread += 1,
            Judged::Damaged => report.damaged.push(slot),
            Judged::Page(header) => {
                let mut directory = self.directory.lock();
                if directory.has_pool_of(&header) {
                    drop(directory);
                    report.pages += 1;
                    found(slot, header);
                } else {
                    directory.note_serial(header.pool_slot, header.pool_serial);
                    report.orphans += 1;
                }
            }
        }
    }

    /// What a slot with this line holds.
    pub(super) fn judge(&self, slot: u32, line: &Line) -> Judged {
        let parsed = parse(line, &self.id, slot);
        if self.log.has_void(slot, line, &parsed) {
            self.learn_empty(slot);
            return Judged::Empty;
        }
        match parsed {
            Parsed::Empty => {
                self.learn_empty(slot);
                Judged::Empty
            }
            Parsed::Unfinished => match repaired(line, &self.id, slot) {
                // Torn lines are not off by a bit: this one was whole.
                Some(header) if self.is_whole(slot, &header) == Some(true) => Judged::Damaged,
                _ => Judged::Unfinished,
            },
            Parsed::Damaged => Judged::Damaged,
            Parsed::Page {
                header,
                state,
                stamp,
            } => {
                if state == State::Settled || self.log.has_settled(stamp) {
                    return Judged::Page(header);
                }
                match self.is_whole(slot, &header) {
                    Some(true) => Judged::Page(header),
                    Some(false) => Judged::Unfinished,
                    None => Judged::Unread,
                }
            }
        }
    }

    /// Whether all of a page has arrived; nothing if it cannot be read.
    fn is_whole(&self, slot: u32, header: &SlotHeader) -> Option<bool> {
        let mut page = [0; PAGE_SIZE];
        self.read(slot, &mut page).ok()?;
        Some(checksum::of(&page) == header.checksum)
    }
}

/// What a slot holds, as far as it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// Nothing.
    Empty,
    /// A page that was never acknowledged, not all of it.
    Unfinished,
    /// A page that may never have been acknowledged, and cannot be read.
    Unread,
    /// A page that nobody can name any more.
    Damaged,
    /// This page.
    Page(SlotHeader),
}
