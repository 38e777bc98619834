// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a new process makes of a file that another one left, or the last boot of the host.
//!
//! | found | made of it |
//! | --- | --- |
//! | nothing, or a file that was never finished | a new file |
//! | a sound superblock, the length that it says or more | gone on with; what a growth left over is cut off |
//! | written for this boot alone, and that is over | a new file: any part of it may have been written back |
//! | anything else | an error, and nothing is changed |
//!
//! A new file has a superblock of no slots first, and gets its slots as a grown file does: so it is
//! never mistaken for more than is there. Before anything is answered from a file that outlives the
//! host, a fence makes durable what the page cache alone may hold: what was once seen stays.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32};

use parking_lot::{Mutex, RwLock};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::commit::Protocol;
use super::directory::Directory;
use super::layout::{DIRECTORY_AT, Found, Geometry, Superblock, VERSION};
use super::log::VoidLog;
use super::medium::Medium;
use super::{Durability, SLOTS_MAX, SlotError, SlotFile, Superblocks};
use crate::error::EngineError;
use crate::files::Claim;
use crate::handle::PAGE_SIZE;

/// How a file was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// What was found.
    pub found: OpenedAs,
    /// Copies of the superblock, of the directory's entries and of the log's pages that were bad or
    /// behind, and were made good from their twins.
    pub repaired: u32,
}

/// What an opened file was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenedAs {
    /// Empty: it has been made a new file.
    New,
    /// A file of slots, with all that was committed.
    Kept,
    /// A file of slots that was written for an earlier boot of the host, with pages that did not
    /// outlive it. It has been made a new file, with another id.
    Lost,
}

/// What a file is opened with.
pub(super) struct Setup<'a> {
    pub(super) path: &'a Path,
    /// Slots of a new file.
    pub(super) slots: u32,
    pub(super) durability: Durability,
    /// That of a new file.
    pub(super) geometry: Geometry,
    /// Tells which boot of the host this is.
    pub(super) boot: &'a dyn Fn() -> io::Result<[u8; 16]>,
}

impl Setup<'_> {
    /// This boot, for a file that does not outlive it.
    fn boot(&self) -> Result<[u8; 16], SlotError> {
        (self.boot)().map_err(|source| SlotError::BootUnknown {
            path: self.path.into(),
            source,
        })
    }

    pub(super) fn failed(&self, doing: &'static str) -> impl FnOnce(io::Error) -> SlotError {
        let path = self.path;
        move |source| failed(path, doing, source)
    }
}

pub(super) fn failed(path: &Path, doing: &'static str, source: io::Error) -> SlotError {
    SlotError::Io {
        path: path.into(),
        doing,
        source,
    }
}

/// Locks the file against other programs, and claims it for this process.
pub(super) fn claim(file: &OwnedFd, path: &Path) -> Result<Claim, SlotError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(SlotError::Locked { path: path.into() }),
        Err(error) => return Err(failed(path, "lock", error.into())),
    }
    Claim::new(file).map_err(|error| match error {
        EngineError::Unreadable { source } => failed(path, "claim", source),
        _ => SlotError::InUse { path: path.into() },
    })
}

/// A number that the kernel draws at each boot.
pub(super) fn boot_id() -> io::Result<[u8; 16]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let number = u128::from_str_radix(&digits, 16);
    number
        .map(u128::to_le_bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// A number that no other file has.
pub(super) fn new_id() -> [u8; 16] {
    // The standard library draws keys from the system's random numbers.
    let mut id = [0; 16];
    for (number, half) in id.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *half = RandomState::new().hash_one(number).to_le_bytes();
    }
    id
}

/// Opens a file on this medium.
pub(super) fn open(
    medium: Box<dyn Medium>,
    setup: &Setup<'_>,
) -> Result<(SlotFile, Opened), SlotError> {
    let slots = setup.slots;
    if !(1..=SLOTS_MAX).contains(&slots) {
        return Err(SlotError::BadSlots { slots });
    }
    let bytes = medium.length().map_err(setup.failed("look at"))?;
    let (superblock, twins) = match read_superblocks(&*medium, setup, bytes)? {
        Some(found) => found,
        None => return create(medium, setup, bytes, 0, OpenedAs::New),
    };
    if superblock.slots == 0 {
        return create(medium, setup, bytes, superblock.sequence, OpenedAs::New);
    }
    if !superblock.outlives_host && superblock.boot != setup.boot()? {
        return create(medium, setup, bytes, superblock.sequence, OpenedAs::Lost);
    }
    let expected = superblock.geometry.length(superblock.slots);
    if bytes < expected {
        return Err(SlotError::Truncated {
            path: setup.path.into(),
            bytes,
            expected,
        });
    }
    keep(medium, setup, superblock, twins, bytes > expected)
}

/// The sequence of each twin of the superblock; nothing for a bad one.
type Twins = [Option<u64>; 2];

/// What the twins of the superblock say: the newer one, and what each has. Nothing if there never was
/// a file of slots.
fn read_superblocks(
    medium: &dyn Medium,
    setup: &Setup<'_>,
    bytes: u64,
) -> Result<Option<(Superblock, Twins)>, SlotError> {
    let path = setup.path;
    let mut pages = [[0; PAGE_SIZE]; 2];
    let all = pages.as_flattened_mut();
    let there = usize::try_from(bytes.min(DIRECTORY_AT)).unwrap_or(0);
    if let Some(all) = all.get_mut(..there) {
        medium.load(0, all).map_err(setup.failed("read"))?;
    }
    let found = pages.map(Superblock::parse);
    let sound = found.map(|found| match found {
        Found::Superblock(superblock) => Some(superblock),
        _ => None,
    });
    let twins = sound.map(|sound| sound.map(|superblock| superblock.sequence));
    let newest = sound.into_iter().flatten();
    if let Some(newest) = newest.max_by_key(|superblock| superblock.sequence) {
        return Ok(Some((newest, twins)));
    }
    let version = found.iter().find_map(|found| match found {
        Found::Version(version) => Some(*version),
        _ => None,
    });
    if let Some(version) = version {
        let path = path.into();
        return Err(SlotError::Version { path, version });
    }
    // No longer than this, it holds no page: it was being made, or is about to be.
    let could_be_begun = bytes <= DIRECTORY_AT && !found.contains(&Found::Foreign);
    if could_be_begun {
        Ok(None)
    } else if found.contains(&Found::Damaged) {
        Err(SlotError::Damaged {
            path: path.into(),
            what: "both copies of its superblock are damaged",
        })
    } else {
        Err(SlotError::NotOurs { path: path.into() })
    }
}

/// A file that nothing is known about yet but its superblock, its directory and its log. Also says how
/// many pages of the log were repaired.
fn build(
    medium: Box<dyn Medium>,
    setup: &Setup<'_>,
    superblocks: Superblocks,
    directory: Directory,
) -> Result<(SlotFile, u32), SlotError> {
    let superblock = superblocks.current;
    let (geometry, slots) = (superblock.geometry, superblock.slots);
    let (log, repaired) = VoidLog::open(&*medium, geometry, &superblock.id, slots, setup)?;
    let file = SlotFile {
        _claim: None,
        protocol: Protocol::of(setup.durability, medium.has_cheap_fence()),
        medium,
        path: setup.path.into(),
        id: superblock.id,
        geometry,
        durability: setup.durability,
        slots: AtomicU32::new(slots),
        superblocks: Mutex::new(superblocks),
        directory: Mutex::new(directory),
        empty: RwLock::default(),
        log,
        in_doubt: AtomicBool::new(false),
    };
    file.resize_empty(slots);
    Ok((file, repaired))
}

/// Makes a new file of what is there.
fn create(
    medium: Box<dyn Medium>,
    setup: &Setup<'_>,
    bytes: u64,
    sequence: u64,
    found: OpenedAs,
) -> Result<(SlotFile, Opened), SlotError> {
    let outlives_host = setup.durability == Durability::Host;
    let superblock = Superblock {
        version: VERSION,
        sequence,
        id: new_id(),
        slots: 0,
        geometry: setup.geometry,
        outlives_host,
        boot: if outlives_host {
            [0; 16]
        } else {
            setup.boot()?
        },
    };
    let mut superblocks = Superblocks {
        current: superblock,
        twins: [None; 2],
    };
    let begin = || {
        if bytes < DIRECTORY_AT {
            medium.grow(bytes, DIRECTORY_AT)?;
        }
        superblocks.write(&*medium, superblock)?;
        if bytes > DIRECTORY_AT {
            medium.shrink(DIRECTORY_AT)?;
        }
        medium.grow(DIRECTORY_AT, superblock.geometry.length(0))
    };
    begin_or_full(begin, setup)?;
    let (file, _) = build(medium, setup, superblocks, Directory::default())?;
    file.resize(setup.slots)?;
    Ok((file, Opened { found, repaired: 0 }))
}

fn begin_or_full(
    begin: impl FnOnce() -> io::Result<()>,
    setup: &Setup<'_>,
) -> Result<(), SlotError> {
    begin().map_err(|source| {
        if super::error::no_room(&source) {
            let (path, slots) = (setup.path.into(), setup.slots);
            SlotError::Full {
                path,
                slots,
                source,
            }
        } else {
            failed(setup.path, "make", source)
        }
    })
}

/// Goes on with a file.
fn keep(
    medium: Box<dyn Medium>,
    setup: &Setup<'_>,
    found: Superblock,
    twins: Twins,
    is_too_long: bool,
) -> Result<(SlotFile, Opened), SlotError> {
    let since = medium.mark();
    medium.fence(since).map_err(setup.failed("write back"))?;
    if is_too_long {
        let cut = medium.shrink(found.geometry.length(found.slots));
        cut.map_err(setup.failed("shorten"))?;
    }
    let outlives_host = setup.durability == Durability::Host;
    let superblock = Superblock {
        version: VERSION,
        outlives_host,
        boot: if outlives_host {
            [0; 16]
        } else {
            setup.boot()?
        },
        ..found
    };
    let mut repaired = 0;
    let mut superblocks = Superblocks {
        current: found,
        twins,
    };
    let is_one_sided = twins[0] != twins[1];
    if is_one_sided || superblock != found {
        repaired += u32::from(is_one_sided);
        let written = superblocks.write(&*medium, superblock);
        written.map_err(setup.failed("write the superblock of"))?;
    }
    let read = Directory::read(&*medium, found.geometry, &found.id);
    let (mut directory, one_sided) = read.map_err(setup.failed("read the directory of"))?;
    for pool_slot in one_sided {
        let mended = directory.repair(&*medium, found.geometry, &found.id, pool_slot);
        mended.map_err(setup.failed("repair the directory of"))?;
        repaired += 1;
    }
    let (file, log_repaired) = build(medium, setup, superblocks, directory)?;
    repaired += log_repaired;
    let found = OpenedAs::Kept;
    Ok((file, Opened { found, repaired }))
}
