// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The link under load, in virtual time, beside what theory says.

use super::{Random, spec, whole};
use crate::link::{Link, Pending};

/// A closed loop: each completion is at once the next arrival. Returns transfers a nanosecond and
/// the mean time of one, of those that completed after the first tenth.
fn closed_loop(link: &Link, depth: u64, transfers: u64) -> (f64, f64) {
    let mut pending = Pending::default();
    for _ in 0..depth {
        pending.push(link.reserve(0, 4096).due, 0);
    }
    let (mut begun, mut measured, mut total, mut now) = (0, 0_u64, 0_u64, 0);
    for n in 0..transfers {
        now = pending.next_due().unwrap();
        let (_, arrival) = pending.pop_due(now).unwrap();
        if n == transfers / 10 {
            begun = now;
        } else if n > transfers / 10 {
            measured += 1;
            total += now - arrival;
        }
        pending.push(link.reserve(now, 4096).due, now);
    }
    let count = measured as f64;
    (count / (now - begun) as f64, total as f64 / count)
}

#[test]
fn throughput_times_latency_is_the_queue_depth() {
    for jitter in ["none", "uniform:4us", "lognormal:2us,0.8"] {
        for latency in [1, 2, 5, 10, 20, 50, 100, 500] {
            for depth in [1_u64, 4, 32] {
                for rate in ["unlimited", "10Gbit/s", "25Gbit/s", "100Gbit/s"] {
                    let line = format!("latency={latency}us bandwidth={rate} jitter={jitter}");
                    let link = Link::new(spec(&line)).unwrap();
                    let (rate, time) = closed_loop(&link, depth, 5_000);
                    let depths = rate * time / depth as f64;
                    assert!(
                        (depths - 1.0).abs() < 0.03,
                        "{line} depth={depth}: {depths}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_closed_loop_is_bound_by_the_rate_or_by_the_latency() {
    let page = 1310.72_f64;
    for (latency, depth) in [(1_000_u64, 32_u64), (5_000, 4), (500_000, 32), (20_000, 1)] {
        let line = format!("bandwidth=25Gbit/s latency={latency}ns");
        let link = Link::new(spec(&line)).unwrap();
        let (rate, _) = closed_loop(&link, depth, 20_000);
        let bound = (1.0 / page).min(depth as f64 / (latency as f64 + page));
        assert!(
            (rate / bound - 1.0).abs() < 0.02,
            "{line}: {rate} of {bound}"
        );
    }
}

#[test]
fn random_arrivals_wait_as_long_as_theory_says() {
    // M/D/1: arrivals without memory, one server, each served for the same time.
    for load in [0.3, 0.5, 0.7] {
        let link = Link::new(spec("bandwidth=100Gbit/s latency=5us")).unwrap();
        let served = 327.68;
        let mut random = Random::new(20, 1);
        let (mut now, mut waited) = (0.0_f64, 0.0_f64);
        let transfers = 1_000_000;
        for _ in 0..transfers {
            now += -random.fraction().ln() * served / load;
            // The link counts whole nanoseconds, so what is lost here is taken off again.
            let arrival = now.floor();
            let transfer = link.reserve(whole(now), 4096);
            waited += transfer.start as f64 - arrival;
        }
        let mean = waited / f64::from(transfers);
        let theory = load / (2.0 * (1.0 - load)) * served;
        assert!(
            (mean / theory - 1.0).abs() < 0.05,
            "{load}: {mean}, theory {theory}"
        );
    }
}

#[test]
fn guests_on_one_wire_share_it_in_order_of_arrival() {
    let link = Link::new(spec("bandwidth=10Gbit/s")).unwrap();
    let mut last = 0;
    for turn in 0..1_000 {
        // Three that send one page each at the same time.
        let sent = [turn; 3].map(|now| link.reserve(now, 4096).sent);
        assert!(last < sent[0] && sent[0] < sent[1] && sent[1] < sent[2]);
        last = sent[2];
    }
}
