// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can go wrong with a file of slots.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;
use thiserror::Error;

use super::layout::VERSION;
use super::{POOL_SLOTS_MAX, SLOTS_MAX};
use crate::records::GUEST_NAME_MAX;

/// Why a file of slots cannot be used, or did not do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SlotError {
    /// The number of slots is out of range.
    #[error("Cannot make a slot file of {slots} slots: choose 1 to {SLOTS_MAX}")]
    BadSlots {
        /// Slots asked for.
        slots: u32,
    },
    /// Another program has the file.
    #[error("Cannot use the slot file {}: another program has it; end that one or choose another file", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// A live process, or this one, uses the file already.
    #[error("Cannot use the slot file {}: a live process uses it; wait for its end", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("Cannot use the slot file {}: it is something else; choose another file, or remove it", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// The file is of another version.
    #[error("Cannot use the slot file {}: it has version {version}, this program knows {VERSION}; start the program that made it, or remove it, and the pages in it", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The file's version.
        version: u32,
    },
    /// The file is of this version, but both copies of its superblock are bad, or say what cannot be.
    #[error("Cannot use the slot file {}: {what}; remove it, and the pages in it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// The file is shorter than its slots need.
    #[error("Cannot use the slot file {}: it has {bytes} bytes and its slots need {expected}; something cut it short: bring the whole file back, or remove it, and the pages in it", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes that the file has.
        bytes: u64,
        /// Bytes that it must have.
        expected: u64,
    },
    /// Nothing tells whether the host was restarted since the file was written.
    #[error("Cannot use the slot file {}: it outlives the host only if it was written before this boot, and the boot's number cannot be read; open it before the process is confined", path.display())]
    BootUnknown {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no room for the slots.
    #[error("Cannot give the slot file {} {slots} slots: its file system has no room; nothing was changed", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// Slots asked for.
        slots: u32,
        /// What the system said.
        source: io::Error,
    },
    /// The system failed at something that concerns the whole file.
    #[error("Cannot {doing} the slot file {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A slot's number is beyond the file's slots.
    #[error("BUG! slot {slot} of a slot file with {slots} slots")]
    NoSuchSlot {
        /// The slot.
        slot: u32,
        /// Slots that there are.
        slots: u32,
    },
    /// A slot occurs twice in one batch.
    #[error("BUG! slot {slot} twice in one batch")]
    Twice {
        /// The slot.
        slot: u32,
    },
    /// A slot that is to go holds a committed page.
    #[error("Cannot shrink the slot file: slot {slot} holds a page; move it first")]
    NotEmpty {
        /// The slot.
        slot: u32,
    },
    /// The header of a committed page fails its checksum: nobody knows whose the page is.
    #[error("Cannot tell what slot {slot} holds: its header is damaged")]
    DamagedHeader {
        /// The slot.
        slot: u32,
    },
    /// One slot cannot be read: cut off, or on a bad place of the medium. The others can.
    #[error("Cannot read slot {slot} of the slot file")]
    Unreadable {
        /// The slot.
        slot: u32,
        /// What the system said.
        source: io::Error,
    },
    /// A batch was not written, and all its slots are empty: they may be used again.
    #[error("Cannot write {pages} pages to the slot file {}; their slots are empty", path.display())]
    NotWritten {
        /// The file.
        path: PathBuf,
        /// Pages of the batch.
        pages: usize,
        /// What the system said.
        source: io::Error,
    },
    /// A batch was not written, and its slots could not be emptied either: each holds what it held, its
    /// new page, or nothing, until an invalidation or a write of it succeeds.
    #[error("Cannot write {pages} pages to the slot file {}, nor empty their slots", path.display())]
    InDoubt {
        /// The file.
        path: PathBuf,
        /// Pages of the batch.
        pages: usize,
        /// What the system said.
        source: io::Error,
    },
    /// Stores on other hosts did not do what they were asked.
    #[error("Cannot {doing} {pages} pages on other hosts: {why}")]
    Elsewhere {
        /// What was tried.
        doing: &'static str,
        /// Pages of the batch.
        pages: usize,
        /// What was answered, by whom, and what to do about it.
        why: String,
    },
    /// A pool's slot is beyond the directory.
    #[error("BUG! pool slot {pool_slot} of a directory with {POOL_SLOTS_MAX} entries")]
    NoSuchPool {
        /// The pool's slot.
        pool_slot: u32,
    },
    /// The slot has had this pool, or a later one: pages of an old pool could be taken for the new one's.
    #[error("BUG! pool {serial} in pool slot {pool_slot}, which has had pool {newest}")]
    OldSerial {
        /// The pool's slot.
        pool_slot: u32,
        /// The pool's serial.
        serial: u32,
        /// The highest serial so far.
        newest: u32,
    },
    /// A guest's name does not fit.
    #[error(
        "Cannot enter a guest of {bytes} bytes into the directory: a name has up to {GUEST_NAME_MAX}"
    )]
    BadName {
        /// Length of the name.
        bytes: usize,
    },
}

impl SlotError {
    /// Whether the file system had no room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::NotWritten { source, .. }
            | Self::InDoubt { source, .. }
            | Self::Io { source, .. } => no_room(source),
            _ => false,
        }
    }

    /// Whether slots of the batch may hold what the next scan would find, though it was not
    /// acknowledged.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        matches!(self, Self::InDoubt { .. })
    }
}

/// Whether this error says that there is no room.
pub(super) fn no_room(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG))
}
