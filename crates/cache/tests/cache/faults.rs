//! Origins that fail.

use super::*;
use gannet_testkit::{
    client::stampede,
    origin::{Fault, Object, Rule},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_after_any_byte_is_healed_unseen() {
    for (n, after) in [0, 1, 300_000, MIB - 1].into_iter().enumerate() {
        let origin = Origin::start();
        let object = origin.put(BUCKET, "k", Object::generated(n as u64, 4 * MIB));
        // Each chunk's first GET breaks off.
        for chunk in 0..4 {
            let rule = Rule::new(Fault::Reset { after }).object(BUCKET, "k");
            origin.rule(rule.at_byte(chunk * MIB).times(1));
        }
        let cache = start(config(&origin)).await;
        let clients = stampede(&url(&cache, "k"), &[], 20, true).await;
        assert_eq!(
            clients.right(&object.sha256()),
            20,
            "all are served, after {after}"
        );
        settle(&cache).await;
        let counts = origin.counts_of(BUCKET, "k");
        assert!(
            counts.gets <= 8,
            "at most two GETs a chunk: {}, after {after}",
            counts.gets
        );
        assert!(
            counts.bytes <= 4 * (MIB + after),
            "{} bytes, after {after}",
            counts.bytes
        );
        cache.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_503_is_healed_unseen() {
    let origin = Origin::start();
    let object = origin.put(BUCKET, "k", Object::generated(1, 2 * MIB));
    origin.rule(
        Rule::new(Fault::Status {
            code: 503,
            retry_after: None,
        })
        .times(1),
    );
    origin.rule(
        Rule::new(Fault::Status {
            code: 503,
            retry_after: None,
        })
        .at_byte(MIB)
        .times(1),
    );
    let cache = start(config(&origin)).await;
    let clients = stampede(&url(&cache, "k"), &[], 20, true).await;
    assert_eq!(clients.right(&object.sha256()), 20);
    cache.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_for_good_is_an_error_before_the_first_byte_and_a_cut_after_it() {
    let origin = Origin::start();
    let object = origin.put(BUCKET, "k", Object::generated(1, 3 * MIB));
    let cache = start(config(&origin)).await;
    // Two chunks come; of the last not a byte, however often it is asked for.
    origin.rule(Rule::new(Fault::Reset { after: 0 }).at_byte(3 * MIB - 1));
    let answer = get(&cache, "k").await;
    assert_eq!(answer.status, 200);
    assert!(answer.cut, "never ended as if it were whole");
    let mut expected = vec![0; answer.body.len()];
    object.read(0, &mut expected);
    assert!(answer.body == expected, "and what came is right");
    settle(&cache).await;
    origin.dead(true);
    let answer = get_range(&cache, "k", "bytes=2097152-").await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.xml("Code").is_some() && !answer.cut);
    let held = get_range(&cache, "k", "bytes=0-99").await;
    assert_eq!(
        (held.status, held.body.len()),
        (206, 100),
        "what is held is served all the same"
    );
    origin.dead(false);
    origin.heal();
    let clients = stampede(&url(&cache, "k"), &[], 3, true).await;
    assert_eq!(
        clients.right(&object.sha256()),
        3,
        "nothing wrong was stored"
    );
    cache.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lies_of_the_origin_reach_nobody() {
    for fault in [
        Fault::Truncate { after: 1000 },
        Fault::WrongEtag("\"other\"".into()),
        Fault::WrongContentRange { by: 7 },
        Fault::Hangup,
        Fault::IgnoreRange,
        Fault::Chunked,
    ] {
        let origin = Origin::start();
        let object = origin.put(BUCKET, "k", Object::generated(1, 2 * MIB + 99));
        let cache = start(config(&origin)).await;
        assert_eq!(
            client::head(&url(&cache, "k"), &[]).await.unwrap().status,
            200
        );
        let what = format!("{fault:?}");
        origin.rule(Rule::new(fault).at_byte(MIB).times(1));
        let clients = stampede(&url(&cache, "k"), &[], 5, true).await;
        assert_eq!(clients.wrong(&object.sha256()), 0, "{what}");
        origin.heal();
        let clients = stampede(&url(&cache, "k"), &[], 5, true).await;
        assert_eq!(
            clients.right(&object.sha256()),
            5,
            "{what}: nothing wrong was stored"
        );
        cache.shutdown().await;
    }
}
