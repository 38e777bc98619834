// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The Prometheus text: one table of names, and one function that fills them.

use std::fmt::{self, Write};

use tmem_admin_api::{DaemonState, DaemonStatus, EndCause, GuestStats, Health, Histogram, Op};

use crate::status::AdminSource;

/// A metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// `tmem_`, noun, unit, and `_total` for a counter.
    pub name: &'static str,
    /// How to read its values.
    pub kind: MetricKind,
    /// What it counts, by which labels.
    pub help: &'static str,
}

/// Prometheus' types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Cumulative buckets, a sum and a count.
    Histogram,
}

impl MetricKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Declares each metric as a constant and collects them in [`METRICS`], so that no name is used
/// without being described.
macro_rules! metrics {
    ($( $constant:ident $kind:ident $name:literal $help:literal; )*) => {
        $( const $constant: Metric = Metric { name: $name, kind: MetricKind::$kind, help: $help }; )*
        /// Every metric that the daemon has.
        pub const METRICS: &[Metric] = &[ $( $constant, )* ];
    };
}

metrics! {
    BUILD_INFO Gauge "tmem_build_info" "Always 1; label version is the daemon's.";
    UPTIME Gauge "tmem_uptime_seconds" "Time since the daemon's start.";
    HEALTHY Gauge "tmem_healthy" "1: the daemon does all that it is set up for; 0: it is degraded.";
    UP Gauge "tmem_up" "1: a worker serves guests; 0: none does, and guests wait.";
    RESTARTS Counter "tmem_worker_restarts_total" "Workers that ended and were followed by another, by cause.";
    UPGRADES Counter "tmem_upgrades_total" "Upgrades that were carried through.";
    RECOVERY Gauge "tmem_recovery_seconds" "How long the last worker took to find the pages again when it started.";
    RECOVERED Gauge "tmem_recovered_pages" "Pages that the last worker found when it started.";
    PAUSE_LAST Gauge "tmem_pause_last_seconds" "How long guests waited the last time that a worker followed another.";
    PAUSE_MAX Gauge "tmem_pause_max_seconds" "The longest that guests waited for a worker that followed another.";
    SANDBOX Gauge "tmem_sandbox_layer" "1: a layer of the sandbox of a process, keeper or worker, is on; 0: it is off.";
    EMULATED Gauge "tmem_emulated" "1: a tier's latency or bandwidth is emulated.";
    TIER_CAPACITY Gauge "tmem_tier_capacity_bytes" "What fits into a tier.";
    TIER_USED Gauge "tmem_tier_used_bytes" "What pages take of a tier.";
    RESIDENT Gauge "tmem_resident_bytes" "Resident memory, by what it holds; the parts add up to all of it.";
    RESIDENT_PEAK Gauge "tmem_resident_peak_bytes" "The most memory that was ever resident.";
    CONNECTED Gauge "tmem_guest_connected" "1: a VMM is connected.";
    GRANT Gauge "tmem_guest_grant_pages" "Pages of persistent pools that the guest is promised room for.";
    HELD Gauge "tmem_guest_pages" "Pages held for the guest, by kind: frame (4096 bytes) or same_filled (none).";
    POOL_PAGES Gauge "tmem_pool_pages" "Pages held in a pool.";
    POOL_EVICTED Counter "tmem_pool_evicted_total" "Pages that an ephemeral pool gave up to make room.";
    PUT Counter "tmem_put_total" "Pages put, by result.";
    GET Counter "tmem_get_total" "Pages asked for, by result.";
    FLUSH Counter "tmem_flush_total" "Pages flushed by page, run, list, object or pool, by result.";
    REQUESTS Counter "tmem_requests_total" "Requests, by operation and status.";
    MALFORMED Counter "tmem_malformed_total" "Chains and rings that broke the rules, by what was wrong.";
    KICKS Counter "tmem_kicks_total" "Times that the guest's kick woke a queue worker.";
    CALLS Counter "tmem_calls_total" "Times that the daemon interrupted the guest.";
    POLLS Counter "tmem_polls_total" "Rounds that queue workers polled.";
    POLL_HITS Counter "tmem_poll_hits_total" "Rounds that found a request.";
    CONNECTIONS Counter "tmem_connections_total" "Times that a VMM connected.";
    GET_LATENCY Histogram "tmem_get_latency_seconds" "GET requests, from taken off the ring to given back.";
    PUT_LATENCY Histogram "tmem_put_latency_seconds" "PUT requests, from taken off the ring to given back.";
}

/// Edges of the latency buckets: the edge in nanoseconds, and as it is written, in seconds.
const EDGES: &[(u64, &str)] = &[
    (500, "5e-7"),
    (1_000, "1e-6"),
    (2_000, "2e-6"),
    (5_000, "5e-6"),
    (10_000, "1e-5"),
    (20_000, "2e-5"),
    (50_000, "5e-5"),
    (100_000, "1e-4"),
    (200_000, "2e-4"),
    (500_000, "5e-4"),
    (1_000_000, "1e-3"),
    (2_000_000, "2e-3"),
    (5_000_000, "5e-3"),
    (10_000_000, "1e-2"),
    (100_000_000, "1e-1"),
    (1_000_000_000, "1"),
    (10_000_000_000, "1e1"),
];

/// Operations that forget pages.
const FLUSHES: &[Op] = &[Op::Flush, Op::FlushObject, Op::FlushPool];

/// The whole text.
pub(super) fn render(source: &dyn AdminSource) -> String {
    let mut text = Text::default();
    daemon(&mut text, source);
    let guests = source.guests();
    text.family(
        CONNECTED,
        guests
            .iter()
            .map(|g| ([("guest", &*g.name)], u64::from(g.connected))),
    );
    text.family(
        GRANT,
        guests
            .iter()
            .map(|g| ([("guest", &*g.name)], g.grant_pages)),
    );
    text.family(
        HELD,
        guests.iter().flat_map(|g| {
            [
                ("frame", g.frame_pages),
                ("same_filled", g.same_filled_pages),
            ]
            .map(|(kind, pages)| ([("guest", &*g.name), ("kind", kind)], pages))
        }),
    );
    pools(&mut text, source, guests.iter().map(|g| &*g.name));
    let stats: Vec<GuestStats> = guests
        .iter()
        .filter_map(|g| source.stats(&g.name))
        .collect();
    counters(&mut text, &stats);
    text.histograms(
        GET_LATENCY,
        stats.iter().map(|s| (&*s.guest, &s.latency.get)),
    );
    text.histograms(
        PUT_LATENCY,
        stats.iter().map(|s| (&*s.guest, &s.latency.put)),
    );
    text.0
}

fn daemon(text: &mut Text, source: &dyn AdminSource) {
    let status = source.status();
    text.family(BUILD_INFO, [([("version", &*status.version)], 1)]);
    text.family(UPTIME, [([], status.uptime_seconds)]);
    text.family(HEALTHY, [([], u64::from(status.health == Health::Ok))]);
    processes(text, &status.daemon);
    text.family(EMULATED, [([], u64::from(status.emulated))]);
    text.family(
        TIER_CAPACITY,
        status
            .tiers
            .iter()
            .map(|t| ([("tier", &*t.name)], t.capacity_bytes)),
    );
    text.family(
        TIER_USED,
        status
            .tiers
            .iter()
            .map(|t| ([("tier", &*t.name)], t.used_bytes)),
    );
    let m = &status.memory;
    let parts = [
        ("frames", m.frames_bytes),
        ("idle_frames", m.idle_frames_bytes),
        ("frame_table", m.frame_table_bytes),
        ("index", m.index_bytes),
        ("guest_ram", m.guest_ram_bytes),
        ("other", m.other_bytes),
    ];
    // A daemon that has failed knows no pages, and zeros would be taken for figures.
    let known = status.daemon.state != DaemonState::Failed;
    text.family(
        RESIDENT,
        parts
            .into_iter()
            .filter(|_| known)
            .map(|(part, bytes)| ([("part", part)], bytes)),
    );
    text.family(RESIDENT_PEAK, known.then_some(([], m.peak_resident_bytes)));
}

/// The keeper, the worker, and how one worker followed another.
fn processes(text: &mut Text, daemon: &DaemonStatus) {
    let up = daemon.state == DaemonState::Running;
    text.family(UP, [([], u64::from(up))]);
    text.family(
        RESTARTS,
        EndCause::ALL.iter().map(|cause| {
            let times = daemon.restarts.get(cause).copied().unwrap_or(0);
            ([("cause", cause.as_str())], times)
        }),
    );
    text.family(UPGRADES, [([], daemon.upgrades)]);
    let recovery = daemon.last_recovery;
    text.family(RECOVERY, recovery.map(|r| ([], Seconds::of_ms(r.took_ms))));
    text.family(RECOVERED, recovery.map(|r| ([], r.pages)));
    let pause = |ms: Option<u64>| ms.map(|ms| ([], Seconds::of_ms(ms)));
    text.family(PAUSE_LAST, pause(daemon.last_pause_ms));
    text.family(PAUSE_MAX, pause(daemon.longest_pause_ms));
    let keeper = daemon.keeper.iter().map(|process| ("keeper", process));
    let worker = daemon.worker.iter().map(|process| ("worker", process));
    text.family(
        SANDBOX,
        keeper.chain(worker).flat_map(|(role, process)| {
            process.sandbox.iter().map(move |layer| {
                let labels = [("process", role), ("layer", &*layer.name)];
                (labels, u64::from(layer.on))
            })
        }),
    );
}

/// A time, written in seconds without loss.
struct Seconds {
    ns: u64,
}

impl Seconds {
    const fn of_ms(ms: u64) -> Self {
        Self {
            ns: ms.saturating_mul(1_000_000),
        }
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:09}",
            self.ns / 1_000_000_000,
            self.ns % 1_000_000_000
        )
    }
}

fn pools<'a>(text: &mut Text, source: &dyn AdminSource, guests: impl Iterator<Item = &'a str>) {
    let pools: Vec<_> = guests
        .filter_map(|name| source.pools(name))
        .flatten()
        .collect();
    let ids: Vec<String> = pools.iter().map(|pool| pool.id.to_string()).collect();
    let labelled = || {
        pools.iter().zip(&ids).map(|(pool, id)| {
            (
                pool,
                [
                    ("guest", &*pool.guest),
                    ("pool", &**id),
                    ("kind", pool.kind.as_str()),
                ],
            )
        })
    };
    text.family(
        POOL_PAGES,
        labelled().map(|(pool, labels)| (labels, pool.pages)),
    );
    text.family(
        POOL_EVICTED,
        labelled().map(|(pool, labels)| (labels, pool.evicted)),
    );
}

fn counters(text: &mut Text, stats: &[GuestStats]) {
    for (metric, ops) in [(PUT, &[Op::Put][..]), (GET, &[Op::Get]), (FLUSH, FLUSHES)] {
        text.family(
            metric,
            stats.iter().flat_map(|s| {
                // Flushes of all kinds are one family, so their results are summed first.
                let results = ops
                    .iter()
                    .filter_map(|op| s.pages.get(op))
                    .flat_map(|r| r.keys());
                let results: std::collections::BTreeSet<_> = results.collect();
                results.into_iter().map(move |&result| {
                    let pages = ops.iter().map(|&op| s.pages_of(op, result)).sum::<u64>();
                    ([("guest", &*s.guest), ("result", result.as_str())], pages)
                })
            }),
        );
    }
    text.family(
        REQUESTS,
        stats.iter().flat_map(|s| {
            s.requests.iter().flat_map(move |(op, by_status)| {
                by_status.iter().map(move |(status, &requests)| {
                    let labels = [
                        ("guest", &*s.guest),
                        ("op", op.as_str()),
                        ("status", status.as_str()),
                    ];
                    (labels, requests)
                })
            })
        }),
    );
    text.family(
        MALFORMED,
        stats.iter().flat_map(|s| {
            s.malformed
                .iter()
                .map(move |(kind, &count)| ([("guest", &*s.guest), ("kind", &**kind)], count))
        }),
    );
    let mut plain = |metric, value: fn(&GuestStats) -> u64| {
        text.family(
            metric,
            stats.iter().map(|s| ([("guest", &*s.guest)], value(s))),
        );
    };
    plain(KICKS, |s| s.kicks);
    plain(CALLS, |s| s.calls);
    plain(POLLS, |s| s.polls);
    plain(POLL_HITS, |s| s.poll_hits);
    plain(CONNECTIONS, |s| s.connections);
}

#[derive(Default)]
struct Text(String);

impl Text {
    /// Writes a family's head and its samples. A family without samples still has its head, so
    /// that the text always shows every name.
    fn family<'a, const N: usize>(
        &mut self,
        metric: Metric,
        samples: impl IntoIterator<Item = ([(&'a str, &'a str); N], impl fmt::Display)>,
    ) {
        self.head(metric);
        for (labels, value) in samples {
            self.sample(metric.name, "", &labels, value);
        }
    }

    /// Writes a family of histograms, one a guest. A bucket of ours counts under the first edge
    /// that is not below its own.
    fn histograms<'a>(
        &mut self,
        metric: Metric,
        histograms: impl Iterator<Item = (&'a str, &'a Histogram)>,
    ) {
        self.head(metric);
        for (guest, histogram) in histograms {
            for &(edge, written) in EDGES {
                let below = histogram.buckets.iter().filter(|b| b.upper_ns <= edge);
                let labels = [("guest", guest), ("le", written)];
                self.sample(
                    metric.name,
                    "_bucket",
                    &labels,
                    below.map(|b| b.count).sum::<u64>(),
                );
            }
            let labels = [("guest", guest), ("le", "+Inf")];
            self.sample(metric.name, "_bucket", &labels, histogram.count);
            let sum = Seconds {
                ns: histogram.sum_ns,
            };
            self.sample(metric.name, "_sum", &labels[..1], sum);
            self.sample(metric.name, "_count", &labels[..1], histogram.count);
        }
    }

    fn head(&mut self, Metric { name, kind, help }: Metric) {
        self.write(format_args!(
            "# HELP {name} {help}\n# TYPE {name} {}\n",
            kind.as_str()
        ));
    }

    fn sample(
        &mut self,
        name: &str,
        suffix: &str,
        labels: &[(&str, &str)],
        value: impl fmt::Display,
    ) {
        self.write(format_args!("{name}{suffix}"));
        for (at, (label, text)) in labels.iter().enumerate() {
            let opening = if at == 0 { "{" } else { "," };
            self.write(format_args!("{opening}{label}=\"{}\"", Escaped(text)));
        }
        let closing = if labels.is_empty() { "" } else { "}" };
        self.write(format_args!("{closing} {value}\n"));
    }

    fn write(&mut self, arguments: fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.0.write_fmt(arguments);
    }
}

/// A label's value with what the text format reserves escaped.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}
