//! Connections: shared, made anew, given up.

mod common;

use bytes::Bytes;
use common::{raw::*, *};
use gannet_link::{Credentials, LinkError, Links, LinksConfig, Peer, ServerLimits};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use std::{
    future::pending,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};

fn limits() -> ServerLimits {
    ServerLimits::default()
}

/// For bounds that are awaited.
const SOON: Duration = Duration::from_millis(50);
/// For bounds that are awaited, and that nothing else may reach on a busy machine.
const ENOUGH: Duration = Duration::from_millis(1000);

/// Gives up soon.
fn impatient(credentials: &Arc<Credentials>) -> Links {
    let config = LinksConfig {
        connect_max: SOON,
        ping_interval: SOON,
        ping_timeout: SOON,
        ..LinksConfig::default()
    };
    Links::new(credentials.clone(), config)
}

#[tokio::test]
async fn requests_share_connections() {
    for connections in [1, 3] {
        let server = Member::echo(secret(SECRET), limits()).await;
        let config = LinksConfig {
            connections,
            ..LinksConfig::default()
        };
        let links = Arc::new(Links::new(secret(SECRET), config));
        let mut asks = JoinSet::new();
        for _ in 0..300 {
            let (links, address) = (links.clone(), server.address());
            asks.spawn(async move { ask(&links, &address, "").await });
        }
        while let Some(answer) = soon(asks.join_next()).await {
            assert_eq!(answer.unwrap().unwrap(), "somebody /ask ");
        }
        assert_eq!(count(&server.counters.accepted), connections as u64);
        assert_eq!(count(&server.counters.requests), 300);
        let counters = links.counters();
        assert_eq!(count(&counters.open), connections as u64);
        drop(links);
        until(|| count(&counters.open) == 0 && count(&server.counters.open) == 0).await;
    }
}

#[tokio::test]
async fn large_answers_come_whole() {
    let ca = Ca::new();
    let bytes: Bytes = (0..32 << 20).map(|n: u32| (n ^ (n >> 8)) as u8).collect();
    let answer = bytes.clone();
    let handler = move |_, _| {
        let answer = answer.clone();
        async move { Response::new(Full::new(answer)) }
    };
    let credentials = member(&ca, "a.b", "a.b");
    let server = Member::on("127.0.0.1:0", credentials.clone(), limits(), handler).await;
    let links = links(&credentials);
    let response = soon(links.post(&server.address(), "/ask", Bytes::new())).await;
    let body = soon(response.unwrap().into_body().collect()).await.unwrap();
    assert!(body.to_bytes() == bytes);
}

#[tokio::test]
async fn settings_beyond_what_http2_knows_do_no_harm() {
    let server = Member::echo(secret(SECRET), limits()).await;
    for extreme in [0, u32::MAX] {
        let config = LinksConfig {
            connections: 0,
            stream_window: extreme.max(1),
            connection_window: extreme,
            frame_max: extreme,
            ..LinksConfig::default()
        };
        let links = Links::new(secret(SECRET), config);
        let answer = ask(&links, &server.address(), "hello").await;
        assert_eq!(answer.unwrap(), "somebody /ask hello");
    }
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let links = links(&secret(SECRET));
    let error = ask(&links, &address, "").await.unwrap_err();
    assert!(matches!(error, LinkError::Refused { .. }), "{error}");
    assert!(error.to_string().contains(&address), "{error}");
    assert_eq!(count(&links.counters().dials_failed), 1);
    for bad in ["", "no address", "a/b", "1.2.3.4:5/x"] {
        let error = ask(&links, bad, "").await.unwrap_err();
        assert!(matches!(error, LinkError::Config(_)), "{bad}: {error}");
    }
}

/// Somebody who takes connections, says something on each, and then nothing more.
async fn says(words: &'static [u8]) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let taken = Arc::new(AtomicU64::new(0));
    let counter = taken.clone();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            counter.fetch_add(1, Relaxed);
            tokio::spawn(async move {
                tcp.write_all(words).await.unwrap();
                // Keeps it open, and reads nothing.
                pending::<()>().await;
            });
        }
    });
    (address, taken)
}

#[tokio::test]
async fn who_takes_a_connection_and_says_nothing_is_given_up() {
    let (address, taken) = says(b"").await;
    let ca = Ca::new();
    for credentials in [secret(SECRET), member(&ca, "a.b", "a.b")] {
        let links = impatient(&credentials);
        let before = taken.load(Relaxed);
        // Both wait for one connection.
        let address = address.to_string();
        let (one, other) = tokio::join!(ask(&links, &address, ""), ask(&links, &address, ""));
        for error in [one.unwrap_err(), other.unwrap_err()] {
            assert!(matches!(error, LinkError::TimedOut { .. }), "{error}");
            assert!(!error.may_be_processed());
        }
        assert_eq!(taken.load(Relaxed), before + 1);
        let counters = links.counters();
        until(|| count(&counters.open) == 0).await;
    }
}

#[tokio::test]
async fn who_speaks_something_else_is_no_member() {
    for words in [
        &b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        // A frame, but not the first one.
        b"\0\0\x08\x06\0\0\0\0\0\0\0\0\0\0\0\0\0",
    ] {
        let (address, _) = says(words).await;
        let error = ask(&links(&secret(SECRET)), &address.to_string(), "")
            .await
            .unwrap_err();
        assert!(matches!(error, LinkError::Malformed { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_member_that_falls_silent_is_found_out() {
    // An empty SETTINGS, and never again a word.
    let (address, taken) = says(b"\0\0\0\x04\0\0\0\0\0").await;
    let links = impatient(&secret(SECRET));
    for n in 1..=2 {
        let error = ask(&links, &address.to_string(), "").await.unwrap_err();
        assert!(matches!(error, LinkError::Broken { .. }), "{error}");
        assert!(error.may_be_processed());
        assert_eq!(
            taken.load(Relaxed),
            n,
            "the next one is on a new connection"
        );
    }
    assert_eq!(count(&links.counters().resent), 0);
}

/// A way to a server that lets so many bytes through and then none, neither way.
async fn cut_off_after(server: SocketAddr, bytes_max: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(server).await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (from_server, mut to_server) = server.into_split();
        let there = tokio::spawn(async move {
            let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
            pending::<()>().await;
        });
        let mut some = from_server.take(bytes_max);
        tokio::io::copy(&mut some, &mut to_client).await.unwrap();
        there.abort();
        // Both stay open.
        pending::<()>().await;
    });
    address
}

#[tokio::test]
async fn an_answer_whose_member_is_cut_off_ends_with_an_error() {
    let bytes = Bytes::from(vec![7; 8 << 20]);
    let handler = move |_, _| {
        let bytes = bytes.clone();
        async move { Response::new(Full::new(bytes)) }
    };
    let limits = ServerLimits {
        ping_interval: SOON,
        ping_timeout: ENOUGH,
        ..limits()
    };
    let server = Member::on("127.0.0.1:0", secret(SECRET), limits, handler).await;
    let way = cut_off_after(server.address, 1 << 20).await;
    let links = Links::new(
        secret(SECRET),
        LinksConfig {
            ping_interval: SOON,
            ping_timeout: ENOUGH,
            ..LinksConfig::default()
        },
    );
    let response = soon(links.post(&way.to_string(), "/ask", Bytes::new()))
        .await
        .unwrap();
    let mut body = response.into_body();
    let mut got = 0;
    let error = loop {
        match soon(body.frame()).await.expect("it has no whole end") {
            Ok(frame) => got += frame.into_data().unwrap().len(),
            Err(error) => break error,
        }
    };
    assert!((1 << 19..1 << 20).contains(&got), "{got}: {error}");
    // The server finds out too, and drops what it had to say.
    let counters = server.counters.clone();
    until(|| count(&counters.open) == 0 && count(&counters.in_flight) == 0).await;
}

#[tokio::test]
async fn a_client_that_falls_silent_is_found_out() {
    let limits = ServerLimits {
        ping_interval: SOON,
        ping_timeout: SOON,
        ..limits()
    };
    let server = Member::echo(secret(SECRET), limits).await;
    // Answers no ping.
    let mut tcp = connect(server.address).await;
    assert!(is_closed(&mut tcp).await);
    let counters = server.counters.clone();
    until(|| count(&counters.open) == 0).await;
    assert_eq!(count(&counters.refused_slow), 0, "before that");
}

#[tokio::test]
async fn a_member_that_restarts_is_asked_again() {
    let ca = Ca::new();
    for credentials in [secret(SECRET), member(&ca, "a.b", "a.b")] {
        let mut server = Member::echo(credentials.clone(), limits()).await;
        let (address, links) = (server.address(), links(&credentials));
        assert!(ask(&links, &address, "").await.is_ok());
        // In order: the next request comes while the GOAWAY is still unread.
        assert_eq!(server.stop().await.cut, 0);
        server = Member::on(&address, credentials.clone(), limits(), echo).await;
        assert!(ask(&links, &address, "").await.is_ok());
        // As a crash: nothing is said, but the system closes.
        server.kill().await;
        let counters = links.counters();
        until(|| count(&counters.open) == 0).await;
        let server = Member::on(&address, credentials.clone(), limits(), echo).await;
        assert!(ask(&links, &address, "").await.is_ok());
        assert_eq!(count(&server.counters.requests), 1);
        assert_eq!(count(&counters.failed), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_to_connections_that_are_ended_in_order() {
    let limits = ServerLimits {
        // Each connection takes requests for a moment only.
        age_max: Duration::from_millis(1),
        ..limits()
    };
    let server = Member::echo(secret(SECRET), limits).await;
    let links = Arc::new(links(&secret(SECRET)));
    let mut asks = JoinSet::new();
    for _ in 0..8 {
        let (links, address) = (links.clone(), server.address());
        asks.spawn(async move {
            while count(&links.counters().dialled) < 8 {
                let answer = ask(&links, &address, "hello").await;
                assert_eq!(answer.unwrap(), "somebody /ask hello");
            }
        });
    }
    while let Some(ended) = soon(asks.join_next()).await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn a_request_that_was_declined_is_sent_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(AtomicU64::new(0));
    let counter = asked.clone();
    // Declines whatever it is asked.
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(&frame(SETTINGS, 0, 0, b"")).await.unwrap();
        let mut preface = [0; 24];
        tcp.read_exact(&mut preface).await.unwrap();
        let mut stream = 1;
        while await_frame(&mut tcp, HEADERS).await.is_some() {
            counter.fetch_add(1, Relaxed);
            const REFUSED_STREAM: [u8; 4] = 7u32.to_be_bytes();
            let reset = frame(RST_STREAM, 0, stream, &REFUSED_STREAM);
            tcp.write_all(&reset).await.unwrap();
            stream += 2;
        }
    });
    let links = links(&secret(SECRET));
    let error = ask(&links, &address, "").await.unwrap_err();
    assert!(matches!(error, LinkError::Broken { .. }), "{error}");
    assert_eq!(asked.load(Relaxed), 9, "bounded, and on one connection");
    assert_eq!(count(&links.counters().resent), 8);
}

#[tokio::test]
async fn a_panic_ends_one_request_only() {
    let handler = |peer: Peer, request: Request<Bytes>| async {
        assert!(request.body() != "panic", "as asked");
        echo(peer, request).await
    };
    let server = Member::on("127.0.0.1:0", secret(SECRET), limits(), handler).await;
    let links = links(&secret(SECRET));
    let error = ask(&links, &server.address(), "panic").await.unwrap_err();
    assert!(matches!(error, LinkError::Broken { .. }), "{error}");
    assert!(error.may_be_processed());
    assert!(ask(&links, &server.address(), "").await.is_ok());
    assert_eq!(count(&server.counters.accepted), 1);
    until(|| count(&server.counters.in_flight) == 0).await;
}

/// Says when it is dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

type Never = Pin<Box<dyn Future<Output = Response<Full<Bytes>>> + Send>>;

/// A handler that never answers, and what is known of it.
fn never() -> (
    impl Fn(Peer, Request<Bytes>) -> Never,
    Arc<Notify>,
    Arc<AtomicBool>,
) {
    let (asked, dropped) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let (tell, flag) = (asked.clone(), dropped.clone());
    let handler = move |_, _| {
        let (tell, flag) = (tell.clone(), Dropped(flag.clone()));
        Box::pin(async move {
            let _flag = flag;
            tell.notify_one();
            pending().await
        }) as Never
    };
    (handler, asked, dropped)
}

#[tokio::test]
async fn who_stops_waiting_stops_the_handler() {
    let (handler, asked, dropped) = never();
    let server = Member::on("127.0.0.1:0", secret(SECRET), limits(), handler).await;
    let links = links(&secret(SECRET));
    let address = server.address();
    tokio::select! {
        answer = ask(&links, &address, "") => panic!("{answer:?}"),
        () = asked.notified() => {}
    }
    until(|| dropped.load(Relaxed)).await;
    let counters = server.counters.clone();
    until(|| count(&counters.in_flight) == 0).await;
    assert_eq!(count(&counters.open), 1, "the connection is kept");
    assert_eq!(server.stop().await.cut, 0);
}

#[tokio::test]
async fn draining_is_bounded() {
    let (handler, asked, dropped) = never();
    let limits = ServerLimits {
        drain_max: SOON,
        ..limits()
    };
    let server = Member::on("127.0.0.1:0", secret(SECRET), limits, handler).await;
    let links = links(&secret(SECRET));
    let address = server.address();
    let counters = server.counters.clone();
    let drained = async {
        asked.notified().await;
        server.stop().await
    };
    let (answer, drained) = tokio::join!(ask(&links, &address, ""), drained);
    assert_eq!(drained.cut, 1);
    let error = answer.unwrap_err();
    assert!(matches!(error, LinkError::Broken { .. }), "{error}");
    until(|| dropped.load(Relaxed)).await;
    assert_eq!(count(&counters.open), 0);
    assert_eq!(count(&counters.in_flight), 0);
}

#[tokio::test]
async fn a_connection_outlives_who_wanted_it_first() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let links = links(&secret(SECRET));
    let counters = links.counters();
    {
        let mut first = Box::pin(ask(&links, &address, ""));
        tokio::select! {
            biased;
            answer = &mut first => panic!("{answer:?}"),
            () = until(|| count(&counters.dialled) == 1) => {}
        }
    }
    drop(listener);
    let server = Member::on(&address, secret(SECRET), limits(), echo).await;
    // The first one was reset with its listener, or found the new one; either way the next gets one.
    soon(async { while ask(&links, &address, "").await.is_err() {} }).await;
    assert!(count(&counters.dialled) <= 2);
    assert_eq!(count(&server.counters.requests), 1);
}

#[tokio::test]
async fn only_so_many_members_are_kept() {
    let config = LinksConfig {
        members_max: 2,
        ..LinksConfig::default()
    };
    let links = Links::new(secret(SECRET), config);
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(Member::echo(secret(SECRET), limits()).await);
    }
    for server in &servers[..2] {
        assert!(ask(&links, &server.address(), "").await.is_ok());
    }
    let third = servers[2].address();
    let error = ask(&links, &third, "").await.unwrap_err();
    assert!(matches!(error, LinkError::Config(_)), "{error}");
    // One that is gone makes room by itself.
    assert_eq!(servers.remove(0).stop().await.cut, 0);
    let counters = links.counters();
    until(|| count(&counters.open) == 1).await;
    assert!(ask(&links, &third, "").await.is_ok());
}
