// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A namespace: what one client keeps here. To the engine it is a guest with two pools.
//!
//! Its *gate* holds the newest epoch that a client came with. Requests are served with the gate held
//! open, in batches; a client with a newer epoch shuts it first, so that when it is welcomed, no
//! request of an older client is under way, and none is let in any more.
//!
//! Its quota is the most pages of the persistent pool. The engine's grant is a promise, and follows
//! the pages that are there in strides: what one namespace does not use, others can.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{RwLock, RwLockReadGuard};
use tmem_pages::{Engine, Epoch, Guest, GuestConfig, Layout, Pool, PoolId, PoolKind, PoolSpec};
use tmem_remote_protocol::pool;

use super::counters::{Stripe, Totals, sum};
use super::error::NamespaceError;

/// Indexes of a persistent pool are below this wherever the engine is large enough for it.
const INDEXES_MAX: u32 = 1 << 28;
/// The engine's floor for them.
const INDEXES_FLOOR: u32 = 1 << 24;
/// The engine's guests have boots; a namespace has one for life.
const EPOCH: Epoch = Epoch([0x6e; 16]);

/// Indexes that a persistent pool of an engine with so many frames has.
pub(crate) fn indexes(frames: u32) -> u32 {
    frames.saturating_mul(8).clamp(INDEXES_FLOOR, INDEXES_MAX)
}

/// What one client keeps here.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
    pub(crate) guest: Arc<Guest>,
    persistent: Arc<Pool>,
    ephemeral: Arc<Pool>,
    /// The newest epoch.
    gate: RwLock<u64>,
    /// The same, for those who only want to know.
    newest: AtomicU64,
    /// In pages.
    quota: AtomicU64,
    /// The grant is above the quota, which was lowered.
    over_quota: AtomicBool,
    /// Its number in the log, once it was needed.
    number_in_log: OnceLock<u32>,
    /// By shard.
    stripes: Box<[Stripe]>,
    connections: AtomicU32,
}

impl Namespace {
    /// Attaches the namespace's guest to the engine, with whatever it holds there.
    pub(crate) fn attach(
        engine: &Engine,
        name: &str,
        (epoch, quota, shards): (u64, u64, u16),
        frames: u32,
    ) -> Result<Self, NamespaceError> {
        let found = engine.unclaimed();
        let found = found.iter().find(|guest| guest.name() == name);
        let grant_pages = found.map_or(0, |guest| {
            guest.grant_pages().max(guest.stats().persistent_pages)
        });
        let config = GuestConfig {
            name: name.into(),
            grant_pages,
        };
        let failed = |source| NamespaceError::Guest {
            name: name.into(),
            source,
        };
        let guest = engine.attach_guest(config).map_err(failed)?;
        guest.begin_epoch(EPOCH);
        let guest_grant = guest.grant_pages();
        let dense = Layout::Dense {
            pages: indexes(frames),
        };
        let persistent = open_pool(&guest, pool::PERSISTENT, PoolKind::Persistent, dense)?;
        let ephemeral = open_pool(&guest, pool::EPHEMERAL, PoolKind::Ephemeral, Layout::Sparse)?;
        Ok(Self {
            name: name.into(),
            guest,
            persistent,
            ephemeral,
            gate: RwLock::new(epoch),
            newest: AtomicU64::new(epoch),
            quota: AtomicU64::new(quota),
            over_quota: AtomicBool::new(guest_grant > quota),
            number_in_log: OnceLock::new(),
            stripes: (0..shards).map(|_| Stripe::default()).collect(),
            connections: AtomicU32::new(0),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The pool of this number on the wire.
    #[inline]
    pub(crate) fn pool(&self, number: u32) -> Option<&Pool> {
        match number {
            pool::PERSISTENT => Some(&self.persistent),
            pool::EPHEMERAL => Some(&self.ephemeral),
            _ => None,
        }
    }

    /// Indexes that the persistent pool has.
    pub(crate) fn indexes(&self) -> u32 {
        match self.persistent.spec().layout {
            Layout::Dense { pages } => pages,
            Layout::Sparse => u32::MAX,
        }
    }

    /// Lets in requests of clients with this epoch for as long as the answer is held; nothing if a
    /// newer client was here.
    #[inline]
    pub(crate) fn enter(&self, epoch: u64) -> Result<RwLockReadGuard<'_, u64>, u64> {
        let newest = self.gate.read();
        if *newest == epoch {
            Ok(newest)
        } else {
            Err(*newest)
        }
    }

    /// Makes `epoch` the newest, unless a newer one came. One that is newer, which is said, is kept by
    /// `keep` before.
    pub(crate) fn open_epoch(
        &self,
        epoch: u64,
        keep: impl FnOnce() -> Result<(), NamespaceError>,
    ) -> Result<bool, NamespaceError> {
        let mut newest = self.gate.write();
        if epoch < *newest {
            return Err(NamespaceError::Fenced {
                name: self.name.clone(),
                epoch,
                newest: *newest,
            });
        }
        let newer = epoch > *newest;
        if newer {
            keep()?;
            *newest = epoch;
            self.newest.store(epoch, Ordering::Relaxed);
        }
        Ok(newer)
    }

    /// The newest epoch.
    #[inline]
    pub(crate) fn newest(&self) -> u64 {
        self.newest.load(Ordering::Relaxed)
    }

    pub(crate) fn quota(&self) -> u64 {
        self.quota.load(Ordering::Relaxed)
    }

    pub(crate) fn set_quota(&self, pages: u64) {
        self.quota.store(pages, Ordering::Relaxed);
    }

    /// The grant has to come down.
    #[inline]
    pub(crate) fn is_over_quota(&self) -> bool {
        self.over_quota.load(Ordering::Relaxed)
    }

    pub(crate) fn set_over_quota(&self, over: bool) {
        self.over_quota.store(over, Ordering::Relaxed);
    }

    /// Its number in the log.
    #[inline]
    pub(super) fn number_in_log(&self, find: impl FnOnce() -> u32) -> u32 {
        *self.number_in_log.get_or_init(find)
    }

    /// The counters of a shard.
    #[inline]
    pub(crate) fn stripe(&self, shard: u16) -> &Stripe {
        // Shards are numbered below what the stripes were made for.
        &self.stripes[usize::from(shard)]
    }

    /// The sum of all shards' counters.
    pub(crate) fn totals(&self) -> Totals {
        sum(&self.stripes)
    }

    /// Connections of this namespace; changed by `connect` and `disconnect`.
    pub(crate) fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn connect(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn disconnect(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Makes a pool, or takes the one that is there.
fn open_pool(
    guest: &Guest,
    number: u32,
    kind: PoolKind,
    layout: Layout,
) -> Result<Arc<Pool>, NamespaceError> {
    let id = PoolId(number);
    // One that was found may have as many indexes as another capacity allowed.
    if let Some(pool) = guest.pool(id)
        && pool.spec().kind == kind
    {
        return Ok(pool);
    }
    let created = guest.create_pool(id, PoolSpec { kind, layout });
    created.map_err(|source| NamespaceError::Pool {
        name: guest.name().into(),
        source,
    })
}
