// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The tier on a Valkey Cluster: pages on an engine that exists.
//!
//! [`ValkeyStore`] is a [`SlotStore`]: the engine numbers the slots, and each slot's page lies under one
//! key of the cluster. [`SlotMemory`] remembers which slots hold a page, and which write of theirs it is
//! (`turn.rs`), beyond the end of this process.
//!
//! ```text
//! engine ─ write ──▶ write.rs    SETs and WAIT, one connection for writing to each primary
//!        ─ read ───▶ read.rs     GET from the primary, twice before a page is called lost
//!        ─ flush ──▶ the mark;   garbage.rs throws the keys away later
//!                    cluster.rs  which node is the primary of which hash slot; connections
//!                    node.rs     one node: what it answers, what makes it unfit
//!                    value.rs    keys, and the header before each page
//! ```
//! # What it promises
//! - A page that was acknowledged was on its primary and `replicas` replicas at that time. **That is
//!   less than durable**: replication is asynchronous, and a failover may choose a replica that did not
//!   have it, or a network that falls apart may leave both with the losing side. docs/valkey.md has the
//!   windows.
//! - A read returns the page that was written last, or an error: never an older one, never another one.
//!   The mark's turn, the header and the CRC-32 must all agree.
//! - A call ends. [`ValkeyConfig::deadline`] and one attempt's timeouts bound it, whatever the nodes do,
//!   as long as they are slow by whole answers: a node that sends an answer byte by byte is not bounded.
//! - A flush ends without the cluster.
//!
//! # What it asks of the cluster
//! `noeviction`, `min-replicas-to-write` of 1 or more, at least `replicas` replicas for each primary;
//! all of this is checked when the store is opened, of all nodes, and again of each node that it comes
//! to write to.
//!
//! # Threads
//! Any number, all plain. A node's connection for writing belongs to one write at a time, for its order
//! is the order of a slot's values. Connections for reading are as many as threads read.

mod cluster;
mod config;
mod error;
mod garbage;
mod map;
mod node;
mod read;
mod stats;
mod turn;
mod value;
mod write;

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tmem_pages::slots::{PoolEntry, SLOTS_MAX, ScanReport, SlotError, SlotHeader, SlotMemory};
use tmem_pages::{PageBytes, SlotStore, SlotWrite};

pub use config::{NAMESPACE_MAX, REPLICAS_MAX, ValkeyConfig};
pub use error::ValkeyError;
pub use stats::ValkeyStats;

use cluster::Cluster;
use garbage::Garbage;
use turn::Mark;

/// The word of the slot memory with the number of its store: namespace and memory, hashed.
const NUMBER_WORD: usize = 0;
/// The word with the count that no write has reached.
const COUNT_WORD: usize = 1;
/// Counts that are taken from the slot memory at a time. A restart skips the rest of them.
const COUNTS: u64 = 1 << 20;

/// A tier on a Valkey Cluster. See the module's head.
pub struct ValkeyStore {
    cluster: Cluster,
    memory: SlotMemory,
    slots: AtomicU32,
    namespace: String,
    /// What this store's values begin with.
    number: u64,
    replicas: u32,
    deadline: Duration,
    counts: Mutex<Counts>,
    garbage: Garbage,
}

/// What tells writes apart: each batch has a higher count, over all restarts.
#[derive(Debug)]
struct Counts {
    next: u64,
    limit: u64,
}

impl ValkeyStore {
    /// Connects to a cluster, checks how it is set up, and clears away what the namespace has left there
    /// of slots that hold no page.
    ///
    /// # Errors
    /// [`ValkeyError`]: the configuration cannot be kept, no node answers, a node could lose pages that
    /// it acknowledged, or the memory is another namespace's.
    pub fn open(
        config: &ValkeyConfig,
        memory: SlotMemory,
        slots: u32,
    ) -> Result<Self, ValkeyError> {
        config.check()?;
        if slots > SLOTS_MAX {
            return Err(ValkeyError::Config {
                what: format!("{slots} slots: choose up to {SLOTS_MAX}"),
            });
        }
        let number = value::store_number(&config.namespace, &memory.id());
        if ![0, number].contains(&memory.word(NUMBER_WORD)) {
            return Err(ValkeyError::OtherNamespace {
                namespace: config.namespace.clone(),
            });
        }
        let cluster = Cluster::open(config)?;
        check_nodes(&cluster, config.replicas)?;
        memory.set_word(NUMBER_WORD, number);
        let next = memory.word(COUNT_WORD);
        let store = Self {
            cluster,
            memory,
            slots: AtomicU32::new(slots),
            namespace: config.namespace.clone(),
            number,
            replicas: config.replicas,
            deadline: config.deadline,
            counts: Mutex::new(Counts { next, limit: next }),
            garbage: Garbage::default(),
        };
        store.sweep()?;
        Ok(store)
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> ValkeyStats {
        self.cluster.counters.now()
    }

    /// The count of the next batch. Reserved in the slot memory before it is used.
    fn next_count(&self) -> u64 {
        let mut counts = self.counts.lock();
        if counts.next == counts.limit {
            counts.limit += COUNTS;
            self.memory.set_word(COUNT_WORD, counts.limit);
        }
        counts.next += 1;
        counts.next
    }

    fn check_slot(&self, slot: u32) -> Result<(), ValkeyError> {
        let slots = self.slots.load(Ordering::Acquire);
        if slot < slots {
            Ok(())
        } else {
            Err(ValkeyError::NoSuchSlot { slot, slots })
        }
    }
}

/// Looks at all nodes, replicas too: any of them may be a primary soon.
fn check_nodes(cluster: &Cluster, replicas: u32) -> Result<(), ValkeyError> {
    let map = cluster.map();
    if !map.is_whole() {
        return Err(ValkeyError::Config {
            what: "the cluster has hash slots without a primary: valkey-cli --cluster check says which"
                .to_owned(),
        });
    }
    for node in map.nodes() {
        let mut connection = cluster.dialer.reader(node)?;
        node::check_settings(&mut connection, node)?;
        if map.primaries().contains(node) {
            node::check_replicas(&mut connection, node, replicas)?;
        }
    }
    Ok(())
}

impl SlotStore for ValkeyStore {
    fn id(&self) -> [u8; 16] {
        self.memory.id()
    }

    fn slots(&self) -> u32 {
        self.slots.load(Ordering::Acquire)
    }

    fn write(&self, batch: &[SlotWrite<'_>]) -> Result<(), SlotError> {
        let written = self.write_pages(batch);
        if self.garbage.is_much() {
            self.throw_away();
        }
        written.map_err(|error| error::elsewhere("write", batch.len(), &error))
    }

    fn read(&self, slot: u32, checksum: u32, page: &mut PageBytes) -> Result<(), SlotError> {
        (self.read_page(slot, checksum, page)).map_err(|error| error::elsewhere("read", 1, &error))
    }

    fn will_read(&self, slots: &[(u32, u32)]) {
        if slots.len() > 1 {
            self.fetch_ahead(slots);
        }
    }

    fn is_far(&self) -> bool {
        true
    }

    fn header(&self, slot: u32) -> Result<Option<SlotHeader>, SlotError> {
        match Mark::read(self.memory.mark(slot)) {
            Mark::Page(_) => self.memory.header(slot),
            Mark::Empty(_) => Ok(None),
        }
    }

    fn invalidate(&self, slots: &[u32]) -> Result<(), SlotError> {
        for slot in slots {
            self.check_slot(*slot)
                .map_err(|error| error::elsewhere("flush", 1, &error))?;
            let mark = Mark::read(self.memory.mark(*slot));
            self.memory.set_mark(*slot, mark.emptied());
        }
        self.garbage
            .add(slots.iter().copied(), &self.cluster.counters);
        if self.garbage.is_much() {
            self.throw_away();
        }
        Ok(())
    }

    fn wants_to_forget(&self) -> bool {
        true
    }

    fn outlives_the_map(&self) -> bool {
        false
    }

    fn resize(&self, slots: u32) -> Result<(), SlotError> {
        if slots > SLOTS_MAX {
            return Err(SlotError::BadSlots { slots });
        }
        self.slots.store(slots, Ordering::Release);
        Ok(())
    }

    fn put_pool(&self, _pool_slot: u32, _entry: &PoolEntry) -> Result<(), SlotError> {
        Ok(())
    }

    fn drop_pool(&self, _pool_slot: u32) -> Result<(), SlotError> {
        Ok(())
    }

    fn last_serial(&self, _pool_slot: u32) -> Option<u32> {
        None
    }

    fn pools(&self) -> Vec<(u32, PoolEntry)> {
        Vec::new()
    }

    fn scan(&self, _found: &mut dyn FnMut(u32, SlotHeader)) -> Result<ScanReport, SlotError> {
        Ok(ScanReport::default())
    }

    fn mode(&self) -> &'static str {
        "valkey"
    }
}

impl fmt::Debug for ValkeyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValkeyStore")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}
