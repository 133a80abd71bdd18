//! The worker: one task, one engine, and all that is in flight.

use super::{
    Call, Common, Event, Hub, Published, Reply, Wanted,
    attempt::Grant,
    state::{Attempt, Fetch, IdMap},
};
use crate::{
    Config, Fetched, Judge, Select, Store, Transport,
    body::{Budget, SharedBody},
    driver::{Flight, Head},
    engine::{
        self, AttemptId, ConfigError, End, Engine, FetchId, GroupId, Input, Key, Plan, SourceId,
        Time, WaiterId,
    },
    error::{ErrorKind, FetchError},
};
use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    pin::{Pin, pin},
    sync::{Arc, Mutex, atomic::Ordering},
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Duration, Instant, Sleep, sleep_until},
};

/// Events taken at once, between looks at the timers.
const EVENTS_BATCH: usize = 128;
/// Decisions kept to be logged, where debug logs are on; they are taken after each batch.
const EVENTS_MAX: u32 = 16 << 10;
/// Wants taken at once, between looks at the events.
const WANTS_BATCH: usize = 32;
/// How long the end waits for aborted tasks.
const TASKS_GRACE: Duration = Duration::from_secs(1);

pub(super) struct Worker<T: Transport> {
    pub(super) engine: Engine<T::Key>,
    pub(super) transport: Arc<T>,
    pub(super) select: Arc<dyn Select<T::Key>>,
    pub(super) judge: Arc<dyn Judge<T::Key, T::Meta>>,
    pub(super) store: Arc<dyn Store<T::Key, T::Meta>>,
    pub(super) common: Arc<Common>,
    pub(super) events: mpsc::UnboundedSender<Event<T::Key, T::Meta>>,
    pub(super) now: Time,
    pub(super) fetches: IdMap<FetchId, Fetch<T::Key, T::Meta>>,
    pub(super) attempts: IdMap<AttemptId, Attempt<T::Key, T::Meta>>,
    pub(super) waiters: IdMap<WaiterId, Reply<T::Meta>>,
    pub(super) sources: Sources,
    /// Attempts, and decisions that take their time. Dropped, all are aborted.
    pub(super) tasks: JoinSet<()>,
    /// Decisions that are out: rankings, verdicts, commits.
    pub(super) deciding: usize,
    pub(super) window_max: u64,
    pub(super) fallback: Arc<Plan>,
    /// The plan of the want that is being taken.
    pub(super) taking: Option<Arc<Plan>>,
    /// What came by another way, while the engine hears of it.
    pub(super) obtaining: Option<Obtained<T::Meta>>,
    /// The fetches of attempts, ended ones included, until they are retired.
    pub(super) fetch_of: IdMap<AttemptId, FetchId>,
    /// No more attempts; the worker ends when all is quiet, or at this time.
    pub(super) closing: Option<Instant>,
    log: Vec<(u64, u64)>,
}

/// What came by another way; and as a flight, once somebody streams it.
pub(super) type Obtained<M> = (Fetched<M>, Option<Arc<Flight<M>>>);

/// The sources that are up, in the order they were added.
#[derive(Default)]
pub(super) struct Sources {
    places: IdMap<SourceId, u64>,
    order: BTreeMap<u64, SourceId>,
    next: u64,
    listed: Option<Arc<[SourceId]>>,
}

impl Sources {
    fn add(&mut self, source: SourceId) {
        if let std::collections::hash_map::Entry::Vacant(place) = self.places.entry(source) {
            place.insert(self.next);
            self.order.insert(self.next, source);
            self.next += 1;
            self.listed = None;
        }
    }

    fn remove(&mut self, source: SourceId) {
        if let Some(place) = self.places.remove(&source) {
            self.order.remove(&place);
            self.listed = None;
        }
    }

    /// All of them; O(n) after a change, free otherwise.
    pub(super) fn list(&mut self) -> Arc<[SourceId]> {
        let order = &self.order;
        self.listed
            .get_or_insert_with(|| order.values().copied().collect())
            .clone()
    }
}

/// What ended a sleep.
enum Woken<K: Key, M> {
    Event(Option<Event<K, M>>),
    Call(Option<Call>),
    Timer,
    Want(Option<Wanted<K, M>>),
}

pub(crate) fn spawn<T: Transport>(
    transport: T,
    select: Arc<dyn Select<T::Key>>,
    judge: Arc<dyn Judge<T::Key, T::Meta>>,
    store: Arc<dyn Store<T::Key, T::Meta>>,
    plan: Arc<Plan>,
    config: Config,
) -> Result<Hub<T::Key, T::Meta>, ConfigError> {
    if config.wants_max == 0 {
        return Err(ConfigError { field: "wants_max" });
    }
    let seed = config
        .seed
        .unwrap_or_else(|| RandomState::new().hash_one(0));
    let mut engine = config.engine;
    if engine.events_max == 0 && tracing::enabled!(tracing::Level::DEBUG) {
        engine.events_max = EVENTS_MAX;
    }
    let engine = Engine::new(engine, seed)?;
    let (wants, wanted) = mpsc::channel(config.wants_max);
    let (events, happened) = mpsc::unbounded_channel();
    let (calls, called) = mpsc::unbounded_channel();
    let common = Arc::new(Common {
        epoch: Instant::now(),
        budget: Budget::new(config.lingering_bytes_max),
        published: Mutex::default(),
        panicked: false.into(),
    });
    let worker = Worker {
        engine,
        transport: Arc::new(transport),
        select,
        judge,
        store: store.clone(),
        common: common.clone(),
        events: events.clone(),
        now: Time::ZERO,
        fetches: IdMap::default(),
        attempts: IdMap::default(),
        waiters: IdMap::default(),
        sources: Sources::default(),
        tasks: JoinSet::new(),
        deciding: 0,
        window_max: config.window_bytes_max,
        fallback: plan.clone(),
        taking: None,
        obtaining: None,
        fetch_of: IdMap::default(),
        closing: None,
        log: Vec::new(),
    };
    tokio::spawn(worker.run(wanted, happened, called));
    Ok(Hub::new(wants, events, calls, store, plan, common))
}

impl<T: Transport> Worker<T> {
    async fn run(
        mut self,
        mut wanted: mpsc::Receiver<Wanted<T::Key, T::Meta>>,
        mut happened: mpsc::UnboundedReceiver<Event<T::Key, T::Meta>>,
        mut called: mpsc::UnboundedReceiver<Call>,
    ) {
        let mut sleep = pin!(sleep_until(self.common.epoch));
        let mut armed = None;
        // Whether there are handles of the fetcher, and callers or handles, still.
        let (mut handles, mut callers) = (true, true);
        loop {
            self.now = self.common.time(Instant::now());
            // Answers, departures and timers come before new wants.
            for _ in 0..EVENTS_BATCH {
                let Ok(event) = happened.try_recv() else {
                    break;
                };
                self.event(event);
            }
            for _ in 0..EVENTS_BATCH {
                let Ok(call) = called.try_recv() else { break };
                self.call(call);
            }
            if self.engine.poll_timeout().is_some_and(|at| at <= self.now) {
                self.engine.handle_timeout(self.now);
                self.drain();
            }
            for _ in 0..WANTS_BATCH {
                let Ok(want) = wanted.try_recv() else { break };
                self.catch_up(&mut happened);
                self.want(want);
            }
            while self.tasks.try_join_next().is_some() {}
            self.publish();
            if self.closing.is_some() {
                wanted.close();
            }
            if self.is_over(handles) {
                break;
            }
            if self.engine.poll_timeout().is_some_and(|at| at <= self.now) {
                // More is due at once than is done in one go; a sleep would take a millisecond.
                tokio::task::yield_now().await;
                continue;
            }
            self.arm(sleep.as_mut(), &mut armed);
            let due = armed.is_some();
            // Takes one thing, and only after it the time: whatever came, came now.
            let woken = tokio::select! {
                biased;
                event = happened.recv() => Woken::Event(event),
                call = called.recv(), if callers => Woken::Call(call),
                () = sleep.as_mut(), if due => Woken::Timer,
                want = wanted.recv(), if handles => Woken::Want(want),
            };
            self.now = self.common.time(Instant::now());
            match woken {
                Woken::Event(Some(event)) => self.event(event),
                Woken::Event(None) => break, // Never: we hold a sender ourselves.
                Woken::Call(Some(call)) => self.call(call),
                Woken::Call(None) => callers = false,
                Woken::Timer => armed = None,
                Woken::Want(Some(want)) => {
                    self.catch_up(&mut happened);
                    self.want(want);
                }
                Woken::Want(None) => handles = false,
            }
        }
        // A task that does not yield cannot be waited for.
        let _ = tokio::time::timeout(TASKS_GRACE, self.tasks.shutdown()).await;
        self.common.publish(Published {
            counters: *self.engine.counters(),
            ..Published::default()
        });
        // Callers find their answer in the drop of their replies; the mailbox goes last, for that is
        // what a shutdown waits for.
        drop(self);
        drop((wanted, called));
        drop(happened);
    }

    /// What was said before a want was taken, in the order in which it was said: whoever adds a source and
    /// asks for something right after it finds the source added.
    fn catch_up(&mut self, happened: &mut mpsc::UnboundedReceiver<Event<T::Key, T::Meta>>) {
        for _ in 0..happened.len() {
            let Ok(event) = happened.try_recv() else {
                break;
            };
            self.event(event);
        }
    }

    /// Sleeps until the engine or a shutdown has something to do.
    fn arm(&self, mut sleep: Pin<&mut Sleep>, armed: &mut Option<Instant>) {
        let engine = self.engine.poll_timeout().and_then(|at| {
            self.common.epoch.checked_add(at.since(Time::ZERO)) // Never, where that is too far.
        });
        let next = match (engine, self.closing) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if next != *armed {
            *armed = next;
            if let Some(at) = next {
                sleep.as_mut().reset(at);
            }
        }
    }

    /// Whether there is nothing left to do, and nobody who could ask.
    fn is_over(&self, handles: bool) -> bool {
        let quiet = self.attempts.is_empty() && self.deciding == 0;
        match self.closing {
            Some(at) => !handles && (quiet || Instant::now() >= at),
            None => !handles && quiet && self.fetches.is_empty(),
        }
    }

    fn publish(&self) {
        self.common.publish(Published {
            counters: *self.engine.counters(),
            fetches: self.fetches.len() as u64,
            waiters: self.waiters.len() as u64,
            attempts: self.attempts.len() as u64,
        });
    }

    /// Logs the engine's decisions, where it was asked to keep them.
    pub(super) fn explain(&mut self) {
        while let Some(event) = self.engine.poll_event() {
            let fetch = fetch_of(&event).and_then(|id| self.fetches.get(&id));
            let span = fetch.map(|fetch| &fetch.span);
            tracing::debug!(parent: span.and_then(tracing::Span::id), ?event, "decided");
        }
    }

    /// Tells the engine, and does what it asks for.
    fn input(&mut self, input: Input<T::Key>) {
        self.engine.handle_input(self.now, input);
        self.drain();
    }

    pub(super) fn drain(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            self.output(output);
        }
        self.explain();
    }

    // ---- callers ----

    fn want(&mut self, wanted: Wanted<T::Key, T::Meta>) {
        let Wanted {
            waiter,
            key,
            want,
            reply,
        } = wanted;
        if reply.is_closed() {
            return; // The caller has gone; its release has come already, or comes to nothing.
        }
        if self.closing.is_some() {
            return reply.fail(FetchError::new(ErrorKind::Cancelled));
        }
        self.waiters.insert(waiter, reply);
        let plan = want.plan.clone();
        self.taking = Some(plan.clone());
        self.input(Input::Want { waiter, key, want });
        self.taking = None;
        self.attach(waiter, &plan);
    }

    /// Gives a streaming caller the body of the fetch that it has joined.
    fn attach(&mut self, waiter: WaiterId, plan: &Plan) {
        let joined = self.engine.fetch_of(waiter);
        let Some(fetch) = joined.and_then(|id| self.fetches.get_mut(&id)) else {
            return;
        };
        // A want that takes a cancelled fetch up again brings its own bound. (The engine knows which
        // one holds; this one is for what it has not heard of yet.)
        fetch.bytes_max = fetch.bytes_max.max(plan.body_bytes_max);
        let Some(Reply::Stream {
            flight, attached, ..
        }) = self.waiters.get_mut(&waiter)
        else {
            return;
        };
        if let Some(flight) = flight.take_if(|_| fetch.resume) {
            let joined = fetch.flight(self.window_max, &self.common.budget);
            *attached = Some(joined.clone());
            let _ = flight.send(joined.clone());
        }
    }

    fn call(&mut self, call: Call) {
        match call {
            Call::Release(waiter) => {
                if self.waiters.remove(&waiter).is_some() {
                    self.input(Input::Release { waiter });
                }
            }
            Call::Deadline(waiter, deadline) => {
                if self.waiters.contains_key(&waiter) {
                    self.input(Input::Deadline { waiter, deadline });
                }
            }
        }
    }

    // ---- everything else that happens ----

    fn event(&mut self, event: Event<T::Key, T::Meta>) {
        match event {
            Event::Opened {
                attempt,
                identity,
                total,
                meta,
                grant,
            } => {
                self.input(Input::Opened {
                    attempt,
                    identity,
                    total,
                });
                if let Some(leave) = self.grant(attempt, identity, total, meta) {
                    let _ = grant.send(leave);
                }
            }
            Event::Sign { attempt } => self.sign(attempt),
            Event::Ended {
                attempt,
                end,
                detail,
            } => {
                let Some(state) = self.attempts.get(&attempt) else {
                    return;
                };
                let fetch = state.fetch;
                self.flush(attempt, fetch);
                self.attempts.remove(&attempt);
                if let Some(fetch) = self.fetches.get_mut(&fetch) {
                    tracing::debug!(parent: &fetch.span, attempt = attempt.0, ?end, %detail, "ended");
                    fetch.detail(attempt, detail);
                    if !fetch.resume && !matches!(end, End::Complete { .. }) {
                        // The engine has no further use for its bytes, and reserves no room for them.
                        fetch.discard(attempt);
                    }
                }
                self.input(Input::Ended { attempt, end });
            }
            Event::Ranked { fetch, ranked } => {
                self.deciding -= 1;
                self.input(Input::Candidates { fetch, ranked });
            }
            Event::Judged { judgement, verdict } => {
                self.deciding -= 1;
                self.input(Input::Judged { judgement, verdict });
            }
            Event::Committed { fetch, result } => {
                self.deciding -= 1;
                self.input(Input::Committed { fetch, result });
            }
            Event::SourceUp { source, group } => self.source_up(source, group),
            Event::SourceDown { source } => {
                self.sources.remove(source);
                self.input(Input::SourceDown { source });
            }
            Event::Obtained { key, from, datum } => {
                self.obtaining = datum.map(|datum| (datum, None));
                self.input(Input::Obtained { key, from });
                self.obtaining = None;
            }
            Event::Input(input) => self.input(input),
            Event::Block { source, lasts } => {
                let until = lasts.map(|lasts| self.now.after(lasts));
                self.input(Input::Block { source, until });
            }
            Event::Retain(keep) => {
                self.engine.retain(self.now, keep);
                self.drain();
            }
            Event::Snapshot(answer) => {
                let _ = answer.send(self.engine.snapshot());
            }
            Event::Shutdown { grace } => self.close(grace),
        }
    }

    fn source_up(&mut self, source: SourceId, group: GroupId) {
        self.sources.add(source);
        self.input(Input::SourceUp { source, group });
    }

    /// Where an attempt that has opened may put its bytes; none, if the engine does not want them.
    fn grant(
        &mut self,
        attempt: AttemptId,
        identity: u64,
        total: Option<u64>,
        meta: T::Meta,
    ) -> Option<Grant> {
        let state = self
            .attempts
            .get(&attempt)
            .filter(|state| !state.aborting)?;
        let fetch = self.fetches.get_mut(&state.fetch)?;
        let flight = if fetch.resume {
            fetch.flight(self.window_max, &self.common.budget);
            fetch.admit(identity, meta, total);
            fetch.flight.as_ref()?
        } else {
            let body = SharedBody::new(self.window_max, self.common.budget.clone());
            let flight = Flight::new(body);
            flight.set_head(Some(Head {
                epoch: 0,
                meta,
                total,
            }));
            fetch.own.push((attempt, Arc::new(flight)));
            &fetch.own.last()?.1
        };
        Some(Grant {
            body: flight.body.clone(),
            epoch: flight.body.epoch(),
            bytes_max: fetch.bytes_max,
        })
    }

    /// An attempt has brought bytes, or says that its source is at work.
    fn sign(&mut self, attempt: AttemptId) {
        let Some(state) = self.attempts.get(&attempt) else {
            return;
        };
        // In this order: what comes after is signed anew, and the position is not past the log.
        state.link.pending.store(false, Ordering::Release);
        let position = state.link.position.load(Ordering::Acquire);
        let reported = state.reported;
        self.flush(attempt, state.fetch);
        let Some(state) = self.attempts.get_mut(&attempt) else {
            return;
        };
        if state.reported > reported {
            return; // The log has said it all.
        }
        if position > reported {
            // Bytes that others had brought before.
            state.reported = position;
            self.input(Input::Progress {
                attempt,
                upto: position,
            });
        } else {
            self.input(Input::Heartbeat { attempt });
        }
    }

    /// Tells the engine who has brought which bytes of the body that this attempt appends to, in the
    /// order of the bytes.
    fn flush(&mut self, attempt: AttemptId, fetch: FetchId) {
        let Some(fetch) = self.fetches.get(&fetch) else {
            return;
        };
        let own = || {
            fetch
                .own
                .iter()
                .find(|(own, _)| *own == attempt)
                .map(|(_, flight)| flight)
        };
        let Some(flight) = (if fetch.resume {
            fetch.flight.as_ref()
        } else {
            own()
        }) else {
            return;
        };
        let mut log = std::mem::take(&mut self.log);
        flight.body.take_log(&mut log);
        for (producer, upto) in &log {
            let attempt = AttemptId(*producer);
            if let Some(state) = self.attempts.get_mut(&attempt) {
                state.reported = *upto;
                self.engine.handle_input(
                    self.now,
                    Input::Progress {
                        attempt,
                        upto: *upto,
                    },
                );
            }
        }
        self.log = log;
        self.drain();
    }

    /// Takes no more wants, ends all callers, stops all attempts.
    fn close(&mut self, grace: Duration) {
        if self.closing.is_some() {
            return;
        }
        self.closing = Some(Instant::now() + grace);
        self.engine.retain(self.now, |_, _| false);
        self.drain();
        for attempt in self.attempts.values() {
            attempt.task.abort();
        }
    }
}

/// The fetch that a decision is about.
fn fetch_of(event: &engine::Event) -> Option<FetchId> {
    match event {
        engine::Event::Joined(fetch, ..)
        | engine::Event::Phase(fetch, ..)
        | engine::Event::Start(fetch, ..)
        | engine::Event::End(fetch, ..)
        | engine::Event::Timeout(fetch, ..)
        | engine::Event::Hedge(fetch)
        | engine::Event::Verdict(fetch, ..)
        | engine::Event::Pause(fetch, ..)
        | engine::Event::Failed(fetch, ..) => Some(*fetch),
        _ => None,
    }
}

impl<T: Transport> Drop for Worker<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Before the replies are dropped, so that callers learn why.
            self.common.panicked.store(true, Ordering::Release);
        }
        for fetch in self.fetches.values() {
            for flight in fetch
                .flight
                .iter()
                .chain(fetch.own.iter().map(|(_, flight)| flight))
            {
                flight.body.close();
            }
        }
    }
}
