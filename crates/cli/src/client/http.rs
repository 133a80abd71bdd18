//! GET over HTTP/1.1, with or without TLS, with a bound on every wait.

use crate::exit::{Error, Exit, Result};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as Hyper, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use std::{error::Error as _, fmt, time::Duration};
use tokio::time::timeout;

/// From the request to the first byte of the answer. Long: a cold object behind a slow origin is
/// what a cache is for.
const FIRST_BYTE_MAX: Duration = Duration::from_secs(60);

/// Between two pieces of a body.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Of an error's XML, what is read to explain it.
const EXPLANATION_MAX: usize = 16 << 10;

/// The longest that a server's Retry-After is obeyed for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// An HTTP client for one server's objects.
#[derive(Clone)]
pub struct Client {
    hyper: Hyper<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    authorization: Option<header::HeaderValue>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// Why there is no good answer.
#[derive(Debug)]
pub enum Refusal {
    /// Another try may help: no connection, 429, 5xx, silence.
    Passing {
        /// What happened.
        error: Error,
        /// When the server wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The object is another one by now (412), or shorter than what we have (416).
    Changed,
    /// Another try will not help.
    Final(Error),
}

impl Client {
    /// A client that trusts the system's certificates, and shows `token` to the server.
    pub fn new(token: Option<&str>) -> Result<Self> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(Duration::from_secs(10)));
        let https = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
            .map_err(|error| Error::from(error).context("cannot read the system's certificates"))?
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let authorization = token
            .map(|token| {
                header::HeaderValue::try_from(format!("Bearer {token}"))
                    .map(|mut value| {
                        value.set_sensitive(true);
                        value
                    })
                    .map_err(|_| Error::usage("the token has characters that no header can carry"))
            })
            .transpose()?;
        let hyper = Hyper::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build(https);
        Ok(Self {
            hyper,
            authorization,
        })
    }

    /// Sends a GET; resolves with the head of a 200 or a 206.
    pub async fn get(
        &self,
        url: &Uri,
        headers: HeaderMap,
    ) -> std::result::Result<Response<Incoming>, Refusal> {
        let mut request = Request::get(url.clone())
            .body(Empty::new())
            .map_err(|error| Refusal::Final(Error::usage(error)))?;
        *request.headers_mut() = headers;
        let agent = concat!("gannet/", env!("CARGO_PKG_VERSION"));
        request
            .headers_mut()
            .insert(header::USER_AGENT, header::HeaderValue::from_static(agent));
        if let Some(value) = &self.authorization {
            request
                .headers_mut()
                .insert(header::AUTHORIZATION, value.clone());
        }
        let passing = |error: Error| Refusal::Passing {
            error,
            retry_after: None,
        };
        let response = match timeout(FIRST_BYTE_MAX, self.hyper.request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                // hyper's own words ("client error (Connect)") tell a user nothing: its causes do.
                let cause = error
                    .source()
                    .map_or_else(|| Error::failure(&error), Error::failure);
                return Err(passing(cause.context(format!("cannot ask {}", host(url)))));
            }
            Err(_) => {
                let text = format!("{} did not answer within {FIRST_BYTE_MAX:?}", host(url));
                return Err(passing(Error::new(Exit::Failure, text)));
            }
        };
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            status => Err(refusal(status, response).await),
        }
    }
}

/// Reads the next piece of a body, waiting for it no longer than 30 seconds; none at the end.
pub async fn next_piece(body: &mut Incoming) -> Result<Option<Bytes>> {
    loop {
        match timeout(IDLE_MAX, body.frame()).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Ok(Some(Err(error))) => {
                return Err(Error::failure(&error).context("the answer broke off"));
            }
            Err(_) => {
                let text = format!("nothing came for {IDLE_MAX:?}");
                return Err(Error::new(Exit::Failure, text));
            }
        }
    }
}

/// Reads a URL as it is: no dot is resolved and nothing is re-encoded, as a key may hold anything.
pub fn parse_url(text: &str) -> Result<Uri> {
    let wrong = |why: &dyn fmt::Display| {
        Error::usage(format!("\"{}\" is no URL: {why}", text.escape_debug()))
            .remedy("http://127.0.0.1:9000/bucket/key, with %20 for a space")
    };
    let url: Uri = text.parse().map_err(|error| wrong(&error))?;
    match url.scheme_str() {
        Some("http" | "https") if url.host().is_some_and(|host| !host.is_empty()) => Ok(url),
        Some("http" | "https") => Err(wrong(&"it names no host")),
        _ => Err(wrong(&"only http:// and https:// can be asked")),
    }
}

/// The URL without its query, which may hold a signature.
pub fn without_query(url: &Uri) -> String {
    let mut text = url.to_string();
    text.truncate(text.find('?').unwrap_or(text.len()));
    text
}

fn host(url: &Uri) -> &str {
    url.authority()
        .map_or("the server", |authority| authority.as_str())
}

async fn refusal(status: StatusCode, response: Response<Incoming>) -> Refusal {
    let retry_after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    let location = response
        .headers()
        .get(header::LOCATION)
        .and_then(|value| Some(value.to_str().ok()?.to_owned()));
    let body = timeout(
        IDLE_MAX,
        Limited::new(response.into_body(), EXPLANATION_MAX).collect(),
    );
    let text = match body.await {
        Ok(Ok(body)) => explanation(&String::from_utf8_lossy(&body.to_bytes())),
        Ok(Err(_)) | Err(_) => None,
    };
    let text = match text {
        Some(text) => format!("the server said {status}: {text}"),
        None => format!("the server said {status}"),
    };
    match status {
        StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE => Refusal::Changed,
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            Refusal::Final(Error::new(Exit::NotFound, text))
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Refusal::Final(
            Error::new(Exit::Failure, text)
                .remedy("--token, GANNET_TOKEN, or a presigned URL (in quotes: it has & in it)"),
        ),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Refusal::Passing {
            error: Error::new(Exit::Failure, text),
            retry_after,
        },
        status if status.is_server_error() => Refusal::Passing {
            error: Error::new(Exit::Failure, text),
            retry_after,
        },
        status if status.is_redirection() => {
            let error = Error::new(Exit::Failure, text);
            Refusal::Final(match location {
                Some(location) => error.remedy(format!("that URL: {}", location.escape_debug())),
                None => error,
            })
        }
        _ => Refusal::Final(Error::new(Exit::Failure, text)),
    }
}

/// The `<Code>` and `<Message>` of an S3 error, made fit for a terminal.
fn explanation(xml: &str) -> Option<String> {
    let tag = |name: &str| {
        let (_, rest) = xml.split_once(&format!("<{name}>"))?;
        let (text, _) = rest.split_once(&format!("</{name}>"))?;
        let text: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
        (!text.is_empty()).then_some(text)
    };
    match (tag("Code"), tag("Message")) {
        (Some(code), Some(message)) => Some(format!("{code}: {message}")),
        (code, message) => code.or(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_as_they_are() {
        let check = |text: &str, want: Option<&str>| {
            let got = parse_url(text);
            assert_eq!(got.as_ref().ok().map(Uri::path), want, "{text}: {got:?}");
        };
        check("http://h/b/a/../c//d", Some("/b/a/../c//d"));
        check("https://h:1/b/a%2Fb?x=1", Some("/b/a%2Fb"));
        check("http://h/b/a b", None);
        check("s3://bucket/key", None);
        check("h/b/k", None);
        check("http:///b/k", None);
        check("", None);
    }

    #[test]
    fn errors_are_explained_in_the_servers_words() {
        let xml =
            "<?xml?><Error><Code>NoSuchKey</Code><Message>no\x1b[31m such key</Message></Error>";
        assert_eq!(
            explanation(xml).as_deref(),
            Some("NoSuchKey: no[31m such key")
        );
        assert_eq!(explanation("<html>"), None);
    }
}
