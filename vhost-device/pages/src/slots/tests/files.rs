// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Real files: who has them, what boot they are of, and what happens to them from outside.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::super::medium::{FileMedium, Medium};
use super::super::recover::{self, Setup, boot_id};
use super::super::{Durability, Mode, Opened, OpenedAs, SlotError, SlotFile, SlotHeader};
use super::recording::{Loss, Recording};
use super::{header, page, pool, setup};
use crate::handle::PAGE_SIZE;

fn file(path: &Path) -> OwnedFd {
    let mut options = File::options();
    let options = options.read(true).write(true).create(true).truncate(false);
    options.open(path).unwrap().into()
}

fn open(path: &Path, durability: Durability) -> Result<(SlotFile, Opened), SlotError> {
    SlotFile::open(file(path), path, 1000, durability)
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("slots");
    (folder, path)
}

#[test]
fn new_file_is_kept_when_it_is_opened_again() {
    for durability in [Durability::Process, Durability::Host] {
        let (_folder, path) = folder();
        let (slots, opened) = open(&path, durability).unwrap();
        assert_eq!(opened.found, OpenedAs::New);
        assert!(matches!(
            slots.mode(),
            Mode::File | Mode::Memory | Mode::Dax
        ));
        slots.put_pool(65535, &pool("guest", 1)).unwrap();
        let (header, page) = (header(5, 65535, 1), page(5));
        slots
            .write(&[(999, &header, &page), (3, &header, &page)])
            .unwrap();
        let id = slots.id();
        drop(slots);
        let (slots, opened) = open(&path, Durability::Host).unwrap();
        assert_eq!((opened.found, opened.repaired), (OpenedAs::Kept, 0));
        assert_eq!((slots.id(), slots.slots()), (id, 1000));
        let (mut told, mut seen) = (Vec::new(), Vec::new());
        let report = slots.scan(&mut |done, all| told.push((done, all)), &mut |slot, _| {
            seen.push(slot);
        });
        assert_eq!((report.unwrap().pages, seen), (2, vec![3, 999]));
        assert_eq!(told.last(), Some(&(1000, 1000)));
        let mut read = [0; PAGE_SIZE];
        slots.read(999, &mut read).unwrap();
        assert_eq!((read, slots.header(999).unwrap()), (page, Some(header)));
    }
}

#[test]
fn file_in_use_is_refused() {
    let (_folder, path) = folder();
    let descriptor = file(&path);
    let same = descriptor.try_clone().unwrap();
    let (slots, _) = SlotFile::open(descriptor, &path, 10, Durability::Host).unwrap();
    let other = open(&path, Durability::Host).unwrap_err();
    assert!(matches!(other, SlotError::Locked { .. }), "{other:?}");
    // A descriptor that was passed on has the lock; two users of it are still one too many.
    let other = SlotFile::open(same.try_clone().unwrap(), &path, 10, Durability::Host).unwrap_err();
    assert!(matches!(other, SlotError::InUse { .. }), "{other:?}");
    drop(slots);
    let (slots, opened) = SlotFile::open(same, &path, 10, Durability::Host).unwrap();
    assert_eq!(opened.found, OpenedAs::Kept);
    drop(slots);
}

#[test]
fn file_that_was_cut_short_is_refused() {
    let (_folder, path) = folder();
    drop(open(&path, Durability::Host).unwrap());
    let length = std::fs::metadata(&path).unwrap().len();
    let cut = File::options().write(true).open(&path).unwrap();
    for bytes in [length - 1, 1 << 20, 5000] {
        cut.set_len(bytes).unwrap();
        let error = open(&path, Durability::Host).unwrap_err();
        let expected = matches!(error, SlotError::Truncated { bytes: found, expected, .. }
            if (found, expected) == (bytes, length));
        assert!(expected, "{error:?}");
    }
}

#[test]
fn file_that_is_cut_short_while_it_is_used_loses_those_pages_alone() {
    let (_folder, path) = folder();
    // Mapped memory cannot be spared a signal; this is for all else.
    let medium = FileMedium::new(file(&path)).unwrap();
    let (slots, _) = recover::open(Box::new(medium), &setup(200, Durability::Host)).unwrap();
    slots.put_pool(1, &pool("guest", 1)).unwrap();
    let (header, page) = (header(5, 1, 1), page(5));
    for slot in [0, 63, 64, 199] {
        slots.write(&[(slot, &header, &page)]).unwrap();
    }
    let cut = File::options().write(true).open(&path).unwrap();
    cut.set_len(slots.geometry.page_at(63) + 100).unwrap();
    let mut read = [0; PAGE_SIZE];
    slots.read(0, &mut read).unwrap();
    assert_eq!(read, page);
    for slot in [63, 64, 199] {
        let error = slots.read(slot, &mut read).unwrap_err();
        assert!(matches!(error, SlotError::Unreadable { slot: found, .. } if found == slot));
    }
    assert_eq!(
        slots.header(63).unwrap(),
        Some(header),
        "its header is there"
    );
    assert!(matches!(
        slots.header(64),
        Err(SlotError::Unreadable { slot: 64, .. })
    ));
    let report = slots.scan(&mut |_, _| {}, &mut |_, _| {}).unwrap();
    assert_eq!(report.unreadable, (64..200).collect::<Vec<_>>());
}

#[test]
fn file_that_a_growth_left_too_long_is_cut_to_its_slots() {
    let (_folder, path) = folder();
    drop(open(&path, Durability::Host).unwrap());
    let length = std::fs::metadata(&path).unwrap().len();
    let longer = File::options().write(true).open(&path).unwrap();
    longer.set_len(length + (1 << 20)).unwrap();
    let (slots, opened) = open(&path, Durability::Host).unwrap();
    assert_eq!((opened.found, slots.slots()), (OpenedAs::Kept, 1000));
    assert_eq!(std::fs::metadata(&path).unwrap().len(), length);
}

fn next_boot() -> io::Result<[u8; 16]> {
    Ok([2; 16])
}

fn no_boot() -> io::Result<[u8; 16]> {
    Err(io::ErrorKind::NotFound.into())
}

#[test]
fn pages_that_do_not_outlive_the_host_are_not_found_after_its_next_boot() {
    let (_folder, path) = folder();
    let open = |durability, boot: fn() -> io::Result<[u8; 16]>| {
        let medium: Box<dyn Medium> = Box::new(FileMedium::new(file(&path)).unwrap());
        let setup = Setup {
            boot: &boot,
            ..setup(100, durability)
        };
        recover::open(medium, &setup)
    };
    let this_boot = super::this_boot;
    let (header, page) = (header(5, 1, 1), page(5));
    let (slots, _) = open(Durability::Process, this_boot).unwrap();
    slots.put_pool(1, &pool("guest", 1)).unwrap();
    slots.write(&[(7, &header, &page)]).unwrap();
    let id = slots.id();
    drop(slots);
    // Where the boot cannot be told, nothing is decided.
    for durability in [Durability::Process, Durability::Host] {
        let error = open(durability, no_boot).unwrap_err();
        assert!(matches!(error, SlotError::BootUnknown { .. }), "{error:?}");
    }
    let (slots, opened) = open(Durability::Process, next_boot).unwrap();
    assert_eq!(opened.found, OpenedAs::Lost);
    assert!(slots.id() != id && slots.pools().is_empty() && slots.slots() == 100);
    assert_eq!(slots.header(7).unwrap(), None);
    slots.put_pool(1, &pool("guest", 1)).unwrap();
    slots.write(&[(7, &header, &page)]).unwrap();
    drop(slots);
    // From the moment on that it is opened for the host, it outlives it, with all that is in it.
    let (slots, opened) = open(Durability::Host, next_boot).unwrap();
    assert_eq!(opened.found, OpenedAs::Kept);
    drop(slots);
    let (slots, opened) = open(Durability::Host, this_boot).unwrap();
    assert_eq!(opened.found, OpenedAs::Kept);
    assert_eq!(slots.header(7).unwrap(), Some(header));
    drop(slots);
    let (slots, opened) = open(Durability::Process, no_boot).map_or_else(
        |_| open(Durability::Process, this_boot).unwrap(),
        |_| panic!("the boot must be written down"),
    );
    assert_eq!(opened.found, OpenedAs::Kept);
    drop(slots);
    assert_eq!(
        open(Durability::Host, next_boot).unwrap().1.found,
        OpenedAs::Lost
    );
}

#[test]
fn boot_has_a_number() {
    let boot = boot_id().unwrap();
    assert!(boot != [0; 16] && boot == boot_id().unwrap());
}

#[test]
fn file_of_memory_needs_no_path() {
    let slots = SlotFile::memory(40_000).unwrap();
    assert_eq!(
        (slots.mode(), slots.durability()),
        (Mode::Memory, Durability::Process)
    );
    assert_eq!(slots.mode().to_string(), "memory");
    let (header, page) = (header(5, 1, 1), page(5));
    slots
        .write(&[(39_999, &header, &page), (0, &header, &page)])
        .unwrap();
    let mut read = [0; PAGE_SIZE];
    slots.read(39_999, &mut read).unwrap();
    assert_eq!(read, page);
    let taken = || {
        slots
            .medium
            .next_data(slots.geometry.page_at(39_999))
            .is_some()
    };
    assert!(taken());
    slots.invalidate(&[39_999]).unwrap();
    assert!(!taken(), "its memory was not given back");
    assert_ne!(slots.id(), SlotFile::memory(1).unwrap().id());
}

#[test]
fn page_that_its_map_finds_has_a_header_only_where_that_outlives_the_map() {
    for durability in [Durability::Process, Durability::Host] {
        let (_folder, path) = folder();
        let (slots, _) = open(&path, durability).unwrap();
        slots.put_pool(1, &pool("guest", 1)).unwrap();
        let (named, page) = (header(5, 1, 1), page(5));
        let mapped = SlotHeader { flags: 0, ..named };
        let host = durability == Durability::Host;
        slots.write(&[(3, &mapped, &page)]).unwrap();
        assert_eq!(slots.header(3).unwrap(), host.then_some(mapped));
        let mut read = [0; PAGE_SIZE];
        slots.read(3, &mut read).unwrap();
        assert_eq!(read, page);
        // One that has a header is not taken for the next page of its slot.
        slots.write(&[(3, &named, &page)]).unwrap();
        assert_eq!(slots.header(3).unwrap(), Some(named));
        slots.write(&[(3, &mapped, &page)]).unwrap();
        assert_eq!(slots.header(3).unwrap(), host.then_some(mapped));
    }
}

#[test]
fn reads_that_are_foreseen_begin_at_once_and_neighbours_together() {
    let medium = Recording::new(Vec::new(), Loss::File);
    let setup = setup(70, Durability::Process);
    let (slots, _) = recover::open(Box::new(medium.clone()), &setup).unwrap();
    let place = |slot| slots.geometry.page_at(slot);
    // Nobody's slot is asked for, and each once for a time that it is named.
    SlotFile::will_read(&slots, [4, 5, 6, 70, u32::MAX, 3, 9, 9]);
    let page = PAGE_SIZE as u64;
    let foreseen = [
        (place(4), 3 * page),
        (place(3), page),
        (place(9), page),
        (place(9), page),
    ];
    assert_eq!(medium.take_foreseen(), foreseen);
    // As the engine asks: a single one is read at once.
    let store: &dyn crate::SlotStore = &slots;
    assert!(store.is_far());
    store.will_read(&[(4, 0)]);
    assert_eq!(medium.take_foreseen(), []);
    store.will_read(&[(4, 0), (8, 0)]);
    assert_eq!(medium.take_foreseen(), [(place(4), page), (place(8), page)]);
}
