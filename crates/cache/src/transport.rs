//! One request to one source: how the fetcher reaches origins and the shared store.
//!
//! Exactly one request for each attempt. Every range read carries the etag that the client was
//! promised, and the origin's answer is compared with it before its first byte is used. What the
//! primary origin says of an object itself (it is not there, it has no etag) is an answer like any
//! other, shared by all who asked; what it says of the way is a failure, and the engine goes on.

use crate::{
    askers::{Asker, Askers, Side},
    cluster::Cluster,
    failure::{attempt_error, of_the_object, store_attempt_error},
    key::{CacheKey, ChunkKey, Version, identity_of},
    listing::Listings,
    meta::{Known, MetaCache},
    metrics::{Metrics, OriginOp, OriginOutcome},
    origin::{self, Origin, OriginError},
    select::{Source, Sources},
    throttle::Throttle,
    tiers::Tiers,
    traces::{self, Parent, Tracer},
    ttl::TtlMap,
    types::{BucketEntry, ListPage, ObjectError},
    versions::Versions,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use gannet::{
    Answer, AttemptError, ByteStream, Request, Transport,
    engine::{Fault, FetchId, Stage},
};
use gannet_store::Blob;
use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

/// What comes before the bytes of an answer; for all but chunks, the answer itself.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Bytes of a chunk follow.
    Chunk {
        /// From where.
        from: ChunkFrom,
        /// Where the span of its commit hangs.
        trace: Parent,
    },
    Head(Known),
    List(Result<Arc<ListPage>, ObjectError>),
    Buckets(Result<Arc<[BucketEntry]>, ObjectError>),
    Bucket(Result<(), ObjectError>),
}

/// Where a chunk comes from, which says where it need not be stored again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChunkFrom {
    /// Memory or disk: it was committed while this fetch was on its way.
    Local,
    /// The shared store.
    Shared,
    /// An origin.
    Origin,
    /// Another member of the cluster, whose copy it is.
    Member,
    /// The member that coordinated it before us: the copy is ours from now on.
    Holder,
}

/// Origins and the shared store, as the fetcher reaches them.
#[derive(Debug)]
pub(crate) struct Ways {
    pub(crate) origin_id: Arc<str>,
    /// The cluster that this cache is a member of.
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) origins: Vec<Arc<dyn Origin>>,
    pub(crate) sources: Sources,
    pub(crate) tiers: Arc<Tiers>,
    pub(crate) meta: Arc<MetaCache>,
    pub(crate) listings: Arc<Listings>,
    pub(crate) versions: Arc<Versions>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) throttles: Vec<Throttle>,
    pub(crate) under_way: UnderWay,
    pub(crate) askers: Askers,
    pub(crate) finals: Finals,
    pub(crate) tracer: Tracer,
}

/// The transport. Cheap to clone: all clones are one.
#[derive(Clone, Debug)]
pub(crate) struct OriginTransport(pub(crate) Arc<Ways>);

impl Transport for OriginTransport {
    type Key = CacheKey;
    type Meta = Reply;

    async fn open(&self, request: Request<CacheKey, Reply>) -> Result<Answer<Reply>, AttemptError> {
        let ways = &self.0;
        let Some(source) = ways.sources.source(request.source) else {
            return Err(AttemptError::failed(Fault::Local, "no such source"));
        };
        // None for what nobody has asked for yet: read ahead, refreshed ahead.
        let asker = ways.askers.of(Side::Home, request.fetch, &request.key);
        let asker_shown = asker.as_ref().map_or("-", |asker| &asker.request);
        tracing::debug!(
            request = asker_shown, key = ?request.key, source = %ways.sources.name(request.source),
            attempt = request.attempt.0, fetch = request.fetch.0, stage = ?request.stage,
            from_byte = request.from_byte, "attempt"
        );
        let fetch = asker.as_ref().map(|asker| asker.trace.clone());
        let fetch = fetch.unwrap_or_default();
        let span = fetch.attempt(&request, || ways.sources.name(request.source));
        let answer = match source {
            Source::Origin { origin, .. }
                if let Some(said) = ways.finals.of(request.fetch, origin) =>
            {
                Err(attempt_error(&said))
            }
            _ => {
                let known = asker.is_some();
                let asker = known.then(|| Asker::within(asker.clone(), span.parent()));
                origin::on_behalf_of(asker, ways.open(&request, source, span.parent())).await
            }
        };
        if let Err(error) = &answer {
            tracing::debug!(
                request = asker_shown, key = ?request.key, source = %ways.sources.name(request.source),
                attempt = request.attempt.0, fetch = request.fetch.0, end = ?error.end, detail = %error.detail, "attempt failed"
            );
        }
        traces::opened(span, fetch, answer)
    }
}

impl Ways {
    async fn open(
        self: &Arc<Self>,
        request: &Request<CacheKey, Reply>,
        source: Source,
        trace: Parent,
    ) -> Result<Answer<Reply>, AttemptError> {
        let guard = self.under_way.enter(&request.key);
        match (&request.key, source) {
            (CacheKey::Chunk(chunk), source) => {
                self.chunk(chunk, source, request, (guard, trace)).await
            }
            (key, source) => self.question(key, source, request, trace).await,
        }
    }

    /// Bytes of a chunk, from the byte that is asked for.
    async fn chunk(
        self: &Arc<Self>,
        chunk: &ChunkKey,
        source: Source,
        request: &Request<CacheKey, Reply>,
        (guard, trace): (Entered, Parent),
    ) -> Result<Answer<Reply>, AttemptError> {
        let from_byte = request.from_byte;
        let (place, len) = (chunk.place(), chunk.len());
        if from_byte >= len {
            return Err(AttemptError::failed(
                Fault::Local,
                "nothing is left to ask for",
            ));
        }
        // Another fetch of this chunk may have ended between the caller's look into the tiers and
        // this fetch's begin; what it committed need not be asked for again.
        if request.stage == Stage::First
            && let Some((_, blob)) = self.tiers.open_local(&place, len).await
        {
            return blob_answer(chunk, ChunkFrom::Local, &blob, from_byte, Some(guard));
        }
        let origin = match source {
            Source::Shared => {
                let opened = self.tiers.open_shared(&place, len).await;
                let blob = opened.map_err(|error| store_attempt_error(&error))?;
                let blob = blob.ok_or_else(AttemptError::missing)?;
                return blob_answer(chunk, ChunkFrom::Shared, &blob, from_byte, Some(guard));
            }
            Source::Member(member) => {
                let cluster = self.cluster.as_ref().ok_or_else(AttemptError::missing)?;
                let body = cluster.held_chunk(self, member, request, trace).await?;
                return Ok(chunk_answer(chunk, ChunkFrom::Holder, from_byte, body));
            }
            Source::Origin { origin, .. } => origin,
        };
        let (version, range) = (&chunk.version, chunk.range());
        let mut call = self.call(origin, OriginOp::Read);
        let read = self.origins[origin]
            .read(
                &version.name,
                &version.etag,
                Some(version.size),
                range.start + from_byte..range.end,
            )
            .await;
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) => {
                call.ended(&error);
                self.learn(chunk, origin, &error);
                self.finals.note(request.fetch, origin, &error);
                return Err(attempt_error(&error));
            }
        };
        let left = len - from_byte;
        let body = Box::pin(Counted {
            bytes,
            call: Some(call),
            left,
            _guard: guard,
        });
        Ok(chunk_answer(chunk, ChunkFrom::Origin, from_byte, body))
    }

    /// The primary says that what we know of an object is out of date.
    fn learn(&self, chunk: &ChunkKey, origin: usize, error: &OriginError) {
        let gone = matches!(
            error,
            OriginError::Changed | OriginError::NoSuchKey | OriginError::NoSuchBucket
        );
        if origin == 0 && gone {
            let Version { name, etag, .. } = &*chunk.version;
            let dropped = self.meta.drop_version(name, etag);
            if let Some(cluster) = &self.cluster {
                cluster.gone(name, etag);
            }
            tracing::debug!(?chunk, %error, dropped, "the origin has another version");
        }
    }

    /// Everything but chunks: one question, one answer. It is kept here, where it is known for how long
    /// it is good: the origin's for as long as we believe answers, another member's for what is left of
    /// that.
    async fn question(
        self: &Arc<Self>,
        key: &CacheKey,
        source: Source,
        request: &Request<CacheKey, Reply>,
        trace: Parent,
    ) -> Result<Answer<Reply>, AttemptError> {
        if request.stage == Stage::First
            && let Some(reply) = self.answered_meanwhile(key)
        {
            return Ok(Answer::whole(reply, Bytes::new()));
        }
        let reply = match source {
            // Only chunks are in the shared store.
            Source::Shared => return Err(AttemptError::missing()),
            Source::Member(member) => {
                let cluster = self.cluster.as_ref().ok_or_else(AttemptError::missing)?;
                cluster.held_answer(self, member, request, trace).await?
            }
            Source::Origin { origin, .. } => {
                let reply = self.ask_origin(key, origin, request.fetch).await?;
                self.keep(key, &reply, Duration::MAX);
                reply
            }
        };
        Ok(Answer::whole(reply, Bytes::new()))
    }

    async fn ask_origin(
        self: &Arc<Self>,
        key: &CacheKey,
        index: usize,
        fetch: FetchId,
    ) -> Result<Reply, AttemptError> {
        let origin = &self.origins[index];
        Ok(match key {
            CacheKey::Head(name) => {
                let mut call = self.call(index, OriginOp::Head);
                let answer = self.answered(index, fetch, &mut call, origin.head(name).await)?;
                Reply::Head(answer.map(Arc::new))
            }
            CacheKey::List(query) => {
                let mut call = self.call(index, OriginOp::List);
                let answer = self.answered(index, fetch, &mut call, origin.list(query).await)?;
                Reply::List(answer.map(Arc::new))
            }
            CacheKey::Buckets => {
                let mut call = self.call(index, OriginOp::Buckets);
                let answer = self.answered(index, fetch, &mut call, origin.buckets().await)?;
                Reply::Buckets(answer.map(Arc::from))
            }
            CacheKey::Bucket(bucket) => {
                let mut call = self.call(index, OriginOp::Bucket);
                let answer = origin.head_bucket(bucket).await;
                Reply::Bucket(self.answered(index, fetch, &mut call, answer)?)
            }
            CacheKey::Chunk(_) => {
                return Err(AttemptError::failed(Fault::Local, "a chunk is no question"));
            }
        })
    }

    /// Keeps an answer, for so long and no longer than answers of its kind are believed.
    pub(crate) fn keep(&self, key: &CacheKey, reply: &Reply, fresh: Duration) {
        match (key, reply) {
            (CacheKey::Head(name), Reply::Head(known)) => self.meta.insert(name, known, fresh),
            (CacheKey::List(query), Reply::List(Ok(page))) => {
                self.listings.keep_page(query, page, fresh);
            }
            (CacheKey::Buckets, Reply::Buckets(Ok(buckets))) => {
                self.listings.keep_buckets(buckets, fresh);
            }
            (CacheKey::Bucket(bucket), Reply::Bucket(answer)) => {
                self.listings.keep_bucket(bucket, answer, fresh);
            }
            // A listing that was refused is asked for again.
            _ => {}
        }
    }

    /// Another fetch of the same key may have ended between the caller's look into the cache and this
    /// fetch's begin.
    pub(crate) fn answered_meanwhile(&self, key: &CacheKey) -> Option<Reply> {
        Some(match key {
            CacheKey::Head(name) => Reply::Head(self.meta.young(name)?),
            CacheKey::List(query) => Reply::List(Ok(self.listings.page(query)?)),
            CacheKey::Buckets => Reply::Buckets(Ok(self.listings.buckets()?)),
            CacheKey::Bucket(bucket) => Reply::Bucket(self.listings.bucket(bucket)?),
            CacheKey::Chunk(_) => return None,
        })
    }

    /// Whether an attempt at this key is under way, here or at another member.
    pub(crate) fn is_under_way(&self, key: &CacheKey) -> bool {
        let elsewhere = |cluster: &Arc<Cluster>| cluster.receiving.has(key);
        self.under_way.has(key) || self.cluster.as_ref().is_some_and(elsewhere)
    }

    /// For how long what is known of a key will still be believed.
    pub(crate) fn fresh_for(&self, key: &CacheKey) -> Option<Duration> {
        match key {
            CacheKey::Head(name) => self.meta.fresh_for(name),
            key => self.listings.fresh_for(key),
        }
    }

    /// An origin's answer: final where it is good, or where it is the primary's word on the object;
    /// a failure otherwise. An absence that only a mirror claims is not believed.
    fn answered<T>(
        &self,
        index: usize,
        fetch: FetchId,
        call: &mut Call,
        answer: Result<T, OriginError>,
    ) -> Result<Result<T, ObjectError>, AttemptError> {
        match answer {
            Ok(answer) => {
                call.good();
                Ok(Ok(answer))
            }
            Err(error) => {
                call.ended(&error);
                self.finals.note(fetch, index, &error);
                match of_the_object(&error) {
                    Some(error) if index == 0 => Ok(Err(error)),
                    _ => Err(attempt_error(&error)),
                }
            }
        }
    }

    fn call(self: &Arc<Self>, origin: usize, op: OriginOp) -> Call {
        self.throttles[origin].begin();
        Call {
            ways: Arc::clone(self),
            origin,
            op,
            over: false,
        }
    }
}

fn blob_answer(
    chunk: &ChunkKey,
    from: ChunkFrom,
    blob: &Blob,
    from_byte: u64,
    guard: Option<Entered>,
) -> Result<Answer<Reply>, AttemptError> {
    let bytes = blob
        .stream(from_byte..blob.len())
        .map_err(|error| store_attempt_error(&error))?
        .map(move |item| {
            let _under_way = &guard;
            item.map_err(|error| store_attempt_error(&error))
        });
    Ok(chunk_answer(chunk, from, from_byte, Box::pin(bytes)))
}

/// Bytes of a chunk from the byte that was asked for.
pub(crate) fn chunk_answer(
    chunk: &ChunkKey,
    from: ChunkFrom,
    from_byte: u64,
    body: ByteStream,
) -> Answer<Reply> {
    Answer {
        meta: Reply::Chunk {
            from,
            trace: Parent::default(),
        },
        identity: identity_of(&chunk.version.etag),
        total: Some(chunk.len()),
        from_byte,
        body,
    }
}

/// A chunk that is held here already.
pub(crate) fn held_answer(
    chunk: &ChunkKey,
    blob: &Blob,
    from_byte: u64,
) -> Result<Answer<Reply>, AttemptError> {
    blob_answer(chunk, ChunkFrom::Local, blob, from_byte, None)
}

/// One request to an origin, from its begin to its one end: counted, and reported to the throttle.
#[derive(Debug)]
struct Call {
    ways: Arc<Ways>,
    origin: usize,
    op: OriginOp,
    over: bool,
}

impl Call {
    fn good(&mut self) {
        self.end(OriginOutcome::Ok);
    }

    fn ended(&mut self, error: &OriginError) {
        self.end(OriginOutcome::of(error));
    }

    fn end(&mut self, outcome: OriginOutcome) {
        if !std::mem::replace(&mut self.over, true) {
            self.ways.metrics.origin_request(self.op, outcome);
            self.ways.throttles[self.origin].end(outcome);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(OriginOutcome::Aborted);
    }
}

/// The bytes of one origin read: counted, and never more than were asked for.
struct Counted {
    bytes: crate::origin::OriginStream,
    call: Option<Call>,
    left: u64,
    _guard: Entered,
}

impl Stream for Counted {
    type Item = Result<Bytes, AttemptError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(call) = &mut self.call else {
            return Poll::Ready(None);
        };
        let metrics = Arc::clone(&call.ways.metrics);
        let error = match std::task::ready!(self.bytes.poll_next_unpin(cx)) {
            Some(Ok(bytes)) => {
                metrics.origin_bytes(bytes.len() as u64);
                if let Some(left) = self.left.checked_sub(bytes.len() as u64) {
                    self.left = left;
                    return Poll::Ready(Some(Ok(bytes)));
                }
                OriginError::Malformed("more bytes than were asked for".into())
            }
            Some(Err(error)) => error,
            None if self.left == 0 => {
                if let Some(mut call) = self.call.take() {
                    call.good();
                }
                return Poll::Ready(None);
            }
            None => OriginError::Truncated(format!("{} bytes short", self.left).into()),
        };
        if let Some(mut call) = self.call.take() {
            call.ended(&error);
        }
        Poll::Ready(Some(Err(attempt_error(&error))))
    }
}

/// What origins said for good in the course of a fetch: an origin has several lanes, and the engine
/// tries each, but the same question would get the same answer.
#[derive(Debug)]
pub(crate) struct Finals(TtlMap<(FetchId, usize), OriginError>);

impl Finals {
    pub(crate) fn new() -> Self {
        Self(TtlMap::new(4096, usize::MAX))
    }

    fn note(&self, fetch: FetchId, origin: usize, error: &OriginError) {
        if matches!(error, OriginError::Changed) || of_the_object(error).is_some() {
            self.0
                .insert((fetch, origin), error.clone(), 1, Duration::from_secs(30));
        }
    }

    fn of(&self, fetch: FetchId, origin: usize) -> Option<OriginError> {
        self.0.get(&(fetch, origin)).map(|found| found.value)
    }
}

/// Which keys have a request under way: a caller whose key has none is queued, and for no longer
/// than the queue's time.
#[derive(Clone, Debug, Default)]
pub(crate) struct UnderWay(Arc<Mutex<HashMap<CacheKey, u32>>>);

impl UnderWay {
    fn enter(&self, key: &CacheKey) -> Entered {
        *self.lock().entry(key.clone()).or_default() += 1;
        Entered {
            under_way: self.clone(),
            key: key.clone(),
        }
    }

    pub(crate) fn has(&self, key: &CacheKey) -> bool {
        self.lock().contains_key(key)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<CacheKey, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Entered {
    under_way: UnderWay,
    key: CacheKey,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut map = self.under_way.lock();
        if let Some(count) = map.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                map.remove(&self.key);
            }
        }
    }
}
