//! [`Federation`]: one request to one server, signed, and its answer.

use super::{
    AnswerBody, BadConfig, Discovery, ErrorAnswer, FederationError, NetConfig, ReadBounds,
    Resolved, body::read_bounded, dial::Dialer, pool::Pool,
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT},
};
use http_body_util::Full;
use ruma_common::ServerName;
use std::{fmt, net::SocketAddr, sync::Arc};

/// The longest path with query that is sent.
const PATH_BYTES_MAX: usize = 16 << 10;

/// What signs requests as a homeserver.
///
/// A trait, for keys may be elsewhere than in a file: in a module of hardware, or with the homeserver.
pub trait Sign: Send + Sync + 'static {
    /// The homeserver.
    fn origin(&self) -> &ServerName;

    /// The `Authorization` header of a request.
    ///
    /// # Errors
    ///
    /// Why it cannot be signed: the content is no canonical JSON, say.
    fn authorization(&self, request: &ToSign<'_>) -> Result<HeaderValue, String>;
}

/// A request that is to be signed.
#[derive(Clone, Copy, Debug)]
pub struct ToSign<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path, with the query.
    pub uri: &'a str,
    /// Whom it is for.
    pub destination: &'a ServerName,
    /// Its JSON body, if it has one.
    pub content: Option<&'a [u8]>,
}

/// An answer that says yes: its head, and the body as it arrives.
#[derive(Debug)]
#[non_exhaustive]
pub struct Answer {
    /// Its status: 200, or another below 300.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, which has no bounds but those that its reader sets.
    pub body: AnswerBody,
    /// The address that it came from.
    pub peer: SocketAddr,
}

impl Answer {
    /// The body as a whole.
    ///
    /// # Errors
    ///
    /// [`FederationError::Body`] if it is too large, too slow, or breaks off.
    pub async fn read(self, bounds: ReadBounds) -> Result<Bytes, FederationError> {
        Ok(read_bounded(self.body, bounds).await?)
    }
}

/// Asks servers of the federation. Cheap to clone; clones share connections and what is remembered.
///
/// One call is one request: no redirect is followed and nothing is tried again (but on a kept connection
/// that the server had closed). So send only what merely reads. What is not
/// within its methods is the caller's: how long a body may be and take, and what to do about a failure.
///
/// ```no_run
/// use gannet_matrix::net::{Federation, NetConfig, ReadBounds};
/// use http::Method;
/// use ruma_common::server_name;
/// use std::time::Duration;
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let federation = Federation::new(NetConfig::default(), None)?;
/// let path = "/_matrix/federation/v1/version";
/// let answer = federation.send(server_name!("matrix.org"), Method::GET, path, None).await?;
/// let bounds = ReadBounds { bytes_max: 64 << 10, time_max: Duration::from_secs(10) };
/// println!("{:?}", answer.read(bounds).await?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Federation {
    inner: Arc<Inner>,
}

struct Inner {
    discovery: Discovery,
    pool: Arc<Pool>,
    sign: Option<Arc<dyn Sign>>,
}

impl fmt::Debug for Federation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Federation")
            .field("origin", &self.origin())
            .finish_non_exhaustive()
    }
}

/// Whether a path is among those that anybody may ask.
fn is_open(path: &str) -> bool {
    path.starts_with("/_matrix/key/") || path.starts_with("/_matrix/federation/v1/version")
}

impl Federation {
    /// Asks as the configuration says, and signs with this; without it only what is open to anybody can
    /// be asked: keys and versions.
    ///
    /// # Errors
    ///
    /// If one of the certificate authorities is none.
    pub fn new(config: NetConfig, sign: Option<Arc<dyn Sign>>) -> Result<Self, BadConfig> {
        let dialer = Dialer::new(&config)?;
        let inner = Inner {
            discovery: Discovery::over(&config, dialer.clone()),
            pool: Pool::new(&config, dialer),
            sign,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The homeserver as which requests are signed.
    pub fn origin(&self) -> Option<&ServerName> {
        self.inner.sign.as_ref().map(|sign| sign.origin())
    }

    /// How servers are found.
    pub fn discovery(&self) -> &Discovery {
        &self.inner.discovery
    }

    /// Connections that are kept and not in use.
    pub fn idle_connections(&self) -> usize {
        self.inner.pool.idle_count()
    }

    /// Sends one request, of a path with its query and maybe a JSON body, and resolves with the head of
    /// an answer that says yes. Requests other than for keys and versions are signed.
    ///
    /// # Cancellation
    ///
    /// Dropping the future, or the answer's body before its end, closes the connection.
    ///
    /// # Errors
    ///
    /// Everything else is an error: a server that cannot be found or reached, no head in time, and any
    /// status that is not a success, with what its body says.
    pub async fn send(
        &self,
        server: &ServerName,
        method: Method,
        path_and_query: &str,
        body: Option<Bytes>,
    ) -> Result<Answer, FederationError> {
        let request = self.request(server, method, path_and_query, body)?;
        let found = self.inner.discovery.resolve(server).await;
        let found = found.map_err(FederationError::Resolve)?;
        let sent = self
            .inner
            .pool
            .send(&found, with_host(request, &found)?)
            .await;
        let (answer, peer) = sent.map_err(|error| {
            let error = FederationError::from(error);
            if matches!(error, FederationError::Connect(_)) {
                self.inner.discovery.doubt(&found);
            }
            error
        })?;
        let (head, body) = answer.into_parts();
        match head.status.as_u16() {
            200..=299 => Ok(Answer {
                status: head.status,
                headers: head.headers,
                body,
                peer,
            }),
            300..=399 => Err(FederationError::redirected(head.status, &head.headers)),
            400..=599 => Err(ErrorAnswer::read(head.status, &head.headers, body)
                .await
                .into()),
            other => Err(FederationError::Malformed(format!("status {other}"))),
        }
    }

    /// The request, all but its `Host`.
    fn request(
        &self,
        server: &ServerName,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Request<Full<Bytes>>, FederationError> {
        let bad = |why: &str| FederationError::Request(why.to_owned());
        if !path.starts_with('/') || path.len() > PATH_BYTES_MAX {
            return Err(bad("its path is none, or too long"));
        }
        // Some parsers take more.
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad("its path has odd characters"));
        }
        let uri: Uri = path
            .parse()
            .map_err(|_| bad("its path has odd characters"))?;
        // What is signed must be what is sent.
        if uri
            .path_and_query()
            .is_none_or(|sent| sent.as_str() != path)
        {
            return Err(bad("its path would be sent otherwise"));
        }
        let authorization = if is_open(path) {
            None
        } else {
            let sign = self.inner.sign.as_ref();
            let sign = sign.ok_or(FederationError::NoSigningKey)?;
            let to_sign = ToSign {
                method: &method,
                uri: path,
                destination: server,
                content: body.as_deref(),
            };
            Some(
                sign.authorization(&to_sign)
                    .map_err(FederationError::Request)?,
            )
        };
        let mut request = Request::new(Full::new(body.clone().unwrap_or_default()));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(super::USER_AGENT_VALUE),
        );
        if body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization);
        }
        Ok(request)
    }
}

fn with_host(
    mut request: Request<Full<Bytes>>,
    found: &Resolved,
) -> Result<Request<Full<Bytes>>, FederationError> {
    let host = HeaderValue::from_str(&found.host);
    let host =
        host.map_err(|_| FederationError::Request(format!("{:?} is no host", found.host)))?;
    request.headers_mut().insert(HOST, host);
    Ok(request)
}
