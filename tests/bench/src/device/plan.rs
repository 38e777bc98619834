// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which cases are measured, and what their rows say.

use super::load::Shape;
use super::target::{BATCH, DEPTH, Op};
use super::{Measured, PEER, Polling, Series};
use crate::report::{Floors, median, quartiles};
use crate::{Row, Spread};

/// Pages of ours for each page of the peer, at depth 32.
const GOAL: f64 = 3.0;

/// One comparison: what is asked of us, and what of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// What the peer is asked for, where that is not the same.
    pub(crate) beside: &'static str,
    pub(crate) op: Op,
    pub(crate) ours: Shape,
    pub(crate) peer: Shape,
    /// Whether the goal is asked of this case.
    pub(crate) goal: bool,
}

const ONE: Shape = Shape {
    depth: 1,
    pages: 1,
    run: false,
};
const MANY: Shape = Shape {
    depth: DEPTH,
    pages: 1,
    run: false,
};
const BATCHED: Shape = Shape {
    depth: 1,
    pages: BATCH,
    run: false,
};
const BIG: Shape = Shape {
    depth: 1,
    pages: BATCH,
    run: true,
};

/// All cases, in the order of a round.
pub(crate) const CASES: [Case; 8] = [
    Case {
        name: "get 4 KiB, depth 1",
        beside: "",
        op: Op::Get,
        ours: ONE,
        peer: ONE,
        goal: false,
    },
    Case {
        name: "put 4 KiB, depth 1",
        beside: "",
        op: Op::Put,
        ours: ONE,
        peer: ONE,
        goal: false,
    },
    Case {
        name: "get 4 KiB, depth 32",
        beside: "",
        op: Op::Get,
        ours: MANY,
        peer: MANY,
        goal: true,
    },
    Case {
        name: "put 4 KiB, depth 32",
        beside: "",
        op: Op::Put,
        ours: MANY,
        peer: MANY,
        goal: true,
    },
    Case {
        name: "get, one listed batch of 32 pages",
        beside: "; peer: 32 requests in flight",
        op: Op::Get,
        ours: BATCHED,
        peer: MANY,
        goal: true,
    },
    Case {
        name: "put, one listed batch of 32 pages",
        beside: "; peer: 32 requests in flight",
        op: Op::Put,
        ours: BATCHED,
        peer: MANY,
        goal: true,
    },
    Case {
        name: "get, one listed batch of 32 pages",
        beside: "; peer: one request of 128 KiB",
        op: Op::Get,
        ours: BATCHED,
        peer: BIG,
        goal: false,
    },
    Case {
        name: "put, one listed batch of 32 pages",
        beside: "; peer: one request of 128 KiB",
        op: Op::Put,
        ours: BATCHED,
        peer: BIG,
        goal: false,
    },
];

/// Rows of one regime: pages a second of every case, and the time of a single request.
pub(crate) fn rows(
    measured: &[Measured],
    polling: Polling,
    peer_way: Option<&str>,
    floors: Floors,
) -> Vec<Row> {
    let mut rows = Vec::new();
    for one in measured {
        let regime = regime(one, polling, peer_way);
        let peer = peer_way.map(|_| rate(&one.peer));
        let floor = floor(one.case, polling, floors);
        let name = format!("{}{}", one.case.name, one.case.beside);
        rows.push(row(
            name,
            "pages/s",
            &regime,
            rate(&one.ours),
            peer.map(|figure| (figure, PEER)),
            floor,
        ));
        let row = rows.last_mut().expect("just pushed");
        compare(row, one, peer.map(|_| 1));
        // One request in flight, and both sides asleep: two wake-ups a batch are the floor, below
        // the goal whoever serves.
        let woken = polling == Polling::Off && one.case.ours != MANY;
        if one.case.goal && !woken && peer_way.is_some() {
            row.goal = Some(GOAL);
            row.met = row.ratio.map(|ratio| ratio >= GOAL);
        }
        if one.case.ours == ONE {
            let name = format!("{}, median", one.case.name);
            let ours = latency(&one.ours);
            let peer = peer_way.map(|_| latency(&one.peer));
            let floor = 1e6 / floor;
            let mut time = self::row(
                name,
                "us",
                &regime,
                ours,
                peer.map(|figure| (figure, PEER)),
                floor,
            );
            time.ratio = Some(peer.unwrap_or(floor) / ours);
            rows.push(time);
        }
    }
    rows
}

pub(super) fn row(
    name: String,
    unit: &'static str,
    regime: &str,
    ours: f64,
    peer: Option<(f64, &str)>,
    floor: f64,
) -> Row {
    Row {
        area: "device",
        name,
        unit,
        ours,
        peer: peer.map(|(figure, _)| figure),
        peer_name: peer.map(|(_, name)| name.to_owned()),
        floor: Some(floor),
        ratio: None,
        spread: None,
        goal: None,
        met: None,
        emulated: false,
        regime: regime.to_owned(),
    }
}

/// Pages a second of each pass.
fn rates(series: &Series) -> Vec<f64> {
    series.passes.iter().map(|pass| pass.rate).collect()
}

/// Median pages a second.
pub(super) fn rate(series: &Series) -> f64 {
    median(&rates(series))
}

/// Ours against the peer, for each turn of `passes` passes a side.
fn ratios(ours: &Series, peer: &Series, passes: usize) -> Vec<f64> {
    let turns = |series| -> Vec<f64> {
        let rates = rates(series);
        rates.chunks(passes).map(|turn| turn.iter().sum()).collect()
    };
    let pairs = turns(ours).into_iter().zip(turns(peer));
    pairs.map(|(ours, peer)| ours / peer).collect()
}

/// Fills in the ratio of a row of rates: against a peer the median over turns of `passes` passes a
/// side, so that a machine that is slower for a while is so for both; otherwise against the floor.
pub(super) fn compare(row: &mut Row, one: &Measured, passes: Option<usize>) {
    let Some(passes) = passes else {
        row.ratio = row.floor.map(|floor| row.ours / floor);
        return;
    };
    let ratios = ratios(&one.ours, &one.peer, passes);
    row.ratio = Some(median(&ratios));
    row.spread = Some(Spread {
        ours: quartiles(&rates(&one.ours)),
        peer: quartiles(&rates(&one.peer)),
        ratio: quartiles(&ratios),
    });
}

/// Median over the passes of a request's median time, in microseconds.
fn latency(series: &Series) -> f64 {
    let times: Vec<f64> = series
        .passes
        .iter()
        .filter_map(|pass| pass.median)
        .collect();
    median(&times) * 1e6
}

/// Pages a second that the machine allows: a copy a page, and a way there and back a batch. With
/// many requests in flight the way costs nothing.
pub(super) fn floor(case: Case, polling: Polling, floors: Floors) -> f64 {
    let way = if polling == Polling::On {
        floors.flag
    } else {
        floors.eventfd
    };
    let copy = 1.0 / floors.copies;
    match case.ours {
        MANY => floors.copies,
        shape => {
            let pages = f64::from(u32::try_from(shape.pages).expect("a small batch"));
            pages / (way + pages * copy)
        }
    }
}

/// Who polled, and how often the servers really slept.
pub(super) fn regime(one: &Measured, polling: Polling, peer_way: Option<&str>) -> String {
    let (client, server) = match polling {
        Polling::On => ("client polls", "server told to poll"),
        Polling::Off => ("client sleeps", "server told to sleep"),
    };
    let ours = one.ours.sleeps_a_request();
    if let Some(way) = peer_way {
        let peer = one.peer.sleeps_a_request();
        format!("{client}, {server}; sleeps a request: ours {ours:.2}, peer {peer:.2} ({way})")
    } else {
        format!("{client}, {server}; sleeps a request: {ours:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::load::Pass;

    const FLOORS: Floors = Floors {
        copies: 1e6,
        flag: 1e-6,
        eventfd: 50e-6,
    };

    fn series(rate: f64) -> Series {
        let pass = Pass {
            rate,
            median: Some(1e-5),
            requests: 10,
        };
        Series {
            passes: vec![pass; 3],
            sleeps: 15,
        }
    }

    fn measured(case: Case, ours: f64, peer: f64) -> Measured {
        Measured {
            case,
            ours: series(ours),
            peer: series(peer),
        }
    }

    #[test]
    fn the_goal_is_met_from_three_times_on() {
        let case = CASES[2];
        for (ours, met) in [(300.0, true), (299.0, false)] {
            let rows = rows(
                &[measured(case, ours, 100.0)],
                Polling::On,
                Some("aio"),
                FLOORS,
            );
            assert_eq!((rows[0].goal, rows[0].met), (Some(GOAL), Some(met)));
        }
    }

    #[test]
    fn without_a_peer_the_ratio_is_against_the_floor_and_no_goal_stands() {
        let rows = rows(&[measured(CASES[2], 5e5, 0.0)], Polling::On, None, FLOORS);
        assert_eq!(
            (rows[0].goal, rows[0].met, rows[0].peer),
            (None, None, None)
        );
        assert!((rows[0].ratio.unwrap() - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_single_request_gets_a_row_for_its_time_where_larger_ratios_are_better() {
        let mut one = measured(CASES[0], 100.0, 100.0);
        for pass in &mut one.ours.passes {
            pass.median = Some(5e-6);
        }
        let rows = rows(&[one], Polling::Off, Some("aio"), FLOORS);
        assert_eq!(rows.len(), 2);
        assert!((rows[1].ours - 5.0).abs() < 1e-9);
        assert!((rows[1].ratio.unwrap() - 2.0).abs() < 1e-9);
    }

    #[test]
    fn the_floor_of_a_batch_has_one_way_and_a_copy_a_page() {
        let sleeping = floor(CASES[4], Polling::Off, FLOORS);
        assert!((sleeping - 32.0 / 82e-6).abs() < 1.0);
        assert!((floor(CASES[2], Polling::Off, FLOORS) - 1e6).abs() < 1.0);
    }

    #[test]
    fn the_regime_counts_sleeps() {
        let text = regime(&measured(CASES[2], 1.0, 1.0), Polling::Off, Some("aio"));
        assert!(text.contains("ours 0.50, peer 0.50"), "{text}");
    }
}
