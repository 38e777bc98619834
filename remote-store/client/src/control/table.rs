// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What repair must know of the table of pages, and how it judges one page of it.

use super::event::MemberNo;

/// Which members have which page. The owner of the state only reads it; it changes by writes,
/// forgotten pages, and what the driver does for [`Action`](super::Action)s.
pub trait Table {
    /// How many slots there are.
    fn slots(&self) -> u32;

    /// Who has a copy of the slot's page. None: there is no page. `Some(0)`: there was one and
    /// all its copies are lost; it stays so until it is written or forgotten.
    ///
    /// A member that is dead keeps its bit: it may come back with the page.
    fn copies(&self, slot: u32) -> Option<u64>;
}

/// What the members' states mean for a page, as masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Copies here can be read.
    pub(crate) good: u64,
    /// Of these, stores that are to keep their pages.
    pub(crate) staying: u64,
    /// Of these, stores that answered a moment ago.
    pub(crate) well: u64,
    /// Stores that were given up: their bits go, whatever that leaves.
    pub(crate) given_up: u64,
    /// Stores that may have the page, but it is too early to say that they do not.
    pub(crate) awaited: u64,
    /// Copies that a page is to have.
    pub(crate) copies: u32,
}

/// How a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// As it should be, or not to be judged yet.
    Fine,
    /// All copies are gone for good.
    Lost,
    /// No copy can be read now.
    Unreachable,
    /// One copy can be read, and there should be more.
    Endangered,
    /// More than one, and fewer than there should be.
    Thin,
    /// Enough, but a copy is where none should be.
    Leaving,
}

impl Standing {
    /// How a page with copies at `mask` is.
    pub(crate) fn judge(&self, mask: u64) -> Condition {
        if mask == 0 {
            return Condition::Lost;
        }
        if mask & self.given_up != 0 {
            return Condition::Leaving;
        }
        let good = (mask & self.good).count_ones();
        let staying = (mask & self.staying).count_ones();
        let awaited = (mask & self.awaited).count_ones();
        if good == 0 {
            return if awaited > 0 {
                Condition::Fine
            } else {
                Condition::Unreachable
            };
        }
        if staying + awaited < self.copies {
            return match good {
                1 if self.copies > 1 => Condition::Endangered,
                _ if good >= self.copies => Condition::Leaving,
                _ => Condition::Thin,
            };
        }
        // Enough of them: a copy on a store that drains or is dead, or one too many.
        let leaving = mask & !self.staying & !self.awaited;
        if staying >= self.copies && (leaving != 0 || staying > self.copies) {
            return Condition::Leaving;
        }
        Condition::Fine
    }

    /// Copies that a page at `mask` can do without: none is among those that make up its number,
    /// and none is the last that can be read.
    pub(crate) fn surplus(&self, mask: u64) -> u64 {
        let well = mask & self.well;
        let spare = well.count_ones().saturating_sub(self.copies);
        let mut drop = 0;
        if well.count_ones() >= self.copies {
            drop |= mask & !self.staying & !self.awaited;
        }
        for member in MemberNo::all_in(well).take(usize::try_from(spare).unwrap_or(0)) {
            drop |= member.bit();
        }
        drop | (mask & self.given_up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u64 = 1;
    const B: u64 = 2;
    const C: u64 = 4;

    fn two_copies() -> Standing {
        Standing {
            good: A | B | C,
            staying: A | B | C,
            well: A | B | C,
            copies: 2,
            ..Standing::default()
        }
    }

    #[test]
    fn a_page_with_its_copies_is_fine() {
        assert_eq!(two_copies().judge(A | C), Condition::Fine);
    }

    #[test]
    fn a_page_whose_other_store_is_dead_is_endangered() {
        let standing = Standing {
            good: A | B,
            staying: A | B,
            well: A | B,
            ..two_copies()
        };
        assert_eq!(standing.judge(A | C), Condition::Endangered);
        assert_eq!(standing.judge(C), Condition::Unreachable);
        assert_eq!(standing.judge(0), Condition::Lost);
    }

    #[test]
    fn of_three_copies_two_left_are_thin_and_one_left_is_endangered() {
        let standing = Standing {
            copies: 3,
            ..two_copies()
        };
        assert_eq!(standing.judge(A | B), Condition::Thin);
        assert_eq!(standing.judge(B), Condition::Endangered);
        assert_eq!(standing.surplus(A | B), 0);
    }

    #[test]
    fn a_draining_copy_is_dropped_only_when_enough_others_are_well() {
        let standing = Standing {
            staying: B | C,
            well: B | C,
            ..two_copies()
        };
        assert_eq!(standing.judge(A | B), Condition::Leaving);
        assert_eq!(standing.surplus(A | B), 0);
        assert_eq!(standing.judge(A | B | C), Condition::Leaving);
        assert_eq!(standing.surplus(A | B | C), A);
    }

    #[test]
    fn one_copy_too_many_is_dropped_and_a_suspect_does_not_count_for_it() {
        assert_eq!(two_copies().judge(A | B | C), Condition::Leaving);
        assert_eq!(two_copies().surplus(A | B | C).count_ones(), 1);
        let suspect = Standing {
            well: A | B,
            ..two_copies()
        };
        assert_eq!(suspect.surplus(A | B | C), 0);
    }

    #[test]
    fn a_store_that_is_awaited_counts_until_it_is_not() {
        let standing = Standing {
            good: A,
            staying: A,
            well: A,
            awaited: B,
            ..two_copies()
        };
        assert_eq!(standing.judge(A | B), Condition::Fine);
        assert_eq!(standing.judge(B), Condition::Fine);
    }

    #[test]
    fn a_copy_that_was_given_up_goes_whatever_is_left() {
        let standing = Standing {
            good: B,
            staying: B,
            well: B,
            given_up: A,
            ..two_copies()
        };
        assert_eq!(standing.judge(A), Condition::Leaving);
        assert_eq!(standing.surplus(A), A);
        assert_eq!(standing.surplus(A | B), A);
    }
}
