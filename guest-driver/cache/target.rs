// SPDX-License-Identifier: GPL-2.0
//! One target: what it is made of, what device mapper asks of it, and its two workers.
//!
//! **Care** looks after the connection: it leaves a pool when something has gone wrong with it, and
//! looks for a device, now and then, as long as there is none. **Chores** sends reads that the host
//! did not answer to the disk, and flushes to the host.
//!
//! A target without a connection passes everything on to the disk. Writes are accounted for all the same, so
//! that a connection may come at any moment.

use super::{
    copy::Copy,
    counts::{Counts, Files},
    decide::{Outcome, Write},
    ffi::{self, Io, New},
    filter::Filter,
    forget::Ranges,
    link::{Attachment, Link},
    options::Options,
};
use crate::{
    bio::{Bio, BioList, SECTORS_SHIFT},
    devices,
    sync::IrqLock,
    wire,
    work::{Worker, DEVICES},
};
use kernel::{
    bindings, container_of,
    ffi::{c_char, c_int, c_uint, c_void},
    prelude::*,
    static_lock_class,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};

/// How long written blocks wait for others before the host is told to forget them.
pub(super) const FORGET_MS: u32 = 10;
/// How often a target without a connection looks for a device.
const SEEK_MS: u32 = 2000;
/// How long a message waits for a fresh pool: steps, and their length.
const MESSAGE_STEPS: u32 = 2000;
const MESSAGE_STEP_MS: u32 = 5;

/// A target.
#[pin_data]
pub(super) struct Target {
    pub(super) filter: Filter,
    /// Blocks that can be cached: whole ones, as far as pools have indices.
    pub(super) blocks: u32,
    pub(super) link: Link,
    /// The number of the device to be used; None: whichever there is.
    device: Option<u32>,
    /// An answer that takes longer sends readers to the disk.
    pub(super) stall_ns: u64,
    copies: IrqLock<KVec<Copy>>,
    /// Reads that the host has not answered.
    again: IrqLock<BioList>,
    pub(super) ranges: Ranges,
    pub(super) counts: Arc<Counts>,
    closing: Atomic<bool>,
    _files: Option<Files>,
    #[pin]
    pub(super) care: Worker,
    #[pin]
    pub(super) chores: Worker,
}

impl Target {
    fn new(new: &New, options: &Options) -> Result<Pin<KBox<Self>>> {
        // An index is below 2^32 - 1.
        let blocks = u32::try_from(new.sectors >> SECTORS_SHIFT)
            .unwrap_or(u32::MAX)
            .min(u32::MAX - 1);
        if blocks == 0 {
            return Err(EINVAL);
        }
        let counts = Counts::new([
            new.mapped_major,
            new.mapped_minor,
            new.origin_major,
            new.origin_minor,
        ]);
        let counts = Arc::new(counts, GFP_KERNEL)?;
        let mut copies = KVec::with_capacity(options.copies as usize, GFP_KERNEL)?;
        for _ in 0..options.copies {
            copies.push(Copy::new()?, GFP_KERNEL)?;
        }
        let filter = Filter::new(blocks)?;
        let ranges = Ranges::new()?;
        // Without debugfs, `dmsetup status` still tells everything.
        let files = Files::new(&counts).ok();
        let target = KBox::pin_init(
            pin_init!(Self {
                filter,
                blocks,
                link: Link::new(),
                device: options.device,
                stall_ns: u64::from(options.stall_ms).saturating_mul(1_000_000),
                copies: IrqLock::new(copies, static_lock_class!()),
                again: IrqLock::new(BioList::new(), static_lock_class!()),
                ranges,
                counts,
                closing: Atomic::new(false),
                _files: files,
                // SAFETY: both run a function for this field; they are stopped before the target is
                // freed.
                care <- unsafe { Worker::new(&DEVICES, run_care, static_lock_class!()) },
                // SAFETY: as above.
                chores <- unsafe { Worker::new(&DEVICES, run_chores, static_lock_class!()) },
            }),
            GFP_KERNEL,
        )?;
        // So that a target is connected as soon as it is there.
        target.look_after();
        Ok(target)
    }

    /// Pages for a copy, if some are left.
    pub(super) fn take_copy(&self) -> Option<Copy> {
        self.copies.lock().pop()
    }

    pub(super) fn give_back(&self, copy: Copy) {
        // There is room: it was taken from there.
        let _ = self.copies.lock().push_within_capacity(copy);
    }

    /// Has a read go to the disk. Any context.
    pub(super) fn again_later(&self, bio: Bio) {
        self.again.lock().push(bio);
        self.chores.run_now();
    }

    /// Gives up the present pool; a fresh one is made once nobody uses this one. Any context.
    pub(super) fn leave(&self, trust: bool) {
        if self.link.leave(trust) {
            self.care.run_now();
        }
    }

    /// The worker `chores`.
    fn do_chores(&self) {
        loop {
            let bio = self.again.lock().pop();
            match bio {
                Some(bio) => self.read_again(bio),
                None => break,
            }
        }
        self.send_flushes();
    }

    /// The worker `care`: leaves what is to be left, and looks for a device if there is none.
    fn look_after(&self) {
        if let Some((old, trust)) = self.link.take_left() {
            // Nothing that the old pool holds can be asked for any more, and nothing is under way in it.
            self.filter.renew(trust);
            // The host gets its pages back.
            drop(old);
        } else if self.link.is_leaving() || self.link.is_attached() {
            return;
        }
        if self.closing.load(Relaxed) {
            return;
        }
        match self.connect() {
            Ok(()) => self.counts.renewals.inc(),
            Err(_) => self.care.run_in(SEEK_MS),
        }
    }

    /// Makes a pool on a device, if there is one.
    fn connect(&self) -> Result {
        let device = match self.device {
            Some(number) => devices::by_number(number),
            None => devices::first(),
        };
        let device = device.filter(|device| !device.is_dead()).ok_or(ENODEV)?;
        let ephemeral = wire::pool_kind::EPHEMERAL;
        let pool = device
            .make_pool(ephemeral, wire::pool_layout::DENSE, self.blocks)
            // The host keeps no index for a disk that is so much larger than its memory.
            .or_else(|_| device.make_pool(ephemeral, wire::pool_layout::SPARSE, 0))?;
        self.link
            .attach(KBox::new(Attachment { pool }, GFP_KERNEL)?);
        Ok(())
    }

    /// Waits until nobody uses the target, and leaves the pool.
    fn close(&self) {
        self.closing.store(true, Relaxed);
        self.leave(false);
        while self.link.is_leaving() {
            // SAFETY: targets are destroyed by tasks.
            unsafe { bindings::msleep(1) };
        }
        self.care.stop();
        self.chores.stop();
    }

    /// A message from `dmsetup message`.
    fn message(&self, word: &[u8]) -> Result {
        let trust = match word {
            // Forgets all that is cached.
            b"drop" => false,
            // And all that was counted, and which writes have failed.
            b"reset" => true,
            _ => return Err(EINVAL),
        };
        self.filter.clear();
        self.leave(trust);
        for _ in 0..MESSAGE_STEPS {
            if !self.link.is_leaving() {
                break;
            }
            // SAFETY: messages come from tasks.
            unsafe { bindings::msleep(MESSAGE_STEP_MS) };
        }
        if trust {
            self.counts.reset();
        }
        Ok(())
    }
}

/// The target behind a pointer of the C half.
///
/// # Safety
///
/// `target` is what [`vtmem_cache_create`] gave, and not destroyed before the result is gone.
unsafe fn target_of<'a>(target: *mut c_void) -> &'a Target {
    // SAFETY: as for this function.
    unsafe { &*target.cast::<Target>() }
}

/// # Safety
///
/// Called by the C half, which owns `new` and `error`.
#[no_mangle]
unsafe extern "C" fn vtmem_cache_create(new: *mut New, error: *mut c_int) -> *mut c_void {
    // SAFETY: as for this function.
    let (new, error) = unsafe { (&mut *new, &mut *error) };
    // SAFETY: the words are `count` strings.
    let made = unsafe { Options::parse(new.words, new.count) }
        .map_err(|text| (text, EINVAL))
        .and_then(|options| {
            Target::new(new, &options).map_err(|error| (c"The cache cannot be set up", error))
        });
    match made {
        // SAFETY: the target stays where it is until `vtmem_cache_destroy`.
        Ok(target) => KBox::into_raw(unsafe { Pin::into_inner_unchecked(target) }).cast(),
        Err((text, why)) => {
            new.error = text.as_ptr().cast();
            *error = why.to_errno();
            core::ptr::null_mut()
        }
    }
}

/// # Safety
///
/// Called by the C half with a target that no bio uses any more.
#[no_mangle]
unsafe extern "C" fn vtmem_cache_destroy(target: *mut c_void) {
    // SAFETY: as for this function.
    unsafe { target_of(target) }.close();
    // SAFETY: nobody uses the target any more, and `create` made it of a pinned box.
    drop(unsafe { Pin::new_unchecked(KBox::from_raw(target.cast::<Target>())) });
}

/// # Safety
///
/// Called by the C half in `.map`, with a read.
#[no_mangle]
unsafe extern "C" fn vtmem_cache_read(target: *mut c_void, bio: *mut bindings::bio) -> bool {
    // SAFETY: as for this function.
    unsafe { target_of(target).read(bio) }
}

/// # Safety
///
/// Called by the C half before a write goes to the disk; `io` is the write's own.
#[no_mangle]
unsafe extern "C" fn vtmem_cache_write(
    target: *mut c_void,
    io: *mut Io,
    sector: u64,
    sectors: u64,
) {
    // SAFETY: as for this function.
    let (target, io) = unsafe { (target_of(target), &mut *io) };
    // Blocks that it touches, even in part; those behind the last one that can be cached never are.
    let limit = u64::from(target.blocks);
    let first = (sector >> SECTORS_SHIFT).min(limit);
    let end = sector
        .saturating_add(sectors)
        .div_ceil(1 << SECTORS_SHIFT)
        .clamp(first, limit);
    let write = Write::begin(
        &target.filter,
        first as u32,
        end.saturating_sub(first) as u32,
    );
    target.counts.invalidated.add(u64::from(write.removed));
    (io.first, io.blocks, io.removed) = (write.first, write.blocks, write.removed);
}

/// # Safety
///
/// Called by the C half when the write of `io` has ended. Any context.
#[no_mangle]
unsafe extern "C" fn vtmem_cache_written(target: *mut c_void, io: *mut Io, outcome: c_uint) {
    // SAFETY: as for this function.
    let (target, io) = unsafe { (target_of(target), &*io) };
    let write = Write {
        first: io.first,
        blocks: io.blocks,
        removed: io.removed,
    };
    if outcome <= ffi::OUTCOME_REFUSED {
        write.end(&target.filter, Outcome::Certain);
    } else {
        target.counts.failed_writes.inc();
        write.end(&target.filter, Outcome::Unknown);
    }
    if write.removed > 0 {
        target.forget(write.first, write.blocks);
    }
}

/// # Safety
///
/// Called by the C half with a string.
#[no_mangle]
unsafe extern "C" fn vtmem_cache_message(target: *mut c_void, word: *const c_char) -> c_int {
    // SAFETY: as for this function.
    let (target, word) = unsafe { (target_of(target), CStr::from_char_ptr(word)) };
    target
        .message(word.to_bytes())
        .map_or_else(|e| e.to_errno(), |()| 0)
}

/// # Safety
///
/// Called by the C half; `value` is its own.
#[no_mangle]
unsafe extern "C" fn vtmem_cache_count(
    target: *mut c_void,
    nth: c_uint,
    value: *mut u64,
) -> *const c_char {
    // SAFETY: as for this function.
    let target = unsafe { target_of(target) };
    let (name, count) = match nth {
        0 => (c"present".as_ptr().cast(), target.filter.present()),
        _ => match target.counts.nth(nth.wrapping_sub(1) as usize) {
            Some(found) => found,
            None => return core::ptr::null(),
        },
    };
    // SAFETY: as for this function.
    unsafe { *value = count };
    name
}

/// # Safety
///
/// Called by the C half.
#[no_mangle]
unsafe extern "C" fn vtmem_cache_attached(target: *mut c_void) -> bool {
    // SAFETY: as for this function.
    unsafe { target_of(target) }.link.is_attached()
}

/// # Safety
///
/// Called by the workqueue for the field `care` of a target.
unsafe extern "C" fn run_care(work: *mut bindings::work_struct) {
    // SAFETY: as for this function; the target lives until its worker was stopped.
    let target = unsafe { &*container_of!(Worker::of(work), Target, care) };
    target.look_after();
}

/// # Safety
///
/// Called by the workqueue for the field `chores` of a target.
unsafe extern "C" fn run_chores(work: *mut bindings::work_struct) {
    // SAFETY: as in `run_care`.
    let target = unsafe { &*container_of!(Worker::of(work), Target, chores) };
    target.do_chores();
}
