// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Snapshots of the running daemon, for the admin API.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tmem_admin_api::{
    DaemonOperation, DaemonStatus, Guest, GuestStats, Health, Memory, PAGE_BYTES, PageTotals, Pool,
    PoolKind, PoolLayout, ProcessStatus, Schema, Status, Store, TierName,
};
use tmem_pages::{Engine, Layout, PoolStats, Tier};

use crate::admin::now_unix_ms;
use crate::device::Station;
use crate::process;
use crate::service::Opened;
use crate::status::{AdminSource, BalloonAdmin, RequestError, StoreAdmin, TierAdmin};
use crate::tiers::{TierDesk, show};
use crate::told::Told;

/// What the daemon consists of, apart from connections.
pub(crate) struct Running {
    pub(crate) engine: Arc<Engine>,
    pub(crate) guests: Vec<ServedGuest>,
    pub(crate) tiers: TierDesk,
    watch: process::Watch,
    told: Arc<Told>,
    started: Instant,
}

/// A guest that the daemon serves.
pub(crate) struct ServedGuest {
    pub(crate) station: Arc<Station>,
    /// Where its VMM connects, if that has a path.
    pub(crate) socket: Option<PathBuf>,
    pub(crate) connected: Arc<AtomicBool>,
}

impl Running {
    /// An engine with its guests, that has just started; `told` is what the keeper says.
    pub(crate) fn new(opened: Opened, watch: process::Watch, told: Arc<Told>) -> Self {
        Self {
            engine: opened.engine,
            guests: opened.guests,
            tiers: opened.tiers,
            watch,
            told,
            started: Instant::now(),
        }
    }

    pub(crate) fn find(&self, name: &str) -> Option<&ServedGuest> {
        let mut guests = self.guests.iter();
        guests.find(|guest| guest.station.guest.name() == name)
    }

    /// Requests that were served; grows whenever a guest does anything.
    pub(crate) fn served(&self) -> u64 {
        let guests = self.guests.iter();
        guests.map(|guest| guest.station.metrics.requests()).sum()
    }

    /// Memory of the host that could be had without swapping.
    pub(crate) fn available_bytes(&self) -> Option<u64> {
        self.watch.available()
    }

    /// Writes what page traces have recorded. Returns whether any is.
    pub(crate) fn pump_traces(&self) -> bool {
        let mut any = false;
        for guest in &self.guests {
            any |= guest.station.trace.pump();
        }
        any
    }

    /// The tiers below DRAM that there are.
    fn lower_tiers(&self) -> Vec<TierName> {
        let tiers = [(Tier::Pm, TierName::Pm), (Tier::Remote, TierName::Remote)];
        let there = tiers
            .into_iter()
            .filter(|(tier, _)| self.engine.tier(*tier).is_some());
        there.map(|(_, name)| name).collect()
    }

    fn shown(&self, guest: &ServedGuest) -> Guest {
        let (mut shown, held) = guest.snapshot();
        shown.memory = Some(self.memory_of(guest, &held));
        shown
    }
}

impl ServedGuest {
    /// A VMM is connected, and a driver has said HELLO.
    pub(crate) fn has_driver(&self) -> bool {
        self.connected.load(Ordering::Relaxed) && self.station.balloon.is_greeted()
    }

    fn snapshot(&self) -> (Guest, PoolStats) {
        let guest = &self.station.guest;
        let pools = guest.pools();
        let mut held = PoolStats::default();
        for pool in &pools {
            held.add(&pool.stats());
        }
        let shown = Guest {
            name: guest.name().to_owned(),
            socket: self.socket.as_ref().map(|path| path.display().to_string()),
            connected: self.connected.load(Ordering::Relaxed),
            epoch: guest
                .epoch()
                .map(|epoch| format!("{:032x}", u128::from_le_bytes(epoch.0))),
            queue_pairs: self.station.pairs(),
            grant_pages: guest.grant_pages(),
            // Of one reading, so that the parts add up.
            held_pages: held.same_filled + held.frames + held.pm + held.remote,
            same_filled_pages: held.same_filled,
            frame_pages: held.frames,
            pm_pages: held.pm,
            remote_pages: held.remote,
            pools: u32::try_from(pools.len()).unwrap_or(u32::MAX),
            poll_us: self.station.poll_us(),
            ..Guest::default()
        };
        (shown, held)
    }

    fn pools(&self, lower: &[TierName]) -> Vec<Pool> {
        let guest = &self.station.guest;
        let pools = guest.pools().into_iter().map(|pool| {
            let (spec, stats) = (pool.spec(), pool.stats());
            let (layout, object_pages) = match spec.layout {
                Layout::Dense { pages } => (PoolLayout::Dense, pages),
                Layout::Sparse => (PoolLayout::Sparse, 0),
            };
            Pool {
                guest: guest.name().to_owned(),
                id: pool.id().0,
                kind: match spec.kind {
                    tmem_pages::PoolKind::Persistent => PoolKind::Persistent,
                    tmem_pages::PoolKind::Ephemeral => PoolKind::Ephemeral,
                },
                layout,
                object_pages,
                pages: stats.pages,
                same_filled: stats.same_filled,
                frames: stats.frames,
                pm: stats.pm,
                remote: stats.remote,
                hits: show::hits(&stats),
                tiers: show::counts(&stats, lower),
                puts: stats.puts,
                gets: stats.gets,
                misses: stats.misses,
                flushes: stats.flushes,
                refused: stats.refused,
                stale: stats.stale,
                evicted: stats.evicted,
                corrupt: stats.corrupt,
            }
        });
        pools.collect()
    }
}

impl AdminSource for Running {
    fn status(&self) -> Status {
        let guests = self.guests();
        let sum = |of: fn(&Guest) -> u64| guests.iter().map(of).sum();
        let pages = PageTotals {
            held: sum(|guest| guest.held_pages),
            same_filled: sum(|guest| guest.same_filled_pages),
            frames: sum(|guest| guest.frame_pages),
            pm: sum(|guest| guest.pm_pages),
            remote: sum(|guest| guest.remote_pages),
        };
        let connected = guests.iter().filter(|guest| guest.connected).count();
        let daemon = self.daemon();
        let (tiers, promises) = (self.shown_tiers(), self.promises());
        let mut reasons = daemon.reasons();
        reasons.extend(tiers.iter().filter_map(tmem_admin_api::Tier::reason));
        reasons.extend(promises.reason());
        if let Some(stores) = self.store_admin() {
            reasons.extend(stores.replication().reasons());
            reasons.extend(stores.stores().iter().filter_map(Store::reason));
        }
        Status {
            schema: Schema,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: daemon.uptime_seconds(),
            health: Health::from_reasons(&reasons),
            reasons,
            emulated: self.tiers.paths.is_on(),
            tiers,
            promises: Some(promises),
            pages,
            memory: self.memory(pages.frames * PAGE_BYTES),
            guests: u32::try_from(guests.len()).unwrap_or(u32::MAX),
            connected: u32::try_from(connected).unwrap_or(u32::MAX),
            daemon,
        }
    }

    fn guests(&self) -> Vec<Guest> {
        let mut guests: Vec<_> = self.guests.iter().map(|guest| self.shown(guest)).collect();
        guests.sort_by(|a, b| a.name.cmp(&b.name));
        guests
    }

    fn guest(&self, name: &str) -> Option<Guest> {
        self.find(name).map(|guest| self.shown(guest))
    }

    fn pools(&self, guest: &str) -> Option<Vec<Pool>> {
        let lower = self.lower_tiers();
        self.find(guest).map(|guest| guest.pools(&lower))
    }

    fn stats(&self, guest: &str) -> Option<GuestStats> {
        self.find(guest).map(|found| {
            let mut stats = found.station.metrics.snapshot(guest);
            show::add_counts(&mut stats, &found.station.guest, &self.lower_tiers());
            stats
        })
    }

    fn uptime_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn daemon(&self) -> DaemonStatus {
        let told = self.told.status();
        let now_unix_ms = now_unix_ms();
        let age_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        DaemonStatus {
            now_unix_ms,
            // The keeper has not told of this process before it was ready.
            worker: told.worker.or_else(|| {
                Some(ProcessStatus {
                    pid: std::process::id(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    started_unix_ms: now_unix_ms.saturating_sub(age_ms),
                    sandbox: Vec::new(),
                })
            }),
            ..told
        }
    }

    fn request(&self, operation: &DaemonOperation) -> Result<u64, RequestError> {
        self.told.request(operation)
    }

    fn tier_admin(&self) -> Option<&dyn TierAdmin> {
        Some(self)
    }

    fn store_admin(&self) -> Option<&dyn StoreAdmin> {
        self.stores_desk().map(|_| self as &dyn StoreAdmin)
    }

    fn balloon_admin(&self) -> Option<&dyn BalloonAdmin> {
        Some(self)
    }
}

impl Running {
    /// Where the process's memory is, given what the pools say is in frames.
    fn memory(&self, frames_bytes: u64) -> Memory {
        let engine = self.engine.memory();
        let usage = self.watch.usage();
        // Map and frames become resident as frames are used; what is there beyond pages and table is
        // frames that wait, and the index.
        let beyond_pages = usage.arena_bytes.saturating_sub(frames_bytes);
        let frame_table_bytes = engine.frame_table.min(beyond_pages);
        Memory::explain(
            usage.resident,
            Memory {
                frames_bytes,
                idle_frames_bytes: beyond_pages - frame_table_bytes,
                frame_table_bytes,
                index_bytes: engine.index + engine.pools + engine.free_lists,
                guest_ram_bytes: usage.guest_ram_bytes(),
                ..Memory::default()
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use tmem_pages::{
        EngineConfig, EngineFiles, GuestConfig, ObjectId, PageIndex, PoolId, PoolSpec, PutResult,
        Ticket,
    };

    use super::*;
    use crate::tiers::files::OpenStores;
    use crate::tiers::settings::Settings;

    #[test]
    fn memory_adds_up_with_what_the_pools_say() {
        let files = EngineFiles::anonymous().unwrap();
        let watch = process::Watch::open(&files);
        let config = EngineConfig {
            frames: 256,
            workers_max: 1,
            guests_max: 1,
        };
        let (engine, _) = Engine::open(config, files).unwrap();
        let config = GuestConfig {
            name: "vm0".into(),
            grant_pages: 256,
        };
        let guest = engine.attach_guest(config).unwrap();
        let mut worker = engine.worker().unwrap();
        let spec = PoolSpec {
            kind: tmem_pages::PoolKind::Persistent,
            layout: Layout::Dense { pages: 200 },
        };
        let pool = guest.create_pool(PoolId(3), spec).unwrap();
        for index in 0..200 {
            let mut page = [7; 4096];
            page[0] = if index < 150 { 8 } else { 7 };
            let ticket = Ticket::new(1).unwrap();
            let put = worker.put(&pool, ObjectId::ZERO, PageIndex(index), ticket, &page);
            assert!(matches!(put, PutResult::Stored | PutResult::SameFilled));
        }
        let guests = vec![ServedGuest {
            station: Arc::new(Station::new(guest, Vec::new(), 0)),
            socket: None,
            connected: Arc::default(),
        }];
        let daemon = "[daemon]\ndram = \"1MiB\"\n\
                      [[guest]]\nname = \"vm0\"\nsocket = \"/s\"\ngrant = \"1MiB\"\n";
        let config = crate::Config::from_toml(daemon).unwrap();
        let told = Arc::default();
        let (settings, paths) = (Settings::of(&config), Arc::default());
        let stores = OpenStores::default();
        let opened = Opened {
            tiers: TierDesk::new(&config, &paths, settings, &told, stores, Vec::new()),
            engine,
            guests,
            recovery: tmem_pages::Recovery::default(),
        };
        let running = Running::new(opened, watch, told);
        let status = running.status();
        let wanted = PageTotals {
            held: 200,
            same_filled: 50,
            frames: 150,
            ..PageTotals::default()
        };
        assert_eq!(status.pages, wanted);
        assert_eq!(status.tiers[0].used_bytes, 150 * PAGE_BYTES);
        let pools = running.pools("vm0").unwrap();
        assert_eq!(
            (pools[0].pages, pools[0].frames, pools[0].object_pages),
            (200, 150, 200)
        );
        let memory = status.memory;
        assert_eq!(memory.frames_bytes, 150 * PAGE_BYTES);
        assert!(memory.frame_table_bytes > 0 && memory.index_bytes > 0);
        let sum = memory.frames_bytes
            + memory.idle_frames_bytes
            + memory.frame_table_bytes
            + memory.index_bytes
            + memory.guest_ram_bytes
            + memory.other_bytes;
        assert_eq!(sum, memory.resident_bytes);
        assert!(memory.peak_resident_bytes >= memory.resident_bytes);
        assert_eq!(running.guest("vm1"), None);
    }
}
