//! What the worker does for the engine.

use super::{
    Event, Flight, Reply,
    attempt::{self, Finally, Heartbeat, Link},
    state::{Attempt, Fetch},
    worker::Worker,
};
use crate::{
    Answered, Datum, Fetched, Request, Soon, Transport,
    engine::{
        AttemptId, CommitFault, FetchId, Input, JudgementId, Outcome, Output, SourceId, Stage,
        Verdict, WaiterId,
    },
    error::{ErrorKind, FetchError},
};
use futures_util::FutureExt;
use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};
use tokio::time::Instant;
use tracing::Instrument;

impl<T: Transport> Worker<T> {
    pub(super) fn output(&mut self, output: Output<T::Key>) {
        match output {
            Output::Opened { fetch, key } => {
                let span = tracing::debug_span!("fetch", fetch = fetch.0, ?key);
                let plan = self.taking.as_ref().unwrap_or(&self.fallback);
                let state = Fetch::new(key, plan.resume, plan.body_bytes_max, span);
                self.fetches.insert(fetch, state);
            }
            Output::Select { fetch } => self.select(fetch),
            Output::Start {
                attempt,
                fetch,
                source,
                from_byte,
                stage,
            } => {
                self.start(attempt, fetch, source, from_byte, stage);
            }
            Output::Abort { attempt } => {
                if let Some(state) = self.attempts.get_mut(&attempt) {
                    state.aborting = true;
                    state.task.abort();
                }
            }
            Output::Judge {
                judgement,
                fetch,
                contributors,
                waiters,
            } => {
                self.judge(judgement, fetch, &contributors, &waiters);
            }
            Output::Commit { fetch } => self.commit(fetch),
            Output::Discard { attempt, .. } => self.discard(attempt),
            Output::Finish {
                waiter,
                fetch,
                outcome,
            } => self.finish(waiter, fetch, outcome),
            Output::Retired { fetch } => self.retired(fetch),
            Output::Blocked { source, until } => {
                tracing::info!(source = source.0, until = ?until, "blocked for an invalid answer");
            }
        }
    }

    fn select(&mut self, id: FetchId) {
        let Some(fetch) = self.fetches.get(&id) else {
            return;
        };
        let sources = self.sources.list();
        match guarded(|| self.select.rank(&fetch.key, &sources)) {
            Some(Soon::Now(ranked)) => {
                self.engine
                    .handle_input(self.now, Input::Candidates { fetch: id, ranked });
            }
            Some(Soon::Later(ranking)) => {
                let events = self.events.clone();
                let span = fetch.span.clone();
                self.decide(span, ranking, move |ranked| {
                    let ranked = ranked.unwrap_or_default();
                    let _ = events.send(Event::Ranked { fetch: id, ranked });
                });
            }
            None => {
                let ranked = Vec::new();
                self.engine
                    .handle_input(self.now, Input::Candidates { fetch: id, ranked });
            }
        }
    }

    fn start(
        &mut self,
        attempt: AttemptId,
        id: FetchId,
        source: SourceId,
        from_byte: u64,
        stage: Stage,
    ) {
        let refused = if self.closing.is_some() {
            Some(Instant::now() + std::time::Duration::from_secs(3600))
        } else {
            guarded(|| self.transport.admit(source)).and_then(Result::err)
        };
        let fetch = match (self.fetches.get_mut(&id), refused) {
            (Some(fetch), None) => fetch,
            (_, refused) => {
                let until = self.common.time(refused.unwrap_or_else(Instant::now));
                return self
                    .engine
                    .handle_input(self.now, Input::Declined { attempt, until });
            }
        };
        let head = fetch.flight.as_ref().filter(|_| fetch.identity.is_some());
        let head = head.and_then(|flight| flight.head());
        // More may have come since the engine last heard of it.
        let from_byte = match &fetch.flight {
            Some(flight)
                if head
                    .as_ref()
                    .is_some_and(|head| head.total.is_none_or(|t| flight.body.frontier() < t)) =>
            {
                from_byte.max(flight.body.frontier())
            }
            _ => from_byte,
        };
        if let Some(forgotten) = fetch.note(attempt, source) {
            self.fetch_of.remove(&forgotten);
        }
        self.fetch_of.insert(attempt, id);
        let span = tracing::debug_span!(
            parent: &fetch.span, "attempt", attempt = attempt.0, source = source.0, from_byte, ?stage
        );
        let link = Arc::new(Link {
            attempt,
            events: self.events.clone(),
            pending: false.into(),
            position: 0.into(),
        });
        let request = Request {
            key: fetch.key.clone(),
            source,
            from_byte,
            continues: head.map(|head| head.meta),
            stage,
            attempt,
            fetch: id,
            heartbeat: Heartbeat::new(link.clone()),
        };
        let finally = Finally {
            link: link.clone(),
            end: None,
        };
        let task = attempt::run(self.transport.clone(), request, finally).instrument(span);
        let task = self.tasks.spawn(task);
        let state = Attempt {
            fetch: id,
            task,
            link,
            aborting: false,
            reported: from_byte,
        };
        self.attempts.insert(attempt, state);
        self.engine
            .handle_input(self.now, Input::Started { attempt });
    }

    fn judge(
        &mut self,
        judgement: JudgementId,
        id: FetchId,
        contributors: &[AttemptId],
        waiters: &[WaiterId],
    ) {
        let verdict = self.ask_judge(judgement, id, contributors, waiters);
        if let Some(verdict) = verdict {
            self.engine
                .handle_input(self.now, Input::Judged { judgement, verdict });
        }
    }

    /// The verdict, if it is at hand.
    fn ask_judge(
        &mut self,
        judgement: JudgementId,
        id: FetchId,
        contributors: &[AttemptId],
        waiters: &[WaiterId],
    ) -> Option<Verdict> {
        let gave_up = Some(Verdict::GaveUp);
        let Some(fetch) = self.fetches.get_mut(&id) else {
            return gave_up;
        };
        let last = contributors.last();
        let own = || {
            fetch
                .own
                .iter()
                .find(|(own, _)| Some(own) == last)
                .map(|(_, flight)| flight)
        };
        let flight = if fetch.resume {
            fetch.flight.as_ref()
        } else {
            own()
        };
        let Some(flight) = flight.cloned() else {
            return gave_up;
        };
        flight.body.finish();
        let (Some(body), Some(head)) = (flight.body.whole(), flight.head()) else {
            return gave_up;
        };
        fetch.answer = Some(flight);
        let mut sources: Vec<SourceId> = contributors
            .iter()
            .filter_map(|attempt| fetch.source_of(*attempt))
            .collect();
        sources.dedup();
        let answered = Answered {
            key: &fetch.key,
            meta: &head.meta,
            body,
            sources: &sources,
            waiters,
        };
        match guarded(|| self.judge.judge(answered)) {
            Some(Soon::Now(verdict)) => Some(verdict),
            Some(Soon::Later(verdict)) => {
                let events = self.events.clone();
                let span = fetch.span.clone();
                self.decide(span, verdict, move |verdict| {
                    let verdict = verdict.unwrap_or(Verdict::GaveUp);
                    let _ = events.send(Event::Judged { judgement, verdict });
                });
                None
            }
            None => gave_up,
        }
    }

    fn commit(&mut self, id: FetchId) {
        if let Some(result) = self.ask_store(id) {
            self.engine
                .handle_input(self.now, Input::Committed { fetch: id, result });
        }
    }

    /// The store's answer, if it is at hand.
    fn ask_store(&mut self, id: FetchId) -> Option<Result<(), CommitFault>> {
        let Some(fetch) = self.fetches.get(&id) else {
            return Some(Err(CommitFault::Io));
        };
        let answer = fetch.answer.as_ref();
        let Some((body, head)) =
            answer.and_then(|flight| Some((flight.body.whole()?, flight.head()?)))
        else {
            return Some(Err(CommitFault::Io));
        };
        if !body.is_whole() {
            tracing::warn!(
                parent: &fetch.span, len = body.len(), "larger than the window: cannot be stored"
            );
            return Some(Err(CommitFault::Full));
        }
        let datum = Datum {
            key: &fetch.key,
            meta: &head.meta,
            body,
        };
        match guarded(|| self.store.commit(datum)) {
            Some(Soon::Now(result)) => Some(result),
            Some(Soon::Later(result)) => {
                let events = self.events.clone();
                let span = fetch.span.clone();
                self.decide(span, result, move |result| {
                    let result = result.unwrap_or(Err(CommitFault::Io));
                    let _ = events.send(Event::Committed { fetch: id, result });
                });
                None
            }
            None => Some(Err(CommitFault::Io)),
        }
    }

    /// Gives a decision a task of its own; `tell` gets `None` if it panics.
    fn decide<D: Send + 'static>(
        &mut self,
        span: tracing::Span,
        decision: impl Future<Output = D> + Send + 'static,
        tell: impl FnOnce(Option<D>) + Send + 'static,
    ) {
        self.deciding += 1;
        let decision = AssertUnwindSafe(decision).catch_unwind();
        let task = async move { tell(decision.await.ok()) };
        self.tasks.spawn(task.instrument(span));
    }

    fn discard(&mut self, attempt: AttemptId) {
        let fetch = self
            .fetch_of
            .get(&attempt)
            .and_then(|id| self.fetches.get_mut(id));
        if let Some(fetch) = fetch {
            fetch.discard(attempt);
        }
    }

    fn finish(&mut self, waiter: WaiterId, id: Option<FetchId>, outcome: Outcome) {
        let Some(reply) = self.waiters.remove(&waiter) else {
            return;
        };
        let fetch = id.and_then(|id| self.fetches.get_mut(&id));
        match outcome {
            Outcome::Failed { error, tried } => {
                let kind = ErrorKind::from(error);
                let tried = fetch.map(|fetch| fetch.explain(&tried)).unwrap_or_default();
                reply.fail(FetchError { kind, tried });
            }
            Outcome::Datum { sources } => match (&mut self.obtaining, reply) {
                (Some((datum, _)), Reply::Whole(outcome)) => {
                    let _ = outcome.send(Ok(Fetched {
                        sources,
                        ..datum.clone()
                    }));
                }
                (Some((datum, known)), reply) => {
                    let flight = known.get_or_insert_with(|| {
                        match fetch.and_then(|fetch| fetch.flight.as_ref()) {
                            Some(under_way) => {
                                under_way.complete_with(datum);
                                under_way.clone()
                            }
                            None => Arc::new(Flight::held(datum)),
                        }
                    });
                    reply.deliver(Some(flight), sources);
                }
                (None, reply) => {
                    let answer = fetch.and_then(|fetch| {
                        fetch.served |= fetch.answer.is_some();
                        fetch.answer.as_ref()
                    });
                    reply.deliver(answer, sources);
                }
            },
        }
    }

    fn retired(&mut self, id: FetchId) {
        self.explain(); // While its span is there.
        let Some(fetch) = self.fetches.remove(&id) else {
            return;
        };
        for note in &fetch.notes {
            self.fetch_of.remove(&note.attempt);
        }
        drop(fetch.answer);
        let own = fetch.own.into_iter().map(|(_, flight)| flight);
        for flight in fetch.flight.into_iter().chain(own) {
            let body = flight.body.clone();
            drop(flight);
            body.close();
            if body.is_shared() {
                self.common.budget.linger(body);
            }
        }
    }
}

/// Runs the front end's code; `None` if it panics.
fn guarded<R>(run: impl FnOnce() -> R) -> Option<R> {
    let result = catch_unwind(AssertUnwindSafe(run));
    if result.is_err() {
        tracing::error!("a trait of the front end panicked");
    }
    result.ok()
}
