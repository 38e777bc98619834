// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What must hold of every policy, by its name in the registry.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{FRAME_LIMIT, GUESTS_MAX, Hits, POLICIES, ROUND, Replacement};
use super::{Draw, seed};

/// A guest with `name` and these frames.
fn with(name: &str, frames: impl IntoIterator<Item = u32>) -> Replacement {
    let mut all = Replacement::new();
    all.set(0, name, 1).unwrap();
    for frame in frames {
        all.insert(0, frame, u64::from(frame));
    }
    all
}

fn drain(all: &mut Replacement, guest: u32) -> Vec<u32> {
    std::iter::from_fn(|| all.victim(guest)).collect()
}

fn sorted(mut frames: Vec<u32>) -> Vec<u32> {
    frames.sort_unstable();
    frames
}

#[test]
fn nothing_is_lost_and_nothing_comes_twice() {
    let seed = seed("nothing_is_lost_and_nothing_comes_twice");
    for kind in POLICIES {
        let mut draw = Draw(seed);
        let mut all = Replacement::new();
        let mut owners: BTreeMap<u32, u32> = BTreeMap::new();
        for guest in 0..3 {
            all.set(guest, kind.name, seed).unwrap();
        }
        for _ in 0..30_000 {
            let (guest, frame) = (draw.below(3), draw.below(5000));
            match draw.below(10) {
                0..=2 => {
                    all.insert(guest, frame, u64::from(frame));
                    owners.insert(frame, guest);
                }
                3 => {
                    // Before the other frame is removed, or after, or it is another guest's.
                    let before = draw.below(5000);
                    if draw.one_in(2) {
                        all.remove(before);
                        owners.remove(&before);
                    }
                    all.renew(guest, frame, u64::from(frame), before);
                    owners.insert(frame, guest);
                    if before != frame {
                        all.remove(before);
                        owners.remove(&before);
                    }
                }
                4..=6 => all.touch(frame),
                7 => {
                    all.remove(frame);
                    owners.remove(&frame);
                }
                _ => {
                    if let Some(frame) = all.victim(guest) {
                        assert_eq!(owners.remove(&frame), Some(guest), "{}", kind.name);
                        if draw.one_in(3) {
                            all.put_back(guest, frame);
                            owners.insert(frame, guest);
                        } else if draw.one_in(2) {
                            all.left(frame, u64::from(frame));
                        }
                    } else {
                        assert!(owners.values().all(|owner| *owner != guest));
                    }
                }
            }
            assert_eq!(all.guest_of(frame), owners.get(&frame).copied());
        }
        for guest in 0..3 {
            let mine = owners.iter().filter(|(_, owner)| **owner == guest);
            let mine: Vec<u32> = mine.map(|(frame, _)| *frame).collect();
            assert_eq!(all.len(guest) as usize, mine.len());
            assert!(mine.len() > 100);
            assert_eq!(sorted(drain(&mut all, guest)), mine, "{}", kind.name);
        }
    }
}

#[test]
fn a_frame_that_goes_to_another_guest_is_that_guests_alone() {
    for kind in POLICIES {
        let mut all = with(kind.name, 0..50);
        all.set(1, kind.name, 2).unwrap();
        for frame in 10..30 {
            all.insert(1, frame, u64::from(frame));
        }
        assert_eq!((all.len(0), all.len(1)), (30, 20));
        assert_eq!(all.guest_of(10), Some(1));
        assert_eq!(sorted(drain(&mut all, 1)), Vec::from_iter(10..30));
        assert_eq!(
            sorted(drain(&mut all, 0)),
            Vec::from_iter((0..10).chain(30..50))
        );
    }
}

#[test]
fn a_change_of_policy_keeps_members_in_the_old_order() {
    for old in POLICIES {
        for new in POLICIES {
            let mut all = with(old.name, 0..500);
            let mut twin = with(old.name, 0..500);
            for frame in (0..500).step_by(7) {
                all.touch(frame);
                twin.touch(frame);
            }
            all.set(0, new.name, 3).unwrap();
            assert_eq!((all.name(0), all.len(0)), (new.name, 500));
            let expected = drain(&mut twin, 0);
            let found = drain(&mut all, 0);
            // Those that keep the order in which pages come, unless hits change it.
            if old.name == new.name || ["fifo", "clock", "lru", "s3-fifo"].contains(&new.name) {
                assert_eq!(found, expected, "{} to {}", old.name, new.name);
            } else {
                assert_eq!(sorted(found), Vec::from_iter(0..500));
            }
        }
    }
}

#[test]
fn the_same_policy_again_changes_nothing() {
    for kind in POLICIES {
        let (mut all, mut twin) = (with(kind.name, 0..100), with(kind.name, 0..100));
        all.touch(3);
        twin.touch(3);
        all.set(0, kind.name, 99).unwrap();
        assert_eq!(drain(&mut all, 0), drain(&mut twin, 0));
    }
}

#[test]
fn an_unknown_policy_leaves_the_guest_with_the_one_it_has() {
    for kind in POLICIES {
        let mut all = with(kind.name, 0..10);
        assert!(all.set(0, "belady", 0).is_err());
        assert_eq!((all.name(0), all.len(0)), (kind.name, 10));
    }
}

#[test]
fn what_is_linked_nowhere_is_ignored() {
    for kind in POLICIES {
        let mut all = with(kind.name, [1, 2]);
        for frame in [0, 5000, FRAME_LIMIT, u32::MAX] {
            all.touch(frame);
            all.remove(frame);
            all.left(frame, 1);
        }
        all.insert(0, FRAME_LIMIT, 1);
        all.insert(GUESTS_MAX, 2, 1);
        all.put_back(GUESTS_MAX, 7);
        all.put_back(9, 7);
        assert!(all.set(GUESTS_MAX, kind.name, 1).is_ok());
        assert_eq!(all.victim(GUESTS_MAX), None);
        assert_eq!(all.guest_of(2), None, "taken out for a guest that is not");
        assert_eq!(drain(&mut all, 0), [1]);
    }
}

#[test]
fn a_victim_that_was_put_back_comes_after_the_others_of_its_round() {
    for kind in POLICIES {
        let mut all = with(kind.name, 0..1000);
        let stuck = all.victim(0).unwrap();
        all.put_back(0, stuck);
        assert_eq!(all.len(0), 1000);
        let others: BTreeSet<u32> = (1..ROUND).map(|_| all.victim(0).unwrap()).collect();
        assert!(others.len() == 63 && !others.contains(&stuck));
        assert_eq!(all.victim(0), Some(stuck), "first of the next round");
    }
}

#[test]
fn pages_that_never_leave_do_not_hold_up_the_others() {
    for kind in POLICIES {
        let mut all = with(kind.name, 0..1000);
        let stuck = |frame: u32| frame.is_multiple_of(2);
        let mut gone = BTreeSet::new();
        let mut tries = 0;
        while gone.len() < 500 {
            let frame = all.victim(0).unwrap();
            tries += 1;
            if stuck(frame) {
                all.put_back(0, frame);
            } else {
                assert!(gone.insert(frame));
            }
        }
        // Half of the policy's victims can leave, and half of the victims are the policy's.
        assert!(tries <= 2 * 1000 + ROUND, "{}: {tries} tries", kind.name);
        assert_eq!(all.len(0), 500);
    }
}

#[test]
fn the_last_page_comes_at_once_although_it_was_put_back() {
    for kind in POLICIES {
        let mut all = with(kind.name, [5]);
        for _ in 0..200 {
            assert_eq!(all.victim(0), Some(5));
            assert_eq!(all.victim(0), None);
            all.put_back(0, 5);
        }
        assert_eq!(all.len(0), 1);
        all.remove(5);
        assert_eq!(all.victim(0), None);
    }
}

#[test]
fn a_hit_gives_a_waiting_page_back_to_a_policy_that_heeds_hits() {
    for kind in POLICIES {
        let mut all = with(kind.name, 0..10);
        let waits = all.victim(0).unwrap();
        all.put_back(0, waits);
        all.touch(waits);
        let order = drain(&mut all, 0);
        assert_eq!(sorted(order.clone()), Vec::from_iter(0..10));
        if all.hits(0) == Hits::None {
            assert_eq!(order[9], waits, "{}: it still waits", kind.name);
        }
        // Of the known ones that heed hits: it is the newest page now.
        if ["clock", "lru", "s3-fifo"].contains(&kind.name) {
            assert_eq!(order[9], waits, "{}", kind.name);
        }
    }
}

#[test]
fn a_dropped_guest_leaves_nothing_behind() {
    for kind in POLICIES {
        let mut all = with(kind.name, 0..100);
        let waits = all.victim(0).unwrap();
        all.put_back(0, waits);
        let leaving = all.victim(0).unwrap();
        all.insert(1, 5000, 1);
        all.drop_guest(0);
        assert_eq!((all.len(0), all.victim(0)), (0, None));
        assert!((0..100).all(|frame| all.guest_of(frame).is_none()));
        all.left(leaving, 1);
        all.put_back(0, leaving);
        assert_eq!(all.guest_of(leaving), None);
        assert_eq!(drain(&mut all, 1), [5000]);
    }
}

#[test]
fn the_nodes_grow_to_the_last_frame_there_can_be_and_shrink_again() {
    for kind in POLICIES {
        let far = (0..30).map(|power| 1 << power).chain([FRAME_LIMIT - 1]);
        let far: Vec<u32> = far.collect();
        let mut all = with(kind.name, far.iter().copied());
        assert_eq!(sorted(drain(&mut all, 0)), far);
        for frame in far {
            all.left(frame, 1);
        }
        let before = all.bytes();
        all.trim();
        assert!(all.bytes() < 4096 && before > 10 * 40_960, "{}", kind.name);
        all.insert(0, 3, 3);
        assert_eq!(all.victim(0), Some(3));
    }
}

#[test]
fn the_same_seed_gives_the_same_victims() {
    for kind in POLICIES {
        let victims = |seed| {
            let mut all = Replacement::new();
            all.set(0, kind.name, seed).unwrap();
            (0..1000).for_each(|frame| all.insert(0, frame, u64::from(frame)));
            drain(&mut all, 0)
        };
        assert_eq!(victims(1), victims(1));
        if kind.name == "random" {
            assert_ne!(victims(1), victims(2));
        }
    }
}

#[test]
fn hits_change_victims_only_of_policies_that_want_them() {
    for kind in POLICIES {
        let mut all = with(kind.name, 0..100);
        let untouched = drain(&mut with(kind.name, 0..100), 0);
        // The first victim, hit until any policy would keep it.
        (0..3).for_each(|_| all.touch(untouched[0]));
        let same = drain(&mut all, 0) == untouched;
        assert_eq!(same, all.hits(0) == Hits::None, "{}", kind.name);
    }
}
