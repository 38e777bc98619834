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

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::ops::{Deref, Range};
use std::os::fd::OwnedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use crate::frame_list::FrameList;
use crate::frames::{FrameEntry, FrameNo, OwnerRecord};
use crate::handle::{PAGE_SIZE, PageBytes};
use crate::index::LEAF_WORDS;
use crate::journal::Journal;
use crate::kept::{Kept8, Kept16, Kept32, Kept64};
use crate::layout::MapLayout;
use crate::records::{GuestRecord, LimitsRecord, PoolRecord, TierRecord};
use crate::slot_table::{SLOTS_MAX, SlotTable};
use crate::slots::memory::{MARKS_AT, SLOT_MEMORY_WORDS, WORDS_AT};
use crate::tier::{LOWER, Lower, TIERS};

/// Bytes of a huge page, and its alignment.
const HUGE_BYTES: usize = 2 << 20;

/// State bit: the index holds this frame.
pub(crate) const INDEXED: u64 = 1 << 54;
/// State bit: the page has a copy in a lower tier.
pub(crate) const COPIED: u64 = 1 << 55;
/// One pin in the state word; the bits from here up count them.
const PIN: u64 = 1 << 56;
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

/// Neighbouring frames that no one else can see: so many [`OwnedFrame`]s, in less memory.
#[derive(Debug)]
#[must_use]
pub(crate) struct OwnedRun(Range<u32>);

impl OwnedRun {
    /// The frames' numbers.
    pub(crate) fn numbers(&self) -> Range<u32> {
        self.0.clone()
    }

    /// Takes the first frame out.
    pub(crate) fn pop(&mut self) -> Option<OwnedFrame> {
        self.0.next().map(|number| OwnedFrame(FrameNo(number)))
    }

    /// Takes the first frames out, at most `most`.
    pub(crate) fn split_start(&mut self, most: u32) -> Self {
        let at = self.0.start + most.min(self.0.end - self.0.start);
        let start = Self(self.0.start..at);
        self.0.start = at;
        start
    }

    /// Takes the last frames out, at most `most`.
    pub(crate) fn split_end(&mut self, most: u32) -> Self {
        let at = self.0.end - most.min(self.0.end - self.0.start);
        let end = Self(at..self.0.end);
        self.0.end = at;
        end
    }
}

/// A frame of the index whose bytes stay as they are while this lives.
#[derive(Debug)]
#[must_use]
pub(crate) struct Pin<'a> {
    mapping: &'a Mapping,
    frame: FrameNo,
}

/// The words of one leaf of the dense index.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Leaf(pub(crate) [Kept64; LEAF_WORDS]);

/// What may lie in the map.
///
/// # Safety
/// Any bytes are a valid value, and all of it is atomics, so that a shared reference may be written
/// through.
unsafe trait Plain {}

// SAFETY: atomic integers alone.
unsafe impl Plain for FrameEntry {}
// SAFETY: atomic integers alone.
unsafe impl Plain for OwnerRecord {}
// SAFETY: atomic integers alone.
unsafe impl Plain for GuestRecord {}
// SAFETY: atomic integers alone.
unsafe impl Plain for PoolRecord {}
// SAFETY: atomic integers alone; what follows them up to the alignment is never read.
unsafe impl Plain for Journal {}
// SAFETY: atomic integers alone.
unsafe impl Plain for LimitsRecord {}
// SAFETY: atomic integers alone.
unsafe impl Plain for TierRecord {}
// SAFETY: an atomic integer.
unsafe impl Plain for Kept8 {}
// SAFETY: an atomic integer.
unsafe impl Plain for Kept16 {}
// SAFETY: an atomic integer.
unsafe impl Plain for Kept64 {}
// SAFETY: an atomic integer.
unsafe impl Plain for Kept32 {}
// SAFETY: atomic integers alone.
unsafe impl Plain for Leaf {}

/// A file, mapped.
#[derive(Debug)]
struct Region {
    base: NonNull<u8>,
    bytes: NonZeroUsize,
    file: OwnedFd,
}

impl Region {
    /// Maps the first `bytes` of a file, with a reservation of its memory if asked for.
    fn new(file: OwnedFd, bytes: usize, reserve: bool) -> io::Result<Self> {
        Self::at(ptr::null_mut(), file, bytes, reserve)
    }

    /// The same, at an address that is a multiple of [`HUGE_BYTES`].
    fn aligned(file: OwnedFd, bytes: usize) -> io::Result<Self> {
        let room = (bytes.checked_add(HUGE_BYTES)).ok_or(io::ErrorKind::OutOfMemory)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let free = unsafe { mmap_anonymous(ptr::null_mut(), room, ProtFlags::empty(), flags) }?;
        // SAFETY: the mapping was made just now, nobody has it, and nothing refers into it.
        unsafe { munmap(free, room) }?;
        // Another thread may map something there now; then the kernel chooses another place.
        let at = free.map_addr(|at| at.next_multiple_of(HUGE_BYTES));
        Self::at(at, file, bytes, false)
    }

    /// The same, at `at` where that is free; null: wherever.
    fn at(at: *mut c_void, file: OwnedFd, bytes: usize, reserve: bool) -> io::Result<Self> {
        let bytes = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
        let mut flags = MapFlags::SHARED;
        if !reserve {
            flags |= MapFlags::NORESERVE;
        }
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, where nothing is mapped: the address is no more than a wish.
        let base = unsafe { mmap(at, bytes.get(), access, flags, &file, 0) }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let region = Self { base, bytes, file };
        // Guests' pages do not belong into a core dump, nor does a mostly empty index.
        region.advise(Advice::LinuxDontDump);
        Ok(region)
    }

    /// Tells the kernel something on which nothing but speed, or a dump, depends.
    fn advise(&self, advice: Advice) {
        let base = self.base.as_ptr().cast();
        // SAFETY: the range is ours and mapped, and such advice does not change its contents.
        let _ = unsafe { madvise(base, self.bytes.get(), advice) };
    }

    /// Has the kernel put window `window`, of [`HUGE_BYTES`], into one huge page.
    fn gather(&self, window: usize) -> io::Result<()> {
        self.advise_window(window, HUGE_BYTES, libc::MADV_COLLAPSE)
    }

    /// Has the first page of a window be there: where nothing is, the kernel gathers nothing.
    fn fault_in(&self, window: usize) -> io::Result<()> {
        self.advise_window(window, PAGE_SIZE, libc::MADV_POPULATE_READ)
    }

    /// Gives advice that leaves the contents as they are on the first `bytes` of a window.
    fn advise_window(&self, window: usize, bytes: usize, advice: libc::c_int) -> io::Result<()> {
        let at = window.checked_mul(HUGE_BYTES);
        let end = at.and_then(|at| at.checked_add(HUGE_BYTES));
        let (Some(at), true) = (at, end.is_some_and(|end| end <= self.bytes.get())) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        assert!(bytes <= HUGE_BYTES);
        // SAFETY: the offset is inside the mapping, as just checked.
        let start = unsafe { self.base.add(at) };
        // SAFETY: the range is inside the mapping, and the advice leaves its contents as they are.
        let failed = unsafe { libc::madvise(start.as_ptr().cast(), bytes, advice) };
        if failed == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// The `count` values that begin at `at`.
    fn area<T: Plain>(&self, at: usize, count: usize) -> Area<T> {
        let bytes = count.checked_mul(size_of::<T>());
        let end = bytes.and_then(|bytes| at.checked_add(bytes));
        assert!(end.is_some_and(|end| end <= self.bytes.get()));
        // SAFETY: the offset is inside the mapping, as just asserted.
        let first = unsafe { self.base.add(at) }.cast::<T>();
        assert!(first.is_aligned());
        Area { first, count }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let base = self.base.as_ptr().cast();
        // SAFETY: the mapping is ours; every reference into it borrows the `Mapping` it is part of.
        let unmapped = unsafe { munmap(base, self.bytes.get()) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Values in the region that lives as long as this: both are parts of one [`Mapping`].
#[derive(Debug)]
struct Area<T> {
    first: NonNull<T>,
    count: usize,
}

impl<T: Plain> Deref for Area<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `Region::area` checked bounds and alignment; any bytes are a `T`, and it is atomics.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

/// The columns of a slot table.
#[derive(Debug)]
struct SlotAreas {
    low: Area<Kept32>,
    mid: Area<Kept16>,
    top: Area<Kept8>,
}

impl SlotAreas {
    fn new(map: &Region, at: usize) -> Self {
        let slots = SLOTS_MAX as usize;
        let mid = at + slots * size_of::<Kept32>();
        Self {
            low: map.area(at, slots),
            mid: map.area(mid, slots),
            top: map.area(mid + slots * size_of::<Kept16>(), slots),
        }
    }
}

/// What a store remembers of its slots, mapped: words, then a mark for each slot.
pub(crate) struct SideMap {
    region: Region,
    words: Area<Kept64>,
    marks: Area<Kept8>,
}

// SAFETY: the mapping is plain memory without ties to a thread.
unsafe impl Send for SideMap {}
// SAFETY: atomics alone are reached through it.
unsafe impl Sync for SideMap {}

impl SideMap {
    /// Maps the first `bytes` of a file, which must be that long.
    pub(crate) fn new(file: OwnedFd, bytes: usize) -> io::Result<Self> {
        let region = Region::new(file, bytes, false)?;
        Ok(Self {
            words: region.area(WORDS_AT, SLOT_MEMORY_WORDS),
            marks: region.area(MARKS_AT, bytes - MARKS_AT),
            region,
        })
    }

    pub(crate) fn words(&self) -> &[Kept64] {
        &self.words
    }

    pub(crate) fn marks(&self) -> &[Kept8] {
        &self.marks
    }

    pub(crate) fn file(&self) -> &OwnedFd {
        &self.region.file
    }
}

/// Both files, mapped.
#[derive(Debug)]
pub(crate) struct Mapping {
    layout: MapLayout,
    guests: Area<GuestRecord>,
    pools: Area<PoolRecord>,
    owners: Area<OwnerRecord>,
    table: Area<FrameEntry>,
    journals: Area<Journal>,
    limits: Area<LimitsRecord>,
    tiers: Area<TierRecord>,
    slots: [SlotAreas; LOWER],
    leaves: Area<Leaf>,
    frames: Region,
    /// Huge pages are to be asked for.
    gathers_frames: bool,
    map: Region,
}

// SAFETY: the mappings are plain memory without ties to a thread.
unsafe impl Send for Mapping {}
// SAFETY: the map is atomics alone; frames are reached as the module head says.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps both files, which are as long as `layout` says. Frames that come in `huge` pages are
    /// reserved: the first touch of one that is not there would end the process.
    pub(crate) fn new(
        map: OwnedFd,
        frames: OwnedFd,
        layout: MapLayout,
        huge: Option<usize>,
    ) -> io::Result<Self> {
        let map = Region::aligned(map, layout.bytes)?;
        let block = huge.unwrap_or(PAGE_SIZE);
        let frames_bytes = layout.frames_bytes(block);
        let frames = match huge {
            Some(_) => Region::new(frames, frames_bytes, true)?,
            None => Region::aligned(frames, frames_bytes)?,
        };
        // A kernel without huge pages for this file says no.
        frames.advise(Advice::LinuxHugepage);
        let slots = layout.counts.slots() as usize;
        Ok(Self {
            guests: map.area(layout.guests_at, usize::from(layout.counts.guests)),
            pools: map.area(layout.pools_at, slots),
            owners: map.area(layout.owners_at, layout.owners as usize),
            table: map.area(layout.table_at, layout.counts.all_frames() as usize),
            journals: map.area(layout.journals_at, layout.journals as usize),
            limits: map.area(layout.limits_at, usize::from(layout.counts.guests)),
            tiers: map.area(layout.tiers_at, TIERS),
            slots: layout.slots_at.map(|at| SlotAreas::new(&map, at)),
            leaves: map.area(layout.leaves_at, layout.region_leaves * slots),
            layout,
            frames,
            gathers_frames: huge.is_none(),
            map,
        })
    }

    /// Has the kernel put 2 MiB of the map into one huge page, window `window` of it. Whoever touches
    /// them meanwhile waits, some milliseconds at most.
    ///
    /// # Errors
    /// The kernel's: no huge page to be had, or none for such a file.
    pub(crate) fn gather_window(&self, window: usize) -> io::Result<()> {
        self.map.gather(window)
    }

    /// Frames could come in huge pages, and do not of themselves.
    pub(crate) fn may_gather_frames(&self) -> bool {
        self.gathers_frames
    }

    /// The same of the frames, of which none needs to have memory yet.
    ///
    /// # Errors
    /// As above.
    pub(crate) fn gather_frames(&self, window: u32) -> io::Result<()> {
        let window = window as usize;
        self.frames.fault_in(window)?;
        self.frames.gather(window)
    }

    /// Takes every frame out of the hands that a dead process left it in: those that `used` names
    /// are the index's and unpinned, all others are handed out. Also says how many of these were not
    /// free before. Frames beyond `used` were never used; of a new engine that is all. Takes the
    /// mapping alone, so nobody has a frame.
    pub(crate) fn settle(&mut self, used: &[bool]) -> (FrameList, u64) {
        let mut freed = 0;
        let mut owned = FrameList::default();
        let all = self.layout.counts.all_frames();
        let mut run = 0..0;
        // Those beyond were never used; the table's memory comes when they are.
        let known = u32::try_from(used.len()).unwrap_or(all).min(all);
        for number in 0..known {
            let state = &self.table[number as usize].state;
            let before = state.load(Ordering::Relaxed);
            let mut now = before & (INDEXED - 1);
            if used[number as usize] {
                now |= INDEXED;
            } else {
                if run.end != number {
                    owned.push_run(OwnedRun(std::mem::replace(&mut run, number..number)));
                }
                run.end = number + 1;
                freed += u64::from(before >= INDEXED);
            }
            // Most are as they should be, and need no write.
            if now != before {
                state.store(now, Ordering::Relaxed);
            }
        }
        if run.end == known {
            run.end = all;
        } else {
            owned.push_run(OwnedRun(std::mem::replace(&mut run, known..all)));
        }
        owned.push_run(OwnedRun(run));
        (owned, freed)
    }

    /// Where things are in the files.
    pub(crate) fn layout(&self) -> &MapLayout {
        &self.layout
    }

    /// The guest records.
    pub(crate) fn guests(&self) -> &[GuestRecord] {
        &self.guests
    }

    /// The pool records.
    pub(crate) fn pools(&self) -> &[PoolRecord] {
        &self.pools
    }

    /// Frames that may have been used: those beyond never were.
    pub(crate) fn frames_known(&self) -> usize {
        let counts = &self.layout.counts;
        let reserve = counts.all_frames() - counts.frames;
        match self.tiers[0].high() {
            0 => counts.all_frames() as usize,
            high => (high.min(counts.frames) + reserve) as usize,
        }
    }

    /// The frame table.
    #[inline]
    pub(crate) fn entries(&self) -> &[FrameEntry] {
        &self.table
    }

    /// The owner records.
    #[inline]
    pub(crate) fn owners(&self) -> &[OwnerRecord] {
        &self.owners
    }

    /// The journals.
    pub(crate) fn journals(&self) -> &[Journal] {
        &self.journals
    }

    /// What guests may hold where.
    pub(crate) fn limits(&self) -> &[LimitsRecord] {
        &self.limits
    }

    /// The tiers' records.
    pub(crate) fn tiers(&self) -> &[TierRecord] {
        &self.tiers
    }

    /// The slot table of a lower tier.
    #[inline]
    pub(crate) fn slots(&self, tier: Lower) -> SlotTable<'_> {
        let SlotAreas { low, mid, top } = &self.slots[tier.number()];
        SlotTable { low, mid, top }
    }

    /// The words of a leaf.
    #[inline]
    pub(crate) fn leaf(&self, leaf: usize) -> &Leaf {
        &self.leaves[leaf]
    }

    /// The file of the map.
    pub(crate) fn map_file(&self) -> &OwnedFd {
        &self.map.file
    }

    /// The file of the frames.
    pub(crate) fn frames_file(&self) -> &OwnedFd {
        &self.frames.file
    }

    /// Address of a frame's bytes.
    #[inline]
    fn page(&self, frame: FrameNo) -> NonNull<PageBytes> {
        assert!(
            (frame.0 as usize) < self.table.len(),
            "frame number beyond the arena"
        );
        let offset = frame.0 as usize * PAGE_SIZE;
        // SAFETY: the file has a page for each entry of the table.
        unsafe { self.frames.base.add(offset) }.cast()
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

    /// Takes a frame back from the index. Its owner is the caller, or the last one to unpin it. Also
    /// says whether it was [`COPIED`].
    ///
    /// # Panics
    /// If the index does not have it.
    #[inline]
    pub(crate) fn retire(&self, frame: FrameNo) -> (Option<OwnedFrame>, bool) {
        let before = self
            .entry(frame)
            .state
            .fetch_and(!INDEXED, Ordering::AcqRel);
        assert!(
            before & INDEXED != 0,
            "frame {} left the index twice",
            frame.0
        );
        let owned = (before / PIN == 0).then_some(OwnedFrame(frame));
        (owned, before & COPIED != 0)
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

/// Asks the processor for a value that will be read soon.
#[inline]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let at = std::ptr::from_ref(value).cast::<i8>();
        // SAFETY: every x86-64 processor has the instruction.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
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

impl Pin<'_> {
    /// The frame's bytes.
    #[inline]
    pub(crate) fn page(&self) -> &PageBytes {
        // SAFETY: a pinned frame has no OwnedFrame, so nobody writes it; any bytes are a page.
        unsafe { self.mapping.page(self.frame).as_ref() }
    }

    /// The frame's number.
    pub(crate) fn frame(&self) -> FrameNo {
        self.frame
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
