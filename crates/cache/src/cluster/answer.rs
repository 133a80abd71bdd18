//! What members answer each other, as JSON: what precedes the bytes of a chunk, what the origin said of
//! an object, a listing or a bucket, and why something cannot be had.
//!
//! Like questions, answers are checked here, once, and made into the cache's own types.

use crate::{
    key::CacheKey,
    transport::{Reply, Ways},
    types::{BucketEntry, ListEntry, ListPage, ObjectError, ObjectMeta},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use gannet::{AttemptError, engine::Fault};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// What precedes the bytes of a chunk, or is all of another answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Head {
    /// Bytes follow, of so many in all.
    Chunk { total: u64 },
    /// An object's metadata, or what the origin said in its place; good for so long.
    Object { answer: Said<Meta>, fresh_ms: u64 },
    /// A page.
    List { answer: Said<Page>, fresh_ms: u64 },
    /// All buckets.
    Buckets {
        answer: Said<Vec<Bucket>>,
        fresh_ms: u64,
    },
    /// Whether a bucket is there.
    Bucket { answer: Said<()>, fresh_ms: u64 },
    /// A chunk is in the store; whether it had to be fetched.
    Warmed { fetched: bool },
}

/// What the origin said, good or bad.
pub(super) type Said<T> = Result<T, Trouble>;

/// An error of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "error", content = "detail")]
pub(super) enum Trouble {
    NoSuchKey,
    NoSuchBucket,
    AccessDenied,
    EtagChanged,
    MissingEtag,
    Unsupported(String),
    InvalidRange(u64),
    Invalid(String),
    SlowDown(String),
    Unavailable(String),
    Internal(String),
}

impl From<&ObjectError> for Trouble {
    fn from(error: &ObjectError) -> Self {
        let text = |text: &Arc<str>| text.as_ref().to_owned();
        match error {
            ObjectError::NoSuchKey => Self::NoSuchKey,
            ObjectError::NoSuchBucket => Self::NoSuchBucket,
            ObjectError::AccessDenied => Self::AccessDenied,
            ObjectError::EtagChanged => Self::EtagChanged,
            ObjectError::MissingEtag => Self::MissingEtag,
            ObjectError::Unsupported(what) => Self::Unsupported(text(what)),
            ObjectError::InvalidRange { size } => Self::InvalidRange(*size),
            ObjectError::Invalid(what) => Self::Invalid(text(what)),
            ObjectError::SlowDown(what) => Self::SlowDown(text(what)),
            ObjectError::Unavailable(what) => Self::Unavailable(text(what)),
            ObjectError::Internal(what) => Self::Internal(text(what)),
        }
    }
}

impl From<Trouble> for ObjectError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::NoSuchKey => Self::NoSuchKey,
            Trouble::NoSuchBucket => Self::NoSuchBucket,
            Trouble::AccessDenied => Self::AccessDenied,
            Trouble::EtagChanged => Self::EtagChanged,
            Trouble::MissingEtag => Self::MissingEtag,
            Trouble::Unsupported(what) => Self::Unsupported(what.into()),
            Trouble::InvalidRange(size) => Self::InvalidRange { size },
            Trouble::Invalid(what) => Self::Invalid(what.into()),
            Trouble::SlowDown(what) => Self::SlowDown(what.into()),
            Trouble::Unavailable(what) => Self::Unavailable(what.into()),
            Trouble::Internal(what) => Self::Internal(what.into()),
        }
    }
}

/// Seconds and nanoseconds since 1970, before it where negative.
type Moment = (i64, u32);

fn moment(time: SystemTime) -> Moment {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            since.subsec_nanos(),
        ),
        Err(before) => (
            -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
            0,
        ),
    }
}

fn time((secs, nanos): Moment) -> Option<SystemTime> {
    let since = Duration::new(secs.unsigned_abs(), nanos.min(999_999_999));
    if secs < 0 {
        UNIX_EPOCH.checked_sub(since)
    } else {
        UNIX_EPOCH.checked_add(since)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Meta {
    size: u64,
    etag: String,
    modified: Moment,
    /// Values are any bytes: in base64.
    headers: Vec<(String, String)>,
}

impl From<&ObjectMeta> for Meta {
    fn from(meta: &ObjectMeta) -> Self {
        let headers = meta.headers.iter();
        Self {
            size: meta.size,
            etag: meta.etag.as_ref().to_owned(),
            modified: moment(meta.modified),
            headers: headers
                .map(|(name, value)| (name.as_str().to_owned(), BASE64.encode(value.as_bytes())))
                .collect(),
        }
    }
}

impl Meta {
    pub(super) fn read(self) -> Option<ObjectMeta> {
        let mut headers = HeaderMap::new();
        for (name, value) in self.headers {
            let name = HeaderName::try_from(name).ok()?;
            let value = HeaderValue::try_from(BASE64.decode(value).ok()?).ok()?;
            headers.try_append(name, value).ok()?;
        }
        Some(ObjectMeta {
            size: self.size,
            etag: self.etag.into(),
            modified: time(self.modified)?,
            headers: Arc::new(headers),
        })
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Page {
    objects: Vec<Entry>,
    prefixes: Vec<String>,
    next: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    key: String,
    size: u64,
    etag: Option<String>,
    modified: Moment,
    storage_class: Option<String>,
}

impl From<&ListPage> for Page {
    fn from(page: &ListPage) -> Self {
        let entry = |entry: &ListEntry| Entry {
            key: entry.key.clone(),
            size: entry.size,
            etag: entry.etag.clone(),
            modified: moment(entry.modified),
            storage_class: entry.storage_class.clone(),
        };
        Self {
            objects: page.objects.iter().map(entry).collect(),
            prefixes: page.prefixes.clone(),
            next: page.next.as_deref().map(str::to_owned),
        }
    }
}

impl Page {
    pub(super) fn read(self) -> Option<ListPage> {
        let entry = |entry: Entry| {
            Some(ListEntry {
                key: entry.key,
                size: entry.size,
                etag: entry.etag,
                modified: time(entry.modified)?,
                storage_class: entry.storage_class,
            })
        };
        Some(ListPage {
            objects: self.objects.into_iter().map(entry).collect::<Option<_>>()?,
            prefixes: self.prefixes,
            next: self.next.map(Arc::from),
        })
    }
}

impl Head {
    /// Keeps another member's answer for as long as it is good there, and gives it.
    ///
    /// # Errors
    /// An answer to another question.
    pub(super) fn learn(self, key: &CacheKey, ways: &Ways) -> Result<Reply, AttemptError> {
        let malformed = || AttemptError::failed(Fault::Malformed, "an answer to another question");
        let (reply, fresh_ms) = match (key, self) {
            (CacheKey::Head(_), Self::Object { answer, fresh_ms }) => {
                let known = match answer {
                    Ok(meta) => Ok(Arc::new(meta.read().ok_or_else(malformed)?)),
                    Err(trouble) => Err(ObjectError::from(trouble)),
                };
                (Reply::Head(known), fresh_ms)
            }
            (CacheKey::List(_), Self::List { answer, fresh_ms }) => {
                let page = match answer {
                    Ok(page) => Ok(Arc::new(page.read().ok_or_else(malformed)?)),
                    Err(trouble) => Err(ObjectError::from(trouble)),
                };
                (Reply::List(page), fresh_ms)
            }
            (CacheKey::Buckets, Self::Buckets { answer, fresh_ms }) => {
                let buckets = match answer {
                    Ok(buckets) => {
                        let buckets: Option<Arc<[_]>> =
                            buckets.into_iter().map(Bucket::read).collect();
                        Ok(buckets.ok_or_else(malformed)?)
                    }
                    Err(trouble) => Err(ObjectError::from(trouble)),
                };
                (Reply::Buckets(buckets), fresh_ms)
            }
            (CacheKey::Bucket(_), Self::Bucket { answer, fresh_ms }) => {
                (Reply::Bucket(answer.map_err(ObjectError::from)), fresh_ms)
            }
            _ => return Err(malformed()),
        };
        ways.keep(key, &reply, Duration::from_millis(fresh_ms));
        Ok(reply)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Bucket {
    name: String,
    created: Option<Moment>,
}

impl From<&BucketEntry> for Bucket {
    fn from(bucket: &BucketEntry) -> Self {
        Self {
            name: bucket.name.clone(),
            created: bucket.created.map(moment),
        }
    }
}

impl Bucket {
    pub(super) fn read(self) -> Option<BucketEntry> {
        Some(BucketEntry {
            name: self.name,
            created: match self.created {
                Some(created) => Some(time(created)?),
                None => None,
            },
        })
    }
}

/// Reads bytes as every answer that a member may give.
pub(super) fn fuzz(bytes: &[u8]) {
    match serde_json::from_slice(bytes) {
        Ok(Head::Object {
            answer: Ok(meta), ..
        }) => drop(meta.read()),
        Ok(Head::List {
            answer: Ok(page), ..
        }) => drop(page.read()),
        Ok(Head::Buckets {
            answer: Ok(buckets),
            ..
        }) => {
            drop(buckets.into_iter().map(Bucket::read).collect::<Vec<_>>());
        }
        _ => {}
    }
    let _ = serde_json::from_slice::<Trouble>(bytes).map(ObjectError::from);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_arrive_as_they_were_sent() {
        let mut headers = HeaderMap::new();
        headers.append("x-amz-meta-a", HeaderValue::from_static("1"));
        headers.append(
            "x-amz-meta-a",
            HeaderValue::from_bytes(b"\xff").expect("opaque"),
        );
        let modified = UNIX_EPOCH + Duration::new(1_700_000_000, 5);
        let meta = ObjectMeta {
            size: 7,
            etag: "\"e\"".into(),
            modified,
            headers: Arc::new(headers),
        };
        let read = Meta::from(&meta).read().expect("read");
        assert_eq!(
            (read.size, &read.etag, read.modified),
            (7, &meta.etag, modified)
        );
        assert_eq!(read.headers, meta.headers);
        let early = UNIX_EPOCH - Duration::from_secs(9);
        assert_eq!(time(moment(early)), Some(early));
        for error in [
            ObjectError::NoSuchKey,
            ObjectError::EtagChanged,
            ObjectError::InvalidRange { size: 3 },
            ObjectError::Unavailable("x".into()),
        ] {
            let there = serde_json::to_string(&Trouble::from(&error)).expect("JSON");
            let back: Trouble = serde_json::from_str(&there).expect("read");
            assert_eq!(ObjectError::from(back).to_string(), error.to_string());
        }
    }
}
