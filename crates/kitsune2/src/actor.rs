//! The module's task: feeds the state what happens, and does what it says.

use crate::{
    guard::guarded,
    inbox::Event,
    judge::{Fate, Item},
    machine::Time,
    shared::Shared,
    transport::{Request, Sent},
};
use bytes::Bytes;
use kitsune2_api::{
    DynOpStore, DynPeerMetaStore, DynReport, DynTransport, IncomingOp, K2Error, K2Result, OpId,
    SpaceId, Url, WeakDynTransport,
};
use std::{collections::HashSet, panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tokio::task::JoinSet;

/// Calls to the op store for the ops of one that failed.
const CALLS_MAX: usize = 64;
/// The longest that the peer's standing may take to be looked up.
const LOOKUP_MAX: Duration = Duration::from_secs(10);

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
    Sent(Request, Sent),
    Stored(Vec<Item>, Stored),
    /// There is no transport any more.
    Gone,
}

/// What a call to the op store has led to.
struct Stored {
    fates: Vec<Fate>,
    /// Ops that the store says it has, and that were not in the call.
    beside: Vec<OpId>,
}

/// Closes the module when its task ends, however it does.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Runner {
    /// Runs until it is dropped, or the transport is.
    pub(crate) async fn run(self) {
        let shared = &self.shared;
        let _closing = Closing(shared);
        let mut work = JoinSet::new();
        let (mut events, mut done, mut storing) = (Vec::new(), None, 0);
        loop {
            let left = shared.inbox.take(&mut events);
            let busy = !events.is_empty() || done.is_some();
            let (next, drained, left) = {
                let _turn = shared.turn().await;
                let now = shared.now();
                let mut state = shared.state();
                match done.take() {
                    Some(Done::Sent(request, sent)) => state.sent(now, &request, sent),
                    Some(Done::Stored(items, Stored { fates, beside })) => {
                        storing -= 1;
                        state.stored(now, items, &fates, &beside);
                    }
                    Some(Done::Gone) => break,
                    None => {}
                }
                for event in events.drain(..) {
                    match event {
                        Event::Response { url, ops, hold } => state.response(now, &url, ops, &hold),
                        Event::Overflow { url } => state.overflow(now, &url),
                        Event::Disconnected { url } => state.disconnected(now, &url),
                    }
                }
                // What came before that was taken.
                state.time(now, left.unwrap_or(now).min(now));
                while let Some(request) = state.next_request(now) {
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
            let ended = if busy {
                tokio::task::yield_now().await;
                work.try_join_next()
            } else {
                // In this order, so that the same happens on every run of a simulation.
                tokio::select! {
                    biased;
                    Some(ended) = work.join_next() => Some(ended),
                    () = shared.wake.notified() => None,
                    () = until(shared, next) => None,
                }
            };
            done = match ended {
                Some(Ok(ended)) => Some(ended),
                Some(Err(error)) => {
                    // The host's panics are caught: this is an error of ours.
                    tracing::error!("the fetch module has failed, and stops: {error}");
                    break;
                }
                None => None,
            };
        }
    }

    async fn send(self, request: Request) -> Done {
        let url = request.url.clone();
        let meta = &self.peer_meta_store;
        let unresponsive = guarded(async || meta.get_unresponsive(url.clone()).await);
        match tokio::time::timeout(LOOKUP_MAX, unresponsive).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(_))) => {
                tracing::debug!(%url, "the peer is unresponsive: nothing is asked of it");
                return Done::Sent(request, Sent::Failed);
            }
            Ok(Err(err)) => {
                tracing::warn!(%url, "could not look up whether the peer responds: {err}");
            }
            Err(_) => tracing::warn!(%url, "looking up whether the peer responds takes too long"),
        }
        let Some(transport) = self.transport.upgrade() else {
            return Done::Gone;
        };
        let sent = send(
            transport,
            url.clone(),
            self.space_id.clone(),
            request.encode(),
        )
        .await;
        let sent = match sent {
            Ok(()) => Sent::Out,
            Err(K2Error::NoLocalAgentsDuringPreflight) => {
                tracing::debug!(%url, "there is no local agent yet: asking is put off");
                Sent::NotYet
            }
            Err(err) => {
                tracing::warn!(%url, "could not send a fetch request, nothing more is wanted of the peer: {err}");
                Sent::Failed
            }
        };
        Done::Sent(request, sent)
    }

    async fn store(self, items: Vec<Item>) -> Done {
        let stored = match self.call(&items).await {
            Ok(stored) => stored,
            Err(err) => {
                tracing::error!(ops = items.len(), "could not store ops: {err}");
                self.store_in_parts(&items).await
            }
        };
        let told = std::panic::catch_unwind(AssertUnwindSafe(|| {
            for (item, fate) in items.iter().zip(&stored.fates) {
                if *fate == Fate::Stored {
                    let id = OpId::from(item.id.clone());
                    let bytes = item.data.len() as u64;
                    self.report
                        .fetched_op(self.space_id.clone(), item.url.clone(), id, bytes);
                }
            }
        }));
        if told.is_err() {
            tracing::error!("the report module has panicked");
        }
        Done::Stored(items, stored)
    }

    /// One call to the op store.
    async fn call(&self, items: &[Item]) -> K2Result<Stored> {
        let ops = items.iter().map(|item| IncomingOp {
            op_id: OpId::from(item.id.clone()),
            op_data: item.data.clone(),
            metadata: item.metadata.clone(),
        });
        let (store, ops) = (&self.op_store, ops.collect());
        let taken = guarded(async || store.process_incoming_ops(ops).await).await?;
        // Mostly all of them, in order.
        let same = |(id, item): (&OpId, &Item)| id[..] == item.id[..];
        if taken.len() == items.len() && taken.iter().zip(items).all(same) {
            return Ok(Stored {
                fates: vec![Fate::Stored; items.len()],
                beside: Vec::new(),
            });
        }
        let mut beside: HashSet<OpId> = taken.into_iter().collect();
        let fates = items
            .iter()
            .map(|item| match beside.remove(&OpId::from(item.id.clone())) {
                true => Fate::Stored,
                false => Fate::Refused,
            });
        Ok(Stored {
            fates: fates.collect(),
            beside: beside.into_iter().collect(),
        })
    }

    /// One op that a store fails on must not keep the others out: they are tried by halves, until
    /// those that it fails on stand alone. Where two fail alone and none was stored before, it is the
    /// store that fails.
    async fn store_in_parts(&self, items: &[Item]) -> Stored {
        let mut stored = Stored {
            fates: vec![Fate::Failed; items.len()],
            beside: Vec::new(),
        };
        if items.len() == 1 {
            // It has stood alone already.
            return stored;
        }
        let half = items.len() / 2;
        let mut parts = vec![half..items.len(), 0..half];
        let (mut alone, mut any) = (0, false);
        for _ in 0..CALLS_MAX {
            let Some(part) = parts.pop() else { break };
            match self.call(&items[part.clone()]).await {
                Ok(some) => {
                    any = true;
                    stored.fates[part].copy_from_slice(&some.fates);
                    stored.beside.extend(some.beside);
                }
                Err(_) if part.len() == 1 => {
                    alone += 1;
                    if alone > 1 && !any {
                        break;
                    }
                }
                Err(_) => {
                    let half = part.start + part.len() / 2;
                    parts.extend([half..part.end, part.start..half]);
                }
            }
        }
        stored
    }
}

/// Hands a message to the transport. It is waited for only so long, but never cancelled: a transport
/// that was cut off in the middle of a message could not send another on the same stream.
pub(crate) async fn send(
    transport: DynTransport,
    url: Url,
    space_id: SpaceId,
    message: Bytes,
) -> K2Result<()> {
    let module = crate::MOD_NAME.to_string();
    let sending = tokio::spawn(async move {
        guarded(async || transport.send_module(url, space_id, module, message).await).await
    });
    match tokio::time::timeout(crate::SEND_MAX, sending).await {
        Ok(Ok(sent)) => sent,
        Ok(Err(error)) => Err(K2Error::other_src("sending failed", error)),
        Err(_) => Err(K2Error::other("it takes too long")),
    }
}

async fn until(shared: &Shared, at: Option<Time>) {
    match at {
        Some(at) => tokio::time::sleep_until(shared.instant(at)).await,
        None => std::future::pending().await,
    }
}
