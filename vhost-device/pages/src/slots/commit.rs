// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How batches of pages are committed, and slots emptied.
//!
//! What has to hold after a crash at any place, when each line that no fence has covered may be old
//! or new in pieces of 8 bytes:
//!
//! - **Nothing else is found.** A slot that is written is empty before: its commit word is zero, and a
//!   fence has passed. So the word can only be zero or the new one. With two fences the new one is
//!   stored when all it speaks of is safe. With one fence the word says that it is fresh, and a scan
//!   believes it only if the header's CRC and the page's are right.
//! - **All that was acknowledged is found.** The last fence covers all stores of the batch.
//! - **What was invalidated stays away.** The zero is one store of 8 bytes, behind which a fence
//!   passes. Where a fence waits for each page that was stored to, the [log](super::log) says it of many
//!   slots by one store; and it says which headers are fresh no longer.
//!
//! Between process and page cache nothing is lost or reordered: a kill leaves a prefix of the stores,
//! and so the order of the stores is enough. A page that its map finds again needs no header there, and
//! has none: the map is gone with the host, and with it the page.

use std::io;
use std::sync::atomic::Ordering;

use super::header::{COMMIT_AT, EMPTY, Line, State, uncommitted};
use super::{Durability, SlotError, SlotFile, SlotHeader};
use crate::handle::{PAGE_SIZE, PageBytes};

/// How much has to be done until a page is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Stores in order.
    Ordered,
    /// Pages and fresh headers, and a fence.
    OneFence,
    /// Pages, a fence, commit words, a fence.
    TwoFences,
    /// A mistake: commit words before the fence of what they speak of. Tests must notice.
    #[cfg(test)]
    CommitTooEarly,
    /// A mistake: no fence after a fresh header.
    #[cfg(test)]
    NoFence,
}

impl Protocol {
    pub(super) fn of(durability: Durability, has_cheap_fence: bool) -> Self {
        match (durability, has_cheap_fence) {
            // Stores around the cache have no order without a fence.
            (_, true) => Self::TwoFences,
            (Durability::Host, false) => Self::OneFence,
            (Durability::Process, false) => Self::Ordered,
        }
    }
}

/// A page to write, with its header's line if it needs one.
struct Entry<'a> {
    slot: u32,
    line: Option<Line>,
    page: &'a PageBytes,
}

impl SlotFile {
    /// Stores pages. On return all of them are committed, as durably as the file is opened for. A slot
    /// may hold a page already: that one is gone, whatever becomes of the new one. Batches of a few
    /// hundred pages in neighbouring slots are the fastest.
    ///
    /// # Errors
    /// [`SlotError::NotWritten`] if none of the pages is committed and all slots of the batch are empty
    /// now, [`SlotError::InDoubt`] if that could not be had either: then each slot holds what it held,
    /// its new page, or nothing, and must be invalidated or written before it counts as free. For a
    /// slot that is not there or comes twice, nothing was done.
    pub fn write(&self, batch: &[(u32, &SlotHeader, &PageBytes)]) -> Result<(), SlotError> {
        let mut batch = batch.to_vec();
        batch.sort_unstable_by_key(|(slot, ..)| *slot);
        for (slot, ..) in &batch {
            self.check_slot(*slot)?;
        }
        for pair in batch.windows(2) {
            if let [(first, ..), (second, ..)] = pair
                && first == second
            {
                return Err(SlotError::Twice { slot: *first });
            }
        }
        let since = self.medium.mark();
        let path = self.path.clone();
        let pages = batch.len();
        // Before any line of a slot changes, what it held must be gone.
        if let Err(source) = self.empty_all(batch.iter().map(|(slot, ..)| *slot)) {
            return Err(SlotError::InDoubt {
                path,
                pages,
                source,
            });
        }
        let Err(source) = self.write_empty(&batch, since) else {
            return Ok(());
        };
        match self.empty_all(batch.iter().map(|(slot, ..)| *slot)) {
            Ok(()) => Err(SlotError::NotWritten {
                path,
                pages,
                source,
            }),
            Err(_) => Err(SlotError::InDoubt {
                path,
                pages,
                source,
            }),
        }
    }

    /// Empties slots: on return none of them holds a page, as durably as the file is opened for. Slots
    /// that are empty, or come twice, do no harm.
    ///
    /// # Errors
    /// [`SlotError`]; then each of the slots holds its page or nothing.
    pub fn invalidate(&self, slots: &[u32]) -> Result<(), SlotError> {
        for slot in slots {
            self.check_slot(*slot)?;
        }
        let emptied = self.empty_all(slots.iter().copied());
        emptied.map_err(|source| self.failed("empty slots of", source))
    }

    /// Commits pages, sorted by slot, to slots that are empty.
    fn write_empty(&self, batch: &[(u32, &SlotHeader, &PageBytes)], since: u64) -> io::Result<()> {
        self.heal_log()?;
        let logged = self.begin_batch()?;
        let _writing = self.log.writing.read();
        let stamp = logged.map_or_else(|| self.log.stamp(), |logged| logged.stamp);
        let state = match self.protocol {
            Protocol::OneFence => State::Fresh,
            _ => State::Settled,
        };
        let mut entries = Vec::with_capacity(batch.len());
        for (slot, header, page) in batch {
            let named = self.protocol != Protocol::Ordered || header.is_found_by_header();
            if named {
                self.set_empty(*slot, false);
            }
            entries.push(Entry {
                slot: *slot,
                line: named.then(|| header.line(&self.id, *slot, state, stamp)),
                page,
            });
        }
        // The log must know of it before anyone else may apply its records.
        let committed = self.commit(&entries, since);
        committed.inspect_err(|_| self.log.rest())?;
        if let Some(logged) = logged {
            self.end_batch(logged);
        }
        Ok(())
    }

    fn commit(&self, entries: &[Entry<'_>], since: u64) -> io::Result<()> {
        match self.protocol {
            Protocol::Ordered => {
                self.store_pages(entries)?;
                self.store_lines(&lines(entries, |line| *line))
            }
            Protocol::OneFence => {
                self.store_pages(entries)?;
                self.store_lines(&lines(entries, |line| *line))?;
                self.medium.fence(since)
            }
            Protocol::TwoFences => {
                self.store_pages(entries)?;
                self.store_lines(&lines(entries, uncommitted))?;
                self.medium.fence(since)?;
                self.store_commits(entries)?;
                self.medium.fence(since)
            }
            #[cfg(test)]
            Protocol::CommitTooEarly => {
                self.store_pages(entries)?;
                self.store_lines(&lines(entries, uncommitted))?;
                self.store_commits(entries)?;
                self.medium.fence(since)
            }
            #[cfg(test)]
            Protocol::NoFence => {
                self.store_pages(entries)?;
                self.store_lines(&lines(entries, |line| *line))
            }
        }
    }

    /// Empties those slots that are not known to be empty, durably.
    fn empty_all(&self, slots: impl Iterator<Item = u32>) -> io::Result<()> {
        let unknown: Vec<_> = slots.filter(|slot| !self.is_known_empty(*slot)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let logged = self.log_empty(&unknown);
        let emptied = logged.and_then(|logged| {
            if logged {
                Ok(())
            } else {
                self.empty_headers(&unknown)
            }
        });
        match &emptied {
            Ok(()) => unknown.iter().for_each(|slot| self.set_empty(*slot, true)),
            Err(_) => self.note_failure(),
        }
        emptied
    }

    /// Slots were to be emptied, and it is not known which are, durably.
    pub(super) fn note_failure(&self) {
        self.log.rest();
        self.in_doubt.store(true, Ordering::Relaxed);
    }

    /// Empties slots by their headers. For failures see [`note_failure`](Self::note_failure).
    pub(super) fn empty_headers(&self, slots: &[u32]) -> io::Result<()> {
        if slots.is_empty() {
            return Ok(());
        }
        let since = self.medium.mark();
        for slot in slots {
            let at = self.geometry.header_at(*slot) + COMMIT_AT as u64;
            self.medium.store(at, &EMPTY)?;
            self.medium.flush(at, EMPTY.len() as u64)?;
        }
        if self.protocol != Protocol::Ordered {
            self.medium.fence(since)?;
        }
        for run in slots.chunk_by(|a, b| self.geometry.follows(*b, *a)) {
            if let Some(first) = run.first() {
                let bytes = run.len() * PAGE_SIZE;
                let at = self.geometry.page_at(*first);
                self.medium.discard(at, bytes as u64);
            }
        }
        Ok(())
    }

    fn store_pages(&self, entries: &[Entry<'_>]) -> io::Result<()> {
        for run in entries.chunk_by(|a, b| self.geometry.follows(b.slot, a.slot)) {
            if let Some(first) = run.first() {
                let pages: Vec<_> = run.iter().map(|entry| entry.page).collect();
                self.medium
                    .store_pages(self.geometry.page_at(first.slot), &pages)?;
            }
        }
        Ok(())
    }

    /// Stores and flushes whole lines, sorted by slot.
    fn store_lines(&self, lines: &[(u32, Line)]) -> io::Result<()> {
        for run in lines.chunk_by(|a, b| self.geometry.follows(b.0, a.0)) {
            if let Some((first, _)) = run.first() {
                let at = self.geometry.header_at(*first);
                let bytes: Vec<Line> = run.iter().map(|(_, line)| *line).collect();
                let bytes = bytes.as_flattened();
                self.medium.store(at, bytes)?;
                self.medium.flush(at, bytes.len() as u64)?;
            }
        }
        Ok(())
    }

    fn store_commits(&self, entries: &[Entry<'_>]) -> io::Result<()> {
        for (slot, line) in lines(entries, |line| *line) {
            let at = self.geometry.header_at(slot) + COMMIT_AT as u64;
            let (_, word) = line.split_at(COMMIT_AT);
            self.medium.store(at, word)?;
            self.medium.flush(at, word.len() as u64)?;
        }
        Ok(())
    }
}

fn lines(entries: &[Entry<'_>], change: impl Fn(&Line) -> Line) -> Vec<(u32, Line)> {
    let changed = |entry: &Entry<'_>| Some((entry.slot, change(entry.line.as_ref()?)));
    entries.iter().filter_map(changed).collect()
}
