// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What an admin may choose, and what choices are refused.

use std::time::Duration;

use thiserror::Error;
use tmem_remote_protocol::Namespace;

/// Most copies of a page.
pub const REPLICAS_MAX: u8 = 3;
/// Most stores of one client: a page's copies are a mask of this width.
pub const MEMBERS_MAX: usize = 64;
/// Pages that the host may hold for stores that are late, if the admin does not say.
pub const HELD_PAGES_DEFAULT: u32 = 4096;

/// When a write is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// Every copy is acknowledged.
    #[default]
    All,
    /// The first copy is; the host holds the page until the others are.
    First,
}

/// When a read that waits asks a second store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hedge {
    /// After a multiple of what reads take, as measured.
    #[default]
    Auto,
    /// Never: only when the first has failed.
    Off,
    /// After this time.
    After(Duration),
}

/// See the fields; [`Settings::default`] is a single copy on whatever stores are added.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name of this client to the stores: who has it has the pages.
    pub namespace: String,
    /// Pages that may be kept.
    pub slots: u32,
    /// Copies of a page, 1 to [`REPLICAS_MAX`].
    pub replicas: u8,
    /// When a write is done.
    pub ack: Ack,
    /// A write that finds fewer stores than this fails. With 1 it is done, counted, and repaired later.
    pub min_copies: u8,
    /// How often stores say how they are.
    pub advert_period: Duration,
    /// When a read asks a second store.
    pub hedge: Hedge,
    /// How long to look for an answer before sleeping. Zero: not at all.
    pub poll: Duration,
    /// An answer that takes longer does not count, and its connection is closed. A read that can turn to
    /// another copy does so earlier: [`Self::failover_after`].
    pub request_timeout: Duration,
    /// A connection that takes longer fails.
    pub connect_timeout: Duration,
    /// What re-replication, rebalancing and drains may take of the network.
    pub repair_bytes_per_second: u64,
    /// With [`Ack::First`]: pages that the host may hold. Beyond them, writes wait for every copy.
    pub held_pages_max: u32,
    /// What to ask of each store; 0 for what it gives.
    pub quota_pages: u64,
    /// Indices of the pool whose pages may vanish; 0 for no such pool.
    pub ephemeral_indexes: u32,
    /// The session's epoch is at least this: milliseconds since 1970, or etcd's revision.
    pub epoch_floor: u64,
    /// Where random choices start.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            namespace: String::new(),
            slots: 0,
            replicas: 1,
            ack: Ack::All,
            min_copies: 1,
            advert_period: Duration::from_millis(100),
            hedge: Hedge::Auto,
            poll: Duration::ZERO,
            request_timeout: Duration::from_millis(300),
            connect_timeout: Duration::from_secs(1),
            repair_bytes_per_second: 100 << 20,
            held_pages_max: HELD_PAGES_DEFAULT,
            quota_pages: 0,
            ephemeral_indexes: 0,
            epoch_floor: 0,
            seed: 0,
        }
    }
}

/// Settings that cannot be.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadSettings {
    /// The namespace has characters that none may have, or is too long.
    #[error(
        "Cannot call this client {name:?}: a namespace has 1 to 64 of a-z, A-Z, 0-9, '.', '_', '-'"
    )]
    Namespace {
        /// The name.
        name: String,
    },
    /// No copies, or too many.
    #[error("Cannot keep {replicas} copies of a page: choose 1 to {REPLICAS_MAX}")]
    Replicas {
        /// The number.
        replicas: u8,
    },
    /// More copies required than made.
    #[error("Cannot require {min_copies} copies of a page of which there are {replicas}")]
    MinCopies {
        /// Copies required.
        min_copies: u8,
        /// Copies made.
        replicas: u8,
    },
    /// More slots than can be numbered.
    #[error(
        "Cannot keep {slots} pages: choose 1 to {}",
        tmem_pages::slots::SLOTS_MAX
    )]
    Slots {
        /// The number.
        slots: u32,
    },
    /// Stores do not speak that often, or that rarely.
    #[error("Cannot hear from stores every {period:?}: choose 10ms to 60s")]
    AdvertPeriod {
        /// The period.
        period: Duration,
    },
    /// A time that must not be zero is.
    #[error("Cannot work with a {what} of zero")]
    Zero {
        /// Which.
        what: &'static str,
    },
}

impl Settings {
    /// A read that can turn to another copy waits for one no longer than this: two advert periods, and
    /// two thirds of what it waits for the last copy there is. So a store that stands still costs less
    /// than the three periods after which it is dead.
    #[must_use]
    pub fn failover_after(&self) -> Duration {
        (self.advert_period * 2).min(self.request_timeout * 2 / 3)
    }

    /// Refuses what cannot be.
    ///
    /// # Errors
    /// [`BadSettings`], the first that is found.
    pub fn check(&self) -> Result<(), BadSettings> {
        if Namespace::new(&self.namespace).is_err() {
            let name = self.namespace.clone();
            return Err(BadSettings::Namespace { name });
        }
        let (replicas, min_copies) = (self.replicas, self.min_copies);
        if !(1..=REPLICAS_MAX).contains(&replicas) {
            return Err(BadSettings::Replicas { replicas });
        }
        if !(1..=replicas).contains(&min_copies) {
            return Err(BadSettings::MinCopies {
                min_copies,
                replicas,
            });
        }
        if !(1..=tmem_pages::slots::SLOTS_MAX).contains(&self.slots) {
            return Err(BadSettings::Slots { slots: self.slots });
        }
        let period = self.advert_period;
        if !(Duration::from_millis(10)..=Duration::from_secs(60)).contains(&period) {
            return Err(BadSettings::AdvertPeriod { period });
        }
        for (what, zero) in [
            ("request timeout", self.request_timeout.is_zero()),
            ("connect timeout", self.connect_timeout.is_zero()),
            ("repair bandwidth", self.repair_bytes_per_second == 0),
        ] {
            if zero {
                return Err(BadSettings::Zero { what });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Settings {
        Settings {
            namespace: "host7".into(),
            slots: 8,
            replicas: 2,
            ..Settings::default()
        }
    }

    #[test]
    fn a_read_turns_to_another_copy_well_before_a_store_is_dead() {
        for (period, timeout) in [(100, 300), (10, 300), (10_000, 300), (100, 50)] {
            let settings = Settings {
                advert_period: Duration::from_millis(period),
                request_timeout: Duration::from_millis(timeout),
                ..good()
            };
            let after = settings.failover_after();
            assert!(after * 3 <= settings.advert_period * 6, "{settings:?}");
            assert!(after < settings.request_timeout, "{settings:?}");
        }
    }

    #[test]
    fn settings_that_cannot_be_are_refused_one_by_one() {
        assert_eq!(good().check(), Ok(()));
        let bad: [fn(&mut Settings); 8] = [
            |s| s.namespace = "a/b".into(),
            |s| s.replicas = 0,
            |s| s.replicas = 4,
            |s| s.min_copies = 3,
            |s| s.slots = 0,
            |s| s.advert_period = Duration::from_millis(9),
            |s| s.request_timeout = Duration::ZERO,
            |s| s.repair_bytes_per_second = 0,
        ];
        for spoil in bad {
            let mut settings = good();
            spoil(&mut settings);
            assert!(settings.check().is_err(), "{settings:?}");
        }
    }
}
