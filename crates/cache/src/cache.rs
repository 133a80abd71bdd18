//! A cache from its start to its end: origins, stores, read path, edge and ops listener.
//!
//! The start fails as a whole or not at all: a store that is found to be unfit, an address in use, an
//! origin that cannot be opened. The end is in order: readiness goes first, so that nobody is
//! sent here any more; then the edge lets the requests under way finish, within its bound; then the
//! fetches end, and what is complete is committed; the stores close last.

use crate::{
    cluster::{Joining, Node},
    config::{CacheConfig, CacheError, DiskTier},
    core::ReadPath,
    edge::{self, Drained, Edge, backend::Backend},
    ops::{self, Ops},
    origin::{self, Origin, OriginSpec},
    proving,
    traces::{Exporter, Tracer},
};
use gannet_store::{BlobStore, DiskConfig, DiskStore, ObjectBlobStore, ObjectConfig};
use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::oneshot,
    task::{AbortHandle, JoinHandle},
};

/// What is complete when the cache ends has so long to be committed.
const COMMIT_GRACE: Duration = Duration::from_secs(10);

/// The way to a running cache.
#[derive(Clone, Copy, Debug)]
pub struct Cache;

impl Cache {
    /// Starts a cache within the current tokio runtime; resolves when it serves.
    ///
    /// # Errors
    /// Whatever keeps it from serving; nothing is left running then.
    pub async fn start(config: CacheConfig) -> Result<RunningCache, CacheError> {
        let specs = std::iter::once(&config.origin).chain(&config.mirrors);
        let origins = specs.map(origin::open).collect::<Result<Vec<_>, _>>()?;
        Self::start_with(config, origins).await
    }

    /// Starts a cache in front of these origins (the primary first) in place of those that the
    /// configuration names: for origins of one's own, and for tests.
    ///
    /// # Errors
    /// As [`Cache::start`].
    pub async fn start_with(
        config: CacheConfig,
        origins: Vec<Arc<dyn Origin>>,
    ) -> Result<RunningCache, CacheError> {
        // Addresses first: that one is in use is the likeliest trouble, and the quickest to find out.
        let edge_listener = bind("edge", config.listen)?;
        let edge_address = local(&edge_listener, "edge", config.listen)?;
        let ops_listener = match config.ops_listen {
            Some(address) => {
                let listener = bind("ops", address)?;
                let address = local(&listener, "ops", address)?;
                Some((listener, address))
            }
            None => None,
        };
        let hedge_after = config.read.hedge_after;
        let joining = match &config.cluster {
            Some(cluster) => Some(Joining::new(cluster, hedge_after)?),
            None => None,
        };
        let (tracer, exporter) = match &config.traces {
            Some(traces) => {
                let cluster = joining.as_ref().map(|joining| &joining.cluster);
                let instance = cluster.map(|cluster| cluster.me().address().to_owned());
                let instance = instance.unwrap_or_else(|| edge_address.to_string());
                let (tracer, exporter) = Exporter::start(traces, &instance)?;
                (tracer, Some(exporter))
            }
            None => (Tracer::default(), None),
        };
        let disk = match &config.disk {
            Some(tier) => Some(open_disk(tier).await?),
            None => None,
        };
        let shared = match &config.store {
            Some(url) => Some(open_shared(url).await?),
            None => None,
        };
        let cluster = joining.as_ref().map(|joining| Arc::clone(&joining.cluster));
        let store = shared
            .as_ref()
            .map(|(store, _)| Arc::clone(store) as Arc<dyn BlobStore>);
        let path = ReadPath::new(&config.read, origins, disk, store, cluster, tracer.clone())?;
        let proving = match shared {
            Some((store, false)) => {
                path.0.ways.tiers.breaker().shut(false);
                let proving = tokio::spawn(proving::until_passed(store, path.clone()));
                Some(AbortOnDrop(proving.abort_handle()))
            }
            _ => None,
        };
        let drain_max = config.edge.limits.drain_max;
        let hand_over_max = config.edge.limits.notice + drain_max;
        let node = match joining {
            Some(joining) => Some(joining.join(&path, drain_max).await?),
            None => None,
        };
        let edge = Edge::traced(config.edge, Arc::new(path.clone()), tracer)
            .map_err(|error| CacheError::Edge(error.to_string()))?;
        let ops = Arc::new(Ops::new(path.clone(), edge.metrics(), config.ops_token));
        let ops_address = ops_listener.as_ref().map(|(_, address)| *address);
        let ops_task = ops_listener
            .map(|(listener, _)| {
                tokio::spawn(ops::serve(listener, Arc::clone(&ops))).abort_handle()
            })
            .map(AbortOnDrop);
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(Arc::clone(&edge).serve(edge_listener, async move {
            // A sender that is gone means the same.
            let _ = stopped.await;
        }));
        ops.ready.store(true, Relaxed);
        tracing::info!(%edge_address, ?ops_address, "serving");
        Ok(RunningCache {
            edge_address,
            ops_address,
            path,
            edge,
            ops,
            ops_task,
            node,
            exporter,
            _proving: proving,
            hand_over_max,
            stop,
            serving,
        })
    }
}

/// A cache that serves. To drop it is to end it with nobody waiting: the edge drains all the same, and
/// what is not committed by then may be lost; [`RunningCache::shutdown`] is the way to do it.
#[derive(Debug)]
pub struct RunningCache {
    edge_address: SocketAddr,
    ops_address: Option<SocketAddr>,
    path: ReadPath,
    edge: Arc<Edge>,
    ops: Arc<Ops>,
    ops_task: Option<AbortOnDrop>,
    node: Option<Node>,
    exporter: Option<Exporter>,
    /// Tests a shared store that could not be tested at the start.
    _proving: Option<AbortOnDrop>,
    /// For how long others may fetch what we hold, once we are to end.
    hand_over_max: Duration,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Drained>,
}

impl RunningCache {
    /// Where S3 clients connect: the port is known, though 0 was asked for.
    pub fn edge_address(&self) -> SocketAddr {
        self.edge_address
    }

    /// Where operators connect.
    pub fn ops_address(&self) -> Option<SocketAddr> {
        self.ops_address
    }

    /// Where other members connect.
    pub fn internal_address(&self) -> Option<SocketAddr> {
        Some(self.node.as_ref()?.address)
    }

    /// The read path, for those who read without a socket.
    pub fn backend(&self) -> Arc<dyn Backend> {
        Arc::new(self.path.clone())
    }

    /// The edge, to have it read its files again.
    pub fn edge(&self) -> &Arc<Edge> {
        &self.edge
    }

    /// Ends the cache in order, within the drain time of the edge and a few seconds for commits. Says
    /// how many connections had to be cut.
    ///
    /// # Cancellation
    /// Dropping the future cuts what is left.
    pub async fn shutdown(mut self) -> Drained {
        self.ops.ready.store(false, Relaxed);
        tracing::info!("shutting down: no new requests");
        if let Some(node) = &mut self.node {
            node.leave().await;
        }
        // Nobody listens only if serving has ended already.
        let _ = self.stop.send(());
        // Whoever follows us fetches what we hold from us meanwhile.
        let (drained, ()) = tokio::join!(self.serving, self.path.hand_over(self.hand_over_max));
        let drained = drained.unwrap_or(Drained { cut: 0 });
        // Other members' questions last: who is sent to us still gets an answer, and once they have
        // theirs, nobody asks any more.
        if let Some(node) = self.node {
            node.shutdown().await;
        }
        self.path.shutdown(COMMIT_GRACE).await;
        if let Some(exporter) = self.exporter {
            exporter.shutdown().await;
        }
        drop(self.ops_task);
        tracing::info!(cut = drained.cut, "shut down");
        drained
    }
}

/// A task that goes with its owner.
#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListener, CacheError> {
    edge::bind(address).map_err(|error| CacheError::Listen {
        what,
        address,
        error,
    })
}

fn local(
    listener: &TcpListener,
    what: &'static str,
    address: SocketAddr,
) -> Result<SocketAddr, CacheError> {
    listener.local_addr().map_err(|error| CacheError::Listen {
        what,
        address,
        error,
    })
}

async fn open_disk(tier: &DiskTier) -> Result<Arc<dyn BlobStore>, CacheError> {
    let mut config = DiskConfig::new(&tier.dir);
    config.bytes_max = tier.bytes_max;
    let store = DiskStore::open(config).await;
    let store = store.map_err(|error| CacheError::Store {
        which: "disk",
        error,
    })?;
    let (took, chunks) = store.opened_in();
    tracing::info!(dir = %tier.dir.display(), chunks, ?took, "disk store open");
    Ok(Arc::new(store))
}

/// Opens the shared store; fails if it is found not to keep the first of two copies. Also whether it
/// has proved that it does.
async fn open_shared(spec: &OriginSpec) -> Result<(Arc<ObjectBlobStore>, bool), CacheError> {
    let client = spec.http_client()?;
    let objects = origin::object_store(spec, &client)?;
    let store = ObjectBlobStore::untested(objects, ObjectConfig::default());
    let store = store.map_err(|error| CacheError::Store {
        which: "shared",
        error,
    })?;
    let passed = proving::at_start(&store).await?;
    tracing::info!(url = spec.url, passed, "shared store open");
    Ok((Arc::new(store), passed))
}
