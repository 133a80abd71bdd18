//! Origins: where objects come from. One module each; all speak [`Origin`].

mod azure;
mod connector;
mod encode;
mod env;
mod file;
mod gcs;
mod headers;
mod http;
mod s3;
mod scope;
mod sigv4;
mod spec;
mod token;
mod validators;
mod wire;
mod xml;

pub(crate) use wire::{USER_AGENT, on_behalf_of};

pub use connector::{Connector, object_store};
pub use env::Environment;
pub use spec::{OriginConfigError, OriginSpec, open};

use crate::types::{BucketEntry, ListPage, ListQuery, ObjectMeta, ObjectName};
use std::{fmt, future::Future, ops::Range, pin::Pin, sync::Arc, time::Duration};

/// Feeds bytes to every parser of this module that reads what an origin, an operator or a client
/// sends. For fuzzing only: none may panic, whatever comes.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    s3::fuzz(bytes);
    azure::fuzz(bytes);
    gcs::fuzz(bytes);
    let _ = xml::error_body(bytes);
    let text = String::from_utf8_lossy(bytes);
    let _ = (
        validators::parse_etag(&text),
        validators::parse_content_range(&text),
    );
    let _ = (token::from_token(&text), encode::decode_form(&text));
    let _ = spec::Place::parse(&text);
    if let Ok(value) = ::http::HeaderValue::from_bytes(bytes) {
        let headers = [(::http::header::RETRY_AFTER, value)].into_iter().collect();
        let _ = validators::retry_after(&headers, std::time::SystemTime::UNIX_EPOCH);
    }
}

/// A future behind a pointer, so that origins can be chosen at run time.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Somewhere that objects can be read from. One call is one request: no retries in here.
///
/// Dropping a future or a stream ends the request.
pub trait Origin: fmt::Debug + Send + Sync + 'static {
    /// What tells this origin's objects from another's, stable across restarts and without secrets:
    /// scheme, endpoint, prefix.
    fn id(&self) -> &str;

    /// What is known of an object.
    fn head<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<ObjectMeta, OriginError>>;

    /// Bytes `range` (not empty, within the size) of the version with this etag. Fails with
    /// [`OriginError::Changed`] where the origin has another version by now; verifies that the answer
    /// carries that etag and exactly that range, and ends the stream with an error where it breaks
    /// off short. A whole of another `size`, where that is known, is another version, whatever its etag.
    fn read<'a>(
        &'a self,
        name: &'a ObjectName,
        etag: &'a str,
        size: Option<u64>,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<OriginStream, OriginError>>;

    /// One page of a listing.
    fn list<'a>(&'a self, query: &'a ListQuery) -> BoxFuture<'a, Result<ListPage, OriginError>>;

    /// All buckets that may be listed.
    fn buckets(&self) -> BoxFuture<'_, Result<Vec<BucketEntry>, OriginError>>;

    /// Whether the bucket is there.
    fn head_bucket<'a>(&'a self, bucket: &'a str) -> BoxFuture<'a, Result<(), OriginError>>;
}

/// Bytes from an origin as they arrive; an `Err` is its last item.
pub type OriginStream =
    Pin<Box<dyn futures_core::Stream<Item = Result<bytes::Bytes, OriginError>> + Send>>;

/// How one request to an origin failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OriginError {
    /// No such object.
    #[error("no such key")]
    NoSuchKey,
    /// No such bucket.
    #[error("no such bucket")]
    NoSuchBucket,
    /// 401 or 403.
    #[error("access denied: {0}")]
    Denied(Arc<str>),
    /// 412, or another etag than asked for in the answer.
    #[error("the object changed")]
    Changed,
    /// No usable etag.
    #[error("no strong etag")]
    MissingEtag,
    /// Held in a form that cannot be cached.
    #[error("unsupported: {0}")]
    Unsupported(Arc<str>),
    /// The request makes no sense to this origin (400): repeating it does not help.
    #[error("invalid: {0}")]
    Invalid(Arc<str>),
    /// 429 or 503.
    #[error("throttled")]
    Throttled {
        /// The origin's Retry-After.
        retry_after: Option<Duration>,
    },
    /// 5xx.
    #[error("the origin failed: {0}")]
    Server(Arc<str>),
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(Arc<str>),
    /// The answer broke off.
    #[error("the answer broke off: {0}")]
    Truncated(Arc<str>),
    /// The answer is not what was asked for.
    #[error("malformed answer: {0}")]
    Malformed(Arc<str>),
    /// Our own side failed (credentials cannot be read, say).
    #[error("{0}")]
    Local(Arc<str>),
}
