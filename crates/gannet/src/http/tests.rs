//! Tests of the client and the transport against real sockets.

use super::{Client, ClientConfig, HttpErrorKind, HttpTransport, transport::parse_content_range};
use crate::{
    Fetcher, Heartbeat, Request, Transport,
    engine::{AttemptId, End, Fault, FetchId, GroupId, Plan, SourceId, Stage},
    http::HttpMeta,
};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use http_body_util::{BodyExt, Full};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// A server that reads one request for each connection, sends what a closure says, byte by byte as
/// it stands, and closes.
struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let (answer, log) = (Arc::new(answer), seen.clone());
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (answer, log) = (answer.clone(), log.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match socket.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    let head = String::from_utf8(head).unwrap();
                    let bytes = answer(&head);
                    log.lock().unwrap().push(head);
                    // The client may have had enough before the end.
                    let _ = socket.write_all(&bytes).await;
                });
            }
        });
        Self { address, seen }
    }

    fn uri(&self, path: &str) -> Uri {
        format!("http://{}{path}", self.address).parse().unwrap()
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn client() -> Client {
    let config = ClientConfig {
        system_roots: false,
        ..ClientConfig::default()
    };
    Client::new(config).unwrap()
}

fn get(uri: &Uri) -> http::Request<Full<Bytes>> {
    http::Request::get(uri).body(Full::default()).unwrap()
}

#[tokio::test]
async fn failures_are_told_apart() {
    let check = async |answer: &'static [u8], expected: Result<u16, (HttpErrorKind, Fault)>| {
        let server = Server::start(|_| answer.to_vec()).await;
        let got = client().send(get(&server.uri("/"))).await;
        let got = got.map(|answer| answer.status().as_u16()).map_err(|error| {
            assert!(!error.detail.is_empty());
            (error.kind, error.fault())
        });
        assert_eq!(
            got,
            expected,
            "{}",
            String::from_utf8_lossy(&answer[..answer.len().min(80)])
        );
    };
    check(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Ok(200)).await;
    // A redirect is an answer, and is not followed.
    check(
        b"HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n",
        Ok(302),
    )
    .await;
    check(b"", Err((HttpErrorKind::Broken, Fault::Truncated))).await;
    check(
        b"HTTP/1.1 200 O",
        Err((HttpErrorKind::Broken, Fault::Truncated)),
    )
    .await;
    check(
        b"SSH-2.0-OpenSSH\r\n\r\n",
        Err((HttpErrorKind::Malformed, Fault::Malformed)),
    )
    .await;
    check(
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        Err((HttpErrorKind::Malformed, Fault::Malformed)),
    )
    .await;
    let endless = [b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'a'; 2 << 20]].concat();
    check(
        endless.leak(),
        Err((HttpErrorKind::Malformed, Fault::Malformed)),
    )
    .await;
    // One that ends, within what is read at once.
    for (len, expected) in [
        (60 << 10, Ok(200)),
        (65 << 10, Err((HttpErrorKind::Malformed, Fault::Malformed))),
    ] {
        let value = "a".repeat(len);
        let large = format!("HTTP/1.1 200 OK\r\nx: {value}\r\ncontent-length: 0\r\n\r\n");
        check(large.into_bytes().leak(), expected).await;
    }
}

#[tokio::test]
async fn no_connection() {
    // A port that was free a moment ago.
    let address = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let refused = client()
        .send(get(&format!("http://{address}/").parse().unwrap()))
        .await;
    assert_eq!(refused.unwrap_err().kind, HttpErrorKind::Refused);
    let nowhere = client()
        .send(get(&"http://no-such-host.invalid/".parse().unwrap()))
        .await;
    let nowhere = nowhere.unwrap_err();
    assert_eq!(
        (nowhere.kind, nowhere.fault()),
        (HttpErrorKind::Unreachable, Fault::Unreachable)
    );
    let request = client()
        .send(get(&"/relative".parse().unwrap()))
        .await
        .unwrap_err();
    assert_eq!(
        (request.kind, request.fault()),
        (HttpErrorKind::Request, Fault::Local)
    );
}

/// With the clock paused, time passes whenever nothing else happens: the server never answers.
#[tokio::test(start_paused = true)]
async fn silence() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let error = client().send(get(&uri)).await.unwrap_err();
    assert_eq!(
        (error.kind, error.fault()),
        (HttpErrorKind::TimedOut, Fault::TimedOut)
    );
}

#[tokio::test]
async fn a_body_that_breaks_off_is_an_error() {
    let server =
        Server::start(|_| b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n12345".to_vec()).await;
    let answer = client().send(get(&server.uri("/"))).await.unwrap();
    let error = answer.into_body().collect().await.unwrap_err();
    let error = super::HttpError::from_error(&error, false);
    assert_eq!(
        (error.kind, error.fault()),
        (HttpErrorKind::Broken, Fault::Truncated)
    );
}

#[tokio::test]
async fn tls() {
    const CA: &[u8] = include_bytes!("../../tests/data/ca.pem");
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let certificate =
        CertificateDer::from_pem_slice(include_bytes!("../../tests/data/server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../../tests/data/server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // The same under an address that the certificate does not name.
    let other = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    for listener in [listener, other] {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut socket) = acceptor.accept(socket).await else {
                        return;
                    };
                    let mut head = [0; 1_024];
                    let _ = socket.read(&mut head).await;
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret";
                    let _ = socket.write_all(answer).await;
                    let _ = socket.shutdown().await;
                });
            }
        });
    }
    let uri = |host: &str| format!("https://{host}:{port}/").parse().unwrap();
    let mut trusting = ClientConfig {
        system_roots: false,
        ..ClientConfig::default()
    };
    trusting.add_roots_pem(CA).unwrap();
    let trusting = Client::new(trusting).unwrap();
    for host in ["127.0.0.1", "localhost"] {
        let answer = trusting.send(get(&uri(host))).await.unwrap();
        assert_eq!(
            answer.into_body().collect().await.unwrap().to_bytes(),
            "secret"
        );
    }
    // Without the root, with the wrong name, and where there is no TLS at all.
    let error = client().send(get(&uri("localhost"))).await.unwrap_err();
    assert_eq!(
        (error.kind, error.fault()),
        (HttpErrorKind::Tls, Fault::Refused),
        "{error}"
    );
    let error = trusting.send(get(&uri("127.0.0.2"))).await.unwrap_err();
    assert_eq!(error.kind, HttpErrorKind::Tls, "{error}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket
                .write_all(b"no TLS is spoken here, and that is that")
                .await;
        }
    });
    let error = trusting
        .send(get(&format!("https://{address}/").parse().unwrap()))
        .await;
    assert_eq!(error.unwrap_err().kind, HttpErrorKind::Tls);
}

#[test]
fn roots() {
    let mut config = ClientConfig {
        system_roots: false,
        ..ClientConfig::default()
    };
    assert!(config.add_roots_pem(b"").is_err());
    assert!(
        config
            .add_roots_pem(b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----")
            .is_err()
    );
    config
        .extra_roots
        .push(rustls::pki_types::CertificateDer::from(vec![1, 2, 3]));
    assert!(Client::new(config).is_err());
}

// ---- the transport ----

const DATUM: &[u8] = b"0123456789";

/// Serves [`DATUM`] with these headers, and ranges of it if the request asks for one.
fn file(headers: &'static str) -> impl Fn(&str) -> Vec<u8> + Send + Sync {
    move |request| {
        let range = request.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("range").then(|| value.to_owned())
        });
        let from: Option<usize> = range.and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse()
                .ok()
        });
        let (status, from, extra) = match from {
            Some(from) => (
                "206 Partial Content",
                from,
                format!("content-range: bytes {from}-9/10\r\n"),
            ),
            None => ("200 OK", 0, String::new()),
        };
        let body = &DATUM[from..];
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\n{extra}{headers}\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    }
}

fn meta(headers: &[(&'static str, &'static str)]) -> HttpMeta {
    let headers = headers.iter().map(|(name, value)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    });
    HttpMeta {
        headers: Arc::new(headers.collect::<HeaderMap>()),
    }
}

struct Got {
    identity: u64,
    total: Option<u64>,
    from_byte: u64,
    bytes: Vec<u8>,
}

async fn open(
    server: &Server,
    from_byte: u64,
    continues: Option<HttpMeta>,
) -> Result<Got, (End, String)> {
    let transport = HttpTransport::new(client(), |key: &String| format!("/{key}?x=1"));
    transport.add(SourceId(1), server.uri("/base/"));
    let request = Request {
        key: "key".to_owned(),
        source: SourceId(1),
        from_byte,
        continues,
        stage: Stage::First,
        attempt: AttemptId(77),
        fetch: FetchId(1),
        heartbeat: Heartbeat::unheard(),
    };
    let told = |error: crate::AttemptError| (error.end, error.detail.into_owned());
    let mut answer = transport.open(request).await.map_err(told)?;
    let mut bytes = Vec::new();
    while let Some(part) = answer.body.next().await {
        bytes.extend_from_slice(&part.map_err(told)?);
    }
    let crate::Answer {
        identity,
        total,
        from_byte,
        ..
    } = answer;
    Ok(Got {
        identity,
        total,
        from_byte,
        bytes,
    })
}

#[tokio::test]
async fn a_key_is_a_path_under_the_base() {
    let server = Server::start(file("etag: \"a\"\r\n")).await;
    let got = open(&server, 0, None).await.unwrap();
    assert_eq!(
        (got.total, got.from_byte, got.bytes),
        (Some(10), 0, DATUM.to_vec())
    );
    let seen = &server.seen()[0];
    assert!(seen.starts_with("GET /base/key?x=1 HTTP/1.1\r\n"), "{seen}");
    assert!(seen.contains("accept-encoding: identity\r\n"), "{seen}");
    assert!(!seen.contains("range"), "{seen}");
}

#[tokio::test]
async fn the_rest_is_asked_for_by_version() {
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    let check = async |headers: &[(&'static str, &'static str)], from: u64, asked: &[&str]| {
        let server = Server::start(file("etag: \"a\"\r\n")).await;
        let got = open(&server, 4, Some(meta(headers))).await.unwrap();
        assert_eq!(
            (got.from_byte, &got.bytes[..]),
            (from, &DATUM[from as usize..])
        );
        assert_eq!(got.total, Some(10));
        let seen = server.seen()[0].to_lowercase();
        for line in ["if-match", "if-range", "range: "] {
            let expected = asked.iter().any(|asked| asked.contains(line));
            assert_eq!(
                seen.contains(&format!("\r\n{line}")),
                expected,
                "{line} in {seen}"
            );
        }
        for line in asked {
            assert!(seen.contains(&line.to_lowercase()), "{line} in {seen}");
        }
    };
    check(
        &[("etag", "\"a\"")],
        4,
        &["\r\nif-match: \"a\"\r\n", "\r\nrange: bytes=4-\r\n"],
    )
    .await;
    check(
        &[("etag", "\"a\""), ("last-modified", DATE)],
        4,
        &["if-match: \"a\"", "\r\nrange: bytes=4-"],
    )
    .await;
    check(
        &[("last-modified", DATE)],
        4,
        &["\r\nif-range: Sun, 06 Nov 1994", "\r\nrange: bytes=4-"],
    )
    .await;
    let weak = [("etag", "W/\"a\""), ("last-modified", DATE)];
    check(
        &weak,
        4,
        &["\r\nif-range: Sun, 06 Nov 1994", "\r\nrange: bytes=4-"],
    )
    .await;
    check(&[("etag", "W/\"a\"")], 0, &[]).await;
    check(&[], 0, &[]).await;
}

#[tokio::test]
async fn the_version_is_the_identity() {
    let identity = async |headers: &'static str| {
        let server = Server::start(file(headers)).await;
        open(&server, 0, None).await.unwrap().identity
    };
    let a = identity("etag: \"a\"\r\nlast-modified: x\r\n").await;
    assert_eq!(a, identity("etag: \"a\"\r\n").await);
    assert_ne!(a, identity("etag: \"b\"\r\n").await);
    let dated = identity("last-modified: x\r\n").await;
    assert_eq!(
        dated,
        identity("etag: W/\"a\"\r\nlast-modified: x\r\n").await
    );
    assert_ne!(dated, identity("last-modified: y\r\n").await);
    assert_eq!(
        identity("").await,
        77,
        "nothing to go by: no other attempt continues it"
    );
}

#[tokio::test]
async fn answers_that_are_not_what_was_asked() {
    let check = async |head: &'static str, expected: End| {
        let server =
            Server::start(move |_| format!("HTTP/1.1 {head}\r\n\r\n456789").into_bytes()).await;
        let version = meta(&[("etag", "\"a\"")]);
        let got = open(&server, 4, Some(version)).await.map(|got| got.bytes);
        assert_eq!(got.map_err(|(end, _)| end), Err(expected), "{head}");
    };
    let malformed = End::Failed(Fault::Malformed);
    check("206 Partial\r\ncontent-length: 6", malformed).await;
    check(
        "206 Partial\r\ncontent-length: 6\r\ncontent-range: bytes 3-9/10",
        malformed,
    )
    .await;
    check(
        "206 Partial\r\ncontent-length: 6\r\ncontent-range: bytes 5-9/10",
        malformed,
    )
    .await;
    check(
        "206 Partial\r\ncontent-length: 6\r\ncontent-range: bytes 4-8/10",
        malformed,
    )
    .await;
    check(
        "206 Partial\r\ncontent-length: 6\r\ncontent-range: chunks 4-9/10",
        malformed,
    )
    .await;
    check(
        "412 Precondition Failed\r\ncontent-length: 0",
        End::Failed(Fault::Changed),
    )
    .await;
    check("404 Not Found\r\ncontent-length: 0", End::Missing).await;
    let busy = End::Busy {
        retry_after: Some(Duration::from_secs(7)),
    };
    check("503 Slow Down\r\nretry-after: 7\r\ncontent-length: 0", busy).await;
    check(
        "301 Moved\r\nlocation: /\r\ncontent-length: 0",
        End::Failed(Fault::Local),
    )
    .await;
    check("200 OK\r\ncontent-length: 7", End::Failed(Fault::Truncated)).await;
}

#[tokio::test]
async fn addresses_that_lead_nowhere_are_our_fault() {
    let check = async |base: Option<&'static str>, path: &'static str| {
        let transport = HttpTransport::new(client(), move |_: &String| path.to_owned());
        if let Some(base) = base {
            transport.add(SourceId(1), base.parse().unwrap());
        }
        let fetcher = Fetcher::builder(transport.clone()).build().unwrap();
        fetcher.add_source(SourceId(1), GroupId(1));
        let error = fetcher.fetch("key".to_owned()).await.unwrap_err();
        assert!(
            matches!(
                error.tried[0].how,
                crate::engine::HowEnded::Failed(Fault::Local)
            ),
            "{error}"
        );
        transport.remove(SourceId(1));
    };
    check(None, "/").await;
    check(Some("http://127.0.0.1:1/"), "relative").await;
    check(Some("http://127.0.0.1:1/"), "/white space").await;
    check(Some("/only/a/path"), "/x").await;
}

/// End to end: an answer that breaks off is continued at another server, and the bytes are right.
#[tokio::test]
async fn a_broken_answer_is_resumed_elsewhere() {
    let broken = Server::start(|_| {
        b"HTTP/1.1 200 OK\r\netag: \"a\"\r\ncontent-length: 10\r\n\r\n01234".to_vec()
    })
    .await;
    let good = Server::start(file("etag: \"a\"\r\n")).await;
    let transport = HttpTransport::new(client(), |key: &String| format!("/{key}"));
    transport.add(SourceId(1), broken.uri(""));
    transport.add(SourceId(2), good.uri(""));
    let fetcher = Fetcher::builder(transport)
        .plan(Plan {
            resume: true,
            ..Plan::default()
        })
        .build();
    let fetcher = fetcher.unwrap();
    fetcher.add_source(SourceId(1), GroupId(1));
    fetcher.add_source(SourceId(2), GroupId(2));
    let fetched = fetcher.fetch("key".to_owned()).await.unwrap();
    assert_eq!(fetched.body.to_bytes(), DATUM);
    assert_eq!(fetched.sources.as_slice(), [SourceId(1), SourceId(2)]);
    assert!(good.seen()[0].contains("range: bytes=5-\r\n"));
    fetcher.shutdown(Duration::from_secs(1)).await;
}

#[test]
fn content_ranges() {
    let check = |value: &str, expected: Option<(u64, u64, Option<u64>)>| {
        assert_eq!(parse_content_range(value), expected, "{value:?}");
    };
    check("bytes 0-9/10", Some((0, 9, Some(10))));
    check("bytes 4-9/*", Some((4, 9, None)));
    check(" bytes 4-4/10 ", Some((4, 4, Some(10))));
    check("bytes 0-10/10", None);
    check("bytes 5-4/10", None);
    check("bytes */10", None);
    check("bytes +1-4/10", None);
    check("bytes 0-18446744073709551615/*", None);
    check("bytes 0-18446744073709551616/*", None);
    check("bytes=0-9/10", None);
    check("0-9/10", None);
    check("", None);
}

/// A server that answers the first so many requests of each connection, and closes it instead of
/// answering the next, which it has read. Counts requests.
async fn fickle(answers: usize) -> (Uri, Arc<Mutex<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    let count = Arc::<Mutex<usize>>::default();
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            for left in (0..=answers).rev() {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match socket.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break,
                    }
                }
                if head.is_empty() {
                    break;
                }
                *counted.lock().unwrap() += 1;
                if left > 0 {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    socket.write_all(answer).await.unwrap();
                }
            }
        }
    });
    (uri.parse().unwrap(), count)
}

#[tokio::test]
async fn a_kept_connection_that_the_server_closes_is_nobodys_fault() {
    let (uri, count) = fickle(1).await;
    let client = client();
    for _ in 0..3 {
        let answer = client.send(get(&uri)).await.unwrap();
        answer.into_body().collect().await.unwrap();
    }
    assert_eq!(*count.lock().unwrap(), 5, "each but the first one twice");
    // What may not be repeated is not.
    let post = http::Request::post(&uri).body(Full::default()).unwrap();
    let error = client.send(post).await.unwrap_err();
    assert_eq!(error.kind, HttpErrorKind::Broken);
    assert_eq!(*count.lock().unwrap(), 6);
}

#[tokio::test]
async fn a_new_connection_that_brings_no_answer_is_a_failure() {
    let (uri, count) = fickle(0).await;
    let error = client().send(get(&uri)).await.unwrap_err();
    assert_eq!(error.kind, HttpErrorKind::Broken);
    assert_eq!(*count.lock().unwrap(), 1, "asked once");
}
