// SPDX-License-Identifier: GPL-2.0
//! One request: what it carries, how it looks on the wire, and what came back.
//!
//! A request's header, index list and results lie in a [`Frame`] that is allocated once; its pages
//! stay where they are, and the descriptors point at them.

use crate::{
    bio::{Bio, BioList},
    ffi,
    flush::Batch,
    wire,
};
use kernel::{
    bindings,
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
    types::Opaque,
};

/// Most pages of a PUT, GET or listed FLUSH.
pub(crate) const PAGES_MAX: usize = wire::BATCH_PAGES_MAX as usize;
/// The pool that holds the disk's pages.
pub(crate) const POOL: u32 = 1;
/// Descriptors of a request besides its pages: header with list, and response with results.
pub(crate) const EXTRA_DESCRIPTORS: usize = 2;
/// What a response is filled with beforehand: no status and no result has this value, so that a
/// host that writes too little is found out.
const UNANSWERED: u8 = 0xff;

/// What the device and its rings allow.
pub(crate) struct Limits {
    /// Pages of a PUT, GET or listed FLUSH.
    pub(crate) pages: u32,
    /// Descriptors for pages in one request.
    pub(crate) segments: usize,
    /// Requests may list their indices.
    pub(crate) list: bool,
}

/// The device's order of PUTs and FLUSHes.
pub(crate) struct Tickets(Atomic<u64>);

impl Tickets {
    pub(crate) fn new() -> Self {
        Self(Atomic::new(1))
    }

    /// The next ticket, higher than any before.
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1u64, Relaxed)
    }

    /// From now on, tickets are above `seen`.
    pub(crate) fn start_above(&self, seen: u64) {
        self.0.store(seen.wrapping_add(1), Relaxed);
    }
}

/// What a request does, and what is owed for it.
pub(crate) enum Job {
    Put(BioList),
    Get(BioList),
    Discard(Bio),
    Flush(Batch),
}

impl Job {
    /// Forms the next job from `waiting`: as many bios of the first one's kind as fit.
    pub(crate) fn gather(waiting: &mut BioList, limits: &Limits) -> Option<Self> {
        let first = waiting.pop()?;
        let op = first.op();
        if op == ffi::REQ_OP_DISCARD {
            return Some(Self::Discard(first));
        }
        let mut segments = first.segments().count();
        let mut next = first.index().wrapping_add(first.pages());
        let mut list = BioList::one(first);
        while let Some(bio) = waiting.first() {
            let more = bio.segments().count();
            if bio.op() != op
                || list.pages().wrapping_add(bio.pages()) > limits.pages
                || segments.wrapping_add(more) > limits.segments
                || (!limits.list && bio.index() != next)
            {
                break;
            }
            segments = segments.wrapping_add(more);
            next = bio.index().wrapping_add(bio.pages());
            if let Some(bio) = waiting.pop() {
                list.push(bio);
            }
        }
        Some(if op == ffi::REQ_OP_WRITE {
            Self::Put(list)
        } else {
            Self::Get(list)
        })
    }

    /// Pages of guest memory that the request keeps busy.
    pub(crate) fn busy_pages(&self) -> u32 {
        match self {
            Self::Put(list) | Self::Get(list) => list.pages(),
            Self::Discard(_) | Self::Flush(_) => 0,
        }
    }

    /// The bios in order; a flush of freed slots has none.
    pub(crate) fn into_bios(self) -> BioList {
        match self {
            Self::Put(list) | Self::Get(list) => list,
            Self::Discard(bio) => BioList::one(bio),
            Self::Flush(_) => BioList::new(),
        }
    }
}

/// The part of a request that device and driver share, besides the pages.
#[repr(C)]
struct Frame {
    header: [u8; wire::RequestHeader::SIZE],
    indices: [u32; PAGES_MAX],
    response: [u8; wire::ResponseHeader::SIZE],
    results: [u8; PAGES_MAX],
}

/// Heap memory for one [`Frame`], physically contiguous.
pub(crate) struct FrameBox(KBox<Opaque<Frame>>);

/// The answer to a request, copied out of the reach of the host.
pub(crate) struct Answer {
    pub(crate) status: u8,
    /// Pages that the host says it has dealt with.
    pub(crate) done: u32,
    pub(crate) results: [u8; PAGES_MAX],
}

/// A filled scatter-gather table: `split` descriptors to be read, then those to be written.
pub(crate) struct Chain {
    pub(crate) split: usize,
}

impl FrameBox {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(KBox::new(Opaque::zeroed(), GFP_KERNEL)?))
    }

    /// Writes the request into the frame and the table. None: its memory is not made of whole
    /// pages, or needs more than the table holds; the request must not be sent.
    ///
    /// Only called while the device does not have the frame.
    pub(crate) fn fill(
        &mut self,
        job: &Job,
        tickets: &Tickets,
        table: &mut [bindings::scatterlist],
    ) -> Option<Chain> {
        // SAFETY: the box is borrowed for this call alone, and the device does not have the frame.
        let frame = unsafe { &mut *self.0.get() };
        let mut head = wire::RequestHeader {
            pool: POOL,
            ..wire::RequestHeader::default()
        };
        // Results that the device will write.
        let mut results = 0u32;
        match job {
            Job::Put(list) | Job::Get(list) => {
                if list.pages() as usize > PAGES_MAX {
                    return None;
                }
                results = list.pages();
                head.pages = results;
                frame.put_indices(&mut head, list);
                if matches!(job, Job::Put(_)) {
                    head.op = wire::op::PUT;
                    head.ticket = tickets.next();
                } else {
                    head.op = wire::op::GET;
                }
            }
            Job::Discard(bio) => {
                head.op = wire::op::FLUSH;
                head.index = bio.index();
                head.pages = bio.pages();
                head.ticket = tickets.next();
            }
            Job::Flush(batch) => {
                head.op = wire::op::FLUSH;
                head.pages = batch.pages;
                head.ticket = batch.ticket;
                if batch.run {
                    head.index = batch.first;
                } else {
                    head.flags = wire::flag::LIST;
                    results = batch.pages;
                    for (to, index) in frame.indices.iter_mut().zip(batch.indices()) {
                        *to = index.to_le();
                    }
                }
            }
        }
        frame.header = head.to_bytes();
        frame.response.fill(UNANSWERED);
        if let Some(results) = frame.results.get_mut(..results as usize) {
            results.fill(UNANSWERED);
        }

        let listed = if head.flags & wire::flag::LIST != 0 {
            head.pages as usize * size_of::<u32>()
        } else {
            0
        };
        let mut table = Table { table, at: 0 };
        table.buffer(
            frame.header.as_mut_ptr(),
            wire::RequestHeader::SIZE + listed,
        )?;
        if let Job::Put(list) = job {
            table.pages(list)?;
        }
        let split = table.end()?;
        table.buffer(
            frame.response.as_mut_ptr(),
            wire::ResponseHeader::SIZE + results as usize,
        )?;
        if let Job::Get(list) = job {
            table.pages(list)?;
        }
        table.end()?;
        Some(Chain { split })
    }

    /// Copies the answer to a request of `pages` pages. Only called once the device has given the
    /// frame back.
    pub(crate) fn answer(&self) -> Answer {
        let frame = self.0.get();
        // SAFETY: the frame is alive; a host that still writes to it can only change which bytes
        // are copied, all of which are valid.
        let (response, results) = unsafe {
            (
                (&raw const (*frame).response).read_volatile(),
                (&raw const (*frame).results).read_volatile(),
            )
        };
        let response = wire::ResponseHeader::from_bytes(&response);
        Answer {
            status: response.status,
            done: response.done,
            results,
        }
    }
}

impl Frame {
    /// Names the pages of `list`: as a run where they are one, otherwise one by one.
    fn put_indices(&mut self, head: &mut wire::RequestHeader, list: &BioList) {
        let mut run = true;
        let mut next = None;
        let mut indices = self.indices.iter_mut();
        list.for_each(|bio| {
            let first = bio.index();
            run &= next.is_none_or(|next| next == first);
            next = Some(first.wrapping_add(bio.pages()));
            for nth in 0..bio.pages() {
                if let Some(to) = indices.next() {
                    *to = first.wrapping_add(nth).to_le();
                }
            }
        });
        if run {
            head.index = list.first().map_or(0, Bio::index);
        } else {
            head.flags = wire::flag::LIST;
        }
    }
}

/// Fills a scatter-gather table from the front.
struct Table<'a> {
    table: &'a mut [bindings::scatterlist],
    at: usize,
}

impl Table<'_> {
    fn next(&mut self) -> Option<&mut bindings::scatterlist> {
        let entry = self.table.get_mut(self.at)?;
        self.at = self.at.wrapping_add(1);
        Some(entry)
    }

    /// Adds `len` bytes of kernel memory.
    fn buffer(&mut self, start: *mut u8, len: usize) -> Option<()> {
        let entry = self.next()?;
        // SAFETY: the entry is valid, and the memory is part of a `Frame` from the heap.
        unsafe { ffi::vtmem_sg_buffer(entry, start.cast(), len as u32) };
        Some(())
    }

    /// Adds the memory of all bios, whole pages only.
    fn pages(&mut self, list: &BioList) -> Option<()> {
        let mut fits = true;
        list.for_each(|bio| {
            for segment in bio.segments() {
                let Some(entry) = self.next() else {
                    fits = false;
                    return;
                };
                fits &= segment.len != 0 && segment.len as usize % wire::PAGE_SIZE == 0;
                // SAFETY: the entry is valid, and the segment is memory of a bio that we own.
                unsafe { ffi::vtmem_sg_page(entry, segment.page, segment.offset, segment.len) };
            }
        });
        fits.then_some(())
    }

    /// Ends one direction; returns the number of entries so far.
    fn end(&mut self) -> Option<usize> {
        let last = self.table.get_mut(self.at.wrapping_sub(1))?;
        // SAFETY: the entry is valid.
        unsafe { ffi::vtmem_sg_end(last) };
        Some(self.at)
    }
}
