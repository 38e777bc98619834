// SPDX-License-Identifier: GPL-2.0
//! Reads: which blocks of a bio come from the host, which from the disk, and what becomes of a get
//! that did not deliver.
//!
//! A get reads straight into the reader's pages. If it fails in part, whatever it has left there is
//! overwritten by the disk's answer: the whole bio is read anew, by a worker, as a get may end in an
//! interrupt.

use super::{
    copy::{self, Copy},
    decide::{plan, Fill, Get, Plan},
    ffi,
    link::User,
    target::Target,
};
use crate::{
    bio::{Bio, Segment, SECTORS_SHIFT},
    call::Call,
    request::{Answer, Limits},
    wire,
};
use kernel::{bindings, prelude::*};

/// Blocks of a read, if it is one of whole blocks of which the filter knows.
fn blocks_of(bio: *const bindings::bio, known: u32) -> Option<(u32, u32)> {
    // SAFETY: the caller has the bio.
    let (sector, bytes) = unsafe { (ffi::vtmem_bio_sector(bio), ffi::vtmem_bio_bytes(bio)) };
    if sector % (1 << SECTORS_SHIFT) != 0 || bytes as usize % wire::PAGE_SIZE != 0 {
        return None;
    }
    let first = u32::try_from(sector >> SECTORS_SHIFT).ok()?;
    let blocks = bytes >> wire::PAGE_SHIFT;
    let fits = blocks > 0 && first.checked_add(blocks)? <= known;
    fits.then_some((first, blocks))
}

/// Whether the bio's memory can go into descriptors as it is.
fn is_whole(bio: &Bio, blocks: u32, limits: &Limits) -> bool {
    let mut left = u64::from(blocks) << wire::PAGE_SHIFT;
    let mut count = 0usize;
    for segment in bio.segments() {
        let len = u64::from(segment.len).min(left);
        if len == 0 {
            break;
        }
        if len % wire::PAGE_SIZE as u64 != 0 {
            return false;
        }
        left = left.saturating_sub(len);
        count = count.wrapping_add(1);
    }
    left == 0 && count <= limits.segments
}

impl Target {
    /// A read that device mapper hands over. True: the target will end it; otherwise it goes to the
    /// disk as it is now, perhaps cut.
    ///
    /// # Safety
    ///
    /// `raw` is a read that may be cut (`dm_accept_partial_bio`), and the caller's.
    pub(super) unsafe fn read(&self, raw: *mut bindings::bio) -> bool {
        let Some((first, blocks)) = blocks_of(raw, self.blocks) else {
            self.counts.unaligned.inc();
            return false;
        };
        let Some(user) = User::new(self) else {
            return false;
        };
        if self.link.is_stalled(self.stall_ns) {
            self.counts.bypassed.add(u64::from(blocks));
            return false;
        }
        // SAFETY: as for this function.
        let Some(bio) = (unsafe { Bio::from_raw(raw) }) else {
            return false;
        };
        match plan(
            &self.filter,
            first,
            blocks,
            user.device().shared.limits.pages,
        ) {
            Plan::Get(get) => {
                // SAFETY: as for this function. After the cut the bio has the blocks of the get.
                unsafe { cut(raw, get.blocks) };
                if !is_whole(&bio, get.blocks, &user.device().shared.limits) {
                    return false;
                }
                self.get(user, get, bio)
            }
            Plan::Origin(length) => {
                let length = length.min(blocks);
                self.counts.spared.add(u64::from(length));
                let filled = length.min(self.fill_blocks(&user));
                let Some(fill) = Fill::begin(&self.filter, first, filled) else {
                    // SAFETY: as for this function.
                    unsafe { cut(raw, length) };
                    return false;
                };
                let Some(copy) = self.take_copy() else {
                    self.counts.skipped.add(u64::from(length));
                    // SAFETY: as for this function.
                    unsafe { cut(raw, length) };
                    return false;
                };
                // What is cut off comes back as a read of its own, and is counted then.
                let rest = u64::from(length.wrapping_sub(filled));
                self.counts.spared.sub(rest);
                // SAFETY: as for this function.
                unsafe { cut(raw, filled) };
                self.copy(user, fill, copy, bio).is_ok()
            }
        }
    }

    /// The most blocks of a copy that one request can carry.
    fn fill_blocks(&self, user: &User) -> u32 {
        let limits = &user.device().shared.limits;
        super::decide::FILL_BLOCKS
            .min(limits.pages)
            .min(limits.segments as u32)
            .max(1)
    }

    /// Reads by a copy; gives the bio back if that cannot be.
    fn copy(&self, user: User, fill: Fill, copy: Copy, bio: Bio) -> Result<(), Bio> {
        let blocks = u64::from(fill.blocks);
        copy::start(user, fill, copy, bio).map_err(|(_user, copy, bio)| {
            self.counts.skipped.add(blocks);
            self.give_back(copy);
            bio
        })
    }

    /// Asks the host; false if it cannot be asked.
    fn get(&self, user: User, get: Get, bio: Bio) -> bool {
        let device = user.device().clone();
        let Some(poller) = user.again() else {
            return false;
        };
        // SAFETY: the bio is ours.
        let ahead = unsafe { ffi::vtmem_bio_flags(bio.raw()) } & ffi::REQ_RAHEAD != 0;
        // SAFETY: no conditions.
        let waits = !ahead && unsafe { ffi::vtmem_no_plug() };
        let blocks = u64::from(get.blocks);
        let Ok(call) = KBox::new(GetCall { user, get, bio }, GFP_NOWAIT) else {
            self.counts.failed.add(blocks);
            return false;
        };
        self.counts.gets.inc();
        self.link.asked();
        match device.call(call) {
            Ok(inflight) => {
                if waits {
                    device.poll(&inflight);
                }
                drop(poller);
                true
            }
            Err((call, _)) => {
                // The call's bio stays with the caller.
                drop(call);
                self.link.answered();
                self.counts.failed.add(blocks);
                if device.is_dead() {
                    self.leave(false);
                }
                false
            }
        }
    }

    /// Reads from the disk what the host did not deliver. May sleep.
    pub(super) fn read_again(&self, bio: Bio) {
        let raw = bio.raw();
        if let (Some((first, blocks)), Some(user)) = (blocks_of(raw, self.blocks), User::new(self))
        {
            // A bio that map() has let go cannot be cut any more.
            let fill = (blocks <= self.fill_blocks(&user))
                .then(|| Fill::begin(&self.filter, first, blocks))
                .flatten();
            if let Some((fill, copy)) = fill.and_then(|fill| Some((fill, self.take_copy()?))) {
                if self.copy(user, fill, copy, bio).is_ok() {
                    return;
                }
            }
        }
        // SAFETY: the bio is handed back.
        unsafe { ffi::vtmem_resubmit(raw) };
    }
}

/// # Safety
///
/// `bio` is a read that may be cut, and the caller's.
unsafe fn cut(bio: *mut bindings::bio, blocks: u32) {
    // SAFETY: as for this function; a bio's sectors fit 32 bits.
    unsafe { ffi::vtmem_cut_bio(bio, blocks << SECTORS_SHIFT) };
}

/// A read that the host was asked for.
struct GetCall {
    user: User,
    get: Get,
    bio: Bio,
}

impl Call for GetCall {
    fn header(&self) -> wire::RequestHeader {
        wire::RequestHeader {
            op: wire::op::GET,
            pool: self.user.attachment().pool.id(),
            index: self.get.first,
            pages: self.get.blocks,
            ..Default::default()
        }
    }

    fn index(&self, nth: u32) -> u32 {
        self.get.first.wrapping_add(nth)
    }

    fn each_segment(&self, each: &mut dyn FnMut(Segment)) {
        self.bio.segments().for_each(each);
    }

    fn end(self: KBox<Self>, answer: Option<&Answer>) {
        let Self { user, get, bio } = KBox::into_inner(self);
        let target = user.target();
        let counts = &target.counts;
        target.link.answered();
        let blocks = u64::from(get.blocks);
        let Some(answer) = answer.filter(|answer| answer.status == wire::status::OK) else {
            counts.failed.add(blocks);
            if answer.is_none_or(|answer| answer.status == wire::status::NO_POOL) {
                target.leave(false);
            }
            return target.again_later(bio);
        };
        let results = answer.results.iter().take(get.blocks as usize);
        let count_of = |wanted: u8| results.clone().filter(|r| **r == wanted).count() as u64;
        let hits = count_of(wire::result::OK);
        if hits == blocks {
            counts.hits.add(hits);
            return bio.end(crate::ffi::BLK_STS_OK);
        }
        let (missing, corrupt) = (
            count_of(wire::result::MISS),
            count_of(wire::result::CORRUPT),
        );
        counts.misses.add(missing);
        counts.corrupt.add(corrupt);
        counts.failed.add(blocks.saturating_sub(missing));
        // Whatever the reason is, asking for them again would end in the same way.
        get.missed(&target.filter, |nth| {
            answer.results.get(nth as usize) != Some(&wire::result::OK)
        });
        target.again_later(bio);
    }
}
