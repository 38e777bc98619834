// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random calls on the real thing and on the model: every answer is compared, every victim is exact.

use std::collections::BTreeMap;

use super::super::{POLICIES, Replacement};
use super::model::ModelReplacement;
use super::models::model;
use super::{Draw, seed};

const GUESTS: u32 = 4;
const FRAMES: u32 = 260;
/// More than frames, so that pages come back after they left.
const PAGES: u32 = 600;
const STEPS: u32 = 60_000;

/// What happened in a run: all of it must.
#[derive(Debug, Default)]
struct Seen {
    victims: u64,
    put_back: u64,
    hits: u64,
    removed: u64,
    renewed: u64,
    moved: u64,
    changed: u64,
    dropped: u64,
}

struct Run {
    real: Replacement,
    model: ModelReplacement,
    draw: Draw,
    /// The page that was last inserted in a frame.
    pages: BTreeMap<u32, u64>,
    /// Victims of which neither was said.
    leaving: Vec<(u32, u32)>,
    seen: Seen,
}

/// Frames from several blocks of nodes.
fn frame(number: u32) -> u32 {
    number * 97 + number % 3 * 100_000
}

impl Run {
    fn new(seed: u64) -> Self {
        Self {
            real: Replacement::new(),
            model: ModelReplacement::default(),
            draw: Draw(seed),
            pages: BTreeMap::new(),
            leaving: Vec::new(),
            seen: Seen::default(),
        }
    }

    fn step(&mut self, names: &[&'static str]) {
        let guest = self.draw.below(GUESTS);
        let frame = frame(self.draw.below(FRAMES));
        match self.draw.below(1000) {
            0..=1 => {
                let name = *self.draw.pick(names);
                let seed = self.draw.next();
                self.seen.changed += u64::from(self.real.name(guest) != name);
                self.real.set(guest, name, seed).unwrap();
                self.model.set(guest, name, seed);
                assert_eq!(self.real.name(guest), name);
            }
            2 => {
                self.seen.dropped += u64::from(self.real.len(guest) > 0);
                self.real.drop_guest(guest);
                self.model.drop_guest(guest);
                self.name_all(names);
            }
            3..=49 => {
                let before = super::exact::frame(self.draw.below(FRAMES));
                let page = self.pages.get(&before).copied().unwrap_or(0);
                let owner = self.model.guest_of(before);
                self.seen.renewed += u64::from(owner == Some(guest) && before != frame);
                self.pages.insert(frame, page);
                self.real.renew(guest, frame, page, before);
                self.model.renew(guest, frame, page, before);
                if before != frame {
                    self.real.remove(before);
                    self.model.remove(before);
                }
            }
            50..=299 => {
                let page = u64::from(self.draw.below(PAGES));
                let owner = self.model.guest_of(frame);
                self.seen.moved += u64::from(owner.is_some_and(|owner| owner != guest));
                self.pages.insert(frame, page);
                self.real.insert(guest, frame, page);
                self.model.insert(guest, frame, page);
            }
            300..=649 => {
                self.seen.hits += u64::from(self.model.guest_of(frame).is_some());
                self.real.touch(frame);
                self.model.touch(frame);
            }
            650..=699 => {
                self.seen.removed += u64::from(self.model.guest_of(frame).is_some());
                self.real.remove(frame);
                self.model.remove(frame);
            }
            700..=849 => {
                // A few at once, as the engine takes them.
                for _ in 0..=self.draw.below(4) {
                    let victim = self.real.victim(guest);
                    assert_eq!(victim, self.model.victim(guest));
                    self.leaving.extend(victim.map(|frame| (guest, frame)));
                    self.seen.victims += u64::from(victim.is_some());
                }
            }
            _ => self.decide(),
        }
        assert_eq!(self.real.guest_of(frame), self.model.guest_of(frame));
        assert_eq!(self.real.len(guest) as usize, self.model.len(guest));
    }

    /// Gives every guest one of the policies, at random. Guests without one would get the default.
    fn name_all(&mut self, names: &[&'static str]) {
        for guest in 0..GUESTS {
            if !self.model.guests.contains_key(&guest) {
                let name = *self.draw.pick(names);
                let seed = self.draw.next();
                self.real.set(guest, name, seed).unwrap();
                self.model.set(guest, name, seed);
            }
        }
    }

    /// Some victims leave, some do not, of some nobody says.
    fn decide(&mut self) {
        while let Some((guest, frame)) = self.leaving.pop() {
            match self.draw.below(5) {
                0 | 1 => {
                    self.seen.put_back += 1;
                    self.real.put_back(guest, frame);
                    self.model.put_back(guest, frame);
                }
                2 | 3 => {
                    let page = self.pages[&frame];
                    self.real.left(frame, page);
                    self.model.left(frame, page);
                }
                _ => {}
            }
        }
    }

    /// The rest, in order.
    fn drain(&mut self) {
        for guest in 0..GUESTS {
            while let Some(frame) = self.model.victim(guest) {
                assert_eq!(self.real.victim(guest), Some(frame));
            }
            assert_eq!(self.real.victim(guest), None);
            assert_eq!(self.real.len(guest), 0);
        }
    }
}

/// Runs over all of `names`; gives what happened, and pages that s3-fifo knew when they came.
fn run(names: &[&'static str], seed: u64, steps: u32) -> (Seen, u64) {
    let mut run = Run::new(seed);
    run.name_all(names);
    for _ in 0..steps {
        run.step(names);
    }
    let remembered = run.model.remembered();
    run.drain();
    (run.seen, remembered)
}

/// The policies that `models` has.
fn modelled() -> Vec<&'static str> {
    let names = POLICIES.iter().map(|kind| kind.name);
    names.filter(|name| model(name, 0).is_some()).collect()
}

#[test]
fn victims_come_in_exactly_the_order_of_the_model() {
    let seed = seed("victims_come_in_exactly_the_order_of_the_model");
    let names = modelled();
    // A policy without a model is left out; these have one.
    assert!(names.len() >= 5, "{names:?}");
    for name in names {
        let (seen, remembered) = run(&[name], seed, STEPS);
        let Seen {
            victims,
            put_back,
            hits,
            removed,
            renewed,
            moved,
            dropped,
            ..
        } = seen;
        for (what, times) in [
            ("victims", victims),
            ("put back", put_back),
            ("hits", hits),
            ("removed", removed),
            ("renewed", renewed),
            ("moved", moved),
            ("dropped", dropped),
        ] {
            assert!(times > 10, "{name}: {what} only {times} times");
        }
        // Since a guest was dropped for the last time.
        assert_eq!(remembered > 0, name == "s3-fifo", "{name}: {remembered}");
    }
}

#[test]
fn victims_stay_exact_while_guests_change_their_policies() {
    let seed = seed("victims_stay_exact_while_guests_change_their_policies");
    let (seen, _) = run(&modelled(), seed, 2 * STEPS);
    assert!(seen.changed > 50, "{seen:?}");
    assert!(seen.victims > 1000, "{seen:?}");
}
