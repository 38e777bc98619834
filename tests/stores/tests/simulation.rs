// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Some seeds of the simulation, as a test of this crate; `cargo xtask sim` runs any number.

use tmem_store_tests::parameter;
use tmem_store_tests::sim::{Mutation, Outcome, Plan, run};

fn must(seed: u64) -> Outcome {
    match run(Plan::new(seed), Mutation::None) {
        Ok(outcome) => outcome,
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn seeds_keep_every_promise() {
    let first = parameter("TMEM_SEED", 0);
    let count = parameter("TMEM_SIM_SEEDS", 8);
    for seed in first..first + count {
        println!("seed {seed}: {:?}", must(u64::from(seed)));
    }
}

/// Each of these has found a mistake, of the client or of the simulation.
#[test]
fn seeds_that_were_not_kept_are() {
    for seed in [195_171_188, 567_132_416, 697_638_691, 697_639_492] {
        println!("seed {seed}: {:?}", must(seed));
    }
}

#[test]
fn same_seed_does_the_same_twice() {
    for seed in [1, 2, 5] {
        assert_eq!(must(seed), must(seed), "seed {seed}");
    }
}

/// With a mistake made on purpose, one of the first seeds must fail.
fn finds(mutation: Mutation) {
    let found = (0..20).find_map(|seed| run(Plan::new(seed), mutation).err());
    let found = found.unwrap_or_else(|| panic!("nobody noticed: {mutation}"));
    println!("{mutation}: seed {}: {}", found.plan.seed, found.what);
}

#[test]
fn client_that_swallows_flushes_is_found() {
    finds(Mutation::KeepsFlushed);
}

#[test]
fn store_that_forgets_is_found() {
    finds(Mutation::Forgets);
}

#[test]
fn store_that_goes_back_is_found() {
    finds(Mutation::GoesBack);
}

#[test]
fn latecomer_that_is_not_fenced_is_found() {
    finds(Mutation::NoFence);
}
