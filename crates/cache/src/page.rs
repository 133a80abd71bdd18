//! What the ops listener shows: the metrics page, and everything in flight as JSON.

use crate::{
    breaker::Standing,
    cluster,
    core::{Core, ReadPath},
    edge::{EdgeMetrics, FIRST_BYTE_BOUNDS_US},
    key::{CacheKey, ChunkKey},
    throttle::Throttle,
    tiers::Tiers,
    transport::Reply,
    types::ObjectName,
};
use gannet::{
    Fetcher,
    engine::{Snapshot, SourceId},
    metrics::{Figures, Page, named},
};
use gannet_cluster::{Member, View};
use gannet_store::Stats;
use serde_json::{Value, json};
use std::sync::{Arc, atomic::Ordering::Relaxed};

/// Fetches shown at most.
const FETCHES_MAX: usize = 1000;
/// Chunks of one object shown at most.
const CHUNKS_MAX: u64 = 1000;

/// The metrics page.
pub(crate) async fn metrics(path: &ReadPath, edge: &EdgeMetrics) -> String {
    let core = &path.0;
    let mut page = Page::new();
    write_edge(&mut page, edge);
    core.ways.metrics.write(&mut page);
    let in_cluster = core.peer.is_some();
    let mut fetchers = vec![figures(core, &core.home, if in_cluster { HOME } else { &[] }).await];
    if let Some(peer) = &core.peer {
        fetchers.push(figures(core, peer, PEER).await);
    }
    page.fetchers(&fetchers);
    if let Some(cluster) = &core.ways.cluster {
        cluster.write(&mut page);
    }
    write_stores(&mut page, &core.ways.tiers);
    core.ways.tracer.write(&mut page);
    let standing = core.ways.tiers.shared_standing();
    let standing = standing.unwrap_or(Standing::Well);
    page.gauge(
        "gannet_store_shared_well",
        "0 while the shared store fails, or has not passed its self-test, and is left alone; 1 where there is none.",
    )
    .sample(&[], u64::from(standing == Standing::Well));
    page.gauge(
        "gannet_store_shared_unfit",
        "1 while the self-test finds that the shared store must not be used, so that it is left alone.",
    )
    .sample(&[], u64::from(standing == Standing::Unfit));
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

const HOME: &[(&str, &str)] = &[("fetcher", "home")];
const PEER: &[(&str, &str)] = &[("fetcher", "peer")];

async fn figures<'a>(
    core: &Core,
    fetcher: &Fetcher<CacheKey, Reply>,
    labels: &'a [(&'static str, &'a str)],
) -> Figures<'a> {
    // None while shutting down: the counters are still right.
    let snapshot = fetcher.snapshot().await;
    let sources = snapshot.map_or_else(Vec::new, |view| view.sources);
    let of_peer = labels == PEER;
    Figures {
        labels,
        gauges: fetcher.gauges(),
        counters: fetcher.counters(),
        sources: named(sources, |source| source_name(core, source, of_peer)),
    }
}

/// What people call a source of one of the fetchers.
fn source_name(core: &Core, source: SourceId, of_peer: bool) -> String {
    if of_peer && source == cluster::HOME {
        return "home".to_owned();
    }
    let cluster = core.ways.cluster.as_ref();
    let member = cluster.and_then(|cluster| cluster.members().by_id(source).cloned());
    match member {
        Some(member) => member.address().to_owned(),
        None => core.ways.sources.name(source),
    }
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

/// The cluster as this member sees it, and who coordinates the chunks of an object.
pub(crate) async fn status(path: &ReadPath, object: Option<&ObjectName>) -> Value {
    let core = &path.0;
    let gauges = core.home.gauges();
    let mut status = json!({
        "v": 1, "origin": &*core.origin_id,
        "fills": { "fetches": gauges.fetches, "attempts": gauges.attempts, "waiters": gauges.waiters },
        "shared_store_well": core.ways.tiers.shared_standing().map(|s| s == Standing::Well),
    });
    let (Some(cluster), Some(peer)) = (&core.ways.cluster, &core.peer) else {
        return status;
    };
    let snapshot = peer.snapshot().await;
    let health = |id: Option<SourceId>| {
        let sources = &snapshot.as_ref()?.sources;
        let view = sources.iter().find(|view| Some(view.source) == id)?;
        Some(format!("{:?}", view.health))
    };
    let there = cluster.look_at_others().await;
    let members = cluster.members();
    let all = members.view.members().map(|member| {
        let mut shown = json!({
            "address": member.address(), "weight": member.weight(), "self": member == cluster.me(),
        });
        if let Some((_, answer)) = there.iter().find(|(other, _)| other == member) {
            shown["health"] = json!(health(members.id(member)));
            match answer {
                Ok(took) => shown["answered_ms"] = json!(took.as_secs_f64() * 1000.0),
                Err(error) => shown["error"] = json!(error),
            }
        }
        shown
    });
    status["self"] = json!(cluster.me().address());
    status["settled"] = json!(members.view.is_settled());
    status["members"] = Value::Array(all.collect());
    if let Some(name) = object {
        status["object"] = coordinators(core, &members.view, name);
    }
    status
}

/// Who coordinates an object: its metadata, and, where those are known here, its chunks.
fn coordinators(core: &Core, view: &View, name: &ObjectName) -> Value {
    let ranked = |key: &CacheKey| {
        let (first, second) = view.ranked(key.placement());
        json!({
            "coordinator": first.address(), "runner_up": second.map(Member::address),
        })
    };
    let mut object = json!({
        "bucket": &*name.bucket, "key": &*name.key, "head": ranked(&CacheKey::Head(name.clone())),
    });
    if let Some(Ok(meta)) = core.ways.meta.get(name).map(|found| found.value) {
        let version = core.version(name, &meta);
        let chunks = version.size.div_ceil(version.chunk_size);
        let chunk = |index| {
            ranked(&CacheKey::Chunk(ChunkKey {
                version: Arc::clone(&version),
                index,
            }))
        };
        object["etag"] = json!(&*meta.etag);
        object["size"] = json!(meta.size);
        object["chunks_all"] = json!(chunks);
        object["chunks"] = (0..chunks.min(CHUNKS_MAX)).map(chunk).collect();
    }
    object
}

/// Everything in flight.
pub(crate) async fn fetches(path: &ReadPath) -> Value {
    let core = &path.0;
    let Some(snapshot) = core.home.snapshot().await else {
        return json!({ "v": 1, "shut": true });
    };
    let mut page = snapshot_json(core, &snapshot, false);
    if let Some(peer) = &core.peer
        && let Some(snapshot) = peer.snapshot().await
    {
        page["peer"] = snapshot_json(core, &snapshot, true);
    }
    page
}

fn snapshot_json(core: &Core, snapshot: &Snapshot<CacheKey>, of_peer: bool) -> Value {
    let name = |source| source_name(core, source, of_peer);
    let fetches = snapshot.fetches.iter().take(FETCHES_MAX).map(|fetch| {
        let attempts = fetch.attempts.iter().map(|attempt| {
            json!({
                "id": attempt.attempt.0, "source": name(attempt.source),
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
            "source": name(view.source), "health": format!("{:?}", view.health),
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
