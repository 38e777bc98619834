// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a store whose pages are elsewhere remembers of its slots, in memory that outlives the process
//! that uses it.
//!
//! ```text
//! 0       16    24       4096              256 MiB + 4096
//! magic   id    words    marks, 1 byte     headers, 64 bytes each
//!                        for each slot     for pages that are found by their header
//! ```
//! The file is as long as the most slots there can be, with holes for those that were never used. Marks
//! and words are atomics; whoever opens the file next finds what was stored last. A header is written
//! before its slot's page is acknowledged, by the one thread that fills the slot.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;

use rustix::fs::{fstat, ftruncate};
use rustix::io::{pread, pwrite, retry_on_intr};

use super::header::{HEADER_BYTES, Line, Parsed, State, parse};
use super::{SLOTS_MAX, SlotError, SlotHeader, recover};
use crate::files::Claim;
use crate::sys::SideMap;

/// What the first 8 bytes say: this, in this version.
const MAGIC: &[u8; 8] = b"tmemslm1";
const ID_AT: u64 = 8;
/// Where the words begin: behind magic and id.
pub(crate) const WORDS_AT: usize = 64;
/// Where the marks begin.
pub(crate) const MARKS_AT: usize = 4096;
/// Words for the store's own use.
pub const SLOT_MEMORY_WORDS: usize = (MARKS_AT - WORDS_AT) / 8;
const HEADERS_AT: u64 = (MARKS_AT as u64) + SLOTS_MAX as u64;
const FILE_BYTES: u64 = HEADERS_AT + (SLOTS_MAX as u64) * (HEADER_BYTES as u64);

/// See the module's head. One process uses a file at a time, and in it one of these.
pub struct SlotMemory {
    map: SideMap,
    id: [u8; 16],
    _claim: Claim,
}

impl SlotMemory {
    /// Opens what was kept in this file of memory, or makes it if the file is empty; the second is
    /// true then.
    ///
    /// # Errors
    /// [`SlotError::InUse`] while another process has it, [`SlotError::NotOurs`] if it is something
    /// else, [`SlotError::Io`].
    pub fn open(file: OwnedFd) -> Result<(Self, bool), SlotError> {
        let path = Path::new("slot memory");
        let failed = |doing| move |source| recover::failed(path, doing, source);
        let claim = recover::claim(&file, path)?;
        let length = fstat(&file).map_err(|error| failed("look at")(error.into()))?;
        let fresh = length.st_size == 0;
        if fresh {
            ftruncate(&file, FILE_BYTES).map_err(|error| failed("make")(error.into()))?;
        } else if u64::try_from(length.st_size) != Ok(FILE_BYTES) {
            return Err(SlotError::NotOurs { path: path.into() });
        }
        let mut id = [0; 16];
        let mut magic = [0; MAGIC.len()];
        load(&file, 0, &mut magic).map_err(failed("read"))?;
        // Whoever made it may have been killed before it had its magic, and so before it was used.
        let fresh = fresh || magic == [0; MAGIC.len()];
        if fresh {
            id = recover::new_id();
            save(&file, ID_AT, &id).map_err(failed("make"))?;
            save(&file, 0, MAGIC).map_err(failed("make"))?;
        } else if magic != *MAGIC {
            return Err(SlotError::NotOurs { path: path.into() });
        } else {
            load(&file, ID_AT, &mut id).map_err(failed("read"))?;
        }
        let map = SideMap::new(file, MARKS_AT + SLOTS_MAX as usize).map_err(failed("map"))?;
        let memory = Self {
            map,
            id,
            _claim: claim,
        };
        Ok((memory, fresh))
    }

    /// A number drawn when the file was made.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.id
    }

    /// A slot's mark; 0 until it is set.
    ///
    /// # Panics
    /// If the slot is not below [`SLOTS_MAX`].
    #[must_use]
    pub fn mark(&self, slot: u32) -> u8 {
        self.map.marks()[slot as usize].load(Ordering::Acquire)
    }

    /// Sets a slot's mark.
    ///
    /// # Panics
    /// If the slot is not below [`SLOTS_MAX`].
    pub fn set_mark(&self, slot: u32, mark: u8) {
        self.map.marks()[slot as usize].store(mark, Ordering::Release);
    }

    /// Sets a slot's mark if it is `old` now. False if it is not.
    ///
    /// # Panics
    /// If the slot is not below [`SLOTS_MAX`].
    #[must_use]
    pub fn swap_mark(&self, slot: u32, old: u8, new: u8) -> bool {
        self.map.marks()[slot as usize]
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// One of [`SLOT_MEMORY_WORDS`] words; 0 until it is set.
    ///
    /// # Panics
    /// If there is no such word.
    #[must_use]
    pub fn word(&self, number: usize) -> u64 {
        self.map.words()[number].load(Ordering::Acquire)
    }

    /// Sets a word.
    ///
    /// # Panics
    /// If there is no such word.
    pub fn set_word(&self, number: usize, word: u64) {
        self.map.words()[number].store(word, Ordering::Release);
    }

    /// Notes what a slot's page is. Only pages with [`SlotHeader::BY_HEADER`] are asked for again.
    ///
    /// # Errors
    /// [`SlotError::Io`], if there is no memory.
    pub fn set_header(&self, slot: u32, header: &SlotHeader) -> Result<(), SlotError> {
        let line = header.line(&self.id, slot, State::Settled, 0);
        save(self.map.file(), header_at(slot), &line)
            .map_err(|source| recover::failed(Path::new("slot memory"), "write", source))
    }

    /// What a slot's page is, if that was noted.
    ///
    /// # Errors
    /// [`SlotError::DamagedHeader`], [`SlotError::Unreadable`].
    pub fn header(&self, slot: u32) -> Result<Option<SlotHeader>, SlotError> {
        let mut line: Line = [0; HEADER_BYTES];
        load(self.map.file(), header_at(slot), &mut line)
            .map_err(|source| SlotError::Unreadable { slot, source })?;
        match parse(&line, &self.id, slot) {
            Parsed::Empty => Ok(None),
            Parsed::Page { header, .. } => Ok(Some(header)),
            Parsed::Unfinished | Parsed::Damaged => Err(SlotError::DamagedHeader { slot }),
        }
    }
}

impl fmt::Debug for SlotMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotMemory").finish_non_exhaustive()
    }
}

impl AsFd for SlotMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.file().as_fd()
    }
}

fn header_at(slot: u32) -> u64 {
    HEADERS_AT + u64::from(slot) * HEADER_BYTES as u64
}

fn load(file: &OwnedFd, at: u64, into: &mut [u8]) -> std::io::Result<()> {
    let bytes = into.len();
    let read = retry_on_intr(|| pread(file, &mut *into, at))?;
    if read == bytes {
        Ok(())
    } else {
        Err(std::io::ErrorKind::UnexpectedEof.into())
    }
}

fn save(file: &OwnedFd, at: u64, bytes: &[u8]) -> std::io::Result<()> {
    let written = retry_on_intr(|| pwrite(file, bytes, at))?;
    if written == bytes.len() {
        Ok(())
    } else {
        Err(std::io::ErrorKind::WriteZero.into())
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;
    use crate::handle::{ObjectId, PageIndex, Ticket};

    const fn is_shared<T: Send + Sync>() {}
    const _: () = is_shared::<SlotMemory>();

    fn file() -> OwnedFd {
        memfd_create("slot-memory", MemfdFlags::CLOEXEC).unwrap()
    }

    fn header() -> SlotHeader {
        SlotHeader {
            pool_slot: 3,
            pool_serial: 4,
            object: ObjectId([1, 2, 3]),
            index: PageIndex(9),
            ticket: Ticket::new(77).unwrap(),
            checksum: 0xabcd,
            flags: SlotHeader::BY_HEADER,
        }
    }

    #[test]
    fn what_was_stored_is_there_when_the_next_opens_it() {
        let file = file();
        let again = file.try_clone().unwrap();
        let (memory, fresh) = SlotMemory::open(file).unwrap();
        assert!(fresh);
        let last = SLOTS_MAX - 1;
        memory.set_mark(0, 7);
        memory.set_mark(last, 9);
        assert!(memory.swap_mark(0, 7, 8));
        assert!(!memory.swap_mark(0, 7, 1));
        memory.set_word(0, u64::MAX);
        memory.set_word(SLOT_MEMORY_WORDS - 1, 5);
        memory.set_header(last, &header()).unwrap();
        let id = memory.id();
        drop(memory);
        let (memory, fresh) = SlotMemory::open(again).unwrap();
        assert!(!fresh);
        assert_eq!(memory.id(), id);
        assert_eq!(
            (memory.mark(0), memory.mark(1), memory.mark(last)),
            (8, 0, 9)
        );
        assert_eq!(memory.word(0), u64::MAX);
        assert_eq!(memory.word(SLOT_MEMORY_WORDS - 1), 5);
        assert_eq!(memory.header(last).unwrap(), Some(header()));
        assert_eq!(memory.header(0).unwrap(), None);
    }

    #[test]
    fn file_has_one_user_and_is_nothing_else() {
        let file = file();
        let again = file.try_clone().unwrap();
        let memory = SlotMemory::open(file).unwrap();
        assert!(matches!(
            SlotMemory::open(again),
            Err(SlotError::InUse { .. })
        ));
        drop(memory);
        let other = self::file();
        ftruncate(&other, 100).unwrap();
        assert!(matches!(
            SlotMemory::open(other),
            Err(SlotError::NotOurs { .. })
        ));
        let other = self::file();
        ftruncate(&other, FILE_BYTES).unwrap();
        save(&other, 0, b"something").unwrap();
        assert!(matches!(
            SlotMemory::open(other),
            Err(SlotError::NotOurs { .. })
        ));
    }

    #[test]
    fn header_of_another_slot_is_damaged() {
        let (memory, _) = SlotMemory::open(file()).unwrap();
        memory.set_header(1, &header()).unwrap();
        let line = header().line(&memory.id(), 1, State::Settled, 0);
        save(memory.map.file(), header_at(2), &line).unwrap();
        assert!(matches!(
            memory.header(2),
            Err(SlotError::DamagedHeader { slot: 2 })
        ));
    }
}
