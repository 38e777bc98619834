// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Self-ballooning: squeezes idle guests slowly, gives memory back fast, and moves it from the idle
//! to the busy.
//!
//! The controller is a plain structure: reports and the time go in, decisions come out. It has no
//! clock, no thread and no socket, and knows a guest only by its reports.
//!
//! ```text
//!  GuestReport ──▶ watch: how is this guest? ──▶ Claim {low, high, weight}
//!  GuestReport ──▶ watch                     ──▶ Claim                    ├─▶ share ─▶ sizes ─▶ Decision
//!  HostReport  ──▶ the budget ────────────────────────────────────────────┘
//! ```
//! 1. [`watch`] judges each guest by its last two reports: pressed, idle, steady, or one of the cases
//!    in which it is better left alone. From that follow the least and the most that it may have after
//!    this step, and how much its weight counts.
//! 2. [`share`] divides the budget. As long as all can have their most, they get it: the idle ones less
//!    than now, the pressed ones more. Where it is too little, the weights decide.
//! 3. Memory is given only once it is there: a guest that is to shrink is counted with what it still
//!    holds, so that all together stay within the budget while memory moves.
//!
//! The rule, its numbers and what they cost stand in `docs/self-ballooning.md`.

mod rates;
mod reason;
mod report;
mod settings;
mod share;
mod watch;

#[cfg(test)]
mod tests;

pub use reason::Reason;
pub use report::{Decision, Figures, GuestReport, HostReport, Pressure};
pub use settings::Settings;

use std::collections::HashMap;
use std::time::Duration;
use watch::{View, Watch};

/// Decides about the balloons of all guests that are on auto.
#[derive(Debug)]
pub struct Controller {
    settings: Settings,
    watches: HashMap<String, Watch>,
    /// Whether somebody went without in the last step.
    scarce: bool,
}

impl Controller {
    /// A controller that has seen nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            watches: HashMap::new(),
            scarce: false,
        }
    }

    /// Decides about all `guests` that are on auto; call it about once a second with any monotonic
    /// `now`. A guest that is left out is forgotten. The decisions are in the order of `guests`, and
    /// a guest whose balloon stays as it is has one as well.
    pub fn step(
        &mut self,
        now: Duration,
        host: &HostReport,
        guests: &[GuestReport<'_>],
    ) -> Vec<Decision> {
        self.watches
            .retain(|name, _| guests.iter().any(|report| report.guest == name));
        let scarce = self.scarce || host.needed_pages > 0;
        let views: Vec<View> = guests
            .iter()
            .map(|report| {
                let watch = self
                    .watches
                    .entry(report.guest.to_owned())
                    .or_insert_with(|| Watch::new(now));
                watch.look(now, &self.settings, report, scarce)
            })
            .collect();

        let claimed = sum(views.iter().map(|view| view.claimed));
        let budget = budget(host, claimed, &views);
        let claims: Vec<_> = views.iter().map(|view| view.claim).collect();
        let wanted = sum(claims.iter().map(|claim| claim.high));
        let parts = share::divide(budget, &claims);
        let over = sum(views.iter().map(|view| view.size)) > budget;
        let room = Room::of(budget, claimed, &views, &parts);
        self.scarce = wanted > budget || over;

        let decisions = guests
            .iter()
            .zip(&views)
            .zip(parts)
            .map(|((report, view), part)| {
                let size = self.size(view, part, over, &room);
                if let Some(watch) = self.watches.get_mut(report.guest) {
                    watch.decided(now, &self.settings, view.size, size);
                }
                Decision {
                    guest: report.guest.to_owned(),
                    target_pages: view.ram - size,
                    size_pages: size,
                    reason: reason(view, size),
                    pressure: view.pressure,
                }
            });
        decisions.collect()
    }

    /// What becomes of a guest whose part is `part`.
    fn size(&self, view: &View, part: u64, over: bool, room: &Room) -> u64 {
        let dead_band = self.settings.dead_band(view.ram);
        let size = if part > view.size {
            // What it has not let go of yet is counted for it already.
            let kept = part.min(view.claimed);
            let given = kept + room.given(part - kept);
            // Less than is worth a message, unless it is all that was wanted.
            if given < view.size + dead_band && given < part {
                view.size
            } else {
                given
            }
        } else if view.coarse && !over && view.size - part < dead_band {
            view.size
        } else {
            part
        };
        size.max(view.floor)
    }
}

/// What may be given in a step, and to how much wish.
struct Room {
    pages: u64,
    wished: u64,
}

impl Room {
    fn of(budget: u64, claimed: u64, views: &[View], parts: &[u64]) -> Self {
        let wishes = views.iter().zip(parts);
        Self {
            pages: budget.saturating_sub(claimed),
            wished: sum(wishes.map(|(view, part)| part.saturating_sub(view.claimed))),
        }
    }

    /// What a guest gets that may have `wish` pages more: its part of the room, if that is too small.
    fn given(&self, wish: u64) -> u64 {
        if self.wished <= self.pages {
            return wish;
        }
        let part = u128::from(wish) * u128::from(self.pages) / u128::from(self.wished.max(1));
        u64::try_from(part).unwrap_or(wish).min(wish)
    }
}

/// What all guests together may have.
fn budget(host: &HostReport, claimed: u64, views: &[View]) -> u64 {
    let ram = sum(views.iter().map(|view| view.ram));
    let own = host.budget_pages.unwrap_or(ram);
    if host.needed_pages == 0 {
        return own;
    }
    own.min(claimed.saturating_sub(host.needed_pages))
}

/// Why a guest came out with `size`.
fn reason(view: &View, size: u64) -> Reason {
    if size < view.size && size < view.claim.high {
        return if view.busy {
            Reason::Share
        } else {
            Reason::Asked
        };
    }
    if view.pressed && size <= view.size && size < view.ram {
        return Reason::Waiting;
    }
    view.reason
}

fn sum(pages: impl Iterator<Item = u64>) -> u64 {
    pages.fold(0, u64::saturating_add)
}
