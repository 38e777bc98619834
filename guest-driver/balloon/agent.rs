// SPDX-License-Identifier: GPL-2.0
//! What a program in the guest tells: `/dev/tmem-balloon`.
//!
//! The kernel shows pressure stall information to programs, not to modules; so the guest's agent
//! reads it and writes a record of 32 bytes here: four little-endian numbers of 64 bits.
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 0..8 | time in which some task waited for memory, in microseconds since boot |
//! | 8..16 | the same for all tasks |
//! | 16..24 | pages below which the balloon must not squeeze the guest; 0: no wish |
//! | 24..32 | pages of swap in use; 2^64 - 1: not known |
//!
//! A record holds until the next one, and until the file that wrote it is closed: an agent that died
//! has nothing to say, and its floor goes with it. There is one device for all balloons of a guest.

use super::ffi;
use crate::wire::STATS_UNKNOWN;
use core::ffi::c_void;
use kernel::{
    error::to_result,
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
};

/// Bytes of a record.
const RECORD: usize = 32;

static SOME_US: Atomic<u64> = Atomic::new(STATS_UNKNOWN);
static FULL_US: Atomic<u64> = Atomic::new(STATS_UNKNOWN);
static FLOOR: Atomic<u64> = Atomic::new(0);
static SWAPPED: Atomic<u64> = Atomic::new(STATS_UNKNOWN);
/// The open file that wrote the record; 0: nobody's.
static OPENER: Atomic<usize> = Atomic::new(0);

/// The last record. Its numbers are read one by one; a mix of two records does no harm.
pub(super) struct Record {
    pub(super) some_us: u64,
    pub(super) full_us: u64,
    pub(super) floor: u64,
    pub(super) swapped: u64,
}

impl Record {
    pub(super) fn last() -> Self {
        Self {
            some_us: SOME_US.load(Relaxed),
            full_us: FULL_US.load(Relaxed),
            floor: FLOOR.load(Relaxed),
            swapped: SWAPPED.load(Relaxed),
        }
    }

    /// Whether an agent speaks.
    pub(super) fn is_there() -> bool {
        OPENER.load(Relaxed) != 0
    }

    fn store(&self) {
        SOME_US.store(self.some_us, Relaxed);
        FULL_US.store(self.full_us, Relaxed);
        FLOOR.store(self.floor, Relaxed);
        SWAPPED.store(self.swapped, Relaxed);
    }
}

/// The device, as long as the module is loaded.
pub(crate) struct Agent {
    registered: bool,
}

impl Agent {
    pub(crate) fn new() -> Self {
        // SAFETY: called once, when the module is loaded.
        let result = to_result(unsafe { ffi::vtmem_balloon_agent_register() });
        if let Err(error) = result {
            pr_warn!("no /dev/tmem-balloon for the guest's agent: {:?}\n", error);
        }
        Self {
            registered: result.is_ok(),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.registered {
            // SAFETY: it was registered. An open file keeps the module, so that there is none.
            unsafe { ffi::vtmem_balloon_agent_unregister() };
        }
    }
}

/// # Safety
///
/// Called by balloon_shim.c with a record that `opener` wrote.
#[no_mangle]
unsafe extern "C" fn vtmem_balloon_agent_record(opener: *const c_void, record: *const u8) {
    // SAFETY: the record has that many bytes.
    let bytes = unsafe { record.cast::<[u8; RECORD]>().read() };
    let mut words = bytes
        .chunks_exact(size_of::<u64>())
        .map(|word| word.try_into().map_or(0, u64::from_le_bytes));
    let mut next = || words.next().unwrap_or(0);
    Record {
        some_us: next(),
        full_us: next(),
        floor: next(),
        swapped: next(),
    }
    .store();
    OPENER.store(opener.addr(), Relaxed);
}

/// # Safety
///
/// Called by balloon_shim.c when `opener` closes the device.
#[no_mangle]
unsafe extern "C" fn vtmem_balloon_agent_gone(opener: *const c_void) {
    if OPENER.load(Relaxed) == opener.addr() {
        OPENER.store(0, Relaxed);
        Record {
            some_us: STATS_UNKNOWN,
            full_us: STATS_UNKNOWN,
            floor: 0,
            swapped: STATS_UNKNOWN,
        }
        .store();
    }
}
