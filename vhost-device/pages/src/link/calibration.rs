// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What this machine can keep: the shortest delay, and how long before a due time one must stop
//! sleeping. Made of samples that the pacer takes at its start.

use serde::{Deserialize, Serialize};

use super::error::LinkError;
use super::spec::LinkSpec;
use super::text::Duration;

/// Spins, and sleeps, of one calibration.
pub const CALIBRATION_SAMPLES: usize = 1000;
/// No guard is longer, however late a few sleeps were: a thread that spins for longer than that
/// before each completion hinders its neighbours more than it gains.
pub const SLEEP_GUARD_MAX_NS: u64 = 1_000_000;

/// What was measured, each sample in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CalibrationSamples {
    /// From one reading of the clock to the next.
    pub clock_reads: Vec<u64>,
    /// How long a wait took whose due time had come when it began.
    pub shortest_waits: Vec<u64>,
    /// How late a wait that only spins ended.
    pub spins_late: Vec<u64>,
    /// How late a sleep ended.
    pub sleeps_late: Vec<u64>,
}

/// What the samples say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calibration {
    /// A reading of the clock: half take less.
    pub clock_read_ns: u64,
    /// The shortest wait: 99 of 100 take no longer. No delay below it is kept.
    pub floor_ns: u64,
    /// How late a wait ends that spins: half are less.
    pub spin_late_p50_ns: u64,
    /// Of the same, 999 of 1000 are less.
    pub spin_late_p999_ns: u64,
    /// How late a sleep ends: half are less.
    pub sleep_late_p50_ns: u64,
    /// How long before a due time a thread stops sleeping: 999 of 1000 sleeps end in time then.
    /// At most [`SLEEP_GUARD_MAX_NS`].
    pub sleep_guard_ns: u64,
}

impl Calibration {
    /// Sums up `samples`; a kind of which there are none counts as 0.
    #[must_use]
    pub fn from_samples(samples: &CalibrationSamples) -> Self {
        Self {
            clock_read_ns: quantile(&samples.clock_reads, 500),
            floor_ns: quantile(&samples.shortest_waits, 990),
            spin_late_p50_ns: quantile(&samples.spins_late, 500),
            spin_late_p999_ns: quantile(&samples.spins_late, 999),
            sleep_late_p50_ns: quantile(&samples.sleeps_late, 500),
            sleep_guard_ns: quantile(&samples.sleeps_late, 999).min(SLEEP_GUARD_MAX_NS),
        }
    }

    /// Whether this machine can keep what `spec` asks for. A latency of 0 is no emulation and always
    /// right; sending a page may take less than the floor, since pages queue and only the sum counts.
    ///
    /// # Errors
    /// [`LinkError::BelowFloor`] if the latency is above 0 and below the floor.
    pub fn check(&self, spec: &LinkSpec) -> Result<(), LinkError> {
        if spec.latency_ns > 0 && spec.latency_ns < self.floor_ns {
            return Err(LinkError::BelowFloor {
                latency: Duration(spec.latency_ns),
                floor: Duration(self.floor_ns),
            });
        }
        Ok(())
    }
}

/// What `per_mille` of 1000 samples do not exceed.
fn quantile(samples: &[u64], per_mille: usize) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * per_mille).div_ceil(1000);
    (sorted.get(rank.saturating_sub(1)).copied()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calibration() -> Calibration {
        Calibration::from_samples(&CalibrationSamples {
            clock_reads: vec![20; 10],
            shortest_waits: (1..=1000).rev().collect(),
            spins_late: (1..=1000).collect(),
            sleeps_late: (1..=1000).map(|n| n * 100).collect(),
        })
    }

    #[test]
    fn samples_are_summed_up_by_their_quantiles() {
        let expected = Calibration {
            clock_read_ns: 20,
            floor_ns: 990,
            spin_late_p50_ns: 500,
            spin_late_p999_ns: 999,
            sleep_late_p50_ns: 50_000,
            sleep_guard_ns: 99_900,
        };
        assert_eq!(calibration(), expected);
        let none = Calibration::from_samples(&CalibrationSamples::default());
        assert_eq!(none, Calibration::default());
    }

    #[test]
    fn a_machine_that_sleeps_badly_does_not_spin_for_ever() {
        let samples = CalibrationSamples {
            sleeps_late: vec![80_000_000; 10],
            ..CalibrationSamples::default()
        };
        let guard = Calibration::from_samples(&samples).sleep_guard_ns;
        assert_eq!(guard, SLEEP_GUARD_MAX_NS);
    }

    #[test]
    fn a_latency_below_the_floor_is_refused_with_the_floor() {
        let spec = |line: &str| line.parse::<LinkSpec>().unwrap();
        let error = calibration().check(&spec("latency=989ns")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("989ns") && text.contains("990ns"), "{text}");
        assert_eq!(calibration().check(&spec("latency=990ns")), Ok(()));
        assert_eq!(calibration().check(&spec("latency=0")), Ok(()));
        assert_eq!(calibration().check(&spec("bandwidth=100Gbit/s")), Ok(()));
    }
}
