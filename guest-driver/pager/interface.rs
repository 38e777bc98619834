// SPDX-License-Identifier: GPL-2.0
//! An open `/dev/tmem`: a table of pools, and the ioctls.
//!
//! Many threads may use one file at a time; the table's lock is held to find a pool and no longer.
//! Handles count up and are not used again soon, so that a stale one finds nothing. After a fork
//! parent and child have the same interface; its pools end with the last of them, in the background.

use super::{
    abi,
    account::{self, Opener, DEVICES},
    background,
    pool::Pool,
    transfer,
};
use crate::{device::Device, devices, wire};
use kernel::{
    bindings, new_mutex,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::{atomic::Relaxed, Arc, Mutex},
    transmute::{AsBytes, FromBytes},
    uaccess::{UserPtr, UserSlice},
};

// The structures of the interface hold integers alone and no padding, which abi.rs asserts.
// SAFETY: any bytes are such a structure.
unsafe impl FromBytes for abi::Info {}
// SAFETY: all of its bytes are initialised.
unsafe impl AsBytes for abi::Info {}
// SAFETY: as for `Info`.
unsafe impl FromBytes for abi::Create {}
// SAFETY: as for `Info`.
unsafe impl AsBytes for abi::Create {}
// SAFETY: as for `Info`.
unsafe impl FromBytes for abi::Destroy {}
// SAFETY: as for `Info`.
unsafe impl FromBytes for abi::Transfer {}
// SAFETY: as for `Info`.
unsafe impl FromBytes for abi::Stat {}
// SAFETY: as for `Info`.
unsafe impl AsBytes for abi::Stat {}
// SAFETY: as for `Info`.
unsafe impl FromBytes for abi::Entry {}
// SAFETY: as for `Info`.
unsafe impl AsBytes for abi::Entry {}

/// Pools by handle.
struct Table {
    /// A slot that is being filled has a handle and no pool yet.
    slots: [Option<(u32, Option<Arc<Pool>>)>; abi::POOLS_MAX as usize],
    last: u32,
}

/// An open file.
#[pin_data]
pub(super) struct Interface {
    opener: Arc<Opener>,
    #[pin]
    table: Mutex<Table>,
}

impl Interface {
    pub(super) fn new() -> Result<Arc<Self>> {
        let opener = Arc::new(Opener::new(), GFP_KERNEL)?;
        let table = Table {
            slots: [const { None }; abi::POOLS_MAX as usize],
            last: 0,
        };
        Arc::pin_init(
            pin_init!(Self {
                opener,
                table <- new_mutex!(table),
            }),
            GFP_KERNEL,
        )
    }

    /// Carries out ioctl `command`, whose argument is at `address`.
    pub(super) fn ioctl(&self, command: u32, address: usize) -> Result<isize> {
        match command {
            abi::TRANSFER => {
                let wanted = copy_in::<abi::Transfer>(address)?;
                transfer::check(&wanted)?;
                transfer::run(self.pool(wanted.pool)?, &self.opener, &wanted)
            }
            abi::INFO => {
                let info = info(copy_in::<abi::Info>(address)?.device)?;
                copy_out(address, &info)
            }
            abi::CREATE => {
                let mut create = copy_in::<abi::Create>(address)?;
                create.pool = self.create(&create)?;
                copy_out(address, &create).inspect_err(|_| drop(self.take(create.pool)))
            }
            abi::DESTROY => {
                let wanted = copy_in::<abi::Destroy>(address)?;
                if wanted.reserved != 0 {
                    return Err(EINVAL);
                }
                // The host is told here and now, unless a call of another thread is on its way.
                drop(self.take(wanted.pool)?);
                Ok(0)
            }
            abi::STAT => {
                let wanted = copy_in::<abi::Stat>(address)?;
                let pool = self.pool(wanted.pool)?;
                let stat = stat(wanted.pool, &pool);
                copy_out(address, &stat)
            }
            _ => Err(ENOTTY),
        }
    }

    /// The pool with `handle`; `ENOENT`: this file has none.
    fn pool(&self, handle: u32) -> Result<Arc<Pool>> {
        let table = self.table.lock();
        table
            .slots
            .iter()
            .flatten()
            .find(|(number, _)| *number == handle)
            .and_then(|(_, pool)| pool.clone())
            .ok_or(ENOENT)
    }

    /// Takes the pool with `handle` out of the table.
    fn take(&self, handle: u32) -> Result<Arc<Pool>> {
        let mut table = self.table.lock();
        let slot = table
            .slots
            .iter_mut()
            .find(|slot| matches!(slot, Some((number, Some(_))) if *number == handle))
            .ok_or(ENOENT)?;
        slot.take().and_then(|(_, pool)| pool).ok_or(ENOENT)
    }

    /// Makes a pool; its handle.
    fn create(&self, wanted: &abi::Create) -> Result<u32> {
        let sane = wanted.reserved == 0
            && wanted.reserved_end == 0
            && wanted.pool == 0
            && matches!(wanted.kind, abi::kind::PERSISTENT | abi::kind::EPHEMERAL)
            && (1..=abi::OBJECT_PAGES_MAX).contains(&wanted.object_pages)
            && wanted.limit <= wanted.object_pages;
        if !sane {
            return Err(EINVAL);
        }
        let (device, number) = find(wanted.device)?;
        let capability = if wanted.kind == abi::kind::EPHEMERAL {
            wire::capability::EPHEMERAL
        } else {
            wire::capability::PERSISTENT
        };
        if device.capabilities & capability == 0 {
            return Err(Error::from_errno(-(bindings::EOPNOTSUPP as i32)));
        }
        let handle = self.reserve()?;
        // The lock is not held while the host is asked.
        let made = Pool::new(device, number, &self.opener, wanted);
        let mut table = self.table.lock();
        let slot = table
            .slots
            .iter_mut()
            .find(|slot| matches!(slot, Some((number, None)) if *number == handle))
            .ok_or(ENOENT)?;
        match made {
            Ok(pool) => *slot = Some((handle, Some(pool))),
            Err(error) => {
                *slot = None;
                return Err(error);
            }
        }
        Ok(handle)
    }

    /// Takes a slot, and gives it a handle.
    fn reserve(&self) -> Result<u32> {
        let mut table = self.table.lock();
        let handle = table.last.wrapping_add(1).max(1);
        let slot = table
            .slots
            .iter_mut()
            .find(|slot| slot.is_none())
            .ok_or(EMFILE)?;
        *slot = Some((handle, None));
        table.last = handle;
        Ok(handle)
    }

    /// The file is closed: its pools end in the background.
    pub(super) fn close(&self) {
        let mut table = self.table.lock();
        for slot in &mut table.slots {
            if let Some((_, Some(pool))) = slot.take() {
                background::run(pool);
            }
        }
    }

    /// Lines for `/proc/PID/fdinfo/FD`.
    pub(super) fn show(&self, to: &SeqFile) {
        seq_print!(to, "tmem-pinned-pages:\t{}\n", self.opener.pinned());
        let table = self.table.lock();
        for (handle, pool) in table.slots.iter().flatten() {
            if let Some(pool) = pool {
                seq_print!(
                    to,
                    "tmem-pool:\t{} {} held {} limit {} of {}\n",
                    handle,
                    if pool.ephemeral {
                        "ephemeral"
                    } else {
                        "persistent"
                    },
                    pool.held(),
                    pool.limit,
                    pool.object_pages
                );
            }
        }
    }
}

/// Copies a structure from the program.
fn copy_in<T: FromBytes>(address: usize) -> Result<T> {
    UserSlice::new(UserPtr::from_addr(address), size_of::<T>())
        .reader()
        .read::<T>()
}

/// Copies a structure to the program.
fn copy_out<T: AsBytes>(address: usize, value: &T) -> Result<isize> {
    UserSlice::new(UserPtr::from_addr(address), size_of::<T>())
        .writer()
        .write(value)?;
    Ok(0)
}

/// The device with a disk of that number, and the lowest number that it goes by.
fn find(number: u32) -> Result<(Arc<Device>, u32)> {
    let device = if number == abi::ANY_DEVICE {
        devices::first()
    } else {
        devices::by_number(number)
    }
    .ok_or(ENODEV)?;
    let is_it = |number: &u32| {
        devices::by_number(*number).is_some_and(|other| Arc::ptr_eq(&other, &device))
    };
    let lowest = (0..DEVICES).find(is_it).ok_or(ENODEV)?;
    Ok((device, lowest))
}

/// What device `number` has.
fn info(number: u32) -> Result<abi::Info> {
    let (device, number) = find(number)?;
    let account = account::of(number)?;
    let has = |capability, feature| {
        if device.capabilities & capability != 0 {
            feature
        } else {
            0
        }
    };
    let devices = (0..DEVICES)
        .filter(|number| devices::by_number(*number).is_some())
        .fold(0, |bits, number| bits | 1u64 << (number & 63));
    Ok(abi::Info {
        device: number,
        version: abi::VERSION,
        devices,
        features: has(wire::capability::PERSISTENT, abi::feature::PERSISTENT)
            | has(wire::capability::EPHEMERAL, abi::feature::EPHEMERAL)
            | has(wire::capability::EXCLUSIVE_GET, abi::feature::EXCLUSIVE),
        entries_max: abi::ENTRIES_MAX,
        call_pages_max: abi::CALL_PAGES_MAX,
        request_pages: device.shared.limits.pages,
        queue_pairs: device.pairs.len() as u32,
        pools_max: abi::POOLS_MAX,
        persistent_pages: account::persistent_pages(&device),
        persistent_reserved: account.persistent.get(),
        ephemeral_pages: account::ephemeral_pages(),
        ephemeral_reserved: account.ephemeral.get(),
    })
}

/// What is known of a pool.
fn stat(handle: u32, pool: &Pool) -> abi::Stat {
    let counts = &pool.counts;
    abi::Stat {
        pool: handle,
        kind: if pool.ephemeral {
            abi::kind::EPHEMERAL
        } else {
            abi::kind::PERSISTENT
        },
        reserved: 0,
        object_pages: pool.object_pages,
        limit: pool.limit,
        held: u64::from(pool.held()),
        puts: counts.puts.load(Relaxed),
        gets: counts.gets.load(Relaxed),
        misses: counts.misses.load(Relaxed),
        flushes: counts.flushes.load(Relaxed),
        refused: counts.refused.load(Relaxed),
        errors: counts.errors.load(Relaxed),
    }
}
