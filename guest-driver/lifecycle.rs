// SPDX-License-Identifier: GPL-2.0
//! The device's life between probe and removal: resets, sleep, and setting it up anew.
//!
//! ```text
//!              halt                          start
//!   Running ──────────▶ no virtqueues, ────────────────▶ Running
//!                       nothing forgotten
//! ```
//!
//! **Halting** pauses all queues (new bios wait, calls are refused for the moment), resets the device, so
//! that it touches no memory any more, takes the answers that are in the rings, and leaves every other
//! request in its slot. **Starting** sets up virtqueues, introduces the driver with the epoch of
//! before, and sends again, with its old ticket, what is in the slots. Puts, gets and flushes may be
//! carried out twice; nothing newer for the same pages can have been sent, as the old requests had
//! not ended. Nobody who waits for a page notices more than the time it takes.
//!
//! Who halts and starts:
//!
//! - the device, by NEEDS_RESET in its status, or a virtqueue that is broken; the administrator, by
//!   the file `reset` in debugfs: [`Device::recover`], on the module's workqueue, with retries;
//! - the PCI core, before and after a function-level reset;
//! - the power management, before and after the machine sleeps. In between the state is `Asleep`, in
//!   which `recover` does nothing;
//! - the shutdown of the machine, for good: whoever asks for a page then waits, as everything does.
//!
//! If the host answers that it does not know the epoch, it has forgotten the pages. The pools are made
//! anew; from then on a disk's page that the host does not have is an error, not zeroes.

use crate::{
    control::Gate,
    device::Device,
    ffi::{self, Virtqueue},
    request::EXTRA_DESCRIPTORS,
    setup, virtio, wire,
};
use kernel::{prelude::*, sync::atomic::Relaxed};

/// The device's status has this bit when it wants a reset.
const NEEDS_RESET: u8 = 0x40;
/// The status of a device that is not there any more.
const UNPLUGGED: u8 = 0xff;
/// Attempts to set the device up anew, and the time before the second; it doubles each time.
const ATTEMPTS: u32 = 8;
const RETRY_MS: u32 = 100;
/// So many resets that the device wanted, within so long, and it is given up.
const RESETS_MAX: u32 = 10;
const RESETS_WITHIN_NS: u64 = 60_000_000_000;

#[derive(Clone, Copy, PartialEq)]
enum State {
    Running,
    /// Halted by the machine's sleep, by its shutdown or by the PCI core.
    Asleep,
    /// Halted, and to be started by [`Device::recover`].
    Broken,
    /// Halted for good.
    Gone,
}

/// What [`Device::life`] guards: the right to halt and to start.
pub(crate) struct Life {
    vdev: *mut ffi::VirtioDevice,
    state: State,
    /// Failed attempts to start since the device was halted.
    attempts: u32,
    /// Resets that the device wanted since `since`.
    wanted: u32,
    since: u64,
}

// SAFETY: the device may be used by any task, under the lock.
unsafe impl Send for Life {}

impl Life {
    /// Of a device that is being probed.
    pub(crate) fn new(vdev: *mut ffi::VirtioDevice) -> Self {
        Self {
            vdev,
            state: State::Running,
            attempts: 0,
            wanted: 0,
            since: 0,
        }
    }

    /// Counts a reset that the device wants; false: there were too many lately.
    fn bears_another(&mut self) -> bool {
        let now = ffi::now_ns();
        if now.wrapping_sub(self.since) > RESETS_WITHIN_NS {
            self.since = now;
            self.wanted = 0;
        }
        self.wanted = self.wanted.saturating_add(1);
        self.wanted <= RESETS_MAX
    }
}

/// While this lives, the task's allocations do not wait for swap.
struct NoIo(u32);

impl NoIo {
    fn enter() -> Self {
        // SAFETY: undone by the same task, in reverse order.
        Self(unsafe { ffi::vtmem_noio_save() })
    }
}

impl Drop for NoIo {
    fn drop(&mut self) {
        // SAFETY: as in `enter`.
        unsafe { ffi::vtmem_noio_restore(self.0) };
    }
}

impl Device {
    /// The work of `recovery`: resets a device that wants it, and sets it up anew.
    pub(crate) fn recover(&self) {
        let mut life = self.life.lock();
        match life.state {
            State::Running => {
                // SAFETY: the device is bound until the state is `Gone`.
                let status = unsafe { ffi::vtmem_status(life.vdev) };
                let broken = self.shared.wounded.xchg(false, Relaxed);
                let asked = self.asked.xchg(false, Relaxed);
                if status == UNPLUGGED {
                    pr_err!("the device is not there any more\n");
                    return;
                }
                let why = if status & NEEDS_RESET != 0 {
                    "it asks for it"
                } else if broken {
                    "a virtqueue is broken"
                } else if asked {
                    "the administrator asks for it"
                } else {
                    return;
                };
                pr_warn!("the device is reset, as {}\n", why);
                let _noio = NoIo::enter();
                // SAFETY: the device is running.
                unsafe { self.halt(life.vdev) };
                if !asked && !life.bears_another() {
                    pr_err!("the device has wanted {} resets in a minute\n", life.wanted);
                    return self.give_up(&mut life);
                }
                life.attempts = 0;
                life.state = State::Broken;
            }
            State::Broken => {}
            State::Asleep | State::Gone => return,
        }
        let _noio = NoIo::enter();
        // SAFETY: the device is halted.
        let started = unsafe { self.negotiate_and_start(life.vdev) };
        match started {
            Ok(()) => {
                life.state = State::Running;
                self.look_after();
            }
            Err(error) => {
                life.attempts = life.attempts.saturating_add(1);
                pr_err!(
                    "the device cannot be set up: {:?} (attempt {} of {})\n",
                    error,
                    life.attempts,
                    ATTEMPTS
                );
                if life.attempts >= ATTEMPTS {
                    return self.give_up(&mut life);
                }
                self.recovery
                    .run_in(RETRY_MS << life.attempts.saturating_sub(1).min(10));
            }
        }
    }

    /// Nothing more will come from the device: all that waits for it fails.
    fn give_up(&self, life: &mut Life) {
        life.state = State::Gone;
        self.dead.store(true, Relaxed);
        pr_err!("the device is given up: its pages cannot be read until the next boot\n");
        self.bury();
    }

    /// Fails everything that was sent or waits. The queues' virtqueues are gone, or about to be.
    fn bury(&self) {
        self.control.shut(Gate::Dead);
        for pair in &self.pairs {
            for queue in [&pair.get, &pair.put] {
                queue.kill();
                queue.give_up(|job| self.lose(job));
            }
        }
        for area in &self.areas {
            area.close().end_all(ffi::BLK_STS_IOERR);
        }
        if let Some(balloon) = &self.balloon {
            balloon.end();
        }
    }

    /// Before the machine sleeps or goes off, or the PCI core resets the device.
    ///
    /// # Safety
    ///
    /// Called by the virtio core for the device that this one drives.
    pub(crate) unsafe fn fall_asleep(&self, for_sleep: bool) {
        let mut life = self.life.lock();
        if life.state == State::Gone {
            return;
        }
        if life.state == State::Running {
            // SAFETY: the device is running.
            unsafe { self.halt(life.vdev) };
        }
        life.state = State::Asleep;
        if let Some(balloon) = self.balloon.as_ref().filter(|_| for_sleep) {
            balloon.give_back();
        }
    }

    /// After it; the core has reset the device and negotiated its features.
    ///
    /// # Safety
    ///
    /// As for [`Device::fall_asleep`].
    pub(crate) unsafe fn wake_up(&self) -> Result {
        let mut life = self.life.lock();
        if life.state == State::Gone {
            return Ok(());
        }
        let announced = life.state != State::Running;
        if !announced {
            // SAFETY: the device was running.
            unsafe { self.halt(life.vdev) };
        }
        life.attempts = 0;
        let _noio = NoIo::enter();
        // SAFETY: the device is halted, and its features are negotiated unless it was halted just now.
        let started = unsafe {
            if announced {
                self.start(life.vdev)
            } else {
                self.negotiate_and_start(life.vdev)
            }
        };
        match started {
            Ok(()) => {
                life.state = State::Running;
                self.look_after();
            }
            Err(error) => {
                pr_err!("the device cannot be set up: {:?}\n", error);
                life.state = State::Broken;
                self.recovery.run_in(RETRY_MS);
            }
        }
        started
    }

    /// The end: gives the pools back, resets the device, fails what is left, deletes the virtqueues.
    ///
    /// # Safety
    ///
    /// Called once, with `dead` set and the works stopped.
    pub(crate) unsafe fn end(&self) {
        let mut life = self.life.lock();
        let was = life.state;
        life.state = State::Gone;
        if let Some(balloon) = &self.balloon {
            balloon.kill();
        }
        for pair in &self.pairs {
            pair.get.kill();
            pair.put.kill();
        }
        if was == State::Running {
            self.destroy_pools();
            // SAFETY: the device is running, and its request queues were killed.
            unsafe { self.halt(life.vdev) };
        } else if was != State::Asleep {
            // The core wants to find it so.
            // SAFETY: the device is bound.
            unsafe {
                if ffi::vtmem_status(life.vdev) != UNPLUGGED {
                    ffi::virtio_reset_device(life.vdev);
                }
            }
        }
        if was != State::Gone {
            self.bury();
        }
    }

    /// Takes the device out of service: afterwards it is reset and has no virtqueues.
    ///
    /// # Safety
    ///
    /// The device is running and `vdev`; the caller holds `life`.
    unsafe fn halt(&self, vdev: *mut ffi::VirtioDevice) {
        for pair in &self.pairs {
            pair.get.pause();
            pair.put.pause();
        }
        self.control.shut(Gate::Closed);
        self.events.pause();
        if let Some(balloon) = &self.balloon {
            balloon.pause();
        }
        // SAFETY: no queue is in use, so that no notification is under way.
        unsafe { ffi::virtio_reset_device(vdev) };
        let overlook = self.overlook.xchg(false, Relaxed);
        for pair in &self.pairs {
            for queue in [&pair.get, &pair.put] {
                // SAFETY: the queues are paused, the device is reset, the virtqueues are still there.
                unsafe {
                    if !overlook {
                        queue.harvest(|done| self.complete(done));
                    }
                    queue.detach(|job| self.lose(job));
                }
            }
        }
        self.control.drain();
        self.events.drain();
        if let Some(balloon) = &self.balloon {
            balloon.drain();
        }
        // SAFETY: nobody uses the virtqueues. No interrupt comes any more when this returns.
        unsafe { ffi::vtmem_del_vqs(vdev) };
    }

    /// # Safety
    ///
    /// The device is halted and `vdev`; the caller holds `life`.
    unsafe fn negotiate_and_start(&self, vdev: *mut ffi::VirtioDevice) -> Result {
        // SAFETY: as for this function.
        unsafe {
            if ffi::vtmem_status(vdev) == UNPLUGGED {
                return Err(ENODEV);
            }
            kernel::error::to_result(ffi::vtmem_negotiate(vdev))?;
            self.start(vdev)
        }
    }

    /// Puts a halted device into service again. On an error it is halted as before.
    ///
    /// # Safety
    ///
    /// The device is halted and `vdev`, its features are negotiated; the caller holds `life`.
    unsafe fn start(&self, vdev: *mut ffi::VirtioDevice) -> Result {
        let began = ffi::now_ns();
        let pairs = self.pairs.len() as u16;
        // SAFETY: the device has no virtqueues.
        let vqs = unsafe { setup::find_queues(vdev, pairs, virtio::interrupt) }?;
        // SAFETY: the virtqueues were found just now, and are deleted by `halt`.
        let started = unsafe { self.take_over(vdev, &vqs) };
        if started.is_err() {
            // SAFETY: the request queues were not opened.
            unsafe { self.halt(vdev) };
            return started;
        }
        self.stats().resets.inc();
        pr_info!(
            "the device is set up again after {} us; {} requests in all were sent once more\n",
            ffi::now_ns().wrapping_sub(began) / 1000,
            self.stats().replayed.get()
        );
        Ok(())
    }

    /// # Safety
    ///
    /// `vqs` are virtqueues of `vdev`, which is not ready yet; the caller holds `life`.
    unsafe fn take_over(&self, vdev: *mut ffi::VirtioDevice, vqs: &[*mut Virtqueue]) -> Result {
        let (fixed, requests) = vqs
            .split_at_checked(usize::from(wire::QUEUE_REQUEST_FIRST))
            .ok_or(EINVAL)?;
        let fixed = |queue: u16| fixed.get(usize::from(queue)).copied().ok_or(EINVAL);
        let (control, event) = (fixed(wire::QUEUE_CONTROL)?, fixed(wire::QUEUE_EVENT)?);
        let (inflate, report) = (fixed(wire::QUEUE_BALLOON)?, fixed(wire::QUEUE_REPORT)?);
        let entries = self
            .shared
            .limits
            .segments
            .saturating_add(EXTRA_DESCRIPTORS);
        let too_small = |&vq: &*mut Virtqueue| {
            // SAFETY: the virtqueue is valid.
            (unsafe { ffi::virtqueue_get_vring_size(vq) } as usize) < entries
        };
        if requests.len() != self.pairs.len().saturating_mul(2) || requests.iter().any(too_small) {
            pr_err!("the device has fewer or smaller queues than before its reset\n");
            return Err(ENODEV);
        }
        // SAFETY: the virtqueues are valid, and the old ones were drained.
        unsafe {
            self.control.resume(control);
            self.events.resume(event);
            if let Some(balloon) = &self.balloon {
                balloon.resume(inflate, report);
            }
            ffi::vtmem_device_ready(vdev);
        }
        if self.capabilities & wire::capability::EVENTS != 0 {
            self.events.post_all();
        }
        let hello = self.hello(virtio::epoch())?;
        if hello.flags & wire::hello::SAME_EPOCH == 0 {
            pr_err!("the host has forgotten the pages of this guest\n");
            self.lost.store(true, Relaxed);
            self.stats().losses.inc();
            self.remake_pools()?;
        }
        for (pair, vqs) in self.pairs.iter().zip(requests.chunks_exact(2)) {
            if let &[get, put] = vqs {
                // SAFETY: the virtqueues are valid, the device ready, the old ones were detached.
                unsafe {
                    pair.get.open(get);
                    pair.put.open(put);
                }
            }
        }
        self.control.open();
        self.worker.run_now();
        if let Some(balloon) = &self.balloon {
            // SAFETY: `vdev` is the balloon's device; `end` ends the balloon.
            unsafe { balloon.begin(vdev) };
        }
        Ok(())
    }
}

/// Whether the machine may hibernate: not while the host holds anything of it. The image would be read
/// back by a kernel that the host cannot tell from a new boot, and pages that were freed or written
/// after the image was taken would be wrong in it.
#[no_mangle]
extern "C" fn vtmem_may_hibernate() -> bool {
    let may = !crate::devices::in_use();
    if !may {
        pr_err!("cannot hibernate while the host holds pages; swapoff first\n");
    }
    may
}
