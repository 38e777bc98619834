// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From a gathered chain to a checked request. Pure but for reads of guest memory; any bytes are
//! either a request that follows `docs/device.md`, or a [`Rejection`].

use tmem_abi::{BATCH_PAGES_MAX, RequestHeader, ResponseHeader, flag, op, status};
use tmem_admin_api::Op;
use tmem_pages::{ObjectId, PageIndex, PoolId, Ticket};
use vm_memory::GuestMemoryMmap;

use super::chain::total_bytes;
use super::{Chain, Cursor, Malformed, PAGE_BYTES, Segment};

/// Indices of a listed request.
pub type Indices = [u32; BATCH_PAGES_MAX as usize];

/// Which of a pair's two queues a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// GET.
    Get,
    /// PUT and the flushes.
    Put,
}

/// A request's pages: a run, or the first entries of the worker's list of indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// `count` pages from `first`; their indices do not leave 32 bits.
    Run {
        /// Index of the first page.
        first: u32,
        /// Number of pages.
        count: u32,
    },
    /// The first `count` entries of the list.
    List {
        /// Number of pages.
        count: u32,
    },
}

impl Pages {
    /// How many pages there are.
    #[must_use]
    pub const fn count(self) -> u32 {
        match self {
            Self::Run { count, .. } | Self::List { count } => count,
        }
    }

    /// Index of the `nth` page; `nth` is below the count.
    #[must_use]
    pub fn index(self, nth: u32, list: &Indices) -> PageIndex {
        match self {
            // Cannot wrap: the parser has checked the run's end.
            Self::Run { first, .. } => PageIndex(first.wrapping_add(nth)),
            Self::List { .. } => PageIndex(list.get(nth as usize).copied().unwrap_or(u32::MAX)),
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Store pages.
    Put(Ticket, Pages),
    /// Fetch pages, and forget them if told so.
    Get {
        /// The pages.
        pages: Pages,
        /// Forget what was delivered.
        exclusive: bool,
    },
    /// Forget pages.
    Flush(Ticket, Pages),
    /// Forget all pages of the object.
    FlushObject(Ticket),
    /// Forget all pages of the pool.
    FlushPool(Ticket),
}

impl Action {
    /// The operation's name for counters.
    #[must_use]
    pub const fn op(self) -> Op {
        match self {
            Self::Put(..) => Op::Put,
            Self::Get { .. } => Op::Get,
            Self::Flush(..) => Op::Flush,
            Self::FlushObject(_) => Op::FlushObject,
            Self::FlushPool(_) => Op::FlushPool,
        }
    }

    /// Pages that get a result byte each.
    #[must_use]
    pub const fn results(self) -> u32 {
        match self {
            Self::Put(_, pages) | Self::Get { pages, .. } => pages.count(),
            Self::Flush(_, Pages::List { count }) => count,
            Self::Flush(_, Pages::Run { .. }) | Self::FlushObject(_) | Self::FlushPool(_) => 0,
        }
    }
}

/// A request whose every field has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The pool that it is about.
    pub pool: PoolId,
    /// The object that it is about.
    pub object: ObjectId,
    /// What is asked for.
    pub action: Action,
}

/// A request, and where its page data lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed<'a> {
    /// The request.
    pub request: Request,
    /// PUT and GET: whole pages, as many as the request has. Otherwise empty.
    pub data: &'a [Segment],
}

/// Why a chain is not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The answer, or nothing where there is no room for one.
    pub status: Option<u8>,
    /// What is wrong.
    pub kind: Malformed,
    /// The operation asked for, where it could be read and exists.
    pub op: Option<Op>,
}

impl Rejection {
    const fn silent(kind: Malformed) -> Self {
        Self {
            status: None,
            kind,
            op: None,
        }
    }

    const fn invalid(kind: Malformed, op: Option<Op>) -> Self {
        Self {
            status: Some(status::INVALID),
            kind,
            op,
        }
    }

    const fn unsupported(kind: Malformed, op: Option<Op>) -> Self {
        Self {
            status: Some(status::UNSUPPORTED),
            kind,
            op,
        }
    }
}

/// The operation of a header, if there is such a one on this queue.
const fn operation(value: u8, lane: Lane) -> Option<Op> {
    Some(match (value, lane) {
        (op::PUT, Lane::Put) => Op::Put,
        (op::GET, Lane::Get) => Op::Get,
        (op::FLUSH, Lane::Put) => Op::Flush,
        (op::FLUSH_OBJECT, Lane::Put) => Op::FlushObject,
        (op::FLUSH_POOL, Lane::Put) => Op::FlushPool,
        _ => return None,
    })
}

/// Reads the request of `chain`, which came from a queue of `lane`. The indices of a list are left
/// in `list`.
///
/// # Errors
/// A [`Rejection`] with the answer to give, if one can be given.
pub fn parse<'a>(
    mem: &GuestMemoryMmap,
    chain: &'a Chain,
    lane: Lane,
    list: &mut Indices,
) -> Result<Parsed<'a>, Rejection> {
    let writable_bytes = total_bytes(chain.writable());
    if writable_bytes < ResponseHeader::SIZE as u64 {
        return Err(Rejection::silent(Malformed::Response));
    }
    let mut readable = Cursor::new(chain.readable());
    let mut bytes = [0; RequestHeader::SIZE];
    readable
        .read(mem, &mut bytes)
        .map_err(|kind| Rejection::invalid(kind, None))?;
    let header = RequestHeader::from_bytes(&bytes);
    let Some(op) = operation(header.op, lane) else {
        return Err(Rejection::unsupported(Malformed::Op, None));
    };
    let invalid = |kind| Rejection::invalid(kind, Some(op));
    let action = action(op, &header).map_err(|kind| match kind {
        Malformed::Flag => Rejection::unsupported(kind, Some(op)),
        kind => invalid(kind),
    })?;
    if bytes[2..4] != [0, 0] {
        return Err(invalid(Malformed::Reserved));
    }
    if header.flags & flag::LIST != 0 {
        read_list(mem, &mut readable, action, list).map_err(invalid)?;
    }
    // What is left of the readable part is page data, or nothing.
    let data = match action {
        Action::Put(_, pages) => page_data(readable, pages).map_err(invalid)?,
        _ => {
            if readable.boundary().is_none_or(|rest| !rest.is_empty()) {
                return Err(invalid(Malformed::Length));
            }
            &[]
        }
    };
    let head = ResponseHeader::SIZE + action.results() as usize;
    let mut writable = Cursor::new(chain.writable());
    writable.skip(head).map_err(invalid)?;
    let data = match action {
        Action::Get { pages, .. } => page_data(writable, pages).map_err(invalid)?,
        _ => data,
    };
    Ok(Parsed {
        request: Request {
            pool: PoolId(header.pool),
            object: ObjectId([header.object_low, header.object_middle, header.object_high]),
            action,
        },
        data,
    })
}

/// Checks the header's fields for `op`.
fn action(op: Op, header: &RequestHeader) -> Result<Action, Malformed> {
    let allowed = match op {
        Op::Get => flag::LIST | flag::EXCLUSIVE,
        Op::Put | Op::Flush => flag::LIST,
        _ => 0,
    };
    if header.flags & !allowed != 0 {
        return Err(Malformed::Flag);
    }
    let ticket = Ticket::new(header.ticket)
        .filter(|ticket| (ticket.get() == 0) == (op == Op::Get))
        .ok_or(Malformed::Ticket)?;
    match op {
        Op::FlushObject | Op::FlushPool if header.index != 0 || header.pages != 0 => {
            return Err(Malformed::Pages);
        }
        Op::FlushObject => return Ok(Action::FlushObject(ticket)),
        Op::FlushPool => return Ok(Action::FlushPool(ticket)),
        _ => {}
    }
    let count = header.pages;
    let pages = if header.flags & flag::LIST != 0 {
        if header.index != 0 {
            return Err(Malformed::Pages);
        }
        Pages::List { count }
    } else {
        if u64::from(header.index) + u64::from(count) > 1 << 32 {
            return Err(Malformed::Pages);
        }
        Pages::Run {
            first: header.index,
            count,
        }
    };
    let run_of_flush = op == Op::Flush && matches!(pages, Pages::Run { .. });
    if count == 0 || (count > BATCH_PAGES_MAX && !run_of_flush) {
        return Err(Malformed::Pages);
    }
    Ok(match op {
        Op::Put => Action::Put(ticket, pages),
        Op::Get => Action::Get {
            pages,
            exclusive: header.flags & flag::EXCLUSIVE != 0,
        },
        _ => Action::Flush(ticket, pages),
    })
}

/// Reads the indices that follow the header.
fn read_list(
    mem: &GuestMemoryMmap,
    readable: &mut Cursor<'_>,
    action: Action,
    list: &mut Indices,
) -> Result<(), Malformed> {
    let count = action.results() as usize;
    let mut bytes = [0; BATCH_PAGES_MAX as usize * 4];
    let bytes = bytes.get_mut(..count * 4).ok_or(Malformed::Pages)?;
    readable.read(mem, bytes)?;
    for (index, bytes) in list.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *index = u32::from_le_bytes(*bytes);
    }
    Ok(())
}

/// The segments from the cursor to the end, if they are exactly the pages' data.
fn page_data(at: Cursor<'_>, pages: Pages) -> Result<&[Segment], Malformed> {
    let segments = at.boundary().ok_or(Malformed::Split)?;
    if total_bytes(segments) != u64::from(pages.count()) * u64::from(PAGE_BYTES) {
        return Err(Malformed::Length);
    }
    if segments.iter().any(|s| !s.len.is_multiple_of(PAGE_BYTES)) {
        return Err(Malformed::Split);
    }
    Ok(segments)
}
