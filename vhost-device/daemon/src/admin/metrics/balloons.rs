// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The part of the text about balloons. Of a guest without one there are no samples.

use tmem_admin_api::{Balloon, BalloonDriver, BalloonMode, BalloonStatistics};
use tmem_metrics::Text;

use super::{
    BALLOON_AUTO, BALLOON_BUDGET, BALLOON_DECISION, BALLOON_FREED, BALLOON_GUEST, BALLOON_HELD,
    BALLOON_MEMORY, BALLOON_OOM, BALLOON_REFUSED, BALLOON_SIZE, BALLOON_TARGET, BALLOON_WORKS,
    Metric,
};
use crate::status::AdminSource;

pub(super) fn balloons(text: &mut Text, source: &dyn AdminSource) {
    let admin = source.balloon_admin();
    let mut balloons = admin.map(|admin| admin.balloons()).unwrap_or_default();
    balloons.retain(|balloon| balloon.enabled);
    let budget = admin.and_then(|admin| admin.budget());
    text.family(BALLOON_BUDGET, budget.map(|pages| ([], pages)));
    let mut plain = |metric: Metric, value: fn(&Balloon) -> u64| {
        let balloons = balloons.iter();
        text.family(metric, balloons.map(|b| ([("guest", &*b.guest)], value(b))));
    };
    plain(BALLOON_MEMORY, |b| b.memory_pages);
    plain(BALLOON_SIZE, |b| b.size_pages);
    plain(BALLOON_TARGET, |b| b.target_pages);
    plain(BALLOON_HELD, |b| b.held_pages);
    plain(BALLOON_AUTO, |b| u64::from(b.mode == BalloonMode::Auto));
    plain(BALLOON_WORKS, |b| {
        u64::from(b.driver == BalloonDriver::Works)
    });
    text.family(
        BALLOON_DECISION,
        balloons.iter().filter_map(|b| {
            let decision = b.decision.as_ref()?;
            Some(([("guest", &*b.guest), ("reason", &*decision.reason)], 1))
        }),
    );
    text.family(
        BALLOON_FREED,
        balloons.iter().flat_map(|b| {
            [
                ("inflated", b.counts.inflated_pages),
                ("reported", b.counts.reported_pages),
            ]
            .map(|(way, pages)| ([("guest", &*b.guest), ("way", way)], pages))
        }),
    );
    text.family(
        BALLOON_REFUSED,
        balloons.iter().flat_map(|b| {
            let refused = b.counts.refused.iter();
            refused.map(|(reason, ranges)| {
                let labels = [("guest", &*b.guest), ("reason", reason.as_str())];
                (labels, *ranges)
            })
        }),
    );
    let told = || {
        let balloons = balloons.iter();
        balloons.filter_map(|b| b.statistics.as_ref().map(|stats| (&*b.guest, stats)))
    };
    text.family(
        BALLOON_OOM,
        told().map(|(guest, stats)| ([("guest", guest)], stats.oom_deflated_pages)),
    );
    let kinds = |stats: &BalloonStatistics| {
        [
            ("total", stats.total_pages),
            ("available", stats.available_pages),
            ("free", stats.free_pages),
            ("swapped", stats.swapped_pages),
        ]
    };
    text.family(
        BALLOON_GUEST,
        told().flat_map(|(guest, stats)| {
            kinds(stats).map(|(kind, pages)| ([("guest", guest), ("kind", kind)], pages))
        }),
    );
}
