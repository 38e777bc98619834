// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a record is spelt: its first byte, the varints, and what it leaves out.

use super::{Event, Op, Record};
use crate::handle::PoolId;

/// Where a trace begins.
pub(super) const MAGIC: [u8; 8] = *b"tmemtrc\n";
/// A part with records.
pub(super) const BLOCK: u8 = 1;
/// The last part.
pub(super) const END: u8 = 2;
/// Bytes of a header or of a block: what writer and reader need of memory.
pub(super) const PART_MAX: usize = 1 << 16;
/// Bytes of the longest record: its form, four varints and an object.
pub(super) const RECORD_MAX: usize = 1 + 10 + 5 + 8 + 5 + 5;

/// What the record is: the form's low three bits.
const KIND: u8 = 0b111;
/// An event's pool is that of the event before.
const SAME_POOL: u8 = 1 << 3;
/// Its object is, too.
const SAME_OBJECT: u8 = 1 << 4;
/// Its index is the next after the pages of the event before.
const NEXT_INDEX: u8 = 1 << 5;
/// It is of one page.
const ONE_PAGE: u8 = 1 << 6;
/// A [`Record::Lost`]; the other kinds are those of [`Op`].
const LOST: u8 = 5;

/// CRC-32/ISCSI of a part.
pub(super) fn sum(bytes: &[u8]) -> u32 {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    // The crate has one return type for all widths; the upper half is zero.
    u32::try_from(crc).unwrap_or(u32::MAX)
}

fn kind(op: Op) -> u8 {
    match op {
        Op::Put => 0,
        Op::Get => 1,
        Op::Flush => 2,
        Op::FlushObject => 3,
        Op::FlushPool => 4,
    }
}

fn op(kind: u8) -> Option<Op> {
    [Op::Put, Op::Get, Op::Flush, Op::FlushObject, Op::FlushPool]
        .into_iter()
        .find(|op| self::kind(*op) == kind)
}

pub(super) fn write_varint(into: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            into.push(low & 0x7f);
            return;
        }
        into.push(low | 0x80);
    }
}

/// A difference of two numbers that wrap: small ones of either sign become small numbers.
fn zigzag(difference: u64) -> u64 {
    let sign = (difference.cast_signed() >> 63).cast_unsigned();
    difference << 1 ^ sign
}

fn unzigzag(number: u64) -> u64 {
    number >> 1 ^ (number & 1).wrapping_neg()
}

/// Bytes of a part that was found sound; what is missing or too large makes it unsound after all.
#[derive(Debug)]
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl Bytes<'_> {
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    pub(super) fn word(&mut self) -> Option<u64> {
        let (word, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*word))
    }

    pub(super) fn text(&mut self, len: usize) -> Option<String> {
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).ok()
    }

    pub(super) fn varint(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    pub(super) fn varint_u32(&mut self) -> Option<u32> {
        u32::try_from(self.varint()?).ok()
    }
}

/// What a record is told apart from: the one before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before(Event);

impl Default for Before {
    fn default() -> Self {
        Self(Event {
            at: 0,
            op: Op::Put,
            pool: PoolId(0),
            object: 0,
            index: 0,
            pages: 0,
        })
    }
}

impl Before {
    fn next_index(&self) -> u32 {
        self.0.index.wrapping_add(self.0.pages)
    }

    pub(super) fn write(&mut self, event: &Event, into: &mut Vec<u8>) {
        let before = &self.0;
        let next = self.next_index();
        let mut form = kind(event.op);
        for (bit, same) in [
            (SAME_POOL, event.pool == before.pool),
            (SAME_OBJECT, event.object == before.object),
            (NEXT_INDEX, event.index == next),
            (ONE_PAGE, event.pages == 1),
        ] {
            form |= if same { bit } else { 0 };
        }
        into.push(form);
        write_varint(into, zigzag(event.at.wrapping_sub(before.at)));
        if form & SAME_POOL == 0 {
            write_varint(into, event.pool.0.into());
        }
        if form & SAME_OBJECT == 0 {
            into.extend(event.object.to_le_bytes());
        }
        if form & NEXT_INDEX == 0 {
            let difference = event.index.wrapping_sub(next).cast_signed();
            let difference = i64::from(difference).cast_unsigned();
            write_varint(into, zigzag(difference));
        }
        if form & ONE_PAGE == 0 {
            write_varint(into, event.pages.into());
        }
        self.0 = *event;
    }

    pub(super) fn write_lost(count: u64, into: &mut Vec<u8>) {
        into.push(LOST);
        write_varint(into, count);
    }

    /// The next record, or nothing if these bytes are none.
    pub(super) fn read(&mut self, from: &mut Bytes<'_>) -> Option<Record> {
        let form = from.byte()?;
        if form == LOST {
            return Some(Record::Lost(from.varint()?));
        }
        if form & 0x80 != 0 {
            return None;
        }
        let op = op(form & KIND)?;
        let at = self.0.at.wrapping_add(unzigzag(from.varint()?));
        let pool = if form & SAME_POOL == 0 {
            PoolId(from.varint_u32()?)
        } else {
            self.0.pool
        };
        let object = if form & SAME_OBJECT == 0 {
            from.word()?
        } else {
            self.0.object
        };
        let mut index = self.next_index();
        if form & NEXT_INDEX == 0 {
            let difference = unzigzag(from.varint()?).cast_signed();
            let difference = i32::try_from(difference).ok()?;
            index = index.wrapping_add(difference.cast_unsigned());
        }
        let pages = if form & ONE_PAGE == 0 {
            from.varint_u32()?
        } else {
            1
        };
        self.0 = Event {
            at,
            op,
            pool,
            object,
            index,
            pages,
        };
        Some(Record::Event(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varint_comes_back_and_one_too_long_does_not() {
        for shift in 0..64 {
            for number in [1_u64 << shift, (1_u64 << shift) - 1, u64::MAX >> shift] {
                let mut bytes = Vec::new();
                write_varint(&mut bytes, number);
                let mut read = Bytes(&bytes);
                assert_eq!((read.varint(), read.0.len()), (Some(number), 0));
                assert_eq!(Bytes(&bytes[1..]).varint().is_some(), bytes.len() > 1);
                assert_eq!(unzigzag(zigzag(number)), number);
            }
        }
        assert_eq!(Bytes(&[0x80; 10]).varint(), None);
        let beyond = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2];
        assert_eq!(Bytes(&beyond).varint(), None);
    }

    #[test]
    fn small_differences_of_either_sign_are_small() {
        for (difference, expected) in [(0, 0), (-1, 1), (1, 2), (-2, 3), (i64::MIN, u64::MAX)] {
            assert_eq!(zigzag(difference.cast_unsigned()), expected);
        }
    }

    #[test]
    fn a_byte_that_is_no_form_is_refused() {
        for form in [6_u8, 7, 0x80, 0xff, LOST | SAME_POOL] {
            let bytes = [form, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(Before::default().read(&mut Bytes(&bytes)), None, "{form}");
        }
    }
}
