// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is computed over a page's bytes: its checksum, and whether it is one byte repeated.

use std::sync::OnceLock;

use crc_fast::{CrcAlgorithm, checksum};

use crate::handle::{PAGE_SIZE, PageBytes};

/// The checksum that a page has from its arrival on: CRC-32/ISCSI. All flips of up to 3 bits and all
/// bursts of up to 32 are found.
#[inline]
#[must_use]
pub fn of(page: &PageBytes) -> u32 {
    let crc = checksum(CrcAlgorithm::Crc32Iscsi, page);
    // The crate has one return type for all widths; the upper half is zero.
    u32::try_from(crc).unwrap_or(u32::MAX)
}

/// The checksum of a page of this byte alone.
pub(crate) fn of_same(value: u8) -> u32 {
    static SUMS: OnceLock<Box<[u32; 256]>> = OnceLock::new();
    let sums = SUMS.get_or_init(|| {
        let mut sums = Box::new([0; 256]);
        for (value, sum) in (0..=u8::MAX).zip(sums.iter_mut()) {
            *sum = of(&[value; PAGE_SIZE]);
        }
        sums
    });
    sums[usize::from(value)]
}

/// The byte that the page repeats, if it is one.
///
/// Most pages differ in their first or last word, which is all that is read of them. The rest is
/// compared with itself, a word further on.
#[inline]
pub(crate) fn same_filled(page: &PageBytes) -> Option<u8> {
    let (first, rest) = page.split_first_chunk::<8>()?;
    let (_, last) = page.split_last_chunk::<8>()?;
    let value = first[0];
    let repeated = [value; 8];
    if *first != repeated || *last != repeated {
        return None;
    }
    (*rest == page[..rest.len()]).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_the_published_one() {
        // The check values of 4096 zero bytes and of 4096 bytes 0xff, from the bitwise definition.
        for value in [0_u8, 0xff, 0x5a] {
            let page = [value; PAGE_SIZE];
            assert_eq!(of(&page), bitwise(&page));
        }
        assert_eq!(bitwise(b"123456789"), 0xe306_9283, "CRC-32/ISCSI's check");
    }

    fn bitwise(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
            }
        }
        !crc
    }

    #[test]
    fn one_changed_byte_anywhere_is_not_same_filled() {
        for value in [0, 1, 0xff] {
            let mut page = [value; PAGE_SIZE];
            assert_eq!(same_filled(&page), Some(value));
            for at in 0..PAGE_SIZE {
                page[at] ^= 0x40;
                assert_eq!(same_filled(&page), None, "byte {at}");
                page[at] ^= 0x40;
            }
        }
    }

    #[test]
    fn repeated_word_of_different_bytes_is_not_same_filled() {
        let mut page = [0; PAGE_SIZE];
        for word in page.as_chunks_mut::<8>().0 {
            *word = *b"abcdefgh";
        }
        assert_eq!(same_filled(&page), None);
    }
}
