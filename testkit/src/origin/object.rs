//! Objects of the in-process origin: generated or held.

use crate::content;
use bytes::Bytes;
use std::time::{Duration, SystemTime};

/// One version of an object.
#[derive(Clone, Debug)]
pub struct Object {
    pub(super) body: Body,
    /// Length in bytes.
    pub size: u64,
    /// Counts up with each replacement; part of generated content.
    pub version: u32,
    /// As sent, quotes included.
    pub etag: String,
    /// When it was last written, to the second.
    pub modified: SystemTime,
    /// Sent with GET and HEAD: `content-type`, `x-amz-meta-*`, ...
    pub headers: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    Generated { seed: u64 },
    Held(Bytes),
}

/// Whole seconds, so that `Last-Modified` loses nothing.
const WRITTEN: Duration = Duration::from_secs(1_700_000_000);

impl Object {
    /// `size` bytes of [`content`] under this seed, generated as they are sent.
    pub fn generated(seed: u64, size: u64) -> Self {
        Self::new(Body::Generated { seed }, size)
    }

    /// These bytes.
    pub fn held(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let size = bytes.len() as u64;
        Self::new(Body::Held(bytes), size)
    }

    fn new(body: Body, size: u64) -> Self {
        let mut object = Self {
            body,
            size,
            version: 0,
            etag: String::new(),
            modified: SystemTime::UNIX_EPOCH + WRITTEN,
            headers: vec![("content-type".into(), "application/octet-stream".into())],
        };
        object.etag = object.natural_etag();
        object
    }

    /// With this header on GET and HEAD; replaces one of the same name.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With this etag, quotes included.
    #[must_use]
    pub fn etag(mut self, etag: &str) -> Self {
        self.etag = etag.into();
        self
    }

    /// The version after this one: the same seed, size and headers, other content and etag. Held
    /// bytes are turned over, so that they differ too.
    #[must_use]
    pub fn successor(&self) -> Self {
        let mut next = self.clone();
        next.version += 1;
        next.modified += Duration::from_secs(1);
        if let Body::Held(bytes) = &self.body {
            next.body = Body::Held(bytes.iter().map(|b| !b).collect());
        }
        next.etag = next.natural_etag();
        next
    }

    /// Fills `out` with the bytes from `offset` on, which must lie within the object.
    pub fn read(&self, offset: u64, out: &mut [u8]) {
        match &self.body {
            Body::Generated { seed } => content::fill(*seed, self.version, offset, out),
            Body::Held(bytes) => out.copy_from_slice(&bytes[offset as usize..][..out.len()]),
        }
    }

    /// SHA-256 of the whole, in lower-case hex.
    pub fn sha256(&self) -> String {
        match &self.body {
            Body::Generated { seed } => content::sha256(*seed, self.version, self.size),
            Body::Held(bytes) => content::sha256_of(bytes),
        }
    }

    /// 32 hex digits, as S3 makes them for objects of one part.
    fn natural_etag(&self) -> String {
        let first = match &self.body {
            Body::Generated { seed } => *seed,
            Body::Held(bytes) => bytes.iter().fold(0, |h, b| content::mix(h ^ u64::from(*b))),
        };
        let second = content::mix(self.size ^ (u64::from(self.version) << 48));
        format!("\"{:016x}{second:016x}\"", content::mix(first ^ second))
    }
}
