// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rates: what many transfers take together.

use super::spec;
use crate::link::Link;

#[test]
fn a_million_pages_back_to_back_take_exactly_as_long_as_their_bits() {
    for (rate, bps) in [
        ("100Gbit/s", 100_000_000_000_u128),
        ("25Gbit/s", 25_000_000_000),
        ("10Gbit/s", 10_000_000_000),
        ("7Gbit/s", 7_000_000_000),
        ("99999999977bit/s", 99_999_999_977),
    ] {
        let link = Link::new(spec(&format!("bandwidth={rate}"))).unwrap();
        let mut sent = 0;
        for page in 1..=1_000_000_u128 {
            let transfer = link.reserve(0, 4096);
            assert_eq!(transfer.due, transfer.sent);
            sent = transfer.sent;
            let exact = (page * 4096 * 8 * 1_000_000_000).div_ceil(bps);
            assert_eq!(u128::from(sent), exact, "{rate}");
        }
        let mean = 1e6 * 32_768.0 / (sent as f64 / 1e9) / (bps as f64);
        assert!((mean - 1.0).abs() < 1e-8, "{rate}: {mean}");
    }
}

#[test]
fn pages_at_the_rates_of_the_goal_are_as_far_apart_as_they_must_be() {
    for (line, apart) in [
        ("bandwidth=100Gbit/s", 327.68),
        ("bandwidth=25Gbit/s", 1310.72),
    ] {
        let link = Link::new(spec(line)).unwrap();
        let first = link.reserve(0, 4096).sent;
        let last = (0..999).map(|_| link.reserve(0, 4096).sent).last().unwrap();
        let mean = (last - first) as f64 / 999.0;
        assert!((mean - apart).abs() < 0.002, "{line}: {mean}");
    }
}

#[test]
fn no_millisecond_carries_more_than_the_rate_after_a_pause() {
    // A token bucket would let a burst through; a link does not save up what it did not send.
    let link = Link::new(spec("bandwidth=25Gbit/s")).unwrap();
    let mut dues = Vec::new();
    for pause in [0, 5_000_000, 40_000_000, 1_000_000_000_u64] {
        dues.extend((0..2_000).map(|_| link.reserve(pause, 4096).due));
    }
    let window = 1_000_000;
    let fits = window as f64 / 1310.72;
    let mut first = 0;
    for last in 0..dues.len() {
        while dues[last] - dues[first] > window {
            first += 1;
        }
        assert!(((last - first) as f64) <= fits + 1.0);
    }
}

#[test]
fn an_idle_link_adds_the_page_the_latency_and_nothing_else() {
    let link = Link::new(spec("latency=5us bandwidth=25Gbit/s jitter=constant:10ns")).unwrap();
    let transfer = link.reserve(1_000, 4096);
    assert_eq!((transfer.start, transfer.sent), (1_000, 2_311));
    assert_eq!(transfer.due, 2_311 + 5_000 + 10);
    let next = link.reserve(1_000_000, 4096);
    assert_eq!(next.due - 1_000_000, transfer.due - 1_000);
}

#[test]
fn a_link_that_adds_nothing_does_nothing() {
    let link = Link::new(spec("seed=3")).unwrap();
    assert!(!link.emulated());
    assert_eq!(link.reserve(77, 1 << 40).due, 77);
    assert_eq!(link.stats().transfers, 0);
    link.set(spec("latency=1us")).unwrap();
    assert!(link.emulated());
    assert_eq!(link.reserve(77, 1 << 40).due, 1_077);
    link.set(spec("jitter=table:0,0")).unwrap();
    assert!(!link.emulated());
}

#[test]
fn numbers_beyond_all_reason_saturate() {
    let link = Link::new(spec("latency=10s bandwidth=1kbit/s")).unwrap();
    link.set_faults(0, &"slow=by:1000 drop=1,rto:86400s".parse().unwrap());
    assert_eq!(link.reserve(u64::MAX - 1, u64::MAX).due, u64::MAX);
    assert_eq!(link.reserve(0, u64::MAX).due, u64::MAX);
    assert_eq!(link.backlog_ns(0), u64::MAX);
}

#[test]
fn completions_are_counted_with_their_error_and_their_overruns() {
    let link = Link::new(spec("latency=1us")).unwrap();
    link.completed(1_000, 900, 1_003);
    link.completed(1_000, 1_200, 1_210);
    link.completed(1_000, 100, 999);
    let stats = link.stats();
    assert_eq!((stats.completed, stats.overruns, stats.early), (3, 1, 1));
    assert_eq!((stats.error.sum_ns, stats.error.max_ns), (213, 210));
}
