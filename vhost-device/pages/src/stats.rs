// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is counted, as its readers see it.
//!
//! Counts are read while workers go on, so a reading may be between two states; at rest it is
//! exact, which [`crate::Engine::self_check`] holds it to.

/// Counts of a pool. All but the first five only ever grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Pages in the pool now.
    pub pages: u64,
    /// Those among them that are one byte repeated, and so take no frame.
    pub same_filled: u64,
    /// Frames that the pool's pages take now.
    pub frames: u64,
    /// Pages in the PM tier now.
    pub pm: u64,
    /// Pages in the remote tier now.
    pub remote: u64,
    /// Pages put and stored.
    pub puts: u64,
    /// Pages got and delivered.
    pub gets: u64,
    /// Gets of a page that is not there.
    pub misses: u64,
    /// Pages that a flush took away.
    pub flushes: u64,
    /// Puts refused: beyond the grant, no frame for an ephemeral page, or frozen.
    pub refused: u64,
    /// Puts and flushes that met a page with a newer ticket, and left it alone.
    pub stale: u64,
    /// Ephemeral pages dropped because their frame was wanted.
    pub evicted: u64,
    /// Gets of a page whose bytes failed their checksum, or could not be read.
    pub corrupt: u64,
    /// Gets among `gets` of a page of one repeated byte.
    pub hits_same_filled: u64,
    /// Gets among `gets` of a page in DRAM that had a copy below: one about to leave, or one that came up
    /// and kept it.
    pub hits_victim: u64,
    /// Gets among `gets` of a page in the PM tier.
    pub hits_pm: u64,
    /// Gets among `gets` of a page in the remote tier.
    pub hits_remote: u64,
    /// Pages that left DRAM for a lower tier.
    pub demoted: u64,
    /// Pages that came back to DRAM.
    pub promoted: u64,
}

impl PoolStats {
    /// Adds another pool's counts to these.
    pub fn add(&mut self, other: &Self) {
        self.pages += other.pages;
        self.same_filled += other.same_filled;
        self.frames += other.frames;
        self.puts += other.puts;
        self.gets += other.gets;
        self.misses += other.misses;
        self.flushes += other.flushes;
        self.refused += other.refused;
        self.stale += other.stale;
        self.evicted += other.evicted;
        self.corrupt += other.corrupt;
        self.pm += other.pm;
        self.remote += other.remote;
        self.hits_same_filled += other.hits_same_filled;
        self.hits_victim += other.hits_victim;
        self.hits_pm += other.hits_pm;
        self.hits_remote += other.hits_remote;
        self.demoted += other.demoted;
        self.promoted += other.promoted;
    }
}

/// Counts of a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestStats {
    /// Persistent pages that the guest may hold.
    pub grant_pages: u64,
    /// Persistent pages that it holds, same-filled ones too.
    pub persistent_pages: u64,
    /// Ephemeral pages that it holds, same-filled ones too.
    pub ephemeral_pages: u64,
    /// Pools that it has.
    pub pools: u64,
    /// The sum over all pools that it has or had since it was attached.
    pub total: PoolStats,
    /// Puts are refused at present.
    pub frozen: bool,
}

/// Counts of the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Guests attached.
    pub guests: u64,
    /// Workers at work.
    pub workers: u64,
    /// Frames that can hold pages: what the configuration asked for.
    pub frames: u64,
    /// Frames beyond that, which let a put go on when all pages of all grants are there.
    pub frames_reserve: u64,
    /// Frames that hold a page now.
    pub frames_used: u64,
    /// Frames among them that hold ephemeral pages.
    pub frames_ephemeral: u64,
    /// The sum of all grants, in pages.
    pub granted_pages: u64,
    /// The sum over all guests.
    pub total: PoolStats,
}

/// Where the engine's memory goes, in bytes. Counted as the structures grow, not estimated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// Address space of the frames; the host backs what is or was in use.
    pub frames_mapped: u64,
    /// Frames that hold a page now.
    pub frames_used: u64,
    /// The frame table's entries of all frames, used or not.
    pub frame_table: u64,
    /// Owner records in use: which object a frame's page belongs to.
    pub owners: u64,
    /// Index entries and what leads to them, in all pools.
    pub index: u64,
    /// Pools and guests themselves, with their counters.
    pub pools: u64,
    /// The list of free frames and the workers' bundles.
    pub free_lists: u64,
    /// The replacement policies.
    pub policies: u64,
    /// Which pages in DRAM have a copy below, and where.
    pub copies: u64,
    /// The slot tables of the tiers below DRAM, as far as slots were ever used.
    pub slot_tables: u64,
}

impl MemoryReport {
    /// Everything that is not page data.
    #[must_use]
    pub fn metadata(&self) -> u64 {
        self.frame_table
            + self.owners
            + self.index
            + self.pools
            + self.free_lists
            + self.policies
            + self.copies
            + self.slot_tables
    }
}

/// A value that shares no cache line, nor a pair of lines that are fetched together, with another.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Aligned<T>(pub(crate) T);
