// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `/metrics`, the Prometheus text, and `/healthz`: one table of names, and one function that fills
//! them.

use std::future::IntoFuture;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tmem_metrics::{Metric, Seconds, Text, metrics};
use tokio::net::{TcpListener, UnixListener};

use crate::config::Address;
use crate::service::Doors;
use crate::store::{BUCKETS, KINDS, Kind, NamespaceStats, Store, Totals, bucket_bound};

metrics! {
    #[cfg(test)]
    const METRICS;
    BUILD_INFO Gauge "tmem_store_build_info" "Always 1; label version is the store's.";
    CAPACITY Gauge "tmem_store_capacity_bytes" "Bytes of pages that there is room for, in all tiers.";
    FREE Gauge "tmem_store_free_bytes" "Bytes of pages that there is room for still.";
    METADATA Gauge "tmem_store_metadata_bytes" "Memory that is no page: tables, indices, lists.";
    LOAD Gauge "tmem_store_load_ratio" "The share of its time in which the busiest shard worked lately.";
    CONNECTIONS Gauge "tmem_store_connections" "Connections that are open.";
    ACCEPTED Counter "tmem_store_connections_accepted_total" "Connections that were served so far, by whatever end.";
    TURNED_AWAY Counter "tmem_store_connections_turned_away_total" "Connections that were closed at once, since there were too many.";
    TIER_CAPACITY Gauge "tmem_store_tier_capacity_bytes" "Bytes of pages that a tier may hold.";
    TIER_USED Gauge "tmem_store_tier_used_bytes" "Bytes of pages that take room in a tier.";
    TIER_MOVED Counter "tmem_store_tier_moved_pages_total" "Pages that moved into a lower tier, or up out of it.";
    TIER_ERRORS Counter "tmem_store_tier_errors_total" "Reads and writes of a lower tier that failed.";
    LOG Gauge "tmem_store_log_bytes" "Bytes of the log: live are needed, from limit on pages are refused.";
    LOG_COMMITS Counter "tmem_store_log_commits_total" "Batches that were written to the log.";
    QUOTA Gauge "tmem_store_namespace_quota_bytes" "Bytes of persistent pages that a namespace may keep.";
    USED Gauge "tmem_store_namespace_used_bytes" "Bytes of persistent pages that a namespace keeps.";
    EPHEMERAL Gauge "tmem_store_namespace_ephemeral_bytes" "Bytes of a namespace's pages that may vanish.";
    OPEN Gauge "tmem_store_namespace_connections" "Connections of a namespace that are open.";
    EPOCH Gauge "tmem_store_namespace_epoch" "The newest epoch of a namespace's clients.";
    PAGES Counter "tmem_store_pages_total" "Pages of requests, by what became of them.";
    BYTES Counter "tmem_store_bytes_total" "Bytes of requests and answers.";
    REQUESTS Histogram "tmem_store_request_seconds" "Time from the arrival of a request to its answer, by kind.";
}

/// What the pages of metrics are about.
#[derive(Clone, Debug)]
struct Source {
    store: Arc<Store>,
    doors: Arc<Doors>,
}

/// Where metrics are served.
pub(crate) struct Endpoint {
    socket: Socket,
    router: Router,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Listens for those who want metrics.
pub(crate) async fn open(
    address: &Address,
    store: &Arc<Store>,
    doors: &Arc<Doors>,
) -> io::Result<Endpoint> {
    let socket = match address {
        Address::Tcp(at) => Socket::Tcp(TcpListener::bind(at).await?),
        Address::Unix(path) => Socket::Unix(crate::service::listen_unix(path)?),
    };
    let source = Source {
        store: Arc::clone(store),
        doors: Arc::clone(doors),
    };
    let router = Router::new()
        .route("/metrics", get(show))
        .route("/healthz", get(health))
        .with_state(source);
    Ok(Endpoint { socket, router })
}

impl Endpoint {
    /// Where it listens, if that is a port.
    pub(crate) fn address(&self) -> Option<Address> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok().map(Address::Tcp),
            Socket::Unix(_) => None,
        }
    }

    /// Serves, for ever.
    pub(crate) async fn serve(self) {
        let served = match self.socket {
            Socket::Tcp(listener) => axum::serve(listener, self.router).into_future().await,
            Socket::Unix(listener) => axum::serve(listener, self.router).into_future().await,
        };
        if let Err(error) = served {
            tracing::error!(%error, "metrics are no longer served");
            std::future::pending::<()>().await;
        }
    }
}

async fn health(State(source): State<Source>) -> impl IntoResponse {
    if source.store.registry().is_ended() {
        (StatusCode::SERVICE_UNAVAILABLE, "ending\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

async fn show(State(source): State<Source>) -> impl IntoResponse {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], write(&source))
}

const PAGE: u64 = 4096;

/// The whole text.
fn write(source: &Source) -> String {
    let stats = source.store.stats();
    let (open, turned_away) = source.doors.counts();
    let (accepted, _) = source.store.registry().counts();
    let mut text = Text::default();
    text.family(BUILD_INFO, [([("version", env!("CARGO_PKG_VERSION"))], 1)]);
    let mut plain = |metric, value: u64| text.family(metric, [([], value)]);
    plain(CAPACITY, stats.capacity_pages * PAGE);
    plain(FREE, stats.free_pages * PAGE);
    plain(METADATA, stats.metadata_bytes);
    plain(CONNECTIONS, open.into());
    plain(ACCEPTED, accepted);
    plain(TURNED_AWAY, turned_away);
    text.family(LOAD, [([], f64::from(stats.load) / 1000.0)]);
    let tiers = || stats.tiers.iter().map(|(tier, stats)| (tier.name(), stats));
    text.family(
        TIER_CAPACITY,
        tiers().map(|(tier, stats)| ([("tier", tier)], stats.capacity_pages * PAGE)),
    );
    text.family(
        TIER_USED,
        tiers().map(|(tier, stats)| ([("tier", tier)], stats.used_pages * PAGE)),
    );
    text.family(
        TIER_MOVED,
        tiers().flat_map(|(tier, stats)| {
            [("down", stats.demoted), ("up", stats.promoted)]
                .map(|(way, pages)| ([("tier", tier), ("direction", way)], pages))
        }),
    );
    text.family(
        TIER_ERRORS,
        tiers().flat_map(|(tier, stats)| {
            [("read", stats.read_errors), ("write", stats.write_errors)]
                .map(|(what, errors)| ([("tier", tier), ("op", what)], errors))
        }),
    );
    let log = source.store.log_stats();
    let bytes = log.map(|log| [("live", log.live_bytes), ("limit", log.limit_bytes)]);
    text.family(
        LOG,
        (bytes.into_iter().flatten()).map(|(what, bytes)| ([("kind", what)], bytes)),
    );
    text.family(LOG_COMMITS, log.map(|log| ([], log.commits)));
    write_namespaces(&mut text, &stats.namespaces);
    text.into_string()
}

fn write_namespaces(text: &mut Text, namespaces: &[NamespaceStats]) {
    let mut gauge = |metric, value: fn(&NamespaceStats) -> u64| {
        text.family(
            metric,
            (namespaces.iter()).map(|of| ([("namespace", &*of.name)], value(of))),
        );
    };
    gauge(QUOTA, |of| of.quota_pages * PAGE);
    gauge(USED, |of| of.used_pages * PAGE);
    gauge(EPHEMERAL, |of| of.ephemeral_pages * PAGE);
    gauge(OPEN, |of| of.connections.into());
    gauge(EPOCH, |of| of.epoch);
    text.family(
        PAGES,
        namespaces.iter().flat_map(|of| {
            let (pages, served) = (&of.pages, &of.served);
            [
                ("put", pages.puts),
                ("hit", pages.gets),
                ("miss", pages.misses),
                ("flushed", pages.flushes),
                ("stale", pages.stale),
                ("dropped", pages.evicted),
                ("damaged", pages.corrupt),
                ("over_quota", served.over_quota),
                ("full", served.full),
                ("bad_checksum", served.bad_checksums),
            ]
            .map(|(what, count)| ([("namespace", &*of.name), ("result", what)], count))
        }),
    );
    text.family(
        BYTES,
        namespaces.iter().flat_map(|of| {
            [("in", of.served.bytes_in), ("out", of.served.bytes_out)]
                .map(|(way, bytes)| ([("namespace", &*of.name), ("direction", way)], bytes))
        }),
    );
    text.head(REQUESTS);
    for of in namespaces {
        for (kind, number) in Kind::ALL.into_iter().zip(0..KINDS) {
            let labels = [("namespace", &*of.name), ("kind", kind.name())];
            write_times(text, REQUESTS, &labels, &of.served, number);
        }
    }
}

/// How long requests of one kind took.
fn write_times(
    text: &mut Text,
    metric: Metric,
    labels: &[(&str, &str)],
    totals: &Totals,
    kind: usize,
) {
    let mut below = 0;
    let bounds: Vec<(String, u64)> = (0..BUCKETS)
        .filter_map(|bucket| {
            below += totals.buckets[kind][bucket];
            Some((bucket_bound(bucket)?.to_string(), below))
        })
        .collect();
    let bounds = bounds.iter().map(|(bound, below)| (&**bound, *below));
    let sum = Seconds::of_ns(totals.nanoseconds[kind]);
    text.histogram(metric, labels, bounds, (totals.requests[kind], sum));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Identity, StoreConfig};

    #[test]
    fn every_metric_is_written_and_described() {
        let identity = Identity {
            store_id: [1; 16],
            incarnation: 1,
        };
        let (store, _) = Store::open(StoreConfig::new(64, identity)).unwrap();
        store.open_namespace("a\"b", 1, 0).unwrap();
        let doors = Doors::new(1, 1);
        let text = write(&Source { store, doors });
        for metric in METRICS {
            let name = metric.name;
            assert!(
                text.contains(&format!("# HELP {name} {}", metric.help)),
                "{name}"
            );
            let sample = text.lines().any(|line| line.starts_with(name));
            assert!(sample || name.contains("_log_"), "{name} has no sample");
        }
        assert!(text.contains("namespace=\"a\\\"b\""));
        assert!(text.contains("tmem_store_capacity_bytes 262144\n"));
    }
}
