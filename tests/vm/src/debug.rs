// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is different in guests that run the debug kernel: they need more memory and more time, and a
//! few tests mean nothing there.
//!
//! A test runs there unless [`LEFT_OUT`] names it with the reason.

use std::time::Duration;

/// More words for the kernel's command line: an oops ends the guest at once instead of letting the test
/// wait for its deadline, every report of KASAN's is printed, lock-ups are called so later, and the timer
/// is not tested at boot, which an emulated one on a busy host fails.
///
/// Pages are cleared when they are allocated, as Debian's kernel does by itself. Without that an emulated
/// CPU may run what it has translated of a page's earlier bytes: it forgets that when the guest writes to the
/// page, but does not see the daemon write there, when it brings a swapped page of code back.
pub const CMDLINE: &str =
    "oops=panic kasan_multi_shot watchdog_thresh=60 no_timer_check init_on_alloc=1";

/// So many times the stock kernel's time is allowed, for everything.
pub const PATIENCE: u32 = 6;

/// The length of a run of the fuzzer, unless another is asked for.
pub const FUZZ: Duration = Duration::from_secs(600);

/// KASAN keeps a byte for eight.
const SHADOW_DIVISOR: u32 = 8;
/// The checkers' code and tables, and what they add to each object and hold back of freed ones.
const CHECKERS_MIB: u32 = 64;

/// Tests that do not run on the debug kernel, and why.
pub const LEFT_OUT: &[(&str, &str)] = &[
    (
        "large_calls_of_programs_pay",
        "it compares times, and the checkers cost most where little else is done",
    ),
    (
        "peaks_in_turn_end_sooner_with_self_ballooning_than_with_equal_shares",
        "it compares times of three guests, each of which the checkers slow down differently",
    ),
    (
        "cached_disk_serves_mixes_of_fio",
        "fio needs shared memory of System V, which this kernel is built without",
    ),
];

/// The RAM that leaves about as much for programs as `stock_mib` leave with the stock kernel.
#[must_use]
pub const fn memory_mib(stock_mib: u32) -> u32 {
    (stock_mib + CHECKERS_MIB) * SHADOW_DIVISOR / (SHADOW_DIVISOR - 1)
}

/// Why the test `name` does not run, if it does not.
#[must_use]
pub fn left_out(name: &str) -> Option<&'static str> {
    LEFT_OUT
        .iter()
        .find_map(|(test, why)| (*test == name).then_some(*why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::TESTS;

    #[test]
    fn what_is_left_out_is_a_test_and_has_a_reason() {
        for (name, why) in LEFT_OUT {
            assert!(TESTS.iter().any(|test| test.name == *name), "{name}");
            assert!(!why.is_empty(), "{name}");
        }
    }

    #[test]
    fn memory_covers_the_shadow_of_all_of_it() {
        let all = memory_mib(256);
        assert!(all - all / SHADOW_DIVISOR >= 256 + CHECKERS_MIB);
    }
}
