// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What may happen to the owner of the stores' state: the only ways in.

use std::fmt;

use super::config::MEMBERS_MAX;

/// A member's number: its bit in the masks that say where a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberNo(u8);

impl MemberNo {
    /// None if there can be no such member.
    pub fn new(number: u8) -> Option<Self> {
        (usize::from(number) < MEMBERS_MAX).then_some(Self(number))
    }

    /// The number, below 64.
    pub fn get(self) -> u8 {
        self.0
    }

    /// As a place in a list of 64.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Its bit.
    pub fn bit(self) -> u64 {
        1 << self.0
    }

    /// The members of a mask, in order.
    pub fn all_in(mask: u64) -> impl Iterator<Item = Self> {
        let mut rest = mask;
        std::iter::from_fn(move || {
            let number = u8::try_from(rest.trailing_zeros()).ok()?;
            let member = Self::new(number)?;
            rest &= rest - 1;
            Some(member)
        })
    }
}

impl fmt::Display for MemberNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The name of a member as one number that stays the same over restarts. Never 0.
pub fn name_id(name: &str) -> u64 {
    // FNV-1a, whose low bits are stirred once more.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    (hash ^ (hash >> 29)).max(1)
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A store elsewhere, which says by adverts that it lives.
    Remote,
    /// A file of this host: asked only when no store answers, and never silent for long.
    Disk,
}

/// How a member is described to the core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSpec {
    /// Its name, which stays the same for as long as it holds pages.
    pub name: String,
    /// Where it is, in the connector's words.
    pub address: String,
    /// A store or a file.
    pub kind: Kind,
    /// Stores of one failure domain are expected to die together: a page has at most one copy in
    /// each. Without one a store is a domain of its own.
    pub domain: Option<String>,
    /// The part of its capacity that is to be used. 0: no new pages.
    pub weight_percent: u16,
}

/// What the table's memory still knows of a member from before a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its number.
    pub number: MemberNo,
    /// [`name_id`] of its name.
    pub name: u64,
    /// The incarnation whose copies were trusted; 0 if none were.
    pub incarnation: u64,
}

/// What a store says of itself each period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Advert {
    /// Pages it can hold, of all its clients.
    pub capacity_pages: u64,
    /// Of these, free.
    pub free_pages: u64,
    /// Pages that this client may keep there.
    pub quota_pages: u64,
    /// Pages that this client keeps there.
    pub used_pages: u64,
    /// Requests per second, of all clients.
    pub load: u32,
}

/// Why a connection is not, or no more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// Nobody listens there.
    #[error("connection refused")]
    Refused,
    /// Cut without a word.
    #[error("connection reset")]
    Reset,
    /// Ended by the other side.
    #[error("connection closed")]
    Closed,
    /// No answer in time, or no way there.
    #[error("no answer")]
    TimedOut,
    /// The store has seen a younger owner of the namespace.
    #[error("another client has taken over this namespace")]
    Fenced,
    /// The store, or what we know of it, says that there is no use in trying again soon.
    #[error("{0}")]
    Rejected(String),
}

/// How the copy of one page ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyResult {
    /// The target has it, and the table says so.
    Done,
    /// The page was written or forgotten meanwhile: what was copied is gone again.
    Changed,
    /// The source gave no answer.
    SourceUnreachable,
    /// The source has no such page or a damaged one; its bit is already cleared.
    SourceBad,
    /// The target takes no more pages.
    TargetFull,
    /// The target did not take it, or is no longer trusted.
    TargetFailed,
}

/// Something that happened. A `session` is the core's number for one attempt to connect: what
/// comes late from an older one is left aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time went by.
    Tick,
    /// A source of members names this one. Naming it again changes its address, domain, weight.
    AddMember(MemberSpec),
    /// The source names it no longer. It stays for as long as it lives or holds pages.
    Unlist {
        /// Which.
        name: String,
    },
    /// The control connection is made and the store has introduced itself.
    Connected {
        /// Which member.
        member: MemberNo,
        /// Of which attempt.
        session: u64,
        /// Who answers there.
        store: [u8; 16],
        /// Which life of the store's memory it is.
        incarnation: u64,
    },
    /// The attempt failed.
    ConnectFailed {
        /// Which member.
        member: MemberNo,
        /// Of which attempt.
        session: u64,
        /// Why.
        why: Lost,
    },
    /// The control connection ended.
    Lost {
        /// Which member.
        member: MemberNo,
        /// Of which attempt.
        session: u64,
        /// Why.
        why: Lost,
    },
    /// The store lives.
    Advert {
        /// Which member.
        member: MemberNo,
        /// Of which attempt.
        session: u64,
        /// What it says.
        advert: Advert,
    },
    /// The table and the store's list agree now.
    Reconciled {
        /// Which member.
        member: MemberNo,
        /// Of which attempt.
        session: u64,
        /// Copies that the table named and the store did not have.
        cleared: u64,
        /// Pages that the store had and the table did not name.
        flushed: u64,
    },
    /// They could not be compared.
    ReconcileFailed {
        /// Which member.
        member: MemberNo,
        /// Of which attempt.
        session: u64,
        /// Why.
        why: String,
    },
    /// A data connection was refused, reset, or stalled for longer than makes sense.
    Suspected {
        /// Which member.
        member: MemberNo,
    },
    /// One [`Copy`](super::Action::Copy) ended.
    CopyDone {
        /// Of which slot.
        slot: u32,
        /// How.
        result: CopyResult,
    },
    /// A slot may have fewer copies than it should: a write that found too few stores, a read that
    /// met a bad copy.
    Check {
        /// Which.
        slot: u32,
    },
    /// Any slot may.
    CheckAll,
}

/// What a person or the daemon asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A store more. Of one that is known: its new address, domain, weight.
    Add(MemberSpec),
    /// Move all pages off it.
    Drain {
        /// Which.
        name: String,
    },
    /// Use it again.
    Undrain {
        /// Which.
        name: String,
    },
    /// Forget it. Refused while it holds pages, unless `force`, which takes it for dead.
    Remove {
        /// Which.
        name: String,
        /// Its copies are given up.
        force: bool,
    },
    /// Look at every page, now.
    Repair,
    /// Even out how full the stores are, now.
    Rebalance,
    /// Another bound on repair.
    SetBandwidth {
        /// Bytes of pages; 0 stops it.
        bytes_per_second: u64,
    },
    /// Another number of copies.
    SetCopies(u8),
}

/// Why a command is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No such member.
    #[error("There is no store {0}")]
    Unknown(String),
    /// All 64 numbers are taken.
    #[error("There are {MEMBERS_MAX} stores already")]
    TooMany,
    /// Another store has this address.
    #[error("Store {name} has the address {address} already")]
    AddressTaken {
        /// The address.
        address: String,
        /// Whose it is.
        name: String,
    },
    /// Pages would lose a copy.
    #[error("Store {name} holds copies of {pages} pages: drain it first, or force")]
    HoldsPages {
        /// Which store.
        name: String,
        /// How many.
        pages: u64,
    },
    /// Nobody has counted yet.
    #[error("Store {0} may hold pages: drain it first, or force")]
    NotDrained(String),
    /// It is on its way out.
    #[error("Store {0} is being removed")]
    Removing(String),
    /// A number of copies that cannot be.
    #[error(transparent)]
    Config(#[from] super::config::ConfigError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_lists_its_members_in_order() {
        let members: Vec<u8> = MemberNo::all_in(1 << 63 | 1 << 2 | 1)
            .map(MemberNo::get)
            .collect();
        assert_eq!(members, [0, 2, 63]);
        assert_eq!(MemberNo::all_in(0).count(), 0);
        assert_eq!(MemberNo::new(64), None);
    }

    #[test]
    fn names_have_numbers_that_stay() {
        assert_eq!(name_id("store-a"), name_id("store-a"));
        assert_ne!(name_id("store-a"), name_id("store-b"));
        assert_ne!(name_id(""), 0);
    }
}
