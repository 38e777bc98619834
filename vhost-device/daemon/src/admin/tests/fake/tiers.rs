// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The made-up daemon's tiers: it keeps what it is told, moves no page, and is a third further with
//! its tasks at each look.

use std::collections::BTreeMap;
use std::sync::Mutex;

use tmem_admin_api::{
    FaultsRequest, GuestMemory, LimitsRequest, Link, LinkClearRequest, LinkDirection,
    LinkDirections, LinkRequest, PAGE_BYTES, Policy, PolicyRequest, Promises, Store, TaskKind,
    TaskState, TaskStatus, Tier, TierName, TierState, TraceStatus, Watermarks, WatermarksRequest,
};

use super::figures::{DRAM_PAGES, guests, link, links, tiers};
use super::{TierAdmin, TierError};

/// What `web` holds in persistent pools.
const WEB_PERSISTENT: u64 = 2000;

/// What was told, and what is made of it.
#[derive(Debug)]
pub(crate) struct FakeTiers {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    tiers: Vec<Tier>,
    tasks: Vec<TaskStatus>,
    guests: BTreeMap<String, GuestMemory>,
    grants: BTreeMap<String, u64>,
    links: Vec<Link>,
    stores: Vec<Store>,
    overcommit: bool,
    trace_dir: bool,
}

impl Default for FakeTiers {
    fn default() -> Self {
        let grants = [("web", 262_144), ("a \"b\"/c", 1024)];
        let state = State {
            tiers: tiers(),
            tasks: Vec::new(),
            guests: guests(),
            grants: grants.map(|(name, pages)| (name.into(), pages)).into(),
            links: links(),
            stores: super::stores::stores(),
            overcommit: false,
            trace_dir: true,
        };
        Self {
            state: Mutex::new(state),
        }
    }
}

// Not every test that includes this file asks for everything.
#[allow(dead_code)]
impl FakeTiers {
    /// One that has promised more than its tiers hold.
    pub(crate) fn overcommitted() -> Self {
        let fake = Self::default();
        {
            let mut state = fake.state.lock().unwrap();
            state.overcommit = true;
            state.grants.insert("web".into(), 4 << 20);
        }
        fake
    }

    /// One without PM file and without a folder for traces.
    pub(crate) fn without_pm() -> Self {
        let fake = Self::default();
        {
            let mut state = fake.state.lock().unwrap();
            state.tiers.retain(|tier| tier.name != TierName::Pm);
            state.links.retain(|link| link.tier != TierName::Pm);
            state.trace_dir = false;
        }
        fake
    }

    pub(super) fn memory(&self, guest: &str) -> Option<GuestMemory> {
        let state = self.state.lock().unwrap();
        let memory = state.guests.get(guest)?;
        let mut tasks = state.tasks.iter().rev();
        let task = tasks.find(|task| task.subject == guest).cloned();
        Some(GuestMemory {
            task,
            ..memory.clone()
        })
    }

    pub(super) fn grant(&self, guest: &str) -> u64 {
        self.state.lock().unwrap().grants[guest]
    }

    pub(super) fn promises(&self) -> Promises {
        let state = self.state.lock().unwrap();
        let capacity: u64 = state.tiers.iter().map(|tier| tier.capacity_bytes).sum();
        Promises {
            promised_pages: state.grants.values().sum(),
            capacity_pages: capacity / PAGE_BYTES,
            overcommit: state.overcommit,
        }
    }

    fn on_guest(&self, name: &str, act: impl FnOnce(&mut GuestMemory)) -> Result<(), TierError> {
        let mut state = self.state.lock().unwrap();
        act(state.guests.get_mut(name).unwrap());
        Ok(())
    }

    pub(super) fn on_stores<T>(&self, act: impl FnOnce(&mut Vec<Store>) -> T) -> T {
        act(&mut self.state.lock().unwrap().stores)
    }

    pub(super) fn last_task(&self, kind: TaskKind, subject: &str) -> Option<TaskStatus> {
        let state = self.state.lock().unwrap();
        let mut tasks = state.tasks.iter().rev();
        let task = tasks.find(|task| (task.kind, &*task.subject) == (kind, subject));
        task.cloned()
    }

    pub(super) fn begin(&self, kind: TaskKind, subject: &str, total_pages: u64) -> TaskStatus {
        let mut state = self.state.lock().unwrap();
        let task = TaskStatus {
            id: state.tasks.len() as u64 + 1,
            kind,
            subject: subject.into(),
            state: TaskState::Running,
            done_pages: 0,
            total_pages,
            reason: None,
            took_ms: 0,
        };
        state.tasks.push(task.clone());
        task
    }

    fn refuse<T>(reason: impl Into<String>) -> Result<T, TierError> {
        let reason = reason.into();
        Err(TierError::Refused { reason })
    }

    /// Changes the links that are meant, a guest's own being made if need be, and returns them.
    fn change(
        &self,
        tier: TierName,
        guest: Option<&str>,
        directions: LinkDirections,
        change: impl Fn(&mut Link),
    ) -> Vec<Link> {
        let mut state = self.state.lock().unwrap();
        let mut changed = Vec::new();
        for &direction in LinkDirection::ALL {
            if !meant(directions, direction) {
                continue;
            }
            let same = |link: &Link| {
                let ends = (link.tier, link.guest.as_deref(), link.direction);
                ends == (tier, guest, direction)
            };
            if !state.links.iter().any(same) {
                state.links.push(Link {
                    guest: guest.map(Into::into),
                    ..link(tier, direction)
                });
            }
            let link = state.links.iter_mut().find(|link| same(link)).unwrap();
            change(link);
            changed.push(link.clone());
        }
        changed
    }
}

fn meant(directions: LinkDirections, direction: LinkDirection) -> bool {
    match directions {
        LinkDirections::Both => true,
        LinkDirections::In => direction == LinkDirection::In,
        LinkDirections::Out => direction == LinkDirection::Out,
    }
}

impl TierAdmin for FakeTiers {
    fn tiers(&self) -> Vec<Tier> {
        let state = self.state.lock().unwrap();
        let tiers = state.tiers.iter().cloned().map(|tier| {
            let mut tasks = state.tasks.iter().rev();
            let task = tasks.find(|task| task.subject == tier.name.as_str());
            let task = task.cloned();
            Tier { task, ..tier }
        });
        tiers.collect()
    }

    fn resize_tier(&self, name: TierName, pages: u64) -> Result<TaskStatus, TierError> {
        let tier = self.tier(name).unwrap();
        if tier.state == TierState::Draining {
            return Err(TierError::UnderWay { id: 1 });
        }
        if pages * PAGE_BYTES > tier.max_bytes {
            let (name, mib) = (name.as_str(), tier.max_bytes >> 20);
            return Self::refuse(format!(
                "tier {name} cannot grow beyond {mib} MiB without a restart: its max in the configuration"
            ));
        }
        let now = tier.capacity_bytes / PAGE_BYTES;
        Ok(self.begin(TaskKind::Resize, name.as_str(), now.abs_diff(pages)))
    }

    fn drain_tier(&self, name: TierName) -> Result<TaskStatus, TierError> {
        if name == TierName::Dram {
            return Self::refuse("guests are promised 64 MiB of dram by their floors");
        }
        let mut state = self.state.lock().unwrap();
        let tier = state.tiers.iter_mut().find(|tier| tier.name == name);
        tier.unwrap().state = TierState::Draining;
        drop(state);
        let pages = self.tier(name).unwrap().persistent_pages;
        Ok(self.begin(TaskKind::Drain, name.as_str(), pages))
    }

    fn undrain_tier(&self, name: TierName) -> Result<(), TierError> {
        let mut state = self.state.lock().unwrap();
        let tier = state.tiers.iter_mut().find(|tier| tier.name == name);
        tier.unwrap().state = TierState::Ok;
        Ok(())
    }

    fn set_watermarks(&self, name: TierName, marks: &WatermarksRequest) -> Result<(), TierError> {
        let mut state = self.state.lock().unwrap();
        let tier = state.tiers.iter_mut().find(|tier| tier.name == name);
        let Some(now) = &mut tier.unwrap().watermarks else {
            let name = name.as_str();
            return Self::refuse(format!(
                "tier {name} has no watermarks: pages go past it when it is full"
            ));
        };
        let new = Watermarks {
            low_percent: marks.low_percent.unwrap_or(now.low_percent),
            high_percent: marks.high_percent.unwrap_or(now.high_percent),
        };
        if !new.are_possible() {
            let (low, high) = (new.low_percent, new.high_percent);
            return Self::refuse(format!(
                "the low watermark, {low} %, must be below the high one, {high} %"
            ));
        }
        *now = new;
        Ok(())
    }

    fn tasks(&self) -> Vec<TaskStatus> {
        let mut state = self.state.lock().unwrap();
        let freeable: u64 = state.guests["web"].freeable.total();
        for task in &mut state.tasks {
            if task.state.is_final() {
                continue;
            }
            task.took_ms += 100;
            let bound = match task.kind {
                TaskKind::Reclaim => freeable.min(task.total_pages),
                _ => task.total_pages,
            };
            task.done_pages = bound.min(task.done_pages + bound.div_ceil(3));
            if task.done_pages == bound {
                task.state = TaskState::Done;
                task.reason = (bound < task.total_pages).then(|| {
                    "no more is freeable: the rest lies under the guest's floor of 256 MiB".into()
                });
            }
        }
        let drained = |tier: &Tier| {
            let mut tasks = state.tasks.iter();
            tier.state == TierState::Draining
                && tasks.any(|task| {
                    task.kind == TaskKind::Drain
                        && task.subject == tier.name.as_str()
                        && task.state == TaskState::Done
                })
        };
        let drained: Vec<_> = state.tiers.iter().map(drained).collect();
        for (tier, drained) in state.tiers.iter_mut().zip(drained) {
            if drained {
                tier.state = TierState::Drained;
            }
        }
        state.tasks.clone()
    }

    fn limit_guest(&self, guest: &str, limits: &LimitsRequest) -> Result<(), TierError> {
        if limits
            .grant_pages
            .is_some_and(|pages| pages < WEB_PERSISTENT)
        {
            return Self::refuse(format!(
                "guest {guest:?} holds {WEB_PERSISTENT} persistent pages: its grant cannot be less"
            ));
        }
        if limits.floor_pages.is_some_and(|pages| pages > DRAM_PAGES) {
            let mib = DRAM_PAGES / 256;
            return Self::refuse(format!(
                "the floors of all guests must fit into dram, {mib} MiB"
            ));
        }
        let cap = limits.dram_cap_pages.and_then(|cap| cap.pages());
        let floor = self.memory(guest).unwrap().floor_pages;
        if cap.is_some_and(|cap| cap < limits.floor_pages.unwrap_or(floor)) {
            let mib = floor / 256;
            return Self::refuse(format!(
                "the dram cap is below the guest's floor, {mib} MiB"
            ));
        }
        if let Some(pages) = limits.grant_pages {
            self.state
                .lock()
                .unwrap()
                .grants
                .insert(guest.into(), pages);
        }
        self.on_guest(guest, |memory| {
            memory.weight = limits.weight.unwrap_or(memory.weight);
            memory.floor_pages = limits.floor_pages.unwrap_or(memory.floor_pages);
            if let Some(cap) = limits.dram_cap_pages {
                memory.dram_cap_pages = cap.pages();
            }
        })
    }

    fn freeze_guest(&self, guest: &str) -> Result<(), TierError> {
        self.on_guest(guest, |memory| memory.frozen = true)
    }

    fn thaw_guest(&self, guest: &str) -> Result<(), TierError> {
        self.on_guest(guest, |memory| memory.frozen = false)
    }

    fn reclaim_guest(&self, guest: &str, pages: u64) -> Result<TaskStatus, TierError> {
        Ok(self.begin(TaskKind::Reclaim, guest, pages))
    }

    fn policies(&self) -> Vec<Policy> {
        let state = self.state.lock().unwrap();
        let policies = [
            (
                "clock",
                "a hand goes round and gives pages that were used a second chance",
                false,
            ),
            ("random", "any page, by lot", true),
            (
                "s3-fifo",
                "three queues: pages that are used once leave soon",
                false,
            ),
        ];
        let policies = policies.map(|(name, about, seeded)| {
            let guests = state.guests.iter();
            let guests = guests.filter(|(_, memory)| memory.policy == name);
            Policy {
                name: name.into(),
                about: about.into(),
                seeded,
                guests: guests.map(|(guest, _)| guest.clone()).collect(),
            }
        });
        policies.into()
    }

    fn set_policy(&self, guest: &str, request: &PolicyRequest) -> Result<(), TierError> {
        let name = &request.policy;
        if !self.policies().iter().any(|policy| policy.name == *name) {
            return Err(TierError::NoSuchPolicy { name: name.clone() });
        }
        self.on_guest(guest, |memory| {
            memory.policy.clone_from(name);
            memory.policy_seed = request.seed;
        })
    }

    fn links(&self) -> Vec<Link> {
        let mut links = self.state.lock().unwrap().links.clone();
        links.sort_by(|a, b| (a.tier, &a.guest, a.direction).cmp(&(b.tier, &b.guest, b.direction)));
        links
    }

    fn set_link(&self, request: &LinkRequest) -> Result<Vec<Link>, TierError> {
        if let Some(word) = request
            .text
            .split_whitespace()
            .find(|word| !word.contains('='))
        {
            let reason =
                format!("{word:?} is not a setting of a link: latency=TIME is, for example");
            return Err(TierError::BadText { reason });
        }
        if request.text.contains("latency=1ns") {
            return Self::refuse("a latency of 1 ns cannot be emulated here: 600 ns is the least");
        }
        let tier = request.tier.unwrap_or(TierName::Remote);
        let guest = request.guest.as_deref();
        Ok(self.change(tier, guest, request.direction, |link| {
            link.text.clone_from(&request.text);
            link.latency_ns = 20_000;
            link.bandwidth_bps = None;
        }))
    }

    fn clear_link(&self, request: &LinkClearRequest) -> Result<Vec<Link>, TierError> {
        let mut state = self.state.lock().unwrap();
        let asked = |link: &Link| {
            request.tier.is_none_or(|tier| tier == link.tier)
                && (request.guest.is_none() || request.guest == link.guest)
                && meant(request.direction, link.direction)
        };
        state
            .links
            .retain(|link| link.guest.is_none() || !asked(link));
        let mut left = Vec::new();
        for link in state.links.iter_mut().filter(|link| asked(link)) {
            link.text.clear();
            link.faults.clear();
            (link.latency_ns, link.bandwidth_bps) = (0, None);
            left.push(link.clone());
        }
        Ok(left)
    }

    fn set_faults(&self, request: &FaultsRequest) -> Result<Vec<Link>, TierError> {
        if request.text.contains("eat") {
            let reason = "cannot read \"eat\": write drop=, corrupt=, stall= or slow=".into();
            return Err(TierError::BadText { reason });
        }
        let guest = request.guest.as_deref();
        Ok(self.change(request.tier, guest, request.direction, |link| {
            link.faults.clone_from(&request.text);
        }))
    }

    fn trace_start(&self, guest: &str, name: &str) -> Result<TraceStatus, TierError> {
        if !self.state.lock().unwrap().trace_dir {
            let what = "no trace_dir is configured".into();
            return Err(TierError::NotAvailable { what });
        }
        let trace = TraceStatus {
            guest: guest.into(),
            path: format!("/var/lib/tmem/traces/{name}.trace"),
            ..TraceStatus::default()
        };
        self.on_guest(guest, |memory| memory.trace = Some(trace.clone()))?;
        Ok(trace)
    }

    fn trace_stop(&self, guest: &str) -> Result<TraceStatus, TierError> {
        let mut state = self.state.lock().unwrap();
        let trace = state.guests.get_mut(guest).unwrap().trace.take();
        let Some(trace) = trace else {
            return Self::refuse(format!("guest {guest:?} is not being traced"));
        };
        Ok(TraceStatus {
            records: 12_345,
            bytes: 197_520,
            lost: 3,
            ..trace
        })
    }
}
