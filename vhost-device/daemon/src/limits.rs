// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every bound that the daemon keeps to, with its reason.

use std::time::Duration;

use tmem_abi::{BATCH_PAGES_MAX, QUEUE_REQUEST_FIRST, QUEUE_SIZE_MAX};

/// Requests that a worker takes from one ring before it looks at the other. Small, since a driver that
/// does not use event indices is interrupted with the last of them.
pub const TAKE_MAX: usize = 16;

/// Requests that a worker gives back at a time: they share a lock and a look at the clock, and the
/// first waits for the work of the last, which [`USE_PAGES`] bounds.
pub const USE_MAX: usize = 4;

/// Pages after which a worker gives back what it has served.
pub const USE_PAGES: u32 = 8;

/// Pages of a PUT between two looks at the get ring: a get waits for at most this many copies.
pub const CHUNK_PAGES: u32 = 32;

/// Indices of a run's FLUSH between two looks at the get ring.
pub const FLUSH_CHUNK_PAGES: u32 = 1 << 20;

/// Pages that are asked for together before they are got; those of a request are, whatever their number.
pub const AHEAD_PAGES: usize = 256;

/// Descriptors of one chain. A chain may be longer than its queue when its table is indirect.
pub const CHAIN_DESCRIPTORS_MAX: usize = 1024;

/// Queue pairs of one guest: the vhost-user crate hands queues to threads by 64-bit masks.
pub const QUEUE_PAIRS_MAX: u16 = (64 - QUEUE_REQUEST_FIRST) / 2;

/// The longest polling that can be asked for, in µs; beyond this a sleep is always cheaper.
pub const POLL_US_MAX: u32 = 10_000;

/// For how long GET_VRING_BASE waits until the requests that were taken are used.
pub const DRAIN_DEADLINE: Duration = Duration::from_millis(500);

/// For how long an ending daemon waits until drivers have a buffer for the news.
pub const ENDING_GRACE: Duration = Duration::from_millis(100);

/// For how long a start waits until the process that had the state before is gone.
pub const LAST_USER_GONE: Duration = Duration::from_secs(5);
/// How often it looks.
pub const LAST_USER_PAUSE: Duration = Duration::from_millis(2);

/// How often whoever moves pages looks for work that nobody called it for.
pub const MOVER_PAUSE: Duration = Duration::from_millis(100);
/// The same while a page trace is recorded, whose buffers it empties.
pub const TRACE_PAUSE: Duration = Duration::from_millis(20);
/// For how long nothing must have been served before pages are brought back.
pub const IDLE_AFTER: Duration = Duration::from_millis(100);

/// For how long a put that finds DRAM full waits for an emulated link, at most: it holds its queue up.
pub const LINK_PUT_WAIT: Duration = Duration::from_millis(100);
/// A worker that waits for a link sleeps only if nothing is due sooner than this, in ns: while it
/// sleeps it does not see requests come.
pub const LINK_SPIN_NS: u64 = 2_000_000;
/// For how long it sleeps then, in ns.
pub const LINK_NAP_NS: u64 = 500_000;

/// Bytes of what administrators have set, as it is told to the keeper: a message has room for it besides
/// the configuration.
pub const SETTINGS_BYTES_MAX: usize = 1 << 16;

/// Copies of a page on stores.
pub const REPLICAS_MAX: u8 = 3;
/// Stores that a daemon knows at one time: a set of copies is a mask of as many bits.
pub const STORES_MAX: usize = 64;
/// Pages of the remote tier: slots are numbered by 28 bits.
pub const REMOTE_PAGES_MAX: u64 = 1 << 28;
/// The least and the most between two signs of life of a store, in ms.
pub const ADVERT_MS: (u64, u64) = (10, 10_000);

/// For how long a worker that begins waits for stores that do not say no. A store on the same network
/// answers in a few milliseconds.
pub const STORES_AWAITED: Duration = Duration::from_millis(1500);
/// For how long an administrator's command waits for whoever looks after the stores.
pub const STORES_ANSWER: Duration = Duration::from_millis(900);
/// How often it looks.
pub const STORES_LOOK: Duration = Duration::from_millis(2);

/// Tasks that are remembered after their end.
pub const TASKS_KEPT: usize = 64;

/// Bytes of a guest's memory that are freed at a time: the control queue is looked at between. Whole huge
/// pages of 2 MiB.
pub const PUNCH_BYTES: u64 = 16 << 20;
/// How often a driver is to tell how its guest is, in ms.
pub const BALLOON_STATS_MS: u64 = 1000;
/// A driver that has told nothing for so long has fallen silent.
pub const BALLOON_SILENCE: Duration = Duration::from_secs(5);
/// How often targets of guests that are on auto are thought about.
pub const BALLOON_STEP: Duration = Duration::from_secs(1);
/// Targets that a controller chose are told to the keeper no more often than this.
pub const BALLOON_KEEP: Duration = Duration::from_secs(10);

/// Events that wait for a buffer of the driver; the oldest is dropped beyond that.
pub const EVENTS_PENDING_MAX: usize = 16;

/// Bytes of a guest's name.
pub const NAME_BYTES_MAX: usize = 64;

/// Messages that one guest can cause are logged once a kind in this time.
pub const LOG_INTERVAL: Duration = Duration::from_secs(10);

// A request of the largest batch, each page in a descriptor of its own, must fit into a chain.
const _: () = assert!(CHAIN_DESCRIPTORS_MAX >= BATCH_PAGES_MAX as usize + 4);
// A chain that uses its whole table directly must fit.
const _: () = assert!(CHAIN_DESCRIPTORS_MAX >= QUEUE_SIZE_MAX as usize);
const _: () = assert!(QUEUE_PAIRS_MAX <= tmem_abi::QUEUE_PAIRS_MAX);
const _: () = assert!(CHUNK_PAGES > 0 && CHUNK_PAGES <= BATCH_PAGES_MAX);
