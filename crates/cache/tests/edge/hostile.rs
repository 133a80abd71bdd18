//! What enemies send: garbage, ambiguity, excess, slowness. Each gets a clear refusal with a request id
//! where there is anybody to tell, and the service goes on.

use crate::support::{Manner, MapBackend, Server, anonymous, noise, start, until};
use gannet_testkit::client::{get, raw};
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

fn serve() -> (Server, Arc<MapBackend>) {
    let backend = MapBackend::new();
    backend.put("b", "k", "hello", Manner::Memory(9));
    backend.put("b", "s", "hello", Manner::Stream);
    let mut config = anonymous();
    config.limits.head_time_max = Duration::from_millis(300);
    (start(config, &backend), backend)
}

/// All statuses in what came back.
fn statuses(answer: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answer);
    text.split("HTTP/1.")
        .skip(1)
        .filter_map(|rest| rest.get(2..5)?.parse().ok())
        .collect()
}

async fn check(server: &Server, request: &[u8], want: &[u16]) {
    let case = String::from_utf8_lossy(&request[..request.len().min(120)]).into_owned();
    let answer = raw(&server.authority, request, 1 << 20).await.unwrap();
    let text = String::from_utf8_lossy(&answer);
    assert_eq!(statuses(&answer), want, "{case:?}: {text}");
    assert_eq!(
        text.matches("x-amz-request-id: ").count(),
        want.len(),
        "{case:?}: {text}"
    );
    assert_eq!(text.matches("x-amz-id-2: ").count(), want.len(), "{case:?}");
    if want.last().is_some_and(|&status| status >= 400) {
        assert!(text.contains("<Code>"), "{case:?}: {text}");
    }
}

/// A second request that must not be reached, since the first is ambiguous.
const SMUGGLED: &str = "GET /b/k HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn malformed_requests_are_refused_with_an_id() {
    let (server, _) = serve();
    let head = "GET /b/k HTTP/1.1\r\nHost: h\r\n";
    for (request, want) in [
        // Not HTTP.
        ("\r\r\r".to_owned(), 400),
        ("\0\0\0\0".into(), 400),
        ("\u{16}\u{3}\u{1}\0\u{5}".into(), 400),
        ("hello\r\n\r\n".into(), 400),
        ("GET\r\n\r\n".into(), 400),
        ("GET /b/k\r\n\r\n".into(), 400),
        ("GET /b/k HTTP/1.1".into(), 408),
        ("GET /b/k HTTP/3.0\r\nHost: h\r\n\r\n".into(), 505),
        ("GET /b/k HTTP/1.1\r\n\r\n".into(), 400),
        ("GET  /b/k HTTP/1.1\r\nHost: h\r\n\r\n".into(), 400),
        ("GET /b/\u{0}k HTTP/1.1\r\nHost: h\r\n\r\n".into(), 400),
        ("GET b/k HTTP/1.1\r\nHost: h\r\n\r\n".into(), 400),
        ("CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n".into(), 405),
        ("GET http:// HTTP/1.1\r\nHost: h\r\n\r\n".into(), 400),
        // Lines.
        (format!("GET /b/k HTTP/1.1\nHost: h\n\n{SMUGGLED}"), 400),
        (format!("{head}X: a\rb\r\n\r\n{SMUGGLED}"), 400),
        (format!("{head} folded\r\n\r\n{SMUGGLED}"), 400),
        (format!("{head}Range : bytes=0-1\r\n\r\n{SMUGGLED}"), 400),
        (format!("{head}: empty\r\n\r\n"), 400),
        (format!("{head}Host: h\r\n\r\n"), 400),
        ("GET /b/k HTTP/1.1\r\nHost: a/b@c\r\n\r\n".into(), 400),
        // Smuggling.
        (
            format!(
                "{head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
            ),
            400,
        ),
        (
            format!("{head}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello{SMUGGLED}"),
            400,
        ),
        (
            format!("{head}Content-Length: 5, 6\r\n\r\nhello{SMUGGLED}"),
            400,
        ),
        (
            format!("{head}Content-Length: 0x5\r\n\r\nhello{SMUGGLED}"),
            400,
        ),
        (
            format!("{head}Content-Length: -5\r\n\r\nhello{SMUGGLED}"),
            400,
        ),
        (
            format!("{head}Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"),
            501,
        ),
        (
            format!("{head}Transfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"),
            400,
        ),
        (
            format!(
                "{head}Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n{SMUGGLED}"
            ),
            400,
        ),
        (
            format!("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"),
            400,
        ),
    ] {
        check(&server, request.as_bytes(), &[want]).await;
    }
    // Bodies: never read as requests, whatever they look like.
    for body in [
        format!("{head}Content-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len()),
        format!("{head}Content-Length: 9999\r\n\r\n{SMUGGLED}"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n{SMUGGLED}"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n{SMUGGLED}"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"),
    ] {
        check(&server, body.as_bytes(), &[200]).await;
    }
    for body in [
        "zz\r\n",
        "fffffffffffffffff\r\n",
        "5\r\nhelloX\r\n",
        "-1\r\n",
        "0\r\n\r\n",
    ] {
        let put = "PUT /b/k HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(&server, format!("{put}{body}{SMUGGLED}").as_bytes(), &[405]).await;
    }
    // Well-formed oddities are answered.
    for (request, want) in [
        (format!("\r\n{SMUGGLED}"), 200),
        (
            "GET http://h/b/k HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".into(),
            200,
        ),
        ("GET /b/k HTTP/1.0\r\n\r\n".into(), 200),
        ("GET /b/s HTTP/1.0\r\n\r\n".into(), 200),
        ("GET /b/./../../etc/passwd HTTP/1.0\r\n\r\n".into(), 404),
        (
            "GET /b/%2e%2e/%2e%2e/etc/passwd HTTP/1.0\r\n\r\n".into(),
            404,
        ),
        ("GET /../../etc/passwd HTTP/1.0\r\n\r\n".into(), 400),
        ("GET /b/%00 HTTP/1.0\r\n\r\n".into(), 400),
        (
            "OPTIONS * HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".into(),
            400,
        ),
        (
            format!("GET /b/s HTTP/1.1\r\nHost: h\r\n\r\n{SMUGGLED}"),
            200,
        ),
    ] {
        let smuggled = request.starts_with("GET /b/s") && request.contains("close");
        let want = if smuggled {
            vec![want, 200]
        } else {
            vec![want]
        };
        check(&server, request.as_bytes(), &want).await;
    }
    assert_eq!(get(&server.url("/b/k"), &[]).await.unwrap().text(), "hello");
}

#[tokio::test]
async fn excess_is_refused_before_it_is_held() {
    let (server, _) = serve();
    let head = "GET /b/k HTTP/1.1\r\nHost: h\r\n";
    let million = "v".repeat(1 << 20);
    check(
        &server,
        format!("{head}X: {million}\r\n\r\n").as_bytes(),
        &[431],
    )
    .await;
    check(&server, format!("{head}{million}").as_bytes(), &[431]).await;
    check(
        &server,
        format!("{head}{}\r\n", "X: y\r\n".repeat(200_000)).as_bytes(),
        &[431],
    )
    .await;
    check(
        &server,
        format!("GET /b/{million} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes(),
        &[414],
    )
    .await;
    check(&server, million.as_bytes(), &[414]).await;
    let ranges = "0-1,".repeat(5_000);
    let many = format!("{head}Range: bytes={ranges}5-6\r\nConnection: close\r\n\r\n");
    check(&server, many.as_bytes(), &[200]).await;
    let query = "x=y&".repeat(4_000);
    let long = format!("GET /b/k?{query} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    check(&server, long.as_bytes(), &[200]).await;
}

/// A head that drips in is cut off at the time limit, however lively the drip.
#[tokio::test]
async fn slow_loris() {
    let (server, _) = serve();
    let (mut read, mut write) = TcpStream::connect(&server.authority)
        .await
        .unwrap()
        .into_split();
    let drip = tokio::spawn(async move {
        write
            .write_all(b"GET /b/k HTTP/1.1\r\nHost: h\r\n")
            .await
            .unwrap();
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        loop {
            tick.tick().await;
            if write.write_all(b"X: y\r\n").await.is_err() {
                return;
            }
        }
    });
    let mut answer = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = read.read_to_end(&mut answer).await;
    assert_eq!(statuses(&answer), [408]);
    drip.abort();
    until("the connection is gone", || {
        server.metrics.connections.load(Relaxed) == 0
    })
    .await;
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let backend = MapBackend::new();
    let mut config = anonymous();
    config.limits.idle_max = Duration::from_millis(100);
    let server = start(config, &backend);
    let mut silent = TcpStream::connect(&server.authority).await.unwrap();
    assert_eq!(silent.read(&mut [0; 9]).await.unwrap(), 0);
}

/// A client that asks for much and takes nothing is cut, whichever way it is served.
#[tokio::test]
async fn readers_that_take_nothing_are_cut() {
    let backend = MapBackend::new();
    let bytes = noise(32 << 20);
    backend.put("b", "memory", bytes.clone(), Manner::Memory(1 << 20));
    backend.put("b", "stream", bytes.clone(), Manner::Stream);
    backend.put_file("b", "file", bytes, 0);
    let mut config = anonymous();
    config.limits.stall_max = Duration::from_millis(200);
    let server = start(config, &backend);
    for (i, key) in ["memory", "stream", "file"].into_iter().enumerate() {
        let mut tcp = TcpStream::connect(&server.authority).await.unwrap();
        let request = format!("GET /b/{key} HTTP/1.1\r\nHost: h\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        until("it is cut", || {
            server.metrics.stalled.load(Relaxed) == i as u64 + 1
        })
        .await;
        until("it is gone", || {
            server.metrics.connections.load(Relaxed) == 0
        })
        .await;
        assert_eq!(backend.streams.load(Relaxed), 0);
        drop(tcp);
    }
}

/// What is read for a client ends when the client does.
#[tokio::test]
async fn a_client_that_leaves_ends_its_read() {
    let backend = MapBackend::new();
    backend.put("b", "k", noise(100_000), Manner::Hangs(50_000));
    let server = start(anonymous(), &backend);
    let mut tcp = TcpStream::connect(&server.authority).await.unwrap();
    tcp.write_all(b"GET /b/k HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .unwrap();
    let mut some = [0; 1000];
    tcp.read_exact(&mut some).await.unwrap();
    assert_eq!(backend.streams.load(Relaxed), 1);
    drop(tcp);
    until("the read has ended", || backend.streams.load(Relaxed) == 0).await;
    until("the connection is gone", || {
        server.metrics.connections.load(Relaxed) == 0
    })
    .await;
}
