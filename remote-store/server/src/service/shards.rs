// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The threads that serve: each has a runtime, a shard of the store, and the connections that are
//! handed to it.
//!
//! While requests come faster than a sleeping thread wakes, a shard polls instead of sleeping, for a
//! bounded time after each. Whether that pays is seen from the gap that a sleep has ended: a longer
//! one than the bound, and the shard sleeps at once the next time. Nor does it poll for a while after
//! it was made to stop by somebody else who wants its processor, for that may well be the client.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Instant, timeout};

use super::doors::Pass;
use super::error::{ServiceError, trying};
use super::listen::{self, Accepted};
use super::tls::Tls;
use crate::connection::{Access, Direct, Peer, serve_connection, serve_directly};
use crate::shard::Shard;
use crate::store::Store;

/// Connections that wait for their shard to take them.
const HANDED_MAX: usize = 1024;
/// Between two looks no more time passes than this, unless something else runs on the processor.
const LOOK_MAX: Duration = Duration::from_micros(200);
/// For how long not to poll then.
const REST: Duration = Duration::from_millis(20);

/// A connection on its way to its shard.
pub(super) struct Handed {
    pub(super) accepted: Accepted,
    pub(super) address: String,
    pub(super) pass: Pass,
    pub(super) tls: Option<Arc<Tls>>,
}

/// A thread that serves.
struct ShardThread {
    hand: mpsc::Sender<Handed>,
    connections: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

/// All of them.
pub(super) struct Shards(Vec<ShardThread>);

impl Shards {
    /// Starts as many as the store was opened for, on these processors if there are any.
    pub(super) fn start(
        store: &Arc<Store>,
        count: u16,
        pin: &[u16],
        poll: Duration,
    ) -> Result<Self, ServiceError> {
        let mut shards = Vec::new();
        for number in 0..count {
            let (hand, handed) = mpsc::channel(HANDED_MAX);
            let connections = Arc::new(AtomicUsize::new(0));
            let processor = pin.get(usize::from(number)).copied();
            let (store, counted) = (Arc::clone(store), Arc::clone(&connections));
            let (told, started) = std::sync::mpsc::channel();
            let thread = std::thread::Builder::new()
                .name(format!("shard-{number}"))
                .spawn(move || {
                    let started = start(&store, processor);
                    match started {
                        Ok((runtime, shard)) => {
                            // Whoever waits for it is there as long as this thread is young.
                            let _ = told.send(Ok(()));
                            runtime.block_on(serve(handed, &shard, &counted, poll));
                        }
                        Err(error) => {
                            let _ = told.send(Err(error));
                        }
                    }
                })
                .map_err(trying("start a thread"))?;
            let gone = || io::Error::other("it ended at once");
            started
                .recv()
                .map_err(|_| trying("start a shard")(gone()))??;
            shards.push(ShardThread {
                hand,
                connections,
                thread,
            });
        }
        Ok(Self(shards))
    }

    /// Hands a connection to the shard that has fewest.
    pub(super) fn hand_over(&self, connection: Handed) {
        let least = (self.0.iter()).min_by_key(|shard| shard.connections.load(Ordering::Relaxed));
        if let Some(shard) = least {
            shard.connections.fetch_add(1, Ordering::Relaxed);
            if shard.hand.try_send(connection).is_err() {
                shard.connections.fetch_sub(1, Ordering::Relaxed);
                tracing::warn!("a connection was dropped: its shard is too busy to take it");
            }
        }
    }

    /// Connections that shards have.
    pub(super) fn connections(&self) -> usize {
        let counts = self.0.iter();
        counts
            .map(|shard| shard.connections.load(Ordering::Relaxed))
            .sum()
    }

    /// Ends them.
    pub(super) fn stop(self) {
        for ShardThread { hand, thread, .. } in self.0 {
            drop(hand);
            if thread.join().is_err() {
                tracing::error!("a shard panicked");
            }
        }
    }
}

fn start(
    store: &Arc<Store>,
    processor: Option<u16>,
) -> Result<(tokio::runtime::LocalRuntime, Rc<Shard>), ServiceError> {
    if let Some(processor) = processor {
        let mut set = CpuSet::new();
        set.set(usize::from(processor));
        sched_setaffinity(None, &set)
            .map_err(io::Error::from)
            .map_err(trying("pin a shard to its processor"))?;
    }
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .map_err(trying("start a shard's runtime"))?;
    let shard = {
        let _entered = runtime.enter();
        store.shard()?
    };
    Ok((runtime, shard))
}

/// Serves what is handed over, until nothing more can be.
async fn serve(
    mut handed: mpsc::Receiver<Handed>,
    shard: &Rc<Shard>,
    connections: &Arc<AtomicUsize>,
    poll: Duration,
) {
    if !poll.is_zero() {
        spawn_local(keep_awake(Rc::clone(shard), poll));
    }
    if let Some(journal) = &shard.store().journal {
        shard.wait_for_log();
        let (shard, mut progress) = (Rc::clone(shard), journal.log.progress());
        spawn_local(async move {
            while progress.changed().await.is_ok() {
                shard.logged();
            }
        });
    }
    while let Some(connection) = handed.recv().await {
        let (shard, counted) = (Rc::clone(shard), Arc::clone(connections));
        spawn_local(async move {
            let address = connection.address.clone();
            let store = Arc::clone(shard.store());
            if let Err(error) = serve_one(connection, shard).await {
                match store.registry().may_warn(Instant::now()) {
                    Some(unsaid) => {
                        tracing::warn!(client = address, %error, unsaid, "a connection could not be taken");
                    }
                    None => {
                        tracing::debug!(client = address, %error, "a connection could not be taken");
                    }
                }
            }
            counted.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// Serves one connection, with its pass in hand.
async fn serve_one(connection: Handed, shard: Rc<Shard>) -> io::Result<()> {
    let Handed {
        accepted,
        address,
        pass: _pass,
        tls,
    } = connection;
    let peer = |access| Peer { address, access };
    match (accepted, tls) {
        (Accepted::Unix(stream), _) => {
            let stream = listen::unix(stream)?;
            serve_directly(stream, Some(Direct::socket()), peer(Access::Any), shard).await;
        }
        (Accepted::Tcp(stream), None) => {
            let stream = listen::tcp(stream)?;
            serve_directly(stream, Some(Direct::socket()), peer(Access::Any), shard).await;
        }
        (Accepted::Tcp(stream), Some(tls)) => {
            let stream = listen::tcp(stream)?;
            let most = shard.store().config().limits.handshake;
            let accepted = Box::pin(timeout(most, tls.accept(stream))).await;
            let late = || io::Error::new(io::ErrorKind::TimedOut, "its handshake took too long");
            let (stream, access) = accepted.map_err(|_| late())??;
            // A TLS connection is large, and most of it is not touched while it waits.
            Box::pin(serve_connection(stream, peer(access), shard)).await;
        }
    }
    Ok(())
}

/// Keeps the thread from sleeping between requests that follow each other closely.
async fn keep_awake(shard: Rc<Shard>, most: Duration) {
    let mut last = Instant::now();
    let mut rested = last;
    loop {
        shard.work().await;
        let now = Instant::now();
        let close = now.saturating_duration_since(last) <= most;
        last = now;
        if !close || now < rested {
            continue;
        }
        let mut served = shard.served();
        let mut looked = now;
        shard.set_awake(true);
        loop {
            yield_now().await;
            let now = Instant::now();
            if shard.served() != served {
                served = shard.served();
                last = now;
            } else if now.saturating_duration_since(looked) > LOOK_MAX {
                rested = now + REST;
                break;
            } else if now.saturating_duration_since(last) > most {
                break;
            }
            looked = now;
        }
        shard.set_awake(false);
    }
}
