//! What the ops listener shows: the metrics page, and everything in flight as JSON.

use crate::{
    core::ReadPath,
    edge::{EdgeMetrics, FIRST_BYTE_BOUNDS_US},
    throttle::Throttle,
    tiers::Tiers,
};
use gannet::{engine::Snapshot, metrics::Page};
use gannet_store::Stats;
use serde_json::{Value, json};
use std::sync::atomic::Ordering::Relaxed;

/// Fetches shown at most.
const FETCHES_MAX: usize = 1000;

/// The metrics page.
pub(crate) async fn metrics(path: &ReadPath, edge: &EdgeMetrics) -> String {
    let core = &path.0;
    let mut page = Page::new();
    write_edge(&mut page, edge);
    core.ways.metrics.write(&mut page);
    // None while shutting down: the counters are still right.
    let sources = core
        .fetcher
        .snapshot()
        .await
        .map_or_else(Vec::new, |view| view.sources);
    page.fetcher(
        &core.fetcher.gauges(),
        &core.fetcher.counters(),
        &sources,
        |source| core.ways.sources.name(source),
    );
    write_stores(&mut page, &core.ways.tiers);
    let known = core.ways.meta.len() as u64;
    page.gauge(
        "gannet_meta_entries",
        "Objects of which something is known.",
    )
    .sample(&[], known);
    let loads = core.ways.throttles.iter().map(Throttle::load).enumerate();
    let loads: Vec<_> = loads.map(|(n, load)| (n.to_string(), load)).collect();
    let mut family = page.gauge(
        "gannet_origin_limit",
        "Requests that an origin is given at once.",
    );
    for (origin, (_, limit)) in &loads {
        family.sample(&[("origin", origin)], *limit);
    }
    let mut family = page.gauge("gannet_origin_inflight", "Requests under way to an origin.");
    for (origin, (under_way, _)) in &loads {
        family.sample(&[("origin", origin)], *under_way);
    }
    page.into_text()
}

fn write_edge(page: &mut Page, edge: &EdgeMetrics) {
    let mut requests = page.counter("gannet_edge_requests_total", "Requests answered.");
    for (method, code, count) in edge.requests() {
        requests.sample(&[("method", method), ("code", &code.to_string())], count);
    }
    let (counts, sum_us) = edge.first_byte_histogram();
    let seconds = |us: u64| us as f64 / 1e6;
    page.histogram(
        "gannet_edge_first_byte_seconds",
        "From a request to the first byte of its answer, for successful GETs of objects.",
    )
    .buckets(
        &[],
        &FIRST_BYTE_BOUNDS_US.map(seconds),
        counts,
        seconds(sum_us),
    );
    let connections = edge.connections.load(Relaxed);
    page.gauge("gannet_edge_connections", "Connections open.")
        .sample(&[], connections);
    for (name, help, count) in [
        (
            "gannet_edge_bytes_total",
            "Bytes of bodies sent.",
            &edge.bytes,
        ),
        (
            "gannet_edge_lean_total",
            "Requests answered on the lean path.",
            &edge.lean,
        ),
        (
            "gannet_edge_accepted_total",
            "Connections taken.",
            &edge.accepted,
        ),
        (
            "gannet_edge_accept_errors_total",
            "Connections that could not be taken.",
            &edge.accept_errors,
        ),
        (
            "gannet_edge_refused_total",
            "Connections turned away.",
            &edge.refused,
        ),
        (
            "gannet_edge_stalled_total",
            "Connections cut for their slowness.",
            &edge.stalled,
        ),
        (
            "gannet_edge_aborted_total",
            "Responses broken off.",
            &edge.aborted,
        ),
    ] {
        page.counter(name, help).sample(&[], count.load(Relaxed));
    }
}

/// One of a store's figures.
type Field = fn(&Stats) -> u64;

fn write_stores(page: &mut Page, tiers: &Tiers) {
    let stats: Vec<_> = tiers
        .by_tier()
        .map(|(tier, store)| (tier.name(), store.stats()))
        .collect();
    let gauges: [(_, _, Field); 3] = [
        ("gannet_store_bytes", "Bytes that chunks take.", |stats| {
            stats.bytes
        }),
        (
            "gannet_store_bytes_max",
            "Bytes that they may take.",
            |stats| stats.bytes_max,
        ),
        ("gannet_store_blobs", "Chunks held.", |stats| stats.blobs),
    ];
    for (name, help, value) in gauges {
        let mut family = page.gauge(name, help);
        for (tier, stats) in &stats {
            family.sample(&[("tier", tier)], value(stats));
        }
    }
    let counters: [(_, _, Field); 4] = [
        (
            "gannet_store_evictions_total",
            "Chunks dropped to make room.",
            |stats| stats.evictions,
        ),
        (
            "gannet_store_corrupt_total",
            "Copies found wrong, and dropped.",
            |stats| stats.corrupt,
        ),
        (
            "gannet_store_lost_total",
            "Copies that vanished.",
            |stats| stats.lost,
        ),
        (
            "gannet_store_scrubbed_total",
            "Copies verified in passing.",
            |stats| stats.scrubbed,
        ),
    ];
    for (name, help, value) in counters {
        let mut family = page.counter(name, help);
        for (tier, stats) in &stats {
            family.sample(&[("tier", tier)], value(stats));
        }
    }
    let mut commits = page.counter("gannet_store_commits_total", "Commits, by how they ended.");
    for (tier, stats) in &stats {
        for (outcome, count) in [
            ("stored", stats.commits_stored),
            ("exists", stats.commits_exists),
            ("full", stats.commits_full),
            ("error", stats.commits_error),
        ] {
            commits.sample(&[("tier", tier), ("outcome", outcome)], count);
        }
    }
}

/// Everything in flight.
pub(crate) async fn fetches(path: &ReadPath) -> Value {
    match path.0.fetcher.snapshot().await {
        Some(snapshot) => snapshot_json(path, &snapshot),
        None => json!({ "v": 1, "shut": true }),
    }
}

fn snapshot_json(path: &ReadPath, snapshot: &Snapshot<crate::key::CacheKey>) -> Value {
    let sources = path.0.ways.sources;
    let fetches = snapshot.fetches.iter().take(FETCHES_MAX).map(|fetch| {
        let attempts = fetch.attempts.iter().map(|attempt| {
            json!({
                "id": attempt.attempt.0, "source": sources.name(attempt.source),
                "stage": format!("{:?}", attempt.stage), "from_byte": attempt.from_byte,
                "upto": attempt.upto, "acknowledged": attempt.acknowledged,
                "aborting": attempt.aborting,
            })
        });
        json!({
            "key": format!("{:?}", fetch.key), "id": fetch.fetch.0,
            "phase": format!("{:?}", fetch.phase), "priority": fetch.priority,
            "waiters": fetch.waiters.len(), "frontier": fetch.frontier, "cycles": fetch.cycles,
            "attempts": attempts.collect::<Vec<_>>(),
        })
    });
    let views = snapshot.sources.iter().map(|view| {
        let millis = |d: Option<std::time::Duration>| d.map(|d| d.as_secs_f64() * 1000.0);
        json!({
            "source": sources.name(view.source), "health": format!("{:?}", view.health),
            "up": view.up, "attempts": view.attempts, "queued": view.queued,
            "bytes_per_second": view.performance, "faults": view.faults,
            "first_byte_ms_mean": millis(view.latency_mean),
            "first_byte_ms_p99": millis(view.latency_p99),
        })
    });
    json!({
        "v": 1, "fetches_all": snapshot.fetches.len(), "racing": snapshot.racing,
        "waiters": snapshot.waiters, "bytes": snapshot.bytes, "attempts": snapshot.attempts,
        "fetches": fetches.collect::<Vec<_>>(), "sources": views.collect::<Vec<_>>(),
    })
}
