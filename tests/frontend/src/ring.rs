// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The driver's half of a split virtqueue.
//!
//! Well-formed use is [`DriverRing::add`], [`DriverRing::publish`], [`DriverRing::pop_used`]. Tests
//! that play a broken driver write descriptors and indices directly with the `raw_` methods.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::memory::Area;
use crate::{Error, GuestMemory, Result};

/// Bits of a descriptor's flags.
pub mod flags {
    /// Another descriptor follows.
    pub const NEXT: u16 = 1;
    /// The device writes.
    pub const WRITE: u16 = 2;
    /// The descriptor names a table of descriptors.
    pub const INDIRECT: u16 = 4;
}

/// Bytes of a descriptor.
const DESCRIPTOR: usize = 16;
/// Flag of the available ring: no interrupts, please (without EVENT_IDX).
const NO_INTERRUPT: u16 = 1;
/// Flag of the used ring: no kicks, please (without EVENT_IDX).
const NO_NOTIFY: u16 = 1;

/// One buffer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest physical address.
    pub address: u64,
    /// Bytes.
    pub length: u32,
    /// The device writes it, rather than reads.
    pub writable: bool,
}

impl Segment {
    /// A buffer that the device reads.
    #[must_use]
    pub const fn readable(address: u64, length: u32) -> Self {
        Self {
            address,
            length,
            writable: false,
        }
    }

    /// A buffer that the device writes.
    #[must_use]
    pub const fn writable(address: u64, length: u32) -> Self {
        Self {
            address,
            length,
            writable: true,
        }
    }
}

/// A descriptor as it stands in memory; anything goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawDescriptor {
    /// Guest physical address.
    pub address: u64,
    /// Bytes.
    pub length: u32,
    /// See [`flags`].
    pub flags: u16,
    /// Index of the next descriptor.
    pub next: u16,
}

impl Area {
    /// Writes descriptor `index` of a table.
    fn store_descriptor(&self, index: usize, descriptor: RawDescriptor) {
        let tail = u64::from(descriptor.length)
            | u64::from(descriptor.flags) << 32
            | u64::from(descriptor.next) << 48;
        self.store_u64(index * DESCRIPTOR, descriptor.address);
        self.store_u64(index * DESCRIPTOR + 8, tail);
    }
}

impl RawDescriptor {
    /// The 16 bytes of the descriptor in memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; DESCRIPTOR] {
        let mut bytes = [0; DESCRIPTOR];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// Guest addresses of a ring's three parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLayout {
    /// Descriptors, a power of two.
    pub size: u16,
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring.
    pub available: u64,
    /// Used ring.
    pub used: u64,
}

/// An entry of the used ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Head of the chain.
    pub head: u16,
    /// Bytes that the device says it wrote.
    pub length: u32,
}

/// An indirect table in guest memory.
#[derive(Debug)]
struct Table {
    address: u64,
    /// Descriptors that it has room for.
    room: usize,
    area: Area,
}

/// The driver's half of a split virtqueue.
#[derive(Debug)]
pub struct DriverRing {
    memory: Arc<GuestMemory>,
    layout: RingLayout,
    descriptors: Area,
    available: Area,
    used: Area,
    event_idx: bool,
    /// Free descriptors, a stack.
    free: Vec<u16>,
    /// By head: the descriptors of the chain in flight.
    chains: Vec<Vec<u16>>,
    /// By head: the indirect table made for it.
    tables: Vec<Option<Table>>,
    next_available: u16,
    published: u16,
    next_used: u16,
    /// The device's used index when it was last read.
    seen_used: Cell<u16>,
}

impl DriverRing {
    /// Lays a ring of `size` descriptors into guest memory.
    pub fn new(memory: &Arc<GuestMemory>, size: u16, event_idx: bool) -> Result<Self> {
        let count = usize::from(size);
        let layout = RingLayout {
            size,
            descriptors: memory.allocate(count * DESCRIPTOR, 4096)?,
            available: memory.allocate(6 + 2 * count, 64)?,
            used: memory.allocate(6 + 8 * count, 64)?,
        };
        Ok(Self {
            memory: Arc::clone(memory),
            layout,
            descriptors: memory.area(layout.descriptors, count * DESCRIPTOR)?,
            available: memory.area(layout.available, 6 + 2 * count)?,
            used: memory.area(layout.used, 6 + 8 * count)?,
            event_idx,
            free: (0..size).rev().collect(),
            chains: vec![Vec::new(); count],
            tables: (0..count).map(|_| None).collect(),
            next_available: 0,
            published: 0,
            next_used: 0,
            seen_used: Cell::new(0),
        })
    }

    /// Where the ring lies.
    #[must_use]
    pub const fn layout(&self) -> RingLayout {
        self.layout
    }

    /// Index of the next entry that the driver will make available.
    #[must_use]
    pub const fn next_available(&self) -> u16 {
        self.next_available
    }

    /// Index of the next used entry that the driver will take.
    #[must_use]
    pub const fn next_used(&self) -> u16 {
        self.next_used
    }

    /// Adds a chain and returns its head. The device sees it after [`Self::publish`]. With
    /// `indirect` the chain takes one descriptor of the ring.
    pub fn add(&mut self, segments: &[Segment], indirect: bool) -> Result<u16> {
        let needed = if indirect { 1 } else { segments.len() };
        let free = self.free.len();
        if needed > free || needed == 0 {
            return Err(Error::RingFull { needed, free });
        }
        let head = if indirect {
            let head = self.free.pop().expect("counted");
            self.chains[usize::from(head)].push(head);
            let table = self.indirect_table(head, segments.len())?;
            for (at, segment) in segments.iter().enumerate() {
                let next = u16::try_from(at + 1).expect("a table is no longer than the ring");
                let last = at + 1 == segments.len();
                table
                    .area
                    .store_descriptor(at, raw(segment, if last { None } else { Some(next) }));
            }
            let table = table.address;
            let length = u32::try_from(segments.len() * DESCRIPTOR).expect("a short table");
            let descriptor = RawDescriptor {
                address: table,
                length,
                flags: flags::INDIRECT,
                next: 0,
            };
            self.raw_descriptor(head, descriptor);
            head
        } else {
            let first = free - needed;
            let head = self.free[free - 1];
            let mut chain = std::mem::take(&mut self.chains[usize::from(head)]);
            chain.extend(self.free.drain(first..).rev());
            for (at, segment) in segments.iter().enumerate() {
                self.raw_descriptor(chain[at], raw(segment, chain.get(at + 1).copied()));
            }
            self.chains[usize::from(head)] = chain;
            head
        };
        self.raw_available(head);
        Ok(head)
    }

    /// The indirect table of `head`, made on first use and enlarged when it is too short.
    fn indirect_table(&mut self, head: u16, descriptors: usize) -> Result<&Table> {
        let table = &mut self.tables[usize::from(head)];
        if table.as_ref().is_none_or(|table| table.room < descriptors) {
            let room = descriptors.next_power_of_two();
            let address = self.memory.allocate(room * DESCRIPTOR, 16)?;
            let area = self.memory.area(address, room * DESCRIPTOR)?;
            *table = Some(Table {
                address,
                room,
                area,
            });
        }
        Ok(table.as_ref().expect("just made"))
    }

    /// Makes the added chains visible; says whether the device asked to be kicked.
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.next_available);
        if old == new {
            return false;
        }
        self.available.store_u16(2, new, Ordering::Release);
        self.published = new;
        // The index must be out before the device's wish is read, else both sides may sleep.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = self
                .used
                .load_u16(4 + 8 * usize::from(self.layout.size), Ordering::Relaxed);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.used.load_u16(0, Ordering::Relaxed) & NO_NOTIFY == 0
        }
    }

    /// Whether the device has used a chain that was not taken yet.
    #[must_use]
    pub fn has_used(&self) -> bool {
        // The index is read again only once all that it showed is taken: each look takes the
        // cache line away from the device.
        if self.seen_used.get() == self.next_used {
            self.seen_used.set(self.used.load_u16(2, Ordering::Acquire));
        }
        self.seen_used.get() != self.next_used
    }

    /// Takes the next used chain and frees its descriptors.
    pub fn pop_used(&mut self) -> Result<Option<Used>> {
        if !self.has_used() {
            return Ok(None);
        }
        let slot = usize::from(self.next_used % self.layout.size);
        // Elements begin at 4, so they are aligned to their two words only.
        let (id, length) = (
            self.used.load_u32(4 + 8 * slot),
            self.used.load_u32(8 + 8 * slot),
        );
        self.next_used = self.next_used.wrapping_add(1);
        let head = u16::try_from(id)
            .ok()
            .filter(|head| {
                self.chains
                    .get(usize::from(*head))
                    .is_some_and(|c| !c.is_empty())
            })
            .ok_or(Error::NotInFlight { id })?;
        let mut chain = std::mem::take(&mut self.chains[usize::from(head)]);
        self.free.extend(chain.drain(..).rev());
        self.chains[usize::from(head)] = chain;
        Ok(Some(Used { head, length }))
    }

    /// Asks for an interrupt at the next used chain, or for none. Returns whether chains are
    /// waiting already, in which case no interrupt may come for them.
    pub fn set_interrupts(&mut self, wanted: bool) -> bool {
        if self.event_idx {
            let event = if wanted {
                self.next_used
            } else {
                self.next_used.wrapping_sub(1)
            };
            let at = 4 + 2 * usize::from(self.layout.size);
            self.available.store_u16(at, event, Ordering::Relaxed);
        } else {
            let flags = if wanted { 0 } else { NO_INTERRUPT };
            self.available.store_u16(0, flags, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        self.has_used()
    }

    /// Chains in flight.
    #[must_use]
    pub fn in_flight(&self) -> u16 {
        self.next_available.wrapping_sub(self.next_used)
    }

    /// Descriptors that are free.
    #[must_use]
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Writes a descriptor as it is, without any bookkeeping.
    pub fn raw_descriptor(&mut self, index: u16, descriptor: RawDescriptor) {
        self.descriptors
            .store_descriptor(usize::from(index), descriptor);
    }

    /// Makes `head` available as it is; the device sees it after [`Self::publish`].
    pub fn raw_available(&mut self, head: u16) {
        let slot = usize::from(self.next_available % self.layout.size);
        self.available
            .store_u16(4 + 2 * slot, head, Ordering::Relaxed);
        self.next_available = self.next_available.wrapping_add(1);
    }

    /// Takes `count` descriptors out of use and marks them as one chain, which the test writes
    /// itself; the first is the head.
    pub fn raw_reserve(&mut self, count: usize) -> Result<Vec<u16>> {
        let free = self.free.len();
        if count > free || count == 0 {
            return Err(Error::RingFull {
                needed: count,
                free,
            });
        }
        let chain: Vec<u16> = self.free.drain(free - count..).rev().collect();
        self.chains[usize::from(chain[0])].clone_from(&chain);
        Ok(chain)
    }

    /// Sets the available index to anything.
    pub fn raw_available_index(&mut self, index: u16) {
        self.available.store_u16(2, index, Ordering::SeqCst);
    }

    /// Sets the used index, which belongs to the device, to anything.
    pub fn raw_used_index(&mut self, index: u16) {
        self.used.store_u16(2, index, Ordering::SeqCst);
    }
}

fn raw(segment: &Segment, next: Option<u16>) -> RawDescriptor {
    let mut bits = 0;
    if segment.writable {
        bits |= flags::WRITE;
    }
    if next.is_some() {
        bits |= flags::NEXT;
    }
    RawDescriptor {
        address: segment.address,
        length: segment.length,
        flags: bits,
        next: next.unwrap_or(0),
    }
}

#[cfg(test)]
mod tests;
