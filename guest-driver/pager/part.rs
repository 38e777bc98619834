// SPDX-License-Identifier: GPL-2.0
//! One request of a flight.

use super::{
    abi, ffi,
    flight::{Cargo, Flight},
    pool::Op,
};
use crate::{
    bio::Segment,
    call::Call,
    request::{Answer, Limits},
    wire,
};
use kernel::{prelude::*, sync::Arc};

/// A request of a flight, on its way or about to be.
pub(super) struct Part {
    flight: Arc<Flight>,
    /// Its first position among the flight's results, and how many are its own.
    first: usize,
    count: usize,
    /// The pages are one run, from `index` on.
    run: Option<u32>,
    /// Pages of the pool.
    pages: u32,
}

impl Part {
    /// Cuts the next part from position `first` on: as much as fits a request. None: nothing is left.
    pub(super) fn cut(flight: &Arc<Flight>, first: usize, limits: &Limits) -> Option<Self> {
        let (run, count, pages) = match &flight.cargo {
            Cargo::Runs => {
                let run = flight.runs.get(first)?;
                (Some(run.first), 1, run.pages)
            }
            Cargo::Pages(indices) => {
                let left = indices.get(first..).unwrap_or(&[]);
                let log = flight.log.lock();
                let memory = log
                    .baggage
                    .as_ref()
                    .and_then(|baggage| baggage.pins.as_ref())
                    .map(|pins| pins.pages().get(first..).unwrap_or(&[]));
                let count = fitting(left, memory, limits);
                let (&index, mine) = left.get(..count)?.split_first()?;
                let run = mine
                    .iter()
                    .zip(1u32..)
                    .all(|(next, nth)| *next == index.wrapping_add(nth));
                (run.then_some(index), count, count as u32)
            }
        };
        flight.board();
        Some(Self {
            flight: flight.clone(),
            first,
            count,
            run,
            pages,
        })
    }

    /// Where the next part begins.
    pub(super) fn end_position(&self) -> usize {
        self.first.saturating_add(self.count)
    }
}

/// How many of the pages fit a request: `indices` and, if there is any, their `memory`.
fn fitting(
    indices: &[u32],
    memory: Option<&[*mut kernel::bindings::page]>,
    limits: &Limits,
) -> usize {
    let mut most = indices.len().min(limits.pages as usize);
    if !limits.list {
        // Without lists only a run fits.
        let pairs = indices.iter().zip(indices.iter().skip(1));
        let run = pairs
            .take_while(|(one, next)| one.wrapping_add(1) == **next)
            .count();
        most = most.min(run.saturating_add(1));
    }
    let Some(memory) = memory else {
        return most;
    };
    let mut count = 0usize;
    for _ in 0..limits.segments {
        let rest = memory.get(count..most).unwrap_or(&[]);
        if rest.is_empty() {
            break;
        }
        count = count.saturating_add(ffi::adjacent(rest));
    }
    count
}

impl Call for Part {
    fn header(&self) -> wire::RequestHeader {
        let (op, mut flags) = match self.flight.op {
            Op::Put => (wire::op::PUT, 0),
            Op::Get => (wire::op::GET, 0),
            Op::Take => (wire::op::GET, wire::flag::EXCLUSIVE),
            Op::Flush => (wire::op::FLUSH, 0),
        };
        if self.run.is_none() {
            flags |= wire::flag::LIST;
        }
        wire::RequestHeader {
            op,
            flags,
            pool: self.flight.pool,
            index: self.run.unwrap_or(0),
            pages: self.pages,
            ..wire::RequestHeader::default()
        }
    }

    fn index(&self, nth: u32) -> u32 {
        match &self.flight.cargo {
            Cargo::Pages(indices) => indices
                .get(self.first.saturating_add(nth as usize))
                .copied()
                .unwrap_or(0),
            Cargo::Runs => 0,
        }
    }

    fn each_segment(&self, each: &mut dyn FnMut(Segment)) {
        let log = self.flight.log.lock();
        let pins = log
            .baggage
            .as_ref()
            .and_then(|baggage| baggage.pins.as_ref());
        let mut rest = pins
            .and_then(|pins| pins.pages().get(self.first..self.end_position()))
            .unwrap_or(&[]);
        while let Some(&page) = rest.first() {
            let count = ffi::adjacent(rest);
            each(Segment {
                page,
                offset: 0,
                len: (count << wire::PAGE_SHIFT) as u32,
            });
            rest = rest.get(count..).unwrap_or(&[]);
        }
    }

    fn end(self: KBox<Self>, answer: Option<&Answer>) {
        let mut log = self.flight.log.lock();
        let Some(mine) = log.results.get_mut(self.first..self.end_position()) else {
            return;
        };
        match answer {
            None => mine.fill(abi::result::LOST),
            // Nothing was touched, which is what the results say already.
            Some(answer) if answer.status != wire::status::OK => {}
            // A flush of a run has no results of its own.
            Some(_) if self.flight.op == Op::Flush && self.run.is_some() => {
                mine.fill(abi::result::OK);
            }
            Some(answer) => {
                for (to, from) in mine.iter_mut().zip(answer.results) {
                    *to = told(from);
                }
            }
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.flight.leave();
    }
}

/// What a program is told of a result of the device.
fn told(result: u8) -> u8 {
    match result {
        // What came later has come first, and nobody waited for an order.
        wire::result::OK | wire::result::STALE => abi::result::OK,
        wire::result::MISS => abi::result::MISS,
        wire::result::REFUSED_FULL => abi::result::REFUSED_FULL,
        wire::result::REFUSED_FROZEN => abi::result::REFUSED_FROZEN,
        wire::result::CORRUPT => abi::result::CORRUPT,
        _ => abi::result::IO_ERROR,
    }
}

const _: () = assert!(
    abi::result::OK == wire::result::OK
        && abi::result::MISS == wire::result::MISS
        && abi::result::REFUSED_FULL == wire::result::REFUSED_FULL
        && abi::result::REFUSED_FROZEN == wire::result::REFUSED_FROZEN
        && abi::result::CORRUPT == wire::result::CORRUPT
        && abi::result::IO_ERROR == wire::result::IO_ERROR
        && abi::PAGE_SIZE == wire::PAGE_SIZE
);
