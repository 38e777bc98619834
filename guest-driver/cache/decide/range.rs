// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reads, writes, copies and flushes of block ranges, as what [`Cell`]s decide for each word.
//!
//! The words of a range are looked at one after the other, each under its own lock. Nothing here needs
//! them to be seen at one moment: a bit is true or false for its block alone.

use super::cell::{Cell, Outcome, Permit, Seen, WORD_BLOCKS};

/// The most blocks of a copy; they lie in [`FILL_WORDS`] words.
pub(crate) const FILL_BLOCKS: u32 = 32;
const FILL_WORDS: usize = 2;
/// The most blocks of a get; they lie in [`GET_WORDS`] words.
const GET_BLOCKS: u32 = 256;
const GET_WORDS: usize = 5;
/// So many blocks that the host has, amid others that it has not, are worth a get of their own;
/// fewer come from the disk with their neighbours.
const ISLAND: u32 = 4;

/// The words of a filter, each reached under its lock.
pub(crate) trait Cells {
    /// Calls `each` with word `word`; None if the filter has no such word.
    fn with<R>(&self, word: u32, each: impl FnOnce(&mut Cell<'_>) -> R) -> Option<R>;
}

/// The words of a range, and the range's blocks in each.
fn words(first: u32, blocks: u32) -> impl Iterator<Item = (u32, u64)> {
    let mut at = u64::from(first);
    let end = at + u64::from(blocks);
    core::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let low = at % u64::from(WORD_BLOCKS);
        let count = (u64::from(WORD_BLOCKS) - low).min(end - at);
        let mask = (u64::MAX >> (u64::from(WORD_BLOCKS) - count)) << low;
        // Blocks have 32 bits, so their words have 26.
        let word = u32::try_from(at / u64::from(WORD_BLOCKS)).ok()?;
        at += count;
        Some((word, mask))
    })
}

/// What to do with a read.
#[derive(Debug)]
pub(crate) enum Plan {
    /// Ask the host for the first blocks of it.
    Get(Get),
    /// Read so many blocks, the first ones, from the disk.
    Origin(u32),
}

/// Plans a read of `blocks` blocks, at least one.
pub(crate) fn plan(cells: &impl Cells, first: u32, blocks: u32, most: u32) -> Plan {
    let most = most.min(GET_BLOCKS);
    let here = run(cells, first, blocks.min(most), true);
    if here > 0 {
        let mut get = Get {
            first,
            blocks: here,
            seen: [Seen::default(); GET_WORDS],
        };
        // Taken after the bits: what was cleared in between only makes the host miss.
        for ((word, _), seen) in words(first, here).zip(get.seen.iter_mut()) {
            *seen = cells.with(word, |cell| cell.seen()).unwrap_or_default();
        }
        return Plan::Get(get);
    }
    let mut length = 0u32;
    while length < blocks {
        let at = first.wrapping_add(length);
        let left = blocks.wrapping_sub(length);
        length = length.wrapping_add(run(cells, at, left, false));
        let at = first.wrapping_add(length);
        let left = blocks.wrapping_sub(length);
        let island = run(cells, at, left.min(ISLAND), true);
        if island == ISLAND || left == 0 {
            break;
        }
        length = length.wrapping_add(island);
    }
    Plan::Origin(length)
}

/// Length of the run of blocks from `first` on whose bits are `present`, at most `blocks`.
fn run(cells: &impl Cells, first: u32, blocks: u32, present: bool) -> u32 {
    let mut length = 0u32;
    for (word, mask) in words(first, blocks) {
        let bits = cells.with(word, |cell| cell.present()).unwrap_or(0);
        let other = if present { !bits } else { bits } & mask;
        if other != 0 {
            // The mask's lowest bit is where the range enters the word.
            return length.wrapping_add(other.trailing_zeros() - mask.trailing_zeros());
        }
        length = length.wrapping_add(mask.count_ones());
    }
    length
}

/// A read that the host is asked for.
#[derive(Debug)]
pub(crate) struct Get {
    pub(crate) first: u32,
    pub(crate) blocks: u32,
    seen: [Seen; GET_WORDS],
}

impl Get {
    /// The host does not have the blocks for which `gone` says so; their number in the read is
    /// given. Returns how many bits were cleared.
    pub(crate) fn missed(&self, cells: &impl Cells, gone: impl Fn(u32) -> bool) -> u32 {
        let mut cleared = 0u32;
        let mut nth = 0u32;
        for ((word, mask), seen) in words(self.first, self.blocks).zip(self.seen) {
            let mut lost = 0;
            for bit in bits(mask) {
                if gone(nth) {
                    lost |= 1 << bit;
                }
                nth = nth.wrapping_add(1);
            }
            if lost != 0 {
                let missed = cells.with(word, |cell| cell.missed(lost, seen));
                cleared = cleared.wrapping_add(missed.unwrap_or(0));
            }
        }
        cleared
    }
}

/// The places of the set bits, in order.
fn bits(mut mask: u64) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let bit = mask.trailing_zeros();
        if bit == WORD_BLOCKS {
            return None;
        }
        mask &= mask.wrapping_sub(1);
        Some(bit)
    })
}

/// A write, discard, zeroing or erasure under way, and its blocks: all that it touches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    pub(crate) first: u32,
    pub(crate) blocks: u32,
    /// So many of them the host was known to hold.
    pub(crate) removed: u32,
}

impl Write {
    /// To be called before it goes to the disk.
    pub(crate) fn begin(cells: &impl Cells, first: u32, blocks: u32) -> Self {
        let removed = words(first, blocks).fold(0u32, |sum, (word, mask)| {
            let removed = cells.with(word, |cell| cell.begin_write(mask));
            sum.wrapping_add(removed.unwrap_or(0))
        });
        Self {
            first,
            blocks,
            removed,
        }
    }

    /// To be called once it has ended, before anybody is told.
    pub(crate) fn end(&self, cells: &impl Cells, outcome: Outcome) {
        for (word, mask) in words(self.first, self.blocks) {
            cells.with(word, |cell| cell.end_write(mask, outcome));
        }
    }
}

/// A read from the disk whose blocks may be copied to the host.
#[derive(Debug)]
pub(crate) struct Fill {
    pub(crate) first: u32,
    pub(crate) blocks: u32,
    wanted: [Option<(u64, Permit)>; FILL_WORDS],
}

impl Fill {
    /// To be called before the read goes to the disk; at most [`FILL_BLOCKS`]. None: no block of it
    /// may be copied, or none needs to be.
    pub(crate) fn begin(cells: &impl Cells, first: u32, blocks: u32) -> Option<Self> {
        let mut wanted = [None; FILL_WORDS];
        for (slot, (word, mask)) in wanted.iter_mut().zip(words(first, blocks)) {
            *slot = cells.with(word, |cell| cell.begin_fill(mask)).flatten();
        }
        wanted.iter().any(Option::is_some).then_some(Self {
            first,
            blocks,
            wanted,
        })
    }

    /// To be called when the disk has delivered. None: writes have come between.
    pub(crate) fn put(self, cells: &impl Cells) -> Option<Put> {
        let mut puts = [None; FILL_WORDS];
        for ((put, wanted), (word, _)) in puts
            .iter_mut()
            .zip(self.wanted)
            .zip(words(self.first, self.blocks))
        {
            let Some((wanted, permit)) = wanted else {
                continue;
            };
            let mask = cells.with(word, |cell| cell.begin_put(wanted, permit));
            *put = mask.filter(|mask| *mask != 0).map(|mask| (mask, permit));
        }
        puts.iter().any(Option::is_some).then_some(Put {
            first: self.first,
            blocks: self.blocks,
            puts,
        })
    }
}

/// A copy under way to the host. If it is dropped without [`Put::end`], because nobody knows its
/// fate, its blocks stay busy until the pool is renewed.
#[derive(Debug)]
pub(crate) struct Put {
    first: u32,
    blocks: u32,
    puts: [Option<(u64, Permit)>; FILL_WORDS],
}

impl Put {
    /// The number, in the read, of each block to be put, in order.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        let first = self.first;
        words(first, self.blocks)
            .zip(self.puts)
            .filter_map(|((word, _), put)| Some((word, put?.0)))
            .flat_map(move |(word, mask)| {
                let base = word.wrapping_mul(WORD_BLOCKS);
                bits(mask).map(move |bit| base.wrapping_add(bit).wrapping_sub(first))
            })
    }

    /// The first block of the read.
    pub(crate) fn first(&self) -> u32 {
        self.first
    }

    /// The read: its first block, and how many blocks it has.
    pub(crate) fn range(&self) -> (u32, u32) {
        (self.first, self.blocks)
    }

    /// It has ended; `stored` says for each put block, counted from 0, whether the host has it.
    /// Returns how many of them can be read from the host from now on.
    pub(crate) fn end(self, cells: &impl Cells, stored: impl Fn(u32) -> bool) -> u32 {
        let mut nth = 0u32;
        let mut set = 0u32;
        for ((word, _), put) in words(self.first, self.blocks).zip(self.puts) {
            let Some((mask, permit)) = put else {
                continue;
            };
            let mut kept = 0;
            for bit in bits(mask) {
                if stored(nth) {
                    kept |= 1 << bit;
                }
                nth = nth.wrapping_add(1);
            }
            let word_set = cells.with(word, |cell| cell.end_put(mask, kept, permit));
            set = set.wrapping_add(word_set.unwrap_or(0).count_ones());
        }
        set
    }
}

/// Blocks of one word that the host is told to forget.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flush {
    word: u32,
    gone: u64,
}

impl Flush {
    /// The blocks of a range, word by word, that may be flushed now and are worth it.
    pub(crate) fn begin<'a, C: Cells>(
        cells: &'a C,
        first: u32,
        blocks: u32,
    ) -> impl Iterator<Item = Self> + 'a {
        words(first, blocks).filter_map(move |(word, mask)| {
            let gone = cells.with(word, |cell| cell.begin_flush(mask))?;
            (gone != 0).then_some(Self { word, gone })
        })
    }

    /// The blocks, in order.
    pub(crate) fn indices(&self) -> impl Iterator<Item = u32> {
        let base = self.word.wrapping_mul(WORD_BLOCKS);
        bits(self.gone).map(move |bit| base.wrapping_add(bit))
    }

    /// How many they are.
    pub(crate) fn count(&self) -> u32 {
        self.gone.count_ones()
    }

    /// The first, and how many there are from it to the last.
    pub(crate) fn extent(&self) -> (u32, u32) {
        let low = self.gone.trailing_zeros();
        let length = WORD_BLOCKS
            .saturating_sub(low)
            .saturating_sub(self.gone.leading_zeros());
        (
            self.word.wrapping_mul(WORD_BLOCKS).wrapping_add(low),
            length,
        )
    }

    /// It has ended, well or not.
    pub(crate) fn end(self, cells: &impl Cells) {
        cells.with(self.word, |cell| cell.end_flush(self.gone));
    }
}
