// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the clean cache knows and decides: which blocks may be read from the host, what a write
//! does to that, and when a copy of a block may go there. Plain Rust without kernel types, locks or
//! clocks, so that `../model` runs the same code in user space against a model, with races.
//!
//! The **filter** has one bit for each block of 4 KiB. A set bit says: the host was given this
//! block's present contents and acknowledged them. Only then is the host asked for it. So the bit
//! alone decides what may be read; a page that the host holds without one is out of reach, whatever
//! the host does with it, and losing pages is its right. Four rules keep the bit true:
//!
//! 1. A write clears the bits of its blocks before it is let through to the disk, and no bit of
//!    its neighbourhood (a [`Stripe`]) is set until it has ended ([`Cell::begin_write`]).
//! 2. A copy is made of what a read brought from the disk. If any write began between the start of that
//!    read and the host's acknowledgement of the copy, the bit stays clear ([`Cell::end_put`]).
//! 3. A block has at most one put or flush under way at the host, so that no late one can undo or
//!    replace what a bit already vouches for. One whose fate is unknown blocks its block for good:
//!    until the pool has been left for a fresh one.
//! 4. After a write that failed nobody knows when, or whether, its data reaches the disk. Its
//!    blocks stay out of the cache until the target is reset.
//!
//! An exact bitmap takes 32 KiB a GiB of disk. A Bloom filter would not be smaller: bits have to be
//! cleared, which takes counters, and a false positive costs a message, a false negative is what
//! the rules exclude.

mod cell;
mod range;

pub(crate) use cell::{Cell, Outcome, Stripe, WORD_BLOCKS};
pub(crate) use range::{Cells, FILL_BLOCKS, Fill, Flush, Get, Plan, Put, Write, plan};
