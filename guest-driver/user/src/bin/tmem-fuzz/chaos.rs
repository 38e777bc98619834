// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What goes on beside the calls: memory, processes and files come and go.

use crate::Counts;
use crate::arena::Arena;
use crate::calls::Caller;
use std::ffi::CString;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tmem_user::driver::PATH;
use tmem_user::program::Rng;

/// Files that are open at a time.
const FILES: usize = 6;

/// Files that calls use; any of them may be another, or none, from one moment to the next.
#[derive(Debug)]
pub(crate) struct Files {
    path: CString,
    slots: [AtomicI32; FILES],
    /// The handle of the pool that was made last in each.
    handles: [AtomicU32; FILES],
}

/// A file as it was a moment ago.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opened {
    pub(crate) fd: RawFd,
    slot: usize,
    handle: u32,
}

impl Opened {
    /// A handle that the file may have a pool of.
    pub(crate) fn handle(self, rng: &mut Rng) -> u32 {
        if rng.one_in(20) {
            return rng.below(100);
        }
        self.handle.saturating_sub(rng.below(5))
    }
}

impl Files {
    pub(crate) fn open() -> Result<Self, String> {
        let path = CString::new(PATH).map_err(|error| error.to_string())?;
        let files = Self {
            path,
            slots: [const { AtomicI32::new(-1) }; FILES],
            handles: [const { AtomicU32::new(0) }; FILES],
        };
        for slot in &files.slots {
            let fd = files.another();
            if fd < 0 {
                return Err(format!("{PATH}: {}", io::Error::last_os_error()));
            }
            slot.store(fd, Relaxed);
        }
        Ok(files)
    }

    fn another(&self) -> RawFd {
        // SAFETY: the path is a string that ends.
        unsafe { libc::open(self.path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) }
    }

    /// One of the files.
    pub(crate) fn any(&self, rng: &mut Rng) -> Opened {
        let slot = rng.place(FILES);
        Opened {
            fd: self.slots[slot].load(Relaxed),
            slot,
            handle: self.handles[slot].load(Relaxed),
        }
    }

    /// A pool has been made in a file.
    pub(crate) fn made(&self, file: Opened, handle: u32) {
        self.handles[file.slot].store(handle, Relaxed);
    }
}

fn pause(rng: &mut Rng, most: u32) {
    std::thread::sleep(Duration::from_micros(rng.below(most).into()));
}

/// Takes memory away, or gives it back.
pub(crate) fn remap(arena: &Arena, _files: &Files, rng: &mut Rng, counts: &Counts) {
    arena.disturb(rng);
    counts.unmaps.fetch_add(1, Relaxed);
    pause(rng, 2000);
}

/// Forks a child that makes calls with the files of its parent, and kills it or lets it end.
pub(crate) fn fork(arena: &Arena, files: &Files, rng: &mut Rng, counts: &Counts) {
    let mut of_child = Rng::new(rng.next());
    let kill = rng.one_in(2);
    // Made before the fork: the child allocates nothing.
    let mut caller = Caller::with_room(arena);
    // SAFETY: the child makes system calls alone, on memory of its own, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        for _ in 0..if kill { 1000 } else { 20 } {
            caller.call_quietly(files.any(&mut of_child), &mut of_child);
        }
        // SAFETY: ends the child, without what ends its parent.
        unsafe { libc::_exit(0) };
    }
    if child < 0 {
        return pause(rng, 10_000);
    }
    counts.forks.fetch_add(1, Relaxed);
    if kill {
        pause(rng, 20_000);
        // SAFETY: the child is this thread's, and not waited for yet.
        unsafe { libc::kill(child, libc::SIGKILL) };
    }
    // SAFETY: as above; its status is of no interest.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    pause(rng, 20_000);
}

/// Closes a file that may be in use, opens another, or has one file by two numbers.
pub(crate) fn reopen(_arena: &Arena, files: &Files, rng: &mut Rng, _counts: &Counts) {
    let slot = &files.slots[rng.place(FILES)];
    let fresh = if rng.one_in(3) {
        // SAFETY: no memory is named.
        unsafe { libc::fcntl(files.any(rng).fd, libc::F_DUPFD_CLOEXEC, 0) }
    } else {
        files.another()
    };
    if fresh >= 0 {
        let old = slot.swap(fresh, Relaxed);
        pause(rng, 3000);
        // SAFETY: the number is in no slot any more; a call that has taken it finds no file, or another
        // of these.
        unsafe { libc::close(old) };
    }
    pause(rng, 100_000);
}
