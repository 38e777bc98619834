// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests of the links as a whole: against exact arithmetic, against queueing theory, and as written
//! by an admin.

mod against_exact;
mod exact;
mod faults;
mod jitter;
mod lines;
mod queueing;
mod rates;
mod tables;

use super::LinkSpec;
use super::random::Stream;

/// Random numbers of a test.
struct Random {
    stream: Stream,
    drawn: u64,
}

impl Random {
    fn new(seed: u64, salt: u64) -> Self {
        Self {
            stream: Stream::new(seed, salt),
            drawn: 0,
        }
    }

    fn next(&mut self) -> u64 {
        self.drawn += 1;
        self.stream.at(self.drawn)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()].clone()
    }

    /// A fraction above 0, up to 1.
    fn fraction(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }
}

/// The seed of this run: `TMEM_SEED`, or a new one. Printed with the command that runs it again.
fn seed(test: &str) -> u64 {
    let seed = std::env::var("TMEM_SEED").map_or_else(
        |_| {
            use std::hash::{BuildHasher, RandomState};
            RandomState::new().hash_one(test)
        },
        |seed| seed.parse().expect("TMEM_SEED is a number"),
    );
    println!("replay: TMEM_SEED={seed} cargo test -p tmem-pages {test} -- --nocapture");
    seed
}

fn spec(line: &str) -> LinkSpec {
    line.parse().unwrap()
}

/// The whole part of `number`, which is small and not below 0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "see above"
)]
fn whole(number: f64) -> u64 {
    number as u64
}
