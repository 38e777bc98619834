// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What pages hold. A content is a small value; its page can be made, and told from every other, at
//! the cost of one copy or one comparison.

use crate::memory::Region;
use crate::random::Random;

/// The content of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// The stamp, then random words that depend on it.
    Stamp(u64),
    /// The same eight bytes throughout.
    Filled(u64),
}

/// Words of a page.
const WORDS: u64 = 512;

/// Random words that stamped pages are cut from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Template(Region);

impl Template {
    /// Pages that the template takes.
    pub(crate) const PAGES: usize = 2;

    /// Fills `memory`, [`Template::PAGES`] pages, with random words.
    pub(crate) fn new(memory: Region, random: &mut Random) -> Self {
        for word in 0..memory.bytes() / 8 {
            memory.write(word * 8, random.next());
        }
        Self(memory)
    }

    /// All but the first word of the stamp's page.
    fn tail(self, stamp: u64) -> Region {
        let word = stamp.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40 & (WORDS - 1);
        self.0.part(word as usize * 8, 4096 - 8)
    }

    /// Makes the content's page.
    pub(crate) fn make(self, content: Content, page: Region) {
        match content {
            Content::Stamp(stamp) => {
                page.write(0, stamp);
                page.part(8, 4096 - 8).copy_from(self.tail(stamp));
            }
            Content::Filled(value) => page.fill(value),
        }
    }

    /// Whether the page is the content's.
    pub(crate) fn is(self, content: Content, page: Region) -> bool {
        match content {
            Content::Stamp(stamp) => {
                page.read::<u64>(0) == stamp && page.part(8, 4096 - 8).equals(self.tail(stamp))
            }
            Content::Filled(value) => page.is_filled(value),
        }
    }
}
