// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How stores live, vanish and come back.

use std::time::Duration;

use super::world::{MS, World, name, spec};
use crate::control::*;

fn three() -> World {
    World::with_stores(Config::default(), 3, 1000, 200)
}

#[test]
fn a_store_that_introduces_itself_is_up_after_its_list_is_compared() {
    let mut world = World::new(Config::default(), 10, 1);
    world.add_store(100);
    assert_eq!(world.state(0), State::Joining);
    world.run(MS * 2);
    assert_eq!(world.state(0), State::Joining);
    world.run(MS * 10);
    assert_eq!(world.state(0), State::Up);
    assert!(world.core.view().trust(world.number(0)).is_some());
}

#[test]
fn a_reset_connection_makes_a_suspect_at_once_and_silence_makes_it_dead() {
    let mut world = three();
    world.kill(1);
    assert_eq!(world.state(1), State::Suspect);
    let member = world.number(1);
    let view = world.core.view();
    assert_eq!(view.open() & member.bit(), 0);
    assert_ne!(view.good() & member.bit(), 0);
    world.run(MS * 190);
    assert_eq!(world.state(1), State::Suspect);
    world.run(MS * 120);
    assert_eq!(world.state(1), State::Dead);
    assert_eq!(world.core.view().good() & member.bit(), 0);
}

#[test]
fn a_store_that_is_back_before_it_is_dead_is_up_at_once() {
    let mut world = three();
    let trust = world.core.view().trust(world.number(1));
    world.kill(1);
    world.start(1, false);
    world.run(MS * 100);
    assert_eq!(world.state(1), State::Up);
    assert_eq!(world.core.view().trust(world.number(1)), trust);
}

#[test]
fn a_frozen_store_is_dead_after_three_missed_adverts_and_not_before() {
    let mut world = three();
    let heard = world.now;
    world.stores[2].frozen = true;
    world.run(MS * 190);
    assert_eq!(world.state(2), State::Up);
    while world.state(2) != State::Dead {
        world.run(MS * 10);
        assert!(world.now < heard + MS * 320);
    }
}

#[test]
fn a_store_that_was_dead_is_joining_until_it_is_reconciled() {
    let mut world = three();
    let trust = world.core.view().trust(world.number(2)).unwrap();
    world.stores[2].frozen = true;
    world.run(MS * 400);
    assert_eq!(world.state(2), State::Dead);
    world.stores[2].frozen = false;
    let mut seen_joining = false;
    while world.state(2) != State::Up {
        world.run(MS);
        seen_joining |= world.state(2) == State::Joining;
        assert!(world.now < Duration::from_secs(10));
    }
    assert!(seen_joining);
    assert!(world.core.view().trust(world.number(2)).unwrap() > trust);
}

#[test]
fn a_store_that_says_hello_and_then_hangs_stays_dead_and_its_pages_do_not_wait() {
    let mut world = three();
    for slot in 0..100 {
        assert!(world.write(slot));
    }
    world.stores[1].mute = true;
    world.run(Duration::from_secs(5));
    assert_eq!(world.state(1), State::Dead);
    let alive = |world: &World, slot: &u32| {
        let page = &world.table.pages[slot];
        let mute = world.number(1).bit();
        (page.mask & !mute).count_ones()
    };
    assert!(
        (0..100).all(|slot| alive(&world, &slot) == 2),
        "it was waited for"
    );
    // Nobody hears of it again, and it is tried rarely.
    let (told, sessions) = (world.notices.len(), world.core.sessions());
    world.run(Duration::from_secs(60));
    assert_eq!(world.notices.len(), told, "{:?}", world.notices);
    assert!(world.core.sessions() - sessions < 60);
    assert_eq!(world.state(1), State::Dead);
    world.stores[1].mute = false;
    world.run(Duration::from_secs(10));
    assert_eq!(world.state(1), State::Up);
}

#[test]
fn a_store_that_comes_back_empty_at_once_is_not_trusted_for_what_it_had() {
    let mut world = three();
    for slot in 0..100 {
        assert!(world.write(slot));
    }
    world.kill(0);
    world.start(0, true);
    world.run_until_idle(Duration::from_secs(20));
    assert!(world.said("came back without"));
    assert_eq!(world.fewest_real_copies(), 2);
}

#[test]
fn an_advert_of_a_connection_that_was_given_up_changes_nothing() {
    let mut world = three();
    let member = world.number(1);
    world.kill(1);
    world.run(MS * 400);
    assert_eq!(world.state(1), State::Dead);
    for session in 0..10 {
        world.event(Event::Advert {
            member,
            session,
            advert: Advert::default(),
        });
        world.event(Event::Reconciled {
            member,
            session,
            cleared: 0,
            flushed: 0,
        });
    }
    assert_eq!(world.state(1), State::Dead);
}

#[test]
fn attempts_to_connect_become_rarer_and_a_hung_one_is_given_up() {
    let mut world = World::new(Config::default(), 10, 1);
    let store = world.new_store(10);
    world.stores[store].alive = false;
    world.event(Event::AddMember(spec(store)));
    let mut out = Vec::new();
    let mut attempts = 0;
    let mut now = Duration::ZERO;
    let member = MemberNo::new(0).unwrap();
    let mut session = 1;
    while now < Duration::from_secs(60) {
        let why = Lost::Refused;
        let table = &world.table;
        let failed = Event::ConnectFailed {
            member,
            session,
            why,
        };
        world.core.handle(now, failed, table, &mut out);
        now = world.core.next_wake();
        world.core.handle(now, Event::Tick, table, &mut out);
        for action in out.drain(..) {
            if let Action::Connect { session: next, .. } = action {
                session = next;
                attempts += 1;
            }
        }
    }
    assert!(
        (25..60).contains(&attempts),
        "{attempts} attempts in a minute"
    );
    // Now nobody answers at all.
    let before = session;
    while session == before {
        now = world.core.next_wake();
        let table = &world.table;
        world.core.handle(now, Event::Tick, table, &mut out);
        for action in out.drain(..) {
            if let Action::Connect { session: next, .. } = action {
                session = next;
            }
        }
        assert!(now < Duration::from_secs(90));
    }
}

#[test]
fn our_own_sleep_kills_nobody() {
    let mut world = three();
    world.now += Duration::from_secs(5);
    world.event(Event::Tick);
    assert_eq!(world.state(0), State::Up);
    // But silence after it does.
    for store in &mut world.stores {
        store.frozen = true;
    }
    world.run(MS * 350);
    assert_eq!(world.state(0), State::Dead);
}

#[test]
fn reports_of_a_bad_data_connection_count_for_longer_each_time() {
    let mut world = three();
    let member = world.number(0);
    world.event(Event::Suspected { member });
    assert_eq!(world.state(0), State::Suspect);
    world.run(MS * 101);
    assert_eq!(world.state(0), State::Up);
    for _ in 0..4 {
        world.event(Event::Suspected { member });
    }
    world.run(MS * 301);
    assert_eq!(world.state(0), State::Suspect);
    world.run(MS * 700);
    assert_eq!(world.state(0), State::Up);
}

#[test]
fn one_store_under_two_names_is_used_once() {
    let mut world = three();
    let other = MemberSpec {
        address: "10.9.9.9:1".into(),
        name: "twin".into(),
        ..spec(0)
    };
    let mut out = Vec::new();
    world
        .core
        .handle(world.now, Event::AddMember(other), &world.table, &mut out);
    world.obey(out.clone());
    let (member, session) = out
        .iter()
        .find_map(|action| match action {
            Action::Connect {
                member, session, ..
            } => Some((*member, *session)),
            _ => None,
        })
        .unwrap();
    world.event(Event::Connected {
        member,
        session,
        store: [0; 16],
        incarnation: 1,
    });
    assert!(world.said("twin is the same as store-0"));
    assert_eq!(world.core.view().good() & member.bit(), 0);
}

#[test]
fn a_fenced_client_is_told_so_once() {
    let mut world = three();
    let member = world.number(0);
    let status = world.core.status(world.now);
    assert!(status.members[0].connected);
    for session in 0..9 {
        let why = Lost::Fenced;
        world.event(Event::Lost {
            member,
            session,
            why,
        });
    }
    let fenced = |notice: &&Notice| matches!(notice, Notice::Fenced { .. });
    assert_eq!(world.notices.iter().filter(fenced).count(), 1);
}

#[test]
fn after_a_restart_the_same_life_of_a_store_is_trusted_at_once_and_its_number_is_kept() {
    let mut world = three();
    let known: Vec<Known> = world.known.values().copied().collect();
    assert!(known.iter().all(|known| known.incarnation != 0));
    let mut core = Core::new(Config::default(), &known, 1, Duration::ZERO).unwrap();
    let mut out = Vec::new();
    let (now, table) = (Duration::ZERO, &world.table);
    // In another order than the first time.
    for store in [2, 0, 1] {
        core.handle(now, Event::AddMember(spec(store)), table, &mut out);
    }
    for store in [2, 0, 1] {
        let number = world.number(store);
        let status = core.status(now);
        let member = status.members.iter().find(|one| one.name == name(store));
        assert_eq!(member.unwrap().number, number.get());
    }
    let incarnation = world.stores[1].incarnation;
    let member = world.number(1);
    let session = out
        .iter()
        .find_map(|action| match action {
            Action::Connect {
                member: at,
                session,
                ..
            } if *at == member => Some(*session),
            _ => None,
        })
        .unwrap();
    let connected = Event::Connected {
        member,
        session,
        store: [1; 16],
        incarnation,
    };
    core.handle(now, connected, table, &mut out);
    assert_eq!(core.view().member(member).unwrap().state, State::Up);
    let swept = |action: &Action| matches!(action, Action::Reconcile { trusted: true, .. });
    assert!(out.iter().any(swept));
    world.run(MS);
}

#[test]
fn a_restart_does_not_trust_what_was_dead_before_it() {
    let mut world = three();
    let number = world.number(1).get();
    assert_ne!(world.known[&number].incarnation, 0);
    world.stores[1].frozen = true;
    world.run(MS * 400);
    assert_eq!(world.state(1), State::Dead);
    assert_eq!(world.known[&number].incarnation, 0);
    world.stores[1].frozen = false;
    world.run(Duration::from_secs(5));
    assert_ne!(world.known[&number].incarnation, 0);
}

#[test]
fn a_number_whose_store_nobody_names_is_not_given_to_another() {
    let known = [Known {
        number: MemberNo::new(0).unwrap(),
        name: name_id("gone"),
        incarnation: 5,
    }];
    let mut core = Core::new(Config::default(), &known, 1, Duration::ZERO).unwrap();
    let world = World::new(Config::default(), 10, 1);
    let mut out = Vec::new();
    let added = Event::AddMember(spec(7));
    core.handle(Duration::ZERO, added, &world.table, &mut out);
    assert_eq!(core.status(Duration::ZERO).members[0].number, 1);
}
