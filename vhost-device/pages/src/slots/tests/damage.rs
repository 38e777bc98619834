// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A file that is damaged, of someone else, or fails: a clear error each, and the rest is unharmed.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

use super::super::commit::Protocol;
use super::super::header::HEADER_BYTES;
use super::super::layout::{ENTRY_BYTES, Found, Geometry, Superblock, VERSION};
use super::super::medium::Medium;
use super::super::recover::open;
use super::super::{Durability, Mode, Opened, OpenedAs, SlotError, SlotFile};
use super::recording::{Loss, Recording};
use super::{SMALL, header, page, pool, setup};
use crate::checksum;
use crate::handle::{PAGE_SIZE, PageBytes};

/// The calls that change something, from a given one on, fail so many times.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fault {
    pub(super) after: u32,
    pub(super) times: u32,
}

/// A medium that fails when it is told to.
#[derive(Clone, Debug)]
pub(super) struct Faulty {
    pub(super) inner: Recording,
    pub(super) fault: Arc<Mutex<Fault>>,
    errno: Errno,
}

impl Faulty {
    pub(super) fn new(errno: Errno) -> Self {
        Self {
            inner: Recording::new(Vec::new(), Loss::File),
            fault: Arc::default(),
            errno,
        }
    }

    fn pass(&self) -> io::Result<()> {
        let mut fault = self.fault.lock();
        if fault.after > 0 {
            fault.after -= 1;
        } else if fault.times > 0 {
            fault.times -= 1;
            return Err(self.errno.into());
        }
        Ok(())
    }
}

impl Medium for Faulty {
    fn mode(&self) -> Mode {
        Mode::File
    }

    fn has_cheap_fence(&self) -> bool {
        false
    }

    fn length(&self) -> io::Result<u64> {
        self.inner.length()
    }

    fn load(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.inner.load(at, into)
    }

    fn store(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.pass()?;
        self.inner.store(at, bytes)
    }

    fn store_pages(&self, at: u64, pages: &[&PageBytes]) -> io::Result<()> {
        self.pass()?;
        self.inner.store_pages(at, pages)
    }

    fn flush(&self, at: u64, bytes: u64) -> io::Result<()> {
        self.inner.flush(at, bytes)
    }

    fn mark(&self) -> u64 {
        0
    }

    fn fence(&self, since: u64) -> io::Result<()> {
        self.pass()?;
        self.inner.fence(since)
    }

    fn grow(&self, from: u64, to: u64) -> io::Result<()> {
        self.pass()?;
        self.inner.grow(from, to)
    }

    fn shrink(&self, to: u64) -> io::Result<()> {
        self.inner.shrink(to)
    }
}

pub(super) fn write(file: &SlotFile, slots: std::ops::Range<u32>) -> Result<(), SlotError> {
    let pages: Vec<_> = slots.clone().map(|slot| page(slot.into())).collect();
    let headers: Vec<_> = slots
        .clone()
        .map(|slot| header(slot.into(), 1, 1))
        .collect();
    let entries = slots.zip(&headers).zip(&pages);
    let batch: Vec<_> = entries
        .map(|((slot, header), page)| (slot, header, page))
        .collect();
    file.write(&batch)
}

/// A file of 70 slots with pages in the first ten, and what it is as bytes.
fn written() -> Vec<u8> {
    let medium = Recording::new(Vec::new(), Loss::File);
    let file = open(Box::new(medium.clone()), &setup(70, Durability::Host))
        .unwrap()
        .0;
    file.put_pool(1, &pool("guest", 1)).unwrap();
    write(&file, 0..10).unwrap();
    drop(file);
    let mut bytes = vec![0; usize::try_from(medium.length().unwrap()).unwrap()];
    medium.load(0, &mut bytes).unwrap();
    bytes
}

pub(super) fn opened(bytes: &[u8]) -> Result<(SlotFile, Opened), SlotError> {
    let medium = Recording::new(bytes.to_vec(), Loss::File);
    open(Box::new(medium), &setup(70, Durability::Host))
}

pub(super) fn place(at: u64) -> usize {
    usize::try_from(at).unwrap()
}

pub(super) fn found(file: &SlotFile) -> Vec<u32> {
    let mut slots = Vec::new();
    file.scan(&mut |_, _| {}, &mut |slot, _| slots.push(slot))
        .unwrap();
    slots
}

#[test]
fn disk_full_in_the_middle_of_a_batch_leaves_its_slots_empty() {
    for protocol in [Protocol::Ordered, Protocol::OneFence, Protocol::TwoFences] {
        let mut failures = 0;
        for after in 0.. {
            let medium = Faulty::new(Errno::NOSPC);
            let mut file = open(Box::new(medium.clone()), &setup(70, Durability::Host))
                .unwrap()
                .0;
            file.protocol = protocol;
            file.put_pool(1, &pool("guest", 1)).unwrap();
            write(&file, 0..10).unwrap();
            *medium.fault.lock() = Fault { after, times: 1 };
            let Err(error) = write(&file, 10..20) else {
                break;
            };
            failures += 1;
            assert!(error.is_full() && !error.is_in_doubt(), "{error:?}");
            for slot in 10..20 {
                assert_eq!(file.header(slot).unwrap(), None);
            }
            assert_eq!(found(&file), (0..10).collect::<Vec<_>>());
            write(&file, 10..20).unwrap();
            assert_eq!(found(&file), (0..20).collect::<Vec<_>>());
        }
        assert!(failures >= 2, "{protocol:?} made {failures} calls");
    }
}

#[test]
fn batch_that_cannot_be_undone_is_in_doubt_until_a_later_call_succeeds() {
    let medium = Faulty::new(Errno::IO);
    let file = open(Box::new(medium.clone()), &setup(70, Durability::Host))
        .unwrap()
        .0;
    file.put_pool(1, &pool("guest", 1)).unwrap();
    // The fence fails, and so does what would empty the slots.
    *medium.fault.lock() = Fault { after: 2, times: 9 };
    let error = write(&file, 10..20).unwrap_err();
    assert!(error.is_in_doubt() && !error.is_full(), "{error:?}");
    *medium.fault.lock() = Fault::default();
    file.invalidate(&[10, 11, 12]).unwrap();
    for slot in 10..13 {
        assert_eq!(file.header(slot).unwrap(), None);
    }
    write(&file, 10..20).unwrap();
    assert_eq!(found(&file), (10..20).collect::<Vec<_>>());
}

#[test]
fn zero_that_no_fence_covered_is_not_trusted() {
    let medium = Faulty::new(Errno::IO);
    let file = open(Box::new(medium.clone()), &setup(70, Durability::Host))
        .unwrap()
        .0;
    write(&file, 0..1).unwrap();
    *medium.fault.lock() = Fault { after: 1, times: 1 };
    assert!(file.invalidate(&[0]).is_err(), "its fence failed");
    assert_eq!(file.header(0).unwrap(), None, "as far as can be seen");
    let before = medium.inner.steps();
    file.invalidate(&[0]).unwrap();
    assert!(medium.inner.steps() > before, "it did nothing");
}

#[test]
fn growth_without_room_changes_nothing() {
    let medium = Faulty::new(Errno::NOSPC);
    let file = open(Box::new(medium.clone()), &setup(70, Durability::Host))
        .unwrap()
        .0;
    file.put_pool(1, &pool("guest", 1)).unwrap();
    write(&file, 60..70).unwrap();
    let length = medium.length().unwrap();
    *medium.fault.lock() = Fault { after: 0, times: 1 };
    let error = file.resize(200).unwrap_err();
    assert!(matches!(error, SlotError::Full { slots: 200, .. }) && error.is_full());
    assert_eq!((file.slots(), medium.length().unwrap()), (70, length));
    file.resize(200).unwrap();
    write(&file, 190..200).unwrap();
    assert_eq!(found(&file).len(), 20);
    // One that could not even be made can be made later.
    let medium = Faulty::new(Errno::NOSPC);
    for after in 0.. {
        *medium.fault.lock() = Fault { after, times: 1 };
        match open(Box::new(medium.clone()), &setup(70, Durability::Host)) {
            Ok((file, _)) => {
                assert_eq!(file.slots(), 70);
                break;
            }
            Err(error) => assert!(error.is_full(), "{error:?}"),
        }
    }
}

#[test]
fn flipped_bit_in_one_superblock_is_repaired_and_in_both_refused() {
    let bytes = written();
    for twin in [0, PAGE_SIZE] {
        let mut one = bytes.clone();
        one[twin + 57] ^= 4;
        let (file, opened) = opened(&one).unwrap();
        assert_eq!((opened.found, opened.repaired), (OpenedAs::Kept, 1));
        assert_eq!((file.slots(), found(&file).len()), (70, 10));
    }
    let mut both = bytes;
    both[20] ^= 1;
    both[PAGE_SIZE + 20] ^= 1;
    let error = opened(&both).unwrap_err();
    assert!(matches!(error, SlotError::Damaged { .. }), "{error:?}");
}

#[test]
fn flipped_bit_in_one_directory_entry_is_repaired_and_in_both_told() {
    let bytes = written();
    let entry = place(SMALL.entry_at(1, 0));
    for twin in [entry, entry + ENTRY_BYTES] {
        let mut one = bytes.clone();
        one[twin + 60] ^= 1;
        let (file, opened) = opened(&one).unwrap();
        assert_eq!(opened.repaired, 1);
        assert_eq!(file.pools(), [(1, pool("guest", 1))]);
        assert_eq!(found(&file).len(), 10);
    }
    let mut both = bytes;
    both[entry + 60] ^= 1;
    both[entry + ENTRY_BYTES + 60] ^= 1;
    let (file, _) = opened(&both).unwrap();
    assert_eq!((file.damaged_pools(), file.pools()), (vec![1], vec![]));
    let report = file.scan(&mut |_, _| {}, &mut |_, _| {}).unwrap();
    assert_eq!((report.pages, report.orphans), (0, 10));
    // The orphans are not given to a pool that happens to have the same number.
    let old = file.put_pool(1, &pool("other", 1)).unwrap_err();
    assert!(
        matches!(old, SlotError::OldSerial { newest: 1, .. }),
        "{old:?}"
    );
    file.put_pool(1, &pool("other", 2)).unwrap();
    assert!(file.damaged_pools().is_empty() && found(&file).is_empty());
}

#[test]
fn file_of_the_version_before_is_gone_on_with() {
    let mut old = written();
    for twin in [0, PAGE_SIZE] {
        let superblock = &mut old[twin..twin + PAGE_SIZE];
        superblock[8..12].copy_from_slice(&1_u32.to_le_bytes());
        superblock[PAGE_SIZE - 4..].fill(0);
        let sum = checksum::of((&*superblock).try_into().unwrap());
        superblock[PAGE_SIZE - 4..].copy_from_slice(&sum.to_le_bytes());
    }
    // It had no place for a log but the room before its first segment, which the small one lacks.
    let Found::Superblock(superblock) = Superblock::parse(old[..PAGE_SIZE].try_into().unwrap())
    else {
        panic!("it is refused");
    };
    assert_eq!(superblock.version, 1);
    assert_eq!(superblock.geometry.log_pages, Geometry::STANDARD.log_pages);
    let standard = Geometry::STANDARD;
    assert_eq!(standard.header_at(0), 18 << 20);
    assert!(standard.log_at(standard.log_pages.into(), 0) <= 18 << 20);
}

#[test]
fn flipped_bit_in_a_header_costs_that_page_alone() {
    let bytes = written();
    for bit in [0, 100, 300, 8 * HEADER_BYTES - 1] {
        let mut flipped = bytes.clone();
        flipped[place(SMALL.header_at(4)) + bit / 8] ^= 1 << (bit % 8);
        let (file, _) = opened(&flipped).unwrap();
        let error = file.header(4).unwrap_err();
        assert!(
            matches!(error, SlotError::DamagedHeader { slot: 4 }),
            "{error:?}"
        );
        let report = file.scan(&mut |_, _| {}, &mut |_, _| {}).unwrap();
        assert_eq!((report.pages, report.damaged), (9, vec![4]));
        write(&file, 4..5).unwrap();
        assert_eq!(found(&file).len(), 10);
    }
}

#[test]
fn flipped_bit_in_a_page_is_seen_by_its_checksum_alone() {
    let mut bytes = written();
    bytes[place(SMALL.page_at(4)) + 1000] ^= 1;
    let (file, _) = opened(&bytes).unwrap();
    let mut read = [0; PAGE_SIZE];
    for slot in 0..10 {
        file.read(slot, &mut read).unwrap();
        let header = file.header(slot).unwrap().unwrap();
        assert_eq!(checksum::of(&read) == header.checksum, slot != 4);
    }
}

#[test]
fn file_of_another_version_or_of_someone_else_is_left_alone() {
    let bytes = written();
    let mut newer = bytes.clone();
    for twin in [0, PAGE_SIZE] {
        let superblock = &mut newer[twin..twin + PAGE_SIZE];
        superblock[8..12].copy_from_slice(&(VERSION + 1).to_le_bytes());
        superblock[PAGE_SIZE - 4..].fill(0);
        let sum = checksum::of((&*superblock).try_into().unwrap());
        superblock[PAGE_SIZE - 4..].copy_from_slice(&sum.to_le_bytes());
    }
    let error = opened(&newer).unwrap_err();
    assert!(matches!(error, SlotError::Version { version, .. } if version == VERSION + 1));
    let mut text = b"#!/bin/sh\n".to_vec();
    let mut disk = vec![0; 1 << 20];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let zeroes = vec![0; 1 << 20];
    for foreign in [text.clone(), disk, zeroes] {
        let medium = Recording::new(foreign.clone(), Loss::File);
        let error = open(Box::new(medium.clone()), &setup(70, Durability::Host)).unwrap_err();
        assert!(matches!(error, SlotError::NotOurs { .. }), "{error:?}");
        assert_eq!(medium.steps(), 0, "it was written to");
    }
    // Cut off in the middle of its superblock.
    text.clear();
    let error = opened(&bytes[..PAGE_SIZE]).unwrap_err();
    assert!(matches!(error, SlotError::Truncated { .. }), "{error:?}");
}

#[test]
fn what_cannot_be_asked_for_is_refused() {
    let (file, _) = opened(&written()).unwrap();
    let (header, page) = (header(1, 1, 1), page(1));
    let twice = file.write(&[
        (20, &header, &page),
        (21, &header, &page),
        (20, &header, &page),
    ]);
    assert!(matches!(twice, Err(SlotError::Twice { slot: 20 })));
    let beyond = file.write(&[(20, &header, &page), (70, &header, &page)]);
    assert!(matches!(
        beyond,
        Err(SlotError::NoSuchSlot {
            slot: 70,
            slots: 70
        })
    ));
    assert!(file.invalidate(&[70]).is_err() && file.header(70).is_err());
    assert!(file.resize(0).is_err() && file.resize(u32::MAX).is_err());
    assert!(file.put_pool(SMALL.pool_slots, &pool("guest", 1)).is_err());
    assert!(file.put_pool(0, &pool(&"g".repeat(65), 1)).is_err());
    file.put_pool(0, &pool(&"g".repeat(64), 1)).unwrap();
    assert!(matches!(
        file.resize(9),
        Err(SlotError::NotEmpty { slot: 9 })
    ));
    assert_eq!((file.slots(), found(&file).len()), (70, 10));
    file.drop_pool(1).unwrap();
    // What dropped pools have left does not count.
    file.resize(9).unwrap();
    assert_eq!(file.slots(), 9);
}
