// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What became of a page, and why a connection ends.

use std::fmt;

use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes, Unaligned};

/// What became of one page of a request.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    TryFromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(u8)]
pub enum Status {
    /// Stored, delivered, or gone.
    Ok = 0,
    /// The store has no such page.
    Missing = 1,
    /// The store has, or had, something newer: the request changed nothing.
    Stale = 2,
    /// The store has no room.
    Full = 3,
    /// The namespace has all the pages that its quota allows.
    OverQuota = 4,
    /// The page arrived with other bytes than its checksum says: nothing is stored.
    BadChecksum = 5,
    /// The page was damaged in the store: its bytes are lost here.
    Damaged = 6,
    /// A newer process of the same client is there: nothing is served to this one any more.
    Fenced = 7,
    /// More was asked for at once than the store allows.
    TooMany = 8,
    /// The store does not offer this, or not for this pool.
    Unsupported = 9,
    /// The pool has no such index.
    OutOfRange = 10,
    /// The store could not do it: its own medium failed.
    Failed = 11,
}

impl Status {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 12] = [
        Self::Ok,
        Self::Missing,
        Self::Stale,
        Self::Full,
        Self::OverQuota,
        Self::BadChecksum,
        Self::Damaged,
        Self::Fenced,
        Self::TooMany,
        Self::Unsupported,
        Self::OutOfRange,
        Self::Failed,
    ];

    /// The status of a code on the wire.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// Its code on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The request did what it asked for.
    #[must_use]
    pub const fn is_ok(self) -> bool {
        matches!(self, Self::Ok)
    }

    /// A stable word for it, for logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Stale => "stale",
            Self::Full => "full",
            Self::OverQuota => "over_quota",
            Self::BadChecksum => "bad_checksum",
            Self::Damaged => "damaged",
            Self::Fenced => "fenced",
            Self::TooMany => "too_many",
            Self::Unsupported => "unsupported",
            Self::OutOfRange => "out_of_range",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "done",
            Self::Missing => "the store has no such page",
            Self::Stale => "the store has something newer",
            Self::Full => "the store is full",
            Self::OverQuota => "the namespace's quota is used up",
            Self::BadChecksum => "the page was changed on its way to the store",
            Self::Damaged => "the page was damaged in the store",
            Self::Fenced => "a newer process of the same client is there",
            Self::TooMany => "too much was asked for at once",
            Self::Unsupported => "the store does not offer this",
            Self::OutOfRange => "the pool has no such index",
            Self::Failed => "the store's own medium failed",
        })
    }
}

/// Why a store refuses a connection or ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No version of the protocol that both speak.
    Version,
    /// The namespace has no proper name.
    Namespace,
    /// This client may not use that namespace.
    Denied,
    /// A connection with a higher epoch is or was there.
    Fenced,
    /// The store cannot give the namespace what it wants.
    NoRoom,
    /// The store has as many connections as it allows.
    TooMany,
    /// The peer has sent something that is not the protocol.
    Protocol,
    /// The store is about to end.
    Stopping,
    /// The peer has been silent, or too slow, for too long.
    Idle,
    /// The store has failed inside.
    Internal,
    /// A reason that a later version has added.
    Other(u8),
}

impl Reason {
    /// The reason of a code on the wire. One that is not known stays a number.
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Version,
            2 => Self::Namespace,
            3 => Self::Denied,
            4 => Self::Fenced,
            5 => Self::NoRoom,
            6 => Self::TooMany,
            7 => Self::Protocol,
            8 => Self::Stopping,
            9 => Self::Idle,
            10 => Self::Internal,
            other => Self::Other(other),
        }
    }

    /// Its code on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Version => 1,
            Self::Namespace => 2,
            Self::Denied => 3,
            Self::Fenced => 4,
            Self::NoRoom => 5,
            Self::TooMany => 6,
            Self::Protocol => 7,
            Self::Stopping => 8,
            Self::Idle => 9,
            Self::Internal => 10,
            Self::Other(code) => code,
        }
    }

    /// Another attempt may succeed without anybody's doing.
    #[must_use]
    pub const fn is_passing(self) -> bool {
        matches!(
            self,
            Self::NoRoom | Self::TooMany | Self::Stopping | Self::Idle | Self::Internal
        )
    }

    /// A stable word for it, for logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Namespace => "namespace",
            Self::Denied => "denied",
            Self::Fenced => "fenced",
            Self::NoRoom => "no_room",
            Self::TooMany => "too_many",
            Self::Protocol => "protocol",
            Self::Stopping => "stopping",
            Self::Idle => "idle",
            Self::Internal => "internal",
            Self::Other(_) => "other",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version => f.write_str("no version of the protocol in common"),
            Self::Namespace => f.write_str("the namespace's name is not a name"),
            Self::Denied => f.write_str("this client may not use that namespace"),
            Self::Fenced => f.write_str("a newer process of the same client is there"),
            Self::NoRoom => f.write_str("the store cannot give what the namespace wants"),
            Self::TooMany => f.write_str("the store has as many connections as it allows"),
            Self::Protocol => f.write_str("the peer did not keep to the protocol"),
            Self::Stopping => f.write_str("the store is about to end"),
            Self::Idle => f.write_str("the peer was silent or too slow"),
            Self::Internal => f.write_str("the store has failed inside"),
            Self::Other(code) => write!(f, "reason {code}, which this version does not know"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_list() {
        for code in 0..=u8::MAX {
            let status = Status::from_code(code);
            assert_eq!(status.map(Status::code), (code < 12).then_some(code));
            assert_eq!(Reason::from_code(code).code(), code);
        }
    }

    #[test]
    fn names_tell_statuses_apart() {
        let names: std::collections::BTreeSet<_> = Status::ALL.iter().map(|s| s.name()).collect();
        let texts: std::collections::BTreeSet<_> =
            Status::ALL.iter().map(ToString::to_string).collect();
        assert_eq!((names.len(), texts.len()), (12, 12));
    }
}
