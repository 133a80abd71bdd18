//! The harness alone: a fetch module that asks for everything in large requests, stores what comes,
//! and keeps account of nothing. What is left is the transport, the messages and the store.

use bytes::Bytes;
use futures_channel::oneshot;
use kitsune2_api::{
    BoxFut, Builder, Config, DynFetch, DynFetchFactory, DynOpStore, DynPeerMetaStore, DynReport,
    DynTransport, Fetch, FetchFactory, FetchMessageType, FetchRequest, FetchResponse,
    FetchStateSummary, IncomingOp, K2Error, K2FetchMessage, K2Result, OpId, PublishOp, SpaceId,
    TxBaseHandler, TxModuleHandler, Url, WeakDynTransport, serialize_request_message,
    serialize_response_message,
};
use prost::Message;
use std::{collections::HashMap, sync::Arc};
use tokio::sync::Semaphore;

/// Ops in a request.
const BATCH: usize = 1_024;
/// Requests that are not answered yet.
const OPEN_MAX: usize = 4;

#[derive(Debug)]
pub(crate) struct NullFactory;

impl NullFactory {
    pub(crate) fn create() -> DynFetchFactory {
        Arc::new(Self)
    }
}

impl FetchFactory for NullFactory {
    fn default_config(&self, _: &mut Config) -> K2Result<()> {
        Ok(())
    }

    fn validate_config(&self, _: &Config) -> K2Result<()> {
        Ok(())
    }

    fn create(
        &self,
        _: Arc<Builder>,
        space: SpaceId,
        _: DynReport,
        op_store: DynOpStore,
        _: DynPeerMetaStore,
        transport: DynTransport,
    ) -> BoxFut<'static, K2Result<DynFetch>> {
        let null = Null(Arc::new(Inner {
            space: space.clone(),
            op_store,
            transport: Arc::downgrade(&transport),
            open: Semaphore::new(OPEN_MAX),
        }));
        let module = gannet_kitsune2::MOD_NAME.to_string();
        transport.register_module_handler(space, module, Arc::new(null.clone()));
        Box::pin(async move {
            let fetch: DynFetch = Arc::new(null);
            Ok(fetch)
        })
    }
}

#[derive(Debug)]
struct Inner {
    space: SpaceId,
    op_store: DynOpStore,
    transport: WeakDynTransport,
    open: Semaphore,
}

#[derive(Clone, Debug)]
struct Null(Arc<Inner>);

impl Inner {
    async fn send(&self, peer: Url, message: Bytes) -> K2Result<()> {
        let transport = self.transport.upgrade();
        let transport = transport.ok_or_else(|| K2Error::other("the transport is gone"))?;
        let module = gannet_kitsune2::MOD_NAME.to_string();
        let space = self.space.clone();
        transport.send_module(peer, space, module, message).await
    }

    async fn serve(&self, peer: Url, request: FetchRequest) -> K2Result<()> {
        let ops = self.op_store.retrieve_ops(request.into()).await?;
        self.send(peer, serialize_response_message(ops)).await
    }

    async fn store(&self, response: FetchResponse) -> K2Result<()> {
        let ops = response.ops.into_iter().map(|op| IncomingOp {
            op_id: OpId::from(op.op_id),
            op_data: op.data,
            metadata: None,
        });
        self.op_store.process_incoming_ops(ops.collect()).await?;
        self.open.add_permits(1);
        Ok(())
    }
}

impl Fetch for Null {
    fn request_ops(&self, ops: Vec<PublishOp>, source: Url) -> BoxFut<'_, K2Result<()>> {
        Box::pin(async move {
            let ids = ops.into_iter().map(|op| op.op_id).collect();
            let ids = self.0.op_store.filter_out_existing_ops(ids).await?;
            for ids in ids.chunks(BATCH) {
                let open = self.0.open.acquire().await.map_err(K2Error::other)?;
                open.forget();
                let message = serialize_request_message(ids.to_vec());
                self.0.send(source.clone(), message).await?;
            }
            Ok(())
        })
    }

    fn notify_on_drained(&self, _: oneshot::Sender<()>) {}

    fn get_state_summary(&self) -> BoxFut<'_, K2Result<FetchStateSummary>> {
        let pending_requests = HashMap::new();
        Box::pin(async { Ok(FetchStateSummary { pending_requests }) })
    }
}

impl TxBaseHandler for Null {}

impl TxModuleHandler for Null {
    fn recv_module_msg(&self, peer: Url, _: SpaceId, _: String, data: Bytes) -> K2Result<()> {
        let message = K2FetchMessage::decode(data).map_err(K2Error::other)?;
        let inner = self.0.clone();
        match message.fetch_message_type() {
            FetchMessageType::Request => {
                let request = FetchRequest::decode(message.data).map_err(K2Error::other)?;
                tokio::spawn(async move { inner.serve(peer, request).await });
            }
            FetchMessageType::Response => {
                let response = FetchResponse::decode(message.data).map_err(K2Error::other)?;
                tokio::spawn(async move { inner.store(response).await });
            }
            FetchMessageType::Unspecified => {}
        }
        Ok(())
    }
}
