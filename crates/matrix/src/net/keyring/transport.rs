//! How keys are asked for: of the server itself, or of a notary.

use super::{
    Shared, locked,
    record::{Came, Held},
};
use crate::{
    net::{FederationError, ReadBounds, error::clean},
    verify::{
        flaw::Flaw,
        keys::{KEY_DOCUMENT_BYTES_MAX, KeyDocument},
    },
};
use bytes::Bytes;
use gannet::{Answer, AttemptError, Request, Transport, engine::Fault};
use http::Method;
use ruma_common::{OwnedServerName, ServerName};
use std::{
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

/// The most of a notary's answer.
const QUERY_BYTES_MAX: usize = 4 * KEY_DOCUMENT_BYTES_MAX;
/// Documents in a notary's answer.
const DOCUMENTS_MAX: usize = 64;

/// Whose keys are fetched, and from whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RingKey {
    pub(crate) server: OwnedServerName,
    /// Whether the server itself is left out, for it was asked and did not know.
    pub(crate) notaries_only: bool,
}

/// Asks one server, or one notary.
pub(crate) struct Asking {
    /// Set once the ring is made, which is made of what has this.
    pub(crate) shared: Arc<Mutex<Weak<Shared>>>,
    /// For the body of an answer.
    pub(crate) read_within: Duration,
}

fn flawed(flaw: &Flaw) -> AttemptError {
    AttemptError::failed(Fault::Malformed, clean(&flaw.to_string()))
}

impl Transport for Asking {
    type Key = RingKey;
    type Meta = Arc<Came>;

    async fn open(
        &self,
        request: Request<RingKey, Arc<Came>>,
    ) -> Result<Answer<Arc<Came>>, AttemptError> {
        let shared = locked(&self.shared).upgrade();
        let gone = || AttemptError::failed(Fault::Local, "the key ring is gone");
        let shared = shared.ok_or_else(gone)?;
        let server = &request.key.server;
        let came = match shared.notary(request.source) {
            None => self.direct(&shared, server).await?,
            Some(notary) => self.notary(&shared, server, notary).await?,
        };
        Ok(Answer::whole(Arc::new(came), Bytes::new()))
    }
}

impl Asking {
    fn bounds(&self, bytes_max: usize) -> ReadBounds {
        ReadBounds {
            bytes_max,
            time_max: self.read_within,
        }
    }

    async fn direct(&self, shared: &Shared, server: &ServerName) -> Result<Came, AttemptError> {
        let path = "/_matrix/key/v2/server";
        let answer = shared.federation.send(server, Method::GET, path, None);
        let answer = answer.await.map_err(FederationError::into_attempt)?;
        let raw = answer.read(self.bounds(KEY_DOCUMENT_BYTES_MAX)).await;
        let raw = raw.map_err(FederationError::into_attempt)?;
        let came_ms = shared.clock.now_ms();
        let document = KeyDocument::parse_and_check(raw, server, came_ms);
        let held = Held {
            document: Arc::new(document.map_err(|flaw| flawed(&flaw))?),
            came_ms,
            direct: true,
        };
        Ok(Came {
            documents: vec![held],
            direct: true,
        })
    }

    async fn notary(
        &self,
        shared: &Shared,
        server: &ServerName,
        notary: &ServerName,
    ) -> Result<Came, AttemptError> {
        // That the notary's own keys cannot be had says nothing of what it knows.
        let unknown = |why: String| AttemptError::failed(Fault::Unreachable, why);
        let keys = shared.keys_of_notary(notary).await.map_err(unknown)?;
        // All keys that it knows of: what is asked for does not depend on who asks first.
        let body = serde_json::json!({ "server_keys": { server.as_str(): {} } });
        let (path, body) = ("/_matrix/key/v2/query", Bytes::from(body.to_string()));
        let answer = shared
            .federation
            .send(notary, Method::POST, path, Some(body));
        let answer = answer.await.map_err(FederationError::into_attempt)?;
        let raw = answer.read(self.bounds(QUERY_BYTES_MAX)).await;
        let raw = raw.map_err(FederationError::into_attempt)?;
        let came_ms = shared.clock.now_ms();
        let documents = KeyDocument::parse_query(&raw, notary, &keys, came_ms, DOCUMENTS_MAX)
            .map_err(|flaw| flawed(&flaw))?;
        let mut flaw = None;
        let mut came = Vec::new();
        for document in documents {
            match document {
                Ok(document) if document.server() == server => {
                    // On its own, so that the whole answer is not kept for it.
                    let raw = Bytes::copy_from_slice(document.raw());
                    let document = KeyDocument::parse_and_check(raw, server, came_ms);
                    came.push(Held {
                        document: Arc::new(document.map_err(|flaw| flawed(&flaw))?),
                        came_ms,
                        direct: false,
                    });
                }
                Ok(_) => {}
                Err(bad) => flaw = Some(bad),
            }
        }
        match flaw {
            Some(flaw) if came.is_empty() => Err(flawed(&flaw)),
            None if came.is_empty() => Err(AttemptError::missing()),
            _ => Ok(Came {
                documents: came,
                direct: false,
            }),
        }
    }
}
