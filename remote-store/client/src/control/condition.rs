// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a member is wanted for, how it is connected, and whether it lives: three matters apart.

use std::time::Duration;

/// What a member is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// To keep pages.
    Keep,
    /// To give them away, since this time.
    Drain { since: Duration },
    /// Nothing: its copies are struck off, since this time.
    GiveUp { since: Duration },
}

/// The control connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Idle { retry_at: Duration },
    Connecting { session: u64, since: Duration },
    Connected { session: u64 },
}

/// Whether it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Joining,
    Up,
    /// Signs of life before `until` do not lift the suspicion.
    Suspect {
        until: Duration,
    },
    Dead {
        since: Duration,
    },
}

/// What a new connection means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// From an attempt that was given up.
    Stale,
    /// Its copies are as they were.
    Trusted,
    /// They are to be compared first; `empty` if they are known to be gone.
    Untrusted { empty: bool },
}
