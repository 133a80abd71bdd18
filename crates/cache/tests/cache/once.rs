//! Each byte once.

use super::*;
use gannet_testkit::{client::stampede, origin::Object};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_cost_the_origin_one_object() {
    let origin = Origin::start();
    let object = origin.put(BUCKET, "k", Object::generated(1, 2 * MIB + 4321));
    let cache = start(config(&origin)).await;
    let clients = stampede(&url(&cache, "k"), &[], 200, true).await;
    assert_eq!(clients.right(&object.sha256()), 200, "every hash is right");
    settle(&cache).await;
    let counts = origin.counts_of(BUCKET, "k");
    assert_eq!(counts.bytes, object.size, "1.00 x the bytes");
    assert_eq!(
        (counts.gets, counts.heads),
        (3, 1),
        "one GET a chunk, one HEAD"
    );
    for sample in [
        "gannet_fetch_hedges_total{won=\"false\"}",
        // Gauges return to zero.
        "gannet_fetch_waiters",
        "gannet_fetch_body_bytes",
    ] {
        becomes(&cache, sample, 0).await;
    }
    cache.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_bytes_of_a_large_object_cost_one_chunk() {
    let origin = Origin::start();
    origin.put(BUCKET, "k", Object::generated(1, 1 << 30));
    let cache = start(config(&origin)).await;
    let answer = get_range(&cache, "k", "bytes=-1048576").await;
    assert_eq!((answer.status, answer.body.len() as u64), (206, MIB));
    let mut expected = vec![0; MIB as usize];
    origin
        .object(BUCKET, "k")
        .unwrap()
        .read((1 << 30) - MIB, &mut expected);
    assert!(answer.body == expected);
    settle(&cache).await;
    let counts = origin.counts_of(BUCKET, "k");
    assert_eq!((counts.gets, counts.bytes), (1, MIB));
    cache.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_requests_for_nothing_are_one_for_the_origin() {
    let origin = Origin::start();
    origin.bucket(BUCKET);
    let cache = start(config(&origin)).await;
    let clients = (0..100).map(|_| get(&cache, "absent"));
    for answer in futures_util::future::join_all(clients).await {
        assert_eq!(
            (answer.status, answer.xml("Code").as_deref()),
            (404, Some("NoSuchKey"))
        );
    }
    let counts = origin.counts();
    assert_eq!(counts.heads + counts.gets, 1);
    cache.shutdown().await;
}

/// Every request to the origin names a request of ours, so that the logs of both can be joined.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_origin_is_told_for_whom() {
    let origin = Origin::start();
    origin.put(BUCKET, "k", Object::generated(1, 3 * MIB + 5));
    let cache = start(config(&origin)).await;
    let clients = (0..20).map(|_| get(&cache, "k"));
    let answers = futures_util::future::join_all(clients).await;
    let ids: Vec<_> = answers
        .iter()
        .map(|answer| answer.header("x-amz-request-id").expect("an id"))
        .collect();
    settle(&cache).await;
    let served = origin.served();
    assert_eq!(served.len(), 5, "a HEAD and four chunks");
    for request in &served {
        let id = request.header("x-gannet-request-id");
        assert!(id.is_some_and(|id| ids.contains(&id)), "{request:?}");
    }
    cache.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_etag_is_a_clear_502() {
    let origin = Origin::start();
    origin.put(BUCKET, "k", Object::generated(1, 10));
    origin.put(BUCKET, "empty", Object::generated(1, 0));
    let cache = start(config(&origin)).await;
    assert_eq!(
        (get(&cache, "empty").await.status, origin.counts().gets),
        (200, 0)
    );
    origin.rule(gannet_testkit::origin::Rule::new(
        gannet_testkit::origin::Fault::NoEtag,
    ));
    let answer = get(&cache, "k").await;
    assert_eq!(
        (answer.status, answer.xml("Code").as_deref()),
        (502, Some("OriginMissingETag"))
    );
    cache.shutdown().await;
}

/// An origin with a certificate of its own making (here: another cache), by the authority that the
/// operator names, and not without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_with_a_private_authority() {
    let origin = Origin::start();
    let object = origin.put(BUCKET, "k", Object::generated(1, MIB + 5));
    let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/edge/tls");
    let mut behind = config(&origin);
    behind.edge.tls = Some(gannet_cache::edge::TlsConfig {
        cert: tls.join("server.pem"),
        key: tls.join("server.key"),
        client_ca: None,
    });
    let behind = start(behind).await;
    let port = behind.edge_address().port();
    for (ca, status) in [(None, 503), (Some(tls.join("ca.pem")), 200)] {
        let mut front = config(&origin);
        front.origin = OriginSpec {
            ca,
            ..OriginSpec::new(format!("https://localhost:{port}"))
        };
        let front = start(front).await;
        let answer = get(&front, "k").await;
        assert_eq!(answer.status, status, "{}", answer.text());
        match status {
            200 => assert_eq!(answer.body.len() as u64, object.size),
            _ => assert!(answer.text().contains("certificate"), "{}", answer.text()),
        }
        front.shutdown().await;
    }
    behind.shutdown().await;
}
