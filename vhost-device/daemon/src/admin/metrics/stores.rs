// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The part of the text about the stores of the remote tier. A daemon without stores has none of it.

use tmem_admin_api::{Replication, Store, StoreState};
use tmem_metrics::{Seconds, Text};

use super::{
    Metric, STORE_CAPACITY, STORE_COPIES, STORE_ERRORS, STORE_FLUSHES, STORE_FREE, STORE_HEARD,
    STORE_QUOTA, STORE_READS, STORE_RTT, STORE_STATE, STORE_USED, STORE_WRITES, STORES_BAD,
    STORES_FAILOVERS, STORES_FENCED, STORES_HEDGED, STORES_PAGES, STORES_REPAIR_LIMIT,
    STORES_REPAIR_RATE, STORES_REPAIRED,
};
use crate::status::AdminSource;

pub(super) fn stores(text: &mut Text, source: &dyn AdminSource) {
    let admin = source.store_admin();
    all(text, admin.map(|admin| admin.replication()).as_ref());
    each(text, &admin.map(|admin| admin.stores()).unwrap_or_default());
}

fn all(text: &mut Text, replication: Option<&Replication>) {
    text.family(
        STORES_PAGES,
        replication.into_iter().flat_map(|r| {
            [
                ("all", r.pages),
                ("below", r.below_pages),
                ("lost", r.lost_pages),
                ("held", r.held_pages),
            ]
            .map(|(kind, pages)| ([("kind", kind)], pages))
        }),
    );
    let mut plain = |metric: Metric, value: fn(&Replication) -> u64| {
        text.family(metric, replication.map(|r| ([], value(r))));
    };
    plain(STORES_REPAIRED, |r| r.repaired_pages);
    plain(STORES_REPAIR_RATE, |r| r.repair_bytes_per_second);
    plain(STORES_REPAIR_LIMIT, |r| r.repair_limit_bytes_per_second);
    plain(STORES_FAILOVERS, |r| r.failovers);
    plain(STORES_HEDGED, |r| r.hedged);
    plain(STORES_BAD, |r| r.bad_copies);
    plain(STORES_FENCED, |r| u64::from(r.fenced));
}

fn each(text: &mut Text, stores: &[Store]) {
    text.family(
        STORE_STATE,
        stores.iter().flat_map(|store| {
            StoreState::ALL.iter().map(|&state| {
                let labels = [("store", &*store.name), ("state", state.as_str())];
                (labels, u64::from(store.state == state))
            })
        }),
    );
    let mut plain = |metric: Metric, value: fn(&Store) -> u64| {
        text.family(
            metric,
            stores
                .iter()
                .map(|store| ([("store", &*store.name)], value(store))),
        );
    };
    plain(STORE_COPIES, |store| store.copies);
    plain(STORE_CAPACITY, |store| store.capacity_pages);
    plain(STORE_FREE, |store| store.free_pages);
    plain(STORE_QUOTA, |store| store.quota_pages);
    plain(STORE_USED, |store| store.used_pages);
    plain(STORE_READS, |store| store.reads);
    plain(STORE_WRITES, |store| store.writes);
    plain(STORE_FLUSHES, |store| store.flushes);
    plain(STORE_ERRORS, |store| store.errors);
    text.family(
        STORE_HEARD,
        stores.iter().filter_map(|store| {
            let heard = Seconds::of_ms(store.heard_ms?);
            Some(([("store", &*store.name)], heard))
        }),
    );
    text.family(
        STORE_RTT,
        stores.iter().flat_map(|store| {
            [("0.5", store.rtt_p50_ns), ("0.99", store.rtt_p99_ns)].map(|(quantile, ns)| {
                let labels = [("store", &*store.name), ("quantile", quantile)];
                (labels, Seconds::of_ns(ns))
            })
        }),
    );
}
