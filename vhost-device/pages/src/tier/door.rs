// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who is let into DRAM when it is full: a page that was asked for lately, and not at the first get.
//!
//! A page that comes up takes the place of another one. For a page that is got once that is work for
//! nothing, and a guest that swaps a page in has it itself from then on. So a get of a page below leaves
//! a mark at its place of a small table, and a get that finds its own mark there brings the page up. A
//! mark lasts until another page of the same place is got, on average as many gets from below as there
//! are places. (Lazy promotion: Juncheng Yang et al., "FIFO can be Better than LRU", HotOS 2023.)

use std::sync::atomic::{AtomicU8, Ordering};

/// Frames for each place.
const FRAMES: usize = 2;

/// Marks of pages that were got from below. One page in 255 finds a mark that looks like its own.
#[derive(Debug)]
pub(crate) struct Door {
    marks: Box<[AtomicU8]>,
}

impl Door {
    /// For an engine with so many frames: half a byte to a byte for each.
    pub(crate) fn new(frames: u32) -> Self {
        let places = (frames as usize / FRAMES).next_power_of_two();
        let marks = vec![0_u8; places].into_iter();
        Self {
            marks: marks.map(AtomicU8::new).collect(),
        }
    }

    /// A page with this hash of its name was got from below; says whether it was lately, too.
    pub(crate) fn knows(&self, page: u64) -> bool {
        let at = usize::try_from(page >> 8).unwrap_or(usize::MAX) & (self.marks.len() - 1);
        // 0 is nobody's.
        let mark = u8::try_from(page & 0xff).map_or(1, |mark| mark.max(1));
        let Some(place) = self.marks.get(at) else {
            return false;
        };
        let known = place.load(Ordering::Relaxed) == mark;
        place.store(if known { 0 } else { mark }, Ordering::Relaxed);
        known
    }

    /// Bytes of its memory.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.marks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::mix;

    #[test]
    fn page_is_known_at_the_second_get_and_new_again_after() {
        let door = Door::new(1000);
        for page in 1..100 {
            let page = mix(page);
            let known = [(); 4].map(|()| door.knows(page));
            assert_eq!(known, [false, true, false, true]);
        }
    }

    #[test]
    fn pages_are_forgotten_when_many_others_were_got() {
        let door = Door::new(2 << 10);
        let places = 1 << 10;
        let known =
            |pages: std::ops::Range<u64>| pages.filter(|page| door.knows(mix(*page))).count();
        for pages in [0..places, places..20 * places, 0..places] {
            let all = usize::try_from(pages.end - pages.start).unwrap();
            let mistaken = known(pages);
            assert!(mistaken < all / 100 + 10, "{mistaken} of {all} are known");
        }
    }
}
