//! The read path as the edge asks it: the [`Backend`] that the edge knows, over what `core.rs` joins.

use crate::{
    core::{ReadPath, mismatched},
    edge::backend::{Backend, RequestContext},
    key::{CacheKey, Places, chunk_range, chunks_of},
    meta::Known,
    metrics::AnswerCache,
    origin::BoxFuture,
    readahead::steps_over,
    traces::Parent,
    transport::Reply,
    types::{
        BucketEntry, ByteStream, ListPage, ListQuery, ObjectError, ObjectMeta, ObjectName, Segment,
        SegmentStream,
    },
};
use futures_util::StreamExt as _;
use std::{ops::Range, sync::Arc};

/// A response of more chunks than this is streamed although all of it is held, so that it does not
/// keep so many files open at once.
const HELD_CHUNKS_MAX: u64 = 128;

impl Backend for ReadPath {
    fn head<'a>(
        &'a self,
        name: &'a ObjectName,
        context: &'a RequestContext,
    ) -> BoxFuture<'a, Known> {
        Box::pin(self.0.lookup(name, context))
    }

    fn read<'a>(
        &'a self,
        name: &'a ObjectName,
        meta: &'a Arc<ObjectMeta>,
        range: Range<u64>,
        context: &'a RequestContext,
    ) -> BoxFuture<'a, Result<ByteStream, ObjectError>> {
        Box::pin(async move {
            let segments = self.0.read(name, meta, range, context, false).await?;
            let bytes = segments.map(|segment| match segment? {
                Segment::Bytes(bytes) => Ok(bytes),
                Segment::File { .. } => Err(ObjectError::Internal("a file unasked for".into())),
            });
            Ok(Box::pin(bytes) as ByteStream)
        })
    }

    fn read_segments<'a>(
        &'a self,
        name: &'a ObjectName,
        meta: &'a Arc<ObjectMeta>,
        range: Range<u64>,
        context: &'a RequestContext,
    ) -> BoxFuture<'a, Result<SegmentStream, ObjectError>> {
        Box::pin(self.0.read(name, meta, range, context, true))
    }

    fn cached_head(&self, name: &ObjectName) -> Option<Arc<ObjectMeta>> {
        let found = self.0.ways.meta.get(name)?;
        let meta = found.value.ok()?;
        self.0.ways.metrics.answer(AnswerCache::Head, true);
        if found.ageing && tokio::runtime::Handle::try_current().is_ok() {
            self.0.refresh(name.clone());
        }
        Some(meta)
    }

    fn held(
        &self,
        name: &ObjectName,
        meta: &Arc<ObjectMeta>,
        range: Range<u64>,
    ) -> Option<Vec<Segment>> {
        let core = &self.0;
        if range.start > range.end || range.end > meta.size {
            return None;
        }
        if range.is_empty() {
            return Some(Vec::new());
        }
        let chunks = chunks_of(&range, core.chunk_size);
        if chunks.end - chunks.start > HELD_CHUNKS_MAX {
            return None;
        }
        let places = Places::new(&core.origin_id, name, &meta.etag, core.chunk_size);
        let mut segments = Vec::new();
        let mut tiers = Vec::new();
        for index in chunks {
            let chunk = chunk_range(meta.size, core.chunk_size, index);
            let place = places.at(index);
            let (tier, blob) = core.ways.tiers.held(&place, chunk.end - chunk.start)?;
            let within =
                range.start.max(chunk.start) - chunk.start..range.end.min(chunk.end) - chunk.start;
            if let Some(parts) = blob.slice(within.clone()) {
                segments.extend(parts.into_iter().map(Segment::Bytes));
            } else {
                let view = blob.file()?;
                core.ways.tiers.promote(&place, tier, &blob);
                segments.push(Segment::File {
                    file: view.file,
                    range: view.offset + within.start..view.offset + within.end,
                    copy: Some(blob),
                });
            }
            tiers.push(tier);
        }
        tiers
            .into_iter()
            .for_each(|tier| core.ways.metrics.hit(tier));
        // Who asks is not known here, and need not be for this.
        if core.read_ahead > 0 && steps_over(&range, core.chunk_size) {
            let version = core.version(name, meta);
            if core.steps_over(&version, &range) {
                let nobody = RequestContext {
                    request_id: "-".into(),
                    owner: 0,
                    trace: Parent::default(),
                };
                core.read_on(&version, &range, &nobody);
            }
        }
        Some(segments)
    }

    fn list<'a>(
        &'a self,
        query: &'a ListQuery,
        context: &'a RequestContext,
    ) -> BoxFuture<'a, Result<Arc<ListPage>, ObjectError>> {
        Box::pin(async move {
            let core = &self.0;
            let held = core.listings.page(query);
            core.ways.metrics.answer(AnswerCache::List, held.is_some());
            if let Some(page) = held {
                return Ok(page);
            }
            let key = CacheKey::List(Arc::new(query.clone()));
            match core.ask(key, context).await? {
                Reply::List(answer) => answer,
                _ => Err(mismatched()),
            }
        })
    }

    fn buckets<'a>(
        &'a self,
        context: &'a RequestContext,
    ) -> BoxFuture<'a, Result<Vec<BucketEntry>, ObjectError>> {
        Box::pin(async move {
            let core = &self.0;
            if let Some(buckets) = core.listings.buckets() {
                return Ok(buckets.to_vec());
            }
            match core.ask(CacheKey::Buckets, context).await? {
                Reply::Buckets(answer) => answer.map(|buckets| buckets.to_vec()),
                _ => Err(mismatched()),
            }
        })
    }

    fn head_bucket<'a>(
        &'a self,
        bucket: &'a str,
        context: &'a RequestContext,
    ) -> BoxFuture<'a, Result<(), ObjectError>> {
        Box::pin(async move {
            let core = &self.0;
            if let Some(known) = core.listings.bucket(bucket) {
                return known;
            }
            let key = CacheKey::Bucket(bucket.into());
            match core.ask(key, context).await? {
                Reply::Bucket(answer) => answer,
                _ => Err(mismatched()),
            }
        })
    }
}
