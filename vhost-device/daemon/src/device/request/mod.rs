// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A request, from the descriptor chain to the used ring.
//!
//! [`chain`] gathers the chain's descriptors, [`parse`] turns them into a checked [`Request`],
//! [`serve`] runs that against the engine, and [`pages`] walks the page data, so that a page is
//! copied once, between guest memory and its frame. Nothing here holds a lock of the ring, allocates
//! for a request, or panics whatever the guest wrote.

pub mod chain;
pub mod pages;
pub mod parse;
pub mod serve;

use std::fmt;

use tmem_abi::{ControlResponse, Event, PAGE_SIZE, ResponseHeader};

pub use chain::{Chain, Cursor, Segment};
pub use parse::{Parsed, Rejection, Request};

/// Bytes of a page, as descriptors and used lengths count them.
pub const PAGE_BYTES: u32 = bytes(PAGE_SIZE);
/// Bytes of a response's head.
pub const RESPONSE_BYTES: u32 = bytes(ResponseHeader::SIZE);
/// Bytes of a response on the control queue.
pub const CONTROL_RESPONSE_BYTES: u32 = bytes(ControlResponse::SIZE);
/// Bytes of an event.
pub const EVENT_BYTES: u32 = bytes(Event::SIZE);

/// A small constant in the type of descriptor lengths.
#[expect(clippy::cast_possible_truncation, reason = "asserted not to")]
const fn bytes(size: usize) -> u32 {
    assert!(size <= u16::MAX as usize);
    size as u32
}

/// Declares the kinds with the words that stand for them in counters and logs.
macro_rules! kinds {
    ($( $(#[$meta:meta])* $variant:ident = $word:literal, )*) => {
        /// What can be wrong with a chain or a ring. All of it is the guest's doing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Malformed {
            $( $(#[$meta])* $variant, )*
        }

        impl Malformed {
            /// Every kind.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )* ];

            /// The word that stands for it in counters and logs.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word, )* }
            }
        }
    };
}

kinds! {
    /// The chain loops, leaves its table, or its table is not in guest memory.
    Chain = "chain",
    /// More descriptors than any request needs.
    Long = "long",
    /// A readable descriptor after a writable one.
    Order = "order",
    /// No room for a response.
    Response = "response",
    /// Not enough bytes, or too many.
    Length = "length",
    /// Page data that shares a descriptor, or whose descriptor is no multiple of a page.
    Split = "split",
    /// Bytes that are not in guest memory.
    Address = "address",
    /// An operation that does not exist or does not belong on this queue.
    Op = "op",
    /// A flag that does not exist or does not belong to this operation.
    Flag = "flag",
    /// A kind or layout of pool, or a version, that does not exist.
    Layout = "layout",
    /// A field that must be zero is not.
    Reserved = "reserved",
    /// No pages, too many, or an index beyond 32 bits.
    Pages = "pages",
    /// A ticket out of range.
    Ticket = "ticket",
    /// The available index is more than a queue's size ahead.
    AvailIndex = "avail_index",
    /// The head of a chain is not a descriptor of the table.
    Head = "head",
    /// A ring is not in guest memory.
    RingAddress = "ring_address",
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
