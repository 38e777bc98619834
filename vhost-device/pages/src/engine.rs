// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The engine: one set of frames, and the guests that share it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use thiserror::Error;

use crate::account::Account;
use crate::frames::{FrameEntry, Frames, OwnerRecord};
use crate::guest::{Guest, GuestConfig, GuestError};
use crate::handle::PAGE_SIZE;
use crate::pool::POOLS_MAX;
use crate::shared::{RESERVE_PER_WORKER, Shared};
use crate::stats::{EngineStats, MemoryReport};
use crate::worker::{Worker, WorkerError};

/// The most workers an engine can have.
pub const WORKERS_MAX: u16 = 256;
/// The most guests attached at one time.
pub const GUESTS_MAX: usize = 1024;
/// The most frames an engine can have: 4 TiB. Leaves room for the reserve in 32 bits.
pub const FRAMES_MAX: u32 = 1 << 30;

/// Owner records beyond one for each frame: a dense pool has one without a frame, and so has, for a
/// moment, the part of a sparse object that a worker is flushing.
const OWNERS_EXTRA: u32 = 1024 * 64 + 256;
const _: () = assert!(OWNERS_EXTRA as usize == GUESTS_MAX * POOLS_MAX + WORKERS_MAX as usize);

/// Where the frames live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Anonymous shared memory; gone when the process is.
    Memfd,
    /// A file that is made, or emptied, and locked: on tmpfs, hugetlbfs or any other file system.
    /// There must be room for it: a page that the file system cannot hold ends the process.
    File(PathBuf),
}

/// What an engine is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Frames for pages, 4 KiB each, 1 to [`FRAMES_MAX`]. A few for each worker come on top.
    pub frames: u32,
    /// Where the frames live.
    pub backing: Backing,
    /// The most workers at one time, 1 to [`WORKERS_MAX`].
    pub workers_max: u16,
}

/// Why an engine cannot be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The number of frames is out of range.
    #[error("Cannot make an engine of {frames} frames: choose 1 to {FRAMES_MAX}")]
    BadFrames {
        /// Frames asked for.
        frames: u32,
    },
    /// The number of workers is out of range.
    #[error("Cannot make an engine for {workers_max} workers: choose 1 to {WORKERS_MAX}")]
    BadWorkers {
        /// Workers asked for.
        workers_max: u16,
    },
    /// The memory could not be had.
    #[error(
        "Cannot map {frames} frames of 4 KiB from {backing:?}: check its room and rights, and that no other engine has it"
    )]
    Memory {
        /// Frames asked for.
        frames: u32,
        /// Where they should live.
        backing: Backing,
        /// What the system said.
        source: std::io::Error,
    },
}

/// One set of frames, and the guests that share it.
#[derive(Debug)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
    guests: Mutex<BTreeMap<String, Arc<Guest>>>,
}

impl Engine {
    /// Makes the frames and their table. Frames take memory when they are first used.
    ///
    /// # Errors
    /// [`EngineError`] if a count is out of range or the memory cannot be had.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a configuration is used once"
    )]
    pub fn new(config: EngineConfig) -> Result<Arc<Self>, EngineError> {
        let EngineConfig {
            frames,
            workers_max,
            ..
        } = config;
        if !(1..=FRAMES_MAX).contains(&frames) {
            return Err(EngineError::BadFrames { frames });
        }
        if !(1..=WORKERS_MAX).contains(&workers_max) {
            return Err(EngineError::BadWorkers { workers_max });
        }
        let path: Option<&Path> = match &config.backing {
            Backing::Memfd => None,
            Backing::File(path) => Some(path),
        };
        let all = frames + u32::from(workers_max) * RESERVE_PER_WORKER;
        let (arena, owned) =
            Frames::new(path, all, all + OWNERS_EXTRA).map_err(|source| EngineError::Memory {
                frames: all,
                backing: config.backing.clone(),
                source,
            })?;
        Ok(Arc::new(Self {
            shared: Arc::new(Shared::new(arena, owned, frames, workers_max)),
            guests: Mutex::default(),
        }))
    }

    /// Lets a guest in, with a promise of `grant_pages` persistent pages.
    ///
    /// # Errors
    /// [`GuestError`] if the name is taken, the grants would exceed the frames, or there are
    /// [`GUESTS_MAX`] guests.
    pub fn attach_guest(&self, config: GuestConfig) -> Result<Arc<Guest>, GuestError> {
        let GuestConfig { name, grant_pages } = config;
        let mut guests = self.guests.lock();
        if guests.contains_key(&name) {
            return Err(GuestError::NameTaken { name });
        }
        if guests.len() >= GUESTS_MAX {
            let guests = guests.len();
            return Err(GuestError::TooMany { name, guests });
        }
        let promised = (self.shared).promise(&mut self.shared.grants.lock(), 0, grant_pages);
        // What can be promised fits in 32 bits.
        let (Ok(()), Ok(grant)) = (promised, u32::try_from(grant_pages)) else {
            return Err(GuestError::Overcommitted {
                name,
                pages: grant_pages,
                pages_max: promised.err().unwrap_or(0),
            });
        };
        let slot = (0..)
            .find(|slot| guests.values().all(|guest| guest.account.slot != *slot))
            .unwrap_or(u32::MAX);
        let account = Account::new(slot, grant, u64::from(self.shared.frames_max));
        let guest = Arc::new(Guest::new(name.clone(), account, &self.shared));
        guests.insert(name, Arc::clone(&guest));
        Ok(guest)
    }

    /// Destroys all pools of a guest and takes its grant back. Returns the pages flushed.
    ///
    /// # Errors
    /// [`GuestError::Unknown`] if no guest has this name.
    pub fn detach_guest(&self, name: &str) -> Result<u64, GuestError> {
        let mut guests = self.guests.lock();
        let Some(guest) = guests.remove(name) else {
            return Err(GuestError::Unknown { name: name.into() });
        };
        let flushed = guest.detach();
        let mut grants = self.shared.grants.lock();
        let taken_back = self.shared.promise(&mut grants, guest.grant_pages(), 0);
        debug_assert!(taken_back.is_ok());
        Ok(flushed)
    }

    /// The guest of this name.
    #[must_use]
    pub fn guest(&self, name: &str) -> Option<Arc<Guest>> {
        self.guests.lock().get(name).cloned()
    }

    /// All guests, by name.
    #[must_use]
    pub fn guests(&self) -> Vec<Arc<Guest>> {
        self.guests.lock().values().cloned().collect()
    }

    /// A new worker: one for each thread that puts and gets.
    ///
    /// # Errors
    /// [`WorkerError`] if `workers_max` of them exist.
    pub fn worker(&self) -> Result<Worker, WorkerError> {
        Worker::new(&self.shared)
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let guests = self.guests();
        let mut stats = EngineStats {
            guests: guests.len() as u64,
            workers: u64::from(self.shared.workers_max)
                - self.shared.idle_workers.lock().len() as u64,
            frames: u64::from(self.shared.frames_max),
            frames_reserve: u64::from(self.shared.workers_max) * u64::from(RESERVE_PER_WORKER),
            frames_ephemeral: self.shared.ephemeral().0,
            granted_pages: self.shared.grants.lock().promised,
            ..EngineStats::default()
        };
        guests
            .iter()
            .for_each(|guest| stats.total.add(&guest.stats().total));
        stats.frames_used = stats.total.frames;
        stats
    }

    /// Memory by use.
    #[must_use]
    pub fn memory(&self) -> MemoryReport {
        let layout = self.shared.frames.mapping().layout();
        let (owners, owner_list) = self.shared.frames.owners_used();
        let mut report = MemoryReport {
            frames_mapped: u64::from(layout.frames) * PAGE_SIZE as u64,
            frame_table: u64::from(layout.frames) * size_of::<FrameEntry>() as u64,
            owners: owners * size_of::<OwnerRecord>() as u64,
            pools: (size_of::<Shared>() + self.shared.pool_table_bytes()) as u64,
            free_lists: (self.shared.free.bytes() + owner_list) as u64,
            ..MemoryReport::default()
        };
        for guest in self.guests() {
            report.pools += guest.own_bytes() as u64;
            for pool in guest.pools() {
                report.frames_used += pool.stats().frames * PAGE_SIZE as u64;
                report.index += pool.index_bytes() as u64;
                report.pools += pool.own_bytes() as u64;
            }
        }
        report
    }
}
