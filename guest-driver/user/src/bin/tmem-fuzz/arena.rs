// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The memory that calls name and that other threads take away. Only the kernel reads and writes it;
//! this program never does, so that nothing here faults.

use tmem_user::abi::PAGE_SIZE;
use tmem_user::program::Rng;

/// Pages that calls name.
const PAGES: usize = 2048;
/// Pages on either side that no call may touch.
const GUARD: usize = 16;
const GUARD_BYTE: u8 = 0xa5;
/// Where the arena lies: far from where the system puts anything by itself, so that nothing of this
/// program moves into a hole in it.
const PLACE: usize = 0x2000_0000_0000;

/// Memory between two guards.
#[derive(Debug)]
pub(crate) struct Arena {
    start: usize,
}

/// Maps fresh memory over whatever is at `address`.
fn map(address: usize, bytes: usize) -> Option<usize> {
    // SAFETY: the place is one of the arena, which no Rust object lies in.
    let start = unsafe {
        libc::mmap(
            std::ptr::without_provenance_mut(address),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    (start != libc::MAP_FAILED).then(|| start.expose_provenance())
}

impl Arena {
    pub(crate) fn new() -> Result<Self, String> {
        let bytes = (PAGES + 2 * GUARD) * PAGE_SIZE;
        let start = map(PLACE, bytes).ok_or("no memory for the arena")?;
        let arena = Self {
            start: start + GUARD * PAGE_SIZE,
        };
        for guard in arena.guards() {
            // SAFETY: the guard is mapped, and nobody else uses it.
            unsafe {
                std::ptr::with_exposed_provenance_mut::<u8>(guard)
                    .write_bytes(GUARD_BYTE, GUARD * PAGE_SIZE);
            }
        }
        Ok(arena)
    }

    fn guards(&self) -> [usize; 2] {
        [
            self.start - GUARD * PAGE_SIZE,
            self.start + PAGES * PAGE_SIZE,
        ]
    }

    /// Whether the guards are as they were.
    pub(crate) fn guards_are_whole(&self) -> bool {
        self.guards().iter().all(|guard| {
            let guard = std::ptr::with_exposed_provenance::<u8>(*guard);
            // SAFETY: the guard is mapped; only a fault of the kernel's would change it.
            (0..GUARD * PAGE_SIZE)
                .all(|at| unsafe { guard.wrapping_add(at).read_volatile() } == GUARD_BYTE)
        })
    }

    /// Address of a page from which on there are `pages` more.
    pub(crate) fn place(&self, rng: &mut Rng, pages: u32) -> u64 {
        let room = u32::try_from(PAGES)
            .unwrap_or(0)
            .saturating_sub(pages)
            .max(1);
        (self.start + rng.below(room) as usize * PAGE_SIZE) as u64
    }

    /// Whether so many pages from an address on lie between the guards.
    pub(crate) fn holds(&self, address: u64, pages: u32) -> bool {
        let end = address + u64::from(pages) * PAGE_SIZE as u64;
        end <= (self.start + PAGES * PAGE_SIZE) as u64
    }

    /// Address and length of a random part.
    fn part(&self, rng: &mut Rng) -> (usize, usize) {
        let pages = 1 + rng.below(300);
        let start = usize::try_from(self.place(rng, pages)).unwrap_or(self.start);
        (start, pages as usize * PAGE_SIZE)
    }

    /// Does something to a part of the memory.
    pub(crate) fn disturb(&self, rng: &mut Rng) {
        let (start, bytes) = self.part(rng);
        let at = std::ptr::without_provenance_mut::<libc::c_void>(start);
        let advice = [
            libc::MADV_DONTNEED,
            libc::MADV_FREE,
            libc::MADV_HUGEPAGE,
            libc::MADV_PAGEOUT,
            libc::MADV_COLD,
            libc::MADV_DONTFORK,
            libc::MADV_DOFORK,
            libc::MADV_COLLAPSE,
        ];
        let protections = [
            libc::PROT_NONE,
            libc::PROT_READ,
            libc::PROT_READ | libc::PROT_WRITE,
        ];
        match rng.below(6) {
            0 => {
                // SAFETY: the part lies between the guards, where no Rust object is.
                unsafe { libc::munmap(at, bytes) };
            }
            1 | 2 => {
                map(start, bytes);
            }
            3 => {
                // SAFETY: as above.
                unsafe { libc::mprotect(at, bytes, protections[rng.place(3)]) };
            }
            4 => {
                // SAFETY: as above.
                unsafe { libc::madvise(at, bytes, advice[rng.place(8)]) };
            }
            _ => {
                let (to, _) = self.part(rng);
                let to = std::ptr::without_provenance_mut::<libc::c_void>(to);
                let room = self.start + PAGES * PAGE_SIZE - to.addr();
                let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
                // SAFETY: as above, and the new place lies there too. Overlapping parts are refused.
                unsafe { libc::mremap(at, bytes, bytes.min(room), flags, to) };
            }
        }
    }
}
