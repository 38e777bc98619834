// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What an administrator does to tiers, guests' parts of them, policies and links.

use tmem_admin_api::{
    FaultsRequest, LimitsRequest, Link, LinkClearRequest, LinkDirection, LinkDirections,
    LinkRequest, Policy, PolicyRequest, TaskKind, TaskStatus, Tier as Shown, TierName, TraceStatus,
    Watermarks, WatermarksRequest,
};
use tmem_pages::link::{Directions, FaultPlan, Jitter, LinkChange, LinkError, Links};
use tmem_pages::policy::POLICIES;
use tmem_pages::{DramLimits, Tier};

use super::settings::{seed_of, set_watermarks, tier_of};
use crate::error::tell;
use crate::snapshot::{Running, ServedGuest};
use crate::status::{TierAdmin, TierError};

type Answer<T> = Result<T, TierError>;

fn refused(error: &dyn std::error::Error) -> TierError {
    TierError::Refused {
        reason: tell(error),
    }
}

fn not_linked(error: &LinkError) -> TierError {
    let reason = error.to_string();
    match error {
        LinkError::BelowFloor { .. } | LinkError::NoOverride { .. } => {
            TierError::Refused { reason }
        }
        _ => TierError::BadText { reason },
    }
}

const fn ways(directions: LinkDirections) -> Directions {
    match directions {
        LinkDirections::In => Directions::In,
        LinkDirections::Out => Directions::Out,
        LinkDirections::Both => Directions::Both,
    }
}

fn meant(directions: LinkDirections, direction: LinkDirection) -> bool {
    match directions {
        LinkDirections::Both => true,
        LinkDirections::In => direction == LinkDirection::In,
        LinkDirections::Out => direction == LinkDirection::Out,
    }
}

impl Running {
    fn guest_named(&self, name: &str) -> Answer<&ServedGuest> {
        self.find(name).ok_or_else(|| TierError::NoSuchGuest {
            name: name.to_owned(),
        })
    }

    fn linked(&self) -> Answer<&std::sync::Arc<Links>> {
        let links = self.tiers.paths.links();
        links.ok_or_else(|| TierError::NotAvailable {
            what: "links".to_owned(),
        })
    }

    /// A change was made that the engine's map does not keep.
    fn changed(&self) {
        self.tiers.paths.look_again();
        self.tiers.keep_settings(&self.engine);
    }

    /// The links that a request meant.
    fn links_of(
        &self,
        tier: Option<TierName>,
        guest: Option<&str>,
        direction: LinkDirections,
    ) -> Vec<Link> {
        let mut links = self.shown_links();
        links.retain(|link| {
            tier.is_none_or(|tier| link.tier == tier)
                && link.guest.as_deref() == guest
                && meant(direction, link.direction)
        });
        links
    }

    /// The tier farthest away, whose link DiME's line means.
    fn farthest(&self) -> Answer<TierName> {
        let tiers = [TierName::Remote, TierName::Pm].into_iter();
        let there = |name: &TierName| self.engine.tier(tier_of(*name)).is_some();
        tiers
            .clone()
            .find(there)
            .ok_or_else(|| TierError::NotAvailable {
                what: "a tier behind a link".to_owned(),
            })
    }

    /// Makes a tier's link, and those of guests, add nothing.
    fn clear_tier(&self, tier: TierName, request: &LinkClearRequest) -> Answer<()> {
        let (links, name) = (self.linked()?, tier.as_str());
        let known = self.tiers.paths.known_calibration().unwrap_or_default();
        let now = self.tiers.paths.now();
        if request.guest.is_none() {
            let nothing = LinkChange {
                latency_ns: Some(0),
                bandwidth_bps: Some(None),
                jitter: Some(Jitter::None),
                seed: Some(0),
                ..LinkChange::default()
            };
            let direction = ways(request.direction);
            (links.set(name, None, direction, &nothing, &known))
                .and_then(|()| links.set_faults(name, None, direction, now, &FaultPlan::default()))
                .map_err(|error| not_linked(&error))?;
        }
        let own = links.show().into_iter().filter(|view| {
            let asked = request.guest.is_none() || view.guest == request.guest;
            view.tier == name && view.guest.is_some() && asked
        });
        let own: Vec<_> = own.collect();
        for view in &own {
            let guest = view.guest.as_deref().unwrap_or_default();
            links
                .clear(name, guest)
                .map_err(|error| not_linked(&error))?;
        }
        // Both ways go at once; one that was not meant comes back.
        for view in own {
            let direction = match view.direction {
                tmem_pages::link::Direction::In => LinkDirection::In,
                tmem_pages::link::Direction::Out => LinkDirection::Out,
            };
            if meant(request.direction, direction) {
                continue;
            }
            let again = LinkChange {
                latency_ns: Some(view.spec.latency_ns),
                bandwidth_bps: Some(view.spec.bandwidth_bps),
                jitter: Some(view.spec.jitter),
                seed: Some(view.spec.seed),
                queue: view.queue,
                local_npages: None,
            };
            let way = super::settings::one_way(view.direction);
            let guest = view.guest.as_deref();
            (links.set(name, guest, way, &again, &known))
                .and_then(|()| links.set_faults(name, guest, way, now, &view.faults))
                .map_err(|error| not_linked(&error))?;
        }
        Ok(())
    }
}

impl TierAdmin for Running {
    fn tiers(&self) -> Vec<Shown> {
        self.shown_tiers()
    }

    fn resize_tier(&self, name: TierName, pages: u64) -> Answer<TaskStatus> {
        let tier = tier_of(name);
        if let Some(id) = (self.tiers.tasks).under_way(&self.engine, TaskKind::Drain, tier.name()) {
            return Err(TierError::UnderWay { id });
        }
        let floors = self.guests.iter();
        let floors = floors.map(|guest| guest.station.guest.dram_limits().floor_pages);
        let floors: u64 = floors.map(u64::from).sum();
        if tier == Tier::Dram && pages < floors {
            let reason = format!("guests are promised {floors} pages of dram by their floors");
            return Err(TierError::Refused { reason });
        }
        (self.engine.resize_tier(tier, pages)).map_err(|error| refused(&error))?;
        Ok(self.tiers.tasks.resize(&self.engine, tier, pages))
    }

    fn drain_tier(&self, name: TierName) -> Answer<TaskStatus> {
        let tier = tier_of(name);
        if let Some(id) = (self.tiers.tasks).under_way(&self.engine, TaskKind::Drain, tier.name())
            && let Some(task) = self.task(id)
        {
            return Ok(task);
        }
        (self.engine.drain_tier(tier, true)).map_err(|error| refused(&error))?;
        let task = self.tiers.tasks.drain(&self.engine, tier);
        self.changed();
        Ok(task)
    }

    fn undrain_tier(&self, name: TierName) -> Answer<()> {
        let tier = tier_of(name);
        if tier == Tier::Dram {
            return Ok(());
        }
        (self.engine.drain_tier(tier, false)).map_err(|error| refused(&error))?;
        self.tiers.tasks.call_off_drain(tier);
        self.changed();
        Ok(())
    }

    fn set_watermarks(&self, name: TierName, marks: &WatermarksRequest) -> Answer<()> {
        if name != TierName::Dram {
            let name = name.as_str();
            let reason = format!(
                "tier {name} has no watermarks: pages go past it when it is full, and none leaves it for a farther tier"
            );
            return Err(TierError::Refused { reason });
        }
        if !self.has_lower_tier() {
            let reason = "tier dram has no tier behind it to move pages to".to_owned();
            return Err(TierError::Refused { reason });
        }
        let mut settings = self.tiers.settings.lock();
        let new = Watermarks {
            low_percent: marks.low_percent.unwrap_or(settings.watermarks.low_percent),
            high_percent: (marks.high_percent).unwrap_or(settings.watermarks.high_percent),
        };
        if !new.are_possible() {
            let (low, high) = (new.low_percent, new.high_percent);
            let reason =
                format!("the low watermark, {low} %, must be below the high one, {high} %");
            return Err(TierError::Refused { reason });
        }
        settings.watermarks = new;
        drop(settings);
        set_watermarks(&self.engine, new);
        self.changed();
        Ok(())
    }

    fn tasks(&self) -> Vec<TaskStatus> {
        self.tiers.tasks.all(&self.engine)
    }

    fn limit_guest(&self, guest: &str, limits: &LimitsRequest) -> Answer<()> {
        let guest = &self.guest_named(guest)?.station.guest;
        let before = guest.dram_limits();
        let pages = |pages: u64| u32::try_from(pages).unwrap_or(u32::MAX);
        let wanted = DramLimits {
            cap_pages: (limits.dram_cap_pages)
                .map_or(before.cap_pages, |cap| cap.pages().map(pages)),
            floor_pages: limits.floor_pages.map_or(before.floor_pages, pages),
            weight: limits.weight.unwrap_or(before.weight),
        };
        (guest.set_dram_limits(wanted)).map_err(|error| refused(&error))?;
        if let Some(grant) = limits.grant_pages
            && let Err(error) = guest.set_grant(grant)
        {
            // They were possible a moment ago.
            if let Err(error) = guest.set_dram_limits(before) {
                tracing::error!(guest = guest.name(), %error, "a guest's limits cannot be taken back");
            }
            return Err(refused(&error));
        }
        Ok(())
    }

    fn freeze_guest(&self, guest: &str) -> Answer<()> {
        self.guest_named(guest)?.station.guest.freeze();
        Ok(())
    }

    fn thaw_guest(&self, guest: &str) -> Answer<()> {
        self.guest_named(guest)?.station.guest.thaw();
        Ok(())
    }

    fn reclaim_guest(&self, guest: &str, pages: u64) -> Answer<TaskStatus> {
        let found = &self.guest_named(guest)?.station.guest;
        if let Some(id) = (self.tiers.tasks).under_way(&self.engine, TaskKind::Reclaim, guest) {
            return Err(TierError::UnderWay { id });
        }
        let task = self.tiers.tasks.reclaim(&self.engine, found, pages);
        self.tiers.call_worker();
        Ok(task)
    }

    fn policies(&self) -> Vec<Policy> {
        let mut policies: Vec<_> = (POLICIES.iter())
            .map(|policy| {
                let guests = self.guests.iter().map(|guest| &guest.station.guest);
                let having = guests.filter(|guest| guest.policy() == policy.name);
                let mut guests: Vec<_> = having.map(|guest| guest.name().to_owned()).collect();
                guests.sort();
                Policy {
                    name: policy.name.to_owned(),
                    about: policy.about.to_owned(),
                    // The one that draws lots.
                    seeded: policy.name == "random",
                    guests,
                }
            })
            .collect();
        policies.sort_by(|a, b| a.name.cmp(&b.name));
        policies
    }

    fn set_policy(&self, guest: &str, request: &PolicyRequest) -> Answer<()> {
        let found = &self.guest_named(guest)?.station.guest;
        let seed = request
            .seed
            .map_or_else(|| seed_of(self.tiers.paths.now()), seed_of);
        (found.set_policy(&request.policy, seed)).map_err(|_| TierError::NoSuchPolicy {
            name: request.policy.clone(),
        })?;
        {
            let seeds = &mut self.tiers.settings.lock().seeds;
            if request.policy == "random" {
                seeds.insert(guest.to_owned(), seed);
            } else {
                seeds.remove(guest);
            }
        }
        self.changed();
        Ok(())
    }

    fn links(&self) -> Vec<Link> {
        self.shown_links()
    }

    fn set_link(&self, request: &LinkRequest) -> Answer<Vec<Link>> {
        let links = self.linked()?;
        let bad = |error: LinkError| not_linked(&error);
        let change: LinkChange = request.text.parse().map_err(bad)?;
        let tier = match request.tier {
            Some(tier) => tier,
            None => self.farthest()?,
        };
        let guest = request.guest.as_deref();
        let capped = match (change.local_npages, guest) {
            (None, _) => None,
            (Some(_), None) => {
                let reason = "local_npages is one guest's: name the guest".to_owned();
                return Err(TierError::BadText { reason });
            }
            (Some(pages), Some(guest)) => {
                let guest = &self.guest_named(guest)?.station.guest;
                let before = guest.dram_limits();
                let wanted = DramLimits {
                    cap_pages: Some(u32::try_from(pages).unwrap_or(u32::MAX)),
                    ..before
                };
                (guest.set_dram_limits(wanted)).map_err(|error| refused(&error))?;
                Some((guest, before))
            }
        };
        if !change.is_empty() {
            let calibration = self.tiers.paths.calibration();
            let name = tier.as_str();
            if let Err(error) =
                links.set(name, guest, ways(request.direction), &change, &calibration)
            {
                if let Some((guest, before)) = capped
                    && let Err(error) = guest.set_dram_limits(before)
                {
                    tracing::error!(guest = guest.name(), %error, "a cap cannot be taken back");
                }
                return Err(not_linked(&error));
            }
        }
        self.changed();
        Ok(self.links_of(Some(tier), guest, request.direction))
    }

    fn clear_link(&self, request: &LinkClearRequest) -> Answer<Vec<Link>> {
        for &tier in [TierName::Pm, TierName::Remote].iter() {
            if request.tier.is_none_or(|wanted| wanted == tier) {
                self.clear_tier(tier, request)?;
            }
        }
        self.changed();
        Ok(self.links_of(request.tier, request.guest.as_deref(), request.direction))
    }

    fn set_faults(&self, request: &FaultsRequest) -> Answer<Vec<Link>> {
        let bad = |error: LinkError| not_linked(&error);
        let plan: FaultPlan = if request.text.trim().is_empty() {
            FaultPlan::default()
        } else {
            request.text.parse().map_err(bad)?
        };
        // Links that go wrong are waited for, too.
        self.tiers.paths.calibration();
        let (tier, guest) = (request.tier.as_str(), request.guest.as_deref());
        let now = self.tiers.paths.now();
        (self.linked()?)
            .set_faults(tier, guest, ways(request.direction), now, &plan)
            .map_err(bad)?;
        self.changed();
        Ok(self.links_of(Some(request.tier), guest, request.direction))
    }

    fn trace_start(&self, guest: &str, name: &str) -> Answer<TraceStatus> {
        let station = &self.guest_named(guest)?.station;
        let now = self.tiers.paths.now();
        let begun = (self.tiers.traces).start(&station.trace, &station.guest, name, now)?;
        self.tiers.call_worker();
        Ok(begun)
    }

    fn trace_stop(&self, guest: &str) -> Answer<TraceStatus> {
        let station = &self.guest_named(guest)?.station;
        self.tiers.traces.stop(&station.trace)
    }
}
