// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The link beside the exact one, under random transfers, changes and windows of faults.

use std::num::NonZeroU64;

use super::exact::Exact;
use super::{Random, seed};
use crate::link::{Jitter, Link, LinkSpec};

fn random_spec(random: &mut Random) -> LinkSpec {
    let rates = [
        1_000,
        9_999,
        1_000_003,
        999_999_937,
        10_000_000_000,
        100_000_000_000,
        9_999_999_999_971,
    ];
    let jitters = [
        Jitter::None,
        Jitter::Constant { ns: 17 },
        Jitter::Uniform { spread_ns: 5_000 },
        Jitter::LogNormal {
            median_ns: 900,
            sigma_milli: 700,
        },
    ];
    LinkSpec {
        latency_ns: random.pick(&[0, 1, 1_000, 20_000, 10_000_000_000]),
        bandwidth_bps: (!random.one_in(5)).then(|| NonZeroU64::new(random.pick(&rates)).unwrap()),
        jitter: random.pick(&jitters),
        seed: random.next(),
    }
}

/// Whether a transfer took as long as this jitter allows.
fn jitter_fits(jitter: &Jitter, added: u64) -> bool {
    match jitter {
        Jitter::None => added == 0,
        Jitter::Constant { ns } => added == *ns,
        Jitter::Uniform { spread_ns } => added <= *spread_ns,
        _ => true,
    }
}

#[test]
fn every_transfer_is_as_exact_arithmetic_says_whatever_changes_when() {
    let seed = seed("every_transfer_is_as_exact_arithmetic_says");
    let (mut queued, mut idle, mut changes, mut planned) = (0, 0, 0, 0);
    for round in 0..60 {
        let mut random = Random::new(seed, round);
        let first = random_spec(&mut random);
        let link = Link::new(first.clone()).unwrap();
        let mut exact = Exact::new(first);
        let mut now = random.below(1 << 40);
        for _ in 0..400 {
            if random.one_in(40) {
                let spec = random_spec(&mut random);
                link.set(spec.clone()).unwrap();
                exact.set(spec);
                changes += 1;
            }
            // A link that adds nothing is not there at all, even if it is for this moment alone.
            if !link.emulated() {
                exact.clear();
            }
            if random.one_in(100) {
                plan(&link, &mut exact, &mut random, now);
                planned += 1;
            }
            if !link.emulated() {
                exact.clear();
                let transfer = link.reserve(now, 4096);
                assert_eq!((transfer.start, transfer.due), (now, now));
                continue;
            }
            // Mostly on, now and then from a thread whose clock was read a little earlier.
            now += random.pick(&[0, 0, 1, 300, 400, 5_000, 1_000_000]);
            if random.one_in(8) {
                // To the moment at which the wire is free, and about it.
                now += link.backlog_ns(now).min(1 << 50) + random.below(3);
                now -= random.below(2);
            }
            let arrival = now - random.pick(&[0, 0, 0, 250]).min(now);
            let bytes = random.pick(&[0, 1, 64, 4096, 4096, 4096, 1 << 20, 1 << 31, 1 << 40]);
            // A year's backlog tells nothing: begin anew.
            if link.backlog_ns(now) > 1 << 50 {
                now += link.backlog_ns(now) + 1;
                continue;
            }
            let slow = (exact.spec.bandwidth_bps).is_some_and(|rate| rate.get() < 1_000_000_000);
            let bytes = if slow { bytes.min(1 << 20) } else { bytes };
            let transfer = link.reserve(arrival, bytes);
            let expected = exact.reserve(arrival, bytes);
            assert_eq!(transfer.start, expected.start, "round {round}");
            assert_eq!(transfer.sent, expected.sent, "round {round}");
            assert!(transfer.due >= expected.due_without_jitter, "early");
            let added = transfer.due - expected.due_without_jitter;
            assert!(jitter_fits(&exact.spec.jitter, added), "{added}");
            if transfer.start > arrival {
                queued += 1;
            } else {
                idle += 1;
            }
        }
    }
    assert!(queued > 1000 && idle > 1000, "{queued} queued, {idle} idle");
    assert!(changes > 100 && planned > 50, "{changes}, {planned}");
}

/// Plans stalls and slow times that overlap at will.
fn plan(link: &Link, exact: &mut Exact, random: &mut Random, now: u64) {
    exact.stalls.clear();
    exact.slows.clear();
    let mut line = String::new();
    for _ in 0..random.below(4) {
        let (at, lasts) = (random.below(50_000), 1 + random.below(20_000));
        line += &format!("stall=at:{at}ns,for:{lasts}ns ");
        exact.stalls.push((now + at, now + at + lasts));
    }
    for _ in 0..random.below(3) {
        let (at, lasts) = (random.below(90_000), 1 + random.below(90_000));
        let by = 1000 + random.below(20_000);
        line += &format!(
            "slow=at:{at}ns,for:{lasts}ns,by:{}.{:03} ",
            by / 1000,
            by % 1000
        );
        let by = u32::try_from(by).unwrap();
        exact.slows.push((now + at, now + at + lasts, by));
    }
    link.set_faults(now, &line.parse().unwrap());
}

#[test]
fn a_change_keeps_the_queue_where_it_was() {
    let seed = seed("a_change_keeps_the_queue_where_it_was");
    let mut random = Random::new(seed, 0);
    let link = Link::new(random_spec(&mut random)).unwrap();
    let mut now = 0;
    for _ in 0..5_000 {
        now += random.below(2_000);
        let _reserved = link.reserve(now, 4096);
        let before = link.backlog_ns(now);
        link.set(random_spec(&mut random)).unwrap();
        let after = link.backlog_ns(now);
        if link.emulated() {
            assert_eq!(after, before);
            assert_eq!(link.reserve(now, 0).start, now + before);
        } else {
            assert_eq!(after, 0, "there is no queue any more");
        }
        now += link.backlog_ns(now).min(random.below(1 << 34));
    }
}

#[test]
fn what_was_reserved_by_many_threads_does_not_overlap_on_the_wire() {
    let link = Link::new(super::spec("bandwidth=100Gbit/s latency=3us")).unwrap();
    let mut all = std::thread::scope(|scope| {
        let reserve = || {
            (0..5_000)
                .map(|n| link.reserve(n * 700, 4096))
                .collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(reserve)).collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap());
        joined.flatten().collect::<Vec<_>>()
    });
    all.sort_by_key(|transfer| transfer.start);
    for pair in all.windows(2) {
        // Both ends are rounded up, so they are less than a nanosecond from the truth.
        assert!(pair[1].start >= pair[0].sent, "{pair:?}");
        assert_eq!(pair[0].due, pair[0].sent + 3_000);
    }
    assert_eq!(link.stats().transfers, 20_000);
    assert_eq!(link.stats().bytes, 20_000 * 4096);
}
