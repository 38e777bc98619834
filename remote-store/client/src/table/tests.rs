// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The table against what must hold: over kills, races, and more sets than there are names.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, memfd_create};

use super::*;
use crate::control::Random;
use tmem_pages::Ticket;

const NAMESPACE: &str = "host7";

fn file() -> OwnedFd {
    memfd_create("table", MemfdFlags::CLOEXEC).unwrap()
}

fn open(file: &OwnedFd, slots: u32) -> Table {
    let (memory, _) = SlotMemory::open(file.try_clone().unwrap()).unwrap();
    Table::open(memory, NAMESPACE, slots, 100).unwrap()
}

fn set(table: &Table, slot: u32, mask: u64) {
    let pinned = table.pin(mask).unwrap();
    assert!(table.set(slot, &pinned, || true));
}

#[test]
fn next_process_finds_what_was_set_and_numbers_on_above() {
    let file = file();
    let table = open(&file, 100);
    assert_eq!(table.epoch(), 100);
    set(&table, 3, 0b110);
    set(&table, 99, 1 << 63);
    set(&table, 4, 0);
    let first = table.generations(10).unwrap();
    assert_eq!(table.last_generation(), first + 9);
    table.remember(Remembered {
        number: 63,
        name: 5,
        incarnation: 6,
    });
    drop(table);

    let table = open(&file, 7);
    assert_eq!((table.slots(), table.epoch()), (100, 101));
    assert_eq!(table.copies(3), Some(0b110));
    assert_eq!(table.copies(99), Some(1 << 63));
    assert_eq!(table.copies(4), Some(0), "lost stays lost");
    assert_eq!(table.copies(5), None);
    assert_eq!(table.copies(100), None);
    assert!(table.last_generation() >= first + 9);
    let kept = table.remembered();
    assert_eq!(kept.len(), 1);
    assert_eq!(
        (kept[0].number, kept[0].name, kept[0].incarnation),
        (63, 5, 6)
    );
    let counts = table.counts(2);
    assert_eq!((counts.pages, counts.below, counts.lost), (3, 2, 1));
    assert_eq!(
        (counts.copies[1], counts.copies[2], counts.copies[63]),
        (1, 1, 1)
    );
}

#[test]
fn table_of_another_namespace_or_kind_is_refused() {
    let file = file();
    drop(open(&file, 10));
    let (memory, _) = SlotMemory::open(file.try_clone().unwrap()).unwrap();
    let other = Table::open(memory, "host8", 10, 0);
    assert!(matches!(other, Err(TableError::OtherNamespace { .. })));
    let (memory, _) = SlotMemory::open(file).unwrap();
    memory.set_word(words::FORM, 9);
    let other = Table::open(memory, NAMESPACE, 10, 0);
    assert!(matches!(other, Err(TableError::OtherForm { form: 9 })));
}

#[test]
fn change_that_looked_before_another_does_not_count() {
    let table = open(&file(), 10);
    set(&table, 1, 0b1);
    let version = table.version(1);
    set(&table, 1, 0b1);
    let grown = table.pin(0b11).unwrap();
    assert!(
        !table.replace(1, version, 0b1, &grown),
        "rewritten meanwhile"
    );
    let version = table.version(1);
    assert!(!table.replace(1, version, 0b10, &grown), "other copies");
    assert!(!table.replace_if(1, version, 0b1, &grown, || false));
    assert!(table.replace(1, version, 0b1, &grown));
    assert_eq!(table.copies(1), Some(0b11));
    assert_eq!(table.remove(1, 0b100, |_| true), Some((0b11, false)));
    assert_eq!(table.remove(1, 0b1, |_| false), Some((0b11, false)));
    assert_eq!(table.remove(1, 0b1, |_| true), Some((0b10, true)));
    assert_eq!(table.remove(1, 0b10, |_| true), Some((0, true)));
    assert_eq!(table.clear(1), Some(0));
    assert_eq!(table.remove(1, 0b1, |_| true), None);
}

#[test]
fn sets_beyond_the_names_are_refused_until_one_is_unused() {
    let table = open(&file(), 1000);
    // Pairs of 64 members, as many as there are names.
    let pairs = (0..64_u32).flat_map(|a| (0..a).map(move |b| (1_u64 << a) | (1 << b)));
    let masks: Vec<u64> = pairs.take(sets::INTERNED + 1).collect();
    let (last, rest) = masks.split_last().unwrap();
    for (slot, mask) in (0..).zip(rest) {
        set(&table, slot, *mask);
    }
    assert!(table.pin(*last).is_err());
    let fallback = table.pin_some(*last);
    assert_eq!(fallback.mask().count_ones(), 1);
    assert_ne!(fallback.mask() & last, 0);
    for (slot, mask) in (0..).zip(rest) {
        assert_eq!(table.copies(slot), Some(*mask));
    }
    table.clear(7);
    set(&table, 7, *last);
    assert_eq!(table.copies(7), Some(*last));
    assert!(table.pin(rest[7]).is_err(), "its name went to another set");
}

#[test]
fn table_agrees_with_a_map_over_random_changes_and_kills() {
    let seed = crate::test_seed("table_agrees_with_a_map");
    let mut random = Random::new(seed);
    let file = file();
    let mut table = open(&file, 64);
    let mut model: BTreeMap<u32, u64> = BTreeMap::new();
    for _ in 0..20_000 {
        let slot = u32::try_from(random.below(64)).unwrap();
        let mask = (1_u64 << random.below(6)) | (1 << random.below(6));
        match random.below(20) {
            0..10 => {
                set(&table, slot, mask);
                model.insert(slot, mask);
            }
            10..13 => assert_eq!(table.clear(slot), model.remove(&slot)),
            13..19 => {
                let left = table.remove(slot, mask, |_| true).map(|(left, _)| left);
                let expected = model.get_mut(&slot).map(|copies| {
                    *copies &= !mask;
                    *copies
                });
                assert_eq!(left, expected);
            }
            _ => {
                drop(table);
                table = open(&file, 64);
            }
        }
        assert_eq!(table.copies(slot), model.get(&slot).copied());
    }
    let counts = table.counts(2);
    assert_eq!(counts.pages, model.len() as u64);
    let lost = model.values().filter(|mask| **mask == 0).count();
    assert_eq!(counts.lost, lost as u64);
    let below = model.values().filter(|mask| mask.count_ones() < 2).count();
    assert_eq!(counts.below, below as u64);
}

#[test]
fn generations_never_repeat_over_kills() {
    let file = file();
    let mut last = 0;
    for round in 1..20 {
        let table = open(&file, 1);
        for count in [1, 64, round * 100_000] {
            let first = table.generations(count).unwrap();
            assert!(first > last, "{first} after {last}");
            last = first + u64::from(count) - 1;
        }
    }
    let end = Ticket::LIMIT - 1;
    let (memory, _) = SlotMemory::open(file).unwrap();
    memory.set_word(words::GENERATION, end);
    let table = Table::open(memory, NAMESPACE, 1, 0);
    assert!(matches!(table, Err(TableError::NoGeneration(_))));
}
