//! The lean path answers as hyper does: the same random requests to two edges in front of one backend,
//! one with the lean path and one without, compared in status, headers and bytes.

use crate::support::{MODIFIED, Manner, MapBackend, anonymous, noise, start};
use gannet_testkit::client::{Answer, Connection};
use proptest::{
    prelude::*,
    sample::select,
    strategy::ValueTree,
    test_runner::{Config, RngSeed, TestRunner},
};
use std::sync::{Arc, atomic::Ordering::Relaxed};

const REQUESTS: usize = 2_000;

#[derive(Clone, Debug)]
struct Request {
    method: &'static str,
    target: &'static str,
    minor: u8,
    headers: Vec<(&'static str, String)>,
}

fn backend() -> Arc<MapBackend> {
    let backend = MapBackend::new();
    let bytes = noise(50_000);
    let headers = [
        ("content-type", "text/plain"),
        ("cache-control", "max-age=1"),
        ("x-amz-meta-a", "b"),
        ("x-amz-checksum-sha256", "abc="),
    ];
    for (key, manner) in [
        ("memory", Manner::Memory(9_000)),
        ("one", Manner::Memory(99_999)),
        ("s", Manner::Stream),
    ] {
        backend.put_with("b", key, bytes.clone(), manner, "\"etag\"", &headers);
    }
    backend.put_with(
        "b",
        "weak",
        bytes.clone(),
        Manner::Memory(9_999),
        "W/\"etag\"",
        &[],
    );
    backend.put_with("b", "empty", "", Manner::Memory(1), "\"etag\"", &headers);
    backend.put_file("b", "file", bytes.clone(), 0);
    backend.put_file("b", "mixed", bytes.clone(), 20_000);
    backend.put_parts("b", "parts", bytes);
    backend.put("b", "a b/ü", "odd", Manner::Memory(2));
    backend
}

fn requests() -> impl Strategy<Value = Request> {
    let method = prop_oneof![8 => Just("GET"), 3 => Just("HEAD"), 1 => Just("DELETE")];
    let target = select(vec![
        "/b/memory",
        "/b/one",
        "/b/s",
        "/b/weak",
        "/b/empty",
        "/b/file",
        "/b/mixed",
        "/b/parts",
        "/b/a%20b/%C3%BC",
        "/b/one?x-id=GetObject",
        "/b/one?",
        "/b/missing",
        "/b/one?versionId=1",
        "/b/one?partNumber=1",
        "/b/%zz",
        "/b",
        "/",
        "/other/k",
        "//",
        "/b/memory?response-expires=x",
        "/b/one#fragment",
    ]);
    let range = prop_oneof![
        (0..60_000u64, 0..60_000u64).prop_map(|(a, b)| format!("bytes={a}-{b}")),
        (0..60_000u64).prop_map(|a| format!("bytes={a}-")),
        (0..60_000u64).prop_map(|a| format!("bytes=-{a}")),
        select(vec!["bytes=0-1,3-4", "nonsense", "bytes=5-1", ""]).prop_map(str::to_owned),
    ];
    let tag = select(vec![
        "\"etag\"",
        "etag",
        "\"x\"",
        "*",
        "W/\"etag\"",
        "\"x\", \"etag\"",
        "",
    ]);
    let date = select(vec![
        MODIFIED,
        "Sun, 06 Nov 1994 08:49:36 GMT",
        "Sun, 06 Nov 1994 08:49:38 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "nonsense",
    ]);
    let tag_or_date = prop_oneof![tag.clone(), date.clone()];
    let header = prop_oneof![
        6 => range.prop_map(|value| ("range", value)),
        2 => tag.clone().prop_map(|value| ("if-match", value.to_owned())),
        2 => tag.prop_map(|value| ("if-none-match", value.to_owned())),
        2 => date.clone().prop_map(|value| ("if-modified-since", value.to_owned())),
        2 => date.prop_map(|value| ("if-unmodified-since", value.to_owned())),
        2 => tag_or_date.prop_map(|value| ("if-range", value.to_owned())),
        1 => Just(("x-amz-checksum-mode", "ENABLED".to_owned())),
        1 => Just(("authorization", "Bearer whatever".to_owned())),
        1 => Just(("accept-encoding", "gzip".to_owned())),
        1 => Just(("content-length", "0".to_owned())),
        1 => Just(("expect", "100-continue".to_owned())),
        1 => Just(("upgrade", "websocket".to_owned())),
    ];
    let connection = prop_oneof![
        5 => Just(None), 1 => Just(Some("close")), 1 => Just(Some("keep-alive")),
        1 => Just(Some("upgrade")),
    ];
    let headers = proptest::collection::vec(header, 0..3);
    let minor = prop_oneof![5 => Just(1u8), 1 => Just(0)];
    (method, target, minor, headers, connection).prop_map(
        |(method, target, minor, mut headers, connection)| {
            headers.extend(connection.map(|value| ("connection", value.to_owned())));
            Request {
                method,
                target,
                minor,
                headers,
            }
        },
    )
}

/// What may differ: ids and dates.
fn comparable(answer: &Answer) -> (u16, Vec<(String, String)>, Vec<u8>, bool) {
    let mut headers = answer.headers.clone();
    for (name, value) in &mut headers {
        if matches!(&**name, "x-amz-request-id" | "x-amz-id-2" | "date") {
            assert!(!value.is_empty());
            value.clear();
        }
    }
    headers.sort();
    let body = match answer.xml("RequestId").filter(|_| answer.status >= 400) {
        Some(id) => {
            let text = answer.text().replace(&id, "");
            let host = answer.header("x-amz-id-2").unwrap();
            text.replace(host, "").into_bytes()
        }
        None => answer.body.to_vec(),
    };
    (answer.status, headers, body, answer.cut)
}

async fn ask(connection: &mut Option<Connection>, authority: &str, request: &Request) -> Answer {
    let Request {
        method,
        target,
        minor,
        headers,
    } = request;
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::open(authority).await.unwrap(),
    };
    let mut head = format!("{method} {target} HTTP/1.{minor}\r\nhost: {authority}\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    open.send_raw(format!("{head}\r\n").as_bytes())
        .await
        .unwrap();
    let answer = open.answer(*method == "HEAD").await.unwrap();
    let said_close = answer.header("connection") == Some("close");
    let old = *minor == 0 && answer.header("connection") != Some("keep-alive");
    if !said_close && !old {
        *connection = Some(open);
    }
    answer
}

#[tokio::test]
async fn lean_and_hyper_answer_alike() {
    let backend = backend();
    let lean = start(anonymous(), &backend);
    let mut config = anonymous();
    config.lean = false;
    let hyper = start(config, &backend);
    let config = Config {
        rng_seed: RngSeed::Fixed(0x1ea4),
        ..Config::default()
    };
    let mut runner = TestRunner::new(config);
    let strategy = requests();
    let (mut a, mut b) = (None, None);
    for _ in 0..REQUESTS {
        let request = strategy.new_tree(&mut runner).unwrap().current();
        let left = ask(&mut a, &lean.authority, &request).await;
        let right = ask(&mut b, &hyper.authority, &request).await;
        assert_eq!(comparable(&left), comparable(&right), "{request:?}");
        assert_eq!(
            a.is_some(),
            b.is_some(),
            "{request:?}: one closes, one does not"
        );
    }
    let count = lean.metrics.lean.load(Relaxed);
    assert!(
        count > REQUESTS as u64 / 4,
        "only {count} of the requests took the lean path"
    );
    assert_eq!(hyper.metrics.lean.load(Relaxed), 0);
    let requests = |metrics: &gannet_cache::edge::EdgeMetrics| {
        metrics.requests().map(|(_, _, n)| n).sum::<u64>()
    };
    assert_eq!(requests(&lean.metrics), requests(&hyper.metrics));
    assert_eq!(
        lean.metrics.bytes.load(Relaxed),
        hyper.metrics.bytes.load(Relaxed)
    );
}

/// Requests of both kinds, sent all at once on one connection, are answered in order.
#[tokio::test]
async fn pipelining() {
    let backend = backend();
    let server = start(anonymous(), &backend);
    let bytes = noise(50_000);
    let mut connection = Connection::open(&server.authority).await.unwrap();
    let keys = [
        "memory", "s", "file", "missing", "one", "s", "s", "mixed", "empty", "memory",
    ];
    let mut all = String::new();
    for (i, key) in keys.iter().enumerate() {
        let (first, last) = (i * 1000, i * 1000 + 20_000);
        all += &format!("GET /b/{key} HTTP/1.1\r\nhost: h\r\nrange: bytes={first}-{last}\r\n\r\n");
    }
    connection.send_raw(all.as_bytes()).await.unwrap();
    for (i, key) in keys.iter().enumerate() {
        let answer = connection.answer(false).await.unwrap();
        match *key {
            "missing" => assert_eq!(answer.status, 404),
            "empty" => assert_eq!(answer.status, 416),
            _ => {
                assert_eq!(answer.status, 206, "{key}");
                assert!(answer.body == bytes[i * 1000..=i * 1000 + 20_000], "{key}");
            }
        }
    }
}
