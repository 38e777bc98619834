// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A slot's header: which page the slot holds, and whether it is there for good.
//!
//! ```text
//! 0          4            8       32     36        40      48     49     56   60     64
//! pool slot  pool serial  object  index  checksum  ticket  flags  stamp  CRC  state
//!                                                                        └ commit word
//! ```
//! A header is one cache line. Its last 8 bytes are the commit word, which one store writes and one
//! store clears: zero says that the slot is empty. The CRC covers the 56 bytes before it, and also the
//! file's id and the slot's number, so that neither a header of an older file nor one that went to a
//! wrong place is taken for this slot's.
//!
//! There are two states of a committed page. [`State::Settled`] was written when the page was already
//! safe. [`State::Fresh`] was written together with the page: after a crash the page's own checksum
//! tells whether all of it arrived.
//!
//! The stamp is a number of seven bytes that never falls: the newest page of the [log](super::log) when
//! the header was written.

use crc_fast::{CrcAlgorithm, Digest};

use crate::handle::{ObjectId, PageIndex, Ticket};

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 64;
/// Where the commit word begins.
pub(super) const COMMIT_AT: usize = 56;
/// The commit word of an empty slot.
pub(super) const EMPTY: [u8; 8] = [0; 8];

/// A header as it lies in the file.
pub(super) type Line = [u8; HEADER_BYTES];

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotHeader {
    /// The slot of the page's pool, in the engine's table and in the file's directory.
    pub pool_slot: u32,
    /// Which of the pools that this slot has had.
    pub pool_serial: u32,
    /// The page's object.
    pub object: ObjectId,
    /// The page's place in its object.
    pub index: PageIndex,
    /// The put that the page is from.
    pub ticket: Ticket,
    /// The engine's CRC-32 of the page. A scan verifies it where the page may be half there.
    pub checksum: u32,
    /// [`Self::BY_HEADER`], or nothing.
    pub flags: u8,
}

/// What the commit word says of a page that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Written with the page: after a crash, the page is to be verified.
    Fresh,
    /// Written after the page.
    Settled,
}

impl State {
    /// Far apart, and far from zero: no flipped bit turns one into another.
    const fn tag(self) -> u32 {
        match self {
            Self::Fresh => 0x5ac3_96e1,
            Self::Settled => 0xa53c_691e,
        }
    }
}

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// There is no page.
    Empty,
    /// There is this page; if fresh and after a crash, perhaps.
    Page {
        header: SlotHeader,
        state: State,
        stamp: u64,
    },
    /// Written with its page, and not all of it arrived.
    Unfinished,
    /// There was a page.
    Damaged,
}

impl SlotHeader {
    /// Nothing but the header says whose the page is: a page of a sparse pool.
    pub const BY_HEADER: u8 = 1;

    /// Whether its slot's header is the way to find the page.
    #[must_use]
    pub fn is_found_by_header(&self) -> bool {
        self.flags & Self::BY_HEADER != 0
    }

    /// The line of this page in a slot of the file with this id.
    pub(super) fn line(&self, id: &[u8; 16], slot: u32, state: State, stamp: u64) -> Line {
        let mut line = [0; HEADER_BYTES];
        line[..4].copy_from_slice(&self.pool_slot.to_le_bytes());
        line[4..8].copy_from_slice(&self.pool_serial.to_le_bytes());
        for (to, from) in line[8..32].as_chunks_mut().0.iter_mut().zip(self.object.0) {
            *to = from.to_le_bytes();
        }
        line[32..36].copy_from_slice(&self.index.0.to_le_bytes());
        line[36..40].copy_from_slice(&self.checksum.to_le_bytes());
        line[40..48].copy_from_slice(&self.ticket.get().to_le_bytes());
        let flags_and_stamp = u64::from(self.flags) | stamp << 8;
        line[48..56].copy_from_slice(&flags_and_stamp.to_le_bytes());
        let crc = sum(id, slot, &line);
        line[56..60].copy_from_slice(&crc.to_le_bytes());
        line[60..].copy_from_slice(&state.tag().to_le_bytes());
        line
    }
}

/// The line without its commit word: what is written first.
pub(super) fn uncommitted(line: &Line) -> Line {
    let mut line = *line;
    line[COMMIT_AT..].copy_from_slice(&EMPTY);
    line
}

/// Reads a line.
pub(super) fn parse(line: &Line, id: &[u8; 16], slot: u32) -> Parsed {
    let long = |at: usize| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|byte| line[at + byte]));
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| line[at + byte]));
    if long(COMMIT_AT) == 0 {
        return Parsed::Empty;
    }
    let sound = word(56) == sum(id, slot, line);
    let state = match word(60) {
        tag if tag == State::Settled.tag() => State::Settled,
        tag if tag == State::Fresh.tag() && sound => State::Fresh,
        tag if tag == State::Fresh.tag() => return Parsed::Unfinished,
        _ => return Parsed::Damaged,
    };
    match Ticket::new(long(40)) {
        Some(ticket) if sound => Parsed::Page {
            header: SlotHeader {
                pool_slot: word(0),
                pool_serial: word(4),
                object: ObjectId([long(8), long(16), long(24)]),
                index: PageIndex(word(32)),
                ticket,
                checksum: word(36),
                flags: line[48],
            },
            state,
            stamp: long(48) >> 8,
        },
        _ => Parsed::Damaged,
    }
}

/// The header of a line that is sound but for one bit.
pub(super) fn repaired(line: &Line, id: &[u8; 16], slot: u32) -> Option<SlotHeader> {
    (0..8 * HEADER_BYTES).find_map(|bit| {
        let mut line = *line;
        line[bit / 8] ^= 1 << (bit % 8);
        match parse(&line, id, slot) {
            Parsed::Page { header, .. } => Some(header),
            _ => None,
        }
    })
}

fn sum(id: &[u8; 16], slot: u32, line: &Line) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(id);
    digest.update(&slot.to_le_bytes());
    digest.update(&line[..COMMIT_AT]);
    // The upper half of a 32-bit CRC is zero.
    u32::try_from(digest.finalize()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: [u8; 16] = *b"0123456789abcdef";

    fn header() -> SlotHeader {
        SlotHeader {
            pool_slot: 7,
            pool_serial: u32::MAX,
            object: ObjectId([u64::MAX, 2, 3 << 60]),
            index: PageIndex(0xdead_beef),
            ticket: Ticket::MAX,
            checksum: 0x1234_5678,
            flags: 9,
        }
    }

    #[test]
    fn line_says_what_was_written() {
        for state in [State::Fresh, State::Settled] {
            let stamp = (1 << 56) - 2;
            let line = header().line(&ID, 5, state, stamp);
            let page = Parsed::Page {
                header: header(),
                state,
                stamp,
            };
            assert_eq!(parse(&line, &ID, 5), page);
            assert_eq!(parse(&uncommitted(&line), &ID, 5), Parsed::Empty);
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let line = header().line(&ID, 5, State::Settled, 3);
        for bit in 0..8 * HEADER_BYTES {
            let mut flipped = line;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&flipped, &ID, 5), Parsed::Damaged, "bit {bit}");
        }
    }

    #[test]
    fn one_flipped_bit_hides_no_header() {
        let line = header().line(&ID, 5, State::Fresh, 3);
        for bit in 0..8 * HEADER_BYTES {
            let mut flipped = line;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(repaired(&flipped, &ID, 5), Some(header()), "bit {bit}");
        }
        let mut torn = line;
        torn[8..16].fill(0);
        assert_eq!(repaired(&torn, &ID, 5), None);
    }

    #[test]
    fn line_of_another_slot_or_file_is_not_taken() {
        let line = header().line(&ID, 5, State::Settled, 3);
        assert_eq!(parse(&line, &ID, 6), Parsed::Damaged);
        assert_eq!(parse(&line, b"0123456789abcdeg", 5), Parsed::Damaged);
        let line = header().line(&ID, 5, State::Fresh, 3);
        assert_eq!(parse(&line, &ID, 6), Parsed::Unfinished);
    }
}
