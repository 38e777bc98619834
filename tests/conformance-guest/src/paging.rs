// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Mappings beyond the first 4 GiB, which the boot code makes: a monitor may put a device's
//! registers near the end of the address space.

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::memory::Region;
use crate::why::{Result, fail};

const MAPPED: u64 = 1 << 32;
const LARGE_PAGE: u64 = 2 << 20;
/// Addresses that one level of page tables can tell apart here: four levels, lower half.
const ADDRESS_END: u64 = 1 << 47;
const PRESENT_WRITABLE: u64 = 0b11;
const LARGE: u64 = 1 << 7;
const TABLE_BYTES: usize = 4096;
const ADDRESS_BITS: u64 = 0x000f_ffff_ffff_f000;
/// Tables to spare: two for each of a few far apart places.
const SPARE_TABLES: usize = 8;

/// Page tables that are in use by none.
static SPARE: [SpareTable; SPARE_TABLES] = [const { SpareTable::new() }; SPARE_TABLES];
static SPARE_NEXT: AtomicUsize = AtomicUsize::new(0);

/// A page of zeroes that only the processor's page walk reads.
#[repr(align(4096))]
struct SpareTable(core::cell::UnsafeCell<[u8; TABLE_BYTES]>);

// SAFETY: There is one processor, and the bytes are only touched by way of a region.
unsafe impl Sync for SpareTable {}

impl SpareTable {
    const fn new() -> Self {
        Self(core::cell::UnsafeCell::new([0; TABLE_BYTES]))
    }
}

/// Maps `bytes` bytes from `address` on, each page to the address that it has.
pub(crate) fn map(address: u64, bytes: usize) -> Result {
    let Some(end) = address
        .checked_add(bytes as u64)
        .filter(|end| *end <= ADDRESS_END)
    else {
        return fail!("{bytes} bytes at {address:#x} cannot be mapped");
    };
    let mut at = address / LARGE_PAGE * LARGE_PAGE;
    while at < end {
        if at >= MAPPED {
            map_page(at)?;
        }
        at += LARGE_PAGE;
    }
    Ok(())
}

fn map_page(address: u64) -> Result {
    unsafe extern "C" {
        static page_map: u8;
    }
    let mut table = table((&raw const page_map).addr());
    for shift in [39, 30] {
        let entry = slot(address, shift);
        let value = table.read::<u64>(entry);
        let next = if value & 1 == 0 {
            let spare = SPARE_NEXT.fetch_add(1, Ordering::Relaxed);
            let Some(spare) = SPARE.get(spare) else {
                return fail!("too many places to map");
            };
            let start = spare.0.get().addr();
            table.write(entry, start as u64 | PRESENT_WRITABLE);
            start
        } else {
            usize::try_from(value & ADDRESS_BITS).unwrap_or(0)
        };
        table = self::table(next);
    }
    table.write(slot(address, 21), address | LARGE | PRESENT_WRITABLE);
    Ok(())
}

/// A page table.
fn table(start: usize) -> Region {
    // SAFETY: A page table of the boot code's or a spare one: mapped, and no Rust value.
    unsafe { Region::new(start, TABLE_BYTES) }
}

/// The offset of an address's entry in the table whose entries stand for `1 << shift` bytes each.
fn slot(address: u64, shift: u32) -> usize {
    (address >> shift & 0x1ff) as usize * 8
}
