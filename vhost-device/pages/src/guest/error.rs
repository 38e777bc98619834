// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why something cannot be done with a guest.

use thiserror::Error;

use crate::records::GUEST_NAME_MAX;

/// Why a guest cannot be attached, detached, or given the grant asked for.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum GuestError {
    /// The name is too long for its record.
    #[error(
        "Cannot attach guest {name:?}: its name is longer than {GUEST_NAME_MAX} bytes; choose a shorter one"
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// The name is in use.
    #[error(
        "Cannot attach guest {name:?}: one of this name is attached; detach it or choose another name"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The engine has as many guests as it can have.
    #[error(
        "Cannot attach guest {name:?}: there are {guests} guests, which is the most; detach one"
    )]
    TooMany {
        /// The name.
        name: String,
        /// Guests that there are.
        guests: usize,
    },
    /// The grants together would exceed what the tiers hold.
    #[error(
        "Cannot grant guest {name:?} {pages} pages: {pages_max} are not promised to others; lower a grant or enlarge a tier"
    )]
    Overcommitted {
        /// The name.
        name: String,
        /// Pages asked for.
        pages: u64,
        /// Pages that could be granted.
        pages_max: u64,
    },
    /// The guest holds more persistent pages than the new grant, which is lower than the last.
    #[error(
        "Cannot lower the grant of guest {name:?} to {pages} pages: it holds {held}; let it flush some first"
    )]
    GrantBelowUse {
        /// The name.
        name: String,
        /// Pages asked for.
        pages: u64,
        /// Persistent pages that the guest holds.
        held: u64,
    },
    /// No such guest, or no longer.
    #[error("Cannot find guest {name:?}: it is not attached; see the list of guests")]
    Unknown {
        /// The name.
        name: String,
    },
}
