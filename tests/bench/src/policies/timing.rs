// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a step costs: the same replay, with a clock.

use std::hint::black_box;
use std::time::Instant;

use tmem_pages::policy::POLICIES;

use super::peer::{self, Peer};
use super::replay::Cache;
use super::synthetic::{Source, sources};
use super::{Step, Trace};
use crate::Row;
use crate::report::{Spread, median, quartiles};

/// Part of the pages that the cache holds.
const PERCENT: u32 = 10;

/// A row for each policy, by turns with the peer: nanoseconds for a step of zipf 0.99. Both sides look
/// the page up, ours in an array as the engine's index is one, the peer in its hash table.
pub(super) fn rows(quick: bool) -> Vec<Row> {
    let rounds = if quick { 3 } else { 7 };
    let Some(Source::Fixed(trace)) = sources(quick).into_iter().nth(1) else {
        return Vec::new();
    };
    let size = trace.size(PERCENT);
    let mut ours = vec![Vec::new(); POLICIES.len()];
    let mut peers = vec![Vec::new(); POLICIES.len()];
    for _ in 0..rounds {
        for (at, kind) in POLICIES.iter().enumerate() {
            let mut cache = Cache::new(trace.pages, kind.name, size);
            ours[at].push(time(&trace, |step| cache.step(step)));
            let mut peer = Peer::new(size);
            peers[at].push(time(&trace, |step| peer.step(step)));
        }
    }
    let sides = ours.iter().zip(&peers);
    (POLICIES.iter().zip(sides))
        .map(|(kind, (ours, peer))| {
            let ratios: Vec<f64> = ours
                .iter()
                .zip(peer)
                .map(|(ours, peer)| peer / ours)
                .collect();
            Row {
                area: "policies",
                name: format!("{}, {PERCENT} %, a step: {}", trace.name, kind.name),
                unit: "ns",
                ours: median(ours),
                peer: Some(median(peer)),
                peer_name: Some(format!("{} (with its hash table)", peer::NAME)),
                floor: None,
                ratio: Some(median(&ratios)),
                spread: Some(Spread {
                    ours: quartiles(ours),
                    peer: quartiles(peer),
                    ratio: quartiles(&ratios),
                }),
                goal: None,
                met: None,
                emulated: false,
                regime: "one thread, hits, misses and evictions".to_owned(),
            }
        })
        .collect()
}

/// Nanoseconds for a step.
fn time(trace: &Trace, mut step: impl FnMut(Step) -> bool) -> f64 {
    let start = Instant::now();
    let hits = trace.steps.iter().filter(|one| step(**one)).count();
    black_box(hits);
    #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark")]
    let steps = trace.steps.len().max(1) as f64;
    start.elapsed().as_secs_f64() * 1e9 / steps
}
