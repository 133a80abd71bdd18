//! The serving side: [`Produce`] has data, [`Server`] answers for it.
//!
//! A node that fetches from others is asked by others. The server bounds what they can make it do: so
//! many requests in all, so many for each peer, so many reads at once, in the order of arrival. Several
//! who ask for the same key share one read. What is not held is said at once, so that the asker moves
//! on, and logged. Sockets and wire formats are the front end's.

use crate::{Soon, engine::Key};
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Semaphore;

/// Has data that others may ask for.
pub trait Produce<K: Key>: Send + Sync + 'static {
    /// What is sent: cheap to clone, for it may go to several askers.
    type Datum: Clone + Send + Sync + 'static;

    /// Reads a datum. Answer [`Soon::Now`] where memory can tell, above all that it is not held.
    fn produce(&self, key: &K) -> Soon<Produced<Self::Datum>>;
}

/// What a read comes to: the datum, that it is not held, or why it cannot be read, in words.
pub type Produced<D> = Result<Option<D>, Arc<str>>;

/// What an asker is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<D> {
    /// Here it is.
    Data(D),
    /// It is not held here.
    NoData,
    /// Too much is asked: ask again later, or elsewhere.
    Busy,
    /// It should be here, and cannot be read.
    Failed,
}

/// Bounds of a [`Server`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServeConfig {
    /// Requests in all, waiting or being read \[1,024\]; beyond, [`Reply::Busy`].
    pub requests_max: usize,
    /// Requests of one peer \[64\]; beyond, [`Reply::Busy`].
    pub requests_per_peer_max: usize,
    /// Reads at once \[16\].
    pub reads_max: usize,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            requests_max: 1024,
            requests_per_peer_max: 64,
            reads_max: 16,
        }
    }
}

/// Answers for a [`Produce`], within bounds. Cheap to clone; all clones are one server.
///
/// ```
/// use gannet::{Soon, serve::{Produce, Produced, Reply, ServeConfig, Server}};
///
/// struct Squares;
///
/// impl Produce<u32> for Squares {
///     type Datum = u32;
///
///     fn produce(&self, key: &u32) -> Soon<Produced<u32>> {
///         Soon::Now(Ok(key.checked_mul(*key)))
///     }
/// }
///
/// # async fn f() {
/// let server = Server::new(Squares, ServeConfig::default());
/// assert_eq!(server.ask("a peer", 7).await, Reply::Data(49));
/// assert_eq!(server.ask("a peer", u32::MAX).await, Reply::NoData);
/// # }
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(f());
/// ```
pub struct Server<K: Key, P, D> {
    inner: Arc<Inner<K, P, D>>,
}

impl<K: Key, P, D> Clone for Server<K, P, D> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<K: Key, P, D> fmt::Debug for Server<K, P, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

struct Inner<K: Key, P, D> {
    produce: Arc<dyn Produce<K, Datum = D>>,
    config: ServeConfig,
    /// Fair: reads begin in the order they were asked for.
    reads: Arc<Semaphore>,
    state: Mutex<State<K, P, D>>,
}

struct State<K, P, D> {
    /// Requests of each peer that has any.
    peers: HashMap<P, usize>,
    /// Reads that others may join.
    reading: HashMap<K, Reading<D>>,
    next: u64,
    counts: Counts,
}

struct Reading<D> {
    id: u64,
    askers: usize,
    reply: Shared<BoxFuture<'static, Reply<D>>>,
}

/// What a server has done, and is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Requests under way.
    pub requests: usize,
    /// Requests answered with data.
    pub served: u64,
    /// Requests for what is not held.
    pub missed: u64,
    /// Requests refused because too much was asked.
    pub refused: u64,
    /// Requests whose data could not be read.
    pub failed: u64,
    /// Requests that joined a read under way.
    pub coalesced: u64,
}

impl<K, P, D> Server<K, P, D>
where
    K: Key + Send + Sync + 'static,
    P: Clone + Eq + Hash + fmt::Debug,
    D: Clone + Send + Sync + 'static,
{
    /// A server for this producer. Bounds of zero count as one.
    pub fn new(produce: impl Produce<K, Datum = D>, config: ServeConfig) -> Self {
        let reads = config.reads_max.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            inner: Arc::new(Inner {
                produce: Arc::new(produce),
                config,
                reads: Arc::new(Semaphore::new(reads)),
                state: Mutex::new(State {
                    peers: HashMap::new(),
                    reading: HashMap::new(),
                    next: 0,
                    counts: Counts::default(),
                }),
            }),
        }
    }

    /// Answers one request of a peer.
    ///
    /// # Cancellation
    ///
    /// A dropped request counts no more. The read ends with the last one who asked for it.
    pub async fn ask(&self, peer: P, key: K) -> Reply<D> {
        let Some(mut asking) = self.admit(&peer, &key) else {
            tracing::debug!(?peer, ?key, "refused: too many requests");
            return Reply::Busy;
        };
        let reply = asking
            .reply
            .take()
            .expect("admitted with a reply to wait for")
            .await;
        let mut state = self.inner.lock();
        match &reply {
            Reply::Data(_) => state.counts.served += 1,
            Reply::NoData => state.counts.missed += 1,
            _ => state.counts.failed += 1,
        }
        // Whoever asks from here on wants to know how it is then.
        if state
            .reading
            .get(&key)
            .is_some_and(|reading| reading.id == asking.id)
        {
            state.reading.remove(&key);
        }
        drop(state);
        if matches!(reply, Reply::NoData) {
            tracing::debug!(?peer, ?key, "not held");
        }
        reply
    }

    fn admit(&self, peer: &P, key: &K) -> Option<Asking<K, P, D>> {
        let mut state = self.inner.lock();
        let config = &self.inner.config;
        let of_peer = state.peers.get(peer).copied().unwrap_or(0);
        if state.counts.requests >= config.requests_max.max(1)
            || of_peer >= config.requests_per_peer_max.max(1)
        {
            state.counts.refused += 1;
            return None;
        }
        state.counts.requests += 1;
        *state.peers.entry(peer.clone()).or_default() += 1;
        let (id, reply) = match state.reading.get_mut(key) {
            Some(reading) => {
                reading.askers += 1;
                let joined = (reading.id, reading.reply.clone());
                state.counts.coalesced += 1;
                joined
            }
            None => {
                let id = state.next;
                state.next += 1;
                let reply = read(
                    self.inner.produce.clone(),
                    self.inner.reads.clone(),
                    key.clone(),
                )
                .boxed()
                .shared();
                let reading = Reading {
                    id,
                    askers: 1,
                    reply: reply.clone(),
                };
                state.reading.insert(key.clone(), reading);
                (id, reply)
            }
        };
        drop(state);
        let (inner, peer, key) = (self.inner.clone(), peer.clone(), key.clone());
        Some(Asking {
            inner,
            peer,
            key,
            id,
            reply: Some(reply),
        })
    }
}

impl<K: Key, P, D> Server<K, P, D> {
    /// What it has done, and is doing.
    pub fn counts(&self) -> Counts {
        self.inner.lock().counts
    }
}

impl<K: Key, P, D> Inner<K, P, D> {
    fn lock(&self) -> MutexGuard<'_, State<K, P, D>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One read, when its turn has come.
async fn read<K: Key + 'static, D: Clone + Send + Sync + 'static>(
    produce: Arc<dyn Produce<K, Datum = D>>,
    reads: Arc<Semaphore>,
    key: K,
) -> Reply<D> {
    let _permit = reads
        .acquire()
        .await
        .expect("the semaphore is never closed");
    let read = AssertUnwindSafe(async {
        match produce.produce(&key) {
            Soon::Now(produced) => produced,
            Soon::Later(produced) => produced.await,
        }
    });
    match read.catch_unwind().await {
        Ok(Ok(Some(datum))) => Reply::Data(datum),
        Ok(Ok(None)) => Reply::NoData,
        Ok(Err(why)) => {
            tracing::warn!(?key, %why, "cannot be read");
            Reply::Failed
        }
        Err(_) => {
            tracing::error!(?key, "the producer panicked");
            Reply::Failed
        }
    }
}

/// A request that counts until it is dropped.
struct Asking<K: Key, P: Eq + Hash, D> {
    inner: Arc<Inner<K, P, D>>,
    peer: P,
    key: K,
    id: u64,
    reply: Option<Shared<BoxFuture<'static, Reply<D>>>>,
}

impl<K: Key, P: Eq + Hash, D> Drop for Asking<K, P, D> {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        state.counts.requests -= 1;
        if let Some(requests) = state.peers.get_mut(&self.peer) {
            *requests -= 1;
            if *requests == 0 {
                state.peers.remove(&self.peer);
            }
        }
        let mut abandoned = None;
        if let Some(reading) = state.reading.get_mut(&self.key).filter(|r| r.id == self.id) {
            reading.askers -= 1;
            if reading.askers == 0 {
                abandoned = state.reading.remove(&self.key);
            }
        }
        // The producer's future ends outside of the lock.
        drop(state);
        drop(abandoned);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        future::pending,
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
    };
    use tokio::sync::Notify;

    #[derive(Clone, Default)]
    struct Shelf {
        reads: Arc<AtomicUsize>,
        gate: Arc<Notify>,
    }

    impl Produce<String> for Shelf {
        type Datum = usize;

        fn produce(&self, key: &String) -> Soon<Produced<usize>> {
            let read = self.reads.fetch_add(1, SeqCst);
            match key.as_str() {
                "none" => Soon::Now(Ok(None)),
                "broken" => Soon::Now(Err("a bad block".into())),
                "panic" => panic!("a producer of little worth"),
                "never" => Soon::later(pending()),
                _ => {
                    let gate = self.gate.clone();
                    Soon::later(async move {
                        gate.notified().await;
                        Ok(Some(read))
                    })
                }
            }
        }
    }

    fn server(config: ServeConfig) -> (Shelf, Server<String, u8, usize>) {
        let shelf = Shelf::default();
        (shelf.clone(), Server::new(shelf, config))
    }

    fn ask(
        server: &Server<String, u8, usize>,
        peer: u8,
        key: &str,
    ) -> BoxFuture<'static, Reply<usize>> {
        let (server, key) = (server.clone(), key.to_owned());
        async move { server.ask(peer, key).await }.boxed()
    }

    #[tokio::test]
    async fn replies() {
        let (_, server) = server(ServeConfig::default());
        for (key, reply) in [
            ("none", Reply::NoData),
            ("broken", Reply::Failed),
            ("panic", Reply::Failed),
        ] {
            // At once: the first poll has it.
            assert_eq!(ask(&server, 1, key).now_or_never(), Some(reply), "{key}");
        }
        let counts = server.counts();
        assert_eq!((counts.requests, counts.missed, counts.failed), (0, 1, 2));
    }

    #[tokio::test]
    async fn askers_share_a_read_and_later_ones_get_a_new_one() {
        let (shelf, server) = server(ServeConfig::default());
        let mut asks: Vec<_> = (0..10).map(|peer| ask(&server, peer, "x")).collect();
        for ask in &mut asks {
            assert!(ask.now_or_never().is_none());
        }
        // The one who began goes; the read goes on for the others.
        drop(asks.remove(0));
        shelf.gate.notify_one();
        for reply in futures_util::future::join_all(asks).await {
            assert_eq!(reply, Reply::Data(0));
        }
        shelf.gate.notify_one();
        assert_eq!(ask(&server, 1, "x").await, Reply::Data(1));
        let counts = server.counts();
        assert_eq!(
            (counts.coalesced, counts.served, counts.requests),
            (9, 10, 0)
        );
    }

    #[tokio::test]
    async fn bounds() {
        let config = ServeConfig {
            requests_max: 5,
            requests_per_peer_max: 3,
            reads_max: 2,
        };
        let (shelf, server) = server(config);
        let mut held = Vec::new();
        for (peer, key, admitted) in [
            (1, "never", true),
            (1, "never", true),
            (1, "b", true),
            (1, "c", false),
            (2, "d", true),
            (3, "e", true),
            (4, "f", false),
        ] {
            let mut ask = ask(&server, peer, key);
            let refused = (&mut ask).now_or_never();
            assert_eq!(refused.is_none(), admitted, "{peer} {key}");
            assert!(refused.is_none_or(|reply| reply == Reply::Busy));
            held.push(ask);
        }
        assert_eq!(shelf.reads.load(SeqCst), 2, "two reads at once");
        // A gap: the next in line is read, and others are admitted.
        drop(held.drain(..2));
        assert!((&mut held[2]).now_or_never().is_none());
        assert_eq!(shelf.reads.load(SeqCst), 3);
        assert!(ask(&server, 4, "f").now_or_never().is_none());
        drop(held);
        assert_eq!(server.counts().requests, 0);
        assert!(server.inner.lock().reading.is_empty() && server.inner.lock().peers.is_empty());
    }
}
