// SPDX-License-Identifier: GPL-2.0
//! Requests of other users of a device than its disks: the clean cache, and programs' pagers.
//!
//! Such a user implements [`Call`] for what it wants sent, asks the device for a pool
//! (`pools.rs`), and gives its requests to [`Device::call`]. They share queues, slots and tickets
//! with the disks, but never make a page fault wait: one slot in eight, and whatever a disk's bios
//! wait for, is not for them. Nothing is kept back for a call that finds no room: it is handed
//! back, and its owner decides whether to wait ([`Device::wait_for_room`]) or to do without.
//!
//! A call that was sent ends exactly once. If the device is reset in between, it is formed anew from
//! the same [`Call`] and sent once more with its old ticket.

use crate::{
    bio::Segment,
    device::{Device, Pair},
    request::Answer,
    ring::{Pending, Refusal},
    vq::Queue,
    wire,
};
use kernel::prelude::*;

/// How long [`Device::wait_for_room`] sleeps at most.
const WAIT_MS: u32 = 100;

/// A request of another user of a device than its disks.
///
/// A request is formed when it is sent, and again when it is replayed after a reset of the device,
/// so that the first three functions give the same answers until [`Call::end`]. They are called
/// under the queue's lock, with interrupts off.
pub(crate) trait Call: Send {
    /// The request's head: `op`, `flags`, `pool`, object, `index` and `pages`. With a `ticket` of 0, a
    /// PUT or FLUSH draws one when it is sent.
    fn header(&self) -> wire::RequestHeader;

    /// With [`wire::flag::LIST`]: the index of page `nth`.
    fn index(&self, nth: u32) -> u32;

    /// The memory of a PUT or GET, in order and in whole pages. It stays in place until the end.
    fn each_segment(&self, each: &mut dyn FnMut(Segment));

    /// The end, exactly once; in any context, under no lock of this module. None: the device is
    /// gone, and nobody knows what became of the request.
    fn end(self: KBox<Self>, answer: Option<&Answer>);
}

/// Whether a call is answered out of a get queue.
pub(crate) fn is_get(call: &dyn Call) -> bool {
    call.header().op == wire::op::GET
}

/// A call that was sent, for whoever wants to poll for it.
pub(crate) struct InFlight {
    pair: usize,
    get: bool,
    pending: Pending,
}

impl Pair {
    fn queue(&self, get: bool) -> &Queue {
        if get {
            &self.get
        } else {
            &self.put
        }
    }
}

impl Device {
    /// Sends `call`. Never sleeps; any context. Otherwise gives it back:
    /// [`Refusal::Later`] if there is no room just now, or the device is being reset;
    /// [`Refusal::Never`] if the call is malformed or the device gone.
    pub(crate) fn call(&self, call: KBox<dyn Call>) -> Result<InFlight, (KBox<dyn Call>, Refusal)> {
        let get = is_get(&*call);
        let nth = self.this_pair();
        let Some(pair) = self.pairs.get(nth).filter(|_| !self.is_dead()) else {
            return Err((call, Refusal::Never));
        };
        let sent = pair.queue(get).call(call);
        self.look_after();
        match sent {
            Ok(pending) => {
                self.stats().calls_sent.inc();
                Ok(InFlight {
                    pair: nth,
                    get,
                    pending,
                })
            }
            Err(back) => {
                self.stats().calls_refused.inc();
                Err(back)
            }
        }
    }

    /// Sends as many of `calls` from the front as there is room for, with one notification, and with
    /// `poll` spins for the end of the last. All of them are gets, or none is. What was not sent stays in
    /// order, for the reason that is returned.
    pub(crate) fn call_all(&self, calls: &mut KVec<KBox<dyn Call>>, poll: bool) -> Option<Refusal> {
        let get = is_get(&**calls.first()?);
        let nth = self.this_pair();
        let Some(pair) = self.pairs.get(nth).filter(|_| !self.is_dead()) else {
            return Some(Refusal::Never);
        };
        let (last, refusal) = pair.queue(get).call_all(calls, get);
        self.look_after();
        if refusal.is_some() {
            self.stats().calls_refused.inc();
        }
        if let Some((pending, sent)) = last {
            self.stats().calls_sent.add(sent);
            if poll {
                self.poll(&InFlight {
                    pair: nth,
                    get,
                    pending,
                });
            }
        }
        refusal
    }

    /// Spins until the call of `inflight` has ended, or the polling time is over; ends whatever else
    /// has been answered meanwhile.
    pub(crate) fn poll(&self, inflight: &InFlight) {
        let Some(pair) = self.pairs.get(inflight.pair) else {
            return;
        };
        pair.queue(inflight.get)
            .poll_for(&inflight.pending, |done| self.complete(done));
    }

    /// Sleeps until a put (or else a get) may find room, for a tenth of a second at most.
    pub(crate) fn wait_for_room(&self, put: bool) {
        if let Some(pair) = self.pairs.get(self.this_pair()) {
            pair.queue(!put).wait_for_room(WAIT_MS);
        }
    }
}
