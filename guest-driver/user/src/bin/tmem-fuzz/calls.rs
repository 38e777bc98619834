// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Calls drawn at random, and what must be said to those that are surely malformed.

use crate::Counts;
use crate::arena::Arena;
use crate::chaos::{Files, Opened};
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering::Relaxed;
use tmem_user::abi::{self, Create, Destroy, Entry, Info, Stat, Transfer};
use tmem_user::program::Rng;

/// Indices of a pool, mostly.
const INDICES: u32 = 1500;
/// An address at which there is never memory of a program.
const NOWHERE: u64 = 0xffff_8000_0000_0000;

/// A thread that makes calls.
pub(crate) struct Caller<'a> {
    arena: &'a Arena,
    entries: Vec<Entry>,
    results: Vec<u8>,
}

/// What is known of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// Nothing: others interfere.
    Anything,
    /// One of these errors, unless the file has been closed or replaced.
    Error(&'static [i32]),
}

use Expected::{Anything, Error};

/// Makes an ioctl; what comes of it is the kernel's affair, and memory of Rust objects is not named.
fn ioctl(fd: RawFd, number: u32, argument: u64) -> io::Result<i32> {
    // SAFETY: the argument is a structure of this thread's, or an address at which no Rust object
    // is; the same holds for the addresses in it.
    match unsafe { libc::ioctl(fd, number.into(), argument) } {
        value if value >= 0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

fn address_of<T>(value: &mut T) -> u64 {
    std::ptr::from_mut(value).expose_provenance() as u64
}

impl<'a> Caller<'a> {
    pub(crate) fn new(arena: &'a Arena) -> Self {
        Self {
            arena,
            entries: Vec::new(),
            results: vec![0; abi::CALL_PAGES_MAX as usize],
        }
    }

    /// A caller that allocates no more, for a child of a program with threads.
    pub(crate) fn with_room(arena: &'a Arena) -> Self {
        let mut caller = Self::new(arena);
        caller.entries.reserve(abi::ENTRIES_MAX as usize);
        caller
    }

    /// Makes a transfer to file `fd`, and says nothing of it.
    pub(crate) fn call_quietly(&mut self, file: Opened, rng: &mut Rng) {
        let _ = self.transfer(file, rng);
    }

    /// Makes one call to one of the files.
    pub(crate) fn call(&mut self, files: &Files, rng: &mut Rng, counts: &Counts) {
        counts.calls.fetch_add(1, Relaxed);
        let file = files.any(rng);
        let (answer, expected) = match rng.below(100) {
            0..=9 => create(files, file, rng),
            10 => destroy(file, rng),
            11..=14 => look(file, rng),
            15..=19 => nonsense(file.fd, rng),
            20..=39 => self.malformed(file, rng),
            _ => self.transfer(file, rng),
        };
        if answer.is_err() {
            counts.refused.fetch_add(1, Relaxed);
        }
        let Error(errors) = expected else {
            return;
        };
        // The file may be closed just now, or be one without this pool.
        let excused = [libc::EBADF, libc::ENOENT, libc::ENOTTY, libc::EINTR];
        match answer {
            Err(error)
                if error.raw_os_error().is_some_and(|number| {
                    errors.contains(&number) || excused.contains(&number)
                }) => {}
            other => counts.mismatch(&format!("expected {expected:?}, and got {other:?}")),
        }
    }

    /// A transfer that may be right, on memory that may be there.
    fn transfer(&mut self, file: Opened, rng: &mut Rng) -> (io::Result<i32>, Expected) {
        let mut transfer = self.draw(file, rng);
        let number = abi::TRANSFER;
        (ioctl(file.fd, number, address_of(&mut transfer)), Anything)
    }

    /// Fills the entries, and names them.
    fn draw(&mut self, file: Opened, rng: &mut Rng) -> Transfer {
        let op = [abi::op::PUT, abi::op::PUT, abi::op::GET, abi::op::FLUSH][rng.below(4) as usize];
        let memory = op != abi::op::FLUSH;
        let count = match rng.below(4) {
            0 => 1,
            1 => 1 + rng.below(16),
            2 => 1 + rng.below(200),
            _ => 1 + rng.below(abi::ENTRIES_MAX),
        };
        let longest = [1, 7, 60][rng.below(3) as usize];
        // Results have room for so many.
        let mut left = abi::CALL_PAGES_MAX;
        let mut next = rng.below(INDICES);
        // The memory of a call lies together, mostly, lest some of it is always missing.
        let mut place = self.arena.place(rng, 0);
        self.entries.clear();
        for _ in 0..count {
            let pages = (1 + rng.below(longest)).min(left);
            if pages == 0 {
                break;
            }
            left -= pages;
            if rng.one_in(400) || !self.arena.holds(place, pages) {
                place = self.arena.place(rng, pages);
            }
            let address = if memory { place } else { 0 };
            place += u64::from(pages) * abi::PAGE_SIZE as u64;
            self.entries.push(Entry {
                index: next,
                pages,
                address,
            });
            next = (next + pages + rng.below(3)) % INDICES;
        }
        Transfer {
            pool: file.handle(rng),
            op,
            flags: u8::from(op == abi::op::GET && rng.one_in(3)),
            entries: u32::try_from(self.entries.len()).unwrap_or(0),
            entry_array: self.entries.as_ptr().expose_provenance() as u64,
            result_array: match rng.below(4) {
                0 => 0,
                // Into memory that calls fetch pages to as well.
                1 => self.arena.place(rng, 1),
                _ => self.results.as_mut_ptr().expose_provenance() as u64,
            },
            ..Transfer::default()
        }
    }

    /// A transfer with one thing wrong for sure.
    fn malformed(&mut self, file: Opened, rng: &mut Rng) -> (io::Result<i32>, Expected) {
        let mut transfer = self.draw(file, rng);
        let last = self.entries.len() - 1;
        let which = rng.place(last + 1);
        let invalid: Expected = Error(&[libc::EINVAL]);
        let memory = transfer.op != abi::op::FLUSH;
        let expected = match rng.below(12) {
            0 => {
                transfer.entries = [0, abi::ENTRIES_MAX + 1, u32::MAX][rng.below(3) as usize];
                invalid
            }
            1 => {
                transfer.op = [0, 4, 255][rng.below(3) as usize];
                invalid
            }
            2 => {
                transfer.flags = rng.byte() | 2;
                invalid
            }
            3 => {
                transfer.reserved = 1;
                invalid
            }
            4 => {
                transfer.reserved_end = 1 << rng.below(32);
                invalid
            }
            5 => {
                transfer.entry_array = [0, 8, NOWHERE, u64::MAX - 7][rng.below(4) as usize];
                Error(&[libc::EFAULT])
            }
            6 => {
                self.entries[which].pages = 0;
                invalid
            }
            7 => {
                self.entries[which].index = u32::MAX - rng.below(3);
                Error(&[libc::EINVAL])
            }
            8 => {
                self.entries[which].address += 1 + u64::from(rng.below(4095));
                invalid
            }
            9 if memory => {
                self.entries[which].address = NOWHERE;
                // Other entries may be wrong as well by now, or the pool have too few indices.
                Error(&[libc::EFAULT, libc::EINVAL])
            }
            10 if memory => {
                self.entries[which].pages = abi::CALL_PAGES_MAX + 1;
                Error(&[libc::E2BIG, libc::EINVAL])
            }
            11 if transfer.op != abi::op::GET && last > 0 => {
                // The same page twice.
                let other = (which + 1) % (last + 1);
                self.entries[other].index = self.entries[which].index;
                Error(&[libc::EINVAL, libc::EBUSY, libc::EFAULT, libc::ENOSPC])
            }
            _ => {
                transfer.pool = 0x4000_0000 + rng.below(1000);
                Error(&[libc::ENOENT])
            }
        };
        let number = abi::TRANSFER;
        (ioctl(file.fd, number, address_of(&mut transfer)), expected)
    }
}

fn create(files: &Files, file: Opened, rng: &mut Rng) -> (io::Result<i32>, Expected) {
    let mut create = Create {
        device: [abi::ANY_DEVICE, 0, 0, 0, 63, 1 << 31][rng.place(6)],
        kind: [1, 2, 1, 2, 1, 2, 0, 3][rng.place(8)],
        reserved: u16::from(rng.one_in(20)),
        object_pages: match rng.below(20) {
            0 => 0,
            1 => u32::MAX,
            2 => abi::OBJECT_PAGES_MAX + 1,
            3..=5 => 1 << rng.below(20),
            _ => 2 * INDICES,
        },
        limit: match rng.below(20) {
            0 => 0,
            1 => u32::MAX,
            _ => 1 + rng.below(900),
        },
        pool: u32::from(rng.one_in(20)),
        reserved_end: u32::from(rng.one_in(20)),
    };
    let wrong = create.kind == 0
        || create.kind == 3
        || create.reserved != 0
        || create.reserved_end != 0
        || create.pool != 0
        || create.object_pages == 0
        || create.object_pages > abi::OBJECT_PAGES_MAX
        || create.limit > create.object_pages;
    let expected = if wrong {
        Error(&[libc::EINVAL])
    } else {
        Anything
    };
    let answer = ioctl(file.fd, abi::CREATE, address_of(&mut create));
    if answer.is_ok() {
        files.made(file, create.pool);
    }
    (answer, expected)
}

fn destroy(file: Opened, rng: &mut Rng) -> (io::Result<i32>, Expected) {
    let mut destroy = Destroy {
        pool: file.handle(rng),
        reserved: u32::from(rng.one_in(4)),
    };
    let expected = match destroy.reserved {
        0 => Anything,
        _ => Error(&[libc::EINVAL]),
    };
    (
        ioctl(file.fd, abi::DESTROY, address_of(&mut destroy)),
        expected,
    )
}

fn look(file: Opened, rng: &mut Rng) -> (io::Result<i32>, Expected) {
    if rng.one_in(2) {
        let mut info = Info {
            device: [abi::ANY_DEVICE, 0, 64, 1 << 31][rng.below(4) as usize],
            ..Info::default()
        };
        let expected = if info.device == 64 {
            Error(&[libc::ENODEV])
        } else {
            Anything
        };
        return (ioctl(file.fd, abi::INFO, address_of(&mut info)), expected);
    }
    let mut stat = Stat {
        pool: file.handle(rng),
        ..Stat::default()
    };
    (ioctl(file.fd, abi::STAT, address_of(&mut stat)), Anything)
}

/// Numbers and arguments that mean nothing.
fn nonsense(fd: RawFd, rng: &mut Rng) -> (io::Result<i32>, Expected) {
    let numbers = [
        abi::INFO,
        abi::CREATE,
        abi::DESTROY,
        abi::TRANSFER,
        abi::STAT,
    ];
    let number = numbers[rng.below(5) as usize];
    let argument = [0, 1, NOWHERE, u64::MAX][rng.below(4) as usize];
    if rng.one_in(2) {
        return (ioctl(fd, number, argument), Error(&[libc::EFAULT]));
    }
    // Of a right number one bit: its size, its direction, its type or itself.
    let number = number ^ 1 << (3 + rng.below(29));
    (
        ioctl(fd, number, argument),
        Error(&[libc::ENOTTY, libc::EFAULT]),
    )
}
