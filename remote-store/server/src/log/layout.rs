// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What stands where in the file: segments of one size, each with a header of 4096 bytes.
//!
//! ```text
//! ┌ slot 0 ─────────────────────┬ slot 1 ──────────┬ …
//! │ header │ record │ record …  │ header │ record …│
//! ```
//! A header names its segment by a number that rises with each segment that is begun, and lists the
//! slots whose segments count, with their numbers and ends. So the newest valid header says what the
//! log is, together with the records behind it that say which of these do not count any more. A slot
//! that is not among them is free, whatever its bytes say, and a header that was torn is that of a
//! segment that never began.

use tmem_remote_protocol::PAGE_SIZE;

use super::record::crc32;

/// What every size and place in the log is a multiple of.
pub(super) const UNIT: usize = 64;
/// Bytes of a segment's header.
pub(super) const HEADER_LEN: usize = 4096;
/// Units of a segment's header.
pub(super) const HEADER_UNITS: u32 = 64;
/// Units of the longest record.
pub(super) const PUT_UNITS: u32 = 65;
/// Slots at most: as many as a header lists.
pub(super) const SLOTS_MAX: u32 = 256;
/// Slots of a log that is large enough.
const SLOTS_TARGET: u64 = 250;
const SEGMENT_MIN: u64 = 256 << 10;
/// Bytes of a log at least.
pub const LOG_SIZE_MIN: u64 = 16 << 20;
/// Bytes of a log at most: places are 32-bit numbers of units.
pub const LOG_SIZE_MAX: u64 = 128 << 30;

const MAGIC: [u8; 8] = *b"TMEMLOG1";
const LIST_AT: usize = 128;
const CRC_AT: usize = HEADER_LEN - 4;

const _: () = assert!(LIST_AT + SLOTS_MAX as usize * 12 <= CRC_AT);
const _: () = assert!(PUT_UNITS as usize * UNIT == UNIT + PAGE_SIZE);
const _: () = assert!(HEADER_UNITS as usize * UNIT == HEADER_LEN);
const _: () = assert!(LOG_SIZE_MAX / (UNIT as u64) < 1 << 32);
const _: () = assert!(LOG_SIZE_MIN / SEGMENT_MIN >= 16);

/// How the file is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Units of a segment, with its header.
    pub(super) segment_units: u32,
    /// Segments.
    pub(super) slots: u32,
}

impl Geometry {
    /// The division of a file of so many bytes, if it can be a log.
    pub(super) fn of(size: u64) -> Option<Self> {
        if !(LOG_SIZE_MIN..=LOG_SIZE_MAX).contains(&size) {
            return None;
        }
        let segment = (size / SLOTS_TARGET).max(SEGMENT_MIN) & !(HEADER_LEN as u64 - 1);
        let slots = (size / segment).min(u64::from(SLOTS_MAX));
        Some(Self {
            segment_units: u32::try_from(segment / UNIT as u64).ok()?,
            slots: u32::try_from(slots).ok()?,
        })
    }

    /// The first unit of a slot.
    pub(super) const fn slot_at(self, slot: u32) -> u32 {
        slot * self.segment_units
    }

    /// The slot that a unit lies in.
    pub(super) const fn slot_of(self, unit: u32) -> u32 {
        unit / self.segment_units
    }

    /// Units of records in a segment of nothing but pages.
    pub(super) const fn room(self) -> u32 {
        (self.segment_units - HEADER_UNITS) / PUT_UNITS * PUT_UNITS
    }
}

/// Where a unit stands in the file, in bytes.
pub(super) fn bytes(unit: u32) -> u64 {
    u64::from(unit) * UNIT as u64
}

/// A segment that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// Its number.
    pub(super) segment: u64,
    /// Units of it that are used, with its header.
    pub(super) end: u32,
}

/// A segment's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) geometry: Geometry,
    pub(super) slot: u32,
    /// The segment's number.
    pub(super) segment: u64,
    /// The number of its first record.
    pub(super) first_record: u64,
    /// Tells this log from every other in the same file.
    pub(super) log_id: [u8; 16],
    pub(super) store_id: [u8; 16],
    pub(super) incarnation: u64,
    /// The boot in which it was written, if the host's end may have taken any of it.
    pub(super) boot: Option<[u8; 16]>,
    /// The segments before it that count, by slot.
    pub(super) listed: Vec<(u32, Listed)>,
}

impl Header {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN];
        let mut fields = Vec::with_capacity(LIST_AT);
        fields.extend_from_slice(&MAGIC);
        fields.extend_from_slice(&self.geometry.segment_units.to_le_bytes());
        fields.extend_from_slice(&self.geometry.slots.to_le_bytes());
        fields.extend_from_slice(&self.slot.to_le_bytes());
        fields.extend_from_slice(&u32::from(self.boot.is_some()).to_le_bytes());
        fields.extend_from_slice(&self.segment.to_le_bytes());
        fields.extend_from_slice(&self.first_record.to_le_bytes());
        fields.extend_from_slice(&self.log_id);
        fields.extend_from_slice(&self.store_id);
        fields.extend_from_slice(&self.incarnation.to_le_bytes());
        fields.extend_from_slice(&self.boot.unwrap_or_default());
        bytes[..fields.len()].copy_from_slice(&fields);
        for (slot, listed) in &self.listed {
            let at = LIST_AT + *slot as usize * 12;
            bytes[at..at + 8].copy_from_slice(&listed.segment.to_le_bytes());
            bytes[at + 8..at + 12].copy_from_slice(&listed.end.to_le_bytes());
        }
        let crc = crc32(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header, if the bytes are one.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let stated = u32::from_le_bytes(bytes.get(CRC_AT..HEADER_LEN)?.try_into().ok()?);
        if fields.take::<8>()? != MAGIC || crc32(bytes.get(..CRC_AT)?) != stated {
            return None;
        }
        let geometry = Geometry {
            segment_units: fields.word()?,
            slots: fields.word()?,
        };
        let slot = fields.word()?;
        let volatile = fields.word()? != 0;
        let mut header = Self {
            geometry,
            slot,
            segment: fields.long()?,
            first_record: fields.long()?,
            log_id: fields.take()?,
            store_id: fields.take()?,
            incarnation: fields.long()?,
            boot: Some(fields.take()?).filter(|_| volatile),
            listed: Vec::new(),
        };
        let mut list = Fields(bytes.get(LIST_AT..CRC_AT)?);
        for slot in 0..geometry.slots.min(SLOTS_MAX) {
            let (segment, end) = (list.long()?, list.word()?);
            if segment != 0 {
                header.listed.push((slot, Listed { segment, end }));
            }
        }
        Some(header)
    }
}

/// Bytes, read from their front.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn word(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn long(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_comes_back_and_no_changed_one_does() {
        let header = Header {
            geometry: Geometry {
                segment_units: 4096,
                slots: 64,
            },
            slot: 3,
            segment: 9,
            first_record: 1000,
            log_id: [1; 16],
            store_id: [2; 16],
            incarnation: 3,
            boot: Some([4; 16]),
            listed: vec![
                (
                    0,
                    Listed {
                        segment: 8,
                        end: 4096,
                    },
                ),
                (
                    63,
                    Listed {
                        segment: 2,
                        end: 70,
                    },
                ),
            ],
        };
        let mut bytes = header.to_bytes();
        assert_eq!(Header::parse(&bytes), Some(header));
        for at in 0..HEADER_LEN {
            bytes[at] ^= 4;
            assert_eq!(Header::parse(&bytes), None, "byte {at}");
            bytes[at] ^= 4;
        }
        assert_eq!(Header::parse(&bytes[..HEADER_LEN - 1]), None);
    }

    #[test]
    fn any_size_is_divided_into_segments_that_fit() {
        assert_eq!(Geometry::of(LOG_SIZE_MIN - 1), None);
        assert_eq!(Geometry::of(LOG_SIZE_MAX + 1), None);
        for size in [LOG_SIZE_MIN, 20_000_001, 1 << 30, 10 << 30, LOG_SIZE_MAX] {
            let geometry = Geometry::of(size).expect("a geometry");
            let used = bytes(geometry.segment_units) * u64::from(geometry.slots);
            assert!(
                used <= size && used * 10 > size * 9,
                "{geometry:?} of {size}"
            );
            assert!((16..=SLOTS_MAX).contains(&geometry.slots));
            assert!(geometry.room() > 10 * PUT_UNITS);
            let last = geometry.slot_at(geometry.slots - 1) + geometry.segment_units - 1;
            assert_eq!(geometry.slot_of(last), geometry.slots - 1);
        }
    }
}
