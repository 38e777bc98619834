// SPDX-License-Identifier: GPL-2.0
//! From a device's configuration to the driver's side of it: is it one of ours, how many queues, how
//! large a disk.

use crate::{
    balloon::{self, Balloon},
    control::{Control, Events},
    device::{Device, Pair},
    ffi::{self, Callback, Virtqueue, VirtqueueInfo},
    flush::Flush,
    lifecycle::Life,
    module_parameters,
    pools::Pools,
    request::{Limits, Tickets, EXTRA_DESCRIPTORS},
    ring::Shared,
    stats::Stats,
    vq::Queue,
    wire,
    work::{self, Worker, DEVICES},
};
use core::{borrow::Borrow, ptr};
use kernel::{
    error::to_result,
    new_mutex, static_lock_class,
    prelude::*,
    sync::{atomic::Atomic, Arc},
};

/// The smallest ring of a request queue that can be used.
const RING_MIN: usize = 8;

/// The most disks of a device; each takes a pool of it.
const DISKS_MAX: u32 = 16;
/// The smallest disk of several, in pages: 1 MiB.
const DISK_PAGES_MIN: u64 = 256;
/// The most that programs get without being asked for, in MiB.
const PROGRAMS_MIB_MAX: u64 = 64;

/// Refuses a device that this driver cannot work with.
pub(crate) fn check(config: &wire::Config) -> Result {
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

/// A module parameter, of which `value()` gives a reference before Linux 7.3, and a copy since.
fn parameter<T: Copy>(value: impl Borrow<T>) -> T {
    *value.borrow()
}

/// A pair of queues for each processor, as far as the device and the user allow.
pub(crate) fn wanted_pairs(config: &wire::Config) -> u16 {
    // SAFETY: no conditions.
    let cpus = unsafe { ffi::vtmem_cpus() };
    let mut pairs = u16::try_from(cpus)
        .unwrap_or(u16::MAX)
        .min(config.queue_pairs)
        .min(wire::QUEUE_PAIRS_MAX);
    let limit = parameter::<u16>(module_parameters::queue_pairs.value());
    if limit != 0 {
        pairs = pairs.min(limit);
    }
    pairs.max(1)
}

/// Sets up the virtqueues of `pairs` pairs, or of fewer if the VMM gives the device fewer.
/// `callback` serves the interrupts of all.
///
/// # Safety
///
/// `vdev` is being probed.
pub(crate) unsafe fn find_queues(
    vdev: *mut ffi::VirtioDevice,
    mut pairs: u16,
    callback: Callback,
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
                // Not used by every driver, but named: see `VirtqueueInfo`.
                wire::QUEUE_BALLOON => c"balloon",
                wire::QUEUE_REPORT => c"report",
                _ if queue % 2 == wire::QUEUE_REQUEST_FIRST % 2 => c"get",
                _ => c"put",
            };
            let info = VirtqueueInfo {
                name: name.as_ptr().cast(),
                callback: Some(callback),
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
            Err(error) if pairs > 1 && error != ENOMEM => pairs = pairs.saturating_sub(1),
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

/// Makes the driver's side of the device `vdev`.
///
/// # Safety
///
/// The virtqueues stay valid until the device is halted.
pub(crate) unsafe fn build(
    vdev: *mut ffi::VirtioDevice,
    vqs: &[*mut Virtqueue],
    config: &wire::Config,
) -> Result<Arc<Device>> {
    let stats = Arc::new(Stats::new(), GFP_KERNEL)?;
    stats.grant_pages.set(config.grant_pages);
    let (fixed, requests) = vqs
        .split_at_checked(usize::from(wire::QUEUE_REQUEST_FIRST))
        .ok_or(EINVAL)?;
    let (Some(&control), Some(&event), Some(&inflate), Some(&report)) = (
        fixed.get(usize::from(wire::QUEUE_CONTROL)),
        fixed.get(usize::from(wire::QUEUE_EVENT)),
        fixed.get(usize::from(wire::QUEUE_BALLOON)),
        fixed.get(usize::from(wire::QUEUE_REPORT)),
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
            poll_ns: u64::from(parameter::<u32>(module_parameters::poll_us.value()))
                .saturating_mul(1000),
            wounded: Atomic::new(false),
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
    let choice = balloon::Choice {
        floor_mib: parameter::<u64>(module_parameters::balloon_floor_mib.value()),
        reporting: parameter::<u8>(module_parameters::reporting.value()) != 0,
    };
    // SAFETY: as for this function.
    let balloon = unsafe { Balloon::new(inflate, report, config.capabilities, choice) }?;
    let sizes = Sizes::of(config);
    let mut areas = KVec::with_capacity(sizes.disks as usize, GFP_KERNEL)?;
    for area in 0..sizes.disks {
        areas.push(
            Flush::new(area, sizes.disk_pages, stats.clone())?,
            GFP_KERNEL,
        )?;
    }
    Arc::pin_init(
        // SAFETY: the works are stopped before the device's first reference goes.
        pin_init!(Device {
            control,
            events,
            balloon,
            pairs,
            shared,
            areas,
            pools <- Pools::new(config),
            worker <- unsafe {
                Worker::new(&DEVICES, work::run_flushes, static_lock_class!())
            },
            recovery <- unsafe {
                Worker::new(&DEVICES, work::run_recovery, static_lock_class!())
            },
            life <- new_mutex!(Life::new(vdev)),
            programs_pages: sizes.programs_pages,
            capabilities: config.capabilities,
            synchronous: parameter::<u8>(module_parameters::synchronous.value()) != 0,
            flush_delay_ms: parameter::<u32>(module_parameters::flush_delay_ms.value()),
            dead: Atomic::new(false),
            lost: Atomic::new(false),
            asked: Atomic::new(false),
            overlook: Atomic::new(false),
        }),
        GFP_KERNEL,
    )
}

/// How the host's promise is shared out.
pub(crate) struct Sizes {
    pub(crate) disks: u32,
    /// Pages of each disk.
    pub(crate) disk_pages: u32,
    /// Pages for persistent pools of programs.
    pub(crate) programs_pages: u64,
}

impl Sizes {
    /// What the parameters make of the grant. A size that is asked for comes before the programs' share,
    /// unless that is asked for as well.
    pub(crate) fn of(config: &wire::Config) -> Self {
        let grant = config.grant_pages;
        let mib = |mib: u64| mib.saturating_mul(1 << (20 - wire::PAGE_SHIFT));
        let size = mib(parameter::<u64>(module_parameters::size_mib.value()));
        let size = if size == 0 { grant } else { size.min(grant) };
        let programs = parameter::<i64>(module_parameters::programs_mib.value());
        let programs_pages = match u64::try_from(programs) {
            Ok(asked) => mib(asked).min(grant),
            Err(_) => (grant / 8).min(mib(PROGRAMS_MIB_MAX)).min(if size < grant {
                grant - size
            } else {
                grant
            }),
        };
        let size = size.min(grant - programs_pages);
        let most = (size / DISK_PAGES_MIN)
            .min(u64::from(config.pools))
            .clamp(1, u64::from(DISKS_MAX));
        let disks = u64::from(parameter::<u32>(module_parameters::disks.value())).clamp(1, most);
        Self {
            disks: disks as u32,
            disk_pages: u32::try_from(size / disks).unwrap_or(u32::MAX),
            programs_pages,
        }
    }
}
