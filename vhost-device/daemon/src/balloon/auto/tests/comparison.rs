// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The controller against fixed equal shares and against first come, first served, on simulated hosts.

use super::super::Reason;
use super::simulation::{Guest, Host, Phase, Policy};
use super::*;

const RAM: u64 = 1024 * MIB;
const DEADLINE: Duration = Duration::from_secs(3600);

fn auto() -> Policy {
    Policy::Auto(Box::new(Controller::new(Settings::default())))
}

/// Runs until all guests have ended; returns when that was.
fn finish(mut host: Host) -> Duration {
    while host.guests.iter().any(|guest| guest.ended.is_none()) {
        host.tick();
        let claimed: u64 = host.guests.iter().map(Guest::claimed).sum();
        assert!(claimed <= host.budget, "{claimed} pages of {}", host.budget);
        assert!(host.now() < DEADLINE, "it does not end");
    }
    host.now()
}

/// Three guests of which one after the other has a peak that needs most of its RAM. `kept`: what of its
/// set a program keeps afterwards.
fn peaks(kept: u64) -> Vec<Guest> {
    let small = 64 * MIB;
    let set = 640 * MIB;
    let rest = |set, seconds| Phase::Rest {
        set,
        time: Duration::from_secs(seconds),
    };
    let work = Phase::Work {
        set,
        touches: 2_000_000,
    };
    vec![
        Guest::new("first", RAM, &[rest(small, 10), work, rest(kept, 1)]),
        Guest::new("second", RAM, &[rest(small, 40), work, rest(kept, 1)]),
        Guest::new("third", RAM, &[rest(small, 70), work, rest(kept, 1)]),
    ]
}

fn compare(guests: fn() -> Vec<Guest>, budget: u64) -> [Duration; 3] {
    let ends = [Policy::Equal, Policy::Greedy, auto()]
        .map(|policy| finish(Host::new(budget, policy, guests())));
    println!(
        "equal {:.1?}, greedy {:.1?}, auto {:.1?}",
        ends[0], ends[1], ends[2]
    );
    ends
}

#[test]
fn peaks_one_after_the_other_end_sooner_than_with_equal_shares_and_greedy() {
    let [equal, greedy, auto] = compare(|| peaks(64 * MIB), RAM * 3 / 2);
    assert!(
        auto * 4 <= equal * 3,
        "auto {auto:?}, equal shares {equal:?}"
    );
    assert!(auto < greedy, "auto {auto:?}, greedy {greedy:?}");
}

#[test]
fn so_they_do_where_programs_keep_what_they_no_longer_use() {
    let [equal, greedy, auto] = compare(|| peaks(640 * MIB), RAM * 3 / 2);
    assert!(
        auto * 4 <= equal * 3,
        "auto {auto:?}, equal shares {equal:?}"
    );
    assert!(auto < greedy, "auto {auto:?}, greedy {greedy:?}");
}

#[test]
fn guests_that_are_all_busy_alike_lose_little_against_equal_shares() {
    let guests = || {
        let work = Phase::Work {
            set: 480 * MIB,
            touches: 3_000_000,
        };
        ["a", "b", "c"]
            .map(|name| Guest::new(name, RAM, &[work]))
            .into()
    };
    let [equal, _, auto] = compare(guests, RAM * 3 / 2);
    assert!(
        auto * 10 <= equal * 11,
        "auto {auto:?}, equal shares {equal:?}"
    );
}

/// Sizes of guests that touch these sets all the time, from the fifth minute to the twentieth.
fn steady(sets: &[u64], budget: u64) -> Vec<Vec<u64>> {
    let guests = sets.iter().zip(["a", "b", "c"]).map(|(&set, name)| {
        let touches = u64::MAX;
        Guest::new(name, RAM, &[Phase::Work { set, touches }])
    });
    let mut host = Host::new(budget, auto(), guests.collect());
    let mut sizes: Vec<Vec<u64>> = vec![Vec::new(); sets.len()];
    while host.now() < Duration::from_secs(1200) {
        host.tick();
        if host.now() > Duration::from_secs(300) {
            for (guest, sizes) in host.guests.iter().zip(&mut sizes) {
                sizes.push(guest.size());
            }
        }
    }
    sizes
}

/// Least and greatest of the sizes, after a check that they do not swing.
fn at_rest(sizes: &[u64]) -> (u64, u64) {
    let (least, most) = (sizes.iter().min(), sizes.iter().max());
    let (least, most) = (*least.expect("sizes"), *most.expect("sizes"));
    let turns = turns(sizes);
    println!("{} to {} MiB, {turns} turns", least / MIB, most / MIB);
    assert!(turns <= 4, "{turns} turns in 15 minutes");
    assert!(most - least <= RAM / 8, "moved from {least} to {most}");
    (least, most)
}

#[test]
fn steady_guests_come_to_rest() {
    // Enough for all, but not by much.
    let sets = [160 * MIB, 320 * MIB, 640 * MIB];
    for (sizes, set) in steady(&sets, 1600 * MIB).iter().zip(sets) {
        let (least, _) = at_rest(sizes);
        assert!(least >= set + RAM / 16, "{least} pages for a set of {set}");
    }
}

#[test]
fn steady_guests_that_want_more_than_there_is_come_to_rest() {
    let sets = [160 * MIB, 500 * MIB, 640 * MIB];
    let sizes = steady(&sets, 900 * MIB);
    let bounds: Vec<_> = sizes.iter().map(|sizes| at_rest(sizes)).collect();
    // The small one needs less than its share. Now and then, ever more rarely, it is tried whether
    // it still needs that much.
    let needed = sets[0] + RAM / 16;
    let short = sizes[0].iter().filter(|&&size| size < needed).count();
    assert!(
        short * 50 <= sizes[0].len(),
        "short in {short} of {} ticks",
        sizes[0].len()
    );
    assert!(
        bounds[1].0.abs_diff(bounds[2].0) <= RAM / 16,
        "the others are equal"
    );
}

/// How often a row of sizes changes its direction.
fn turns(sizes: &[u64]) -> usize {
    let ups: Vec<bool> = sizes
        .windows(2)
        .filter(|pair| pair[0] != pair[1])
        .map(|pair| pair[1] > pair[0])
        .collect();
    ups.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

#[test]
fn a_guest_that_wakes_up_is_short_of_memory_for_seconds_only() {
    let woken = Guest::new(
        "woken",
        RAM,
        &[
            Phase::Rest {
                set: 32 * MIB,
                time: Duration::from_secs(600),
            },
            Phase::Work {
                set: 700 * MIB,
                touches: u64::MAX,
            },
        ],
    );
    let other = Guest::new(
        "other",
        RAM,
        &[Phase::Rest {
            set: 32 * MIB,
            time: DEADLINE,
        }],
    );
    let mut host = Host::new(RAM * 3 / 2, auto(), vec![woken, other]);
    while host.now() < Duration::from_secs(600) {
        host.tick();
    }
    let slept = host.guests[0].size();
    assert!(slept <= 256 * MIB, "asleep it has {} MiB", slept / MIB);
    // What it faults in goes into free memory, as soon as it need not push out anything for it.
    let mut last_pushed = (host.guests[0].swap_outs(), host.now());
    let woken_at = host.now();
    while host.now() < woken_at + Duration::from_secs(60) {
        host.tick();
        if host.guests[0].swap_outs() > last_pushed.0 {
            last_pushed = (host.guests[0].swap_outs(), host.now());
        }
    }
    let took = last_pushed.1 - woken_at;
    let size = host.guests[0].size();
    println!(
        "short of memory for {took:?}; a minute later it has {} MiB",
        size / MIB
    );
    assert!(
        took <= Duration::from_secs(4),
        "it was short of memory for {took:?}"
    );
    assert!(size >= 700 * MIB + RAM / 16, "it has {size} pages");
    assert_eq!(host.decisions[1].reason, Reason::Steady);
}
