//! [`Fetcher`]: the handle through which everybody asks.

use crate::{
    AcceptAll, Config, Fetched, InOrder, Judge, NoStore, Select, Store, Transport,
    driver::{self, Event, Hub},
    engine::{
        ConfigError, Counters, GroupId, Input, Key, Limits, Plan, Scope, Snapshot, SourceId,
        WaiterId,
    },
    fetch::{AsItArrives, Fetch, Whole},
};
use std::{fmt, sync::Arc, time::Duration};
use tokio::{sync::oneshot, time::Instant};

/// Fetches each key once, from whichever source can prove that it has it, and hands it to everyone
/// who asked.
///
/// Cheap to clone; all clones are one fetcher. It lives in one task of the runtime it was made in,
/// and one task for each attempt. When the last handle is gone, what is in flight is still brought to
/// its end; [`Fetcher::shutdown`] ends it in a bounded time.
///
/// ```
/// use bytes::Bytes;
/// use gannet::{Answer, AttemptError, Config, Fetcher, Request, Transport, engine::{GroupId, SourceId}};
///
/// struct Echo;
///
/// impl Transport for Echo {
///     type Key = String;
///     type Meta = ();
///
///     async fn open(&self, request: Request<String, ()>) -> Result<Answer<()>, AttemptError> {
///         Ok(Answer::whole((), Bytes::from(request.key)))
///     }
/// }
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let fetcher = Fetcher::builder(Echo).build()?;
/// fetcher.add_source(SourceId(1), GroupId(0));
/// let fetched = fetcher.fetch("hello".to_owned()).await?;
/// assert_eq!(fetched.body.to_bytes(), "hello");
/// assert_eq!(fetched.sources.as_slice(), [SourceId(1)]);
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(f()).unwrap();
/// ```
pub struct Fetcher<K: Key, M> {
    hub: Arc<Hub<K, M>>,
}

impl<K: Key, M> Clone for Fetcher<K, M> {
    fn clone(&self) -> Self {
        Self {
            hub: self.hub.clone(),
        }
    }
}

impl<K: Key, M> fmt::Debug for Fetcher<K, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher")
            .field("now", &self.hub.common.published())
            .finish()
    }
}

/// Gathers the parts of a [`Fetcher`].
pub struct Builder<T: Transport> {
    transport: T,
    select: Arc<dyn Select<T::Key>>,
    judge: Arc<dyn Judge<T::Key, T::Meta>>,
    store: Arc<dyn Store<T::Key, T::Meta>>,
    plan: Arc<Plan>,
    config: Config,
}

impl<T: Transport> fmt::Debug for Builder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("plan", &self.plan)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl<T: Transport> Builder<T> {
    /// How sources are ranked [[`InOrder`]].
    #[must_use]
    pub fn select(mut self, select: impl Select<T::Key>) -> Self {
        self.select = Arc::new(select);
        self
    }

    /// How answers are judged [[`AcceptAll`]].
    #[must_use]
    pub fn judge(mut self, judge: impl Judge<T::Key, T::Meta>) -> Self {
        self.judge = Arc::new(judge);
        self
    }

    /// Where data is held and committed [[`NoStore`]].
    #[must_use]
    pub fn store(mut self, store: impl Store<T::Key, T::Meta>) -> Self {
        self.store = Arc::new(store);
        self
    }

    /// The plan of fetches that bring none of their own [[`Plan::default`]].
    #[must_use]
    pub fn plan(mut self, plan: impl Into<Arc<Plan>>) -> Self {
        self.plan = plan.into();
        self
    }

    /// Bounds and tuning.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Starts the worker, in the current tokio runtime.
    ///
    /// # Errors
    ///
    /// If the configuration cannot work.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, or in one without time.
    pub fn build(self) -> Result<Fetcher<T::Key, T::Meta>, ConfigError> {
        let hub = driver::spawn(
            self.transport,
            self.select,
            self.judge,
            self.store,
            self.plan,
            self.config,
        )?;
        Ok(Fetcher { hub: Arc::new(hub) })
    }
}

impl Fetcher<(), ()> {
    /// Gathers the parts of a fetcher.
    pub fn builder<T: Transport>(transport: T) -> Builder<T> {
        Builder {
            transport,
            select: Arc::new(InOrder),
            judge: Arc::new(AcceptAll),
            store: Arc::new(NoStore),
            plan: Arc::default(),
            config: Config::default(),
        }
    }
}

impl<K: Key + Send + Sync + 'static, M: Clone + Send + Sync + 'static> Fetcher<K, M> {
    /// A fetcher of these parts; [`Fetcher::builder`] has defaults for most.
    ///
    /// # Errors
    ///
    /// If the configuration cannot work.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, or in one without time.
    pub fn new<T: Transport<Key = K, Meta = M>>(
        transport: T,
        select: impl Select<K>,
        judge: impl Judge<K, M>,
        store: impl Store<K, M>,
        config: Config,
    ) -> Result<Self, ConfigError> {
        Fetcher::builder(transport)
            .select(select)
            .judge(judge)
            .store(store)
            .config(config)
            .build()
    }

    /// Asks for a datum as a whole: await what this gives. See [`Fetch`] for the terms.
    pub fn fetch(&self, key: K) -> Fetch<K, M, Whole> {
        Fetch::new(&self.hub, key)
    }

    /// Asks for a datum as it arrives: await what this gives. Under a plan that resumes, resolves
    /// when the first byte is at hand; under others, when a whole answer was found valid.
    pub fn stream(&self, key: K) -> Fetch<K, M, AsItArrives> {
        Fetch::new(&self.hub, key)
    }

    /// A source is reachable. Naming a known one again moves it to that group.
    pub fn add_source(&self, source: SourceId, group: GroupId) {
        self.hub.tell(Event::SourceUp { source, group });
    }

    /// A source is gone: it gets no new attempts; those under way end by themselves.
    pub fn remove_source(&self, source: SourceId) {
        self.hub.tell(Event::SourceDown { source });
    }

    /// No attempt goes to this source for so long, or until [`Fetcher::unblock`]; those under way are
    /// aborted.
    pub fn block(&self, source: SourceId, lasts: Option<Duration>) {
        self.hub.tell(Event::Block { source, lasts });
    }

    /// Ends a block.
    pub fn unblock(&self, source: SourceId) {
        self.hub.tell(Event::Input(Input::Unblock { source }));
    }

    /// Sets the limits of a source, a group or everything.
    pub fn limit(&self, scope: Scope, limits: Limits) {
        self.hub.tell(Event::Input(Input::Limit { scope, limits }));
    }

    /// No new attempt in this scope for so long.
    pub fn pause(&self, scope: Scope, lasts: Duration) {
        let until = self.hub.common.time(Instant::now()).after(lasts);
        self.hub.tell(Event::Input(Input::Pause { scope, until }));
    }

    /// A source says that it has this key, or soon will: wakes a fetch that waits out a pause.
    pub fn announce(&self, key: K, source: SourceId) {
        self.hub
            .tell(Event::Input(Input::Announced { key, source }));
    }

    /// The datum came by another way. Its fetch ends well for all callers: with `datum`, or, where
    /// that is none, with what the store holds.
    pub fn obtained(&self, key: K, from: Option<SourceId>, datum: Option<Fetched<M>>) {
        self.hub.tell(Event::Obtained { key, from, datum });
    }

    /// Moves the deadline of a caller ([`Fetch::waiter`]); `None` takes it away.
    pub fn deadline(&self, waiter: WaiterId, deadline: Option<Instant>) {
        let deadline = deadline.map(|at| self.hub.common.time(at));
        let _ = self
            .hub
            .calls
            .send(driver::Call::Deadline(waiter, deadline));
    }

    /// The source is out of every target set.
    pub fn withdraw(&self, source: SourceId) {
        self.hub.tell(Event::Input(Input::Withdraw { source }));
    }

    /// The source is out of one fetch's target set.
    pub fn withdraw_from(&self, key: K, source: SourceId) {
        self.hub
            .tell(Event::Input(Input::WithdrawFrom { key, source }));
    }

    /// Cancels the callers for whom `keep` says no.
    pub fn retain(&self, keep: impl FnMut(&K, WaiterId) -> bool + Send + 'static) {
        self.hub.tell(Event::Retain(Box::new(keep)));
    }

    /// Everything in flight, for people. Costs O(fetches + sources) on the worker; `None` after a
    /// shutdown.
    pub async fn snapshot(&self) -> Option<Snapshot<K>> {
        let (answer, snapshot) = oneshot::channel();
        self.hub.tell(Event::Snapshot(answer));
        snapshot.await.ok()
    }

    /// Counts since the start, as of when the worker last went to sleep. Does not wait.
    pub fn counters(&self) -> Counters {
        self.hub.common.published().counters
    }

    /// What is in flight, as of when the worker last went to sleep. Does not wait.
    pub fn gauges(&self) -> Gauges {
        let published = self.hub.common.published();
        Gauges {
            fetches: published.fetches,
            waiters: published.waiters,
            attempts: published.attempts,
            body_bytes: self.hub.common.budget.held(),
        }
    }

    /// Ends the fetcher: no new wants are taken, callers get [`ErrorKind::Cancelled`](crate::ErrorKind), attempts are
    /// aborted, and judgements and commits under way are given this long to end. Resolves when all
    /// is done; every handle is of no use afterwards.
    ///
    /// # Cancellation
    ///
    /// The shutdown goes on though nobody waits for it.
    pub async fn shutdown(&self, grace: Duration) {
        self.hub.tell(Event::Shutdown { grace });
        self.hub.events.closed().await;
    }
}

/// What is in flight; each returns to zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gauges {
    /// Fetches that are not over.
    pub fetches: u64,
    /// Callers that have not got their outcome.
    pub waiters: u64,
    /// Attempts that have not ended.
    pub attempts: u64,
    /// Bytes in bodies, those included that only readers keep.
    pub body_bytes: u64,
}

#[cfg(test)]
impl<K: Key, M> Fetcher<K, M> {
    /// The worker's mailbox, which closes when it ends.
    pub(crate) fn events(&self) -> tokio::sync::mpsc::UnboundedSender<Event<K, M>> {
        self.hub.events.clone()
    }
}
