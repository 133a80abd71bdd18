//! The whole cache, edge to origin, in front of an S3 origin over TCP that counts everything and
//! misbehaves on command. What time does to it is tested inside the crate, on a clock of its own.

mod changes;
mod disk;
mod faults;
mod once;
mod ops;

use gannet_cache::{
    Cache, CacheConfig, DiskTier, ReadConfig, RunningCache,
    edge::{Access, EdgeConfig},
    origin::OriginSpec,
};
use gannet_testkit::{
    client::{self, Answer},
    origin::Origin,
};
use std::{net::SocketAddr, path::Path, time::Duration};

const MIB: u64 = 1 << 20;
const BUCKET: &str = "b";

/// A cache in front of this origin, with chunks of 1 MiB and a memory of 64.
fn config(origin: &Origin) -> CacheConfig {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    CacheConfig {
        origin: OriginSpec {
            endpoint: Some(origin.url()),
            anonymous: true,
            path_style: Some(true),
            ..OriginSpec::new("s3://")
        },
        mirrors: Vec::new(),
        listen: any,
        edge: EdgeConfig::new(Access::Anonymous),
        ops_listen: Some(any),
        ops_token: None,
        disk: None,
        store: None,
        cluster: None,
        read: ReadConfig {
            chunk_bytes: MIB,
            memory_bytes_max: 64 * MIB,
            // A machine too busy to run the origin is no origin that stalls.
            hedge_after: Duration::from_secs(60),
            queue_timeout: Duration::from_secs(60),
            ..ReadConfig::default()
        },
        traces: None,
    }
}

fn with_disk(origin: &Origin, dir: &Path) -> CacheConfig {
    let disk = DiskTier {
        dir: dir.to_owned(),
        bytes_max: 256 * MIB,
    };
    CacheConfig {
        disk: Some(disk),
        ..config(origin)
    }
}

async fn start(config: CacheConfig) -> RunningCache {
    Cache::start(config).await.expect("the cache starts")
}

fn url(cache: &RunningCache, key: &str) -> String {
    format!("http://{}/{BUCKET}/{key}", cache.edge_address())
}

async fn get(cache: &RunningCache, key: &str) -> Answer {
    client::get(&url(cache, key), &[]).await.expect("an answer")
}

async fn get_range(cache: &RunningCache, key: &str, range: &str) -> Answer {
    client::get(&url(cache, key), &[("range", range)])
        .await
        .expect("an answer")
}

/// One sample of the metrics page.
async fn metric(cache: &RunningCache, sample: &str) -> u64 {
    let page = ops(cache, "GET", "/metrics").await.text();
    let line = page.lines().find_map(|line| line.strip_prefix(sample));
    let value = line.unwrap_or_else(|| panic!("{sample} is not on the page:\n{page}"));
    value.trim().parse().expect("a whole number")
}

async fn ops(cache: &RunningCache, method: &str, path: &str) -> Answer {
    let address = cache.ops_address().expect("it has an ops listener");
    client::request(method, &format!("http://{address}{path}"), &[], b"")
        .await
        .expect("an answer")
}

/// Waits until a sample has this value: some are counted only after the client has its answer.
async fn becomes(cache: &RunningCache, sample: &str, expected: u64) {
    let mut last = None;
    let wait = async {
        while last != Some(expected) {
            last = Some(metric(cache, &format!("{sample} ")).await);
            tokio::task::yield_now().await;
        }
    };
    // Only a failure takes so long.
    if tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .is_err()
    {
        panic!("{sample} is {last:?}, and should be {expected}");
    }
}

/// Waits until nothing is being fetched or committed.
async fn settle(cache: &RunningCache) {
    while metric(cache, "gannet_fetch_inflight ").await > 0 {
        tokio::task::yield_now().await;
    }
}
