// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How full the stores are, one against the other, and which page would even it out.

use std::time::Duration;

use super::config::Config;
use super::event::MemberNo;
use super::members::Members;
use super::table::Standing;
use super::view::View;

/// Parts that a whole store is divided into.
const WHOLE: u64 = 1_000_000;

/// How full the stores are at one moment, in millionths.
#[derive(Clone, Debug)]
pub(crate) struct Balance {
    full: Vec<(MemberNo, u64)>,
    limits: Vec<u64>,
    threshold: u64,
}

impl Balance {
    pub(crate) fn of(members: &Members, config: &Config, now: Duration) -> Self {
        let mut full = Vec::new();
        let mut limits = Vec::new();
        for member in members.balanced() {
            let (limit, free) = member.room(now);
            if limit == 0 {
                continue;
            }
            let used = u128::from(limit - free) * u128::from(WHOLE) / u128::from(limit);
            full.push((member.number, u64::try_from(used).unwrap_or(WHOLE)));
            limits.push(limit);
        }
        Self {
            full,
            limits,
            threshold: u64::from(config.rebalance_percent) * (WHOLE / 100),
        }
    }

    /// The fullest and the emptiest differ by as much as matters.
    pub(crate) fn is_uneven(&self) -> bool {
        let fullest = self.full.iter().map(|(_, full)| *full).max();
        let emptiest = self.full.iter().map(|(_, full)| *full).min();
        match (fullest, emptiest) {
            (Some(fullest), Some(emptiest)) => fullest - emptiest >= self.threshold,
            _ => false,
        }
    }

    /// About how many pages must move until all are equally full.
    pub(crate) fn pages_to_move(&self) -> u64 {
        let whole: u128 = self.limits.iter().map(|limit| u128::from(*limit)).sum();
        if whole == 0 {
            return 0;
        }
        let used: u128 = self.used().sum();
        let mean = used / whole;
        let above = self
            .used()
            .zip(&self.limits)
            .map(|(used, limit)| used.saturating_sub(mean * u128::from(*limit)));
        u64::try_from(above.sum::<u128>() / u128::from(WHOLE)).unwrap_or(u64::MAX)
    }

    fn used(&self) -> impl Iterator<Item = u128> {
        self.full
            .iter()
            .zip(&self.limits)
            .map(|((_, full), limit)| u128::from(*full) * u128::from(*limit))
    }

    /// A copy of the page at `mask` that is better off elsewhere: from where, and to where.
    pub(crate) fn better(
        &self,
        mask: u64,
        standing: &Standing,
        view: &View,
    ) -> Option<(MemberNo, MemberNo)> {
        let here = |member: &MemberNo| mask & standing.staying & member.bit() != 0;
        let (from, most) = self
            .full
            .iter()
            .filter(|(member, _)| here(member))
            .max_by_key(|(_, full)| *full)?;
        let mut blocked = mask;
        for other in MemberNo::all_in(mask & !from.bit()) {
            blocked |= view.domain(other);
        }
        let (to, least) = self
            .full
            .iter()
            .filter(|(member, _)| blocked & member.bit() == 0 && view.open() & member.bit() != 0)
            .min_by_key(|(_, full)| *full)?;
        (most.saturating_sub(*least) >= self.threshold).then_some((*from, *to))
    }
}
