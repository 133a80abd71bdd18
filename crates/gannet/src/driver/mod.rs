//! The tokio driver: one worker task owns one engine.
//!
//! ```text
//!   callers --- wants (bounded) -----------+
//!   callers --- calls: releases, ... ----- |----> worker (owns the engine, all fetches) ---+
//!   attempts -- opened, progress, ended -- |          |                                    |
//!   judges, stores, selects -- answers ----+          +-- starts, aborts attempt tasks <---+
//!
//!   attempt task --- bytes ---> SharedBody ---> readers        (past the worker)
//! ```
//!
//! No lock guards what is in flight: only the worker sees it. Bytes never pass through the worker.
//! Mailboxes: wants are bounded and make callers wait; the other two are bounded by what they speak
//! of, since each waiter releases once, and each attempt has at most one opening, one progress and one
//! end in the queue.

mod attempt;
mod outputs;
mod state;
mod worker;

#[cfg(test)]
mod tests;

use crate::{
    Body, Fetched, Store,
    body::{Budget, SharedBody},
    engine::{
        AttemptId, CommitFault, Counters, End, FetchId, GroupId, Input, JudgementId, Key, Snapshot,
        SourceId, Sources, Time, Verdict, WaiterId, Want,
    },
    error::{ErrorKind, FetchError},
};
use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Duration, Instant},
};

pub use attempt::Heartbeat;
pub(crate) use worker::spawn;

/// What callers share with the worker.
pub(crate) struct Hub<K: Key, M> {
    pub(crate) wants: mpsc::Sender<Wanted<K, M>>,
    pub(crate) events: mpsc::UnboundedSender<Event<K, M>>,
    pub(crate) calls: mpsc::UnboundedSender<Call>,
    pub(crate) store: Arc<dyn Store<K, M>>,
    pub(crate) plan: Arc<crate::engine::Plan>,
    pub(crate) common: Arc<Common>,
    next_waiter: AtomicU64,
}

/// What outlives the callers' handles, whatever the types of key and meta.
#[derive(Debug)]
pub(crate) struct Common {
    /// Time zero of the engine.
    pub(crate) epoch: Instant,
    pub(crate) budget: Arc<Budget>,
    pub(crate) published: Mutex<Published>,
    panicked: AtomicBool,
}

/// What the worker publishes each time it goes to sleep.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Published {
    pub(crate) counters: Counters,
    pub(crate) fetches: u64,
    pub(crate) waiters: u64,
    pub(crate) attempts: u64,
}

impl Common {
    fn publish(&self, published: Published) {
        *self
            .published
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = published;
    }

    pub(crate) fn time(&self, at: Instant) -> Time {
        let nanos = at.saturating_duration_since(self.epoch).as_nanos();
        Time::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    pub(crate) fn published(&self) -> Published {
        *self
            .published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What it means that the worker is gone.
    pub(crate) fn gone(&self) -> FetchError {
        FetchError::new(if self.panicked.load(Ordering::Acquire) {
            ErrorKind::Broken
        } else {
            ErrorKind::Closed
        })
    }
}

impl<K: Key, M> Hub<K, M> {
    fn new(
        wants: mpsc::Sender<Wanted<K, M>>,
        events: mpsc::UnboundedSender<Event<K, M>>,
        calls: mpsc::UnboundedSender<Call>,
        store: Arc<dyn Store<K, M>>,
        plan: Arc<crate::engine::Plan>,
        common: Arc<Common>,
    ) -> Self {
        let next_waiter = AtomicU64::new(0);
        Self {
            wants,
            events,
            calls,
            store,
            plan,
            common,
            next_waiter,
        }
    }

    pub(crate) fn waiter(&self) -> WaiterId {
        WaiterId(self.next_waiter.fetch_add(1, Ordering::Relaxed))
    }

    /// Waits to be let in, and wants. If the worker is gone, the ticket will say so.
    pub(crate) async fn ask(&self, waiter: WaiterId, key: K, want: Want, reply: Reply<M>) {
        tracing::debug!(waiter = waiter.0, ?key, "wants");
        let wanted = Wanted {
            waiter,
            key,
            want,
            reply,
        };
        let _ = self.wants.send(wanted).await;
    }

    /// Whatever needs no answer. After a shutdown it does nothing.
    pub(crate) fn tell(&self, event: Event<K, M>) {
        let _ = self.events.send(event);
    }

    pub(crate) fn ticket<T>(
        &self,
        waiter: WaiterId,
        outcome: oneshot::Receiver<Result<T, FetchError>>,
    ) -> Ticket<T> {
        Ticket {
            waiter,
            outcome: Some(outcome),
            calls: self.calls.clone(),
            common: self.common.clone(),
        }
    }
}

/// A caller's want, on its way to the worker.
pub(crate) struct Wanted<K, M> {
    pub(crate) waiter: WaiterId,
    pub(crate) key: K,
    pub(crate) want: Want,
    pub(crate) reply: Reply<M>,
}

/// How a caller hears of its outcome.
pub(crate) enum Reply<M> {
    /// When all is there.
    Whole(oneshot::Sender<Result<Fetched<M>, FetchError>>),
    /// The flight that it reads from, as soon as there is one; then the outcome.
    Stream {
        flight: Option<oneshot::Sender<Arc<Flight<M>>>>,
        /// The flight that it was given.
        attached: Option<Arc<Flight<M>>>,
        outcome: oneshot::Sender<Result<Sources, FetchError>>,
    },
}

impl<M: Clone> Reply<M> {
    /// Whether the caller has gone.
    fn is_closed(&self) -> bool {
        match self {
            Self::Whole(outcome) => outcome.is_closed(),
            Self::Stream { outcome, .. } => outcome.is_closed(),
        }
    }

    fn fail(self, error: FetchError) {
        // A caller that has gone meanwhile needs no answer.
        match self {
            Self::Whole(outcome) => drop(outcome.send(Err(error))),
            Self::Stream { outcome, .. } => drop(outcome.send(Err(error))),
        }
    }

    /// The datum is what this flight has brought.
    fn deliver(self, datum: Option<&Arc<Flight<M>>>, sources: Sources) {
        let not_held = || FetchError::new(ErrorKind::NotHeld);
        let Some(datum) = datum else {
            return self.fail(not_held());
        };
        match self {
            Self::Whole(outcome) => {
                let whole = datum.body.whole().filter(Body::is_whole);
                let fetched = whole.zip(datum.head()).map(|(body, head)| Fetched {
                    meta: head.meta,
                    body,
                    sources,
                });
                let _ = outcome.send(fetched.ok_or_else(not_held));
            }
            Self::Stream {
                attached: Some(attached),
                outcome,
                ..
            } if !Arc::ptr_eq(&attached, datum) => {
                let _ = outcome.send(Err(FetchError::new(ErrorKind::Superseded)));
            }
            Self::Stream {
                flight, outcome, ..
            } => {
                if let Some(flight) = flight {
                    let _ = flight.send(datum.clone());
                }
                let _ = outcome.send(Ok(sources));
            }
        }
    }
}

/// The bytes of one answer under way, and what came before them.
#[derive(Debug)]
pub(crate) struct Flight<M> {
    pub(crate) body: SharedBody,
    head: Mutex<Option<Head<M>>>,
}

/// What the answer said of itself.
#[derive(Clone, Debug)]
pub(crate) struct Head<M> {
    /// The epoch of the body that it belongs to.
    pub(crate) epoch: u64,
    pub(crate) meta: M,
    pub(crate) total: Option<u64>,
}

impl<M: Clone> Flight<M> {
    pub(crate) fn new(body: SharedBody) -> Self {
        Self {
            body,
            head: Mutex::new(None),
        }
    }

    /// A datum that came by another way.
    fn held(datum: &Fetched<M>) -> Self {
        let flight = Self::new(SharedBody::held(&datum.body));
        flight.set_head(Some(Head {
            epoch: flight.body.epoch(),
            meta: datum.meta.clone(),
            total: Some(datum.body.len()),
        }));
        flight
    }

    /// A datum that came by another way takes the place of what is under way: readers go on where
    /// what they have agrees with it.
    fn complete_with(&self, datum: &Fetched<M>) {
        let epoch = self.body.complete_with(&datum.body);
        self.set_head(Some(Head {
            epoch,
            meta: datum.meta.clone(),
            total: Some(datum.body.len()),
        }));
    }

    pub(crate) fn set_head(&self, head: Option<Head<M>>) {
        *self.head.lock().unwrap_or_else(PoisonError::into_inner) = head;
    }

    pub(crate) fn head(&self) -> Option<Head<M>> {
        self.head
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Whether a caller stays.
type Keep<K> = Box<dyn FnMut(&K, WaiterId) -> bool + Send>;

/// What callers and attempts tell the worker, and what it asked others for.
pub(crate) enum Event<K: Key, M> {
    /// An attempt's source has said what it has. The attempt waits for the grant, and ends where
    /// that is dropped.
    Opened {
        attempt: AttemptId,
        identity: u64,
        total: Option<u64>,
        meta: M,
        grant: oneshot::Sender<attempt::Grant>,
    },
    /// An attempt has brought bytes, or says that its source is at work.
    Sign {
        attempt: AttemptId,
    },
    Ended {
        attempt: AttemptId,
        end: End,
        detail: Cow<'static, str>,
    },
    Ranked {
        fetch: FetchId,
        ranked: Vec<SourceId>,
    },
    Judged {
        judgement: JudgementId,
        verdict: Verdict,
    },
    Committed {
        fetch: FetchId,
        result: Result<(), CommitFault>,
    },
    SourceUp {
        source: SourceId,
        group: GroupId,
    },
    SourceDown {
        source: SourceId,
    },
    Obtained {
        key: K,
        from: Option<SourceId>,
        datum: Option<Fetched<M>>,
    },
    /// Goes to the engine as it is.
    Input(Input<K>),
    Block {
        source: SourceId,
        lasts: Option<Duration>,
    },
    Retain(Keep<K>),
    Snapshot(oneshot::Sender<Snapshot<K>>),
    Shutdown {
        grace: Duration,
    },
}

/// What callers tell the worker whatever their types.
#[derive(Debug)]
pub(crate) enum Call {
    Release(WaiterId),
    Deadline(WaiterId, Option<Time>),
}

/// A caller's place: the outcome to come. Dropped before, the caller's interest is released.
pub(crate) struct Ticket<T> {
    waiter: WaiterId,
    outcome: Option<oneshot::Receiver<Result<T, FetchError>>>,
    calls: mpsc::UnboundedSender<Call>,
    common: Arc<Common>,
}

impl<T> Ticket<T> {
    /// The outcome; once.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, FetchError>> {
        let Some(outcome) = &mut self.outcome else {
            return Poll::Ready(Err(self.common.gone()));
        };
        let result = ready!(std::pin::Pin::new(outcome).poll(cx));
        self.outcome = None;
        Poll::Ready(result.unwrap_or_else(|_| Err(self.common.gone())))
    }
}

impl<T> Drop for Ticket<T> {
    fn drop(&mut self) {
        if let Some(mut outcome) = self.outcome.take() {
            // First close, then release: a want still in the mailbox is found closed, and one that is
            // taken meanwhile is released after.
            outcome.close();
            if outcome.try_recv().is_err() {
                let _ = self.calls.send(Call::Release(self.waiter));
            }
        }
    }
}

impl<T> fmt::Debug for Ticket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ticket").field(&self.waiter).finish()
    }
}
