//! [`Client`]: one request, one answer, over HTTP/1.1 with or without TLS.

use super::connect::{Connector, Proven};
use crate::engine::Fault;
use bytes::Bytes;
use http::{Extensions, HeaderMap, Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client as Pool,
        connect::{HttpConnector, capture_connection},
    },
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig as TlsConfig, RootCertStore, crypto::ring, pki_types::CertificateDer};
use std::{borrow::Cow, error::Error, fmt, io, sync::Arc, time::Duration};

/// How a [`Client`] connects.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientConfig {
    /// From the start to a TCP connection, over all addresses of the host \[5 s\].
    pub connect_timeout: Duration,
    /// From the start of a request to the head of its answer, connecting and the TLS handshake
    /// included \[60 s\]. The body has no timeout here: the engine's plans have.
    pub head_timeout: Duration,
    /// Idle connections kept for each host \[64\].
    pub idle_per_host_max: usize,
    /// How long an idle connection is kept \[55 s\]: a little less than most servers keep theirs.
    pub idle_timeout: Duration,
    /// The largest head of an answer \[64 KiB\]. As much of one is read as the buffer holds, for the pool
    /// knows no other bound, and then refused.
    pub head_bytes_max: usize,
    /// The read buffer of a connection \[512 KiB\].
    pub buffer_bytes_max: usize,
    /// Certificate authorities in DER to trust beside the system's.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// Whether the system's certificate authorities are trusted \[yes\].
    pub system_roots: bool,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            head_timeout: Duration::from_secs(60),
            idle_per_host_max: 64,
            idle_timeout: Duration::from_secs(55),
            head_bytes_max: 64 << 10,
            buffer_bytes_max: 512 << 10,
            extra_roots: Vec::new(),
            system_roots: true,
        }
    }
}

impl ClientConfig {
    /// Trusts the certificate authorities in this PEM text too.
    ///
    /// # Errors
    ///
    /// If the text holds no certificate, or a broken one.
    pub fn add_roots_pem(&mut self, pem: &[u8]) -> Result<(), ConfigError> {
        use rustls::pki_types::pem::PemObject;
        let roots = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| ConfigError(format!("not PEM: {error}")))?;
        if roots.is_empty() {
            return Err(ConfigError("no certificate in the PEM text".to_owned()));
        }
        self.extra_roots.extend(roots);
        Ok(())
    }
}

/// A configuration that no client can work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("HTTP client: {0}")]
pub struct ConfigError(String);

/// A kept connection may turn out to be closed so often in the course of one request.
const STALE_MAX: u32 = 3;

/// An HTTP/1.1 client with a pool of connections. Cheap to clone; clones share the pool.
///
/// It sends what it is given and gives what it gets: it follows no redirect and decompresses nothing.
/// A server may close a kept connection while a request is on its way to it: a GET or HEAD that gets
/// no byte of an answer on a connection that had brought one before goes out again at once, on
/// another. Apart from that no request is repeated that may have reached the server.
///
/// ```no_run
/// use gannet::http::{Client, ClientConfig};
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new(ClientConfig::default())?;
/// let request = http::Request::get("https://example.org/").body(Default::default())?;
/// println!("{}", client.send(request).await?.status());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    pool: Pool<Connector<HttpsConnector<HttpConnector>>, Full<Bytes>>,
    head_timeout: Duration,
    head_bytes_max: usize,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// A client; reads the system's certificate authorities if asked to.
    ///
    /// # Errors
    ///
    /// If an extra root is no certificate. A system without roots is no error as long as nobody speaks
    /// TLS: each handshake will fail.
    pub fn new(config: ClientConfig) -> Result<Self, ConfigError> {
        let mut roots = RootCertStore::empty();
        if config.system_roots {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                tracing::debug!(%error, "a system root could not be read");
            }
            roots.add_parsable_certificates(found.certs);
        }
        for root in config.extra_roots {
            roots
                .add(root)
                .map_err(|error| ConfigError(format!("not a certificate authority: {error}")))?;
        }
        let tls = TlsConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| ConfigError(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(config.connect_timeout));
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(config.idle_timeout)
            .pool_max_idle_per_host(config.idle_per_host_max)
            .http1_max_buf_size(config.buffer_bytes_max.max(config.head_bytes_max))
            .build(Connector(connector));
        Ok(Self {
            pool,
            head_timeout: config.head_timeout,
            head_bytes_max: config.head_bytes_max,
        })
    }

    /// Sends one request and resolves with the head of its answer; any status is an answer.
    ///
    /// # Cancellation
    ///
    /// Dropping the future, or the answer's body before its end, closes the connection.
    ///
    /// # Errors
    ///
    /// If there is no connection, no head in time, or what comes is not HTTP.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, HttpError> {
        if request.uri().scheme().is_none() || request.uri().authority().is_none() {
            return Err(HttpError {
                kind: HttpErrorKind::Request,
                detail: "the address has no scheme or no host".into(),
            });
        }
        match tokio::time::timeout(self.head_timeout, self.answer(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(HttpError {
                kind: HttpErrorKind::TimedOut,
                detail: format!("no answer within {:?}", self.head_timeout).into(),
            }),
        }
    }

    /// The answer, on whichever connection.
    async fn answer(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, HttpError> {
        let repeatable = matches!(*request.method(), Method::GET | Method::HEAD);
        let mut stale = 0;
        loop {
            let again = (repeatable && stale < STALE_MAX).then(|| request.clone());
            let connection = capture_connection(&mut request);
            let error = match self.pool.request(request).await {
                Ok(answer) => {
                    if let Some(proven) = answer.extensions().get::<Proven>() {
                        proven.set();
                    }
                    if head_bytes(answer.headers()) > self.head_bytes_max {
                        return Err(HttpError {
                            kind: HttpErrorKind::Malformed,
                            detail: "the head of the answer is too large".into(),
                        });
                    }
                    return Ok(answer);
                }
                Err(error) => HttpError::from_error(&error, error.is_connect()),
            };
            let kept = || {
                let mut extras = Extensions::new();
                if let Some(connected) = &*connection.connection_metadata() {
                    connected.get_extras(&mut extras);
                }
                extras.get::<Proven>().is_some_and(Proven::get)
            };
            match again {
                Some(again) if error.kind == HttpErrorKind::Broken && kept() => {
                    tracing::debug!(%error, "a kept connection was closed: asking on another");
                    request = again;
                    stale += 1;
                }
                _ => return Err(error),
            }
        }
    }
}

/// What headers take on the wire, as they are usually written.
fn head_bytes(headers: &HeaderMap) -> usize {
    const AROUND: usize = ": \r\n".len();
    let each = headers.iter();
    each.map(|(name, value)| name.as_str().len() + value.len() + AROUND)
        .sum()
}

/// Why a request got no answer, or its body broke off.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct HttpError {
    /// What kind of failure it is.
    pub kind: HttpErrorKind,
    /// What happened, in words, without secrets.
    pub detail: Cow<'static, str>,
}

/// The kinds of [`HttpError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HttpErrorKind {
    /// Nobody listens there.
    Refused,
    /// The host's name or address leads nowhere.
    Unreachable,
    /// The TLS handshake failed: an untrusted certificate, say.
    Tls,
    /// No connection or no head in time.
    TimedOut,
    /// The connection broke.
    Broken,
    /// What came is not HTTP, or its head is too large.
    Malformed,
    /// Our own request is at fault: no host in the address, say.
    Request,
}

impl HttpError {
    /// What a hyper error (of a request, or of a body) means.
    pub fn from_error(error: &(dyn Error + 'static), connecting: bool) -> Self {
        let mut kind = if connecting {
            HttpErrorKind::Unreachable
        } else {
            HttpErrorKind::Broken
        };
        let mut detail = String::new();
        let mut next = Some(error);
        while let Some(cause) = next {
            if detail.len() < 512 {
                let text = cause.to_string();
                if !detail.ends_with(&text) {
                    if !detail.is_empty() {
                        detail.push_str(": ");
                    }
                    detail.push_str(&text);
                }
            }
            if let Some(hyper) = cause.downcast_ref::<hyper::Error>() {
                if hyper.is_parse() {
                    kind = HttpErrorKind::Malformed;
                } else if hyper.is_user() {
                    kind = HttpErrorKind::Request;
                } else if hyper.is_timeout() {
                    kind = HttpErrorKind::TimedOut;
                }
            }
            if cause.is::<rustls::Error>() {
                kind = HttpErrorKind::Tls;
            }
            let mut inner = None;
            if let Some(io) = cause.downcast_ref::<io::Error>() {
                match io.kind() {
                    io::ErrorKind::ConnectionRefused => kind = HttpErrorKind::Refused,
                    io::ErrorKind::TimedOut => kind = HttpErrorKind::TimedOut,
                    _ => {}
                }
                // `io::Error` hides what it wraps from `source`.
                inner = io
                    .get_ref()
                    .map(|wrapped| wrapped as &(dyn Error + 'static));
            }
            next = inner.or_else(|| cause.source());
        }
        Self {
            kind,
            detail: detail.into(),
        }
    }

    /// What it means to the engine.
    pub const fn fault(&self) -> Fault {
        match self.kind {
            HttpErrorKind::Refused | HttpErrorKind::Tls => Fault::Refused,
            HttpErrorKind::Unreachable => Fault::Unreachable,
            HttpErrorKind::TimedOut => Fault::TimedOut,
            HttpErrorKind::Broken => Fault::Truncated,
            HttpErrorKind::Malformed => Fault::Malformed,
            HttpErrorKind::Request => Fault::Local,
        }
    }
}
