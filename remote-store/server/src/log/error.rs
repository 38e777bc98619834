// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can go wrong with a log, and what its operator can do.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::layout::{LOG_SIZE_MAX, LOG_SIZE_MIN};
use super::record::ABOUT_MAX;

/// Why a log cannot be used, or did not do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LogError {
    /// The size is out of range.
    #[error("Cannot make a log of {size} bytes: choose {LOG_SIZE_MIN} to {LOG_SIZE_MAX}")]
    BadSize {
        /// Bytes asked for.
        size: u64,
    },
    /// A call for the file failed.
    #[error("Cannot {doing} the log {}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Another program has the file.
    #[error("Cannot use the log {}: another program has it; end that one or choose another file", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file system is full.
    #[error("Cannot make the log {}: its file system has no room for {size} bytes; free some or choose a smaller log", path.display())]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// Bytes asked for.
        size: u64,
    },
    /// The file has another size.
    #[error("Cannot use the log {} as one of {size} bytes: it has {length}; give that size, or remove it, and the pages in it", path.display())]
    OtherSize {
        /// The file.
        path: PathBuf,
        /// Bytes that it has.
        length: u64,
        /// Bytes asked for.
        size: u64,
    },
    /// The file is something else.
    #[error(
        "Cannot use {name} as a log: it is something else, or all of it is damaged; choose another file, or remove it"
    )]
    NotALog {
        /// The file.
        name: String,
    },
    /// Records that were acknowledged cannot be read.
    #[error(
        "The log {name} is damaged at byte {at}: {what}; bring back a whole copy, or start once with salvage to keep the pages that can be read, under a new incarnation, so that clients compare"
    )]
    Damaged {
        /// The file.
        name: String,
        /// Where.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A read failed.
    #[error("Cannot read the log {name} at byte {at}")]
    Read {
        /// The file.
        name: String,
        /// Where.
        at: u64,
        /// Why not.
        source: io::Error,
    },
    /// A write or a sync failed: the log is not used any further.
    #[error(
        "Cannot write the log {name}: it takes no more records until the store is started again; see to its disk"
    )]
    Write {
        /// The file.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// A write or a sync had failed before.
    #[error(
        "The log {name} has failed before: it takes no more records until the store is started again"
    )]
    Failed {
        /// The file.
        name: String,
    },
    /// More is said about a namespace than there is room for.
    #[error("Cannot log {length} bytes about a namespace: {ABOUT_MAX} are allowed")]
    About {
        /// Bytes.
        length: usize,
    },
}
