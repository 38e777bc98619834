// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pages asked for before they are read: one way there and back for many of them.
//!
//! What comes is kept for this thread, in a bounded list, and taken by the read of its slot if the slot
//! has not changed since it was asked for and the page is the one that is expected. Anything else is
//! dropped, and the read goes its usual way.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Context, Waker};

use tmem_pages::PageBytes;
use tmem_remote_protocol::{GetEntry, Reply, Status, checksum as sum, pool};
use tokio::time::{Duration, Instant};

use super::error::ReadError;
use super::session::Session;
use crate::connect::Connector;
use crate::control::MemberNo;
use crate::lane::{LaneError, RequestId};

/// Pages that a thread has asked for in advance at most: 1 MiB.
const PREFETCHED_MAX: usize = 256;

#[derive(Debug)]
enum Where {
    /// On its way, in this place of this request.
    Asked { request: usize, place: usize },
    /// Here.
    Here(Box<PageBytes>),
}

#[derive(Debug)]
struct Entry {
    version: u64,
    checksum: u32,
    place: Where,
}

/// What was asked for.
#[derive(Debug, Default)]
pub(super) struct Prefetched {
    pages: BTreeMap<u32, Entry>,
    requests: Vec<Option<(MemberNo, RequestId, Vec<u32>)>>,
}

impl<C: Connector> Session<C> {
    /// These slots' pages, with these CRC-32, are about to be read: they are asked for now. Waits for
    /// nothing.
    pub fn will_read(&mut self, slots: &[(u32, u32)]) {
        self.drop_prefetched();
        self.shared.refresh(&mut self.view);
        let mut asked: BTreeMap<u8, Vec<(u32, u32, u64)>> = BTreeMap::new();
        for (slot, checksum) in slots.iter().take(PREFETCHED_MAX) {
            let version = self.shared.table.version(*slot);
            let Some(mask) = self.shared.table.copies(*slot) else {
                continue;
            };
            let store = |member: &MemberNo| !self.is_disk(*member);
            let mut order = self.view.order(mask, &mut self.random.clone());
            let Some(member) = order.find(store) else {
                continue;
            };
            self.random.next();
            let pages = asked.entry(member.get()).or_default();
            pages.push((*slot, *checksum, version));
        }
        for (member, pages) in asked {
            if let Some(member) = MemberNo::new(member) {
                self.ask_in_advance(member, &pages);
            }
        }
    }

    fn ask_in_advance(&mut self, member: MemberNo, pages: &[(u32, u32, u64)]) {
        self.lanes.catch_up(&self.view, member);
        // A connection is made by the first read; nothing is asked for over one that is behind.
        let Some(lane) = self
            .lanes
            .lane(member)
            .filter(|lane| lane.outstanding() == 0)
        else {
            return;
        };
        let most = lane.pages_max();
        for part in pages.chunks(most) {
            let entries: Vec<GetEntry> = (part.iter())
                .map(|(slot, _, _)| GetEntry::new(pool::PERSISTENT, *slot))
                .collect();
            let Ok(id) = lane.start_get(&entries) else {
                return;
            };
            let request = self.prefetched.requests.len();
            let slots = part.iter().map(|(slot, _, _)| *slot).collect();
            self.prefetched.requests.push(Some((member, id, slots)));
            for (place, (slot, checksum, version)) in part.iter().enumerate() {
                let entry = Entry {
                    version: *version,
                    checksum: *checksum,
                    place: Where::Asked { request, place },
                };
                self.prefetched.pages.insert(*slot, entry);
            }
        }
        // What fails here fails again for the read that comes for it.
        let _ = lane.push(&mut Context::from_waker(Waker::noop()));
    }

    fn drop_prefetched(&mut self) {
        let wasted = self.prefetched.pages.len() as u64;
        self.shared.metrics.total.prefetch_wasted.add(wasted);
        self.prefetched.pages.clear();
        for (member, id, _) in self.prefetched.requests.drain(..).flatten() {
            if let Some(lane) = self.lanes.lane(member) {
                lane.abandon(id);
            }
        }
    }

    /// Takes the page if it was asked for in advance.
    pub(super) async fn read_prefetched(
        &mut self,
        slot: u32,
        checksum: Option<u32>,
        page: &mut PageBytes,
    ) -> Result<(), ReadError> {
        let nothing = Err(ReadError::Nothing { slot });
        let Some(entry) = self.prefetched.pages.get(&slot) else {
            return nothing;
        };
        if let Where::Asked { request, .. } = entry.place {
            self.await_request(request).await;
        }
        let Some(entry) = self.prefetched.pages.remove(&slot) else {
            return nothing;
        };
        let unchanged = self.shared.table.version(slot) == entry.version;
        let wanted = checksum.is_none_or(|checksum| checksum == entry.checksum);
        match entry.place {
            Where::Here(bytes) if unchanged && wanted => {
                page.copy_from_slice(&*bytes);
                self.shared.metrics.total.prefetched.one();
                Ok(())
            }
            _ => {
                self.shared.metrics.total.prefetch_wasted.one();
                nothing
            }
        }
    }

    /// Waits for the answer to a request, not longer than a read waits for its first store.
    async fn await_request(&mut self, number: usize) {
        let Some(place) = self.prefetched.requests.get_mut(number) else {
            return;
        };
        let Some((member, id, slots)) = place.take() else {
            return;
        };
        let limit = self.shared.settings.failover_after();
        let hedge_after = self.lanes.hedge_after(member).unwrap_or(limit);
        let wait = hedge_after.max(Duration::from_millis(1));
        // The connection may be another one by now.
        let Some(lane) = self.lanes.lane(member).filter(|lane| lane.owes(id)) else {
            return;
        };
        let budget = self.spin.budget();
        let pages = &mut self.prefetched.pages;
        let mut take = |reply: Reply<'_>| keep(&reply, number, &slots, pages);
        let begun = Instant::now();
        let mut looked = budget.is_zero();
        let answer = poll_fn(|cx| {
            if !looked {
                looked = true;
                match lane.spin(cx, id, budget.min(wait), &mut take) {
                    Ok(true) => return std::task::Poll::Ready(Ok(())),
                    Ok(false) => {}
                    Err(error) => return std::task::Poll::Ready(Err(error)),
                }
            }
            lane.poll_reply(cx, id, &mut take)
        });
        let done: Result<(), LaneError> = match self.alarm.before(begun + wait, answer).await {
            Some(done) => done,
            None => {
                lane.abandon(id);
                return;
            }
        };
        match done {
            Ok(()) => {
                let store = self.shared.metrics.store(member.index());
                store.gets.add(slots.len() as u64);
            }
            Err(error) => self.lanes.ended(&self.view, member, &error),
        }
    }
}

/// Keeps the pages of an answer that are still expected and whole.
fn keep(reply: &Reply<'_>, number: usize, slots: &[u32], kept: &mut BTreeMap<u32, Entry>) {
    let Reply::GetDone { entries, pages, .. } = reply else {
        return;
    };
    let mut pages = pages.iter();
    for (at, (slot, got)) in slots.iter().zip(entries.iter()).enumerate() {
        let bytes = match got.status() {
            Status::Ok => pages.next(),
            _ => None,
        };
        let Some(entry) = kept.get_mut(slot) else {
            continue;
        };
        let asked = matches!(entry.place, Where::Asked { request, place }
            if request == number && place == at);
        if let Some(bytes) = bytes
            && asked
            && sum(bytes) == entry.checksum
        {
            entry.place = Where::Here(Box::new(*bytes));
        }
    }
}
