// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Something that stands in for the driver: slow, obvious, and in this process.
//!
//! Programs can be tested with it where there is no guest. The driver itself is compared with it, call by
//! call, by `tmem-pages`.

use crate::abi::{self, Entry, PAGE_SIZE, result};
use crate::driver::Driver;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A device of the imagination, with one interface. Clones are the same.
#[derive(Clone, Debug)]
pub struct Fake(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Pages that pools of either kind may reserve.
    pages: u64,
    pools: BTreeMap<u32, FakePool>,
    last: u32,
    full: bool,
}

#[derive(Debug)]
struct FakePool {
    stat: abi::Stat,
    pages: BTreeMap<u32, Box<[u8; PAGE_SIZE]>>,
    /// What the driver charges: of an ephemeral pool also pages that have vanished.
    charged: BTreeSet<u32>,
}

fn error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

impl Fake {
    /// A device where the pools of each kind may reserve `pages` pages.
    #[must_use]
    pub fn new(pages: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            pages,
            pools: BTreeMap::new(),
            last: 0,
            full: false,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on puts of pages that are not there are refused, or not any more.
    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// Lets a page of an ephemeral pool vanish, as the host may. False: it was not there, or is kept.
    pub fn drop_page(&self, pool: u32, index: u32) -> bool {
        match self.state().pools.get_mut(&pool) {
            Some(pool) if pool.stat.kind == abi::kind::EPHEMERAL => {
                pool.pages.remove(&index).is_some()
            }
            _ => false,
        }
    }

    /// Number of pages that all pools hold.
    #[must_use]
    pub fn held(&self) -> usize {
        self.state()
            .pools
            .values()
            .map(|pool| pool.pages.len())
            .sum()
    }
}

impl State {
    fn reserved(&self, kind: u16) -> u64 {
        self.pools
            .values()
            .filter(|pool| pool.stat.kind == kind)
            .map(|pool| u64::from(pool.stat.limit))
            .sum()
    }
}

impl FakePool {
    /// What the driver refuses as a whole.
    fn check(&self, transfer: &abi::Transfer, entries: &[Entry]) -> io::Result<()> {
        let memory = transfer.op != abi::op::FLUSH;
        let mut pages = 0u64;
        for entry in entries {
            let end = u64::from(entry.index) + u64::from(entry.pages);
            let placed = if memory {
                entry.address % PAGE_SIZE as u64 == 0
            } else {
                entry.address == 0
            };
            if entry.pages == 0 || end > u64::from(self.stat.object_pages) || !placed {
                return Err(error(libc::EINVAL));
            }
            pages += u64::from(entry.pages);
        }
        if memory && pages > u64::from(abi::CALL_PAGES_MAX) {
            return Err(error(libc::E2BIG));
        }
        if transfer.op == abi::op::GET && transfer.flags == 0 {
            return Ok(());
        }
        let mut seen = BTreeSet::new();
        for index in entries.iter().flat_map(indices) {
            if !seen.insert(index) {
                return Err(error(libc::EINVAL));
            }
        }
        let more = seen.difference(&self.charged).count() as u64;
        if transfer.op == abi::op::PUT && self.stat.held + more > u64::from(self.stat.limit) {
            return Err(error(libc::ENOSPC));
        }
        Ok(())
    }

    /// # Safety
    ///
    /// `page` may be read.
    unsafe fn put(&mut self, index: u32, page: *const [u8; PAGE_SIZE], full: bool) -> u8 {
        if full && !self.pages.contains_key(&index) {
            self.uncharge(index);
            self.stat.refused += 1;
            return result::REFUSED_FULL;
        }
        // SAFETY: as for this function.
        self.pages.insert(index, Box::new(unsafe { page.read() }));
        if self.charged.insert(index) {
            self.stat.held += 1;
        }
        self.stat.puts += 1;
        result::OK
    }

    /// # Safety
    ///
    /// `page` may be written.
    unsafe fn get(&mut self, index: u32, page: *mut [u8; PAGE_SIZE], take: bool) -> u8 {
        let Some(held) = self.pages.get(&index) else {
            self.stat.misses += 1;
            return result::MISS;
        };
        // SAFETY: as for this function.
        unsafe { page.write(**held) };
        self.stat.gets += 1;
        if take {
            self.pages.remove(&index);
            self.uncharge(index);
        }
        result::OK
    }

    fn uncharge(&mut self, index: u32) {
        if self.charged.remove(&index) {
            self.stat.held -= 1;
        }
    }
}

fn indices(entry: &Entry) -> impl Iterator<Item = u32> {
    entry.index..entry.index + entry.pages
}

// SAFETY: only what the entries and the results name is read or written, during the call.
unsafe impl Driver for Fake {
    fn info(&self, info: &mut abi::Info) -> io::Result<()> {
        let state = self.state();
        if info.device != abi::ANY_DEVICE && info.device != 0 {
            return Err(error(libc::ENODEV));
        }
        *info = abi::Info {
            device: 0,
            version: abi::VERSION,
            devices: 1,
            features: abi::feature::PERSISTENT | abi::feature::EPHEMERAL | abi::feature::EXCLUSIVE,
            entries_max: abi::ENTRIES_MAX,
            call_pages_max: abi::CALL_PAGES_MAX,
            request_pages: 256,
            queue_pairs: 1,
            pools_max: abi::POOLS_MAX,
            persistent_pages: state.pages,
            persistent_reserved: state.reserved(abi::kind::PERSISTENT),
            ephemeral_pages: state.pages,
            ephemeral_reserved: state.reserved(abi::kind::EPHEMERAL),
        };
        Ok(())
    }

    fn create(&self, create: &mut abi::Create) -> io::Result<()> {
        let mut state = self.state();
        let known = matches!(create.kind, abi::kind::PERSISTENT | abi::kind::EPHEMERAL);
        if !known
            || create.object_pages == 0
            || create.object_pages > abi::OBJECT_PAGES_MAX
            || create.limit > create.object_pages
        {
            return Err(error(libc::EINVAL));
        }
        if state.pools.len() >= abi::POOLS_MAX as usize {
            return Err(error(libc::EMFILE));
        }
        let limit = match create.limit {
            0 => create.object_pages,
            limit => limit,
        };
        if state.reserved(create.kind) + u64::from(limit) > state.pages {
            return Err(error(libc::ENOSPC));
        }
        state.last += 1;
        create.pool = state.last;
        let stat = abi::Stat {
            pool: create.pool,
            kind: create.kind,
            object_pages: create.object_pages,
            limit,
            ..abi::Stat::default()
        };
        let pool = FakePool {
            stat,
            pages: BTreeMap::new(),
            charged: BTreeSet::new(),
        };
        state.pools.insert(create.pool, pool);
        Ok(())
    }

    fn destroy(&self, destroy: &abi::Destroy) -> io::Result<()> {
        match self.state().pools.remove(&destroy.pool) {
            Some(_) => Ok(()),
            None => Err(error(libc::ENOENT)),
        }
    }

    fn stat(&self, stat: &mut abi::Stat) -> io::Result<()> {
        let state = self.state();
        let pool = state
            .pools
            .get(&stat.pool)
            .ok_or_else(|| error(libc::ENOENT))?;
        *stat = pool.stat;
        Ok(())
    }

    unsafe fn transfer(&self, transfer: &abi::Transfer) -> io::Result<u32> {
        let take = transfer.op == abi::op::GET && transfer.flags == abi::flag::EXCLUSIVE;
        let sane = matches!(transfer.op, abi::op::PUT..=abi::op::FLUSH)
            && (transfer.flags == 0 || take)
            && (1..=abi::ENTRIES_MAX).contains(&transfer.entries);
        if !sane {
            return Err(error(libc::EINVAL));
        }
        let mut state = self.state();
        let full = state.full;
        let pool = state
            .pools
            .get_mut(&transfer.pool)
            .ok_or_else(|| error(libc::ENOENT))?;
        let entries = address_of::<Entry>(transfer.entry_array).cast_const();
        // SAFETY: the caller's array has so many.
        let entries = unsafe { std::slice::from_raw_parts(entries, transfer.entries as usize) };
        pool.check(transfer, entries)?;
        let mut results = Vec::new();
        let mut done = 0;
        for entry in entries {
            if transfer.op == abi::op::FLUSH {
                for index in indices(entry) {
                    pool.pages.remove(&index);
                    pool.uncharge(index);
                }
                pool.stat.flushes += u64::from(entry.pages);
                done += entry.pages;
                results.push(result::OK);
                continue;
            }
            for (index, nth) in indices(entry).zip(0..) {
                let page = address_of::<[u8; PAGE_SIZE]>(entry.address).wrapping_add(nth);
                let result = if transfer.op == abi::op::PUT {
                    // SAFETY: the caller lets the memory of a PUT be read.
                    unsafe { pool.put(index, page, full) }
                } else {
                    // SAFETY: the caller lets the memory of a GET be written.
                    unsafe { pool.get(index, page, take) }
                };
                done += u32::from(result == result::OK);
                results.push(result);
            }
        }
        if transfer.result_array != 0 {
            let to = address_of::<u8>(transfer.result_array);
            // SAFETY: the caller's array has a byte for each result.
            unsafe { to.copy_from_nonoverlapping(results.as_ptr(), results.len()) };
        }
        Ok(done)
    }
}

/// The pointer that a caller has made an address of.
fn address_of<T>(address: u64) -> *mut T {
    std::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0))
}
