// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Crash images: whatever of the unfenced lines is lost or torn, at whatever step, a scan finds all
//! that was acknowledged and nothing else.

use super::super::Durability;
use super::super::commit::Protocol;
use super::recording::{Choice, Crash, Forgotten, Loss, Recording};
use super::workload::{Call, Kept, check, look, run};
use super::{Random, seed};

/// What was met on the way: a test that never met it shows nothing.
#[derive(Debug, Default)]
struct Met {
    images: u64,
    pages: u64,
    unfinished: u64,
    /// Images in which a call under way was not done, and in which it was, partly or all.
    not_done: u64,
    done: u64,
}

impl Met {
    /// Whether there was enough to see. Some seeds begin with a few long workloads, of which crashes left
    /// next to nothing.
    fn is_telling(&self, loss: Loss) -> bool {
        let halves = matches!(loss, Loss::File);
        self.pages > self.images / 4
            && self.not_done > 0
            && self.done > 0
            && (self.unfinished > 0 || !halves)
    }
}

/// Images to look at: `TMEM_CRASH_IMAGES`, or some.
fn images() -> u64 {
    let images = std::env::var("TMEM_CRASH_IMAGES");
    images.map_or(4000, |images| {
        images.parse().expect("TMEM_CRASH_IMAGES is a number")
    })
}

/// So many times as many are looked at until there was enough to see.
const PATIENCE: u64 = 50;

/// What is done wrong, on purpose.
#[derive(Clone, Copy, Debug)]
enum Mistake {
    Protocol(Protocol),
    Forgotten(Forgotten),
}

/// Runs workloads, each on what a crash of the one before left, and looks at what crashes leave.
fn crashes(
    loss: Loss,
    durability: Durability,
    mistake: Option<Mistake>,
    images: u64,
    seed: u64,
) -> Result<Met, String> {
    let (protocol, forgotten) = match mistake {
        Some(Mistake::Protocol(protocol)) => (Some(protocol), None),
        Some(Mistake::Forgotten(fence)) => (None, Some(fence)),
        None => (None, None),
    };
    let mut random = Random(seed);
    let mut met = Met::default();
    let (mut bytes, mut kept) = (Vec::new(), Kept::default());
    let is_enough = |met: &Met| met.images >= images && (mistake.is_some() || met.is_telling(loss));
    while !is_enough(&met) && met.images < images * PATIENCE {
        let medium = Recording::new(bytes.clone(), loss);
        medium.forget(forgotten);
        let calls = run(
            &medium,
            durability,
            protocol,
            &mut kept.clone(),
            &mut random,
        );
        let mut crash = Crash::new(bytes, loss);
        let mut calls = calls.iter().peekable();
        let mut next = None;
        let steps = medium.take_steps();
        let stop = random.below(u32::try_from(steps.len()).unwrap()) as usize;
        for (number, step) in steps.iter().enumerate() {
            crash.step(step);
            // A step is taken before its call returns; the last one, before anything follows.
            while let Some((end, call)) = calls.peek() {
                if *end > number + 1 {
                    break;
                }
                kept.apply(call);
                calls.next();
            }
            let under_way = calls.peek().map(|(_, call)| call);
            let choices = [
                Choice::Oldest,
                Choice::Newest,
                Choice::Random,
                Choice::Random,
            ];
            for choice in choices {
                let image = crash.image(choice, &mut random);
                let (found, unfinished) = look(image.clone(), loss, durability)
                    .and_then(|(found, unfinished)| {
                        check(&found, &kept, under_way).map(|()| (found, unfinished))
                    })
                    .map_err(|what| {
                        format!("{what}, {choice:?} after step {number} in {under_way:?}")
                    })?;
                met.images += 1;
                met.pages += found.pages.len() as u64;
                met.unfinished += unfinished;
                if matches!(under_way, Some(Call::Write(_))) {
                    let before = kept
                        .pages
                        .iter()
                        .all(|(slot, page)| found.pages.get(slot) == Some(page));
                    met.not_done += u64::from(before && found.pages.len() == kept.pages.len());
                    met.done += u64::from(
                        found
                            .pages
                            .keys()
                            .any(|slot| !kept.pages.contains_key(slot)),
                    );
                }
                if number >= stop && choice == Choice::Random {
                    next = Some((image, found));
                }
            }
            if next.is_some() {
                break;
            }
        }
        (bytes, kept) = next.unwrap_or_default();
    }
    Ok(met)
}

fn survives(loss: Loss, durability: Durability, test: &str) -> Met {
    let met = crashes(loss, durability, None, images(), seed(test)).unwrap();
    println!("{met:?}");
    assert!(met.is_telling(loss), "too little was met: {met:?}");
    met
}

#[test]
fn crash_of_a_host_with_a_file_leaves_what_was_acknowledged() {
    survives(Loss::File, Durability::Host, "crash_of_a_host_with_a_file");
}

#[test]
fn crash_of_a_host_with_mapped_memory_leaves_what_was_acknowledged() {
    let met = survives(Loss::Dax, Durability::Host, "crash_of_a_host_with_mapped");
    assert_eq!(met.unfinished, 0, "a header was there before its page");
}

#[test]
fn kill_of_the_process_leaves_what_was_acknowledged() {
    survives(
        Loss::Process,
        Durability::Process,
        "kill_of_the_process_leaves",
    );
}

#[test]
fn kill_of_a_process_with_a_file_for_the_host_leaves_what_was_acknowledged() {
    survives(
        Loss::Process,
        Durability::Host,
        "kill_of_a_process_with_a_file",
    );
}

#[test]
fn writers_that_forget_a_fence_are_caught() {
    let protocols = [
        (Loss::Dax, Protocol::CommitTooEarly),
        (Loss::Dax, Protocol::Ordered),
        (Loss::File, Protocol::CommitTooEarly),
        (Loss::File, Protocol::NoFence),
        (Loss::File, Protocol::Ordered),
    ];
    let fences = [
        (Loss::Dax, Forgotten::OfEmptied),
        (Loss::File, Forgotten::OfEmptied),
        (Loss::File, Forgotten::OfLog),
    ];
    let protocols = protocols.map(|(loss, mistake)| (loss, Mistake::Protocol(mistake)));
    let fences = fences.map(|(loss, mistake)| (loss, Mistake::Forgotten(mistake)));
    for (loss, mistake) in protocols.into_iter().chain(fences) {
        let met = crashes(
            loss,
            Durability::Host,
            Some(mistake),
            100_000,
            seed("writers_that_forget_a_fence"),
        );
        let what = met.expect_err("a mistake that no image shows");
        println!("{mistake:?}: {what}");
    }
}
