// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The Prometheus text: one table of names, and one function that fills them.

mod balloons;
mod histograms;
mod stores;
mod tiers;

use tmem_admin_api::{DaemonState, DaemonStatus, EndCause, GuestStats, Health, Op};

use crate::status::AdminSource;
use histograms::histograms;
pub use tmem_metrics::{Metric, MetricKind};
use tmem_metrics::{Seconds, Text, metrics};

metrics! {
    /// Every metric that the daemon has.
    pub const METRICS;
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
    TIER_FREE Gauge "tmem_tier_free_bytes" "What pages could still take of a tier.";
    TIER_IN_USE Gauge "tmem_tier_in_use" "1: a tier takes pages; 0: it is drained, being drained, or failed.";
    TIER_PAGES Gauge "tmem_tier_pages" "Pages in a tier, by kind: persistent, ephemeral, victim (copies of pages that are farther away).";
    TIER_PROMISED Gauge "tmem_tier_promised_pages" "Pages of a tier that are promised to guests.";
    TIER_MARK Gauge "tmem_tier_watermark_ratio" "Free part of a tier at which pages begin (low) and cease (high) to leave it.";
    TIER_EMULATED Gauge "tmem_tier_emulated" "1: a tier's latency or bandwidth is emulated.";
    TIER_ERRORS Counter "tmem_tier_errors_total" "Failures of a tier: I/O errors, pages that failed their checksum.";
    PROMISED Gauge "tmem_promised_pages" "Pages promised to all guests together.";
    CAPACITY Gauge "tmem_capacity_pages" "Pages that the tiers in use hold together.";
    OVERCOMMIT Gauge "tmem_overcommit" "1: the administrator allowed to promise more than the tiers hold.";
    RESIDENT Gauge "tmem_resident_bytes" "Resident memory, by what it holds; the parts add up to all of it.";
    RESIDENT_PEAK Gauge "tmem_resident_peak_bytes" "The most memory that was ever resident.";
    CONNECTED Gauge "tmem_guest_connected" "1: a VMM is connected.";
    GRANT Gauge "tmem_guest_grant_pages" "Pages of persistent pools that the guest is promised room for.";
    HELD Gauge "tmem_guest_pages" "Pages held for the guest, by kind: frame (in DRAM), same_filled (in the index alone), pm, remote.";
    FROZEN Gauge "tmem_guest_frozen" "1: the guest's puts are refused.";
    DRAM_CAP Gauge "tmem_guest_dram_cap_pages" "The most of the guest's pages that may be in DRAM; absent without a cap.";
    WEIGHT Gauge "tmem_guest_weight" "The guest's part of the DRAM that several guests want.";
    FLOOR Gauge "tmem_guest_floor_pages" "Pages that the guest always has room for in DRAM.";
    SHARE Gauge "tmem_guest_dram_pages" "Pages of the guest in DRAM, copies left out.";
    ENTITLED Gauge "tmem_guest_entitled_pages" "Pages of DRAM that weights, floors and caps entitle the guest to.";
    VICTIMS Gauge "tmem_guest_victim_pages" "Copies in DRAM of pages of the guest that are farther away.";
    FREEABLE Gauge "tmem_guest_freeable_pages" "Pages that the guest could be made to give up, by kind: ephemeral, victim, demotable.";
    POLICY Gauge "tmem_guest_policy" "Always 1; label policy is the guest's replacement policy.";
    GUEST_EMULATED Gauge "tmem_guest_emulated" "1: a link of the guest is emulated.";
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
    HITS Counter "tmem_hits_total" "Pages delivered, by the tier that they were in.";
    REFUSED Counter "tmem_refused_total" "Puts that were refused, by reason.";
    TIER_PUT Counter "tmem_tier_put_total" "Pages that a tier was to take, by result.";
    TIER_GET Counter "tmem_tier_get_total" "Pages that a tier was to give, by result.";
    TIER_FLUSH Counter "tmem_tier_flush_total" "Pages that a tier was to forget, by result.";
    DEMOTED Counter "tmem_demoted_total" "Pages that left a tier for a farther one.";
    PROMOTED Counter "tmem_promoted_total" "Pages that left a tier for a nearer one.";
    EVICTED Counter "tmem_evicted_total" "Ephemeral pages that a tier gave up to make room.";
    CHECKSUM Counter "tmem_checksum_errors_total" "Pages that failed their checksum in a tier.";
    QUEUE_WAIT Histogram "tmem_queue_wait_seconds" "From a request's arrival to a worker's taking it up.";
    TIER_TIME Histogram "tmem_tier_time_seconds" "What a tier took for a page, its link left out.";
    LINK_WAIT Histogram "tmem_link_wait_seconds" "What a tier's emulated link added, by direction.";
    POOL_TIER_PAGES Gauge "tmem_pool_tier_pages" "Pages of a pool in a tier.";
    POOL_HITS Counter "tmem_pool_hits_total" "Pages of a pool delivered, by the tier that they were in.";
    POOL_TIER Counter "tmem_pool_tier_total" "Pages of a pool that a tier was asked about, by operation and result.";
    POOL_MOVED Counter "tmem_pool_moved_total" "Pages of a pool that left a tier, by way: demoted, promoted, evicted.";
    LINK_LATENCY Gauge "tmem_link_latency_seconds" "What an emulated link's latency is set to; label guest is empty for that of all guests.";
    LINK_BANDWIDTH Gauge "tmem_link_bandwidth_bits_per_second" "What an emulated link's bandwidth is set to; absent without a limit.";
    LINK_FLOOR Gauge "tmem_link_floor_seconds" "The lowest latency that can be emulated here, by calibration.";
    LINK_TRANSFERS Counter "tmem_link_transfers_total" "Transfers over a link.";
    LINK_BYTES Counter "tmem_link_bytes_total" "Bytes transferred over a link.";
    LINK_OVERRUNS Counter "tmem_link_overruns_total" "Transfers that were late beyond the link model's tolerance.";
    LINK_ERROR Histogram "tmem_link_error_seconds" "How much later transfers ended than they should have.";
    LINK_FAULTS Counter "tmem_link_faults_total" "Transfers that were made to go wrong, by fault.";
    STORES_PAGES Gauge "tmem_stores_pages" "Pages on the stores of tier remote, by kind: all, below (with too few copies), lost (with none), held (kept on this host until all copies are acknowledged).";
    STORES_REPAIRED Counter "tmem_stores_repaired_total" "Copies made by repair, rebalancing and drains.";
    STORES_REPAIR_RATE Gauge "tmem_stores_repair_bytes_per_second" "What these take now.";
    STORES_REPAIR_LIMIT Gauge "tmem_stores_repair_limit_bytes_per_second" "What these may take.";
    STORES_FAILOVERS Counter "tmem_stores_failovers_total" "Reads that another store answered because the first could not.";
    STORES_HEDGED Counter "tmem_stores_hedged_total" "Reads that another store was asked for because the first took long.";
    STORES_BAD Counter "tmem_stores_bad_copies_total" "Copies that were not what had been written, found when they were read.";
    STORES_FENCED Gauge "tmem_stores_fenced" "1: another daemon has taken this one's namespace over.";
    STORE_STATE Gauge "tmem_store_state" "1 for the state that a store is in, 0 for the others.";
    STORE_COPIES Gauge "tmem_store_copies" "Copies of this daemon's pages on a store.";
    STORE_CAPACITY Gauge "tmem_store_capacity_pages" "What fits into a store, for all of its clients.";
    STORE_FREE Gauge "tmem_store_free_pages" "What of that is free.";
    STORE_QUOTA Gauge "tmem_store_quota_pages" "What this daemon may have of a store.";
    STORE_USED Gauge "tmem_store_used_pages" "What this daemon has of a store.";
    STORE_HEARD Gauge "tmem_store_silence_seconds" "Since when nothing was heard of a store; absent before anything was.";
    STORE_READS Counter "tmem_store_reads_total" "Pages read from a store.";
    STORE_WRITES Counter "tmem_store_writes_total" "Pages written to a store.";
    STORE_FLUSHES Counter "tmem_store_flushes_total" "Pages that a store was told to forget.";
    STORE_ERRORS Counter "tmem_store_errors_total" "Requests to a store that failed.";
    BALLOON_BUDGET Gauge "tmem_balloon_budget_pages" "What all guests on auto may keep together; absent without a budget.";
    BALLOON_MEMORY Gauge "tmem_balloon_guest_memory_pages" "The guest's whole memory, by its VMM.";
    BALLOON_SIZE Gauge "tmem_balloon_size_pages" "What the guest keeps of its memory.";
    BALLOON_TARGET Gauge "tmem_balloon_target_pages" "What the guest's balloon shall hold.";
    BALLOON_HELD Gauge "tmem_balloon_held_pages" "What the guest's balloon holds.";
    BALLOON_AUTO Gauge "tmem_balloon_auto" "1: the daemon decides about the guest's balloon.";
    BALLOON_WORKS Gauge "tmem_balloon_driver_works" "1: the guest's driver tells its statistics.";
    BALLOON_DECISION Gauge "tmem_balloon_decision" "Always 1; label reason is why the daemon decided as it did.";
    BALLOON_FREED Counter "tmem_balloon_freed_total" "Pages that were given back to the host, by way: inflated, reported.";
    BALLOON_REFUSED Counter "tmem_balloon_refused_total" "Ranges of pages that could not be given back, by reason.";
    BALLOON_OOM Counter "tmem_balloon_oom_deflated_total" "Pages that the guest took back because it was out of memory.";
    BALLOON_GUEST Gauge "tmem_balloon_guest_pages" "What the guest's driver tells of its memory, by kind: total, available, free, swapped.";
    STORE_RTT Gauge "tmem_store_round_trip_seconds" "What a request to a store took lately, by quantile: 0.5 and 0.99.";
}

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
                ("pm", g.pm_pages),
                ("remote", g.remote_pages),
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
    histograms(
        &mut text,
        GET_LATENCY,
        stats
            .iter()
            .map(|s| ([("guest", &*s.guest)], &s.latency.get)),
    );
    histograms(
        &mut text,
        PUT_LATENCY,
        stats
            .iter()
            .map(|s| ([("guest", &*s.guest)], &s.latency.put)),
    );
    tiers::guests(&mut text, &guests);
    tiers::counters(&mut text, &stats);
    tiers::pools(&mut text, source, &guests);
    tiers::links(&mut text, source);
    stores::stores(&mut text, source);
    balloons::balloons(&mut text, source);
    text.into_string()
}

fn daemon(text: &mut Text, source: &dyn AdminSource) {
    let status = source.status();
    text.family(BUILD_INFO, [([("version", &*status.version)], 1)]);
    text.family(UPTIME, [([], status.uptime_seconds)]);
    text.family(HEALTHY, [([], u64::from(status.health == Health::Ok))]);
    processes(text, &status.daemon);
    text.family(EMULATED, [([], u64::from(status.emulated))]);
    tiers::tiers(text, &status);
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
