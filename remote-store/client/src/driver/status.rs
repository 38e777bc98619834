// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How the stores and the pages on them are, for people.

use std::time::Duration;

use crate::connect::Connector;
use crate::control;
use crate::metrics::{ClientCounters, Latency, StoreCounters};
use crate::shared::Shared;

/// One store, or the disk.
#[derive(Clone, Debug)]
pub struct StoreStatus {
    /// What the owner of the stores' state says of it.
    pub member: control::MemberStatus,
    /// Copies that it has now, by the table.
    pub copies: u64,
    /// What was counted of it.
    pub counters: StoreCounters,
    /// How long its answers took.
    pub rtt: Latency,
}

/// All of it, at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// What the owner of the stores' state says.
    pub control: control::Status,
    /// The namespace.
    pub namespace: String,
    /// Which process of the namespace this is.
    pub epoch: u64,
    /// The epoch of the process that has taken over, if one has: nothing is written any more.
    pub fenced_by: Option<u64>,
    /// Copies that a page should have.
    pub replicas: u8,
    /// Copies without which a write fails.
    pub min_copies: u8,
    /// Pages.
    pub pages: u64,
    /// Pages with fewer copies than they should have, those on dead stores counted.
    pub below_pages: u64,
    /// Pages without a copy.
    pub lost_pages: u64,
    /// Pages that the host holds until enough stores have them.
    pub held_pages: u64,
    /// What was counted of all stores together.
    pub counters: ClientCounters,
    /// How long reads took.
    pub reads: Latency,
    /// How long writes took, a batch each.
    pub writes: Latency,
    /// Stores, by number.
    pub stores: Vec<StoreStatus>,
}

impl Status {
    /// How long ago a store was heard of, by its name.
    #[must_use]
    pub fn heard(&self, name: &str) -> Option<Duration> {
        self.store(name)?.member.heard
    }

    /// A store, by its name.
    #[must_use]
    pub fn store(&self, name: &str) -> Option<&StoreStatus> {
        self.stores.iter().find(|store| store.member.name == name)
    }

    /// Every page has its copies on stores that are well, and nothing is under way.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.below_pages == 0
            && self.held_pages == 0
            && self.control.below_pages == 0
            && self.control.unreachable_pages == 0
            && self.control.in_flight == 0
            && self.control.progress.is_none()
    }
}

/// Puts together what the core said last and what is counted now.
pub(super) fn status<C: Connector>(shared: &Shared<C>, control: control::Status) -> Status {
    let settings = &shared.settings;
    let counts = shared.table.counts(control.wanted_copies);
    let metrics = shared.metrics.snapshot();
    let store = |member: &control::MemberStatus| {
        let at = usize::from(member.number);
        let (counters, rtt) = metrics.stores.get(at).cloned().unwrap_or_default();
        StoreStatus {
            member: member.clone(),
            copies: counts.copies.get(at).copied().unwrap_or(0),
            counters,
            rtt,
        }
    };
    Status {
        stores: control.members.iter().map(store).collect(),
        namespace: settings.namespace.clone(),
        epoch: shared.table.epoch(),
        fenced_by: shared.fenced_by(),
        replicas: control.wanted_copies,
        min_copies: settings.min_copies,
        pages: counts.pages,
        below_pages: counts.below,
        lost_pages: counts.lost,
        held_pages: shared.held_pages(),
        counters: metrics.total,
        reads: metrics.reads,
        writes: metrics.writes,
        control,
    }
}
