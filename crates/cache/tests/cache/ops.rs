//! The operator's listener.

use super::*;
use gannet_cache::{ClusterConfig, CredentialFiles, MembersFrom};
use gannet_testkit::origin::Object;
use std::{collections::BTreeSet, num::NonZeroU16};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_readiness_metrics_and_what_is_in_flight() {
    let origin = Origin::start();
    origin.put(BUCKET, "k", Object::generated(1, MIB));
    let cache = start(config(&origin)).await;
    assert_eq!(ops(&cache, "GET", "/healthz").await.status, 200);
    assert_eq!(ops(&cache, "GET", "/readyz").await.status, 200);
    assert_eq!(ops(&cache, "POST", "/readyz").await.status, 405);
    assert_eq!(ops(&cache, "GET", "/admin/purge").await.status, 405);
    assert_eq!(ops(&cache, "GET", "/other").await.status, 404);
    assert_eq!(get(&cache, "k").await.status, 200);
    // Before the commit it would read the first one's bytes, which is no hit of the memory tier.
    settle(&cache).await;
    assert_eq!(get(&cache, "k").await.status, 200);
    for (sample, expected) in [
        ("gannet_edge_requests_total{method=\"GET\",code=\"200\"}", 2),
        ("gannet_edge_bytes_total", 2 * MIB),
        ("gannet_edge_first_byte_seconds_count", 2),
        (
            "gannet_origin_requests_total{op=\"read\",outcome=\"ok\"}",
            1,
        ),
        (
            "gannet_origin_requests_total{op=\"head\",outcome=\"ok\"}",
            1,
        ),
        ("gannet_origin_bytes_total", MIB),
        ("gannet_fetch_inflight", 0),
        ("gannet_fetch_resumes_total", 0),
        ("gannet_store_hits_total{tier=\"memory\"}", 1),
        ("gannet_store_misses_total", 1),
        (
            "gannet_store_commits_total{tier=\"memory\",outcome=\"stored\"}",
            1,
        ),
        (
            "gannet_source_health{source=\"origin/0\",state=\"healthy\"}",
            1,
        ),
    ] {
        becomes(&cache, sample, expected).await;
    }
    let fetches = ops(&cache, "GET", "/debug/fetches").await;
    assert_eq!(fetches.header("content-type"), Some("application/json"));
    assert!(
        fetches.text().contains("\"source\":\"origin/0\""),
        "{}",
        fetches.text()
    );
    cache.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_is_documented_and_every_documented_one_is_there() {
    let origin = Origin::start();
    origin.put(BUCKET, "k", Object::generated(1, 10));
    let text = include_str!("../../../../docs/METRICS.md");
    let names = text.split('`').filter(|word| word.starts_with("gannet_"));
    // `gannet_origin_*` stands for several.
    let names = names.filter(|name| !name.ends_with('*'));
    let documented: BTreeSet<&str> = names.map(|name| name.split('{').next().unwrap()).collect();
    let of_a_cluster = |name: &str| name.starts_with("gannet_cluster_");
    for cluster in [None, Some(alone())] {
        let in_cluster = cluster.is_some();
        let cache = start(CacheConfig {
            cluster,
            ..config(&origin)
        })
        .await;
        get(&cache, "k").await;
        let page = ops(&cache, "GET", "/metrics").await.text();
        let there: BTreeSet<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        let mut expected = documented.clone();
        expected.retain(|name| in_cluster || !of_a_cluster(name));
        assert_eq!(there, expected, "in a cluster: {in_cluster}");
        assert_eq!(page.contains("fetcher=\"home\""), in_cluster);
        assert_eq!(page.contains("fetcher=\"peer\""), in_cluster);
        // What its columns name is what the page's lines have.
        for line in page.lines().filter(|line| of_a_cluster(line)) {
            let name = line.split(['{', ' ']).next().unwrap();
            let row = text
                .lines()
                .find(|row| row.starts_with(&format!("| `{name}` ")));
            for (n, word) in line.split('"').enumerate() {
                let row = row.unwrap_or_default();
                assert!(n % 2 == 0 || row.contains(&format!("`{word}`")), "{line}");
            }
        }
        cache.shutdown().await;
    }
}

/// A cluster of one.
fn alone() -> ClusterConfig {
    ClusterConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        advertise: None,
        weight: NonZeroU16::MIN,
        members: MembersFrom::Fixed(Vec::new()),
        credentials: CredentialFiles::None,
        sends_max: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purging_and_warming() {
    let origin = Origin::start();
    origin.put(BUCKET, "a/1", Object::generated(1, 2 * MIB));
    origin.put(BUCKET, "a/2", Object::generated(2, 10));
    let cache = start(config(&origin)).await;
    let address = cache.ops_address().unwrap();
    let warm = async |list: &str| {
        let url = format!("http://{address}/admin/warm");
        client::request("POST", &url, &[], list.as_bytes())
            .await
            .unwrap()
    };
    assert_eq!(warm("no-slash").await.status, 400);
    let warmed = warm("b/a/1\nb/a/2\nb/absent\n").await;
    let lines: Vec<serde_json::Value> = warmed
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["event"], &last["objects"], &last["failed"]),
        (&"end".into(), &2.into(), &1.into())
    );
    assert_eq!(last["bytes"], 2 * MIB + 10);
    let asked = origin.counts();
    assert_eq!(get(&cache, "a/1").await.body.len() as u64, 2 * MIB);
    let counts = origin.counts();
    assert_eq!(
        (counts.heads, counts.gets),
        (asked.heads, asked.gets),
        "it was there"
    );
    let purged = ops(&cache, "POST", "/admin/purge?bucket=b&prefix=a/").await;
    let purged: serde_json::Value = serde_json::from_str(&purged.text()).unwrap();
    assert_eq!(
        (&purged["objects"], &purged["chunks"]),
        (&2.into(), &3.into())
    );
    get(&cache, "a/1").await;
    assert_eq!(origin.counts().heads, asked.heads + 1);
    for wrong in ["?prefix=a", "?buckets=b"] {
        assert_eq!(
            ops(&cache, "POST", &format!("/admin/purge{wrong}"))
                .await
                .status,
            400
        );
    }
    cache.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn administration_is_not_for_everybody() {
    let origin = Origin::start();
    let cache = start(CacheConfig {
        ops_token: Some("secret".into()),
        ..config(&origin)
    })
    .await;
    let address = cache.ops_address().unwrap();
    let url = format!("http://{address}/admin/purge");
    for (headers, expected) in [
        (&[][..], 200),
        (&[("authorization", "Bearer secret")], 200),
        (&[("authorization", "Bearer wrong")], 401),
        (&[("origin", "http://evil.example")], 403),
        (&[("referer", "http://evil.example")], 403),
        (&[("sec-fetch-site", "cross-site")], 403),
    ] {
        let answer = client::request("POST", &url, headers, b"").await.unwrap();
        assert_eq!(answer.status, expected, "{headers:?}");
    }
    cache.shutdown().await;
}
