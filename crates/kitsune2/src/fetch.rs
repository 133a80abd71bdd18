//! The module as its host sees it.

use crate::{shared::Shared, state::Room};
use bytes::Bytes;
use futures_channel::oneshot;
use kitsune2_api::{
    BoxFut, DynOpStore, Fetch, FetchStateSummary, K2Error, K2Result, OpId, PublishOp, Url,
};
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};
use tokio::task::AbortHandle;

/// Ops looked up in one call to the op store.
const LOOKUP_MAX: usize = 4_096;
/// Ops noted under one lock: the module's task, and a worker thread with it, waits no longer.
const NOTE_MAX: usize = 256;

/// The fetch module of one space. Dropped, it stops at once: what is under way is abandoned.
#[derive(Debug)]
pub(crate) struct GannetFetch {
    pub(crate) shared: Arc<Shared>,
    pub(crate) op_store: DynOpStore,
    pub(crate) tasks: [AbortHandle; 2],
}

impl Drop for GannetFetch {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.shared.close();
    }
}

/// While it lives, ops that are stored are noted, so that one that came between a look into the
/// store and the note that it is wanted is not asked for again.
struct Lookup<'a>(&'a Shared);

impl<'a> Lookup<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.state().begin_lookup();
        Self(shared)
    }
}

impl Drop for Lookup<'_> {
    fn drop(&mut self) {
        self.0.state().end_lookup();
    }
}

type Ops = Vec<(OpId, Option<Bytes>)>;

impl GannetFetch {
    /// Those of these ops that the store does not hold.
    async fn not_held(&self, ops: &[PublishOp]) -> K2Result<Ops> {
        let mut metadata: HashMap<OpId, Option<Bytes>> = HashMap::with_capacity(ops.len());
        let mut ids = Vec::with_capacity(ops.len());
        for op in ops {
            match metadata.entry(op.op_id.clone()) {
                Entry::Vacant(vacant) => {
                    ids.push(op.op_id.clone());
                    vacant.insert(op.metadata.clone());
                }
                // Named twice: what is known stays.
                Entry::Occupied(mut known) if known.get().is_none() => {
                    known.insert(op.metadata.clone());
                }
                Entry::Occupied(_) => {}
            }
        }
        let new = self.op_store.filter_out_existing_ops(ids).await?;
        let new = new.into_iter().filter_map(|id| {
            let metadata = metadata.remove(&id)?;
            Some((id, metadata))
        });
        Ok(new.collect())
    }

    /// Notes ops as wanted of this peer, as fast as there is room.
    async fn want(&self, ops: Ops, url: &Url, owner: u32) -> K2Result<()> {
        let shared = &*self.shared;
        let mut ops = ops.into_iter();
        while ops.len() > 0 {
            // Before looking, so that no word is missed.
            let mut room = std::pin::pin!(shared.room.notified());
            room.as_mut().enable();
            let wait = {
                let _turn = shared.turn_of_call().await;
                let now = shared.now();
                let mut state = shared.state();
                if shared.is_closed() {
                    return Err(K2Error::other("the fetch module is shut down"));
                }
                match state.room(url) {
                    Room::For(count) => {
                        let ops = ops.by_ref().take(count.min(NOTE_MAX));
                        state.want(now, url, ops, owner);
                        None
                    }
                    Room::Wait => Some(state.config.request_wait()),
                    Room::Silent => return Err(too_many(ops.len(), url, "which does not answer")),
                }
            };
            let Some(wait) = wait else {
                shared.wake.notify_one();
                if ops.len() > 0 {
                    tokio::task::yield_now().await;
                }
                continue;
            };
            if tokio::time::timeout(wait, room).await.is_err() {
                return Err(too_many(
                    ops.len(),
                    url,
                    "and none was done with for a while",
                ));
            }
        }
        Ok(())
    }
}

fn too_many(count: usize, url: &Url, why: &str) -> K2Error {
    K2Error::other(format!(
        "{count} ops offered by {url} were not taken, for too many are pending, {why}: request \
         them again later, or raise gannetFetch.maxPending and maxPendingPerPeer"
    ))
}

impl Fetch for GannetFetch {
    /// Waits while `maxPending` is reached, and for nothing else. Cancelled, it has taken some of the
    /// ops. Calls take turns: a small one is not stuck behind a large one.
    fn request_ops(&self, ops: Vec<PublishOp>, source: Url) -> BoxFut<'_, K2Result<()>> {
        Box::pin(async move {
            let owner = self.shared.next_owner();
            for ops in ops.chunks(LOOKUP_MAX) {
                let lookup = Lookup::begin(&self.shared);
                let new = self.not_held(ops).await?;
                self.want(new, &source, owner).await?;
                drop(lookup);
            }
            Ok(())
        })
    }

    fn notify_on_drained(&self, notify: oneshot::Sender<()>) {
        let at_once = self.shared.state().when_drained(notify);
        if let Some(notify) = at_once {
            // Who does not wait any more need not be told.
            let _ = notify.send(());
        }
    }

    /// Read in pieces, so that a large state does not hold up the module: what changes meanwhile may
    /// or may not be seen.
    fn get_state_summary(&self) -> BoxFut<'_, K2Result<FetchStateSummary>> {
        Box::pin(async move {
            let mut summary = FetchStateSummary {
                pending_requests: HashMap::new(),
            };
            let mut next = Some(0);
            while let Some(from) = next {
                next = self.shared.state().summarize(from, &mut summary);
                tokio::task::yield_now().await;
            }
            Ok(summary)
        })
    }
}
