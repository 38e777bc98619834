// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A copy on this host's disk: a member that is a file.
//!
//! It takes part in writes as a store does, is asked for a page only when no store is well, and is
//! what is left when all of them are gone. A slot's page lies in the slot of the same number; slots
//! beyond the file's end have no copy here.

use std::sync::Arc;

use thiserror::Error;
use tmem_pages::slots::{SlotError, SlotFile, SlotHeader};
use tmem_pages::{ObjectId, PageBytes, PageIndex, Ticket};
use tmem_remote_protocol::checksum;

/// Why the disk has no such page.
#[derive(Debug, Error)]
pub(crate) enum DiskError {
    /// The file has none.
    #[error("the disk has no such page")]
    Missing,
    /// It is not the one that was written.
    #[error("the page was damaged on the disk")]
    Damaged,
    /// The file failed.
    #[error("the disk failed")]
    Failed(#[from] SlotError),
}

/// A file that keeps copies.
#[derive(Clone, Debug)]
pub struct Disk {
    file: Arc<SlotFile>,
    name: String,
}

/// A page as the disk has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OnDisk {
    pub(crate) generation: u64,
    pub(crate) checksum: u32,
}

impl Disk {
    /// A file that was opened, under the name that people know it by.
    #[must_use]
    pub fn new(file: SlotFile, name: String) -> Self {
        Self {
            file: Arc::new(file),
            name,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Pages that it has room for.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.file.slots()
    }

    /// Which file it is.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.file.id()
    }

    /// Keeps pages. On return they are on the disk.
    pub(crate) fn write(&self, pages: &[(u32, u64, u32, &PageBytes)]) -> Result<(), DiskError> {
        let headers: Vec<(u32, SlotHeader, &PageBytes)> = (pages.iter())
            .filter_map(|(slot, generation, checksum, page)| {
                Some((*slot, header(*slot, *generation, *checksum)?, *page))
            })
            .collect();
        let batch: Vec<_> = (headers.iter())
            .map(|(slot, header, page)| (*slot, header, *page))
            .collect();
        if batch.len() != pages.len() || pages.iter().any(|page| page.0 >= self.slots()) {
            return Err(DiskError::Missing);
        }
        Ok(self.file.write(&batch)?)
    }

    /// Reads a page and compares it with its checksum.
    pub(crate) fn read(&self, slot: u32, page: &mut PageBytes) -> Result<OnDisk, DiskError> {
        let Some(header) = self.look(slot)? else {
            return Err(DiskError::Missing);
        };
        self.file.read(slot, page)?;
        if checksum(page) != header.checksum {
            return Err(DiskError::Damaged);
        }
        Ok(header)
    }

    /// What is in a slot.
    pub(crate) fn look(&self, slot: u32) -> Result<Option<OnDisk>, DiskError> {
        if slot >= self.slots() {
            return Ok(None);
        }
        let header = self.file.header(slot)?;
        Ok(header.map(|header| OnDisk {
            generation: header.ticket.get(),
            checksum: header.checksum,
        }))
    }

    /// Forgets a page, unless it is newer.
    pub(crate) fn flush(&self, slot: u32, generation: u64) -> Result<(), DiskError> {
        if self
            .look(slot)?
            .is_some_and(|there| there.generation <= generation)
        {
            self.file.invalidate(&[slot])?;
        }
        Ok(())
    }
}

fn header(slot: u32, generation: u64, checksum: u32) -> Option<SlotHeader> {
    Some(SlotHeader {
        pool_slot: 0,
        pool_serial: 0,
        object: ObjectId::ZERO,
        index: PageIndex(slot),
        ticket: Ticket::new(generation)?,
        checksum,
        // The file keeps headers of no others.
        flags: SlotHeader::BY_HEADER,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_gives_back_what_it_took_and_forgets_only_what_is_old() {
        let disk = Disk::new(SlotFile::memory(8).unwrap(), "disk".into());
        let page = [7; 4096];
        let mut back = [0; 4096];
        assert!(matches!(disk.read(3, &mut back), Err(DiskError::Missing)));
        disk.write(&[(3, 10, checksum(&page), &page)]).unwrap();
        let there = disk.read(3, &mut back).unwrap();
        assert_eq!((back, there.generation), (page, 10));
        disk.flush(3, 9).unwrap();
        assert!(disk.look(3).unwrap().is_some());
        disk.flush(3, 10).unwrap();
        assert!(disk.look(3).unwrap().is_none());
        assert!(disk.write(&[(8, 1, 0, &page)]).is_err(), "beyond the end");
        disk.write(&[(3, 11, 0, &page)]).unwrap();
        assert!(matches!(disk.read(3, &mut back), Err(DiskError::Damaged)));
    }
}
