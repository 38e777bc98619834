// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Links that are slower than the machine: latency, bandwidth, jitter and faults that somebody chose.
//!
//! ```text
//!  "latency=5us bandwidth=25Gbit/s"                    "drop=0.001 stall=at:5s,for:200ms"
//!            │ LinkChange                                          │ FaultPlan
//!            ▼                                                     ▼
//!  Links ── tier × (everyone | guest) × (in | out) ── Link: a virtual clock, jitter, active faults
//!    │ route                                            ▲      │
//!    ▼                                     now, bytes   │      │ Transfer: start, sent, due, faults
//!  Route ── LinkPair ───────────────────────────────────┘      ▼
//!  (a worker's)              real work at once, then ── Pending ── completed when due, not before
//! ```
//!
//! # What is modelled
//! `start = max(arrival, free)`, `free = start + bytes * 8 / rate`, `due = free + latency + jitter`.
//! Not a token bucket: a page always takes the time of its own bits, and pages queue behind each
//! other. The due time counts from the arrival of the request, so the real work (index, checksum,
//! copy) is a part of the emulated time and not an addition to it. If it takes longer than the link,
//! that is an overrun, and counted.
//!
//! # What it must not know
//! The clock. Every `now` comes in, in nanoseconds, and must be of one clock for all threads. Only
//! `pacer.rs` reads one, for those who want to wait; the tests and the simulator use others.
//!
//! # What it promises
//! - Nothing is due early. What the clock keeps is exact; what it tells is rounded up.
//! - The mean rate is the one that was set, whatever the size of the transfers: fractions of a
//!   nanosecond are kept.
//! - The order of reservations is the order on the wire.
//! - The same seed and the same transfers give the same jitter and the same faults.
//! - A change holds for the next reservation. What is reserved keeps its due time.
//! - Nothing that says `emulated` false ever delays anything.
//!
//! # Which thread owns what
//! A [`Link`] is shared; a reservation takes its lock for some tens of nanoseconds, and that of the
//! wire it rides on after it. The table's lock comes before both and is taken for changes alone.
//!
//! # Where to start reading
//! `model.rs` is the clock, `table.rs` says whose transfers use which, `spec.rs` and `fault.rs` what
//! an admin can write.

mod active;
mod calibration;
mod error;
mod fault;
mod histogram;
mod jitter;
mod model;
mod pacer;
mod pair;
mod pending;
mod random;
mod spec;
mod stats;
mod table;
#[cfg(test)]
mod tests;
mod text;

pub use active::Faults;
pub use calibration::{CALIBRATION_SAMPLES, Calibration, CalibrationSamples, SLEEP_GUARD_MAX_NS};
pub use error::LinkError;
pub use fault::{
    CERTAIN, DROPS_MAX, FAULT_RULES_MAX, FAULT_TIME_MAX_NS, FaultKind, FaultPlan, FaultRule,
    RTO_DEFAULT_NS, SLOW_MAX_MILLI, Trigger,
};
pub use histogram::{Bucket, HistogramStats};
pub use jitter::{JITTER_MAX_NS, Jitter, QUANTILES_MAX, Quantiles, SIGMA_MAX_MILLI};
pub use model::{Link, Transfer};
pub use pacer::{Clock, Pacer, SystemClock, calibrate, prompt_timers};
pub use pair::{Direction, Directions, LinkPair};
pub use pending::Pending;
pub use spec::{BANDWIDTH_MAX_BPS, BANDWIDTH_MIN_BPS, LATENCY_MAX_NS, LinkChange, LinkSpec, Queue};
pub use stats::LinkStats;
pub use table::{LinkView, Links, Route};
pub use text::Duration;
