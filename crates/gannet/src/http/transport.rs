//! [`HttpTransport`]: a key is a path under each source's base address.

use super::{Client, HttpError, end_of_status};
use crate::{
    Answer, AttemptError, Request, Transport,
    engine::{End, Fault, Key, SourceId},
};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode, Uri,
    header::{
        ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_MATCH, IF_RANGE, LAST_MODIFIED,
        RANGE,
    },
};
use http_body_util::{BodyStream, Full};
use hyper::body::Incoming;
use std::{
    collections::HashMap,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, PoisonError, RwLock},
};

/// Fetches keys with GET from HTTP sources: each has a base address, under which a key is a path.
///
/// A body that broke off is continued with a range request that names the version: `If-Match` where
/// the etag is strong, `If-Range` where there is only a modification time. The version (etag, else
/// modification time and length) is the identity of an answer; one that has neither can be continued
/// by nobody. Nothing is decompressed, and no encoding is asked for.
///
/// ```no_run
/// use gannet::{Fetcher, engine::{GroupId, SourceId}, http::{Client, ClientConfig, HttpTransport}};
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new(ClientConfig::default())?;
/// let transport = HttpTransport::new(client, |name: &String| format!("/{name}"));
/// transport.add(SourceId(1), "https://example.org/files".parse()?);
/// let fetcher = Fetcher::builder(transport).build()?;
/// fetcher.add_source(SourceId(1), GroupId(1));
/// let fetched = fetcher.fetch("README.md".to_owned()).await?;
/// # Ok(())
/// # }
/// ```
pub struct HttpTransport<K> {
    client: Client,
    path: Arc<dyn Fn(&K) -> String + Send + Sync>,
    /// Shared by clones, so that sources can be added after the transport has gone to a fetcher.
    bases: Arc<RwLock<HashMap<SourceId, Uri>>>,
}

impl<K> Clone for HttpTransport<K> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            path: self.path.clone(),
            bases: self.bases.clone(),
        }
    }
}

impl<K> fmt::Debug for HttpTransport<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTransport").finish_non_exhaustive()
    }
}

/// What comes before the bytes.
#[derive(Clone, Debug)]
pub struct HttpMeta {
    /// The headers of the first answer.
    pub headers: Arc<HeaderMap>,
}

impl<K> HttpTransport<K> {
    /// A transport without sources. `path` gives the path of a key, percent-encoded, and beginning
    /// with a slash; a query may follow.
    pub fn new(client: Client, path: impl Fn(&K) -> String + Send + Sync + 'static) -> Self {
        Self {
            client,
            path: Arc::new(path),
            bases: Arc::default(),
        }
    }

    /// Where a source is: scheme, host, and what comes before each path. Replaces an earlier one.
    pub fn add(&self, source: SourceId, base: Uri) {
        let mut bases = self.bases.write().unwrap_or_else(PoisonError::into_inner);
        bases.insert(source, base);
    }

    /// Forgets where a source is.
    pub fn remove(&self, source: SourceId) {
        let mut bases = self.bases.write().unwrap_or_else(PoisonError::into_inner);
        bases.remove(&source);
    }

    fn uri(&self, source: SourceId, key: &K) -> Result<Uri, AttemptError> {
        let local = |detail: &'static str| AttemptError::failed(Fault::Local, detail);
        let bases = self.bases.read().unwrap_or_else(PoisonError::into_inner);
        let base = bases
            .get(&source)
            .ok_or_else(|| local("the source has no address"))?;
        let path = (self.path)(key);
        if !path.starts_with('/') {
            return Err(local("the path of a key begins with a slash"));
        }
        let path = format!("{}{path}", base.path().trim_end_matches('/'));
        let mut parts = base.clone().into_parts();
        parts.path_and_query = Some(path.parse().map_err(|_| local("the key makes no path"))?);
        Uri::from_parts(parts).map_err(|_| local("the source's address is not absolute"))
    }
}

impl<K: Key + Send + Sync + 'static> Transport for HttpTransport<K> {
    type Key = K;
    type Meta = HttpMeta;

    async fn open(&self, request: Request<K, HttpMeta>) -> Result<Answer<HttpMeta>, AttemptError> {
        let uri = self.uri(request.source, &request.key)?;
        let mut asked = http::Request::new(Full::<Bytes>::default());
        *asked.method_mut() = Method::GET;
        *asked.uri_mut() = uri;
        let headers = asked.headers_mut();
        // Bytes are offsets here: a source must not encode them on its own.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let from_byte = ask_for_rest(headers, request.from_byte, request.continues.as_ref());
        let answer = self
            .client
            .send(asked)
            .await
            .map_err(|error| failed(&error))?;
        let status = answer.status();
        if let Some(end) = end_of_status(status, answer.headers()) {
            let detail = format!("HTTP status {status}").into();
            return Err(AttemptError { end, detail });
        }
        let (from_byte, total) = extent(&answer, from_byte)?;
        let headers = Arc::new(answer.headers().clone());
        let identity = identity(&headers, total).unwrap_or(request.attempt.0);
        let body = BodyStream::new(answer.into_body()).filter_map(|frame| {
            std::future::ready(match frame {
                Ok(frame) => frame.into_data().ok().map(Ok), // Trailers are not ours.
                Err(error) => Some(Err(failed(&HttpError::from_error(&error, false)))),
            })
        });
        Ok(Answer {
            meta: HttpMeta { headers },
            identity,
            total,
            from_byte,
            body: Box::pin(body),
        })
    }
}

fn failed(error: &HttpError) -> AttemptError {
    AttemptError::failed(error.fault(), error.detail.clone())
}

/// Asks for the rest of a version, if it can be named; answers with the first byte asked for.
fn ask_for_rest(headers: &mut HeaderMap, from_byte: u64, continues: Option<&HttpMeta>) -> u64 {
    let Some(meta) = continues.filter(|_| from_byte > 0) else {
        return 0;
    };
    if let Some(etag) = strong_etag(&meta.headers) {
        headers.insert(IF_MATCH, etag.clone());
    } else if let Some(modified) = meta.headers.get(LAST_MODIFIED) {
        headers.insert(IF_RANGE, modified.clone());
    } else {
        return 0;
    }
    if let Ok(range) = HeaderValue::try_from(format!("bytes={from_byte}-")) {
        headers.insert(RANGE, range);
    }
    from_byte
}

fn strong_etag(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers
        .get(ETAG)
        .filter(|etag| !etag.as_bytes().starts_with(b"W/"))
}

/// The version of an answer, as far as it is told.
fn identity(headers: &HeaderMap, total: Option<u64>) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    if let Some(etag) = strong_etag(headers) {
        (0_u8, etag.as_bytes()).hash(&mut hasher);
    } else {
        (1_u8, headers.get(LAST_MODIFIED)?.as_bytes(), total).hash(&mut hasher);
    }
    Some(hasher.finish())
}

/// Where the body begins, and how many bytes the whole has.
fn extent(answer: &Response<Incoming>, asked: u64) -> Result<(u64, Option<u64>), AttemptError> {
    let headers = answer.headers();
    if answer.status() == StatusCode::OK {
        let length = headers.get(CONTENT_LENGTH);
        return Ok((
            0,
            length.and_then(|length| length.to_str().ok()?.parse().ok()),
        ));
    }
    let malformed = |detail: &'static str| AttemptError {
        end: End::Failed(Fault::Malformed),
        detail: detail.into(),
    };
    let range = headers
        .get(CONTENT_RANGE)
        .and_then(|range| range.to_str().ok());
    let (first, last, total) = range
        .and_then(parse_content_range)
        .ok_or_else(|| malformed("no usable Content-Range"))?;
    if first != asked || asked == 0 {
        return Err(malformed("another range than the one asked for"));
    }
    if total.is_some_and(|total| last + 1 != total) {
        return Err(malformed("the range ends before the whole does"));
    }
    Ok((first, total))
}

/// `bytes first-last/total`, of which the total may be `*`.
pub(super) fn parse_content_range(value: &str) -> Option<(u64, u64, Option<u64>)> {
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if digits { text.parse().ok() } else { None }
    };
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.trim().split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let total = match total.trim() {
        "*" => None,
        total => Some(number(total)?),
    };
    let fits = first <= last && last < u64::MAX && total.is_none_or(|total| last < total);
    fits.then_some((first, last, total))
}
