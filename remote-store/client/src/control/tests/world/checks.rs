// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What must hold of every action when it comes, and of all of them together.

use super::*;

impl World {
    pub(in super::super) fn check_view(&self) {
        assert_eq!(self.view.version(), self.core.view().version());
        for member in self.core.status(self.now).members {
            let seen = self.view.member(MemberNo::new(member.number).unwrap());
            assert_eq!(seen.unwrap().state, member.state, "{}", member.name);
        }
    }

    pub(in super::super) fn check_copy(
        &mut self,
        slot: u32,
        expected: u64,
        from: MemberNo,
        to: MemberNo,
        drop: u64,
    ) {
        assert_eq!(self.table.copies(slot), Some(expected));
        let view = self.core.view();
        assert_eq!(view.member(to).unwrap().state, State::Up, "a copy to {to}");
        assert!(view.good() & from.bit() & expected != 0, "from where it is");
        assert_eq!(expected & to.bit(), 0, "never two copies on one store");
        assert_eq!(drop & !expected, 0);
        let kept = (expected & !drop & view.good() | to.bit()).count_ones();
        let before = (expected & view.good()).count_ones();
        let enough = before.min(u32::from(view.copies()));
        assert!(
            kept >= enough,
            "a copy that leaves {kept} of {before} copies"
        );
        for other in MemberNo::all_in(expected & !drop & view.good()) {
            let domain = |member: MemberNo| view.member(member).map(|member| member.domain);
            assert_ne!(domain(other), domain(to), "never two in one domain");
        }
        assert!(self.in_flight.insert(slot), "one copy of a page at a time");
        self.most_in_flight = self.most_in_flight.max(self.in_flight.len());
        assert!(self.in_flight.len() <= self.config.repair_in_flight);
        self.copies_begun.push((self.now, slot));
    }

    pub(in super::super) fn check_trim(&self, expected: u64, drop: u64) {
        assert_eq!(drop & !expected, 0);
        let view = self.core.view();
        let well = MemberNo::all_in(expected & !drop)
            .filter(|member| view.member(*member).is_some_and(|m| m.state == State::Up))
            .count();
        let forced = drop & self.given_up == drop;
        assert!(
            forced || well >= usize::from(view.copies()),
            "a trim of {drop:b} from {expected:b} leaves {well} copies"
        );
    }

    /// In no stretch of time were more bytes copied than are allowed.
    pub(in super::super) fn check_bandwidth(&self, rate: u64) {
        let burst = (rate / 20).max(64 * 4096);
        for (first, (from, _)) in self.copies_begun.iter().enumerate() {
            // Longer stretches are sums of shorter ones; these are the ones that could be too full.
            for (count, (at, _)) in (1_u64..).zip(&self.copies_begun[first..]).take(600) {
                let nanos = (*at - *from).as_nanos();
                let earned = u128::from(rate) * nanos / 1_000_000_000;
                assert!(u128::from(count * 4096) <= u128::from(burst) + earned + 1);
            }
        }
    }
}
