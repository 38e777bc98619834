// SPDX-License-Identifier: GPL-2.0
//! A device's pools: those of its disks, and those that other users of it ask for.
//!
//! The device keeps a list of them, so that it can make them anew if the host has forgotten them.

use crate::{control::Gate, device::Device, ffi, request, wire};
use kernel::{
    bindings, new_mutex,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, Mutex,
    },
};

/// Slots of the list, for pool ids from 1.
const SLOTS: usize = wire::POOLS_MAX as usize;
/// How often, and how long apart, a command is tried again while the device is being reset.
const RETRIES: u32 = 600;
const RETRY_MS: u32 = 100;

/// What a pool is made of.
#[derive(Clone, Copy)]
pub(crate) struct Spec {
    pub(crate) kind: u16,
    pub(crate) layout: u16,
    /// Of a dense pool.
    pub(crate) object_pages: u32,
}

/// Pool ids that are in use.
#[pin_data]
pub(crate) struct Pools {
    #[pin]
    table: Mutex<[Option<Spec>; SLOTS]>,
    /// The most pools that the device allows.
    most: usize,
    /// Bits of [`wire::capability`].
    capabilities: u64,
    /// Times that the host has forgotten all pools.
    losses: Atomic<u32>,
}

impl Pools {
    pub(crate) fn new(config: &wire::Config) -> impl PinInit<Self> {
        let most = (config.pools as usize).min(SLOTS);
        let capabilities = config.capabilities;
        pin_init!(Self {
            table <- new_mutex!([None; SLOTS]),
            most,
            capabilities,
            losses: Atomic::new(0),
        })
    }

    fn allows(&self, spec: &Spec) -> bool {
        let kind = match spec.kind {
            wire::pool_kind::PERSISTENT => wire::capability::PERSISTENT,
            wire::pool_kind::EPHEMERAL => wire::capability::EPHEMERAL,
            _ => return false,
        };
        let layout = match spec.layout {
            wire::pool_layout::DENSE if spec.object_pages != 0 => 0,
            wire::pool_layout::SPARSE if spec.object_pages == 0 => wire::capability::SPARSE,
            _ => return false,
        };
        self.capabilities & (kind | layout) == kind | layout
    }

    /// Takes the lowest id from `from` on that is free.
    fn reserve(&self, from: u32, spec: Spec) -> Option<u32> {
        let mut table = self.table.lock();
        let (slot, entry) = table
            .iter_mut()
            .enumerate()
            .take(self.most)
            .skip(from.saturating_sub(1) as usize)
            .find(|(_, entry)| entry.is_none())?;
        *entry = Some(spec);
        Some(slot as u32 + 1)
    }

    fn release(&self, id: u32) {
        if let Some(entry) = self.table.lock().get_mut(id.wrapping_sub(1) as usize) {
            *entry = None;
        }
    }

    /// The pool with the lowest id from `from` on.
    fn next(&self, from: u32) -> Option<(u32, Spec)> {
        self.table
            .lock()
            .iter()
            .enumerate()
            .skip(from.saturating_sub(1) as usize)
            .find_map(|(slot, entry)| entry.map(|spec| (slot as u32 + 1, spec)))
    }
}

/// A pool of its owner's; the host gets it back when this is dropped, which may sleep.
pub(crate) struct Pool {
    device: Arc<Device>,
    id: u32,
}

impl Pool {
    /// Its id, for [`wire::RequestHeader::pool`].
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// A pool that the host did not remove keeps its id, lest the next owner finds its pages. When a
    /// device goes, all of its pools do.
    fn give_back(&mut self) -> Result {
        let id = core::mem::take(&mut self.id);
        if id != 0 && !self.device.is_dead() {
            self.device.destroy_pool(id)?;
        }
        self.device.pools.release(id);
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // It was said in the log.
        let _ = self.give_back();
    }
}

impl Device {
    /// Makes a pool on the host. `EINVAL` if the device has no such pools, `EBUSY` if it has no more.
    /// May sleep.
    pub(crate) fn make_pool(
        self: &Arc<Self>,
        kind: u16,
        layout: u16,
        object_pages: u32,
    ) -> Result<Pool> {
        let spec = Spec {
            kind,
            layout,
            object_pages,
        };
        if !self.pools.allows(&spec) {
            return Err(EINVAL);
        }
        let id = self.pools.reserve(self.first_pool(), spec).ok_or(EBUSY)?;
        if let Err(error) = self.create_pool(id, &spec, Gate::Open) {
            self.pools.release(id);
            return Err(error);
        }
        Ok(Pool {
            device: self.clone(),
            id,
        })
    }

    /// Makes the pool of disk `area`, for the one who introduces the driver.
    pub(crate) fn make_disk_pool(&self, area: u32, pages: u32) -> Result {
        let spec = Spec {
            kind: wire::pool_kind::PERSISTENT,
            layout: wire::pool_layout::DENSE,
            object_pages: pages,
        };
        let id = request::pool_of(area);
        if self.pools.reserve(id, spec) != Some(id) {
            return Err(EBUSY);
        }
        self.create_pool(id, &spec, Gate::Opening)
    }

    /// Makes all pools anew on a host that has forgotten them.
    pub(crate) fn remake_pools(&self) -> Result {
        self.pools.losses.add(1, Relaxed);
        let mut from = 0;
        while let Some((id, spec)) = self.pools.next(from) {
            self.create_pool(id, &spec, Gate::Opening)?;
            from = id.saturating_add(1);
        }
        Ok(())
    }

    /// Removes what an earlier binding of this driver may have left, before there are pools.
    pub(crate) fn sweep_pools(&self) {
        for id in (request::POOL_FIRST..).take(self.pools.most) {
            let _ = self
                .control
                .command(&destroy(id), true)
                .inspect_err(|error| pr_warn!("cannot remove an old pool: {:?}\n", error));
        }
    }

    /// Gives all pools back, if the host still listens.
    pub(crate) fn destroy_pools(&self) {
        let mut from = 0;
        while let Some((id, _)) = self.pools.next(from) {
            if self.control.command(&destroy(id), false).is_err() {
                return;
            }
            from = id.saturating_add(1);
        }
    }

    /// Times that the host has forgotten this guest's pools, whose pages are then gone. The pools
    /// themselves exist again.
    pub(crate) fn losses(&self) -> u32 {
        self.pools.losses.load(Relaxed)
    }

    /// Whether somebody else than a disk has a pool.
    pub(crate) fn has_users(&self) -> bool {
        self.pools.next(self.first_pool()).is_some()
    }

    fn first_pool(&self) -> u32 {
        request::pool_of(self.areas.len() as u32)
    }

    fn create_pool(&self, id: u32, spec: &Spec, gate: Gate) -> Result {
        let create = wire::ControlRequest {
            op: wire::control::POOL_CREATE,
            pool: id,
            kind: spec.kind,
            layout: spec.layout,
            object_pages: spec.object_pages,
            ..Default::default()
        };
        self.command("POOL_CREATE", &create, gate).map(|_| ())
    }

    fn destroy_pool(&self, id: u32) -> Result {
        self.command("POOL_DESTROY", &destroy(id), Gate::Open)
            .map(|_| ())
    }

    /// Sends a control request and takes nothing but OK for an answer. While the device is being reset
    /// it waits, unless it is part of the reset.
    pub(crate) fn command(
        &self,
        name: &str,
        request: &wire::ControlRequest,
        gate: Gate,
    ) -> Result<wire::ControlResponse> {
        let opening = gate == Gate::Opening;
        let mut answer = self.control.command(request, opening);
        for _ in 0..RETRIES {
            match &answer {
                Err(error) if *error == EAGAIN && !opening && !self.is_dead() => {}
                _ => break,
            }
            // SAFETY: the caller may sleep.
            unsafe { bindings::msleep(RETRY_MS) };
            answer = self.control.command(request, opening);
        }
        let response = answer.inspect_err(|error| {
            // Programs may ask as often as they like.
            if ffi::may_log() {
                pr_err!("the device does not answer {}: {:?}\n", name, error);
            }
        })?;
        if response.status != wire::status::OK {
            if ffi::may_log() {
                pr_err!(
                    "the device refuses {} with status {}\n",
                    name,
                    response.status
                );
            }
            return Err(if response.status == wire::status::NO_SPACE {
                EBUSY
            } else {
                EIO
            });
        }
        Ok(response)
    }
}

fn destroy(id: u32) -> wire::ControlRequest {
    wire::ControlRequest {
        op: wire::control::POOL_DESTROY,
        pool: id,
        ..Default::default()
    }
}
