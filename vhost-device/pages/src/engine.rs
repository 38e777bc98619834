// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The engine: one set of frames, and the guests that share it.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::account::Account;
use crate::dram::Watermarks;
use crate::error::EngineError;
use crate::files::{Claim, EngineFiles};
use crate::frames::{FrameEntry, OwnerRecord};
use crate::guest::{Guest, GuestConfig, GuestError};
use crate::handle::PAGE_SIZE;
use crate::layout::{Counts, Found, MapLayout, RESERVE_PER_WORKER, read_header};
use crate::limbo::Limbo;
use crate::pool::Pool;
use crate::records::{GUEST_NAME_MAX, State};
use crate::recover::{self, Recovery};
use crate::shared::Shared;
use crate::slot_table::SlotState;
use crate::slots::SlotError;
use crate::stats::{EngineStats, MemoryReport};
use crate::sys::Mapping;
use crate::tier::{LOWER, Lower, LowerTier, Mover, SlotStore, Stores, Tier, TierStats};
use crate::worker::{Worker, WorkerError};

/// The most workers an engine can have.
pub const WORKERS_MAX: u16 = 250;
/// The most guests an engine can have.
pub const GUESTS_MAX: usize = 1024;
/// The most frames an engine can have: 4 TiB. Leaves room for the reserve in 32 bits.
pub const FRAMES_MAX: u32 = 1 << 30;

/// What an engine is made of. Files that were made for one configuration serve no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Frames for pages, 4 KiB each, 1 to [`FRAMES_MAX`]. Some for each worker come on top.
    pub frames: u32,
    /// The most workers at one time, 1 to [`WORKERS_MAX`].
    pub workers_max: u16,
    /// The most guests at one time, 1 to [`GUESTS_MAX`]. Each takes address space for its dense
    /// pools' index: 8 GiB, or for engines above 8 GiB as much as their frames.
    pub guests_max: u16,
}

/// The lower tiers of a map: those that it speaks of, with the stores that it speaks of, and new ones.
fn bind(mapping: &Mapping, stores: &Stores) -> Result<[Option<LowerTier>; LOWER], EngineError> {
    let mut bound = [None, None];
    for (lower, store) in Lower::ALL.into_iter().zip([&stores.pm, &stores.remote]) {
        let tier = lower.tier();
        let record = &mapping.tiers()[tier as usize];
        let table = mapping.slots(lower);
        let in_use = |slot| table.state(slot) != SlotState::Free;
        let Some(store) = store else {
            if (0..record.high()).any(in_use) {
                return Err(EngineError::StoreMissing { tier });
            }
            continue;
        };
        if record.store() != Some(store.id()) {
            if (0..record.high()).any(in_use) {
                return Err(EngineError::OtherStore { tier });
            }
            record.bind(store.id());
            outnumber(mapping, &**store);
        }
        record.raise_high(store.slots());
        let limit = record.limit().unwrap_or_else(|| store.slots());
        bound[lower.number()] = Some(LowerTier::new(lower, Arc::clone(store), limit));
    }
    Ok(bound)
}

/// Lets pools that are made from here on have higher serials than those that a store has seen, whose
/// pages are in it perhaps.
fn outnumber(mapping: &Mapping, store: &dyn SlotStore) {
    if store.outlives_the_map() {
        for (slot, record) in (0..).zip(mapping.pools()) {
            record.raise_serial(store.last_serial(slot).unwrap_or(0));
        }
    }
}

/// What is in a PM file when its map is new: taken over if that is wanted, forgotten if not. If it was
/// taken over, says how many pages were damaged.
fn import(
    mapping: &Mapping,
    stores: &Stores,
    lower: &[Option<LowerTier>; LOWER],
) -> Result<Option<u64>, EngineError> {
    let mut kept = None;
    for tier in lower.iter().flatten() {
        let pools = tier.store.pools();
        if stores.keep_over_reboot && tier.lower == Lower::Pm && !pools.is_empty() {
            kept = Some(recover::import(mapping, tier)?);
            continue;
        }
        for (slot, _) in pools {
            let failed = |source: SlotError| EngineError::Store {
                tier: tier.lower.tier(),
                source,
            };
            tier.store.drop_pool(slot).map_err(failed)?;
        }
    }
    Ok(kept)
}

/// One set of frames, and the guests that share it.
#[derive(Debug)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
    guests: Mutex<Guests>,
}

/// Guests, by name.
#[derive(Debug, Default)]
struct Guests {
    attached: BTreeMap<String, Arc<Guest>>,
    /// Those that were found, and not attached since.
    unclaimed: BTreeMap<String, Arc<Guest>>,
}

impl Guests {
    fn all(&self) -> impl Iterator<Item = &Arc<Guest>> {
        self.attached.values().chain(self.unclaimed.values())
    }
}

impl Engine {
    /// An engine in anonymous shared memory, which nobody else has: it ends with this process.
    ///
    /// # Errors
    /// As for [`Engine::open`].
    pub fn new(config: EngineConfig) -> Result<Arc<Self>, EngineError> {
        Ok(Self::open(config, EngineFiles::anonymous()?)?.0)
    }

    /// Makes an engine in empty files, or goes on with the one that a dead process left in them.
    /// Frames take memory when they are first used.
    ///
    /// # Errors
    /// [`EngineError`] if a count is out of range, the memory cannot be had, or the files are
    /// something else, of another version, made for other counts, or used by a live process.
    pub fn open(
        config: EngineConfig,
        files: EngineFiles,
    ) -> Result<(Arc<Self>, Recovery), EngineError> {
        Self::open_tiered(config, files, Stores::default())
    }

    /// As [`open`](Self::open), with tiers below DRAM. A map that speaks of a store's slots goes on
    /// with that store alone.
    ///
    /// # Errors
    /// As for [`open`](Self::open), and [`EngineError`] if a store is missing, another one, or
    /// unreadable.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the stores are this engine's from here on"
    )]
    pub fn open_tiered(
        config: EngineConfig,
        files: EngineFiles,
        stores: Stores,
    ) -> Result<(Arc<Self>, Recovery), EngineError> {
        let counts = Counts::new(&config)?;
        let claim = Claim::new(&files.map)?;
        let (layout, fresh) = match read_header(files.map.as_fd())? {
            Found::Empty => {
                let layout = MapLayout::new(counts).ok_or(EngineError::TooLarge {
                    frames: counts.frames,
                    guests_max: counts.guests,
                })?;
                files.make(&layout)?;
                (layout, true)
            }
            Found::Map(layout) => {
                counts.compare(&layout.counts)?;
                files.check_frames(&layout)?;
                (layout, false)
            }
        };
        let memory = |source| EngineError::Memory {
            frames: counts.all_frames(),
            guests_max: counts.guests,
            source,
        };
        let huge = files.huge_block()?;
        let mapping = Mapping::new(files.map, files.frames, layout, huge).map_err(memory)?;
        let lower = bind(&mapping, &stores)?;
        let kept = if fresh {
            import(&mapping, &stores, &lower)?
        } else {
            None
        };
        let found = if fresh && kept.is_none() {
            recover::fresh(mapping)
        } else {
            recover::recover(mapping, &lower).map_err(memory)?
        };
        let mut report = found.report;
        report.damaged += kept.unwrap_or(0);
        Ok((Arc::new(Self::with(found, lower, claim)), report))
    }

    /// The engine of what was found.
    fn with(found: recover::Found, lower: [Option<LowerTier>; LOWER], claim: Claim) -> Self {
        let recover::Found {
            frames,
            owned,
            guests,
            pools,
            unresolved,
            ..
        } = found;
        let limbo = Limbo::new(frames.mapping().layout().journals, unresolved);
        let shared = Arc::new(Shared::new(frames, owned, limbo, lower, claim));
        if let Some(limit) = shared.frames.mapping().tiers()[Tier::Dram as usize].limit() {
            shared.set_dram_limit(limit.clamp(1, shared.frames_max));
        }
        let mut by_slot = BTreeMap::new();
        for slot in guests {
            let record = &shared.frames.mapping().guests()[slot as usize];
            // No grant exceeded the frames, whose number has not changed.
            let grant = u32::try_from(record.grant()).unwrap_or(u32::MAX);
            shared.grants.lock().promised += u64::from(grant);
            let account = Account::new(slot, grant, u64::from(shared.frames_max));
            account.set_frozen(record.is_frozen());
            shared.recall_limits(&account);
            let name = record.name().unwrap_or_default();
            by_slot.insert(slot, Guest::new(name, account, &shared));
        }
        for pool in pools {
            let Some(guest) = by_slot.get(&(pool.slot / tmem_abi::POOLS_MAX)) else {
                continue;
            };
            let stored: u64 = pool.counts.stored.iter().sum();
            let framed = pool.counts.pages - pool.counts.same_filled - stored;
            shared.enter_dram(&guest.account, framed);
            if pool.is_ephemeral() {
                (guest.account).add_ephemeral(framed, pool.counts.same_filled);
                shared.add_ephemeral(framed);
            } else {
                guest.account.add_persistent(pool.counts.pages);
            }
            let pool = Pool::new(pool.slot, pool.index, &pool.counts, &guest.account, &shared);
            guest.add_pool(&Arc::new(pool));
        }
        shared.limit_ephemeral(&shared.grants.lock());
        let unclaimed = by_slot.into_values();
        Self {
            guests: Mutex::new(Guests {
                attached: BTreeMap::new(),
                unclaimed: unclaimed
                    .map(|guest| (guest.name().to_owned(), Arc::new(guest)))
                    .collect(),
            }),
            shared,
        }
    }

    /// Lets a guest in, with a promise of `grant_pages` persistent pages. One that was found in the
    /// files comes with its pools, its epoch and its pages; it may be promised less than before if
    /// it holds no more.
    ///
    /// # Errors
    /// [`GuestError`] if the name is taken or too long, the grants would exceed the frames, the
    /// guest holds more than a lower grant, or there are as many guests as there can be.
    pub fn attach_guest(&self, config: GuestConfig) -> Result<Arc<Guest>, GuestError> {
        let GuestConfig { name, grant_pages } = config;
        let mut guests = self.guests.lock();
        if name.len() > GUEST_NAME_MAX {
            return Err(GuestError::BadName { name });
        }
        if guests.attached.contains_key(&name) {
            return Err(GuestError::NameTaken { name });
        }
        let mut grants = self.shared.grants.lock();
        if let Some(guest) = guests.unclaimed.get(&name) {
            let guest = Arc::clone(guest);
            guest.renew(&mut grants, grant_pages)?;
            guests.unclaimed.remove(&name);
            guests.attached.insert(name, Arc::clone(&guest));
            return Ok(guest);
        }
        let mut slots = (0..).zip(self.shared.frames.mapping().guests());
        let Some((slot, record)) = slots.find(|(_, record)| record.state() == State::Free) else {
            let guests = guests.all().count();
            return Err(GuestError::TooMany { name, guests });
        };
        let promised = (self.shared).promise(&mut grants, 0, grant_pages);
        // What can be promised fits in 32 bits.
        let (Ok(()), Ok(grant)) = (promised, u32::try_from(grant_pages)) else {
            return Err(GuestError::Overcommitted {
                name,
                pages: grant_pages,
                pages_max: promised.err().unwrap_or(0),
            });
        };
        record.begin(&name, grant);
        let account = Account::new(slot, grant, u64::from(self.shared.frames_max));
        let guest = Arc::new(Guest::new(name.clone(), account, &self.shared));
        guests.attached.insert(name, Arc::clone(&guest));
        Ok(guest)
    }

    /// The guests that were found in the files and have not been attached since, by name. They keep
    /// their grants until they are attached or detached.
    #[must_use]
    pub fn unclaimed(&self) -> Vec<Arc<Guest>> {
        self.guests.lock().unclaimed.values().cloned().collect()
    }

    /// Destroys all pools of a guest, attached or unclaimed, and takes its grant back. Returns the
    /// pages flushed.
    ///
    /// # Errors
    /// [`GuestError::Unknown`] if no guest has this name.
    pub fn detach_guest(&self, name: &str) -> Result<u64, GuestError> {
        let mut guests = self.guests.lock();
        let attached = guests.attached.remove(name);
        let Some(guest) = attached.or_else(|| guests.unclaimed.remove(name)) else {
            return Err(GuestError::Unknown { name: name.into() });
        };
        let flushed = guest.detach();
        let mut grants = self.shared.grants.lock();
        let taken_back = self.shared.promise(&mut grants, guest.grant_pages(), 0);
        debug_assert!(taken_back.is_ok());
        Ok(flushed)
    }

    /// The attached guest of this name.
    #[must_use]
    pub fn guest(&self, name: &str) -> Option<Arc<Guest>> {
        self.guests.lock().attached.get(name).cloned()
    }

    /// The attached guests, by name.
    #[must_use]
    pub fn guests(&self) -> Vec<Arc<Guest>> {
        self.guests.lock().attached.values().cloned().collect()
    }

    /// All guests, attached or not.
    pub(crate) fn all_guests(&self) -> Vec<Arc<Guest>> {
        self.guests.lock().all().cloned().collect()
    }

    /// A new worker: one for each thread that puts and gets.
    ///
    /// # Errors
    /// [`WorkerError`] if `workers_max` of them exist.
    pub fn worker(&self) -> Result<Worker, WorkerError> {
        Worker::new(&self.shared)
    }

    /// What moves pages between tiers, for a thread of the caller's to run. It takes the place of one
    /// worker. `waker` is called whenever there may be something to do.
    ///
    /// # Errors
    /// [`WorkerError`] if `workers_max` of them exist.
    pub fn mover(&self, waker: Box<dyn Fn() + Send>) -> Result<Mover, WorkerError> {
        let own = self.worker()?;
        self.shared.set_waker(waker);
        Ok(Mover::new(&self.shared, own))
    }

    /// Counts of a tier, if it is there.
    #[must_use]
    pub fn tier(&self, tier: Tier) -> Option<TierStats> {
        self.shared.tier_stats(tier)
    }

    /// What a lower tier's store said last when it failed.
    #[must_use]
    pub fn tier_error(&self, tier: Tier) -> Option<String> {
        let lower = self.shared.lower(tier.lower()?)?;
        lower.last_error.lock().clone()
    }

    /// The store of a lower tier.
    #[must_use]
    pub fn store(&self, tier: Tier) -> Option<Arc<dyn SlotStore>> {
        let lower = self.shared.lower(tier.lower()?)?;
        Some(Arc::clone(&lower.store))
    }

    /// Frames that are to be free.
    #[must_use]
    pub fn watermarks(&self) -> Watermarks {
        self.shared.watermarks()
    }

    /// Changes how many frames are to be free: shares of all, from 0 to 1. A `low` above `high` counts
    /// as `high`.
    pub fn set_watermarks(&self, low: f64, high: f64) {
        let high = high.clamp(0.0, 1.0);
        self.shared.set_watermarks(low.clamp(0.0, high), high);
    }

    /// Lets promises exceed what the tiers can hold, so that puts within a grant may be refused; or
    /// not, which changes nothing for promises that were made.
    pub fn allow_overcommit(&self, allowed: bool) {
        self.shared.set_overcommit(allowed);
    }

    /// Pages that are promised, and that all tiers can hold: overcommitted, if the first is larger.
    #[must_use]
    pub fn promised_and_room(&self) -> (u64, u64) {
        let grants = self.shared.grants.lock();
        (grants.promised, self.shared.room())
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let guests = self.all_guests();
        let mut stats = EngineStats {
            guests: self.guests().len() as u64,
            workers: u64::from(self.shared.workers_max)
                - self.shared.idle_workers.lock().len() as u64,
            frames: self.shared.dram_limit(),
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
        let frames = self.shared.frames.mapping().layout().counts.all_frames();
        let (owners, owner_list) = self.shared.frames.owners_used();
        let mut report = MemoryReport {
            frames_mapped: u64::from(frames) * PAGE_SIZE as u64,
            frame_table: (self.shared.frames.mapping().frames_known() * size_of::<FrameEntry>())
                as u64,
            owners: owners * size_of::<OwnerRecord>() as u64,
            pools: (size_of::<Shared>() + self.shared.pool_table_bytes()) as u64,
            free_lists: (self.shared.free.bytes() + owner_list) as u64,
            policies: (self.shared.policies.bytes() + self.shared.door.bytes()) as u64,
            slot_tables: self.shared.slot_table_bytes(),
            ..MemoryReport::default()
        };
        for guest in self.all_guests() {
            report.copies += guest.account.victims.bytes() as u64;
            report.pools += guest.own_bytes() as u64;
            for pool in guest.pools() {
                report.frames_used += pool.stats().frames * PAGE_SIZE as u64;
                report.index += pool.index_bytes() as u64;
                report.pools += pool.own_bytes() as u64;
                let dense = u64::from(pool.index.is_dense());
                report.owners += dense * size_of::<OwnerRecord>() as u64;
            }
        }
        report
    }
}
