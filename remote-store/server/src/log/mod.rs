// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A log-structured copy of a store's pages: what was acknowledged outlives the process, or the host.
//!
//! ```text
//!  shard: put, flush ──▶ append ─▶ tail of the log, in memory ─▶ commit: one write, one fdatasync
//!            reply ◀───── progress: all up to this record is safe ◀─┘      medium.rs
//!  start:  open ─▶ read all segments ─▶ each_page ─▶ engine                open.rs
//!  clean:  the live records of old segments go to the tail again           clean.rs
//! ```
//! Memory is where pages are served from; nothing reads the log but a start and its own cleaning. So
//! records are only ever appended, whole batches of all connections at a time, and the disk sees one
//! stream of writes.
//!
//! # What it promises
//! - When [`commit`](PageLog::commit) has returned a record's number, that record and all before it
//!   outlive the process ([`LogSync::Process`]) or the host ([`LogSync::Host`]). [`open`](PageLog::open)
//!   then finds, of each page, the newest record: its bytes, or that it is gone.
//! - Of records that were not committed any may be found or not. None is found half.
//! - A log written for the process alone does not outlive the host's boot: it begins empty then, under a
//!   new incarnation, since any part of it may be missing.
//! - Damage is an error that says where, not fewer pages: unless the operator asks for what is left.
//!
//! # Segments and cleaning
//! The file is divided into segments (`layout.rs`), which are filled one after the other. Records die
//! when their page is put again or flushed. When few segments are free, the live records of one with much
//! garbage are appended again, and it is freed once these copies are safe. The log takes no puts that
//! would make more than 85 % of it live, so that cleaning always gains; flushes are always taken.
//!
//! The newest header says which segments count. A segment leaves that list only after the copies of its
//! records were committed, and is written again only after a header without it was: so whatever of a
//! last batch is lost, all records that count are there.
//!
//! That a page is gone has to be remembered as long as an older segment may have its bytes. Such a record
//! says up to which segment that may be; cleaning drops it when none of these is left.
//!
//! # Which order
//! Records of one page lie in the log in the order in which they count: an append that is older by its
//! generation is refused as stale, and a copy is made of the newest record only. So recovery takes the
//! last.
//!
//! # What is not here
//! Threads and time: [`PageLog`] is a struct that one caller at a time uses. [`SharedLog`] shares it
//! between shards and a thread that commits.

mod append;
mod clean;
mod commit;
mod error;
mod headers;
mod index;
mod layout;
mod medium;
mod open;
mod record;
mod segments;
mod shared;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tmem_remote_protocol::PageBytes;

pub use clean::CleanRead;
pub use commit::Job;
pub use error::LogError;
pub use layout::{LOG_SIZE_MAX, LOG_SIZE_MIN};
pub use medium::{FileMedium, Medium};
pub use open::{Begun, Opened, Report};
pub use record::{ABOUT_MAX, Place};
pub use shared::{Progress, SharedLog};

use index::Index;
use layout::Geometry;
use segments::Segments;

/// What a committed record outlives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogSync {
    /// The process.
    Process,
    /// The host.
    Host,
}

/// How a log is to be opened.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Bytes of its file.
    pub size: u64,
    /// What a committed record outlives.
    pub sync: LogSync,
    /// The store's identity, for a log that begins empty.
    pub store_id: [u8; 16],
    /// The incarnation of a store that begins empty, or with less than it had.
    pub incarnation: u64,
    /// A number that the host draws at each boot.
    pub boot: [u8; 16],
    /// Takes what can be read of a damaged log.
    pub salvage: bool,
}

/// What happened to a store's page, pool or namespace.
#[derive(Clone, Copy, Debug)]
pub enum Record<'a> {
    /// A page was put.
    Put {
        /// Where.
        place: Place,
        /// The age of the write.
        generation: u64,
        /// The page's checksum, which it has.
        crc: u32,
        /// Its bytes.
        page: &'a PageBytes,
    },
    /// A page was flushed.
    Flush {
        /// Which.
        place: Place,
        /// A page of a higher generation stays.
        generation: u64,
    },
    /// A pool was flushed.
    FlushPool {
        /// Whose.
        namespace: u32,
        /// Which.
        pool: u32,
        /// Pages of higher generations stay. Later puts have higher ones.
        generation: u64,
    },
    /// A namespace began, or there is something else to know about it.
    Namespace {
        /// Its number, which no other name ever has.
        namespace: u32,
        /// What the server wants to find again: [`ABOUT_MAX`] bytes at most.
        about: &'a [u8],
    },
    /// A namespace is gone, with all its pages.
    Forget {
        /// Its number.
        namespace: u32,
    },
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Appended {
    /// It is part of the log once this number is [committed](PageLog::commit).
    Written(u64),
    /// There is something newer: nothing was written.
    Stale,
    /// There is no room for another page: nothing was written.
    Full,
    /// There will be room after a commit: nothing was written.
    Wait,
}

/// How full a log is, and what it has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Pages in it.
    pub pages: u64,
    /// Bytes that live records take up.
    pub live_bytes: u64,
    /// Bytes of live records from which on puts are refused.
    pub limit_bytes: u64,
    /// Segments, and those of them that are free.
    pub segments: (u32, u32),
    /// Bytes of records that were appended, copies by cleaning included.
    pub appended_bytes: u64,
    /// Bytes of these copies.
    pub copied_bytes: u64,
    /// Segments that were cleaned.
    pub cleaned: u64,
    /// Segments that cannot be cleaned, since a record of theirs cannot be read.
    pub stuck: u64,
    /// Batches that were written.
    pub commits: u64,
}

/// A log, for one caller at a time.
#[derive(Debug)]
pub struct PageLog {
    medium: Arc<dyn Medium>,
    sync: LogSync,
    geometry: Geometry,
    log_id: [u8; 16],
    store_id: [u8; 16],
    incarnation: u64,
    boot: [u8; 16],
    index: Index,
    segments: Segments,
    /// The unit at which the next record begins.
    tail_end: u32,
    /// Records that nobody has written yet: those from `buffer_at` on, and whole steps before.
    buffer: Vec<u8>,
    buffer_at: u32,
    steps: Vec<commit::Step>,
    pending_bytes: usize,
    /// The number of the next record.
    next_record: u64,
    /// All records up to this one are safe.
    committed: u64,
    /// The number of the next job.
    next_job: u64,
    running: bool,
    failed: bool,
    /// Cleaning passes over what cannot be read: it is known, and given up.
    salvaging: bool,
    live_units: u64,
    reserved_units: u64,
    stats: LogStats,
}
