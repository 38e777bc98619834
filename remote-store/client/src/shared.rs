// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the threads that read and write and the one that watches the stores have in common.
//!
//! ```text
//!  sessions (one a thread) ── table, view, trust ──┐
//!        │ writes, reads                           ├── Shared
//!        └── notes, flushes, late copies ─────────▶│◀── driver: publishes views, drains what is noted
//! ```
//! Nothing here waits. What a session has for the driver goes into a queue with a bound, or is a fact
//! that the driver finds again by comparing lists.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tmem_remote_protocol::{
    Capabilities, Hello, Namespace, ProtocolError, Session as SessionKind, Versions, Wants,
};
use tokio::sync::mpsc;

use crate::control::{MemberNo, View};
use crate::disk::Disk;
use crate::metrics::Metrics;
use crate::settings::{MEMBERS_MAX, Settings};
use crate::table::Table;
use crate::volatile::Owners;

/// Flushes that wait for the driver at most. Beyond them the stores' lists are compared instead.
const FLUSHES_MAX: usize = 1 << 20;
/// Notes that wait for the driver at most.
pub(crate) const NOTES_MAX: usize = 1 << 16;

/// What a session tells the driver.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Note {
    /// A connection failed, or stalled.
    Suspected(MemberNo),
    /// Something may lie on a store that nobody names.
    Sweep(MemberNo),
    /// A store serves a later process of this namespace.
    Fenced,
    /// A slot may have fewer copies than it should.
    Check(u32),
    /// A copy was not what was written: its bit is cleared, what is there is of no use.
    BadCopy {
        slot: u32,
        member: MemberNo,
        generation: u64,
    },
    /// There is something in the queue of flushes.
    Flushes,
    /// There is a page whose rest is to be sent.
    Late(u32),
}

/// Copies of one slot that nobody names any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flush {
    pub(crate) slot: u32,
    /// Those that are newer stay.
    pub(crate) generation: u64,
    pub(crate) members: u64,
}

/// A page of which the host holds a copy until enough stores have one.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) generation: u64,
    pub(crate) checksum: u32,
    pub(crate) page: Bytes,
}

#[derive(Debug, Default)]
struct Flushes {
    queue: Vec<Flush>,
    overflown: bool,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Shared<C> {
    pub(crate) settings: Settings,
    pub(crate) connector: C,
    pub(crate) table: Table,
    pub(crate) metrics: Metrics,
    pub(crate) owners: Owners,
    pub(crate) disk: Option<Disk>,
    namespace: Namespace,
    view: RwLock<Arc<View>>,
    view_version: AtomicU64,
    /// One more than the trust of each member's copies, 0 for none. Newer than the view.
    trust: [AtomicU64; MEMBERS_MAX],
    notes: mpsc::Sender<Note>,
    flushes: Mutex<Flushes>,
    held: Mutex<BTreeMap<u32, Held>>,
    held_pages: AtomicU64,
    /// First generations of writes under way, and how many have the same.
    writing: Mutex<BTreeMap<u64, u32>>,
    fenced_by: AtomicU64,
    pub(crate) pages_max: AtomicUsize,
    closed: AtomicBool,
}

impl<C> Shared<C> {
    pub(crate) fn new(
        settings: Settings,
        connector: C,
        table: Table,
        disk: Option<Disk>,
        view: Arc<View>,
    ) -> Result<(Self, mpsc::Receiver<Note>), ProtocolError> {
        let (notes, receiver) = mpsc::channel(NOTES_MAX);
        let namespace = Namespace::new(&settings.namespace)?;
        let shared = Self {
            settings,
            connector,
            owners: Owners::new(table.last_generation() + 1),
            table,
            metrics: Metrics::new(),
            disk,
            namespace,
            view_version: AtomicU64::new(view.version()),
            view: RwLock::new(view),
            trust: [const { AtomicU64::new(0) }; MEMBERS_MAX],
            notes,
            flushes: Mutex::default(),
            held: Mutex::default(),
            held_pages: AtomicU64::new(0),
            writing: Mutex::default(),
            fenced_by: AtomicU64::new(0),
            pages_max: AtomicUsize::new(usize::MAX),
            closed: AtomicBool::new(false),
        };
        Ok((shared, receiver))
    }

    /// How to introduce oneself.
    pub(crate) fn hello(&self, session: SessionKind) -> Hello {
        let period = self.settings.advert_period.as_millis();
        let ephemeral_indices = self.settings.ephemeral_indexes;
        let mut capabilities = Capabilities::LIST.union(Capabilities::ADVERTS);
        if ephemeral_indices > 0 {
            capabilities = capabilities.union(Capabilities::EPHEMERAL);
        }
        Hello {
            versions: Versions::OWN,
            capabilities,
            namespace: self.namespace.clone(),
            epoch: self.table.epoch(),
            session,
            advert_period_ms: u32::try_from(period).unwrap_or(u32::MAX),
            wants: Wants {
                persistent_indices: self.table.slots(),
                ephemeral_indices,
                quota_pages: self.settings.quota_pages,
            },
        }
    }

    /// Replaces `have` if there is a later view.
    pub(crate) fn refresh(&self, have: &mut Arc<View>) {
        if self.view_version.load(Ordering::Acquire) != have.version() {
            *have = self.view();
        }
    }

    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read())
    }

    /// From now on this view holds. Trust comes first: a write that goes by an older view finds, under
    /// the slot's lock, that its copy does not count.
    pub(crate) fn publish(&self, view: Arc<View>) {
        for (trust, number) in self.trust.iter().zip(0..) {
            let now = MemberNo::new(number).and_then(|member| view.trust(member));
            trust.store(now.map_or(0, |trust| trust + 1), Ordering::Release);
        }
        self.owners
            .publish(&view, || self.table.last_generation() + 1);
        let version = view.version();
        *self.view.write() = view;
        self.view_version.store(version, Ordering::Release);
    }

    /// One more than the trust of a member's copies, 0 for none.
    pub(crate) fn trust(&self, member: MemberNo) -> u64 {
        self.trust
            .get(member.index())
            .map_or(0, |trust| trust.load(Ordering::Acquire))
    }

    /// Tells the driver. With too many notes waiting this one is lost; what it would have led to, the
    /// driver's walks lead to later.
    pub(crate) fn note(&self, note: Note) {
        let _ = self.notes.try_send(note);
    }

    /// Copies that nobody names are to be flushed, some time.
    pub(crate) fn flush_later(&self, flushes: impl IntoIterator<Item = Flush>) {
        let mut waiting = self.flushes.lock();
        let was_empty = waiting.queue.is_empty();
        for flush in flushes {
            if flush.members == 0 {
                continue;
            }
            if waiting.queue.len() >= FLUSHES_MAX {
                waiting.overflown = true;
                self.metrics.total.flushes_dropped.one();
                continue;
            }
            waiting.queue.push(flush);
        }
        if was_empty && !waiting.queue.is_empty() {
            self.note(Note::Flushes);
        }
    }

    /// What waits to be flushed, and whether some of it was dropped.
    pub(crate) fn take_flushes(&self) -> (Vec<Flush>, bool) {
        let taken = std::mem::take(&mut *self.flushes.lock());
        (taken.queue, taken.overflown)
    }

    /// The host keeps this page. False if it holds too many.
    pub(crate) fn hold(&self, slot: u32, held: Held) -> bool {
        let mut all = self.held.lock();
        let most = usize::try_from(self.settings.held_pages_max).unwrap_or(usize::MAX);
        if all.len() >= most {
            return false;
        }
        all.insert(slot, held);
        self.held_pages.store(all.len() as u64, Ordering::Release);
        true
    }

    /// The host keeps the slot's page no more, if it is of this generation, or whatever it is.
    pub(crate) fn let_go(&self, slot: u32, generation: Option<u64>) {
        if self.held_pages() == 0 {
            return;
        }
        let mut all = self.held.lock();
        let same = |held: &Held| generation.is_none_or(|wanted| held.generation == wanted);
        if all.get(&slot).is_some_and(same) {
            all.remove(&slot);
        }
        self.held_pages.store(all.len() as u64, Ordering::Release);
    }

    /// The host's copy of a slot's page.
    pub(crate) fn held(&self, slot: u32) -> Option<Held> {
        if self.held_pages() == 0 {
            return None;
        }
        self.held.lock().get(&slot).cloned()
    }

    /// The slots whose pages the host holds.
    pub(crate) fn held_slots(&self) -> Vec<u32> {
        self.held.lock().keys().copied().collect()
    }

    pub(crate) fn held_pages(&self) -> u64 {
        self.held_pages.load(Ordering::Acquire)
    }

    /// A write with this generation and higher ones begins, and ends when the guard goes.
    pub(crate) fn begin_writing(&self, generation: u64) -> Writing<'_> {
        let mut writing = self.writing.lock();
        *writing.entry(generation).or_default() += 1;
        Writing {
            of: &self.writing,
            generation,
        }
    }

    /// Copies of generations below this are of writes that are over: the table names them, or nobody.
    pub(crate) fn settled_below(&self) -> u64 {
        // The last generation first: a write that begins after it has a higher one.
        let next = self.table.last_generation() + 1;
        let oldest = self.writing.lock().keys().next().copied();
        oldest.map_or(next, |oldest| oldest.min(next))
    }

    /// A store serves a later process of this namespace: this one is over.
    pub(crate) fn fence(&self, epoch: u64) {
        self.fenced_by.fetch_max(epoch.max(1), Ordering::AcqRel);
    }

    /// The epoch of the process that has taken over.
    pub(crate) fn fenced_by(&self) -> Option<u64> {
        let epoch = self.fenced_by.load(Ordering::Acquire);
        (epoch != 0).then_some(epoch)
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

/// A write under way.
#[derive(Debug)]
pub(crate) struct Writing<'a> {
    of: &'a Mutex<BTreeMap<u64, u32>>,
    generation: u64,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut writing = self.of.lock();
        if let Some(count) = writing.get_mut(&self.generation) {
            *count -= 1;
            if *count == 0 {
                writing.remove(&self.generation);
            }
        }
    }
}
