//! Messages as the oracle reads them, and the names of peers.

use bytes::Bytes;
use kitsune2_api::{
    FetchMessageType, FetchRequest, FetchResponse, Id, K2FetchMessage, MetaOp, OpId, SpaceId, Url,
    serialize_request_message, serialize_response_message,
};
use prost::Message as _;

/// The space that all nodes are in.
pub(crate) const SPACE: SpaceId = SpaceId(Id(Bytes::from_static(b"simulated")));

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Request(Vec<Bytes>),
    /// Ids and data.
    Response(Vec<(Bytes, Bytes)>),
}

impl Message {
    /// Reads bytes; None: they are no message.
    pub(crate) fn decode(bytes: &Bytes) -> Option<Self> {
        let message = K2FetchMessage::decode(bytes.clone()).ok()?;
        match message.fetch_message_type() {
            FetchMessageType::Request => {
                let request = FetchRequest::decode(message.data).ok()?;
                Some(Self::Request(request.op_ids))
            }
            FetchMessageType::Response => {
                let ops = FetchResponse::decode(message.data).ok()?.ops.into_iter();
                Some(Self::Response(ops.map(|op| (op.op_id, op.data)).collect()))
            }
            _ => None,
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        match self {
            Self::Request(ids) => {
                serialize_request_message(ids.iter().cloned().map(OpId::from).collect())
            }
            Self::Response(ops) => {
                let ops = ops.iter().map(|(id, data)| MetaOp {
                    op_id: OpId::from(id.clone()),
                    op_data: data.clone(),
                });
                serialize_response_message(ops.collect())
            }
        }
    }
}

/// Bytes that nearly are a message, of a type that nobody knows.
pub(crate) fn unknown_type(kind: i32) -> Bytes {
    let message = K2FetchMessage {
        fetch_message_type: kind,
        data: Bytes::from_static(b"what is this?"),
    };
    message.encode_to_vec().into()
}

/// Where a peer is.
pub(crate) fn url(peer: usize) -> Url {
    Url::from_str(format!("ws://simulated:80/{peer}")).expect("a URL as Kitsune2 wants it")
}

/// Who is there.
pub(crate) fn peer_at(url: &Url) -> usize {
    let last = url.as_str().rsplit('/').next();
    last.and_then(|n| n.parse().ok())
        .expect("only peers of ours are addressed")
}
