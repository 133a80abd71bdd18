//! The read path as a whole: what the edge asks, joined from metadata, listings, tiers and fetcher.
//!
//! An object is looked up, cut into chunks, and each chunk taken from the nearest place that has it:
//! memory, disk, the shared store, the origin. Whatever has to be fetched is fetched once for all who
//! ask at the same time. [`ReadPath`] is the handle on it; `read.rs` streams.

use crate::{
    ahead::{Ahead, Aheads},
    askers::Askers,
    cluster::{self, Cluster, HOME, PeerSelect, PeerTransport},
    config::{CacheError, ReadConfig},
    edge::backend::RequestContext,
    failure::object_error,
    judge::ExactLength,
    keep::{Keep, PeerKeep},
    key::{CacheKey, ChunkKey, Version},
    listing::{ListingConfig, Listings},
    meta::{Known, MetaCache, MetaConfig},
    metrics::{AnswerCache, Metrics},
    origin::Origin,
    plans::{self, Plans},
    read,
    readahead::{Sequence, steps_over, window},
    select::{HomeSelect, Source, Sources},
    throttle::{NewLimit, Throttle},
    tiers::Tiers,
    traces::Tracer,
    transport::{Finals, OriginTransport, Reply, UnderWay, Ways},
    types::{ObjectError, ObjectMeta, ObjectName, SegmentStream},
    versions::Versions,
};
use gannet::{
    FetchError, Fetcher,
    engine::{self, GroupId, Limits, Plan, Scope, SourceId},
};
use gannet_cluster::Member;
use gannet_store::{BlobStore, MemoryConfig, MemoryStore};
use std::{future::Future, num::NonZeroU32, ops::Range, pin::pin, sync::Arc, time::Duration};
use tokio::{sync::mpsc, task::AbortHandle};

/// Reading ahead of a client that asks for one range after another ends so long after its last one.
const AHEAD_HOLD: Duration = Duration::from_secs(10);

/// The most attempts at one member at once: what arrives is bounded by its bytes.
const MEMBER_ATTEMPTS_MAX: u32 = 1024;

/// Which fetcher a want goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// A client's: to whoever coordinates it.
    Client,
    /// To stores and origins, whoever coordinates it.
    Home,
    /// To other members.
    Peer,
}

/// The joined parts.
#[derive(Debug)]
pub(crate) struct Core {
    /// Fetches from stores and origins.
    pub(crate) home: Fetcher<CacheKey, Reply>,
    /// Fetches from other members what they coordinate; none outside of a cluster.
    pub(crate) peer: Option<Fetcher<CacheKey, Reply>>,
    pub(crate) ways: Arc<Ways>,
    pub(crate) listings: Arc<Listings>,
    /// The plans of home, and of peer.
    pub(crate) plans: Plans,
    peer_plans: Plans,
    pub(crate) sequence: Sequence,
    pub(crate) aheads: Aheads,
    pub(crate) origin_id: Arc<str>,
    pub(crate) chunk_size: u64,
    /// Chunks to fetch ahead of a sequential reader.
    pub(crate) read_ahead: u32,
    /// How long a request may wait for its turn at the origin.
    pub(crate) queue_timeout: Duration,
    /// Requests to an origin at once, of all members together.
    concurrency: u32,
    /// The task that applies what the throttles say.
    throttler: AbortHandle,
}

/// A handle on the read path. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ReadPath(pub(crate) Arc<Core>);

impl ReadPath {
    /// Joins origins (the primary first) and stores. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// A configuration that contradicts itself.
    pub(crate) fn new(
        config: &ReadConfig,
        origins: Vec<Arc<dyn Origin>>,
        disk: Option<Arc<dyn BlobStore>>,
        shared: Option<Arc<dyn BlobStore>>,
        cluster: Option<Arc<Cluster>>,
        tracer: Tracer,
    ) -> Result<Self, CacheError> {
        config.validate()?;
        let Some(primary) = origins.first() else {
            return Err(CacheError::Config("no origin".to_owned()));
        };
        let origin_id: Arc<str> = primary.id().into();
        let metrics = Arc::new(Metrics::default());
        let sources = Sources {
            origins: origins.len(),
            shared: shared.is_some(),
        };
        let memory = MemoryStore::new(MemoryConfig {
            bytes_max: config.kept_bytes(),
        });
        let tiers = Tiers::new(Arc::new(memory), disk, shared, Arc::clone(&metrics));
        let (changes, changed) = mpsc::unbounded_channel();
        let cap = config.origin_concurrency_max;
        let throttles = (0..origins.len())
            .map(|n| Throttle::new(n, cap, changes.clone()))
            .collect();
        let listings = Arc::new(Listings::new(ListingConfig {
            ttl: config.listing_ttl,
            ..ListingConfig::default()
        }));
        let ways = Arc::new(Ways {
            origin_id: Arc::clone(&origin_id),
            cluster: cluster.clone(),
            origins,
            sources,
            tiers: Arc::new(tiers),
            meta: Arc::new(MetaCache::new(MetaConfig {
                ttl: config.meta_ttl,
                negative_ttl: config.negative_ttl,
                ..MetaConfig::default()
            })),
            listings: Arc::clone(&listings),
            versions: Arc::new(Versions::new()),
            metrics,
            throttles,
            under_way: UnderWay::default(),
            askers: Askers::new(),
            finals: Finals::new(),
            tracer,
        });
        let keep = Keep {
            tiers: Arc::clone(&ways.tiers),
            versions: Arc::clone(&ways.versions),
        };
        // Where nobody is asked before the origin, the queue's time is over before the first try.
        let before = if cluster.is_some() || sources.shared {
            config.queue_timeout
        } else {
            Duration::ZERO
        };
        let (chunk, hedge) = (config.chunk_bytes, config.hedge_after);
        let plans = Plans::new(chunk, hedge, before);
        let unfit = |error: engine::ConfigError| CacheError::Config(error.to_string());
        let select = HomeSelect {
            sources,
            cluster: cluster.clone(),
        };
        let transport = OriginTransport(Arc::clone(&ways));
        // What waits for other members has bounds of its own: it must not be in the way of what they
        // wait for.
        let bytes = match cluster {
            Some(_) => config.arriving_bytes() / 2,
            None => config.arriving_bytes(),
        };
        let bytes = bytes.max(4 * config.chunk_bytes);
        let home = fetcher_config(config, cap, bytes);
        let home = Fetcher::new(transport, select, ExactLength, keep, home).map_err(unfit)?;
        for source in sources.all() {
            home.limit(Scope::Group(Sources::group(source)), limits(cap));
            home.add_source(Sources::id(source), Sources::group(source));
        }
        let peer = match cluster {
            Some(cluster) => {
                let doubt = cluster.pace().doubt();
                let select = PeerSelect(Arc::clone(&cluster));
                let keep = PeerKeep {
                    tiers: Arc::clone(&ways.tiers),
                    versions: Arc::clone(&ways.versions),
                };
                let transport =
                    PeerTransport::new(Arc::clone(&ways), cluster, home.clone(), plans.clone());
                let mut peer = fetcher_config(config, MEMBER_ATTEMPTS_MAX, bytes);
                peer.engine.health.doubt = Some(doubt);
                let peer =
                    Fetcher::new(transport, select, ExactLength, keep, peer).map_err(unfit)?;
                peer.add_source(HOME, GroupId(HOME.0));
                Some(peer)
            }
            None => None,
        };
        let throttler = tokio::spawn(apply_limits(changed, home.clone())).abort_handle();
        let kept = config
            .chunk_bytes
            .saturating_mul(u64::from(config.read_ahead) + 1);
        let read_ahead = if ways.tiers.keeps(kept) {
            config.read_ahead
        } else {
            0
        };
        Ok(Self(Arc::new(Core {
            home,
            peer,
            ways,
            listings,
            plans,
            peer_plans: Plans::of_members(chunk, hedge, before),
            sequence: Sequence::new(),
            // Half of what the origin bears, and half of what may be in memory, is left to demand.
            aheads: Aheads::new(ahead_max(config)),
            origin_id,
            chunk_size: config.chunk_bytes,
            read_ahead,
            queue_timeout: config.queue_timeout,
            concurrency: cap,
            throttler,
        })))
    }

    /// Takes what a look at the cluster's members has brought; `None` where it failed.
    pub(crate) fn looked(&self, found: Option<Vec<Member>>) {
        let core = &self.0;
        let (Some(cluster), Some(peer)) = (&core.ways.cluster, &core.peer) else {
            return;
        };
        let before = cluster.members();
        let change = cluster.looked(found);
        if change.is_empty() {
            return;
        }
        cluster::apply(cluster, &before, &change, &core.home, peer);
        for member in change.went.clone() {
            if let Some(id) = before.id(&member) {
                let core = Arc::downgrade(core);
                tokio::spawn(async move {
                    tokio::time::sleep(cluster::LEAVERS_KEPT).await;
                    if let Some(core) = core.upgrade() {
                        core.forget(&member, id);
                    }
                });
            }
        }
        let now = cluster.members();
        let live = now.view.members().len();
        tracing::info!(came = ?change.came, went = ?change.went, live, "members");
        // The origin's share of each; AIMD goes below it where the origin asks for that.
        let share = core.concurrency / u32::try_from(live).unwrap_or(u32::MAX).max(1);
        for throttle in &core.ways.throttles {
            throttle.set_cap(share);
        }
    }

    /// Ends all fetches, and gives what is being committed this long; then closes the stores.
    pub(crate) async fn shutdown(&self, grace: Duration) {
        if let Some(peer) = &self.0.peer {
            peer.shutdown(grace).await;
        }
        self.0.home.shutdown(grace).await;
        self.0.ways.tiers.close().await;
        let gauges = self.0.home.gauges();
        tracing::debug!(?gauges, "the read path has ended");
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.throttler.abort();
    }
}

/// At most so many requests at once.
fn limits(concurrent_max: u32) -> Limits {
    Limits {
        concurrent_max: NonZeroU32::new(concurrent_max).unwrap_or(NonZeroU32::MIN),
        rate: None,
        within: None,
    }
}

/// Gives origins the limits that their answers call for.
async fn apply_limits(
    mut changed: mpsc::UnboundedReceiver<NewLimit>,
    fetcher: Fetcher<CacheKey, Reply>,
) {
    while let Some((origin, limit)) = changed.recv().await {
        let group = Sources::group(Source::Origin { origin, lane: 0 });
        fetcher.limit(Scope::Group(group), limits(limit));
    }
}

/// How many chunks may be read ahead at once.
fn ahead_max(config: &ReadConfig) -> usize {
    let by_memory = config.arriving_bytes() / 2 / config.chunk_bytes;
    let by_origin = u64::from(config.origin_concurrency_max / 2);
    usize::try_from(by_memory.min(by_origin)).unwrap_or(usize::MAX)
}

fn fetcher_config(config: &ReadConfig, cap: u32, bytes_max: u64) -> gannet::Config {
    let defaults = engine::Config::default();
    let racing_max = cap.saturating_mul(2).max(defaults.racing_max);
    gannet::Config {
        engine: engine::Config {
            // The groups are what bounds; these only must not be less than they are. Above all no
            // member may look as if it were lost because much is asked of it.
            racing_max,
            fetches_max: 256 << 10,
            waiters_max: 1 << 20,
            bytes_max,
            source_limits: limits(racing_max),
            health: engine::HealthConfig {
                // A single 503 is no reason to leave an origin alone for long; its limit is halved.
                busy_pause: Duration::from_millis(200),
                // However long an origin asks for: clients wait, and a mistake must not last.
                pause_max: Duration::from_secs(30),
                probe_interval: Duration::from_secs(5),
                ..defaults.health
            },
            ..defaults
        },
        window_bytes_max: config.chunk_bytes,
        lingering_bytes_max: config.lingering_bytes_max.max(2 * config.chunk_bytes),
        ..gannet::Config::default()
    }
}

impl Core {
    /// A member that has left has had its time.
    fn forget(&self, member: &Member, id: SourceId) {
        if let Some(cluster) = &self.ways.cluster
            && cluster.members().id(member) != Some(id)
        {
            cluster.lost(member);
            cluster::forget(cluster, &self.home, member, id);
        }
    }

    /// The version that this metadata describes.
    pub(crate) fn version(&self, name: &ObjectName, meta: &ObjectMeta) -> Arc<Version> {
        Arc::new(Version::new(
            Arc::clone(&self.origin_id),
            self.chunk_size,
            name,
            meta,
        ))
    }

    /// What is known of an object, or what the origin says of it.
    pub(crate) async fn lookup(
        self: &Arc<Self>,
        name: &ObjectName,
        context: &RequestContext,
    ) -> Known {
        let found = self.ways.meta.get(name);
        self.ways.metrics.answer(AnswerCache::Head, found.is_some());
        if let Some(found) = found {
            if found.ageing {
                self.refresh(name.clone());
            }
            tracing::debug!(request = %context.request_id, ?name, ok = found.value.is_ok(), "known");
            return found.value;
        }
        tracing::debug!(request = %context.request_id, ?name, "not known; asking the origin");
        match self.ask(CacheKey::Head(name.clone()), context).await? {
            Reply::Head(known) => known,
            _ => Err(mismatched()),
        }
    }

    /// Asks anew for metadata that is in use and will soon expire, so that nobody has to wait for it.
    pub(crate) fn refresh(self: &Arc<Self>, name: ObjectName) {
        let core = Arc::clone(self);
        tokio::spawn(async move {
            tracing::debug!(?name, "refreshing ahead");
            let key = CacheKey::Head(name);
            let (fetcher, plans) = core.fetcher(&key, Route::Client);
            let fetch = fetcher.fetch(key.clone());
            // The answer is kept by the commit; a failure leaves what is known to its end.
            let _ = fetch
                .plan(Arc::clone(&plans.question))
                .priority(plans::AHEAD)
                .await;
        });
    }

    /// The fetcher that a want goes to, and its plans.
    pub(crate) fn fetcher(
        &self,
        key: &CacheKey,
        route: Route,
    ) -> (&Fetcher<CacheKey, Reply>, &Plans) {
        match (&self.peer, &self.ways.cluster) {
            (Some(peer), Some(cluster))
                if route == Route::Peer
                    || route == Route::Client && !cluster.members().is_ours(key) =>
            {
                (peer, &self.peer_plans)
            }
            _ => (&self.home, &self.plans),
        }
    }

    /// Puts a client's question, once for all who ask it.
    pub(crate) async fn ask(
        &self,
        key: CacheKey,
        context: &RequestContext,
    ) -> Result<Reply, ObjectError> {
        self.ask_by(key, context, Route::Client).await
    }

    /// Puts a question by this route, once for all who ask it.
    pub(crate) async fn ask_by(
        &self,
        key: CacheKey,
        context: &RequestContext,
        route: Route,
    ) -> Result<Reply, ObjectError> {
        let (fetcher, plans) = self.fetcher(&key, route);
        let plan: &Arc<Plan> = match key {
            CacheKey::List(_) | CacheKey::Buckets => &plans.listing,
            _ => &plans.question,
        };
        let fetch = fetcher.fetch(key.clone()).plan(Arc::clone(plan));
        let fetch = fetch.priority(plans::QUESTION).owner(context.owner);
        let mut span = context.trace.fetch(&key);
        let _asking = self.ways.askers.enter(&key, &context.request_id, &mut span);
        let fetched = self.in_turn(&key, fetch.into_future()).await;
        if let Err(error) = &fetched {
            span.fail(error);
        }
        Ok(fetched?.meta)
    }

    /// Waits for what a fetch gives, but for its turn no longer than the queue's time.
    pub(crate) async fn in_turn<T>(
        &self,
        key: &CacheKey,
        fetch: impl Future<Output = Result<T, FetchError>>,
    ) -> Result<T, ObjectError> {
        let mut fetch = pin!(fetch);
        let outcome = match tokio::time::timeout(self.queue_timeout, &mut fetch).await {
            Ok(outcome) => outcome,
            // Under way: the plan bounds it from here.
            Err(_) if self.ways.is_under_way(key) => fetch.await,
            Err(_) => {
                self.ways.metrics.queue_timeout();
                return Err(ObjectError::SlowDown(
                    "the queue for the origin is full".into(),
                ));
            }
        };
        outcome.map_err(|error| {
            tracing::debug!(?key, %error, "cannot be had");
            self.why(key, &error)
        })
    }

    /// What a client is told of a key that cannot be had: what the origin said through another
    /// member, if that is why.
    pub(crate) fn why(&self, key: &CacheKey, error: &FetchError) -> ObjectError {
        let words = self.ways.cluster.as_ref();
        let words = words.and_then(|cluster| cluster.words(key));
        words.unwrap_or_else(|| self.object_error(error))
    }

    /// Bytes `range` of the version that `meta` describes.
    pub(crate) async fn read(
        self: &Arc<Self>,
        name: &ObjectName,
        meta: &ObjectMeta,
        range: Range<u64>,
        context: &RequestContext,
        files: bool,
    ) -> Result<SegmentStream, ObjectError> {
        if range.start > range.end || range.end > meta.size {
            return Err(ObjectError::InvalidRange { size: meta.size });
        }
        if range.is_empty() {
            return Ok(Box::pin(futures_util::stream::empty()));
        }
        let version = self.version(name, meta);
        let opened = read::open(self, &version, range.clone(), context, files).await;
        match &opened {
            Ok(_) => self.follow(&version, &range, context),
            Err(ObjectError::EtagChanged) => self.ways.metrics.changed(),
            Err(_) => {}
        }
        opened
    }

    /// What the client is told of a failed fetch.
    pub(crate) fn object_error(&self, error: &FetchError) -> ObjectError {
        object_error(error, |source| self.ways.sources.is_primary(source))
    }

    /// Notes that a caller reads a part of a version, and reads on ahead if it has been reading in
    /// order. Does not wait.
    fn follow(
        self: &Arc<Self>,
        version: &Arc<Version>,
        range: &Range<u64>,
        context: &RequestContext,
    ) {
        let whole = range.start == 0 && range.end == version.size;
        if whole || self.read_ahead == 0 {
            return;
        }
        let in_order = self
            .sequence
            .observe(context.owner, reader_identity(version), range);
        if in_order || self.steps_over(version, range) {
            self.read_on(version, range, context);
        }
    }

    /// Whether a range is where a reader in order leaves a chunk that is held.
    pub(crate) fn steps_over(&self, version: &Arc<Version>, range: &Range<u64>) -> bool {
        steps_over(range, self.chunk_size) && {
            let index = range.start / self.chunk_size - 1;
            let before = ChunkKey {
                version: Arc::clone(version),
                index,
            };
            self.ways
                .tiers
                .held(&before.place(), before.len())
                .is_some()
        }
    }

    /// Fetches the chunks behind a range ahead.
    pub(crate) fn read_on(
        self: &Arc<Self>,
        version: &Arc<Version>,
        range: &Range<u64>,
        context: &RequestContext,
    ) {
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let last = (range.end - 1) / self.chunk_size;
        let chunks = window(
            last,
            self.read_ahead,
            version.size.div_ceil(self.chunk_size),
        );
        let aheads = self.read_ahead_of(version, chunks, context);
        // Held by this task alone if it is new; by an earlier one otherwise.
        if aheads.iter().any(|ahead| Arc::strong_count(ahead) == 1) {
            tokio::spawn(async move {
                tokio::time::sleep(AHEAD_HOLD).await;
                drop(aheads);
            });
        }
    }

    /// Fetches these chunks ahead, as far as they are not held.
    pub(crate) fn read_ahead_of(
        self: &Arc<Self>,
        version: &Arc<Version>,
        chunks: Range<u64>,
        context: &RequestContext,
    ) -> Vec<Arc<Ahead>> {
        let chunk = |index| ChunkKey {
            version: Arc::clone(version),
            index,
        };
        chunks
            .filter_map(|index| self.aheads.begin(self, chunk(index), context))
            .collect()
    }
}

pub(crate) fn mismatched() -> ObjectError {
    ObjectError::Internal("an answer to another question".into())
}

/// What tells one version from another for the detection of readers: cheap, and need not be sure.
fn reader_identity(version: &Version) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    version.hash(&mut hasher);
    hasher.finish()
}
