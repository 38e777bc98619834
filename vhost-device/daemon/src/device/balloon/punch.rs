// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pages of a guest's memory given back to the host: holes in the file that the memory is.
//!
//! ```text
//! frame numbers ─▶ region ─▶ file and offset ─▶ runs of ranges that touch ─▶ fallocate, a piece at a time
//! ```
//! A hole in a file that is mapped as shared takes its pages out of every mapping of it, the VMM's and
//! this process's, so nothing else has to be told. A later access, whoever makes it, finds a new page of
//! zeroes: a request that names a page of the balloon as its buffer is served, and harms its own guest at
//! most. That does not hold for huge pages, of which there may be none left: whoever touches such a hole
//! then dies. So they are freed only if the administrator says that they are not shared with others.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::{FallocateFlags, fallocate, fstatfs};
use rustix::io::Errno;
use tmem_abi::{BalloonRange, PAGE_SIZE, balloon_result};
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::limits::PUNCH_BYTES;

const PAGE_BYTES: u64 = PAGE_SIZE as u64;
/// What `fstatfs` says of a file of huge pages.
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// What may be freed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Huge pages, too.
    pub(super) huge_pages: bool,
}

/// Where a range's pages are.
struct Place<'m> {
    file: &'m File,
    /// In the file.
    start: u64,
    end: u64,
    /// Of the file's pages.
    page_bytes: u64,
}

/// Frees the ranges whose result is OK so far, and enters what became of each. `between` is called
/// between pieces; when it says so, ranges that were not begun are refused as FAILED.
pub(super) fn free(
    mem: &GuestMemoryMmap,
    ranges: &[BalloonRange],
    rules: Rules,
    results: &mut [u8],
    between: &mut dyn FnMut() -> bool,
) {
    let mut run: Option<(Place<'_>, Range<usize>)> = None;
    let mut finish = |run: Option<(Place<'_>, Range<usize>)>, results: &mut [u8]| {
        if let Some((place, of)) = run
            && let Err(refused) = free_run(&place, between)
        {
            results[of].fill(refused);
        }
    };
    for (nth, range) in ranges.iter().enumerate() {
        if results[nth] != balloon_result::OK {
            continue;
        }
        let found = find(mem, range).and_then(|place| {
            let fits = place.page_bytes == PAGE_BYTES || (rules.huge_pages && is_whole(&place));
            fits.then_some(place).ok_or(balloon_result::HUGE)
        });
        match found {
            Ok(place) => match &mut run {
                Some((last, of)) if of.end == nth && last.takes(&place) => {
                    last.end = place.end;
                    of.end += 1;
                }
                _ => finish(run.replace((place, nth..nth + 1)), results),
            },
            Err(refused) => results[nth] = refused,
        }
    }
    finish(run, results);
}

impl Place<'_> {
    /// `next` follows, and both together are a piece of work.
    fn takes(&self, next: &Self) -> bool {
        self.end == next.start
            && std::ptr::eq(self.file, next.file)
            && next.end - self.start <= PUNCH_BYTES
    }
}

/// Frees a part of a file, a piece at a time if it is one long range. What was begun is not left half
/// done, unless the kernel fails.
fn free_run(place: &Place<'_>, between: &mut dyn FnMut() -> bool) -> Result<(), u8> {
    let mut at = place.start;
    while at < place.end {
        let over = between();
        if over && at == place.start {
            return Err(balloon_result::FAILED);
        }
        let end = place.end.min(at + PUNCH_BYTES.max(place.page_bytes));
        punch(place.file, at, end - at).map_err(|error| {
            tracing::debug!(%error, at, "a part of a guest's memory cannot be freed");
            refusal(&error)
        })?;
        at = end;
    }
    Ok(())
}

/// It begins and ends where pages of its file do.
const fn is_whole(place: &Place<'_>) -> bool {
    place.start.is_multiple_of(place.page_bytes) && place.end.is_multiple_of(place.page_bytes)
}

/// The part of a file that a range is, or why it is none.
fn find<'m>(mem: &'m GuestMemoryMmap, range: &BalloonRange) -> Result<Place<'m>, u8> {
    let outside = balloon_result::OUTSIDE;
    let address = range.first.checked_mul(PAGE_BYTES).ok_or(outside)?;
    let bytes = u64::from(range.pages) * PAGE_BYTES;
    let region = mem.find_region(GuestAddress(address)).ok_or(outside)?;
    let within = address - region.start_addr().raw_value();
    if region.len() - within < bytes {
        return Err(outside);
    }
    let file = region.file_offset().ok_or(balloon_result::NO_FILE)?;
    let start = file.start().checked_add(within).ok_or(outside)?;
    let end = start.checked_add(bytes).ok_or(outside)?;
    let page_bytes = page_bytes(file.file()).map_err(|error| refusal(&error))?;
    Ok(Place {
        file: file.file(),
        start,
        end,
        page_bytes,
    })
}

/// Bytes of a file's pages.
fn page_bytes(file: &File) -> io::Result<u64> {
    let of = fstatfs(file)?;
    // The types of both differ from one architecture to the next.
    let (kind, block) = (of.f_type.cast_unsigned(), of.f_bsize.cast_unsigned());
    Ok(match kind {
        HUGETLBFS_MAGIC if block.is_power_of_two() => block.max(PAGE_BYTES),
        _ => PAGE_BYTES,
    })
}

fn punch(file: &File, start: u64, bytes: u64) -> io::Result<()> {
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    loop {
        match fallocate(file, hole, start, bytes) {
            Err(Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}

/// What a failure is to the driver.
fn refusal(error: &io::Error) -> u8 {
    match Errno::from_io_error(error) {
        // There is a descriptor, but nothing behind it of which a part could be freed.
        Some(Errno::NODEV | Errno::OPNOTSUPP | Errno::SPIPE) => balloon_result::NO_FILE,
        _ => balloon_result::FAILED,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use vm_memory::{Bytes, FileOffset};

    use super::*;

    const ALL: Rules = Rules { huge_pages: true };

    fn range(first: u64, pages: u32) -> BalloonRange {
        BalloonRange { first, pages }
    }

    fn memfd(pages: u64) -> File {
        let file = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(file);
        file.set_len(pages * PAGE_BYTES).unwrap();
        file
    }

    /// Two regions of one file, as a VMM makes them around a hole below 4 GiB, full of sevens; and
    /// anonymous memory.
    fn memory() -> (GuestMemoryMmap, File) {
        let file = memfd(64);
        let of = |start| Some(FileOffset::new(file.try_clone().unwrap(), start));
        let regions = [
            (GuestAddress(0), 32 * PAGE_SIZE, of(0)),
            (
                GuestAddress(64 * PAGE_BYTES),
                32 * PAGE_SIZE,
                of(32 * PAGE_BYTES),
            ),
            (GuestAddress(128 * PAGE_BYTES), 32 * PAGE_SIZE, None),
        ];
        let mem = GuestMemoryMmap::from_ranges_with_files(&regions).unwrap();
        for start in [0, 64] {
            let sevens = vec![7; 32 * PAGE_SIZE];
            mem.write_slice(&sevens, GuestAddress(start * PAGE_BYTES))
                .unwrap();
        }
        (mem, file)
    }

    fn pages(file: &File) -> u64 {
        file.metadata().unwrap().blocks() * 512 / PAGE_BYTES
    }

    fn freed(mem: &GuestMemoryMmap, ranges: &[BalloonRange]) -> Vec<u8> {
        let mut results = vec![balloon_result::OK; ranges.len()];
        free(mem, ranges, ALL, &mut results, &mut || false);
        results
    }

    #[test]
    fn exactly_the_named_pages_leave_the_file() {
        let (mem, file) = memory();
        assert_eq!(pages(&file), 64);
        // Neighbours, one that stands alone, and one in the other region.
        let ranges = [range(2, 3), range(5, 1), range(9, 1), range(64, 4)];
        assert_eq!(freed(&mem, &ranges), [balloon_result::OK; 4]);
        assert_eq!(pages(&file), 64 - 9);
        let gone: Vec<u64> = (2..6).chain([9]).chain(64..68).collect();
        for page in (0..32).chain(64..96) {
            let byte: u8 = mem.read_obj(GuestAddress(page * PAGE_BYTES)).unwrap();
            assert_eq!(
                byte,
                if gone.contains(&page) { 0 } else { 7 },
                "page {page}"
            );
        }
        // Again: nothing more to free, and no fault.
        assert_eq!(freed(&mem, &ranges), [balloon_result::OK; 4]);
    }

    #[test]
    fn what_is_not_wholly_in_memory_is_refused_and_left() {
        let (mem, file) = memory();
        let ranges = [
            range(31, 2),
            range(32, 1),
            range(63, 1),
            range(95, 2),
            range(u64::MAX, 1),
            range(u64::MAX / PAGE_BYTES, u32::MAX),
            range(0, u32::MAX),
        ];
        assert_eq!(freed(&mem, &ranges), [balloon_result::OUTSIDE; 7]);
        assert_eq!(freed(&mem, &[range(130, 1)]), [balloon_result::NO_FILE]);
        assert_eq!(pages(&file), 64);
    }

    #[test]
    fn a_sealed_file_and_one_that_is_not_open_for_writing_keep_their_pages() {
        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let sealed = File::from(memfd_create("sealed", flags).unwrap());
        sealed.set_len(4 * PAGE_BYTES).unwrap();
        let file = Some(FileOffset::new(sealed.try_clone().unwrap(), 0));
        let regions = [(GuestAddress(0), 4 * PAGE_SIZE, file)];
        let mem = GuestMemoryMmap::<()>::from_ranges_with_files(&regions).unwrap();
        mem.write_slice(&[1; 4 * PAGE_SIZE], GuestAddress(0))
            .unwrap();
        fcntl_add_seals(&sealed, SealFlags::FUTURE_WRITE).unwrap();
        assert_eq!(freed(&mem, &[range(0, 4)]), [balloon_result::FAILED]);
        assert_eq!(pages(&sealed), 4);
    }

    #[test]
    fn one_bad_range_does_not_keep_its_neighbours_from_being_freed() {
        let (mem, file) = memory();
        let ranges = [range(1, 1), range(32, 1), range(2, 1)];
        let ok = balloon_result::OK;
        assert_eq!(freed(&mem, &ranges), [ok, balloon_result::OUTSIDE, ok]);
        assert_eq!(pages(&file), 62);
    }

    #[test]
    fn ranges_that_were_not_begun_when_it_has_to_end_are_refused() {
        let (mem, file) = memory();
        let ranges = [range(1, 1), range(4, 1), range(8, 1)];
        let mut results = [balloon_result::OK; 3];
        let mut calls = 0;
        free(&mem, &ranges, ALL, &mut results, &mut || {
            calls += 1;
            calls > 1
        });
        let failed = balloon_result::FAILED;
        assert_eq!(results, [balloon_result::OK, failed, failed]);
        assert_eq!(pages(&file), 63);
    }

    /// There may be no huge pages here, so that the ranges alone are judged.
    #[test]
    fn parts_of_huge_pages_do_not_fit() {
        const HUGE: u64 = 2 << 20;
        let file = memfd(2048);
        let place = |start, end| Place {
            file: &file,
            start,
            end,
            page_bytes: HUGE,
        };
        assert!(is_whole(&place(0, HUGE)) && is_whole(&place(HUGE, 4 * HUGE)));
        assert!(!is_whole(&place(PAGE_BYTES, HUGE + PAGE_BYTES)));
        assert!(!is_whole(&place(0, PAGE_BYTES)));
        assert!(!is_whole(&place(0, 3 * HUGE - PAGE_BYTES)));
    }

    #[test]
    fn a_long_range_is_freed_in_pieces_and_to_its_end() {
        let pages = 3 * PUNCH_BYTES / PAGE_BYTES;
        let file = memfd(pages);
        let region = Some(FileOffset::new(file.try_clone().unwrap(), 0));
        let bytes = usize::try_from(pages * PAGE_BYTES).unwrap();
        let regions = [(GuestAddress(0), bytes, region)];
        let mem = GuestMemoryMmap::from_ranges_with_files(&regions).unwrap();
        for page in 0..pages {
            mem.write_obj(1_u8, GuestAddress(page * PAGE_BYTES))
                .unwrap();
        }
        let mut looks = 0;
        let mut results = [balloon_result::OK];
        let all = [range(1, u32::try_from(pages - 2).unwrap())];
        free(&mem, &all, ALL, &mut results, &mut || {
            looks += 1;
            looks > 1
        });
        assert_eq!((looks, results), (3, [balloon_result::OK]));
        assert_eq!(super::tests::pages(&file), 2);
    }
}
