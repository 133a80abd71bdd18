//! Deliveries to the consumer, and what its outcomes say to the engine.

use crate::machine::{AttemptId, FetchId, JudgementId, SourceId, Time, Verdict};
use bytes::Bytes;
use commonware_resolver::{Consumer, Delivery, Outcome, Resolution};
use commonware_utils::channel::oneshot;
use futures_util::{
    future::pending,
    stream::{FuturesUnordered, StreamExt as _},
};
use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

/// What a peer brought.
#[derive(Debug)]
pub(crate) struct Answer<P> {
    pub(crate) source: SourceId,
    pub(crate) peer: Arc<P>,
    /// From the request to the answer.
    pub(crate) took: Duration,
    pub(crate) bytes: Bytes,
    /// The consumer has found it good before: what it says now is about its own subscribers.
    pub(crate) accepted: bool,
}

/// A delivery that the consumer is done with.
#[derive(Debug)]
pub(crate) struct Judged<P> {
    pub(crate) judgement: JudgementId,
    pub(crate) fetch: FetchId,
    pub(crate) attempt: AttemptId,
    pub(crate) answer: Answer<P>,
    /// None: it dropped the delivery, or the delivery was cancelled before it said anything.
    pub(crate) outcome: Option<Outcome>,
    /// Nobody wants the key any more; what the consumer said is about the peer only.
    pub(crate) cancelled: bool,
}

impl<P> Judged<P> {
    /// What this says to the engine.
    pub(crate) const fn verdict(&self) -> Verdict {
        match self.outcome {
            None => Verdict::GaveUp,
            Some(Outcome::Resolved(Resolution::Complete)) => Verdict::Valid,
            Some(Outcome::Resolved(Resolution::Partial)) => Verdict::Partial,
            Some(Outcome::Unresolved) => Verdict::Ambiguous,
            // Good for some and bad for others: the others contradict what is known, and would do
            // so of any further answer.
            Some(Outcome::Invalid) if self.answer.accepted => Verdict::Ignored,
            Some(Outcome::Invalid) => Verdict::Invalid,
            Some(Outcome::Ignored) => Verdict::Ignored,
        }
    }
}

/// The consumer, and the deliveries that it has not judged yet.
pub(crate) struct Judge<Con: Consumer, P> {
    consumer: Con,
    pending: FuturesUnordered<Pending<Con::Outcome, P>>,
    /// Those that it has.
    decided: VecDeque<Judged<P>>,
}

impl<Con, P> Judge<Con, P>
where
    Con: Consumer<Value = Bytes>,
{
    pub(crate) fn new(consumer: Con) -> Self {
        Self {
            consumer,
            pending: FuturesUnordered::new(),
            decided: VecDeque::new(),
        }
    }

    /// Hands an answer to the consumer. To drop what is returned is to cancel the delivery: its
    /// receiver closes, and an outcome that was sent before still counts. Nothing is returned where
    /// the consumer has decided at once.
    pub(crate) fn deliver(
        &mut self,
        delivery: Delivery<Con::Key, Con::Subscriber>,
        (judgement, fetch, attempt): (JudgementId, FetchId, AttemptId),
        answer: Answer<P>,
    ) -> Option<oneshot::Sender<()>> {
        let mut outcome = self.consumer.deliver(delivery, answer.bytes.clone());
        let mut judged = Judged {
            judgement,
            fetch,
            attempt,
            answer,
            outcome: None,
            cancelled: false,
        };
        match outcome.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => {
                let (cancel, cancelled) = oneshot::channel();
                self.pending.push(Pending {
                    outcome,
                    cancelled,
                    judged: Some(judged),
                });
                return Some(cancel);
            }
            decided => judged.outcome = decided.ok().map(Into::into),
        }
        self.decided.push_back(judged);
        None
    }

    /// A delivery that the consumer decided on at once.
    pub(crate) fn decided(&mut self) -> Option<Judged<P>> {
        self.decided.pop_front()
    }

    /// The next delivery that the consumer is done with; waits for ever while there is none.
    pub(crate) async fn next(&mut self) -> Judged<P> {
        match self.pending.next().await {
            Some(judged) => judged,
            None => pending().await,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.len() + self.decided.len()
    }
}

/// Waits for the outcome, or for the delivery to be cancelled, which is looked at first: a fetch
/// that is gone cannot be finished by an outcome that has come meanwhile.
struct Pending<O, P> {
    outcome: oneshot::Receiver<O>,
    cancelled: oneshot::Receiver<()>,
    /// None once it was handed out.
    judged: Option<Judged<P>>,
}

// Nothing in it is pinned in place.
impl<O, P> Unpin for Pending<O, P> {}

impl<O: Into<Outcome>, P> Future for Pending<O, P> {
    type Output = Judged<P>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Judged<P>> {
        let this = &mut *self;
        let (outcome, cancelled) = if Pin::new(&mut this.cancelled).poll(cx).is_ready() {
            this.outcome.close();
            (this.outcome.try_recv().ok(), true)
        } else {
            match Pin::new(&mut this.outcome).poll(cx) {
                Poll::Ready(outcome) => (outcome.ok(), false),
                Poll::Pending => return Poll::Pending,
            }
        };
        let Some(judged) = this.judged.take() else {
            return Poll::Pending;
        };
        Poll::Ready(Judged {
            outcome: outcome.map(Into::into),
            cancelled,
            ..judged
        })
    }
}

impl<P> Answer<P> {
    pub(crate) fn new(request: crate::transport::Request<P>, bytes: Bytes, now: Time) -> Self {
        Self {
            source: request.source,
            peer: request.peer,
            took: now.since(request.began),
            bytes,
            accepted: false,
        }
    }
}
