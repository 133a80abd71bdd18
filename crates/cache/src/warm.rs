//! Warming and purging: what an operator does to the cache by hand.

use crate::{
    core::{Core, ReadPath},
    edge::backend::RequestContext,
    key::{CacheKey, ChunkKey},
    plans,
    types::{ObjectError, ObjectName},
};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use gannet_store::StoreError;
use std::{collections::BTreeSet, sync::Arc};

/// Objects warmed at a time.
const OBJECTS_AT_ONCE: usize = 4;
/// Chunks of one object fetched at a time.
const CHUNKS_AT_ONCE: usize = 4;

/// What became of one object.
#[derive(Clone, Debug)]
pub(crate) struct Warmed {
    pub(crate) name: ObjectName,
    pub(crate) outcome: Result<Amount, ObjectError>,
}

/// How much was warmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    /// Length of the object.
    pub(crate) bytes: u64,
    /// Its chunks.
    pub(crate) chunks: u64,
    /// Those that were not held before.
    pub(crate) fetched: u64,
}

/// What was purged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Purged {
    /// Objects of which something was known.
    pub(crate) objects: u64,
    /// Chunks of them that were looked for in all tiers and removed.
    pub(crate) chunks: u64,
    /// Pages of listings.
    pub(crate) pages: u64,
}

impl ReadPath {
    /// Fetches objects into the store, and says of each what became of it, as it does. To drop the
    /// stream is to stop.
    pub(crate) fn warm(
        &self,
        names: Vec<ObjectName>,
        context: RequestContext,
    ) -> impl Stream<Item = Warmed> + Send + use<> {
        let core = Arc::clone(&self.0);
        let context = Arc::new(context);
        stream::iter(names)
            .map(move |name| {
                let (core, context) = (Arc::clone(&core), Arc::clone(&context));
                async move {
                    let outcome = warm_object(&core, &name, &context).await;
                    Warmed { name, outcome }
                }
            })
            .buffer_unordered(OBJECTS_AT_ONCE)
    }

    /// Drops what is known of the objects under a prefix, the listings of their bucket, and the chunks
    /// of the versions that were known or of which chunks were stored, or read from disk, since the start.
    ///
    /// # Errors
    /// A store that fails; what is known is dropped all the same, and purging again goes on.
    pub(crate) async fn purge_here(
        &self,
        bucket: Option<&str>,
        prefix: &str,
    ) -> Result<Purged, StoreError> {
        let core = &self.0;
        let mut purged = Purged {
            pages: core.listings.purge(bucket) as u64,
            ..Purged::default()
        };
        let mut versions: BTreeSet<_> = core
            .ways
            .versions
            .purge(bucket, prefix)
            .into_iter()
            .collect();
        for (name, known) in core.ways.meta.purge(bucket, prefix) {
            purged.objects += 1;
            versions.extend(known.ok().map(|meta| core.version(&name, &meta)));
        }
        for version in versions {
            for index in 0..version.size.div_ceil(version.chunk_size) {
                let chunk = ChunkKey {
                    version: Arc::clone(&version),
                    index,
                };
                core.ways.tiers.remove(&chunk.place()).await?;
                purged.chunks += 1;
            }
        }
        tracing::info!(bucket, prefix, ?purged, "purged");
        Ok(purged)
    }
}

async fn warm_object(
    core: &Arc<Core>,
    name: &ObjectName,
    context: &RequestContext,
) -> Result<Amount, ObjectError> {
    // An object that changes meanwhile is begun anew, once.
    let mut again = true;
    loop {
        let meta = core.lookup(name, context).await?;
        let version = core.version(name, &meta);
        let chunks = meta.size.div_ceil(core.chunk_size);
        let fetched = stream::iter(0..chunks)
            .map(|index| {
                warm_chunk(
                    core,
                    ChunkKey {
                        version: Arc::clone(&version),
                        index,
                    },
                    context,
                )
            })
            .buffer_unordered(CHUNKS_AT_ONCE)
            .try_fold(
                0,
                |sum, fetched| async move { Ok(sum + u64::from(fetched)) },
            )
            .await;
        match fetched {
            Err(ObjectError::EtagChanged | ObjectError::NoSuchKey) if again => again = false,
            Err(error) => return Err(error),
            Ok(fetched) => {
                return Ok(Amount {
                    bytes: meta.size,
                    chunks,
                    fetched,
                });
            }
        }
    }
}

/// Has a chunk fetched into the store of whoever coordinates it; whether that was necessary.
async fn warm_chunk(
    core: &Arc<Core>,
    chunk: ChunkKey,
    context: &RequestContext,
) -> Result<bool, ObjectError> {
    if let Some(cluster) = &core.ways.cluster
        && let Some(warmed) = cluster.warm(&core.origin_id, &chunk, context).await
    {
        return warmed;
    }
    warm_here(core, chunk, context).await
}

/// Fetches a chunk into our own store; whether that was necessary.
pub(crate) async fn warm_here(
    core: &Arc<Core>,
    chunk: ChunkKey,
    context: &RequestContext,
) -> Result<bool, ObjectError> {
    let len = chunk.len();
    if core
        .ways
        .tiers
        .open_local(&chunk.place(), len)
        .await
        .is_some()
    {
        return Ok(false);
    }
    let key = CacheKey::Chunk(chunk);
    let mut span = context.trace.fetch(&key);
    let fetch = core.home.fetch(key.clone()).plan(core.plans.warm(len));
    let _asking = core.ways.askers.enter(&key, &context.request_id, &mut span);
    // Warming is patient: it waits for its turn as long as that takes.
    let fetched = fetch.priority(plans::AHEAD).owner(context.owner).await;
    fetched.map(|_| true).map_err(|error| {
        tracing::debug!(request = %context.request_id, ?key, %error, "cannot be warmed");
        core.object_error(&error)
    })
}
