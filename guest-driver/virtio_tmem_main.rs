// SPDX-License-Identifier: GPL-2.0
//! virtio_tmem: swap to the host's memory.
//!
//! The host offers a virtio device that takes pages, keeps them, gives them back and forgets them.
//! This module makes a disk of it, `/dev/vtmem0`, for `mkswap` and `swapon`.
//!
//! A page's way out: reclaim writes a bio to the disk ([`disk`]). The flush engine lets it through
//! ([`flush`]), it joins others under the task's plug, and the queue engine puts them into a ring as
//! one PUT request ([`vq`], [`ring`], [`request`]): a header, the pages' indices, and the pages themselves,
//! which the host reads where they lie. The answer has a result for each page, and each bio ends
//! with its own ([`device`]).
//!
//! A page's way back: a fault reads a bio; a GET request is sent at once on the get queue of the
//! same processor, and the task polls for the answer for some microseconds before it sleeps ([`poll`]).
//!
//! A page's end: swap tells of each freed slot. The flush engine gathers them and sends FLUSH
//! requests a little later, and sees to it that none of them hits a page that was put since.
//!
//! Other users of a device send [`call`]s to [`pools`] of their own; [`devices`] finds it for them.
//!
//! [`virtio`] finds and removes devices, [`setup`] looks at what they offer, [`lifecycle`] takes them through
//! resets and sleep, [`control`] speaks on the
//! control and event queues, [`stats`] counts and [`files`] shows it. `wire.rs` is the device's interface, the same file that the host uses.
//!
//! The other way round, [`balloon`] gives the host the guest's memory when the host asks for it.
//!
//! Two things hold everywhere: the module allocates no memory for a request other than the ring's
//! own indirect table, for which there is a way without; and nothing that the host says is trusted
//! further than the page it concerns.

use kernel::prelude::*;

mod after;
mod balloon;
mod bio;
mod cache;
mod call;
mod control;
mod device;
mod devices;
mod disk;
mod ffi;
mod files;
mod flush;
mod lifecycle;
mod pager;
mod poll;
mod pools;
mod request;
mod ring;
mod setup;
mod stats;
mod sync;
mod virtio;
mod vq;
#[allow(dead_code, unreachable_pub)]
mod wire;
mod work;

module! {
    type: Module,
    name: "virtio_tmem",
    authors: ["The virtio-tmem developers"],
    description: "Swap to the host's memory over virtio",
    license: "GPL",
    params: {
        poll_us: u32 {
            default: 20,
            description: "For how long a task polls for a page before it sleeps, in microseconds; 0: not at all (default 20)",
        },
        size_mib: u64 {
            default: 0,
            description: "Size of all disks together in MiB, at most the host's grant; 0: what programs_mib leaves of the grant (default 0)",
        },
        disks: u32 {
            default: 1,
            description: "Disks of equal size to make of a device, so that each can be swapped off alone (default 1)",
        },
        programs_mib: i64 {
            default: -1,
            description: "MiB of the grant that are kept out of the disks, for pages of programs (/dev/tmem); -1: an eighth of the grant, at most 64 (default -1)",
        },
        programs_cache_mib: u64 {
            default: 64,
            description: "MiB that the ephemeral pools of all programs (/dev/tmem) may reserve on a device (default 64)",
        },
        queue_pairs: u16 {
            default: 0,
            description: "Most get/put queue pairs of a device; 0: one for each processor (default 0)",
        },
        flush_delay_ms: u32 {
            default: 5,
            description: "Time from a slot's being freed to the flush of its page, in milliseconds; many freed slots shorten it (default 5)",
        },
        balloon_floor_mib: u64 {
            default: 0,
            description: "Memory that the balloon leaves to the guest whatever the host wants, in MiB; 0: an eighth of the guest's memory, at least 64 (default 0)",
        },
        reporting: u8 {
            default: 1,
            description: "0: do not report free pages to the host, which could have their memory (default 1)",
        },
        synchronous: u8 {
            default: 0,
            description: "1: tell swap that the disk is synchronous, which reads large folios back at once but writes one at a time (default 0)",
        },
    },
}

/// The loaded module. Fields are dropped in order: the clean cache and programs' file, then the
/// driver, then the workqueues, which end what is left over.
struct Module {
    _cache: cache::Registration,
    _agent: balloon::Agent,
    _pager: Pin<KBox<pager::Pager>>,
    _registration: virtio::Registration,
    _background: work::Started,
    _workqueue: work::Started,
    _balloons: work::Started,
}

impl kernel::Module for Module {
    fn init(module: &'static ThisModule) -> Result<Self> {
        let workqueue = work::DEVICES.start()?;
        let balloons = balloon::BALLOONS.start()?;
        let background = pager::BACKGROUND.start()?;
        let registration = virtio::Registration::new(module)?;
        Ok(Self {
            _cache: cache::Registration::new()?,
            _registration: registration,
            _pager: pager::Pager::new()?,
            _background: background,
            _agent: balloon::Agent::new(),
            _workqueue: workqueue,
            _balloons: balloons,
        })
    }
}
