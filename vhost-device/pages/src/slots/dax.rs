// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Persistent memory that is mapped, and the instructions that make stores to it durable: the only
//! file here with `unsafe`.
//!
//! A file system in DAX mode maps the medium itself, and `MAP_SYNC` promises that what its lines hold
//! is found again after a power loss, without a call. So a store is durable once its cache line has
//! been written back and a fence has passed: pages go around the cache (`movntdq`), headers are
//! written back by `clwb`, or by `clflushopt` or `clflush` on processors without it.
//!
//! Nothing is read through the mapping: `pread` gives an error where the medium is bad, a load would
//! give a signal. Stores cannot be spared that. The file's length is looked at before each, but who
//! cuts a file on DAX short while it is written ends the process; other media only have an error.
//!
//! No reference to mapped memory is ever made. Stores are atomic words or go by `movntdq`, and what
//! two threads store at the same time is one of the two: the engine gives a slot to one of them.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use rustix::fs::ftruncate;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::Mode;
use super::medium::{Medium, grow, length, load, next_data};
use crate::handle::{PAGE_SIZE, PageBytes};

const LINE: usize = 64;

/// A mapped file.
#[derive(Debug)]
pub(super) struct DaxMedium {
    file: OwnedFd,
    flags: MapFlags,
    line_flush: LineFlush,
    mapped: RwLock<Option<Mapped>>,
}

impl DaxMedium {
    /// A medium of this file, if it is on persistent memory and the processor can flush it; else the
    /// file back.
    pub(super) fn probe(file: OwnedFd) -> Result<Self, OwnedFd> {
        let flags = MapFlags::SHARED_VALIDATE | MapFlags::SYNC;
        let Some(line_flush) = LineFlush::detect() else {
            return Err(file);
        };
        // The length does not matter: nothing is touched.
        let probe = NonZeroUsize::new(PAGE_SIZE).map(|bytes| Mapped::new(&file, bytes, flags));
        if !matches!(probe, Some(Ok(_))) {
            return Err(file);
        }
        let medium = Self::new(file, flags, line_flush);
        let remapped = medium.remap();
        match remapped {
            Ok(()) => Ok(medium),
            Err(_) => Err(medium.file),
        }
    }

    /// The same instructions over any file that can be mapped: durable they are not.
    #[cfg(test)]
    pub(super) fn unsynchronised(file: OwnedFd, line_flush: LineFlush) -> io::Result<Self> {
        let medium = Self::new(file, MapFlags::SHARED, line_flush);
        medium.remap()?;
        Ok(medium)
    }

    fn new(file: OwnedFd, flags: MapFlags, line_flush: LineFlush) -> Self {
        Self {
            file,
            flags,
            line_flush,
            mapped: RwLock::new(None),
        }
    }

    /// Maps all of the file as it is now.
    fn remap(&self) -> io::Result<()> {
        let bytes = usize::try_from(length(&self.file)?).map_err(|_| too_long())?;
        let mapped =
            NonZeroUsize::new(bytes).map(|bytes| Mapped::new(&self.file, bytes, self.flags));
        *self.mapped.write() = mapped.transpose()?;
        Ok(())
    }

    /// Does something with `bytes` mapped bytes that are there.
    fn with<R>(&self, at: u64, bytes: usize, act: impl FnOnce(*mut u8) -> R) -> io::Result<R> {
        let mapped = self.mapped.read();
        let mapped = mapped.as_ref().ok_or(io::ErrorKind::UnexpectedEof)?;
        let begin = usize::try_from(at).map_err(|_| too_long())?;
        let end = begin.checked_add(bytes).ok_or_else(too_long)?;
        if end > mapped.bytes.get() || (end as u64) > length(&self.file)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: the mapping has more than `begin` bytes.
        let place = unsafe { mapped.at.as_ptr().add(begin) };
        Ok(act(place))
    }
}

fn too_long() -> io::Error {
    io::ErrorKind::FileTooLarge.into()
}

impl Medium for DaxMedium {
    fn mode(&self) -> Mode {
        Mode::Dax
    }

    fn has_cheap_fence(&self) -> bool {
        true
    }

    fn length(&self) -> io::Result<u64> {
        length(&self.file)
    }

    fn load(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        load(&self.file, at, into)
    }

    fn store(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let (words, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() || !at.is_multiple_of(8) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.with(at, bytes.len(), |place| {
            for (number, word) in words.iter().enumerate() {
                #[expect(
                    clippy::cast_ptr_alignment,
                    reason = "mappings are aligned, and so is `at`"
                )]
                let to = place.wrapping_add(8 * number).cast::<u64>();
                // SAFETY: `with` says that all of it is mapped, and it is aligned; no reference to it
                // exists, and other stores to it are atomic too.
                let to = unsafe { AtomicU64::from_ptr(to) };
                to.store(u64::from_le_bytes(*word).to_le(), Ordering::Relaxed);
            }
        })
    }

    fn store_pages(&self, at: u64, pages: &[&PageBytes]) -> io::Result<()> {
        if !at.is_multiple_of(PAGE_SIZE as u64) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.with(at, pages.len() * PAGE_SIZE, |place| {
            for (number, page) in pages.iter().enumerate() {
                let to = place.wrapping_add(number * PAGE_SIZE);
                // SAFETY: `with` says that a page is mapped there, and it is aligned.
                unsafe { copy_around_the_cache(page, to) };
            }
        })
    }

    fn flush(&self, at: u64, bytes: u64) -> io::Result<()> {
        let bytes = usize::try_from(bytes).map_err(|_| too_long())?;
        self.with(at, bytes, |place| {
            // The first line may begin before the range: it is in the same page.
            let ahead = place.addr() % LINE;
            for offset in (0..ahead + bytes).step_by(LINE) {
                let line = place.wrapping_sub(ahead).wrapping_add(offset);
                // SAFETY: the line is mapped, and the processor has the instruction.
                unsafe { self.line_flush.write_back(line) };
            }
        })
    }

    fn mark(&self) -> u64 {
        0
    }

    fn fence(&self, _since: u64) -> io::Result<()> {
        store_fence();
        Ok(())
    }

    fn grow(&self, from: u64, to: u64) -> io::Result<()> {
        grow(&self.file, from, to)?;
        self.remap().inspect_err(|_| {
            let _ = ftruncate(&self.file, from);
        })
    }

    fn shrink(&self, to: u64) -> io::Result<()> {
        // Nothing may be mapped that is not there.
        let mut mapped = self.mapped.write();
        *mapped = None;
        let cut = ftruncate(&self.file, to);
        drop(mapped);
        self.remap()?;
        Ok(cut?)
    }

    fn next_data(&self, at: u64) -> Option<u64> {
        next_data(&self.file, at)
    }
}

/// A mapping of the beginning of a file.
#[derive(Debug)]
struct Mapped {
    at: NonNull<u8>,
    bytes: NonZeroUsize,
}

// SAFETY: the mapping belongs to no thread, and is reached by atomic or non-temporal stores alone.
unsafe impl Send for Mapped {}
// SAFETY: as above: no references to its bytes are made.
unsafe impl Sync for Mapped {}

impl Mapped {
    fn new(file: &OwnedFd, bytes: NonZeroUsize, flags: MapFlags) -> io::Result<Self> {
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at a place that the system chooses replaces nothing.
        let at = unsafe { mmap(ptr::null_mut(), bytes.get(), rights, flags, file, 0) }?;
        let at = NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { at, bytes })
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and nothing points into it.
        let unmapped = unsafe { munmap(self.at.as_ptr().cast(), self.bytes.get()) };
        debug_assert!(unmapped.is_ok());
    }
}

/// The instruction that writes a cache line back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineFlush {
    /// `clwb`: the line may stay in the cache.
    WriteBack,
    /// `clflushopt`: ordered by a fence alone.
    FlushUnordered,
    /// `clflush`: every x86-64 processor has it.
    Flush,
}

#[cfg(target_arch = "x86_64")]
impl LineFlush {
    /// The best one that this processor has.
    pub(super) fn detect() -> Option<Self> {
        use std::arch::x86_64::{__cpuid, __cpuid_count};
        const CLFLUSHOPT: u32 = 1 << 23;
        const CLWB: u32 = 1 << 24;
        let features = if __cpuid(0).eax < 7 {
            0
        } else {
            __cpuid_count(7, 0).ebx
        };
        Some(if features & CLWB != 0 {
            Self::WriteBack
        } else if features & CLFLUSHOPT != 0 {
            Self::FlushUnordered
        } else {
            Self::Flush
        })
    }

    /// Writes a line back.
    ///
    /// # Safety
    /// The line is mapped, and the processor has the instruction.
    unsafe fn write_back(self, line: *mut u8) {
        use std::arch::asm;
        match self {
            // SAFETY: as the caller says; no byte of memory changes.
            Self::WriteBack => unsafe {
                asm!("clwb [{line}]", line = in(reg) line, options(nostack, preserves_flags));
            },
            // SAFETY: as above.
            Self::FlushUnordered => unsafe {
                asm!("clflushopt [{line}]", line = in(reg) line, options(nostack, preserves_flags));
            },
            // SAFETY: as above.
            Self::Flush => unsafe {
                asm!("clflush [{line}]", line = in(reg) line, options(nostack, preserves_flags));
            },
        }
    }
}

/// Copies a page by stores that do not stay in the cache. They are unordered until a fence.
///
/// # Safety
/// A page is mapped at `to`, which is aligned to 16.
#[cfg(target_arch = "x86_64")]
unsafe fn copy_around_the_cache(page: &PageBytes, to: *mut u8) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
    #[expect(clippy::cast_ptr_alignment, reason = "`loadu` is for any place")]
    let from = page.as_ptr().cast::<__m128i>();
    #[expect(clippy::cast_ptr_alignment, reason = "the caller aligns it")]
    let to = to.cast::<__m128i>();
    for number in 0..PAGE_SIZE / size_of::<__m128i>() {
        // SAFETY: inside the page; every x86-64 processor has the instruction.
        let piece = unsafe { _mm_loadu_si128(from.wrapping_add(number)) };
        // SAFETY: as the caller says, and nobody else looks at it by reference.
        unsafe { _mm_stream_si128(to.wrapping_add(number), piece) };
    }
}

/// All stores before this are seen, and all lines written back before it are safe, before what
/// comes after.
#[cfg(target_arch = "x86_64")]
fn store_fence() {
    // SAFETY: every x86-64 processor has the instruction, which changes no memory.
    unsafe { std::arch::x86_64::_mm_sfence() };
}

// Elsewhere files on persistent memory are used like any others.
#[cfg(not(target_arch = "x86_64"))]
impl LineFlush {
    pub(super) fn detect() -> Option<Self> {
        None
    }

    unsafe fn write_back(self, _line: *mut u8) {}
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn copy_around_the_cache(page: &PageBytes, to: *mut u8) {
    // SAFETY: a page is mapped there, as the caller says, which is not where `page` is.
    unsafe { ptr::copy_nonoverlapping(page.as_ptr(), to, PAGE_SIZE) };
}

#[cfg(not(target_arch = "x86_64"))]
fn store_fence() {
    std::sync::atomic::fence(Ordering::SeqCst);
}
