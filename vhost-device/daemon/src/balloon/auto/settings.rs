// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The numbers of the rule. `docs/self-ballooning.md` tells what each does.

use std::time::Duration;

/// Thresholds, parts and times. The defaults are meant for everyone; tests use others to prove a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// An idle guest keeps this part of its size available.
    pub reserve_part: u64,
    /// And at least this much.
    pub reserve_pages_min: u64,
    /// And is content with this much.
    pub reserve_pages_max: u64,
    /// Part of what an idle guest has beyond its reserve that is taken with each report.
    pub idle_part: u64,
    /// The same while others wait for memory.
    pub asked_part: u64,
    /// Part of an idle guest's size that is taken from what it does not use lately, with each
    /// report, while others wait.
    pub cold_part: u64,
    /// The most that is taken from a busy guest with each report, as part of its size.
    pub share_part: u64,
    /// First step of a return, as part of RAM; it doubles with each report that still wants more.
    pub return_part: u64,
    /// Faults a second from which on a guest is pressed: this part of its size, within the bounds.
    pub faults_part: u64,
    /// Lower bound of that.
    pub faults_min: u64,
    /// Upper bound of that.
    pub faults_max: u64,
    /// A guest is quiet below this part of it.
    pub quiet_part: u64,
    /// Stall time from which on a guest is pressed.
    pub stalled_permille: u16,
    /// A guest is quiet below this.
    pub quiet_permille: u16,
    /// An idle guest's weight counts as it is, a steady one's so many times.
    pub steady_factor: u64,
    /// And a pressed one's so many times.
    pub pressed_factor: u64,
    /// Changes below this part of RAM are not worth a message.
    pub dead_part: u64,
    /// Statistics that are older than this say nothing.
    pub silent_after: Duration,
    /// A guest that has been silent for so long gets memory back.
    pub restored_after: Duration,
    /// After a return a guest is not squeezed for so long.
    pub rest: Duration,
    /// Pressure that comes so soon after a squeeze is blamed on it.
    pub blame: Duration,
    /// A size that hurt is not gone below for so long; each further time doubles it.
    pub sore_first: Duration,
    /// At most to this.
    pub sore_most: Duration,
    /// A balloon that has not grown for so long is stuck.
    pub stuck_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            reserve_part: 8,
            reserve_pages_min: (8 << 20) >> 12,
            reserve_pages_max: (1 << 30) >> 12,
            idle_part: 8,
            asked_part: 2,
            cold_part: 32,
            share_part: 16,
            return_part: 8,
            faults_part: 4096,
            faults_min: 32,
            faults_max: 256,
            quiet_part: 4,
            stalled_permille: 100,
            quiet_permille: 10,
            steady_factor: 4,
            pressed_factor: 16,
            dead_part: 256,
            silent_after: Duration::from_secs(10),
            restored_after: Duration::from_secs(60),
            rest: Duration::from_secs(10),
            blame: Duration::from_secs(30),
            sore_first: Duration::from_secs(60),
            sore_most: Duration::from_secs(3600),
            stuck_after: Duration::from_secs(10),
        }
    }
}

impl Settings {
    /// What an idle guest of this size keeps available.
    pub(super) fn reserve(&self, size: u64) -> u64 {
        (size / self.reserve_part.max(1))
            .max(self.reserve_pages_min)
            .min(self.reserve_pages_max)
    }

    /// Faults a second from which on a guest of this size is pressed.
    pub(super) fn faults(&self, size: u64) -> u64 {
        (size / self.faults_part.max(1))
            .max(self.faults_min)
            .min(self.faults_max)
    }

    /// The smallest change that is worth a message to a guest of so much RAM.
    pub(super) fn dead_band(&self, ram: u64) -> u64 {
        (ram / self.dead_part.max(1)).max(1)
    }

    /// For how long a size that hurt so many times is not gone below.
    pub(super) fn sore_for(&self, times: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(times.saturating_sub(1).min(31));
        self.sore_first.saturating_mul(doubled).min(self.sore_most)
    }
}
