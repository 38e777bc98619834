// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One rule a test: who is squeezed, who gets memory, how fast, and what is said about it.

use super::super::Reason;
use super::*;

const RAM: u64 = 1024 * MIB;

/// Makes `times` reports in a row, a second apart, and returns the last decision.
fn goes_on(
    controller: &mut Controller,
    from: Duration,
    times: u32,
    puppet: &mut Puppet,
    change: impl Fn(&mut Figures),
) -> (Duration, Decision) {
    let mut now = from;
    let mut last = None;
    for _ in 0..times {
        now += SECOND;
        puppet.reports(now, &change);
        last = step(controller, now, None, &mut [puppet]).pop();
    }
    (now, last.expect("one guest, one decision"))
}

#[test]
fn an_idle_guest_is_squeezed_slowly_to_its_reserve() {
    let mut guest = Puppet::new("vm0", RAM);
    let (mut controller, start) = started(None, &mut [&mut guest]);
    // Uses 200 MiB, whatever the balloon takes of the rest.
    let used = 200 * MIB;
    let mut now = start;
    let mut sizes = vec![guest.size()];
    for _ in 0..120 {
        now += SECOND;
        let spare = guest.size() - used;
        guest.reports(now, |figures| {
            figures.available = spare;
            figures.free = spare;
        });
        let decision = step(&mut controller, now, None, &mut [&mut guest]).remove(0);
        if decision.size_pages < sizes[sizes.len() - 1] {
            assert_eq!(decision.reason, Reason::Idle);
        }
        sizes.push(decision.size_pages);
    }
    for pair in sizes.windows(2) {
        assert!(pair[1] <= pair[0], "an idle guest's size never grows");
        assert!(
            pair[0] - pair[1] <= (pair[0] - used) / 8,
            "{pair:?} is more than an eighth of what it has to spare"
        );
    }
    let last = guest.size();
    let reserve = Settings::default().reserve(last);
    assert!(last >= used + reserve, "the reserve is left to it");
    assert!(last <= used + reserve + 8 * Settings::default().dead_band(RAM) + 8);
}

#[test]
fn a_pressed_guest_has_all_of_its_memory_after_three_reports() {
    let mut guest = Puppet::new("vm0", RAM).sized(RAM / 8, 0);
    let (mut controller, start) = started(None, &mut [&mut guest]);
    let mut sizes = vec![guest.size()];
    let mut now = start;
    for _ in 0..3 {
        let (at, decision) = goes_on(&mut controller, now, 1, &mut guest, |f| f.swap_ins += 3000);
        now = at;
        assert_eq!(decision.reason, Reason::Faulting);
        assert_eq!(decision.pressure.faults_per_s, 3000);
        sizes.push(decision.size_pages);
    }
    assert!(sizes.is_sorted_by(|a, b| a < b), "{sizes:?}");
    assert_eq!(sizes[3], RAM, "{sizes:?}");
    let (_, decision) = goes_on(&mut controller, now, 1, &mut guest, |f| f.swap_ins += 3000);
    assert_eq!((decision.size_pages, decision.reason), (RAM, Reason::Full));
}

#[test]
fn a_guest_that_faults_beside_free_memory_gets_no_more() {
    let mut guest = Puppet::new("vm0", RAM).sized(RAM / 2, RAM / 8);
    let (mut controller, start) = started(None, &mut [&mut guest]);
    let (_, decision) = goes_on(&mut controller, start, 3, &mut guest, |f| {
        f.swap_ins += 1000;
    });
    assert_eq!(decision.size_pages, RAM / 2);
    assert_eq!(decision.reason, Reason::Steady);
}

#[test]
fn stalls_that_the_agent_tells_of_bring_memory_back() {
    let mut guest = Puppet::new("vm0", RAM).sized(RAM / 2, 0);
    if let Some(figures) = &mut guest.figures {
        figures.psi_some_us = Some(7);
    }
    let (mut controller, start) = started(None, &mut [&mut guest]);
    let stalled = |us: u64| move |f: &mut Figures| f.psi_some_us = f.psi_some_us.map(|so| so + us);
    let (now, calm) = goes_on(&mut controller, start, 1, &mut guest, stalled(99_000));
    assert_eq!(calm.size_pages, RAM / 2);
    assert_eq!(calm.pressure.stalled_permille, Some(99));
    let (_, decision) = goes_on(&mut controller, now, 1, &mut guest, stalled(100_000));
    assert_eq!(decision.reason, Reason::Stalled);
    assert_eq!(decision.size_pages, RAM / 2 + RAM / 8);
}

#[test]
fn a_guest_that_fills_its_memory_gets_more_before_it_faults() {
    let mut guest = Puppet::new("vm0", RAM).sized(RAM / 4, 64 * MIB);
    let (mut controller, start) = started(None, &mut [&mut guest]);
    let (_, decision) = goes_on(&mut controller, start, 1, &mut guest, |f| {
        f.available = 8 * MIB;
        f.free = 8 * MIB;
    });
    assert_eq!(decision.reason, Reason::Filling);
    assert_eq!(decision.size_pages, RAM / 4 + RAM / 8);
}

#[test]
fn what_the_balloon_itself_pushed_out_is_no_sign_of_want() {
    let mut guest = Puppet::new("vm0", RAM).sized(RAM / 2, 8 * MIB);
    let (mut controller, start) = started(None, &mut [&mut guest]);
    // The balloon has just grown by 16 MiB, and as much was written to swap.
    guest.target += 16 * MIB;
    let (_, decision) = goes_on(&mut controller, start, 1, &mut guest, |f| {
        f.swap_outs += 16 * MIB;
        f.available = 4 * MIB;
        f.free = 4 * MIB;
    });
    assert_eq!(decision.size_pages, RAM / 2 - 16 * MIB);
    assert!(![Reason::Filling, Reason::Faulting].contains(&decision.reason));
}

#[test]
fn a_guest_that_ran_out_of_memory_gets_more_than_it_took() {
    let mut guest = Puppet::new("vm0", RAM).sized(RAM / 4, 0);
    let (mut controller, start) = started(None, &mut [&mut guest]);
    let (_, decision) = goes_on(&mut controller, start, 1, &mut guest, |f| {
        f.oom_deflated += 16 * MIB;
        f.held -= 16 * MIB;
    });
    assert_eq!(decision.reason, Reason::Oom);
    assert_eq!(decision.size_pages, RAM / 4 + 16 * MIB + RAM / 8);
}

#[test]
fn after_a_return_a_guest_is_left_alone_for_a_while() {
    let settings = Settings::default();
    let mut guest = Puppet::new("vm0", RAM).sized(RAM / 2, 0);
    let (mut controller, start) = started(None, &mut [&mut guest]);
    let (now, given) = goes_on(&mut controller, start, 1, &mut guest, |f| f.swap_ins += 900);
    let idle = |f: &mut Figures| {
        f.available = RAM / 3;
        f.free = 0;
    };
    let seconds = u32::try_from(settings.rest.as_secs()).expect("a short rest");
    let (now, rested) = goes_on(&mut controller, now, seconds - 1, &mut guest, idle);
    assert_eq!(rested.size_pages, given.size_pages);
    assert_eq!(rested.reason, Reason::Resting);
    let (_, squeezed) = goes_on(&mut controller, now, 1, &mut guest, idle);
    assert!(squeezed.size_pages < given.size_pages);
}

#[test]
fn a_size_that_hurt_is_not_tried_again_until_it_is_over() {
    let settings = Settings::default();
    let mut guest = Puppet::new("vm0", RAM).sized(RAM / 2, RAM / 4);
    let (mut controller, start) = started(None, &mut [&mut guest]);
    let cached = |f: &mut Figures| {
        f.available = RAM / 4;
        f.free = 0;
    };
    // A squeeze takes page cache, and that turns out to be in use.
    let (now, squeezed) = goes_on(&mut controller, start, 1, &mut guest, cached);
    assert_eq!(squeezed.reason, Reason::Idle);
    let hurt = squeezed.size_pages;
    let (now, given) = goes_on(&mut controller, now, 1, &mut guest, |f| {
        cached(f);
        f.refaults = f.refaults.map(|so| so + 2000);
    });
    assert_eq!(given.reason, Reason::Faulting);
    let (now, sore) = goes_on(&mut controller, now, 50, &mut guest, cached);
    assert_eq!(sore.reason, Reason::Sore);
    assert!(sore.size_pages >= hurt + hurt / 8);
    let over = u32::try_from(settings.sore_first.as_secs()).expect("a minute");
    let (_, again) = goes_on(&mut controller, now, over, &mut guest, cached);
    assert!(again.size_pages < hurt, "it is tried again after {over} s");
}

#[test]
fn memory_that_is_set_free_ends_the_soreness() {
    let mut guest = Puppet::new("vm0", RAM).sized(RAM / 2, RAM / 4);
    let (mut controller, start) = started(None, &mut [&mut guest]);
    let (now, _) = goes_on(&mut controller, start, 1, &mut guest, |f| f.free = 0);
    let (now, hurt) = goes_on(&mut controller, now, 1, &mut guest, |f| f.swap_ins += 2000);
    assert_eq!(hurt.reason, Reason::Faulting);
    let freed = |f: &mut Figures| {
        f.available = RAM / 3;
        f.free = RAM / 3;
    };
    let (_, after) = goes_on(&mut controller, now, 15, &mut guest, freed);
    assert_eq!(after.reason, Reason::Idle);
    assert!(after.size_pages < hurt.size_pages);
}

#[test]
fn an_idle_guest_without_surplus_is_left_alone_while_nobody_needs_memory() {
    let mut guest = Puppet::new("vm0", RAM).sized(RAM / 2, 0);
    let (mut controller, start) = started(None, &mut [&mut guest]);
    let (_, decision) = goes_on(&mut controller, start, 100, &mut guest, |_| {});
    assert_eq!(decision.size_pages, RAM / 2);
    assert_eq!(decision.reason, Reason::Steady);
}

#[test]
fn memory_moves_from_the_idle_to_the_busy() {
    let mut idle = Puppet::new("idle", RAM).sized(RAM / 2, 0);
    let mut busy = Puppet::new("busy", RAM).sized(RAM / 2, 0);
    let budget = Some(RAM);
    let (mut controller, mut now) = started(budget, &mut [&mut idle, &mut busy]);
    let mut words = Vec::new();
    for _ in 0..60 {
        now += SECOND;
        idle.reports(now, |_| {});
        busy.reports(now, |f| f.swap_ins += 4000);
        let decisions = step(&mut controller, now, budget, &mut [&mut idle, &mut busy]);
        assert!(idle.size() + busy.size() <= RAM);
        words.push((decisions[0].reason, decisions[1].reason));
    }
    assert_eq!(words[0].1, Reason::Waiting);
    assert!(
        words.contains(&(Reason::Asked, Reason::Faulting)),
        "{words:?}"
    );
    let left = idle.size() - idle.floor;
    assert!(
        left <= Settings::default().dead_band(RAM),
        "{left} pages above its floor"
    );
    assert_eq!(busy.size(), RAM - idle.size());
}

#[test]
fn what_an_ended_program_left_free_moves_at_once() {
    let mut ended = Puppet::new("ended", RAM).sized(RAM / 2, RAM * 3 / 8);
    let mut busy = Puppet::new("busy", RAM).sized(RAM / 2, 0);
    let budget = Some(RAM);
    let (mut controller, mut now) = started(budget, &mut [&mut ended, &mut busy]);
    for _ in 0..5 {
        now += SECOND;
        let spare = ended.size() - RAM / 8;
        ended.reports(now, |f| {
            f.available = spare;
            f.free = spare;
        });
        busy.reports(now, |f| f.swap_ins += 4000);
        step(&mut controller, now, budget, &mut [&mut ended, &mut busy]);
    }
    assert!(
        busy.size() >= RAM * 3 / 4,
        "it has {} MiB",
        busy.size() / MIB
    );
}

#[test]
fn busy_guests_share_by_weight() {
    let mut light = Puppet::new("light", RAM).sized(RAM / 2, 0);
    let mut heavy = Puppet::new("heavy", RAM).sized(RAM / 2, 0);
    heavy.weight = 300;
    let budget = Some(RAM);
    let (mut controller, mut now) = started(budget, &mut [&mut light, &mut heavy]);
    let mut reasons = Vec::new();
    for _ in 0..60 {
        now += SECOND;
        light.reports(now, |f| f.swap_ins += 4000);
        heavy.reports(now, |f| f.swap_ins += 4000);
        let decisions = step(&mut controller, now, budget, &mut [&mut light, &mut heavy]);
        reasons.push(decisions[0].reason);
    }
    assert!(reasons.contains(&Reason::Share), "{reasons:?}");
    assert!(
        light.size().abs_diff(RAM / 4) <= 8 * MIB,
        "{}",
        light.size()
    );
    assert!(
        heavy.size().abs_diff(RAM * 3 / 4) <= 8 * MIB,
        "{}",
        heavy.size()
    );
}

#[test]
fn the_hosts_own_need_squeezes_idle_guests_further() {
    let mut guest = Puppet::new("vm0", RAM).sized(RAM / 2, 0);
    let (mut controller, mut now) = started(None, &mut [&mut guest]);
    for _ in 0..3 {
        now += SECOND;
        guest.reports(now, |_| {});
        let host = HostReport {
            budget_pages: None,
            needed_pages: 64 * MIB,
        };
        let decision = controller.step(now, &host, &[guest.report()]).remove(0);
        assert_eq!(decision.reason, Reason::Asked);
        guest.target = decision.target_pages;
    }
    assert!(guest.size() < RAM / 2 && guest.size() > RAM / 2 - 64 * MIB);
}
