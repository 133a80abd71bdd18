//! Makes a fetch module for each space.

use crate::{
    actor::Runner,
    config::{GannetFetchConfig, GannetFetchModConfig},
    fetch::GannetFetch,
    handler::Handler,
    metrics::Monitor,
    serve::Server,
    shared::Shared,
};
use kitsune2_api::{
    BoxFut, Builder, Config, DynFetch, DynFetchFactory, DynOpStore, DynPeerMetaStore, DynReport,
    DynTransport, FetchFactory, K2Result, SpaceId,
};
use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

/// In place of `CoreFetchFactory` in a `Builder`.
#[derive(Clone, Debug, Default)]
pub struct GannetFetchFactory {
    monitor: Monitor,
    seed: Option<u64>,
}

impl GannetFetchFactory {
    /// A factory.
    pub fn create() -> DynFetchFactory {
        Arc::new(Self::default())
    }

    /// A factory whose modules can be seen through this monitor.
    pub fn monitored(monitor: &Monitor) -> DynFetchFactory {
        Arc::new(Self {
            monitor: monitor.clone(),
            seed: None,
        })
    }

    /// A factory whose modules draw the same numbers on every run, for simulations.
    pub fn seeded(monitor: &Monitor, seed: u64) -> DynFetchFactory {
        Arc::new(Self {
            monitor: monitor.clone(),
            seed: Some(seed),
        })
    }
}

impl FetchFactory for GannetFetchFactory {
    fn default_config(&self, config: &mut Config) -> K2Result<()> {
        config.set_module_config(&GannetFetchModConfig::default())
    }

    fn validate_config(&self, config: &Config) -> K2Result<()> {
        GannetFetchConfig::read(config).map(drop)
    }

    fn create(
        &self,
        builder: Arc<Builder>,
        space_id: SpaceId,
        report: DynReport,
        op_store: DynOpStore,
        peer_meta_store: DynPeerMetaStore,
        transport: DynTransport,
    ) -> BoxFut<'static, K2Result<DynFetch>> {
        let Self { monitor, seed } = self.clone();
        Box::pin(async move {
            let config = GannetFetchConfig::read(&builder.config)?;
            let store_concurrency = config.store_concurrency.into();
            let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(()));
            let shared = Arc::new(Shared::new(config, seed));
            monitor.add(space_id.clone(), &shared);
            // Weak: the transport holds our handler, and would else hold itself.
            let weak = Arc::downgrade(&transport);
            let runner = Runner {
                shared: shared.clone(),
                op_store: op_store.clone(),
                report,
                peer_meta_store,
                transport: weak.clone(),
                space_id: space_id.clone(),
                store_concurrency,
            };
            let server = Server {
                shared: shared.clone(),
                op_store: op_store.clone(),
                transport: weak,
                space_id: space_id.clone(),
            };
            let tasks = [
                tokio::spawn(runner.run()).abort_handle(),
                tokio::spawn(server.run()).abort_handle(),
            ];
            let handler = Arc::new(Handler(shared.clone()));
            // Before registering, which panics where another module has: the tasks end with this.
            let fetch: DynFetch = Arc::new(GannetFetch {
                shared,
                op_store,
                tasks,
            });
            transport.register_module_handler(space_id, crate::MOD_NAME.to_string(), handler);
            Ok(fetch)
        })
    }
}
