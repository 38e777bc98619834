// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest: its grant, its boot epoch, its pools.

mod error;

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

pub use error::GuestError;

use crate::account::Account;
use crate::handle::{Epoch, PoolId};
use crate::index::{Index, IndexCounts, Slots};
use crate::limbo::{End, Unresolved};
use crate::pool::{Layout, POOLS_MAX, Pool, PoolError, PoolSpec, dense_pages_max};
use crate::records::{GuestRecord, State};
use crate::shared::{Grants, Shared};
use crate::stats::{GuestStats, PoolStats};

/// What a guest is known by, and what it is promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestConfig {
    /// The guest's name, unique in the engine, at most [`GUEST_NAME_MAX`](crate::GUEST_NAME_MAX) bytes long.
    pub name: String,
    /// Persistent pages that the guest may hold; a put within this never fails for lack of memory.
    pub grant_pages: u64,
}

/// What the engine found when a guest named its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochOutcome {
    /// The epoch is the one that was known: all pools are as they were.
    Same {
        /// The highest ticket seen in this epoch; 0 if none.
        ticket_high: u64,
    },
    /// The guest booted anew, or for the first time: what it held before is gone.
    New {
        /// Pools of the last epoch, destroyed now.
        pools_destroyed: u64,
        /// Pages that were in them.
        pages_flushed: u64,
    },
}

/// What changes seldom, and one step at a time.
#[derive(Debug, Default)]
struct Control {
    detached: bool,
    /// Counts of the pools that are no more.
    past: PoolStats,
    /// The highest ticket that they saw in this epoch.
    past_ticket: u64,
}

/// A guest: its grant, its epoch, its pools. Outlives every connection.
#[derive(Debug)]
pub struct Guest {
    name: String,
    pub(crate) account: Arc<Account>,
    pub(crate) shared: Arc<Shared>,
    control: Mutex<Control>,
    /// Written with `control` held, read for each request.
    pools: RwLock<Vec<(PoolId, Arc<Pool>)>>,
}

impl Guest {
    /// A guest without pools.
    pub(crate) fn new(name: String, account: Account, shared: &Arc<Shared>) -> Self {
        Self {
            name,
            account: shared.know(account),
            shared: Arc::clone(shared),
            control: Mutex::default(),
            pools: RwLock::default(),
        }
    }

    /// The guest's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Persistent pages promised.
    #[must_use]
    pub fn grant_pages(&self) -> u64 {
        self.account.grant_and_use().0
    }

    /// Changes the promise.
    ///
    /// # Errors
    /// [`GuestError`] if the grants would exceed the frames, or the guest holds more pages already;
    /// the promise is then as it was.
    pub fn set_grant(&self, grant_pages: u64) -> Result<(), GuestError> {
        let mut grants = self.shared.grants.lock();
        if self.control.lock().detached {
            return Err(self.unknown());
        }
        let before = self.grant_pages();
        let overcommitted = |pages_max| GuestError::Overcommitted {
            name: self.name.clone(),
            pages: grant_pages,
            pages_max,
        };
        self.shared
            .promise(&mut grants, before, grant_pages)
            .map_err(overcommitted)?;
        // The sum of all grants fits in 32 bits, so each does.
        let grant = u32::try_from(grant_pages).unwrap_or(u32::MAX);
        if let Err(held) = self.account.set_grant(grant) {
            // What was promised before can be promised again.
            let restored = self.shared.promise(&mut grants, grant_pages, before);
            debug_assert!(restored.is_ok());
            return Err(GuestError::GrantBelowUse {
                name: self.name.clone(),
                pages: grant_pages,
                held,
            });
        }
        self.record().set_grant(grant);
        Ok(())
    }

    /// Makes a new promise to a guest that a dead process knew. Called with the sum of grants locked.
    pub(crate) fn renew(&self, grants: &mut Grants, grant_pages: u64) -> Result<(), GuestError> {
        let (before, held) = self.account.grant_and_use();
        let name = || self.name.clone();
        // Pages that were put back may exceed the grant, which is no reason to refuse it again.
        if held > grant_pages && grant_pages < before {
            return Err(GuestError::GrantBelowUse {
                name: name(),
                pages: grant_pages,
                held,
            });
        }
        let promised = self.shared.promise(grants, before, grant_pages);
        let (Ok(()), Ok(grant)) = (promised, u32::try_from(grant_pages)) else {
            return Err(GuestError::Overcommitted {
                name: name(),
                pages: grant_pages,
                pages_max: promised.err().unwrap_or(0),
            });
        };
        self.account.renew_grant(grant);
        self.record().set_grant(grant);
        Ok(())
    }

    /// Begins or continues an epoch: a new one destroys all pools of the last.
    pub fn begin_epoch(&self, epoch: Epoch) -> EpochOutcome {
        let mut control = self.control.lock();
        if control.detached {
            // It has no pools, and its record may be another's.
            return EpochOutcome::New {
                pools_destroyed: 0,
                pages_flushed: 0,
            };
        }
        if self.record().epoch() == Some(epoch) {
            let ticket_high = self.ticket_high_of(&control);
            return EpochOutcome::Same { ticket_high };
        }
        // All pools end with this, though each has to be cleared yet.
        self.record().begin_epoch(epoch);
        let (pools_destroyed, pages_flushed) = self.destroy_all(&mut control);
        control.past_ticket = 0;
        EpochOutcome::New {
            pools_destroyed,
            pages_flushed,
        }
    }

    /// The epoch that is known.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        let control = self.control.lock();
        let record = (!control.detached).then(|| self.record());
        record.and_then(GuestRecord::epoch)
    }

    /// The highest ticket seen in this epoch; 0 if none.
    #[must_use]
    pub fn ticket_high(&self) -> u64 {
        self.ticket_high_of(&self.control.lock())
    }

    fn ticket_high_of(&self, control: &Control) -> u64 {
        let pools = self.pools.read();
        let highs = pools.iter().map(|(_, pool)| pool.counters.ticket_high());
        highs.fold(control.past_ticket, u64::max)
    }

    /// Makes a pool; the same again is no error and changes nothing.
    ///
    /// # Errors
    /// [`PoolError`] if another pool has this id, there are too many, it is too large, or the guest
    /// is detached. Nothing has changed then.
    pub fn create_pool(&self, id: PoolId, spec: PoolSpec) -> Result<Arc<Pool>, PoolError> {
        let control = self.control.lock();
        if control.detached {
            return Err(PoolError::Detached { id: id.0 });
        }
        if let Some(pool) = self.pool(id) {
            let existing = pool.spec();
            return if existing == spec {
                Ok(pool)
            } else {
                Err(PoolError::Exists { id: id.0, existing })
            };
        }
        let pools = self.pools();
        if pools.len() >= POOLS_MAX {
            return Err(PoolError::TooMany { id: id.0 });
        }
        if let Layout::Dense { pages } = spec.layout {
            let dense: u64 = pools.iter().map(|pool| dense_pages(pool.spec())).sum();
            let pages_max = dense_pages_max(self.shared.frames_max).saturating_sub(dense);
            if pages == 0 || u64::from(pages) > pages_max {
                return Err(PoolError::BadSize {
                    id: id.0,
                    pages,
                    pages_max,
                });
            }
        }
        let Some(slot) = self.free_slot() else {
            return Err(PoolError::TooMany { id: id.0 });
        };
        let shared = &self.shared;
        let guest = self.account.slot;
        let index = Index::new(spec.layout, Slots { guest, pool: slot }, &shared.frames);
        // From here on the pool is found after a kill.
        let record = &shared.frames.mapping().pools()[slot as usize];
        record.begin(id, spec, self.record().serial());
        let found = IndexCounts::default();
        let pool = Arc::new(Pool::new(slot, index, &found, &self.account, shared));
        self.add_pool(&pool);
        Ok(pool)
    }

    /// A pool slot of this guest that stands for nothing.
    fn free_slot(&self) -> Option<u32> {
        let first = self.account.slot * tmem_abi::POOLS_MAX;
        let records = &self.shared.frames.mapping().pools()[first as usize..];
        let mut own = (first..first + tmem_abi::POOLS_MAX).zip(records);
        own.find(|(_, record)| record.state() == State::Free)
            .map(|(slot, _)| slot)
    }

    /// Adds a pool whose record is live.
    pub(crate) fn add_pool(&self, pool: &Arc<Pool>) {
        self.shared.add_pool(pool);
        self.pools.write().push((pool.id(), Arc::clone(pool)));
    }

    /// The requests that had taken pages when the last process died, by ring and place in it.
    /// Whether they were answered is for the caller to find out and to
    /// [`resolve`](Self::resolve).
    #[must_use]
    pub fn unresolved(&self) -> Vec<(u32, u16)> {
        let left = self.shared.limbo.unresolved(self.account.slot);
        left.iter().map(|left| (left.ring, left.position)).collect()
    }

    /// Ends what a dead process left of a ring. If the ring says that the request was `used`, its
    /// pages are forgotten; else they are put back, but those of which something newer came. Must
    /// come before the ring runs again. Returns the pages that the request had taken.
    pub fn resolve(&self, ring: u32, used: bool) -> u64 {
        let end = if used { End::Forget } else { End::PutBack };
        self.resolve_each(end, |left| left.ring == ring)
    }

    fn resolve_each(&self, end: End, which: impl Fn(&Unresolved) -> bool) -> u64 {
        let left = self.shared.limbo.unresolved(self.account.slot);
        let chosen = left.iter().filter(|left| which(left));
        chosen.map(|left| self.shared.resolve(left, end)).sum()
    }

    fn record(&self) -> &GuestRecord {
        &self.shared.frames.mapping().guests()[self.account.slot as usize]
    }

    /// The pool of this id. Cheap: meant to be called for each request.
    #[must_use]
    pub fn pool(&self, id: PoolId) -> Option<Arc<Pool>> {
        let pools = self.pools.read();
        let (_, pool) = pools.iter().find(|(known, _)| *known == id)?;
        Some(Arc::clone(pool))
    }

    /// Flushes and removes a pool. Returns the pages flushed, or nothing if there is no such pool.
    pub fn destroy_pool(&self, id: PoolId) -> Option<u64> {
        let mut control = self.control.lock();
        let pool = {
            let mut pools = self.pools.write();
            let at = pools.iter().position(|(known, _)| *known == id)?;
            pools.swap_remove(at).1
        };
        Some(bury(&mut control, &pool))
    }

    /// All pools, by id.
    #[must_use]
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        let mut pools: Vec<_> = (self.pools.read().iter())
            .map(|(_, pool)| Arc::clone(pool))
            .collect();
        pools.sort_by_key(|pool| pool.id());
        pools
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> GuestStats {
        let control = self.control.lock();
        let pools = self.pools();
        let mut total = control.past;
        pools.iter().for_each(|pool| total.add(&pool.stats()));
        let (grant_pages, persistent_pages) = self.account.grant_and_use();
        GuestStats {
            grant_pages,
            persistent_pages,
            ephemeral_pages: self.account.ephemeral_pages(),
            pools: pools.len() as u64,
            total,
            frozen: self.is_frozen(),
        }
    }

    /// Refuses puts from now on; gets and flushes work. A put that has begun may still be stored.
    pub fn freeze(&self) {
        self.set_frozen(true);
    }

    /// Takes puts again.
    pub fn thaw(&self) {
        self.set_frozen(false);
    }

    fn set_frozen(&self, frozen: bool) {
        let control = self.control.lock();
        self.account.set_frozen(frozen);
        // The record of a guest that is gone may be another's.
        if !control.detached {
            self.record().set_frozen(frozen);
        }
    }

    /// Puts are refused at present.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.account.is_frozen()
    }

    /// Destroys all pools and takes no new ones. Returns the pages flushed.
    pub(crate) fn detach(&self) -> u64 {
        let mut control = self.control.lock();
        control.detached = true;
        self.record().end();
        let flushed = self.destroy_all(&mut control).1;
        self.resolve_each(End::Forget, |_| true);
        self.shared.drop_policy(self.account.slot);
        self.shared.frames.mapping().limits()[self.account.slot as usize].clear();
        self.record().clear();
        flushed
    }

    fn destroy_all(&self, control: &mut Control) -> (u64, u64) {
        let pools = std::mem::take(&mut *self.pools.write());
        let flushed = pools.iter().map(|(_, pool)| bury(control, pool)).sum();
        (pools.len() as u64, flushed)
    }

    pub(crate) fn unknown(&self) -> GuestError {
        GuestError::Unknown {
            name: self.name.clone(),
        }
    }

    /// Bytes of the guest and its list of pools.
    pub(crate) fn own_bytes(&self) -> usize {
        let pools = self.pools.read().capacity() * size_of::<(PoolId, Arc<Pool>)>();
        size_of::<Self>() + size_of::<Account>() + self.name.capacity() + pools
    }
}

fn dense_pages(spec: PoolSpec) -> u64 {
    match spec.layout {
        Layout::Dense { pages } => u64::from(pages),
        Layout::Sparse => 0,
    }
}

/// Destroys a pool that is no longer in the list, and keeps its counts.
fn bury(control: &mut Control, pool: &Pool) -> u64 {
    let flushed = pool.destroy();
    control.past.add(&PoolStats {
        // A put that is still being counted must not leave a page behind that is gone.
        pages: 0,
        same_filled: 0,
        frames: 0,
        pm: 0,
        remote: 0,
        ..pool.stats()
    });
    control.past_ticket = control.past_ticket.max(pool.counters.ticket_high());
    flushed
}
