// SPDX-License-Identifier: GPL-2.0
//! The call that moves pages: from a program's arguments to a flight, and back to its results.
//!
//! Nothing that the program says is used before it has been copied here and checked. What can be
//! refused as a whole is refused before a page is touched.

use super::{
    abi,
    account::{Opener, Pinning},
    flight::{Baggage, Cargo, Flight},
    pins::Pins,
    pool::{Op, Pool, Run},
};
use kernel::{
    prelude::*,
    sync::Arc,
    transmute::AsBytes,
    uaccess::{UserPtr, UserSlice},
};

/// A flush of at least so many pages for each run goes as runs, otherwise as a list of pages.
const RUN_PAGES: usize = 16;

/// What a program asks for.
fn op_of(wanted: &abi::Transfer) -> Result<Op> {
    match (wanted.op, wanted.flags) {
        (abi::op::PUT, 0) => Ok(Op::Put),
        (abi::op::GET, 0) => Ok(Op::Get),
        (abi::op::GET, abi::flag::EXCLUSIVE) => Ok(Op::Take),
        (abi::op::FLUSH, 0) => Ok(Op::Flush),
        _ => Err(EINVAL),
    }
}

/// Checks what does not depend on the pool.
pub(super) fn check(wanted: &abi::Transfer) -> Result {
    op_of(wanted)?;
    let sane = wanted.reserved == 0
        && wanted.reserved_end == 0
        && (1..=abi::ENTRIES_MAX).contains(&wanted.entries);
    if sane {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

/// Carries out a transfer that [`check`] has passed. Returns the number of pages that went well.
pub(super) fn run(pool: Arc<Pool>, opener: &Arc<Opener>, wanted: &abi::Transfer) -> Result<isize> {
    let op = op_of(wanted)?;
    let entries = read(wanted)?;
    let pages = measure(&entries, op, pool.object_pages)?;
    if pool.device.is_dead() {
        return Err(ENODEV);
    }
    let memory = op != Op::Flush;
    let mut runs = KVec::with_capacity(entries.len(), GFP_KERNEL)?;
    for entry in &entries {
        let run = Run {
            first: entry.index,
            pages: entry.pages,
        };
        runs.push(run, GFP_KERNEL)?;
    }
    let listed = memory || pages < entries.len().saturating_mul(RUN_PAGES);
    let cargo = if listed {
        Cargo::Pages(indices(&runs, pages)?)
    } else {
        Cargo::Runs
    };
    let pins = if memory {
        Some(pin(&entries, op, pages, opener)?)
    } else {
        None
    };
    let flight = Flight::new(op, pool.id(), runs, cargo)?;
    pool.begin(op, flight.runs.iter().copied())?;
    let baggage = Baggage {
        pool: pool.clone(),
        pins,
    };
    let results = flight.fly(&pool.device, baggage)?;
    tell(wanted, &results)?;
    Ok(count(&entries, op, &results))
}

/// Copies the entries from the program.
fn read(wanted: &abi::Transfer) -> Result<KVec<abi::Entry>> {
    let count = wanted.entries as usize;
    let mut entries = KVec::from_elem(abi::Entry::default(), count, GFP_KERNEL)?;
    UserSlice::new(
        UserPtr::from_addr(wanted.entry_array as usize),
        size_of_val(&*entries),
    )
    .reader()
    .read_slice(entries.as_mut_slice().as_bytes_mut())?;
    Ok(entries)
}

/// Checks each entry; the sum of their pages.
fn measure(entries: &[abi::Entry], op: Op, object_pages: u32) -> Result<usize> {
    let memory = op != Op::Flush;
    let mut pages = 0u64;
    for entry in entries {
        let end = u64::from(entry.index).saturating_add(u64::from(entry.pages));
        if entry.pages == 0 || end > u64::from(object_pages) {
            return Err(EINVAL);
        }
        pages = pages.saturating_add(u64::from(entry.pages));
        let aligned = entry.address % abi::PAGE_SIZE as u64 == 0;
        let length = u64::from(entry.pages).saturating_mul(abi::PAGE_SIZE as u64);
        let good = if memory {
            aligned && entry.address.checked_add(length).is_some()
        } else {
            entry.address == 0
        };
        if !good {
            return Err(EINVAL);
        }
    }
    if memory && pages > u64::from(abi::CALL_PAGES_MAX) {
        return Err(E2BIG);
    }
    Ok(pages as usize)
}

/// The index of each page.
fn indices(runs: &[Run], pages: usize) -> Result<KVec<u32>> {
    let mut indices = KVec::with_capacity(pages, GFP_KERNEL)?;
    for run in runs {
        for nth in 0..run.pages {
            indices.push(run.first.wrapping_add(nth), GFP_KERNEL)?;
        }
    }
    Ok(indices)
}

/// Pins the memory of all entries; those that follow each other in memory at once.
fn pin(entries: &[abi::Entry], op: Op, pages: usize, opener: &Arc<Opener>) -> Result<Pins> {
    let pinning = Pinning::new(opener, pages as u32)?;
    let mut pins = Pins::new(pinning, op != Op::Put)?;
    let mut rest = entries.iter().peekable();
    while let Some(entry) = rest.next() {
        let mut count = entry.pages as usize;
        let end = |count: usize| {
            (entry.address as usize).wrapping_add(count.wrapping_mul(abi::PAGE_SIZE))
        };
        while let Some(next) = rest.next_if(|next| next.address as usize == end(count)) {
            count = count.saturating_add(next.pages as usize);
        }
        pins.add(entry.address as usize, count)?;
    }
    Ok(pins)
}

/// Copies the results to the program, if it wants them.
fn tell(wanted: &abi::Transfer, results: &[u8]) -> Result {
    if wanted.result_array == 0 {
        return Ok(());
    }
    UserSlice::new(
        UserPtr::from_addr(wanted.result_array as usize),
        results.len(),
    )
    .writer()
    .write_slice(results)
}

/// Pages that went well.
fn count(entries: &[abi::Entry], op: Op, results: &[u8]) -> isize {
    let good = |result: &&u8| **result == abi::result::OK;
    if op != Op::Flush {
        return results.iter().filter(good).count() as isize;
    }
    let pages: u64 = entries
        .iter()
        .zip(results)
        .filter(|(_, result)| **result == abi::result::OK)
        .map(|(entry, _)| u64::from(entry.pages))
        .fold(0, u64::saturating_add);
    // An ioctl returns an int.
    pages.min(i32::MAX as u64) as isize
}
