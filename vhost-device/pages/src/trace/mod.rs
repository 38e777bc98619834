// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Traces: which pages a guest put, got and flushed, in order, in a file.
//!
//! A trace is recorded from a running guest by a [`Recorder`], written by a [`TraceWriter`], and read
//! by a [`TraceReader`], for instance to replay it on every replacement policy. It holds no page's
//! bytes and of an object's name only a hash; how often a guest uses which page may be telling all the
//! same, so a trace is to be kept like a log.
//!
//! # The file
//! ```text
//!  file   = "tmemtrc\n", version (2 bytes), length (4), CRC-32 (4), header, block …, end
//!  header = length and bytes of the guest's name, count of pools, pool …
//!  pool   = number, kind (0 persistent, 1 ephemeral), pages (0: sparse)
//!  block  = 1, length (4), CRC-32 (4), record …
//!  end    = 2, length (4), CRC-32 (4), events, lost
//!  record = form, time since the last record, what the form says
//! ```
//! Numbers of a given size are little endian, all others are varints: seven bits a byte, the lowest
//! first, the high bit set in all but the last. Differences have their sign in the lowest bit. A
//! record leaves out what is as in the record before it: `form.rs` has the bits of its first byte.
//! Sequential gets of a pool take three or four bytes each.
//!
//! A block is checked before it is read. A file without its end was cut short; what comes before that
//! is good. Another version is refused, since a trace can be recorded anew.
//!
//! # What is lost
//! Recording never makes a guest wait. What finds a full buffer is lost and counted, and the count is
//! in the file, where the events are missing.

mod error;
mod form;
mod reader;
mod recorder;
#[cfg(test)]
mod tests;
mod writer;

use crate::handle::{ObjectId, PoolId};
use crate::pool::PoolSpec;

pub use error::TraceError;
pub use reader::TraceReader;
pub use recorder::{Limits, Recorder, Summary};
pub use writer::TraceWriter;

/// The version of the file that is written and read.
pub const VERSION: u16 = 1;
/// Pools that a header can name.
pub const POOLS_MAX: usize = crate::pool::POOLS_MAX;
/// Bytes that a guest's name can have.
pub const NAME_MAX: usize = crate::records::GUEST_NAME_MAX;

/// What stands at the beginning of a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The guest's name.
    pub guest: String,
    /// The pools there were when the recording began. Events may be of others.
    pub pools: Vec<(PoolId, PoolSpec)>,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// A page was put.
    Put,
    /// A page was got.
    Get,
    /// Pages of an object were flushed.
    Flush,
    /// An object was flushed.
    FlushObject,
    /// A pool was flushed or destroyed.
    FlushPool,
}

/// One request, or one page of a request with several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds since the recording began.
    pub at: u64,
    /// What was asked for.
    pub op: Op,
    /// The pool.
    pub pool: PoolId,
    /// The object, hashed: see [`object_hash`]. 0 where a pool is flushed.
    pub object: u64,
    /// The first page. 0 where an object or a pool is flushed.
    pub index: u32,
    /// How many pages from there on; 1 of a put or a get of one page. 0 where an object or a pool is
    /// flushed.
    pub pages: u32,
}

/// What a reader finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// A request.
    Event(Event),
    /// So many events are missing here.
    Lost(u64),
}

/// What a trace has instead of an object's name: the same for the same object, 0 for that of a dense
/// pool, and otherwise as good as unique.
#[must_use]
pub fn object_hash(object: ObjectId) -> u64 {
    let ObjectId(words) = object;
    words.into_iter().fold(0, |hash, word| {
        // The finaliser of SplitMix64, which keeps 0.
        let mixed: u64 = hash ^ word;
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}
