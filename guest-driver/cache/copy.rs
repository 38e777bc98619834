// SPDX-License-Identifier: GPL-2.0
//! Reads from the disk whose blocks are copied to the host.
//!
//! A read that is worth a copy goes into pages of the driver's own; the reader gets its data from
//! them, and then they are put to the host as they are. The reader's own pages would save that copy of
//! 4 KiB and would be wrong: a program that reads past the page cache may change its buffer while the read
//! or the put is under way, and everybody else would get the change for the disk's contents.
//!
//! There is a fixed number of such copies. When all are under way, reads go to the disk as if there
//! were no cache.

use super::{
    decide::{Fill, Put, FILL_BLOCKS},
    ffi::{self, RawCopy},
    link::User,
};
use crate::{
    bio::{Bio, Segment},
    call::Call,
    request::Answer,
    wire,
};
use core::ptr::NonNull;
use kernel::{ffi::c_void, prelude::*};

/// Pages for one copy.
pub(super) struct Copy(NonNull<RawCopy>);

// SAFETY: the pages belong to whoever holds this.
unsafe impl Send for Copy {}

impl Copy {
    pub(super) fn new() -> Result<Self> {
        // SAFETY: no conditions; may sleep, as targets are made by tasks.
        NonNull::new(unsafe { ffi::vtmem_copy_alloc() })
            .map(Self)
            .ok_or(ENOMEM)
    }

    fn segment(&self, nth: u32) -> Segment {
        Segment {
            // SAFETY: the copy is alive; its pages stay until it is freed.
            page: unsafe { ffi::vtmem_copy_page(self.0.as_ptr(), nth) },
            offset: 0,
            len: wire::PAGE_SIZE as u32,
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // SAFETY: nobody else has the copy, and no bio or request uses it.
        unsafe { ffi::vtmem_copy_free(self.0.as_ptr()) };
    }
}

/// A read under way, into a copy.
struct Reading {
    user: User,
    fill: Fill,
    copy: Copy,
    reader: Bio,
}

/// Reads what `reader`, a bio of as many blocks as `fill`, wants, through a copy. Without memory for the
/// bookkeeping everything is given back.
pub(super) fn start(
    user: User,
    fill: Fill,
    copy: Copy,
    reader: Bio,
) -> Result<(), (User, Copy, Bio)> {
    let (raw, bio, blocks) = (copy.0.as_ptr(), reader.raw(), fill.blocks);
    let Ok(room) = KBox::<Reading>::new_uninit(GFP_NOWAIT) else {
        return Err((user, copy, reader));
    };
    let owner = KBox::into_raw(room.write(Reading {
        user,
        fill,
        copy,
        reader,
    }));
    // SAFETY: copy and bio are alive until `vtmem_copy_done`, which takes the owner back.
    unsafe { ffi::vtmem_copy_start(raw, bio, blocks, owner.cast()) };
    Ok(())
}

/// The disk has delivered, or failed. Any context.
///
/// # Safety
///
/// Called by the C half, once, with the owner that [`start`] gave it.
#[no_mangle]
unsafe extern "C" fn vtmem_copy_done(owner: *mut c_void, ok: bool) {
    // SAFETY: `start` made it of a box.
    let reading = unsafe { KBox::from_raw(owner.cast::<Reading>()) };
    let Reading {
        user,
        fill,
        copy,
        reader,
    } = KBox::into_inner(reading);
    // The reader first: the copy is nobody's hurry. Ending it may free the bio, not the target,
    // which has a user.
    // SAFETY: both are alive; the bio is handed back.
    unsafe { ffi::vtmem_copy_deliver(copy.0.as_ptr(), reader.raw(), ok) };
    match ok.then(|| fill.put(&user.target().filter)).flatten() {
        Some(put) => PutCall::send(user, put, copy),
        None => user.target().give_back(copy),
    }
}

/// A copy on its way to the host.
struct PutCall {
    user: User,
    put: Put,
    copy: Copy,
    /// Places of the pages in the copy.
    numbers: [u8; FILL_BLOCKS as usize],
    count: u32,
    /// The blocks follow each other.
    run: bool,
}

impl PutCall {
    fn send(user: User, put: Put, copy: Copy) {
        let mut numbers = [0; FILL_BLOCKS as usize];
        let mut count = 0u32;
        let mut run = true;
        let mut next = None;
        for (to, number) in numbers.iter_mut().zip(put.numbers()) {
            *to = number as u8;
            run &= next.is_none_or(|next| next == number);
            next = Some(number.wrapping_add(1));
            count = count.wrapping_add(1);
        }
        let device = user.device().clone();
        let counts = user.target().counts.clone();
        let room = match KBox::<Self>::new_uninit(GFP_NOWAIT) {
            Ok(room) if run || device.shared.limits.list => room,
            _ => {
                counts.skipped.add(u64::from(count));
                put.end(&user.target().filter, |_| false);
                return user.target().give_back(copy);
            }
        };
        let call = room.write(Self {
            user,
            put,
            copy,
            numbers,
            count,
            run,
        });
        if let Err((call, _)) = device.call(call) {
            counts.skipped.add(u64::from(count));
            // The same as an answer that nothing was stored.
            call.end(Some(&Answer {
                status: wire::status::SHUTTING_DOWN,
                done: 0,
                results: [u8::MAX; crate::request::PAGES_MAX],
            }));
        }
    }

    fn number(&self, nth: u32) -> u32 {
        self.numbers.get(nth as usize).map_or(0, |n| u32::from(*n))
    }
}

impl Call for PutCall {
    fn header(&self) -> wire::RequestHeader {
        let run = self.run.then(|| self.index(0));
        self.user.header(wire::op::PUT, run, self.count)
    }

    fn index(&self, nth: u32) -> u32 {
        self.put.first().wrapping_add(self.number(nth))
    }

    fn each_segment(&self, each: &mut dyn FnMut(Segment)) {
        for nth in 0..self.count {
            each(self.copy.segment(self.number(nth)));
        }
    }

    fn end(self: KBox<Self>, answer: Option<&Answer>) {
        let Self {
            user,
            put,
            copy,
            count,
            ..
        } = KBox::into_inner(self);
        let target = user.target();
        let Some(answer) = answer else {
            // It may still be stored, at any time: the blocks stay out until the pool is another.
            drop(put);
            target.leave(false);
            return target.give_back(copy);
        };
        let results = answer.results.iter().take(count as usize);
        let ok = answer.status == wire::status::OK;
        let stored = |nth: u32| ok && answer.results.get(nth as usize) == Some(&wire::result::OK);
        let (first, blocks) = put.range();
        let set = put.end(&target.filter, stored);
        let count_of = |wanted: &[u8]| {
            let found = results
                .clone()
                .filter(|result| ok && wanted.contains(result));
            found.count() as u64
        };
        let kept = count_of(&[wire::result::OK]);
        target.counts.puts.add(u64::from(set));
        target.counts.refused.add(count_of(&[
            wire::result::REFUSED_FULL,
            wire::result::REFUSED_FROZEN,
        ]));
        if kept > u64::from(set) {
            target.counts.raced.add(kept.wrapping_sub(u64::from(set)));
            target.forget(first, blocks);
        }
        if answer.status == wire::status::NO_POOL {
            target.leave(false);
        }
        target.give_back(copy);
    }
}
