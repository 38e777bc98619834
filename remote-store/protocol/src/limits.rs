// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every limit of the protocol, and how they hang together.
//!
//! A reader bounds whatever it takes from the wire by these before it allocates or waits for it.

use crc_fast::{CrcAlgorithm, checksum as crc};

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;
/// The bytes of one page.
pub type PageBytes = [u8; PAGE_SIZE];

/// What every frame begins with.
pub const MAGIC: [u8; 4] = *b"TMRP";
/// The version in the frames of the handshake, whose form is the same for ever.
pub const VERSION_HANDSHAKE: u8 = 0;
/// The oldest version that this crate speaks.
pub const VERSION_MIN: u8 = 1;
/// The newest version that this crate speaks.
pub const VERSION_MAX: u8 = 1;

/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 32;
/// Pages that one frame puts, gets or flushes at most. A store may ask for fewer.
pub const PAGES_MAX: u32 = 256;
/// Pages that one frame lists at most.
pub const LIST_MAX: u32 = 4096;
/// Bytes behind the header of a handshake's frame at most: room for what later versions add.
pub const HANDSHAKE_MAX: usize = 512;
/// Bytes of a namespace's name at most.
pub const NAMESPACE_MAX: usize = 64;
/// Bytes of the text of a refusal or a goodbye at most.
pub const TEXT_MAX: usize = 256;
/// Generations are below this: one fits into the engine's tickets.
pub const GENERATION_LIMIT: u64 = 1 << 52;
/// Requests without a reply that a store allows on one connection at most.
pub const IN_FLIGHT_MAX: u32 = 4096;
/// The shortest time between two adverts, in milliseconds.
pub const ADVERT_PERIOD_MIN_MS: u32 = 10;
/// The longest time between two adverts, in milliseconds.
pub const ADVERT_PERIOD_MAX_MS: u32 = 60_000;
/// Adverts that may stay away before a store counts as dead.
pub const ADVERTS_MISSED_MAX: u32 = 3;
/// The load of a store that has no time left, in an advert.
pub const LOAD_MAX: u32 = 1000;

/// Bytes of the longest frame: a full put.
pub const FRAME_MAX: usize = HEADER_LEN + PAGES_MAX as usize * (PUT_ENTRY_LEN + PAGE_SIZE);

/// Pools of a namespace.
pub mod pool {
    /// Pages that stay until they are flushed.
    pub const PERSISTENT: u32 = 0;
    /// Pages that the store may drop.
    pub const EPHEMERAL: u32 = 1;
}

pub(crate) const PUT_ENTRY_LEN: usize = 20;
pub(crate) const GOT_ENTRY_LEN: usize = 13;
pub(crate) const LISTED_ENTRY_LEN: usize = 12;

const _: () = assert!(VERSION_HANDSHAKE < VERSION_MIN && VERSION_MIN <= VERSION_MAX);
// A full put is the longest frame.
const _: () = assert!(HEADER_LEN + PAGES_MAX as usize * (GOT_ENTRY_LEN + PAGE_SIZE) <= FRAME_MAX);
const _: () = assert!(HEADER_LEN + 16 + LIST_MAX as usize * LISTED_ENTRY_LEN <= FRAME_MAX);
const _: () = assert!(HEADER_LEN + HANDSHAKE_MAX <= FRAME_MAX);
// A handshake has room for the longest name and for the longest text.
const _: () = assert!(128 + NAMESPACE_MAX <= HANDSHAKE_MAX && 16 + TEXT_MAX <= HANDSHAKE_MAX);
const _: () = assert!(NAMESPACE_MAX <= u8::MAX as usize && TEXT_MAX <= u16::MAX as usize);

/// CRC-32/ISCSI (CRC-32C) of any bytes: of headers and entries here, of records in a store's log.
#[must_use]
#[inline]
pub fn crc32(bytes: &[u8]) -> u32 {
    // The crate has one return type for all widths; the upper half is zero.
    u32::try_from(crc(CrcAlgorithm::Crc32Iscsi, bytes)).unwrap_or(u32::MAX)
}

/// A page's checksum: CRC-32/ISCSI over its 4096 bytes.
#[must_use]
#[inline]
pub fn checksum(page: &PageBytes) -> u32 {
    crc32(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_the_published_one() {
        assert_eq!(
            crc32(b"123456789"),
            0xe306_9283,
            "CRC-32/ISCSI's check value"
        );
        assert_eq!(checksum(&[0; PAGE_SIZE]), 0x98f9_4189);
    }
}
