// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An interface and its pools.

use crate::abi;
use crate::batch::{Batch, Flushes, Gets, Puts};
use crate::driver::{Device, Driver, PATH};
use crate::error::{self, Error, Result};
use std::path::Path;
use std::sync::Arc;

/// What the driver says of a device; see [`abi::Info`].
pub type Info = abi::Info;
/// Counts of a pool; see [`abi::Stat`].
pub type Stat = abi::Stat;

/// What a pool promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A page stays until it is flushed.
    Persistent,
    /// A page may vanish at any time; what a get returns is never stale.
    Ephemeral,
}

/// What a new pool is to be.
#[derive(Clone, Copy, Debug)]
pub struct PoolOptions {
    kind: Kind,
    indices: u32,
    limit: u32,
    device: u32,
}

impl PoolOptions {
    /// A pool whose pages have the indices below `indices`, all of which it may hold, on the first
    /// device.
    #[must_use]
    pub const fn new(kind: Kind, indices: u32) -> Self {
        Self {
            kind,
            indices,
            limit: indices,
            device: abi::ANY_DEVICE,
        }
    }

    /// The most pages that the pool may hold, which is what it reserves.
    #[must_use]
    pub const fn limit(mut self, pages: u32) -> Self {
        self.limit = pages;
        self
    }

    /// Number of the device, as in `/dev/vtmem1`.
    #[must_use]
    pub const fn device(mut self, number: u32) -> Self {
        self.device = number;
        self
    }
}

/// An open file of the driver. Clones are the same interface; its pools end with the last clone and the
/// last pool.
#[derive(Clone)]
pub struct Interface {
    driver: Arc<dyn Driver>,
}

impl std::fmt::Debug for Interface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interface").finish_non_exhaustive()
    }
}

impl Interface {
    /// Opens `/dev/tmem`.
    ///
    /// # Errors
    /// If the driver is not there, or the file may not be opened.
    pub fn open() -> Result<Self> {
        Self::open_at(Path::new(PATH))
    }

    /// Opens a file like `/dev/tmem`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_at(path: &Path) -> Result<Self> {
        Device::open(path).map(Self::with).map_err(Error::NoDevice)
    }

    /// An interface of something that stands in for the driver.
    pub fn with(driver: impl Driver + 'static) -> Self {
        Self {
            driver: Arc::new(driver),
        }
    }

    /// What there is of a device, or of the first.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn info(&self, device: Option<u32>) -> Result<Info> {
        let mut info = Info {
            device: device.unwrap_or(abi::ANY_DEVICE),
            ..Info::default()
        };
        self.driver.info(&mut info).map_err(error::of_call)?;
        Ok(info)
    }

    /// Makes a pool.
    ///
    /// # Errors
    /// [`Error::NoRoom`] if it would reserve too much, [`Error::TooManyPools`].
    pub fn create(&self, options: &PoolOptions) -> Result<Pool> {
        let mut create = abi::Create {
            device: options.device,
            kind: match options.kind {
                Kind::Persistent => abi::kind::PERSISTENT,
                Kind::Ephemeral => abi::kind::EPHEMERAL,
            },
            object_pages: options.indices,
            limit: options.limit,
            ..abi::Create::default()
        };
        self.driver.create(&mut create).map_err(error::of_create)?;
        Ok(Pool {
            interface: self.clone(),
            handle: create.pool,
        })
    }
}

/// A pool. Dropping it ends its pages. Threads may share it; two that change the same page at the same
/// time get [`Error::Busy`].
#[derive(Debug)]
pub struct Pool {
    interface: Interface,
    handle: u32,
}

impl Pool {
    /// Puts all pages of the batch. Returns the number of those that the host has taken;
    /// [`Puts::results`] tells them apart.
    ///
    /// # Errors
    /// [`Error::NoRoom`] beyond the pool's limit, [`Error::Busy`], [`Error::Invalid`]. Of a batch that
    /// takes several calls the earlier ones may have been carried out: their results are there.
    pub fn put(&self, puts: &mut Puts<'_>) -> Result<u32> {
        // SAFETY: the batch borrows the memory, which is only read.
        unsafe { self.transfer(abi::op::PUT, 0, &mut puts.batch) }
    }

    /// Gets all pages of the batch. Returns the number of those that are there.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn get(&self, gets: &mut Gets<'_>) -> Result<u32> {
        // SAFETY: the batch borrows the memory for itself.
        unsafe { self.transfer(abi::op::GET, 0, &mut gets.batch) }
    }

    /// As [`get`](Self::get), and lets the host forget each page that it has delivered.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn take(&self, gets: &mut Gets<'_>) -> Result<u32> {
        // SAFETY: the batch borrows the memory for itself.
        unsafe { self.transfer(abi::op::GET, abi::flag::EXCLUSIVE, &mut gets.batch) }
    }

    /// Lets the host forget all pages of the batch. Returns their number.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn flush(&self, flushes: &mut Flushes) -> Result<u32> {
        // SAFETY: there is no memory.
        unsafe { self.transfer(abi::op::FLUSH, 0, &mut flushes.batch) }
    }

    /// What the driver counts.
    ///
    /// # Errors
    /// If the system fails.
    pub fn stat(&self) -> Result<Stat> {
        let mut stat = Stat {
            pool: self.handle,
            ..Stat::default()
        };
        self.interface
            .driver
            .stat(&mut stat)
            .map_err(error::of_call)?;
        Ok(stat)
    }

    /// The pool's number among those of its interface.
    #[must_use]
    pub fn handle(&self) -> u32 {
        self.handle
    }

    /// # Safety
    ///
    /// The memory of the entries may be read, and for a GET written by nobody else.
    unsafe fn transfer(&self, op: u8, flags: u8, batch: &mut Batch) -> Result<u32> {
        let memory = op != abi::op::FLUSH;
        batch.results.clear();
        let mut done = 0u32;
        let mut results = std::mem::take(&mut batch.results);
        let mut outcome = Ok(());
        for entries in batch.calls(memory) {
            let from = results.len();
            let bytes = if memory {
                entries.iter().map(|entry| entry.pages as usize).sum()
            } else {
                entries.len()
            };
            // A run that no call takes is refused before a result is written.
            results.resize(from + bytes.min(RESULTS_MAX), abi::result::LOST);
            let transfer = abi::Transfer {
                pool: self.handle,
                op,
                flags,
                entries: u32::try_from(entries.len()).unwrap_or(u32::MAX),
                entry_array: entries.as_ptr().expose_provenance() as u64,
                result_array: results[from..].as_mut_ptr().expose_provenance() as u64,
                ..abi::Transfer::default()
            };
            // SAFETY: both arrays have these lengths, and the caller answers for the memory.
            match unsafe { self.interface.driver.transfer(&transfer) } {
                Ok(pages) => done = done.saturating_add(pages),
                Err(source) => {
                    results.truncate(from);
                    outcome = Err(error::of_call(source));
                    break;
                }
            }
        }
        batch.results = results;
        outcome.map(|()| done)
    }
}

/// The most results of one call.
const RESULTS_MAX: usize = abi::CALL_PAGES_MAX as usize;

impl Drop for Pool {
    fn drop(&mut self) {
        let destroy = abi::Destroy {
            pool: self.handle,
            reserved: 0,
        };
        // A device that is gone has no pools.
        let _ = self.interface.driver.destroy(&destroy);
    }
}
