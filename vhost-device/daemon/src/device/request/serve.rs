// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A request run against the engine, in steps, so that a long PUT or FLUSH lets gets pass.

use std::sync::Arc;

use tmem_abi::{BATCH_PAGES_MAX, ResponseHeader, result, status};
use tmem_admin_api::Op;
use tmem_pages::trace;
use tmem_pages::{
    FlushResult, GetMode, GetResult, Guest, ObjectId, PageIndex, Pool, PutResult, Worker,
};
use vm_memory::GuestMemoryMmap;

use super::pages::PageWalk;
use super::parse::{Action, Indices, Lane, Pages, parse};
use super::{
    Chain, Cursor, Malformed, PAGE_BYTES, Parsed, RESPONSE_BYTES, Rejection, Request, Segment,
};
use crate::limits::{CHUNK_PAGES, FLUSH_CHUNK_PAGES, USE_PAGES};
use crate::tiers::linked;
use crate::tiers::paths::{LOWER, lower};
use crate::tiers::traces::GuestTrace;

/// Result codes that exist.
pub const RESULTS: usize = 8;

/// Bytes of an answer before the results.
const HEAD: usize = ResponseHeader::SIZE;

/// An answer: the head, and the results of a batch.
type Answer = [u8; HEAD + BATCH_PAGES_MAX as usize];

/// What a request needs while it is served; one for each lane of a worker, reused for every request.
#[derive(Debug)]
pub struct Slot {
    /// The chain's segments.
    pub chain: Chain,
    list: Box<Indices>,
    answer: Box<Answer>,
    /// The pool of the last request; nearly always that of the next one, too.
    pool: Option<Arc<Pool>>,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            chain: Chain::default(),
            list: Box::new([0; BATCH_PAGES_MAX as usize]),
            answer: Box::new([0; HEAD + BATCH_PAGES_MAX as usize]),
            pool: None,
        }
    }
}

/// What became of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Bytes written, from the start of the writable part: what the used ring says.
    pub used_bytes: u32,
    /// The operation, where there was one.
    pub op: Option<Op>,
    /// The status answered, where one was.
    pub status: Option<u8>,
    /// What was wrong with the chain.
    pub malformed: Option<Malformed>,
    /// Pages by result code.
    pub pages: [u32; RESULTS],
}

impl Served {
    /// A chain that cannot be answered.
    #[must_use]
    pub fn silent(kind: Malformed) -> Self {
        Self {
            malformed: Some(kind),
            ..Self::default()
        }
    }

    /// Pages that it dealt with.
    #[must_use]
    pub fn page_count(&self) -> u32 {
        let pages = self.pages.iter();
        pages.fold(0, |sum: u32, pages| sum.saturating_add(*pages))
    }
}

/// A request on its way through the engine.
#[derive(Debug)]
pub struct Job<'a> {
    request: Request,
    data: &'a [Segment],
    chain: &'a Chain,
    list: &'a Indices,
    answer: &'a mut Answer,
    pool: &'a Pool,
    walk: PageWalk,
    /// Pages dealt with.
    next: u32,
    /// Pages stored, delivered or flushed.
    done: u64,
    /// Pages of a GET up to the last that was delivered.
    delivered: u32,
    pages: [u32; RESULTS],
}

/// Begins with the request that `slot.chain` holds: either a job to be stepped to its end, or what
/// was answered at once. `ending` refuses puts, whose pages would not outlive their acknowledgement.
///
/// # Errors
/// What was answered, where there is nothing more to do.
pub fn begin<'a>(
    mem: &GuestMemoryMmap,
    slot: &'a mut Slot,
    lane: Lane,
    guest: &Guest,
    ending: bool,
) -> Result<Job<'a>, Served> {
    let Slot {
        chain,
        list,
        answer: answer_bytes,
        pool,
    } = slot;
    let Parsed { request, data } =
        parse(mem, chain, lane, list).map_err(|rejection| reject(mem, chain, rejection))?;
    let refuse = |status| Err(answer(mem, chain, Some(request.action.op()), status));
    if ending && matches!(request.action, Action::Put(..)) {
        return refuse(status::SHUTTING_DOWN);
    }
    if !pool
        .as_ref()
        .is_some_and(|pool| pool.id() == request.pool && !pool.is_destroyed())
    {
        *pool = guest.pool(request.pool);
    }
    let Some(pool) = pool.as_deref() else {
        // A guest without an epoch has no pools either, so this is asked only here.
        return refuse(if guest.epoch().is_some() {
            status::NO_POOL
        } else {
            status::NOT_READY
        });
    };
    Ok(Job {
        request,
        data,
        chain,
        list,
        answer: answer_bytes,
        pool,
        walk: PageWalk::default(),
        next: 0,
        done: 0,
        delivered: 0,
        pages: [0; RESULTS],
    })
}

/// Pages of one object that are about to be got.
#[derive(Debug)]
pub(crate) struct Foreseen {
    pool: Arc<Pool>,
    object: ObjectId,
    indices: Vec<PageIndex>,
}

impl Foreseen {
    /// Those of the request that `slot.chain` holds, if it is a GET. Nothing is answered, and nothing is
    /// changed that the guest can see.
    pub(crate) fn of(mem: &GuestMemoryMmap, slot: &mut Slot, guest: &Guest) -> Option<Self> {
        let Slot { chain, list, .. } = slot;
        let Parsed { request, .. } = parse(mem, chain, Lane::Get, list).ok()?;
        let Action::Get { pages, .. } = request.action else {
            return None;
        };
        let indices = (0..pages.count()).map(|nth| pages.index(nth, list));
        Some(Self {
            pool: guest.pool(request.pool)?,
            object: request.object,
            indices: indices.collect(),
        })
    }

    /// Adds those of another request, if they are of the same object.
    pub(crate) fn add(&mut self, more: &Self) -> bool {
        let same = self.object == more.object && Arc::ptr_eq(&self.pool, &more.pool);
        if same {
            self.indices.extend(&more.indices);
        }
        same
    }

    pub(crate) fn pages(&self) -> usize {
        self.indices.len()
    }

    /// Tells the tiers.
    pub(crate) fn tell(self, worker: &mut Worker) {
        worker.will_get(&self.pool, self.object, self.indices);
    }
}

impl Job<'_> {
    /// It takes so long that requests served before it should not wait for its end.
    #[must_use]
    pub fn is_long(&self) -> bool {
        match self.request.action {
            Action::Put(_, pages) | Action::Get { pages, .. } | Action::Flush(_, pages) => {
                pages.count() >= USE_PAGES
            }
            Action::FlushObject(_) | Action::FlushPool(_) => true,
        }
    }

    /// Its pages leave with it.
    #[must_use]
    pub const fn takes(&self) -> bool {
        matches!(
            self.request.action,
            Action::Get {
                exclusive: true,
                ..
            }
        )
    }

    /// Pages of a GET in each lower tier now; they may move before they are got.
    pub(crate) fn pages_below(&self, worker: &Worker) -> [u32; LOWER] {
        let mut below = [0; LOWER];
        if let Action::Get { pages, .. } = self.request.action {
            for nth in 0..pages.count() {
                let index = pages.index(nth, self.list);
                let tier = worker.tier_of(self.pool, self.request.object, index);
                if let Some(count) = tier.and_then(lower).and_then(|tier| below.get_mut(tier)) {
                    *count += 1;
                }
            }
        }
        below
    }

    /// Adds the request to a trace: the pages that it is about, not what becomes of them.
    pub(crate) fn record(&self, trace: &GuestTrace, pair: usize, now: u64) {
        let (op, pages) = match self.request.action {
            Action::Put(_, pages) => (trace::Op::Put, Some(pages)),
            Action::Get { pages, .. } => (trace::Op::Get, Some(pages)),
            Action::Flush(_, pages) => (trace::Op::Flush, Some(pages)),
            Action::FlushObject(_) => (trace::Op::FlushObject, None),
            Action::FlushPool(_) => (trace::Op::FlushPool, None),
        };
        let whole_pool = op == trace::Op::FlushPool;
        let event = trace::Event {
            at: trace.since(now),
            op,
            pool: self.pool.id(),
            object: if whole_pool {
                0
            } else {
                trace::object_hash(self.request.object)
            },
            index: 0,
            pages: 0,
        };
        let Some(pages) = pages else {
            return trace.recorder.record(pair, event);
        };
        let run = |first: u32, pages| {
            let index = first;
            trace.recorder.record(
                pair,
                trace::Event {
                    index,
                    pages,
                    ..event
                },
            );
        };
        match pages {
            Pages::Run { count, .. } => run(pages.index(0, self.list).0, count),
            Pages::List { count } => {
                for nth in 0..count {
                    run(pages.index(nth, self.list).0, 1);
                }
            }
        }
    }

    /// Deals with the next pages, at most a chunk of them. Returns whether that was all.
    pub fn step(&mut self, mem: &GuestMemoryMmap, worker: &mut Worker) -> bool {
        let forgets = !matches!(
            self.request.action,
            Action::Get {
                exclusive: false,
                ..
            }
        );
        if forgets {
            worker.begin_request();
        }
        let done = self.step_within(mem, worker);
        if forgets && done {
            worker.end_request();
        }
        done
    }

    fn step_within(&mut self, mem: &GuestMemoryMmap, worker: &mut Worker) -> bool {
        let object = self.request.object;
        match self.request.action {
            Action::Put(ticket, pages) => {
                for nth in self.chunk(pages) {
                    let index = |nth| pages.index(nth, self.list);
                    worker.look_ahead(self.pool, (nth, pages.count()), index);
                    let index = index(nth);
                    let code = match self.walk.next(mem, self.data) {
                        Some(page) => put_code(worker.put(self.pool, object, index, ticket, &page)),
                        None => result::IO_ERROR,
                    };
                    self.note(nth, code);
                }
                self.next == pages.count()
            }
            Action::Get { pages, exclusive } => {
                for nth in self.chunk(pages) {
                    let index = |nth| pages.index(nth, self.list);
                    worker.look_ahead(self.pool, (nth, pages.count()), index);
                    let index = index(nth);
                    let code = match self.walk.next(mem, self.data) {
                        Some(mut page) => {
                            let mut get = || {
                                get_code(if exclusive {
                                    worker.take(self.pool, object, index, &mut page)
                                } else {
                                    worker.get(self.pool, object, index, GetMode::Copy, &mut page)
                                })
                            };
                            match get() {
                                // What an emulated link did to it is not in the tier: it is sent
                                // once more.
                                result::CORRUPT if linked::was_struck() => get(),
                                code => code,
                            }
                        }
                        None => result::IO_ERROR,
                    };
                    if code == result::OK {
                        self.delivered = nth + 1;
                    }
                    self.note(nth, code);
                }
                self.next == pages.count()
            }
            Action::Flush(ticket, pages @ Pages::List { count }) => {
                for nth in self.chunk(pages) {
                    let index = pages.index(nth, self.list);
                    let flushed = worker.flush_page(self.pool, object, index, ticket);
                    let code = match flushed {
                        FlushResult::Flushed | FlushResult::Absent => result::OK,
                        FlushResult::Stale => result::STALE,
                        FlushResult::BadIndex => result::BAD_INDEX,
                    };
                    self.note(nth, code);
                    // A page that was not there is gone as asked, but was not flushed.
                    if flushed == FlushResult::Absent {
                        self.done -= 1;
                    }
                }
                self.next == count
            }
            Action::Flush(ticket, pages @ Pages::Run { count, .. }) => {
                let first = pages.index(self.next, self.list);
                let chunk = (count - self.next).min(FLUSH_CHUNK_PAGES);
                self.flushed(worker.flush_range(self.pool, object, first, chunk, ticket));
                self.next += chunk;
                self.next == count
            }
            Action::FlushObject(ticket) => {
                self.flushed(worker.flush_object(self.pool, object, ticket));
                true
            }
            Action::FlushPool(ticket) => {
                self.flushed(worker.flush_pool(self.pool, ticket));
                true
            }
        }
    }

    /// Writes the answer. The last thing that is done with the chain.
    #[must_use]
    pub fn finish(self, mem: &GuestMemoryMmap) -> Served {
        let op = self.request.action.op();
        let results = self.request.action.results();
        let header = ResponseHeader {
            status: status::OK,
            // A pool may hold more pages than the field can say.
            done: u32::try_from(self.done).unwrap_or(u32::MAX),
        };
        let mut cursor = Cursor::new(self.chain.writable());
        self.answer[..HEAD].copy_from_slice(&header.to_bytes());
        let answer = self.answer.get(..HEAD + results as usize);
        let written = answer
            .ok_or(Malformed::Pages)
            .and_then(|answer| cursor.write(mem, answer));
        let mut served = Served {
            op: Some(op),
            pages: self.pages,
            ..Served::default()
        };
        match written {
            Ok(()) => {
                served.status = Some(status::OK);
                served.used_bytes = RESPONSE_BYTES + results + self.delivered * PAGE_BYTES;
            }
            Err(kind) => served.malformed = Some(kind),
        }
        served
    }

    /// The next pages to deal with.
    fn chunk(&mut self, pages: Pages) -> std::ops::Range<u32> {
        let first = self.next;
        self.next = pages.count().min(first + CHUNK_PAGES);
        first..self.next
    }

    /// Keeps the result of the `nth` page.
    fn note(&mut self, nth: u32, code: u8) {
        if let Some(result) = self.answer.get_mut(HEAD + nth as usize) {
            *result = code;
        }
        self.pages[usize::from(code) % RESULTS] += 1;
        if code == result::OK {
            self.done += 1;
        }
    }

    /// Counts pages that went without a result of their own.
    fn flushed(&mut self, pages: u64) {
        self.done += pages;
        let ok = &mut self.pages[usize::from(result::OK)];
        *ok = ok.saturating_add(u32::try_from(pages).unwrap_or(u32::MAX));
    }
}

/// Answers a chain that is no request.
fn reject(mem: &GuestMemoryMmap, chain: &Chain, rejection: Rejection) -> Served {
    let served = match rejection.status {
        Some(status) => answer(mem, chain, rejection.op, status),
        None => Served::default(),
    };
    Served {
        malformed: Some(rejection.kind),
        ..served
    }
}

/// Answers with a status and nothing else.
fn answer(mem: &GuestMemoryMmap, chain: &Chain, op: Option<Op>, status: u8) -> Served {
    let header = ResponseHeader { status, done: 0 };
    match Cursor::new(chain.writable()).write(mem, &header.to_bytes()) {
        Ok(()) => Served {
            used_bytes: RESPONSE_BYTES,
            op,
            status: Some(status),
            ..Served::default()
        },
        Err(kind) => Served {
            op,
            ..Served::silent(kind)
        },
    }
}

const fn put_code(put: PutResult) -> u8 {
    match put {
        PutResult::Stored | PutResult::SameFilled => result::OK,
        PutResult::RefusedFull => result::REFUSED_FULL,
        PutResult::RefusedFrozen => result::REFUSED_FROZEN,
        PutResult::Stale => result::STALE,
        PutResult::BadIndex => result::BAD_INDEX,
        PutResult::Fault | PutResult::BadSum => result::IO_ERROR,
    }
}

const fn get_code(get: GetResult) -> u8 {
    match get {
        GetResult::Hit | GetResult::HitSameFilled => result::OK,
        GetResult::Miss => result::MISS,
        GetResult::Corrupt => result::CORRUPT,
        GetResult::BadIndex => result::BAD_INDEX,
        GetResult::Fault => result::IO_ERROR,
    }
}
