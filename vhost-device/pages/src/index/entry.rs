// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One index entry: a word that says where a page is.
//!
//! ```text
//! 63  60 59        52 51                      32 31                        0
//! tag 0  0                                                                     no page
//! tag 1  0                                       frame number                  in a frame
//! tag 2  the byte      ticket                                                  one byte repeated
//! ```
//! Twelve tags are left for places that are not DRAM. A framed page's ticket is in the frame table.

use crate::frames::{FrameNo, Frames};
use crate::handle::Ticket;

const TAG_SHIFT: u32 = 60;
const TAG_FRAME: u64 = 1;
const TAG_SAME: u64 = 2;
const VALUE_SHIFT: u32 = 52;
const _: () = assert!(Ticket::LIMIT == 1 << VALUE_SHIFT);

/// A word of the index, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

impl Entry {
    /// The word of an empty entry.
    pub(crate) const EMPTY_WORD: u64 = 0;

    /// Writes the word.
    #[inline]
    pub(crate) fn to_word(self) -> u64 {
        match self {
            Self::Empty => Self::EMPTY_WORD,
            Self::Frame(frame) => (TAG_FRAME << TAG_SHIFT) | u64::from(frame.0),
            Self::Same { value, ticket } => {
                (TAG_SAME << TAG_SHIFT) | (u64::from(value) << VALUE_SHIFT) | ticket
            }
        }
    }

    /// Reads a word that [`Entry::to_word`] wrote.
    #[inline]
    pub(crate) fn from_word(word: u64) -> Self {
        let [frame @ .., _, _, _, _] = word.to_le_bytes();
        match word >> TAG_SHIFT {
            TAG_FRAME => Self::Frame(FrameNo(u32::from_le_bytes(frame))),
            TAG_SAME => Self::Same {
                value: (word >> VALUE_SHIFT).to_le_bytes()[0],
                ticket: word & (Ticket::LIMIT - 1),
            },
            _ => {
                assert_eq!(word, Self::EMPTY_WORD, "index entry with an unknown tag");
                Self::Empty
            }
        }
    }

    /// No page.
    #[inline]
    pub(crate) fn is_empty(self) -> bool {
        self == Self::Empty
    }

    /// There is a page, and its ticket is above `ticket`.
    #[inline]
    pub(crate) fn is_newer(self, ticket: Ticket, frames: &Frames) -> bool {
        match self {
            Self::Empty => false,
            Self::Frame(frame) => frames.mapping().entry(frame).ticket() > ticket.get(),
            Self::Same { ticket: stored, .. } => stored > ticket.get(),
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
        ] {
            assert_eq!(Entry::from_word(entry.to_word()), entry);
        }
    }

    #[test]
    #[should_panic(expected = "unknown tag")]
    fn word_of_another_kind_is_not_taken_for_a_page() {
        let _entry = Entry::from_word(9 << TAG_SHIFT);
    }
}
