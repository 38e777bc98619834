// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Policies against what they should do.
//!
//! - `exact`: random calls on [`Replacement`](super::Replacement) and on a slow, obvious model of it,
//!   written on its own; every victim must be the same. `model` is that of the whole, `models` has
//!   those of the policies.
//! - `conformance`: what must hold of every policy in the registry, by name.
//! - `paper`: hit ratios, against s3-fifo with a ghost that forgets nothing; memory.
//!
//! A test that fails has printed a seed: `TMEM_SEED=… cargo test -p tmem-pages policy` runs it again.

mod conformance;
mod exact;
mod model;
mod models;
mod paper;

use super::{DEFAULT, POLICIES, kind};

/// Numbers that depend on a seed alone (SplitMix64, as in Vigna's description of it).
#[derive(Clone, Debug)]
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, limit: u32) -> u32 {
        u32::try_from(self.next() % u64::from(limit)).unwrap()
    }

    fn one_in(&mut self, times: u32) -> bool {
        self.below(times) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(u32::try_from(from.len()).unwrap()) as usize]
    }
}

/// The seed of this run: `TMEM_SEED`, or a new one. Printed with the command that runs it again.
fn seed(test: &str) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    let seed = std::env::var("TMEM_SEED").map_or_else(
        |_| RandomState::new().hash_one(test),
        |seed| seed.parse().expect("TMEM_SEED is a number"),
    );
    println!("replay: TMEM_SEED={seed} cargo test -p tmem-pages {test} -- --nocapture");
    seed
}

#[test]
fn an_unknown_name_is_refused_with_the_names_there_are() {
    let error = kind("mru").unwrap_err().to_string();
    let begin =
        "there is no replacement policy \"mru\"; there are fifo, clock, lru, random, s3-fifo";
    assert!(error.starts_with(begin), "{error}");
}

#[test]
fn every_name_leads_to_its_policy_and_occurs_once() {
    for (at, one) in POLICIES.iter().enumerate() {
        assert_eq!(kind(one.name).unwrap().name, one.name);
        assert!(!one.about.is_empty());
        assert!(POLICIES[..at].iter().all(|other| other.name != one.name));
    }
    assert_eq!(kind(DEFAULT.name).unwrap().about, DEFAULT.about);
}
