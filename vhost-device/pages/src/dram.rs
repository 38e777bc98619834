// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! DRAM as a tier: how many frames may be used, how many are, and what is done when a put finds none.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::account::Account;
use crate::frame_list::FrameList;
use crate::pool::Pool;
use crate::shared::{Evicted, Shared};
use crate::sys::OwnedFrame;
use crate::tier::{DEMOTE_BATCH, Released};
use crate::tier::{Lower, LowerTier, Tier, TierStats};

/// How often a put looks for a frame where tiers below may make room. Each round may write a batch of
/// pages to one, so this many without a frame mean that none of them can take a page.
const ROUNDS_MAX: u32 = 10_000;
/// How often a put that finds DRAM above its limit makes room. Each round takes one page out, or
/// writes a batch; there are some more where many workers put at once.
const LIMIT_ROUNDS_MAX: u32 = 256;
/// Pages that a put at its guest's cap has moved, at most, before it goes beyond the cap.
const CAP_ROUNDS_MAX: u32 = 64;

/// What an attempt to make room brought.
enum Made {
    /// A frame.
    Frame(OwnedFrame),
    /// A page has gone, whose frame follows, or pages are ready to go.
    Progress,
    /// Nothing.
    Nothing,
}

/// How many frames are to be free, in frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// With fewer, frames are freed.
    pub low: u64,
    /// Until there are as many; and as many more pages are kept ready to go.
    pub high: u64,
}

/// See the module's head.
pub(crate) struct Dram {
    /// Frames that may be used.
    limit: AtomicU32,
    /// Frames that hold pages.
    used: AtomicU64,
    /// Frames beyond the limit, as far as they are free.
    withheld: Mutex<FrameList>,
    frames_max: u32,
    low: AtomicU32,
    high: AtomicU32,
    overcommit: AtomicBool,
    /// What guests have above their floors for their weights, on average.
    fair_excess: AtomicU64,
    /// Some guest has clearly more than that.
    uneven: AtomicBool,
    awake: AtomicBool,
    waker: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl fmt::Debug for Dram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (f.debug_struct("Dram"))
            .field("limit", &self.limit)
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

impl Dram {
    pub(crate) fn new(frames_max: u32) -> Self {
        let dram = Self {
            limit: AtomicU32::new(frames_max),
            used: AtomicU64::new(0),
            withheld: Mutex::default(),
            frames_max,
            low: AtomicU32::new(0),
            high: AtomicU32::new(0),
            overcommit: AtomicBool::new(false),
            fair_excess: AtomicU64::new(0),
            uneven: AtomicBool::new(false),
            awake: AtomicBool::new(false),
            waker: Mutex::new(None),
        };
        dram.set_marks(DEFAULT_LOW, DEFAULT_HIGH);
        dram
    }

    fn set_marks(&self, low: f64, high: f64) {
        let of = |share: f64| {
            let frames = f64::from(self.limit.load(Ordering::Relaxed)) * share;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share of a u32"
            )]
            let frames = frames as u32;
            frames
        };
        self.low.store(of(low), Ordering::Relaxed);
        self.high.store(of(high).max(1), Ordering::Relaxed);
    }
}

/// Frames that are to be free, as a share of all.
const DEFAULT_LOW: f64 = 0.01;
/// The same.
const DEFAULT_HIGH: f64 = 0.02;

impl Shared {
    /// There is a tier below DRAM.
    #[inline]
    pub(crate) fn is_tiered(&self) -> bool {
        self.lower.iter().any(Option::is_some)
    }

    /// A lower tier, if it is there.
    #[inline]
    pub(crate) fn lower(&self, lower: Lower) -> Option<&LowerTier> {
        self.lower[lower.number()].as_ref()
    }

    /// Pages that all tiers can hold.
    pub(crate) fn room(&self) -> u64 {
        let below: u64 = self
            .lower
            .iter()
            .flatten()
            .map(LowerTier::promised_room)
            .sum();
        self.dram_limit() + below
    }

    /// Promises may exceed what the tiers can hold.
    pub(crate) fn may_overcommit(&self) -> bool {
        self.dram.overcommit.load(Ordering::Relaxed)
    }

    pub(crate) fn set_overcommit(&self, allowed: bool) {
        self.dram.overcommit.store(allowed, Ordering::Relaxed);
    }

    /// Frames that may be used.
    #[inline]
    pub(crate) fn dram_limit(&self) -> u64 {
        u64::from(self.dram.limit.load(Ordering::Relaxed))
    }

    /// Frames that may be used and are not.
    #[inline]
    pub(crate) fn dram_free(&self) -> u64 {
        self.dram_limit()
            .saturating_sub(self.dram.used.load(Ordering::Relaxed))
    }

    /// Frames in use.
    pub(crate) fn dram_used(&self) -> u64 {
        self.dram.used.load(Ordering::Relaxed)
    }

    /// Counts frames that pages of a guest take now, and wakes the mover when few are left.
    #[inline]
    pub(crate) fn enter_dram(&self, account: &Account, frames: u64) {
        account.enter_dram(frames);
        let used = self.dram.used.fetch_add(frames, Ordering::Relaxed) + frames;
        if used + u64::from(self.dram.low.load(Ordering::Relaxed)) > self.dram_limit() {
            self.wake_mover();
        }
    }

    /// Counts frames off.
    #[inline]
    pub(crate) fn leave_dram(&self, account: &Account, frames: u64) {
        if frames > 0 {
            account.leave_dram(frames);
            self.dram.used.fetch_sub(frames, Ordering::Relaxed);
        }
    }

    pub(crate) fn watermarks(&self) -> Watermarks {
        Watermarks {
            low: self.dram.low.load(Ordering::Relaxed).into(),
            high: self.dram.high.load(Ordering::Relaxed).into(),
        }
    }

    /// Changes the watermarks: shares of all frames.
    pub(crate) fn set_watermarks(&self, low: f64, high: f64) {
        self.dram.set_marks(low, high);
        self.wake_mover();
    }

    /// Calls the mover, if it may have pages to move.
    pub(crate) fn wake_mover(&self) {
        if self.is_tiered() {
            self.call_mover();
        }
    }

    /// Calls the mover, unless it is on its way.
    pub(crate) fn call_mover(&self) {
        if !self.dram.awake.swap(true, Ordering::Relaxed)
            && let Some(waker) = &*self.dram.waker.lock()
        {
            waker();
        }
    }

    pub(crate) fn mover_is_awake(&self) {
        self.dram.awake.store(false, Ordering::Relaxed);
    }

    pub(crate) fn set_waker(&self, waker: Box<dyn Fn() + Send>) {
        *self.dram.waker.lock() = Some(waker);
    }

    /// Works out what each guest would have above its floor for its weight, were all alike.
    pub(crate) fn set_fair_excess(&self, accounts: &[Arc<Account>]) {
        let (mut frames, mut weights) = (0, 0);
        for account in accounts {
            let (floor, weight) = account.floor_and_weight();
            frames += account.dram().saturating_sub(floor);
            weights += weight;
        }
        let fair = (frames << 16) / weights.max(1);
        self.dram.fair_excess.store(fair, Ordering::Relaxed);
        let uneven = accounts.iter().any(|of| of.excess() > fair + fair / 32);
        self.dram.uneven.store(uneven, Ordering::Relaxed);
    }

    /// A guest has clearly less of DRAM than its share of what is used; or no more than that, where some
    /// other clearly has.
    pub(crate) fn is_owed_dram(&self, account: &Account) -> bool {
        let fair = self.dram.fair_excess.load(Ordering::Relaxed);
        let excess = account.excess();
        excess < fair / 16 * 15 || (excess <= fair && self.dram.uneven.load(Ordering::Relaxed))
    }

    /// Changes the frames that may be used: more at once, fewer as they become free.
    pub(crate) fn set_dram_limit(&self, frames: u32) {
        let marks = self.watermarks();
        let before = self.dram_limit().max(1);
        self.dram.limit.store(frames, Ordering::Relaxed);
        let scaled = |mark: u64| u32::try_from(mark * u64::from(frames) / before).unwrap_or(0);
        self.dram.low.store(scaled(marks.low), Ordering::Relaxed);
        self.dram
            .high
            .store(scaled(marks.high).max(1), Ordering::Relaxed);
        let mut withheld = self.dram.withheld.lock();
        let beyond = (self.dram.frames_max - frames) as usize;
        let more = withheld.len().saturating_sub(beyond);
        if more > 0 {
            self.free.absorb(withheld.take_low(more));
            if withheld.len() == 0 {
                self.gathered.lock().take_back();
            }
        }
    }

    /// Takes free frames beyond the limit out of use, and gives their memory back. Returns how many.
    pub(crate) fn withhold_frames(&self) -> usize {
        let mut withheld = self.dram.withheld.lock();
        let beyond = (self.dram.frames_max - self.dram.limit.load(Ordering::Relaxed)) as usize;
        let taken = self.free.take_end(beyond.saturating_sub(withheld.len()));
        if taken.len() > 0 {
            let mut gathered = self.gathered.lock();
            taken.visit_runs(|frames| {
                gathered.give_back(&frames);
                self.frames.mapping().discard(frames);
            });
        }
        let count = taken.len();
        withheld.absorb(taken);
        count
    }

    /// Calls `seen` with each frame that is out of use.
    pub(crate) fn visit_withheld(&self, mut seen: impl FnMut(u32)) {
        self.dram.withheld.lock().visit(&mut seen);
    }

    /// Makes an account known by its guest's slot.
    pub(crate) fn know(&self, account: Account) -> Arc<Account> {
        account.set_hits(self.policy_hits(account.slot));
        let account = Arc::new(account);
        let slot = account.slot as usize;
        let mut accounts = self.accounts.write();
        if accounts.len() <= slot {
            accounts.resize_with(slot + 1, Weak::new);
        }
        accounts[slot] = Arc::downgrade(&account);
        account
    }

    /// The account of the guest in this slot.
    pub(crate) fn account(&self, slot: u32) -> Option<Arc<Account>> {
        self.accounts.read().get(slot as usize)?.upgrade()
    }

    /// All accounts.
    pub(crate) fn accounts(&self) -> Vec<Arc<Account>> {
        let accounts = self.accounts.read();
        accounts.iter().filter_map(Weak::upgrade).collect()
    }

    /// All pools.
    pub(crate) fn all_pools(&self) -> Vec<Arc<Pool>> {
        let pools = self.pools.read();
        pools.iter().filter_map(Weak::upgrade).collect()
    }

    /// A frame for a put, where there are tiers below: from an ephemeral page, from a victim, or by
    /// writing pages to a tier here and now.
    pub(crate) fn find_frame_below(&self, worker: u16) -> Option<OwnedFrame> {
        self.wake_mover();
        for round in 0..ROUNDS_MAX {
            let made = self.make_room(worker, round == 0);
            if let Made::Frame(frame) = made {
                return Some(frame);
            }
            if let Some(frame) = self.free.take(worker) {
                return Some(frame);
            }
            if matches!(made, Made::Nothing) {
                if !self.has_room_below() && round > 100 {
                    return None;
                }
                std::thread::yield_now();
            }
        }
        None
    }

    /// Keeps a guest that has just put a page, and all together, within their limits.
    #[inline]
    pub(crate) fn obey(&self, account: &Account, worker: u16) {
        if account.is_over_cap() {
            self.obey_cap(account, worker);
        }
        if self.is_tiered() && self.dram_used() > self.dram_limit() {
            self.obey_limit(worker);
        }
    }

    /// Brings DRAM back to its limit after a put. The frames beyond it, which workers have for the
    /// moment between, are not for pages to stay in.
    #[cold]
    pub(crate) fn obey_limit(&self, worker: u16) {
        self.wake_mover();
        for round in 0..LIMIT_ROUNDS_MAX {
            if self.dram_used() <= self.dram_limit() {
                return;
            }
            match self.make_room(worker, round == 0) {
                Made::Frame(frame) => self.free.give(worker, frame),
                Made::Progress => {}
                Made::Nothing => std::thread::yield_now(),
            }
        }
    }

    /// Whether one more page finds a place in DRAM, or can make one. Without overcommitment it does.
    pub(crate) fn finds_room(&self, worker: u16) -> bool {
        for round in 0..LIMIT_ROUNDS_MAX {
            if self.dram_used() < self.dram_limit() {
                return true;
            }
            match self.make_room(worker, round == 0) {
                Made::Frame(frame) => self.free.give(worker, frame),
                Made::Progress => {}
                Made::Nothing => return false,
            }
        }
        false
    }

    /// Takes a page out of DRAM, an ephemeral one first, then of whoever has most above its share. A
    /// victim that was got is spared for `mercy`'s sake.
    fn make_room(&self, worker: u16, mercy: bool) -> Made {
        match self.evict(worker, None) {
            Evicted::Frame(frame) => return Made::Frame(frame),
            Evicted::Later => return Made::Progress,
            Evicted::Nothing => {}
        }
        let mut accounts = self.accounts();
        accounts.sort_by_key(|account| std::cmp::Reverse(account.excess()));
        // Floors count as long as anybody is above its own.
        for floors in [true, false] {
            for account in accounts.iter().filter(|of| !floors || of.excess() > 0) {
                if let Some(frame) = self.release_one(account, worker, mercy) {
                    return Made::Frame(frame);
                }
                // Not another's page as long as this one's can be written below.
                let most = if floors {
                    account.above_floor()
                } else {
                    u64::MAX
                };
                let most =
                    usize::try_from(most).map_or(DEMOTE_BATCH, |most| most.min(DEMOTE_BATCH));
                if self.demote(account, worker, most) > 0 {
                    return Made::Progress;
                }
            }
        }
        Made::Nothing
    }

    /// Drops an ephemeral page of a guest, if it has one.
    pub(crate) fn evict_of(&self, account: &Account, worker: u16) -> Evicted {
        if account.ephemeral_frames() == 0 {
            return Evicted::Nothing;
        }
        self.evict(worker, Some(account.slot))
    }

    /// The frame of a guest's oldest victim that lets go at once.
    pub(crate) fn release_one(
        &self,
        account: &Account,
        worker: u16,
        mercy: bool,
    ) -> Option<OwnedFrame> {
        loop {
            match self.release_victim(account, worker, mercy) {
                Released::Frame(frame) => return Some(frame),
                Released::Later | Released::Stays => {}
                Released::Nothing => return None,
            }
        }
    }

    /// Frees one frame of a guest, which goes to `frames` unless a reader has it still. False if it has
    /// no page that could go at once.
    pub(crate) fn reclaim_one(
        &self,
        account: &Account,
        worker: u16,
        frames: &mut Vec<OwnedFrame>,
    ) -> bool {
        match self.evict_of(account, worker) {
            Evicted::Frame(frame) => frames.push(frame),
            Evicted::Later => {}
            Evicted::Nothing => loop {
                match self.release_victim(account, worker, false) {
                    Released::Frame(frame) => frames.push(frame),
                    Released::Later => {}
                    Released::Stays => continue,
                    Released::Nothing => return false,
                }
                break;
            },
        }
        true
    }

    /// Brings a guest that has just put a page back below its cap.
    #[cold]
    pub(crate) fn obey_cap(&self, account: &Account, worker: u16) {
        self.wake_mover();
        for round in 0..CAP_ROUNDS_MAX {
            if !account.is_over_cap() {
                return;
            }
            let frame = match self.evict_of(account, worker) {
                Evicted::Frame(frame) => Some(frame),
                Evicted::Later => None,
                Evicted::Nothing => self.release_one(account, worker, round == 0),
            };
            match frame {
                Some(frame) => self.free.give(worker, frame),
                None => {
                    self.demote(account, worker, DEMOTE_BATCH);
                }
            }
        }
        account.count_over_cap();
    }

    /// Forgets a pool in the stores: none of its pages comes back.
    pub(crate) fn forget_pool(&self, pool_slot: u32) {
        for tier in self.lower.iter().flatten() {
            if tier.store.outlives_the_map()
                && let Err(error) = tier.store.drop_pool(pool_slot)
            {
                tier.note_error(&error);
            }
        }
    }

    /// Counts of a tier, if it is there.
    pub(crate) fn tier_stats(&self, tier: Tier) -> Option<TierStats> {
        let Some(lower) = tier.lower() else {
            return Some(TierStats {
                capacity_pages: self.dram_limit(),
                used_pages: self.dram_used(),
                victim_pages: self.accounts().iter().map(|of| of.victims.len()).sum(),
                ephemeral_pages: self.ephemeral().0,
                ..TierStats::default()
            });
        };
        let lower = self.lower(lower)?;
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Some(TierStats {
            capacity_pages: lower.capacity(),
            used_pages: count(&lower.used),
            draining: lower.draining.load(Ordering::Relaxed),
            demoted: count(&lower.counts.demoted),
            promoted: count(&lower.counts.promoted),
            reads: count(&lower.counts.reads),
            read_errors: count(&lower.counts.read_errors),
            write_errors: count(&lower.counts.write_errors),
            ..TierStats::default()
        })
    }
}
