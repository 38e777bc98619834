// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How pages are written: to all chosen stores at once, and to another one in place of any that fails.
//!
//! ```text
//!  slots hold nothing ─▶ stores chosen ─▶ puts under way ─▶ acknowledged ─▶ slots name their copies
//!                             ▲                 │ failed, full, late
//!                             └── another one ◀─┘
//! ```
//! The table names a copy only if it was acknowledged and its store is trusted as it was when the write
//! began. What else may lie about, old copies and those that nobody acknowledged, is flushed later.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tmem_pages::{PAGE_SIZE, PageBytes, SlotWrite};
use tmem_remote_protocol::{PAGES_MAX, PutEntry, Reply, Status, pool};
use tokio::time::{Instant, timeout_at};

use super::commit::Commit;
use super::error::WriteError;
use super::lanes::Call;
use super::session::Session;
use crate::connect::Connector;
use crate::control::MemberNo;
use crate::lane::LaneError;
use crate::settings::Ack;
use crate::shared::Shared;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Copies that the page with the fewest has.
    pub copies: u8,
}

/// Pages of one frame, on their way.
pub(super) struct Part<'a> {
    pub(super) pages: &'a [SlotWrite<'a>],
    /// The generation of the first; each has one more.
    pub(super) first: u64,
    /// The bytes of all, for all stores.
    pub(super) body: Bytes,
    pub(super) entries: Vec<PutEntry>,
    /// Members that had a copy of what each slot held.
    pub(super) old: Vec<u64>,
    /// Members that acknowledged each page.
    pub(super) acked: Vec<u64>,
    /// Members that were asked.
    pub(super) tried: u64,
    /// The trust that members had when they were asked.
    pub(super) trust: [u64; 64],
    /// What went wrong last.
    pub(super) why: String,
}

/// A put to one store.
struct Put {
    call: Call,
    /// Which pages of the part; nothing for all.
    some: Option<Vec<usize>>,
    statuses: Vec<Status>,
}

/// Why a part is not done.
enum PartError {
    /// A store takes fewer pages at once: try again with as many.
    Smaller,
    Failed(WriteError),
}

enum Next {
    Answer(usize, Result<(), LaneError>),
    Time,
}

impl<C: Connector> Session<C> {
    /// Writes pages. On return each has as many copies as the settings ask for, or is told to the
    /// driver as having fewer.
    ///
    /// # Errors
    /// [`WriteError`]; none of the slots holds a page then.
    pub async fn write(&mut self, batch: &[SlotWrite<'_>]) -> Result<Written, WriteError> {
        let begun = Instant::now();
        let shared = Arc::clone(&self.shared);
        let result = self.write_parts(&shared, batch).await;
        let (pages, total) = (batch.len() as u64, &shared.metrics.total);
        total.batches.one();
        match &result {
            Ok(_) => {
                total.writes.add(pages);
                shared.metrics.writes.record(begun.elapsed());
            }
            Err(_) => {
                total.write_failures.add(pages);
                // Also what was written of it.
                shared.forget(batch.iter().map(|page| page.0));
            }
        }
        result
    }

    async fn write_parts(
        &mut self,
        shared: &Arc<Shared<C>>,
        batch: &[SlotWrite<'_>],
    ) -> Result<Written, WriteError> {
        let slots = shared.table.slots();
        if let Some((slot, ..)) = batch.iter().find(|page| page.0 >= slots) {
            return Err(WriteError::NoSuchSlot { slot: *slot, slots });
        }
        let mut copies = self.shared.settings.replicas;
        let mut rest = batch;
        while !rest.is_empty() {
            if let Some(epoch) = shared.fenced_by() {
                return Err(WriteError::Fenced { epoch });
            }
            let most = usize::try_from(PAGES_MAX)
                .unwrap_or(1)
                .min(shared.pages_max());
            let (pages, after) = rest.split_at(most.min(rest.len()));
            match self.write_part(shared, pages).await {
                Ok(written) => {
                    copies = copies.min(written.copies);
                    rest = after;
                }
                Err(PartError::Smaller) => {}
                Err(PartError::Failed(error)) => return Err(error),
            }
        }
        Ok(Written { copies })
    }

    async fn write_part(
        &mut self,
        shared: &Arc<Shared<C>>,
        pages: &[SlotWrite<'_>],
    ) -> Result<Written, PartError> {
        let failed = PartError::Failed;
        // Before the generations are drawn: see `settled_below`.
        let _writing = shared.begin_writing(shared.table.last_generation() + 1);
        let count = u32::try_from(pages.len()).unwrap_or(u32::MAX);
        let first = (shared.table.generations(count)).map_err(|error| failed(error.into()))?;
        let mut old = Vec::with_capacity(pages.len());
        for (slot, header, _) in pages {
            old.push(shared.table.clear(*slot).unwrap_or(0));
            shared.let_go(*slot, None);
            let noted = shared.table.set_header(*slot, header);
            noted.map_err(|error| failed(error.into()))?;
        }
        let mut part = Part {
            pages,
            first,
            body: self.body(pages),
            entries: entries(pages, first),
            acked: vec![0; pages.len()],
            old,
            tried: 0,
            trust: [0; 64],
            why: "no store takes pages now".into(),
        };
        let (replicas, late) = self.wanted(pages.len());
        shared.refresh(&mut self.view);
        let placement = self.view.place(replicas, 0, 0, &mut self.random);
        let mut puts = Vec::new();
        for member in placement.members() {
            self.begin_put(&mut part, member, None, &mut puts);
        }
        let ended = self.finish_puts(&mut part, replicas, &mut puts).await;
        puts.iter().for_each(|put| self.lanes.abandon(&put.call));
        if let Err(error) = ended {
            shared.give_back(&part);
            return Err(error);
        }
        Commit {
            shared: shared.as_ref(),
            part: &part,
            late,
        }
        .run()
        .map_err(failed)
    }

    /// How many copies to wait for, and whether the others are made later.
    fn wanted(&self, pages: usize) -> (u8, bool) {
        let settings = &self.shared.settings;
        let room = self.shared.held_pages().saturating_add(pages as u64);
        let late = settings.ack == Ack::First
            && settings.replicas > settings.min_copies
            && room <= u64::from(settings.held_pages_max);
        if late {
            (settings.min_copies, true)
        } else {
            (settings.replicas, false)
        }
    }

    fn body(&mut self, pages: &[SlotWrite<'_>]) -> Bytes {
        // Takes back the memory of the last part, unless a store that is late still needs it.
        self.bodies.reserve(pages.len() * PAGE_SIZE);
        for (_, _, page) in pages {
            self.bodies.extend_from_slice(*page);
        }
        self.bodies.split().freeze()
    }

    fn begin_put(
        &mut self,
        part: &mut Part<'_>,
        member: MemberNo,
        some: Option<Vec<usize>>,
        puts: &mut Vec<Put>,
    ) {
        part.tried |= member.bit();
        if let Some(trust) = part.trust.get_mut(member.index()) {
            *trust = self.shared.trust(member);
        }
        self.lanes.catch_up(&self.view, member);
        puts.push(Put {
            call: Call::new(member),
            some,
            statuses: Vec::new(),
        });
    }

    async fn finish_puts(
        &mut self,
        part: &mut Part<'_>,
        replicas: u8,
        puts: &mut Vec<Put>,
    ) -> Result<(), PartError> {
        let limit = self.shared.settings.request_timeout;
        let mut more = true;
        loop {
            if std::mem::take(&mut more) {
                // The stores work while the disk is written.
                self.push(part, puts);
                self.write_disk(part, puts);
            }
            if puts.is_empty() {
                return Ok(());
            }
            let overdue = puts.iter().map(|put| put.call.begun + limit).min();
            let wake_at = overdue.unwrap_or_else(Instant::now);
            match self.next_put(part, puts, wake_at).await {
                Next::Answer(at, answer) => {
                    let put = puts.swap_remove(at);
                    match answer {
                        Ok(()) => self.count(part, &put),
                        Err(LaneError::TooLarge(most)) => {
                            self.shared.lower_pages_max(most);
                            return Err(PartError::Smaller);
                        }
                        Err(error) => self.put_failed(part, &put, &error),
                    }
                }
                Next::Time => {
                    let now = Instant::now();
                    let late = puts.extract_if(.., |put| put.call.begun + limit <= now);
                    for put in late.collect::<Vec<_>>() {
                        self.put_failed(part, &put, &LaneError::Timeout(limit));
                    }
                }
            }
            more = self.replace(part, replicas, puts);
        }
    }

    /// Asks one more store for the pages that have too few copies, also counting those on their way.
    /// True if there is one.
    fn replace(&mut self, part: &mut Part<'_>, replicas: u8, puts: &mut Vec<Put>) -> bool {
        let mut coming = vec![0_u64; part.pages.len()];
        for put in puts.iter() {
            let mut comes = |at: usize| {
                if let Some(mask) = coming.get_mut(at) {
                    *mask |= put.call.member.bit();
                }
            };
            match &put.some {
                None => (0..part.pages.len()).for_each(&mut comes),
                Some(some) => some.iter().copied().for_each(&mut comes),
            }
        }
        let mut short = Vec::new();
        let mut holders = 0;
        for (at, (acked, coming)) in part.acked.iter().zip(&coming).enumerate() {
            if (acked | coming).count_ones() < u32::from(replicas) {
                short.push(at);
                holders |= acked | coming;
            }
        }
        if short.is_empty() {
            return false;
        }
        self.shared.refresh(&mut self.view);
        let placement = (self.view).place(1, holders, part.tried, &mut self.random);
        let Some(member) = placement.members().next() else {
            return false;
        };
        self.shared.metrics.total.replaced.one();
        let some = (short.len() < part.pages.len()).then_some(short);
        self.begin_put(part, member, some, puts);
        true
    }

    fn count(&self, part: &mut Part<'_>, put: &Put) {
        let member = put.call.member;
        let store = self.shared.metrics.store(member.index());
        let every: Vec<usize>;
        let places = match &put.some {
            Some(some) => some,
            None => {
                every = (0..part.pages.len()).collect();
                &every
            }
        };
        for (at, status) in places.iter().zip(&put.statuses) {
            if status.is_ok() {
                store.puts.one();
                if let Some(acked) = part.acked.get_mut(*at) {
                    *acked |= member.bit();
                }
                continue;
            }
            store.refused.one();
            part.why = format!("store {member}: {status}");
            if *status == Status::Fenced {
                self.shared.fence(self.shared.table.epoch() + 1);
            }
        }
    }

    fn put_failed(&mut self, part: &mut Part<'_>, put: &Put, error: &LaneError) {
        part.why = format!("store {}: {error}", put.call.member);
        self.lanes.fail(&self.view, put.call.member, error);
    }

    /// The copies on this host's disk, of those puts that go there.
    fn write_disk(&mut self, part: &mut Part<'_>, puts: &mut Vec<Put>) {
        let Some(disk) = self.shared.disk.clone() else {
            return;
        };
        let on_disk: Vec<Put> = (puts)
            .extract_if(.., |put| self.is_disk(put.call.member))
            .collect();
        for mut put in on_disk {
            let pages: Vec<(u32, u64, u32, &PageBytes)> = (part.pages.iter().zip(part.first..))
                .enumerate()
                .filter(|(at, _)| put.some.as_ref().is_none_or(|some| some.contains(at)))
                .map(|(_, ((slot, header, page), generation))| {
                    (*slot, generation, header.checksum, *page)
                })
                .collect();
            match disk.write(&pages) {
                Ok(()) => {
                    put.statuses = vec![Status::Ok; pages.len()];
                    self.count(part, &put);
                }
                Err(error) => part.why = error.to_string(),
            }
        }
    }

    /// Sends what can be sent at once.
    fn push(&mut self, part: &Part<'_>, puts: &mut [Put]) {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for put in puts.iter_mut() {
            if !self.is_disk(put.call.member) && self.lanes.lane(put.call.member).is_some() {
                // An error comes again when the answer is polled for.
                let _ = self.poll_put(&mut cx, part, put);
            }
        }
    }

    async fn next_put(&mut self, part: &Part<'_>, puts: &mut [Put], wake_at: Instant) -> Next {
        let budget = self.spin.budget();
        let mut looked = budget.is_zero();
        let answer = poll_fn(|cx| {
            if let Poll::Ready(answer) = self.poll_puts(cx, part, puts) {
                return Poll::Ready(answer);
            }
            if looked {
                return Poll::Pending;
            }
            looked = true;
            let begun = Instant::now();
            while begun.elapsed() < budget {
                let members = puts.iter().map(|put| put.call.member);
                if self.lanes.fill_now(members)
                    && let Poll::Ready(answer) = self.poll_puts(cx, part, puts)
                {
                    self.spin.learn(true);
                    return Poll::Ready(answer);
                }
                std::hint::spin_loop();
            }
            self.spin.learn(false);
            Poll::Pending
        });
        match timeout_at(wake_at, answer).await {
            Ok((at, answer)) => Next::Answer(at, answer),
            Err(_) => Next::Time,
        }
    }

    fn poll_puts(
        &mut self,
        cx: &mut Context<'_>,
        part: &Part<'_>,
        puts: &mut [Put],
    ) -> Poll<(usize, Result<(), LaneError>)> {
        for (at, put) in puts.iter_mut().enumerate() {
            if !put.statuses.is_empty() {
                return Poll::Ready((at, Ok(())));
            }
            if let Poll::Ready(done) = self.poll_put(cx, part, put) {
                return Poll::Ready((at, done));
            }
        }
        Poll::Pending
    }

    fn poll_put(
        &mut self,
        cx: &mut Context<'_>,
        part: &Part<'_>,
        put: &mut Put,
    ) -> Poll<Result<(), LaneError>> {
        if !put.statuses.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let (some, statuses) = (&put.some, &mut put.statuses);
        self.lanes.poll_call(
            cx,
            &self.view,
            &mut put.call,
            &mut |lane| {
                let pages = some.as_ref().map_or(part.pages.len(), Vec::len);
                if pages > lane.pages_max() {
                    return Err(LaneError::TooLarge(lane.pages_max()));
                }
                match some {
                    None => lane.start_put(&part.entries, [part.body.clone()]),
                    Some(some) => {
                        let entries: Vec<PutEntry> = (some.iter())
                            .filter_map(|at| part.entries.get(*at).copied())
                            .collect();
                        lane.start_put(&entries, some.iter().map(|at| part.page(*at)))
                    }
                }
            },
            &mut |reply| {
                if let Reply::PutDone { statuses: told, .. } = reply {
                    *statuses = told.to_vec();
                }
            },
        )
    }
}

impl Part<'_> {
    /// The bytes of one page.
    pub(super) fn page(&self, at: usize) -> Bytes {
        let begin = (at * PAGE_SIZE).min(self.body.len());
        let end = (begin + PAGE_SIZE).min(self.body.len());
        self.body.slice(begin..end)
    }
}

fn entries(pages: &[SlotWrite<'_>], first: u64) -> Vec<PutEntry> {
    (pages.iter().zip(first..))
        .map(|((slot, header, _), generation)| {
            PutEntry::new(pool::PERSISTENT, *slot, generation, header.checksum)
        })
        .collect()
}
