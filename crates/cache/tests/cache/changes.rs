//! Objects overwritten while they are read.

use super::*;
use futures_util::{StreamExt as _, stream};
use gannet_testkit::{
    content,
    origin::{Fault, Method, Object, Rule},
};
use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_mixes_versions_while_the_object_is_overwritten() {
    let origin = Arc::new(Origin::start());
    let size = 2 * MIB + 1234;
    origin.put(BUCKET, "k", Object::generated(1, size));
    let cache = Arc::new(start(config(&origin)).await);
    let over = Arc::new(AtomicBool::new(false));
    // Overwritten whenever the origin has answered a few more requests, so that it hits reads in all
    // their phases, however fast the machine is.
    let writer = tokio::spawn({
        let (origin, over) = (Arc::clone(&origin), Arc::clone(&over));
        async move {
            let mut seen = 0;
            while !over.load(Relaxed) {
                let counts = origin.counts();
                if counts.gets + counts.heads >= seen + 4 {
                    seen = counts.gets + counts.heads;
                    origin.replace(BUCKET, "k");
                }
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        }
    });
    let outcomes = stream::iter(0..2000_u64)
        .map(|n| {
            let cache = Arc::clone(&cache);
            tokio::spawn(async move {
                let start = mixed(n + 1) % size;
                let span = mixed(n + 1_000_000) % if n % 100 == 0 { size } else { 9000 };
                let end = (start + span).min(size - 1);
                if n % 40 == 0 {
                    // What is known is dropped now and then, so that new versions are met.
                    ops(&cache, "POST", "/admin/purge?bucket=b").await;
                }
                let answer = get_range(&cache, "k", &format!("bytes={start}-{end}")).await;
                (answer.status == 206).then(|| {
                    let version = answer.body.first().map(|byte| content::version_of(*byte));
                    let mut versions = answer.body.iter().map(|byte| content::version_of(*byte));
                    assert!(
                        versions.all(|v| Some(v) == version),
                        "two versions in one answer"
                    );
                    (version, answer.cut)
                })
            })
        })
        .buffer_unordered(32);
    let mut versions = HashSet::new();
    let (mut whole, mut refused) = (0, 0);
    let mut outcomes = std::pin::pin!(outcomes);
    while let Some(outcome) = outcomes.next().await {
        let Some((version, cut)) = outcome.expect("no client panics") else {
            refused += 1;
            continue;
        };
        whole += u32::from(!cut);
        versions.extend(version);
    }
    over.store(true, Relaxed);
    writer.await.unwrap();
    assert!(
        whole > 1500,
        "most are served: {whole} whole, {refused} refused"
    );
    assert!(
        versions.len() > 3,
        "several versions were met: {versions:?}"
    );
}

/// A number drawn from a number.
fn mixed(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_in_the_middle_cuts_the_answer_and_one_before_it_is_unseen() {
    let origin = Origin::start();
    origin.put(BUCKET, "k", Object::generated(1, 3 * MIB));
    let mut config = config(&origin);
    config.read.read_ahead = 0;
    let cache = start(config).await;
    origin.rule(
        Rule::new(Fault::Replace { at: 1000 })
            .method(Method::Get)
            .times(1),
    );
    let answer = get(&cache, "k").await;
    assert!(
        answer.status == 200 && answer.cut,
        "the second chunk is of another version"
    );
    assert!(
        answer
            .body
            .iter()
            .all(|byte| content::version_of(*byte) == 0)
    );
    let answer = get(&cache, "k").await;
    assert!(answer.status == 200 && !answer.cut);
    assert!(
        answer
            .body
            .iter()
            .all(|byte| content::version_of(*byte) == 1)
    );
    origin.replace(BUCKET, "k");
    ops(&cache, "POST", "/admin/purge?bucket=b").await;
    let head = client::head(&url(&cache, "k"), &[]).await.unwrap();
    origin.replace(BUCKET, "k");
    let answer = get(&cache, "k").await;
    assert!(answer.status == 200 && !answer.cut);
    assert!(
        answer.header("etag") != head.header("etag"),
        "the new version, under its own etag"
    );
    assert!(
        answer
            .body
            .iter()
            .all(|byte| content::version_of(*byte) == 3)
    );
    cache.shutdown().await;
}
