// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state as people see it: a copy, taken when somebody asks.

use std::time::Duration;

use super::core::Core;
use super::event::{Advert, Kind};
use super::member::{Intent, Link};
use super::progress::{Progress, Task};
use super::repair::Totals;
use super::view::State;

/// One member.
#[derive(Clone, Debug, serde::Serialize)]
pub struct MemberStatus {
    /// Its bit in the masks.
    pub number: u8,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub address: String,
    /// A store or a file.
    pub kind: Kind,
    /// Its failure domain.
    pub domain: Option<String>,
    /// The part of its capacity that is used.
    pub weight_percent: u16,
    /// Where it stands.
    pub state: State,
    /// It is to be emptied, whatever its state.
    pub drains: bool,
    /// A source or a person names it.
    pub listed: bool,
    /// There is a control connection.
    pub connected: bool,
    /// Who answers there.
    pub store: Option<[u8; 16]>,
    /// The life of the store's memory; 0 before it was met.
    pub incarnation: u64,
    /// What it said of itself last.
    pub advert: Option<Advert>,
    /// How long ago it was heard; None if never.
    pub heard: Option<Duration>,
    /// Copies that it holds by the last walk.
    pub copies: Option<u64>,
    /// How far its drain is.
    pub drain: Option<Progress>,
    /// What went wrong last.
    pub error: Option<String>,
}

/// Everything.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Status {
    /// Copies that a page is to have.
    pub wanted_copies: u8,
    /// Pages, by the last walk.
    pub pages: u64,
    /// Pages with fewer readable copies than they should have, by the last walk.
    pub below_pages: u64,
    /// Pages of which no copy can be read now, though a dead store may come back with one.
    pub unreachable_pages: u64,
    /// Pages whose last copy is gone for good.
    pub lost_pages: u64,
    /// The members, by number.
    pub members: Vec<MemberStatus>,
    /// Repair, drain or rebalancing that is under way.
    pub progress: Option<Progress>,
    /// Copies under way.
    pub in_flight: usize,
    /// How fast pages are copied.
    pub bytes_per_second: u64,
    /// How fast they may be.
    pub bytes_per_second_limit: u64,
    /// Counts since the start.
    pub totals: Totals,
}

impl Core {
    /// The state as people see it.
    pub fn status(&self, now: Duration) -> Status {
        let counts = &self.repair.counts;
        let rate = self.repair.meter.rate(now);
        let members = self.members.iter().map(|member| {
            let drains = matches!(member.intent, Intent::Drain { .. });
            let progress = |total: u64| {
                let left = member.held.unwrap_or(total);
                Progress::new(Task::Drain, total.saturating_sub(left), total, rate)
            };
            MemberStatus {
                number: member.number.get(),
                name: member.name.to_string(),
                address: member.address.to_string(),
                kind: member.kind,
                domain: member.domain.clone(),
                weight_percent: member.weight_percent,
                state: member.state(),
                drains,
                listed: member.listed,
                connected: matches!(member.link, Link::Connected { .. }),
                store: member.store,
                incarnation: member.met,
                advert: member.advert,
                heard: (member.advert.is_some() || member.kind == Kind::Disk)
                    .then(|| now.saturating_sub(member.heard)),
                copies: member.held,
                drain: member.held_at_first.filter(|_| drains).map(progress),
                error: member.error.clone(),
            }
        });
        Status {
            wanted_copies: self.config.copies,
            pages: counts.pages,
            below_pages: counts.below,
            unreachable_pages: counts.unreachable,
            lost_pages: counts.lost,
            members: members.collect(),
            progress: self.repair.progress(now),
            in_flight: self.repair.flights.len(),
            bytes_per_second: rate,
            bytes_per_second_limit: self.config.repair_bytes_per_second,
            totals: self.repair.totals,
        }
    }
}
