// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Divides a budget among claims by weight, within each one's bounds.
//!
//! Every claim gets `weight × level`, but no less than its low and no more than its high bound; the
//! level is the highest at which the sum fits. Who wants less than its weight would give leaves the
//! rest to the others.

/// What one guest may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) low: u64,
    /// At least `low`.
    pub(super) high: u64,
    /// At least 1.
    pub(super) weight: u64,
}

/// Fraction bits of a level.
const FRACTION: u32 = 20;
/// No size is as large as this.
const PAGES_MAX: u128 = 1 << 52;

/// The parts, in the order of the claims. Their sum is at most `budget`, unless the low bounds alone
/// exceed it; then each gets its low bound.
pub(super) fn divide(budget: u64, claims: &[Claim]) -> Vec<u64> {
    let fits = |level: u128| {
        let sum: u128 = claims
            .iter()
            .map(|claim| u128::from(part(claim, level)))
            .sum();
        sum <= u128::from(budget)
    };
    let highest = PAGES_MAX << FRACTION;
    let (mut fitting, mut beyond) = (0, highest);
    if fits(highest) {
        fitting = highest;
    } else {
        while beyond - fitting > 1 {
            let middle = fitting.midpoint(beyond);
            if fits(middle) {
                fitting = middle;
            } else {
                beyond = middle;
            }
        }
    }
    claims.iter().map(|claim| part(claim, fitting)).collect()
}

fn part(claim: &Claim, level: u128) -> u64 {
    let by_weight = (level * u128::from(claim.weight.max(1))) >> FRACTION;
    let by_weight = u64::try_from(by_weight).unwrap_or(u64::MAX);
    by_weight.min(claim.high).max(claim.low)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(low: u64, high: u64, weight: u64) -> Claim {
        Claim { low, high, weight }
    }

    #[test]
    fn all_get_what_they_want_where_there_is_enough() {
        let claims = [claim(1, 100, 1), claim(1, 50, 9)];
        assert_eq!(divide(150, &claims), [100, 50]);
        assert_eq!(divide(1000, &claims), [100, 50]);
    }

    #[test]
    fn low_bounds_hold_even_beyond_the_budget() {
        let claims = [claim(80, 100, 1), claim(50, 50, 9)];
        assert_eq!(divide(100, &claims), [80, 50]);
        assert_eq!(divide(0, &claims), [80, 50]);
    }

    #[test]
    fn weights_decide_between_those_who_want_more() {
        let claims = [claim(0, 1000, 1), claim(0, 1000, 3)];
        assert_eq!(divide(400, &claims), [100, 300]);
    }

    #[test]
    fn what_one_does_not_want_goes_to_the_others() {
        let claims = [claim(0, 1000, 1), claim(0, 20, 50), claim(100, 1000, 1)];
        assert_eq!(divide(420, &claims), [200, 20, 200]);
    }

    #[test]
    fn nobody_gets_something_of_nothing() {
        assert_eq!(divide(10, &[]), Vec::<u64>::new());
        assert_eq!(divide(0, &[claim(0, 9, 1)]), [0]);
    }
}
