// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Snapshots of the running daemon, for the admin API.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tmem_admin_api::{
    DaemonOperation, DaemonStatus, Guest, GuestStats, Health, Memory, PAGE_BYTES, PageTotals, Pool,
    PoolKind, PoolLayout, ProcessStatus, Schema, Status, Tier,
};
use tmem_pages::{Engine, Layout, PoolStats};

use crate::admin::now_unix_ms;
use crate::device::Station;
use crate::process;
use crate::status::{AdminSource, RequestError};
use crate::told::Told;

/// What the daemon consists of, apart from connections.
pub(crate) struct Running {
    pub(crate) engine: Arc<Engine>,
    pub(crate) guests: Vec<ServedGuest>,
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
    pub(crate) fn new(
        engine: Arc<Engine>,
        guests: Vec<ServedGuest>,
        watch: process::Watch,
        told: Arc<Told>,
    ) -> Self {
        Self {
            engine,
            guests,
            watch,
            told,
            started: Instant::now(),
        }
    }

    fn find(&self, name: &str) -> Option<&ServedGuest> {
        let mut guests = self.guests.iter();
        guests.find(|guest| guest.station.guest.name() == name)
    }
}

impl ServedGuest {
    fn snapshot(&self) -> Guest {
        let guest = &self.station.guest;
        let pools = guest.pools();
        let mut held = PoolStats::default();
        for pool in &pools {
            held.add(&pool.stats());
        }
        Guest {
            name: guest.name().to_owned(),
            socket: self.socket.as_ref().map(|path| path.display().to_string()),
            connected: self.connected.load(Ordering::Relaxed),
            epoch: guest
                .epoch()
                .map(|epoch| format!("{:032x}", u128::from_le_bytes(epoch.0))),
            queue_pairs: self.station.pairs(),
            grant_pages: guest.grant_pages(),
            // Of one reading, so that the parts add up.
            held_pages: held.same_filled + held.frames,
            same_filled_pages: held.same_filled,
            frame_pages: held.frames,
            pools: u32::try_from(pools.len()).unwrap_or(u32::MAX),
            poll_us: self.station.poll_us(),
        }
    }

    fn pools(&self) -> Vec<Pool> {
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
                pages: stats.same_filled + stats.frames,
                same_filled: stats.same_filled,
                frames: stats.frames,
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
        };
        let connected = guests.iter().filter(|guest| guest.connected).count();
        let engine = self.engine.stats();
        let daemon = self.daemon();
        let reasons = daemon.reasons();
        Status {
            schema: Schema,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: daemon.uptime_seconds(),
            health: Health::from_reasons(&reasons),
            reasons,
            emulated: false,
            tiers: vec![Tier {
                name: "dram".to_owned(),
                capacity_bytes: engine.frames * PAGE_BYTES,
                used_bytes: pages.frames * PAGE_BYTES,
            }],
            pages,
            memory: self.memory(pages.frames * PAGE_BYTES),
            guests: u32::try_from(guests.len()).unwrap_or(u32::MAX),
            connected: u32::try_from(connected).unwrap_or(u32::MAX),
            daemon,
        }
    }

    fn guests(&self) -> Vec<Guest> {
        let mut guests: Vec<_> = self.guests.iter().map(ServedGuest::snapshot).collect();
        guests.sort_by(|a, b| a.name.cmp(&b.name));
        guests
    }

    fn guest(&self, name: &str) -> Option<Guest> {
        self.find(name).map(ServedGuest::snapshot)
    }

    fn pools(&self, guest: &str) -> Option<Vec<Pool>> {
        self.find(guest).map(ServedGuest::pools)
    }

    fn stats(&self, guest: &str) -> Option<GuestStats> {
        self.find(guest)
            .map(|found| found.station.metrics.snapshot(guest))
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
        let running = Running::new(engine, guests, watch, Arc::default());
        let status = running.status();
        let wanted = PageTotals {
            held: 200,
            same_filled: 50,
            frames: 150,
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
