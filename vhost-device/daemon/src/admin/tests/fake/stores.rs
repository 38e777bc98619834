// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The made-up daemon's stores: three, one of which is dead. They keep what they are told.

use tmem_admin_api::{
    Replication, Store, StoreAddRequest, StoreOrigin, StoreState, TaskKind, TaskStatus,
};

use super::tiers::FakeTiers;
use super::{StoreAdmin, TierError};

/// The first two do their work.
pub(super) fn stores() -> Vec<Store> {
    let store = |number: u32, label: &str, state| Store {
        number,
        name: label.into(),
        address: format!("10.0.0.{number}:7440"),
        state,
        connected: state == StoreState::Up,
        id: Some(format!("{number:032x}")),
        copies: 300,
        capacity_pages: 1 << 20,
        free_pages: 1 << 19,
        quota_pages: 1 << 18,
        used_pages: 300,
        heard_ms: Some(40),
        reads: 1000,
        writes: 600,
        flushes: 10,
        rtt_p50_ns: 21_000,
        rtt_p99_ns: 90_000,
        ..Store::default()
    };
    let dead = Store {
        heard_ms: Some(7_300),
        errors: 4,
        error: Some("connection refused".into()),
        ..store(3, "rack3", StoreState::Dead)
    };
    vec![
        store(1, "rack1", StoreState::Up),
        store(2, "rack2", StoreState::Up),
        dead,
    ]
}

impl StoreAdmin for FakeTiers {
    fn replication(&self) -> Replication {
        let dead = (self.stores().iter()).any(|store| store.state == StoreState::Dead);
        Replication {
            namespace: "host7".into(),
            replicas: 2,
            min_copies: 1,
            pages: 450,
            below_pages: if dead { 300 } else { 0 },
            repaired_pages: 17,
            repair_bytes_per_second: 1 << 20,
            repair_limit_bytes_per_second: 100 << 20,
            failovers: 5,
            hedged: 2,
            epoch: 1_767_323_045_000,
            ..Replication::default()
        }
    }

    fn stores(&self) -> Vec<Store> {
        let drained = |store: Store| {
            let task = self.last_task(TaskKind::StoreDrain, &store.name);
            Store { task, ..store }
        };
        self.on_stores(|stores| stores.clone())
            .into_iter()
            .map(drained)
            .collect()
    }

    fn add_store(&self, request: &StoreAddRequest) -> Result<String, TierError> {
        let StoreAddRequest { address, label, .. } = request.clone();
        if !address.contains(':') {
            let reason = format!("{address:?} is no address of a store");
            return Err(TierError::BadText { reason });
        }
        let name = label.clone().unwrap_or_else(|| address.clone());
        if self.store(&name).is_some() {
            let reason = format!("there is a store {name:?} already");
            return Err(TierError::Refused { reason });
        }
        let store = Store {
            number: 4,
            name: name.clone(),
            address,
            origin: StoreOrigin::Admin,
            ..Store::default()
        };
        self.on_stores(|stores| stores.push(store));
        Ok(name)
    }

    fn remove_store(&self, name: &str, force: bool) -> Result<(), TierError> {
        let copies = self.store(name).unwrap().copies;
        if copies > 0 && !force {
            let reason = format!("{copies} pages have a copy on store {name}: drain it first");
            return Err(TierError::Refused { reason });
        }
        self.on_stores(|stores| stores.retain(|store| store.name != name));
        Ok(())
    }

    fn drain_store(&self, name: &str) -> Result<TaskStatus, TierError> {
        self.set_state(name, StoreState::Draining);
        Ok(self.begin(TaskKind::StoreDrain, name, 300))
    }

    fn undrain_store(&self, name: &str) -> Result<(), TierError> {
        self.set_state(name, StoreState::Up);
        Ok(())
    }

    fn repair_stores(&self) -> Result<TaskStatus, TierError> {
        Ok(self.begin(TaskKind::Repair, "stores", 300))
    }
}

impl FakeTiers {
    fn set_state(&self, name: &str, state: StoreState) {
        self.on_stores(|stores| {
            let store = stores.iter_mut().find(|store| store.name == name);
            store.unwrap().state = state;
        });
    }
}
