//! What the edge needs of the rest of the cache.

use crate::{
    origin::BoxFuture,
    traces::Parent,
    types::{
        BucketEntry, ByteStream, ListPage, ListQuery, ObjectError, ObjectMeta, ObjectName, Segment,
        SegmentStream,
    },
};
use futures_util::TryStreamExt as _;
use std::{fmt, ops::Range, sync::Arc};

/// The read path as the edge sees it; implemented by the cache core, and by a plain map in tests.
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// The object's metadata: from the cache, or from the origin.
    fn head<'a>(
        &'a self,
        name: &'a ObjectName,
        context: &'a RequestContext,
    ) -> BoxFuture<'a, Result<Arc<ObjectMeta>, ObjectError>>;

    /// Bytes `range` of the version that `meta` describes. Resolves when the first byte is at hand,
    /// so that an error can still become a status; an error after that ends the stream, and the edge
    /// cuts the response. [`ObjectError::EtagChanged`] from the future (not the stream) means: call
    /// `head` again (the stale entry is dropped already) and start over, once.
    fn read<'a>(
        &'a self,
        name: &'a ObjectName,
        meta: &'a Arc<ObjectMeta>,
        range: Range<u64>,
        context: &'a RequestContext,
    ) -> BoxFuture<'a, Result<ByteStream, ObjectError>>;

    /// As [`read`](Self::read), but what is in verified files may come as such.
    fn read_segments<'a>(
        &'a self,
        name: &'a ObjectName,
        meta: &'a Arc<ObjectMeta>,
        range: Range<u64>,
        context: &'a RequestContext,
    ) -> BoxFuture<'a, Result<SegmentStream, ObjectError>> {
        let bytes = self.read(name, meta, range, context);
        Box::pin(async move { Ok(Box::pin(bytes.await?.map_ok(Segment::Bytes)) as SegmentStream) })
    }

    /// The metadata if it is cached and fresh. Never blocks.
    fn cached_head(&self, name: &ObjectName) -> Option<Arc<ObjectMeta>>;

    /// Bytes `range`, if all of it is held in memory or in verified files. Never blocks. Counts as a
    /// hit (metrics, recency) when it answers `Some`.
    fn held(
        &self,
        name: &ObjectName,
        meta: &Arc<ObjectMeta>,
        range: Range<u64>,
    ) -> Option<Vec<Segment>>;

    /// One page of a listing.
    fn list<'a>(
        &'a self,
        query: &'a ListQuery,
        context: &'a RequestContext,
    ) -> BoxFuture<'a, Result<Arc<ListPage>, ObjectError>>;

    /// All buckets.
    fn buckets<'a>(
        &'a self,
        context: &'a RequestContext,
    ) -> BoxFuture<'a, Result<Vec<BucketEntry>, ObjectError>>;

    /// Whether the bucket is there.
    fn head_bucket<'a>(
        &'a self,
        bucket: &'a str,
        context: &'a RequestContext,
    ) -> BoxFuture<'a, Result<(), ObjectError>>;
}

/// Who asks, for logs and fairness.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// The request id that the response carries.
    pub request_id: Arc<str>,
    /// Callers with the same number share their turns at the origin (a hash of the identity, or of
    /// the client's address where anonymous).
    pub owner: u32,
    /// Where the spans of what is done for it hang.
    pub trace: Parent,
}
