// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the controller is told about host and guests, and what it answers.
//!
//! Memory is counted in pages of 4096 bytes. A guest's *size* is its RAM less its balloon: what it
//! may have resident.

use super::reason::Reason;
use std::time::Duration;
use tmem_abi::{BalloonStats, STATS_UNKNOWN};

/// The host at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostReport {
    /// What all guests on auto may have resident together; without it, as much as they have RAM.
    pub budget_pages: Option<u64>,
    /// What the host is short of right now, beyond that.
    pub needed_pages: u64,
}

/// A guest at one moment.
#[derive(Clone, Copy, Debug)]
pub struct GuestReport<'a> {
    /// Its name.
    pub guest: &'a str,
    /// Its whole memory, which is also its ceiling.
    pub ram_pages: u64,
    /// The size that it never goes below.
    pub floor_pages: u64,
    /// Its weight against others; guests that are to be equal have equal ones.
    pub weight: u32,
    /// Size of the balloon that it was told last.
    pub target_pages: u64,
    /// Its last statistics and when they came; none if it has sent none since it greeted.
    pub figures: Option<(Duration, Figures)>,
}

/// The part of a guest's statistics that counts here. A guest may write what it likes into them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Counts its reports.
    pub sequence: u64,
    /// Pages in the balloon.
    pub held: u64,
    /// Pages that its kernel manages, without those in the balloon.
    pub total: u64,
    /// Pages that it could have without swapping.
    pub available: u64,
    /// Pages that nothing uses.
    pub free: u64,
    /// Pages read back from swap, so far.
    pub swap_ins: u64,
    /// Pages written to swap, so far.
    pub swap_outs: u64,
    /// Pages that came back soon after their eviction, so far; none if it cannot tell.
    pub refaults: Option<u64>,
    /// Time in which some task waited for memory, in µs, so far; none without an agent.
    pub psi_some_us: Option<u64>,
    /// Of what its kernel manages, pages that its own side keeps.
    pub floor: u64,
    /// Pages that the balloon gave back because the guest was out of memory, so far.
    pub oom_deflated: u64,
    /// Why the host refused pages last, as in [`tmem_abi::balloon_result`]; 0: it did not.
    pub refusal: u64,
}

impl Figures {
    /// The size below which a guest with so much RAM will not go: beside its floor it keeps what its
    /// kernel does not manage, such as the kernel itself.
    pub(super) fn own_floor(&self, ram_pages: u64) -> u64 {
        let managed = self.total.saturating_add(self.held);
        let other = ram_pages.saturating_sub(managed);
        self.floor.saturating_add(other)
    }
}

impl From<&BalloonStats> for Figures {
    fn from(stats: &BalloonStats) -> Self {
        let known = |value: u64| (value != STATS_UNKNOWN).then_some(value);
        Self {
            sequence: stats.sequence,
            held: stats.held,
            total: stats.total,
            available: stats.available,
            free: stats.free,
            swap_ins: stats.swap_ins,
            swap_outs: stats.swap_outs,
            refaults: known(stats.refaults),
            psi_some_us: known(stats.psi_some_us),
            floor: known(stats.floor).unwrap_or(0),
            oom_deflated: stats.oom_deflated,
            refusal: stats.reason,
        }
    }
}

/// What a guest's last two statistics say about its want of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Pages a second that it read back from swap or from files soon after their eviction.
    pub faults_per_s: u64,
    /// How much of the time some task of it waited for memory; none without an agent.
    pub stalled_permille: Option<u16>,
}

/// What is to become of a guest's balloon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The guest's name.
    pub guest: String,
    /// Size of the balloon: to be told if it is another than before.
    pub target_pages: u64,
    /// What that leaves to the guest.
    pub size_pages: u64,
    /// Why.
    pub reason: Reason,
    /// What the rule saw.
    pub pressure: Pressure,
}
