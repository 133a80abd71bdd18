//! [`Transport`]: how one request is put to one source.
//!
//! A transport makes exactly one attempt for each call. It does not retry, does not follow up on
//! another source and keeps no score: all of that is the engine's.

use crate::{
    driver::Heartbeat,
    engine::{AttemptId, End, Fault, FetchId, Key, SourceId, Stage},
};
use bytes::Bytes;
use futures_core::Stream;
use std::{borrow::Cow, fmt, future::Future, pin::Pin, time::Duration};
use tokio::time::Instant;

/// How one request is put to one source.
///
/// Implementations are called from many tasks at once, one for each attempt.
///
/// ```
/// use bytes::Bytes;
/// use gannet::{Answer, AttemptError, Request, Transport, engine::SourceId};
/// use std::collections::HashMap;
///
/// /// Sources that are maps in memory.
/// struct Maps(HashMap<SourceId, HashMap<String, Bytes>>);
///
/// impl Transport for Maps {
///     type Key = String;
///     type Meta = ();
///
///     async fn open(&self, request: Request<String, ()>) -> Result<Answer<()>, AttemptError> {
///         let source = self.0.get(&request.source);
///         let datum = source.and_then(|map| map.get(&request.key)).ok_or_else(AttemptError::missing)?;
///         Ok(Answer::whole((), datum.clone()))
///     }
/// }
/// ```
pub trait Transport: Send + Sync + 'static {
    /// What names a datum.
    type Key: Key + Send + Sync + 'static;
    /// What comes before the bytes: headers, a version, a type. Cloned for each caller, so put large
    /// ones behind an `Arc`.
    type Meta: Clone + Send + Sync + 'static;

    /// Puts the request, and resolves when the source has said what it has.
    ///
    /// # Cancellation
    ///
    /// The future and the body of the answer are dropped when the attempt is no longer wanted. Both
    /// must end the request.
    fn open(
        &self,
        request: Request<Self::Key, Self::Meta>,
    ) -> impl Future<Output = Result<Answer<Self::Meta>, AttemptError>> + Send;

    /// Whether this source takes a request now; otherwise, when to try it again. A transport with
    /// quotas of its own declines here, at no cost to the source's standing; the source is then left
    /// alone for all keys until that time.
    ///
    /// Called on the worker, before every attempt: must not block.
    fn admit(&self, source: SourceId) -> Result<(), Instant> {
        let _ = source;
        Ok(())
    }
}

/// One request to one source.
#[derive(Debug)]
pub struct Request<K, M> {
    /// What is wanted.
    pub key: K,
    /// Whom to ask.
    pub source: SourceId,
    /// The first byte to ask for. A transport that cannot start there answers from an earlier byte
    /// ([`Answer::from_byte`]); what is held already is dropped.
    pub from_byte: u64,
    /// What the body that this attempt would continue said of itself; `None` where it would be the
    /// first. Ask for the same version.
    pub continues: Option<M>,
    /// Why the attempt is made.
    pub stage: Stage,
    /// The attempt, for logs and for protocols with request ids: never reused within a [`Fetcher`].
    ///
    /// [`Fetcher`]: crate::Fetcher
    pub attempt: AttemptId,
    /// The fetch that it is for, for logs.
    pub fetch: FetchId,
    /// Tells the engine that the source is at work though it sends nothing yet.
    pub heartbeat: Heartbeat,
}

/// Bytes as they arrive from a source. An error is its last item.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, AttemptError>> + Send>>;

/// What a source has, and its bytes.
pub struct Answer<M> {
    /// What comes before the bytes.
    pub meta: M,
    /// Whatever must be equal for one answer to continue another: a hash of the etag, of the
    /// version, of the key where the key names the bytes.
    pub identity: u64,
    /// Bytes of the whole datum (not of this answer), if known.
    pub total: Option<u64>,
    /// Where the body begins: at most the byte that was asked for.
    pub from_byte: u64,
    /// The bytes.
    pub body: ByteStream,
}

impl<M> Answer<M> {
    /// An answer that is at hand as a whole, from byte 0, with identity 0: right where the key names
    /// the bytes, or the plan does not resume.
    pub fn whole(meta: M, body: Bytes) -> Self {
        Self {
            meta,
            identity: 0,
            total: Some(body.len() as u64),
            from_byte: 0,
            body: Box::pin(futures_util::stream::once(std::future::ready(Ok(body)))),
        }
    }
}

impl<M: fmt::Debug> fmt::Debug for Answer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("meta", &self.meta)
            .field("identity", &self.identity)
            .field("total", &self.total)
            .field("from_byte", &self.from_byte)
            .finish_non_exhaustive()
    }
}

/// How an attempt failed: what the engine makes of it, and what people read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct AttemptError {
    /// [`End::Missing`], [`End::Busy`] or [`End::Failed`]. An [`End::Complete`] here would be a
    /// contradiction and counts as a fault of our own side.
    pub end: End,
    /// What happened, in words; no secrets. Kept short: [`AttemptError::DETAIL_BYTES_MAX`].
    pub detail: Cow<'static, str>,
}

impl AttemptError {
    /// Longer details are cut here.
    pub const DETAIL_BYTES_MAX: usize = 256;

    /// The source does not have it.
    pub const fn missing() -> Self {
        Self {
            end: End::Missing,
            detail: Cow::Borrowed("not found"),
        }
    }

    /// The source asks to be left alone, for so long if it said so.
    pub const fn busy(retry_after: Option<Duration>) -> Self {
        Self {
            end: End::Busy { retry_after },
            detail: Cow::Borrowed("busy"),
        }
    }

    /// It failed.
    pub fn failed(fault: Fault, detail: impl Into<Cow<'static, str>>) -> Self {
        let mut detail = detail.into();
        if detail.len() > Self::DETAIL_BYTES_MAX {
            let mut end = Self::DETAIL_BYTES_MAX;
            while !detail.is_char_boundary(end) {
                end -= 1;
            }
            detail = Cow::Owned(detail[..end].to_owned());
        }
        Self {
            end: End::Failed(fault),
            detail,
        }
    }
}
