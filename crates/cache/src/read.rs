//! A range of an object as a stream: chunk after chunk, each from the nearest place that has it.
//!
//! The first byte decides. Until it is at hand, an error is the answer to the request; after it, an
//! error ends the stream and the response is cut. Bytes of two versions never meet in one stream: all
//! its chunks carry the one etag it was opened with.
//!
//! A chunk that is being fetched is read as the origin delivers it, from the byte that is wanted. A
//! reader too slow for the memory that such bodies may take continues from the store; and one that can
//! send files does so as soon as the chunk is committed, since what is in a file need not be copied.

use crate::{
    ahead::Ahead,
    core::{Core, Route},
    edge::backend::RequestContext,
    key::{CacheKey, ChunkKey, Version},
    metrics::Tier,
    plans::DEMAND,
    readahead::window,
    tiers::FILE_BYTES_MIN,
    traces::Span,
    types::{ObjectError, Segment, SegmentStream},
};
use futures_util::{StreamExt as _, stream};
use gannet::{BodyReader, FetchError, StreamError};
use gannet_store::{Blob, BlobStream, Place, StoreError};
use std::{ops::Range, sync::Arc};

/// So often in a row a chunk is opened without a byte coming of it before the read fails: a stored
/// copy that proves corrupt is dropped and fetched anew, unseen by the client.
const FRUITLESS_MAX: u32 = 3;

/// Opens a range (not empty, within the object) of a version; resolves when its first byte is at
/// hand. Segments in files come only if `files` says that the caller can send them.
pub(crate) async fn open(
    core: &Arc<Core>,
    version: &Arc<Version>,
    range: Range<u64>,
    context: &RequestContext,
    files: bool,
) -> Result<SegmentStream, ObjectError> {
    let mut reader = ObjectReader::new(core, version, range, context);
    reader.files = files;
    let first = reader.first().await?;
    // Not before: what fails at once should cost the origin one request.
    reader.looks_ahead = true;
    drop(reader.look_ahead());
    Ok(reader.stream(first))
}

/// The same for a part of one chunk that another member asks for, by this route.
pub(crate) async fn open_for_member(
    core: &Arc<Core>,
    version: &Arc<Version>,
    range: Range<u64>,
    context: &RequestContext,
    route: Route,
) -> Result<SegmentStream, ObjectError> {
    let mut reader = ObjectReader::new(core, version, range, context);
    reader.route = route;
    let first = reader.first().await?;
    Ok(reader.stream(first))
}

/// A range of a version that is being read.
struct ObjectReader {
    core: Arc<Core>,
    version: Arc<Version>,
    /// What is still to be read.
    range: Range<u64>,
    context: RequestContext,
    route: Route,
    /// Whether the caller can send files.
    files: bool,
    /// The chunk that is being read, and its span.
    chunk: Option<Chunk>,
    span: Span,
    /// The chunks behind it.
    aheads: Vec<Arc<Ahead>>,
    looks_ahead: bool,
    /// Chunks opened in a row that brought no byte.
    fruitless: u32,
}

enum Chunk {
    /// From a store.
    Held(BlobStream),
    /// From a file, which the caller sends: one segment.
    File(Blob),
    /// As it arrives.
    Arriving(Box<Arriving>),
}

/// A chunk that is being fetched.
struct Arriving {
    body: BodyReader,
    /// Where it will be committed.
    place: Place,
    len: u64,
}

impl ObjectReader {
    /// For a client that takes bytes only; reads nothing ahead.
    fn new(
        core: &Arc<Core>,
        version: &Arc<Version>,
        range: Range<u64>,
        context: &RequestContext,
    ) -> Self {
        Self {
            core: Arc::clone(core),
            version: Arc::clone(version),
            range,
            context: context.clone(),
            route: Route::Client,
            files: false,
            chunk: None,
            span: Span::default(),
            aheads: Vec::new(),
            looks_ahead: false,
            fruitless: 0,
        }
    }

    /// The first bytes, or why there are none.
    async fn first(&mut self) -> Result<Segment, ObjectError> {
        match self.next().await {
            Some(Ok(first)) => Ok(first),
            Some(Err(error)) => Err(self.before_first_byte(error)),
            None => Err(ObjectError::Internal("a range without bytes".into())),
        }
    }

    /// All of it, the first bytes included.
    fn stream(self, first: Segment) -> SegmentStream {
        let rest = stream::unfold(Some(self), |reader| async move {
            let mut reader = reader?;
            let item = reader.next().await?;
            let reader = item.is_ok().then_some(reader);
            Some((item, reader))
        });
        Box::pin(stream::iter([Ok(first)]).chain(rest))
    }

    /// The next bytes.
    async fn next(&mut self) -> Option<Result<Segment, ObjectError>> {
        while !self.range.is_empty() {
            self.take_file();
            let chunk = match &mut self.chunk {
                Some(chunk) => chunk,
                None => match self.open_chunk().await {
                    Ok(chunk) => self.chunk.insert(chunk),
                    Err(error) => return Some(Err(error)),
                },
            };
            let item = match chunk {
                Chunk::Held(stream) => stream.next().await.map(|item| item.map_err(Broke::from)),
                Chunk::File(blob) => {
                    let blob = blob.clone();
                    self.chunk = None;
                    return Some(self.file_segment(blob));
                }
                Chunk::Arriving(arriving) => {
                    let item = arriving.body.next().await;
                    item.map(|item| item.map_err(Broke::from))
                }
            };
            match item {
                Some(Ok(bytes)) if !bytes.is_empty() => {
                    self.range.start += bytes.len() as u64;
                    self.fruitless = 0;
                    if self.range.start.is_multiple_of(self.version.chunk_size) {
                        self.chunk = None;
                    }
                    return Some(Ok(Segment::Bytes(bytes)));
                }
                Some(Ok(_)) => {}
                ended => {
                    self.chunk = None;
                    if let Err(error) = self.again(ended.and_then(Result::err)) {
                        return Some(Err(error));
                    }
                }
            }
        }
        None
    }

    /// Reads on from the file of a chunk that was committed meanwhile. Only if the body that is being
    /// read is the one that was committed: it is complete, and has not begun anew since.
    fn take_file(&mut self) {
        let Some(Chunk::Arriving(arriving)) = &self.chunk else {
            return;
        };
        let left = self.chunk_end() - self.range.start;
        if !self.files || left < FILE_BYTES_MIN {
            return;
        }
        let tiers = &self.core.ways.tiers;
        if let Some((_, blob)) = tiers.held_on_disk(&arriving.place, arriving.len)
            && arriving.body.is_complete()
        {
            self.chunk = Some(Chunk::File(blob));
        }
    }

    /// Where the wanted part of the chunk ends in which the next byte lies.
    fn chunk_end(&self) -> u64 {
        let size = self.version.chunk_size;
        self.range.end.min((self.range.start / size + 1) * size)
    }

    /// All that is wanted of the chunk in which the next byte lies, in the file that it is.
    fn file_segment(&mut self, blob: Blob) -> Result<Segment, ObjectError> {
        let (start, end) = (self.range.start, self.chunk_end());
        let view = blob
            .file()
            .ok_or_else(|| ObjectError::Internal("a chunk in a file without a file".into()))?;
        let base = view.offset + start % self.version.chunk_size;
        self.range.start = end;
        self.fruitless = 0;
        Ok(Segment::File {
            file: view.file,
            range: base..base + (end - start),
            copy: Some(blob),
        })
    }

    /// Whether to open the chunk again where it ended before its last byte.
    fn again(&mut self, broke: Option<Broke>) -> Result<(), ObjectError> {
        self.fruitless += 1;
        let why = match broke {
            Some(Broke::Stream(StreamError::Failed(error))) => {
                return Err(self.why(&error));
            }
            // What the client has may be wrong: nothing must follow it.
            Some(Broke::Stream(StreamError::Cut)) => {
                return Err(ObjectError::Unavailable(
                    "the origin sent wrong bytes".into(),
                ));
            }
            Some(Broke::Stream(StreamError::Lagged { .. })) => "the reader lagged".to_owned(),
            Some(Broke::Store(error)) => error.to_string(),
            None => "it ended early".to_owned(),
        };
        tracing::debug!(
            request = %self.context.request_id, version = %self.version.etag, at = self.range.start,
            why, "opening a chunk again"
        );
        if self.fruitless > FRUITLESS_MAX {
            return Err(ObjectError::Internal(why.into()));
        }
        Ok(())
    }

    /// What a fetch of the chunk in which the next byte lies ended of.
    fn why(&self, error: &FetchError) -> ObjectError {
        let chunk = ChunkKey {
            version: Arc::clone(&self.version),
            index: self.range.start / self.version.chunk_size,
        };
        self.core.why(&CacheKey::Chunk(chunk), error)
    }

    /// Opens the chunk that holds the next byte.
    async fn open_chunk(&mut self) -> Result<Chunk, ObjectError> {
        let index = self.range.start / self.version.chunk_size;
        let chunk = ChunkKey {
            version: Arc::clone(&self.version),
            index,
        };
        let (place, all) = (chunk.place(), chunk.range());
        let within = self.range.start - all.start..self.range.end.min(all.end) - all.start;
        let request = Arc::clone(&self.context.request_id);
        let ways = Arc::clone(&self.core.ways);
        // The window moves on with the reader. What was read ahead of this chunk is let go when the
        // demand for it has taken its place, and not before.
        let _until_joined = self.looks_ahead.then(|| self.look_ahead());
        if let Some((tier, blob)) = ways.tiers.open_local(&place, chunk.len()).await {
            tracing::debug!(%request, ?chunk, tier = tier.name(), "hit");
            if self.context.trace.is_on() {
                self.span = self.context.trace.fetch(&CacheKey::Chunk(chunk.clone()));
                self.span.set("gannet.tier", tier.name());
            }
            ways.metrics.hit(tier);
            if tier == Tier::Disk {
                // It may have been there since before the start.
                ways.versions.note(&chunk.version);
            }
            ways.tiers.promote(&place, tier, &blob);
            if self.files && within.end - within.start >= FILE_BYTES_MIN && blob.file().is_some() {
                return Ok(Chunk::File(blob));
            }
            let stream = blob.stream(within);
            return stream
                .map(Chunk::Held)
                .map_err(|e| ObjectError::Internal(e.to_string().into()));
        }
        ways.metrics.miss();
        tracing::debug!(%request, ?chunk, ?within, "miss");
        let len = chunk.len();
        let key = CacheKey::Chunk(chunk);
        let (fetcher, plans) = self.core.fetcher(&key, self.route);
        let fetch = fetcher
            .stream(key.clone())
            .at(within.start)
            .until(within.end);
        let fetch = fetch.plan(plans.chunk(all.end - all.start));
        let fetch = fetch.priority(DEMAND).owner(self.context.owner);
        self.span = self.context.trace.fetch(&key);
        let _asking = ways.askers.enter(&key, &request, &mut self.span);
        let streaming = self.core.in_turn(&key, fetch.into_future()).await;
        let streaming = streaming.inspect_err(|error| self.span.fail(error))?;
        Ok(Chunk::Arriving(Box::new(Arriving {
            body: streaming.body,
            place,
            len,
        })))
    }

    /// Fetches the next chunks of the range while this one is sent. Gives the window that this one
    /// replaces.
    fn look_ahead(&mut self) -> Vec<Arc<Ahead>> {
        let size = self.version.chunk_size;
        let chunks = window(
            self.range.start / size,
            self.core.read_ahead,
            self.range.end.div_ceil(size),
        );
        let aheads = self
            .core
            .read_ahead_of(&self.version, chunks, &self.context);
        std::mem::replace(&mut self.aheads, aheads)
    }

    /// What an error means while the client has seen nothing: an object that is gone or changed is
    /// looked up anew.
    fn before_first_byte(&self, error: ObjectError) -> ObjectError {
        if !matches!(error, ObjectError::NoSuchKey | ObjectError::NoSuchBucket) {
            return error;
        }
        self.core
            .ways
            .meta
            .drop_version(&self.version.name, &self.version.etag);
        ObjectError::EtagChanged
    }
}

/// Why a chunk ended before its last byte.
enum Broke {
    Stream(StreamError),
    Store(StoreError),
}

impl From<StreamError> for Broke {
    fn from(error: StreamError) -> Self {
        Self::Stream(error)
    }
}

impl From<StoreError> for Broke {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
