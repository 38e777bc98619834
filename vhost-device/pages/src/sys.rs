// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The mapped frames and who may touch them: the only file of this crate with `unsafe`.
//!
//! A frame's bytes are reached through a value that proves the right to reach them:
//!
//! ```text
//!            publish                      retire, no pin left
//! OwnedFrame ───────▶ in the index ──────────────────────────▶ OwnedFrame
//! (one writer)        │  ▲                                     ▲
//!                  pin│  │unpin                               │ unpin, the last one after a retire
//!                     ▼  │                                     │
//!                     Pin (any number of readers) ─────────────┘
//! ```
//! The state word of the frame's table entry counts this at run time ([`INDEXED`] and the pins), so
//! that a wrong number in the index ends in a panic, never in two views of the same bytes. A frame
//! of one mapping must not meet another mapping: an engine has one, its frames never leave the
//! engine's lists and workers, and a worker panics when it is given a pool of another engine.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use crate::frames::{ArenaLayout, FrameEntry, FrameNo, HEADER_BYTES, OwnerRecord};
use crate::handle::{PAGE_SIZE, PageBytes};

/// State bit: the index holds this frame.
pub(crate) const INDEXED: u64 = 1 << 54;
/// One pin in the state word; the bits from here up count them.
const PIN: u64 = 1 << 55;
/// Pins that fit into the state word; there is at most one a worker.
pub(crate) const PINS_MAX: u64 = u64::MAX / PIN;
const _: () = assert!(PINS_MAX >= crate::engine::WORKERS_MAX as u64);

/// A frame that no one else can see. Whoever has it may write its bytes. It must be published or
/// given back to the free frames: dropped, its frame is lost until the engine ends.
#[derive(Debug)]
#[must_use]
pub(crate) struct OwnedFrame(FrameNo);

impl OwnedFrame {
    /// The frame's number.
    pub(crate) fn number(&self) -> FrameNo {
        self.0
    }
}

/// A frame of the index whose bytes stay as they are while this lives.
#[derive(Debug)]
#[must_use]
pub(crate) struct Pin<'a> {
    mapping: &'a Mapping,
    frame: FrameNo,
}

/// The shared-memory file, mapped: header, owner records, frame table, frames.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    layout: ArenaLayout,
    _file: OwnedFd,
}

// SAFETY: the mapping is plain memory without ties to a thread.
unsafe impl Send for Mapping {}
// SAFETY: table and owner records are atomics; frames are reached as the module head says.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `file`, which is all zeroes and as long as `layout` says, and hands out every frame of
    /// it, the lowest last, so that a stack of them is used from the bottom of the file.
    pub(crate) fn new(
        file: OwnedFd,
        layout: ArenaLayout,
        reserve: bool,
    ) -> io::Result<(Self, Vec<OwnedFrame>)> {
        let bytes = NonZeroUsize::new(layout.bytes).ok_or(io::ErrorKind::InvalidInput)?;
        let mut flags = MapFlags::SHARED;
        if !reserve {
            flags |= MapFlags::NORESERVE;
        }
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe {
            mmap(
                ptr::null_mut(),
                bytes.get(),
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
                &file,
                0,
            )
        }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mapping = Self {
            base,
            layout,
            _file: file,
        };
        let frames = mapping.at(layout.frames_at).cast();
        // A kernel without huge pages for this file says no; nothing but speed depends on it.
        // SAFETY: the range is ours and mapped, and the advice does not change its contents.
        let _ = unsafe {
            madvise(
                frames.as_ptr(),
                layout.bytes - layout.frames_at,
                Advice::LinuxHugepage,
            )
        };
        let owned = (0..layout.frames)
            .rev()
            .map(|n| OwnedFrame(FrameNo(n)))
            .collect();
        Ok((mapping, owned))
    }

    /// Where things are in the file.
    pub(crate) fn layout(&self) -> &ArenaLayout {
        &self.layout
    }

    fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.layout.bytes);
        // SAFETY: the offset is inside the mapping, as just asserted.
        unsafe { self.base.add(offset) }
    }

    /// Writes the header. Takes the mapping alone, so nobody reads it meanwhile.
    pub(crate) fn write_header(&mut self, header: &[u8; HEADER_BYTES]) {
        let at = self.at(0);
        // SAFETY: the file begins with HEADER_BYTES that belong to the header alone.
        unsafe { ptr::copy_nonoverlapping(header.as_ptr(), at.as_ptr(), HEADER_BYTES) };
    }

    /// The frame table.
    #[inline]
    pub(crate) fn entries(&self) -> &[FrameEntry] {
        // SAFETY: frames_at is beyond the table, so the offset is inside the mapping.
        let first = unsafe { self.base.add(self.layout.table_at) }.cast::<FrameEntry>();
        // SAFETY: the layout keeps `frames` aligned entries here; all zeroes is a valid entry, and
        // its fields are atomics.
        unsafe { std::slice::from_raw_parts(first.as_ptr(), self.layout.frames as usize) }
    }

    /// The owner records.
    #[inline]
    pub(crate) fn owners(&self) -> &[OwnerRecord] {
        // SAFETY: frames_at is beyond the records, so the offset is inside the mapping.
        let first = unsafe { self.base.add(self.layout.owners_at) }.cast::<OwnerRecord>();
        // SAFETY: the layout keeps `owners` aligned records here; all zeroes is a valid record, and
        // its fields are atomics.
        unsafe { std::slice::from_raw_parts(first.as_ptr(), self.layout.owners as usize) }
    }

    /// Address of a frame's bytes.
    #[inline]
    fn page(&self, frame: FrameNo) -> NonNull<PageBytes> {
        assert!(
            frame.0 < self.layout.frames,
            "frame number beyond the arena"
        );
        let offset = self.layout.frames_at + frame.0 as usize * PAGE_SIZE;
        // SAFETY: frames_at + frames * PAGE_SIZE is at most the length of the mapping.
        unsafe { self.base.add(offset) }.cast()
    }

    /// The bytes of a frame that is owned.
    #[inline]
    pub(crate) fn owned_page<'a>(&'a self, frame: &'a mut OwnedFrame) -> &'a mut PageBytes {
        // SAFETY: there is one OwnedFrame of a frame that is neither indexed nor pinned, it is
        // borrowed alone here, and any bytes are a page.
        unsafe { self.page(frame.0).as_mut() }
    }

    /// Hands a frame to the index: it can be pinned from now on. `state` is its ticket and flags.
    #[inline]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "ownership of the frame ends here"
    )]
    pub(crate) fn publish(&self, frame: OwnedFrame, state: u64) -> FrameNo {
        assert!(state < INDEXED);
        self.entry(frame.0)
            .state
            .store(state | INDEXED, Ordering::Release);
        let OwnedFrame(number) = frame;
        number
    }

    /// Asks the processor for the first lines of a frame: its table entry must arrive before its bytes
    /// may be read, and without this the two waits for memory follow each other.
    #[inline]
    pub(crate) fn prefetch(&self, frame: FrameNo) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let first = self.page(frame).cast::<[i8; 64]>().as_ptr();
            for line in 0..4 {
                // A hint touches no memory that the program can see, wherever it points.
                let at = first.wrapping_add(line).cast::<i8>();
                // SAFETY: every x86-64 processor has the instruction.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(at) };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = frame;
    }

    /// Holds a frame's bytes still, if the index has it.
    #[inline]
    pub(crate) fn pin(&self, frame: FrameNo) -> Option<Pin<'_>> {
        let state = &self.entry(frame).state;
        let mut now = state.load(Ordering::Relaxed);
        loop {
            if now & INDEXED == 0 {
                return None;
            }
            assert!(now / PIN < PINS_MAX, "more pins than workers");
            match state.compare_exchange_weak(now, now + PIN, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    return Some(Pin {
                        mapping: self,
                        frame,
                    });
                }
                Err(seen) => now = seen,
            }
        }
    }

    /// Takes a frame back from the index. Its owner is the caller, or the last one to unpin it.
    ///
    /// # Panics
    /// If the index does not have it.
    #[inline]
    pub(crate) fn retire(&self, frame: FrameNo) -> Option<OwnedFrame> {
        let before = self
            .entry(frame)
            .state
            .fetch_and(!INDEXED, Ordering::AcqRel);
        assert!(
            before & INDEXED != 0,
            "frame {} left the index twice",
            frame.0
        );
        (before / PIN == 0).then_some(OwnedFrame(frame))
    }

    /// A frame's table entry.
    #[inline]
    pub(crate) fn entry(&self, frame: FrameNo) -> &FrameEntry {
        &self.entries()[frame.0 as usize]
    }

    /// Readers that hold this frame now.
    pub(crate) fn pins(&self, frame: FrameNo) -> u64 {
        self.entry(frame).state.load(Ordering::Relaxed) / PIN
    }
}

/// Asks the processor for the lines of a page that is about to be written, wherever it is.
#[inline]
pub fn prefetch_for_write(page: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        for line in 0..PAGE_SIZE / 64 {
            let at = page.wrapping_add(line * 64).cast::<i8>();
            // SAFETY: the instruction touches no memory that the program can see, wherever it
            // points, and is a no-op on processors that do not know it.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(at) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = page;
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let base = self.base.as_ptr().cast();
        // SAFETY: the mapping is ours; every reference into it borrows `self`.
        let unmapped = unsafe { munmap(base, self.layout.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}

impl Pin<'_> {
    /// The frame's bytes.
    #[inline]
    pub(crate) fn page(&self) -> &PageBytes {
        // SAFETY: a pinned frame has no OwnedFrame, so nobody writes it; any bytes are a page.
        unsafe { self.mapping.page(self.frame).as_ref() }
    }

    /// The frame's table entry.
    #[inline]
    pub(crate) fn entry(&self) -> &FrameEntry {
        self.mapping.entry(self.frame)
    }

    /// Lets go. The last one to do so after the index did becomes the owner.
    #[inline]
    pub(crate) fn unpin(self) -> Option<OwnedFrame> {
        let before = self.entry().state.fetch_sub(PIN, Ordering::AcqRel);
        (before & INDEXED == 0 && before / PIN == 1).then_some(OwnedFrame(self.frame))
    }
}
