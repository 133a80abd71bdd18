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
            let now = self.0.now();
            self.0.inbox.push(now, Event::Disconnected { url: peer });
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
                let ids = elements(&message.data);
                let taken = shared.serving.may_have(ids) && {
                    let request = FetchRequest::decode(message.data).map_err(|err| {
                        self.malformed(format!("no fetch request, from {peer}"), err)
                    })?;
                    shared.serving.request(&peer, request.op_ids, len)
                };
                if !taken {
                    tracing::debug!(%peer, "too many requests wait to be served: one is dropped");
                }
                Ok(())
            }
            FetchMessageType::Response => {
                let ops = elements(&message.data);
                if !shared.inbox.may_have(ops) {
                    // So many are never asked for at once: it answers nothing, and is no reason to
                    // wait for more of its peer.
                    tracing::debug!(%peer, ops, "a response of too many ops is dropped");
                    shared.inbox.dropped.fetch_add(1, Relaxed);
                    return Ok(());
                }
                let taken = {
                    let response = FetchResponse::decode(message.data).map_err(|err| {
                        self.malformed(format!("no fetch response, from {peer}"), err)
                    })?;
                    let ops = response.ops;
                    ops.is_empty() || shared.inbox.response(shared.now(), &peer, ops, len)
                };
                if !taken {
                    tracing::debug!(%peer, "too much waits for the op store: a response is dropped");
                    shared.inbox.overflow(shared.now(), peer);
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

/// At most so many fields has a message: what decoding it can take is known before that is done.
fn elements(mut rest: &[u8]) -> usize {
    let mut count = 0;
    // Keys are written as lengths are. Where it cannot be read on, neither can the decoder.
    while let Ok(key) = prost::decode_length_delimiter(&mut rest) {
        let len = match key & 7 {
            0 => rest.iter().position(|byte| *byte < 0x80).map(|at| at + 1),
            1 => Some(8),
            2 => prost::decode_length_delimiter(&mut rest).ok(),
            5 => Some(4),
            // Groups: what is in them is counted along.
            _ => Some(0),
        };
        let Some(next) = len.and_then(|len| rest.get(len..)) else {
            break;
        };
        (count, rest) = (count + 1, next);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use kitsune2_api::Op;

    #[test]
    fn elements_are_counted_without_being_read() {
        let op = |id: usize, data: usize| Op {
            op_id: vec![1; id].into(),
            data: vec![2; data].into(),
        };
        for ops in [0, 1, 2, 300] {
            let ops = (0..ops).map(|n| op(n % 40, n * n)).collect::<Vec<_>>();
            let count = ops.len();
            assert_eq!(elements(&FetchResponse { ops }.encode_to_vec()), count);
        }
        // Other fields come before: a number, eight and four bytes, a group.
        let mut message = vec![
            0x10, 0xff, 0x01, 0x19, 1, 2, 3, 4, 5, 6, 7, 8, 0x25, 1, 2, 3, 4,
        ];
        message.extend([0x2b, 0x0a, 0, 0x2c]);
        message.extend([0x0a, 0].repeat(50));
        assert!(elements(&message) >= 53);
        message.truncate(message.len() - 1);
        assert!(elements(&message) >= 52);
    }
}
