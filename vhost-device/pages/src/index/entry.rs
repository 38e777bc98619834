// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One index entry: a word that says where a page is.
//!
//! ```text
//! 63  60 59        52 51                      32 31                        0
//! tag 0  0                                                                     no page
//! tag 1  0                                       frame number                  in a frame
//! tag 2  the byte      ticket                                                  one byte repeated
//! tag 3  0                                                                     damaged
//! tag 5  as tag 1                                                              taken, in a frame
//! tag 6  as tag 2                                                              taken, one byte repeated
//! tag 7  slot (28 bits)                          CRC-32                        in the PM tier
//! tag 8  slot (28 bits)                          CRC-32                        in the remote tier
//! ```
//! A framed page's ticket is in the frame table, that of a page below DRAM in the slot table. A
//! page is taken between its delivery to an exclusive get and the word that the delivery arrived:
//! to a get it is not there, to a put or a flush its ticket counts, as if it were. Words of dense
//! pools lie in the map, so a tag keeps its meaning for ever.

use crate::frames::{FrameNo, Frames};
use crate::handle::Ticket;
use crate::slot_table::SLOTS_MAX;
use crate::tier::Lower;

const TAG_SHIFT: u32 = 60;
const TAG_FRAME: u64 = 1;
const TAG_SAME: u64 = 2;
const TAG_DAMAGED: u64 = 3;
const TAG_TAKEN_FRAME: u64 = 5;
const TAG_TAKEN_SAME: u64 = 6;
const TAG_PM: u64 = 7;
const TAG_REMOTE: u64 = 8;
const SLOT_SHIFT: u32 = 32;
const VALUE_SHIFT: u32 = 52;
const _: () = assert!(Ticket::LIMIT == 1 << VALUE_SHIFT);

/// Where a page is that has left DRAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stored {
    pub(crate) tier: Lower,
    /// Below [`SLOTS_MAX`].
    pub(crate) slot: u32,
    /// CRC-32/ISCSI of the page.
    pub(crate) checksum: u32,
}

/// A word of the index, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Entry {
    /// No page.
    Empty,
    /// The page is in this frame.
    Frame(FrameNo),
    /// The page is `value`, 4096 times.
    Same {
        /// The byte.
        value: u8,
        /// The put's ticket.
        ticket: u64,
    },
    /// The page is in a slot of a lower tier.
    Stored(Stored),
    /// There was a page, and its bytes cannot be told any more.
    Damaged,
    /// The page in this frame has been delivered to an exclusive get.
    TakenFrame(FrameNo),
    /// The page of one repeated byte has been delivered to an exclusive get.
    TakenSame {
        /// The byte.
        value: u8,
        /// The put's ticket.
        ticket: u64,
    },
}

impl Entry {
    /// The word of an empty entry.
    pub(crate) const EMPTY_WORD: u64 = 0;

    /// Writes the word.
    #[inline]
    pub(crate) fn to_word(self) -> u64 {
        let frame = |tag: u64, frame: FrameNo| (tag << TAG_SHIFT) | u64::from(frame.0);
        let same = |tag: u64, value: u8, ticket| {
            (tag << TAG_SHIFT) | (u64::from(value) << VALUE_SHIFT) | ticket
        };
        match self {
            Self::Empty => Self::EMPTY_WORD,
            Self::Frame(number) => frame(TAG_FRAME, number),
            Self::Same { value, ticket } => same(TAG_SAME, value, ticket),
            Self::Stored(at) => {
                let tag = match at.tier {
                    Lower::Pm => TAG_PM,
                    Lower::Remote => TAG_REMOTE,
                };
                (tag << TAG_SHIFT) | (u64::from(at.slot) << SLOT_SHIFT) | u64::from(at.checksum)
            }
            Self::Damaged => TAG_DAMAGED << TAG_SHIFT,
            Self::TakenFrame(number) => frame(TAG_TAKEN_FRAME, number),
            Self::TakenSame { value, ticket } => same(TAG_TAKEN_SAME, value, ticket),
        }
    }

    /// Reads a word that [`Entry::to_word`] wrote.
    #[inline]
    pub(crate) fn from_word(word: u64) -> Self {
        let entry = Self::read_word(word);
        assert!(entry.is_some(), "index entry with an unknown tag");
        entry.unwrap_or(Self::Empty)
    }

    /// Reads any word; nothing if [`Entry::to_word`] did not write it.
    #[inline]
    pub(crate) fn read_word(word: u64) -> Option<Self> {
        let [frame @ .., _, _, _, _] = word.to_le_bytes();
        let frame = FrameNo(u32::from_le_bytes(frame));
        let value = (word >> VALUE_SHIFT).to_le_bytes()[0];
        let ticket = word & (Ticket::LIMIT - 1);
        let stored = |tier| {
            let [low @ .., _, _, _, _] = word.to_le_bytes();
            let slot = (word >> SLOT_SHIFT) & u64::from(SLOTS_MAX - 1);
            Some(Self::Stored(Stored {
                tier,
                // Below 2^28.
                slot: u32::try_from(slot).unwrap_or(0),
                checksum: u32::from_le_bytes(low),
            }))
        };
        match word >> TAG_SHIFT {
            TAG_PM => stored(Lower::Pm),
            TAG_REMOTE => stored(Lower::Remote),
            TAG_FRAME => Some(Self::Frame(frame)),
            TAG_SAME => Some(Self::Same { value, ticket }),
            TAG_DAMAGED => Some(Self::Damaged),
            TAG_TAKEN_FRAME => Some(Self::TakenFrame(frame)),
            TAG_TAKEN_SAME => Some(Self::TakenSame { value, ticket }),
            _ => (word == Self::EMPTY_WORD).then_some(Self::Empty),
        }
    }

    /// There is a page, to whoever gets it.
    #[inline]
    pub(crate) fn is_page(self) -> bool {
        matches!(
            self,
            Self::Frame(_) | Self::Same { .. } | Self::Stored(_) | Self::Damaged
        )
    }

    /// The frame that the entry keeps from being used again.
    #[inline]
    pub(crate) fn frame(self) -> Option<FrameNo> {
        match self {
            Self::Frame(frame) | Self::TakenFrame(frame) => Some(frame),
            Self::Empty
            | Self::Same { .. }
            | Self::Stored(_)
            | Self::Damaged
            | Self::TakenSame { .. } => None,
        }
    }

    /// The entry of the same page, taken.
    #[inline]
    pub(crate) fn taken(self) -> Self {
        match self {
            Self::Frame(frame) => Self::TakenFrame(frame),
            Self::Same { value, ticket } => Self::TakenSame { value, ticket },
            other => other,
        }
    }

    /// The entry of the same page, put back.
    #[inline]
    pub(crate) fn put_back(self) -> Self {
        match self {
            Self::TakenFrame(frame) => Self::Frame(frame),
            Self::TakenSame { value, ticket } => Self::Same { value, ticket },
            other => other,
        }
    }

    /// The ticket of the page that is there; the lowest of one whose bytes are lost.
    pub(crate) fn ticket(self, frames: &Frames) -> Option<Ticket> {
        let ticket = match self {
            Self::Empty | Self::TakenFrame(_) | Self::TakenSame { .. } => return None,
            Self::Damaged => return Some(Ticket::MIN),
            Self::Frame(frame) => frames.mapping().entry(frame).ticket(),
            Self::Stored(at) => frames.mapping().slots(at.tier).ticket(at.slot),
            Self::Same { ticket, .. } => ticket,
        };
        Ticket::new(ticket)
    }

    /// There is a page, or one is taken, and its ticket is above `ticket`.
    #[inline]
    pub(crate) fn is_newer(self, ticket: Ticket, frames: &Frames) -> bool {
        match self {
            Self::Empty | Self::Damaged => false,
            Self::Frame(frame) | Self::TakenFrame(frame) => {
                frames.mapping().entry(frame).ticket() > ticket.get()
            }
            Self::Stored(at) => frames.mapping().slots(at.tier).ticket(at.slot) > ticket.get(),
            Self::Same { ticket: stored, .. } | Self::TakenSame { ticket: stored, .. } => {
                stored > ticket.get()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_says_what_was_written() {
        for entry in [
            Entry::Empty,
            Entry::Frame(FrameNo(0)),
            Entry::Frame(FrameNo(u32::MAX)),
            Entry::Same {
                value: 0,
                ticket: 0,
            },
            Entry::Same {
                value: 0xff,
                ticket: Ticket::MAX.get(),
            },
            Entry::Damaged,
            Entry::Stored(Stored {
                tier: Lower::Pm,
                slot: SLOTS_MAX - 1,
                checksum: u32::MAX,
            }),
            Entry::Stored(Stored {
                tier: Lower::Remote,
                slot: 0,
                checksum: 0,
            }),
        ] {
            assert_eq!(Entry::from_word(entry.to_word()), entry);
            let taken = entry.taken();
            assert_eq!(Entry::from_word(taken.to_word()), taken);
            assert_eq!(taken.put_back(), entry);
            assert_eq!(taken.frame(), entry.frame());
        }
    }

    #[test]
    #[should_panic(expected = "unknown tag")]
    fn word_of_another_kind_is_not_taken_for_a_page() {
        let _entry = Entry::from_word(9 << TAG_SHIFT);
    }
}
