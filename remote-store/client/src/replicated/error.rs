// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why pages could not be written or read.

use thiserror::Error;
use tmem_pages::slots::SlotError;

use crate::table::NoGeneration;

/// Why a batch was not written. None of its pages counts then, and its slots hold nothing.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WriteError {
    /// No store took a page.
    #[error("no store took them: {why}")]
    NoStore {
        /// What the stores said, or that there are none.
        why: String,
    },
    /// Fewer stores took a page than must.
    #[error("only {copies} of the {wanted} copies that are required were made: {why}")]
    TooFew {
        /// Copies made.
        copies: u8,
        /// Copies required.
        wanted: u8,
        /// What the stores said.
        why: String,
    },
    /// Another process has taken over this namespace.
    #[error("another process, of epoch {epoch}, has taken over this namespace")]
    Fenced {
        /// Its epoch.
        epoch: u64,
    },
    /// A slot's number is beyond the last.
    #[error("BUG! slot {slot} of {slots}")]
    NoSuchSlot {
        /// The slot.
        slot: u32,
        /// How many there are.
        slots: u32,
    },
    /// All numbers of writes are used up.
    #[error(transparent)]
    NoGeneration(#[from] NoGeneration),
    /// What a page is could not be noted.
    #[error("cannot note what they are")]
    Header(#[from] SlotError),
}

/// Why a page was not read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// The slot holds nothing: never written, or invalidated, or its write failed.
    #[error("slot {slot} holds no page")]
    Nothing {
        /// The slot.
        slot: u32,
    },
    /// All copies are lost: each store that had one came back without it, or was given up.
    #[error("all copies of slot {slot} are lost")]
    Lost {
        /// The slot.
        slot: u32,
    },
    /// There are copies, and none could be asked.
    #[error("none of the {copies} copies of slot {slot} can be reached: {why}")]
    Unreachable {
        /// The slot.
        slot: u32,
        /// Copies that there should be.
        copies: u32,
        /// What was said last.
        why: String,
    },
    /// Every copy that could be asked is other bytes than were written.
    #[error("none of the {copies} copies of slot {slot} is what was written: {why}")]
    Damaged {
        /// The slot.
        slot: u32,
        /// Copies that there should be.
        copies: u32,
        /// What was found last.
        why: String,
    },
}

/// As the engine hears it.
pub(super) fn not_written(pages: usize, error: &WriteError) -> SlotError {
    SlotError::Elsewhere {
        doing: "write",
        pages,
        why: error.to_string(),
    }
}

/// As the engine hears it.
pub(super) fn not_read(error: &ReadError) -> SlotError {
    SlotError::Elsewhere {
        doing: "read",
        pages: 1,
        why: error.to_string(),
    }
}
