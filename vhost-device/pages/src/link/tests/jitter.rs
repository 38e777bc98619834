// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Jitter: means and quantiles of many transfers, for a fixed seed.

use super::{spec, whole};
use crate::link::{JITTER_MAX_NS, Link};

const TRANSFERS: usize = 200_000;

/// The sorted jitters of many transfers, each on an idle link.
fn drawn(jitter: &str) -> Vec<u64> {
    let link = Link::new(spec(&format!("latency=1us jitter={jitter} seed=7"))).unwrap();
    let mut all: Vec<u64> = (0..TRANSFERS as u64)
        .map(|now| link.reserve(now, 4096).due - now - 1_000)
        .collect();
    all.sort_unstable();
    all
}

fn mean(all: &[u64]) -> f64 {
    all.iter().sum::<u64>() as f64 / all.len() as f64
}

fn near(found: f64, expected: f64, part: f64) {
    let off = (found / expected - 1.0).abs();
    assert!(off < part, "{found} where {expected} was expected");
}

fn quantile(all: &[u64], part: f64) -> f64 {
    all[usize::try_from(whole((all.len() - 1) as f64 * part)).unwrap()] as f64
}

#[test]
fn constant_jitter_is_always_the_same() {
    assert!(drawn("constant:3us").iter().all(|ns| *ns == 3_000));
}

#[test]
fn uniform_jitter_has_its_mean_in_the_middle_and_reaches_both_ends() {
    let all = drawn("uniform:2us");
    near(mean(&all), 1_000.0, 0.005);
    for part in [0.1, 0.25, 0.5, 0.9] {
        near(quantile(&all, part), 2_000.0 * part, 0.02);
    }
    assert_eq!((all.first(), all.last()), (Some(&0), Some(&2_000)));
}

#[test]
fn lognormal_jitter_has_its_median_its_tail_and_its_mean() {
    let all = drawn("lognormal:10us,0.5");
    // The standard normal's quantiles.
    for (part, z) in [
        (0.05, -1.6449),
        (0.5, 0.0),
        (0.84134, 1.0),
        (0.99, 2.3263),
        (0.999, 3.0902),
    ] {
        near(quantile(&all, part), 10_000.0 * (0.5_f64 * z).exp(), 0.03);
    }
    near(mean(&all), 10_000.0 * 0.125_f64.exp(), 0.01);
    let wild = drawn("lognormal:9s,3");
    assert_eq!(wild.last(), Some(&JITTER_MAX_NS));
}

#[test]
fn a_table_is_followed_between_its_values() {
    let all = drawn("table:1us,2us,2us,10us,50us");
    for (part, ns) in [
        (0.0, 1_000.0),
        (0.125, 1_500.0),
        (0.25, 2_000.0),
        (0.4, 2_000.0),
        (0.625, 6_000.0),
        (0.75, 10_000.0),
        (0.875, 30_000.0),
        (1.0, 50_000.0),
    ] {
        near(quantile(&all, part), ns, 0.02);
    }
    near(mean(&all), (1.5 + 2.0 + 6.0 + 30.0) / 4.0 * 1_000.0, 0.01);
}

#[test]
fn the_seed_decides_and_setting_it_again_begins_anew() {
    let line = "latency=1us jitter=lognormal:2us,0.5 seed=";
    // All at one time: whoever comes with an earlier one waits for those before.
    let draw = |link: &Link| {
        let dues = (0..100).map(|_| link.reserve(50, 64).due);
        dues.collect::<Vec<_>>()
    };
    let link = Link::new(spec(&format!("{line}7"))).unwrap();
    let first = draw(&link);
    assert_ne!(first, draw(&link), "the stream goes on");
    link.set(spec(&format!("{line}7"))).unwrap();
    assert_eq!(first, draw(&link));
    link.set(spec(&format!("{line}8"))).unwrap();
    assert_ne!(first, draw(&link));
    let other = Link::with_stream(spec(&format!("{line}7")), 1).unwrap();
    assert_ne!(first, draw(&other));
}
