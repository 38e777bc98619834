// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whose transfers use which link: tier by tier, direction by direction, with guests that have their
//! own.
//!
//! ```text
//!            in: towards the guest        out: away from it
//! tier pm    ──────────────────           ──────────────────
//! tier far   ──────────────────           ──────────────────   every guest without a link of its own
//!    vm1     ─┐ queue=shared                                   own latency, jitter and cap,
//!             └────────────────                                on the tier's wire
//!    vm2     ══════════════════           ══════════════════   queue=own: a wire of its own
//! ```
//!
//! A worker keeps a [`Route`] for each guest and tier that it serves; a change makes it look again,
//! and until then it costs one load.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::calibration::Calibration;
use super::error::LinkError;
use super::fault::FaultPlan;
use super::model::Link;
use super::pair::{Direction, Directions, Lane, LinkPair};
use super::spec::{LinkChange, LinkSpec, Queue};
use super::stats::LinkStats;

/// The links of all tiers and guests.
#[derive(Debug)]
pub struct Links {
    /// Counts changes of who uses which link.
    changes: AtomicU64,
    tiers: Mutex<Vec<Tier>>,
}

#[derive(Debug)]
struct Tier {
    name: String,
    links: [Arc<Link>; 2],
    guests: BTreeMap<String, [Option<Own>; 2]>,
}

/// A guest's own link in one direction.
#[derive(Clone, Debug)]
struct Own {
    link: Arc<Link>,
    queue: Queue,
}

/// A link, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkView {
    /// The tier.
    pub tier: String,
    /// The guest that has it alone; nobody's in particular if nothing.
    pub guest: Option<String>,
    /// The direction.
    pub direction: Direction,
    /// Of a guest's link: whose wire it sends on.
    pub queue: Option<Queue>,
    /// What it is like.
    pub spec: LinkSpec,
    /// The faults that were planned.
    pub faults: FaultPlan,
    /// Whether anything is added to what goes over it, by it or by the wire it sends on.
    pub emulated: bool,
    /// What it has carried.
    pub stats: LinkStats,
}

impl Links {
    /// A table of `tiers` whose links add nothing.
    ///
    /// # Errors
    /// When two tiers have one name.
    pub fn new<T: Into<String>>(
        tiers: impl IntoIterator<Item = T>,
    ) -> Result<Arc<Self>, LinkError> {
        let mut all: Vec<Tier> = Vec::new();
        for name in tiers {
            let tier = name.into();
            if all.iter().any(|other| other.name == tier) {
                return Err(LinkError::TierTwice { tier });
            }
            let [inward, outward] = Direction::BOTH
                .map(|direction| Link::with_stream(LinkSpec::default(), direction.stream()));
            all.push(Tier {
                name: tier,
                links: [Arc::new(inward?), Arc::new(outward?)],
                guests: BTreeMap::new(),
            });
        }
        Ok(Arc::new(Self {
            changes: AtomicU64::new(0),
            tiers: Mutex::new(all),
        }))
    }

    /// Changes the tier's link or, with a guest, that guest's. A guest's first change gives it a link
    /// of its own: what the change does not name is then as it was on the tier's, but for the
    /// bandwidth if it rides on the tier's wire, which is limited there. `local_npages` is not for
    /// links and is left to the caller. Either all directions are changed or none.
    ///
    /// # Errors
    /// When there is no such tier, the link would be out of range or below the floor of
    /// `calibration`, or a queue is named without a guest.
    pub fn set(
        &self,
        tier: &str,
        guest: Option<&str>,
        directions: Directions,
        change: &LinkChange,
        calibration: &Calibration,
    ) -> Result<(), LinkError> {
        if guest.is_none() && change.queue.is_some() {
            return Err(LinkError::QueueOfTier);
        }
        let mut tiers = self.tiers.lock();
        let tier = find(&mut tiers, tier)?;
        let mut planned = Vec::new();
        for direction in directions.each() {
            let (queue, spec) = tier.planned(guest, direction, change);
            spec.check()?;
            calibration.check(&spec)?;
            planned.push((direction, queue, spec));
        }
        for (direction, queue, spec) in planned {
            tier.set(guest, direction, queue, spec)?;
        }
        self.changed();
        Ok(())
    }

    /// Takes a guest's own links of a tier away; it uses the tier's again. False if it had none.
    ///
    /// # Errors
    /// When there is no such tier.
    pub fn clear(&self, tier: &str, guest: &str) -> Result<bool, LinkError> {
        let mut tiers = self.tiers.lock();
        let had = find(&mut tiers, tier)?.guests.remove(guest).is_some();
        self.changed();
        Ok(had)
    }

    /// Takes all of a guest's own links away.
    pub fn forget_guest(&self, guest: &str) {
        for tier in self.tiers.lock().iter_mut() {
            tier.guests.remove(guest);
        }
        self.changed();
    }

    /// Plans faults from `now` on, in place of those that were planned, on the tier's link or on a
    /// guest's own. Directions have the same plan and different chances.
    ///
    /// # Errors
    /// When there is no such tier, or the guest has no link of its own in a direction.
    pub fn set_faults(
        &self,
        tier: &str,
        guest: Option<&str>,
        directions: Directions,
        now: u64,
        plan: &FaultPlan,
    ) -> Result<(), LinkError> {
        let mut tiers = self.tiers.lock();
        let tier = find(&mut tiers, tier)?;
        let links: Result<Vec<_>, _> = (directions.each())
            .map(|direction| tier.link(guest, direction))
            .collect();
        for link in links? {
            link.set_faults(now, plan);
        }
        Ok(())
    }

    /// The way of a guest's pages to and from a tier, for one worker to keep.
    ///
    /// # Errors
    /// When there is no such tier.
    pub fn route(self: &Arc<Self>, tier: &str, guest: &str) -> Result<Route, LinkError> {
        let changes = self.changes.load(Ordering::Acquire);
        let mut tiers = self.tiers.lock();
        let pair = find(&mut tiers, tier)?.pair(guest);
        Ok(Route {
            links: Arc::clone(self),
            tier: tier.to_owned(),
            guest: guest.to_owned(),
            changes,
            pair,
        })
    }

    /// Whether any link adds anything: if so, every figure of this process says that it is emulated.
    #[must_use]
    pub fn emulated(&self) -> bool {
        self.tiers.lock().iter().any(|tier| {
            let own = tier.guests.values().flatten().flatten();
            (tier.links.iter().chain(own.map(|own| &own.link))).any(|link| link.emulated())
        })
    }

    /// All links: each tier's, then those of its guests by name.
    #[must_use]
    pub fn show(&self) -> Vec<LinkView> {
        self.tiers.lock().iter().flat_map(Tier::show).collect()
    }

    /// After the change was made: who sees the new count also sees what it counts.
    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }
}

fn find<'a>(tiers: &'a mut [Tier], name: &str) -> Result<&'a mut Tier, LinkError> {
    let at = tiers.iter().position(|tier| tier.name == name);
    let known: Vec<&str> = tiers.iter().map(|tier| tier.name.as_str()).collect();
    let unknown = LinkError::UnknownTier {
        tier: name.chars().take(60).collect(),
        known: if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        },
    };
    at.and_then(|at| tiers.get_mut(at)).ok_or(unknown)
}

impl Tier {
    fn own(&self, guest: Option<&str>, direction: Direction) -> Option<&Own> {
        direction.of(self.guests.get(guest?)?).as_ref()
    }

    fn link(&self, guest: Option<&str>, direction: Direction) -> Result<Arc<Link>, LinkError> {
        let Some(guest) = guest else {
            return Ok(Arc::clone(direction.of(&self.links)));
        };
        let own = self.own(Some(guest), direction);
        let own = own.ok_or_else(|| LinkError::NoOverride {
            tier: self.name.clone(),
            guest: guest.to_owned(),
        });
        Ok(Arc::clone(&own?.link))
    }

    /// What a link would be after a change.
    fn planned(
        &self,
        guest: Option<&str>,
        direction: Direction,
        change: &LinkChange,
    ) -> (Queue, LinkSpec) {
        let tiers = direction.of(&self.links).spec();
        let own = self.own(guest, direction);
        let queue = (change.queue)
            .or_else(|| own.map(|own| own.queue))
            .unwrap_or_default();
        let mut from = own.map_or_else(|| tiers.clone(), |own| own.link.spec());
        if guest.is_some() {
            match (own.map(|own| own.queue), queue) {
                // The wire has the tier's limit already.
                (None, Queue::Shared) => from.bandwidth_bps = None,
                // It leaves the wire that limited it.
                (Some(Queue::Shared), Queue::Own) if from.bandwidth_bps.is_none() => {
                    from.bandwidth_bps = tiers.bandwidth_bps;
                }
                _ => {}
            }
        }
        (queue, change.apply(&from))
    }

    fn set(
        &mut self,
        guest: Option<&str>,
        direction: Direction,
        queue: Queue,
        spec: LinkSpec,
    ) -> Result<(), LinkError> {
        let Some(guest) = guest else {
            return direction.of(&self.links).set(spec);
        };
        let own = self.guests.entry(guest.to_owned()).or_default();
        match direction.of_mut(own) {
            Some(own) => {
                own.queue = queue;
                own.link.set(spec)?;
            }
            none => {
                let link = Arc::new(Link::with_stream(spec, direction.stream())?);
                *none = Some(Own { link, queue });
            }
        }
        Ok(())
    }

    fn lane(&self, guest: &str, direction: Direction) -> Lane {
        let tiers = Arc::clone(direction.of(&self.links));
        match self.own(Some(guest), direction) {
            None => Lane::new(tiers, None),
            Some(own) => {
                let wire = (own.queue == Queue::Shared).then_some(tiers);
                Lane::new(Arc::clone(&own.link), wire)
            }
        }
    }

    fn pair(&self, guest: &str) -> LinkPair {
        LinkPair::new(
            self.lane(guest, Direction::In),
            self.lane(guest, Direction::Out),
        )
    }

    fn show(&self) -> Vec<LinkView> {
        let view = |guest: Option<&str>, direction, queue: Option<Queue>, link: &Link| {
            let wire = direction_wire(queue, direction, &self.links);
            LinkView {
                tier: self.name.clone(),
                guest: guest.map(str::to_owned),
                direction,
                queue,
                spec: link.spec(),
                faults: link.faults(),
                emulated: link.emulated() || wire.is_some_and(|wire| wire.emulated()),
                stats: link.stats(),
            }
        };
        let mut views: Vec<LinkView> = Direction::BOTH
            .map(|direction| {
                let link: &Arc<Link> = direction.of(&self.links);
                view(None, direction, None, link)
            })
            .into();
        for (guest, own) in &self.guests {
            for direction in Direction::BOTH {
                if let Some(own) = direction.of(own) {
                    views.push(view(Some(guest), direction, Some(own.queue), &own.link));
                }
            }
        }
        views
    }
}

/// The wire on which a guest's link with this queue sends, if that is not its own.
fn direction_wire(
    queue: Option<Queue>,
    direction: Direction,
    links: &[Arc<Link>; 2],
) -> Option<&Link> {
    (queue == Some(Queue::Shared)).then(|| direction.of(links).as_ref())
}

/// The way of one guest's pages to and from one tier.
#[derive(Clone, Debug)]
pub struct Route {
    links: Arc<Links>,
    tier: String,
    guest: String,
    changes: u64,
    pair: LinkPair,
}

impl Route {
    /// The links to use now.
    pub fn pair(&mut self) -> &LinkPair {
        let changes = self.links.changes.load(Ordering::Acquire);
        if changes != self.changes {
            self.look_again(changes);
        }
        &self.pair
    }

    #[cold]
    fn look_again(&mut self, changes: u64) {
        // Tiers are never taken away, so the tier is there.
        if let Ok(tier) = find(&mut self.links.tiers.lock(), &self.tier) {
            self.pair = tier.pair(&self.guest);
        }
        self.changes = changes;
    }
}
