// SPDX-License-Identifier: GPL-2.0
//! The balloon: memory that the guest gives back to its host, as much as the host asks for and the
//! guest's floor allows.
//!
//! The host names a target by an event. The worker ([`worker`]) takes memory from the kernel, by which
//! the guest's programs are pressed into swap, and so onto the host by another way; tells the host
//! which pages they are; and keeps them in a [`Store`] ([`pages`]). The host frees them before it
//! answers. On the way back there is nothing to wait for.
//!
//! ```text
//! kernel ── alloc ──▶ Batch ── INFLATE, answered OK ──▶ Store ── free ──▶ kernel ── DEFLATE ──▶ host
//!                       └──── refused: free ──▶ kernel
//! ```
//!
//! - A page is in the reach of those who take pages back only after the host's answer; whatever
//!   happens, no page is free in the guest that the host may still free ([`line`]).
//! - When the guest is out of memory, pages come back without the host ([`needs`]), which also moves
//!   single pages for the kernel's compaction.
//! - [`goal`] has the rules as plain numbers: floor, goal, back-off, refusals.
//! - [`figures`] tells the host how the guest is; [`agent`] adds what a program in the guest knows.
//! - [`reporting`] tells the host of free pages; it shares nothing with the rest but the device.
//!
//! States: [`Balloon::begin`] after each HELLO; [`Balloon::pause`], [`Balloon::drain`] and
//! [`Balloon::resume`] around a reset of the device, over which pages are kept; [`Balloon::kill`],
//! drain and [`Balloon::end`] when the driver is unbound, after which all pages are the guest's.

mod agent;
mod ffi;
mod figures;
mod goal;
mod line;
mod needs;
mod pages;
mod reporting;
mod task;
mod worker;

pub(crate) use agent::Agent;
pub(crate) use figures::Figures;
pub(crate) use task::BALLOONS;

use crate::{
    ffi::{VirtioDevice, Virtqueue},
    wire::{self, capability},
    work::Worker,
};
use agent::Record;
use kernel::{
    bindings,
    error::to_result,
    new_mutex,
    prelude::*,
    static_lock_class,
    sync::{
        atomic::{Atomic, Relaxed, Release},
        Arc, Mutex,
    },
    types::Opaque,
};
use line::Line;
use pages::Store;
use reporting::Reporting;
use worker::Plan;

/// The host gets statistics no more often, whatever it asks for.
const INTERVAL_MIN_MS: u32 = 100;

/// What a user of the module chose.
pub(crate) struct Choice {
    /// Memory that stays with the guest, in MiB; 0: a share of it.
    pub(crate) floor_mib: u64,
    /// Free pages are to be reported.
    pub(crate) reporting: bool,
}

/// The balloon's registrations with the kernel.
struct Hooks {
    oom: bool,
    reporting: Reporting,
}

/// The balloon of a device.
#[pin_data]
pub(crate) struct Balloon {
    #[pin]
    line: Line,
    #[pin]
    report_line: Line,
    #[pin]
    store: Store,
    /// Brings the balloon to its goal; see [`worker`].
    #[pin]
    act: Worker,
    /// Sends statistics; see [`figures`].
    #[pin]
    tell: Worker,
    #[pin]
    plan: Mutex<Plan>,
    #[pin]
    oom: Opaque<bindings::notifier_block>,
    #[pin]
    hooks: Mutex<Hooks>,
    capabilities: u64,
    choice: Choice,
    /// Pages that the host wants.
    target: Atomic<u64>,
    /// Counts the host's wishes.
    wishes: Atomic<u64>,
    /// Milliseconds from one report to the next; 0: none.
    interval: Atomic<u32>,
    /// The balloon does not grow before this time; how long that was for, in milliseconds.
    relief_until: Atomic<u64>,
    relief: Atomic<u32>,
    ending: Atomic<bool>,
    figures: Arc<Figures>,
}

// SAFETY: the notifier is the kernel's between its registration and its end; all else is `Send`.
unsafe impl Send for Balloon {}
// SAFETY: as above; what changes is atomic or under a lock.
unsafe impl Sync for Balloon {}

impl Balloon {
    /// The balloon of a device with these capabilities; None if it has nothing to do with one.
    ///
    /// # Safety
    ///
    /// The virtqueues are used by nobody else, and stay valid until [`Balloon::pause`] or
    /// [`Balloon::kill`] has returned, and for [`Balloon::drain`].
    pub(crate) unsafe fn new(
        balloon: *mut Virtqueue,
        report: *mut Virtqueue,
        capabilities: u64,
        choice: Choice,
    ) -> Result<Option<Pin<KBox<Self>>>> {
        if capabilities & (capability::BALLOON | capability::REPORTING) == 0 {
            return Ok(None);
        }
        let figures = Arc::new(Figures::new(), GFP_KERNEL)?;
        let plan = Plan::new()?;
        let hooks = Hooks {
            oom: false,
            reporting: Reporting::NONE,
        };
        let balloon = KBox::try_pin_init(
            try_pin_init!(Self {
                // SAFETY: as for this function.
                line <- unsafe { Line::new(balloon, false) },
                // SAFETY: as for this function.
                report_line <- unsafe { Line::new(report, true) },
                store <- Store::new(),
                // SAFETY: `run_act` is for this field; `end` stops the work.
                act <- unsafe { Worker::new(&BALLOONS, task::run_act, static_lock_class!()) },
                // SAFETY: `run_tell` is for this field; `end` stops the work.
                tell <- unsafe { Worker::new(&BALLOONS, task::run_tell, static_lock_class!()) },
                plan <- new_mutex!(plan),
                oom <- Opaque::ffi_init(|slot: *mut bindings::notifier_block| {
                    // SAFETY: `slot` is valid for writing.
                    unsafe {
                        slot.write(bindings::notifier_block {
                            notifier_call: Some(needs::on_oom),
                            next: core::ptr::null_mut(),
                            priority: 0,
                        });
                    }
                }),
                hooks <- new_mutex!(hooks),
                capabilities,
                choice,
                target: Atomic::new(0),
                wishes: Atomic::new(0),
                interval: Atomic::new(0),
                relief_until: Atomic::new(0),
                relief: Atomic::new(0),
                ending: Atomic::new(false),
                figures,
            }? Error),
            GFP_KERNEL,
        )?;
        Ok(Some(balloon))
    }

    /// What debugfs shows.
    pub(crate) fn figures(&self) -> &Arc<Figures> {
        &self.figures
    }

    /// The host has answered HELLO, for the first time or after a reset of the device.
    ///
    /// # Safety
    ///
    /// `vdev` is the balloon's device. [`Balloon::end`] is called before the balloon is freed.
    pub(crate) unsafe fn begin(&self, vdev: *mut VirtioDevice) {
        let mut hooks = self.hooks.lock();
        if self.is_ending() {
            return;
        }
        if self.capabilities & capability::BALLOON != 0 {
            if !hooks.oom {
                // SAFETY: the notifier lives until `end` has unregistered it.
                let result = to_result(unsafe { ffi::register_oom_notifier(self.oom.get()) });
                hooks.oom = result.is_ok();
            }
            if self.store.held() > 0 {
                self.tell.run_now();
            }
            self.act.run_now();
        }
        let report = self.capabilities & capability::REPORTING != 0 && self.choice.reporting;
        if report && !hooks.reporting.is_on() {
            // SAFETY: as for this function.
            hooks.reporting = unsafe { self.start_reporting(vdev) };
        }
    }

    /// The host has sent an event, of whatever kind. Any context.
    pub(crate) fn event(&self, event: &wire::Event) {
        if self.capabilities & capability::BALLOON == 0 {
            return;
        }
        match event.kind {
            wire::event::BALLOON => {
                self.target.store(event.value, Relaxed);
                self.wishes.fetch_add(1u64, Release);
                self.act.run_now();
            }
            wire::event::STATS => {
                let interval = match u32::try_from(event.value).unwrap_or(u32::MAX) {
                    0 => 0,
                    wanted => wanted.max(INTERVAL_MIN_MS),
                };
                self.interval.store(interval, Relaxed);
                if interval > 0 {
                    self.tell.run_now();
                }
            }
            _ => {}
        }
    }

    /// An interrupt of one of the balloon's queues.
    pub(crate) fn interrupt(&self, queue: u16) {
        match queue {
            wire::QUEUE_BALLOON => self.line.interrupt(),
            wire::QUEUE_REPORT => self.report_line.interrupt(),
            _ => {}
        }
    }

    /// Lets nobody touch the virtqueues any more. Requests in flight are still waited for.
    pub(crate) fn pause(&self) {
        self.line.pause();
        self.report_line.pause();
    }

    /// Ends the requests that a device which has been reset did not answer.
    pub(crate) fn drain(&self) {
        self.line.drain();
        self.report_line.drain();
    }

    /// Goes on with new virtqueues; [`Balloon::begin`] follows.
    ///
    /// # Safety
    ///
    /// As for [`Balloon::new`]; the balloon was paused and drained.
    pub(crate) unsafe fn resume(&self, balloon: *mut Virtqueue, report: *mut Virtqueue) {
        // SAFETY: as for this function.
        unsafe {
            self.line.resume(balloon);
            self.report_line.resume(report);
        }
    }

    /// Gives all pages back to the guest, for a system that is about to sleep. The target stays, and
    /// is worked for again after the next [`Balloon::begin`]. May sleep; the balloon was drained.
    pub(crate) fn give_back(&self) {
        self.empty();
    }

    /// The driver is being unbound: [`Balloon::pause`], for good.
    pub(crate) fn kill(&self) {
        self.ending.store(true, Relaxed);
        self.pause();
    }

    /// The rest of it, once the balloon was drained: no work runs afterwards, the kernel knows the
    /// balloon no more, and all pages are the guest's. May sleep.
    pub(crate) fn end(&self) {
        self.ending.store(true, Relaxed);
        let mut hooks = self.hooks.lock();
        hooks.reporting.stop();
        if core::mem::take(&mut hooks.oom) {
            // SAFETY: it was registered.
            unsafe { ffi::unregister_oom_notifier(self.oom.get()) };
        }
        drop(hooks);
        self.act.stop();
        self.tell.stop();
        self.empty();
    }

    fn is_ending(&self) -> bool {
        self.ending.load(Relaxed)
    }

    /// The guest's memory in pages, with what the balloon holds.
    fn ram(&self) -> u64 {
        // SAFETY: no conditions.
        unsafe { ffi::vtmem_balloon_ram() }.saturating_add(self.store.held())
    }

    /// Pages that stay with the guest.
    fn floor(&self) -> u64 {
        let own = self.choice.floor_mib.saturating_mul(goal::MIB_PAGES);
        goal::floor(self.ram(), own, Record::last().floor)
    }

    /// Pages that the balloon works towards.
    fn goal(&self) -> u64 {
        goal::goal(self.target(), self.ram(), self.floor())
    }
}
