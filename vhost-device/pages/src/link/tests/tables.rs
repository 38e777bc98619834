// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tiers and guests: who queues behind whom, and what a change reaches.

use crate::link::{
    Calibration, CalibrationSamples, Direction, Directions, LinkChange, LinkError, Links, Queue,
};
use std::sync::Arc;

const ANY: Calibration = Calibration {
    clock_read_ns: 0,
    floor_ns: 0,
    spin_late_p50_ns: 0,
    spin_late_p999_ns: 0,
    sleep_late_p50_ns: 0,
    sleep_guard_ns: 0,
};

fn links() -> Arc<Links> {
    Links::new(["dram", "pm", "far"]).unwrap()
}

fn set(links: &Links, guest: Option<&str>, line: &str) -> Result<(), LinkError> {
    let change: LinkChange = line.parse()?;
    links.set("far", guest, Directions::Both, &change, &ANY)
}

#[test]
fn a_change_reaches_routes_that_are_in_use() {
    let links = links();
    let mut route = links.route("far", "vm1").unwrap();
    let mut other = links.route("far", "vm2").unwrap();
    assert!(!route.pair().emulated() && !links.emulated());

    set(&links, None, "latency=5us").unwrap();
    assert_eq!(route.pair().reserve(Direction::In, 100, 4096).due, 5_100);
    assert!(links.emulated());

    set(&links, Some("vm1"), "latency=9us").unwrap();
    assert_eq!(route.pair().reserve(Direction::In, 100, 4096).due, 9_100);
    assert_eq!(other.pair().reserve(Direction::In, 100, 4096).due, 5_100);

    assert!(links.clear("far", "vm1").unwrap());
    assert!(!links.clear("far", "vm1").unwrap());
    assert_eq!(route.pair().reserve(Direction::In, 100, 4096).due, 5_100);

    set(&links, Some("vm1"), "latency=9us").unwrap();
    links.forget_guest("vm1");
    assert_eq!(route.pair().reserve(Direction::In, 100, 4096).due, 5_100);
    let mut pm = links.route("pm", "vm1").unwrap();
    assert!(!pm.pair().emulated(), "another tier");
}

#[test]
fn directions_have_their_own_wires() {
    let links = links();
    let change: LinkChange = "bandwidth=8Gbit/s".parse().unwrap();
    links
        .set("far", None, Directions::In, &change, &ANY)
        .unwrap();
    let mut route = links.route("far", "vm1").unwrap();
    let pair = route.pair();
    assert_eq!(pair.reserve(Direction::In, 0, 4096).due, 4_096);
    assert_eq!(pair.reserve(Direction::Out, 0, 4096).due, 0);
    assert!(pair.emulated());
    assert!(!pair.link(Direction::Out).emulated());
}

#[test]
fn a_guest_that_shares_the_wire_queues_with_the_others() {
    let links = links();
    set(&links, None, "bandwidth=8Gbit/s latency=1us").unwrap();
    set(&links, Some("vm1"), "latency=3us").unwrap();
    let (mut one, mut two) = (
        links.route("far", "vm1").unwrap(),
        links.route("far", "vm2").unwrap(),
    );
    let first = two.pair().reserve(Direction::In, 0, 4096);
    let second = one.pair().reserve(Direction::In, 0, 4096);
    let third = two.pair().reserve(Direction::In, 0, 4096);
    assert_eq!(
        [first.due, second.due, third.due],
        [5_096, 2 * 4_096 + 3_000, 3 * 4_096 + 1_000]
    );
    let view = &links.show()[6];
    assert_eq!(
        (view.guest.as_deref(), view.queue),
        (Some("vm1"), Some(Queue::Shared))
    );
    assert_eq!(view.spec.bandwidth_bps, None, "the wire has the limit");
    assert_eq!(view.stats.transfers, 1);
    assert_eq!(links.show()[4].stats.transfers, 3, "the wire carried all");
}

#[test]
fn a_guest_with_a_cap_waits_for_itself_and_holds_up_nobody() {
    let links = links();
    set(&links, None, "bandwidth=8Gbit/s").unwrap();
    set(&links, Some("vm1"), "bandwidth=1Gbit/s").unwrap();
    let (mut one, mut two) = (
        links.route("far", "vm1").unwrap(),
        links.route("far", "vm2").unwrap(),
    );
    let mut dues = Vec::new();
    for _ in 0..10 {
        dues.push(one.pair().reserve(Direction::Out, 0, 4096).due);
    }
    assert_eq!(dues.last(), Some(&(10 * 8 * 4_096)));
    // On the wire it took ten pages of the tier's rate, no more.
    assert_eq!(two.pair().reserve(Direction::Out, 0, 4096).due, 11 * 4_096);
}

#[test]
fn a_guest_with_a_queue_of_its_own_is_in_nobodys_way() {
    let links = links();
    set(&links, None, "bandwidth=8Gbit/s latency=1us").unwrap();
    set(&links, Some("vm1"), "latency=3us").unwrap();
    set(&links, Some("vm1"), "queue=own").unwrap();
    let (mut one, mut two) = (
        links.route("far", "vm1").unwrap(),
        links.route("far", "vm2").unwrap(),
    );
    for turn in 1..10 {
        let own = one.pair().reserve(Direction::In, 0, 4096).due;
        assert_eq!(own, turn * 4_096 + 3_000, "as fast as the wire it left");
        assert_eq!(
            two.pair().reserve(Direction::In, 0, 4096).due,
            turn * 4_096 + 1_000
        );
    }
}

#[test]
fn the_tiers_faults_hit_those_who_share_its_wire() {
    let links = links();
    set(&links, Some("vm1"), "latency=3us").unwrap();
    set(&links, Some("vm2"), "latency=3us queue=own").unwrap();
    let plan = "corrupt=every:1 slow=by:2".parse().unwrap();
    links
        .set_faults("far", None, Directions::Both, 0, &plan)
        .unwrap();
    let (mut one, mut two) = (
        links.route("far", "vm1").unwrap(),
        links.route("far", "vm2").unwrap(),
    );
    let hit = one.pair().reserve(Direction::In, 0, 4096);
    assert!(hit.faults.corrupt.is_some());
    assert_eq!(hit.due, 6_000);
    assert!(!two.pair().reserve(Direction::In, 0, 4096).faults.any());
    let error = links
        .set_faults("far", Some("vm3"), Directions::In, 0, &plan)
        .unwrap_err();
    assert!(matches!(error, LinkError::NoOverride { .. }), "{error}");
    links
        .set_faults("far", Some("vm2"), Directions::In, 0, &plan)
        .unwrap();
    assert!(two.pair().reserve(Direction::In, 0, 4096).faults.any());
}

#[test]
fn a_round_trip_takes_both_latencies_and_one_page() {
    let links = links();
    // DiME's delay: the page at the rate, and the latency twice.
    set(
        &links,
        Some("vm1"),
        "latency_ns=10000 bandwidth_bps=10000000000",
    )
    .unwrap();
    let mut route = links.route("far", "vm1").unwrap();
    assert_eq!(
        route.pair().round_trip(500, 0, 4096).due,
        500 + 20_000 + 3_277
    );
    let put = links
        .route("far", "vm1")
        .unwrap()
        .pair()
        .round_trip(1_000_000, 4096, 0);
    assert_eq!(put.due, 1_000_000 + 20_000 + 3_277);
}

#[test]
fn a_round_trip_with_a_long_way_does_not_hold_up_a_short_one() {
    let links = links();
    set(&links, None, "latency=1us bandwidth=8Gbit/s").unwrap();
    set(&links, Some("vm1"), "latency=500us").unwrap();
    let (mut slow, mut fast) = (
        links.route("far", "vm1").unwrap(),
        links.route("far", "vm2").unwrap(),
    );
    assert_eq!(slow.pair().round_trip(0, 0, 4096).due, 1_000_000 + 4_096);
    assert_eq!(fast.pair().round_trip(0, 0, 4096).due, 2_000 + 2 * 4_096);
}

#[test]
fn both_directions_are_changed_or_neither() {
    let links = links();
    let out: LinkChange = "latency=2us".parse().unwrap();
    links.set("far", None, Directions::Out, &out, &ANY).unwrap();
    let floor = Calibration::from_samples(&CalibrationSamples {
        shortest_waits: vec![1_500],
        ..CalibrationSamples::default()
    });
    // The way out would be right with its 2 us; the way in has no latency, so seed alone is right.
    let low: LinkChange = "latency=1us seed=9".parse().unwrap();
    let error = links
        .set("far", None, Directions::Both, &low, &floor)
        .unwrap_err();
    assert!(error.to_string().contains("1500ns"), "{error}");
    let specs: Vec<_> = links
        .show()
        .into_iter()
        .map(|view| view.spec.seed)
        .collect();
    assert!(specs.iter().all(|seed| *seed == 0));
    let seed: LinkChange = "seed=9".parse().unwrap();
    links
        .set("far", None, Directions::Both, &seed, &floor)
        .unwrap();
}

#[test]
fn names_that_are_not_there_are_refused_with_those_that_are() {
    let links = links();
    let text = links.route("ssd", "vm1").unwrap_err().to_string();
    assert!(
        text.contains("ssd") && text.contains("dram, pm, far"),
        "{text}"
    );
    assert!(Links::new(["a", "a"]).is_err());
    assert_eq!(set(&links, None, "queue=own"), Err(LinkError::QueueOfTier));
}
