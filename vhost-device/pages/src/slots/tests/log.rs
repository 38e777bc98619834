// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The log of emptied slots, when calls fail, bits flip and pages are torn.

use rustix::io::Errno;

use super::super::layout::Geometry;
use super::super::medium::Medium;
use super::super::recover::{Setup, open};
use super::super::{Durability, SlotError};
use super::damage::{Fault, Faulty, found, opened, place, write};
use super::recording::{Loss, Recording};
use super::{SMALL, pool, setup};

#[test]
fn slot_that_was_emptied_stays_empty_whatever_call_fails() {
    let mut failures = 0;
    for after in 0.. {
        let medium = Faulty::new(Errno::IO);
        let file = open(Box::new(medium.clone()), &setup(70, Durability::Host))
            .unwrap()
            .0;
        file.put_pool(1, &pool("guest", 1)).unwrap();
        write(&file, 0..20).unwrap();
        *medium.fault.lock() = Fault { after, times: 1 };
        let mut failed = 0;
        // One by one, so that the log goes around several times, with and without a write in between.
        for slot in 0..10 {
            if file.invalidate(&[slot]).is_err() {
                failed += 1;
                file.invalidate(&[slot]).unwrap();
            }
            if slot % 3 == 0 && write(&file, slot..slot + 1).is_err() {
                failed += 1;
                write(&file, slot..slot + 1).unwrap();
            }
        }
        let expected: Vec<_> = (0..20)
            .filter(|slot| *slot >= 10 || slot % 3 == 0)
            .collect();
        assert_eq!(found(&file), expected);
        drop(file);
        let (file, _) = open(Box::new(medium.inner.clone()), &setup(70, Durability::Host)).unwrap();
        assert_eq!(found(&file), expected, "call {after} failed");
        if failed == 0 {
            break;
        }
        failures += failed;
    }
    assert!(failures > 20, "{failures} calls failed");
}

/// A file with room for some pages in its log, and ten slots that were emptied one after the other.
fn logged() -> (Geometry, Vec<u8>) {
    let geometry = Geometry {
        log_pages: 16,
        ..SMALL
    };
    let medium = Recording::new(Vec::new(), Loss::File);
    let setup = Setup {
        geometry,
        ..setup(70, Durability::Host)
    };
    let file = open(Box::new(medium.clone()), &setup).unwrap().0;
    file.put_pool(1, &pool("guest", 1)).unwrap();
    write(&file, 0..20).unwrap();
    for slot in 0..10 {
        file.invalidate(&[slot]).unwrap();
    }
    assert_eq!(found(&file), (10..20).collect::<Vec<_>>());
    drop(file);
    let mut bytes = vec![0; place(medium.length().unwrap())];
    medium.load(0, &mut bytes).unwrap();
    (geometry, bytes)
}

/// The batch, the ten slots, and the end.
const NEWEST: u64 = 12;

#[test]
fn flipped_bit_in_one_page_of_the_log_is_repaired_and_in_both_refused() {
    let (geometry, bytes) = logged();
    for (page, bit) in [(1, 0), (4, 100), (NEWEST, 8 * 24)] {
        let [first, second] = [0, 1].map(|twin| place(geometry.log_at(page, twin)));
        for at in [first, second] {
            let mut one = bytes.clone();
            one[at + bit / 8] ^= 1 << (bit % 8);
            let (file, opened) = opened(&one).unwrap();
            assert_eq!(opened.repaired, 1);
            assert_eq!(found(&file), (10..20).collect::<Vec<_>>());
        }
        let mut both = bytes.clone();
        both[first + bit / 8] ^= 1 << (bit % 8);
        both[second + bit / 8] ^= 1 << (bit % 8);
        // The newest may as well have been torn.
        if page < NEWEST {
            let error = opened(&both).unwrap_err();
            assert!(matches!(error, SlotError::Damaged { .. }), "{error:?}");
        }
    }
}

#[test]
fn page_of_the_log_that_was_torn_can_never_be_completed() {
    let (geometry, bytes) = logged();
    let medium = Recording::new(bytes, Loss::File);
    // As if the last page had been under way: the end of both twins is missing.
    for twin in [0, 1] {
        let at = geometry.log_at(NEWEST, twin);
        medium.store(at + 24, &[0xff; 64]).unwrap();
    }
    drop(open(Box::new(medium.clone()), &setup(70, Durability::Host)).unwrap());
    for twin in [0, 1] {
        let mut begin = [1; 8];
        medium
            .load(geometry.log_at(NEWEST, twin), &mut begin)
            .unwrap();
        assert_eq!(begin, [0; 8]);
    }
}
