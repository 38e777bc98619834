// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Page data in guest memory: a walk over the descriptors, and the one copy.

use tmem_pages::{CopyFault, PageBytes, PageSink, PageSource, prefetch_for_write};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::{PAGE_BYTES, Segment};

/// A page of guest memory, whose address may be anything.
#[derive(Clone, Copy, Debug)]
pub struct GuestPage<'m> {
    mem: &'m GuestMemoryMmap,
    addr: GuestAddress,
}

impl PageSource for GuestPage<'_> {
    fn read_into(&self, page: &mut PageBytes) -> Result<(), CopyFault> {
        self.mem
            .read_slice(page.as_mut_slice(), self.addr)
            .map_err(|_| CopyFault)
    }
}

impl PageSink for GuestPage<'_> {
    fn expect_page(&self) {
        // A page that straddles regions, or is in none, goes without.
        if let Ok(slice) = self.mem.get_slice(self.addr, tmem_abi::PAGE_SIZE) {
            prefetch_for_write(slice.ptr_guard().as_ptr());
        }
    }

    fn write_from(&mut self, page: &PageBytes) -> Result<(), CopyFault> {
        self.mem
            .write_slice(page.as_slice(), self.addr)
            .map_err(|_| CopyFault)
    }
}

/// Where the walk over a request's page data stands. Survives from chunk to chunk of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct PageWalk {
    segment: usize,
    offset: u32,
}

impl PageWalk {
    /// The next page of `data`, whose segments are whole pages. `None` at its end.
    pub fn next<'m>(
        &mut self,
        mem: &'m GuestMemoryMmap,
        data: &[Segment],
    ) -> Option<GuestPage<'m>> {
        let segment = data.get(self.segment)?;
        // An address that wraps is as good as one outside guest memory.
        let addr = segment
            .addr
            .checked_add(u64::from(self.offset))
            .unwrap_or(GuestAddress(u64::MAX));
        self.offset = self.offset.saturating_add(PAGE_BYTES);
        if self.offset >= segment.len {
            self.segment += 1;
            self.offset = 0;
        }
        Some(GuestPage { mem, addr })
    }
}
