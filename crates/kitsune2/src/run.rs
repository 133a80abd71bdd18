//! The module's task: feeds the state what happens, and does what it says.

use crate::{
    answers::{Fate, Item},
    ask::Request,
    guard::guarded,
    inbox::Event,
    machine::Time,
    shared::Shared,
};
use kitsune2_api::{
    DynOpStore, DynPeerMetaStore, DynReport, IncomingOp, K2Result, OpId, SpaceId, WeakDynTransport,
};
use std::{collections::HashSet, sync::Arc};
use tokio::task::JoinSet;

/// Events taken under one lock.
const EVENTS_MAX: usize = 8;
/// So many ops in a row that cannot be stored one by one: it is the store that fails.
const FAILURES_MAX: usize = 8;

/// What the task needs of its node.
#[derive(Clone)]
pub(crate) struct Runner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) op_store: DynOpStore,
    pub(crate) report: DynReport,
    pub(crate) peer_meta_store: DynPeerMetaStore,
    pub(crate) transport: WeakDynTransport,
    pub(crate) space_id: SpaceId,
    pub(crate) store_concurrency: usize,
}

/// Something that was done outside.
enum Done {
    Sent(Request, bool),
    Stored(Vec<Item>, Vec<Fate>),
    /// There is no transport any more.
    Gone,
}

impl Runner {
    /// Runs until it is dropped, or the transport is.
    pub(crate) async fn run(self) {
        let shared = &self.shared;
        let mut work = JoinSet::new();
        let (mut events, mut done, mut storing) = (Vec::new(), None, 0);
        loop {
            shared.inbox.take(EVENTS_MAX, &mut events);
            let busy = !events.is_empty() || done.is_some();
            let (next, drained, left) = {
                let _turn = shared.turn().await;
                let now = shared.now();
                let mut state = shared.state();
                match done.take() {
                    Some(Done::Sent(request, out)) => state.sent(now, &request, out),
                    Some(Done::Stored(items, fates)) => {
                        storing -= 1;
                        state.stored(now, items, &fates);
                    }
                    Some(Done::Gone) => break,
                    None => {}
                }
                for event in events.drain(..) {
                    match event {
                        Event::Response { url, ops, hold } => state.response(now, &url, ops, &hold),
                        Event::Disconnected { url } => state.disconnected(now, &url),
                    }
                }
                state.time(now);
                while let Some(request) = state.next_request() {
                    work.spawn(self.clone().send(request));
                }
                while storing < self.store_concurrency
                    && let Some(items) = state.next_store_call()
                {
                    storing += 1;
                    work.spawn(self.clone().store(items));
                }
                (state.timeout(), state.take_drained(), state.take_left())
            };
            for notify in drained {
                // Who does not wait any more need not be told.
                let _ = notify.send(());
            }
            if left {
                shared.room.notify_waiters();
            }
            // As long as there is more to do, nothing is waited for; but others get their turn.
            if busy {
                done = work.try_join_next().and_then(Result::ok);
                tokio::task::yield_now().await;
                continue;
            }
            // In this order, so that the same happens on every run of a simulation.
            tokio::select! {
                biased;
                Some(ended) = work.join_next() => done = ended.ok(),
                () = shared.wake.notified() => {}
                () = until(shared, next) => {}
            }
        }
        shared.close();
    }

    async fn send(self, request: Request) -> Done {
        let url = request.url.clone();
        let unresponsive = guarded(self.peer_meta_store.get_unresponsive(url.clone())).await;
        match unresponsive {
            Ok(None) => {}
            Ok(Some(_)) => {
                tracing::debug!(%url, "the peer is unresponsive: nothing is asked of it");
                return Done::Sent(request, false);
            }
            Err(err) => tracing::warn!(%url, "could not look up whether the peer responds: {err}"),
        }
        let Some(transport) = self.transport.upgrade() else {
            return Done::Gone;
        };
        let (space_id, module) = (self.space_id.clone(), crate::MOD_NAME.to_string());
        let sending =
            guarded(transport.send_module(url.clone(), space_id, module, request.encode()));
        let out = match tokio::time::timeout(crate::SEND_MAX, sending).await {
            Ok(Ok(())) => true,
            Ok(Err(err)) => {
                tracing::warn!(%url, "could not send a fetch request, nothing more is wanted of the peer: {err}");
                false
            }
            Err(_) => {
                tracing::warn!(%url, "sending a fetch request took too long, nothing more is wanted of the peer");
                false
            }
        };
        Done::Sent(request, out)
    }

    async fn store(self, items: Vec<Item>) -> Done {
        let fates = match self.call(&items).await {
            Ok(fates) => fates,
            Err(err) => {
                tracing::error!(ops = items.len(), "could not store ops: {err}");
                self.store_singly(&items).await
            }
        };
        for (item, fate) in items.iter().zip(&fates) {
            if *fate == Fate::Stored {
                let id = OpId::from(item.id.clone());
                let bytes = item.data.len() as u64;
                self.report
                    .fetched_op(self.space_id.clone(), item.url.clone(), id, bytes);
            }
        }
        Done::Stored(items, fates)
    }

    /// One call to the op store.
    async fn call(&self, items: &[Item]) -> K2Result<Vec<Fate>> {
        let ops = items.iter().map(|item| IncomingOp {
            op_id: OpId::from(item.id.clone()),
            op_data: item.data.clone(),
            metadata: item.metadata.clone(),
        });
        let taken = guarded(self.op_store.process_incoming_ops(ops.collect())).await?;
        // Mostly all of them, in order.
        if taken.len() == items.len()
            && taken
                .iter()
                .zip(items)
                .all(|(id, item)| id[..] == item.id[..])
        {
            return Ok(vec![Fate::Stored; items.len()]);
        }
        let taken: HashSet<&[u8]> = taken.iter().map(|id| &id[..]).collect();
        let fates = items.iter().map(|item| match taken.contains(&*item.id) {
            true => Fate::Stored,
            false => Fate::Refused,
        });
        Ok(fates.collect())
    }

    /// One op that a store fails on must not keep the others out: they are tried one by one, as long
    /// as any of them gets in.
    async fn store_singly(&self, items: &[Item]) -> Vec<Fate> {
        if items.len() == 1 {
            return vec![Fate::Failed];
        }
        let (mut fates, mut failures) = (Vec::new(), 0);
        for item in items {
            let fate = match failures {
                FAILURES_MAX => Fate::Failed,
                _ => match self.call(std::slice::from_ref(item)).await {
                    Ok(fates) => fates[0],
                    Err(_) => Fate::Failed,
                },
            };
            failures = match fate {
                Fate::Failed => (failures + 1).min(FAILURES_MAX),
                _ => 0,
            };
            fates.push(fate);
        }
        fates
    }
}

async fn until(shared: &Shared, at: Option<Time>) {
    match at {
        Some(at) => tokio::time::sleep_until(shared.instant(at)).await,
        None => std::future::pending().await,
    }
}
