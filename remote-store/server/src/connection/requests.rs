// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Requests and their answers. Pages go from the read buffer into the engine's frames, and from the
//! frames into the write buffer, with nothing in between.

use std::sync::Arc;

use bytes::BytesMut;
use tmem_pages::Worker;
use tmem_remote_protocol::{Encoder, ListedEntry, PAGES_MAX, Request, Status, pool, upcoming};

use crate::store::{Asked, Keeper, Kind, Namespace, Put, Store};

/// Pages that are looked ahead at, at a time.
const AHEAD: usize = 64;

/// Answers the requests of one turn.
pub(super) struct Answering<'a> {
    keeper: Keeper<'a>,
    encoder: Encoder,
    /// Pages of the persistent pool that are likely to come next, and how many of them have come.
    ahead: [u32; AHEAD],
    known: usize,
    nth: usize,
}

impl<'a> Answering<'a> {
    pub(super) fn new(
        store: &'a Store,
        namespace: &'a Arc<Namespace>,
        worker: &'a mut Worker,
        shard: u16,
        encoder: Encoder,
    ) -> Self {
        let mut keeper = Keeper::new(store, namespace, worker, shard);
        keeper.begin();
        Self {
            keeper,
            encoder,
            ahead: [0; AHEAD],
            known: 0,
            nth: 0,
        }
    }

    /// These bytes are what comes next.
    #[inline]
    pub(super) fn look_ahead(&mut self, coming: &[u8]) {
        if self.nth >= self.known {
            self.nth = 0;
            self.known = upcoming(coming, pool::PERSISTENT, &mut self.ahead);
        }
    }

    /// Ends the turn. Says up to where the log must be safe before the answers may go.
    pub(super) fn end(mut self) -> u64 {
        self.keeper.end();
        self.keeper.logged()
    }

    /// Does what a request asks for, and appends the answer to `out`.
    pub(super) fn answer(&mut self, request: &Request<'_>, out: &mut BytesMut, asked: &mut Asked) {
        let (ahead, mut nth) = (&self.ahead[..self.known], self.nth);
        let mut next = |keeper: &mut Keeper<'_>| {
            keeper.look_ahead(nth, ahead);
            nth += 1;
        };
        let keeper = &mut self.keeper;
        let kind = match *request {
            Request::Put {
                request,
                entries,
                pages,
            } => {
                let mut statuses = [Status::Failed; PAGES_MAX as usize];
                let mut answered = 0;
                let puts = entries.iter().zip(pages);
                for (status, (entry, page)) in statuses.iter_mut().zip(puts) {
                    next(keeper);
                    *status = keeper.put(&Put { entry, page });
                    answered += 1;
                }
                self.encoder.put_done(out, request, &statuses[..answered]);
                Kind::Put
            }
            Request::Get { request, entries } => {
                let mut done = self.encoder.get_done(out, request, entries.len());
                for entry in entries {
                    next(keeper);
                    match keeper.get(entry, &mut |page| done.page(page)) {
                        Ok((generation, crc)) => done.hit(generation, crc),
                        Err(status) => done.miss(status),
                    }
                }
                done.finish();
                Kind::Get
            }
            Request::Flush { request, entries } => {
                let mut statuses = [Status::Failed; PAGES_MAX as usize];
                let mut answered = 0;
                for (status, entry) in statuses.iter_mut().zip(entries) {
                    *status = keeper.flush(entry);
                    answered += 1;
                }
                self.encoder.flush_done(out, request, &statuses[..answered]);
                Kind::Flush
            }
            Request::FlushPool {
                request,
                pool,
                generation,
            } => {
                let (status, pages) = match keeper.flush_pool(pool, generation) {
                    Ok(pages) => (Status::Ok, pages),
                    Err(status) => (status, 0),
                };
                self.encoder.flush_pool_done(out, request, status, pages);
                Kind::Flush
            }
            Request::List {
                request,
                pool,
                from,
                max,
            } => {
                let mut found: Vec<ListedEntry> = Vec::new();
                let next = keeper.list(pool, from, max as usize, &mut found);
                let end = next.is_none();
                self.encoder
                    .listed(out, request, &found, next.unwrap_or(0), end);
                Kind::Other
            }
            Request::Ping { request } => {
                self.encoder.pong(out, request);
                Kind::Other
            }
            // The decoder refuses a second hello.
            Request::Hello(_) => return,
        };
        self.nth = nth;
        asked[kind as usize] += 1;
    }
}
