// SPDX-License-Identifier: GPL-2.0
//! The worker that brings the balloon to its goal: one step after the other, each one request to
//! the host.
//!
//! Growing is patient. Blocks come first; when the kernel has none, single pages, and blocks are tried
//! again a second later. The worker goes slowly when the kernel's free memory is scarce, so that those who
//! free memory have what they need for it. An allocation that fails is no reason to press harder: it waits,
//! longer each time, while reclaim and swap do theirs. What the host refuses goes back to the kernel, and
//! if nothing better is to be expected the worker rests until the host has another wish.
//!
//! Shrinking is fast: the pages are the kernel's again before the host hears of it. Single pages go
//! first, because blocks are the better ones to have away.

use super::{
    goal::{self, Backoff, Ways},
    pages::{self, Batch, Page, Place, Ranges},
    Balloon,
};
use crate::{ffi, wire};
use core::ptr;
use kernel::{
    prelude::*,
    sync::atomic::{Acquire, Relaxed},
};

/// Most blocks of a request (128 MiB), so that progress shows and the host is not held up.
const BLOCKS_MAX: u64 = 64;
/// Most single pages of a request.
const SINGLES_MAX: u64 = 512;
/// Pages of a block.
const BLOCK: u64 = super::ffi::BLOCK_PAGES as u64;
/// Steps of the worker at a time. Then it queues up again, so that a system that wants to sleep
/// does not wait for it for long.
const STEPS: u32 = 64;
/// A balloon in use looks at its floor and its goal so often.
const LOOK_MS: u32 = 1000;
/// Single pages of a request, and the pause after it, while the kernel's free memory is scarce. It takes
/// some, or else kswapd would not see that more is wanted.
const SCARCE_MAX: u64 = 32;
const SCARCE_MS: u32 = 5;
/// Time until blocks are tried again when the kernel had none.
const BLOCKS_AGAIN_NS: u64 = 1_000_000_000;

/// What the worker knows from one step to the next.
pub(super) struct Plan {
    batch: Batch,
    /// Pages that are on their way back to the kernel.
    leaving: KVec<Page>,
    ranges: Ranges,
    /// Number of the host's wish that `ways` belongs to.
    wish: u64,
    ways: Ways,
    patience: Backoff,
    /// Where memory came from last.
    place: Place,
    /// Blocks are not tried before.
    blocks_at: u64,
    /// The host knows that the goal is reached.
    told: bool,
}

// SAFETY: the pages belong to whoever has the plan.
unsafe impl Send for Plan {}

impl Plan {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            batch: Batch::new(SINGLES_MAX as usize)?,
            leaving: KVec::from_elem(
                ptr::null_mut(),
                wire::BALLOON_RANGES_MAX as usize,
                GFP_KERNEL,
            )?,
            ranges: Ranges::new()?,
            wish: 0,
            ways: Ways::OPEN,
            patience: Backoff::new(20, 2000),
            place: Place::NOWHERE,
            blocks_at: 0,
            told: true,
        })
    }
}

/// When the worker goes on.
enum Next {
    Now,
    /// In so many milliseconds.
    In(u32),
    /// At the next wish; until then it has a look now and then.
    Rest,
}

impl Balloon {
    /// The work: steps until there is nothing to do for now.
    pub(super) fn act(&self) {
        let mut plan = self.plan.lock();
        for _ in 0..STEPS {
            if self.is_ending() {
                return;
            }
            let next = self.step(&mut plan);
            self.note();
            match next {
                // SAFETY: the worker may sleep.
                Next::Now => unsafe { ffi::vtmem_cond_resched() },
                Next::In(ms) => return self.act.run_in(ms),
                Next::Rest => {
                    if self.store.held() > 0 || self.target() > 0 {
                        self.act.run_in(LOOK_MS);
                    }
                    return;
                }
            }
        }
        self.act.run_in(0);
    }

    fn step(&self, plan: &mut Plan) -> Next {
        let wish = self.wishes.load(Acquire);
        if wish != plan.wish {
            plan.wish = wish;
            plan.ways = Ways::OPEN;
            plan.patience.reset();
            plan.blocks_at = 0;
            plan.told = false;
            self.figures.reason.set(0);
        }
        let (goal, held) = (self.goal(), self.store.held());
        if held > goal {
            plan.told = false;
            return self.shrink(plan, held.wrapping_sub(goal));
        }
        if held == goal {
            if !plan.told {
                plan.told = true;
                self.tell.run_now();
            }
            return Next::Rest;
        }
        let rest = self.relief_ms();
        if rest > 0 {
            return Next::In(rest.min(LOOK_MS));
        }
        self.grow(plan, goal.wrapping_sub(held))
    }

    /// Takes up to `want` pages, in one request.
    fn grow(&self, plan: &mut Plan, want: u64) -> Next {
        let now = ffi::now_ns();
        let mut short = false;
        if plan.ways.blocks && want >= BLOCK && now >= plan.blocks_at && !plan.place.is_low() {
            let blocks = (want / BLOCK).min(BLOCKS_MAX);
            if !plan.batch.fill_blocks(blocks) {
                plan.blocks_at = now.saturating_add(BLOCKS_AGAIN_NS);
            }
        }
        if plan.batch.is_empty() && plan.ways.singles {
            short = !plan.batch.fill_singles(want.min(SINGLES_MAX), SCARCE_MAX);
        }
        if short {
            self.figures.failed_allocations.inc();
        }
        if plan.batch.is_empty() {
            if short {
                return Next::In(plan.patience.step());
            }
            // Nothing may be tried now; perhaps blocks, later.
            return Next::Rest;
        }
        plan.place = plan.batch.place();
        let Some(entered) = self.inflate(plan) else {
            return Next::Rest;
        };
        if entered > 0 {
            plan.patience.reset();
        }
        if short || entered == 0 {
            return Next::In(plan.patience.step());
        }
        if plan.place.is_low() {
            return Next::In(SCARCE_MS);
        }
        Next::Now
    }

    /// Sends the batch. Pages that are in the balloon by this; None: the host did not answer, and
    /// the pages are the kernel's again.
    fn inflate(&self, plan: &mut Plan) -> Option<u64> {
        let mut turn = self.line.turn();
        for range in plan.batch.ranges.list() {
            // There is room for all: a request takes as many as `Ranges` does.
            let _ = turn.add(range.first, range.pages);
        }
        self.figures.requests.inc();
        let Ok(response) = turn.send(wire::balloon::INFLATE) else {
            plan.batch.abandon();
            return None;
        };
        let blocks = plan.batch.blocks;
        let ok = response.status == wire::status::OK;
        let verdict = plan.batch.settle(
            &self.store,
            |nth| if ok { turn.result(nth) } else { u8::MAX },
        );
        drop(turn);
        self.figures.inflated.add(verdict.entered);
        if verdict.refused > 0 {
            self.figures.refused.add(verdict.refused);
            self.figures.reason.set(u64::from(verdict.reason));
            if ok {
                plan.ways.refused(verdict.reason, blocks);
            } else {
                plan.ways = Ways::CLOSED;
            }
            if ffi::may_log() {
                pr_warn!(
                    "the host does not free {} pages of the balloon: {} (status {}, result {})\n",
                    verdict.refused,
                    goal::words(verdict.reason),
                    response.status,
                    verdict.reason
                );
            }
        }
        Some(verdict.entered)
    }

    /// Gives back up to `want` pages, and tells the host in one request.
    fn shrink(&self, plan: &mut Plan, want: u64) -> Next {
        plan.ranges.clear();
        let most = want.min(plan.leaving.len() as u64) as usize;
        let mut gone = 0u64;
        if let Some(room) = plan.leaving.get_mut(..most) {
            let taken = self.store.take_singles(room);
            for &page in room.iter().take(taken) {
                // There is room for all: no more pages than ranges.
                let _ = plan.ranges.add(pages::frame(page), 1);
                pages::free(page, false);
            }
            gone = taken as u64;
        }
        if gone == 0 {
            gone = self.shrink_blocks(&mut plan.ranges, want);
        }
        if gone == 0 {
            // Compaction has the last single pages in its hands; it will bring them back.
            return Next::In(plan.patience.step());
        }
        plan.patience.reset();
        self.figures.deflated.add(gone);
        let mut turn = self.line.turn();
        for range in plan.ranges.list() {
            let _ = turn.add(range.first, range.pages);
        }
        self.figures.requests.inc();
        // The host learns of pages that it did not hear of by the next statistics.
        let _ = turn.send(wire::balloon::DEFLATE);
        Next::Now
    }

    /// Gives back up to `want` pages of blocks: whole ones, or else a part of one.
    fn shrink_blocks(&self, ranges: &mut Ranges, want: u64) -> u64 {
        let mut gone = 0u64;
        for _ in 0..(want / BLOCK).clamp(1, BLOCKS_MAX) {
            let Some(block) = self.store.take_block() else {
                break;
            };
            if want >= BLOCK {
                let _ = ranges.add(pages::frame(block), super::ffi::BLOCK_PAGES);
                pages::free(block, true);
                gone = gone.wrapping_add(BLOCK);
            } else {
                self.store.split(block, want as u32, |frame| {
                    let _ = ranges.add(frame, 1);
                });
                gone = want;
            }
        }
        gone
    }

    /// Gives everything back to the kernel, without a word to the host.
    pub(super) fn empty(&self) {
        let mut pages = [ptr::null_mut::<kernel::bindings::page>(); 32];
        let mut waits = 0;
        while let Some(block) = self.store.take_block() {
            pages::free(block, true);
            self.figures.deflated.add(BLOCK);
        }
        while self.store.held() > 0 {
            let taken = self.store.take_singles(&mut pages);
            for &page in pages.iter().take(taken) {
                pages::free(page, false);
            }
            self.figures.deflated.add(taken as u64);
            if taken == 0 {
                // Compaction has some, and must be done with them before the balloon goes.
                waits += 1;
                if waits % 1000 == 0 {
                    pr_warn!(
                        "{} balloon pages are still being moved\n",
                        self.store.held()
                    );
                }
                // SAFETY: the caller may sleep.
                unsafe { kernel::bindings::msleep(1) };
            }
        }
        self.note();
    }

    /// The host's target, in pages.
    pub(super) fn target(&self) -> u64 {
        self.target.load(Relaxed)
    }
}
