//! Transports: one that counts what is sent through another, and one that nobody answers through.

use bytes::Bytes;
use kitsune2_api::{
    ApiTransportStats, BoxFut, DynTransport, DynTxModuleHandler, DynTxSpaceHandler, K2Error,
    K2Result, SpaceId, Transport, TransportConnectionStats, TxBaseHandler, TxHandler,
    TxSpaceHandler, Url,
};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::sync::watch;

/// Where a node is to be reached, as soon as its transport knows.
#[derive(Debug)]
pub(crate) struct Address(pub(crate) watch::Sender<Option<Url>>);

impl TxBaseHandler for Address {
    fn new_listening_address(&self, url: Url) -> BoxFut<'static, ()> {
        self.0.send_replace(Some(url));
        Box::pin(async {})
    }
}

impl TxHandler for Address {}

/// Nobody is blocked.
impl TxSpaceHandler for Address {
    fn is_any_agent_at_url_blocked(&self, _: &Url) -> K2Result<bool> {
        Ok(false)
    }
}

/// Messages of modules, and their bytes, as they are handed to the transport beneath; with none
/// beneath, they are sent to nobody.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    beneath: Option<DynTransport>,
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Wire {
    pub(crate) fn over(beneath: DynTransport) -> Self {
        Self {
            beneath: Some(beneath),
            ..Self::default()
        }
    }

    pub(crate) fn messages(&self) -> u64 {
        self.messages.load(Relaxed)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// What the transport beneath says of its connections.
    pub(crate) async fn stats(&self) -> Vec<TransportConnectionStats> {
        let stats = self.dump_network_stats().await;
        stats.map_or_else(|_| Vec::new(), |stats| stats.transport_stats.connections)
    }

    fn beneath(&self) -> K2Result<&DynTransport> {
        let none = || K2Error::other("there is no transport beneath");
        self.beneath.as_ref().ok_or_else(none)
    }
}

impl Transport for Wire {
    fn register_space_handler(&self, space: SpaceId, handler: DynTxSpaceHandler) -> Option<Url> {
        let beneath = self.beneath.as_ref()?;
        beneath.register_space_handler(space, handler)
    }

    fn register_module_handler(&self, space: SpaceId, module: String, handler: DynTxModuleHandler) {
        if let Some(beneath) = &self.beneath {
            beneath.register_module_handler(space, module, handler);
        }
    }

    fn disconnect(&self, peer: Url, reason: Option<String>) -> BoxFut<'_, ()> {
        match &self.beneath {
            Some(beneath) => beneath.disconnect(peer, reason),
            None => Box::pin(async {}),
        }
    }

    fn send_space_notify(&self, _: Url, _: SpaceId, _: Bytes) -> BoxFut<'_, K2Result<()>> {
        Box::pin(async { Err(K2Error::other("modules only")) })
    }

    fn send_module(
        &self,
        peer: Url,
        space: SpaceId,
        module: String,
        data: Bytes,
    ) -> BoxFut<'_, K2Result<()>> {
        self.messages.fetch_add(1, Relaxed);
        self.bytes.fetch_add(data.len() as u64, Relaxed);
        match &self.beneath {
            Some(beneath) => beneath.send_module(peer, space, module, data),
            None => Box::pin(async { Ok(()) }),
        }
    }

    fn get_connected_peers(&self) -> BoxFut<'_, K2Result<Vec<Url>>> {
        Box::pin(async { self.beneath()?.get_connected_peers().await })
    }

    fn unregister_space(&self, space: SpaceId) -> BoxFut<'_, ()> {
        match &self.beneath {
            Some(beneath) => beneath.unregister_space(space),
            None => Box::pin(async {}),
        }
    }

    fn dump_network_stats(&self) -> BoxFut<'_, K2Result<ApiTransportStats>> {
        Box::pin(async { self.beneath()?.dump_network_stats().await })
    }
}
