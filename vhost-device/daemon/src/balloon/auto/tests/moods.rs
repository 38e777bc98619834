// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guests that are better left alone: silent, new, stuck, of a kind of memory that cannot be freed.

use super::super::Reason;
use super::*;
use tmem_abi::{BalloonStats, STATS_UNKNOWN};

const RAM: u64 = 1024 * MIB;

#[test]
fn a_guest_that_never_reported_is_left_alone() {
    let mut guest = Puppet::new("vm0", RAM);
    guest.figures = None;
    let mut controller = Controller::new(Settings::default());
    for second in 0..300 {
        let now = SECOND * second;
        let decisions = step(&mut controller, now, Some(RAM / 2), &mut [&mut guest]);
        assert_eq!(decisions[0].reason, Reason::Learning);
        assert_eq!(decisions[0].target_pages, 0);
    }
}

#[test]
fn a_silent_guest_is_left_alone_and_then_gets_its_memory_back() {
    let settings = Settings::default();
    let mut guest = Puppet::new("vm0", RAM).sized(RAM / 2, RAM / 4);
    let (mut controller, start) = started(None, &mut [&mut guest]);
    let size = guest.size();
    let mut now = start + settings.silent_after;
    while now < start + settings.restored_after {
        let decision = step(&mut controller, now, None, &mut [&mut guest]).remove(0);
        assert_eq!(
            (decision.reason, decision.size_pages),
            (Reason::Silent, size)
        );
        now += SECOND;
    }
    for _ in 0..10 {
        let decision = step(&mut controller, now, None, &mut [&mut guest]).remove(0);
        assert!([Reason::Restored, Reason::Silent].contains(&decision.reason));
        now += SECOND;
    }
    assert_eq!(guest.target, 0);
}

#[test]
fn a_silent_guest_gets_nothing_that_a_busy_one_waits_for() {
    let settings = Settings::default();
    let mut silent = Puppet::new("silent", RAM).sized(RAM / 2, 0);
    let mut busy = Puppet::new("busy", RAM).sized(RAM / 4, 0);
    let budget = Some(RAM);
    let (mut controller, start) = started(budget, &mut [&mut silent, &mut busy]);
    let mut now = start + settings.restored_after;
    for _ in 0..10 {
        busy.reports(now, |f| f.swap_ins += 4000);
        step(&mut controller, now, budget, &mut [&mut silent, &mut busy]);
        now += SECOND;
    }
    // The first two reports of the busy one are a minute apart, so it was not known to be busy.
    assert!(silent.size() <= RAM / 2 + RAM / 8);
    assert_eq!(silent.size() + busy.size(), RAM);
}

#[test]
fn a_booted_guest_is_a_new_one() {
    let mut guest = Puppet::new("vm0", RAM).sized(RAM / 2, RAM / 4);
    let (mut controller, start) = started(None, &mut [&mut guest]);
    guest.reports(start + SECOND, |f| f.swap_ins = 1_000_000);
    step(&mut controller, start + SECOND, None, &mut [&mut guest]);
    // Its counts begin anew: neither a wrap nor a rate.
    let booted = start + SECOND * 2;
    guest.reports(booted, |f| {
        *f = Figures {
            sequence: 1,
            available: RAM,
            free: RAM,
            ..Figures::default()
        };
    });
    let size = guest.size();
    let decision = step(&mut controller, booted, None, &mut [&mut guest]).remove(0);
    assert_eq!(
        (decision.reason, decision.size_pages),
        (Reason::Learning, size)
    );
    assert_eq!(decision.pressure.faults_per_s, 0);
}

#[test]
fn a_balloon_that_does_not_grow_is_not_waited_for() {
    let settings = Settings::default();
    let mut guest = Puppet::new("vm0", RAM);
    let (mut controller, start) = started(None, &mut [&mut guest]);
    guest.target = RAM / 2;
    let mut now = start;
    let mut reasons = Vec::new();
    for _ in 0..=settings.stuck_after.as_secs() {
        now += SECOND;
        guest.reports(now, |f| {
            f.held = RAM / 4;
            f.available = RAM / 2;
            f.free = 0;
        });
        reasons.push(step(&mut controller, now, None, &mut [&mut guest])[0].reason);
    }
    assert_eq!(reasons.first(), Some(&Reason::Settling));
    assert_eq!(reasons.last(), Some(&Reason::Stuck));
    assert_eq!(guest.target, RAM / 4);
}

#[test]
fn a_guest_whose_memory_cannot_be_freed_keeps_it() {
    for refusal in [
        tmem_abi::balloon_result::NO_FILE,
        tmem_abi::balloon_result::HUGE,
    ] {
        let mut guest = Puppet::new("vm0", RAM);
        let (mut controller, start) = started(None, &mut [&mut guest]);
        guest.target = RAM / 8;
        guest.reports(start + SECOND, |f| {
            f.held = 0;
            f.refusal = u64::from(refusal);
        });
        let decision = step(&mut controller, start + SECOND, None, &mut [&mut guest]).remove(0);
        assert_eq!(decision.reason, Reason::Refused);
        assert_eq!(decision.target_pages, 0);
    }
}

#[test]
fn the_guests_own_floor_holds_as_well() {
    let mut guest = Puppet::new("vm0", RAM).sized(RAM / 2, RAM / 4);
    let (mut controller, start) = started(None, &mut [&mut guest]);
    guest.reports(start + SECOND, |f| f.floor = RAM * 3 / 4);
    let decision = step(&mut controller, start + SECOND, None, &mut [&mut guest]).remove(0);
    assert_eq!(decision.size_pages, RAM * 3 / 4);
}

#[test]
fn what_a_kernel_does_not_manage_is_above_the_guests_own_floor() {
    let mut guest = Puppet::new("vm0", RAM).sized(RAM / 2, RAM / 4);
    guest.unmanaged = RAM / 8;
    let (mut controller, start) = started(None, &mut [&mut guest]);
    guest.reports(start + SECOND, |f| f.floor = RAM * 3 / 4);
    let decision = step(&mut controller, start + SECOND, None, &mut [&mut guest]).remove(0);
    assert_eq!(decision.size_pages, RAM * 7 / 8);
}

#[test]
fn a_guest_that_is_left_out_is_forgotten() {
    let mut guest = Puppet::new("vm0", RAM).sized(RAM / 2, 0);
    let (mut controller, start) = started(None, &mut [&mut guest]);
    step(&mut controller, start + SECOND, None, &mut []);
    guest.reports(start + SECOND * 2, |f| f.swap_ins += 9000);
    let decision = step(&mut controller, start + SECOND * 2, None, &mut [&mut guest]).remove(0);
    assert_eq!(decision.reason, Reason::Learning);
}

#[test]
fn what_a_guest_does_not_know_is_not_taken_for_a_figure() {
    let stats = BalloonStats {
        sequence: 3,
        refaults: STATS_UNKNOWN,
        psi_some_us: STATS_UNKNOWN,
        floor: STATS_UNKNOWN,
        ..BalloonStats::default()
    };
    let figures = Figures::from(&stats);
    assert_eq!(figures.sequence, 3);
    assert_eq!(
        (figures.refaults, figures.psi_some_us, figures.floor),
        (None, None, 0)
    );
}

#[test]
fn each_reason_has_a_word_and_a_sentence_of_its_own() {
    let mut words: Vec<_> = Reason::ALL.iter().map(|reason| reason.word()).collect();
    let mut sentences: Vec<_> = Reason::ALL.iter().map(|reason| reason.tells()).collect();
    words.sort_unstable();
    words.dedup();
    sentences.sort_unstable();
    sentences.dedup();
    assert_eq!(
        (words.len(), sentences.len()),
        (Reason::ALL.len(), Reason::ALL.len())
    );
    assert!(
        words
            .iter()
            .all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase()))
    );
}

#[test]
fn the_table_of_reasons_in_the_docs_is_the_programs_own() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/self-ballooning.md");
    let text = std::fs::read_to_string(path).expect("the chapter is there");
    let table = text.split("\n## Reasons\n").nth(1).expect("its section");
    let table = table.split("\n## ").next().expect("it ends");
    let rows: Vec<_> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    let expected: Vec<_> = Reason::ALL
        .iter()
        .map(|reason| format!("| `{}` | {} |", reason.word(), reason.tells()))
        .collect();
    assert_eq!(rows, expected);
}
