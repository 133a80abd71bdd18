//! What the spans of attempts, questions and commits say.

use super::{Kind, Parent, Span};
use crate::{
    key::CacheKey,
    transport::{ChunkFrom, Reply},
};
use bytes::Bytes;
use futures_util::Stream;
use gannet::{Answer, AttemptError, ByteStream, Request, engine::End};
use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

/// How something ended that nobody waited for any more; what it says until it ends otherwise.
const ABORTED: &str = "aborted";

impl Span {
    /// What is asked for.
    pub(crate) fn about(&mut self, key: &CacheKey) {
        if !self.is_on() {
            return;
        }
        let (what, bucket) = match key {
            CacheKey::Chunk(chunk) => {
                self.set("aws.s3.key", &*chunk.version.name.key);
                self.set("gannet.etag", &*chunk.version.etag);
                self.set("gannet.chunk", chunk.index);
                ("chunk", &chunk.version.name.bucket)
            }
            CacheKey::Head(name) => {
                self.set("aws.s3.key", &*name.key);
                ("head", &name.bucket)
            }
            CacheKey::List(query) => {
                self.set("gannet.prefix", &*query.prefix);
                ("list", &query.bucket)
            }
            CacheKey::Bucket(bucket) => ("bucket", bucket),
            CacheKey::Buckets => return self.set("gannet.what", "buckets"),
        };
        self.set("gannet.what", what);
        self.set("aws.s3.bucket", &**bucket);
    }

    /// How it ended, if it ends here.
    pub(crate) fn outcome(&mut self, outcome: &'static str) {
        self.set("gannet.outcome", outcome);
    }

    /// As [`outcome`](Self::outcome), and as [`fail`](Self::fail).
    pub(crate) fn failed(&mut self, error: &dyn fmt::Display) {
        self.outcome("failed");
        self.fail(error);
    }
}

impl Parent {
    /// The span of a wait for what is asked for.
    pub(crate) fn fetch(&self, key: &CacheKey) -> Span {
        let mut span = self.child(Kind::Internal, "fetch");
        span.about(key);
        span
    }

    /// The span of one attempt at this source.
    pub(crate) fn attempt(
        &self,
        request: &Request<CacheKey, Reply>,
        source: impl FnOnce() -> String,
    ) -> Span {
        let mut span = self.child(Kind::Internal, "attempt");
        if span.is_on() {
            span.set("gannet.source", source().as_str());
            span.set("gannet.attempt", request.attempt.0);
            span.set(
                "gannet.stage",
                format!("{:?}", request.stage).to_lowercase().as_str(),
            );
            span.set("gannet.from_byte", request.from_byte);
            span.outcome(ABORTED);
        }
        span
    }
}

/// Has an attempt's span last as long as its body does; the commit of what it brings hangs under
/// `fetch`.
pub(crate) fn opened(
    mut span: Span,
    fetch: Parent,
    answer: Result<Answer<Reply>, AttemptError>,
) -> Result<Answer<Reply>, AttemptError> {
    if !span.is_on() {
        return answer;
    }
    let mut answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            ended(&mut span, &error);
            return Err(error);
        }
    };
    let Reply::Chunk { from, trace } = &mut answer.meta else {
        span.outcome("ok");
        return Ok(answer);
    };
    *trace = fetch;
    span.set("gannet.from", from.name());
    let left = answer
        .total
        .map(|total| total.saturating_sub(answer.from_byte));
    let body = std::mem::replace(&mut answer.body, Box::pin(futures_util::stream::empty()));
    answer.body = Box::pin(Traced {
        body,
        brought: 0,
        left,
        span,
    });
    Ok(answer)
}

fn ended(span: &mut Span, error: &AttemptError) {
    match error.end {
        End::Missing => span.outcome("missing"),
        end => span.failed(&format_args!("{end:?}: {}", error.detail)),
    }
}

impl ChunkFrom {
    const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Shared => "shared",
            Self::Origin => "origin",
            Self::Member => "member",
            Self::Holder => "holder",
        }
    }
}

/// A body and the span of the attempt that brings it.
struct Traced {
    body: ByteStream,
    brought: u64,
    /// How much of it there is.
    left: Option<u64>,
    span: Span,
}

impl Stream for Traced {
    type Item = Result<Bytes, AttemptError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = std::task::ready!(self.body.as_mut().poll_next(cx));
        match &item {
            Some(Ok(bytes)) => self.brought += bytes.len() as u64,
            Some(Err(error)) => ended(&mut self.span, error),
            None => {}
        }
        Poll::Ready(item)
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let brought = self.brought;
        self.span.set("gannet.bytes", brought);
        if self.left == Some(brought) {
            self.span.outcome("ok");
        }
    }
}
