// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The balloon queue and the report queue: what a driver lets go is freed, counted and answered.
//!
//! [`mod@parse`] checks a chain as a whole, `punch` frees pages, and [`GuestBalloon`] keeps the account.
//! Thread 0 serves both queues besides the control queue, so long work looks at that between pieces
//! (`between`). What is refused is refused by the range, and told by a result.

mod parse;
mod punch;

use tmem_abi::{BalloonRange, BalloonResponse, balloon_result, status};
use tmem_admin_api::Op;
use vm_memory::GuestMemoryMmap;

use super::request::chain::total_bytes;
use super::request::serve::Served;
use super::request::{Chain, Cursor, Malformed};
use crate::balloon::GuestBalloon;
pub(super) use parse::Lane;
use parse::{Ranges, Wish, parse};
use punch::Rules;

const HEAD: usize = BalloonResponse::SIZE;
const RANGES: usize = tmem_abi::BALLOON_RANGES_MAX as usize;

/// What serving needs; one for both queues.
#[derive(Debug)]
pub(super) struct Slot {
    /// The chain's segments.
    pub(super) chain: Chain,
    ranges: Box<Ranges>,
    answer: Box<[u8; HEAD + RANGES]>,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            chain: Chain::default(),
            ranges: Box::new([BalloonRange::default(); RANGES]),
            answer: Box::new([0; HEAD + RANGES]),
        }
    }
}

/// Carries out the request in `slot.chain`. `ready`: the driver has said HELLO. `between` is called
/// between pieces of long work, and says whether it has to end.
pub(super) fn serve(
    mem: &GuestMemoryMmap,
    slot: &mut Slot,
    lane: Lane,
    balloon: &GuestBalloon,
    ready: bool,
    between: &mut dyn FnMut() -> bool,
) -> Served {
    let Slot {
        chain,
        ranges,
        answer,
    } = slot;
    if total_bytes(chain.writable()) < HEAD as u64 {
        return Served::silent(Malformed::Response);
    }
    let in_use = match lane {
        Lane::Balloon => balloon.is_offered(),
        Lane::Report => balloon.takes_reports(),
    };
    let mut served = Served::default();
    let (status, pages, results) = if in_use {
        match parse(mem, chain, lane, ranges) {
            Ok(wish) => {
                served.op = Some(op(&wish));
                if ready {
                    let results = &mut answer[HEAD..HEAD + wish.results()];
                    let pages = run(mem, wish, ranges, results, balloon, between);
                    (status::OK, pages, wish.results())
                } else {
                    (status::NOT_READY, 0, 0)
                }
            }
            Err((status, kind)) => {
                served.malformed = Some(kind);
                (status, 0, 0)
            }
        }
    } else {
        served.malformed = Some(Malformed::Op);
        (status::UNSUPPORTED, 0, 0)
    };
    answer[..HEAD].copy_from_slice(&BalloonResponse { status, pages }.to_bytes());
    match Cursor::new(chain.writable()).write(mem, &answer[..HEAD + results]) {
        Ok(()) => {
            served.status = Some(status);
            // A few hundred.
            served.used_bytes = u32::try_from(HEAD + results).unwrap_or(0);
        }
        Err(kind) => served.malformed = Some(kind),
    }
    served
}

const fn op(wish: &Wish) -> Op {
    match wish {
        Wish::Inflate(_) => Op::BalloonInflate,
        Wish::Deflate(_) => Op::BalloonDeflate,
        Wish::Stats(_) => Op::BalloonStats,
        Wish::Report(_) => Op::BalloonReport,
    }
}

/// Does what was asked, and returns the pages that it concerned.
fn run(
    mem: &GuestMemoryMmap,
    wish: Wish,
    ranges: &Ranges,
    results: &mut [u8],
    balloon: &GuestBalloon,
    between: &mut dyn FnMut() -> bool,
) -> u64 {
    let rules = Rules {
        huge_pages: balloon.frees_huge_pages(),
    };
    match wish {
        Wish::Inflate(count) => {
            let ranges = &ranges[..count];
            balloon.admit(ranges, results);
            punch::free(mem, ranges, rules, results, between);
            balloon.inflated(ranges, results);
            pages_ok(ranges, results)
        }
        Wish::Report(count) => {
            let ranges = &ranges[..count];
            results.fill(balloon_result::OK);
            punch::free(mem, ranges, rules, results, between);
            let pages = pages_ok(ranges, results);
            balloon.reported(pages, results);
            pages
        }
        Wish::Deflate(count) => balloon.deflated(&ranges[..count]),
        Wish::Stats(stats) => {
            balloon.told(stats);
            0
        }
    }
}

fn pages_ok(ranges: &[BalloonRange], results: &[u8]) -> u64 {
    let ok = ranges
        .iter()
        .zip(results)
        .filter(|(_, result)| **result == balloon_result::OK);
    ok.map(|(range, _)| u64::from(range.pages)).sum()
}
