//! Asking servers.

use super::{
    config, lead,
    server::{Asked, Reply, Server},
};
use bytes::Bytes;
use gannet::engine::{End, Fault};
use gannet_matrix::{
    net::{Answer, Federation, FederationError, Homeserver, NetConfig, ReadBounds},
    verify::{
        keyset::{KeySet, VerifyKey},
        sign::SigningKey,
        xmatrix::{Request, XMatrix},
    },
};
use gannet_testkit::tls::Ca;
use http::Method;
use ruma_common::{CanonicalJsonValue, OwnedServerName, ServerName};
use std::{sync::Arc, time::Duration};

const VERSION: &str = "/_matrix/federation/v1/version";
const EVENT: &str = "/_matrix/federation/v1/event/$x";

fn a() -> OwnedServerName {
    ServerName::parse("a.test").unwrap()
}

/// A server `a.test` that answers so, and how it is reached.
async fn server(handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> (Server, NetConfig) {
    let ca = Ca::new();
    let federation = Server::start(&ca, &["a.test"], handler).await;
    let well_known = Server::start(&ca, &["a.test"], |_| Reply::status(404)).await;
    let mut config = config(&ca);
    lead(&mut config, "a.test", &well_known, &federation);
    // The well-known is gone after this, which is as good as none.
    (federation, config)
}

fn unsigned(config: &NetConfig) -> Federation {
    Federation::new(config.clone(), None).unwrap()
}

async fn get(federation: &Federation) -> Result<Answer, FederationError> {
    federation.send(&a(), Method::GET, VERSION, None).await
}

async fn read(answer: Answer, bytes_max: usize, time: Duration) -> Result<Bytes, FederationError> {
    let bounds = ReadBounds {
        bytes_max,
        time_max: time,
    };
    answer.read(bounds).await
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_success_is_told() {
    type Made = fn() -> Reply;
    let cases: Vec<(Made, &str, End)> = vec![
        (
            || Reply::redirect("https://b.test/"),
            "302 Found: it redirects to https://b.test/, which is not followed",
            End::Failed(Fault::Malformed),
        ),
        (
            || {
                Reply::text(
                    403,
                    r#"{"errcode":"M_FORBIDDEN","error":"Host not\u001b in room"}"#,
                )
            },
            "403 Forbidden: M_FORBIDDEN: Host not in room",
            End::Missing,
        ),
        (|| Reply::status(404), "404 Not Found", End::Missing),
        (
            || {
                let body = r#"{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":7000}"#;
                Reply::text(429, body).with("retry-after", "3")
            },
            "429 Too Many Requests: M_LIMIT_EXCEEDED (again in 7s)",
            End::Busy {
                retry_after: Some(Duration::from_secs(7)),
            },
        ),
        (
            || Reply::status(500),
            "500 Internal Server Error",
            End::Failed(Fault::Internal),
        ),
        (
            // The body of an error is not waited for.
            || Reply::text(502, &"x".repeat(1 << 20)),
            "502 Bad Gateway",
            End::Failed(Fault::Internal),
        ),
        (
            || Reply::text(200, "").with("x", &"x".repeat(100_000)),
            "the answer is not HTTP as it should be",
            End::Failed(Fault::Malformed),
        ),
        (
            || Reply::Hang,
            "no answer within 300ms",
            End::Failed(Fault::TimedOut),
        ),
    ];
    for (reply, text, end) in cases {
        let (_server, mut config) = server(move |_| reply()).await;
        config.head_timeout = match text.contains("300ms") {
            true => Duration::from_millis(300),
            false => LONG,
        };
        let error = get(&unsigned(&config)).await.unwrap_err();
        assert!(error.to_string().starts_with(text), "{error} / {text}");
        assert_eq!(error.end(), end, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_bounded() {
    let piece = Bytes::from(vec![b' '; 1000]);
    let (endless, config) = server(move |_| Reply::Drip(piece.clone(), Duration::ZERO)).await;
    let answer = get(&unsigned(&config)).await.unwrap();
    let error = read(answer, 100_000, LONG).await.unwrap_err();
    assert_eq!(error.end(), End::Failed(Fault::TooLarge), "{error}");
    drop(endless);
    let drip = |_: &Asked| Reply::Drip((&b" "[..]).into(), Duration::from_millis(10));
    let (_server, config) = server(drip).await;
    let answer = get(&unsigned(&config)).await.unwrap();
    let error = read(answer, 100_000, Duration::from_millis(200))
        .await
        .unwrap_err();
    assert_eq!(error.end(), End::Failed(Fault::TimedOut), "{error}");
    let (_server, config) = server(|_| Reply::text(200, &"x".repeat(70_000))).await;
    let answer = get(&unsigned(&config)).await.unwrap();
    assert_eq!(answer.body.len(), Some(70_000));
    assert_eq!(read(answer, 70_000, LONG).await.unwrap().len(), 70_000);
    let answer = get(&unsigned(&config)).await.unwrap();
    let error = read(answer, 69_999, LONG).await.unwrap_err();
    assert_eq!(error.end(), End::Failed(Fault::TooLarge), "{error}");
}

/// Polls until it holds, for a bounded time.
async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_and_replaced() {
    let (server, mut config) = server(|_| Reply::text(200, "{}")).await;
    config.idle_timeout = Duration::from_secs(60);
    let federation = unsigned(&config);
    for _ in 0..5 {
        let answer = get(&federation).await.unwrap();
        assert_eq!(read(answer, 10, LONG).await.unwrap(), "{}");
        until("the connection is kept", || {
            federation.idle_connections() == 1
        })
        .await;
    }
    assert_eq!(server.connections(), 1);
    // The server closes what is kept: nobody notices.
    server.hang_up();
    read(get(&federation).await.unwrap(), 10, LONG)
        .await
        .unwrap();
    assert_eq!(server.connections(), 2);
    // An answer that is not read to its end is not waited for.
    until("the connection is kept", || {
        federation.idle_connections() == 1
    })
    .await;
    let both = futures_util::future::join(get(&federation), get(&federation)).await;
    assert!(both.0.is_ok() && both.1.is_ok());
    assert_eq!(server.connections(), 3);
    drop(both);
    // Nor is one kept for long.
    config.idle_timeout = Duration::from_millis(200);
    let federation = unsigned(&config);
    read(get(&federation).await.unwrap(), 10, LONG)
        .await
        .unwrap();
    until("a connection is kept", || {
        federation.idle_connections() == 1
    })
    .await;
    until("it is closed", || federation.idle_connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_looked_at() {
    let (ca, strange) = (Ca::new(), Ca::new());
    let fine = |_: &Asked| Reply::text(200, "{}");
    let wrong = Server::start(&ca, &["b.test"], fine).await;
    let untrusted = Server::start(&strange, &["a.test"], fine).await;
    for (server, text) in [
        (&wrong, "its certificate is not for a.test"),
        (
            &untrusted,
            "its certificate is of no authority that is trusted",
        ),
    ] {
        let mut config = config(&ca);
        lead(&mut config, "a.test", server, server);
        let error = get(&unsigned(&config)).await.unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(error.end(), End::Failed(Fault::Refused));
        assert!(server.asked().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_signed_or_not_sent() {
    let (server, config) = server(|_| Reply::text(200, "{}")).await;
    let nothing = unsigned(&config).send(&a(), Method::GET, EVENT, None).await;
    let nothing = nothing.unwrap_err();
    assert!(
        matches!(nothing, FederationError::NoSigningKey),
        "{nothing}"
    );
    assert!(nothing.to_string().contains("--signing-key"), "{nothing}");
    let key = SigningKey::from_seed("1", &[7; 32]).unwrap();
    let me = ServerName::parse("me.test").unwrap();
    let mut keys = KeySet::new();
    let public = VerifyKey {
        bytes: key.public_key(),
        valid_until_ms: u64::MAX,
    };
    keys.insert_key(&me, key.id(), public);
    let sign = Arc::new(Homeserver::new(me.clone(), key));
    let federation = Federation::new(config, Some(sign)).unwrap();
    let path = "/_matrix/federation/v1/get_missing_events/!r:a.test?x=%20y";
    let body = Bytes::from_static(br#"{"limit":1,"b":[],"a":"x"}"#);
    for (method, body) in [(Method::GET, None), (Method::POST, Some(body))] {
        let sent = federation
            .send(&a(), method.clone(), path, body.clone())
            .await;
        sent.unwrap();
        let asked = server.asked().pop().unwrap();
        let header = XMatrix::parse(asked.headers["authorization"].as_bytes()).unwrap();
        let content: Option<CanonicalJsonValue> =
            body.map(|body| serde_json::from_slice(&body).unwrap());
        assert_eq!((asked.method, &*asked.path), (method.clone(), path));
        let request = Request {
            method: method.as_str(),
            uri: path,
            origin: &me,
            destination: &a(),
            content: content.as_ref(),
        };
        header.check(&request, &keys, 0).unwrap();
    }
    for bad in ["x", "", "/a b", "/a#b", "https://b.test/", "/\u{e9}"] {
        let error = federation
            .send(&a(), Method::GET, bad, None)
            .await
            .unwrap_err();
        assert!(
            matches!(error, FederationError::Request(_)),
            "{bad}: {error}"
        );
        assert_eq!(error.end(), End::Failed(Fault::Local));
    }
}
