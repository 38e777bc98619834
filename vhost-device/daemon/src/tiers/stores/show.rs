// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stores and replication as the admin API shows them.

use std::fmt::Write as _;
use std::time::Duration;

use tmem_admin_api::{Replication, Store, StoreKind, StoreState, TaskKind};
use tmem_pages::Engine;
use tmem_remote_client::Latency;
use tmem_remote_client::control::{Kind, State};
use tmem_remote_client::driver::{Status, StoreStatus};

use super::{StoresDesk, millis};
use crate::tiers::tasks::Tasks;

/// The subject of repairs.
pub(super) const ALL_STORES: &str = "stores";

impl StoresDesk {
    pub(super) fn status(&self) -> Status {
        self.handle.status()
    }

    pub(super) fn shown_replication(&self, tasks: &Tasks, engine: &Engine) -> Replication {
        let status = self.status();
        let sum = |of: fn(&StoreStatus) -> u64| status.stores.iter().map(of).sum();
        let control = &status.control;
        Replication {
            namespace: status.namespace.clone(),
            replicas: status.replicas,
            min_copies: status.min_copies,
            ack: self.config.ack,
            pages: status.pages,
            // Of those that are lost nothing is left to be copied.
            below_pages: below(&status),
            lost_pages: status.lost_pages.max(control.lost_pages),
            held_pages: status.held_pages,
            repaired_pages: control.totals.copied_pages,
            repair_bytes_per_second: control.bytes_per_second,
            repair_limit_bytes_per_second: control.bytes_per_second_limit,
            failovers: sum(|store| store.counters.failovers),
            hedged: sum(|store| store.counters.hedges),
            bad_copies: sum(|store| store.counters.bad_copies),
            epoch: status.epoch,
            fenced: status.fenced_by.is_some(),
            membership_error: self.membership_error(),
            task: tasks.last_of_kind(engine, TaskKind::Repair, ALL_STORES),
        }
    }

    pub(super) fn shown_stores(&self, tasks: &Tasks, engine: &Engine) -> Vec<Store> {
        let status = self.status();
        // One that is given up is as good as gone.
        let stores = status.stores.iter();
        let stores = stores.filter(|store| store.member.state != State::Removed);
        stores
            .map(|store| {
                let task = tasks.last_of_kind(engine, TaskKind::StoreDrain, &store.member.name);
                Store {
                    task,
                    origin: self.origin(&store.member.name),
                    ..shown(store)
                }
            })
            .collect()
    }
}

/// Pages that should have more copies than can be read now.
pub(super) fn below(status: &Status) -> u64 {
    let control = &status.control;
    let unreadable = control.below_pages + control.unreachable_pages;
    status.below_pages.max(unreadable)
}

fn shown(store: &StoreStatus) -> Store {
    let member = &store.member;
    let advert = member.advert.unwrap_or_default();
    let counters = &store.counters;
    Store {
        number: member.number.into(),
        name: member.name.clone(),
        address: member.address.clone(),
        kind: match member.kind {
            Kind::Remote => StoreKind::Store,
            Kind::Disk => StoreKind::Disk,
        },
        state: match member.state {
            State::Joining => StoreState::Joining,
            State::Up => StoreState::Up,
            State::Suspect => StoreState::Suspect,
            State::Dead | State::Removed => StoreState::Dead,
            State::Draining => StoreState::Draining,
            State::Drained => StoreState::Drained,
        },
        connected: member.connected,
        id: member.store.map(hex),
        copies: store.copies,
        capacity_pages: advert.capacity_pages,
        free_pages: advert.free_pages,
        quota_pages: advert.quota_pages,
        used_pages: advert.used_pages,
        heard_ms: member.heard.map(millis),
        reads: counters.gets,
        writes: counters.puts + counters.repairs,
        flushes: counters.flushes,
        errors: counters.errors,
        rtt_p50_ns: nanos(&store.rtt, 500_000),
        rtt_p99_ns: nanos(&store.rtt, 990_000),
        error: member.error.clone(),
        ..Store::default()
    }
}

fn nanos(latency: &Latency, millionths: u64) -> u64 {
    let time = latency.quantile(millionths).unwrap_or(Duration::ZERO);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn hex(id: [u8; 16]) -> String {
    let mut text = String::new();
    for byte in id {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
