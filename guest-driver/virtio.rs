// SPDX-License-Identifier: GPL-2.0
//! The virtio bus: probe and removal of a device.
//!
//! Removal comes in an order that leaves no page in the device's hands and no user of what is
//! freed:
//!
//! 1. `dead` is set, so that new bios fail, and the block layer is told.
//! 2. The flush worker ends. The request queues are killed: nobody touches their virtqueues from
//!    here on, nobody sleeps for room.
//! 3. The pool is given back to the host, and the other queues are killed.
//! 4. The device is reset: it touches no memory any more.
//! 5. What was in flight fails; the virtqueues are deleted.
//! 6. The disk goes. If swap has it open, the [`Device`] stays until it is closed.

use crate::{
    control::{Control, Events},
    device::{Device, Pair},
    disk::Disk,
    ffi::{self, Virtqueue, VirtqueueInfo},
    flush::Flush,
    module_parameters,
    request::{Limits, Tickets, EXTRA_DESCRIPTORS},
    stats::Stats,
    vq::{Queue, Shared},
    wire,
    work::Worker,
};
use core::ptr;
use kernel::{
    bindings,
    debugfs::{Dir, File},
    error::{from_result, to_result},
    ffi::c_int,
    fmt,
    prelude::*,
    str::CString,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};

/// The smallest ring of a request queue that can be used.
const RING_MIN: usize = 8;
/// Fewer queues than wanted are found by trying.
const PAIRS_STEP: u16 = 1;

/// Two halves of the number that names this boot to the host.
static EPOCH: [Atomic<u64>; 2] = [const { Atomic::new(0) }; 2];

kernel::sync::global_lock! {
    // SAFETY: initialised in `Registration::new`, before any device is probed.
    unsafe(uninit) static DEBUGFS: Mutex<Option<Dir>> = None;
}

/// The driver's registration with the virtio core, and what all devices share.
pub(crate) struct Registration(());

impl Registration {
    /// Called once, when the module is loaded.
    pub(crate) fn new(module: &'static ThisModule) -> Result<Self> {
        for half in &EPOCH {
            let mut value = 0u64;
            // SAFETY: the buffer is of that size.
            unsafe { bindings::get_random_bytes((&raw mut value).cast(), size_of::<u64>()) };
            half.store(value, Relaxed);
        }
        // SAFETY: called once.
        unsafe { DEBUGFS.init() };
        *DEBUGFS.lock() = Some(Dir::new(c"virtio_tmem"));
        // SAFETY: the module unregisters the driver before it goes.
        to_result(unsafe { ffi::vtmem_register_driver(module.as_ptr()) }).inspect_err(|_| {
            *DEBUGFS.lock() = None;
        })?;
        Ok(Self(()))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: it was registered; all devices are removed by this.
        unsafe { ffi::vtmem_unregister_driver() };
        *DEBUGFS.lock() = None;
    }
}

/// What the driver core's data of a device points to, from probe to removal.
struct Bound {
    device: Arc<Device>,
    disk: Option<Disk>,
    /// Removed before the device's last reference is.
    _files: Option<Files>,
}

/// Files in debugfs.
struct Files {
    _stats: Pin<KBox<File<Arc<Stats>>>>,
    _latency: Pin<KBox<File<Arc<Stats>>>>,
    _dir: Dir,
}

impl Files {
    fn new(number: u32, stats: &Arc<Stats>) -> Result<Option<Self>> {
        let name = CString::try_from_fmt(fmt!("vtmem{}", number))?;
        let dir = match &*DEBUGFS.lock() {
            Some(parent) => parent.subdir(&name),
            None => return Ok(None),
        };
        let show_stats: &'static _ =
            &|stats: &Arc<Stats>, f: &mut fmt::Formatter<'_>| stats.show(f);
        let show_latency: &'static _ =
            &|stats: &Arc<Stats>, f: &mut fmt::Formatter<'_>| stats.get_latency.show(f);
        Ok(Some(Self {
            _stats: KBox::pin_init(
                dir.read_callback_file(c"stats", stats.clone(), show_stats),
                GFP_KERNEL,
            )?,
            _latency: KBox::pin_init(
                dir.read_callback_file(c"get_latency", stats.clone(), show_latency),
                GFP_KERNEL,
            )?,
            _dir: dir,
        }))
    }
}

/// # Safety
///
/// Called by the virtio core for a device that this driver matches.
#[no_mangle]
unsafe extern "C" fn vtmem_probe(vdev: *mut ffi::VirtioDevice) -> c_int {
    from_result(|| {
        // SAFETY: as for this function.
        unsafe { probe(vdev) }?;
        Ok(0)
    })
}

/// # Safety
///
/// As for [`vtmem_probe`].
unsafe fn probe(vdev: *mut ffi::VirtioDevice) -> Result {
    let mut bytes = [0u8; wire::Config::SIZE];
    // SAFETY: the device is being probed, and the buffer is of that size.
    unsafe { ffi::vtmem_read_config(vdev, bytes.as_mut_ptr().cast(), wire::Config::SIZE as u32) };
    let config = wire::Config::from_bytes(&bytes);
    check(&config)?;

    // SAFETY: the device is being probed.
    let vqs = unsafe { find_queues(vdev, wanted_pairs(&config)) }?;
    // SAFETY: the virtqueues are valid until they are deleted, which `abandon` does last.
    let bound = match unsafe { build(&vqs, &config) } {
        Ok(bound) => bound,
        Err(error) => {
            // SAFETY: nobody uses the virtqueues.
            unsafe { ffi::vtmem_del_vqs(vdev) };
            return Err(error);
        }
    };
    // SAFETY: the device is being probed; interrupts find the device from here on.
    unsafe {
        ffi::vtmem_set_private(vdev, KBox::into_raw(bound).cast());
        ffi::vtmem_device_ready(vdev);
        open(vdev, &config).inspect_err(|_| abandon(vdev))
    }
}

/// Refuses a device that this driver cannot work with.
fn check(config: &wire::Config) -> Result {
    if config.magic != wire::MAGIC {
        pr_err!(
            "not a tmem device: its configuration begins with {:#x} instead of {:#x}\n",
            config.magic,
            wire::MAGIC
        );
    } else if config.version != wire::VERSION {
        pr_err!(
            "the device speaks version {}, this driver version {}; use a driver of the device's release\n",
            config.version,
            wire::VERSION
        );
    } else if config.page_shift != wire::PAGE_SHIFT {
        pr_err!("the device's pages are of 2^{} bytes\n", config.page_shift);
    } else if config.capabilities & wire::capability::PERSISTENT == 0 {
        pr_err!("the device has no persistent pools, which swap needs\n");
    } else if config.queue_pairs == 0 || config.batch_pages == 0 {
        pr_err!("the device offers no request queues, or requests without pages\n");
    } else if config.grant_pages == 0 {
        pr_err!("the host grants no pages; give the guest a grant\n");
    } else {
        return Ok(());
    }
    Err(ENODEV)
}

/// A pair of queues for each processor, as far as the device and the user allow.
fn wanted_pairs(config: &wire::Config) -> u16 {
    // SAFETY: no conditions.
    let cpus = unsafe { ffi::vtmem_cpus() };
    let mut pairs = u16::try_from(cpus)
        .unwrap_or(u16::MAX)
        .min(config.queue_pairs)
        .min(wire::QUEUE_PAIRS_MAX);
    let limit = *module_parameters::queue_pairs.value();
    if limit != 0 {
        pairs = pairs.min(limit);
    }
    pairs.max(1)
}

/// Sets up the virtqueues of `pairs` pairs, or of fewer if the VMM gives the device fewer.
///
/// # Safety
///
/// `vdev` is being probed.
unsafe fn find_queues(
    vdev: *mut ffi::VirtioDevice,
    mut pairs: u16,
) -> Result<KVec<*mut Virtqueue>> {
    let wanted = pairs;
    loop {
        let count = usize::from(wire::queue_count(pairs));
        let mut vqs = KVec::from_elem(ptr::null_mut(), count, GFP_KERNEL)?;
        let mut infos = KVec::with_capacity(count, GFP_KERNEL)?;
        for queue in 0..wire::queue_count(pairs) {
            let name = match queue {
                wire::QUEUE_CONTROL => c"control",
                wire::QUEUE_EVENT => c"event",
                // Not used, but named: see `VirtqueueInfo`.
                wire::QUEUE_BALLOON => c"balloon",
                _ if queue % 2 == wire::QUEUE_REQUEST_FIRST % 2 => c"get",
                _ => c"put",
            };
            let info = VirtqueueInfo {
                name: name.as_ptr().cast(),
                callback: (queue != wire::QUEUE_BALLOON).then_some(interrupt),
                ctx: false,
            };
            infos.push(info, GFP_KERNEL)?;
        }
        // SAFETY: both arrays have `count` entries.
        let found = to_result(unsafe {
            ffi::vtmem_find_vqs(vdev, count as u32, vqs.as_mut_ptr(), infos.as_mut_ptr())
        });
        match found {
            Ok(()) => {
                if pairs < wanted {
                    pr_notice!(
                        "the VMM gives the device {} of {} queue pairs; give it {} virtqueues\n",
                        pairs,
                        wanted,
                        wire::queue_count(wanted)
                    );
                }
                return Ok(vqs);
            }
            Err(error) if pairs > 1 && error != ENOMEM => pairs = pairs.saturating_sub(PAIRS_STEP),
            Err(error) => {
                pr_err!(
                    "cannot set up {} virtqueues: {:?}; give the device at least as many\n",
                    count,
                    error
                );
                return Err(error);
            }
        }
    }
}

/// Makes the driver's side of a device.
///
/// # Safety
///
/// The virtqueues stay valid until the device's queues have been killed.
unsafe fn build(vqs: &[*mut Virtqueue], config: &wire::Config) -> Result<KBox<Bound>> {
    let stats = Arc::new(Stats::new(), GFP_KERNEL)?;
    let (fixed, requests) = vqs
        .split_at_checked(usize::from(wire::QUEUE_REQUEST_FIRST))
        .ok_or(EINVAL)?;
    let (Some(&control), Some(&event)) = (
        fixed.get(usize::from(wire::QUEUE_CONTROL)),
        fixed.get(usize::from(wire::QUEUE_EVENT)),
    ) else {
        return Err(EINVAL);
    };
    let ring = requests
        .iter()
        // SAFETY: the virtqueues are valid.
        .map(|&vq| unsafe { ffi::virtqueue_get_vring_size(vq) } as usize)
        .min()
        .unwrap_or(0);
    if ring < RING_MIN {
        pr_err!(
            "the device's rings have {} descriptors, less than {}\n",
            ring,
            RING_MIN
        );
        return Err(EINVAL);
    }
    let pages = config.batch_pages.min(wire::BATCH_PAGES_MAX);
    let shared = Arc::new(
        Shared {
            limits: Limits {
                pages,
                segments: ring.saturating_sub(EXTRA_DESCRIPTORS).min(pages as usize),
                list: config.capabilities & wire::capability::LIST != 0,
            },
            tickets: Tickets::new(),
            stats: stats.clone(),
            poll_ns: u64::from(*module_parameters::poll_us.value()).saturating_mul(1000),
        },
        GFP_KERNEL,
    )?;
    let mut pairs = KVec::with_capacity(requests.len() / 2, GFP_KERNEL)?;
    for pair in requests.chunks_exact(2) {
        let &[get, put] = pair else {
            continue;
        };
        // SAFETY: as for this function.
        let pair = unsafe {
            Pair {
                get: Queue::new(get, shared.clone())?,
                put: Queue::new(put, shared.clone())?,
            }
        };
        pairs.push(pair, GFP_KERNEL)?;
    }
    // SAFETY: as for this function.
    let (control, events) = unsafe { (Control::new(control)?, Events::new(event, stats.clone())?) };
    let flush = Flush::new(disk_pages(config), stats)?;
    let device = Arc::pin_init(
        // SAFETY: the worker is stopped before the device's first reference goes.
        pin_init!(Device {
            control,
            events,
            pairs,
            shared,
            flush,
            worker <- unsafe { Worker::new() },
            synchronous: *module_parameters::synchronous.value() != 0,
            flush_delay_ms: *module_parameters::flush_delay_ms.value(),
            dead: Atomic::new(false),
        }),
        GFP_KERNEL,
    )?;
    Ok(KBox::new(
        Bound {
            device,
            disk: None,
            _files: None,
        },
        GFP_KERNEL,
    )?)
}

/// Pages of the largest disk that the device's promise and the user allow.
fn disk_pages(config: &wire::Config) -> u32 {
    let mut pages = config.grant_pages;
    let limit = *module_parameters::size_mib.value();
    if limit != 0 {
        pages = pages.min(limit.saturating_mul(1 << (20 - wire::PAGE_SHIFT)));
    }
    u32::try_from(pages).unwrap_or(u32::MAX)
}

/// Starts the conversation with a device that is ready, and adds its disk.
///
/// # Safety
///
/// `vdev` is being probed, and its private data is a [`Bound`].
unsafe fn open(vdev: *mut ffi::VirtioDevice, config: &wire::Config) -> Result {
    // SAFETY: only this task changes it, and interrupts look at `device` alone.
    let bound = unsafe { ffi::vtmem_private(vdev).cast::<Bound>() };
    // SAFETY: as above.
    let device = unsafe { (*bound).device.clone() };
    if config.capabilities & wire::capability::EVENTS != 0 {
        device.events.post_all();
    }
    let epoch = (EPOCH[0].load(Relaxed), EPOCH[1].load(Relaxed));
    let pages = device.begin(epoch, disk_pages(config))?;
    // SAFETY: the device outlives the driver's hold on it.
    let disk = unsafe { Disk::add(device.clone(), ffi::vtmem_device(vdev), pages) }?;
    pr_info!(
        "vtmem{}: {} MiB, {} queue pairs, {} pages a request\n",
        disk.number(),
        pages >> (20 - wire::PAGE_SHIFT),
        device.pairs.len(),
        device.shared.limits.pages
    );
    let files = Files::new(disk.number(), &device.shared.stats).unwrap_or_else(|error| {
        pr_warn!("no files in debugfs: {:?}\n", error);
        None
    });
    // SAFETY: as above.
    unsafe {
        (*bound).disk = Some(disk);
        (*bound)._files = files;
    }
    Ok(())
}

/// # Safety
///
/// Called by the virtio core for a device that was probed.
#[no_mangle]
unsafe extern "C" fn vtmem_remove(vdev: *mut ffi::VirtioDevice) {
    // SAFETY: as for this function.
    unsafe { abandon(vdev) };
}

/// Takes a device down, whether it has a disk or not.
///
/// # Safety
///
/// The private data of `vdev` is a [`Bound`]; it is gone afterwards.
unsafe fn abandon(vdev: *mut ffi::VirtioDevice) {
    // SAFETY: the pointer came from `KBox::into_raw`. Interrupts may still look at `device`, which
    // this box does not change until they have ceased.
    let bound = unsafe { ffi::vtmem_private(vdev).cast::<Bound>() };
    // SAFETY: as above; nobody else has the disk.
    let (device, disk) = unsafe { ((*bound).device.clone(), (*bound).disk.take()) };

    device.dead.store(true, Relaxed);
    if let Some(disk) = &disk {
        disk.mark_dead();
    }
    device.worker.stop();
    device.kill_pairs();
    if disk.is_some() {
        device.finish();
    }
    device.kill_queues();
    // SAFETY: no queue is in use, so that no notification is under way.
    unsafe { ffi::virtio_reset_device(vdev) };
    device.drain_queues();
    // SAFETY: the device is reset, the queues are dead. No interrupt comes any more, so that the
    // box has no other user.
    unsafe {
        ffi::vtmem_del_vqs(vdev);
        ffi::vtmem_set_private(vdev, ptr::null_mut());
        drop(KBox::from_raw(bound));
    }
    if let Some(disk) = disk {
        disk.remove();
    }
}

/// # Safety
///
/// Called by the virtio core before the system sleeps.
#[no_mangle]
unsafe extern "C" fn vtmem_freeze(_vdev: *mut ffi::VirtioDevice) -> c_int {
    pr_err!("cannot sleep: the swapped pages would be lost with the device's state\n");
    EBUSY.to_errno()
}

/// # Safety
///
/// Called by the virtio core in hard interrupt context for a virtqueue of this driver.
unsafe extern "C" fn interrupt(vq: *mut Virtqueue) {
    // SAFETY: the private data is null or a `Bound`, which lives until interrupts have ceased.
    let (bound, index) = unsafe {
        (
            ffi::vtmem_private(ffi::vtmem_vq_device(vq)).cast::<Bound>(),
            ffi::vtmem_vq_index(vq),
        )
    };
    if bound.is_null() {
        return;
    }
    // SAFETY: as above; `device` does not change.
    let device = unsafe { &(*bound).device };
    if let Ok(index) = u16::try_from(index) {
        device.interrupt(index);
    }
}
