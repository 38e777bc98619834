// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What slots lie on: a file that is read and written by calls, or a mapping of persistent memory.
//!
//! The protocol above is the same for all: *store* puts bytes where every reader sees them, *flush*
//! sends them on their way, and a *fence* returns when all that was stored and flushed before it will
//! survive the host. A store of 8 aligned bytes is never torn; nothing larger is promised.
//!
//! # Files
//! An ordinary file is never mapped: a file that someone cuts short then is an error of one read, not
//! a signal. Its fence is `fdatasync`, so its flush has nothing to do. Fences of several threads are
//! one where possible: who waits while a fence begins after its own stores is covered by that one.
//!
//! # Pages must not stay in DRAM
//! A demoted page that lies in the page cache has freed nothing. Where writes are fenced, pages are
//! written uncached if the kernel can (`RWF_DONTCACHE`): the write-back starts at once, and the cache
//! is dropped as soon as it ends. Elsewhere `POSIX_FADV_DONTNEED` does the same in two steps: the first
//! call starts the write-back, and a second one, later, drops what is clean. Where nothing is fenced,
//! both wait until there is time for it ([`Medium::tidy`]); until then the kernel may drop what it has
//! written back, and makes writers wait when too much is not. Headers stay cached, 64 bytes a page, for
//! as long as the kernel likes.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::{
    Advice, FallocateFlags, SeekFrom, fadvise, fallocate, fdatasync, fstat, fstatfs, ftruncate,
    seek,
};
use rustix::io::{Errno, ReadWriteFlags, pread, pwrite, pwritev, pwritev2, retry_on_intr};

use super::Mode;
use crate::handle::{PAGE_SIZE, PageBytes};

/// What slots lie on.
pub(super) trait Medium: Send + Sync + Debug {
    /// What it is, for people.
    fn mode(&self) -> Mode;

    /// Whether a fence costs so little that headers may wait for their pages.
    fn has_cheap_fence(&self) -> bool;

    /// Its bytes.
    fn length(&self) -> io::Result<u64>;

    /// Reads all of `into`, or fails.
    fn load(&self, at: u64, into: &mut [u8]) -> io::Result<()>;

    /// These bytes will be loaded soon: where that takes time, it begins now.
    fn will_load(&self, _at: u64, _bytes: u64) {}

    /// Writes all of `bytes`, or fails after having written any of them.
    fn store(&self, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// Writes neighbouring pages, which will not be read soon.
    fn store_pages(&self, at: u64, pages: &[&PageBytes]) -> io::Result<()>;

    /// Sends a range on its way.
    fn flush(&self, at: u64, bytes: u64) -> io::Result<()>;

    /// A moment, for the fence that covers what is stored after it.
    fn mark(&self) -> u64;

    /// All that this thread stored and flushed is safe; an error if any of what was stored since
    /// `since`, by whichever thread, may not be.
    fn fence(&self, since: u64) -> io::Result<()>;

    /// Makes room for the bytes from one length to another. Where there is none, nothing changes.
    fn grow(&self, from: u64, to: u64) -> io::Result<()>;

    /// Gives back all bytes from here on.
    fn shrink(&self, to: u64) -> io::Result<()>;

    /// Bytes that nobody will read before they are stored again: their memory may go.
    fn discard(&self, _at: u64, _bytes: u64) {}

    /// Has some of what was written leave the page cache. False if there is nothing left of it.
    fn tidy(&self) -> bool {
        false
    }

    /// A place from `at` on before which all is zero; nothing if that is so up to the end.
    fn next_data(&self, at: u64) -> Option<u64> {
        Some(at)
    }
}

/// Buffers in one call; the kernel's limit is 1024.
const RUN_PAGES: usize = 512;
/// Ranges that wait for their second `DONTNEED`.
const BEHIND: usize = 32;
/// Ranges that wait for their first one, where that waits for time.
const LAZY_MAX: usize = 4096;
/// Bytes of such a range from which it grows no more.
const TIDY_BYTES: u64 = 4 << 20;
/// `RWF_DONTCACHE`, since Linux 6.14, on file systems that know it.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);
/// What `statfs` calls tmpfs, and with it memfd.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// An ordinary file, or one of memory.
#[derive(Debug)]
pub(super) struct FileMedium {
    file: OwnedFd,
    mode: Mode,
    /// Whether room is taken in advance, and kept.
    reserves: bool,
    uncached: AtomicBool,
    /// Whether the page cache is left alone until there is time.
    lazy: bool,
    behind: Mutex<VecDeque<Behind>>,
    /// Fences that have begun.
    begun: AtomicU64,
    /// Fences that failed.
    failed: AtomicU64,
    /// The last fence that succeeded, by its number. Held while one runs: the system tells of a lost
    /// write only once, to whoever asks first, and this way everyone knows who that was.
    fenced: Mutex<u64>,
}

impl FileMedium {
    /// A medium of this file.
    pub(super) fn new(file: OwnedFd) -> io::Result<Self> {
        let kind = u64::try_from(fstatfs(&file)?.f_type).unwrap_or(0);
        let mode = if kind == TMPFS_MAGIC {
            Mode::Memory
        } else {
            Mode::File
        };
        if mode == Mode::File {
            // Gets are of single pages; what lies behind them is not wanted. Only advice.
            let _ = fadvise(&file, 0, None, Advice::Random);
        }
        Ok(Self {
            file,
            mode,
            reserves: true,
            uncached: AtomicBool::new(mode == Mode::File),
            lazy: false,
            behind: Mutex::default(),
            begun: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            fenced: Mutex::new(0),
        })
    }

    /// The same, but memory is taken when it is stored to, and given back when it is discarded.
    pub(super) fn sparse(mut self) -> Self {
        self.reserves = false;
        self
    }

    /// The same, but what is written stays in the page cache until there is time.
    pub(super) fn lazy(mut self) -> Self {
        self.lazy = self.mode == Mode::File;
        self.uncached.store(false, Ordering::Relaxed);
        self
    }

    /// The same on a kernel that cannot write around its cache.
    #[cfg(test)]
    pub(super) fn cached(self) -> Self {
        self.uncached.store(false, Ordering::Relaxed);
        self
    }

    /// Writes buffers, uncached if that is possible, and says how much of them.
    fn write_some(&self, at: u64, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.uncached.load(Ordering::Relaxed) {
            match retry_on_intr(|| pwritev2(&self.file, buffers, at, DONTCACHE)) {
                // No such flag, here or on this file system, or a filter that does not know the call.
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::PERM) => {
                    self.uncached.store(false, Ordering::Relaxed);
                }
                result => return Ok(result?),
            }
        }
        Ok(retry_on_intr(|| pwritev(&self.file, buffers, at))?)
    }

    /// Starts the write-back of a range, and drops an earlier one, which should be clean by now.
    fn write_behind(&self, at: u64, bytes: u64) {
        self.drop_cache(at, bytes);
        let mut behind = self.behind.lock();
        behind.push_back(Behind {
            at,
            bytes,
            begun: true,
        });
        if behind.len() > BEHIND
            && let Some(range) = behind.pop_front()
        {
            drop(behind);
            self.drop_cache(range.at, range.bytes);
        }
    }

    /// Notes a range for when there is time.
    fn leave_behind(&self, at: u64, bytes: u64) {
        let mut behind = self.behind.lock();
        if let Some(last) = behind.back_mut()
            && !last.begun
            && last.at + last.bytes == at
            && last.bytes < TIDY_BYTES
        {
            last.bytes += bytes;
        } else if behind.len() < LAZY_MAX {
            behind.push_back(Behind {
                at,
                bytes,
                begun: false,
            });
        }
        // With so many the kernel itself has begun to write back; it drops them when it wants to.
    }

    /// Starts the write-back of a range, or, after that, drops it.
    fn drop_cache(&self, at: u64, bytes: u64) {
        let _ = fadvise(&self.file, at, NonZeroU64::new(bytes), Advice::DontNeed);
    }
}

/// A call that did nothing though there was something to do.
fn stuck() -> io::Error {
    io::ErrorKind::WriteZero.into()
}

impl Medium for FileMedium {
    fn mode(&self) -> Mode {
        self.mode
    }

    fn has_cheap_fence(&self) -> bool {
        false
    }

    fn length(&self) -> io::Result<u64> {
        length(&self.file)
    }

    fn load(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        load(&self.file, at, into)
    }

    fn will_load(&self, at: u64, bytes: u64) {
        if self.mode == Mode::File {
            // Only advice: without it the load waits.
            let _ = fadvise(&self.file, at, NonZeroU64::new(bytes), Advice::WillNeed);
        }
    }

    fn store(&self, mut at: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = retry_on_intr(|| pwrite(&self.file, bytes, at))?;
            if written == 0 {
                return Err(stuck());
            }
            at += written as u64;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    fn store_pages(&self, at: u64, pages: &[&PageBytes]) -> io::Result<()> {
        let mut begin = at;
        for run in pages.chunks(RUN_PAGES) {
            let mut buffers: Vec<_> = run.iter().map(|page| IoSlice::new(&page[..])).collect();
            let (mut left, mut to) = (&mut buffers[..], begin);
            while !left.is_empty() {
                let written = self.write_some(to, left)?;
                if written == 0 {
                    return Err(stuck());
                }
                to += written as u64;
                IoSlice::advance_slices(&mut left, written);
            }
            if self.lazy {
                self.leave_behind(begin, to - begin);
            } else if self.mode == Mode::File && !self.uncached.load(Ordering::Relaxed) {
                self.write_behind(begin, to - begin);
            }
            begin = to;
        }
        Ok(())
    }

    fn flush(&self, _at: u64, _bytes: u64) -> io::Result<()> {
        Ok(())
    }

    fn mark(&self) -> u64 {
        self.failed.load(Ordering::Acquire)
    }

    fn fence(&self, since: u64) -> io::Result<()> {
        // Any fence that begins after this has all that was stored before it.
        let seen = self.begun.load(Ordering::Acquire);
        let mut fenced = self.fenced.lock();
        if *fenced <= seen {
            let number = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
            if let Err(error) = fdatasync(&self.file) {
                self.failed.fetch_add(1, Ordering::AcqRel);
                return Err(error.into());
            }
            *fenced = number;
        }
        if self.failed.load(Ordering::Acquire) == since {
            Ok(())
        } else {
            // Another thread was told that a write was lost, and it may have been one of ours.
            Err(Errno::IO.into())
        }
    }

    fn grow(&self, from: u64, to: u64) -> io::Result<()> {
        if self.reserves {
            grow(&self.file, from, to)
        } else {
            Ok(ftruncate(&self.file, to)?)
        }
    }

    fn shrink(&self, to: u64) -> io::Result<()> {
        Ok(ftruncate(&self.file, to)?)
    }

    fn discard(&self, at: u64, bytes: u64) {
        if !self.reserves {
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // What stays is taken a little longer.
            let _ = fallocate(&self.file, hole, at, bytes);
        }
    }

    fn tidy(&self) -> bool {
        if !self.lazy {
            return false;
        }
        let mut behind = self.behind.lock();
        let Some(range) = behind.pop_front() else {
            return false;
        };
        if !range.begun {
            let begun = Behind {
                begun: true,
                ..range
            };
            behind.push_back(begun);
        }
        drop(behind);
        self.drop_cache(range.at, range.bytes);
        true
    }

    fn next_data(&self, at: u64) -> Option<u64> {
        next_data(&self.file, at)
    }
}

/// A range that is in the page cache.
#[derive(Clone, Copy, Debug)]
struct Behind {
    at: u64,
    bytes: u64,
    /// Its write-back was begun.
    begun: bool,
}

/// Bytes of a file.
pub(super) fn length(file: &OwnedFd) -> io::Result<u64> {
    Ok(u64::try_from(fstat(file)?.st_size).unwrap_or(0))
}

/// Where the next data is that the file system knows of. Room that was never written is none.
pub(super) fn next_data(file: &OwnedFd, at: u64) -> Option<u64> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) => Some(data),
        Err(Errno::NXIO) => None,
        // One that cannot tell.
        Err(_) => Some(at),
    }
}

/// Reads all of `into` by calls.
pub(super) fn load(file: &OwnedFd, mut at: u64, mut into: &mut [u8]) -> io::Result<()> {
    while !into.is_empty() {
        let read = match pread(file, &mut *into, at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        at += read as u64;
        into = into.get_mut(read..).unwrap_or_default();
    }
    Ok(())
}

/// Makes a file longer, with room for all of it.
pub(super) fn grow(file: &OwnedFd, from: u64, to: u64) -> io::Result<()> {
    let room = match retry_on_intr(|| fallocate(file, FallocateFlags::empty(), from, to - from)) {
        // A file system that cannot promise room: it is taken by writing.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => fill(file, from, to),
        result => result.map_err(io::Error::from),
    };
    if room.is_err() {
        // Some of it may have been had.
        let _ = ftruncate(file.as_fd(), from);
    }
    room
}

fn fill(file: &OwnedFd, mut from: u64, to: u64) -> io::Result<()> {
    let zeroes = vec![0; 256 * PAGE_SIZE];
    while from < to {
        let bytes = usize::try_from(to - from).map_or(zeroes.len(), |left| left.min(zeroes.len()));
        let part = zeroes.get(..bytes).unwrap_or_default();
        match pwrite(file, part, from) {
            Ok(0) => return Err(stuck()),
            Ok(written) => from += written as u64,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
