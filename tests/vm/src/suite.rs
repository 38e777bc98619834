// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The tests. Each boots guests of its own, ends them, and so has their kernel logs checked.

mod apart;
mod auto;
mod balloon;
mod cache;
mod checkers;
mod giving_way;
mod lifecycle;
mod memory;
mod module;
mod needs_reset;
mod pager;
mod several;
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
        name: "two_devices_share_the_load_and_one_is_given_up",
        about: "swapoff of one device's area moves its pages; unbinding it leaves the other alone",
        extras: Extras::None,
        run: several::two_devices,
    },
    Test {
        name: "disks_of_one_device_are_given_back_one_by_one",
        about: "with disks=4, swapoff of an area empties its pool on the host",
        extras: Extras::None,
        run: several::four_disks,
    },
    Test {
        name: "requests_in_flight_at_a_reset_are_sent_again",
        about: "reads that wait when the device is reset go out once more and bring what was written",
        extras: Extras::None,
        run: lifecycle::in_flight_at_a_reset,
    },
    Test {
        name: "guest_sleeps_with_pages_on_the_host",
        about: "suspend to RAM loses nothing; hibernation is refused while there is anything to lose",
        extras: Extras::None,
        run: lifecycle::sleeps,
    },
    Test {
        name: "device_is_reset_when_it_asks_for_it_and_given_up_if_too_often",
        about: "NEEDS_RESET in the device's status; pages outlive it; eleven in a minute end the device, not the guest",
        extras: Extras::None,
        run: needs_reset::asked_for,
    },
    Test {
        name: "unbinding_under_load_fails_programs_and_hangs_nobody",
        about: "programs that lose pages are killed, the device can be bound again and works",
        extras: Extras::None,
        run: lifecycle::unbound_under_load,
    },
    Test {
        name: "synchronous_disk_writes_folio_by_folio",
        about: "the same load in both modes of the disk, with folios of 64 KiB",
        extras: Extras::None,
        run: lifecycle::modes_compared,
    },
    Test {
        name: "guest_goes_on_when_its_device_is_reset",
        about: "12 resets under stress-ng --verify lose and change nothing",
        extras: Extras::Workloads,
        run: lifecycle::reset_under_load,
    },
    Test {
        name: "programs_page_by_themselves_as_the_model_does",
        about: "random calls to /dev/tmem do what a model does, result for result and byte for byte",
        extras: Extras::Pager,
        run: pager::compared,
    },
    Test {
        name: "pages_of_a_program_end_with_it",
        about: "a killed program's pages leave the host; those of a living one come back",
        extras: Extras::Pager,
        run: pager::owner_ends,
    },
    Test {
        name: "malformed_calls_of_programs_are_refused",
        about: "bad pointers, overlaps, foreign pools, threads that unmap and fork: errors, and nothing worse",
        extras: Extras::Pager,
        run: pager::fuzzed_shortly,
    },
    Test {
        name: "large_calls_of_programs_pay",
        about: "512 pages in a call are at least 8 times as fast as one, for each thread",
        extras: Extras::Pager,
        run: pager::measured,
    },
    Test {
        name: "cached_disk_never_returns_an_older_block",
        about: "readers and writers of a tmem-cache target, past the page cache and through it, with discards, dropped and refused pages, a killed worker and one that stands still",
        extras: Extras::Disk,
        run: cache::never_older,
    },
    Test {
        name: "scanned_tree_is_read_back_from_the_host",
        about: "a source tree four times the page cache: the second scan reads it from the host; what the host has not costs no message",
        extras: Extras::Disk,
        run: cache::scans,
    },
    Test {
        name: "cached_disk_works_without_its_host",
        about: "targets come, change and go with I/O in flight; the device is unbound and bound; failed writes stay out of the cache",
        extras: Extras::Disk,
        run: cache::alone,
    },
    Test {
        name: "cached_disk_serves_mixes_of_fio",
        about: "fio reads and writes a cached disk at random and verifies it, past the page cache and with one of a quarter",
        extras: Extras::Fio,
        run: cache::mixes,
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
    Test {
        name: "squeezed_guest_gives_the_host_what_its_balloon_says",
        about: "a guest of 1 GiB with 600 MiB in use is squeezed to 300 MiB and back; its memory file says how far",
        extras: Extras::None,
        run: balloon::squeezed,
    },
    Test {
        name: "balloon_gives_way_to_the_guest_and_loses_no_page",
        about: "floor, agent, resets, a guest out of memory, unbinding: what the guest needs it has, and all of it in the end",
        extras: Extras::None,
        run: giving_way::all_of_it,
    },
    Test {
        name: "peaks_in_turn_end_sooner_with_self_ballooning_than_with_equal_shares",
        about: "three guests on half of their memory: equal shares, greedy, and the daemon's controller",
        extras: Extras::None,
        run: auto::compared,
    },
];

/// Tests that only run on the debug kernel, after the others.
pub const DEBUG_TESTS: &[Test] = &[
    Test {
        name: "checkers_find_errors_made_on_purpose",
        about: "KASAN, UBSAN, list checks and lockdep are on, and a report of theirs fails a test",
        extras: Extras::None,
        run: checkers::find_errors,
    },
    Test {
        name: "fuzzer_of_program_calls_finds_nothing",
        about: "malformed and hostile calls to /dev/tmem for ten minutes, without a word from the kernel",
        extras: Extras::Pager,
        run: pager::fuzzed,
    },
];
