// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Crash images of several threads, each with slots of its own: what one has stored and not yet made
//! safe is never what another one relies upon. The seed decides what they do, not when.

use std::collections::{BTreeMap, BTreeSet};

use super::super::layout::Geometry;
use super::super::recover::{Setup, open};
use super::super::{Durability, SlotFile};
use super::recording::{Choice, Crash, Loss, Recording};
use super::workload::{Call, Kept, check, look, write_pages};
use super::{Random, SMALL, header, pool, seed, setup};

const THREADS: u32 = 3;
const SLOTS: u32 = 70;
const CALLS: usize = 40;

/// A call, and how many steps there were before and after it.
type Timed = (usize, usize, Call);

/// Calls of the thread that has each third slot, from this one on.
fn work(file: &SlotFile, medium: &Recording, thread: u32, random: &mut Random) -> Vec<Timed> {
    let mut calls = Vec::new();
    for _ in 0..CALLS {
        let some = (0..1 + random.below(6)).map(|_| random.below(SLOTS / THREADS));
        let slots: BTreeSet<u32> = some.map(|slot| THREADS * slot + thread).collect();
        let begin = medium.steps();
        let call = if random.one_in(3) {
            file.invalidate(&slots.iter().copied().collect::<Vec<_>>())
                .unwrap();
            Call::Invalidate(slots)
        } else {
            let numbers = slots.into_iter().map(|slot| (slot, random.next()));
            let pages: BTreeMap<_, _> = numbers
                .map(|(slot, number)| (slot, (number, header(number, 1, 1))))
                .collect();
            write_pages(file, &pages);
            Call::Write(pages)
        };
        calls.push((begin, medium.steps(), call));
        if random.one_in(8) {
            file.tidy();
        }
    }
    calls
}

/// What the slots of one thread hold after `steps`, and its call that was under way then.
fn expected(thread: u32, calls: &[Timed], steps: usize, all: &Kept) -> (Kept, Option<Call>) {
    let mut kept = of_thread(all, thread);
    let mut under_way = None;
    for (begin, end, call) in calls {
        if *end <= steps {
            kept.apply(call);
        } else if *begin <= steps {
            under_way = Some(call.clone());
        }
    }
    (kept, under_way)
}

fn of_thread(kept: &Kept, thread: u32) -> Kept {
    let mut kept = kept.clone();
    kept.pages.retain(|slot, _| slot % THREADS == thread);
    kept
}

#[test]
fn crash_beside_several_threads_leaves_what_each_was_told() {
    let mut random = Random(seed("crash_beside_several_threads"));
    let (mut pages, mut emptied) = (0, 0);
    for round in 0..12 {
        let geometry = Geometry {
            log_pages: [2, 4, 24][round % 3],
            ..SMALL
        };
        let setup = Setup {
            geometry,
            ..setup(SLOTS, Durability::Host)
        };
        let medium = Recording::new(Vec::new(), Loss::File);
        let file = open(Box::new(medium.clone()), &setup).unwrap().0;
        file.put_pool(1, &pool("guest", 1)).unwrap();
        medium.yield_after_loads();
        let begin = medium.steps();
        let calls: Vec<_> = std::thread::scope(|scope| {
            let threads = (0..THREADS).map(|thread| {
                let mut random = Random(random.next());
                let (file, medium) = (&file, &medium);
                scope.spawn(move || work(file, medium, thread, &mut random))
            });
            let threads: Vec<_> = threads.collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let all = Kept {
            pools: BTreeMap::from([(1, pool("guest", 1))]),
            slots: SLOTS,
            ..Kept::default()
        };
        let mut crash = Crash::new(Vec::new(), Loss::File);
        for (number, step) in medium.take_steps().iter().enumerate() {
            crash.step(step);
            if number < begin || !random.one_in(4) {
                continue;
            }
            let image = crash.image(Choice::Random, &mut random);
            let (found, _) = look(image, Loss::File, Durability::Host).unwrap();
            for (thread, calls) in (0..).zip(&calls) {
                let (kept, under_way) = expected(thread, calls, number + 1, &all);
                let checked = check(&of_thread(&found, thread), &kept, under_way.as_ref());
                checked.unwrap_or_else(|what| {
                    panic!("round {round}, after step {number}: {what} in {under_way:?}")
                });
                pages += kept.pages.len();
                emptied += usize::from(matches!(under_way, Some(Call::Invalidate(_))));
            }
        }
    }
    println!("{pages} pages, {emptied} crashes beside an invalidation");
    assert!(pages > 1000 && emptied > 50, "{pages} {emptied}");
}
