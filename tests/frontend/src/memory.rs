// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory: one or more regions, each a memfd that the device maps as well.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, memfd_create};
use vhost::VhostUserMemoryRegionInfo;
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    MmapRegion, VolatileMemory,
};

use crate::{Error, Result};

/// Where the regions of guest memory lie: guest physical address and size in bytes of each.
pub type Layout = Vec<(u64, usize)>;

/// Memory of a pretended guest, shared with the device by file descriptors.
#[derive(Debug)]
pub struct GuestMemory {
    map: GuestMemoryMmap<()>,
    /// Next free address and end of each region.
    free: Mutex<Vec<(u64, u64)>>,
}

impl GuestMemory {
    /// One region of `bytes` at guest address 0.
    pub fn new(bytes: usize) -> Result<Arc<Self>> {
        Self::with_layout(&vec![(0, bytes)])
    }

    /// Several regions, sorted and apart, each a memfd of its own.
    pub fn with_layout(layout: &Layout) -> Result<Arc<Self>> {
        let mut ranges = Vec::new();
        for (address, bytes) in layout {
            let file = memfd(*bytes as u64)?;
            ranges.push((
                GuestAddress(*address),
                *bytes,
                Some(FileOffset::new(file, 0)),
            ));
        }
        // Address 0 stays free, so that a zeroed descriptor never names a buffer in use.
        let free = layout
            .iter()
            .map(|(start, bytes)| ((*start).max(4096), start + *bytes as u64))
            .collect();
        Self::map(&ranges, free)
    }

    /// The same memory at other addresses, as after a hot-plug: one address for each region, over
    /// the same files. What was allocated stays allocated, at its new address.
    pub fn moved(&self, addresses: &[u64]) -> Result<Arc<Self>> {
        let mut ranges = Vec::new();
        let mut free = self.free.lock().expect("no holder panics").clone();
        for ((region, address), (next, end)) in self.map.iter().zip(addresses).zip(&mut free) {
            let bytes = usize::try_from(region.len()).expect("mapped, so it fits");
            ranges.push((GuestAddress(*address), bytes, region.file_offset().cloned()));
            *next = *next - region.start_addr().0 + address;
            *end = address + region.len();
        }
        Self::map(&ranges, free)
    }

    fn map(
        ranges: &[(GuestAddress, usize, Option<FileOffset>)],
        free: Vec<(u64, u64)>,
    ) -> Result<Arc<Self>> {
        let map = GuestMemoryMmap::<()>::from_ranges_with_files(ranges)?;
        let free = Mutex::new(free);
        Ok(Arc::new(Self { map, free }))
    }

    /// Takes `bytes` at a multiple of `align` for good; memory is given back with the guest.
    pub fn allocate(&self, bytes: usize, align: u64) -> Result<u64> {
        let mut regions = self.free.lock().expect("no holder panics");
        for (next, end) in regions.iter_mut() {
            let start = next.next_multiple_of(align);
            if start + bytes as u64 <= *end {
                *next = start + bytes as u64;
                return Ok(start);
            }
        }
        Err(Error::OutOfMemory { bytes })
    }

    /// Takes `pages` contiguous, aligned pages of 4096 bytes.
    pub fn allocate_pages(&self, pages: usize) -> Result<u64> {
        self.allocate(pages * tmem_abi::PAGE_SIZE, tmem_abi::PAGE_SIZE as u64)
    }

    /// Copies bytes out of guest memory.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<()> {
        let bytes = into.len();
        self.map
            .read_slice(into, GuestAddress(address))
            .map_err(|_| Error::Address { address, bytes })
    }

    /// Copies bytes into guest memory.
    pub fn write(&self, address: u64, from: &[u8]) -> Result<()> {
        let bytes = from.len();
        self.map
            .write_slice(from, GuestAddress(address))
            .map_err(|_| Error::Address { address, bytes })
    }

    /// A window of `bytes` at `address`, for atomic access; it must lie in one region.
    pub fn area(&self, address: u64, bytes: usize) -> Result<Area> {
        let missing = || Error::Address { address, bytes };
        let region = self
            .map
            .find_region(GuestAddress(address))
            .ok_or_else(missing)?;
        let start = usize::try_from(address - region.start_addr().0).map_err(|_| missing())?;
        let map = region.get_mmap();
        if start + bytes > map.size() {
            return Err(missing());
        }
        Ok(Area { map, start })
    }

    /// Address of the first byte in this process, as a VMM names ring addresses.
    pub fn host_address(&self, address: u64) -> Result<u64> {
        self.map
            .get_host_address(GuestAddress(address))
            .map(|pointer| pointer.expose_provenance() as u64)
            .map_err(|_| Error::Address { address, bytes: 1 })
    }

    /// Regions as SET_MEM_TABLE names them.
    pub(crate) fn regions(&self) -> Vec<VhostUserMemoryRegionInfo> {
        self.map
            .iter()
            .map(|region| {
                VhostUserMemoryRegionInfo::from_guest_region(region)
                    .expect("every region has a file")
            })
            .collect()
    }

    /// Pages of the regions' files that are there, by the kernel's count.
    pub fn file_pages(&self) -> Result<u64> {
        let mut blocks = 0;
        for region in self.map.iter() {
            let file = region.file_offset().expect("every region has a file");
            let bytes = region.len();
            let stat = file.file().metadata();
            blocks += stat
                .map_err(|source| Error::Memory { bytes, source })?
                .blocks();
        }
        Ok(blocks * 512 / tmem_abi::PAGE_SIZE as u64)
    }

    /// End of the highest region: the first address beyond guest memory.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.map.last_addr().0 + 1
    }
}

fn memfd(bytes: u64) -> Result<File> {
    let fail = |source: std::io::Error| Error::Memory { bytes, source };
    let fd = memfd_create("guest", MemfdFlags::CLOEXEC).map_err(|error| fail(error.into()))?;
    let file = File::from(fd);
    file.set_len(bytes).map_err(fail)?;
    Ok(file)
}

/// A window on guest memory with atomic access to single words. Offsets are in bytes; one outside
/// of the window's region is a mistake of the caller and panics.
#[derive(Clone, Debug)]
pub struct Area {
    map: Arc<MmapRegion<()>>,
    start: usize,
}

impl Area {
    /// Loads a 16-bit word.
    #[must_use]
    pub fn load_u16(&self, offset: usize, order: Ordering) -> u16 {
        u16::from_le(self.word::<AtomicU16>(offset).load(order))
    }

    /// Stores a 16-bit word.
    pub fn store_u16(&self, offset: usize, value: u16, order: Ordering) {
        self.word::<AtomicU16>(offset).store(value.to_le(), order);
    }

    /// Loads a 32-bit word.
    #[must_use]
    pub fn load_u32(&self, offset: usize) -> u32 {
        u32::from_le(self.word::<AtomicU32>(offset).load(Ordering::Relaxed))
    }

    /// Stores a 64-bit word.
    pub fn store_u64(&self, offset: usize, value: u64) {
        self.word::<AtomicU64>(offset)
            .store(value.to_le(), Ordering::Relaxed);
    }

    fn word<T: vm_memory::AtomicInteger>(&self, offset: usize) -> &T {
        self.map
            .get_atomic_ref::<T>(self.start + offset)
            .expect("BUG! an offset outside of the window")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocation_spills_into_the_next_region_and_then_ends() {
        let memory = GuestMemory::with_layout(&vec![(0, 8192), (1 << 20, 4096)]).unwrap();
        assert_eq!(memory.allocate_pages(1).unwrap(), 4096);
        assert_eq!(memory.allocate_pages(1).unwrap(), 1 << 20);
        assert!(matches!(
            memory.allocate_pages(1),
            Err(Error::OutOfMemory { .. })
        ));
    }

    #[test]
    fn moved_memory_shows_the_same_bytes_at_the_new_address() {
        let memory = GuestMemory::new(8192).unwrap();
        memory.write(4096, b"tmem").unwrap();
        let moved = memory.moved(&[1 << 30]).unwrap();
        let mut bytes = [0; 4];
        moved.read((1 << 30) + 4096, &mut bytes).unwrap();
        assert_eq!(&bytes, b"tmem");
        assert!(moved.read(4096, &mut bytes).is_err());
    }
}
