//! A node as far as fetching goes: a transport, an op store, and the fetch module between them.

use crate::{
    iroh,
    null::NullFactory,
    store::Store,
    wire::{Address, Wire},
};
use bytes::Bytes;
use gannet_kitsune2::GannetFetchFactory;
use kitsune2_api::{Builder, DynFetch, DynFetchFactory, Id, Report, SpaceId, Url};
use kitsune2_core::{
    default_test_builder,
    factories::{CoreFetchFactory, MemPeerMetaStore},
};
use std::sync::Arc;
use tokio::sync::watch;

const SPACE: SpaceId = SpaceId(Id(Bytes::from_static(b"bench")));

/// The fetch module of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Stock,
    Ours,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Null => "harness",
            Self::Stock => "stock",
            Self::Ours => "gannet",
        }
    }

    fn factory(self) -> DynFetchFactory {
        match self {
            Self::Null => NullFactory::create(),
            Self::Stock => CoreFetchFactory::create(),
            Self::Ours => GannetFetchFactory::create(),
        }
    }
}

/// Nobody reads reports here.
#[derive(Debug)]
struct NoReport;

impl Report for NoReport {}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) fetch: DynFetch,
    pub(crate) store: Arc<Store>,
    pub(crate) wire: Arc<Wire>,
}

impl Node {
    /// On this transport.
    pub(crate) async fn on(wire: Wire, kind: Kind, store: Store, builder: Arc<Builder>) -> Self {
        let (wire, store) = (Arc::new(wire), Arc::new(store));
        let fetch = kind.factory().create(
            builder,
            SPACE,
            Arc::new(NoReport),
            store.clone(),
            MemPeerMetaStore::create(),
            wire.clone(),
        );
        Self {
            fetch: fetch.await.expect("the defaults are valid"),
            store,
            wire,
        }
    }

    /// On a transport of its own: over iroh, where there is a relay, and else in memory. And the URL
    /// at which it is reached.
    pub(crate) async fn start(kind: Kind, store: Store, relay: Option<&str>) -> (Self, Url) {
        let builder = builder(kind, relay);
        let (sender, mut address) = watch::channel(None);
        let handler = Arc::new(Address(sender));
        let transport = builder.transport.create(builder.clone(), handler.clone());
        let transport = transport.await.expect("a transport on loopback");
        transport.register_space_handler(SPACE, handler);
        let url = address.wait_for(Option::is_some).await;
        let url = url.expect("the transport lives").clone();
        let node = Self::on(Wire::over(transport), kind, store, builder).await;
        (node, url.expect("waited for"))
    }
}

/// The defaults, with this fetch module and transport.
pub(crate) fn builder(kind: Kind, relay: Option<&str>) -> Arc<Builder> {
    let mut builder = Builder {
        fetch: kind.factory(),
        ..default_test_builder()
    };
    if relay.is_some() {
        builder.transport = iroh::transport();
    }
    let builder = builder.with_default_config().expect("defaults");
    if let Some(relay) = relay {
        iroh::configure(&builder.config, relay);
    }
    Arc::new(builder)
}
