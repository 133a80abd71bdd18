//! Chunks under way that nobody has asked for yet.
//!
//! A chunk is read ahead once, for however many readers want it so, and no longer than one of them
//! is there: each holds an [`Ahead`], and with the last one the read-ahead is cancelled. A client
//! that asks for the chunk meanwhile joins its fetch, which then goes on for that client's sake.

use crate::{
    core::{Core, Route},
    edge::backend::RequestContext,
    key::{CacheKey, ChunkKey},
    plans::AHEAD,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};
use tokio::{sync::Semaphore, task::AbortHandle};

/// One chunk that is read ahead; dropping the last handle cancels it.
#[derive(Debug)]
pub(crate) struct Ahead(AbortHandle);

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// All chunks that are read ahead.
#[derive(Debug)]
pub(crate) struct Aheads {
    under_way: Mutex<HashMap<ChunkKey, Weak<Ahead>>>,
    permits: Arc<Semaphore>,
}

impl Aheads {
    /// At most so many at once.
    pub(crate) fn new(at_once_max: usize) -> Self {
        Self {
            under_way: Mutex::default(),
            permits: Arc::new(Semaphore::new(at_once_max)),
        }
    }

    /// Reads a chunk ahead, unless it is held, or there is too much of that already. Must be called
    /// within the runtime; does not wait.
    pub(crate) fn begin(
        &self,
        core: &Arc<Core>,
        chunk: ChunkKey,
        context: &RequestContext,
    ) -> Option<Arc<Ahead>> {
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(ahead) = under_way.get(&chunk).and_then(Weak::upgrade) {
            return Some(ahead);
        }
        let (place, len) = (chunk.place(), chunk.len());
        if core.ways.tiers.held(&place, len).is_some() {
            return None;
        }
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        let (core, key, context) = (Arc::clone(core), chunk.clone(), context.clone());
        let task = tokio::spawn(async move {
            let _permit = permit;
            if core.ways.tiers.open_local(&place, len).await.is_some() {
                return;
            }
            core.ways.metrics.read_ahead();
            tracing::debug!(request = %context.request_id, chunk = ?key, "read ahead");
            let wanted = CacheKey::Chunk(key.clone());
            let mut span = context.trace.fetch(&wanted);
            span.set("gannet.ahead", true);
            let _asking = core
                .ways
                .askers
                .enter(&wanted, &context.request_id, &mut span);
            let (fetcher, plans) = core.fetcher(&wanted, Route::Client);
            let fetch = fetcher
                .fetch(wanted)
                .plan(plans.ahead(len))
                .priority(AHEAD)
                .owner(context.owner);
            if let Err(error) = fetch.await {
                tracing::debug!(chunk = ?key, %error, "read-ahead failed; nobody is told");
            }
        });
        let ahead = Arc::new(Ahead(task.abort_handle()));
        if under_way.len() >= 1024 {
            under_way.retain(|_, ahead| ahead.strong_count() > 0);
        }
        under_way.insert(chunk, Arc::downgrade(&ahead));
        Some(ahead)
    }
}
