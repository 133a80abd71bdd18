//! The module as its host sees it.

use crate::{shared::Shared, want::Room};
use bytes::Bytes;
use futures_channel::oneshot;
use kitsune2_api::{
    BoxFut, DynOpStore, Fetch, FetchStateSummary, K2Error, K2Result, OpId, PublishOp, Url,
};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use tokio::{task::AbortHandle, time::Instant};

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
struct Lookup<'a> {
    shared: &'a Shared,
    number: u64,
}

impl<'a> Lookup<'a> {
    fn begin(shared: &'a Shared) -> Self {
        let number = shared.state().begin_lookup();
        Self { shared, number }
    }
}

impl Drop for Lookup<'_> {
    fn drop(&mut self) {
        self.shared.state().end_lookup(self.number);
    }
}

type Ops = Vec<(OpId, Option<Bytes>)>;

impl GannetFetch {
    /// Notes ops as wanted of this peer, as fast as there is room.
    async fn take(&self, ops: Vec<PublishOp>, url: &Url) -> K2Result<()> {
        let shared = &*self.shared;
        let owner = shared.next_owner();
        let patience = shared.state().config.request_wait(ops.len());
        let deadline = Instant::now() + patience;
        let mut ops = ops.into_iter().map(|op| (op.op_id, op.metadata));
        let mut next: Ops = Vec::new();
        loop {
            next.extend(ops.by_ref().take(LOOKUP_MAX - next.len()));
            if next.is_empty() {
                return Ok(());
            }
            // Before looking, so that no word is missed.
            let mut room = std::pin::pin!(shared.room.notified());
            room.as_mut().enable();
            let lookup = Lookup::begin(shared);
            let new = self.not_held(next).await?;
            let left = self.want(new, url, (owner, lookup.number)).await;
            drop(lookup);
            let (left, silent) = left?;
            next = left;
            if next.is_empty() {
                continue;
            }
            let refused = next.len() + ops.len();
            if silent {
                return Err(too_many(refused, url, "which does not answer"));
            }
            if tokio::time::timeout_at(deadline, room).await.is_err() {
                return Err(too_many(refused, url, "and too few were done with"));
            }
        }
    }

    /// Those of these ops that the store does not hold.
    async fn not_held(&self, mut ops: Ops) -> K2Result<Ops> {
        let ids: Vec<OpId> = ops.iter().map(|(id, _)| id.clone()).collect();
        let count = ids.len();
        let new = self.op_store.filter_out_existing_ops(ids).await?;
        if new.len() != count {
            let new: HashSet<OpId> = new.into_iter().collect();
            ops.retain(|(id, _)| new.contains(id));
        }
        Ok(ops)
    }

    /// Notes what there is room for. Returns the rest, and whether that is because the peer is silent.
    async fn want(&self, ops: Ops, url: &Url, call: (u32, u64)) -> K2Result<(Ops, bool)> {
        let shared = &*self.shared;
        let mut ops = ops.into_iter();
        while ops.len() > 0 {
            let room = {
                let _turn = shared.turn_of_call().await;
                let now = shared.now();
                let mut state = shared.state();
                if shared.is_closed() {
                    return Err(K2Error::other("the fetch module is shut down"));
                }
                let room = state.room(url);
                if let Room::For(count) = room {
                    let ops = ops.by_ref().take(count.min(NOTE_MAX));
                    state.want(now, url, ops, call);
                }
                room
            };
            match room {
                Room::For(_) => shared.wake.notify_one(),
                Room::Wait => return Ok((ops.collect(), false)),
                Room::Silent => return Ok((ops.collect(), true)),
            }
            if ops.len() > 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok((Vec::new(), false))
    }
}

fn too_many(count: usize, url: &Url, why: &str) -> K2Error {
    K2Error::other(format!(
        "{count} ops offered by {url} were not taken, for too many are pending, {why}: request \
         them again later, or raise gannetFetch.maxPending and maxPendingPerPeer"
    ))
}

impl Fetch for GannetFetch {
    /// Looks up which of the ops are held, and notes the others as wanted. Waits while `maxPending` or
    /// `maxPendingPerPeer` is reached: for `requestWaitMs`, and a millisecond more for each op; not at
    /// all for a peer that has its share and does not answer. Calls take turns: a small one is not
    /// stuck behind a large one.
    ///
    /// # Errors
    ///
    /// The op store's; when there was no room in time, with the number of ops that were not taken; and
    /// when the module is shut down. The ops before those are wanted all the same, and so are those
    /// that a call has taken when it is cancelled.
    fn request_ops(&self, ops: Vec<PublishOp>, source: Url) -> BoxFut<'_, K2Result<()>> {
        Box::pin(async move { self.take(ops, &source).await })
    }

    /// Told when nothing is wanted any more, for whatever reason: stored, given up, dropped with its
    /// peer, or with the module.
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
