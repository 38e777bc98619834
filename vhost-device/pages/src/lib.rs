// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The page engine of virtio-tmem: where a guest's pages are once they have left the guest.
//!
//! An [`Engine`] owns a fixed number of 4 KiB frames in shared memory. [`Guest`]s keep pages in it,
//! in [`Pool`]s, under an object and an index, and [`Worker`]s carry them in and out:
//!
//! ```text
//!  heap, gone with the process                  files, which outlive it
//!
//!  Engine ─┬─ Guest "a" ─ account               map:  guest records    name, grant, epoch, frozen
//!          │    ├─ Pool 0 ─ markers, locks ───▶       dense words ──┐  nothing, a byte, a frame
//!          │    └─ Pool 1 ─ sparse index ──────┐      pool records  │
//!          ├─ Guest "b" …                      ├───▶  frame table ◀─┘  24 bytes: owner, index,
//!          └─ shared ── free frames            │      owner records      ticket, checksum
//!                       limbo                  │      journals         exclusive gets under way
//!  thread 1 ── Worker ── bundle, frame in hand └─▶ frames: ▇▇▇▇▇▇▇▇▇  4096 bytes each
//!  thread 2 ── Worker ── …
//!  thread 3 ── Mover ── policies ──▶ slots of tiers below: a file, or memory elsewhere
//! ```
//! When DRAM is full, pages go to tiers below: `tier/mod.rs`.
//!
//! # What it must not know
//! Virtqueues, sockets, async, the clock. A caller hands it a [`PageSource`] or a [`PageSink`] that
//! copies to or from wherever its memory is; that is the one copy of the page's bytes. It runs no
//! thread of its own, and only the link model's [pacer](link::Pacer), which nothing here calls, has a
//! clock.
//!
//! # What it promises
//! - A page of a [persistent](PoolKind::Persistent) pool stays until it is flushed. A guest may hold
//!   as many of them as its grant says, and a put within the grant finds a place: the grants never
//!   exceed what the tiers hold, and a reserve of frames covers what is on its way.
//! - A page of an [ephemeral](PoolKind::Ephemeral) pool may vanish. Such pages live in frames that
//!   are promised to nobody; a clock with second chances decides which one goes.
//! - A get returns the bytes of the last put, or says that it cannot: every page carries a CRC-32
//!   from its arrival, which is verified before it is delivered.
//! - A put or a flush with a ticket older than the page's leaves the page alone, so requests may be
//!   replayed and may overtake each other.
//! - The process may be killed between any two instructions. Whoever opens the same two files next
//!   finds every page that was acknowledged and nothing that was flushed; of a request that was under
//!   way all or nothing (a flush of many pages: of each page). What outlives a kill does not outlive
//!   the host: the files are memory.
//! - Pages that an exclusive get has delivered are gone only once its caller says that they arrived,
//!   if it asks for that: [`Worker::take`].
//!
//! # How a put travels
//! The worker takes the frame in its hand, or one of its bundle, of the shared list, of another
//! worker's bundle, or of an ephemeral page. The source is copied into it. If the bytes are all the
//! same, the frame stays in hand and the byte goes to the index. Otherwise the frame is summed, the
//! lock of the page's index word is taken, the tickets are compared, the frame's table entry is
//! filled, and the word swapped. The frame that was there is the next one in hand.
//!
//! # How a get travels
//! The worker reads the index word, pins the frame, and reads the word again (in a sparse pool: under
//! a shard's lock). No lock is held while the checksum is verified and the sink takes the bytes; a
//! frame that a put replaces meanwhile is freed by whoever unpins it last.
//!
//! # How an engine comes back
//! [`Engine::open`] reads the map: dense words are the truth, and each must agree with its frame's
//! table entry; the index of sparse pools is made anew from the table. All else is free. Guests wait,
//! with their pools, to be [attached](Engine::attach_guest) again, and their exclusive gets that were
//! cut short to be [resolved](Guest::resolve) by what the rings say. `recover/mod.rs` says why that is
//! right for a kill at any place. Not kept: counts of what was done, and where the clock's hand was.
//!
//! # Which thread owns what
//! A [`Worker`] belongs to one thread. Everything else is shared and may be called from any thread.
//! Locks, in the order in which they may nest: the guests' list, the sum of grants, a guest's control
//! state, the counters of nobody, its list of pools, the table of pools, a lock of an index, the free
//! owner records or one list of free frames. No index lock is held while a frame is looked for.
//! Eviction goes against this order, from a frame to its index word, and so only tries the lock. So
//! does the release of a victim, with its guest's victims locked, which may be locked inside an index
//! lock. A worker's events and then the policies come last; the policies' holder only tries for events.
//!
//! # Where to start reading
//! `worker/put.rs` and `worker/get.rs`, then `index/mod.rs` and `sys.rs`; `check.rs` lists what is
//! always true. For what outlives a process: `layout.rs`, `recover/mod.rs`, `journal.rs`.
//! For tiers: `tier/mod.rs`, `tier/victims.rs`, `dram.rs`.
//!
//! # Example
//! ```
//! use tmem_pages::*;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::new(EngineConfig { frames: 64, workers_max: 1, guests_max: 1 })?;
//! let guest = engine.attach_guest(GuestConfig { name: "vm1".into(), grant_pages: 32 })?;
//! let swap = PoolSpec { kind: PoolKind::Persistent, layout: Layout::Dense { pages: 1024 } };
//! let pool = guest.create_pool(PoolId(0), swap)?;
//!
//! let mut worker = engine.worker()?;
//! let mut page: PageBytes = [7; PAGE_SIZE];
//! page[0] = 8;
//! let ticket = Ticket::new(1).ok_or("a ticket is below 2^52")?;
//! let put = worker.put(&pool, ObjectId::ZERO, PageIndex(3), ticket, &page);
//! assert_eq!(put, PutResult::Stored);
//!
//! let mut back: PageBytes = [0; PAGE_SIZE];
//! let got = worker.get(&pool, ObjectId::ZERO, PageIndex(3), GetMode::Exclusive, &mut back);
//! assert_eq!(got, GetResult::Hit);
//! assert_eq!(page, back);
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]

// Files that tests share name the crate as those outside do.
#[cfg(test)]
extern crate self as tmem_pages;

mod account;
mod bundle;
mod check;
mod checksum;
mod counters;
#[cfg(test)]
mod crash_tests;
mod dram;
mod engine;
mod error;
mod files;
mod frame_list;
mod frames;
mod guest;
mod handle;
mod index;
mod journal;
mod kept;
mod late;
mod layout;
mod leaves;
mod limbo;
mod limits;
pub mod link;
pub mod policy;
mod pool;
mod records;
mod recover;
mod replacement;
mod shared;
mod slot_table;
pub mod slots;
mod stats;
#[expect(
    unsafe_code,
    reason = "the one file that maps memory and reaches frames in it"
)]
mod sys;
mod tier;
pub mod trace;
mod worker;

pub use checksum::of as page_checksum;
pub use dram::Watermarks;
pub use engine::{Engine, EngineConfig, FRAMES_MAX, GUESTS_MAX, WORKERS_MAX};
pub use error::EngineError;
pub use files::EngineFiles;
pub use guest::{EpochOutcome, Guest, GuestConfig, GuestError};
pub use handle::{
    CopyFault, Epoch, ObjectId, PAGE_SIZE, PageBytes, PageIndex, PageSink, PageSource, PoolId,
    Ticket,
};
pub use journal::TAKE_PAGES_MAX;
pub use limits::{DramLimits, Freeable, LimitsError};
pub use pool::{Layout, POOLS_MAX, Pool, PoolError, PoolKind, PoolSpec};
pub use records::GUEST_NAME_MAX;
pub use recover::Recovery;
pub use stats::{EngineStats, GuestStats, MemoryReport, PoolStats};
pub use sys::prefetch_for_write;
pub use tier::{
    Mover, ResizeError, SlotStore, SlotWrite, Step, Stores, Tier, TierStats, UnknownTier,
};
pub use worker::{FlushResult, GetMode, GetResult, PageMark, PutResult, Worker, WorkerError};
