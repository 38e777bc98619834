// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the owner of the stores' state is told at its start: counts, times, and bounds, each with
//! a name and a limit.

use std::time::Duration;

/// Members there can be: a page's copies are a bit mask of 64.
pub const MEMBERS_MAX: usize = 64;

/// Copies of a page at most.
pub const COPIES_MAX: u8 = 3;

/// Bytes that the copy of one page counts in the bound on repair.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// Settings of the [`Core`](super::Core).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Copies that a page is to have: 1 to [`COPIES_MAX`].
    pub copies: u8,
    /// How often a store is asked to say that it lives.
    pub advert_period: Duration,
    /// A store is dead after so many periods without a word.
    pub missed_adverts: u32,
    /// How long a store must have been dead before its pages are copied elsewhere: most stores that
    /// vanish come back at once.
    pub repair_delay: Duration,
    /// How long after the start a member that the table names, but that nobody has listed yet, is
    /// waited for before its pages are copied elsewhere.
    pub start_grace: Duration,
    /// A connection that is not made within this time has failed.
    pub connect_timeout: Duration,
    /// The first pause before a failed connection is tried again; it doubles.
    pub backoff_min: Duration,
    /// The longest such pause.
    pub backoff_max: Duration,
    /// How long writes that were placed by an older view may still be under way. A drained store is
    /// said to be empty only by a walk that began that long after the drain.
    pub settle: Duration,
    /// Pages' bytes per second that repair, drain and rebalancing may copy. 0 stops them.
    pub repair_bytes_per_second: u64,
    /// Copies under way at most.
    pub repair_in_flight: usize,
    /// Rebalancing ends when the fullest and the emptiest store differ by fewer percent than this.
    pub rebalance_percent: u8,
    /// Slots that one step of a walk looks at.
    pub walk_slots: u32,
    /// The pause between two steps of a walk.
    pub walk_pause: Duration,
    /// When something could not be repaired, it is tried again after this time.
    pub rescan_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            copies: 2,
            advert_period: Duration::from_millis(100),
            missed_adverts: 3,
            repair_delay: Duration::from_millis(500),
            start_grace: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(1),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            settle: Duration::from_secs(1),
            repair_bytes_per_second: 100 << 20,
            repair_in_flight: 64,
            rebalance_percent: 5,
            walk_slots: 1 << 17,
            walk_pause: Duration::from_millis(1),
            rescan_interval: Duration::from_secs(10),
        }
    }
}

/// A setting that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// More copies than a page can have, or none.
    #[error("A page has 1 to {COPIES_MAX} copies, not {0}")]
    Copies(u8),
    /// Time would stand still, or death would come with the first missed advert.
    #[error("Adverts come every 10 ms to 10 s, and 2 or more are missed before a store is dead")]
    Adverts,
    /// Nothing could ever be repaired, or too much would be under way.
    #[error("1 to 65,536 copies may be under way, not {0}")]
    InFlight(usize),
    /// A step of a walk must look at something, and a pause must be one.
    #[error("A walk looks at 1 or more slots in a step, and pauses for 1 µs or more")]
    Walk,
    /// Pauses that shrink or are none.
    #[error("The pauses between connection attempts grow, and none is 0")]
    Backoff,
    /// A threshold that is none, or everything.
    #[error("Rebalancing ends at a difference of 1 to 50 percent, not {0}")]
    Rebalance(u8),
}

impl Config {
    /// Says which setting cannot be.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn check(&self) -> Result<(), ConfigError> {
        if !(1..=COPIES_MAX).contains(&self.copies) {
            return Err(ConfigError::Copies(self.copies));
        }
        let periods = Duration::from_millis(10)..=Duration::from_secs(10);
        if !periods.contains(&self.advert_period) || !(2..=100).contains(&self.missed_adverts) {
            return Err(ConfigError::Adverts);
        }
        if !(1..=65_536).contains(&self.repair_in_flight) {
            return Err(ConfigError::InFlight(self.repair_in_flight));
        }
        if self.walk_slots == 0 || self.walk_pause < Duration::from_micros(1) {
            return Err(ConfigError::Walk);
        }
        if self.backoff_min.is_zero()
            || self.connect_timeout.is_zero()
            || self.backoff_max < self.backoff_min
        {
            return Err(ConfigError::Backoff);
        }
        if !(1..=50).contains(&self.rebalance_percent) {
            return Err(ConfigError::Rebalance(self.rebalance_percent));
        }
        Ok(())
    }

    /// Silence that makes a store dead.
    pub(crate) fn death_after(&self) -> Duration {
        self.advert_period * self.missed_adverts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_can_be() {
        assert_eq!(Config::default().check(), Ok(()));
    }

    #[test]
    fn four_copies_cannot_be() {
        let config = Config {
            copies: 4,
            ..Config::default()
        };
        assert_eq!(config.check(), Err(ConfigError::Copies(4)));
    }

    #[test]
    fn pauses_that_shrink_cannot_be() {
        let config = Config {
            backoff_max: Duration::from_millis(1),
            ..Config::default()
        };
        assert_eq!(config.check(), Err(ConfigError::Backoff));
    }
}
