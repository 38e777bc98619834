// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The virtio-tmem device of one guest, as one connection of its VMM sees it.
//!
//! ```text
//! thread 0       control, event, balloon and report queue, and a wake-up for events   (small)
//! thread 1 + i   get and put queue of pair i                              (PairWorker)
//! vhost-user     the front-end's messages                                 (the crate's thread)
//! ```
//!
//! [`Station`] is what outlives connections: the guest's pools in the engine, its counters, and its
//! workers with their buffers. [`Device`] is one connection to it. A worker's thread is the crate's;
//! it comes and goes with the connection and borrows the [`PairWorker`] of its pair.
//!
//! Start reading at [`Device::handle_event`], then [`worker`], then [`request`]; for the other queues,
//! `small`, [`control`] and `balloon`.

mod ahead;
mod balloon;
mod batch;
pub mod config_space;
pub mod control;
mod deferred;
pub mod event;
pub mod inflight;
pub mod poll;
pub mod record;
pub mod request;
pub mod ring;
mod small;
pub mod worker;

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::io::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tmem_abi::{PAGE_SIZE, QUEUE_REQUEST_FIRST, QUEUE_SIZE_MAX, queue_count};
use tmem_pages::Guest;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::VhostUserBackend;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::{GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::balloon::{BalloonConfig, GuestBalloon, Speaker};
use crate::connection::fence;
use crate::limits::DRAIN_DEADLINE;
use crate::metrics::GuestMetrics;
use crate::sandbox::{self, ThreadKind};
use crate::tiers::paths::{Paths, Ways};
use crate::tiers::traces::GuestTrace;
use event::Events;
use ring::{Memory, Ring};
use worker::{Context, Pair, PairWorker};

/// The features of every virtio device, and nothing of its own: some VMMs drop such bits.
const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// What of a guest outlives its connections.
#[derive(Debug)]
pub struct Station {
    /// Its pools.
    pub guest: Arc<Guest>,
    /// Its counters.
    pub metrics: GuestMetrics,
    /// The trace of its pages, if one is recorded.
    pub(crate) trace: GuestTrace,
    /// Its balloon.
    pub balloon: GuestBalloon,
    workers: Vec<Mutex<PairWorker>>,
    desk: Mutex<small::Desk>,
    poll_us: u32,
}

impl Station {
    /// A guest with as many queue pairs as there are `engines`, whose workers poll at most `poll_us`.
    #[must_use]
    pub fn new(guest: Arc<Guest>, engines: Vec<tmem_pages::Worker>, poll_us: u32) -> Self {
        Self::with_paths(guest, engines, poll_us, &Arc::default())
    }

    /// The same, whose gets wait for emulated links.
    pub(crate) fn with_paths(
        guest: Arc<Guest>,
        engines: Vec<tmem_pages::Worker>,
        poll_us: u32,
        paths: &Arc<Paths>,
    ) -> Self {
        let workers: Vec<_> = engines
            .into_iter()
            .enumerate()
            .map(|(pair, engine)| {
                let ways = Ways::new(paths, guest.name());
                Mutex::new(PairWorker::with_ways(pair, engine, poll_us, ways))
            })
            .collect();
        Self {
            trace: GuestTrace::new(workers.len()),
            guest,
            metrics: GuestMetrics::new(u16::try_from(workers.len()).unwrap_or(u16::MAX)),
            balloon: GuestBalloon::new(BalloonConfig::default()),
            workers,
            desk: Mutex::default(),
            poll_us,
        }
    }

    /// The same, with a balloon as configured.
    pub(crate) fn with_balloon(self, config: BalloonConfig) -> Self {
        Self {
            balloon: GuestBalloon::new(config),
            ..self
        }
    }

    /// Queue pairs of the device.
    #[must_use]
    pub fn pairs(&self) -> u16 {
        // The configuration bounds it far below.
        u16::try_from(self.workers.len()).unwrap_or(u16::MAX)
    }

    /// The longest that a worker polls, in µs.
    #[must_use]
    pub const fn poll_us(&self) -> u32 {
        self.poll_us
    }
}

/// A connection's device.
pub struct Device {
    station: Arc<Station>,
    memory: Memory,
    config: tmem_abi::Config,
    sandbox: sandbox::Mode,
    events: Arc<Events>,
    wake: EventFd,
    /// Puts are refused, because the daemon is about to end.
    ending: AtomicBool,
    /// The connection is over.
    over: AtomicBool,
    /// The rings as far as their workers have met them, by queue.
    rings: Mutex<Vec<Option<Ring>>>,
    /// What ends each worker thread, until the crate asks for it.
    exits: Mutex<Vec<(EventConsumer, EventNotifier)>>,
    /// Descriptors that the crate was handed and does not close.
    unclosed: Mutex<Vec<RawFd>>,
}

impl Device {
    /// A device for a new connection of the guest; its threads fence themselves in as `sandbox` says.
    ///
    /// # Errors
    /// The kernel's, if there is no event descriptor to be had.
    pub fn new(station: Arc<Station>, memory: Memory, sandbox: sandbox::Mode) -> io::Result<Self> {
        let config = config_space::config_space(&station);
        let queues = usize::from(queue_count(station.pairs()));
        // Made here, where it can fail: a worker without one could never be ended.
        let exits = (0..=station.pairs())
            .map(|_| new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC))
            .collect::<io::Result<_>>()?;
        let events = Arc::<Events>::default();
        let wake = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        station.balloon.connected(Speaker {
            events: Arc::clone(&events),
            wake: wake.try_clone()?,
        });
        Ok(Self {
            station,
            memory,
            config,
            sandbox,
            events,
            wake,
            ending: AtomicBool::new(false),
            over: AtomicBool::new(false),
            rings: Mutex::new(vec![None; queues]),
            exits: Mutex::new(exits),
            unclosed: Mutex::default(),
        })
    }

    /// The guest's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.station.guest.name()
    }

    /// The descriptor that wakes thread 0, and the number to register it under.
    #[must_use]
    pub fn wake(&self) -> (RawFd, u64) {
        (self.wake.as_raw_fd(), self.num_queues() as u64 + 1)
    }

    /// Tells the driver something, as soon as it has a buffer for it.
    pub fn tell(&self, kind: u32, value: u64) {
        self.events.push(kind, value);
        // Fails only when as many wake-ups are pending as the counter holds; one is enough.
        let _ = self.wake.write(1);
    }

    /// The driver has been told everything.
    #[must_use]
    pub fn told(&self) -> bool {
        self.events.is_empty()
    }

    /// Refuses puts from now on: their pages would not outlive the acknowledgement.
    pub fn set_ending(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// Makes the workers leave the rings alone. For when the connection is over.
    pub fn set_over(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Closes what the crate left open.
    ///
    /// # Safety
    /// All of the crate's workers of this device must have ended.
    pub unsafe fn close_exits(&self) {
        for fd in self.unclosed.lock().drain(..) {
            // SAFETY: The crate was given the descriptor by value and turned it into a number; by
            // the caller's word nobody uses that number any more.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }

    /// Runs `work` with what a worker needs to know.
    fn with_context(&self, work: impl FnOnce(&Context<'_>)) {
        work(&Context {
            guest: &self.station.guest,
            metrics: &self.station.metrics,
            memory: &self.memory,
            trace: &self.station.trace,
            ending: &|| self.ending.load(Ordering::Relaxed),
            over: &|| self.over.load(Ordering::Relaxed),
        });
    }

    /// Remembers the rings of a thread, for those who must wait for them. The first time, it also
    /// learns what became of the exclusive get that a dead worker left behind.
    fn meet(&self, thread: usize, rings: &[Ring]) {
        let first = match thread.checked_sub(1) {
            None => 0,
            Some(pair) => usize::from(QUEUE_REQUEST_FIRST) + 2 * pair,
        };
        let mut known = self.rings.lock();
        for (place, ring) in known.iter_mut().skip(first).zip(rings) {
            if place.is_none() {
                *place = Some(ring.clone());
                if thread > 0 {
                    self.resolve(thread - 1, ring);
                }
            }
        }
    }

    /// Forgets the pages of an exclusive get that was given back before a worker died, and puts those
    /// of one that was not back: it is run again.
    fn resolve(&self, pair: usize, ring: &Ring) {
        let guest = &self.station.guest;
        let queue = worker::get_queue(pair);
        for (of, position) in guest.unresolved() {
            if of == queue {
                let used = ring.next_used() == position.wrapping_add(1);
                let pages = guest.resolve(queue, used);
                tracing::debug!(
                    guest = self.name(),
                    queue,
                    used,
                    pages,
                    "an exclusive get is resolved"
                );
            }
        }
    }
}

impl VhostUserBackend for Device {
    type Bitmap = ();
    type Vring = Ring;

    fn num_queues(&self) -> usize {
        usize::from(queue_count(self.station.pairs()))
    }

    fn max_queue_size(&self) -> usize {
        usize::from(QUEUE_SIZE_MAX)
    }

    fn features(&self) -> u64 {
        // Asked by the thread that the crate has for the front-end's messages, and by no other.
        fence(self.sandbox, ThreadKind::Connection);
        FEATURES
    }

    fn acked_features(&self, features: u64) {
        tracing::debug!(
            guest = self.name(),
            features = format_args!("{features:#x}"),
            "features negotiated"
        );
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::RESET_DEVICE
            | VhostUserProtocolFeatures::REPLY_ACK
    }

    fn reset_device(&self) {
        // Pools outlive a reset, and the crate has disabled the rings.
        tracing::debug!(guest = self.name(), "device reset");
    }

    fn set_event_idx(&self, _enabled: bool) {
        // The crate has told every ring.
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        config_space::read(&self.config, offset, size)
    }

    fn set_config(&self, offset: u32, buf: &[u8]) -> io::Result<()> {
        // The space is read-only. An error would make some front-ends end their guest.
        tracing::debug!(
            guest = self.name(),
            offset,
            bytes = buf.len(),
            "write to the configuration space ignored"
        );
        Ok(())
    }

    fn update_memory(&self, mem: Memory) -> io::Result<()> {
        // The same handle as `self.memory`, whose contents have been replaced.
        let bytes: u64 = mem.memory().iter().map(GuestMemoryRegion::len).sum();
        self.station.balloon.has_memory(bytes / PAGE_SIZE as u64);
        Ok(())
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        let pairs = u32::from(self.station.pairs());
        let first = u32::from(QUEUE_REQUEST_FIRST);
        std::iter::once((1 << first) - 1)
            .chain((0..pairs).map(|pair| 0b11 << (first + 2 * pair)))
            .collect()
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        let (consumer, notifier) = self.exits.lock().pop()?;
        let consumer = consumer.into_raw_fd();
        self.unclosed.lock().push(consumer);
        // SAFETY: The descriptor was open and owned by the consumer that has just given it up.
        let consumer = unsafe { EventConsumer::from_raw_fd(consumer) };
        Some((consumer, notifier))
    }

    fn stop_vring(&self, queue_index: u32) -> io::Result<()> {
        let ring = self
            .rings
            .lock()
            .get(queue_index as usize)
            .cloned()
            .flatten();
        // A ring that no worker has met has nothing in flight.
        if let Some(ring) = ring {
            let (left, lost) = ring.drain(DRAIN_DEADLINE);
            if left + lost != 0 {
                tracing::error!(
                    guest = self.name(),
                    queue = queue_index,
                    left,
                    lost,
                    "requests were not finished in time and went back into their ring"
                );
            }
        }
        Ok(())
    }

    /// Never fails: an error would end the thread, and with it the queues, without a word.
    fn handle_event(
        &self,
        event: u16,
        _events: EventSet,
        rings: &[Ring],
        thread: usize,
    ) -> io::Result<()> {
        // The crate starts these threads, so this is the first that they come by.
        fence(self.sandbox, ThreadKind::Queue);
        if usize::from(event) > self.num_queues() {
            // Nothing to read is as good as something: the queue of events is looked at anyway.
            let _ = self.wake.read();
        }
        self.meet(thread, rings);
        self.with_context(|context| match (thread.checked_sub(1), rings) {
            (None, rings) => self.run_small(context, rings),
            (Some(pair), [get, put]) => {
                if let Some(worker) = self.station.workers.get(pair) {
                    worker.lock().run(context, Pair { get, put });
                }
            }
            _ => {}
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
