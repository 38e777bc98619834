// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a page is read: from the copy that is likely to answer first, and from the next if it does not,
//! is late, or is not what was written.
//!
//! A copy with other bytes than expected proves nothing by itself: the caller may expect what was there
//! before the slot was written anew. So a copy is struck off only when another one was what is
//! expected, or when its store itself says that it has none; and only if the slot did not change while
//! that was found out.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tmem_pages::PageBytes;
use tmem_remote_protocol::{GetEntry, Reply, Status, checksum as sum, pool};
use tokio::time::Instant;

use super::error::ReadError;
use super::lanes::Call;
use super::session::Session;
use crate::connect::Connector;
use crate::control::{Kind, MemberNo, State};
use crate::lane::LaneError;
use crate::shared::{Held, Note};

/// A read of a slot that changes all the time is given up after this many tries.
const TRIES: usize = 4;
/// Copies that are asked for one page at most; more than there can be.
const ASKED_MAX: usize = 8;

/// What a store had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Got {
    /// The page.
    Good,
    /// The store says that it has none, or that it lost it.
    None(Status),
    /// Bytes that are not those that left, or not those that are expected.
    Other,
    /// The store cannot say.
    Refused(Status),
}

/// What happens next in a read.
enum Next {
    Answer(usize, Result<Got, LaneError>),
    Time,
}

impl<C: Connector> Session<C> {
    /// Reads a slot's page: the one with this CRC-32, if it is given.
    ///
    /// # Errors
    /// [`ReadError`]; what `page` holds then does not matter.
    pub async fn read(
        &mut self,
        slot: u32,
        checksum: Option<u32>,
        page: &mut PageBytes,
    ) -> Result<(), ReadError> {
        let begun = Instant::now();
        let shared = Arc::clone(&self.shared);
        shared.metrics.total.reads.one();
        let mut result = self.read_prefetched(slot, checksum, page).await;
        for _ in 0..TRIES {
            if result.is_ok() {
                break;
            }
            let version = shared.table.version(slot);
            result = self.read_copies(slot, version, checksum, page).await;
            if shared.table.version(slot) == version {
                break;
            }
        }
        match &result {
            Ok(()) => shared.metrics.reads.record(begun.elapsed()),
            Err(_) => shared.metrics.total.read_failures.one(),
        }
        result
    }

    async fn read_copies(
        &mut self,
        slot: u32,
        version: u64,
        checksum: Option<u32>,
        page: &mut PageBytes,
    ) -> Result<(), ReadError> {
        self.shared.refresh(&mut self.view);
        let Some(mask) = self.shared.table.copies(slot) else {
            return Err(ReadError::Nothing { slot });
        };
        let mut bad = Vec::new();
        let result = self.ask(slot, mask, checksum, page, &mut bad).await;
        let result = match result {
            Err(error) if self.read_held(slot, checksum, page) => {
                drop(error);
                self.shared.metrics.total.held_reads.one();
                Ok(())
            }
            other => other,
        };
        for (member, got) in bad {
            self.strike_off(slot, version, member, got, result.is_ok());
        }
        result
    }

    async fn ask(
        &mut self,
        slot: u32,
        mask: u64,
        checksum: Option<u32>,
        page: &mut PageBytes,
        bad: &mut Vec<(MemberNo, Got)>,
    ) -> Result<(), ReadError> {
        let copies = mask.count_ones();
        if mask == 0 {
            return Err(ReadError::Lost { slot });
        }
        let (order, count) = self.order(mask, checksum.is_some());
        let mut waiting = order.into_iter().take(count).flatten().peekable();
        // Those to whom it is too early to connect again: a page is not given up only for that.
        let mut put_off = 0;
        // Those that were silent on a connection from before: a page is not given up before a new one.
        let mut silent = 0;
        let request = GetEntry::new(pool::PERSISTENT, slot);
        let mut calls: Vec<Call> = Vec::new();
        let mut hedge_at = None;
        let mut first = None;
        let mut why = String::from("no store that has one is up");
        loop {
            if calls.is_empty() {
                let next = waiting.next().or_else(|| {
                    let member = MemberNo::all_in(put_off | silent).next()?;
                    put_off &= !member.bit();
                    silent &= !member.bit();
                    self.lanes.make_due(member);
                    Some(member)
                });
                let Some(member) = next else {
                    let damaged = bad.iter().any(|(_, got)| !matches!(got, Got::Refused(_)));
                    return Err(if damaged {
                        ReadError::Damaged { slot, copies, why }
                    } else {
                        ReadError::Unreachable { slot, copies, why }
                    });
                };
                if first.is_some_and(|first| first != member) {
                    self.shared.metrics.store(member.index()).failovers.one();
                }
                first = first.or(Some(member));
                if self.is_disk(member) {
                    match self.read_disk(slot, checksum, page) {
                        Got::Good => return Ok(()),
                        got => bad.push((member, got)),
                    }
                    why = "the disk does not have it".into();
                    continue;
                }
                let call = Call::new(member);
                hedge_at = (self.lanes.hedge_after(member)).map(|after| call.begun + after);
                calls.push(call);
            }
            let limit = self.patience(calls.len() + waiting.clone().count());
            let overdue = calls.iter().map(|call| call.begun + limit).min();
            let wake_at = (hedge_at.into_iter().chain(overdue).min()).unwrap_or_else(Instant::now);
            match self
                .next(&mut calls, &request, checksum, page, wake_at)
                .await
            {
                Next::Answer(at, answer) => {
                    let call = calls.swap_remove(at);
                    let hedged = first != Some(call.member) && !calls.is_empty();
                    match answer {
                        Ok(Got::Good) => {
                            self.won(&call, hedged);
                            calls.iter().for_each(|call| self.lanes.abandon(call));
                            return Ok(());
                        }
                        Ok(got) => {
                            why = format!("store {}: {}", call.member, describe(got));
                            bad.push((call.member, got));
                        }
                        Err(error) => {
                            why = format!("store {}: {error}", call.member);
                            self.lanes.fail(&self.view, call.member, &error);
                            if matches!(error, LaneError::Waiting(_)) {
                                put_off |= call.member.bit() & self.view.good();
                            }
                        }
                    }
                }
                Next::Time => {
                    let now = Instant::now();
                    // One by one: the last has more time.
                    let mut limit = limit;
                    while let Some(at) = calls.iter().position(|call| call.begun + limit <= now) {
                        let call = calls.swap_remove(at);
                        let error = LaneError::Timeout(limit);
                        why = format!("store {}: {error}", call.member);
                        self.lanes.fail(&self.view, call.member, &error);
                        if call.used_old_connection() {
                            silent |= call.member.bit() & self.view.good();
                        }
                        limit = self.patience(calls.len() + waiting.clone().count());
                    }
                    if hedge_at.is_some_and(|at| at <= now) && !calls.is_empty() {
                        hedge_at = None;
                        // The disk is for when nobody answers.
                        if let Some(member) = waiting.next_if(|member| !self.is_disk(*member)) {
                            self.shared.metrics.store(member.index()).hedges.one();
                            hedge_at = (self.lanes.hedge_after(member)).map(|after| now + after);
                            calls.push(Call::new(member));
                        }
                    }
                }
            }
        }
    }

    /// How long a store may take that is one of so many to turn to.
    fn patience(&self, copies: usize) -> Duration {
        let settings = &self.shared.settings;
        if copies > 1 {
            settings.failover_after()
        } else {
            settings.request_timeout
        }
    }

    /// Waits for the first answer, or for the time.
    async fn next(
        &mut self,
        calls: &mut [Call],
        request: &GetEntry,
        checksum: Option<u32>,
        page: &mut PageBytes,
        wake_at: Instant,
    ) -> Next {
        let alarm = Rc::clone(&self.alarm);
        let budget = self.spin.budget();
        let mut looked = budget.is_zero();
        let answer = poll_fn(|cx| {
            if let Poll::Ready((at, answer)) = self.poll_calls(cx, calls, request, checksum, page) {
                return Poll::Ready(Next::Answer(at, answer));
            }
            if looked {
                return Poll::Pending;
            }
            looked = true;
            let begun = Instant::now();
            let give_up_at = begun + budget;
            let mut now = begun;
            while now < give_up_at {
                // The runtime's timers are a thousand times coarser.
                if now >= wake_at {
                    return Poll::Ready(Next::Time);
                }
                let members = calls.iter().map(|call| call.member);
                if self.lanes.fill_now(members)
                    && let Poll::Ready((at, answer)) =
                        self.poll_calls(cx, calls, request, checksum, page)
                {
                    self.spin.learn(true);
                    return Poll::Ready(Next::Answer(at, answer));
                }
                std::hint::spin_loop();
                now = Instant::now();
            }
            self.spin.learn(false);
            Poll::Pending
        });
        (alarm.before(wake_at, answer).await).unwrap_or(Next::Time)
    }

    fn poll_calls(
        &mut self,
        cx: &mut Context<'_>,
        calls: &mut [Call],
        request: &GetEntry,
        checksum: Option<u32>,
        page: &mut PageBytes,
    ) -> Poll<(usize, Result<Got, LaneError>)> {
        for (at, call) in calls.iter_mut().enumerate() {
            let mut got = Got::Refused(Status::Failed);
            let done = self.lanes.poll_call(
                cx,
                &self.view,
                call,
                &mut |lane| lane.start_get(std::slice::from_ref(request)),
                &mut |reply| got = judge(&reply, checksum, page),
            );
            if let Poll::Ready(done) = done {
                return Poll::Ready((at, done.map(|()| got)));
            }
        }
        Poll::Pending
    }

    /// Whom to ask, the best first. With a checksum to tell the page by, those whose copies are not
    /// trusted now come last; without one they are not asked.
    fn order(&mut self, mask: u64, any: bool) -> ([Option<MemberNo>; ASKED_MAX], usize) {
        let mut ranked = Vec::with_capacity(4);
        for member in self.view.order(mask, &mut self.random) {
            self.lanes.catch_up(&self.view, member);
            let stage = match self.view.member(member) {
                Some(known) if known.kind == Kind::Disk => 1,
                Some(known) if known.state == State::Suspect => 2,
                _ => 0,
            };
            // One that was reached for in vain a moment ago comes after the disk.
            let cost = self.lanes.cost(member);
            let stage = if cost.0 == 4 && stage == 0 { 2 } else { stage };
            ranked.push((stage, cost, member));
        }
        if any {
            let others = MemberNo::all_in(mask & !self.view.good());
            ranked.extend(others.map(|member| (3, self.lanes.cost(member), member)));
        }
        ranked.sort_by_key(|(stage, cost, _)| (*stage, *cost));
        let mut order = [None; ASKED_MAX];
        for (place, (_, _, member)) in order.iter_mut().zip(&ranked) {
            *place = Some(*member);
        }
        (order, ranked.len().min(ASKED_MAX))
    }

    pub(super) fn is_disk(&self, member: MemberNo) -> bool {
        (self.view.member(member)).is_some_and(|known| known.kind == Kind::Disk)
    }

    fn read_disk(&self, slot: u32, checksum: Option<u32>, page: &mut PageBytes) -> Got {
        use crate::disk::DiskError;
        let Some(disk) = &self.shared.disk else {
            return Got::Refused(Status::Unsupported);
        };
        match disk.read(slot, page) {
            Ok(there) if checksum.is_none_or(|wanted| wanted == there.checksum) => Got::Good,
            Ok(_) => Got::Other,
            Err(DiskError::Missing) => Got::None(Status::Missing),
            Err(DiskError::Damaged) => Got::None(Status::Damaged),
            Err(DiskError::Failed(_)) => Got::Refused(Status::Failed),
        }
    }

    fn read_held(&self, slot: u32, checksum: Option<u32>, page: &mut PageBytes) -> bool {
        let Some(held) = self.shared.held(slot) else {
            return false;
        };
        take_held(&held, checksum, page)
    }

    fn won(&mut self, call: &Call, hedged: bool) {
        let store = self.shared.metrics.store(call.member.index());
        store.gets.one();
        if hedged {
            store.hedges_won.one();
        }
        let took: Duration = call.begun.elapsed();
        self.lanes.learn(call.member, took);
    }

    fn strike_off(&self, slot: u32, version: u64, member: MemberNo, got: Got, found: bool) {
        let store = self.shared.metrics.store(member.index());
        let gone = match got {
            Got::None(Status::Missing) => {
                store.missing.one();
                true
            }
            Got::None(_) => {
                store.bad_copies.one();
                true
            }
            Got::Other => {
                store.bad_copies.one();
                found
            }
            Got::Good | Got::Refused(_) => false,
        };
        if !gone {
            return;
        }
        // Not trusted: what it lacks, its reconciliation will find.
        if self.shared.trust(member) == 0 {
            return;
        }
        let generation = self.shared.table.last_generation();
        let removed = (self.shared.table).remove(slot, member.bit(), |now| now == version);
        if matches!(removed, Some((_, true))) {
            self.shared.note(Note::BadCopy {
                slot,
                member,
                generation,
            });
        }
    }
}

/// Copies a page that the host holds, if it is the one.
fn take_held(held: &Held, checksum: Option<u32>, page: &mut PageBytes) -> bool {
    if checksum.is_some_and(|wanted| wanted != held.checksum) || held.page.len() != page.len() {
        return false;
    }
    page.copy_from_slice(&held.page);
    sum(page) == held.checksum
}

/// What the answer to the get of one page is. A good page is copied; others are not.
fn judge(reply: &Reply<'_>, checksum: Option<u32>, page: &mut PageBytes) -> Got {
    let Reply::GetDone { entries, pages, .. } = reply else {
        return Got::Refused(Status::Failed);
    };
    let Some(entry) = entries.first() else {
        return Got::Refused(Status::Failed);
    };
    judge_page(entry.status(), entry.crc(), pages.first(), checksum, page)
}

fn judge_page(
    status: Status,
    crc: u32,
    bytes: Option<&PageBytes>,
    checksum: Option<u32>,
    page: &mut PageBytes,
) -> Got {
    match (status, bytes) {
        (Status::Ok, Some(bytes)) => {
            if sum(bytes) != checksum.unwrap_or(crc) {
                return Got::Other;
            }
            page.copy_from_slice(bytes);
            Got::Good
        }
        (Status::Missing | Status::Damaged, _) => Got::None(status),
        (status, _) => Got::Refused(status),
    }
}

fn describe(got: Got) -> String {
    match got {
        Got::Good => "the page".into(),
        Got::None(status) | Got::Refused(status) => status.to_string(),
        Got::Other => "other bytes than were written".into(),
    }
}
