// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A file of page slots: the tier between the frames in DRAM and the stores on other hosts.
//!
//! ```text
//!  the engine                      SlotFile                               the file
//!  which slot is free, what page   write ─ commit.rs ─┐                   superblock ×2   layout.rs
//!  goes where: its own table  ───▶ invalidate ────────┤   Medium          directory       directory.rs
//!                                  read ──────────────┼─▶ medium.rs  ───▶ ┌ headers, 64 B header.rs
//!                                  open, scan ────────┘   dax.rs          └ pages, 4 KiB
//!                                  recover.rs, scan.rs
//! ```
//! The file knows no index: a slot has a number, and the engine says what is put there. Each slot has
//! a header that names its page, so that all can be found when the engine's map is gone with its host.
//!
//! # What is promised
//! - [`write`](SlotFile::write) returns when all pages of a batch are committed, and
//!   [`invalidate`](SlotFile::invalidate) when all slots are empty: as durably as the file was opened
//!   for. A [`scan`](SlotFile::scan) finds all of the former and none of the latter, and of a request
//!   that was cut short each page whole or not at all.
//! - [`Durability::Process`] outlives any kill of the process, but not the host. Only pages that are
//!   [found by their header](SlotHeader::BY_HEADER) have one then, and are found by a scan. A file that was
//!   written this way before the host's last boot is made empty when it is opened, since the system
//!   has written back any part of it: even pages that were invalidated might come back.
//! - [`Durability::Host`] outlives the host's reboot and power loss.
//!
//! # How a page is committed
//! | | order | fences |
//! | --- | --- | --- |
//! | file, process | pages, then headers, if any: the page cache keeps the order | none |
//! | file, host | pages and headers, whose state is *fresh* until the log says otherwise | 1 |
//! | DAX | pages and headers without commit words, fence, commit words, fence | 2 |
//!
//! A fresh header says that its page was written with it. A scan reads those pages, and a page that
//! fails its checksum was never acknowledged. They are those of the last batches: each batch has a page
//! of the log say of the ones before it that they are settled, under its own fence.
//!
//! # What it leaves to its caller
//! A slot belongs to one thread while it is written or invalidated, and is read only by who knows that
//! it holds a page. A page's checksum is the engine's, which verifies it after a read. Pools are
//! entered into the directory before their pages are written.

mod commit;
#[expect(
    unsafe_code,
    reason = "the one file here that maps memory and flushes cache lines"
)]
mod dax;
mod directory;
mod error;
mod header;
mod layout;
mod log;
mod medium;
pub(crate) mod memory;
mod recover;
mod resize;
mod scan;
#[cfg(test)]
mod tests;

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::files::Claim;
use crate::handle::{PAGE_SIZE, PageBytes};
use crate::records::GUEST_NAME_MAX;
use commit::Protocol;
use directory::Directory;
use layout::{Geometry, Superblock};
use log::VoidLog;
use medium::{FileMedium, Medium};
use scan::Judged;

pub use directory::PoolEntry;
pub use error::SlotError;
pub use header::SlotHeader;
pub use memory::{SLOT_MEMORY_WORDS, SlotMemory};
pub use recover::{Opened, OpenedAs};
pub use scan::ScanReport;

/// A number that the host draws at each boot, by which a file that does not outlive one knows another.
///
/// # Errors
/// The system's, where it cannot be read.
pub fn boot_id() -> std::io::Result<[u8; 16]> {
    recover::boot_id()
}

/// The most slots of a file: 1 TiB of pages.
pub const SLOTS_MAX: u32 = 1 << 28;
/// Pools in the directory: pool slots are below this.
pub const POOL_SLOTS_MAX: u32 = 1 << 16;

/// What a committed page survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Durability {
    /// A kill of the process at any moment, but not the host's end.
    Process,
    /// A reboot or a power loss of the host, too.
    Host,
}

/// What the slots lie on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Persistent memory, mapped.
    Dax,
    /// A file of any other file system.
    File,
    /// A file of memory: gone with the host.
    Memory,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dax => "dax",
            Self::File => "file",
            Self::Memory => "memory",
        })
    }
}

/// A file of page slots. All of it may be used from any thread.
#[derive(Debug)]
pub struct SlotFile {
    // The claim ends before the file is closed.
    _claim: Option<Claim>,
    medium: Box<dyn Medium>,
    path: PathBuf,
    id: [u8; 16],
    geometry: Geometry,
    durability: Durability,
    protocol: Protocol,
    slots: AtomicU32,
    superblocks: Mutex<Superblocks>,
    directory: Mutex<Directory>,
    /// A bit for each slot that is known to be empty, durably: by its header or by the log.
    empty: RwLock<Vec<AtomicU64>>,
    log: VoidLog,
    /// Slots were to be emptied, and perhaps only the page cache knows of it.
    in_doubt: AtomicBool,
}

/// The superblock as it is now, and what its twins say.
#[derive(Debug)]
struct Superblocks {
    current: Superblock,
    /// Sequence of each twin; nothing for a bad one.
    twins: [Option<u64>; 2],
}

impl Superblocks {
    /// Writes both twins, the worse one first; durable on return.
    fn write(&mut self, medium: &dyn Medium, next: Superblock) -> std::io::Result<()> {
        let newest = self.twins.iter().flatten().max().copied().unwrap_or(0);
        let sequence = newest.max(self.current.sequence) + 1;
        self.current = Superblock { sequence, ..next };
        let order = if self.twins[0] > self.twins[1] {
            [1, 0]
        } else {
            [0, 1]
        };
        for twin in order {
            let at = layout::SUPERBLOCKS_AT[twin];
            let since = medium.mark();
            self.twins[twin] = None;
            medium.store(at, &self.current.bytes())?;
            medium.flush(at, crate::handle::PAGE_SIZE as u64)?;
            medium.fence(since)?;
            self.twins[twin] = Some(sequence);
        }
        Ok(())
    }
}

impl SlotFile {
    /// Makes an empty file one of `slots` slots, or goes on with what it holds; then it keeps its own
    /// number of slots, until it is [resized](Self::resize).
    ///
    /// The file is locked against other programs (`flock`) until the last descriptor of this opening
    /// of it is closed. If another process has locked it and passed the descriptor on, that is the
    /// same lock. Closing any other descriptor of the file in this process ends the process' claim to
    /// it, by which a successor knows that this one is gone.
    ///
    /// # Errors
    /// [`SlotError`] if the file cannot be had, is not one of slots, or is damaged.
    pub fn open(
        file: OwnedFd,
        path: &Path,
        slots: u32,
        durability: Durability,
    ) -> Result<(Self, Opened), SlotError> {
        Self::open_as(file, path, slots, durability, &recover::boot_id)
    }

    /// As [`open`](Self::open), in a process that cannot ask which boot of the host this is: `boot` is
    /// what [`boot_id`] gave to another.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_in_boot(
        file: OwnedFd,
        path: &Path,
        slots: u32,
        durability: Durability,
        boot: [u8; 16],
    ) -> Result<(Self, Opened), SlotError> {
        Self::open_as(file, path, slots, durability, &|| Ok(boot))
    }

    fn open_as(
        file: OwnedFd,
        path: &Path,
        slots: u32,
        durability: Durability,
        boot: &dyn Fn() -> std::io::Result<[u8; 16]>,
    ) -> Result<(Self, Opened), SlotError> {
        let claim = recover::claim(&file, path)?;
        let medium: Box<dyn Medium> = match dax::DaxMedium::probe(file) {
            Ok(medium) => Box::new(medium),
            Err(file) => match FileMedium::new(file) {
                Ok(medium) if durability == Durability::Process => Box::new(medium.lazy()),
                Ok(medium) => Box::new(medium),
                Err(source) => return Err(recover::failed(path, "look at", source)),
            },
        };
        let setup = recover::Setup {
            path,
            slots,
            durability,
            geometry: Geometry::STANDARD,
            boot,
        };
        let (mut file, opened) = recover::open(medium, &setup)?;
        file._claim = Some(claim);
        Ok((file, opened))
    }

    /// A file of memory that ends with this process. Memory is taken by pages as they are written, and
    /// given back when their slots are invalidated.
    ///
    /// # Errors
    /// [`SlotError`] if there is not enough memory, or the number of slots is out of range.
    pub fn memory(slots: u32) -> Result<Self, SlotError> {
        let path = Path::new("tmem-slots");
        let file = memfd_create("tmem-slots", MemfdFlags::CLOEXEC);
        let medium = file.map_err(std::io::Error::from).and_then(FileMedium::new);
        let medium = medium.map(FileMedium::sparse);
        let medium = medium.map_err(|source| recover::failed(path, "make", source))?;
        let setup = recover::Setup {
            path,
            slots,
            durability: Durability::Process,
            geometry: Geometry::STANDARD,
            // No boot but this one will ever see it.
            boot: &|| Ok([0; 16]),
        };
        Ok(recover::open(Box::new(medium), &setup)?.0)
    }

    /// A number that was drawn when the file was made, and tells it from all others.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.id
    }

    /// Slots of the file.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots.load(Ordering::Acquire)
    }

    /// What the slots lie on.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.medium.mode()
    }

    /// What a committed page survives.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// Reads a page. Its bytes are not verified.
    ///
    /// # Errors
    /// [`SlotError::Unreadable`] if this page cannot be read.
    pub fn read(&self, slot: u32, page: &mut PageBytes) -> Result<(), SlotError> {
        self.check_slot(slot)?;
        let read = self.medium.load(self.geometry.page_at(slot), page);
        read.map_err(|source| SlotError::Unreadable { slot, source })
    }

    /// These slots' pages will be read soon, in this order. A file on a disk fetches them beside each
    /// other, where reads one after the other would wait for each.
    pub fn will_read(&self, slots: impl IntoIterator<Item = u32>) {
        let (mut begin, mut end) = (0, 0);
        for slot in slots.into_iter().filter(|slot| *slot < self.slots()) {
            let at = self.geometry.page_at(slot);
            if at != end {
                if begin != end {
                    self.medium.will_load(begin, end - begin);
                }
                begin = at;
            }
            end = at + PAGE_SIZE as u64;
        }
        if begin != end {
            self.medium.will_load(begin, end - begin);
        }
    }

    /// Has some of what was written, and lies in the system's page cache, leave it, or makes room in the
    /// log of emptied slots. False if nothing is left to do. For when nobody waits.
    pub fn tidy(&self) -> bool {
        if self.log_fills() && self.apply_log().is_ok() {
            return true;
        }
        self.medium.tidy()
    }

    /// What a slot holds, if it holds a committed page.
    ///
    /// # Errors
    /// [`SlotError::DamagedHeader`] or [`SlotError::Unreadable`], for this slot.
    pub fn header(&self, slot: u32) -> Result<Option<SlotHeader>, SlotError> {
        self.check_slot(slot)?;
        let mut line = [0; header::HEADER_BYTES];
        let read = (self.medium).load(self.geometry.header_at(slot), &mut line);
        read.map_err(|source| SlotError::Unreadable { slot, source })?;
        match self.judge(slot, &line) {
            Judged::Page(header) => Ok(Some(header)),
            Judged::Empty | Judged::Unfinished | Judged::Unread => Ok(None),
            Judged::Damaged => Err(SlotError::DamagedHeader { slot }),
        }
    }

    /// Enters a pool into the directory, or replaces the one that was in this slot. On return it
    /// is as durable as the file can be, and so it must be before pages of the pool are written. A new
    /// pool has a higher serial than any that the slot has had: see [`last_serial`](Self::last_serial).
    ///
    /// # Errors
    /// [`SlotError`]; then the directory has the old entry or the new one.
    pub fn put_pool(&self, pool_slot: u32, entry: &PoolEntry) -> Result<(), SlotError> {
        let bytes = entry.guest.len();
        if bytes > GUEST_NAME_MAX {
            return Err(SlotError::BadName { bytes });
        }
        let serial = entry.pool_serial;
        let newest = self.directory.lock().is_too_old(pool_slot, serial);
        if let Some(newest) = newest {
            return Err(SlotError::OldSerial {
                pool_slot,
                serial,
                newest,
            });
        }
        self.change_pool(pool_slot, Some(entry))
    }

    /// Ends a pool: on return no scan finds any of its pages. Their slots still hold them, and can be
    /// written over or invalidated.
    ///
    /// # Errors
    /// [`SlotError`]; then the pool is there or not.
    pub fn drop_pool(&self, pool_slot: u32) -> Result<(), SlotError> {
        self.change_pool(pool_slot, None)
    }

    fn change_pool(&self, pool_slot: u32, entry: Option<&PoolEntry>) -> Result<(), SlotError> {
        if pool_slot >= self.geometry.pool_slots {
            return Err(SlotError::NoSuchPool { pool_slot });
        }
        let mut directory = self.directory.lock();
        let changed = directory.change(&*self.medium, self.geometry, &self.id, pool_slot, entry);
        changed.map_err(|source| self.failed("change the directory of", source))
    }

    /// The pools of the directory, by slot.
    #[must_use]
    pub fn pools(&self) -> Vec<(u32, PoolEntry)> {
        let directory = self.directory.lock();
        let pools = directory.pools();
        pools.map(|(slot, entry)| (slot, entry.clone())).collect()
    }

    /// The highest serial that a pool of this slot has had, dropped ones included. After a scan, that
    /// includes those of which only pages are left.
    #[must_use]
    pub fn last_serial(&self, pool_slot: u32) -> Option<u32> {
        self.directory.lock().serial(pool_slot)
    }

    /// Pool slots whose entries are damaged beyond repair: pages of theirs are orphans, if there were
    /// any. Putting or dropping a pool in such a slot mends it.
    #[must_use]
    pub fn damaged_pools(&self) -> Vec<u32> {
        self.directory.lock().damaged().collect()
    }

    fn check_slot(&self, slot: u32) -> Result<(), SlotError> {
        let slots = self.slots();
        if slot < slots {
            Ok(())
        } else {
            Err(SlotError::NoSuchSlot { slot, slots })
        }
    }

    fn failed(&self, doing: &'static str, source: std::io::Error) -> SlotError {
        recover::failed(&self.path, doing, source)
    }
}

impl Drop for SlotFile {
    fn drop(&mut self) {
        // The next scan has less to read; without it, nothing is lost.
        let _ = self.end_log();
    }
}
