// SPDX-License-Identifier: GPL-2.0
//! Telling the host to forget blocks that were written.
//!
//! No read depends on it: a block without a bit is never asked for, and its page is replaced by the next
//! copy. It frees the host's memory, so it is done a moment later, in batches, and a range for
//! which there is no room in the list is left to the host's own ageing.

use super::{decide::Flush, link::User, target::Target};
use crate::{
    bio::Segment,
    call::Call,
    request::{Answer, PAGES_MAX},
    sync::IrqLock,
    wire,
};
use kernel::{prelude::*, static_lock_class};

/// Ranges that are remembered.
const RANGES: usize = 512;
/// Words of the filter in one request.
const WORDS: usize = 64;

/// Ranges that were written: first block, and blocks.
pub(super) struct Ranges(IrqLock<KVec<(u32, u32)>>);

impl Ranges {
    pub(super) fn new() -> Result<Self> {
        let ranges = KVec::with_capacity(RANGES, GFP_KERNEL)?;
        Ok(Self(IrqLock::new(ranges, static_lock_class!())))
    }

    /// Remembers a range; false if there is no room.
    fn push(&self, first: u32, blocks: u32) -> bool {
        let mut ranges = self.0.lock();
        if let Some(last) = ranges.last_mut() {
            // Writes in a row are one range.
            if last.0.checked_add(last.1) == Some(first) && last.1.checked_add(blocks).is_some() {
                last.1 = last.1.wrapping_add(blocks);
                return true;
            }
        }
        ranges.push_within_capacity((first, blocks)).is_ok()
    }

    fn pop(&self) -> Option<(u32, u32)> {
        self.0.lock().pop()
    }
}

impl Target {
    /// Has the host forget blocks, some time.
    pub(super) fn forget(&self, first: u32, blocks: u32) {
        if self.ranges.push(first, blocks) {
            self.chores.run_in(super::target::FORGET_MS);
        } else {
            self.counts.unflushed.add(u64::from(blocks));
        }
    }

    /// Sends what there is to be forgotten. May sleep.
    pub(super) fn send_flushes(&self) {
        while let Some(user) = User::new(self) {
            let Some(range) = self.ranges.pop() else {
                return;
            };
            let Ok(mut call) = KBox::new(FlushCall::new(user), GFP_KERNEL) else {
                self.counts.unflushed.add(u64::from(range.1));
                return;
            };
            let mut next = Some(range);
            while let Some((first, blocks)) = next {
                if let Some((first, blocks)) = call.add(self, first, blocks) {
                    if !self.ranges.push(first, blocks) {
                        self.counts.unflushed.add(u64::from(blocks));
                    }
                    break;
                }
                next = self.ranges.pop();
            }
            if call.count == 0 {
                continue;
            }
            let blocks = u64::from(call.count);
            let device = call.user.device().clone();
            if let Err((call, _)) = device.call(call) {
                self.counts.unflushed.add(blocks);
                call.end(None);
            }
        }
    }
}

/// Blocks that the host is told to forget.
struct FlushCall {
    user: User,
    words: [Flush; WORDS],
    used: usize,
    indices: [u32; PAGES_MAX],
    count: u32,
    /// The blocks follow each other, so that they need not be listed.
    run: bool,
}

impl FlushCall {
    fn new(user: User) -> Self {
        Self {
            user,
            words: [Flush::default(); WORDS],
            used: 0,
            indices: [0; PAGES_MAX],
            count: 0,
            run: true,
        }
    }

    /// Adds a range; returns what does not fit.
    fn add(&mut self, target: &Target, first: u32, blocks: u32) -> Option<(u32, u32)> {
        let limits = &self.user.device().shared.limits;
        let most = if limits.list { limits.pages } else { 0 };
        for word in Flush::begin(&target.filter, first, blocks) {
            let (start, length) = word.extent();
            let first_index = self.indices.first().copied().unwrap_or(0);
            let run = self.run
                && length == word.count()
                && (self.count == 0 || first_index.wrapping_add(self.count) == start);
            let count = self.count.wrapping_add(word.count());
            let room = self.words.get_mut(self.used);
            let (Some(room), true) = (room, run || count <= most) else {
                word.end(&target.filter);
                if self.used == 0 {
                    // It never will: this device takes no lists.
                    target.counts.unflushed.add(u64::from(word.count()));
                    continue;
                }
                let end = first.wrapping_add(blocks);
                return Some((start, end.wrapping_sub(start)));
            };
            *room = word;
            self.used = self.used.wrapping_add(1);
            let rest = self.indices.iter_mut().skip(self.count as usize);
            for (to, index) in rest.zip(word.indices()) {
                *to = index;
            }
            self.count = count;
            self.run = run;
        }
        None
    }
}

impl Call for FlushCall {
    fn header(&self) -> wire::RequestHeader {
        let run = self.run.then(|| self.index(0));
        self.user.header(wire::op::FLUSH, run, self.count)
    }

    fn index(&self, nth: u32) -> u32 {
        self.indices.get(nth as usize).copied().unwrap_or(0)
    }

    fn each_segment(&self, _: &mut dyn FnMut(Segment)) {}

    fn end(self: KBox<Self>, answer: Option<&Answer>) {
        let target = self.user.target();
        for word in self.words.iter().take(self.used) {
            word.end(&target.filter);
        }
        if let Some(answer) = answer.filter(|answer| answer.status == wire::status::OK) {
            let done = answer.done.min(self.count);
            target.counts.flushed.add(u64::from(done));
        }
    }
}
