//! Real Kitsune2 nodes for tests: all modules, one space, a local agent, over the in-memory transport
//! or over iroh with Kitsune2's own bootstrap and relay server on loopback.
#![allow(dead_code, reason = "each test uses a part")]

pub(crate) mod ops;
pub(crate) mod rogue;

use bytes::Bytes;
use gannet_kitsune2::{
    FetchStats, GannetFetchConfig, GannetFetchFactory, GannetFetchModConfig, MOD_NAME, Monitor,
};
use kitsune2_api::*;
use kitsune2_core::{
    default_test_builder,
    factories::{CoreFetchFactory, MemBootstrapConfig, MemBootstrapModConfig},
};
use kitsune2_test_utils::{
    agent::{TestLocalAgent, TestVerifier},
    bootstrap::TestBootstrapSrv,
    space::TEST_SPACE_ID,
};
use kitsune2_transport_iroh::{IrohTransportConfig, IrohTransportFactory, IrohTransportModConfig};
use ops::CheckedStore;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

/// A network of its own: its nodes find each other, and no others.
pub(crate) struct Net {
    name: String,
    relay: Option<TestBootstrapSrv>,
}

impl Net {
    /// Nodes in one process, without sockets.
    pub(crate) fn mem() -> Self {
        ops::expect_panics();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("net {}", NEXT.fetch_add(1, Relaxed));
        Self { name, relay: None }
    }

    /// QUIC on loopback.
    pub(crate) async fn iroh() -> Self {
        let relay = Some(TestBootstrapSrv::new(false).await);
        Self {
            relay,
            ..Self::mem()
        }
    }

    pub(crate) fn over(&self) -> &'static str {
        match self.relay {
            None => "mem",
            Some(_) => "iroh",
        }
    }

    /// A node with the stock fetch module.
    pub(crate) async fn stock(&self) -> Node {
        self.start(Parts::new(CoreFetchFactory::create())).await
    }

    /// A node with ours.
    pub(crate) async fn gannet(&self) -> Node {
        self.gannet_with(GannetFetchConfig::default()).await
    }

    pub(crate) async fn gannet_with(&self, config: GannetFetchConfig) -> Node {
        self.start(Parts::gannet(config)).await
    }

    /// A node that is up, and that others can reach.
    pub(crate) async fn start(&self, parts: Parts) -> Node {
        let Parts {
            fetch,
            monitor,
            config,
            op_store,
            agent,
        } = parts;
        let op_store = op_store.unwrap_or_else(CheckedStore::create);
        let report = Arc::new(Reports::default());
        let mut builder = Builder {
            verifier: Arc::new(TestVerifier),
            fetch,
            op_store: Arc::new(Given(op_store.clone())),
            report: Arc::new(Given(report.clone())),
            ..default_test_builder()
        };
        if self.relay.is_some() {
            builder.transport = IrohTransportFactory::create();
        }
        let builder = builder.with_default_config().unwrap();
        let bootstrap = MemBootstrapConfig {
            test_id: self.name.clone(),
            poll_freq_ms: 20,
        };
        let set = &builder.config;
        set.set_module_config(&MemBootstrapModConfig {
            mem_bootstrap: bootstrap,
        })
        .unwrap();
        set.set_module_config(&GannetFetchModConfig {
            gannet_fetch: config,
            ..Default::default()
        })
        .unwrap();
        if let Some(relay) = &self.relay {
            let iroh_transport = IrohTransportConfig {
                relay_url: Some(format!("{}/relay", relay.addr())),
                relay_allow_plain_text: true,
                connect_timeout_s: 5,
                ..Default::default()
            };
            set.set_module_config(&IrohTransportModConfig { iroh_transport })
                .unwrap();
        }
        let kitsune = builder.build().await.unwrap();
        kitsune.register_handler(Arc::new(Handler)).await.unwrap();
        let space = kitsune.space(TEST_SPACE_ID, None).await.unwrap();
        until(30, "the node has an address", async || {
            space.current_url().is_some()
        })
        .await;
        let joined: DynLocalAgent = agent.clone();
        space.local_agent_join(joined).await.unwrap();
        Node {
            transport: kitsune.transport().await.unwrap(),
            url: space.current_url().unwrap(),
            kitsune,
            space,
            op_store,
            report,
            monitor,
            agent,
        }
    }
}

/// What a node is made of.
pub(crate) struct Parts {
    pub(crate) fetch: DynFetchFactory,
    pub(crate) monitor: Monitor,
    pub(crate) config: GannetFetchConfig,
    pub(crate) op_store: Option<DynOpStore>,
    pub(crate) agent: Arc<TestLocalAgent>,
}

impl Parts {
    pub(crate) fn new(fetch: DynFetchFactory) -> Self {
        Self {
            fetch,
            monitor: Monitor::default(),
            config: GannetFetchConfig::default(),
            op_store: None,
            agent: Arc::default(),
        }
    }

    pub(crate) fn gannet(config: GannetFetchConfig) -> Self {
        let monitor = Monitor::default();
        Self {
            config,
            monitor: monitor.clone(),
            ..Self::new(GannetFetchFactory::monitored(&monitor))
        }
    }
}

/// A node that is up.
pub(crate) struct Node {
    pub(crate) kitsune: DynKitsune,
    pub(crate) space: DynSpace,
    pub(crate) transport: DynTransport,
    pub(crate) url: Url,
    pub(crate) op_store: DynOpStore,
    pub(crate) report: Arc<Reports>,
    pub(crate) monitor: Monitor,
    pub(crate) agent: Arc<TestLocalAgent>,
}

impl Node {
    /// Stores these ops here, as the host does with those that it makes.
    pub(crate) async fn hold(&self, numbers: impl IntoIterator<Item = u64>) {
        let ops = numbers.into_iter().map(|n| ops::op(n).into()).collect();
        self.op_store.process_incoming_ops(ops).await.unwrap();
    }

    /// How many of these ops are here, as they should be.
    pub(crate) async fn held(&self, numbers: impl IntoIterator<Item = u64>) -> usize {
        let ids = numbers.into_iter().map(ops::id).collect();
        self.op_store.retrieve_ops(ids).await.unwrap().len()
    }

    /// Asks for these ops of a peer that offers them.
    pub(crate) async fn request(&self, numbers: impl IntoIterator<Item = u64>, of: &Url) {
        let ops = ops::offer(numbers);
        self.space
            .fetch()
            .request_ops(ops, of.clone())
            .await
            .unwrap();
    }

    /// Sends a message to a peer's fetch module.
    pub(crate) async fn send(&self, to: &Url, message: Bytes) -> K2Result<()> {
        self.transport
            .send_module(to.clone(), TEST_SPACE_ID, MOD_NAME.into(), message)
            .await
    }

    pub(crate) async fn pending(&self) -> usize {
        let summary = self.space.fetch().get_state_summary().await.unwrap();
        summary.pending_requests.len()
    }

    /// Ours only.
    pub(crate) fn stats(&self) -> FetchStats {
        self.monitor.stats()[0].1
    }

    /// Gone without a word to anybody. What it had stored, and who it was, is left.
    pub(crate) fn crash(self) -> (DynOpStore, Arc<TestLocalAgent>) {
        // The agent holds modules of its space.
        self.agent.register_cb(Arc::new(|| {}));
        (self.op_store, self.agent)
    }
}

/// Waits until all nodes know each other: a message from somebody unknown is dropped.
pub(crate) async fn meet(nodes: &[&Node]) {
    let urls = || nodes.iter().map(|node| &node.url);
    for node in nodes {
        until(30, "a node knows the others", async || {
            let infos = node.space.peer_store().get_all().await.unwrap();
            urls().all(|url| infos.iter().any(|info| info.url.as_ref() == Some(url)))
        })
        .await;
    }
}

/// Waits until it is so, for at most so many seconds.
pub(crate) async fn until(seconds: u64, what: &str, it: impl AsyncFnMut() -> bool) {
    assert!(within(seconds, it).await, "it never happened that {what}");
}

/// Whether it is so within so many seconds.
pub(crate) async fn within(seconds: u64, mut it: impl AsyncFnMut() -> bool) -> bool {
    let waited = tokio::time::timeout(Duration::from_secs(seconds), async {
        while !it().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.is_ok()
}

/// What a host's report module is told.
#[derive(Debug, Default)]
pub(crate) struct Reports(pub(crate) Mutex<Vec<(Url, OpId, u64)>>);

impl Report for Reports {
    fn fetched_op(&self, space: SpaceId, source: Url, op: OpId, bytes: u64) {
        assert_eq!(space, TEST_SPACE_ID);
        self.0.lock().unwrap().push((source, op, bytes));
    }
}

/// Makes what is there already.
#[derive(Debug)]
struct Given<T>(T);

impl OpStoreFactory for Given<DynOpStore> {
    fn default_config(&self, _: &mut Config) -> K2Result<()> {
        Ok(())
    }

    fn validate_config(&self, _: &Config) -> K2Result<()> {
        Ok(())
    }

    fn create(&self, _: Arc<Builder>, _: SpaceId) -> BoxFut<'static, K2Result<DynOpStore>> {
        let op_store = self.0.clone();
        Box::pin(async move { Ok(op_store) })
    }
}

impl ReportFactory for Given<Arc<Reports>> {
    fn default_config(&self, _: &mut Config) -> K2Result<()> {
        Ok(())
    }

    fn validate_config(&self, _: &Config) -> K2Result<()> {
        Ok(())
    }

    fn create(&self, _: Arc<Builder>, _: DynTransport) -> BoxFut<'static, K2Result<DynReport>> {
        let report: DynReport = self.0.clone();
        Box::pin(async move { Ok(report) })
    }
}

/// The host: it takes whatever comes.
#[derive(Debug)]
struct Handler;

impl SpaceHandler for Handler {}

impl KitsuneHandler for Handler {
    fn create_space(
        &self,
        _: SpaceId,
        _: Option<&Config>,
    ) -> BoxFut<'_, K2Result<DynSpaceHandler>> {
        Box::pin(async {
            let handler: DynSpaceHandler = Arc::new(Self);
            Ok(handler)
        })
    }
}
