// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What two reports of a guest say together: rates, and whether they belong together at all.

use super::report::{Figures, Pressure};
use std::time::Duration;

/// Whether `now` can be a later report of the same boot as `before`: no count of it is lower.
pub(super) fn follows(before: &Figures, now: &Figures) -> bool {
    now.sequence > before.sequence
        && now.swap_ins >= before.swap_ins
        && now.swap_outs >= before.swap_outs
        && now.refaults >= before.refaults
        && now.oom_deflated >= before.oom_deflated
}

/// What came between the two reports, as rates.
pub(super) fn pressure(before: &Figures, now: &Figures, took: Duration) -> Pressure {
    let refaults = match (before.refaults, now.refaults) {
        (Some(before), Some(now)) => now.saturating_sub(before),
        _ => 0,
    };
    let ins = now.swap_ins.saturating_sub(before.swap_ins);
    let stalled_permille = match (before.psi_some_us, now.psi_some_us) {
        (Some(before), Some(now)) => {
            let stalled = Duration::from_micros(now.saturating_sub(before));
            let permille = stalled.as_millis().saturating_mul(1000) / took.as_millis().max(1);
            Some(u16::try_from(permille.min(1000)).unwrap_or(1000))
        }
        _ => None,
    };
    Pressure {
        faults_per_s: per_second(ins.saturating_add(refaults), took),
        stalled_permille,
    }
}

/// `count` in `took`, by the second.
pub(super) fn per_second(count: u64, took: Duration) -> u64 {
    let rate = u128::from(count).saturating_mul(1000) / took.as_millis().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}
