//! A node's surroundings for tests: a transport that keeps what is sent, and an op store that counts.
#![allow(dead_code, reason = "each test uses a part")]

pub(crate) mod touchy;

use bytes::Bytes;
use gannet_kitsune2::{GannetFetchConfig, GannetFetchFactory, GannetFetchModConfig, Monitor};
use kitsune2_api::*;
use kitsune2_core::{default_test_builder, factories::MemoryOp};
use kitsune2_test_utils::space::TEST_SPACE_ID;
use prost::Message as _;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

/// What a peer was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Request(Vec<OpId>),
    Response(Vec<MetaOp>),
}

type OnSend = Box<dyn FnMut(&Url, &Sent) -> K2Result<()> + Send>;

/// A transport without a network: sends are kept, and end as the test says.
#[derive(Default)]
pub(crate) struct Wire {
    pub(crate) sent: Mutex<Vec<(Url, Sent)>>,
    pub(crate) on_send: Mutex<Option<OnSend>>,
    handler: Mutex<Option<DynTxModuleHandler>>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wire")
    }
}

impl Wire {
    /// Every op asked of every peer, in order.
    pub(crate) fn asked(&self) -> Vec<(OpId, Url)> {
        let sent = self.sent.lock().unwrap();
        let asked = sent.iter().filter_map(|(url, sent)| match sent {
            Sent::Request(ids) => Some(ids.iter().map(|id| (id.clone(), url.clone()))),
            Sent::Response(_) => None,
        });
        asked.flatten().collect()
    }

    pub(crate) fn requests(&self) -> usize {
        let sent = self.sent.lock().unwrap();
        sent.iter()
            .filter(|(_, sent)| matches!(sent, Sent::Request(_)))
            .count()
    }

    pub(crate) fn responses(&self) -> Vec<(Url, Vec<MetaOp>)> {
        let sent = self.sent.lock().unwrap();
        let responses = sent.iter().filter_map(|(url, sent)| match sent {
            Sent::Response(ops) => Some((url.clone(), ops.clone())),
            Sent::Request(_) => None,
        });
        responses.collect()
    }

    pub(crate) fn on_send(
        &self,
        on_send: impl FnMut(&Url, &Sent) -> K2Result<()> + Send + 'static,
    ) {
        *self.on_send.lock().unwrap() = Some(Box::new(on_send));
    }

    pub(crate) fn handler(&self) -> DynTxModuleHandler {
        self.handler
            .lock()
            .unwrap()
            .clone()
            .expect("the module has registered")
    }

    /// A message comes from a peer.
    pub(crate) fn receive(&self, from: &Url, message: Bytes) -> K2Result<()> {
        let module = gannet_kitsune2::MOD_NAME.to_string();
        self.handler()
            .recv_module_msg(from.clone(), TEST_SPACE_ID, module, message)
    }

    pub(crate) fn answer(&self, from: &Url, ops: &[MemoryOp]) {
        let ops = ops.iter().cloned().map(MetaOp::from).collect();
        self.receive(from, serialize_response_message(ops)).unwrap();
    }
}

pub(crate) fn read(message: Bytes) -> Sent {
    let message = K2FetchMessage::decode(message).unwrap();
    match message.fetch_message_type() {
        FetchMessageType::Request => {
            Sent::Request(FetchRequest::decode(message.data).unwrap().into())
        }
        FetchMessageType::Response => {
            let ops = FetchResponse::decode(message.data).unwrap().ops;
            let ops = ops.into_iter().map(|op| MetaOp {
                op_id: op.op_id.into(),
                op_data: op.data,
            });
            Sent::Response(ops.collect())
        }
        other => panic!("{other:?}"),
    }
}

impl Transport for Wire {
    fn register_space_handler(&self, _: SpaceId, _: DynTxSpaceHandler) -> Option<Url> {
        None
    }

    fn register_module_handler(&self, space: SpaceId, module: String, handler: DynTxModuleHandler) {
        assert_eq!((space, module.as_str()), (TEST_SPACE_ID, "Fetch"));
        assert!(self.handler.lock().unwrap().replace(handler).is_none());
    }

    fn disconnect(&self, _: Url, _: Option<String>) -> BoxFut<'_, ()> {
        Box::pin(async {})
    }

    fn send_space_notify(&self, _: Url, _: SpaceId, _: Bytes) -> BoxFut<'_, K2Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn send_module(
        &self,
        peer: Url,
        space: SpaceId,
        module: String,
        data: Bytes,
    ) -> BoxFut<'_, K2Result<()>> {
        assert_eq!((space, module.as_str()), (TEST_SPACE_ID, "Fetch"));
        Box::pin(async move {
            let sent = read(data);
            let result = match &mut *self.on_send.lock().unwrap() {
                Some(on_send) => on_send(&peer, &sent),
                None => Ok(()),
            };
            self.sent.lock().unwrap().push((peer, sent));
            result
        })
    }

    fn get_connected_peers(&self) -> BoxFut<'_, K2Result<Vec<Url>>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn unregister_space(&self, _: SpaceId) -> BoxFut<'_, ()> {
        Box::pin(async {})
    }

    fn dump_network_stats(&self) -> BoxFut<'_, K2Result<ApiTransportStats>> {
        Box::pin(async {
            Ok(ApiTransportStats {
                transport_stats: TransportStats {
                    backend: "wire".into(),
                    peer_urls: Vec::new(),
                    connections: Vec::new(),
                },
                blocked_message_counts: HashMap::new(),
            })
        })
    }
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

/// One node's fetch module, on a [`Wire`].
pub(crate) struct Node {
    pub(crate) fetch: DynFetch,
    pub(crate) wire: Arc<Wire>,
    pub(crate) op_store: DynOpStore,
    pub(crate) peer_meta_store: DynPeerMetaStore,
    pub(crate) report: Arc<Reports>,
    pub(crate) monitor: Monitor,
}

impl Node {
    pub(crate) async fn new() -> Self {
        Self::with(GannetFetchConfig::default(), None).await
    }

    pub(crate) async fn with(config: GannetFetchConfig, op_store: Option<DynOpStore>) -> Self {
        let monitor = Monitor::default();
        let builder = Builder {
            fetch: GannetFetchFactory::seeded(&monitor, 1),
            ..default_test_builder()
        };
        let builder = builder.with_default_config().unwrap();
        let config = GannetFetchModConfig {
            gannet_fetch: config,
            ..Default::default()
        };
        builder.config.set_module_config(&config).unwrap();
        builder.validate_config().unwrap();
        let builder = Arc::new(builder);
        let op_store = match op_store {
            Some(op_store) => op_store,
            None => builder
                .op_store
                .create(builder.clone(), TEST_SPACE_ID)
                .await
                .unwrap(),
        };
        let peer_meta_store = builder
            .peer_meta_store
            .create(builder.clone(), TEST_SPACE_ID)
            .await
            .unwrap();
        let wire = Arc::new(Wire::default());
        let report = Arc::new(Reports::default());
        let fetch = builder
            .fetch
            .create(
                builder.clone(),
                TEST_SPACE_ID,
                report.clone(),
                op_store.clone(),
                peer_meta_store.clone(),
                wire.clone(),
            )
            .await
            .unwrap();
        Self {
            fetch,
            wire,
            op_store,
            peer_meta_store,
            report,
            monitor,
        }
    }

    pub(crate) async fn request(&self, ids: &[OpId], from: &Url) {
        self.fetch
            .request_ops(offer(ids), from.clone())
            .await
            .unwrap();
    }

    /// Pairs of op and peer in the summary.
    pub(crate) async fn pending(&self) -> Vec<(OpId, Url)> {
        let summary = self.fetch.get_state_summary().await.unwrap();
        let pairs = summary.pending_requests.into_iter();
        let mut pairs: Vec<_> = pairs
            .flat_map(|(id, urls)| urls.into_iter().map(move |url| (id.clone(), url)))
            .collect();
        pairs.sort();
        pairs
    }

    /// The notification, within a second.
    pub(crate) async fn drained(&self) {
        let (tx, rx) = futures_channel::oneshot::channel();
        self.fetch.notify_on_drained(tx);
        let told = tokio::time::timeout(Duration::from_secs(1), rx).await;
        told.expect("not told in time").expect("dropped");
    }

    pub(crate) fn stats(&self) -> gannet_kitsune2::FetchStats {
        self.monitor.stats()[0].1
    }
}

pub(crate) fn offer(ids: &[OpId]) -> Vec<PublishOp> {
    let offers = ids.iter().map(|id| PublishOp {
        op_id: id.clone(),
        metadata: None,
    });
    offers.collect()
}

pub(crate) fn url(n: u32) -> Url {
    Url::from_str(format!("ws://test:80/{n}")).unwrap()
}

static NEXT: AtomicU32 = AtomicU32::new(1);

/// An op that no other test has.
pub(crate) fn op() -> MemoryOp {
    let mut data = NEXT.fetch_add(1, Relaxed).to_le_bytes().to_vec();
    data.resize(64, 7);
    MemoryOp::new(Timestamp::now(), data)
}

pub(crate) fn ops(count: usize) -> (Vec<MemoryOp>, Vec<OpId>) {
    let ops: Vec<_> = (0..count).map(|_| op()).collect();
    let ids = ops.iter().map(MemoryOp::compute_op_id).collect();
    (ops, ids)
}

/// Waits until it is so, for at most ten seconds (of the paused clock, where it is paused).
pub(crate) async fn until(what: &str, mut it: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while !it().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited
        .await
        .unwrap_or_else(|_| panic!("it never happened that {what}"));
}

/// An op store that holds nothing, and does this with what comes.
pub(crate) fn store_that(
    process: impl Fn(Vec<IncomingOp>) -> K2Result<Vec<OpId>> + Send + Sync + 'static,
) -> DynOpStore {
    let mut store = MockOpStore::new();
    store
        .expect_filter_out_existing_ops()
        .returning(|ids| Box::pin(async { Ok(ids) }));
    store.expect_process_incoming_ops().returning(move |ops| {
        let result = process(ops);
        Box::pin(async { result })
    });
    Arc::new(store)
}
