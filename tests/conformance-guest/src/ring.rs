// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The driver's side of a split virtqueue, polled.
//!
//! Well-behaved requests go through [`Chain`], [`Ring::offer`] and [`Ring::wait`], which keep the
//! rules, those of kicks included: a device that forgets to ask for a kick is found out by a request
//! that is never answered. Hostile checks write descriptors and indices as they please.

use crate::intrinsics::barrier;
use crate::memory::Region;
use crate::time::Deadline;
use crate::transport::{QueuePlace, Transport};
use crate::why::{Result, fail};

/// Descriptors of each ring of this driver.
pub(crate) const RING_SIZE: u16 = 256;
/// Pages that a ring takes, two of them for its indirect table: the longest request, and some more.
pub(crate) const RING_PAGES: usize = 5;

/// The chain goes on.
pub(crate) const NEXT: u16 = 1;
/// The device may write.
pub(crate) const WRITE: u16 = 2;
/// The descriptor is a table.
pub(crate) const INDIRECT: u16 = 4;

const AVAILABLE_NO_INTERRUPT: u16 = 1;
const USED_NO_NOTIFY: u16 = 1;

/// A descriptor as it stands in a table.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Descriptor {
    /// Guest physical address.
    pub(crate) address: u64,
    /// Bytes.
    pub(crate) length: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub(crate) flags: u16,
    /// The descriptor that follows.
    pub(crate) next: u16,
}

impl Descriptor {
    /// Bytes of a descriptor.
    pub(crate) const BYTES: usize = 16;

    /// For the device to read.
    pub(crate) fn readable(region: Region) -> Self {
        Self {
            address: region.address(),
            length: region.length(),
            ..Self::default()
        }
    }

    /// For the device to write.
    pub(crate) fn writable(region: Region) -> Self {
        Self {
            flags: WRITE,
            ..Self::readable(region)
        }
    }

    /// Followed by `next`.
    pub(crate) const fn then(self, next: u16) -> Self {
        Self {
            flags: self.flags | NEXT,
            next,
            ..self
        }
    }

    /// Writes it into a table.
    pub(crate) fn write(self, table: Region, index: u16) {
        let place = table.part(usize::from(index) * Self::BYTES, Self::BYTES);
        place.write(0, self.address);
        place.write(8, self.length);
        place.write(12, self.flags);
        place.write(14, self.next);
    }
}

/// How a driver uses its rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Style {
    /// VIRTIO_F_EVENT_IDX was negotiated.
    pub(crate) event_idx: bool,
    /// Requests go through indirect tables.
    pub(crate) indirect: bool,
}

/// A used element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    /// The chain's first descriptor.
    pub(crate) head: u32,
    /// Bytes that the device says it wrote.
    pub(crate) bytes: u32,
}

/// A virtqueue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    /// Its number.
    pub(crate) queue: u16,
    /// Its descriptors.
    pub(crate) size: u16,
    /// Descriptor table.
    pub(crate) descriptors: Region,
    /// Available ring.
    pub(crate) available: Region,
    /// Used ring.
    pub(crate) used: Region,
    /// A table for one indirect request.
    pub(crate) table: Region,
    style: Style,
    doorbell: usize,
    next_available: u16,
    next_used: u16,
}

impl Ring {
    /// A ring in `memory`, [`RING_PAGES`] pages.
    pub(crate) fn new(queue: u16, memory: Region) -> Self {
        Self {
            queue,
            size: RING_SIZE,
            descriptors: memory.page(0),
            available: memory.page(1),
            used: memory.page(2),
            table: memory.pages(3, 2),
            style: Style {
                event_idx: false,
                indirect: false,
            },
            doorbell: 0,
            next_available: 0,
            next_used: 0,
        }
    }

    /// Where its parts lie.
    pub(crate) fn place(&self) -> QueuePlace {
        QueuePlace {
            descriptors: self.descriptors.address(),
            available: self.available.address(),
            used: self.used.address(),
        }
    }

    /// Empties it, for a device that was reset.
    pub(crate) fn clear(&mut self, style: Style, size: u16) {
        self.style = style;
        self.size = size;
        self.next_available = 0;
        self.next_used = 0;
        let size = usize::from(size);
        self.available
            .part(0, (size * 2 + 6).next_multiple_of(8))
            .fill(0);
        self.used
            .part(0, (size * 8 + 6).next_multiple_of(8))
            .fill(0);
        if !style.event_idx {
            // Nobody waits for an interrupt: the driver polls.
            self.available.write(0, AVAILABLE_NO_INTERRUPT);
        }
    }

    /// Places and enables the queue; the device's status is the caller's affair.
    pub(crate) fn set_up(&mut self, transport: Transport) {
        transport.place_queue(self.queue, self.size, self.place());
        self.doorbell = transport.doorbell(self.queue);
        transport.enable_queue(self.queue);
    }

    /// Puts a chain's head into the available ring, unseen by the device until [`Ring::publish`].
    pub(crate) fn enter(&mut self, head: u16) {
        let place = usize::from(self.next_available % self.size);
        self.available.write(4 + place * 2, head);
        self.next_available = self.next_available.wrapping_add(1);
    }

    /// Makes all entered chains available, and kicks if the device wants that.
    pub(crate) fn publish(&mut self, transport: Transport) {
        let old = self.available.read::<u16>(2);
        let new = self.next_available;
        barrier();
        self.available.write(2, new);
        barrier();
        let wanted = if self.style.event_idx {
            let event = self.used.read::<u16>(4 + usize::from(self.size) * 8);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.used.read::<u16>(0) & USED_NO_NOTIFY == 0
        };
        if wanted {
            self.kick(transport);
        }
    }

    /// Enters and publishes one chain.
    pub(crate) fn offer(&mut self, transport: Transport, head: u16) {
        self.enter(head);
        self.publish(transport);
    }

    /// Kicks, wanted or not.
    pub(crate) fn kick(&self, transport: Transport) {
        transport.kick(self.doorbell, self.queue);
    }

    /// Sets the available index to anything.
    pub(crate) fn jump(&mut self, index: u16) {
        barrier();
        self.available.write(2, index);
        barrier();
    }

    /// The index that the next available chain gets.
    pub(crate) const fn next_available(&self) -> u16 {
        self.next_available
    }

    /// Moves on as if this many chains, whose entries stand in the ring, had been entered.
    pub(crate) fn enter_again(&mut self, chains: u16) {
        self.next_available = self.next_available.wrapping_add(chains);
    }

    /// Takes everything as read that the device has used. Returns how much that was.
    pub(crate) fn skip_used(&mut self) -> u16 {
        let index = self.used.read::<u16>(2);
        let skipped = index.wrapping_sub(self.next_used);
        self.next_used = index;
        skipped
    }

    /// The next used element, if there is one.
    pub(crate) fn poll(&mut self) -> Option<Used> {
        if self.used.read::<u16>(2) == self.next_used {
            return None;
        }
        barrier();
        let place = 4 + usize::from(self.next_used % self.size) * 8;
        self.next_used = self.next_used.wrapping_add(1);
        Some(Used {
            head: self.used.read(place),
            bytes: self.used.read(place + 4),
        })
    }

    /// The next used element, or none until the deadline.
    pub(crate) fn poll_until(&mut self, deadline: Deadline) -> Option<Used> {
        loop {
            if let Some(used) = self.poll() {
                return Some(used);
            }
            if deadline.is_over() {
                return None;
            }
            core::hint::spin_loop();
        }
    }

    /// The next used element, which must come.
    pub(crate) fn wait(&mut self) -> Result<Used> {
        match self.poll_until(Deadline::new()) {
            Some(used) => Ok(used),
            None => fail!(
                "no answer on queue {}: {} made available, {} used",
                self.queue,
                self.next_available,
                self.next_used
            ),
        }
    }
}

/// A chain of descriptors in the making, in the ring's own table or in its indirect one.
#[derive(Debug)]
pub(crate) struct Chain {
    table: Region,
    /// The descriptor that offers the table, if it is an indirect one.
    outer: Option<(Region, u16)>,
    first: u16,
    next: u16,
    limit: u16,
    last: Option<Descriptor>,
}

impl Chain {
    /// Begins a chain at descriptor `first` of the ring, or of its indirect table.
    pub(crate) fn begin(ring: &Ring, first: u16) -> Self {
        if ring.style.indirect {
            let skipped = usize::from(first) * Descriptor::BYTES;
            let table = ring.table.part(skipped, ring.table.bytes() - skipped);
            Self::in_table(ring, first, table)
        } else {
            Self {
                table: ring.descriptors,
                outer: None,
                first,
                next: first,
                limit: ring.size,
                last: None,
            }
        }
    }

    /// Begins an indirect chain in `table`, offered by descriptor `head`.
    pub(crate) fn in_table(ring: &Ring, head: u16, table: Region) -> Self {
        Self {
            table,
            outer: Some((ring.descriptors, head)),
            first: 0,
            next: 0,
            limit: u16::try_from(table.bytes() / Descriptor::BYTES).unwrap_or(u16::MAX),
            last: None,
        }
    }

    /// Adds a descriptor.
    pub(crate) fn push(&mut self, descriptor: Descriptor) {
        if let Some(last) = self.last {
            last.then(self.next).write(self.table, self.next - 1);
        }
        assert!(self.next < self.limit, "a chain too long for its table");
        self.last = Some(descriptor);
        self.next += 1;
    }

    /// Adds bytes that the device reads.
    pub(crate) fn readable(&mut self, region: Region) {
        self.push(Descriptor::readable(region));
    }

    /// Adds bytes that the device writes.
    pub(crate) fn writable(&mut self, region: Region) {
        self.push(Descriptor::writable(region));
    }

    /// Ends the chain; returns its head.
    pub(crate) fn end(self) -> u16 {
        if let Some(last) = self.last {
            last.write(self.table, self.next - 1);
        }
        let Some((descriptors, head)) = self.outer else {
            return self.first;
        };
        let table = self
            .table
            .part(0, usize::from(self.next) * Descriptor::BYTES);
        let outer = Descriptor {
            flags: INDIRECT,
            ..Descriptor::readable(table)
        };
        outer.write(descriptors, head);
        head
    }
}
