//! The nouns of the cache: objects, versions, listings, and what can go wrong with them.

use bytes::Bytes;
use futures_core::Stream;
use gannet_store::Blob;
use http::HeaderMap;
use std::{fmt, fs::File, ops::Range, pin::Pin, sync::Arc, time::SystemTime};

/// A bucket and a key in it, as a client names them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The bucket (for `file://`, a sub-directory of the root).
    pub bucket: Arc<str>,
    /// The key: any UTF-8, never percent-encoded here.
    pub key: Arc<str>,
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bucket, self.key)
    }
}

/// A version of an object: what is known of it without its bytes.
#[derive(Clone, Debug)]
pub struct ObjectMeta {
    /// Length in bytes.
    pub size: u64,
    /// The etag as the origin sent it, quotes included; identity, not freshness.
    pub etag: Arc<str>,
    /// When it was last written, to the second.
    pub modified: SystemTime,
    /// What travels with it to the client: content-type, -encoding, -disposition, -language,
    /// cache-control, expires, `x-amz-meta-*`, storage class and checksums.
    pub headers: Arc<HeaderMap>,
}

/// Bytes as they arrive.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, ObjectError>> + Send>>;

/// Parts as they arrive, or as they are found.
pub type SegmentStream = Pin<Box<dyn Stream<Item = Result<Segment, ObjectError>> + Send>>;

/// A listing that a client asks for, V1 or V2, in V2's words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListQuery {
    /// The bucket.
    pub bucket: Arc<str>,
    /// Only keys that begin so.
    pub prefix: Arc<str>,
    /// Roll up keys at this string after the prefix.
    pub delimiter: Option<Arc<str>>,
    /// Only keys after this one (V1's marker too).
    pub start_after: Option<Arc<str>>,
    /// Where the last page ended, as the origin put it.
    pub token: Option<Arc<str>>,
    /// The most entries (keys and common prefixes) of the page, at most 1,000.
    pub keys_max: u16,
}

/// One page of a listing, in the order of UTF-8 bytes.
#[derive(Clone, Debug, Default)]
pub struct ListPage {
    /// Objects.
    pub objects: Vec<ListEntry>,
    /// Rolled-up prefixes.
    pub prefixes: Vec<String>,
    /// Where the next page begins; none on the last.
    pub next: Option<Arc<str>>,
}

/// One object of a listing.
#[derive(Clone, Debug)]
pub struct ListEntry {
    /// Its key.
    pub key: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its etag, quotes included, where the origin lists one.
    pub etag: Option<String>,
    /// When it was last written.
    pub modified: SystemTime,
    /// Its storage class, where the origin lists one.
    pub storage_class: Option<String>,
}

/// A bucket.
#[derive(Clone, Debug)]
pub struct BucketEntry {
    /// Its name.
    pub name: String,
    /// When it was made, where known.
    pub created: Option<SystemTime>,
}

/// Why an object, a part of it or a listing cannot be had. The edge turns each into an S3 error.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ObjectError {
    /// The origin has no such object.
    #[error("no such key")]
    NoSuchKey,
    /// The origin has no such bucket.
    #[error("no such bucket")]
    NoSuchBucket,
    /// The origin refused our credentials, or the object is not ours to read.
    #[error("the origin denied access")]
    AccessDenied,
    /// The object was overwritten while it was read.
    #[error("the object changed at the origin")]
    EtagChanged,
    /// The origin gave no usable etag, so that versions could not be told apart.
    #[error("the origin gave no strong etag: without one, versions cannot be told apart")]
    MissingEtag,
    /// The origin holds it in a form that cannot be cached (an Azure page blob, say).
    #[error("not supported by this origin: {0}")]
    Unsupported(Arc<str>),
    /// The range begins past the end.
    #[error("the range is not satisfiable: the object has {size} bytes")]
    InvalidRange {
        /// The object's length.
        size: u64,
    },
    /// The request makes no sense (a token that the origin did not give, a bad key).
    #[error("invalid request: {0}")]
    Invalid(Arc<str>),
    /// The origin asks us to slow down, or our own queue for it is full.
    #[error("slow down: {0}")]
    SlowDown(Arc<str>),
    /// The origin cannot be reached, or answered nonsense, on every try.
    #[error("the origin is unavailable: {0}")]
    Unavailable(Arc<str>),
    /// Our own side failed.
    #[error("internal: {0}")]
    Internal(Arc<str>),
}

/// A part of an object that is held already.
#[derive(Clone, Debug)]
pub enum Segment {
    /// In memory.
    Bytes(Bytes),
    /// In a file whose blocks have been verified: to be sent with `sendfile`.
    File {
        /// The file, open for reading.
        file: Arc<File>,
        /// Where the bytes lie in it.
        range: Range<u64>,
        /// The stored copy that it is, to be condemned if the file turns out to be short.
        copy: Option<Blob>,
    },
}

impl Segment {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { range, .. } => range.end - range.start,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
