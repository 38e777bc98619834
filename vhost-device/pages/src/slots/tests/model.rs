// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The slot file against a map from slots to pages, over each medium there is, and from many threads.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{MemfdFlags, memfd_create};

use super::super::dax::{DaxMedium, LineFlush};
use super::super::medium::{FileMedium, Medium};
use super::super::recover::open;
use super::super::{Durability, Mode, OpenedAs, SlotFile, SlotHeader};
use super::{Random, header, page, pool, seed, setup};
use crate::checksum;
use crate::handle::{PAGE_SIZE, PageBytes};

/// What lies under the slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Under {
    /// A file, by calls that leave nothing in the cache.
    Uncached,
    /// A file, where the kernel does not have those.
    Cached,
    Memory,
    /// The instructions for persistent memory, over memory that is not.
    Mapped(LineFlush),
}

fn all() -> Vec<Under> {
    let mut all = vec![Under::Uncached, Under::Cached, Under::Memory];
    // A processor that has one of them has those after it.
    let flushes = [
        LineFlush::WriteBack,
        LineFlush::FlushUnordered,
        LineFlush::Flush,
    ];
    if let Some(best) = LineFlush::detect() {
        let usable = flushes.into_iter().skip_while(|flush| *flush != best);
        all.extend(usable.map(Under::Mapped));
    }
    all
}

impl Under {
    fn file(self) -> OwnedFd {
        match self {
            Self::Uncached | Self::Cached => tempfile::tempfile().unwrap().into(),
            Self::Memory | Self::Mapped(_) => memfd_create("slots", MemfdFlags::CLOEXEC).unwrap(),
        }
    }

    fn medium(self, file: &OwnedFd) -> Box<dyn Medium> {
        let file = file.try_clone().unwrap();
        match self {
            Self::Mapped(flush) => Box::new(DaxMedium::unsynchronised(file, flush).unwrap()),
            Self::Cached => Box::new(FileMedium::new(file).unwrap().cached()),
            Self::Uncached | Self::Memory => Box::new(FileMedium::new(file).unwrap()),
        }
    }
}

/// What the file must hold.
#[derive(Debug, Default)]
struct Model {
    pages: BTreeMap<u32, (u64, SlotHeader)>,
    /// Serials of the pools that there are.
    pools: BTreeMap<u32, u32>,
    serial: u32,
}

impl Model {
    fn write(&mut self, file: &SlotFile, random: &mut Random) {
        let mut batch = BTreeMap::new();
        let mut slot = random.below(file.slots());
        for _ in 0..1 + random.below(30) {
            let pool_slot = random.below(4);
            // One that is not there has pages, too, but no scan finds them.
            let serial = self.pools.get(&pool_slot).map_or(0, |serial| *serial);
            let number = random.next();
            batch.insert(slot, (number, header(number, pool_slot, serial)));
            slot = if random.one_in(9) {
                random.below(file.slots())
            } else {
                slot + 1
            };
            if slot >= file.slots() {
                break;
            }
        }
        let bytes: Vec<PageBytes> = batch.values().map(|(number, _)| page(*number)).collect();
        let entries = batch.iter().zip(&bytes);
        let mut entries: Vec<_> = entries
            .map(|((slot, (_, header)), page)| (*slot, header, page))
            .collect();
        // The order does not matter.
        entries.reverse();
        file.write(&entries).unwrap();
        self.pages.extend(batch);
    }

    fn invalidate(&mut self, file: &SlotFile, random: &mut Random) {
        let mut gone: BTreeSet<u32> = self
            .pages
            .keys()
            .filter(|_| random.one_in(5))
            .copied()
            .collect();
        gone.insert(random.below(file.slots()));
        file.invalidate(&gone.iter().copied().collect::<Vec<_>>())
            .unwrap();
        self.pages.retain(|slot, _| !gone.contains(slot));
    }

    fn change_pool(&mut self, file: &SlotFile, random: &mut Random) {
        let slot = random.below(4);
        if random.one_in(3) {
            file.drop_pool(slot).unwrap();
            self.pools.remove(&slot);
        } else {
            self.serial += 1;
            file.put_pool(slot, &pool("guest", self.serial)).unwrap();
            self.pools.insert(slot, self.serial);
        }
    }

    fn resize(&mut self, file: &SlotFile, random: &mut Random) {
        let to = 1 + random.below(300);
        let live =
            |header: &SlotHeader| self.pools.get(&header.pool_slot) == Some(&header.pool_serial);
        let mut lost = self
            .pages
            .range(to..)
            .filter(|(_, (_, header))| live(header));
        match (file.resize(to), lost.next()) {
            (Ok(()), None) => self.pages.retain(|slot, _| *slot < to),
            (Err(_), Some(_)) => {}
            (result, lost) => panic!("{result:?} with {lost:?}"),
        }
    }

    fn check(&self, file: &SlotFile) {
        let mut found = BTreeMap::new();
        let report = file.scan(&mut |_, _| {}, &mut |slot, header| {
            found.insert(slot, header);
        });
        let report = report.unwrap();
        assert!(report.damaged.is_empty() && report.unreadable.is_empty());
        assert_eq!(report.unfinished, 0);
        assert_eq!(report.pages + report.orphans, self.pages.len() as u64);
        for slot in 0..file.slots() {
            let is = file.header(slot).unwrap();
            assert_eq!(
                is,
                self.pages.get(&slot).map(|(_, header)| *header),
                "slot {slot}"
            );
        }
        let mut bytes = [0; PAGE_SIZE];
        for (slot, (number, header)) in &self.pages {
            file.read(*slot, &mut bytes).unwrap();
            assert_eq!(bytes, page(*number), "slot {slot}");
            let live = self.pools.get(&header.pool_slot) == Some(&header.pool_serial);
            assert_eq!(found.contains_key(slot), live);
        }
        let pools = file.pools().into_iter();
        let pools: BTreeMap<u32, u32> = pools
            .map(|(slot, entry)| (slot, entry.pool_serial))
            .collect();
        assert_eq!(pools, self.pools);
    }
}

#[test]
fn slots_hold_what_a_map_would() {
    let seed = seed("slots_hold_what_a_map_would");
    for (under, salt) in all().into_iter().zip(1..) {
        for durability in [Durability::Process, Durability::Host] {
            let mut random = Random(seed ^ salt << 32);
            let kept = under.file();
            let mut model = Model::default();
            let mut file = open(under.medium(&kept), &setup(100, durability))
                .unwrap()
                .0;
            for _ in 0..120 {
                match random.below(12) {
                    0..6 => model.write(&file, &mut random),
                    6..8 => model.invalidate(&file, &mut random),
                    8 => model.change_pool(&file, &mut random),
                    9 => model.resize(&file, &mut random),
                    10 => model.check(&file),
                    _ => {
                        let slots = file.slots();
                        drop(file);
                        let opened = open(under.medium(&kept), &setup(5, durability)).unwrap();
                        assert_eq!(opened.1.found, OpenedAs::Kept);
                        file = opened.0;
                        assert_eq!(file.slots(), slots);
                    }
                }
            }
            model.check(&file);
            let mode = match under {
                Under::Uncached | Under::Cached if file.mode() == Mode::Memory => Mode::Memory,
                Under::Uncached | Under::Cached => Mode::File,
                Under::Memory => Mode::Memory,
                Under::Mapped(_) => Mode::Dax,
            };
            assert_eq!(file.mode(), mode);
        }
    }
}

#[test]
fn threads_write_and_read_their_slots_at_the_same_time() {
    const THREADS: u32 = 4;
    const SLOTS: u32 = 32;
    for under in [Under::Uncached, Under::Memory]
        .into_iter()
        .chain(all().into_iter().skip(3).take(1))
    {
        let kept = under.file();
        let setup = setup(THREADS * SLOTS, Durability::Host);
        let file = open(under.medium(&kept), &setup).unwrap().0;
        file.put_pool(1, &pool("guest", 1)).unwrap();
        let ended = AtomicBool::new(false);
        let (begun, begins) = std::sync::mpsc::channel();
        let mut last = Vec::new();
        std::thread::scope(|scope| {
            // Someone who reads what may be on its way: any page, but never an error.
            let (file, ended) = (&file, &ended);
            let reader = scope.spawn(move || {
                let mut bytes = [0; PAGE_SIZE];
                for slot in (0..THREADS * SLOTS).cycle() {
                    file.read(slot, &mut bytes).unwrap();
                    // Nobody listens any more after the first time.
                    let _ = begun.send(());
                    if ended.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
            begins.recv().unwrap();
            drop(begins);
            let writers: Vec<_> = (0..THREADS)
                .map(|thread| scope.spawn(move || work(file, thread * SLOTS..(thread + 1) * SLOTS)))
                .collect();
            for writer in writers {
                last.extend(writer.join().unwrap());
            }
            ended.store(true, Ordering::Relaxed);
            reader.join().unwrap();
        });
        drop(file);
        let file = open(under.medium(&kept), &setup).unwrap().0;
        let report = file.scan(&mut |_, _| {}, &mut |slot, header| {
            assert_eq!(last.get(slot as usize), Some(&Some(header.object.0[0])));
        });
        let expected = last.iter().flatten().count() as u64;
        assert_eq!(report.unwrap().pages, expected);
    }
}

/// Writes and empties slots of one thread; returns what is in them at the end.
fn work(file: &SlotFile, slots: std::ops::Range<u32>) -> Vec<Option<u64>> {
    let mut random = Random(u64::from(slots.start));
    let mut held = vec![None; slots.len()];
    let mut bytes = [0; PAGE_SIZE];
    for _ in 0..40 {
        let mut pages = Vec::new();
        for (slot, held) in slots.clone().zip(&mut held) {
            if random.one_in(3) {
                let number = random.next();
                *held = Some(number);
                pages.push((slot, header(number, 1, 1), page(number)));
            }
        }
        let batch: Vec<_> = pages
            .iter()
            .map(|(slot, header, page)| (*slot, header, page))
            .collect();
        file.write(&batch).unwrap();
        for (slot, header, _) in &pages {
            file.read(*slot, &mut bytes).unwrap();
            assert_eq!(checksum::of(&bytes), header.checksum);
        }
        let at = random.below(u32::try_from(held.len()).unwrap());
        file.invalidate(&[slots.start + at]).unwrap();
        held[at as usize] = None;
    }
    held
}

#[test]
fn mapped_memory_that_is_gone_is_an_error() {
    let Some(flush) = LineFlush::detect() else {
        return;
    };
    let file = Under::Memory.file();
    let medium = DaxMedium::unsynchronised(file.try_clone().unwrap(), flush).unwrap();
    assert!(medium.store(0, &[1; 8]).is_err(), "nothing is mapped");
    medium.grow(0, 8192).unwrap();
    medium.store(8184, &[1; 8]).unwrap();
    for (at, bytes) in [(8192, 8), (8184, 16), (u64::MAX - 7, 8), (4, 8), (0, 7)] {
        assert!(
            medium.store(at, &vec![1; bytes]).is_err(),
            "{bytes} bytes at {at}"
        );
    }
    rustix::fs::ftruncate(&file, 4096).unwrap();
    assert!(medium.store(4096, &[1; 8]).is_err(), "cut off");
    assert!(medium.store_pages(0, &[&[1; PAGE_SIZE]]).is_ok());
    assert!(medium.store_pages(4096, &[&[1; PAGE_SIZE]]).is_err());
    assert!(medium.flush(4096, 64).is_err());
}
