// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A made-up daemon with two guests. The file that includes this one brings `AdminSource` along.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use tmem_admin_api::{
    Bucket, Guest, GuestStats, Health, Histogram, Latency, Memory, Op, PAGE_BYTES, PageResult,
    PageTotals, Pool, PoolKind, PoolLayout, RequestStatus, Resident, Schema, Status, Tier,
};

use super::AdminSource;

/// Answers always the same, except that each look at the counters finds a second and 1000 puts of
/// `web` more.
#[derive(Debug)]
pub(crate) struct FakeSource {
    health: Health,
    looks: AtomicU64,
}

impl FakeSource {
    pub(crate) fn healthy() -> Self {
        Self {
            health: Health::Ok,
            looks: AtomicU64::new(0),
        }
    }

    /// The same, not well. Not every test that includes this file asks for it.
    #[allow(dead_code)]
    pub(crate) fn degraded() -> Self {
        Self {
            health: Health::Degraded,
            looks: AtomicU64::new(0),
        }
    }
}

fn web() -> Guest {
    Guest {
        name: "web".into(),
        socket: Some("/run/tmem/web.sock".into()),
        connected: true,
        epoch: Some("00112233445566778899aabbccddeeff".into()),
        queue_pairs: 2,
        grant_pages: 262_144,
        held_pages: 1500,
        same_filled_pages: 300,
        frame_pages: 1200,
        pools: 2,
        poll_us: 50,
    }
}

/// A guest whose name needs escaping in a URL and in a label, and that never connected.
fn odd() -> Guest {
    Guest {
        name: "a \"b\"/c".into(),
        socket: None,
        connected: false,
        epoch: None,
        queue_pairs: 1,
        grant_pages: 1024,
        held_pages: 0,
        same_filled_pages: 0,
        frame_pages: 0,
        pools: 0,
        poll_us: 0,
    }
}

fn pool(id: u32, kind: PoolKind, layout: PoolLayout, frames: u64, same_filled: u64) -> Pool {
    Pool {
        guest: "web".into(),
        id,
        kind,
        layout,
        object_pages: if layout == PoolLayout::Dense {
            262_144
        } else {
            0
        },
        pages: frames + same_filled,
        same_filled,
        frames,
        puts: 9000,
        gets: 7000,
        misses: 12,
        flushes: 7488,
        refused: 3,
        stale: 2,
        evicted: if kind == PoolKind::Ephemeral { 40 } else { 0 },
        corrupt: 0,
    }
}

impl AdminSource for FakeSource {
    fn status(&self) -> Status {
        let parts = Memory {
            frames_bytes: 1200 * PAGE_BYTES,
            idle_frames_bytes: 100 * PAGE_BYTES,
            frame_table_bytes: 64 << 10,
            index_bytes: 32 << 10,
            guest_ram_bytes: 2 << 20,
            ..Memory::default()
        };
        let resident = Resident {
            resident: 12 << 20,
            peak: 20 << 20,
            shared: 8 << 20,
        };
        Status {
            schema: Schema,
            version: "1.2.3".into(),
            uptime_seconds: 93_784,
            health: self.health,
            reasons: match self.health {
                Health::Ok => Vec::new(),
                Health::Degraded => vec!["tier dram is full".into()],
            },
            emulated: false,
            tiers: vec![Tier {
                name: "dram".into(),
                capacity_bytes: 1 << 30,
                used_bytes: 1200 * PAGE_BYTES,
            }],
            pages: PageTotals {
                held: 1500,
                same_filled: 300,
                frames: 1200,
            },
            memory: Memory::explain(resident, parts),
            guests: 2,
            connected: 1,
        }
    }

    fn guests(&self) -> Vec<Guest> {
        vec![odd(), web()]
    }

    fn guest(&self, name: &str) -> Option<Guest> {
        self.guests().into_iter().find(|guest| guest.name == name)
    }

    fn pools(&self, guest: &str) -> Option<Vec<Pool>> {
        self.guest(guest).map(|guest| match &*guest.name {
            "web" => vec![
                pool(0, PoolKind::Persistent, PoolLayout::Dense, 1000, 300),
                pool(7, PoolKind::Ephemeral, PoolLayout::Sparse, 200, 0),
            ],
            _ => Vec::new(),
        })
    }

    fn stats(&self, guest: &str) -> Option<GuestStats> {
        let guest = self.guest(guest)?;
        if guest.name != "web" {
            return Some(GuestStats {
                guest: guest.name,
                ..GuestStats::default()
            });
        }
        let puts = 9000 + 1000 * self.looks.load(Ordering::Relaxed);
        let puts_counted = Bucket {
            upper_ns: 4096,
            count: puts,
        };
        Some(GuestStats {
            guest: guest.name,
            pages: BTreeMap::from([
                (
                    Op::Put,
                    BTreeMap::from([(PageResult::Ok, puts), (PageResult::RefusedFull, 3)]),
                ),
                (
                    Op::Get,
                    BTreeMap::from([(PageResult::Ok, 7000), (PageResult::Miss, 12)]),
                ),
                (Op::Flush, BTreeMap::from([(PageResult::Ok, 7000)])),
                (Op::FlushObject, BTreeMap::from([(PageResult::Ok, 488)])),
            ]),
            requests: BTreeMap::from([(
                Op::Put,
                BTreeMap::from([(RequestStatus::Ok, puts), (RequestStatus::Invalid, 1)]),
            )]),
            malformed: BTreeMap::from([("bad_address".into(), 1)]),
            kicks: 321,
            calls: 654,
            polls: 100_000,
            poll_hits: 8000,
            connections: 1,
            latency: Latency {
                get: Histogram::from_buckets(
                    [
                        Bucket {
                            upper_ns: 1024,
                            count: 6900,
                        },
                        Bucket {
                            upper_ns: 16_384,
                            count: 99,
                        },
                        Bucket {
                            upper_ns: 1_048_576,
                            count: 1,
                        },
                    ],
                    9_000_000,
                    700_000,
                ),
                put: Histogram::from_buckets([puts_counted], puts * 3000, 4000),
            },
        })
    }

    fn uptime_ns(&self) -> u64 {
        1_000_000_000 * (1 + self.looks.fetch_add(1, Ordering::Relaxed))
    }
}
