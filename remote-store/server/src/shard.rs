// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A shard: what the connections of one thread share. The engine's worker, the buffer that requests
//! are read to, and the one that answers are written from.
//!
//! A connection that waits has no buffer of its own: it reads into its shard's, serves what came and
//! writes the answers within one turn, in which no other connection of the thread runs. Only what
//! does not fit into a turn, half a request or answers that the client does not take, moves to
//! buffers of the connection, which it gives back when it is done with them.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use tmem_pages::Worker;
use tmem_remote_protocol::FRAME_MAX;
use tokio::time::Instant;

use crate::limits::{READ_BYTES, WRITE_BYTES};
use crate::store::{Store, StoreError};

/// Buffers that are kept for the next connection that needs one.
const SPARE_MAX: usize = 8;
/// The load is that of a span of at least this length.
const LOAD_SPAN: Duration = Duration::from_millis(100);
/// A connection is alone on its shard after so many batches in a row.
const ALONE: u32 = 8;

/// What the connections of one thread share.
#[derive(Debug)]
pub struct Shard {
    pub(crate) store: Arc<Store>,
    pub(crate) number: u16,
    pub(crate) worker: RefCell<Worker>,
    pub(crate) reading: RefCell<Box<[u8]>>,
    pub(crate) writing: RefCell<BytesMut>,
    spare: RefCell<Vec<Vec<u8>>>,
    /// Batches that were served.
    served: Cell<u64>,
    /// The connection that was served last, and how many batches in a row.
    last: Cell<(u64, u32)>,
    /// The thread does not sleep now, but polls.
    awake: Cell<bool>,
    /// Somebody else writes the log, and calls [`Shard::logged`].
    log_is_written: Cell<bool>,
    /// Who waits for the log.
    waiting_for_log: RefCell<Vec<Waker>>,
    /// Who waits for the next batch.
    waiting: RefCell<Option<Waker>>,
    busy: Cell<Duration>,
    since: Cell<Option<Instant>>,
}

impl Store {
    /// What the connections of one thread share.
    ///
    /// # Errors
    /// [`StoreError::Worker`] if there are as many shards as the store was opened for.
    pub fn shard(self: &Arc<Self>) -> Result<Rc<Shard>, StoreError> {
        let worker = self.engine().worker()?;
        let Some(number) = self.take_shard() else {
            return Err(StoreError::TooManyShards {
                most: self.config().shards_max,
            });
        };
        Ok(Rc::new(Shard {
            store: Arc::clone(self),
            number,
            worker: RefCell::new(worker),
            reading: RefCell::new(vec![0; READ_BYTES].into_boxed_slice()),
            writing: RefCell::new(BytesMut::with_capacity(WRITE_BYTES + FRAME_MAX)),
            spare: RefCell::default(),
            served: Cell::new(0),
            last: Cell::default(),
            awake: Cell::new(false),
            log_is_written: Cell::new(false),
            waiting_for_log: RefCell::default(),
            waiting: RefCell::new(None),
            busy: Cell::new(Duration::ZERO),
            since: Cell::new(None),
        }))
    }
}

impl Shard {
    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Batches of requests that were served so far.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.served.get()
    }

    /// From now on connections wait for somebody else to write the log, instead of doing it themselves.
    pub(crate) fn wait_for_log(&self) {
        self.log_is_written.set(true);
    }

    pub(crate) fn waits_for_log(&self) -> bool {
        self.log_is_written.get()
    }

    /// Has `waker` hear of the log's progress.
    pub(crate) fn wake_when_logged(&self, waker: &Waker) {
        self.waiting_for_log.borrow_mut().push(waker.clone());
    }

    /// The log has got further, or has failed.
    pub(crate) fn logged(&self) {
        let waiting = std::mem::take(&mut *self.waiting_for_log.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Waits for a batch of requests.
    pub(crate) async fn work(&self) {
        let before = self.served.get();
        poll_fn(|cx| {
            if self.served.get() != before {
                return Poll::Ready(());
            }
            *self.waiting.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Buffers that connections have used and given back, to be used again: how many were needed at one
    /// time, up to a bound.
    #[must_use]
    pub fn spare_buffers(&self) -> usize {
        self.spare.borrow().len()
    }

    /// An empty buffer.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        let spare = self.spare.borrow_mut().pop();
        spare.unwrap_or_else(|| Vec::with_capacity(READ_BYTES))
    }

    /// Takes a buffer that a connection is done with.
    pub(crate) fn give_back(&self, mut buffer: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        // One that grew for a long request is not kept.
        let fits = (READ_BYTES..=2 * READ_BYTES).contains(&buffer.capacity());
        if fits && spare.len() < SPARE_MAX {
            buffer.clear();
            spare.push(buffer);
        }
    }

    /// From now on the thread polls, or does not any more.
    pub(crate) fn set_awake(&self, awake: bool) {
        self.awake.set(awake);
    }

    /// The thread polls, and all that it served lately was this connection.
    pub(crate) fn is_awake_for(&self, connection: u64) -> bool {
        let (last, in_a_row) = self.last.get();
        self.awake.get() && last == connection && in_a_row >= ALONE
    }

    /// The load is told as of now, though nothing was served.
    pub(crate) fn idled(&self, now: Instant) {
        self.load(now, now);
    }

    /// Counts a batch of a connection that was served.
    pub(crate) fn worked(&self, connection: u64, from: Instant, to: Instant) {
        self.served.set(self.served.get() + 1);
        let in_a_row = match self.last.get() {
            (last, in_a_row) if last == connection => in_a_row.saturating_add(1),
            _ => 1,
        };
        self.last.set((connection, in_a_row));
        if let Some(waker) = self.waiting.borrow_mut().take() {
            waker.wake();
        }
        self.load(from, to);
    }

    fn load(&self, from: Instant, to: Instant) {
        self.busy
            .set(self.busy.get() + to.saturating_duration_since(from));
        let since = self.since.get().unwrap_or(from);
        let span = to.saturating_duration_since(since);
        if span >= LOAD_SPAN {
            let permille = self.busy.get().as_nanos() * 1000 / span.as_nanos().max(1);
            self.store
                .set_load(self.number, u32::try_from(permille).unwrap_or(u32::MAX));
            self.busy.set(Duration::ZERO);
            self.since.set(Some(to));
        } else {
            self.since.set(Some(since));
        }
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        self.store.give_shard(self.number);
    }
}
