// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A plan at work: which faults hit the transfer that starts now.

use super::fault::{CERTAIN, DROPS_MAX, FaultKind, FaultPlan, FaultRule, SLOW_MAX_MILLI, Trigger};
use super::random::Stream;

/// What hit one transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// How often it was lost and sent again.
    pub dropped: u32,
    /// Whether it was sent slowly.
    pub slowed: bool,
    /// Whether it had to wait for a link that stood still.
    pub stalled: bool,
    /// The bit that is to be another on arrival: below 8 times the bytes of the transfer.
    pub corrupt: Option<u64>,
}

impl Faults {
    /// Whether anything hit it.
    #[must_use]
    pub fn any(&self) -> bool {
        *self != Self::default()
    }

    /// Does to the arrived `bytes` what the faults say: flips the bit, if one is to be another. If
    /// the bytes are fewer than were transferred, the bit is taken modulo their number.
    pub fn damage(&self, bytes: &mut [u8]) {
        let Some(bit) = self.corrupt else { return };
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX).max(1);
        let at = usize::try_from(bit / 8 % length).unwrap_or(0);
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << (bit % 8);
        }
    }

    /// Both, of two transfers that make one.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            dropped: self.dropped.saturating_add(other.dropped),
            slowed: self.slowed || other.slowed,
            stalled: self.stalled || other.stalled,
            corrupt: self.corrupt.or(other.corrupt),
        }
    }
}

/// A plan that was set, in absolute time.
#[derive(Debug, Default)]
pub(crate) struct Active {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    rule: FaultRule,
    from: u64,
    until: u64,
    /// Transfers that the rule was asked about.
    seen: u64,
    stream: Stream,
}

/// What happens after a transfer's start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fate {
    pub(crate) faults: Faults,
    /// How many times as long it takes, in thousandths.
    pub(crate) factor_milli: u32,
    /// How much later it is due since it was lost.
    pub(crate) lost_ns: u64,
}

impl Fate {
    pub(crate) const GOOD: Self = Self {
        faults: Faults {
            dropped: 0,
            slowed: false,
            stalled: false,
            corrupt: None,
        },
        factor_milli: 1000,
        lost_ns: 0,
    };
}

impl Active {
    /// The plan, from `now` on. Links with different `stream`s have different chances.
    pub(crate) fn new(plan: &FaultPlan, now: u64, stream: u64) -> Self {
        let stream = Stream::new(plan.seed, stream);
        let rules = (0..).zip(&plan.rules).map(|(number, rule)| {
            let from = now.saturating_add(rule.from_ns);
            Rule {
                rule: *rule,
                from,
                until: rule.for_ns.map_or(u64::MAX, |ns| from.saturating_add(ns)),
                seen: 0,
                stream: stream.branch(number),
            }
        });
        Self {
            rules: rules.collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// When a transfer really starts that could start at `start`.
    pub(crate) fn stall(&mut self, start: u64) -> u64 {
        let mut begins = start;
        for rule in &mut self.rules {
            if let FaultKind::Stall { each_ns } = rule.rule.kind
                && rule.rule.trigger != Trigger::All
                && rule.hits(start).is_some()
            {
                begins = begins.saturating_add(each_ns);
            }
        }
        // The end of one time may lie in another.
        while let Some(end) = self.rules.iter().find_map(|rule| rule.stands_until(begins)) {
            begins = end;
        }
        begins
    }

    /// What happens to a transfer of `bytes` that starts at `start`.
    pub(crate) fn fate(&mut self, start: u64, bytes: u64) -> Fate {
        let mut fate = Fate::GOOD;
        for rule in &mut self.rules {
            if matches!(rule.rule.kind, FaultKind::Stall { .. }) {
                continue;
            }
            if let Some(n) = rule.hits(start) {
                rule.apply(n, start, bytes, &mut fate);
            }
        }
        fate
    }
}

impl Rule {
    /// If the rule hits a transfer that starts at `start`: how many it was asked about before.
    fn hits(&mut self, start: u64) -> Option<u64> {
        if !(self.from..self.until).contains(&start) {
            return None;
        }
        let n = self.seen;
        self.seen += 1;
        let hit = match self.rule.trigger {
            Trigger::All => true,
            Trigger::Chance(chance) => self.happens(0, n, chance),
            Trigger::Every(every) => self.seen.is_multiple_of(every),
        };
        hit.then_some(n)
    }

    fn happens(&self, stream: u64, n: u64, chance: u32) -> bool {
        self.stream.branch(stream).below(n, CERTAIN.into()) < chance.into()
    }

    fn stands_until(&self, start: u64) -> Option<u64> {
        let stall = matches!(self.rule.kind, FaultKind::Stall { .. });
        let stands = stall && self.rule.trigger == Trigger::All && self.until < u64::MAX;
        (stands && (self.from..self.until).contains(&start)).then_some(self.until)
    }

    fn apply(&self, n: u64, start: u64, bytes: u64, fate: &mut Fate) {
        match self.rule.kind {
            FaultKind::Stall { .. } => {}
            FaultKind::Corrupt => {
                let bits = bytes.saturating_mul(8);
                let bit = self.stream.branch(1).below(n, bits);
                if bits > 0 {
                    fate.faults.corrupt.get_or_insert(bit);
                }
            }
            FaultKind::Slow { by_milli } => {
                fate.faults.slowed = true;
                let both = u64::from(fate.factor_milli) * u64::from(by_milli) / 1000;
                fate.factor_milli = u32::try_from(both).unwrap_or(u32::MAX).min(SLOW_MAX_MILLI);
            }
            FaultKind::Drop { rto_ns } => {
                let times = self.losses(n, start, rto_ns);
                fate.faults.dropped = fate.faults.dropped.saturating_add(times);
                let lost = rto_ns.saturating_mul(times.into());
                fate.lost_ns = fate.lost_ns.saturating_add(lost);
            }
        }
    }

    /// How often a transfer is lost that was lost once.
    fn losses(&self, n: u64, start: u64, rto_ns: u64) -> u32 {
        match self.rule.trigger {
            Trigger::Every(_) => 1,
            // Each try by the same chance.
            Trigger::Chance(chance) => {
                let again =
                    (2..u64::from(DROPS_MAX) + 1).take_while(|t| self.happens(*t, n, chance));
                1 + u32::try_from(again.count()).unwrap_or(DROPS_MAX)
            }
            // Until a try falls after the end.
            Trigger::All => {
                let tries = (self.until - start).div_ceil(rto_ns.max(1));
                u32::try_from(tries).unwrap_or(u32::MAX)
            }
        }
    }
}
