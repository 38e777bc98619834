// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The slow, obvious link: it adds up a busy period from its beginning each time, in 128 bits, and
//! looks through all windows of faults.

use crate::link::LinkSpec;

/// Transfers since the wire was last idle, or since its rate changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Exact {
    pub(super) spec: LinkSpec,
    begin: u128,
    /// Thousandths of bytes, each times as many as it is slower.
    sent: Vec<u128>,
    pub(super) stalls: Vec<(u64, u64)>,
    pub(super) slows: Vec<(u64, u64, u32)>,
}

pub(super) struct Expected {
    pub(super) start: u64,
    pub(super) sent: u64,
    pub(super) due_without_jitter: u64,
}

impl Exact {
    pub(super) fn new(spec: LinkSpec) -> Self {
        Self {
            spec,
            ..Self::default()
        }
    }

    fn rate(&self) -> u128 {
        self.spec.bandwidth_bps.map_or(1, |rate| rate.get().into())
    }

    /// When the wire is free, times the rate.
    fn free(&self) -> u128 {
        let work: u128 = self.sent.iter().map(|bytes| bytes * 8_000_000).sum();
        let work = if self.spec.bandwidth_bps.is_some() {
            work
        } else {
            0
        };
        self.begin * self.rate() + work
    }

    fn free_up(&self) -> u128 {
        self.free().div_ceil(self.rate())
    }

    pub(super) fn reserve(&mut self, now: u64, bytes: u64) -> Expected {
        if u128::from(now) * self.rate() > self.free() {
            self.begin = now.into();
            self.sent.clear();
        }
        let mut start = self.free_up();
        loop {
            let stands = |(from, until): &&(u64, u64)| {
                (u128::from(*from)..u128::from(*until)).contains(&start)
            };
            let Some((_, until)) = self.stalls.iter().find(stands) else {
                break;
            };
            start = (*until).into();
            self.begin = start;
            self.sent.clear();
        }
        let mut milli = 1000_u128;
        for (from, until, by) in &self.slows {
            if (u128::from(*from)..u128::from(*until)).contains(&start) {
                milli = (milli * u128::from(*by) / 1000).min(1_000_000);
            }
        }
        self.sent.push(u128::from(bytes) * milli);
        let sent = self.free_up();
        let latency = (u128::from(self.spec.latency_ns) * milli).div_ceil(1000);
        let small = |number: u128| u64::try_from(number).unwrap();
        Expected {
            start: small(start),
            sent: small(sent),
            due_without_jitter: small(sent + latency),
        }
    }

    pub(super) fn set(&mut self, spec: LinkSpec) {
        self.begin = self.free_up();
        self.sent.clear();
        self.spec = spec;
    }

    /// The wire is free, since nothing uses it.
    pub(super) fn clear(&mut self) {
        self.begin = 0;
        self.sent.clear();
    }
}
