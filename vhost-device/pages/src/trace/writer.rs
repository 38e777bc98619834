// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Writes a trace, a block at a time.

use std::io::Write;

use super::form::{BLOCK, Before, END, MAGIC, PART_MAX, RECORD_MAX, sum, write_varint};
use super::{Event, Header, NAME_MAX, POOLS_MAX, TraceError, VERSION};
use crate::handle::PoolId;
use crate::pool::{Layout, PoolKind, PoolSpec};

/// Writes a trace to `W`, which gets whole blocks and so needs no buffer of its own. It keeps one
/// block in memory, and no more.
#[derive(Debug)]
pub struct TraceWriter<W: Write> {
    to: W,
    block: Vec<u8>,
    before: Before,
    events: u64,
    lost: u64,
    bytes: u64,
}

impl<W: Write> TraceWriter<W> {
    /// Begins a trace.
    ///
    /// # Errors
    /// [`TraceError::Header`] if the header is too large, [`TraceError::Write`].
    pub fn new(mut to: W, header: &Header) -> Result<Self, TraceError> {
        if header.guest.len() > NAME_MAX || header.pools.len() > POOLS_MAX {
            return Err(TraceError::Header);
        }
        let header = spell(header);
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(part(&header));
        to.write_all(&bytes).map_err(TraceError::Write)?;
        Ok(Self {
            to,
            block: Vec::with_capacity(PART_MAX),
            before: Before::default(),
            events: 0,
            lost: 0,
            bytes: bytes.len() as u64,
        })
    }

    /// Adds an event.
    ///
    /// # Errors
    /// [`TraceError::Write`] if a block was full and could not be written.
    pub fn event(&mut self, event: &Event) -> Result<(), TraceError> {
        self.make_room()?;
        self.before.write(event, &mut self.block);
        self.events += 1;
        Ok(())
    }

    /// Notes that so many events are missing here.
    ///
    /// # Errors
    /// As [`event`](Self::event).
    pub fn lost(&mut self, count: u64) -> Result<(), TraceError> {
        if count > 0 {
            self.make_room()?;
            Before::write_lost(count, &mut self.block);
            self.lost += count;
        }
        Ok(())
    }

    fn make_room(&mut self) -> Result<(), TraceError> {
        if self.block.len() + RECORD_MAX > PART_MAX {
            self.flush()?;
        }
        Ok(())
    }

    /// Hands on what was added: a reader finds it even if there is never an end.
    ///
    /// # Errors
    /// [`TraceError::Write`].
    pub fn flush(&mut self) -> Result<(), TraceError> {
        if !self.block.is_empty() {
            self.write_part(BLOCK, &part(&self.block))?;
            self.block.clear();
        }
        self.to.flush().map_err(TraceError::Write)
    }

    fn write_part(&mut self, what: u8, part: &[u8]) -> Result<(), TraceError> {
        let bytes = [&[what], part].concat();
        self.to.write_all(&bytes).map_err(TraceError::Write)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Ends the trace. One that is not finished reads as cut short.
    ///
    /// # Errors
    /// [`TraceError::Write`].
    pub fn finish(mut self) -> Result<W, TraceError> {
        self.flush()?;
        let mut totals = Vec::new();
        write_varint(&mut totals, self.events);
        write_varint(&mut totals, self.lost);
        self.write_part(END, &part(&totals))?;
        self.to.flush().map_err(TraceError::Write)?;
        Ok(self.to)
    }

    /// Events added.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Events that were noted to be missing.
    #[must_use]
    pub fn events_lost(&self) -> u64 {
        self.lost
    }

    /// Bytes of the trace so far, the open block among them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes + self.block.len() as u64
    }
}

/// Length, sum and bytes of a part.
fn part(bytes: &[u8]) -> Vec<u8> {
    // No part is longer than `PART_MAX`: see the compile-time assertions below.
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&len.to_le_bytes(), &sum(bytes).to_le_bytes(), bytes].concat()
}

fn spell(header: &Header) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_varint(&mut bytes, header.guest.len() as u64);
    bytes.extend(header.guest.as_bytes());
    write_varint(&mut bytes, header.pools.len() as u64);
    for (PoolId(number), PoolSpec { kind, layout }) in &header.pools {
        write_varint(&mut bytes, u64::from(*number));
        bytes.push(match kind {
            PoolKind::Persistent => 0,
            PoolKind::Ephemeral => 1,
        });
        let pages = match layout {
            Layout::Dense { pages } => *pages,
            Layout::Sparse => 0,
        };
        write_varint(&mut bytes, u64::from(pages));
    }
    bytes
}

// A pool takes at most two varints of five bytes and a byte.
const _: () = assert!(2 + NAME_MAX + 3 + POOLS_MAX * 11 <= PART_MAX);
const _: () = assert!(RECORD_MAX < PART_MAX && NAME_MAX < 1 << 14 && POOLS_MAX < 1 << 21);
