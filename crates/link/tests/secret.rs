//! A shared secret, and the bounds on what strangers can do.

mod common;

use bytes::Bytes;
use common::{raw::*, *};
use gannet_link::{Credentials, LinkError, Links, LinksConfig, ServerLimits};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::Full;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

fn limits() -> ServerLimits {
    ServerLimits::default()
}

/// For bounds that are awaited.
const SOON: Duration = Duration::from_millis(50);
/// For bounds that are awaited, and that nothing else may reach on a busy machine.
const ENOUGH: Duration = Duration::from_millis(1000);

#[tokio::test]
async fn who_knows_the_secret_is_answered() {
    let server = Member::echo(secret(SECRET), limits()).await;
    let links = links(&secret(SECRET));
    for _ in 0..3 {
        let answer = ask(&links, &server.address(), "hello").await.unwrap();
        assert_eq!(answer, "somebody /ask hello");
    }
    assert_eq!(count(&server.counters.accepted), 1);
    assert_eq!(count(&server.counters.requests), 3);
    until(|| count(&server.counters.in_flight) == 0).await;
}

#[tokio::test]
async fn who_does_not_is_refused_unheard() {
    let asked = Arc::new(AtomicU64::new(0));
    let counter = asked.clone();
    let handler = move |peer, request| {
        counter.fetch_add(1, Relaxed);
        echo(peer, request)
    };
    let server = Member::on("127.0.0.1:0", secret(SECRET), limits(), handler).await;
    for (credentials, says) in [
        (secret("another secret of members"), "same secret"),
        (
            Arc::new(Credentials::None),
            "give this member the cluster's secret",
        ),
    ] {
        let error = ask(&links(&credentials), &server.address(), "x")
            .await
            .unwrap_err();
        assert!(
            matches!(error, LinkError::NotAuthenticated { .. }),
            "{error}"
        );
        assert!(error.to_string().contains(says), "{error}");
        assert!(!error.may_be_processed());
    }
    assert_eq!(count(&server.counters.proofs_wrong), 1);
    assert_eq!(count(&server.counters.unproved), 1);
    assert_eq!(asked.load(Relaxed), 0);
}

/// A way to a server on which somebody listens in.
struct Tap {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Tap {
    async fn on(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::<Mutex<Vec<u8>>>::default();
        let log = heard.clone();
        tokio::spawn(async move {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(server).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
            });
            let mut buffer = vec![0; 4096];
            while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
                log.lock().unwrap().extend(&buffer[..n]);
                if to_server.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
            }
        });
        Self { address, heard }
    }
}

#[tokio::test]
async fn what_was_overheard_counts_no_second_time() {
    let server = Member::echo(secret(SECRET), limits()).await;
    let tap = Tap::on(server.address).await;
    let links = links(&secret(SECRET));
    let answer = ask(&links, &tap.address.to_string(), "purge")
        .await
        .unwrap();
    assert_eq!(answer, "somebody /ask purge");
    let heard = tap.heard.lock().unwrap().clone();
    let mut tcp = TcpStream::connect(server.address).await.unwrap();
    tcp.write_all(&heard).await.unwrap();
    assert!(soon(await_frame(&mut tcp, HEADERS)).await.is_some());
    assert_eq!(count(&server.counters.proofs_replayed), 1);
    assert_eq!(count(&server.counters.requests), 2);
}

/// Changes what comes by.
async fn meddler(server: SocketAddr, from: &'static [u8], to: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(server).await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        tokio::spawn(async move {
            let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
        });
        let mut buffer = vec![0; 1 << 16];
        while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
            // Small frames come whole on loopback; the assertion on counters sees to it.
            let found = buffer[..n]
                .windows(from.len())
                .position(|window| window == from);
            if let Some(at) = found {
                buffer[at..at + to.len()].copy_from_slice(to);
            }
            if to_server.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    });
    address
}

#[tokio::test]
async fn another_body_than_the_proved_one_is_refused() {
    let server = Member::echo(secret(SECRET), limits()).await;
    let way = meddler(server.address, b"this is the body", b"that is the body").await;
    let error = ask(
        &links(&secret(SECRET)),
        &way.to_string(),
        "this is the body",
    )
    .await
    .unwrap_err();
    assert!(
        matches!(error, LinkError::NotAuthenticated { .. }),
        "{error}"
    );
    assert_eq!(count(&server.counters.proofs_wrong), 1);
}

/// A client of good manners that proves nothing.
async fn client<B>(address: SocketAddr) -> SendRequest<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let tcp = TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp))
            .await
            .unwrap();
    tokio::spawn(connection);
    sender
}

fn post<B>(body: B) -> Request<B> {
    Request::post("http://a/ask").body(body).unwrap()
}

#[tokio::test]
async fn a_stranger_gets_no_body_taken_in() {
    let server = Member::echo(secret(SECRET), limits()).await;
    let mut client = client(server.address).await;
    // The answer comes though the body never ends.
    let response = soon(client.send_request(post(Drip {
        sent: 0,
        bytes_max: 1,
    })))
    .await;
    assert_eq!(response.unwrap().status(), 401);
}

/// Sends so many bytes, and then nothing more, without an end.
struct Drip {
    sent: usize,
    bytes_max: usize,
}

impl Body for Drip {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.sent >= self.bytes_max {
            return Poll::Pending;
        }
        let bytes = (self.bytes_max - self.sent).min(1024);
        self.sent += bytes;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![0; bytes])))))
    }
}

#[tokio::test]
async fn bodies_are_bounded_in_size_and_time() {
    let limits = ServerLimits {
        body_bytes_max: 10_000,
        body_time_max: ENOUGH,
        ..limits()
    };
    let server = Member::echo(Arc::new(Credentials::None), limits).await;
    let mut drips = client(server.address).await;
    let response = soon(drips.send_request(post(Drip {
        sent: 0,
        bytes_max: 9_000,
    })))
    .await;
    assert_eq!(response.unwrap().status(), 408);
    assert_eq!(count(&server.counters.bodies_slow), 1);
    let response = soon(drips.send_request(post(Drip {
        sent: 0,
        bytes_max: 20_000,
    })))
    .await;
    assert_eq!(response.unwrap().status(), 413);
    let links = links(&Arc::new(Credentials::None));
    for (bytes, status) in [(10_000, 200), (10_001, 413)] {
        let body = Bytes::from(vec![b'x'; bytes]);
        let response = soon(links.post(&server.address(), "/ask", body))
            .await
            .unwrap();
        assert_eq!(response.status(), status);
    }
    assert_eq!(count(&server.counters.bodies_large), 2);
}

#[tokio::test]
async fn heads_are_bounded() {
    let server = Member::echo(secret(SECRET), limits()).await;
    let mut client = client::<Full<Bytes>>(server.address).await;
    let mut request = post(Full::default());
    let header = "x".repeat(17 << 10).parse().unwrap();
    request.headers_mut().insert("x", header);
    let refused = match soon(client.send_request(request)).await {
        Ok(response) => response.status() == 431,
        Err(_) => true,
    };
    assert!(refused);
    assert_eq!(count(&server.counters.requests), 0);
    // And one that never ends.
    let mut tcp = connect(server.address).await;
    tcp.write_all(&frame(HEADERS, END_STREAM, 1, POST))
        .await
        .unwrap();
    let piece = frame(CONTINUATION, 0, 1, &[0x84; 16_000]);
    while tcp.write_all(&piece).await.is_ok() {}
    assert_eq!(count(&server.counters.requests), 0);
}

#[tokio::test]
async fn who_resets_what_it_asks_is_cut_off() {
    let server = Member::echo(secret(SECRET), limits()).await;
    let mut tcp = connect(server.address).await;
    let mut flood = Vec::new();
    for n in 0..2000 {
        let stream = 2 * n + 1;
        flood.extend(frame(HEADERS, END_HEADERS, stream, POST));
        flood.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    // It may be cut off before it has said all.
    let _ = tcp.write_all(&flood).await;
    let last = soon(await_frame(&mut tcp, GOAWAY)).await;
    if let Some(last) = last {
        const ENHANCE_YOUR_CALM: [u8; 4] = 11u32.to_be_bytes();
        assert_eq!(last[4..8], ENHANCE_YOUR_CALM);
    }
    assert!(is_closed(&mut tcp).await);
    assert!(count(&server.counters.requests) < 2000);
    assert!(
        ask(&links(&secret(SECRET)), &server.address(), "")
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn who_proves_nothing_in_time_is_cut() {
    let limits = ServerLimits {
        handshake_max: ENOUGH,
        ..limits()
    };
    let ca = Ca::new();
    for credentials in [
        secret(SECRET),
        Arc::new(Credentials::None),
        member(&ca, "a.b", "a.b"),
    ] {
        let server = Member::echo(credentials, limits.clone()).await;
        let counters = server.counters.clone();
        let mut silent = TcpStream::connect(server.address).await.unwrap();
        assert!(is_closed(&mut silent).await);
        assert_eq!(count(&counters.refused_slow), 1);
        until(|| count(&counters.open) == 0).await;
    }
    // Speaking HTTP/2 is not enough, nor is asking in vain.
    let server = Member::echo(secret(SECRET), limits).await;
    let mut polite = connect(server.address).await;
    let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, POST);
    polite.write_all(&request).await.unwrap();
    assert!(is_closed(&mut polite).await);
    assert_eq!(count(&server.counters.unproved), 1);
    assert_eq!(count(&server.counters.refused_slow), 1);
}

#[tokio::test]
async fn strangers_crowd_out_each_other_and_no_member() {
    let limits = ServerLimits {
        connections_max: 8,
        ..limits()
    };
    let server = Member::echo(secret(SECRET), limits).await;
    let counters = server.counters.clone();
    let links = links(&secret(SECRET));
    assert!(ask(&links, &server.address(), "").await.is_ok());
    let mut strangers = Vec::new();
    for n in 1..=20 {
        strangers.push(TcpStream::connect(server.address).await.unwrap());
        until(|| count(&counters.accepted) == 1 + n).await;
        until(|| count(&counters.open) <= 3).await;
    }
    until(|| count(&counters.refused_crowded) == 18).await;
    assert!(ask(&links, &server.address(), "").await.is_ok());
    assert_eq!(count(&counters.requests), 2);
    assert_eq!(
        count(&links.counters().dialled),
        1,
        "on the same connection"
    );
    assert_eq!(count(&counters.refused_full), 0);
}

#[tokio::test]
async fn there_are_only_so_many_connections() {
    let limits = ServerLimits {
        connections_max: 2,
        ..limits()
    };
    let server = Member::echo(secret(SECRET), limits).await;
    let members: Vec<_> = (0..3).map(|_| links(&secret(SECRET))).collect();
    for member in &members[..2] {
        assert!(ask(member, &server.address(), "").await.is_ok());
    }
    let error = ask(&members[2], &server.address(), "").await.unwrap_err();
    assert!(matches!(error, LinkError::Refused { .. }), "{error}");
    assert_eq!(count(&server.counters.refused_full), 1);
    // When one leaves there is room again.
    members[0].forget(&server.address());
    until(|| count(&server.counters.open) == 1).await;
    soon(async { while ask(&members[2], &server.address(), "").await.is_err() {} }).await;
}

#[tokio::test]
async fn idle_connections_are_ended_and_made_again() {
    let limits = ServerLimits {
        idle_max: SOON,
        ..limits()
    };
    let server = Member::echo(secret(SECRET), limits).await;
    let links = links(&secret(SECRET));
    assert!(ask(&links, &server.address(), "").await.is_ok());
    let counters = links.counters();
    until(|| count(&counters.open) == 0).await;
    assert_eq!(count(&server.counters.ended_idle), 1);
    assert!(ask(&links, &server.address(), "").await.is_ok());
}

#[tokio::test]
async fn the_same_secret_binds_and_another_does_not() {
    let binding = secret(SECRET).binding();
    assert_eq!(binding, secret(SECRET).binding());
    assert_ne!(binding, secret("another secret of members").binding());
    assert_eq!(Credentials::None.binding(), [0; 32]);
    assert_eq!(member(&Ca::new(), "a.b", "a.b").binding(), [0; 32]);
}

#[tokio::test]
async fn refusals_are_told_from_answers() {
    // A handler's own 401 is an answer.
    let handler = |_, _| async {
        let mut response = Response::new(Full::new(Bytes::from_static(b"mine")));
        *response.status_mut() = http::StatusCode::UNAUTHORIZED;
        response
    };
    let server = Member::on("127.0.0.1:0", secret(SECRET), limits(), handler).await;
    let links = Links::new(secret(SECRET), LinksConfig::default());
    let response = soon(links.post(&server.address(), "/ask", Bytes::new()))
        .await
        .unwrap();
    assert_eq!(
        (response.status().as_u16(), text(response).await.as_str()),
        (401, "mine")
    );
}
