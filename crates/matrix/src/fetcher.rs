//! [`Matrix`]: the service through which everybody asks.

use crate::{
    Ceilings, Courier, FetchError, FetchErrorKind, Key, KeySource, MemoConfig, Opts, Outcome,
    book::{Book, FetchKey, Record},
    examine::{Examiner, Work},
    judge::DemandJudge,
    memo::Memo,
    metrics::{End, Metrics, write_servers},
    roster::{Keyed, Roster},
    select::SplitMix,
    store::EventStore,
    transport::FederationTransport,
    versions::Versions,
};
use gannet::{
    Fetcher, Gauges, Select, Soon,
    engine::{ConfigError, Counters, SourceId},
    metrics::{Figures, Page},
};
use gannet_store::BlobStore;
use ruma_common::{OwnedServerName, RoomId, RoomVersionId};
use std::{
    collections::BTreeSet,
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::Instant;

/// Fetches federation events, each once at a time however many ask, from whichever server can prove it
/// has them. Cheap to clone; all clones are one service.
#[derive(Clone)]
pub struct Matrix {
    pub(crate) inner: Arc<Inner>,
}

impl fmt::Debug for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matrix")
            .field("me", &self.inner.me)
            .field("fetcher", &self.inner.fetcher)
            .finish_non_exhaustive()
    }
}

/// The parts of a service.
pub(crate) struct Inner {
    pub(crate) me: OwnedServerName,
    pub(crate) denied: BTreeSet<OwnedServerName>,
    pub(crate) ceilings: Ceilings,
    pub(crate) fetcher: Fetcher<FetchKey, Arc<Record>>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) book: Arc<Book>,
    pub(crate) memo: Arc<Memo>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) store: EventStore,
    pub(crate) versions: Versions,
    /// Draws servers.
    pub(crate) random: Mutex<SplitMix>,
    /// Makes lanes of terms.
    pub(crate) hasher: Keyed,
}

/// What answers are examined with.
enum With {
    Keys(Arc<dyn KeySource>, Work),
    #[cfg(test)]
    Other(Arc<dyn crate::judge::Examine>),
}

/// Gathers the parts of a [`Matrix`].
pub struct Builder {
    me: OwnedServerName,
    courier: Arc<dyn Courier>,
    examiner: With,
    blobs: Option<Arc<dyn BlobStore>>,
    denied: BTreeSet<OwnedServerName>,
    ceilings: Ceilings,
    memo: MemoConfig,
    seed: Option<u64>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("me", &self.me)
            .field("denied", &self.denied)
            .field("ceilings", &self.ceilings)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// Asks by this courier in the name of `me`, who is never asked, and checks with these keys; within
    /// these ceilings.
    pub fn new(
        me: OwnedServerName,
        courier: Arc<dyn Courier>,
        keys: Arc<dyn KeySource>,
        ceilings: Ceilings,
    ) -> Self {
        Self::with(me, courier, With::Keys(keys, Work::OnThreads), ceilings)
    }

    #[cfg(test)]
    pub(crate) fn of(
        me: OwnedServerName,
        courier: Arc<dyn Courier>,
        examiner: Arc<dyn crate::judge::Examine>,
        ceilings: Ceilings,
    ) -> Self {
        Self::with(me, courier, With::Other(examiner), ceilings)
    }

    fn with(
        me: OwnedServerName,
        courier: Arc<dyn Courier>,
        examiner: With,
        ceilings: Ceilings,
    ) -> Self {
        Self {
            me,
            courier,
            examiner,
            blobs: None,
            denied: BTreeSet::new(),
            ceilings,
            memo: MemoConfig::default(),
            seed: None,
        }
    }

    /// Where verified events are kept \[nowhere\]: what is there is not fetched again.
    #[must_use]
    pub fn store(mut self, blobs: Arc<dyn BlobStore>) -> Self {
        self.blobs = Some(blobs);
        self
    }

    /// Servers that are never asked, whoever names them.
    #[must_use]
    pub fn deny(mut self, servers: impl IntoIterator<Item = OwnedServerName>) -> Self {
        self.denied.extend(servers);
        self
    }

    /// How failures at one event are remembered.
    #[must_use]
    pub fn memo(mut self, memo: MemoConfig) -> Self {
        self.memo = memo;
        self
    }

    /// Decides all that is drawn, and the order of what has none \[anew for each service\]. Whoever knows it can make
    /// servers meet that should not: it is as secret as the service is exposed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Answers are checked by the tasks of the runtime, not on threads beside them, whose turns no seed decides. For
    /// simulations: whatever else the runtime does waits meanwhile.
    #[doc(hidden)]
    #[must_use]
    pub fn check_in_tasks(mut self) -> Self {
        match &mut self.examiner {
            With::Keys(_, work) => *work = Work::InTasks,
            #[cfg(test)]
            With::Other(_) => {}
        }
        self
    }

    /// Starts the service, in the current tokio runtime.
    ///
    /// # Errors
    /// If a ceiling is zero.
    ///
    /// # Panics
    /// Outside of a tokio runtime, or in one without time.
    pub fn build(self) -> Result<Matrix, ConfigError> {
        let seed = self.seed.unwrap_or_else(|| RandomState::new().hash_one(0));
        let hasher = Keyed(seed);
        let roster = Roster::new(self.ceilings.servers_max as usize, hasher);
        let roster = Arc::new(roster);
        // As many as one fetch makes that goes through its servers as often as it may.
        let (attempts, tries) = (self.ceilings.attempts_max, self.ceilings.rounds_max);
        let book = Book::new(attempts.saturating_mul(tries.max(2)) as usize);
        let memo = Arc::new(Memo::new(self.memo));
        let metrics = Arc::new(Metrics::default());
        let store = EventStore::new(self.blobs, Arc::clone(&metrics));
        let transport = FederationTransport {
            courier: self.courier,
            roster: Arc::clone(&roster),
            book: Arc::clone(&book),
            memo: Arc::clone(&memo),
            metrics: Arc::clone(&metrics),
        };
        let examiner = match self.examiner {
            #[cfg(test)]
            With::Other(examiner) => examiner,
            With::Keys(keys, work) => {
                let (threads, timeout) = (self.ceilings.threads_max, self.ceilings.keys_timeout);
                Arc::new(Examiner::new(keys, threads, timeout, work))
            }
        };
        let judge = DemandJudge {
            examiner,
            room: Arc::default(),
            book: Arc::clone(&book),
            memo: Arc::clone(&memo),
            metrics: Arc::clone(&metrics),
        };
        let select = BookSelect(Arc::clone(&book));
        let config = self.ceilings.config(Some(seed));
        let fetcher = Fetcher::new(transport, select, judge, store.clone(), config)?;
        Ok(Matrix {
            inner: Arc::new(Inner {
                me: self.me,
                denied: self.denied,
                ceilings: self.ceilings,
                fetcher,
                roster,
                book,
                memo,
                metrics,
                store,
                versions: Versions::default(),
                random: Mutex::new(SplitMix(seed)),
                hasher,
            }),
        })
    }
}

/// Ranks by what the book says: the ranking was made when the caller came.
struct BookSelect(Arc<Book>);

impl Select<FetchKey> for BookSelect {
    fn rank(&self, key: &FetchKey, _up: &[SourceId]) -> Soon<Vec<SourceId>> {
        let servers = self.0.servers(key);
        let servers = servers.iter().flat_map(|servers| servers.iter());
        Soon::Now(servers.map(|server| server.source).collect())
    }
}

impl Matrix {
    /// Fetches what a key names.
    ///
    /// # Errors
    /// If nobody who may be asked gives an answer that is as good as was demanded.
    ///
    /// # Cancellation
    /// Dropping the future takes the want back; the last one of a key that goes ends its requests.
    pub async fn fetch(&self, key: Key, opts: Opts) -> Result<Outcome, FetchError> {
        let began = Instant::now();
        let outcome = Box::pin(self.inner.fetch(&key, &opts, began)).await;
        let end = match &outcome {
            Ok(outcome) if outcome.server.is_none() => End::Stored,
            Ok(_) => End::Answered,
            Err(error) if error.kind == FetchErrorKind::Missing => End::Missing,
            Err(_) => End::Failed,
        };
        self.inner.metrics.fetch(key.op(), end, began.elapsed());
        outcome
    }

    /// What the service knows of the version of a room, if that was proved to it.
    pub fn version_of(&self, room: &RoomId) -> Option<RoomVersionId> {
        self.inner.versions.of(room)
    }

    /// What is in flight.
    pub fn gauges(&self) -> Gauges {
        self.inner.fetcher.gauges()
    }

    /// Counts since the start.
    pub fn counters(&self) -> Counters {
        self.inner.fetcher.counters()
    }

    /// Writes what is counted. `labels` tell this service from others of the process.
    pub async fn write_metrics(&self, page: &mut Page, labels: &[(&'static str, &str)]) {
        let inner = &self.inner;
        page.fetchers(&[Figures {
            labels,
            gauges: inner.fetcher.gauges(),
            counters: inner.fetcher.counters(),
            sources: Vec::new(),
        }]);
        inner.metrics.write(page);
        let snapshot = inner.fetcher.snapshot().await;
        let servers = snapshot.map(|all| all.sources).unwrap_or_default();
        write_servers(page, &servers);
        for (name, help, value) in [
            (
                "gannet_matrix_remembered_failures",
                "Pairs of event and server that failed and are remembered.",
                inner.memo.len(),
            ),
            (
                "gannet_matrix_roster_servers",
                "Servers that are known by name.",
                inner.roster.len(),
            ),
            (
                "gannet_matrix_wanted_keys",
                "Keys that somebody waits for.",
                inner.book.len(),
            ),
        ] {
            page.gauge(name, help).sample(&[], value as u64);
        }
    }

    /// Ends the service: callers get [`FetchErrorKind::Closed`], requests are aborted, and what is being
    /// stored is given this long.
    pub async fn shutdown(&self, grace: Duration) {
        self.inner.fetcher.shutdown(grace).await;
    }
}
