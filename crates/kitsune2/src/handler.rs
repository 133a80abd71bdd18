//! What the transport hands to the module: decoded here, for an error closes the connection.

use crate::{inbox::Event, shared::Shared};
use bytes::Bytes;
use kitsune2_api::{
    FetchMessageType, FetchRequest, FetchResponse, K2Error, K2FetchMessage, K2Result, SpaceId,
    TxBaseHandler, TxModuleHandler, Url,
};
use prost::Message;
use std::sync::{Arc, atomic::Ordering::Relaxed};

/// Runs in the transport's own task: it decodes, queues and wakes, and waits for nothing.
#[derive(Debug)]
pub(crate) struct Handler(pub(crate) Arc<Shared>);

impl Handler {
    fn malformed(&self, what: String, err: prost::DecodeError) -> K2Error {
        self.0.malformed.fetch_add(1, Relaxed);
        K2Error::other_src(what, err)
    }
}

impl TxBaseHandler for Handler {
    fn peer_disconnect(&self, peer: Url, _reason: Option<String>) {
        if !self.0.is_closed() {
            self.0.inbox.push(Event::Disconnected { url: peer });
            self.0.wake.notify_one();
        }
    }
}

impl TxModuleHandler for Handler {
    fn recv_module_msg(
        &self,
        peer: Url,
        _space_id: SpaceId,
        _module: String,
        data: Bytes,
    ) -> K2Result<()> {
        let shared = &self.0;
        if shared.is_closed() {
            return Err(K2Error::other("the fetch module is shut down"));
        }
        let len = data.len();
        let message = K2FetchMessage::decode(data)
            .map_err(|err| self.malformed(format!("no fetch message, from {peer}"), err))?;
        match message.fetch_message_type() {
            FetchMessageType::Request => {
                let request = FetchRequest::decode(message.data)
                    .map_err(|err| self.malformed(format!("no fetch request, from {peer}"), err))?;
                if !shared.serving.request(&peer, request.op_ids, len) {
                    tracing::info!(%peer, "too many requests wait to be served: one is dropped");
                }
                Ok(())
            }
            FetchMessageType::Response => {
                let response = FetchResponse::decode(message.data).map_err(|err| {
                    self.malformed(format!("no fetch response, from {peer}"), err)
                })?;
                let ops = response.ops;
                if !shared.inbox.response(peer.clone(), ops, len) {
                    tracing::warn!(%peer, "too much waits for the op store: a response is dropped");
                }
                shared.wake.notify_one();
                Ok(())
            }
            other => {
                shared.malformed.fetch_add(1, Relaxed);
                Err(K2Error::other(format!(
                    "fetch message of unknown type {} ({other:?}), from {peer}",
                    message.fetch_message_type
                )))
            }
        }
    }
}
