//! Answers: from the peer to the consumer, and what it says of them.

use crate::{
    drive::Driver,
    judge::{Answer, Judged},
    machine::{AttemptId, End, FetchId, Input, JudgementId, Verdict, WaiterId},
    moment::Moment,
};
use bytes::Bytes;
use commonware_cryptography::PublicKey;
use commonware_p2p::{Blocker, Sender};
use commonware_resolver::{Consumer, Delivery, Outcome};
use commonware_runtime::telemetry::metrics::status::Status;
use commonware_utils::{Span, vec::NonEmptyVec};
use tracing::warn;

impl<P, B, Key, Con> Driver<P, B, Key, Con>
where
    P: PublicKey,
    B: Blocker<PublicKey = P>,
    Key: Span,
    Con: Consumer<Key = Key, Value = Bytes, Subscriber: Ord>,
{
    pub(crate) fn response(&mut self, at: Moment, peer: &P, id: u64, bytes: Bytes) {
        let Some((attempt, request)) = self.requests.answered(id, peer) else {
            // Too late, mostly: the request was given up.
            self.metrics.unsolicited.inc();
            return;
        };
        let upto = bytes.len() as u64;
        if let Some(held) = self.fetches.get_mut(request.fetch) {
            let answer = Answer::new(request, bytes, at.now);
            held.more().brought.push((attempt, answer));
        }
        let end = End::Complete { upto };
        self.machine
            .handle_input(at.now, Input::Ended { attempt, end });
    }

    pub(crate) fn missing(&mut self, at: Moment, peer: &P, id: u64) {
        let Some((attempt, _)) = self.requests.answered(id, peer) else {
            self.metrics.unsolicited.inc();
            return;
        };
        self.metrics.fetch.inc(Status::Failure);
        let end = End::Missing;
        self.machine
            .handle_input(at.now, Input::Ended { attempt, end });
    }

    /// The consumer is done with a delivery. To be followed by [`Driver::drive`].
    pub(crate) fn judged<NetS>(&mut self, at: Moment, judged: Judged<P>, sender: &mut NetS)
    where
        NetS: Sender<PublicKey = P>,
    {
        let verdict = judged.verdict();
        let Judged {
            judgement,
            fetch,
            attempt,
            mut answer,
            outcome,
            cancelled,
        } = judged;
        let first = !answer.accepted;
        // What the answer says of its peer holds whether or not anybody still wants the key; to be
        // judged again says nothing new.
        match outcome {
            Some(Outcome::Resolved(_)) if first => {
                self.metrics.resolves.observe(answer.took.as_secs_f64());
                self.metrics.fetch.inc(Status::Success);
            }
            Some(Outcome::Unresolved) if first => self.metrics.fetch.inc(Status::Ambiguous),
            Some(Outcome::Invalid) => {
                self.metrics.fetch.inc(Status::Failure);
                if first {
                    commonware_p2p::block!(
                        self.blocker,
                        answer.peer.as_ref().clone(),
                        "invalid answer"
                    );
                } else {
                    warn!(peer = ?answer.peer, "an answer found good before was rejected");
                }
            }
            Some(Outcome::Ignored) if !cancelled => self.metrics.fetch.inc(Status::Dropped),
            _ => {}
        }
        let source = answer.source;
        if !cancelled
            && verdict == Verdict::Valid
            && first
            && let Some(held) = self.fetches.get(fetch)
        {
            answer.accepted = true;
            let took = at.now.since(held.since).as_secs_f64();
            self.metrics.fetch_duration.observe(took);
        }
        self.machine
            .handle_input(at.now, Input::Judged { judgement, verdict });
        if !cancelled
            && self.machine.key(fetch).is_some()
            && let Some(held) = self.fetches.get_mut(fetch)
        {
            // It may be judged again, for others.
            held.more().brought.push((attempt, answer));
        }
        self.drive(at, sender);
        if matches!(verdict, Verdict::Valid | Verdict::Partial) {
            self.note_performance(source);
        }
        if verdict == Verdict::GaveUp && first && !cancelled && self.fetches.get(fetch).is_none() {
            self.metrics.fetch.inc(Status::Dropped);
        }
    }

    /// An answer is to be judged, for these waiters.
    pub(crate) fn deliver(
        &mut self,
        at: Moment,
        judgement: JudgementId,
        fetch: FetchId,
        attempt: Option<&AttemptId>,
        waiters: &[WaiterId],
    ) {
        let parts = (|| {
            let attempt = *attempt?;
            let held = self.fetches.get_mut(fetch)?;
            let subscribers = NonEmptyVec::try_from(held.subscribers.of(waiters)).ok()?;
            let key = self.machine.key(fetch)?.clone();
            let answer = held.take_answer(attempt)?;
            let delivery = Delivery { key, subscribers };
            let ids = (judgement, fetch, attempt);
            held.more().delivery = self.judge.deliver(delivery, ids, answer);
            Some(())
        })();
        if parts.is_none() {
            // Nobody is left to ask for.
            let verdict = Verdict::GaveUp;
            self.machine
                .handle_input(at.now, Input::Judged { judgement, verdict });
        }
    }
}
