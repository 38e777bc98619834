// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A made-up daemon with two guests and three tiers. The file that includes this one brings the traits
//! and their errors along.

// Named by their paths, so that they are found wherever this file is included from.
#[path = "fake/balloons.rs"]
mod balloons;
#[path = "fake/figures.rs"]
mod figures;
#[path = "fake/stores.rs"]
mod stores;
#[path = "fake/tiers.rs"]
pub(crate) mod tiers;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tmem_admin_api::{
    Bucket, DaemonOperation, DaemonState, DaemonStatus, EndCause, Guest, GuestStats, Health,
    Histogram, HitTier, Latency, LinkDirection, Memory, Op, OperationState, OperationStatus,
    PAGE_BYTES, PageResult, PageTotals, Pool, PoolKind, PoolLayout, ProcessStatus, Recovery,
    RefusalReason, RequestStatus, Resident, SandboxLayer, Schema, StageTimes, Status, TierName,
    WorkerEnd,
};

use super::{AdminSource, BalloonAdmin, RequestError, StoreAdmin, TierAdmin, TierError};
use balloons::FakeBalloons;
use tiers::FakeTiers;

/// Answers always the same, except that each look at the counters finds a second and 1000 puts of
/// `web` more, and each look at the daemon finds an operation a step further.
#[derive(Debug)]
pub(crate) struct FakeSource {
    trouble: Option<&'static str>,
    looks: AtomicU64,
    daemon: Mutex<DaemonStatus>,
    steps: Mutex<VecDeque<OperationStatus>>,
    refusal: Mutex<Option<RequestError>>,
    tiers: Option<FakeTiers>,
    balloons: FakeBalloons,
}

// Not every test that includes this file asks for everything.
#[allow(dead_code)]
impl FakeSource {
    pub(crate) fn healthy() -> Self {
        Self::with(processes())
    }

    /// The same, not well.
    pub(crate) fn degraded() -> Self {
        Self {
            trouble: Some("tier dram is full"),
            ..Self::healthy()
        }
    }

    /// One that runs as one process.
    pub(crate) fn without_keeper() -> Self {
        let fake = Self::with(DaemonStatus {
            now_unix_ms: NOW_MS,
            worker: Some(process(4711, "1.2.3", 93_784)),
            ..DaemonStatus::default()
        });
        fake.refusing(RequestError::NoKeeper)
    }

    pub(crate) fn with(daemon: DaemonStatus) -> Self {
        Self {
            trouble: None,
            looks: AtomicU64::new(0),
            daemon: Mutex::new(daemon),
            steps: Mutex::default(),
            refusal: Mutex::default(),
            tiers: Some(FakeTiers::default()),
            balloons: FakeBalloons::default(),
        }
    }

    /// The same with these tiers, or with none that it tells of.
    pub(crate) fn on(self, tiers: Option<FakeTiers>) -> Self {
        Self { tiers, ..self }
    }

    /// Takes no operation on, once.
    pub(crate) fn refusing(self, refusal: RequestError) -> Self {
        *self.refusal.lock().unwrap() = Some(refusal);
        self
    }

    /// Whatever is asked for goes through `steps`, one at each look, and stays at the last.
    pub(crate) fn stepping(self, steps: impl IntoIterator<Item = OperationStatus>) -> Self {
        *self.steps.lock().unwrap() = steps.into_iter().collect();
        self
    }
}

/// The made-up now: 2026-01-02 03:04:05 UTC, in ms since 1970.
const NOW_MS: u64 = 1_767_323_045_000;

fn process(pid: u32, version: &str, age_seconds: u64) -> ProcessStatus {
    ProcessStatus {
        pid,
        version: version.into(),
        started_unix_ms: NOW_MS - age_seconds * 1000,
        sandbox: Vec::new(),
    }
}

fn layer(name: &str, on: bool, reason: Option<&str>) -> SandboxLayer {
    SandboxLayer {
        name: name.into(),
        on,
        reason: reason.map(Into::into),
    }
}

/// A keeper, and the worker that followed two others.
pub(crate) fn processes() -> DaemonStatus {
    DaemonStatus {
        now_unix_ms: NOW_MS,
        keeper: Some(ProcessStatus {
            sandbox: vec![layer("identity", true, None), layer("seccomp", true, None)],
            ..process(4242, "1.2.2", 93_784)
        }),
        worker: Some(ProcessStatus {
            sandbox: vec![
                layer("identity", true, None),
                layer("namespaces", false, Some("not permitted here")),
                layer("landlock", true, Some("no scopes")),
                layer("seccomp", true, None),
            ],
            ..process(4711, "1.2.3", 3700)
        }),
        restarts: BTreeMap::from([(EndCause::Signal, 2), (EndCause::Upgrade, 1)]),
        last_end: Some(WorkerEnd {
            cause: EndCause::Signal,
            code: Some(9),
            at_unix_ms: NOW_MS - 3_700_087,
            pid: 4700,
            version: "1.2.3".into(),
        }),
        last_recovery: Some(Recovery {
            pages: 1500,
            took_ms: 61,
            at_unix_ms: NOW_MS - 3_699_939,
        }),
        last_pause_ms: Some(87),
        longest_pause_ms: Some(203),
        upgrades: 1,
        ..DaemonStatus::default()
    }
}

/// The same after its workers ended too often.
#[allow(dead_code)]
pub(crate) fn failed() -> DaemonStatus {
    DaemonStatus {
        state: DaemonState::Failed,
        failure: Some("10 workers ended in a row, the last one: killed by signal 9".into()),
        worker: Some(ProcessStatus {
            sandbox: vec![layer("seccomp", true, None)],
            ..process(4720, "1.2.3", 70)
        }),
        ..processes()
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
        held_pages: 2200,
        same_filled_pages: 300,
        frame_pages: 1200,
        pm_pages: 500,
        remote_pages: 200,
        pools: 2,
        poll_us: 50,
        memory: None,
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
        ..Guest::default()
    }
}

fn pool(id: u32, kind: PoolKind, layout: PoolLayout, frames: u64, same_filled: u64) -> Pool {
    let persistent = kind == PoolKind::Persistent;
    let (pm, remote) = if persistent { (500, 200) } else { (0, 0) };
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
        pages: frames + same_filled + pm + remote,
        same_filled,
        frames,
        pm,
        remote,
        puts: 9000,
        gets: 7000,
        misses: 12,
        flushes: 7488,
        refused: 3,
        stale: 2,
        evicted: if kind == PoolKind::Ephemeral { 40 } else { 0 },
        corrupt: 0,
        hits: hits(),
        tiers: figures::counts(),
    }
}

fn hits() -> BTreeMap<HitTier, u64> {
    BTreeMap::from([
        (HitTier::SameFilled, 300),
        (HitTier::Dram, 5900),
        (HitTier::Victim, 100),
        (HitTier::Pm, 400),
        (HitTier::Remote, 300),
    ])
}

fn stages() -> StageTimes {
    let times = |upper_ns, count| {
        let bucket = Bucket { upper_ns, count };
        Histogram::from_buckets([bucket], upper_ns * count, upper_ns)
    };
    StageTimes {
        queue_wait: times(800, 16_000),
        tiers: BTreeMap::from([
            (TierName::Dram, times(600, 15_000)),
            (TierName::Pm, times(9000, 1300)),
            (TierName::Remote, times(1800, 600)),
        ]),
        links: BTreeMap::from([(
            TierName::Remote,
            BTreeMap::from([(LinkDirection::In, times(6300, 300))]),
        )]),
    }
}

impl AdminSource for FakeSource {
    fn status(&self) -> Status {
        let parts = Memory {
            frames_bytes: 1264 * PAGE_BYTES,
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
        let daemon = self.daemon();
        let mut reasons = daemon.reasons();
        reasons.extend(self.trouble.map(String::from));
        // A daemon that has failed knows no pages.
        let known = self.tiers.as_ref();
        let known = known.filter(|_| daemon.state != DaemonState::Failed);
        let tiers = known.map(|tiers| tiers.tiers()).unwrap_or_default();
        reasons.extend(tiers.iter().filter_map(|tier| tier.reason()));
        let promises = known.map(FakeTiers::promises);
        reasons.extend(promises.and_then(|promises| promises.reason()));
        Status {
            schema: Schema,
            version: "1.2.3".into(),
            uptime_seconds: 93_784,
            health: Health::from_reasons(&reasons),
            reasons,
            emulated: tiers.iter().any(|tier| tier.emulated),
            tiers,
            promises,
            pages: PageTotals {
                held: 2200,
                same_filled: 300,
                frames: 1200,
                pm: 500,
                remote: 200,
            },
            memory: Memory::explain(resident, parts),
            guests: 2,
            connected: 1,
            daemon,
        }
    }

    fn guests(&self) -> Vec<Guest> {
        let guests = [odd(), web()].map(|guest| {
            let Some(tiers) = &self.tiers else {
                return guest;
            };
            Guest {
                grant_pages: tiers.grant(&guest.name),
                memory: tiers.memory(&guest.name),
                ..guest
            }
        });
        guests.into()
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
            hits: hits(),
            refused: BTreeMap::from([(RefusalReason::OverGrant, 2), (RefusalReason::Frozen, 1)]),
            tiers: figures::counts(),
            stages: stages(),
        })
    }

    fn uptime_ns(&self) -> u64 {
        1_000_000_000 * (1 + self.looks.fetch_add(1, Ordering::Relaxed))
    }

    fn daemon(&self) -> DaemonStatus {
        let mut daemon = self.daemon.lock().unwrap();
        if daemon.operation.is_some() {
            let mut steps = self.steps.lock().unwrap();
            daemon.operation = steps.pop_front().or_else(|| daemon.operation.take());
        }
        daemon.clone()
    }

    fn request(&self, operation: &DaemonOperation) -> Result<u64, RequestError> {
        if let Some(refusal) = self.refusal.lock().unwrap().take() {
            return Err(refusal);
        }
        let mut daemon = self.daemon.lock().unwrap();
        let id = daemon.operation.as_ref().map_or(1, |last| last.id + 1);
        daemon.operation = Some(OperationStatus {
            id,
            kind: operation.kind(),
            state: OperationState::Checking,
            reason: None,
            old_version: Some("1.2.3".into()),
            new_version: None,
            pause_ms: None,
        });
        Ok(id)
    }

    fn tier_admin(&self) -> Option<&dyn TierAdmin> {
        self.tiers.as_ref().map(|tiers| tiers as &dyn TierAdmin)
    }

    fn store_admin(&self) -> Option<&dyn StoreAdmin> {
        self.tiers.as_ref().map(|tiers| tiers as &dyn StoreAdmin)
    }

    fn balloon_admin(&self) -> Option<&dyn BalloonAdmin> {
        let there = self.tiers.as_ref();
        there.map(|_| &self.balloons as &dyn BalloonAdmin)
    }
}
