//! Certificates: who is let in, on both sides.

mod common;

use bytes::Bytes;
use common::*;
use gannet_link::{Credentials, LinkError, Links, LinksConfig, ServerLimits};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::ring,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const SAN: &str = "*.members.test";

async fn server(ca: &Ca) -> Member {
    let credentials = member(ca, "server.members.test", SAN);
    Member::echo(credentials, ServerLimits::default()).await
}

#[tokio::test]
async fn members_know_each_other_by_name() {
    let ca = Ca::new();
    let server = server(&ca).await;
    let links = links(&member(&ca, "asker.members.test", SAN));
    let answer = ask(&links, &server.address(), "hello").await.unwrap();
    assert_eq!(answer, "asker.members.test /ask hello");
    assert_eq!(count(&server.counters.accepted), 1);
    assert_eq!(server.stop().await.cut, 0);
}

#[tokio::test]
async fn uris_are_names_too() {
    let ca = Ca::new();
    let san = "spiffe://cluster/gannet/*";
    let credentials = member(&ca, "spiffe://cluster/gannet/0", san);
    let server = Member::echo(credentials.clone(), ServerLimits::default()).await;
    let answer = ask(&links(&credentials), &server.address(), "").await;
    assert_eq!(answer.unwrap(), "spiffe://cluster/gannet/0 /ask ");
}

/// A client that takes any server and shows what it is given.
struct Stranger(Option<(String, String)>);

impl Stranger {
    async fn connect(
        &self,
        server: &Member,
        alpn: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect_with(server, alpn, rustls::ALL_VERSIONS).await
    }

    async fn connect_with(
        &self,
        server: &Member,
        alpn: &[&str],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody));
        let mut config = match &self.0 {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let tcp = TcpStream::connect(server.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        soon(TlsConnector::from(Arc::new(config)).connect(name, tcp)).await
    }

    /// Whether a request of its is answered.
    async fn is_answered(&self, server: &Member) -> bool {
        let Ok(stream) = self.connect(server, &["h2"]).await else {
            return false;
        };
        let io = TokioIo::new(stream);
        let Ok((mut sender, connection)) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await
        else {
            return false;
        };
        let connection = tokio::spawn(connection);
        let request = http::Request::post("https://a/ask").body(Full::<Bytes>::default());
        let answered = soon(sender.send_request(request.unwrap())).await.is_ok();
        connection.abort();
        answered
    }
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[tokio::test]
async fn strangers_are_not_answered() {
    let (ca, foreign) = (Ca::new(), Ca::new());
    let name = "asker.members.test";
    let expired = Odd {
        expired: true,
        ..Odd::default()
    };
    let not_yet = Odd {
        not_yet: true,
        ..Odd::default()
    };
    let usage = |usage| Odd {
        usage: Some(usage),
        ..Odd::default()
    };
    let cases = [
        ("a member", Some(ca.issue(name, Odd::default())), true),
        ("no usages", Some(ca.issue(name, usage(Usage::None))), true),
        (
            "clients only",
            Some(ca.issue(name, usage(Usage::Client))),
            true,
        ),
        ("no certificate", None, false),
        (
            "foreign CA",
            Some(foreign.issue(name, Odd::default())),
            false,
        ),
        (
            "foreign name",
            Some(ca.issue("asker.others.test", Odd::default())),
            false,
        ),
        (
            "deeper name",
            Some(ca.issue("a.b.members.test", Odd::default())),
            false,
        ),
        ("expired", Some(ca.issue(name, expired)), false),
        ("not yet valid", Some(ca.issue(name, not_yet)), false),
        (
            "servers only",
            Some(ca.issue(name, usage(Usage::Server))),
            false,
        ),
    ];
    for (what, shown, answered) in cases {
        let server = server(&ca).await;
        assert_eq!(
            Stranger(shown).is_answered(&server).await,
            answered,
            "{what}"
        );
        let refused = u64::from(!answered);
        until(|| count(&server.counters.refused_certificate) == refused).await;
        assert_eq!(count(&server.counters.requests), 1 - refused, "{what}");
    }
}

#[tokio::test]
async fn only_tls13_with_http2_is_spoken() {
    let ca = Ca::new();
    let server = server(&ca).await;
    let counters = server.counters.clone();
    let stranger = Stranger(Some(ca.issue("asker.members.test", Odd::default())));
    assert!(stranger.connect(&server, &["http/1.1"]).await.is_err());
    until(|| count(&counters.refused_protocol) == 1).await;
    // Without a choice to be made, TLS has nothing against it; we have.
    let mut stream = stranger.connect(&server, &[]).await.unwrap();
    let end = soon(stream.read(&mut [0; 1])).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    until(|| count(&counters.refused_protocol) == 2).await;
    let old = stranger
        .connect_with(&server, &["h2"], &[&rustls::version::TLS12])
        .await;
    assert!(old.is_err());
    until(|| count(&counters.refused_tls) == 1).await;
}

#[tokio::test]
async fn plaintext_to_a_tls_port_is_refused() {
    let ca = Ca::new();
    let server = server(&ca).await;
    let mut tcp = TcpStream::connect(server.address).await.unwrap();
    tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    // An alert, perhaps, and the end.
    let mut rest = Vec::new();
    let _ = soon(tcp.read_to_end(&mut rest)).await;
    until(|| count(&server.counters.refused_tls) == 1).await;
    assert_eq!(count(&server.counters.requests), 0);
    // And a member that was given no certificates is told what is wrong.
    let error = ask(&links(&secret(SECRET)), &server.address(), "")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("TLS"), "{error}");
    assert!(!error.may_be_processed());
}

#[tokio::test]
async fn a_client_asks_members_only() {
    let (ca, foreign) = (Ca::new(), Ca::new());
    let links = links(&member(&ca, "asker.members.test", SAN));
    for (what, credentials) in [
        ("foreign CA", member(&foreign, "server.members.test", SAN)),
        (
            "foreign name",
            member(&ca, "server.others.test", "*.others.test"),
        ),
    ] {
        let server = Member::echo(credentials, ServerLimits::default()).await;
        let error = ask(&links, &server.address(), "").await.unwrap_err();
        assert!(matches!(error, LinkError::Tls { .. }), "{what}: {error}");
        assert_eq!(count(&server.counters.requests), 0, "{what}");
    }
    // Not TLS at all.
    let server = Member::echo(secret(SECRET), ServerLimits::default()).await;
    let error = ask(&links, &server.address(), "").await.unwrap_err();
    assert!(matches!(error, LinkError::Tls { .. }), "{error}");
}

#[tokio::test]
async fn a_client_whom_the_server_does_not_take_learns_why() {
    let ca = Ca::new();
    let server = server(&ca).await;
    // It takes the server, but not the other way round.
    let both = Files::new(ca.pem(), &ca.issue("a.others.test", Odd::default()));
    let error = both.open(SAN).unwrap_err().to_string();
    assert!(error.contains("*.members.test"), "{error}");
    let links = links(&both.open("*.others.test").unwrap());
    let error = ask(&links, &server.address(), "").await.unwrap_err();
    assert!(matches!(error, LinkError::Tls { .. }), "{error}");
    until(|| count(&server.counters.requests) == 0).await;
}

#[tokio::test]
async fn a_rejected_certificate_shows_as_tls() {
    let ca = Ca::new();
    let server = server(&ca).await;
    // One CA for both, but the server wants names that this one does not have.
    let asker = Ca::new();
    let bundle = format!("{}{}", ca.pem(), asker.pem());
    let files = Files::new(&bundle, &asker.issue("asker.members.test", Odd::default()));
    let links = links(&files.open(SAN).unwrap());
    let error = ask(&links, &server.address(), "").await.unwrap_err();
    let LinkError::Tls { why, .. } = &error else {
        panic!("{error}");
    };
    assert!(why.contains("alert"), "{why}");
    assert_eq!(count(&server.counters.refused_certificate), 1);
}

#[test]
fn files_that_would_not_do_are_refused_at_once() {
    let (ca, foreign) = (Ca::new(), Ca::new());
    let name = "a.members.test";
    let good = ca.issue(name, Odd::default());
    let expired = Odd {
        expired: true,
        ..Odd::default()
    };
    let servers_only = Odd {
        usage: Some(Usage::Server),
        ..Odd::default()
    };
    let other_key = (good.0.clone(), ca.issue(name, Odd::default()).1);
    let key_only = (good.1.clone(), good.1.clone());
    let cert_only = (good.0.clone(), good.0.clone());
    for (what, ca, issued, says) in [
        ("expired", ca.pem(), &ca.issue(name, expired), "expired"),
        (
            "servers only",
            ca.pem(),
            &ca.issue(name, servers_only),
            "as a client's",
        ),
        ("foreign CA", foreign.pem(), &good, "as a server's"),
        ("another's key", ca.pem(), &other_key, "TLS files"),
        ("no certificate", ca.pem(), &key_only, "no certificate"),
        ("no key", ca.pem(), &cert_only, "no private key"),
        ("no CA", "", &good, "no certificate"),
    ] {
        let error = Files::new(ca, issued).open(SAN).unwrap_err();
        assert!(matches!(error, LinkError::Config(_)), "{what}");
        assert!(error.to_string().contains(says), "{what}: {error}");
        assert!(!error.to_string().contains("PRIVATE"), "{what}: {error}");
    }
    let files = Files::new(ca.pem(), &good);
    assert!(files.open("*").is_err());
    assert!(files.open(SAN).unwrap().may_leave_loopback());
    assert!(!Credentials::None.may_leave_loopback());
    std::fs::remove_file(files.path().join("key")).unwrap();
    let error = files.open(SAN).unwrap_err().to_string();
    assert!(
        error.contains("the member's key") && error.contains("/key"),
        "{error}"
    );
}

#[tokio::test]
async fn changed_files_are_taken_over_and_broken_ones_are_not() {
    let (old, new) = (Ca::new(), Ca::new());
    let both = format!("{}{}", old.pem(), new.pem());
    let name = "a.members.test";
    let files = Files::new(old.pem(), &old.issue(name, Odd::default()));
    let credentials = files.open(SAN).unwrap();
    let server = Member::echo(credentials.clone(), ServerLimits::default()).await;
    let links = Links::new(member(&old, "b.members.test", SAN), LinksConfig::default());
    assert!(ask(&links, &server.address(), "").await.is_ok());

    assert_eq!(credentials.refresh(), Ok(false));
    files.write("cert", "nonsense");
    assert!(credentials.refresh().is_err());
    assert_eq!(credentials.refresh(), Ok(false), "said once");
    assert!(
        ask(&links, &server.address(), "").await.is_ok(),
        "the old ones stay"
    );
    assert_eq!(
        count(&server.counters.accepted),
        1,
        "the connection is kept"
    );

    // Those of the new CA are let in, then those of the old one are not any more.
    files.write("ca", &both);
    files.issue(&old.issue(name, Odd::default()));
    assert_eq!(credentials.refresh(), Ok(true));
    let newer = Files::new(&both, &new.issue("c.members.test", Odd::default()));
    let newer = links_of(&newer);
    assert!(ask(&newer, &server.address(), "").await.is_ok());
    files.write("ca", new.pem());
    files.issue(&new.issue(name, Odd::default()));
    assert_eq!(credentials.refresh(), Ok(true));
    // Kept connections are told to go, and no new ones come about.
    let counters = links.counters();
    until(|| count(&counters.open) == 0).await;
    let error = ask(&links, &server.address(), "").await.unwrap_err();
    assert!(matches!(error, LinkError::Tls { .. }), "{error}");
    assert!(ask(&newer, &server.address(), "").await.is_ok());
}

fn links_of(files: &Files) -> Links {
    links(&files.open(SAN).unwrap())
}
