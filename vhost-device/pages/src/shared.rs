// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What guests, pools and workers of one engine share: the frames, which of them are free, and who may have
//! how many of them. Here a frame is found, by eviction of an ephemeral page if need be.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use crate::account::{Account, add_below};
use crate::bundle::FreeFrames;
use crate::dram::Dram;
use crate::files::Claim;
use crate::frame_list::FrameList;
use crate::frames::{EPHEMERAL, FrameNo, Frames, OwnerNo, REFERENCED};
use crate::handle::PageIndex;
use crate::index::{Entry, Stored};
use crate::late::Late;
use crate::limbo::Limbo;
use crate::pool::Pool;
use crate::replacement::{Event, Policies};
use crate::sys::{INDEXED, OwnedFrame};
use crate::tier::{Door, Gathered, LOWER, Lower, LowerTier};

/// Frames that a flush of many pages collects before it gives them back.
pub(crate) const FLUSH_BULK: u32 = 32;

/// Frame table entries that the search for a page of the same guest looks at (some 50 µs).
const OWN_SEARCH_MAX: u32 = 16_384;
/// How often a persistent put looks for a frame. There is one, and each round fails only because
/// another worker moves frames or holds a lock for a moment.
const SEARCHES_MAX: u32 = 1_000_000;
/// Ephemeral pages that one ephemeral put evicts at most, after a grant took frames away from them.
pub(crate) const EVICTIONS_MAX: u32 = 8;

/// The sum of what guests are promised.
#[derive(Debug)]
pub(crate) struct Grants {
    pub(crate) promised: u64,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) frames: Frames,
    pub(crate) free: FreeFrames,
    /// Frames that can be promised.
    pub(crate) frames_max: u32,
    pub(crate) workers_max: u16,
    /// Worker numbers that are not in use.
    pub(crate) idle_workers: Mutex<Vec<u16>>,
    pub(crate) grants: Mutex<Grants>,
    /// Exclusive gets without an end.
    pub(crate) limbo: Limbo,
    /// Held by whoever counts as nobody's worker, under the number `workers_max`.
    pub(crate) nobody: Mutex<()>,
    /// Pools by slot. Weak, for a pool belongs to its guest.
    pub(crate) pools: RwLock<Vec<Weak<Pool>>>,
    ephemeral: AtomicU64,
    ephemeral_max: AtomicU64,
    /// Where the clock's hand is in the frame table.
    hand: AtomicU32,
    /// Accounts by guest slot. Weak, for an account belongs to its guest.
    pub(crate) accounts: RwLock<Vec<Weak<Account>>>,
    /// The tiers below DRAM, the nearest first.
    pub(crate) lower: [Option<LowerTier>; LOWER],
    pub(crate) policies: Policies,
    pub(crate) dram: Dram,
    pub(crate) door: Door,
    pub(crate) late: Late,
    pub(crate) gathered: Mutex<Gathered>,
    /// The last to go: the files are this engine's until they are unmapped.
    _claim: Claim,
}

/// What an eviction brought.
#[derive(Debug)]
pub(crate) enum Evicted {
    /// A page went, and this is its frame.
    Frame(OwnedFrame),
    /// A page went; its frame follows when its reader is done.
    Later,
    /// There was nothing to evict, or it was locked.
    Nothing,
}

impl Shared {
    /// Shares `frames`, of which `owned` are free.
    pub(crate) fn new(
        frames: Frames,
        owned: FrameList,
        limbo: Limbo,
        lower: [Option<LowerTier>; LOWER],
        claim: Claim,
    ) -> Self {
        let counts = frames.mapping().layout().counts;
        Self {
            frames,
            free: FreeFrames::new(owned, counts.workers),
            frames_max: counts.frames,
            workers_max: counts.workers,
            idle_workers: Mutex::new((0..counts.workers).rev().collect()),
            grants: Mutex::new(Grants { promised: 0 }),
            limbo,
            nobody: Mutex::new(()),
            pools: RwLock::default(),
            ephemeral: AtomicU64::new(0),
            ephemeral_max: AtomicU64::new(u64::from(counts.frames)),
            hand: AtomicU32::new(0),
            accounts: RwLock::default(),
            lower,
            policies: Policies::new(counts.workers),
            dram: Dram::new(counts.frames),
            door: Door::new(counts.frames),
            late: Late::new(counts.workers),
            gathered: Mutex::default(),
            _claim: claim,
        }
    }

    /// Replaces a promise of `before` pages by one of `after`, if the tiers suffice; otherwise says
    /// how many pages could be promised.
    pub(crate) fn promise(&self, grants: &mut Grants, before: u64, after: u64) -> Result<(), u64> {
        let others = grants.promised - before;
        let most = self.room().saturating_sub(others);
        if after > most && !self.may_overcommit() {
            return Err(most);
        }
        grants.promised = others + after;
        self.limit_ephemeral(grants);
        Ok(())
    }

    /// Leaves to ephemeral pages the frames that are promised to nobody.
    pub(crate) fn limit_ephemeral(&self, grants: &Grants) {
        // With a tier below, persistent pages make way for each other there, and ephemeral ones for
        // them when frames are wanted.
        let rest = if self.is_tiered() {
            self.dram_limit()
        } else {
            self.dram_limit().saturating_sub(grants.promised)
        };
        self.ephemeral_max.store(rest, Ordering::Relaxed);
    }

    /// Makes a pool known by its slot.
    pub(crate) fn add_pool(&self, pool: &Arc<Pool>) {
        let slot = pool.slot() as usize;
        let mut pools = self.pools.write();
        if pools.len() <= slot {
            pools.resize_with(slot + 1, Weak::new);
        }
        pools[slot] = Arc::downgrade(pool);
    }

    /// The pool in this slot.
    pub(crate) fn pool(&self, slot: u32) -> Option<Arc<Pool>> {
        self.pools.read().get(slot as usize)?.upgrade()
    }

    /// Bytes of the table of pools.
    pub(crate) fn pool_table_bytes(&self) -> usize {
        self.pools.read().capacity() * size_of::<Weak<Pool>>()
    }

    /// A frame for a put, from wherever there is one.
    pub(crate) fn find_frame(&self, worker: u16) -> Option<OwnedFrame> {
        if let Some(frame) = self.free.take(worker) {
            if self.free.nears_window() {
                self.call_mover();
            }
            return Some(frame);
        }
        if self.is_tiered() {
            return self.find_frame_below(worker);
        }
        for _ in 0..SEARCHES_MAX {
            if let Evicted::Frame(frame) = self.evict(worker, None) {
                return Some(frame);
            }
            if let Some(frame) = self.free.take(worker) {
                return Some(frame);
            }
            std::thread::yield_now();
        }
        None
    }

    /// Takes a frame from the index, whose entry does not name it any more.
    #[inline]
    pub(crate) fn retire(
        &self,
        account: &Account,
        worker: u16,
        frame: FrameNo,
    ) -> Option<OwnedFrame> {
        let page = self.likeness(frame);
        let (owned, was_copied) = self.frames.mapping().retire(frame);
        if was_copied {
            self.cancel_copy(account, worker, frame, page);
        }
        self.track(worker, Event::Remove(frame));
        owned
    }

    /// Counts one more ephemeral page in a frame, if there is a frame that no grant could claim.
    pub(crate) fn admit_ephemeral(&self) -> bool {
        add_below(&self.ephemeral, self.ephemeral_max.load(Ordering::Relaxed))
    }

    /// Counts ephemeral pages that are there, whether or not there may be so many.
    pub(crate) fn add_ephemeral(&self, frames: u64) {
        self.ephemeral.fetch_add(frames, Ordering::Relaxed);
    }

    /// Counts ephemeral pages off, whose frames are free or taken.
    pub(crate) fn leave_ephemeral(&self, frames: u64) {
        self.ephemeral.fetch_sub(frames, Ordering::Relaxed);
    }

    /// Ephemeral pages in frames, and how many there may be.
    pub(crate) fn ephemeral(&self) -> (u64, u64) {
        (
            self.ephemeral.load(Ordering::Relaxed),
            self.ephemeral_max.load(Ordering::Relaxed),
        )
    }

    /// Drops one ephemeral page, of `guest` if one is given: the next one under the clock's hand that
    /// was not got since the hand passed it. Holds one lock, which it only tries.
    pub(crate) fn evict(&self, worker: u16, guest: Option<u32>) -> Evicted {
        if self.ephemeral.load(Ordering::Relaxed) == 0 {
            return Evicted::Nothing;
        }
        let entries = self.frames.mapping().entries();
        let all = self.frames.mapping().layout().counts.all_frames();
        // Twice round: once to take the second chances away, once to evict.
        let twice = all.saturating_mul(2);
        let steps = guest.map_or(twice, |_| twice.min(OWN_SEARCH_MAX));
        let mut at = self.hand.load(Ordering::Relaxed);
        for _ in 0..steps {
            at = if at + 1 < all { at + 1 } else { 0 };
            let entry = &entries[at as usize];
            let state = entry.state.load(Ordering::Relaxed);
            if state & (INDEXED | EPHEMERAL) != INDEXED | EPHEMERAL {
                continue;
            }
            let owner = OwnerNo(entry.owner.load(Ordering::Relaxed));
            if owner == OwnerNo::NOBODY {
                continue;
            }
            let of = self.frames.owner(owner).guest.load(Ordering::Relaxed);
            if guest.is_some_and(|guest| guest != of) {
                continue;
            }
            if state & REFERENCED != 0 {
                entry.state.fetch_and(!REFERENCED, Ordering::Relaxed);
                continue;
            }
            let evicted = self.evict_frame(worker, FrameNo(at));
            if !matches!(evicted, Evicted::Nothing) {
                self.hand.store(at, Ordering::Relaxed);
                return evicted;
            }
        }
        self.hand.store(at, Ordering::Relaxed);
        Evicted::Nothing
    }

    /// Drops the page in this frame. What the table says is read without a lock and may be outdated;
    /// the index entry, once it is locked, decides.
    fn evict_frame(&self, worker: u16, frame: FrameNo) -> Evicted {
        let entry = self.frames.mapping().entry(frame);
        let index = PageIndex(entry.index.load(Ordering::Relaxed));
        let owner = OwnerNo(entry.owner.load(Ordering::Relaxed));
        if owner == OwnerNo::NOBODY {
            return Evicted::Nothing;
        }
        let owner = self.frames.owner(owner);
        let Some(pool) = self.pool(owner.pool.load(Ordering::Relaxed)) else {
            return Evicted::Nothing;
        };
        let place = (owner.object(), index);
        if !pool.is_ephemeral()
            || !(pool.index).replace(&self.frames, place, frame, Entry::Empty, || true)
        {
            return Evicted::Nothing;
        }
        let mut removed = Removed::default();
        let freed = removed.take(self, &pool.account, worker, Entry::Frame(frame));
        removed.settle(self, &pool, worker);
        pool.counters.stripe(worker).add_evicted(1);
        freed.map_or(Evicted::Later, Evicted::Frame)
    }
}

/// Counts index entries that are gone, until all their counters are settled at once.
#[derive(Debug, Default)]
pub(crate) struct Removed {
    framed: u64,
    same: u64,
    stored: [u64; LOWER],
    /// Slots that the entries named.
    slots: Vec<Stored>,
}

impl Removed {
    /// Counts an entry that is no longer in the index, and takes its frame from it.
    #[inline]
    pub(crate) fn take(
        &mut self,
        shared: &Shared,
        account: &Account,
        worker: u16,
        entry: Entry,
    ) -> Option<OwnedFrame> {
        self.count(entry);
        match entry {
            Entry::Frame(frame) => shared.retire(account, worker, frame),
            Entry::Stored(stored) => {
                self.slots.push(stored);
                None
            }
            // One that is taken was counted then, and its frame is the journal's.
            _ => None,
        }
    }

    /// Counts an entry that is no page any more, but keeps its frame.
    #[inline]
    pub(crate) fn count(&mut self, entry: Entry) {
        match entry {
            Entry::Empty | Entry::TakenFrame(_) | Entry::TakenSame { .. } => {}
            Entry::Same { .. } | Entry::Damaged => self.same += 1,
            Entry::Frame(_) => self.framed += 1,
            Entry::Stored(stored) => self.stored[stored.tier.number()] += 1,
        }
    }

    /// The same for one of many entries, under its lock: frames are collected, and given back when
    /// there are some.
    pub(crate) fn take_many(
        &mut self,
        shared: &Shared,
        account: &Account,
        worker: u16,
        entry: Entry,
        freed: &mut Vec<OwnedFrame>,
    ) {
        freed.extend(self.take(shared, account, worker, entry));
        if freed.len() >= FLUSH_BULK as usize {
            shared.free.give_all(freed);
        }
    }

    /// Pages counted.
    pub(crate) fn pages(&self) -> u64 {
        self.framed + self.same + self.stored.iter().sum::<u64>()
    }

    /// Settles the counters of `pool`, and an ephemeral one's account. A persistent page left its
    /// account under its lock already, see [`Pool::leave`].
    #[inline]
    pub(crate) fn settle(&self, shared: &Shared, pool: &Pool, worker: u16) {
        if self.pages() == 0 {
            return;
        }
        pool.counters
            .stripe(worker)
            .pages_out(self.pages(), self.same);
        for lower in Lower::ALL {
            let pages = self.stored[lower.number()];
            pool.counters.stripe(worker).stored_out_many(lower, pages);
        }
        shared.free_slots_for(worker, &self.slots);
        shared.leave_dram(&pool.account, self.framed);
        if pool.is_ephemeral() {
            pool.account.leave_ephemeral(self.framed, self.same);
            shared.leave_ephemeral(self.framed);
        }
    }
}
