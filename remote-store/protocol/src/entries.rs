// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What stands between a frame's header and its pages: one entry a page.
//!
//! The structs are the wire's own bytes, so a decoded frame borrows its entries from the buffer. They
//! have no padding and need no alignment.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes, Unaligned};

use crate::limits::{GOT_ENTRY_LEN, LISTED_ENTRY_LEN, PUT_ENTRY_LEN};
use crate::status::Status;

/// A page to put.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct PutEntry {
    pool: U32,
    index: U32,
    generation: U64,
    crc: U32,
}

/// A page to get.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct GetEntry {
    pool: U32,
    index: U32,
}

/// A page to flush.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct FlushEntry {
    pool: U32,
    index: U32,
    generation: U64,
}

/// What a get found.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, TryFromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct GotEntry {
    status: Status,
    crc: U32,
    generation: U64,
}

/// A page that the store has.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ListedEntry {
    index: U32,
    generation: U64,
}

const _: () = assert!(size_of::<PutEntry>() == PUT_ENTRY_LEN);
const _: () = assert!(size_of::<GetEntry>() == 8);
const _: () = assert!(size_of::<FlushEntry>() == 16);
const _: () = assert!(size_of::<GotEntry>() == GOT_ENTRY_LEN);
const _: () = assert!(size_of::<ListedEntry>() == LISTED_ENTRY_LEN);

impl PutEntry {
    /// The page at `index` of `pool`, written as `generation`, whose bytes have the checksum `crc`.
    #[must_use]
    pub const fn new(pool: u32, index: u32, generation: u64, crc: u32) -> Self {
        Self {
            pool: U32::new(pool),
            index: U32::new(index),
            generation: U64::new(generation),
            crc: U32::new(crc),
        }
    }

    /// The pool.
    #[must_use]
    pub const fn pool(&self) -> u32 {
        self.pool.get()
    }

    /// The place in the pool.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index.get()
    }

    /// The age of the write.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// The page's checksum.
    #[must_use]
    pub const fn crc(&self) -> u32 {
        self.crc.get()
    }
}

impl GetEntry {
    /// The page at `index` of `pool`.
    #[must_use]
    pub const fn new(pool: u32, index: u32) -> Self {
        Self {
            pool: U32::new(pool),
            index: U32::new(index),
        }
    }

    /// The pool.
    #[must_use]
    pub const fn pool(&self) -> u32 {
        self.pool.get()
    }

    /// The place in the pool.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index.get()
    }
}

impl FlushEntry {
    /// The page at `index` of `pool`, unless it is newer than `generation`.
    #[must_use]
    pub const fn new(pool: u32, index: u32, generation: u64) -> Self {
        Self {
            pool: U32::new(pool),
            index: U32::new(index),
            generation: U64::new(generation),
        }
    }

    /// The pool.
    #[must_use]
    pub const fn pool(&self) -> u32 {
        self.pool.get()
    }

    /// The place in the pool.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index.get()
    }

    /// The age of the flush.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation.get()
    }
}

impl GotEntry {
    /// A page that follows.
    #[must_use]
    pub const fn hit(generation: u64, crc: u32) -> Self {
        Self {
            status: Status::Ok,
            crc: U32::new(crc),
            generation: U64::new(generation),
        }
    }

    /// A page that does not come, for this reason.
    #[must_use]
    pub const fn miss(status: Status) -> Self {
        Self {
            status,
            crc: U32::new(0),
            generation: U64::new(0),
        }
    }

    /// [`Status::Ok`] if the page follows.
    #[must_use]
    pub const fn status(&self) -> Status {
        self.status
    }

    /// The checksum that the page came to the store with.
    #[must_use]
    pub const fn crc(&self) -> u32 {
        self.crc.get()
    }

    /// The age of the page.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation.get()
    }
}

impl ListedEntry {
    /// A page of the pool that is listed.
    #[must_use]
    pub const fn new(index: u32, generation: u64) -> Self {
        Self {
            index: U32::new(index),
            generation: U64::new(generation),
        }
    }

    /// The place in the pool.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index.get()
    }

    /// The age of the page.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation.get()
    }
}
