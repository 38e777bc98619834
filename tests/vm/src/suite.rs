// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The tests. Each boots guests of its own, ends them, and so has their kernel logs checked.

mod apart;
mod memory;
mod module;
mod swap;

use crate::bench::Bench;
use anyhow::Result;

/// A figure that a test prints: its name and its value.
pub type Figure = (&'static str, u64);

/// One test.
#[derive(Debug)]
pub struct Test {
    /// What happens in it.
    pub name: &'static str,
    /// What it shows, for whoever reads that it failed.
    pub about: &'static str,
    /// The test itself.
    pub run: fn(&Bench<'_>) -> Result<Vec<Figure>>,
}

/// All tests, quick ones first.
pub const TESTS: &[Test] = &[
    Test {
        name: "module_loads_by_alias_and_unloads_clean",
        about: "modinfo describes every parameter, the device's alias loads the module, rmmod ends it",
        run: module::loads_and_unloads,
    },
    Test {
        name: "module_in_use_stays_and_swapoff_returns_every_page",
        about: "rmmod is refused while swap is on; swapoff brings back what a process holds",
        run: module::in_use_stays,
    },
    Test {
        name: "swapped_pages_come_back_as_written",
        about: "a process with more memory than the guest reads, checks and rewrites it at random",
        run: swap::pages_come_back,
    },
    Test {
        name: "file_in_tmpfs_larger_than_ram_is_read_back",
        about: "shared memory takes the same way as a program's own",
        run: swap::tmpfs_file,
    },
    Test {
        name: "ended_processes_leave_no_page_behind",
        about: "every slot that a process leaves is flushed, whether it ends or is killed",
        run: swap::process_storm,
    },
    Test {
        name: "forked_processes_see_their_own_writes",
        about: "pages shared by fork are copied on write although they are swapped out",
        run: memory::fork,
    },
    Test {
        name: "huge_pages_swap_out_whole",
        about: "with huge pages of 64 KiB and 2 MiB on, large folios are put and come back",
        run: memory::huge_on,
    },
    Test {
        name: "small_pages_swap_without_huge_ones",
        about: "with huge pages off, nothing but single pages is put",
        run: memory::huge_off,
    },
    Test {
        name: "two_guests_keep_their_pools_apart",
        about: "two guests of one daemon swap at once; one's end takes nothing from the other",
        run: apart::two_guests,
    },
];
