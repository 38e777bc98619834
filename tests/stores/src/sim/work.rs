// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a client does all the while: tasks that write, read and flush, and tell the oracle.
//!
//! It speaks to [`Pages`], so that the oracle and this can be tried on something trivial, right or
//! wrong, before anything real is under it.

use std::collections::BTreeSet;
use std::time::Duration;

use tmem_pages::slots::SlotHeader;
use tmem_pages::{ObjectId, PAGE_SIZE, PageBytes, PageIndex, Ticket};
use tmem_remote_protocol::checksum;

use super::world::{Due, Shared};
use crate::oracle::{Kind, Seen, Wrong};
use crate::page::Stamp;
use crate::random::Random;

/// Keys from here on are ephemeral pages; their index is what is left.
pub(crate) const EPHEMERAL: u32 = 1 << 20;

/// Why a read brought no page.
#[derive(Clone, Debug)]
pub(crate) enum NoPage {
    /// There is none, as far as the client knows.
    Nothing(String),
    /// There is one, or may be; it cannot be had.
    Failed(String),
}

/// One task's way to pages.
pub(crate) trait Pages {
    /// Writes pages to slots.
    async fn write(&mut self, batch: &[(u32, &SlotHeader, &PageBytes)]) -> Result<u8, String>;
    /// Reads a slot.
    async fn read(
        &mut self,
        slot: u32,
        checksum: Option<u32>,
        page: &mut PageBytes,
    ) -> Result<(), NoPage>;
    /// Forgets slots.
    fn invalidate(&mut self, slots: &[u32]);
    /// Puts an ephemeral page; false if it was not taken, and nothing is there.
    async fn put_ephemeral(&mut self, index: u32, page: &PageBytes) -> bool;
    /// Gets an ephemeral page.
    async fn get_ephemeral(&mut self, index: u32, page: &mut PageBytes) -> bool;
    /// Forgets ephemeral pages.
    async fn flush_ephemeral(&mut self, indexes: &[u32]);
}

/// One task of a client.
#[derive(Debug)]
pub(crate) struct Task {
    world: Shared,
    client: usize,
    number: u32,
    random: Random,
}

impl Task {
    /// The task `number` of a client, in the `life`th life of its process.
    pub(crate) fn new(world: &Shared, client: usize, number: u32, life: u64) -> Self {
        let seed = world.with(|world| world.plan.seed);
        let salt = 1000 + 100 * (client as u64) + u64::from(number) + (life << 20);
        Self {
            world: world.clone(),
            client,
            number,
            random: Random::new(seed, salt),
        }
    }

    /// Works until the simulation ends.
    pub(crate) async fn run<P: Pages>(mut self, mut pages: P) {
        loop {
            let pause = match self.random.below(4) {
                0 => 0,
                1 => self.random.below(20),
                _ => self.random.below(4),
            };
            tokio::time::sleep(Duration::from_millis(u64::from(pause))).await;
            let paused = self.world.with(|world| world.paused);
            if paused && !self.has_dues() {
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            }
            self.world.with(|world| world.busy[self.client] += 1);
            if paused {
                self.do_due(&mut pages).await;
            } else {
                self.step(&mut pages).await;
            }
            self.world.with(|world| world.busy[self.client] -= 1);
        }
    }

    /// Slots among those due that are this task's.
    fn dues(&self, of: impl Fn(&Due) -> &BTreeSet<u32>) -> Vec<u32> {
        self.world.with(|world| {
            let own = |slot: &&u32| **slot % world.plan.tasks == self.number;
            let due = of(&world.due[self.client]);
            due.iter().filter(own).take(8).copied().collect()
        })
    }

    fn has_dues(&self) -> bool {
        !self.dues(|due| &due.writes).is_empty() || !self.dues(|due| &due.reads).is_empty()
    }

    /// Does some of what a resting client is to do.
    async fn do_due<P: Pages>(&mut self, pages: &mut P) {
        let (client, world) = (self.client, self.world.clone());
        for slot in self.dues(|due| &due.reads) {
            read(&world, client, pages, slot).await;
            world.with(|world| world.due[client].reads.remove(&slot));
        }
        let slots = self.dues(|due| &due.writes);
        if !slots.is_empty() && write(&world, client, pages, &slots).await {
            world.with(|world| {
                let due = &mut world.due[client].writes;
                due.retain(|slot| !slots.contains(slot));
            });
        }
    }

    async fn step<P: Pages>(&mut self, pages: &mut P) {
        let plan = self.world.with(|world| world.plan.clone());
        let (writes, flushes) = plan.mix;
        let drawn = self.random.below(100);
        let ephemeral = plan.ephemeral && self.random.one_in(5);
        if ephemeral {
            let index = self.own(plan.slots, plan.tasks) % 24;
            let index = index - index % plan.tasks + self.number;
            self.ephemeral(pages, index, drawn < writes, drawn < writes + flushes)
                .await;
        } else if drawn < writes {
            let slots = self.slots(plan.slots, plan.tasks, plan.batch);
            write(&self.world, self.client, pages, &slots).await;
        } else if drawn < writes + flushes {
            let slots = self.slots(plan.slots, plan.tasks, plan.batch);
            flush(&self.world, self.client, pages, &slots);
        } else {
            let slot = self.random.below(plan.slots);
            read(&self.world, self.client, pages, slot).await;
        }
    }

    /// A slot that only this task writes.
    fn own(&mut self, slots: u32, tasks: u32) -> u32 {
        let each = (slots / tasks).max(1);
        // Half of all go to an eighth of the slots.
        let below = if self.random.one_in(2) {
            each.div_ceil(8)
        } else {
            each
        };
        self.random.below(below) * tasks + self.number
    }

    fn slots(&mut self, slots: u32, tasks: u32, most: u32) -> Vec<u32> {
        let count = self.random.between(1, most);
        let mut chosen: Vec<u32> = (0..count).map(|_| self.own(slots, tasks)).collect();
        chosen.retain(|slot| *slot < slots);
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }

    async fn ephemeral<P: Pages>(&mut self, pages: &mut P, index: u32, put: bool, flush: bool) {
        let (client, key) = (self.client, EPHEMERAL + index);
        let world = self.world.clone();
        world.with(|world| {
            world.oracles[client].set_kind(key, Kind::Ephemeral);
            world.counts.ephemeral += 1;
        });
        if put {
            let stamp = world.with(|world| world.oracles[client].begin_write(key));
            let kept = pages.put_ephemeral(index, &stamp.page()).await;
            // One that was not taken must have taken the older one with it: as good as acknowledged,
            // with the difference that it is never seen.
            world.with(|world| world.oracles[client].acknowledge(key));
            world.note(format_args!(
                "c{client} put ephemeral {index} v{}: {kept}",
                stamp.version
            ));
        } else if flush {
            world.with(|world| world.oracles[client].begin_flush(key));
            pages.flush_ephemeral(&[index]).await;
            world.with(|world| world.oracles[client].acknowledge(key));
            world.note(format_args!("c{client} flush ephemeral {index}"));
        } else {
            let mut page = [0; PAGE_SIZE];
            let id = world.with(|world| world.oracles[client].begin_read(key));
            let hit = pages.get_ephemeral(index, &mut page).await;
            let seen = if hit {
                Seen::Page(&page)
            } else {
                Seen::Nothing
            };
            let judged = world.with(|world| world.oracles[client].end_read(key, id, seen));
            world.note(format_args!("c{client} get ephemeral {index}: {hit}"));
            if let Err(wrong) = judged {
                world.fail(format_args!(
                    "client {client} got ephemeral page {index}: {wrong}"
                ));
            }
        }
    }
}

/// Writes new versions of `slots`, which are distinct and nobody else's now.
pub(crate) async fn write<P: Pages>(
    world: &Shared,
    client: usize,
    pages: &mut P,
    slots: &[u32],
) -> bool {
    if slots.is_empty() {
        return true;
    }
    let stamps: Vec<Stamp> = world.with(|world| {
        let oracle = &mut world.oracles[client];
        slots.iter().map(|slot| oracle.begin_write(*slot)).collect()
    });
    let bytes: Vec<PageBytes> = stamps.iter().map(|stamp| stamp.page()).collect();
    let headers: Vec<SlotHeader> = (stamps.iter().zip(&bytes))
        .map(|(stamp, page)| header(*stamp, page))
        .collect();
    let batch: Vec<(u32, &SlotHeader, &PageBytes)> = (slots.iter().zip(&headers).zip(&bytes))
        .map(|((slot, header), page)| (*slot, header, page))
        .collect();
    let written = pages.write(&batch).await;
    let versions: Vec<(u32, u64)> = stamps.iter().map(|s| (s.key, s.version)).collect();
    world.note(format_args!("c{client} write {versions:?}: {written:?}"));
    world.with(|world| {
        let oracle = &mut world.oracles[client];
        for slot in slots {
            if written.is_ok() {
                oracle.acknowledge(*slot);
            } else {
                oracle.fail(*slot);
            }
        }
        let count = slots.len() as u64;
        if written.is_ok() {
            world.counts.writes += count;
        } else {
            world.counts.writes_failed += count;
        }
    });
    written.is_ok()
}

/// The header that the engine would write with this page.
pub(crate) fn header(stamp: Stamp, page: &PageBytes) -> SlotHeader {
    SlotHeader {
        pool_slot: 0,
        pool_serial: 1,
        object: ObjectId::ZERO,
        index: PageIndex(stamp.key),
        ticket: Ticket::new(stamp.version).unwrap_or(Ticket::MIN),
        checksum: checksum(page),
        flags: 0,
    }
}

/// Forgets `slots`.
pub(crate) fn flush<P: Pages>(world: &Shared, client: usize, pages: &mut P, slots: &[u32]) {
    world.with(|world| {
        for slot in slots {
            world.oracles[client].begin_flush(*slot);
        }
        world.counts.flushes += slots.len() as u64;
    });
    pages.invalidate(slots);
    world.with(|world| {
        for slot in slots {
            world.oracles[client].acknowledge(*slot);
        }
    });
    world.note(format_args!("c{client} flush {slots:?}"));
}

/// Reads a slot, and judges what comes.
pub(crate) async fn read<P: Pages>(world: &Shared, client: usize, pages: &mut P, slot: u32) {
    let mut page = [0; PAGE_SIZE];
    let (id, settled, with_sum) = world.with(|world| {
        let oracle = &mut world.oracles[client];
        let id = oracle.begin_read(slot);
        (id, oracle.settled(slot), world.plan.checksums)
    });
    let sum = settled.filter(|_| with_sum);
    let sum = sum.map(|stamp| checksum(&stamp.page()));
    let read = pages.read(slot, sum, &mut page).await;
    world.note(format_args!(
        "c{client} read {slot}: {:?}",
        read.as_ref().map(|()| Stamp::of(&page).map(|s| s.version))
    ));
    let judged = world.with(|world| {
        let oracle = &mut world.oracles[client];
        let unchanged = settled.is_some() && oracle.settled(slot) == settled;
        match &read {
            Ok(()) => {
                let judged = oracle.end_read(slot, id, Seen::Page(&page));
                // A read that expected a checksum and met another page, written meanwhile, is told.
                world.counts.reads += 1;
                judged.map_err(|wrong: Wrong| wrong.to_string())
            }
            Err(_) if settled.is_none() && !oracle.is_gone(slot) => {
                oracle.drop_read(slot, id);
                world.counts.reads_failed += 1;
                Ok(())
            }
            Err(NoPage::Nothing(_)) if settled.is_none() => {
                world.counts.misses += 1;
                let judged = oracle.end_read(slot, id, Seen::Nothing);
                judged.map_err(|wrong| wrong.to_string())
            }
            Err(NoPage::Nothing(why) | NoPage::Failed(why)) => {
                oracle.drop_read(slot, id);
                world.counts.reads_failed += 1;
                // A page that is lost may be missed, but is never taken for one that never was.
                let forgotten = matches!(read, Err(NoPage::Nothing(_)));
                if unchanged && (world.strict || forgotten) {
                    Err(format!(
                        "no page, though {settled:?} was acknowledged: {why}"
                    ))
                } else {
                    Ok(())
                }
            }
        }
    });
    if let Err(wrong) = judged {
        world.fail(format_args!("client {client} read slot {slot}: {wrong}"));
    }
}
