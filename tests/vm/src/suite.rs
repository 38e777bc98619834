// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The tests. Each boots guests of its own, ends them, and so has their kernel logs checked.

mod apart;
mod memory;
mod module;
mod stores;
mod swap;
mod tiers;
mod worker;

use crate::artifacts::Extras;
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
    /// Programs that its guest has beside the usual ones.
    pub extras: Extras,
    /// The test itself.
    pub run: fn(&Bench<'_>) -> Result<Vec<Figure>>,
}

/// All tests, quick ones first.
pub const TESTS: &[Test] = &[
    Test {
        name: "module_loads_by_alias_and_unloads_clean",
        about: "modinfo describes every parameter, the device's alias loads the module, rmmod ends it",
        extras: Extras::None,
        run: module::loads_and_unloads,
    },
    Test {
        name: "module_in_use_stays_and_swapoff_returns_every_page",
        about: "rmmod is refused while swap is on; swapoff brings back what a process holds",
        extras: Extras::None,
        run: module::in_use_stays,
    },
    Test {
        name: "swapped_pages_come_back_as_written",
        about: "a process with more memory than the guest reads, checks and rewrites it at random",
        extras: Extras::None,
        run: swap::pages_come_back,
    },
    Test {
        name: "file_in_tmpfs_larger_than_ram_is_read_back",
        about: "shared memory takes the same way as a program's own",
        extras: Extras::None,
        run: swap::tmpfs_file,
    },
    Test {
        name: "ended_processes_leave_no_page_behind",
        about: "every slot that a process leaves is flushed, whether it ends or is killed",
        extras: Extras::None,
        run: swap::process_storm,
    },
    Test {
        name: "forked_processes_see_their_own_writes",
        about: "pages shared by fork are copied on write although they are swapped out",
        extras: Extras::None,
        run: memory::fork,
    },
    Test {
        name: "huge_pages_swap_out_whole",
        about: "with huge pages of 64 KiB and 2 MiB on, large folios are put and come back",
        extras: Extras::None,
        run: memory::huge_on,
    },
    Test {
        name: "small_pages_swap_without_huge_ones",
        about: "with huge pages off, nothing but single pages is put",
        extras: Extras::None,
        run: memory::huge_off,
    },
    Test {
        name: "two_guests_keep_their_pools_apart",
        about: "two guests of one daemon swap at once; one's end takes nothing from the other",
        extras: Extras::None,
        run: apart::two_guests,
    },
    Test {
        name: "guest_outlives_a_crash_loop_and_gets_its_pages_by_a_restart",
        about: "a daemon that has given up says so; `tmemctl daemon restart` brings all pages back",
        extras: Extras::None,
        run: worker::given_up,
    },
    Test {
        name: "guest_waits_while_the_worker_is_stopped",
        about: "a worker that stands still for 5 s is waited for, and not replaced",
        extras: Extras::Workloads,
        run: worker::stopped,
    },
    Test {
        name: "guest_goes_on_while_the_daemon_is_upgraded",
        about: "20 upgrades in a row under stress-ng --verify lose and change nothing",
        extras: Extras::Workloads,
        run: worker::upgraded,
    },
    Test {
        name: "guest_goes_on_when_the_worker_is_killed",
        about: "SIGKILL again and again under stress-ng --verify loses and changes nothing",
        extras: Extras::Workloads,
        run: worker::killed,
    },
    Test {
        name: "guest_goes_on_when_the_whole_daemon_is_killed",
        about: "SIGKILL of keeper and worker; the next daemon has its descriptors from systemd's store",
        extras: Extras::Workloads,
        run: worker::all_killed,
    },
    Test {
        name: "guest_swaps_to_every_tier",
        about: "DRAM, PM file and memory behind an emulated link, under stress-ng --verify and kills",
        extras: Extras::Workloads,
        run: tiers::all_tiers,
    },
    Test {
        name: "guest_swaps_to_three_stores",
        about: "two copies of each page on three remote-stores, one of which is killed and comes back, under stress-ng --verify",
        extras: Extras::Workloads,
        run: stores::three,
    },
];
