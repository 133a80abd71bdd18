//! [`Courier`]: how one signed request gets to one server. What the fetcher needs of the network, and no
//! more; [`Federation`] is the one for the real federation, tests have others.

use crate::{
    How, Wire,
    net::{Federation, FederationError},
};
use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt;
use gannet::engine::{End, Fault};
use http_body_util::BodyDataStream;
use ruma_common::ServerName;
use std::{borrow::Cow, fmt, future::Future, pin::Pin};

/// A future of a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The body of an answer as it arrives; an error is its last item.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, SendError>> + Send>>;

/// How one signed request gets to one server.
///
/// A courier makes one request for each call: it neither retries nor follows redirects, and keeps no
/// score. It need not bound the time or the size of an answer, either: both are done by dropping what it
/// gave.
pub trait Courier: Send + Sync + 'static {
    /// Sends it, and resolves with the head of an answer that says yes; all else is an error.
    ///
    /// # Cancellation
    /// Dropping the future, or the body of the answer, ends the request.
    fn send<'a>(
        &'a self,
        server: &'a ServerName,
        request: Wire,
    ) -> BoxFuture<'a, Result<Sent, SendError>>;
}

/// An answer that says yes.
pub struct Sent {
    /// The bytes of its body, if the server said how many.
    pub len: Option<u64>,
    /// Its body.
    pub body: BodyStream,
}

impl fmt::Debug for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sent")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// Why a request brought no answer, or not all of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct SendError {
    /// What it means to the engine: whether the server has nothing, is busy, or failed.
    pub end: End,
    /// The same to people.
    pub how: How,
    /// What happened, in words; no secrets, and nothing that a terminal would obey.
    pub detail: Cow<'static, str>,
}

impl SendError {
    /// A request that failed.
    pub fn failed(fault: Fault, detail: impl Into<Cow<'static, str>>) -> Self {
        let how = match fault {
            Fault::TimedOut => How::TimedOut,
            Fault::Forbidden => How::Forbidden,
            _ => How::Failed,
        };
        Self {
            end: End::Failed(fault),
            how,
            detail: detail.into(),
        }
    }
}

impl From<FederationError> for SendError {
    fn from(error: FederationError) -> Self {
        let detail = error.to_string();
        match error.end() {
            End::Failed(fault) => Self::failed(fault, detail),
            end => {
                let how = match (&error, end) {
                    (_, End::Busy { .. }) => How::Busy,
                    (FederationError::Answered(answer), _) if answer.status == 403 => {
                        How::Forbidden
                    }
                    _ => How::Missing,
                };
                let detail = detail.into();
                Self { end, how, detail }
            }
        }
    }
}

impl Courier for Federation {
    fn send<'a>(
        &'a self,
        server: &'a ServerName,
        request: Wire,
    ) -> BoxFuture<'a, Result<Sent, SendError>> {
        Box::pin(async move {
            let Wire { method, path, body } = request;
            let answer = Self::send(self, server, method, &path, body).await?;
            let len = answer.body.len();
            let body = BodyDataStream::new(answer.body);
            let body = body.map(|bytes| bytes.map_err(|error| FederationError::from(error).into()));
            Ok(Sent {
                len,
                body: Box::pin(body),
            })
        })
    }
}
