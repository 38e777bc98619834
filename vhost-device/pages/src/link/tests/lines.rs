// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What an admin writes: read, refused with a reason, printed and read again.

use std::num::NonZeroU64;

use super::{Random, seed, spec};
use crate::link::{
    Directions, FaultKind, FaultPlan, FaultRule, Jitter, LinkChange, LinkError, LinkSpec,
    QUANTILES_MAX, Quantiles, Queue, Trigger,
};

fn change(line: &str) -> Result<LinkChange, LinkError> {
    line.parse()
}

#[test]
fn a_line_is_read_in_any_order() {
    let expected = LinkSpec {
        latency_ns: 5_000,
        bandwidth_bps: NonZeroU64::new(25_000_000_000),
        jitter: Jitter::Uniform { spread_ns: 2_000 },
        seed: 7,
    };
    for line in [
        "latency=5us bandwidth=25Gbit/s jitter=uniform:2us seed=7",
        "  seed=7\tjitter=uniform:2000ns   bandwidth_bps=25000000000 latency_ns=5000 ",
    ] {
        assert_eq!(spec(line), expected);
    }
    assert_eq!(
        expected.to_string(),
        "latency=5us bandwidth=25Gbit/s jitter=uniform:2us seed=7"
    );
    assert_eq!(
        LinkSpec::default().to_string(),
        "latency=0 bandwidth=unlimited jitter=none seed=0"
    );
}

#[test]
fn dimes_own_line_is_read_and_hands_the_local_pages_back() {
    let change = change("latency_ns=10000 bandwidth_bps=10000000000 local_npages=20").unwrap();
    assert_eq!(change.latency_ns, Some(10_000));
    assert_eq!(change.bandwidth_bps, Some(NonZeroU64::new(10_000_000_000)));
    assert_eq!(change.local_npages, Some(20));
    assert!(!change.is_empty());
    let only: LinkChange = "local_npages=0".parse().unwrap();
    assert!(only.is_empty() && only.local_npages == Some(0));
}

#[test]
fn what_a_line_does_not_name_stays() {
    let before = spec("latency=5us bandwidth=25Gbit/s jitter=uniform:2us seed=7");
    let after = change("bandwidth=unlimited").unwrap().apply(&before);
    assert_eq!(after, spec("latency=5us jitter=uniform:2us seed=7"));
    let after = change("latency=0").unwrap().apply(&before);
    assert_eq!(after.latency_ns, 0);
    assert_eq!(change("").unwrap().apply(&before), before);
}

#[test]
fn a_bad_line_names_the_bad_word_and_what_would_be_right() {
    for (line, word, right) in [
        ("latency=5", "5", "5us"),
        ("latency=-5us", "-5us", "5us"),
        ("latncy=5us", "latncy=5us", "latency=TIME"),
        ("5us", "5us", "latency=TIME"),
        ("latency", "latency", "latency=TIME"),
        ("latency=11s", "11s", "0 to 10s"),
        ("latency_ns=5us", "latency_ns=5us", "whole nanoseconds"),
        (
            "latency_ns=99999999999999999999",
            "99999999999999999999",
            "whole nanoseconds",
        ),
        ("latency=5us latency_ns=3", "latency_ns=3", "once"),
        ("bandwidth=25", "25", "25Gbit/s"),
        ("bandwidth=", "", "unlimited"),
        ("bandwidth=999bit/s", "999bit/s", "1kbit/s to 10Tbit/s"),
        ("bandwidth=11Tbit/s", "11Tbit/s", "1kbit/s to 10Tbit/s"),
        ("bandwidth_bps=0", "bandwidth_bps=0", "bandwidth=unlimited"),
        ("bandwidth=1GB/s bandwidth=1GB/s", "bandwidth=1GB/s", "once"),
        ("jitter=gauss:2us", "jitter=gauss:2us", "lognormal:2us,0.5"),
        ("jitter=none:2us", "jitter=none:2us", "jitter=none"),
        ("jitter=uniform", "\"\"", "800ns"),
        ("jitter=uniform:11s", "11s", "0 to 10s"),
        (
            "jitter=lognormal:2us",
            "jitter=lognormal:2us",
            "median, sigma",
        ),
        ("jitter=lognormal:2us,x", "lognormal:2us,x", "median, sigma"),
        ("jitter=lognormal:2us,3.001", "3.001", "0 to 3"),
        ("jitter=table:5us", "1 values", "2 to 256"),
        ("jitter=table:5us,4us", "5us", "must not fall"),
        ("jitter=table:5us,", "\"\"", "800ns"),
        ("seed=0x7", "seed=0x7", "whole number"),
        ("queue=mine", "queue=mine", "queue=own"),
        ("local_npages=1e3", "local_npages=1e3", "pages of 4 KiB"),
    ] {
        let text = change(line).unwrap_err().to_string();
        assert!(
            text.contains(word) && text.contains(right),
            "{line}: {text}"
        );
    }
    let long = format!("latency={}", "9".repeat(10_000));
    assert!(change(&long).unwrap_err().to_string().len() < 300);
    let table = vec!["1us"; QUANTILES_MAX + 1].join(",");
    assert!(change(&format!("jitter=table:{table}")).is_err());
}

#[test]
fn a_link_by_itself_has_no_queue_and_no_local_pages() {
    assert_eq!("queue=own".parse::<LinkSpec>(), Err(LinkError::QueueOfTier));
    assert!("latency=1us local_npages=3".parse::<LinkSpec>().is_err());
}

#[test]
fn directions_are_words() {
    for (word, count) in [("in", 1), ("out", 1), ("both", 2)] {
        let directions: Directions = word.parse().unwrap();
        assert_eq!(directions.each().count(), count);
        assert_eq!(directions.to_string(), word);
    }
    let text = "up".parse::<Directions>().unwrap_err().to_string();
    assert!(text.contains("up") && text.contains("both"), "{text}");
}

fn random_jitter(random: &mut Random) -> Jitter {
    match random.below(5) {
        0 => Jitter::None,
        1 => Jitter::Constant {
            ns: random.below(10_000_000_001),
        },
        2 => Jitter::Uniform {
            spread_ns: random.below(3_000),
        },
        3 => Jitter::LogNormal {
            median_ns: random.below(1 << 30),
            sigma_milli: u32::try_from(random.below(3_001)).unwrap(),
        },
        _ => {
            let mut values: Vec<u64> = (0..2 + random.below(20))
                .map(|_| random.below(1 << 20))
                .collect();
            values.sort_unstable();
            Jitter::Table {
                quantiles: Quantiles::new(&values).unwrap(),
            }
        }
    }
}

fn random_plan(random: &mut Random) -> FaultPlan {
    let rules = (0..random.below(5)).map(|_| {
        let mut trigger = match random.below(3) {
            0 => Trigger::All,
            1 => Trigger::Chance(1 + u32::try_from(random.below(1_000_000_000)).unwrap()),
            _ => Trigger::Every(1 + random.below(5_000)),
        };
        let mut for_ns = random.one_in(2).then(|| 1 + random.below(1 << 40));
        let kind = match random.below(4) {
            0 => {
                if for_ns.is_none() && trigger == Trigger::All {
                    trigger = Trigger::Every(2);
                }
                FaultKind::Drop {
                    rto_ns: 1 + random.below(1 << 30),
                }
            }
            1 => FaultKind::Corrupt,
            2 if trigger == Trigger::All => {
                for_ns = Some(for_ns.unwrap_or(9));
                FaultKind::Stall { each_ns: 0 }
            }
            2 => {
                for_ns = None;
                FaultKind::Stall {
                    each_ns: 1 + random.below(1 << 30),
                }
            }
            _ => FaultKind::Slow {
                by_milli: u32::try_from(1_000 + random.below(999_001)).unwrap(),
            },
        };
        FaultRule {
            kind,
            trigger,
            from_ns: random.below(1 << 40),
            for_ns,
        }
    });
    let rules: Vec<_> = rules.collect();
    // A plan without rules prints as "none", which has no seed.
    let seed = if rules.is_empty() { 0 } else { random.next() };
    FaultPlan { seed, rules }
}

#[test]
fn what_is_printed_reads_back_as_the_same() {
    let seed = seed("what_is_printed_reads_back_as_the_same");
    for round in 0..2_000 {
        let random = &mut Random::new(seed, round);
        let spec = LinkSpec {
            latency_ns: random.below(10_000_000_001),
            bandwidth_bps: NonZeroU64::new(random.below(2) * (1_000 + random.below(1 << 43))),
            jitter: random_jitter(random),
            seed: random.next(),
        };
        assert_eq!(spec.to_string().parse::<LinkSpec>().unwrap(), spec);
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(
            serde_json::from_str::<LinkSpec>(&json).unwrap(),
            spec,
            "{json}"
        );

        let change = LinkChange {
            latency_ns: random.one_in(2).then_some(spec.latency_ns),
            bandwidth_bps: random.one_in(2).then_some(spec.bandwidth_bps),
            jitter: random.one_in(2).then(|| spec.jitter.clone()),
            seed: random.one_in(2).then_some(spec.seed),
            queue: random.pick(&[None, Some(Queue::Own), Some(Queue::Shared)]),
            local_npages: random.one_in(2).then(|| random.next()),
        };
        assert_eq!(change.to_string().parse::<LinkChange>().unwrap(), change);

        let plan = random_plan(random);
        let line = plan.to_string();
        assert_eq!(line.parse::<FaultPlan>().unwrap(), plan, "{line}");
        let json = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<FaultPlan>(&json).unwrap(), plan);
    }
}

#[test]
fn json_is_checked_like_a_line() {
    let spec: LinkSpec = serde_json::from_str(
        r#"{"latency_ns": 5000, "bandwidth_bps": 25000000000, "jitter": {"kind": "lognormal", "median_ns": 2000, "sigma_milli": 500}}"#,
    )
    .unwrap();
    assert_eq!(
        spec,
        super::spec("latency=5us bandwidth=25Gbit/s jitter=lognormal:2us,0.5")
    );
    for bad in [
        r#"{"latency_ns": 99999999999}"#,
        r#"{"latency": 5}"#,
        r#"{"bandwidth_bps": 0}"#,
        r#"{"bandwidth_bps": 5}"#,
        r#"{"jitter": {"kind": "table", "quantiles": [5, 4]}}"#,
        r#"{"jitter": {"kind": "uniform", "spread_ns": 99999999999}}"#,
        r#"{"jitter": {"kind": "gauss"}}"#,
    ] {
        assert!(serde_json::from_str::<LinkSpec>(bad).is_err(), "{bad}");
    }
    assert!(serde_json::from_str::<FaultPlan>("\"drop=2\"").is_err());
}

#[test]
fn garbage_is_refused_and_breaks_nothing() {
    let seed = seed("garbage_is_refused_and_breaks_nothing");
    let pieces = [
        "latency=",
        "bandwidth=",
        "jitter=",
        "table:",
        "lognormal:",
        "uniform:",
        "drop=",
        "stall=",
        "slow=",
        "corrupt=",
        "every:",
        "at:",
        "for:",
        "by:",
        "rto:",
        "seed=",
        "latency_ns=",
        "us",
        "µs",
        "Gbit/s",
        "5",
        "0",
        "18446744073709551616",
        "1.5",
        ".",
        ",",
        ":",
        "=",
        " ",
        "\t",
        "-",
        "none",
        "unlimited",
        "\u{0}",
        "é",
        "💥",
        "999999999999s",
        "0.0000000001",
    ];
    let (mut good, mut bad) = (0, 0);
    for round in 0..20_000 {
        let random = &mut Random::new(seed, round);
        let mut line = String::new();
        for _ in 0..random.below(12) {
            line.push_str(random.pick(&pieces));
        }
        for result in [
            line.parse::<LinkChange>().map(drop),
            line.parse::<LinkSpec>().map(drop),
            line.parse::<FaultPlan>().map(drop),
        ] {
            match result {
                Ok(()) => good += 1,
                Err(error) => {
                    bad += 1;
                    let text = error.to_string();
                    assert!(text.len() < 600 && !text.contains('\0'), "{text}");
                }
            }
        }
    }
    assert!(good > 100 && bad > 10_000, "{good} good, {bad} bad");
}
