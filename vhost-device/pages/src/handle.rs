// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Names of things: pools, objects, pages, tickets, epochs; and the way page bytes come and go.

use std::fmt;

use thiserror::Error;

/// Bytes in a page and in a frame.
pub const PAGE_SIZE: usize = tmem_abi::PAGE_SIZE;

/// The bytes of one page.
pub type PageBytes = [u8; PAGE_SIZE];

/// A pool, as its guest numbers it. Two guests may use the same number for different pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId(pub u32);

/// An object of a pool: 192 bits, least significant word first, none of which is interpreted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub [u64; 3]);

impl ObjectId {
    /// The only object of a dense pool.
    pub const ZERO: Self = Self([0; 3]);
}

/// The place of a page in its object, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageIndex(pub u32);

/// The age of a put or a flush: of two requests for one page, the higher ticket is the newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

impl Ticket {
    /// Tickets are below this, so that one fits beside a tag and a byte in an index entry.
    pub const LIMIT: u64 = tmem_abi::TICKET_LIMIT;
    /// The oldest ticket there can be.
    pub const MIN: Self = Self(0);
    /// The newest ticket there can be: a flush with it spares no page.
    pub const MAX: Self = Self(Self::LIMIT - 1);

    /// Makes a ticket, or nothing if `number` is not below [`Ticket::LIMIT`].
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        if number < Self::LIMIT {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The ticket's number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// One boot of a guest: a number that the guest draws anew each time.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub [u8; 16]);

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({:032x})", u128::from_le_bytes(self.0))
    }
}

/// A page could not be copied to or from its owner's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("cannot copy a page: its buffer is not in the owner's memory")]
pub struct CopyFault;

/// Where a put takes its page from: guest memory, or a buffer in a test.
pub trait PageSource {
    /// Fills `page`, all 4096 bytes of it. Called at most once a put, with no lock held.
    ///
    /// # Errors
    /// [`CopyFault`] if the bytes cannot be read; what `page` holds then does not matter.
    fn read_into(&self, page: &mut PageBytes) -> Result<(), CopyFault>;
}

/// Where a get delivers its page to.
pub trait PageSink {
    /// A page is about to be verified, and taken next if it is sound: time to bring the memory for it
    /// near, by [`prefetch_for_write`](crate::prefetch_for_write). Changes nothing but time.
    fn expect_page(&self) {}

    /// Takes `page`. Called at most once a get, and never with bytes that failed their checksum.
    /// An exclusive get calls it with a lock of the index held: it must not call the engine.
    ///
    /// # Errors
    /// [`CopyFault`] if the bytes cannot be written; the engine then keeps the page.
    fn write_from(&mut self, page: &PageBytes) -> Result<(), CopyFault>;
}

impl PageSource for PageBytes {
    fn read_into(&self, page: &mut PageBytes) -> Result<(), CopyFault> {
        page.copy_from_slice(self);
        Ok(())
    }
}

impl PageSink for PageBytes {
    fn write_from(&mut self, page: &PageBytes) -> Result<(), CopyFault> {
        self.copy_from_slice(page);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticket_beyond_the_limit_is_refused() {
        assert_eq!(Ticket::new(Ticket::LIMIT), None);
        assert_eq!(Ticket::new(u64::MAX), None);
        assert_eq!(Ticket::new(Ticket::LIMIT - 1), Some(Ticket::MAX));
        assert_eq!(Ticket::new(7).map(Ticket::get), Some(7));
    }

    #[test]
    fn epoch_is_printed_as_one_number() {
        let mut bytes = [0; 16];
        bytes[0] = 0xab;
        bytes[15] = 1;
        assert_eq!(
            format!("{:?}", Epoch(bytes)),
            "Epoch(010000000000000000000000000000ab)"
        );
    }
}
