// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The peer: the crate quick_cache, whose policy is Clock-PRO's and much like S3-FIFO.

use std::hash::{BuildHasherDefault, Hasher};

use quick_cache::UnitWeighter;
use quick_cache::unsync::{Cache, DefaultLifecycle};

use super::{Step, Trace};

pub(super) const NAME: &str = "quick_cache 0.7";

/// A hasher that makes the same of a page in every run; the crate's own default does not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        let word = (self.0 ^ u64::from(number)).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.0 = word ^ (word >> 31);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Hash = BuildHasherDefault<Spread>;

/// A cache of pages without contents.
pub(super) struct Peer(Cache<u32, (), UnitWeighter, Hash, DefaultLifecycle<u32, ()>>);

impl Peer {
    pub(super) fn new(size: u32) -> Self {
        Self(Cache::with(
            size as usize,
            u64::from(size),
            UnitWeighter,
            Hash::default(),
            DefaultLifecycle::default(),
        ))
    }

    /// True if this is a get that hits.
    pub(super) fn step(&mut self, step: Step) -> bool {
        match step {
            Step::Get(page) => {
                let hit = self.0.get(&page).is_some();
                if !hit {
                    self.0.insert(page, ());
                }
                hit
            }
            Step::Put(page) => {
                self.0.remove(&page);
                self.0.insert(page, ());
                false
            }
            Step::Flush(page) => {
                self.0.remove(&page);
                false
            }
        }
    }
}

/// Gets that find their page in a cache of `size` pages.
pub(super) fn hits(trace: &Trace, size: u32) -> usize {
    let mut peer = Peer::new(size);
    let steps = trace.steps.iter();
    steps.filter(|step| peer.step(**step)).count()
}
