// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The memory of the dense index: which leaves have some, and how it goes back; and that of frames.

use std::io;
use std::ops::Range;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use crate::handle::PAGE_SIZE;
use crate::kept::before_store;
use crate::layout::LEAF_BYTES;
use crate::sys::Mapping;

impl Mapping {
    /// Gives the memory of leaves back; they are all zeroes then.
    pub(crate) fn punch_leaves(&self, leaves: Range<usize>) -> io::Result<()> {
        let at = self.layout().leaf_at(leaves.start) as u64;
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let bytes = leaves.len() * LEAF_BYTES;
        before_store();
        Ok(fallocate(self.map_file(), mode, at, bytes as u64)?)
    }

    /// Gives the memory of frames back that nobody has. A file system that cannot do that keeps it.
    pub(crate) fn discard(&self, frames: Range<u32>) {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let bytes = |frame: u32| u64::from(frame) * PAGE_SIZE as u64;
        let length = bytes(frames.end - frames.start);
        let _kept = fallocate(self.frames_file(), mode, bytes(frames.start), length);
    }

    /// Runs of leaves, among these, that take memory: outside of them all is zero.
    pub(crate) fn leaves_in_memory(&self, leaves: Range<usize>) -> io::Result<Vec<Range<usize>>> {
        let end = self.layout().leaf_at(leaves.end) as u64;
        let leaf_of = |at: u64| {
            let leaf = (at - self.layout().leaves_at as u64) / LEAF_BYTES as u64;
            usize::try_from(leaf).map_err(io::Error::other)
        };
        let mut runs = Vec::new();
        let mut at = self.layout().leaf_at(leaves.start) as u64;
        while at < end {
            let data = match seek(self.map_file(), SeekFrom::Data(at)) {
                Ok(data) if data < end => data,
                Ok(_) | Err(Errno::NXIO) => break,
                Err(error) => return Err(error.into()),
            };
            at = seek(self.map_file(), SeekFrom::Hole(data))?.min(end);
            runs.push(leaf_of(data)?..leaf_of(at.next_multiple_of(LEAF_BYTES as u64))?);
        }
        Ok(runs)
    }
}
