// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a worker answers.

use thiserror::Error;

use crate::handle::Ticket;

/// Why there is no worker.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerError {
    /// The engine has as many workers as it can have.
    #[error(
        "Cannot add a worker: {workers_max} are at work, which is the most; make the engine with more"
    )]
    TooMany {
        /// Workers that the engine was made for.
        workers_max: u16,
    },
    /// What a dead process left has every journal.
    #[error(
        "Cannot add a worker: {unresolved} exclusive gets of a dead process are unresolved; resolve them, or detach the guests that nobody claims"
    )]
    Unresolved {
        /// Requests that are unresolved.
        unresolved: usize,
    },
}

/// What became of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PutResult {
    /// Stored in a frame.
    Stored,
    /// Stored in the index alone: the page is one byte repeated.
    SameFilled,
    /// Beyond the grant, no room for an ephemeral page, or the pool is destroyed. An older version is
    /// gone.
    RefusedFull,
    /// The guest is frozen. An older version is gone.
    RefusedFrozen,
    /// The page that is there has a newer ticket; it is as it was.
    Stale,
    /// The index is outside the pool; nothing happened.
    BadIndex,
    /// The source could not be read. A persistent page that was there is as it was.
    Fault,
    /// The page's bytes are not those that its checksum was made of. What was there is as it was.
    BadSum,
}

/// What tells one put of a page from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageMark {
    /// The put's ticket.
    pub ticket: Ticket,
    /// The page's [checksum](crate::page_checksum).
    pub checksum: u32,
}

/// What a get leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GetMode {
    /// The page stays.
    Copy,
    /// The page is forgotten once it is delivered.
    Exclusive,
}

/// What became of a get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GetResult {
    /// Delivered from a frame.
    Hit,
    /// Delivered; the page is one byte repeated.
    HitSameFilled,
    /// No such page. The sink was not called.
    Miss,
    /// The page's bytes failed their checksum and were not delivered. The page stays, as a witness,
    /// until it is flushed or put again.
    Corrupt,
    /// The index is outside the pool. The sink was not called.
    BadIndex,
    /// The sink could not be written; the page stays.
    Fault,
}

impl GetResult {
    /// The page was delivered.
    #[must_use]
    pub fn is_hit(self) -> bool {
        matches!(self, Self::Hit | Self::HitSameFilled)
    }
}

/// What became of the flush of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlushResult {
    /// A page was there and is gone.
    Flushed,
    /// No page was there.
    Absent,
    /// The page has a newer ticket; it is as it was.
    Stale,
    /// The index is outside the pool; nothing happened.
    BadIndex,
}
