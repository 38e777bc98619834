// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a store can tell of itself: adverts to clients, figures to people, pages to tests.

use std::sync::atomic::Ordering;

use tmem_pages::{ObjectId, PAGE_SIZE, PageBytes, PageIndex, PoolStats, Tier, TierStats};
use tmem_remote_protocol::{Advert, LOAD_MAX, pool};

use super::{Namespace, Store, Totals};
use crate::log::LogStats;

/// Pages that are listed at a time.
const LIST_PAGES: usize = 4096;

/// Figures of a namespace.
#[derive(Clone, Debug)]
pub struct NamespaceStats {
    /// Its name.
    pub name: String,
    /// Persistent pages that it may keep.
    pub quota_pages: u64,
    /// Persistent pages that it keeps.
    pub used_pages: u64,
    /// Pages that may vanish.
    pub ephemeral_pages: u64,
    /// The newest epoch of its clients.
    pub epoch: u64,
    /// Connections that are open.
    pub connections: u32,
    /// What the engine counts, over both pools.
    pub pages: PoolStats,
    /// What the server counts.
    pub served: Totals,
}

/// Figures of a store.
#[derive(Clone, Debug)]
pub struct StoreStats {
    /// Pages that it has room for.
    pub capacity_pages: u64,
    /// Pages that it has room for still.
    pub free_pages: u64,
    /// Bytes that are no pages: tables, indices, lists.
    pub metadata_bytes: u64,
    /// Its tiers.
    pub tiers: Vec<(Tier, TierStats)>,
    /// How busy the busiest shard was lately, in permille.
    pub load: u32,
    /// The namespaces, by name.
    pub namespaces: Vec<NamespaceStats>,
}

impl Store {
    /// What a client is told of the store and of its own namespace.
    pub(crate) fn advert(&self, namespace: &Namespace, seq: u64) -> Advert {
        let guest = namespace.guest.stats();
        Advert {
            capacity_pages: self.capacity_pages(),
            free_pages: self.free_pages(),
            quota_pages: namespace.quota(),
            used_pages: guest.persistent_pages,
            seq,
            load: self.load(),
            leaving: self.registry.is_ended(),
        }
    }

    /// Pages that the store has room for still. Those that may vanish are in nobody's way.
    fn free_pages(&self) -> u64 {
        let namespaces = self.namespaces();
        let held = namespaces.iter().map(|namespace| {
            let pools = namespace.guest.pools();
            let persistent = pools.iter().find(|pool| pool.id().0 == pool::PERSISTENT);
            persistent.map_or(0, |pool| {
                let stats = pool.stats();
                stats.pages.saturating_sub(stats.same_filled)
            })
        });
        self.capacity_pages().saturating_sub(held.sum())
    }

    /// Figures of the log, if there is one.
    #[must_use]
    pub fn log_stats(&self) -> Option<LogStats> {
        self.journal.as_ref().map(|journal| journal.log.stats())
    }

    fn load(&self) -> u32 {
        let loads = self.loads.iter().map(|load| load.load(Ordering::Relaxed));
        loads.max().unwrap_or(0).min(LOAD_MAX)
    }

    /// All figures.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let namespaces = self.namespaces();
        let namespaces = namespaces.iter().map(|namespace| {
            let guest = namespace.guest.stats();
            NamespaceStats {
                name: namespace.name().to_owned(),
                quota_pages: namespace.quota(),
                used_pages: guest.persistent_pages,
                ephemeral_pages: guest.ephemeral_pages,
                epoch: namespace.newest(),
                connections: namespace.connections(),
                pages: guest.total,
                served: namespace.totals(),
            }
        });
        let tiers = Tier::ALL.into_iter();
        StoreStats {
            capacity_pages: self.capacity_pages(),
            free_pages: self.free_pages(),
            metadata_bytes: self.engine.memory().metadata(),
            tiers: tiers
                .filter_map(|tier| Some((tier, self.engine.tier(tier)?)))
                .collect(),
            load: self.load(),
            namespaces: namespaces.collect(),
        }
    }

    /// The page that is kept under an index, with its generation. For tests and tools; it counts as a
    /// get.
    pub fn peek(&self, namespace: &str, pool: u32, index: u32) -> Option<(u64, PageBytes)> {
        let namespace = self.namespaces.read().get(namespace).cloned()?;
        let mut page = [0; PAGE_SIZE];
        let mut worker = self.outside.lock();
        let pool = namespace.pool(pool)?;
        let index = PageIndex(index);
        let (_, mark) = worker.get_marked(pool, ObjectId::ZERO, index, &mut page);
        mark.map(|mark| (mark.ticket.get(), page))
    }

    /// The pages of a namespace's persistent pool, each with its generation, in order. For tests and
    /// tools.
    #[must_use]
    pub fn pages(&self, namespace: &str) -> Vec<(u32, u64)> {
        let mut found = Vec::new();
        let namespace = self.namespaces.read().get(namespace).cloned();
        let Some(namespace) = namespace else {
            return Vec::new();
        };
        if let Some(pool) = namespace.pool(pool::PERSISTENT) {
            let worker = self.outside.lock();
            let mut from = Some(PageIndex(0));
            while let Some(next) = from {
                from = worker.list(pool, next, LIST_PAGES, &mut found);
            }
        }
        let pair = |(index, ticket): (PageIndex, tmem_pages::Ticket)| (index.0, ticket.get());
        found.into_iter().map(pair).collect()
    }
}
