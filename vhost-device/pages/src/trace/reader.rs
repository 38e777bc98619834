// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reads a trace. The file is not trusted: nothing in it makes the reader panic or take much memory.

use std::io::{self, Read};

use super::form::{BLOCK, Before, Bytes, END, MAGIC, PART_MAX, sum};
use super::{Header, NAME_MAX, POOLS_MAX, Record, TraceError, VERSION};
use crate::handle::PoolId;
use crate::pool::{Layout, PoolKind, PoolSpec};

/// Reads a trace from `R`; an iterator over its records, which ends after the first error. It keeps
/// one block in memory.
#[derive(Debug)]
pub struct TraceReader<R: Read> {
    from: R,
    header: Header,
    /// Bytes read.
    at: u64,
    /// Where the block begins.
    block_at: u64,
    block: Vec<u8>,
    /// Bytes of the block that were read as records.
    read: usize,
    before: Before,
    events: u64,
    lost: u64,
    ended: bool,
}

impl<R: Read> TraceReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`TraceError::Foreign`] if this is no trace, [`TraceError::Version`] if it is one of another
    /// version; and what [`next`](Iterator::next) may give.
    pub fn new(from: R) -> Result<Self, TraceError> {
        let mut reader = Self {
            from,
            header: Header::default(),
            at: 0,
            block_at: 0,
            block: Vec::new(),
            read: 0,
            before: Before::default(),
            events: 0,
            lost: 0,
            ended: false,
        };
        let magic = reader.exact().map_err(|error| match error {
            TraceError::Truncated { .. } => TraceError::Foreign,
            other => other,
        })?;
        if magic != MAGIC {
            return Err(TraceError::Foreign);
        }
        let found = u16::from_le_bytes(reader.exact()?);
        if found != VERSION {
            return Err(TraceError::Version { found });
        }
        reader.block_at = reader.at;
        reader.part()?;
        let header = header(&mut Bytes(&reader.block));
        reader.header = header.ok_or_else(|| reader.damaged("this is no header"))?;
        reader.block.clear();
        Ok(reader)
    }

    /// Whose trace it is.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Events read.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Events that are missing from what was read.
    #[must_use]
    pub fn events_lost(&self) -> u64 {
        self.lost
    }

    fn damaged(&self, what: &'static str) -> TraceError {
        TraceError::Damaged {
            at: self.block_at,
            what,
        }
    }

    fn exact<const N: usize>(&mut self) -> Result<[u8; N], TraceError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), TraceError> {
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let some = read_some(&mut self.from, rest)?;
            if some == 0 {
                return Err(TraceError::Truncated {
                    at: self.at,
                    events: self.events,
                });
            }
            filled += some;
            self.at += some as u64;
        }
        Ok(())
    }

    /// Reads a part's length, sum and bytes into `block`.
    fn part(&mut self) -> Result<(), TraceError> {
        let len = u32::from_le_bytes(self.exact()?) as usize;
        let expected = u32::from_le_bytes(self.exact()?);
        if len > PART_MAX {
            return Err(self.damaged("it says that it is longer than it can be"));
        }
        let mut block = std::mem::take(&mut self.block);
        block.resize(len, 0);
        let filled = self.fill(&mut block);
        self.block = block;
        self.read = 0;
        filled?;
        if sum(&self.block) != expected {
            return Err(self.damaged("its checksum is not that of its bytes"));
        }
        Ok(())
    }

    fn next_record(&mut self) -> Result<Option<Record>, TraceError> {
        while self.read == self.block.len() {
            self.block_at = self.at;
            let [what] = self.exact()?;
            if what != BLOCK && what != END {
                return Err(self.damaged("it is neither a block nor the end"));
            }
            self.part()?;
            if what == END {
                self.check_end()?;
                return Ok(None);
            }
        }
        let mut bytes = Bytes(self.block.get(self.read..).unwrap_or_default());
        let record = self.before.read(&mut bytes);
        self.read = self.block.len() - bytes.0.len();
        match record {
            Some(Record::Event(_)) => self.events += 1,
            Some(Record::Lost(count)) => self.lost = self.lost.saturating_add(count),
            None => return Err(self.damaged("it has something that is no record")),
        }
        Ok(record)
    }

    fn check_end(&mut self) -> Result<(), TraceError> {
        let mut bytes = Bytes(&self.block);
        let totals = (bytes.varint(), bytes.varint());
        if totals != (Some(self.events), Some(self.lost)) || !bytes.0.is_empty() {
            return Err(self.damaged("it counts other events than there are"));
        }
        self.block_at = self.at;
        match read_some(&mut self.from, &mut [0])? {
            0 => Ok(()),
            _ => Err(self.damaged("something follows the end")),
        }
    }
}

impl<R: Read> Iterator for TraceReader<R> {
    type Item = Result<Record, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_record().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

/// Reads at least a byte, unless the source has ended.
fn read_some(from: &mut impl Read, into: &mut [u8]) -> Result<usize, TraceError> {
    loop {
        match from.read(into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(TraceError::Read),
        }
    }
}

fn header(bytes: &mut Bytes<'_>) -> Option<Header> {
    let len = usize::try_from(bytes.varint()?).ok()?;
    if len > NAME_MAX {
        return None;
    }
    let guest = bytes.text(len)?;
    let count = usize::try_from(bytes.varint()?).ok()?;
    if count > POOLS_MAX {
        return None;
    }
    let mut pools = Vec::with_capacity(count);
    for _ in 0..count {
        let number = PoolId(bytes.varint_u32()?);
        let kind = match bytes.byte()? {
            0 => PoolKind::Persistent,
            1 => PoolKind::Ephemeral,
            _ => return None,
        };
        let layout = match bytes.varint_u32()? {
            0 => Layout::Sparse,
            pages => Layout::Dense { pages },
        };
        pools.push((number, PoolSpec { kind, layout }));
    }
    bytes.0.is_empty().then_some(Header { guest, pools })
}
