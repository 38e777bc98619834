// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A ring with its kick and call descriptors.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::{DriverRing, Error, Result, Used, WAIT};

/// How the driver learns of used chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It watches the used ring, and yields the processor now and then.
    Spin,
    /// It sleeps on the call descriptor.
    Sleep,
}

/// Looks at the ring between two looks at the clock.
const SPINS: u32 = 2_000;

/// The descriptor that wakes the driver, and what it sleeps on. Edge-triggered, so that the counter
/// need never be read and a sleep costs one system call.
#[derive(Debug)]
struct Call {
    event: EventFd,
    epoll: Epoll,
}

impl Call {
    fn new() -> Result<Self> {
        let event = EventFd::new(EFD_NONBLOCK).map_err(Error::Event)?;
        let epoll = Epoll::new().map_err(Error::Event)?;
        let interest = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, 0);
        epoll
            .ctl(ControlOperation::Add, event.as_raw_fd(), interest)
            .map_err(Error::Event)?;
        Ok(Self { event, epoll })
    }

    /// Sleeps until the device calls, or for a second.
    fn sleep(&self) -> Result<()> {
        let mut events = [EpollEvent::default()];
        match self.epoll.wait(1000, &mut events) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(()),
            other => other.map(drop).map_err(Error::Event),
        }
    }
}

/// A virtqueue of the driver: ring, kick, and a call descriptor unless the driver only polls.
#[derive(Debug)]
pub struct Queue {
    index: u16,
    ring: DriverRing,
    kick: EventFd,
    call: Option<Call>,
    wait: Wait,
    kicks: u64,
    limit: Duration,
}

impl Queue {
    /// A queue with fresh descriptors. Without `call` the queue can only be polled.
    pub fn new(index: u16, ring: DriverRing, call: bool) -> Result<Self> {
        let kick = EventFd::new(EFD_NONBLOCK).map_err(Error::Event)?;
        let call = if call { Some(Call::new()?) } else { None };
        let wait = if call.is_some() {
            Wait::Sleep
        } else {
            Wait::Spin
        };
        Ok(Self {
            index,
            ring,
            kick,
            call,
            wait,
            kicks: 0,
            limit: WAIT,
        })
    }

    /// Virtqueue index.
    #[must_use]
    pub const fn index(&self) -> u16 {
        self.index
    }

    /// The ring.
    pub const fn ring(&mut self) -> &mut DriverRing {
        &mut self.ring
    }

    /// The descriptor that wakes the device.
    #[must_use]
    pub const fn kick_fd(&self) -> &EventFd {
        &self.kick
    }

    /// The descriptor that wakes the driver, if it has one.
    #[must_use]
    pub const fn call_fd(&self) -> Option<&EventFd> {
        match &self.call {
            Some(call) => Some(&call.event),
            None => None,
        }
    }

    /// Chooses polling or sleeping; a queue without a call descriptor always polls.
    pub fn set_wait(&mut self, wait: Wait) {
        self.wait = if self.call.is_some() {
            wait
        } else {
            Wait::Spin
        };
        self.ring.set_interrupts(self.wait == Wait::Sleep);
    }

    /// How long [`Self::wait_used`] waits before it calls the device hanging.
    pub const fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Kicks sent so far.
    #[must_use]
    pub const fn kicks(&self) -> u64 {
        self.kicks
    }

    /// Makes added chains visible and wakes the device if it asked for that.
    pub fn notify(&mut self) -> Result<()> {
        if self.ring.publish() {
            self.kick()
        } else {
            Ok(())
        }
    }

    /// Wakes the device whether it asked or not.
    pub fn kick(&mut self) -> Result<()> {
        self.kicks += 1;
        self.kick.write(1).map_err(Error::Event)
    }

    /// Waits for a used chain and takes it.
    pub fn wait_used(&mut self) -> Result<Used> {
        loop {
            if let Some(used) = self.ring.pop_used()? {
                return Ok(used);
            }
            match self.wait {
                Wait::Spin => self.spin()?,
                Wait::Sleep => self.sleep()?,
            }
        }
    }

    fn spin(&self) -> Result<()> {
        let mut start = None;
        loop {
            for _ in 0..SPINS {
                if self.ring.has_used() {
                    return Ok(());
                }
                std::hint::spin_loop();
            }
            self.check_limit(*start.get_or_insert_with(Instant::now))?;
            std::thread::yield_now();
        }
    }

    fn sleep(&mut self) -> Result<()> {
        if self.ring.set_interrupts(true) {
            return Ok(());
        }
        let start = Instant::now();
        let call = self
            .call
            .as_ref()
            .expect("only queues with a call descriptor sleep");
        loop {
            call.sleep()?;
            if self.ring.has_used() {
                return Ok(());
            }
            self.check_limit(start)?;
        }
    }

    fn check_limit(&self, start: Instant) -> Result<()> {
        let waited = start.elapsed();
        if waited > self.limit {
            return Err(Error::Hang {
                queue: self.index,
                waited,
            });
        }
        Ok(())
    }
}
