//! Deliveries to the consumer, and what its outcomes say to the engine.

use crate::machine::{AttemptId, FetchId, JudgementId, SourceId, Time, Verdict};
use bytes::Bytes;
use commonware_resolver::{Consumer, Delivery, Outcome, Resolution};
use commonware_utils::{channel::oneshot, futures::Pool};
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

/// What a peer brought.
#[derive(Clone, Debug)]
pub(crate) struct Answer<P> {
    pub(crate) fetch: FetchId,
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
pub(crate) struct Judge<Con, P> {
    consumer: Con,
    pending: Pool<'static, Judged<P>>,
}

impl<Con, P> Judge<Con, P>
where
    Con: Consumer<Value = Bytes>,
    P: Send + Sync + 'static,
{
    pub(crate) fn new(consumer: Con) -> Self {
        Self {
            consumer,
            pending: Pool::default(),
        }
    }

    /// Hands an answer to the consumer. To drop what is returned is to cancel the delivery: its
    /// receiver closes, and an outcome that was sent before still counts.
    pub(crate) fn deliver(
        &mut self,
        delivery: Delivery<Con::Key, Con::Subscriber>,
        judgement: JudgementId,
        attempt: AttemptId,
        answer: Answer<P>,
    ) -> oneshot::Sender<()> {
        let outcome = self.consumer.deliver(delivery, answer.bytes.clone());
        let (cancel, cancelled) = oneshot::channel();
        self.pending.push(async move {
            let (outcome, cancelled) = decided(outcome, cancelled).await;
            Judged {
                judgement,
                attempt,
                answer,
                outcome: outcome.map(Into::into),
                cancelled,
            }
        });
        cancel
    }

    /// The next delivery that the consumer is done with; waits for ever while there is none.
    pub(crate) async fn next(&mut self) -> Judged<P> {
        self.pending.next_completed().await
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }
}

/// Waits for the outcome, or for the delivery to be cancelled, which is looked at first: a fetch
/// that is gone cannot be finished by an outcome that has come meanwhile.
async fn decided<O>(
    mut outcome: oneshot::Receiver<O>,
    mut cancelled: oneshot::Receiver<()>,
) -> (Option<O>, bool) {
    poll_fn(|cx| {
        if Pin::new(&mut cancelled).poll(cx).is_ready() {
            outcome.close();
            return Poll::Ready((outcome.try_recv().ok(), true));
        }
        Pin::new(&mut outcome)
            .poll(cx)
            .map(|outcome| (outcome.ok(), false))
    })
    .await
}

impl<P> Answer<P> {
    pub(crate) fn new(request: crate::transport::Request<P>, bytes: Bytes, now: Time) -> Self {
        Self {
            fetch: request.fetch,
            source: request.source,
            peer: request.peer,
            took: now.since(request.began),
            bytes,
            accepted: false,
        }
    }
}
