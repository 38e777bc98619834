// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a frame says, once it is decoded. Entries and pages are borrowed from the buffer.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes, Unaligned};

use crate::entries::{FlushEntry, GetEntry, GotEntry, ListedEntry, PutEntry};
use crate::handshake::{Advert, Farewell, Hello, Welcome};
use crate::limits::PageBytes;
use crate::status::Status;

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Who is there.
    Hello(Hello),
    /// Pages to keep: as many pages as entries.
    Put {
        /// The request's number, which its reply carries.
        request: u64,
        /// Where the pages belong.
        entries: &'a [PutEntry],
        /// Their bytes. Nobody has compared them with their checksums yet.
        pages: &'a [PageBytes],
    },
    /// Pages to deliver.
    Get {
        /// The request's number.
        request: u64,
        /// Which pages.
        entries: &'a [GetEntry],
    },
    /// Pages to forget.
    Flush {
        /// The request's number.
        request: u64,
        /// Which pages.
        entries: &'a [FlushEntry],
    },
    /// All pages of a pool to forget.
    FlushPool {
        /// The request's number.
        request: u64,
        /// The pool.
        pool: u32,
        /// Pages that are newer stay.
        generation: u64,
    },
    /// Which pages are there?
    List {
        /// The request's number.
        request: u64,
        /// The pool.
        pool: u32,
        /// Pages from this index on.
        from: u32,
        /// As many as these at most.
        max: u32,
    },
    /// Are you there?
    Ping {
        /// The request's number.
        request: u64,
    },
}

impl Request<'_> {
    /// The number that the reply will carry. A hello has none.
    #[must_use]
    pub const fn request(&self) -> Option<u64> {
        match self {
            Self::Hello(_) => None,
            Self::Put { request, .. }
            | Self::Get { request, .. }
            | Self::Flush { request, .. }
            | Self::FlushPool { request, .. }
            | Self::List { request, .. }
            | Self::Ping { request } => Some(*request),
        }
    }
}

/// What a store sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// The client is taken on.
    Welcome(Welcome),
    /// It is not.
    Refused(Farewell),
    /// What became of pages that were put, in the order of the request.
    PutDone {
        /// The request's number.
        request: u64,
        /// One a page.
        statuses: &'a [Status],
    },
    /// What became of pages that were asked for, in the order of the request.
    GetDone {
        /// The request's number.
        request: u64,
        /// One a page.
        entries: &'a [GotEntry],
        /// The pages of those entries that are [`Status::Ok`], in their order. Nobody has compared
        /// them with their checksums yet.
        pages: &'a [PageBytes],
    },
    /// What became of pages that were flushed, in the order of the request.
    FlushDone {
        /// The request's number.
        request: u64,
        /// One a page.
        statuses: &'a [Status],
    },
    /// What became of the flush of a pool.
    FlushPoolDone {
        /// The request's number.
        request: u64,
        /// All pages are gone, unless they are newer.
        status: Status,
        /// How many went.
        pages: u64,
    },
    /// Pages that the store has, by rising index.
    Listed {
        /// The request's number.
        request: u64,
        /// The pages.
        entries: &'a [ListedEntry],
        /// Where to ask on, unless this is the end.
        next: u32,
        /// There are no more.
        end: bool,
    },
    /// Yes.
    Pong {
        /// The request's number.
        request: u64,
    },
    /// What the store has and has free.
    Advert(Advert),
    /// The store's last words.
    Goodbye(Farewell),
}

impl Reply<'_> {
    /// The number of the request that this answers. What comes unasked has none.
    #[must_use]
    pub const fn request(&self) -> Option<u64> {
        match self {
            Self::Welcome(_) | Self::Refused(_) | Self::Advert(_) | Self::Goodbye(_) => None,
            Self::PutDone { request, .. }
            | Self::GetDone { request, .. }
            | Self::FlushDone { request, .. }
            | Self::FlushPoolDone { request, .. }
            | Self::Listed { request, .. }
            | Self::Pong { request } => Some(*request),
        }
    }
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawFlushPool {
    pub(crate) pool: U32,
    pub(crate) generation: U64,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawList {
    pub(crate) pool: U32,
    pub(crate) from: U32,
    pub(crate) max: U32,
}

#[derive(Clone, Copy, Debug, TryFromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawFlushPoolDone {
    pub(crate) pages: U64,
    pub(crate) status: Status,
}

#[derive(Clone, Copy, Debug, TryFromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawListed {
    pub(crate) next: U32,
    pub(crate) end: bool,
}
