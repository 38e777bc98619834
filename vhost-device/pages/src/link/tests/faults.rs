// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Faults: when they strike, what they do, and that they do it again.

use super::spec;
use crate::link::{DROPS_MAX, FaultPlan, Link, LinkError, Transfer};

const NOW: u64 = 1_000_000_000;

fn link(line: &str, faults: &str) -> Link {
    let link = Link::new(spec(line)).unwrap();
    link.set_faults(NOW, &faults.parse().unwrap());
    link
}

/// Transfers of a page each, `apart` nanoseconds from the next.
fn transfers(link: &Link, count: u64, apart: u64) -> Vec<Transfer> {
    (0..count)
        .map(|n| link.reserve(NOW + n * apart, 4096))
        .collect()
}

#[test]
fn every_nth_is_every_nth() {
    let link = link("latency=1us", "corrupt=every:3 drop=every:5,rto:2ms");
    for (number, transfer) in (1_u64..).zip(transfers(&link, 60, 10)) {
        let faults = transfer.faults;
        assert_eq!(faults.corrupt.is_some(), number.is_multiple_of(3));
        assert_eq!(faults.dropped, u32::from(number.is_multiple_of(5)));
        let late = if faults.dropped > 0 { 2_000_000 } else { 0 };
        assert_eq!(transfer.due, NOW + (number - 1) * 10 + 1_000 + late);
    }
    let stats = link.stats();
    assert_eq!((stats.corrupted, stats.dropped), (20, 12));
}

#[test]
fn chances_come_as_often_as_they_should() {
    let link = link("latency=1us", "corrupt=0.01 drop=0.001 seed=3");
    let all = transfers(&link, 200_000, 1);
    let corrupt = all.iter().filter(|t| t.faults.corrupt.is_some()).count();
    let dropped = all.iter().filter(|t| t.faults.dropped > 0).count();
    assert!((1_850..2_150).contains(&corrupt), "{corrupt}");
    assert!((155..245).contains(&dropped), "{dropped}");
    for transfer in all {
        assert!(transfer.due >= transfer.sent + 1_000, "never early");
    }
}

#[test]
fn what_is_lost_again_and_again_arrives_at_last() {
    let certain = link("latency=1us", "drop=1,rto:10us");
    let transfer = certain.reserve(NOW, 4096);
    assert_eq!(transfer.faults.dropped, DROPS_MAX);
    assert_eq!(transfer.due, NOW + 1_000 + u64::from(DROPS_MAX) * 10_000);
    // By halves, two tries on average.
    let half = link("latency=1us", "drop=0.5,rto:10us");
    let _all = transfers(&half, 50_000, 1);
    let lost = half.stats().dropped;
    assert!((48_500..51_500).contains(&lost), "{lost}");
}

#[test]
fn a_time_without_a_network_loses_all_until_it_is_over() {
    let link = link("latency=1us", "drop=at:1ms,for:5ms,rto:2ms");
    let before = link.reserve(NOW + 999_999, 4096);
    assert_eq!(before.faults.dropped, 0);
    for (at, tries) in [
        (1_000_000, 3),
        (1_500_000, 3),
        (4_000_000, 1),
        (5_999_999, 1),
    ] {
        let transfer = link.reserve(NOW + at, 4096);
        assert_eq!(transfer.faults.dropped, tries);
        assert_eq!(
            transfer.due,
            NOW + at + 1_000 + u64::from(tries) * 2_000_000
        );
        assert!(
            transfer.due >= NOW + 6_000_000 + 1_000,
            "sent after the end"
        );
    }
    assert_eq!(link.reserve(NOW + 6_000_000, 4096).faults.dropped, 0);
}

#[test]
fn a_stall_holds_up_what_starts_in_it_and_those_behind() {
    let link = link("bandwidth=8Gbit/s latency=1us", "stall=at:10us,for:50us");
    let started = link.reserve(NOW + 9_999, 4096);
    assert!(!started.faults.stalled, "what has started goes on");
    assert_eq!(started.sent, NOW + 9_999 + 4_096);
    let held = link.reserve(NOW + 10_000, 4096);
    assert_eq!((held.start, held.faults.stalled), (NOW + 60_000, true));
    let behind = link.reserve(NOW + 20_000, 4096);
    assert_eq!((behind.start, behind.faults.stalled), (NOW + 64_096, false));
    assert_eq!(link.reserve(NOW + 90_000, 4096).start, NOW + 90_000);
    assert_eq!(link.stats().stalled, 1);
}

#[test]
fn a_stall_now_and_then_holds_up_the_link_each_time() {
    let link = link("latency=1us", "stall=every:4,for:7us");
    let all = transfers(&link, 12, 100_000);
    for (number, transfer) in (1_u64..).zip(&all) {
        let late = if number.is_multiple_of(4) { 7_000 } else { 0 };
        assert_eq!(transfer.due, NOW + (number - 1) * 100_000 + late + 1_000);
    }
}

#[test]
fn a_slow_time_stretches_sending_and_latency() {
    let link = link(
        "bandwidth=8Gbit/s latency=1us",
        "slow=at:1ms,for:1ms,by:2.5",
    );
    for (at, by) in [(0, 10), (999_999, 10), (1_500_000, 25), (2_000_000, 10)] {
        let transfer = link.reserve(NOW + at, 4096);
        assert_eq!(transfer.sent - transfer.start, 4_096 * by / 10);
        assert_eq!(transfer.due - transfer.sent, 100 * by);
        assert_eq!(transfer.faults.slowed, by == 25);
    }
}

#[test]
fn the_flipped_bit_is_one_bit_of_the_page() {
    let link = link("latency=1us", "corrupt=1");
    let mut seen = std::collections::BTreeSet::new();
    for transfer in transfers(&link, 500, 1) {
        let mut page = [0_u8; 4096];
        transfer.faults.damage(&mut page);
        let ones: u32 = page.iter().map(|byte| byte.count_ones()).sum();
        assert_eq!(ones, 1);
        seen.insert(transfer.faults.corrupt.unwrap());
    }
    assert!(seen.len() > 480, "not always the same bit");
    let mut short = [0_u8; 3];
    transfers(&link, 1, 1)[0].faults.damage(&mut short);
    assert_ne!(short, [0; 3]);
    transfers(&link, 1, 1)[0].faults.damage(&mut []);
    assert_eq!(link.reserve(NOW, 0).faults.corrupt, None, "nothing to flip");
}

#[test]
fn the_same_seed_gives_the_same_faults_and_another_does_not() {
    let line = "drop=0.05,rto:1ms corrupt=0.1 stall=0.02,for:3us slow=0.1,by:3 seed=";
    let run = |seed: &str| transfers(&link("latency=2us", &format!("{line}{seed}")), 2_000, 500);
    assert_eq!(run("1"), run("1"));
    assert_ne!(run("1"), run("2"));
    // Setting the plan again begins anew, from the moment it is set.
    let link = link("latency=2us", &format!("{line}1"));
    let first = transfers(&link, 2_000, 500);
    let later = NOW * 2;
    link.set_faults(later, &link.faults());
    let again = (0..2_000).map(|n| link.reserve(later + n * 500, 4096).faults);
    assert!(again.eq(first.iter().map(|transfer| transfer.faults)));
}

#[test]
fn rules_do_not_disturb_each_other() {
    let alone = link("latency=1us", "corrupt=0.1 seed=5");
    let both = link("latency=1us", "corrupt=0.1 drop=0.3 slow=0.2,by:2 seed=5");
    let alone = transfers(&alone, 1_000, 10_000);
    let both = transfers(&both, 1_000, 10_000);
    for (one, other) in alone.iter().zip(&both) {
        assert_eq!(one.faults.corrupt, other.faults.corrupt);
    }
}

#[test]
fn a_plan_makes_a_link_emulated_and_its_end_unmakes_it() {
    let link = Link::new(spec("")).unwrap();
    link.set_faults(NOW, &"corrupt=every:2".parse().unwrap());
    assert!(link.emulated());
    assert_eq!(link.reserve(NOW, 4096).faults.corrupt, None);
    assert!(link.reserve(NOW, 4096).faults.corrupt.is_some());
    link.set_faults(NOW, &"none".parse().unwrap());
    assert!(!link.emulated());
}

#[test]
fn a_bad_plan_names_the_bad_word_and_what_would_be_right() {
    for (line, word, right) in [
        ("drop=2", "\"2\"", "up to 1"),
        ("drop=0", "\"0\"", "above 0"),
        ("drop=at:1s", "drop=at:1s", "for:TIME"),
        ("drop=0.1,by:3", "drop=0.1,by:3", "drop has not"),
        ("drop=0.1,rto:0", "rto:0", "above 0"),
        ("drop", "\"drop\"", "drop=0.001"),
        ("lose=0.1", "lose=0.1", "drop="),
        ("corrupt=every:0", "every:0", "at least 1"),
        ("corrupt=every:2,0.1", "corrupt=every:2,0.1", "once"),
        ("corrupt=0.1,soon:1s", "soon:1s", "at:TIME"),
        ("stall=at:1s", "stall=at:1s", "for:TIME"),
        ("slow=0.1", "slow=0.1", "by:N"),
        ("slow=by:0.5", "by:0.5", "from 1"),
        ("slow=by:2,rto:1ms", "rto:1ms", "slow has not"),
        ("stall=at:2d,for:1s", "2d", "800ns"),
        ("stall=at:90000s,for:1s", "90000s", "86400s"),
        ("seed=1 seed=2", "seed=2", "once"),
    ] {
        let text = line.parse::<FaultPlan>().unwrap_err().to_string();
        assert!(
            text.contains(word) && text.contains(right),
            "{line}: {text}"
        );
    }
    let many = "corrupt=0.1 ".repeat(33);
    let error = many.parse::<FaultPlan>().unwrap_err();
    assert!(matches!(error, LinkError::OutOfRange { .. }), "{error}");
}
