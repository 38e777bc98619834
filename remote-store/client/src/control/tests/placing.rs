// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where a view puts copies, and in which order it has them read.

use crate::control::*;

fn no(number: u8) -> MemberNo {
    MemberNo::new(number).unwrap()
}

fn member(state: State, free: u64) -> MemberView {
    MemberView {
        name: "a".into(),
        address: "b".into(),
        kind: Kind::Remote,
        state,
        limit_pages: 1000,
        free_pages: free,
        trust: 1,
        domain: 0,
    }
}

fn view(members: Vec<MemberView>) -> View {
    View::new(1, 2, (0..).filter_map(MemberNo::new).zip(members).collect())
}

#[test]
fn the_emptier_of_two_gets_the_page() {
    let view = view(vec![member(State::Up, 10), member(State::Up, 900)]);
    let mut random = Random::new(1);
    for _ in 0..100 {
        let placement = view.place(1, 0, 0, &mut random);
        assert_eq!(placement.mask(), 0b10);
    }
}

#[test]
fn two_copies_are_never_on_one_store_and_never_where_they_should_not_be() {
    let view = view(vec![
        member(State::Up, 500),
        member(State::Suspect, 900),
        member(State::Dead, 900),
        member(State::Draining, 900),
        member(State::Joining, 900),
        member(State::Up, 0),
        member(State::Up, 500),
        member(State::Up, 500),
    ]);
    let mut random = Random::new(2);
    let mut seen = 0;
    for _ in 0..300 {
        let placement = view.place(2, 0, 0, &mut random);
        assert_eq!(placement.len(), 2);
        assert_eq!(placement.mask().count_ones(), 2);
        assert!(!placement.is_short());
        seen |= placement.mask();
    }
    assert_eq!(seen, 0b1100_0001);
}

#[test]
fn with_too_few_stores_the_placement_is_short() {
    let view = view(vec![member(State::Up, 5), member(State::Up, 5)]);
    let mut random = Random::new(3);
    let placement = view.place(3, 0, 0, &mut random);
    assert_eq!(placement.len(), 2);
    assert!(placement.is_short());
    assert!(view.place(2, 0b11, 0, &mut random).is_empty());
    assert_eq!(view.place(1, 0b01, 0b10, &mut random).len(), 0);
}

#[test]
fn stores_of_one_failure_domain_get_one_copy() {
    let mut members = vec![member(State::Up, 500); 4];
    for (at, one) in members.iter_mut().enumerate() {
        one.domain = if at < 2 { 0b0011 } else { 1 << at };
    }
    let view = view(members);
    let mut random = Random::new(4);
    for _ in 0..300 {
        let mask = view.place(3, 0, 0, &mut random).mask();
        assert_eq!(mask.count_ones(), 3);
        assert_eq!((mask & 0b0011).count_ones(), 1);
        assert_eq!(view.place(1, 0b0001, 0, &mut random).mask() & 0b0011, 0);
    }
}

#[test]
fn the_disk_never_has_the_first_copy_nor_is_it_read_before_a_store() {
    let mut disk = member(State::Up, 1000);
    disk.kind = Kind::Disk;
    let view = view(vec![
        disk,
        member(State::Up, 1),
        member(State::Up, 1),
        member(State::Suspect, 1),
    ]);
    let mut random = Random::new(5);
    let mut on_disk = 0;
    for _ in 0..300 {
        let placement = view.place(2, 0, 0, &mut random);
        assert_ne!(placement.members().next(), Some(no(0)));
        on_disk += u32::from(placement.mask() & 1 != 0);
        let order: Vec<u8> = view.order(0b1111, &mut random).map(MemberNo::get).collect();
        assert_eq!(order[2..], [0, 3]);
        assert!(order[..2].contains(&1) && order[..2].contains(&2));
    }
    assert!(on_disk > 100);
    assert_eq!(view.place(1, 0, 0b0110, &mut random).mask(), 1);
}

#[test]
fn dead_and_joining_stores_are_not_asked_for_pages() {
    let view = view(vec![
        member(State::Dead, 1),
        member(State::Joining, 1),
        member(State::Draining, 1),
        member(State::Removed, 1),
    ]);
    let mut random = Random::new(6);
    let order: Vec<MemberNo> = view.order(u64::MAX, &mut random).collect();
    assert_eq!(order, [no(2)]);
    assert_eq!(view.trust(no(0)), None);
    assert_eq!(view.trust(no(2)), Some(1));
}

#[test]
fn many_pages_spread_by_free_space() {
    // The figures are fed back as adverts would. Half of all draws meet the emptiest.
    let mut free = [3000_u64, 1000, 1000, 1000];
    let mut random = Random::new(7);
    for _ in 0..60 {
        let members = free
            .iter()
            .map(|free| MemberView {
                limit_pages: 4000,
                ..member(State::Up, *free)
            })
            .collect();
        let view = view(members);
        for _ in 0..50 {
            for member in view.place(1, 0, 0, &mut random).members() {
                free[member.index()] -= 1;
            }
        }
    }
    assert!((1400..1600).contains(&free[0]), "{free:?}");
    let (most, least) = (free[1..].iter().max(), free[1..].iter().min());
    assert!(most.unwrap() - least.unwrap() < 60, "{free:?}");
}
