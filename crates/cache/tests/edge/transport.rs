//! Connections: limits, shutdown, many idle ones, HTTP/2, TLS.

use crate::support::{Manner, MapBackend, Server, anonymous, noise, start, until};
use bytes::Bytes;
use gannet_cache::edge::{Access, AuthStore, EdgeConfig, TlsConfig, auth::Rules};
use gannet_testkit::client::{Connection, get};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use sha2::{Digest, Sha256};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

fn backend() -> Arc<MapBackend> {
    let backend = MapBackend::new();
    backend.put("b", "k", "hello", Manner::Memory(9));
    backend.put("b", "s", noise(3_000_000), Manner::Stream);
    backend.put("b", "hangs", noise(3_000_000), Manner::Hangs(1_000_000));
    backend
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let mut config = anonymous();
    config.limits.connections_max = 2;
    let server = start(config, &backend());
    let mut first = Connection::open(&server.authority).await.unwrap();
    let mut second = Connection::open(&server.authority).await.unwrap();
    for connection in [&mut first, &mut second] {
        assert_eq!(
            connection
                .request("GET", "/b/k", &[], b"")
                .await
                .unwrap()
                .status,
            200
        );
    }
    let refused = get(&server.url("/b/k"), &[]).await.unwrap();
    assert_eq!(
        (refused.status, refused.xml("Code").as_deref()),
        (503, Some("SlowDown"))
    );
    assert!(
        refused.header("x-amz-request-id").is_some() && refused.header("retry-after").is_some()
    );
    assert_eq!(server.metrics.refused.load(Relaxed), 1);
    drop(first);
    until("there is room", || {
        server.metrics.connections.load(Relaxed) == 1
    })
    .await;
    assert_eq!(get(&server.url("/b/k"), &[]).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_connection_ends_after_its_share_of_requests() {
    let mut config = anonymous();
    config.limits.requests_max = 3;
    let server = start(config, &backend());
    for key in ["k", "s"] {
        let mut connection = Connection::open(&server.authority).await.unwrap();
        for i in 1..=3 {
            let target = format!("/b/{key}");
            let answer = connection.request("GET", &target, &[], b"").await.unwrap();
            assert_eq!((answer.status, answer.cut), (200, false));
            let close = answer.header("connection") == Some("close");
            assert_eq!(close, i == 3, "{key}, request {i}");
        }
        assert!(connection.request("GET", "/b/k", &[], b"").await.is_err());
    }
}

#[tokio::test]
async fn shutdown_lets_requests_finish() {
    let mut server = start(anonymous(), &backend());
    let mut idle = TcpStream::connect(&server.authority).await.unwrap();
    let mut busy = Connection::open(&server.authority).await.unwrap();
    busy.send("GET", "/b/s", &[], b"").await.unwrap();
    let head = busy.receive_head().await.unwrap();
    let authority = server.authority.clone();
    server.stop();
    // Idle connections end, no new ones are taken, and what is under way goes on.
    assert_eq!(idle.read(&mut [0; 9]).await.unwrap(), 0);
    until("no listener", || {
        std::net::TcpStream::connect(&authority).is_err()
    })
    .await;
    let mut body = Vec::new();
    let cut = busy
        .receive_body(&head, false, |piece| {
            body.extend_from_slice(piece);
            std::ops::ControlFlow::Continue(())
        })
        .await;
    assert!(!cut && body == noise(3_000_000));
    assert_eq!(server.drained().await.cut, 0);
}

#[tokio::test]
async fn shutdown_serves_who_has_connected_by_then() {
    let request = b"GET /b/k HTTP/1.1\r\nhost: h\r\n\r\n";
    let mut server = start(anonymous(), &backend());
    // Nothing else runs before the shutdown begins: it is in the listener's queue.
    let queued = std::net::TcpStream::connect(&server.authority).unwrap();
    server.stop();
    queued.set_nonblocking(true).unwrap();
    let mut queued = TcpStream::from_std(queued).unwrap();
    queued.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    queued.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    assert_eq!(server.drained().await.cut, 0);
}

#[tokio::test]
async fn shutdown_takes_new_connections_while_notice_is_given() {
    let mut config = anonymous();
    config.limits.notice = Duration::from_secs(3600);
    let mut server = start(config, &backend());
    let mut old = Connection::open(&server.authority).await.unwrap();
    let answer = old.request("GET", "/b/k", &[], b"").await.unwrap();
    assert_eq!(answer.header("connection"), None);
    server.stop();
    until("the idle one closed", || {
        server.metrics.connections.load(Relaxed) == 0
    })
    .await;
    for _ in 0..3 {
        let mut new = Connection::open(&server.authority).await.unwrap();
        let answer = new.request("GET", "/b/k", &[], b"").await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("connection"), Some("close"));
    }
}

#[tokio::test]
async fn shutdown_is_bounded() {
    let mut config = anonymous();
    config.limits.drain_max = Duration::from_millis(100);
    let backend = backend();
    let mut server = start(config, &backend);
    let metrics = server.metrics.clone();
    let mut stuck = Connection::open(&server.authority).await.unwrap();
    stuck.send("GET", "/b/hangs", &[], b"").await.unwrap();
    stuck.receive_head().await.unwrap();
    server.stop();
    assert_eq!(server.drained().await.cut, 1);
    assert_eq!(metrics.connections.load(Relaxed), 0);
    assert_eq!(backend.streams.load(Relaxed), 0);
}

/// Without files to open, `accept` fails; once there are some, the clients in the queue are served.
///
/// Run in a process of its own, since the limit is one of the whole process.
#[tokio::test]
async fn accepting_survives_want_of_files() {
    const CHILD: &str = "GANNET_EDGE_WANT_OF_FILES";
    if std::env::var_os(CHILD).is_none() {
        let name = "transport::accepting_survives_want_of_files";
        let run = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(
            run.status.success() && said.contains("served after want"),
            "{run:?}"
        );
        return;
    }
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(64),
            maximum: limit.maximum,
        },
    )
    .unwrap();
    let server = start(anonymous(), &backend());
    let mut files: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok())
        .take(100)
        .collect();
    assert!(files.len() < 64, "the limit holds");
    files.pop();
    let mut client = Connection::open(&server.authority).await.unwrap();
    client.send("GET", "/b/k", &[], b"").await.unwrap();
    until("accept fails", || {
        server.metrics.accept_errors.load(Relaxed) > 1
    })
    .await;
    assert_eq!(server.metrics.accepted.load(Relaxed), 0);
    drop(files);
    assert_eq!(client.answer(false).await.unwrap().text(), "hello");
    println!("served after want");
}

type Http2 = SendRequest<Empty<Bytes>>;

async fn http2<S>(stream: S) -> Http2
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (send, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(100_000)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    send
}

async fn ask(http2: &mut Http2, url: &str) -> hyper::Response<hyper::body::Incoming> {
    let request = http::Request::get(url).body(Empty::new()).unwrap();
    http2.ready().await.unwrap();
    http2.send_request(request).await.unwrap()
}

#[tokio::test]
async fn http2_by_prior_knowledge() {
    let backend = backend();
    backend.put("b", "breaks", noise(200_000), Manner::Breaks(150_000));
    let server = start(anonymous(), &backend);
    let mut http2 = http2(TcpStream::connect(&server.authority).await.unwrap()).await;
    let answer = ask(&mut http2, &server.url("/b/s")).await;
    assert_eq!(answer.status(), 200);
    assert!(answer.headers().contains_key("x-amz-request-id"));
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        noise(3_000_000)
    );
    let answer = ask(&mut http2, &server.url("/b/missing")).await;
    assert_eq!(answer.status(), 404);
    assert!(answer.headers().contains_key("x-amz-request-id"));
    // A body that breaks resets its stream, and only that.
    let answer = ask(&mut http2, &server.url("/b/breaks")).await;
    assert_eq!(answer.status(), 200);
    assert!(answer.into_body().collect().await.is_err());
    let answer = ask(&mut http2, &server.url("/b/k")).await;
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        "hello"
    );
}

#[tokio::test]
async fn http2_readers_that_take_nothing_are_cut() {
    let backend = backend();
    let mut config = anonymous();
    config.limits.stall_max = Duration::from_millis(200);
    let server = start(config, &backend);
    let mut http2 = http2(TcpStream::connect(&server.authority).await.unwrap()).await;
    let _never_read = ask(&mut http2, &server.url("/b/s")).await;
    until("it is cut", || server.metrics.stalled.load(Relaxed) == 1).await;
    until("it is gone", || {
        server.metrics.connections.load(Relaxed) == 0
    })
    .await;
    until("nothing is read", || backend.streams.load(Relaxed) == 0).await;
}

#[tokio::test]
async fn http2_is_idle_and_drains_in_order() {
    let mut config = anonymous();
    config.limits.idle_max = Duration::from_millis(100);
    let mut server = start(config, &backend());
    let mut idle = http2(TcpStream::connect(&server.authority).await.unwrap()).await;
    assert_eq!(ask(&mut idle, &server.url("/b/k")).await.status(), 200);
    until("the idle one is closed", || {
        server.metrics.connections.load(Relaxed) == 0
    })
    .await;
    let mut busy = http2(TcpStream::connect(&server.authority).await.unwrap()).await;
    let answer = ask(&mut busy, &server.url("/b/s")).await;
    server.stop();
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        noise(3_000_000)
    );
    assert_eq!(server.drained().await.cut, 0);
}

fn pem(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/edge/tls")
        .join(name)
}

fn tls(cert: PathBuf, key: PathBuf, client_ca: Option<PathBuf>) -> TlsConfig {
    TlsConfig {
        cert,
        key,
        client_ca,
    }
}

/// Connects with TLS; `name` is who the server should be.
async fn connect_tls(
    server: &Server,
    name: &'static str,
    http2: bool,
    certificate: Option<&str>,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(pem("ca.pem")).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some(who) => {
            let chain = CertificateDer::from_pem_file(pem(&format!("{who}.pem"))).unwrap();
            let key = PrivateKeyDer::from_pem_file(pem(&format!("{who}.key"))).unwrap();
            builder.with_client_auth_cert(vec![chain], key).unwrap()
        }
    };
    config.alpn_protocols = vec![if http2 {
        b"h2".to_vec()
    } else {
        b"http/1.1".to_vec()
    }];
    let tcp = TcpStream::connect(&server.authority).await?;
    let name = ServerName::try_from(name).unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
}

/// One request over TLS; the whole answer.
async fn ask_tls(
    server: &Server,
    name: &'static str,
    certificate: Option<&str>,
    request: &str,
) -> std::io::Result<String> {
    let mut tls = connect_tls(server, name, false, certificate).await?;
    tls.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    tls.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

const CLOSE: &str = "GET /b/k HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn tls_speaks_both_and_refuses_with_ids() {
    let mut config = anonymous();
    config.tls = Some(tls(pem("server.pem"), pem("server.key"), None));
    let server = start(config, &backend());
    let answer = ask_tls(&server, "localhost", None, CLOSE).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"),
        "{answer}"
    );
    let answer = ask_tls(&server, "localhost", None, "nonsense\r\n\r\n")
        .await
        .unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("x-amz-request-id"),
        "{answer}"
    );
    let two = format!("GET /b/s HTTP/1.1\r\nHost: h\r\n\r\n{CLOSE}");
    let answer = ask_tls(&server, "localhost", None, &two).await.unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2);

    let mut http2 = http2(connect_tls(&server, "localhost", true, None).await.unwrap()).await;
    let answer = ask(&mut http2, "https://localhost/b/s").await;
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        noise(3_000_000)
    );

    // Plain HTTP on a TLS port ends, and nothing else does.
    let plain = gannet_testkit::client::raw(&server.authority, CLOSE.as_bytes(), 1000).await;
    assert!(!String::from_utf8_lossy(&plain.unwrap()).contains("200 OK"));
    assert!(ask_tls(&server, "localhost", None, CLOSE).await.is_ok());
}

#[tokio::test]
async fn certificates_are_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert"), dir.path().join("key"));
    let install = |name: &str| {
        std::fs::copy(pem(&format!("{name}.key")), &key).unwrap();
        std::fs::copy(pem(&format!("{name}.pem")), &cert).unwrap();
    };
    install("server");
    let mut config = anonymous();
    config.tls = Some(tls(cert.clone(), key.clone(), None));
    let server = start(config, &backend());
    assert!(
        ask_tls(&server, "renewed.localhost", None, CLOSE)
            .await
            .is_err()
    );
    install("renewed");
    server.edge.refresh();
    assert!(
        ask_tls(&server, "renewed.localhost", None, CLOSE)
            .await
            .is_ok()
    );
    std::fs::write(&cert, "broken").unwrap();
    server.edge.refresh();
    assert!(
        ask_tls(&server, "renewed.localhost", None, CLOSE)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn client_certificates() {
    let der = CertificateDer::from_pem_file(pem("client.pem")).unwrap();
    let hash: String = Sha256::digest(&der)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let rules = format!(
        "[[certificate]]\nname = \"trainer\"\nsha256 = \"{hash}\"\nallow = [\"b/k\"]\n\
         [[token]]\nname = \"t\"\ntoken = \"token-for-the-reader\"\n"
    );
    let store = AuthStore::fixed(Rules::parse(&rules).unwrap());
    let mut config = EdgeConfig::new(Access::File(Arc::new(store)));
    config.tls = Some(tls(
        pem("server.pem"),
        pem("server.key"),
        Some(pem("ca.pem")),
    ));
    let server = start(config, &backend());
    // None: no connection. (TLS 1.3 tells a client only when it reads.)
    assert!(ask_tls(&server, "localhost", None, CLOSE).await.is_err());
    let answer = ask_tls(&server, "localhost", Some("client"), CLOSE)
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let other = CLOSE.replace("/b/k", "/b/s");
    let answer = ask_tls(&server, "localhost", Some("client"), &other)
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    // Signed by the CA, but not named in the file; a token helps.
    let answer = ask_tls(&server, "localhost", Some("renewed"), CLOSE)
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let token = CLOSE.replace("Host", "Authorization: Bearer token-for-the-reader\r\nHost");
    let answer = ask_tls(&server, "localhost", Some("renewed"), &token)
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
