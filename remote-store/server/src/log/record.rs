// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One record: 64 bytes, and behind them a page, or what the server says about a namespace.
//!
//! Records are numbered without gaps, and each names the segment that it was written to, so what an
//! earlier life of a slot has left is not taken for a record of this one.

use tmem_remote_protocol::{PAGE_SIZE, PageBytes};

use super::layout::{Fields, UNIT};

const MAGIC: u32 = u32::from_le_bytes(*b"TMRL");
const CRC_AT: usize = UNIT - 4;

/// Bytes that a server may say about a namespace.
pub const ABOUT_MAX: usize = 512;

/// CRC-32/ISCSI.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    tmem_remote_protocol::crc32(bytes)
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A page, whose bytes follow.
    Put = 1,
    /// A page that is one byte repeated.
    Filled = 2,
    /// A page is gone.
    Flush = 3,
    /// All pages of a pool are gone, up to a generation.
    FlushPool = 4,
    /// What there is to know about a namespace.
    Namespace = 5,
    /// A namespace is gone, with all its pages.
    Forget = 6,
    /// A segment that the header lists does not count any more: its slot is the index, its number the
    /// generation.
    Release = 7,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Put,
        Self::Filled,
        Self::Flush,
        Self::FlushPool,
        Self::Namespace,
        Self::Forget,
        Self::Release,
    ];
}

/// Where a page belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The namespace, as the server numbers it. A number is never used for another name.
    pub namespace: u32,
    /// The pool.
    pub pool: u32,
    /// The place in the pool.
    pub index: u32,
}

/// The 64 bytes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    /// The byte of a filled page.
    pub(super) fill: u8,
    /// Bytes that follow.
    pub(super) length: u16,
    /// Its number.
    pub(super) sequence: u64,
    /// The segment that it was written to.
    pub(super) segment: u64,
    pub(super) generation: u64,
    pub(super) place: Place,
    /// The page's checksum, or that of what follows.
    pub(super) crc: u32,
    /// All records up to this number were safe before this one was written: how much less than its own.
    pub(super) unsafe_records: u32,
    /// Older records of the same name lie in segments up to this one: how much less than its own.
    pub(super) shadow_distance: u32,
}

impl Head {
    /// Units of the whole record.
    pub(super) fn units(&self) -> u32 {
        1 + u32::from(self.length).div_ceil(64)
    }

    /// The highest segment in which older records of the same name may lie.
    pub(super) const fn shadow(&self) -> u64 {
        self.segment.saturating_sub(self.shadow_distance as u64)
    }

    /// The highest record that was safe when this one was written.
    pub(super) const fn committed(&self) -> u64 {
        self.sequence.saturating_sub(self.unsafe_records as u64)
    }

    pub(super) fn write(&self, to: &mut Vec<u8>) {
        let begin = to.len();
        to.extend_from_slice(&MAGIC.to_le_bytes());
        to.extend_from_slice(&[self.kind as u8, self.fill]);
        to.extend_from_slice(&self.length.to_le_bytes());
        to.extend_from_slice(&self.sequence.to_le_bytes());
        to.extend_from_slice(&self.segment.to_le_bytes());
        to.extend_from_slice(&self.generation.to_le_bytes());
        to.extend_from_slice(&self.place.namespace.to_le_bytes());
        to.extend_from_slice(&self.place.pool.to_le_bytes());
        to.extend_from_slice(&self.place.index.to_le_bytes());
        to.extend_from_slice(&self.crc.to_le_bytes());
        to.extend_from_slice(&self.unsafe_records.to_le_bytes());
        to.extend_from_slice(&self.shadow_distance.to_le_bytes());
        to.resize(begin + CRC_AT, 0);
        let crc = crc32(&to[begin..]);
        to.extend_from_slice(&crc.to_le_bytes());
    }

    /// The head that `bytes` begin with, if they begin with one.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let head = bytes.get(..UNIT)?;
        let mut fields = Fields(head);
        let magic = fields.word()?;
        let stated = u32::from_le_bytes(head.get(CRC_AT..)?.try_into().ok()?);
        if magic != MAGIC || crc32(head.get(..CRC_AT)?) != stated {
            return None;
        }
        let [kind, fill] = fields.take()?;
        let kind = Kind::ALL.into_iter().find(|known| *known as u8 == kind)?;
        let length = fields.take().map(u16::from_le_bytes)?;
        let fits = match kind {
            Kind::Put => usize::from(length) == PAGE_SIZE,
            Kind::Namespace => usize::from(length) <= ABOUT_MAX,
            _ => length == 0,
        };
        fits.then_some(())?;
        Some(Self {
            kind,
            fill,
            length,
            sequence: fields.long()?,
            segment: fields.long()?,
            generation: fields.long()?,
            place: Place {
                namespace: fields.word()?,
                pool: fields.word()?,
                index: fields.word()?,
            },
            crc: fields.word()?,
            unsafe_records: fields.word()?,
            shadow_distance: fields.word()?,
        })
    }

    /// What follows the head in `bytes`, if it is whole and right.
    pub(super) fn payload<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let payload = bytes.get(UNIT..UNIT + usize::from(self.length))?;
        let right = match self.kind {
            Kind::Put | Kind::Namespace => crc32(payload) == self.crc,
            _ => true,
        };
        right.then_some(payload)
    }
}

/// The byte that a page repeats, if it is one. Most pages differ in their first or last word.
pub(super) fn same_filled(page: &PageBytes) -> Option<u8> {
    let (first, rest) = page.split_first_chunk::<8>()?;
    let (_, last) = page.split_last_chunk::<8>()?;
    let repeated = [first[0]; 8];
    if *first != repeated || *last != repeated {
        return None;
    }
    (*rest == page[..rest.len()]).then_some(first[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_comes_back_and_no_changed_one_does() {
        let head = Head {
            kind: Kind::Put,
            fill: 0,
            length: 4096,
            sequence: 77,
            segment: 5,
            generation: (1 << 52) - 1,
            place: Place {
                namespace: 1,
                pool: 2,
                index: 3,
            },
            crc: 4,
            unsafe_records: 6,
            shadow_distance: 2,
        };
        let mut bytes = Vec::new();
        head.write(&mut bytes);
        assert_eq!(bytes.len(), UNIT);
        assert_eq!(Head::parse(&bytes), Some(head));
        assert_eq!((head.units(), head.committed(), head.shadow()), (65, 71, 3));
        for at in 0..UNIT {
            bytes[at] ^= 1;
            assert_eq!(Head::parse(&bytes), None, "byte {at}");
            bytes[at] ^= 1;
        }
    }
}
