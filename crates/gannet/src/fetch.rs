//! [`Fetch`]: one caller's want, its terms, and how it is awaited.

use crate::{
    Soon,
    body::SharedBody,
    driver::{Flight, Head, Hub, Reply, Ticket},
    engine::{Key, Plan, Sources, Targets, WaiterId, Want},
    error::{ErrorKind, FetchError, StreamError},
    fetched::{BodyReader, Fetched, Streaming},
};
use std::{
    fmt,
    future::{Future, IntoFuture, poll_fn},
    pin::Pin,
    sync::Arc,
};
use tokio::{sync::oneshot, time::Instant};

/// The datum as a whole; see [`Fetcher::fetch`](crate::Fetcher::fetch).
#[derive(Clone, Copy, Debug)]
pub struct Whole;

/// The datum as it arrives; see [`Fetcher::stream`](crate::Fetcher::stream).
#[derive(Clone, Copy, Debug)]
pub struct AsItArrives {
    from: u64,
    until: u64,
}

/// A want and its terms: await it.
///
/// ```
/// # use gannet::{Answer, AttemptError, Fetcher, Request, Transport, engine::{GroupId, Plan, SourceId}};
/// # use std::time::Duration;
/// # struct Echo;
/// # impl Transport for Echo {
/// #     type Key = String;
/// #     type Meta = ();
/// #     async fn open(&self, request: Request<String, ()>) -> Result<Answer<()>, AttemptError> {
/// #         Ok(Answer::whole((), request.key.into()))
/// #     }
/// # }
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// # let fetcher = Fetcher::builder(Echo).build()?;
/// # fetcher.add_source(SourceId(1), GroupId(0));
/// let plan = Plan { resume: true, first_byte_timeout: Duration::from_secs(2), ..Plan::default() };
/// let mut streaming = fetcher.stream("hello".to_owned()).plan(plan).priority(20).at(1).await?;
/// assert_eq!(streaming.total, Some(5));
/// assert_eq!(streaming.body.next().await.transpose()?.as_deref(), Some(&b"ello"[..]));
/// assert!(streaming.body.next().await.is_none());
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(f()).unwrap();
/// ```
///
/// # Cancellation
///
/// Dropping the future (or the reader that it resolves to) releases the caller's interest. The last
/// one that goes cancels the fetch, unless the plan detaches it.
#[must_use = "a want does nothing unless it is awaited"]
pub struct Fetch<K: Key, M, W> {
    hub: Arc<Hub<K, M>>,
    waiter: WaiterId,
    key: K,
    targets: Targets,
    priority: u8,
    owner: u32,
    deadline: Option<Instant>,
    plan: Option<Arc<Plan>>,
    how: W,
}

impl<K: Key, M, W: fmt::Debug> fmt::Debug for Fetch<K, M, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetch")
            .field("waiter", &self.waiter)
            .field("key", &self.key)
            .field("how", &self.how)
            .finish_non_exhaustive()
    }
}

/// How a [`Fetch`] starts out.
trait Start {
    const START: Self;
}

impl Start for Whole {
    const START: Self = Self;
}

impl Start for AsItArrives {
    const START: Self = Self {
        from: 0,
        until: u64::MAX,
    };
}

#[expect(private_bounds, reason = "the two kinds are all there are")]
impl<K: Key, M, W: Start> Fetch<K, M, W> {
    pub(crate) fn new(hub: &Arc<Hub<K, M>>, key: K) -> Self {
        Self {
            waiter: hub.waiter(),
            hub: hub.clone(),
            key,
            targets: Targets::Ranked,
            priority: 10,
            owner: 0,
            deadline: None,
            plan: None,
            how: W::START,
        }
    }

    /// How to go about it \[the builder's\]. Of several callers of one key, the first one's plan holds,
    /// except that the strictest commit and the longest lifetime win.
    pub fn plan(mut self, plan: impl Into<Arc<Plan>>) -> Self {
        self.plan = Some(plan.into());
        self
    }

    /// The weight of its class \[10\]: 20 gets twice the starts of 10 while both wait.
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }

    /// Callers with the same number share their turns \[0\].
    pub fn owner(mut self, owner: u32) -> Self {
        self.owner = owner;
        self
    }

    /// When this caller stops waiting, with [`ErrorKind::Expired`] \[never\].
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Which sources may serve it [[`Targets::Ranked`]].
    pub fn targets(mut self, targets: Targets) -> Self {
        self.targets = targets;
        self
    }

    /// The caller as the judge and the snapshot name it.
    pub fn waiter(&self) -> WaiterId {
        self.waiter
    }

    fn want(self) -> (Arc<Hub<K, M>>, K, WaiterId, Want, W) {
        let want = Want {
            targets: self.targets,
            priority: self.priority,
            owner: self.owner,
            deadline: self.deadline.map(|at| self.hub.common.time(at)),
            plan: self.plan.unwrap_or_else(|| self.hub.plan.clone()),
        };
        (self.hub, self.key, self.waiter, want, self.how)
    }
}

impl<K: Key, M> Fetch<K, M, AsItArrives> {
    /// Reads from this offset on \[0\], and resolves when that byte is at hand: the reader may join in
    /// the middle. The fetch is of the whole key all the same.
    pub fn at(mut self, offset: u64) -> Self {
        self.how.from = offset;
        self
    }

    /// Reads no further than this offset \[the end\]. Such a reader does not wait for the verdict.
    pub fn until(mut self, end: u64) -> Self {
        self.how.until = end;
        self
    }
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<K, M> IntoFuture for Fetch<K, M, Whole>
where
    K: Key + Send + Sync + 'static,
    M: Clone + Send + Sync + 'static,
{
    type Output = Result<Fetched<M>, FetchError>;
    type IntoFuture = BoxFuture<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (hub, key, waiter, want, Whole) = self.want();
            if let Some(held) = held(&hub, &key).await {
                return Ok(held);
            }
            let (reply, outcome) = oneshot::channel();
            let mut ticket = hub.ticket(waiter, outcome);
            hub.ask(waiter, key.clone(), want, Reply::Whole(reply))
                .await;
            match poll_fn(|cx| ticket.poll(cx)).await {
                Err(error) => held_after_all(&hub, &key, error).await,
                fetched => fetched,
            }
        })
    }
}

impl<K, M> IntoFuture for Fetch<K, M, AsItArrives>
where
    K: Key + Send + Sync + 'static,
    M: Clone + Send + Sync + 'static,
{
    type Output = Result<Streaming<M>, FetchError>;
    type IntoFuture = BoxFuture<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (hub, key, waiter, want, AsItArrives { from, until }) = self.want();
            if let Some(held) = held(&hub, &key).await {
                return Ok(from_held(held, from, until));
            }
            let (flight, joined) = oneshot::channel();
            let (reply, outcome) = oneshot::channel();
            let mut ticket = hub.ticket(waiter, outcome);
            let reply = Reply::Stream {
                flight: Some(flight),
                attached: None,
                outcome: reply,
            };
            hub.ask(waiter, key.clone(), want, reply).await;
            if let Ok(flight) = joined.await {
                return first_byte(&flight, from, until, ticket).await;
            }
            // There is nothing to read: the outcome says why.
            let error = match poll_fn(|cx| ticket.poll(cx)).await {
                Err(error) => error,
                Ok(_) => FetchError::new(ErrorKind::NotHeld),
            };
            let held = held_after_all(&hub, &key, error).await?;
            Ok(from_held(held, from, until))
        })
    }
}

/// Waits until the byte at `from` is at hand, with what came before the bytes.
async fn first_byte<M: Clone>(
    flight: &Flight<M>,
    from: u64,
    until: u64,
    ticket: Ticket<Sources>,
) -> Result<Streaming<M>, FetchError> {
    // Where it ends is set afterwards: also a reader of nothing waits for what comes before.
    let mut body = BodyReader::new(flight.body.reader_at(from), u64::MAX, Some(ticket));
    loop {
        match poll_fn(|cx| body.poll_first(cx)).await {
            Ok(()) => {}
            Err(StreamError::Failed(error)) => return Err(error),
            // Nothing was seen yet, so that only the window can have moved past.
            Err(StreamError::Cut | StreamError::Lagged { .. }) => {
                return Err(FetchError::new(ErrorKind::NotHeld));
            }
        }
        // The body may have been restarted in between: only the bytes and the head of one epoch go
        // together, and from here on a restart is an error.
        if let Some(Head { epoch, meta, total }) = flight.head()
            && body.pin_epoch(epoch)
        {
            body.set_until(until);
            return Ok(Streaming { meta, total, body });
        }
        // Whoever restarts it is at it.
        tokio::task::yield_now().await;
    }
}

/// What the store holds of a key.
async fn held<K: Key + 'static, M: 'static>(hub: &Hub<K, M>, key: &K) -> Option<Fetched<M>> {
    match hub.store.held(key) {
        Soon::Now(held) => held,
        Soon::Later(held) => held.await,
    }
}

/// What came by another way may be in the store by now.
async fn held_after_all<K: Key + 'static, M: 'static>(
    hub: &Hub<K, M>,
    key: &K,
    error: FetchError,
) -> Result<Fetched<M>, FetchError> {
    match error.kind {
        ErrorKind::NotHeld => held(hub, key).await.ok_or(error),
        _ => Err(error),
    }
}

fn from_held<M>(held: Fetched<M>, from: u64, until: u64) -> Streaming<M> {
    let total = Some(held.body.len());
    let reader = SharedBody::held(&held.body).reader_at(from);
    let body = BodyReader::new(reader, until, None);
    Streaming {
        meta: held.meta,
        total,
        body,
    }
}
