// SPDX-License-Identifier: GPL-2.0
//! The flush engine: it tells the host about freed swap slots, and never lets a late flush kill a
//! newer page.
//!
//! Swap calls [`Flush::notify`] for each freed slot under spinlocks, where nothing can be sent; so
//! the slot's bit is set in the `pending` map of its cluster of 512 slots, and a worker sends the
//! bits some milliseconds later, many in one request. Slots are soon used again, hence the rules:
//!
//! - A write to a slot clears its pending bit ([`Flush::admit`]): the new page replaces the old one.
//! - While a flush of the slot is under way (`inflight`), the write is parked until it has ended.
//! - A batch draws its ticket under the cluster's lock, together with its bits. Any write that was
//!   acknowledged before the slot was freed has a lower ticket, and any write that comes after a
//!   higher one, so that the host can tell as well, for instance when requests are replayed.
//! - A bit leaves `inflight` only when the host has acknowledged the flush; otherwise it is pending
//!   again. No freed slot is forgotten.

use crate::{
    bio::{Bio, BioList},
    request::{Limits, Tickets},
    stats::Stats,
    sync::{IrqGuard, IrqLock},
};
use kernel::{
    alloc::KVVec,
    prelude::*,
    static_lock_class,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};

/// log2 of the slots in a cluster.
const CLUSTER_SHIFT: u32 = 9;
const CLUSTER: u32 = 1 << CLUSTER_SHIFT;
const WORDS: usize = CLUSTER as usize / 64;
/// A run of at least so many slots is sent as one, rather than listed with others.
const RUN_MIN: u32 = 64;
/// With so many pending slots the worker does not wait any longer.
const PENDING_HURRY: u64 = 256;
/// No cluster.
const NONE: u32 = u32::MAX;

/// A bit for each slot of a cluster.
#[derive(Clone, Copy)]
struct Bits([u64; WORDS]);

impl Bits {
    const EMPTY: Self = Self([0; WORDS]);

    /// The slots `from .. to`.
    fn range(from: u32, to: u32) -> Self {
        let mut bits = Self::EMPTY;
        for (nth, word) in bits.0.iter_mut().enumerate() {
            let base = nth as u32 * 64;
            let low = from.clamp(base, base + 64) - base;
            let high = to.clamp(base, base + 64) - base;
            if low < high {
                *word = (u64::MAX << low) & (u64::MAX >> (64 - high));
            }
        }
        bits
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    fn and(&self, other: &Self) -> Self {
        self.zip(other, |a, b| a & b)
    }

    fn or(&self, other: &Self) -> Self {
        self.zip(other, |a, b| a | b)
    }

    fn without(&self, other: &Self) -> Self {
        self.zip(other, |a, b| a & !b)
    }

    fn zip(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
        let mut out = *self;
        for (word, other) in out.0.iter_mut().zip(other.0.iter()) {
            *word = f(*word, *other);
        }
        out
    }

    /// The first slot at or after `from` whose bit is `set`; otherwise [`CLUSTER`].
    fn find(&self, from: u32, set: bool) -> u32 {
        let mut at = from;
        while let Some(word) = self.0.get((at / 64) as usize) {
            let word = if set { *word } else { !*word } >> (at % 64);
            if word != 0 {
                return at + word.trailing_zeros();
            }
            at = (at / 64 + 1) * 64;
        }
        CLUSTER
    }

    /// The slots whose bits are set, in order.
    fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let mut at = 0;
        core::iter::from_fn(move || {
            let found = self.find(at, true);
            at = found + 1;
            (found < CLUSTER).then_some(found)
        })
    }

    /// The first `count` of them.
    fn first(&self, count: u32) -> Self {
        let mut out = Self::EMPTY;
        for slot in self.iter().take(count as usize) {
            if let Some(word) = out.0.get_mut((slot / 64) as usize) {
                *word |= 1 << (slot % 64);
            }
        }
        out
    }
}

/// Slots of one cluster that are flushed in one request.
pub(crate) struct Batch {
    /// The disk.
    pub(crate) area: u32,
    cluster: u32,
    bits: Bits,
    /// Index of the first page.
    pub(crate) first: u32,
    /// Number of pages.
    pub(crate) pages: u32,
    /// The pages follow each other.
    pub(crate) run: bool,
    pub(crate) ticket: u64,
}

impl Batch {
    /// The pages, in order.
    pub(crate) fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        let base = self.cluster << CLUSTER_SHIFT;
        self.bits.iter().map(move |slot| base | slot)
    }
}

struct Cluster {
    /// Freed, and to be flushed.
    pending: Bits,
    /// In a flush request that has not ended.
    inflight: Bits,
    /// On the dirty list, or in the worker's hands.
    queued: bool,
    /// The next on that list.
    next: u32,
}

/// Writes that wait for a flush of their pages to end.
struct Parked {
    writes: BioList,
    /// The driver is unbound: nobody would take a write from here.
    closed: bool,
}

/// What [`Flush::notify`] asks of its caller.
pub(crate) enum Schedule {
    /// Nothing.
    No,
    /// To run the worker after the usual delay.
    Soon,
    /// To run the worker now.
    Now,
}

/// Freed slots of one disk.
pub(crate) struct Flush {
    /// Which of the device's disks it is.
    area: u32,
    clusters: KVVec<IrqLock<Cluster>>,
    /// Head of the list of clusters with pending bits; LIFO.
    dirty: IrqLock<u32>,
    /// Rest of the list that the worker has taken; its own.
    taken: Atomic<u32>,
    parked: IrqLock<Parked>,
    /// Pending bits, all clusters.
    pending: Atomic<u64>,
    stats: Arc<Stats>,
}

impl Flush {
    /// For disk `area` of a device, of `pages` pages; takes about 150 bytes for each 2 MiB.
    pub(crate) fn new(area: u32, pages: u32, stats: Arc<Stats>) -> Result<Self> {
        let count = pages.div_ceil(CLUSTER) as usize;
        let mut clusters = KVVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            let cluster = Cluster {
                pending: Bits::EMPTY,
                inflight: Bits::EMPTY,
                queued: false,
                next: NONE,
            };
            clusters.push(IrqLock::new(cluster, static_lock_class!()), GFP_KERNEL)?;
        }
        Ok(Self {
            area,
            clusters,
            dirty: IrqLock::new(NONE, static_lock_class!()),
            taken: Atomic::new(NONE),
            parked: IrqLock::new(
                Parked {
                    writes: BioList::new(),
                    closed: false,
                },
                static_lock_class!(),
            ),
            pending: Atomic::new(0),
            stats,
        })
    }

    fn cluster(&self, id: u32) -> Option<IrqGuard<'_, Cluster>> {
        self.clusters.get(id as usize).map(IrqLock::lock)
    }

    /// Records that slot `index` was freed. May be called in any context.
    pub(crate) fn notify(&self, index: u32) -> Schedule {
        let id = index >> CLUSTER_SHIFT;
        let slot = index & (CLUSTER - 1);
        let Some(mut cluster) = self.cluster(id) else {
            return Schedule::No;
        };
        let bit = Bits::range(slot, slot + 1);
        if !cluster.pending.and(&bit).is_empty() {
            return Schedule::No;
        }
        cluster.pending = cluster.pending.or(&bit);
        self.stats.flush_pending.inc();
        let before = self.pending.fetch_add(1u64, Relaxed);
        let queued = self.enqueue(id, &mut cluster);
        if before.wrapping_add(1) == PENDING_HURRY {
            Schedule::Now
        } else if queued {
            Schedule::Soon
        } else {
            Schedule::No
        }
    }

    /// Puts a cluster on the dirty list; false if it is there already.
    fn enqueue(&self, id: u32, cluster: &mut Cluster) -> bool {
        if cluster.queued {
            return false;
        }
        cluster.queued = true;
        let mut head = self.dirty.lock();
        cluster.next = *head;
        *head = id;
        true
    }

    /// Lets a write through, or keeps it until no flush of its pages is under way.
    pub(crate) fn admit(&self, bio: Bio) -> Option<Bio> {
        let mut from = bio.index();
        let end = from.saturating_add(bio.pages());
        while from < end {
            let id = from >> CLUSTER_SHIFT;
            let base = id << CLUSTER_SHIFT;
            let to = end.min(base.saturating_add(CLUSTER));
            let Some(mut cluster) = self.cluster(id) else {
                break;
            };
            let range = Bits::range(from - base, to - base);
            if !cluster.inflight.and(&range).is_empty() {
                // Parked under the cluster's lock: the flush ends under it as well, and looks at
                // the parked list after that.
                let mut parked = self.parked.lock();
                if parked.closed {
                    break;
                }
                parked.writes.push(bio);
                self.stats.parked_puts.inc();
                return None;
            }
            let cleared = u64::from(cluster.pending.and(&range).count());
            if cleared > 0 {
                cluster.pending = cluster.pending.without(&range);
                self.pending.fetch_sub(cleared, Relaxed);
                self.stats.flush_pending.sub(cleared);
            }
            from = to;
        }
        Some(bio)
    }

    /// The next batch to send; for the worker alone.
    pub(crate) fn next_batch(&self, limits: &Limits, tickets: &Tickets) -> Option<Batch> {
        loop {
            let mut id = self.taken.load(Relaxed);
            if id == NONE {
                id = core::mem::replace(&mut *self.dirty.lock(), NONE);
                self.taken.store(id, Relaxed);
            }
            let mut cluster = self.cluster(id)?;
            let first = cluster.pending.find(0, true);
            if first == CLUSTER {
                cluster.queued = false;
                self.taken.store(cluster.next, Relaxed);
                continue;
            }
            let end = cluster.pending.find(first, false);
            let run = end - first >= RUN_MIN
                || cluster.pending.find(end, true) == CLUSTER
                || !limits.list;
            let bits = if run {
                Bits::range(first, end)
            } else {
                cluster.pending.first(limits.pages)
            };
            let pages = bits.count();
            cluster.pending = cluster.pending.without(&bits);
            cluster.inflight = cluster.inflight.or(&bits);
            self.pending.fetch_sub(u64::from(pages), Relaxed);
            return Some(Batch {
                area: self.area,
                cluster: id,
                bits,
                first: (id << CLUSTER_SHIFT) | first,
                pages,
                run,
                // Under the cluster's lock; see the head of this file.
                ticket: tickets.next(),
            });
        }
    }

    /// Ends a batch: flushed, or to be sent once more. Returns the writes that may go on.
    pub(crate) fn end(&self, batch: Batch, flushed: bool) -> BioList {
        if let Some(mut cluster) = self.cluster(batch.cluster) {
            cluster.inflight = cluster.inflight.without(&batch.bits);
            if flushed {
                self.stats.flush_pending.sub(u64::from(batch.pages));
            } else {
                // A slot that was freed anew meanwhile is pending already; it counts once.
                let again = batch.bits.without(&cluster.pending);
                let count = u64::from(again.count());
                self.stats
                    .flush_pending
                    .sub(u64::from(batch.pages).wrapping_sub(count));
                self.pending.fetch_add(count, Relaxed);
                cluster.pending = cluster.pending.or(&again);
                self.enqueue(batch.cluster, &mut cluster);
            }
        }
        self.parked.lock().writes.take()
    }

    /// Takes the parked writes, when no flush will end any more; from now on none is parked.
    pub(crate) fn close(&self) -> BioList {
        let mut parked = self.parked.lock();
        parked.closed = true;
        parked.writes.take()
    }
}
