// SPDX-License-Identifier: GPL-2.0
//! One request: what it carries, how it looks on the wire, and what came back.
//!
//! A request's header, index list and results lie in a [`Frame`] that is allocated once; its pages
//! stay where they are, and the descriptors point at them.

use crate::{
    bio::{Bio, BioList, Segment},
    call::Call,
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
/// The pool of a device's first disk; those of its other disks follow, then everybody else's.
pub(crate) const POOL_FIRST: u32 = 1;
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

/// The pool that holds the pages of the device's disk `area`.
pub(crate) fn pool_of(area: u32) -> u32 {
    POOL_FIRST.wrapping_add(area)
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

    /// From now on, tickets are above `seen`, which is what the host says; never lower than before.
    pub(crate) fn start_above(&self, seen: u64) {
        let next = seen.min(wire::TICKET_LIMIT).wrapping_add(1);
        let now = self.0.load(Relaxed);
        if next > now {
            // Nothing is sent while the device is being set up, so that nobody draws meanwhile.
            self.0.store(next, Relaxed);
        }
    }
}

/// What a request does, and what is owed for it.
pub(crate) enum Job {
    Put(BioList),
    Get(BioList),
    Discard(Bio),
    Flush(Batch),
    Call(KBox<dyn Call>),
}

/// A request, as far as it takes to form it.
pub(crate) enum Form<'a> {
    Put(&'a BioList),
    Get(&'a BioList),
    Discard(&'a Bio),
    Flush(&'a Batch),
    Call(&'a dyn Call),
}

/// What a ring can send.
pub(crate) trait Request: Into<Job> {
    fn form(&self) -> Form<'_>;
}

impl Request for Job {
    fn form(&self) -> Form<'_> {
        match self {
            Self::Put(list) => Form::Put(list),
            Self::Get(list) => Form::Get(list),
            Self::Discard(bio) => Form::Discard(bio),
            Self::Flush(batch) => Form::Flush(batch),
            Self::Call(call) => Form::Call(&**call),
        }
    }
}

impl From<Batch> for Job {
    fn from(batch: Batch) -> Self {
        Self::Flush(batch)
    }
}

impl Request for Batch {
    fn form(&self) -> Form<'_> {
        Form::Flush(self)
    }
}

impl From<KBox<dyn Call>> for Job {
    fn from(call: KBox<dyn Call>) -> Self {
        Self::Call(call)
    }
}

impl Request for KBox<dyn Call> {
    fn form(&self) -> Form<'_> {
        Form::Call(&**self)
    }
}

impl Job {
    /// Forms the next job from `waiting`: as many bios of the first one's kind and disk as fit.
    pub(crate) fn gather(waiting: &mut BioList, limits: &Limits) -> Option<Self> {
        let first = waiting.pop()?;
        let op = first.op();
        if op == ffi::REQ_OP_DISCARD {
            return Some(Self::Discard(first));
        }
        let area = first.area();
        let mut segments = first.segments().count();
        let mut next = first.index().wrapping_add(first.pages());
        let mut list = BioList::one(first);
        while let Some(bio) = waiting.first() {
            let more = bio.segments().count();
            if bio.op() != op
                || bio.area() != area
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

    /// The bios in order; flushes of freed slots, and calls, have none.
    pub(crate) fn into_bios(self) -> BioList {
        match self {
            Self::Put(list) | Self::Get(list) => list,
            Self::Discard(bio) => BioList::one(bio),
            Self::Flush(_) | Self::Call(_) => BioList::new(),
        }
    }

    /// Whether the request may be carried out twice. A page that is got exclusively is gone
    /// afterwards, and a second get would not tell that from one that never was.
    pub(crate) fn replays(&self) -> bool {
        match self {
            Self::Call(call) => call.header().flags & wire::flag::EXCLUSIVE == 0,
            _ => true,
        }
    }
}

impl Form<'_> {
    /// The ticket that the request keeps for all of its life; 0 for those that need none.
    pub(crate) fn ticket(&self, tickets: &Tickets) -> u64 {
        match self {
            Self::Put(_) | Self::Discard(_) => tickets.next(),
            Self::Get(_) => 0,
            Self::Flush(batch) => batch.ticket,
            Self::Call(call) => {
                let head = call.header();
                if head.op == wire::op::GET {
                    0
                } else if head.ticket == 0 {
                    tickets.next()
                } else {
                    head.ticket
                }
            }
        }
    }

    /// Pages of guest memory that the request keeps busy.
    pub(crate) fn busy_pages(&self) -> u32 {
        match self {
            Self::Put(list) | Self::Get(list) => list.pages(),
            Self::Discard(_) | Self::Flush(_) => 0,
            Self::Call(call) => {
                let head = call.header();
                if matches!(head.op, wire::op::PUT | wire::op::GET) {
                    head.pages
                } else {
                    0
                }
            }
        }
    }

    /// The request's head, but for its ticket, and how many results the device will write.
    fn head(&self) -> (wire::RequestHeader, u32) {
        let mut head = wire::RequestHeader::default();
        match self {
            Self::Put(list) | Self::Get(list) => {
                head.op = if matches!(self, Self::Put(_)) {
                    wire::op::PUT
                } else {
                    wire::op::GET
                };
                head.pool = list.first().map_or(0, |bio| pool_of(bio.area()));
                head.pages = list.pages();
                if list.is_run() {
                    head.index = list.first().map_or(0, Bio::index);
                } else {
                    head.flags = wire::flag::LIST;
                }
                (head, list.pages())
            }
            Self::Discard(bio) => {
                head.op = wire::op::FLUSH;
                head.pool = pool_of(bio.area());
                head.index = bio.index();
                head.pages = bio.pages();
                (head, 0)
            }
            Self::Flush(batch) => {
                head.op = wire::op::FLUSH;
                head.pool = pool_of(batch.area);
                head.pages = batch.pages;
                if batch.run {
                    head.index = batch.first;
                    (head, 0)
                } else {
                    head.flags = wire::flag::LIST;
                    (head, batch.pages)
                }
            }
            Self::Call(call) => {
                let head = call.header();
                let listed = head.flags & wire::flag::LIST != 0;
                let results = match head.op {
                    wire::op::PUT | wire::op::GET => head.pages,
                    wire::op::FLUSH if listed => head.pages,
                    _ => 0,
                };
                (head, results)
            }
        }
    }

    /// Whether a head is one that the device would take; only calls can have another.
    fn is_sound(&self, head: &wire::RequestHeader, results: u32, limits: &Limits) -> bool {
        let listed = head.flags & wire::flag::LIST != 0;
        let ranged = matches!(head.op, wire::op::PUT | wire::op::GET | wire::op::FLUSH);
        (head.pages != 0) == ranged
            && results <= limits.pages
            && (!listed || (ranged && limits.list && head.index == 0))
            && head.flags & !wire::flag::ALL == 0
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

    /// Writes the request into the frame and the table. None: its head or its memory is not as it
    /// has to be, or it needs more than the table holds; the request must not be sent.
    ///
    /// Only called while the device does not have the frame.
    pub(crate) fn fill(
        &mut self,
        form: &Form<'_>,
        ticket: u64,
        limits: &Limits,
        table: &mut [bindings::scatterlist],
    ) -> Option<Chain> {
        // SAFETY: the box is borrowed for this call alone, and the device does not have the frame.
        let frame = unsafe { &mut *self.0.get() };
        let (mut head, results) = form.head();
        head.ticket = ticket;
        if !form.is_sound(&head, results, limits) {
            return None;
        }
        frame.header = head.to_bytes();
        frame.response.fill(UNANSWERED);
        frame.results.get_mut(..results as usize)?.fill(UNANSWERED);
        let listed = if head.flags & wire::flag::LIST != 0 {
            frame.list(form, head.pages)?;
            head.pages as usize * size_of::<u32>()
        } else {
            0
        };

        let mut table = Table { table, at: 0 };
        table.buffer(
            frame.header.as_mut_ptr(),
            wire::RequestHeader::SIZE + listed,
        )?;
        if head.op == wire::op::PUT {
            table.pages(form, head.pages)?;
        }
        let split = table.end()?;
        table.buffer(
            frame.response.as_mut_ptr(),
            wire::ResponseHeader::SIZE + results as usize,
        )?;
        if head.op == wire::op::GET {
            table.pages(form, head.pages)?;
        }
        table.end()?;
        Some(Chain { split })
    }

    /// Copies the answer. Only called once the device has given the
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
    /// Writes the indices of the request's `pages` pages one by one.
    fn list(&mut self, form: &Form<'_>, pages: u32) -> Option<()> {
        let mut indices = self.indices.get_mut(..pages as usize)?.iter_mut();
        match form {
            Form::Put(list) | Form::Get(list) => list.for_each(|bio| {
                for (nth, to) in (0..bio.pages()).zip(&mut indices) {
                    *to = bio.index().wrapping_add(nth).to_le();
                }
            }),
            Form::Flush(batch) => {
                for (index, to) in batch.indices().zip(&mut indices) {
                    *to = index.to_le();
                }
            }
            Form::Call(call) => {
                for (nth, to) in (0..pages).zip(&mut indices) {
                    *to = call.index(nth).to_le();
                }
            }
            Form::Discard(_) => {}
        }
        Some(())
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

    /// Adds the memory of the request's `pages` pages, all of it and whole pages only.
    fn pages(&mut self, form: &Form<'_>, pages: u32) -> Option<()> {
        let mut fits = true;
        let mut bytes = 0u64;
        let mut add = |segment: Segment| {
            let Some(entry) = self.next() else {
                fits = false;
                return;
            };
            fits &= segment.len != 0 && segment.len as usize % wire::PAGE_SIZE == 0;
            bytes = bytes.wrapping_add(u64::from(segment.len));
            // SAFETY: the entry is valid, and the segment is memory that belongs to the request.
            unsafe { ffi::vtmem_sg_page(entry, segment.page, segment.offset, segment.len) };
        };
        match form {
            Form::Put(list) | Form::Get(list) => {
                list.for_each(|bio| bio.segments().for_each(&mut add))
            }
            Form::Call(call) => call.each_segment(&mut add),
            Form::Discard(_) | Form::Flush(_) => {}
        }
        (fits && bytes == u64::from(pages) << wire::PAGE_SHIFT).then_some(())
    }

    /// Ends one direction; returns the number of entries so far.
    fn end(&mut self) -> Option<usize> {
        let last = self.table.get_mut(self.at.wrapping_sub(1))?;
        // SAFETY: the entry is valid.
        unsafe { ffi::vtmem_sg_end(last) };
        Some(self.at)
    }
}
