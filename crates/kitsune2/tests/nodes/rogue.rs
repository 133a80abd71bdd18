//! A node whose fetch module does as the test says.

use super::Parts;
use bytes::Bytes;
use futures_channel::oneshot;
use kitsune2_api::*;
use prost::Message as _;
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
};

/// The messages with which a request is answered.
pub(crate) type Answer = Box<dyn FnMut(Vec<OpId>) -> Vec<Bytes> + Send>;

/// A fetch module that asks for nothing, and answers as it is told.
#[derive(Clone)]
pub(crate) struct Rogue(Arc<Mutex<Answer>>);

impl fmt::Debug for Rogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rogue")
    }
}

impl Rogue {
    pub(crate) fn answering(answer: impl FnMut(Vec<OpId>) -> Vec<Bytes> + Send + 'static) -> Parts {
        Parts::new(Arc::new(Self(Arc::new(Mutex::new(Box::new(answer))))))
    }

    /// Never answers.
    pub(crate) fn silent() -> Parts {
        Self::answering(|_| Vec::new())
    }
}

impl FetchFactory for Rogue {
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
        _: DynOpStore,
        _: DynPeerMetaStore,
        transport: DynTransport,
    ) -> BoxFut<'static, K2Result<DynFetch>> {
        let module = gannet_kitsune2::MOD_NAME.to_string();
        let handler = Arc::new(Listening {
            rogue: self.clone(),
            transport: Arc::downgrade(&transport),
        });
        transport.register_module_handler(space, module, handler);
        let fetch: DynFetch = Arc::new(self.clone());
        Box::pin(async move { Ok(fetch) })
    }
}

impl Fetch for Rogue {
    fn request_ops(&self, _: Vec<PublishOp>, _: Url) -> BoxFut<'_, K2Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn notify_on_drained(&self, notify: oneshot::Sender<()>) {
        let _ = notify.send(());
    }

    fn get_state_summary(&self) -> BoxFut<'_, K2Result<FetchStateSummary>> {
        let pending_requests = HashMap::new();
        Box::pin(async { Ok(FetchStateSummary { pending_requests }) })
    }
}

#[derive(Debug)]
struct Listening {
    rogue: Rogue,
    transport: WeakDynTransport,
}

impl TxBaseHandler for Listening {}

impl TxModuleHandler for Listening {
    fn recv_module_msg(
        &self,
        peer: Url,
        space: SpaceId,
        module: String,
        data: Bytes,
    ) -> K2Result<()> {
        let message = K2FetchMessage::decode(data).map_err(K2Error::other)?;
        if message.fetch_message_type() != FetchMessageType::Request {
            return Ok(());
        }
        let request = FetchRequest::decode(message.data).map_err(K2Error::other)?;
        let answers = self.rogue.0.lock().unwrap()(request.into());
        let transport = self.transport.clone();
        tokio::spawn(async move {
            for answer in answers {
                if let Some(transport) = transport.upgrade() {
                    let (peer, space, module) = (peer.clone(), space.clone(), module.clone());
                    // Who is told nonsense may well hang up.
                    let _ = transport.send_module(peer, space, module, answer).await;
                }
            }
        });
        Ok(())
    }
}
