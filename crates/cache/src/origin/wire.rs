//! Requests to origins over HTTP, and the checks that every answer passes: status, length, range,
//! bounds. What is common to S3, Azure, GCS and plain web servers.

use super::{OriginError, OriginStream, validators, xml};
use crate::{
    askers::Asker,
    traces::{Kind, Span},
};
use bytes::Bytes;
use gannet::http::{Client, HttpError, HttpErrorKind};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use std::{
    fmt,
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime},
};
use url::Url;

/// Names the request of ours that an origin is asked for, so that its logs can be joined with ours.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-gannet-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

tokio::task_local! {
    static ON_BEHALF_OF: Option<Asker>;
}

/// Asks origins on behalf of this request: all that `asking` sends says so.
pub(crate) async fn on_behalf_of<T>(asker: Option<Asker>, asking: impl Future<Output = T>) -> T {
    ON_BEHALF_OF.scope(asker, asking).await
}

/// What we call ourselves.
pub(crate) const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("gannet/", env!("CARGO_PKG_VERSION")));
/// The largest answer that is read as a whole: a page of 1,000 long keys, escaped, with room.
pub(crate) const ANSWER_BYTES_MAX: usize = 16 << 20;
/// The largest error answer that is looked at.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// How long an answer that is read as a whole may take after its head.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// How much of a whole object is read and thrown away to reach a range, where a server ignores
/// Range.
pub(crate) const SKIP_BYTES_MAX: u64 = 32 << 20;

/// Where a service answers: scheme, host and port, and a path below which everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) scheme: String,
    /// Host and port, as the Host header has them.
    pub(crate) authority: String,
    /// Percent-encoded; empty, or begins with a slash and does not end in one.
    pub(crate) path: String,
}

impl Base {
    pub(crate) fn of(url: &Url) -> Self {
        let host = url.host_str().unwrap_or_default();
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let path = url.path().trim_end_matches('/').to_owned();
        Self {
            scheme: url.scheme().to_owned(),
            authority,
            path,
        }
    }

    /// Whether what is sent there stays on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = match self.authority.strip_prefix('[') {
            Some(rest) => rest.split(']').next(),
            None => self.authority.split(':').next(),
        };
        host.is_some_and(|host| {
            host == "localhost"
                || host
                    .parse()
                    .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
        })
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.scheme == "https"
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.path)
    }
}

/// The head of an answer, and its body to come.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    /// Ends with the body.
    span: Span,
}

/// Sends one request without a body.
pub(crate) async fn send(
    client: &Client,
    method: Method,
    uri: &str,
    headers: HeaderMap,
) -> Result<Answer, OriginError> {
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.uri_mut() = uri
        .parse()
        .map_err(|error| OriginError::Invalid(format!("no request can name it: {error}").into()))?;
    *request.method_mut() = method;
    *request.headers_mut() = headers;
    request.headers_mut().insert(header::USER_AGENT, USER_AGENT);
    let asker = ON_BEHALF_OF.try_with(Option::clone).ok().flatten();
    if let Some(id) = asker
        .as_ref()
        .and_then(|asker| header_value(&asker.request).ok())
    {
        request.headers_mut().insert(REQUEST_ID, id);
    }
    let mut span = begin(asker.as_ref(), &request);
    // Beside what is signed, like the id: a signature says which headers it covers.
    if let Some(context) = span.parent().remote()
        && let Ok(value) = header_value(&context.to_string())
    {
        request.headers_mut().insert(TRACEPARENT, value);
    }
    let range = request.headers().get(header::RANGE).cloned();
    let response = client
        .send(request)
        .await
        .map_err(|error| no_answer(&error));
    let response = response.inspect_err(|error| span.failed(error))?;
    if response.status().as_u16() >= 400 {
        span.fail(&response.status());
    }
    span.set(
        "http.response.status_code",
        u64::from(response.status().as_u16()),
    );
    let (parts, body) = response.into_parts();
    // Without the query, which may hold a signature.
    tracing::debug!(
        request = asker.as_ref().map_or("-", |asker| &asker.request),
        url = uri.split('?').next(),
        status = parts.status.as_u16(),
        range = range.as_ref().and_then(|range| range.to_str().ok()),
        "asked the origin"
    );
    Ok(Answer {
        status: parts.status,
        headers: parts.headers,
        body,
        span,
    })
}

/// The span of a request to an origin, if that is traced.
fn begin(asker: Option<&Asker>, request: &Request<Full<Bytes>>) -> Span {
    let Some(asker) = asker.filter(|asker| asker.trace.is_on()) else {
        return Span::default();
    };
    let (method, uri) = (request.method(), request.uri());
    let mut span = asker.trace.child(Kind::Client, "origin");
    span.name(|| method.to_string().into());
    span.set("http.request.method", method.as_str());
    span.set("server.address", uri.host().unwrap_or_default());
    if let Some(port) = uri.port_u16() {
        span.set("server.port", u64::from(port));
    }
    // Without the query, which may hold a signature.
    span.set("url.path", uri.path());
    if let Some(range) = request.headers().get(header::RANGE) {
        span.set("gannet.range", range.to_str().unwrap_or_default());
    }
    span
}

fn no_answer(error: &HttpError) -> OriginError {
    let detail: Arc<str> = error.detail.as_ref().into();
    match error.kind {
        HttpErrorKind::Refused | HttpErrorKind::Unreachable | HttpErrorKind::Tls => {
            OriginError::Connect(detail)
        }
        HttpErrorKind::TimedOut => OriginError::Server(detail),
        HttpErrorKind::Malformed => OriginError::Malformed(detail),
        HttpErrorKind::Request => OriginError::Local(detail),
        _ => OriginError::Truncated(detail),
    }
}

fn broken(error: &hyper::Error) -> OriginError {
    match HttpError::from_error(error, false) {
        HttpError {
            kind: HttpErrorKind::Malformed,
            detail,
        } => OriginError::Malformed(detail.as_ref().into()),
        HttpError { detail, .. } => OriginError::Truncated(detail.as_ref().into()),
    }
}

impl Answer {
    /// The whole body, if it is no longer than `max`.
    pub(crate) async fn collect(self, max: usize) -> Result<Bytes, OriginError> {
        let all = http_body_util::Limited::new(self.body, max).collect();
        match tokio::time::timeout(ANSWER_TIME_MAX, all).await {
            Ok(Ok(all)) => Ok(all.to_bytes()),
            Ok(Err(error)) => match error.downcast_ref::<hyper::Error>() {
                Some(error) => Err(broken(error)),
                None => Err(OriginError::Malformed(
                    format!("an answer of more than {max} bytes").into(),
                )),
            },
            Err(_) => Err(OriginError::Server("the answer took too long".into())),
        }
    }

    /// What `read` makes of the whole body, where the answer is a success.
    pub(crate) async fn read<T, E: fmt::Display>(
        self,
        about: About,
        read: impl FnOnce(&[u8]) -> Result<T, E>,
    ) -> Result<T, OriginError> {
        if self.status != StatusCode::OK {
            return Err(self.into_error(about).await);
        }
        let body = self.collect(ANSWER_BYTES_MAX).await?;
        read(&body).map_err(|error| OriginError::Malformed(error.to_string().into()))
    }

    /// The error that the answer reports. Reads its body, for the code in it.
    pub(crate) async fn into_error(self, about: About) -> OriginError {
        let (status, headers) = (self.status, self.headers.clone());
        let body = match self.collect(ERROR_BYTES_MAX).await {
            Ok(bytes) => xml::error_body(&bytes),
            Err(_) => xml::ErrorBody::default(),
        };
        classify(status, &headers, &body, about)
    }
}

/// What a request was about, for answers that say only "not found".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    Object,
    Bucket,
    Service,
}

/// What an answer that is no success means. The code decides where there is one, else the status.
pub(crate) fn classify(
    status: StatusCode,
    headers: &HeaderMap,
    body: &xml::ErrorBody,
    about: About,
) -> OriginError {
    let code = match headers
        .get("x-ms-error-code")
        .and_then(|code| code.to_str().ok())
    {
        Some(code) => code,
        None => body.code.as_str(),
    };
    let detail = || -> Arc<str> {
        match (code, body.message.as_str()) {
            ("", "") => status.to_string().into(),
            ("", message) => format!("{status}: {message}").into(),
            (code, "") => format!("{status}: {code}").into(),
            (code, message) => format!("{status}: {code}: {message}").into(),
        }
    };
    let throttled = || OriginError::Throttled {
        retry_after: validators::retry_after(headers, SystemTime::now()),
    };
    match code {
        "NoSuchKey" | "BlobNotFound" => return OriginError::NoSuchKey,
        "NoSuchBucket" | "ContainerNotFound" | "ContainerBeingDeleted" => {
            return OriginError::NoSuchBucket;
        }
        "SlowDown" | "ServerBusy" | "RequestLimitExceeded" | "Throttling" => return throttled(),
        // S3 says these with a 400.
        "RequestTimeout" => return OriginError::Server(detail()),
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => {
            return OriginError::Denied(detail());
        }
        "InvalidObjectState" | "BlobArchived" | "BlobBeingRehydrated" => {
            return OriginError::Unsupported("archived: restore it at the origin first".into());
        }
        _ => {}
    }
    match status.as_u16() {
        404 | 410 => match about {
            About::Object => OriginError::NoSuchKey,
            About::Bucket => OriginError::NoSuchBucket,
            About::Service => OriginError::Invalid(detail()),
        },
        401 | 403 | 407 | 451 => OriginError::Denied(detail()),
        // A range within the size of the version asked for, and yet there is none: another version.
        412 | 416 => OriginError::Changed,
        429 | 503 => throttled(),
        408 | 500..=599 => OriginError::Server(detail()),
        304 => OriginError::Malformed("304 without a condition that asks for it".into()),
        300..=399 => OriginError::Unsupported(redirected(status, headers).into()),
        400..=499 => OriginError::Invalid(detail()),
        _ => OriginError::Malformed(detail()),
    }
}

/// A redirect in words: where to, without the query, which may be a signature.
fn redirected(status: StatusCode, headers: &HeaderMap) -> String {
    let to = validators::sole(headers, &header::LOCATION).unwrap_or("nowhere");
    let to = to.split(['?', '#']).next().unwrap_or(to);
    let to: String = to.chars().take(200).collect();
    format!(
        "{status}: the origin redirects to {to}; redirects elsewhere are not followed: name that place as the origin"
    )
}

/// The bytes of a read, checked: exactly `want` arrives, or an error comes last.
///
/// `size` is what the whole is known to have: a server that says otherwise has another version, though
/// it may call it by the same etag.
///
/// A server that ignores Range (200) is read up to the end of the range, and cut; what lies before
/// it is thrown away, up to `skip_max`.
pub(crate) fn ranged(
    answer: Answer,
    size: Option<u64>,
    want: &Range<u64>,
    skip_max: u64,
) -> Result<OriginStream, OriginError> {
    let length = validators::content_length(&answer.headers);
    let wanted = want.end - want.start;
    let malformed = |what: String| Err(OriginError::Malformed(what.into()));
    let is_another = |says: Option<u64>| says.is_some_and(|says| size.is_some_and(|is| is != says));
    let skip = match answer.status {
        StatusCode::PARTIAL_CONTENT => {
            let Some(content) = validators::content_range(&answer.headers) else {
                return malformed("206 without a Content-Range of one range".to_owned());
            };
            if is_another(content.size) {
                return Err(OriginError::Changed);
            }
            if content.range.as_ref() != Some(want) {
                return malformed(format!("asked for bytes {want:?}, got {:?}", content.range));
            }
            if length.is_some_and(|length| length != wanted) {
                return malformed(format!(
                    "{wanted} bytes asked for, a length of {length:?} announced"
                ));
            }
            0
        }
        StatusCode::OK => {
            let encoded = answer.headers.contains_key(header::CONTENT_ENCODING);
            // Without a length, nothing tells the bytes asked for from a compressed form of them.
            if encoded && (length.is_none() || is_another(length)) {
                return malformed("compressed on the way, though it was not asked for".to_owned());
            }
            if is_another(length) {
                return Err(OriginError::Changed);
            }
            if length.is_some_and(|length| length < want.end) {
                return malformed(format!(
                    "bytes {want:?} asked for, the whole has {length:?}"
                ));
            }
            if want.start > skip_max {
                return Err(OriginError::Unsupported(
                    "the server ignores Range, and the object is too long to be read from its \
                     beginning for each part"
                        .into(),
                ));
            }
            want.start
        }
        status => return malformed(format!("{status} for a read")),
    };
    // Where the length is announced, the client holds the server to it; else the end must be seen.
    let see_end = answer.status == StatusCode::PARTIAL_CONTENT && length.is_none();
    let reading = Reading {
        body: answer.body,
        skip,
        left: wanted,
        see_end,
        span: answer.span,
    };
    Ok(Box::pin(futures_util::stream::try_unfold(
        reading,
        Reading::next,
    )))
}

struct Reading {
    body: Incoming,
    skip: u64,
    left: u64,
    see_end: bool,
    span: Span,
}

impl Reading {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, OriginError> {
        loop {
            if self.left == 0 && !self.see_end {
                return Ok(None);
            }
            let Some(frame) = self.body.frame().await else {
                return match self.left {
                    0 => Ok(None),
                    left => {
                        let error =
                            OriginError::Truncated(format!("{left} bytes are missing").into());
                        self.span.failed(&error);
                        Err(error)
                    }
                };
            };
            let frame = frame.map_err(|error| {
                let error = broken(&error);
                self.span.failed(&error);
                error
            })?;
            let Ok(mut bytes) = frame.into_data() else {
                continue;
            };
            if self.skip > 0 {
                let skipped = usize::try_from(self.skip)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                bytes = bytes.split_off(skipped);
                self.skip -= skipped as u64;
            }
            if bytes.is_empty() {
                continue;
            }
            if bytes.len() as u64 > self.left {
                if self.see_end {
                    return Err(OriginError::Malformed("more bytes than asked for".into()));
                }
                bytes.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
            }
            self.left -= bytes.len() as u64;
            return Ok(Some((bytes, self)));
        }
    }
}

/// Checks that the answer to a read is of the version asked for.
pub(crate) fn same_version(headers: &HeaderMap, etag: &str) -> Result<(), OriginError> {
    match validators::strong_etag(headers) {
        Some(found) if *found == *etag => Ok(()),
        Some(_) => Err(OriginError::Changed),
        None => Err(OriginError::MissingEtag),
    }
}

/// The headers of a read: Range and If-Match.
pub(crate) fn read_headers(etag: &str, range: &Range<u64>) -> Result<HeaderMap, OriginError> {
    if range.is_empty() {
        return Err(OriginError::Invalid("an empty range is never read".into()));
    }
    let mut headers = HeaderMap::new();
    headers.insert(header::RANGE, validators::range_header(range));
    headers.insert(header::IF_MATCH, header_value(etag)?);
    Ok(headers)
}

/// A header's value, from text that an origin or an operator gave.
pub(crate) fn header_value(text: &str) -> Result<HeaderValue, OriginError> {
    HeaderValue::from_str(text).map_err(|_| OriginError::Invalid("not a header's value".into()))
}

/// A short way to a header map.
pub(crate) fn with(name: HeaderName, value: HeaderValue) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(name, value);
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: &str) -> xml::ErrorBody {
        xml::ErrorBody {
            code: code.into(),
            ..xml::ErrorBody::default()
        }
    }

    #[test]
    fn what_answers_mean() {
        use About::{Bucket, Object, Service};
        for (status, code, about, want) in [
            (404, "", Object, "no such key"),
            (404, "", Bucket, "no such bucket"),
            (404, "NoSuchBucket", Object, "no such bucket"),
            (404, "ContainerNotFound", Object, "no such bucket"),
            (404, "", Service, "invalid: 404 Not Found"),
            (
                403,
                "AccessDenied",
                Object,
                "access denied: 403 Forbidden: AccessDenied",
            ),
            (401, "", Object, "access denied: 401 Unauthorized"),
            (
                403,
                "InvalidObjectState",
                Object,
                "unsupported: archived: restore it at the origin first",
            ),
            (412, "PreconditionFailed", Object, "the object changed"),
            (416, "InvalidRange", Object, "the object changed"),
            (429, "", Object, "throttled"),
            (503, "SlowDown", Object, "throttled"),
            (500, "ServerBusy", Object, "throttled"),
            (
                500,
                "InternalError",
                Object,
                "the origin failed: 500 Internal Server Error: InternalError",
            ),
            (408, "", Object, "the origin failed: 408 Request Timeout"),
            (
                400,
                "ExpiredToken",
                Object,
                "access denied: 400 Bad Request: ExpiredToken",
            ),
            (
                400,
                "RequestTimeout",
                Object,
                "the origin failed: 400 Bad Request: RequestTimeout",
            ),
            (
                400,
                "BadThing",
                Object,
                "invalid: 400 Bad Request: BadThing",
            ),
            (204, "", Object, "malformed answer: 204 No Content"),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let found = classify(status, &HeaderMap::new(), &error(code), about);
            assert_eq!(found.to_string(), want, "{status} {code}");
        }
    }

    #[test]
    fn azure_says_it_in_a_header() {
        let headers = with(
            HeaderName::from_static("x-ms-error-code"),
            HeaderValue::from_static("ContainerNotFound"),
        );
        let found = classify(StatusCode::NOT_FOUND, &headers, &error(""), About::Object);
        assert!(matches!(found, OriginError::NoSuchBucket));
    }

    #[test]
    fn a_redirect_is_named_without_its_signature() {
        let headers = with(
            header::LOCATION,
            HeaderValue::from_static("https://cdn.example/x?sig=secret"),
        );
        let found = classify(StatusCode::FOUND, &headers, &error(""), About::Object).to_string();
        assert!(
            found.contains("https://cdn.example/x;") && !found.contains("secret"),
            "{found}"
        );
    }

    #[test]
    fn loopback() {
        for (url, yes) in [
            ("http://127.0.0.1:1", true),
            ("http://127.8.9.1", true),
            ("http://localhost", true),
            ("http://[::1]:1", true),
            ("http://localhost.evil.example", false),
            ("http://127.0.0.1.evil.example", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(
                Base::of(&Url::parse(url).unwrap()).is_loopback(),
                yes,
                "{url}"
            );
        }
    }

    #[test]
    fn bases() {
        for (url, base) in [
            ("http://h", ("h", "")),
            ("http://h:80/", ("h", "")),
            ("http://h:81/a/b/", ("h:81", "/a/b")),
            ("https://[::1]:9000", ("[::1]:9000", "")),
        ] {
            let found = Base::of(&Url::parse(url).unwrap());
            assert_eq!(
                (found.authority.as_str(), found.path.as_str()),
                base,
                "{url}"
            );
        }
    }
}
