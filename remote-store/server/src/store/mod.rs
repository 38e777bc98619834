// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A store: the engine with the pages, the namespaces in it, and what must not be forgotten.
//!
//! ```text
//! Store ─┬─ Engine         frames, perhaps a PM file; perhaps in files that outlive the process
//!        ├─ State          store id, incarnation, newest epochs: a small file beside the frames
//!        └─ Namespace …    guest, two pools, gate, quota, counters
//! ```
//! Nothing here starts a thread, opens a socket or looks at a clock.

mod counters;
mod error;
mod files;
mod journal;
mod keep;
mod namespace;
mod quota;
mod registry;
mod state;
mod stats;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::{Mutex, RwLock};
use tmem_pages::slots::Durability;
use tmem_pages::{Engine, EngineConfig, Mover, Recovery, Worker};

pub use counters::Totals;
pub(crate) use counters::{Asked, BUCKETS, KINDS, Kind, bucket_bound};
pub use error::{NamespaceError, StoreError};
pub(crate) use journal::Journal;
pub use journal::LogConfig;
pub(crate) use keep::{Keeper, Put};
pub(crate) use namespace::Namespace;
pub(crate) use registry::Registry;
pub use state::Identity;
use state::State;
pub use stats::{NamespaceStats, StoreStats};

use crate::limits::Limits;
use crate::log::Begun;

/// Workers that the engine is made for, whatever the number of shards, which may so differ from one
/// start to the next.
const WORKERS: u16 = 66;
/// The most shards: the mover and whoever looks from outside are workers too.
pub const SHARDS_MAX: u16 = WORKERS - 2;

/// What a store is made of.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Pages that memory has room for.
    pub capacity_pages: u32,
    /// The most shards at one time.
    pub shards_max: u16,
    /// The most namespaces.
    pub namespaces_max: u16,
    /// Quotas by namespace, in pages.
    pub quotas: BTreeMap<String, u64>,
    /// The quota of every other namespace; nothing: all that there is.
    pub default_quota: Option<u64>,
    /// Other namespaces than those with a quota are refused.
    pub only_listed: bool,
    /// Keeps pages and state in files of this folder, so that they outlive the process.
    pub state_dir: Option<PathBuf>,
    /// A file for the pages that memory has no room for.
    pub pm: Option<PmConfig>,
    /// A file that every acknowledged page is in before its put is answered.
    pub log: Option<LogConfig>,
    /// Which store this is, if nothing that was kept says so.
    pub identity: Identity,
    /// Bounds on what clients may do.
    pub limits: Limits,
}

impl StoreConfig {
    /// A store in memory, of one shard, that serves every namespace.
    #[must_use]
    pub fn new(capacity_pages: u32, identity: Identity) -> Self {
        Self {
            capacity_pages,
            shards_max: 1,
            namespaces_max: 64,
            quotas: BTreeMap::new(),
            default_quota: None,
            only_listed: false,
            state_dir: None,
            pm: None,
            log: None,
            identity,
            limits: Limits::default(),
        }
    }
}

/// The PM file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PmConfig {
    /// Where it is.
    pub path: PathBuf,
    /// Pages that it has room for.
    pub slots: u32,
    /// What its pages outlive.
    pub durability: Durability,
}

/// What a store was opened with.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// Which store it is.
    pub identity: Identity,
    /// Every page that was acknowledged before is there: the incarnation is the same.
    pub whole: bool,
    /// What the engine found.
    pub recovery: Recovery,
}

/// One set of pages, and who may have them.
#[derive(Debug)]
pub struct Store {
    engine: Arc<Engine>,
    config: StoreConfig,
    identity: Identity,
    pub(crate) journal: Option<Journal>,
    state: Mutex<State>,
    namespaces: RwLock<BTreeMap<String, Arc<Namespace>>>,
    quotas: Mutex<Quotas>,
    /// Held while grants are changed.
    grants: Mutex<()>,
    /// The worker of whoever looks at the store from outside.
    outside: Mutex<Worker>,
    /// Numbers of shards that are free.
    shards: Mutex<Vec<u16>>,
    /// How busy each shard was lately, in permille.
    loads: Box<[AtomicU32]>,
    registry: Registry,
}

/// Quotas, which may change while the store is open.
#[derive(Debug)]
struct Quotas {
    named: BTreeMap<String, u64>,
    others: Option<u64>,
    only_listed: bool,
}

impl Store {
    /// Opens a store, with what its files hold from before.
    ///
    /// # Errors
    /// [`StoreError`] if a file or the memory cannot be had, or a file is something else.
    pub fn open(config: StoreConfig) -> Result<(Arc<Self>, Opened), StoreError> {
        let (mut state, found) = files::open(&config)?;
        let engine_config = EngineConfig {
            frames: config.capacity_pages,
            workers_max: WORKERS,
            guests_max: config.namespaces_max,
        };
        let (engine, recovery) = Engine::open_tiered(engine_config, found.engine, found.stores)?;
        // Pages that were only in memory are gone with it, so others come without them.
        let mut whole = found.whole && !recovery.fresh;
        let kept = whole;
        if !whole {
            state.begin(config.identity.incarnation);
        }
        let log = match &config.log {
            Some(log) => Some((journal::open(log, &state, whole)?, log.sync)),
            None => None,
        };
        state.set_logged(log.is_some());
        if let (false, Some((log, _))) = (whole, &log) {
            state.become_identity(log.identity);
            whole = log.begun == Begun::Recovered;
        }
        state.save()?;
        let identity = state.identity();
        let opened = Opened {
            identity,
            whole,
            recovery,
        };
        let quotas = Quotas {
            named: config.quotas.clone(),
            others: config.default_quota,
            only_listed: config.only_listed,
        };
        let mut store = Self {
            outside: Mutex::new(engine.worker()?),
            engine,
            identity,
            journal: None,
            state: Mutex::new(state),
            namespaces: RwLock::default(),
            quotas: Mutex::new(quotas),
            grants: Mutex::new(()),
            shards: Mutex::new((0..config.shards_max.min(SHARDS_MAX)).rev().collect()),
            loads: (0..config.shards_max).map(|_| AtomicU32::new(0)).collect(),
            registry: Registry::default(),
            config,
        };
        for guest in store.engine.unclaimed() {
            let name = guest.name().to_owned();
            let attached = store.attach(&name);
            attached.map_err(|source| StoreError::Namespace { name, source })?;
        }
        if let Some((log, sync)) = log {
            store.adopt_log(log, sync, kept)?;
        }
        Ok((Arc::new(store), opened))
    }

    /// Which store this is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Its pages outlive the process.
    #[must_use]
    pub fn recovers(&self) -> bool {
        self.config.state_dir.is_some() || self.journal.is_some()
    }

    /// The engine with the pages.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// What it was opened with.
    #[must_use]
    pub fn config(&self) -> &StoreConfig {
        &self.config
    }

    /// What is forgotten must not come back from the PM file after the host's end.
    pub(crate) fn forgets_durably(&self) -> bool {
        let pm = self.config.pm.as_ref();
        pm.is_some_and(|pm| pm.durability == Durability::Host)
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// What moves pages to the PM file and back, if there is one, and memory into huge pages, for a
    /// thread of the caller's to run.
    ///
    /// # Errors
    /// [`StoreError::Worker`] if somebody has it.
    pub fn mover(&self, waker: Box<dyn Fn() + Send>) -> Result<Mover, StoreError> {
        Ok(self.engine.mover(waker)?)
    }

    /// Every connection says goodbye with this text, and ends; so does every later one.
    pub fn end(&self, text: &str) {
        self.registry.end(text);
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Opens a namespace to a client of this epoch, which makes it if need be.
    pub(crate) fn open_namespace(
        &self,
        name: &str,
        epoch: u64,
        indexes: u32,
    ) -> Result<Arc<Namespace>, NamespaceError> {
        let known = self.namespaces.read().get(name).cloned();
        let namespace = match known {
            Some(namespace) => namespace,
            None => self.attach(name)?,
        };
        if indexes > namespace.indexes() {
            return Err(NamespaceError::TooLarge {
                name: name.into(),
                wanted: indexes,
                most: namespace.indexes(),
            });
        }
        let newer = namespace.open_epoch(epoch, || self.keep_epoch(name, epoch))?;
        if self
            .journal
            .as_ref()
            .is_some_and(|journal| !journal.knows(name))
        {
            self.keep_epoch(name, epoch)?;
        }
        if newer {
            // Those of older epochs find out, and say goodbye.
            self.registry.wake_all();
        }
        Ok(namespace)
    }

    /// Keeps the newest epoch of a namespace wherever it is to be found again.
    fn keep_epoch(&self, name: &str, epoch: u64) -> Result<(), NamespaceError> {
        let mut kept = self.state.lock().set_epoch(name, epoch);
        if let (Ok(()), Some(journal)) = (&kept, &self.journal) {
            kept = journal.keep_epoch(name, epoch).map_err(Into::into);
        }
        kept.map_err(|source| NamespaceError::Unkept {
            name: name.into(),
            source: Box::new(source),
        })
    }

    /// Makes a namespace known.
    fn attach(&self, name: &str) -> Result<Arc<Namespace>, NamespaceError> {
        let mut namespaces = self.namespaces.write();
        if let Some(namespace) = namespaces.get(name) {
            return Ok(Arc::clone(namespace));
        }
        let quota = self.quota_of(name)?;
        let epoch = self.state.lock().epoch(name);
        let namespace = Arc::new(Namespace::attach(
            &self.engine,
            name,
            (epoch, quota, self.config.shards_max.min(SHARDS_MAX)),
            self.config.capacity_pages,
        )?);
        namespaces.insert(name.to_owned(), Arc::clone(&namespace));
        Ok(namespace)
    }

    /// All namespaces, by name.
    pub(crate) fn namespaces(&self) -> Vec<Arc<Namespace>> {
        self.namespaces.read().values().cloned().collect()
    }

    /// Takes the number of a shard.
    pub(crate) fn take_shard(&self) -> Option<u16> {
        self.shards.lock().pop()
    }

    /// Gives the number of a shard back.
    pub(crate) fn give_shard(&self, number: u16) {
        self.set_load(number, 0);
        self.shards.lock().push(number);
    }

    /// Notes how busy a shard was lately.
    pub(crate) fn set_load(&self, shard: u16, permille: u32) {
        if let Some(load) = self.loads.get(usize::from(shard)) {
            load.store(permille, Ordering::Relaxed);
        }
    }
}
