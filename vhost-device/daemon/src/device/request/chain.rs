// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A descriptor chain, gathered into two lists of segments that are reused from request to request.

use std::ops::Deref;

use virtio_queue::DescriptorChain;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};

use super::Malformed;
use crate::limits::CHAIN_DESCRIPTORS_MAX;

/// Bytes of a descriptor.
const DESCRIPTOR_BYTES: u32 = 16;
const _: () = assert!(size_of::<Descriptor>() == DESCRIPTOR_BYTES as usize);

/// One descriptor's piece of guest memory. Nothing about it has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins, in guest physical memory.
    pub addr: GuestAddress,
    /// Its bytes; never 0.
    pub len: u32,
}

/// The segments of one chain, in order.
#[derive(Debug)]
pub struct Chain {
    readable: Vec<Segment>,
    writable: Vec<Segment>,
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            readable: Vec::with_capacity(CHAIN_DESCRIPTORS_MAX),
            writable: Vec::with_capacity(CHAIN_DESCRIPTORS_MAX),
        }
    }
}

impl Chain {
    /// Device-readable segments.
    #[must_use]
    pub fn readable(&self) -> &[Segment] {
        &self.readable
    }

    /// Device-writable segments.
    #[must_use]
    pub fn writable(&self) -> &[Segment] {
        &self.writable
    }

    /// Replaces what was gathered before by the descriptors of `chain`. Descriptors of no bytes are
    /// skipped.
    ///
    /// # Errors
    /// [`Malformed::Chain`] if the chain loops, leaves its table or is unreadable,
    /// [`Malformed::Long`] if it has too many descriptors, [`Malformed::Order`] if a readable one
    /// follows a writable one. Nothing can be answered then.
    pub fn gather<M>(&mut self, chain: DescriptorChain<M>) -> Result<(), Malformed>
    where
        M: Deref<Target = GuestMemoryMmap>,
    {
        self.readable.clear();
        self.writable.clear();
        // The iterator ends silently where it cannot go on; a chain has really ended only if its
        // last descriptor says so.
        let mut complete = false;
        for (seen, descriptor) in chain.enumerate() {
            if seen == CHAIN_DESCRIPTORS_MAX {
                return Err(Malformed::Long);
            }
            complete = !descriptor.has_next();
            self.push(&descriptor)?;
        }
        if complete {
            Ok(())
        } else {
            Err(Malformed::Chain)
        }
    }

    /// As [`Chain::gather`], of the chain with this head in a table of so many descriptors: for one
    /// that is not in the available ring any more.
    ///
    /// # Errors
    /// As for [`Chain::gather`].
    pub fn gather_at(
        &mut self,
        mem: &GuestMemoryMmap,
        (mut table, size): (GuestAddress, u16),
        head: u16,
    ) -> Result<(), Malformed> {
        self.readable.clear();
        self.writable.clear();
        let (mut size, mut index) = (u32::from(size), u32::from(head));
        let mut indirect = false;
        let mut seen = 0;
        loop {
            if index >= size {
                return Err(Malformed::Chain);
            }
            let bytes = u64::from(index) * size_of::<Descriptor>() as u64;
            let at = table.checked_add(bytes).ok_or(Malformed::Chain)?;
            let descriptor: Descriptor = mem.read_obj(at).map_err(|_| Malformed::Chain)?;
            if descriptor.refers_to_indirect_table() {
                if indirect || descriptor.has_next() {
                    return Err(Malformed::Chain);
                }
                indirect = true;
                (table, index) = (descriptor.addr(), 0);
                size = descriptor.len() / DESCRIPTOR_BYTES;
                continue;
            }
            if seen == CHAIN_DESCRIPTORS_MAX {
                return Err(Malformed::Long);
            }
            seen += 1;
            self.push(&descriptor)?;
            if !descriptor.has_next() {
                return Ok(());
            }
            index = u32::from(descriptor.next());
        }
    }

    fn push(&mut self, descriptor: &Descriptor) -> Result<(), Malformed> {
        let writable = descriptor.is_write_only();
        if !writable && !self.writable.is_empty() {
            return Err(Malformed::Order);
        }
        if descriptor.len() == 0 {
            return Ok(());
        }
        let segment = Segment {
            addr: descriptor.addr(),
            len: descriptor.len(),
        };
        if writable {
            self.writable.push(segment);
        } else {
            self.readable.push(segment);
        }
        Ok(())
    }
}

/// Sum of the segments' bytes; cannot overflow, since a chain has few segments of 32-bit lengths.
#[must_use]
pub fn total_bytes(segments: &[Segment]) -> u64 {
    segments.iter().map(|s| u64::from(s.len)).sum()
}

/// A place in a list of segments, moved on by what is read or written.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    segments: &'a [Segment],
    /// Bytes of the first segment that are behind.
    offset: u32,
}

impl<'a> Cursor<'a> {
    /// The beginning of `segments`.
    #[must_use]
    pub const fn new(segments: &'a [Segment]) -> Self {
        Self {
            segments,
            offset: 0,
        }
    }

    /// Fills `into` from the bytes ahead.
    ///
    /// # Errors
    /// [`Malformed::Length`] if there are not enough, [`Malformed::Address`] if they are not in
    /// guest memory.
    pub fn read(&mut self, mem: &GuestMemoryMmap, into: &mut [u8]) -> Result<(), Malformed> {
        self.each(into.len(), |addr, range| {
            mem.read_slice(&mut into[range], addr)
                .map_err(|_| Malformed::Address)
        })
    }

    /// Writes `from` over the bytes ahead.
    ///
    /// # Errors
    /// As [`Cursor::read`]; some bytes may have been written then.
    pub fn write(&mut self, mem: &GuestMemoryMmap, from: &[u8]) -> Result<(), Malformed> {
        self.each(from.len(), |addr, range| {
            mem.write_slice(&from[range], addr)
                .map_err(|_| Malformed::Address)
        })
    }

    /// Moves on without touching the bytes.
    ///
    /// # Errors
    /// [`Malformed::Length`] if there are not enough.
    pub fn skip(&mut self, bytes: usize) -> Result<(), Malformed> {
        self.each(bytes, |_, _| Ok(()))
    }

    /// The segments ahead, or nothing if the cursor stands inside one.
    #[must_use]
    pub const fn boundary(&self) -> Option<&'a [Segment]> {
        if self.offset == 0 {
            Some(self.segments)
        } else {
            None
        }
    }

    /// Cuts `bytes` into pieces that lie in one segment each.
    fn each(
        &mut self,
        bytes: usize,
        mut piece: impl FnMut(GuestAddress, std::ops::Range<usize>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        let mut done = 0;
        while done < bytes {
            let segment = self.segments.first().ok_or(Malformed::Length)?;
            let left = segment.len - self.offset;
            // Saturates where `usize` is wider; the minimum with `left` is what counts.
            let wanted = u32::try_from(bytes - done).unwrap_or(u32::MAX).min(left);
            let addr = segment
                .addr
                .checked_add(u64::from(self.offset))
                .ok_or(Malformed::Address)?;
            let end = done + wanted as usize;
            piece(addr, done..end)?;
            done = end;
            self.offset += wanted;
            if self.offset == segment.len {
                self.segments = &self.segments[1..];
                self.offset = 0;
            }
        }
        Ok(())
    }
}
