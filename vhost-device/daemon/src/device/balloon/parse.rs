// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A chain of the balloon or report queue, checked before anything of it is done.

use tmem_abi::{
    BALLOON_RANGES_MAX, BalloonRange, BalloonRequest, BalloonResponse, BalloonStats, balloon,
    status,
};
use vm_memory::GuestMemoryMmap;

use crate::device::request::chain::total_bytes;
use crate::device::request::{Chain, Cursor, Malformed};

/// Which of the two queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::device) enum Lane {
    Balloon,
    Report,
}

/// What is asked for. Ranges are left in the buffer that was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Inflate(usize),
    Deflate(usize),
    Stats(BalloonStats),
    Report(usize),
}

/// A status, and what was wrong.
pub(super) type Rejection = (u8, Malformed);

/// Room for all ranges of a request.
pub(super) type Ranges = [BalloonRange; BALLOON_RANGES_MAX as usize];

/// Reads the request in `chain`, which must be exactly as long as it says, and have room for its answer.
///
/// # Errors
/// What to answer.
pub(super) fn parse(
    mem: &GuestMemoryMmap,
    chain: &Chain,
    lane: Lane,
    ranges: &mut Ranges,
) -> Result<Wish, Rejection> {
    let invalid = |kind| (status::INVALID, kind);
    let mut readable = Cursor::new(chain.readable());
    let mut head = [0; BalloonRequest::SIZE];
    readable.read(mem, &mut head).map_err(invalid)?;
    let request = BalloonRequest::from_bytes(&head);
    let count = match (lane, request.op) {
        (Lane::Balloon, balloon::INFLATE | balloon::DEFLATE) | (Lane::Report, balloon::REPORT) => {
            let known = 1..=BALLOON_RANGES_MAX;
            let count = Some(request.ranges).filter(|count| known.contains(count));
            count.ok_or_else(|| invalid(Malformed::Pages))?
        }
        (Lane::Balloon, balloon::STATS) if request.ranges != 0 => {
            return Err(invalid(Malformed::Pages));
        }
        (Lane::Balloon, balloon::STATS) => 0,
        _ => return Err((status::UNSUPPORTED, Malformed::Op)),
    };
    if request.to_bytes() != head {
        return Err(invalid(Malformed::Reserved));
    }
    let count = usize::try_from(count).unwrap_or(0);
    let wish = match request.op {
        balloon::STATS => {
            let mut bytes = [0; BalloonStats::SIZE];
            readable.read(mem, &mut bytes).map_err(invalid)?;
            Wish::Stats(BalloonStats::from_bytes(&bytes))
        }
        op => {
            for range in ranges.iter_mut().take(count) {
                *range = read_range(mem, &mut readable).map_err(invalid)?;
            }
            match op {
                balloon::INFLATE => Wish::Inflate(count),
                balloon::DEFLATE => Wish::Deflate(count),
                _ => Wish::Report(count),
            }
        }
    };
    if readable.boundary().is_none_or(|rest| !rest.is_empty()) {
        return Err(invalid(Malformed::Length));
    }
    let room = BalloonResponse::SIZE + wish.results();
    if total_bytes(chain.writable()) < room as u64 {
        return Err(invalid(Malformed::Response));
    }
    Ok(wish)
}

impl Wish {
    /// Results that its answer has.
    pub(super) const fn results(&self) -> usize {
        match self {
            Self::Inflate(ranges) | Self::Report(ranges) => *ranges,
            Self::Deflate(_) | Self::Stats(_) => 0,
        }
    }
}

fn read_range(mem: &GuestMemoryMmap, readable: &mut Cursor<'_>) -> Result<BalloonRange, Malformed> {
    let mut bytes = [0; BalloonRange::SIZE];
    readable.read(mem, &mut bytes)?;
    let range = BalloonRange::from_bytes(&bytes);
    if range.to_bytes() != bytes {
        return Err(Malformed::Reserved);
    }
    if range.pages == 0 || range.first.checked_add(range.pages.into()).is_none() {
        return Err(Malformed::Pages);
    }
    Ok(range)
}
