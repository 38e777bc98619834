// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests of the slot file on media that can be broken, and what they share.

mod crash;
mod damage;
mod files;
mod log;
mod model;
mod recording;
mod threads;
mod workload;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::layout::Geometry;
use super::recover::Setup;
use super::{Durability, PoolEntry, SlotHeader};
use crate::checksum;
use crate::handle::{Epoch, ObjectId, PAGE_SIZE, PageBytes, PageIndex, PoolId, Ticket};
use crate::pool::{Layout, PoolKind, PoolSpec};

/// Small, so that a few slots are several segments.
const SMALL: Geometry = Geometry {
    segment_slots: 64,
    pool_slots: 4,
    log_pages: 2,
};

/// A small random number generator (SplitMix64): the same seed gives the same numbers everywhere.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    fn below(&mut self, limit: u32) -> u32 {
        u32::try_from(self.next() % u64::from(limit)).unwrap()
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }
}

fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The seed of this run: `TMEM_SEED`, or a new one. Printed with the command that runs it again.
fn seed(test: &str) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    let new = || RandomState::new().hash_one(test);
    let seed = std::env::var("TMEM_SEED");
    let seed = seed.map_or_else(
        |_| new(),
        |seed| seed.parse().expect("TMEM_SEED is a number"),
    );
    println!("replay: TMEM_SEED={seed} cargo test -p tmem-pages {test} -- --nocapture");
    seed
}

/// A page that follows from a number.
fn page(number: u64) -> PageBytes {
    let mut bytes = [0; PAGE_SIZE];
    for (word, at) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(0..) {
        *word = mix(number ^ (at << 48)).to_le_bytes();
    }
    bytes
}

/// The header of that page, in a pool.
fn header(number: u64, pool_slot: u32, pool_serial: u32) -> SlotHeader {
    let half = u32::try_from(number & 0xffff_ffff).unwrap();
    SlotHeader {
        pool_slot,
        pool_serial,
        object: ObjectId([number, !number, mix(number)]),
        index: PageIndex(half),
        ticket: Ticket::new(number % Ticket::LIMIT).unwrap(),
        checksum: checksum::of(&page(number)),
        flags: 0x54 | SlotHeader::BY_HEADER,
    }
}

fn pool(name: &str, pool_serial: u32) -> PoolEntry {
    PoolEntry {
        guest: name.into(),
        guest_serial: 7,
        epoch: Epoch([3; 16]),
        grant_pages: 1000,
        pool: PoolId(9),
        pool_serial,
        spec: PoolSpec {
            kind: PoolKind::Persistent,
            layout: Layout::Dense { pages: 4096 },
        },
    }
}

fn this_boot() -> io::Result<[u8; 16]> {
    Ok([1; 16])
}

/// Each time another one: the host has crashed.
fn next_boot() -> io::Result<[u8; 16]> {
    static BOOTS: AtomicU64 = AtomicU64::new(2);
    let mut boot = [1; 16];
    boot[..8].copy_from_slice(&BOOTS.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    Ok(boot)
}

fn setup(slots: u32, durability: Durability) -> Setup<'static> {
    Setup {
        path: Path::new("test-slots"),
        slots,
        durability,
        geometry: SMALL,
        boot: &this_boot,
    }
}
