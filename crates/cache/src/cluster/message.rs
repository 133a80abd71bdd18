//! What members say to each other, as JSON: who asks for what and in which role, what precedes the
//! bytes of an answer, and why there are none.
//!
//! Everything that comes in is checked here, once: what is made of it are the cache's own types.

use crate::{
    key::{CacheKey, ChunkKey, Version},
    types::{BucketEntry, ListEntry, ListPage, ListQuery, ObjectError, ObjectMeta, ObjectName},
    warm::Purged,
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use gannet_cluster::{Ask, Member, Role};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Members that an asker may name as having failed it.
const FAILED_MAX: usize = 64;
/// The longest address.
const ADDRESS_BYTES_MAX: usize = 300;

/// One member asks another for something.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    /// The version of what members say to each other: 1.
    pub(super) v: u32,
    /// The asker's address.
    from: String,
    /// Drawn for this request alone.
    nonce: String,
    /// The client's request id, for logs.
    pub(super) request: String,
    pub(super) what: What,
    /// The first byte wanted.
    #[serde(default)]
    pub(super) from_byte: u64,
    role: RoleName,
    #[serde(default)]
    failed: Vec<String>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RoleName {
    Coordinator,
    StandIn,
    Relay,
    Holder,
}

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum What {
    /// A chunk of a version of an object.
    Chunk {
        origin: String,
        bucket: String,
        key: String,
        etag: String,
        size: u64,
        chunk_size: u64,
        index: u64,
    },
    /// An object's metadata.
    Head {
        origin: String,
        bucket: String,
        key: String,
        /// An etag that the origin does not have any more, as the asker has learnt.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gone: Option<String>,
    },
    /// A page of a listing.
    List {
        origin: String,
        bucket: String,
        prefix: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        delimiter: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        start_after: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<String>,
        keys_max: u16,
    },
    /// All buckets.
    Buckets { origin: String },
    /// Whether a bucket is there.
    Bucket { origin: String, bucket: String },
}

impl What {
    /// What is asked for, for members with the same origin.
    pub(super) fn of(key: &CacheKey, origin: &str, gone: Option<Arc<str>>) -> Self {
        let text = |text: &Arc<str>| text.as_ref().to_owned();
        let maybe = |text: &Option<Arc<str>>| text.as_deref().map(str::to_owned);
        let origin = origin.to_owned();
        match key {
            CacheKey::Chunk(chunk) => Self::Chunk {
                origin,
                bucket: text(&chunk.version.name.bucket),
                key: text(&chunk.version.name.key),
                etag: text(&chunk.version.etag),
                size: chunk.version.size,
                chunk_size: chunk.version.chunk_size,
                index: chunk.index,
            },
            CacheKey::Head(name) => Self::Head {
                origin,
                bucket: text(&name.bucket),
                key: text(&name.key),
                gone: maybe(&gone),
            },
            CacheKey::List(query) => Self::List {
                origin,
                bucket: text(&query.bucket),
                prefix: text(&query.prefix),
                delimiter: maybe(&query.delimiter),
                start_after: maybe(&query.start_after),
                token: maybe(&query.token),
                keys_max: query.keys_max,
            },
            CacheKey::Buckets => Self::Buckets { origin },
            CacheKey::Bucket(bucket) => Self::Bucket {
                origin,
                bucket: text(bucket),
            },
        }
    }

    /// The key that it means here.
    ///
    /// # Errors
    /// What this member could not answer as the asker means it: another origin, another chunk size, a
    /// chunk that there cannot be.
    pub(super) fn key(
        &self,
        own_origin: &Arc<str>,
        own_chunk: u64,
    ) -> Result<CacheKey, &'static str> {
        let origin = match self {
            Self::Chunk { origin, .. }
            | Self::Head { origin, .. }
            | Self::List { origin, .. }
            | Self::Buckets { origin }
            | Self::Bucket { origin, .. } => origin,
        };
        if **origin != **own_origin {
            return Err("this member has another origin");
        }
        let name = |bucket: &str, key: &str| ObjectName {
            bucket: bucket.into(),
            key: key.into(),
        };
        let maybe = |text: &Option<String>| text.as_deref().map(Arc::from);
        Ok(match self {
            Self::Chunk {
                bucket,
                key,
                etag,
                size,
                chunk_size,
                index,
                ..
            } => {
                if *chunk_size != own_chunk {
                    return Err("this member cuts objects into chunks of another size");
                }
                if *index >= size.div_ceil(*chunk_size) {
                    return Err("there is no such chunk");
                }
                CacheKey::Chunk(ChunkKey {
                    version: Arc::new(Version {
                        name: name(bucket, key),
                        etag: etag.as_str().into(),
                        size: *size,
                        chunk_size: *chunk_size,
                        origin: Arc::clone(own_origin),
                    }),
                    index: *index,
                })
            }
            Self::Head { bucket, key, .. } => CacheKey::Head(name(bucket, key)),
            Self::List {
                bucket,
                prefix,
                delimiter,
                start_after,
                token,
                keys_max,
                ..
            } => CacheKey::List(Arc::new(ListQuery {
                bucket: bucket.as_str().into(),
                prefix: prefix.as_str().into(),
                delimiter: maybe(delimiter),
                start_after: maybe(start_after),
                token: maybe(token),
                keys_max: (*keys_max).min(1000),
            })),
            Self::Buckets { .. } => CacheKey::Buckets,
            Self::Bucket { bucket, .. } => CacheKey::Bucket(bucket.as_str().into()),
        })
    }
}

impl Question {
    /// A question with a number of its own.
    pub(super) fn new(ask: &Ask, what: What, from_byte: u64, request: &str) -> Self {
        let mut nonce = [0; 16];
        // Every request its own key, and so its own checksums.
        rustls::crypto::ring::default_provider()
            .secure_random
            .fill(&mut nonce)
            .unwrap_or_else(|_| tracing::error!("the system gives no random numbers"));
        Self {
            v: 1,
            from: ask.asker.address().to_owned(),
            nonce: BASE64.encode(nonce),
            request: request.to_owned(),
            what,
            from_byte,
            role: match ask.role {
                Role::Coordinator => RoleName::Coordinator,
                Role::StandIn => RoleName::StandIn,
                Role::Relay => RoleName::Relay,
                Role::Holder => RoleName::Holder,
            },
            failed: ask.failed.iter().map(|m| m.address().to_owned()).collect(),
        }
    }

    /// Reads a question, or says what is wrong with it.
    pub(super) fn read(body: &[u8]) -> Result<Self, String> {
        let question: Self = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if question.v != 1 {
            return Err(format!("version {} is not spoken here", question.v));
        }
        if question.failed.len() > FAILED_MAX
            || question.request.len() > 256
            || std::iter::once(&question.from)
                .chain(&question.failed)
                .any(|address| address.is_empty() || address.len() > ADDRESS_BYTES_MAX)
        {
            return Err("too long".to_owned());
        }
        Ok(question)
    }

    /// Who asks, and how. `known` finds members by address, so that their weights are right.
    pub(super) fn ask(&self, known: impl Fn(&str) -> Member) -> Ask {
        Ask {
            asker: known(&self.from),
            role: match self.role {
                RoleName::Coordinator => Role::Coordinator,
                RoleName::StandIn => Role::StandIn,
                RoleName::Relay => Role::Relay,
                RoleName::Holder => Role::Holder,
            },
            failed: self.failed.iter().map(|address| known(address)).collect(),
        }
    }
}

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

/// Why a member does not answer: the body of a 409.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refusal {
    pub(super) refused: Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Refused {
    NotCoordinator,
    NotHere,
}

/// What is to be forgotten.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Purge {
    pub(super) bucket: Option<String>,
    pub(super) prefix: String,
}

/// What was forgotten.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct PurgeDone {
    objects: u64,
    chunks: u64,
    pages: u64,
}

impl From<Purged> for PurgeDone {
    fn from(purged: Purged) -> Self {
        let Purged {
            objects,
            chunks,
            pages,
        } = purged;
        Self {
            objects,
            chunks,
            pages,
        }
    }
}

impl From<PurgeDone> for Purged {
    fn from(done: PurgeDone) -> Self {
        let PurgeDone {
            objects,
            chunks,
            pages,
        } = done;
        Self {
            objects,
            chunks,
            pages,
        }
    }
}

/// Reads bytes as everything that a member may say.
pub(super) fn fuzz(bytes: &[u8]) {
    if let Ok(question) = Question::read(bytes) {
        let ask = question.ask(Member::new);
        assert!(ask.failed.len() <= FAILED_MAX);
        if let Ok(CacheKey::Chunk(chunk)) = question.what.key(&"o".into(), 8 << 20) {
            assert!(chunk.len() > 0 && chunk.len() <= 8 << 20);
        }
    }
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
    let _ = serde_json::from_slice::<Refusal>(bytes);
    let _ = serde_json::from_slice::<Purge>(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Vec<CacheKey> {
        let name = ObjectName {
            bucket: "b".into(),
            key: "a/ü \"k\"".into(),
        };
        let version = Version {
            name: name.clone(),
            etag: "\"e\"".into(),
            size: 10 << 20,
            chunk_size: 8 << 20,
            origin: "o".into(),
        };
        let query = ListQuery {
            bucket: "b".into(),
            prefix: "p".into(),
            delimiter: Some("/".into()),
            start_after: None,
            token: Some("t".into()),
            keys_max: 7,
        };
        vec![
            CacheKey::Head(name),
            CacheKey::List(Arc::new(query)),
            CacheKey::Buckets,
            CacheKey::Bucket("b".into()),
            CacheKey::Chunk(ChunkKey {
                version: Arc::new(version),
                index: 1,
            }),
        ]
    }

    fn question(key: &CacheKey) -> Question {
        let ask = Ask {
            asker: Member::new("me:1"),
            role: Role::StandIn,
            failed: vec![Member::new("r:1")],
        };
        Question::new(&ask, What::of(key, "o", None), 3, "id")
    }

    #[test]
    fn questions_arrive_as_they_were_sent() {
        for key in keys() {
            let sent = question(&key);
            let read = Question::read(&serde_json::to_vec(&sent).expect("JSON")).expect("read");
            assert_eq!(
                read.what.key(&"o".into(), 8 << 20),
                Ok(key.clone()),
                "{key:?}"
            );
            let ask = read.ask(Member::new);
            assert_eq!(
                (ask.role, ask.failed.len(), read.from_byte),
                (Role::StandIn, 1, 3)
            );
            assert_ne!(sent.nonce, question(&key).nonce, "each its own");
        }
    }

    #[test]
    fn what_a_member_cannot_answer_as_it_is_meant_is_refused() {
        for key in keys() {
            let what = What::of(&key, "another", None);
            assert!(what.key(&"o".into(), 8 << 20).is_err(), "{key:?}");
        }
        let chunk = What::of(&keys()[4], "o", None);
        assert!(chunk.key(&"o".into(), 1 << 20).is_err(), "other chunks");
        let mut past = keys();
        let CacheKey::Chunk(past) = &mut past[4] else {
            panic!("a chunk")
        };
        past.index = 2;
        let past = What::of(&CacheKey::Chunk(past.clone()), "o", None);
        assert!(past.key(&"o".into(), 8 << 20).is_err(), "past the end");
    }

    #[test]
    fn nonsense_is_refused() {
        let good = serde_json::to_value(question(&keys()[0])).expect("JSON");
        let check = |field: &str, value: serde_json::Value| {
            let mut bad = good.clone();
            bad[field] = value;
            let read = Question::read(bad.to_string().as_bytes());
            assert!(read.is_err(), "{bad}");
        };
        check("v", 2.into());
        check("role", "king".into());
        check("what", serde_json::json!({"secret": {}}));
        check("from", "".into());
        check("from", "x".repeat(301).into());
        check("failed", vec!["x"; 65].into());
        check("more", 1.into());
        assert!(Question::read(b"").is_err() && Question::read(b"[]").is_err());
    }

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
