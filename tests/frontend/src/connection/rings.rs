// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The rings of a connection: made, started, stopped, laid out anew, handed to the driver.

use vhost::vhost_user::VhostUserFrontend;
use vhost::{VhostBackend, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Connection, Ring};
use crate::plan::{self, Step};
use crate::{DriverRing, Error, Queue, Result};

impl Connection {
    /// Makes the driver's half of `count` queues, unless they exist from an earlier connection.
    pub(super) fn make_queues(&mut self, count: u16) -> Result<()> {
        if !self.rings.is_empty() {
            return Ok(());
        }
        for index in 0..count {
            self.add_queue(index)?;
        }
        Ok(())
    }

    fn add_queue(&mut self, index: u16) -> Result<()> {
        let ring = DriverRing::new(
            &self.memory,
            self.options.queue_size,
            self.options.event_idx,
        )?;
        let layout = ring.layout();
        let queue = Queue::new(index, ring, self.options.call)?;
        let share = |event: &EventFd| event.try_clone().map_err(Error::Event);
        self.rings.push(Ring {
            layout,
            kick: share(queue.kick_fd())?,
            call: queue.call_fd().map(share).transpose()?,
            error: EventFd::new(EFD_NONBLOCK).map_err(Error::Event)?,
            base: 0,
        });
        self.queues.push(Some(queue));
        Ok(())
    }

    /// Throws all rings away and lays out new ones at index 0, as a guest does after a reset.
    pub fn renew_queues(&mut self) -> Result<()> {
        let count = u16::try_from(self.rings.len()).expect("at most 256");
        self.rings.clear();
        self.queues.clear();
        self.make_queues(count)
    }

    /// Starts rings that were stopped or made anew: features, memory, rings, enabling.
    pub fn start_all(&mut self) -> Result<()> {
        let mut plan = plan::start(self.options, self.queue_count());
        // The owner and the configuration belong to the connection, not to a start.
        plan.retain(|step| !matches!(step, Step::SetOwner | Step::GetConfig));
        plan.into_iter().try_for_each(|step| self.step(step))
    }

    pub(super) fn ring_addresses(&self, queue: u16) -> Result<VringConfigData> {
        let layout = self.rings[usize::from(queue)].layout;
        Ok(VringConfigData {
            queue_max_size: layout.size,
            queue_size: layout.size,
            flags: 0,
            desc_table_addr: self.memory.host_address(layout.descriptors)?,
            used_ring_addr: self.memory.host_address(layout.used)?,
            avail_ring_addr: self.memory.host_address(layout.available)?,
            log_addr: None,
        })
    }

    /// Sends SET_VRING_ADDR with any addresses, given as the VMM's own.
    pub fn raw_ring_addresses(
        &mut self,
        queue: u16,
        descriptors: u64,
        available: u64,
        used: u64,
    ) -> Result<()> {
        let mut data = self.ring_addresses(queue)?;
        data.desc_table_addr = descriptors;
        data.avail_ring_addr = available;
        data.used_ring_addr = used;
        self.send("SET_VRING_ADDR", |frontend| {
            frontend.set_vring_addr(queue.into(), &data)
        })
    }

    /// Enables or disables a ring.
    pub fn enable(&mut self, queue: u16, enable: bool) -> Result<()> {
        self.send(Step::VringEnable(queue), |frontend| {
            frontend.set_vring_enable(queue.into(), enable)
        })
    }

    /// Stops a ring (GET_VRING_BASE) and remembers where it stands. The device must have finished
    /// what it took from the ring.
    pub fn stop_ring(&mut self, queue: u16) -> Result<u16> {
        let base = self.send("GET_VRING_BASE", |frontend| {
            frontend.get_vring_base(queue.into())
        })?;
        let base = u16::try_from(base & 0xffff).expect("masked");
        self.rings[usize::from(queue)].base = base;
        Ok(base)
    }

    /// Starts a stopped ring where it stood, and enables it.
    pub fn start_ring(&mut self, queue: u16) -> Result<()> {
        plan::ring(self.options, queue)
            .into_iter()
            .try_for_each(|step| self.step(step))?;
        self.enable(queue, true)
    }

    /// Number of rings that were set up.
    #[must_use]
    pub fn queue_count(&self) -> u16 {
        u16::try_from(self.rings.len()).expect("at most 256")
    }

    /// Hands the driver's half of a queue out; `None` when it is out already or does not exist.
    pub fn take_queue(&mut self, index: u16) -> Option<Queue> {
        self.queues
            .get_mut(usize::from(index))
            .and_then(Option::take)
    }
}
