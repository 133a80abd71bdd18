//! What members say to each other, as JSON: who asks for what and in which role, who refuses, and what
//! is to be forgotten. What is answered is in `answer.rs`.
//!
//! Everything that comes in is checked here, once: what is made of it are the cache's own types.

use crate::{
    key::{CacheKey, ChunkKey, Version},
    traces::Parent,
    types::{ListQuery, ObjectName},
    warm::Purged,
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use gannet_cluster::{Ask, Member, Role};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Members that an asker may name as having failed it.
const FAILED_MAX: usize = 64;
/// The longest address.
const ADDRESS_BYTES_MAX: usize = 300;
/// The longest `traceparent`, with room for what later versions of it may say.
const TRACE_BYTES_MAX: usize = 256;

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
    /// Where the answer's span hangs, as a `traceparent`; none where this is not traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) trace: Option<String>,
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
        Self {
            v: 1,
            from: ask.asker.address().to_owned(),
            nonce: nonce(),
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
            trace: None,
        }
    }

    /// The same, as a part of a trace.
    pub(super) fn traced(mut self, trace: &Parent) -> Self {
        self.trace = trace.remote().map(|context| context.to_string());
        self
    }

    /// What the asker wants, as spans say it.
    pub(super) const fn role_name(&self) -> &'static str {
        match self.role {
            RoleName::Coordinator => "coordinator",
            RoleName::StandIn => "stand_in",
            RoleName::Relay => "relay",
            RoleName::Holder => "holder",
        }
    }

    /// Who asks.
    pub(super) fn from(&self) -> &str {
        &self.from
    }

    /// Reads a question, or says what is wrong with it.
    pub(super) fn read(body: &[u8]) -> Result<Self, String> {
        let question: Self = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if question.v != 1 {
            return Err(format!("version {} is not spoken here", question.v));
        }
        if question.failed.len() > FAILED_MAX
            || question.request.len() > 256
            || question
                .trace
                .as_ref()
                .is_some_and(|trace| trace.len() > TRACE_BYTES_MAX)
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

/// Every request its own key, and so its own checksums.
fn nonce() -> String {
    let mut nonce = [0; 16];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut nonce)
        .unwrap_or_else(|_| tracing::error!("the system gives no random numbers"));
    BASE64.encode(nonce)
}

/// Whether a member is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Look {
    /// Drawn for this look alone.
    nonce: String,
}

impl Look {
    pub(super) fn new() -> Self {
        Self { nonce: nonce() }
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
    /// Drawn for this request alone.
    nonce: String,
}

impl Purge {
    pub(super) fn new(bucket: Option<&str>, prefix: &str) -> Self {
        Self {
            bucket: bucket.map(str::to_owned),
            prefix: prefix.to_owned(),
            nonce: nonce(),
        }
    }
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
    fn a_question_may_be_part_of_a_trace() {
        let sent = question(&CacheKey::Buckets);
        let read = |sent: &Question| Question::read(&serde_json::to_vec(sent).expect("JSON"));
        let text = String::from_utf8(serde_json::to_vec(&sent).expect("JSON")).expect("text");
        assert!(!text.contains("trace"), "as ever, where it is not: {text}");
        let of = |trace: &str| Question {
            trace: Some(trace.to_owned()),
            ..sent.clone()
        };
        // What is no context is read, and is as none where it is used.
        for trace in [
            "",
            "nonsense",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(
                read(&of(trace)).expect("read").trace.as_deref(),
                Some(trace)
            );
        }
        assert!(read(&of(&"0".repeat(257))).is_err());
        let untraced = sent.clone().traced(&Parent::default());
        assert_eq!(untraced.trace, None);
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
}
