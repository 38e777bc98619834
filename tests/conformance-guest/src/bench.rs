// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The bench that a check works on: the device, its rings, and memory to put pages from and get them
//! into.

mod control;
mod request;

pub(crate) use control::{dense, sparse};
pub(crate) use request::{Answer, Ask, Handle, SLOT_DESCRIPTORS, Split};

use crate::content::{Content, Template};
use crate::memory::{Arena, Region};
use crate::random::Random;
use crate::ring::{Chain, RING_PAGES, RING_SIZE, Ring, Style};
use crate::transport::{Transport, device_status, feature};
use crate::why::{Result, ensure, fail};
use crate::wire::{BATCH_PAGES_MAX, Config, Event, QUEUE_EVENT, QUEUE_REQUEST_FIRST, queue_count};

/// Queue pairs that the checks use.
pub(crate) const PAIRS: u16 = 2;
/// Virtqueues that the checks use.
pub(crate) const QUEUES: usize = queue_count(PAIRS) as usize;
/// Requests that can be in flight at a time.
pub(crate) const SLOTS: usize = 64;
/// The same as a number of pages.
pub(crate) const SLOT_PAGES: u32 = 64;
const _: () = assert!(SLOT_PAGES as usize == SLOTS);
/// Bytes of a slot: header and list, then the answer.
const SLOT_BYTES: usize = 2048;
/// Where a slot's answer begins.
const SLOT_ANSWER: usize = 1536;
/// Pages of each stage: the largest request.
pub(crate) const STAGE_PAGES: usize = BATCH_PAGES_MAX as usize;
/// Event buffers that are kept available.
pub(crate) const EVENT_BUFFERS: u16 = 8;
/// What a buffer holds before the device writes to it.
pub(crate) const UNTOUCHED: u64 = 0xeeee_eeee_eeee_eeee;
/// A byte of that.
pub(crate) const UNTOUCHED_BYTE: u8 = 0xee;

/// Memory for what a check exchanges with the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Areas {
    slots: Region,
    events: Region,
    /// Pages to put.
    pub(crate) put: Region,
    /// Pages to get into.
    pub(crate) get: Region,
    /// Four pages for anything.
    pub(crate) scratch: Region,
}

/// All that a check needs.
#[derive(Debug)]
pub(crate) struct Bench {
    /// The device's registers.
    pub(crate) transport: Transport,
    /// The configuration space as it was at the start.
    pub(crate) config: Config,
    /// The virtqueues, by number.
    pub(crate) rings: [Ring; QUEUES],
    /// Memory to exchange.
    pub(crate) areas: Areas,
    /// How pages are made.
    pub(crate) template: Template,
    /// How rings are used from the next set-up on.
    pub(crate) style: Style,
    /// Random numbers of the current check.
    pub(crate) random: Random,
    /// Address just beyond the guest's memory.
    pub(crate) memory_end: u64,
    /// The boot epoch.
    pub(crate) epoch: [u64; 2],
    /// The ticket taken last.
    pub(crate) ticket: u64,
    /// Numbers contents.
    stamp: u64,
    /// Numbers pools.
    pool: u32,
    /// Numbers epochs.
    epochs: u64,
}

impl Bench {
    /// A bench for the device behind `transport`.
    pub(crate) fn new(
        transport: Transport,
        arena: &mut Arena,
        memory_end: u64,
        seed: u64,
    ) -> Result<Self> {
        let queues = transport.queues();
        ensure!(
            usize::from(queues) >= QUEUES,
            "the monitor made {queues} queues, the checks need {QUEUES}"
        );
        let mut random = Random::new(seed);
        Ok(Self {
            transport,
            config: transport.config()?,
            rings: core::array::from_fn(|queue| {
                let queue = u16::try_from(queue).unwrap_or(u16::MAX);
                Ring::new(queue, arena.pages(RING_PAGES))
            }),
            areas: Areas {
                slots: arena.pages(SLOTS * SLOT_BYTES / 4096),
                events: arena.pages(1),
                put: arena.pages(STAGE_PAGES),
                get: arena.pages(STAGE_PAGES),
                scratch: arena.pages(4),
            },
            template: Template::new(arena.pages(Template::PAGES), &mut random),
            style: Style {
                event_idx: true,
                indirect: true,
            },
            random,
            memory_end,
            epoch: [random.next(), random.next()],
            ticket: 0,
            stamp: 0,
            pool: 0,
            epochs: 0,
        })
    }

    /// Features that a set-up accepts.
    pub(crate) fn features(&self) -> u64 {
        let mut features = feature::VERSION_1;
        if self.style.event_idx {
            features |= feature::EVENT_IDX;
        }
        if self.style.indirect {
            features |= feature::INDIRECT_DESC;
        }
        features
    }

    /// Resets the device and goes as far as FEATURES_OK.
    pub(crate) fn negotiate(&mut self) -> Result {
        self.transport.reset()?;
        self.transport.add_status(device_status::ACKNOWLEDGE);
        self.transport.add_status(device_status::DRIVER);
        self.transport.accept(self.features());
        self.transport.add_status(device_status::FEATURES_OK);
        ensure!(
            self.transport.status() & device_status::FEATURES_OK != 0,
            "the device does not accept features {:#x}",
            self.features()
        );
        Ok(())
    }

    /// Resets the device and sets it up, all queues of the largest size, without any request.
    pub(crate) fn set_up(&mut self) -> Result {
        self.set_up_sized(RING_SIZE)
    }

    /// Like [`Bench::set_up`] with queues of at most `size` descriptors.
    pub(crate) fn set_up_sized(&mut self, size: u16) -> Result {
        self.negotiate()?;
        for queue in 0..QUEUES {
            self.set_up_queue(queue, size)?;
        }
        self.transport.add_status(device_status::DRIVER_OK);
        let status = self.transport.status();
        ensure!(
            status & (device_status::DRIVER_OK | device_status::NEEDS_RESET)
                == device_status::DRIVER_OK,
            "status {status:#x} after the set-up"
        );
        Ok(())
    }

    /// Empties, places and enables one queue.
    pub(crate) fn set_up_queue(&mut self, queue: usize, size: u16) -> Result {
        let ring = &mut self.rings[queue];
        let offered = self.transport.queue_size(ring.queue);
        ensure!(offered != 0, "queue {queue} does not exist");
        ring.clear(self.style, size.min(offered));
        ring.set_up(self.transport);
        Ok(())
    }

    /// Sets the device up and begins a new epoch, in which there are no pools.
    pub(crate) fn fresh(&mut self) -> Result {
        self.set_up()?;
        self.supply_events(EVENT_BUFFERS);
        self.new_epoch()
    }

    /// Sets the device up in the same epoch, in which all pools are as they were.
    pub(crate) fn again(&mut self) -> Result {
        self.set_up()?;
        self.supply_events(EVENT_BUFFERS);
        self.same_epoch()
    }

    /// Makes event buffers available, the first at descriptor 0 each time.
    pub(crate) fn supply_events(&mut self, count: u16) {
        for nth in 0..count {
            self.enter_event(nth);
        }
        self.rings[usize::from(QUEUE_EVENT)].publish(self.transport);
    }

    /// Makes one event buffer available, which the device does not have.
    pub(crate) fn supply_event(&mut self, nth: u16) {
        self.enter_event(nth);
        self.rings[usize::from(QUEUE_EVENT)].publish(self.transport);
    }

    fn enter_event(&mut self, nth: u16) {
        let buffer = self.event_buffer(nth);
        let ring = &mut self.rings[usize::from(QUEUE_EVENT)];
        crate::ring::Descriptor::writable(buffer).write(ring.descriptors, nth);
        ring.enter(nth);
    }

    /// The `nth` buffer for an event.
    pub(crate) fn event_buffer(&self, nth: u16) -> Region {
        self.areas
            .events
            .part(usize::from(nth) * Event::SIZE, Event::SIZE)
    }

    /// The next event, which must come.
    pub(crate) fn event(&mut self) -> Result<Event> {
        let used = self.rings[usize::from(QUEUE_EVENT)].wait()?;
        ensure!(
            used.bytes as usize == Event::SIZE,
            "an event of {} bytes",
            used.bytes
        );
        let Ok(nth) = u16::try_from(used.head) else {
            return fail!("event queue used head {}", used.head);
        };
        let mut bytes = [0; Event::SIZE];
        self.event_buffer(nth).take(0, &mut bytes);
        Ok(Event::from_bytes(&bytes))
    }

    /// A slot's readable half: header and list.
    pub(crate) fn question(&self, slot: usize) -> Region {
        self.areas.slots.part(slot * SLOT_BYTES, SLOT_ANSWER)
    }

    /// A slot's writable half.
    pub(crate) fn reply(&self, slot: usize) -> Region {
        self.areas
            .slots
            .part(slot * SLOT_BYTES + SLOT_ANSWER, SLOT_BYTES - SLOT_ANSWER)
    }

    /// One of the pairs.
    pub(crate) fn random_pair(&mut self) -> u16 {
        self.random.pick(&[0, 1])
    }

    /// The ring of a queue.
    pub(crate) fn ring(&mut self, queue: u16) -> &mut Ring {
        &mut self.rings[usize::from(queue)]
    }

    /// An epoch that was not used in this run.
    pub(crate) fn next_epoch(&mut self) -> [u64; 2] {
        self.epochs += 1;
        [self.epochs, self.epoch[1]]
    }

    /// A ticket above all before.
    pub(crate) fn next_ticket(&mut self) -> u64 {
        self.ticket += 1;
        self.ticket
    }

    /// `count` stamps that no page has had; the first of them.
    pub(crate) fn next_stamps(&mut self, count: u64) -> u64 {
        let first = self.stamp + 1;
        self.stamp += count;
        first
    }

    /// A pool id that was not used in this run.
    pub(crate) fn next_pool(&mut self) -> u32 {
        self.pool += 1;
        self.pool
    }

    /// Offers one chain on a queue and waits until it is used; `build` adds its descriptors. Returns
    /// the used bytes.
    pub(crate) fn exchange(&mut self, queue: u16, build: impl FnOnce(&mut Chain)) -> Result<u32> {
        let transport = self.transport;
        let ring = self.ring(queue);
        let mut chain = Chain::begin(ring, 0);
        build(&mut chain);
        let head = chain.end();
        ring.offer(transport, head);
        let used = ring.wait()?;
        ensure!(
            used.head == u32::from(head),
            "queue {queue} used head {}, offered {head}",
            used.head
        );
        Ok(used.bytes)
    }

    /// Whether the page is the content's.
    pub(crate) fn holds(&self, page: Region, content: Content) -> bool {
        self.template.is(content, page)
    }

    /// The request queues, as far as the checks use them.
    pub(crate) fn request_queues() -> core::ops::Range<u16> {
        QUEUE_REQUEST_FIRST..queue_count(PAIRS)
    }
}
