// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What an engine does with a slot file, by chance, and what may be found of it after a crash.

use std::collections::{BTreeMap, BTreeSet};

use super::super::commit::Protocol;
use super::super::recover::{Setup, open};
use super::super::{Durability, OpenedAs, PoolEntry, SlotFile, SlotHeader};
use super::recording::{Loss, Recording};
use super::{Random, SMALL, header, next_boot, page, pool, setup};
use crate::handle::{PAGE_SIZE, PageBytes};

/// What must be in a file: pages by slot, with the number that they follow from, and pools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) pages: BTreeMap<u32, (u64, SlotHeader)>,
    pub(super) pools: BTreeMap<u32, PoolEntry>,
    pub(super) slots: u32,
}

/// Slots of a new file.
const SLOTS: u32 = 70;

/// One call, and what it changes.
#[derive(Clone, Debug)]
pub(super) enum Call {
    Open,
    Write(BTreeMap<u32, (u64, SlotHeader)>),
    Invalidate(BTreeSet<u32>),
    Pool(u32, Option<PoolEntry>),
    Resize(u32),
}

impl Kept {
    pub(super) fn apply(&mut self, call: &Call) {
        match call {
            // A file that was there keeps its slots.
            Call::Open if self.slots == 0 => self.slots = SLOTS,
            Call::Open => {}
            Call::Resize(slots) => self.slots = *slots,
            Call::Write(pages) => self
                .pages
                .extend(pages.iter().map(|(slot, page)| (*slot, *page))),
            Call::Invalidate(slots) => self.pages.retain(|slot, _| !slots.contains(slot)),
            Call::Pool(slot, None) => {
                self.pools.remove(slot);
            }
            Call::Pool(slot, Some(entry)) => {
                self.pools.insert(*slot, entry.clone());
            }
        }
    }
}

/// A call with the number of steps that there were when it returned.
pub(super) type Done = (usize, Call);

/// Opens a file on the medium and does some calls to it. Returns them, and leaves in `kept` what was
/// acknowledged.
pub(super) fn run(
    medium: &Recording,
    durability: Durability,
    mistake: Option<Protocol>,
    kept: &mut Kept,
    random: &mut Random,
) -> Vec<Done> {
    let setup = setup_after(medium.loss(), durability);
    let mut file = open(Box::new(medium.clone()), &setup).unwrap().0;
    if let Some(mistake) = mistake {
        file.protocol = mistake;
    }
    // As after the host's end: this is how the slots become known. A file must bear it if not.
    if !random.one_in(4) {
        file.scan(&mut |_, _| {}, &mut |_, _| {}).unwrap();
    }
    let mut done = vec![(medium.steps(), Call::Open)];
    for _ in 0..12 {
        let call = call(&file, kept, random);
        kept.apply(&call);
        done.push((medium.steps(), call));
    }
    // A crash leaves no time to settle.
    file.log.rest();
    done
}

fn call(file: &SlotFile, kept: &Kept, random: &mut Random) -> Call {
    let slots = file.slots();
    match random.below(12) {
        0..6 => write(file, kept, random),
        6..9 => {
            let some = (0..=random.below(12)).map(|_| random.below(slots));
            let mut gone: BTreeSet<u32> = some.collect();
            gone.extend(kept.pages.keys().filter(|_| random.one_in(4)));
            file.invalidate(&gone.iter().copied().collect::<Vec<_>>())
                .unwrap();
            Call::Invalidate(gone)
        }
        9..11 => {
            let slot = random.below(SMALL.pool_slots);
            let serial = file.last_serial(slot).map_or(1, |serial| serial + 1);
            // A pool that is told anew keeps its serial, and with it its pages.
            let entry = match random.below(4) {
                0 => None,
                1 => kept
                    .pools
                    .get(&slot)
                    .map(|was| pool("renamed", was.pool_serial)),
                _ => Some(pool("guest", serial)),
            };
            match &entry {
                Some(entry) => file.put_pool(slot, entry).unwrap(),
                None => file.drop_pool(slot).unwrap(),
            }
            Call::Pool(slot, entry)
        }
        _ => {
            let last = kept.pages.keys().last().map_or(1, |last| last + 1);
            let to = last.max(1) + random.below(90);
            file.resize(to).unwrap();
            Call::Resize(to)
        }
    }
}

fn write(file: &SlotFile, kept: &Kept, random: &mut Random) -> Call {
    let mut pages = BTreeMap::new();
    let mut slot = random.below(file.slots());
    for _ in 0..1 + random.below(20) {
        let pool_slot = random.below(SMALL.pool_slots);
        let serial = kept.pools.get(&pool_slot).map(|entry| entry.pool_serial);
        // Of no pool: never found.
        let serial = serial.or_else(|| file.last_serial(pool_slot)).unwrap_or(0);
        let number = random.next();
        pages.insert(slot, (number, header(number, pool_slot, serial)));
        // Mostly neighbours.
        slot = if random.one_in(6) {
            random.below(file.slots())
        } else {
            slot + 1
        };
        if slot >= file.slots() {
            break;
        }
    }
    write_pages(file, &pages);
    Call::Write(pages)
}

/// Writes pages that follow from their numbers.
pub(super) fn write_pages(file: &SlotFile, pages: &BTreeMap<u32, (u64, SlotHeader)>) {
    let bytes: Vec<PageBytes> = pages.values().map(|(number, _)| page(*number)).collect();
    let entries = pages.iter().zip(&bytes);
    let batch: Vec<_> = entries
        .map(|((slot, (_, header)), page)| (*slot, header, page))
        .collect();
    file.write(&batch).unwrap();
}

/// How a file is opened after such a crash.
fn setup_after(loss: Loss, durability: Durability) -> Setup<'static> {
    let setup = setup(SLOTS, durability);
    match loss {
        Loss::Process => setup,
        Loss::File | Loss::Dax => Setup {
            boot: &next_boot,
            ..setup
        },
    }
}

/// What a crash has left.
pub(super) fn look(
    image: Vec<u8>,
    loss: Loss,
    durability: Durability,
) -> Result<(Kept, u64), String> {
    let medium = Recording::new(image, Loss::Process);
    let opened = open(Box::new(medium), &setup_after(loss, durability));
    let (file, opened) = opened.map_err(|error| format!("cannot open: {error}"))?;
    if opened.found == OpenedAs::Lost {
        return Err("it was of another boot".into());
    }
    if let Some(pool) = file.damaged_pools().first() {
        return Err(format!("pool slot {pool} is damaged"));
    }
    let mut kept = Kept {
        pages: BTreeMap::new(),
        pools: file.pools().into_iter().collect(),
        slots: file.slots(),
    };
    let mut headers = Vec::new();
    let report = file.scan(&mut |_, _| {}, &mut |slot, header| {
        headers.push((slot, header));
    });
    let report = report.map_err(|error| error.to_string())?;
    if !report.damaged.is_empty() || !report.unreadable.is_empty() {
        return Err(format!("{report:?}"));
    }
    for (slot, header) in headers {
        let mut bytes = [0; PAGE_SIZE];
        file.read(slot, &mut bytes)
            .map_err(|error| error.to_string())?;
        // The object's first word is the number that the page follows from.
        let number = header.object.0[0];
        if bytes != page(number) || file.header(slot).ok() != Some(Some(header)) {
            return Err(format!("slot {slot} is not the page that it says"));
        }
        kept.pages.insert(slot, (number, header));
    }
    Ok((kept, report.unfinished))
}

/// Whether `found` may be left of what was acknowledged and a call that was under way.
pub(super) fn check(found: &Kept, kept: &Kept, under_way: Option<&Call>) -> Result<(), String> {
    let mut after = kept.clone();
    if let Some(call) = under_way {
        after.apply(call);
    }
    if found.slots != kept.slots && found.slots != after.slots {
        return Err(format!("it has {} slots", found.slots));
    }
    let slots: BTreeSet<u32> = [kept, &after, found]
        .iter()
        .flat_map(|kept| kept.pools.keys().copied())
        .collect();
    for slot in slots {
        let pool = found.pools.get(&slot);
        if pool != kept.pools.get(&slot) && pool != after.pools.get(&slot) {
            return Err(format!("pool slot {slot} has {pool:?}"));
        }
    }
    // A page is found if its pool is.
    let counts = |page: &&(u64, SlotHeader)| {
        let pool = found.pools.get(&page.1.pool_slot);
        pool.is_some_and(|pool| pool.pool_serial == page.1.pool_serial)
    };
    let slots: BTreeSet<u32> = [kept, &after, found]
        .iter()
        .flat_map(|kept| kept.pages.keys().copied())
        .collect();
    for slot in slots {
        let is = found.pages.get(&slot);
        let [before, then] = [kept, &after].map(|kept| kept.pages.get(&slot).filter(counts));
        let may_be_gone = match under_way {
            Some(Call::Write(pages)) => pages.contains_key(&slot),
            _ => false,
        };
        if is != before && is != then && !(is.is_none() && may_be_gone) {
            return Err(format!(
                "slot {slot} has {is:?} instead of {before:?} or {then:?}"
            ));
        }
    }
    Ok(())
}
