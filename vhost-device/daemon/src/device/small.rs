// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Thread 0: the small queues. Control and events are short work and go first; the balloon's may be
//! long, and looks at the other two between its pieces.

use tmem_abi::{QUEUE_BALLOON, QUEUE_CONTROL, QUEUE_EVENT, QUEUE_REPORT, event as kind};
use vm_memory::{GuestAddressSpace, GuestMemoryMmap};

use super::balloon::{self, Lane, Slot};
use super::batch::Batch;
use super::request::Chain;
use super::request::serve::Served;
use super::ring::{Ring, Taken};
use super::worker::Context;
use super::{Device, control};
use crate::limits::TAKE_MAX;

/// What thread 0 works with.
#[derive(Debug, Default)]
pub(super) struct Desk {
    chain: Chain,
    slot: Slot,
}

/// The queues of thread 0.
#[derive(Clone, Copy)]
struct Rings<'a> {
    control: &'a Ring,
    event: &'a Ring,
    balloon: &'a Ring,
    report: &'a Ring,
}

impl<'a> Rings<'a> {
    fn of(rings: &'a [Ring]) -> Option<Self> {
        let ring = |queue: u16| rings.get(usize::from(queue));
        Some(Self {
            control: ring(QUEUE_CONTROL)?,
            event: ring(QUEUE_EVENT)?,
            balloon: ring(QUEUE_BALLOON)?,
            report: ring(QUEUE_REPORT)?,
        })
    }
}

impl Device {
    /// Serves the small queues until none has anything left.
    pub(super) fn run_small(&self, context: &Context<'_>, rings: &[Ring]) {
        let Some(rings) = Rings::of(rings) else {
            return;
        };
        let mut desk = self.station.desk.lock();
        let Desk { chain, slot } = &mut *desk;
        context.metrics.control().kicked();
        while !(context.over)() {
            let mem = context.memory.memory();
            rings.control.suppress_kicks(&mem);
            let mut served = self.talk(context, &mem, chain, rings);
            served += self.release(context, &mem, chain, slot, rings);
            if served == 0 && !self.ask_for_kicks(context, &mem, rings) {
                break;
            }
        }
    }

    /// Serves control requests and delivers events. Returns the number of requests.
    fn talk(
        &self,
        context: &Context<'_>,
        mem: &GuestMemoryMmap,
        chain: &mut Chain,
        rings: Rings<'_>,
    ) -> usize {
        let control = batch(context, mem, rings.control, "control");
        let served = control.serve(TAKE_MAX, |taken, _, _| {
            Some(self.serve_control(context, mem, chain, taken))
        });
        let event = batch(context, mem, rings.event, "event");
        while !self.events.is_empty() {
            let delivered = event.serve(1, |taken, _, _| {
                Some(match chain.gather(taken) {
                    Ok(()) => self.events.deliver(mem, chain),
                    Err(kind) => Served::silent(kind),
                })
            });
            if delivered == 0 || (context.over)() {
                break;
            }
        }
        served
    }

    /// Serves one request of the balloon and one of the report queue. Returns their number.
    fn release(
        &self,
        context: &Context<'_>,
        mem: &GuestMemoryMmap,
        chain: &mut Chain,
        slot: &mut Slot,
        rings: Rings<'_>,
    ) -> usize {
        let mut served = 0;
        for (ring, name, lane) in [
            (rings.balloon, "balloon", Lane::Balloon),
            (rings.report, "report", Lane::Report),
        ] {
            served += batch(context, mem, ring, name).serve(1, |taken, _, _| {
                let mut between = || {
                    self.talk(context, mem, chain, rings);
                    (context.over)() || ring.draining()
                };
                if let Err(kind) = slot.chain.gather(taken) {
                    return Some(Served::silent(kind));
                }
                let ready = context.guest.epoch().is_some();
                let balloon = &self.station.balloon;
                Some(balloon::serve(
                    mem,
                    slot,
                    lane,
                    balloon,
                    ready,
                    &mut between,
                ))
            });
        }
        served
    }

    /// Returns whether there is more to do than there was a moment ago.
    fn ask_for_kicks(
        &self,
        context: &Context<'_>,
        mem: &GuestMemoryMmap,
        rings: Rings<'_>,
    ) -> bool {
        let mut pending = false;
        for (ring, name) in [
            (rings.control, "control"),
            (rings.balloon, "balloon"),
            (rings.report, "report"),
            (rings.event, "event"),
        ] {
            match ring.ask_for_kicks(mem) {
                // Buffers for events are no work as long as there is nothing to say.
                Ok(more) => pending |= more && !(name == "event" && self.events.is_empty()),
                Err(kind) => context.broken(kind, name),
            }
        }
        pending
    }

    fn serve_control(
        &self,
        context: &Context<'_>,
        mem: &GuestMemoryMmap,
        chain: &mut Chain,
        taken: Taken<'_>,
    ) -> Served {
        if let Err(kind) = chain.gather(taken) {
            return Served::silent(kind);
        }
        let outcome = control::serve(mem, chain, context.guest);
        if outcome.greeted {
            // Delivered after this batch by the same thread, so no wake-up is needed.
            self.events.push(kind::GRANT, context.guest.grant_pages());
            for (kind, value) in self.station.balloon.greeted() {
                self.events.push(kind, value);
            }
        }
        outcome.served
    }
}

fn batch<'a>(
    context: &'a Context<'a>,
    mem: &'a GuestMemoryMmap,
    ring: &'a Ring,
    name: &'a str,
) -> Batch<'a> {
    Batch {
        context,
        metrics: context.metrics.control(),
        ring,
        name,
        mem,
    }
}
