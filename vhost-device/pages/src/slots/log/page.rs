// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A page of the log, as it lies in the file.
//!
//! ```text
//! 0    4      8         16    24       32    48        56       4096
//! CRC  count  sequence  safe  settled  boot  slot CRC  slot CRC …
//!                                            └ a record
//! ```
//! The CRC covers the file's id too. *Safe* is a page that was safe, with all before it, when this one
//! was written; for *settled* and *boot* see [the log](super).

use crc_fast::{CrcAlgorithm, Digest};

use crate::handle::{PAGE_SIZE, PageBytes};

const RECORDS_AT: usize = 48;
const RECORD_BYTES: usize = 8;
/// Records of a page.
pub(super) const RECORDS: usize = (PAGE_SIZE - RECORDS_AT) / RECORD_BYTES;

/// A slot, and what its commit word said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) slot: u32,
    /// The CRC of the header that is void.
    pub(super) crc: u32,
}

/// What a page says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogPage {
    pub(super) sequence: u64,
    pub(super) safe: u64,
    pub(super) settled: u64,
    pub(super) boot: [u8; 16],
    /// At most [`RECORDS`].
    pub(super) records: Vec<Record>,
}

impl LogPage {
    pub(super) fn bytes(&self, id: &[u8; 16]) -> PageBytes {
        let mut page = [0; PAGE_SIZE];
        let count = u32::try_from(self.records.len()).unwrap_or(u32::MAX);
        page[4..8].copy_from_slice(&count.to_le_bytes());
        page[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        page[16..24].copy_from_slice(&self.safe.to_le_bytes());
        page[24..32].copy_from_slice(&self.settled.to_le_bytes());
        page[32..48].copy_from_slice(&self.boot);
        let places = page[RECORDS_AT..].as_chunks_mut::<RECORD_BYTES>().0;
        for (place, record) in places.iter_mut().zip(&self.records) {
            place[..4].copy_from_slice(&record.slot.to_le_bytes());
            place[4..].copy_from_slice(&record.crc.to_le_bytes());
        }
        let crc = sum(&page, id);
        page[..4].copy_from_slice(&crc.to_le_bytes());
        page
    }

    /// What a page says, if it is one, of this file.
    pub(super) fn parse(page: &PageBytes, id: &[u8; 16]) -> Option<Self> {
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| page[at + byte]));
        let long =
            |at: usize| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|byte| page[at + byte]));
        let count = word(4) as usize;
        if word(0) != sum(page, id) || long(8) == 0 || count > RECORDS {
            return None;
        }
        let mut boot = [0; 16];
        boot.copy_from_slice(&page[32..48]);
        let record = |number| {
            let at = RECORDS_AT + number * RECORD_BYTES;
            Record {
                slot: word(at),
                crc: word(at + 4),
            }
        };
        Some(Self {
            sequence: long(8),
            safe: long(16),
            settled: long(24),
            boot,
            records: (0..count).map(record).collect(),
        })
    }
}

fn sum(page: &PageBytes, id: &[u8; 16]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(id);
    digest.update(&page[4..]);
    // The upper half of a 32-bit CRC is zero.
    u32::try_from(digest.finalize()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: [u8; 16] = *b"0123456789abcdef";

    fn page(records: usize) -> LogPage {
        let record = |number| Record {
            slot: number,
            crc: !number,
        };
        LogPage {
            sequence: 1 << 40,
            safe: 77,
            settled: 76,
            boot: *b"fedcba9876543210",
            records: (0..).map(record).take(records).collect(),
        }
    }

    #[test]
    fn page_says_what_was_written() {
        for records in [0, 1, RECORDS] {
            let page = page(records);
            assert_eq!(LogPage::parse(&page.bytes(&ID), &ID), Some(page));
        }
        assert_eq!(LogPage::parse(&[0; PAGE_SIZE], &ID), None);
        let other = b"0123456789abcdeg";
        assert_eq!(LogPage::parse(&page(3).bytes(&ID), other), None);
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let bytes = page(RECORDS).bytes(&ID);
        for bit in 0..8 * PAGE_SIZE {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(LogPage::parse(&flipped, &ID), None, "bit {bit}");
        }
    }
}
