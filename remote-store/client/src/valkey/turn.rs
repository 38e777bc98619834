// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a slot's mark says: whether the slot holds a page, and how often it was written, modulo 127.
//!
//! ```text
//! 0          never written
//! 1 ..= 127  holds a page: the one of this turn
//! 128 + n    holds none; the last one, acknowledged or not, was of turn n
//! ```
//! Each write of a slot, also one that fails, takes the next turn. A replica that takes over without
//! the last writes has an older turn of the slot, and an older turn is noticed unless it is older by a
//! multiple of 127 writes of this one slot. A replica lags by a few writes of all slots together.

/// Turns that there are. A prime below 128, so that a mark has a bit left to say "no page".
pub(super) const TURNS: u8 = 127;

/// Which write of a slot, 1 to [`TURNS`] and then 1 again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn(u8);

/// What a mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// The slot holds a page.
    Page(Turn),
    /// The slot holds none; its last turn, if it had one.
    Empty(Option<Turn>),
}

impl Turn {
    /// The turn of the value with this generation.
    pub(super) fn of(generation: u64) -> Self {
        let rest = generation % u64::from(TURNS);
        Self(u8::try_from(rest).map_or(1, |rest| rest + 1))
    }

    /// The generation of a value of this turn. A higher count gives a higher one, whatever the turns.
    pub(super) fn generation(self, count: u64) -> u64 {
        count
            .wrapping_mul(u64::from(TURNS))
            .wrapping_add(u64::from(self.0 - 1))
    }

    /// The mark of a slot that holds the page of this turn.
    pub(super) fn page(self) -> u8 {
        self.0
    }

    /// The mark of a slot that holds no page any more, or not yet.
    pub(super) fn empty(self) -> u8 {
        self.0 | 0x80
    }

    fn after(self) -> Self {
        Self(self.0 % TURNS + 1)
    }
}

impl Mark {
    pub(super) fn read(mark: u8) -> Self {
        match mark {
            0 | 0x80 => Self::Empty(None),
            1..0x80 => Self::Page(Turn(mark)),
            _ => Self::Empty(Some(Turn(mark & 0x7f))),
        }
    }

    /// The turn of the slot's next write.
    pub(super) fn next(self) -> Turn {
        match self {
            Self::Page(turn) | Self::Empty(Some(turn)) => turn.after(),
            Self::Empty(None) => Turn(1),
        }
    }

    /// The mark of this slot without its page.
    pub(super) fn emptied(self) -> u8 {
        match self {
            Self::Page(turn) | Self::Empty(Some(turn)) => turn.empty(),
            Self::Empty(None) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turn_is_remembered_by_the_mark_with_and_without_a_page() {
        for number in 1..=TURNS {
            let turn = Turn(number);
            assert_eq!(Mark::read(turn.page()), Mark::Page(turn));
            assert_eq!(Mark::read(turn.empty()), Mark::Empty(Some(turn)));
            assert_eq!(Mark::read(turn.page()).emptied(), turn.empty());
            assert_eq!(Mark::read(turn.empty()).emptied(), turn.empty());
            assert_eq!(
                Mark::read(turn.page()).next(),
                Mark::read(turn.empty()).next()
            );
        }
        assert_eq!(Mark::read(0).next(), Turn(1));
    }

    #[test]
    fn value_that_is_up_to_126_writes_too_old_has_another_turn() {
        let mut mark = 0;
        let mut turns = Vec::new();
        for count in 1..400_u64 {
            let turn = Mark::read(mark).next();
            let generation = turn.generation(count);
            assert_eq!(Turn::of(generation), turn);
            turns.push((generation, turn));
            // Every third write fails.
            mark = if count % 3 == 0 {
                turn.empty()
            } else {
                turn.page()
            };
        }
        for (at, (generation, turn)) in turns.iter().enumerate() {
            for (older, other) in &turns[at.saturating_sub(126)..at] {
                assert!(older < generation);
                assert_ne!(other, turn);
            }
        }
    }
}
